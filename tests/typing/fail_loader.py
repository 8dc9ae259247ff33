"""Options and orders that do not fit; an `expect` comment speaks of the lines down to the next empty one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.utils.data import TensorDataset

from resumable import Order, ResumableLoader, Shuffled, sample_rng, sample_seed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

data = TensorDataset()


class NoLength:
    def indices(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
        raise NotImplementedError


class Lists:
    def __len__(self) -> int:
        raise NotImplementedError

    def indices(self, epoch: int, start: int, stop: int) -> list[int]:
        raise NotImplementedError


class OneEpoch:
    def __len__(self) -> int:
        raise NotImplementedError

    def indices(self, start: int, stop: int) -> NDArray[np.int64]:
        raise NotImplementedError


# expect mypy: [Uu]nexpected keyword argument "num_worker"
# expect pyright: No parameter named "num_worker"
ResumableLoader(data, batch_size=4, num_worker=2)

# expect mypy: [Uu]nexpected keyword argument "sampler"
# expect pyright: No parameter named "sampler"
ResumableLoader(data, batch_size=4, sampler=None)

# expect mypy: "num_workers" .* has incompatible type "str"; expected "int"
# expect pyright: "num_workers" of type "int"
ResumableLoader(data, batch_size=4, num_workers="2")

# expect mypy: "batch_size" .* has incompatible type "str"; expected "SupportsIndex \| None"
# expect pyright: "batch_size" of type "SupportsIndex \| None"
ResumableLoader(data, batch_size="4")

# expect mypy: "seed" .* has incompatible type "float"; expected "int \| None"
# expect pyright: "seed" of type "int \| None"
ResumableLoader(data, seed=1.5)

# expect mypy: "on_mismatch" .* has incompatible type "Literal\['typo'\]"; expected "Literal\['error', 'warn', 'adopt'\]"
# expect pyright: "on_mismatch" of type "OnMismatch"
ResumableLoader(data, on_mismatch="typo")

# expect mypy: "drop_last" .* has incompatible type "Literal\['drop'\]"; expected "bool \| Literal\['carry'\]"
# expect pyright: "drop_last" of type "DropLast"
ResumableLoader(data, drop_last="drop")

# expect mypy: "data_parallel_size" .* has incompatible type "float"; expected "int \| None"
# expect pyright: "data_parallel_size" of type "int \| None"
ResumableLoader(data, data_parallel_size=1.5)

# expect mypy: "ranks" .* has incompatible type "tuple\[int, int\]"; expected "Ranks \| None"
# expect pyright: "ranks" of type "Ranks \| None"
ResumableLoader(data, ranks=(0, 2))

# expect mypy: "agreement" .* has incompatible type "bool"; expected "AllGather \| None"
# expect pyright: "agreement" of type "AllGather \| None"
ResumableLoader(data, agreement=True)

# expect mypy: "schedule" .* has incompatible type "int"; expected "BatchSchedule \| None"
# expect pyright: "schedule" of type "BatchSchedule \| None"
ResumableLoader(data, schedule=64)

# expect mypy: "reseed" .* has incompatible type "str"; expected "bool"
# expect pyright: "reseed" of type "bool"
ResumableLoader(data, reseed="yes")

# expect mypy: "pass_epoch" .* has incompatible type "int"; expected "bool"
# expect pyright: "pass_epoch" of type "bool"
ResumableLoader(data, pass_epoch=1)

# expect mypy: Missing positional argument "epoch" in call to "sample_rng"
# expect pyright: Argument missing for parameter "epoch"
sample_rng(7)

# expect mypy: incompatible type "float"; expected "int"
# expect pyright: "epoch" of type "int"
sample_seed(7, 0.5)

# expect mypy: Property "num_microbatches" defined in "ResumableLoader" is read-only
# expect pyright: "num_microbatches"
ResumableLoader(data).num_microbatches = 2

# expect mypy: Too many positional arguments
# expect pyright: Expected [34] positional arguments
ResumableLoader(data, 4, True, 0)

# expect mypy: "order" .* has incompatible type "NoLength"; expected "Order \| None"
# expect mypy: missing following "Order" protocol member
# expect mypy: __len__
# expect pyright: (?s)"NoLength".*"Order".*"__len__" is not present
ResumableLoader(data, order=NoLength())

# expect mypy: has incompatible type "Lists"; expected "Order \| None"
# expect mypy: Expected:
# expect mypy: def indices\(self, int, int, int, /\) -> ndarray
# expect mypy: Got:
# expect mypy: -> list\[int\]
# expect pyright: (?s)"Lists".*"Order".*"indices" is an incompatible type
ResumableLoader(data, order=Lists())

# expect mypy: has incompatible type "OneEpoch"; expected "Order \| None"
# expect pyright: (?s)"OneEpoch".*"Order".*"indices" is an incompatible type
ResumableLoader(data, order=OneEpoch())

# expect mypy: Incompatible types in assignment \(expression has type "list\[int\]", variable has type "Order"\)
# expect pyright: (?s)"list\[int\]".*"Order".*"indices" is not present
order: Order = [1, 2, 3]

# expect mypy: "seed" .* has incompatible type "str"; expected "int"
# expect pyright: "seed" of type "int"
Shuffled(10, seed="x")

# expect mypy: Property "seed" defined in "Shuffled" is read-only
# expect pyright: (?s)"seed" is read-only|frozen
Shuffled(10).seed = 3
