"""A loader in plain Python that resumes exactly, and the same with a fault each."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from typing import Any

N, SIZE = 10, 2
"""Samples and batch size: five batches an epoch."""


class Honest:
    """Goes on where its state says; *fault* names what is wrong with it, or nothing."""

    def __init__(self, fault: str = "", n: int = N, size: int = SIZE, **keywords: int) -> None:
        self.fault, self.n, self.size, self.keywords = fault, n, size, keywords
        self.epoch, self.done, self.trained, self.since, self.resumed = 0, 0, 0, 0, False

    def order(self) -> list[int]:
        """The order of the present epoch."""
        order = [*range(self.n)]
        epoch = 0 if self.fault == "epoch 0 again" and self.resumed else self.epoch
        random.Random(epoch).shuffle(order)
        done = self.done * self.size
        if self.fault == "rest in another order" and self.resumed and done:
            order[done:] = sorted(order[done:])
        if self.fault == "drops the tail" and self.resumed and done:
            del order[-self.size :]
        if self.fault == "one twice, one never" and self.resumed and done:
            order[-1] = order[0]
        return order

    def __iter__(self) -> Iterator[Any]:
        if self.fault == "hangs" and self.resumed:
            time.sleep(3600)
        order, size = self.order(), self.size
        if self.fault == "other batches" and self.resumed and self.done:
            size = 1
        for at in range(self.done * self.size, len(order), size):
            self.done, self.since = self.done + 1, self.since + 1
            batch = order[at : at + size]
            if self.fault == "other contents" and self.resumed:
                batch = [sample + 100 for sample in batch]
            yield batch
        self.epoch, self.done, self.trained, self.since = self.epoch + 1, 0, 0, 0

    def commit(self) -> None:
        """What was yielded is trained."""
        self.trained = self.done

    def state_dict(self) -> dict[str, Any]:
        """The position."""
        if self.fault == "saving moves":
            self.done, self.trained = self.done + 1, self.trained + 1
        done = self.done if self.fault == "counts what it yields" else self.trained
        if self.fault == "counts what it read ahead":
            done += 1
        if self.fault == "forgets the last batch":
            done = max(done - 1, 0)
        if self.fault == "counts since the resume":
            done = self.since
        if done * self.size >= self.n and self.fault != "skips an epoch":
            return {"epoch": self.epoch + 1, "done": 0}
        if done * self.size >= self.n:
            return {"epoch": self.epoch + 2, "done": 0}
        return {"epoch": self.epoch, "done": done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from *state*."""
        if self.fault == "refuses":
            raise ValueError("this state is of another release")
        if self.fault == "dies":
            os._exit(7)
        self.epoch, self.done, self.resumed = state["epoch"], state["done"], True
        if self.fault == "starts the epoch again":
            self.done = 0
        self.trained = self.done


class Ranked(Honest):
    """The share of one rank: every size-th sample of the order."""

    def order(self) -> list[int]:
        rank, size = self.keywords["data_parallel_rank"], self.keywords["data_parallel_size"]
        if self.fault == "rank 0 for all" and self.resumed:
            rank = 0
        return super().order()[rank::size]


FAULTS = {
    "starts the epoch again": "repeated",
    "forgets the last batch": "repeated",
    "one twice, one never": "repeated",
    "counts what it read ahead": "lost",
    "counts what it yields": "lost",
    "saving moves": "lost",
    "drops the tail": "lost",
    "skips an epoch": "lost",
    "rest in another order": "reordered",
    "epoch 0 again": "reordered",
    "other batches": "regrouped",
    "other contents": "changed",
    "refuses": "crash",
    "dies": "crash",
}
"""The outcome that each fault must have."""
