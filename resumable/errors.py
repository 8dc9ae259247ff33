"""Every error and warning that this package raises.

    ResumptionError
      ├── ConfigurationError   an argument is wrong          (also a ValueError)
      ├── DecorationError      a class cannot be decorated   (also a TypeError)
      ├── StateError           a saved state cannot be read  (also a ValueError)
      │     └── MissingStateError   nothing was saved yet      (also a FileNotFoundError)
      ├── MismatchError        saved and current differ      (carries the verdict)
      ├── AgreementError       ranks are at different positions
      ├── ReplayError          a sampler does not repeat itself
      ├── ConformanceError     a check of `resumable.testing` failed   (also an AssertionError)
      └── MissingExtraError    a package is missing or old   (also an ImportError)
    ResumptionWarning          a limitation, reported when it applies

All of them survive pickling, since DataLoader workers send their errors to the parent.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resumable.verdict import Verdict

__all__ = [
    "AgreementError",
    "ConfigurationError",
    "ConformanceError",
    "DecorationError",
    "MismatchError",
    "MissingExtraError",
    "MissingStateError",
    "ReplayError",
    "ResumptionError",
    "ResumptionWarning",
    "StateError",
    "explain",
    "warn",
]


class ResumptionError(Exception):
    """Base of every error that this package raises.

    The message has three parts: *what* is wrong, the *values* on aligned lines, and *advice* on what to do next.

    >>> print(ResumptionError("The seed differs.", [("saved", 1), ("current", 20)], "Pass seed=1."))
    The seed differs.
      saved:   1
      current: 20
    Pass seed=1.
    """

    def __init__(self, what: str, values: Iterable[tuple[str, object]] = (), advice: str = "", /) -> None:
        super().__init__(explain(what, values, advice))


class ConfigurationError(ResumptionError, ValueError):
    """An argument has a value with which no training can run."""


class DecorationError(ResumptionError, TypeError):
    """A class, or what its loader method returns, cannot be made resumable."""


class StateError(ResumptionError, ValueError):
    """A saved state is damaged, contradictory or newer than this package. Nothing of it was loaded."""


class MissingStateError(StateError, FileNotFoundError):
    """Neither a state file nor its `.previous` exists: this is the first run, or the path is wrong."""


class MismatchError(ResumptionError):
    """The saved state and the current configuration differ, so the resume cannot be exact.

    *verdict* holds the differences as a value. It is None where the kind or number of loaders differs.
    """

    def __init__(
        self,
        what: str,
        values: Iterable[tuple[str, object]] = (),
        advice: str = "",
        /,
        *,
        verdict: Verdict | None = None,
    ) -> None:
        super().__init__(what, values, advice)
        self.verdict = verdict


class AgreementError(ResumptionError):
    """The ranks of one run are not at the same position of the same data. Raised on all of them."""


class ReplayError(ResumptionError):
    """A sampler returned different indices when it was iterated again for the same epoch."""


class ConformanceError(ResumptionError, AssertionError):
    """What the user gave to a check of `resumable.testing` does not keep its promise."""


class MissingExtraError(ResumptionError, ImportError):
    """An optional package is not installed, or too old. The message names the extra to install."""

    def __init__(
        self, what: str, values: Iterable[tuple[str, object]] = (), advice: str = "", /, *, name: str | None = None
    ) -> None:
        super().__init__(what, values, advice)
        self.name = name


class ResumptionWarning(UserWarning):
    """A resume is slower than it could be, or not exact. The run goes on."""


def explain(what: str, values: Iterable[tuple[str, object]] = (), advice: str = "") -> str:
    r"""A message of the three parts of a `ResumptionError`.

    >>> explain("The seed differs.", [("saved", 1)], "Pass seed=1.")
    'The seed differs.\n  saved: 1\nPass seed=1.'
    """
    rows = [(f"{name}:", _shown(value)) for name, value in values]
    width = max((len(name) for name, _ in rows), default=0)
    lines = [what, *(f"  {name:<{width}} {value}" for name, value in rows), advice]
    return "\n".join(lines if advice else lines[:-1])


def _shown(value: object, longest: int = 4_000) -> str:
    """*value* as `repr` shows it, its middle left out where that is long; a damaged state may hold anything."""
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001  # nested too deeply, a number of too many digits
        return f"<{type(value).__name__} that repr cannot show: {type(error).__name__}>"
    return text if len(text) <= longest else f"{text[: longest // 2]} ... {text[-longest // 2 :]}"


def warn(what: str, values: Iterable[tuple[str, object]] = (), advice: str = "", /) -> None:
    """Issue a `ResumptionWarning` that points at the line outside this package which caused it.

    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     warn("This resume reads the stream again.")
    >>> caught[0].category.__name__
    'ResumptionWarning'
    """
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == __package__:
        frame, level = frame.f_back, level + 1
    warnings.warn(explain(what, values, advice), ResumptionWarning, stacklevel=level)
