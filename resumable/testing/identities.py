"""Which samples are in a batch: a short identity for each, by what the batch holds.

    tensor([7, 3])                       7, 3                 numbers are themselves
    {"id": tensor([7, 3]), "x": rows}    7 5bd6…, 3 09af…     columns, one sample a row; rows of numbers as digests
    [tensor([7, 3]), tensor([0, 1])]     7 0, 3 1             the columns that torch's default_collate makes of tuples
    ["seven", "three"]                   seven, three         no column among them: each part is a sample
    7                                    7                    no batch at all (`batch_size=None`)

Lists of tensors are read as columns. Where they are samples, pass `identify=`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from typing import Any, TypeAlias, cast

import numpy as np

from resumable.errors import ConfigurationError

__all__ = ["Identify", "Identity", "UnidentifiedError", "identities_of"]

Identity: TypeAlias = "int | float | str"
"""What tells one sample from another, in memory, in messages and in JSON."""

Identify: TypeAlias = Callable[[Any], Iterable[Any]]
"""The samples of a batch, by the user: one number, string or tensor for each."""


class UnidentifiedError(ConfigurationError):
    """A batch holds what nothing is known of."""


def identities_of(batch: Any, identify: Identify | None = None, /) -> tuple[Identity, ...]:
    """The identities of the samples in *batch*, by *identify* or as this module's table has them.

    Raises:
        UnidentifiedError: for a batch that holds something else than numbers, strings, tensors, arrays, and tuples,
            lists, mappings and dataclasses of them.

    >>> identities_of({"id": np.array([7, 3]), "text": ["a", "b"]})
    ('7 a', '3 b')
    """
    if identify is not None:
        return tuple(_identity(sample) for sample in identify(batch))
    return tuple(_samples(_opened(batch)))


def _samples(batch: Any) -> list[Identity]:
    if isinstance(batch, np.ndarray) and batch.ndim:
        return [_identity(row) for row in cast("Iterable[Any]", batch)]
    columns = _columns(batch)
    if columns is not None:
        return _rows(columns)
    if isinstance(batch, (list, tuple)):
        return [_identity(part) for part in cast("Iterable[Any]", batch)]
    return [_identity(batch)]


def _columns(batch: Any) -> list[Any] | None:
    """The columns of a mapping, or of a list that has arrays in it, and those inside them; None where *batch* has none."""
    if isinstance(batch, Mapping):
        parts = [_opened(value) for value in cast("Mapping[str, Any]", batch).values()]
    elif isinstance(batch, (list, tuple)):
        parts = [_opened(part) for part in cast("Iterable[Any]", batch)]
        if not any(isinstance(part, np.ndarray) and part.ndim for part in parts):
            return None
    else:
        return None
    found: list[Any] = []
    for part in parts:
        inner = _columns(part)
        found += [part] if inner is None else inner
    return found


def _rows(columns: list[Any]) -> list[Identity]:
    """The samples of *columns*: one a row where they are of one length, otherwise those of one column after another."""
    lengths = {len(column) for column in columns if _is_column(column)}
    if len(lengths) > 1:
        return [sample for column in columns for sample in _samples(column)]
    length = lengths.pop() if lengths else 1
    cells = [
        [_identity(cell) for cell in column] if _is_column(column) else [_identity(column)] * length
        for column in columns
    ]
    rows = list(zip(*cells, strict=True))
    return [row[0] if len(row) == 1 else _of_text(" ".join(map(str, row))) for row in rows]


def _is_column(value: Any) -> bool:
    return value.ndim > 0 if isinstance(value, np.ndarray) else isinstance(value, (list, tuple))


def _identity(sample: Any) -> Identity:
    sample = _opened(sample)
    if isinstance(sample, np.ndarray):
        return _of_array(cast("Any", sample))
    if isinstance(sample, bool) or sample is None:
        return str(sample)
    if isinstance(sample, (int, float)):
        return sample
    if isinstance(sample, (str, bytes)):
        return _of_text(sample if isinstance(sample, str) else sample.hex())
    if isinstance(sample, Mapping):
        parts = [f"{key}={_identity(value)}" for key, value in cast("Mapping[str, Any]", sample).items()]
        return _of_text(" ".join(parts))
    if isinstance(sample, (list, tuple)):
        return _of_text(" ".join(str(_identity(part)) for part in cast("Iterable[Any]", sample)))
    raise UnidentifiedError(
        "A batch holds something by which its samples cannot be told apart.",
        [("type", type(sample).__name__)],
        "Pass identify=, a function that returns a number or a string for each sample of a batch.",
    )


def _of_array(array: np.ndarray[Any, Any]) -> Identity:
    if array.size == 1:
        only: object = array.item()
        return only if isinstance(only, (int, float)) and not isinstance(only, bool) else _identity(only)
    if array.dtype.hasobject:
        return _identity(array.tolist())
    kind = f"{array.dtype}{array.shape}"
    return blake2b(kind.encode() + np.ascontiguousarray(array).tobytes(), digest_size=4).hexdigest()


def _of_text(text: str, longest: int = 24) -> str:
    """*text* itself, or its beginning and a digest where it is long."""
    if len(text) <= longest:
        return text
    return f"{text[: longest - 9]}~{blake2b(text.encode(errors='surrogatepass'), digest_size=4).hexdigest()}"


def _opened(value: Any) -> Any:
    """*value* as NumPy and Python have it: a tensor as an array, a dataclass as a dict."""
    if hasattr(value, "detach") and hasattr(value, "numpy"):
        value = value.detach().cpu()
        if "float" in str(value.dtype) and str(value.dtype) not in ("torch.float16", "torch.float32", "torch.float64"):
            value = value.double()  # NumPy has no bfloat16 and no float8
        return value.to_dense().numpy() if str(value.layout) != "torch.strided" else value.numpy()
    if isinstance(value, np.generic):
        return cast("Any", value.item())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return value
