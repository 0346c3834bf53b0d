"""Arrays: .npz archives, and .npy files, which are mapped: what is not read of them takes no memory."""

import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from laddernet.data.formats import Part, of_one_kind, part_rows, raise_damaged, suffix_of
from laddernet.data.labels import SparseLabels
from laddernet.errors import DataError, OutOfMemoryError, memory_size

_NPY = b"\x93NUMPY"
_PART = 2**16


def read_npz(path: Path, label: str, required: bool) -> tuple[NDArray[Any], NDArray[Any] | None, str]:
    """Read an archive: its array X, that of the labels if it has one, and the latter's name."""
    with path.open("rb") as file, _load(path, file) as arrays:
        found = ", ".join(arrays.files) or "nothing"
        if "X" not in arrays.files:
            raise DataError(f"{path} has no array X of the features; it holds {found}. Save it as X.")
        if label not in arrays.files:
            if required:
                raise DataError(f"{path} has no array {label} of the labels; it holds {found}. Save it as {label}.")
            return _member(path, arrays, "X"), None, label
        return _member(path, arrays, "X"), _member(path, arrays, label), label


def read_npy(
    path: Path, label_column: str | None, labels_path: str | Path | None, required: bool
) -> tuple[NDArray[Any], NDArray[Any] | None, str]:
    """Map an array and its labels' file, if it has one; with what messages call the labels."""
    if label_column is not None:
        raise DataError(f"{path} is one array, with no column {label_column!r}. Give the labels' file instead.")
    x = map_array(path)
    beside = labels_beside(path, labels_path, required=required)
    return x, None if beside is None else map_array(beside), "y"


def labels_beside(path: Path, labels_path: str | Path | None, *, required: bool) -> Path | None:
    """Return the labels' file of an .npy file, which may have none if they are not required."""
    name = re.sub(r"(?<![A-Za-z0-9])X(?![A-Za-z0-9])", "y", path.stem)
    if labels_path is None and name == path.stem:
        if required:
            raise DataError(f"{path}: which file holds the labels? Name it, or call the two files X.npy and y.npy.")
        return None
    beside = path.with_name(name + path.suffix) if labels_path is None else Path(labels_path)
    if beside.is_file():
        return beside
    if required or labels_path is not None:
        raise DataError(f"{path}: the labels were looked for in {beside}, which is not there. Name their file.")
    return None


def map_array(path: Path) -> NDArray[Any]:
    """Map an .npy file: what is not read of it takes no memory."""
    with path.open("rb") as file:
        if file.read(len(_NPY)) != _NPY:
            file.seek(0)
            whole: NDArray[Any] = _load(path, file)
            return whole
    mapped: NDArray[Any] = _called(path, lambda: np.load(path, mmap_mode="r", allow_pickle=False))
    return mapped


def _load(path: Path, file: BinaryIO) -> Any:
    """Whatever numpy has written there: an array, or an archive of arrays that are read from the open file."""
    loaded = _called(path, lambda: np.load(file, allow_pickle=False))
    if isinstance(loaded, np.ndarray) != (suffix_of(path) == ".npy"):
        raise DataError(f"{path} is not what its suffix says: .npy holds one array, .npz an archive. Rename it.")
    return loaded


def _called(path: Path, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except Exception as error:  # a damaged header fails anywhere in being read as Python's literals
        if "Object arrays" in str(error) or "Python objects" in str(error):
            _raise_objects(path, error)
        if "pickled" in str(error):  # numpy's guess at anything else
            raise DataError(
                f"{path} does not begin as numpy's files do: it is damaged, or not what its name says."
            ) from error
        raise_damaged(path, error)


def _member(path: Path, arrays: Any, name: str) -> NDArray[Any]:
    _check_room(path, arrays.zip, name)
    array = _called(path, lambda: arrays[name])
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: {name} is damaged, for it is no array. Write the file again.")
    return array


def _check_room(path: Path, archive: zipfile.ZipFile, name: str) -> None:
    """Check, before any is taken, that there is memory for an array: a small archive can hold a lot of zeros."""
    size = sum(member.file_size for member in archive.infolist() if member.filename in (name, f"{name}.npy"))
    if size > memory_size():
        raise OutOfMemoryError(
            f"{path}: {name} would take {size / 2**30:,.1f} GiB, more than this machine has. Save fewer rows, or X as "
            "an .npy file."
        )


def _raise_objects(path: Path, error: Exception) -> NoReturn:
    raise DataError(
        f"{path} holds Python objects, which are not read, as they could run any code. Save numbers, and labels as "
        "numbers or as an array of strings (dtype str)."
    ) from error


def check_array(path: Path, x: NDArray[Any]) -> None:
    """Check that an array is one of features."""
    if x.ndim != 2:
        raise DataError(
            f"{path}: X has shape {x.shape}, not (rows, features). Reshape it first, for instance with "
            "X.reshape(len(X), -1)."
        )
    if x.dtype.kind not in "biuf":
        raise DataError(f"{path}: X is of {x.dtype}. Make it numbers; a table with text goes into a .csv or .parquet.")
    if x.size == 0:
        raise DataError(f"{path}: X has shape {x.shape}, so no data. Add rows and columns to it.")


def array_parts(path: Path, x: NDArray[Any]) -> Iterator[Part]:
    """Give an array some rows at a time, without labels."""
    check_array(path, x)
    size = part_rows(x.shape[1])
    for start in range(0, len(x), size):
        yield Part(x[start : start + size], start, np.empty(0, dtype=np.int64), [])


def array_labels(path: Path, name: str, y: NDArray[Any], *, rows: int) -> SparseLabels:
    """Return the labels that an array has, of so many rows."""
    if y.shape not in ((rows,), (rows, 1)):
        raise DataError(f"{path}: the labels {name} have shape {y.shape}, but X has {rows} rows. Give one label a row.")
    if y.dtype.kind not in "biufU":
        raise DataError(f"{path}: the labels {name} are of {y.dtype}. Make them numbers or strings.")
    y = y.reshape(rows)
    parts = (slice(start, start + _PART) for start in range(0, rows, _PART))
    numbers = np.concatenate([np.flatnonzero(_labeled_values(y[part])) + part.start for part in parts])
    return SparseLabels(rows=rows, numbers=numbers, values=of_one_kind(path, name, y[numbers], numbers))


def _labeled_values(y: NDArray[Any]) -> NDArray[np.bool_]:
    kind = y.dtype.kind
    if kind == "U":
        filled: NDArray[np.bool_] = np.strings.strip(y) != ""
        return filled
    labeled: NDArray[np.bool_] = ~np.isnan(y) if kind == "f" else ~((kind == "i") & (y == -1))
    return labeled
