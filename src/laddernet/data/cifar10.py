"""Reader of CIFAR-10 in its two standard layouts, as folders or as the archives in which they are handed out.

The python layout is six pickles. They are never unpickled: their opcodes are walked, and what they would call is
recorded and compared with what a numpy array is made by. Nothing that a file names is looked up or run.
"""

import gzip
import pickletools
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from laddernet.errors import DataError

FEATURES = 3 * 32 * 32
CLASSES = 10
_BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
_PYTHON, _BINARY = "cifar-10-batches-py", "cifar-10-batches-bin"
_ARCHIVES = {
    "cifar-10-python.tar.gz": _PYTHON,
    "cifar-10-python.tar": _PYTHON,
    "cifar-10-binary.tar.gz": _BINARY,
    "cifar-10-binary.tar": _BINARY,
}
LAYOUTS = (_PYTHON, _BINARY, *_ARCHIVES)
"""Names of the folders and archives that are read, the first that exists."""
_LARGEST_FILE = 2**28

Batch = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def read_cifar10(
    folder: Path,
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Read CIFAR-10 from the first of `LAYOUTS` that lies in a folder.

    Returns
    -------
    x_train, y_train, x_test, y_test
        Pixels between 0 and 1 of shape (rows, 3072): the red plane of 32 rows by 32 columns, then the green, then the
        blue; ``x.reshape(-1, 3, 32, 32)`` gives images, channels first. Classes 0..9 of shape (rows,).
        50,000 and 10,000 rows in the original; other numbers are read if all six files hold as many rows.

    Raises
    ------
    DataError
        If no layout is there, or one that is incomplete, damaged or not CIFAR-10; the message names the file.
    """
    path = next((folder / name for name in LAYOUTS if (folder / name).exists()), None)
    if path is None:
        raise DataError(f"CIFAR-10 is not in {folder}, which should hold one of {', '.join(LAYOUTS)}.")
    layout = _ARCHIVES.get(path.name, path.name)
    files = _archived(path, layout) if path.name in _ARCHIVES else _unpacked(path, layout)
    read = _read_pickle if layout == _PYTHON else _read_records
    batches: dict[str, Batch] = {}
    for name, content in files:
        try:
            batches[name] = read(content)
        except DataError as error:
            raise DataError(f"{path / name} is not a batch of CIFAR-10: {error}.") from error
        if len(batches[name][1]) != len(next(iter(batches.values()))[1]):
            sizes = ", ".join(f"{other} {len(labels)}" for other, (_, labels) in batches.items())
            raise DataError(f"{path} is damaged: its files should hold the same number of rows, but hold {sizes}.")
    names = _file_names(layout)
    if missing := [name for name in names if name not in batches]:
        raise DataError(f"{path} is incomplete: it lacks {', '.join(missing)}.")
    return *_take(batches, names[:-1]), *_take(batches, names[-1:])


def _take(batches: dict[str, Batch], names: list[str]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Join batches of one size, each of which is let go when it has been copied."""
    rows = len(batches[names[0]][1])
    pixels = np.empty((len(names) * rows, FEATURES), dtype=np.float32)
    labels = np.empty(len(pixels), dtype=np.int64)
    for index, name in enumerate(names):
        part = slice(index * rows, (index + 1) * rows)
        images, labels[part] = batches.pop(name)
        np.divide(images, np.float32(255), out=pixels[part])
    return pixels, labels


def _file_names(layout: str) -> list[str]:
    return [f"{name}.bin" if layout == _BINARY else name for name in _BATCHES]


def _unpacked(folder: Path, layout: str) -> Iterator[tuple[str, bytes]]:
    for name in _file_names(layout):
        if (folder / name).is_file():
            yield name, (folder / name).read_bytes()


def _archived(path: Path, layout: str) -> Iterator[tuple[str, bytes]]:
    """Go through an archive once, to its end, where a compressed one has its check sum."""
    wanted = {f"{layout}/{name}": name for name in _file_names(layout)}
    try:
        with (
            gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file,
            tarfile.open(fileobj=cast(Any, file), mode="r:") as archive,
        ):
            for member in archive:
                name = wanted.get(member.name.removeprefix("./"))
                if name and member.isreg() and not member.issparse() and member.size <= _LARGEST_FILE:
                    content = archive.extractfile(member)
                    assert content is not None
                    yield name, content.read()
            while file.read(2**20):
                pass
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error, ValueError, OverflowError) as error:
        raise DataError(f"{path} is damaged or cut short ({error}). Delete it and fetch it again.") from error


def _read_records(content: bytes) -> Batch:
    """Read the binary layout: a byte for the label before the pixels of each row."""
    if not content or len(content) % (1 + FEATURES):
        raise DataError(f"it has {len(content)} bytes, which is no multiple of {1 + FEATURES}")
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, 1 + FEATURES)
    return records[:, 1:], _checked(records[:, 0])


def _checked(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if labels.max() >= CLASSES:
        raise DataError(f"it has a label {labels.max()}, which is not in 0..{CLASSES - 1}")
    return labels


def _read_pickle(content: bytes) -> Batch:
    """Read the python layout: a dictionary with the entries data, an array, and labels, a list."""
    try:
        flat = _walk(content)
        entries = dict(zip(map(_text, flat[::2]), flat[1::2], strict=True))
    except DataError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, MemoryError, Warning) as error:
        raise DataError(f"it is no pickle of a dictionary, or is cut short ({error!s:.100})") from error
    pixels, labels = _bytes_of_array(entries.get("data")), entries.get("labels")
    if not isinstance(labels, list) or not labels or not all(type(label) is int for label in labels):
        raise DataError("its entry 'labels' is no list of whole numbers")
    if len(pixels) != len(labels):
        raise DataError(f"it has {len(pixels)} rows of data, but {len(labels)} labels")
    if not 0 <= min(labels) <= max(labels) < CLASSES:
        raise DataError(f"it has labels from {min(labels)} to {max(labels)}, which are not all in 0..{CLASSES - 1}")
    return pixels, np.array(labels, dtype=np.uint8)


@dataclass(eq=False)
class _Called:
    """What a pickle would have called, with what, and the state that it would have given to the result."""

    name: str
    arguments: Any
    state: Any = None


_NAMES = {
    "_codecs encode",
    "numpy dtype",
    "numpy ndarray",
    *(f"numpy.{core}.multiarray _reconstruct" for core in ("core", "_core")),
    *(f"numpy.{core}.numeric _frombuffer" for core in ("core", "_core")),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_PLAIN = {"BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "SHORT_BINUNICODE"}
_BYTES = {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}


def _walk(content: bytes) -> list[Any]:
    """Follow a pickle's opcodes with lists, tuples, numbers, text, bytes and `_Called` alone.

    A dictionary becomes a list of its keys and values in turn.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def popped(start: int) -> list[Any]:
        items = stack[start:]
        del stack[start:]
        return items

    for opcode, argument, _ in pickletools.genops(content):
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                break
            case "MARK":
                marks.append(len(stack))
            case name if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case name if name in _PLAIN or name in _BYTES:
                stack.append(argument)
            case "BINSTRING" | "SHORT_BINSTRING":
                stack.append(cast(str, argument).encode("latin-1"))
            case "EMPTY_LIST" | "EMPTY_DICT":
                stack.append([])
            case "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
                stack.append(tuple(popped(len(stack) - int(name[-1]))))
            case "TUPLE":
                stack.append(tuple(popped(marks.pop())))
            case "APPENDS" | "SETITEMS":
                items = popped(marks.pop())
                stack[-1] += items
            case "APPEND":
                items = popped(len(stack) - 1)
                stack[-1] += items
            case "SETITEM":
                items = popped(len(stack) - 2)
                stack[-1] += items
            case "BINPUT" | "LONG_BINPUT":
                memo[cast(int, argument)] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[cast(int, argument)])
            case "GLOBAL":
                stack.append(_known(argument))
            case "STACK_GLOBAL":
                stack.append(_known(" ".join(popped(len(stack) - 2))))
            case "REDUCE":
                name, arguments = popped(len(stack) - 2)
                stack.append(_Called(name, arguments))
            case "BUILD":
                (state,) = popped(len(stack) - 1)
                stack[-1].state = state
            case name:
                raise DataError(f"it has the opcode {name}, which a batch does not need")
    if len(stack) != 1 or not isinstance(stack[0], list):
        raise DataError("it is no pickle of a dictionary")
    return stack[0]


def _known(name: Any) -> str:
    if name not in _NAMES:
        raise DataError(f"it names {name!r:.60}, which a batch does not need; nothing of it was run")
    return cast(str, name)


def _text(value: Any) -> str:
    """Text of a string, of bytes, or of what Python 3 writes for bytes in old protocols."""
    match value:
        case str():
            return value
        case bytes():
            return value.decode("latin-1")
        case _Called(name="_codecs encode", arguments=(str() as text, "latin1")):
            return text
    raise DataError("it has an entry whose name is no text")


def _bytes_of_array(value: Any) -> NDArray[np.uint8]:
    """Bytes of an array's pickle, of shape (rows, 3072)."""
    wrong = DataError(f"its entry 'data' is no array of bytes of shape (rows, {FEATURES})")
    match value:
        case _Called(name=str() as name, state=(1, shape, dtype, False | 0, raw)) if name.endswith("_reconstruct"):
            pass
        case _Called(name=str() as name, arguments=(raw, dtype, shape, "C"), state=None) if name.endswith(
            "_frombuffer"
        ):
            pass
        case _:
            raise wrong
    match dtype:
        case _Called(name="numpy dtype", arguments=("u1" | b"u1", *_)):
            pass
        case _:
            raise wrong
    if isinstance(raw, _Called):
        try:
            raw = _text(raw).encode("latin-1")
        except UnicodeEncodeError:
            raise wrong from None
    match shape:
        case (int() as rows, 3072) if isinstance(raw, bytes | bytearray) and len(raw) == rows * FEATURES > 0:
            return np.frombuffer(raw, dtype=np.uint8).reshape(-1, FEATURES)
    raise wrong
