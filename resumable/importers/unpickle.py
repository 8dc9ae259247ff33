"""Reads pickles, those of torch.save among them, without running anything that they name.

Plain values come out as they are. A tensor becomes a `TensorRef`, whose number is read only where it has a single one.
Every other object becomes an `Inert` of its name, which holds what the pickle would have given it: no class is imported,
no function is called. So the weights of a large checkpoint are never read, and what a hostile one would run is data.
"""

from __future__ import annotations

import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from typing_extensions import Self, override

from resumable.errors import StateError

__all__ = ["Inert", "TensorRef", "load_bytes", "load_file"]

_LEGACY_MAGIC: Final = 0x1950A86A20F9469CFC6C
_LARGEST: Final = 1 << 30
"""Bytes of a pickle that are read: a checkpoint's weights are not in it."""

_FORMATS: Final = {"int64": "q", "int32": "i", "int16": "h", "int8": "b", "uint8": "B", "bool": "?"}
_STORAGES: Final = {"Long": "q", "Int": "i", "Short": "h", "Char": "b", "Byte": "B", "Bool": "?"}


class Inert:
    """An object of a pickle that was not built: *args* are those of its call, its attributes those of its state."""

    args: tuple[Any, ...] = ()
    order: object = "<"
    """Of the bytes of a NumPy type's values."""

    def __new__(cls, *args: Any, **_: Any) -> Self:
        """An object, whatever it is called with."""
        made = super().__new__(cls)
        if args:
            made.args = args
        return made

    def __init__(self, *_: Any, **__: Any) -> None:
        return

    def __setstate__(self, state: Any) -> None:
        parts = cast("tuple[object, ...]", state if isinstance(state, tuple) else (state,))
        self.order = next((part for part in parts if part in ("<", ">")), self.order)
        for part in parts:
            if isinstance(part, dict):
                named = cast("Mapping[object, object]", part)
                vars(self).update({str(key): value for key, value in named.items()})

    def __setitem__(self, key: object, value: object) -> None:
        if isinstance(key, str):
            vars(self)[key] = value

    def append(self, _: object) -> None:
        """What a list among the objects is given."""

    def extend(self, _: object) -> None:
        """What a list among the objects is given."""

    def add(self, _: object) -> None:
        """What a set among the objects is given."""


class TensorRef:
    """A tensor that was not built; *number* is its value where it has a single whole one."""

    def __init__(self, number: int | None = None) -> None:
        self.number = number


class _Storage:
    """The bytes of a tensor, read only where they are few."""

    def __init__(self, kind: str, size: int, read: Callable[[], bytes] | None) -> None:
        self.kind = kind
        self.size = size
        self._read = read

    def number(self, code: str | None, offset: int) -> int | None:
        """The element at *offset* as a whole number; None where it is none, or cannot be read."""
        code = code or next((code for name, code in _STORAGES.items() if self.kind.startswith(name)), None)
        data = None if code is None or self._read is None or self.size > 64 else self._read()
        if code is None or data is None or len(data) < (offset + 1) * struct.calcsize(code):
            return None
        return int(struct.unpack_from(f"<{code}", data, offset * struct.calcsize(code))[0])


def _tensor(storage: object, offset: object = 0, size: object = (), *_: object, code: str | None = None) -> TensorRef:
    elements = cast("tuple[object, ...]", size) if isinstance(size, tuple) else (None,)
    is_single = all(each == 1 for each in elements)
    if not (isinstance(storage, _Storage) and isinstance(offset, int) and is_single):
        return TensorRef()
    return TensorRef(storage.number(code, offset))


def _typed_tensor(*args: object) -> TensorRef:
    """Torch's `_rebuild_tensor_v3`, which is given the type of the elements."""
    name = type(args[6]).__name__ if len(args) > 6 else ""
    return _tensor(*args[:3], code=_FORMATS.get(name))


def _first(value: object = None, *_: object) -> object:
    return value


def _number(kind: object = None, data: object = b"", *_: object) -> object:
    """A NumPy scalar: its whole number, or nothing."""
    args: tuple[Any, ...] = kind.args if isinstance(kind, Inert) else ()
    code = str(args[0]) if args else ""
    if isinstance(kind, Inert) and isinstance(data, bytes) and code[:1] in ("i", "u") and len(data) <= 8:
        return int.from_bytes(data, "big" if kind.order == ">" else "little", signed=code[0] == "i")
    return TensorRef()


def _bytes(data: object = b"", *_: object) -> bytes:
    return data if isinstance(data, bytes) else b""


def _encode(text: object = "", encoding: object = "latin1", *_: object) -> bytes:
    """How old pickles write bytes."""
    return text.encode("latin1") if isinstance(text, str) and encoding == "latin1" else b""


class _Call:
    """A function of this module, as a pickle is given it: nothing in it can be set."""

    __slots__ = ("_function",)
    _function: Callable[..., object]

    def __init__(self, function: Callable[..., object]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *args: object) -> object:
        return self._function(*args)

    def __setattr__(self, name: str, value: object) -> None:
        return

    def __setstate__(self, state: object) -> None:
        return


_HARMLESS: Final[Mapping[tuple[str, str], Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): _Call(lambda *_: {}),
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "bytearray"): _Call(_bytes),
    ("builtins", "complex"): complex,
    ("builtins", "slice"): slice,
    ("_codecs", "encode"): _Call(_encode),
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor"): _Call(_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Call(_tensor),
    ("torch._utils", "_rebuild_tensor_v3"): _Call(_typed_tensor),
    ("torch._utils", "_rebuild_parameter"): _Call(_first),
    ("numpy.core.multiarray", "scalar"): _Call(_number),
    ("numpy._core.multiarray", "scalar"): _Call(_number),
}


class _Unpickler(pickle.Unpickler):
    """Builds plain values, and nothing else."""

    def __init__(self, file: Any, read: Callable[[str], bytes] | None = None) -> None:
        super().__init__(file, encoding="latin1")
        self._read = read
        self._names: dict[tuple[str, str], type[Inert]] = {}

    @override
    def find_class(self, module: str, name: str, /) -> Any:
        known = _HARMLESS.get((module.replace("__builtin__", "builtins"), name))
        if known is not None:
            return known
        if (module, name) not in self._names:
            self._names[module, name] = type(name.rpartition(".")[2] or "_", (Inert,), {"__module__": module})
        return self._names[module, name]

    @override
    def persistent_load(self, pid: Any, /) -> Any:
        parts: tuple[Any, ...] = (*cast("Sequence[Any]", pid),) if isinstance(pid, tuple) else ()
        if len(parts) < 5:
            return Inert()
        _, kind, key, _, size = parts[:5]
        read = self._read
        length = size if isinstance(size, int) else _LARGEST
        return _Storage(getattr(kind, "__name__", ""), length, None if read is None else lambda: read(str(key)))


def load_file(path: Path) -> object:
    """The content of a file of torch.save, of today's form or the older one, or of a plain pickle.

    Raises:
        StateError: if it is none, is truncated, or is damaged.
    """
    with path.open("rb") as file:
        return _load(file, str(path), path.stat().st_size)


def load_bytes(data: bytes, name: str) -> object:
    """The same of *data*, which is part of a file called *name*."""
    return _load(BytesIO(data), name, len(data))


def _load(file: BinaryIO, name: str, size: int) -> object:
    try:
        if file.read(4) == b"PK\x03\x04":
            with zipfile.ZipFile(file) as archive:
                return _load_archive(archive, size)
        file.seek(0)
        return _load_pickles(file)
    except StateError:
        raise
    except RecursionError:
        reason = "it is nested too deeply"
    except Exception as error:  # noqa: BLE001  # damaged bytes can make the unpickler raise anything
        reason = f"{type(error).__name__}: {error}"
    raise StateError(
        "The file cannot be read safely as a checkpoint.",
        [("file", name), ("bytes", size), ("reason", reason[:200])],
        "Pass a file of torch.save that is whole.",
    )


def _load_archive(archive: zipfile.ZipFile, size: int) -> object:
    pickles = [each for each in archive.infolist() if each.filename.rpartition("/")[2] == "data.pkl"]
    if not pickles:
        raise ValueError("the archive holds no data.pkl, as torch.save writes it")
    entry = pickles[0]
    if entry.file_size > min(size, _LARGEST):
        raise ValueError("its pickle is larger than the file, or than a gigabyte")
    folder = entry.filename.removesuffix("data.pkl")

    def read(key: str) -> bytes:
        info = archive.getinfo(f"{folder}data/{key}")
        return archive.read(info) if info.file_size <= 1024 else b""

    return _unpickle(BytesIO(archive.read(entry)), read)


def _load_pickles(file: BinaryIO) -> object:
    first = _unpickle(file)
    if first != _LEGACY_MAGIC:
        return first
    for _ in range(2):  # the protocol and the machine
        _unpickle(file)
    return _unpickle(file)


def _unpickle(file: BinaryIO, read: Callable[[str], bytes] | None = None) -> object:
    """The next pickle of *file*, once it is seen that it takes no more memory than its own size: a memo grows to its largest index."""
    begins, operations = file.tell(), 0
    for operations, (code, argument, at) in enumerate(pickletools.genops(file)):
        if "PUT" in code.name and isinstance(argument, int) and argument > operations:
            raise ValueError("it names a place that it has no value for")
        if at is not None and at - begins > _LARGEST:
            raise ValueError("it is larger than a gigabyte")
    file.seek(begins)
    return _Unpickler(file, read).load()
