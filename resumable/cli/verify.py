"""The command `resumable verify`: can this code go on from this checkpoint, before a GPU is taken for it?"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from resumable.cli.command import NO, OK, WrongUseError, in_one_line, new_command
from resumable.cli.output import Facts, Part, show, show_json
from resumable.cli.states import add_checkpoint, state_of
from resumable.errors import MismatchError, ResumptionError, ResumptionWarning
from resumable.verdict import Difference, Verdict

if TYPE_CHECKING:
    from resumable.importers import Found, FoundState

__all__ = ["add_to"]

_NOT_SEEN: Final = ("Another number of data-parallel ranks.", "Another number of accumulated batches.")
"""Differences that come of this command, which runs in one process and without a trainer."""


_ENTRIES: Final = ("loops", "callbacks", "datamodule_hyper_parameters", "hyper_parameters", "lr_schedulers")
"""Entries of a checkpoint of Lightning that are no datamodule's: a handed loader's state lies in the first."""


def add_to(commands: Any, /) -> None:
    """Add the command to *commands*, argparse's subparsers."""
    parser = new_command(
        commands,
        "verify",
        _run,
        summary="whether this code goes on exactly from this checkpoint, before a GPU is taken",
        description="Makes the datamodule or loader, loads the checkpoint's position into it, builds its train loader, and tells the "
        "verdict. It trains nothing. A number of ranks and an accumulation are the trainer's, so they are not compared. "
        "Exit code: 0 where the run goes on exactly (in another grouping too, unless --strict), 1 where it does not, "
        "2 for wrong use, 3 where no position could be read.",
        example="""
            resumable verify last.ckpt my_project.data:MyData
            resumable verify last.ckpt train.py:make_data -k batch_size=64 -k root=/data
            """,
    )
    add_checkpoint(parser)
    parser.add_argument(
        "target",
        metavar="MODULE:NAME",
        help="a datamodule's class, a function that makes one or a ResumableLoader, or an object",
    )
    parser.add_argument(
        "-k",
        action="append",
        default=[],
        dest="arguments",
        metavar="NAME=VALUE",
        help="an argument to call it with; JSON or text",
    )
    parser.add_argument("--strict", action="store_true", help="count another grouping of the samples as not exact")


@dataclass(frozen=True)
class _Answer:
    """What is told: the verdict, what else was found, and the warnings that came."""

    verdict: Verdict
    saved: FoundState
    made: str
    not_compared: tuple[Difference, ...] = ()
    warnings: tuple[str, ...] = ()


def _run(arguments: argparse.Namespace) -> int:
    from resumable.importers import read

    found = read(arguments.checkpoint)
    target = _found_at(arguments.target)
    answer = _answer(found, target, arguments)
    is_good = answer.verdict.outcome == "exact" if arguments.strict else answer.verdict.is_exact
    if arguments.json:
        show_json(
            {
                "exact": is_good,
                "verdict": answer.verdict.outcome,
                "differences": [_as_json(each) for each in answer.verdict.differences],
                "not_compared": [_as_json(each) for each in answer.not_compared],
                "state": answer.saved.name,
                "target": answer.made,
                "warnings": list(answer.warnings),
            }
        )
    else:
        show(*_parts(answer, found))
    return OK if is_good else NO


def _as_json(difference: Difference) -> dict[str, Any]:
    told = asdict(difference)
    return {
        name: value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
        for name, value in told.items()
    }


def _parts(answer: _Answer, found: Found) -> list[Part]:
    saved: Any = answer.saved.snapshot
    rows = [("saved by", found.tool), ("position", _position(saved)), ("code", answer.made)]
    parts: list[Part] = [Facts(rows)]
    if answer.not_compared:
        values = [f"{each.what[8:-1]}: saved {each.saved}" for each in answer.not_compared]
        parts.append(f"Not compared, since the trainer decides it: {'; '.join(values)}.")
    parts += [f"Warning: {text}" for text in answer.warnings]
    return [*parts, f"Verdict: {answer.verdict}"]


def _position(saved: Any) -> str:
    count = f"{saved.consumed_samples:,} samples"
    return count if saved.epoch is None else f"{count}: epoch {saved.epoch:,}, offset {saved.offset:,}"


# -- the code


def _found_at(name: str) -> Any:
    """What *name* says, of a module that is imported from here, or of a file."""
    where, colon, attribute = name.rpartition(":")
    if not (colon and where and attribute):
        raise WrongUseError(f"{name} is not MODULE:NAME: write my_project.data:MyData, or train.py:MyData.")
    sys.path.insert(0, os.getcwd())
    try:
        module = _module_of(where)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == where.partition(".")[0]:
            raise WrongUseError(f"There is no module {where}, seen from {os.getcwd()}.") from None
        raise WrongUseError(f"{where} cannot be imported: {type(error).__name__}: {in_one_line(error)}") from error
    for part in attribute.split("."):
        if not hasattr(module, part):
            raise WrongUseError(f"{where} has no {attribute}.")
        module = getattr(module, part)
    return module


def _module_of(where: str) -> Any:
    path = Path(where)
    if path.suffix != ".py":
        return importlib.import_module(where)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    sys.path.insert(0, str(path.parent.absolute()))
    spec.loader.exec_module(module)
    return module


def _arguments(texts: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise WrongUseError(f"-k {text} is not NAME=VALUE.")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


# -- the verdict


def _answer(found: Found, target: Any, arguments: argparse.Namespace) -> _Answer:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", ResumptionWarning)
        made = _made(target, arguments)
        saved = _state_for(made, found, arguments)
        if isinstance(saved, _Answer):
            return saved
        try:
            verdict = _verdict(made, saved)
        except MismatchError as error:
            verdict = error.verdict or _refused(error)
        except ResumptionError as error:
            verdict = _refused(error)
        except Exception as error:
            raise WrongUseError(f"{_name(made)} failed: {type(error).__name__}: {in_one_line(error)}") from error
    unseen = tuple(each for each in verdict.differences if each.what in _NOT_SEEN)
    seen = tuple(each for each in verdict.differences if each.what not in _NOT_SEEN)
    outcome = "exact" if verdict.outcome == "regrouped" and not seen else verdict.outcome
    told = tuple(dict.fromkeys(in_one_line(each.message) for each in caught if isinstance(each.message, Warning)))
    return _Answer(Verdict(outcome, seen), saved, _name(made), unseen, told)


def _made(target: Any, arguments: argparse.Namespace) -> Any:
    options = _arguments(arguments.arguments)
    if not callable(target):
        return target
    try:
        return target(**options)
    except Exception as error:
        advice = " Give its arguments with -k NAME=VALUE." if isinstance(error, TypeError) else ""
        raise WrongUseError(
            f"{arguments.target}() failed: {type(error).__name__}: {in_one_line(error)}.{advice}"
        ) from error


def _name(made: Any) -> str:
    return type(made).__qualname__


def _is_loader(made: Any) -> bool:
    """Whether it counts by itself: of another loader that takes a state, nothing would be compared."""
    from resumable.state import ResumptionState

    return isinstance(getattr(made, "state", None), ResumptionState)


def _state_for(made: Any, found: Found, arguments: argparse.Namespace) -> FoundState | _Answer:
    """The state that *made* would be given; an answer where it would be given none."""
    from resumable.datamodule.instance import is_resumable

    if _is_loader(made):
        return state_of(arguments, found)
    if not hasattr(made, "train_dataloader"):
        raise WrongUseError(f"{arguments.target} gives a {_name(made)}: it must be a datamodule or a ResumableLoader.")
    by_name = [each for each in found.states if each.name == _name(made)]
    keeps_by_name = found.tool in ("Lightning", "NeMo")
    saved = by_name[0] if by_name and arguments.state is None else state_of(arguments, found)
    if not is_resumable(made):
        what, advice = "The class is not decorated, so it would be given no position.", "Put @resumable above it."
        return _Answer(Verdict("refused", (Difference(what, saved.name, _name(made), advice),)), saved, _name(made))
    is_of_a_class = saved.name.partition(".")[0] not in _ENTRIES
    if keeps_by_name and not by_name and arguments.state is None and is_of_a_class:
        what = "Lightning gives a datamodule its state by the name of its class, and this name has another one."
        advice = "Give the class its old name, or move the state to the new key of the checkpoint."
        return _Answer(Verdict("refused", (Difference(what, saved.name, _name(made), advice),)), saved, _name(made))
    return saved


def _verdict(made: Any, saved: FoundState) -> Verdict:
    from resumable.datamodule.instance import resumption_of

    state = saved.state
    if _is_loader(made):
        made.load_state_dict(state)
        verdict: Verdict = made.state.verdict
        return verdict
    for name, arguments in (("prepare_data", ()), ("setup", ("fit",))):
        if callable(getattr(made, name, None)):
            getattr(made, name)(*arguments)
    made.load_state_dict(state)
    made.train_dataloader()
    return resumption_of(made).verdict


def _refused(error: ResumptionError) -> Verdict:
    what, *rest = str(error).splitlines()
    return Verdict("refused", (Difference(what, "-", "-", " ".join(" ".join(line.split()) for line in rest)),))
