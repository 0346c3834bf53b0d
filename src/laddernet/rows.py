"""Rows on disk: an array in a mapped file, of which only what is asked for is read, scaled and put on the device."""

import math
import mmap
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Numbers = NDArray[np.int64]
"""Row numbers, from 0."""

BLOCK_BYTES = 2**23
"""What is read at a time, at most, in a pass through all rows; one row at least."""


class StoredRows:
    """Rows of an array on disk, without the copy of all of them that an array in memory is.

    Indexed by a slice or an array of row numbers, it gives an array of these rows, of shape (rows, features).

    Parameters
    ----------
    array : array of shape (rows, ...)
        Of a mapped file. In C order a row is read in one piece.
    left_out : int64 array, sorted
        Numbers of rows that are not among these; few.
    convert : callable, optional
        Makes rows of shape (rows, `features`), of `dtype`, of flat ones, each row for itself; by default they stay as
        they are.
    features : int, optional
        How many values a row then has; by default as many as in the array.
    dtype : dtype, optional
        Of what `convert` makes; by default the array's.

    Attributes
    ----------
    shape : tuple of int
        (rows, features).
    row_shape : tuple of int
        Of a row in the array, or of what `convert` makes.
    dtype : dtype
    """

    def __init__(
        self,
        array: NDArray[Any],
        *,
        left_out: Numbers | None = None,
        convert: Callable[[NDArray[Any]], NDArray[Any]] | None = None,
        features: int | None = None,
        dtype: Any = None,
    ) -> None:
        self._array, self._convert = array, convert
        self._left_out = np.empty(0, dtype=np.int64) if left_out is None else left_out
        self._width = math.prod(array.shape[1:])
        self.row_shape: tuple[int, ...] = array.shape[1:] if features is None else (features,)
        self.shape = (len(array) - len(self._left_out), math.prod(self.row_shape))
        self.dtype = np.dtype(array.dtype if dtype is None else dtype)

    @property
    def ndim(self) -> int:
        """Of what is read: 2."""
        return 2

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, which: slice | Numbers) -> NDArray[Any]:
        if len(self._left_out):
            numbers = np.arange(*which.indices(len(self))) if isinstance(which, slice) else which
            which = among_others(numbers, self._left_out)
        rows = self._array[which]
        flat = np.asarray(rows).reshape(len(rows), self._width)
        if self._convert is None:
            return flat
        converted = np.empty((len(flat), self.shape[1]), dtype=self.dtype)
        for part in blocks(len(flat), 8 * self._width):
            converted[part] = self._convert(flat[part])
        return converted

    def without(self, numbers: Numbers) -> "StoredRows":
        """Return these rows but for some, few, given by their sorted numbers among these."""
        left_out = np.sort(np.concatenate([self._left_out, among_others(numbers, self._left_out)]))
        features = None if self._convert is None else self.shape[1]
        return StoredRows(self._array, left_out=left_out, convert=self._convert, features=features, dtype=self.dtype)

    def blocks(self) -> Iterator[slice]:
        """Yield the rows in their order, in slices of at most `BLOCK_BYTES`."""
        yield from blocks(len(self), self.shape[1] * self.dtype.itemsize)


class ScaledRows:
    """Rows on disk as a network takes them: what stands, in training, for the tensor of all of them.

    Indexed by a slice or a tensor of row numbers (of any shape), it reads these rows, scales them and puts them on the
    device. What it gives is, bit for bit, what the tensor would.

    Parameters
    ----------
    rows : StoredRows
    scale : callable
        Scales flat rows, each for itself.
    shape : tuple of int
        Of a row.
    dtype : torch.dtype
        Of what `scale` gives.
    device : torch.device

    Attributes
    ----------
    shape : tuple of int
        (rows, *the row's shape).
    dtype, device
    """

    def __init__(
        self,
        rows: StoredRows,
        scale: Callable[[NDArray[Any]], NDArray[Any]],
        shape: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._rows, self._scale = rows, scale
        self.shape = (len(rows), *shape)
        self.dtype, self.device = dtype, device

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, which: slice | Tensor) -> Tensor:
        if isinstance(which, slice):
            found, shape = self._rows[which], self.shape[1:]
            return self._made(found).view(len(found), *shape)
        found = self._rows[which.reshape(-1).cpu().numpy()]
        return self._made(found).view(*which.shape, *self.shape[1:])

    def _made(self, rows: NDArray[Any]) -> Tensor:
        scaled = self._scale(rows) if len(rows) else rows
        made = torch.empty(scaled.shape, dtype=self.dtype)  # aligned as a tensor of all rows is
        made.numpy()[...] = scaled
        return made.to(self.device)

    def without(self, numbers: Numbers) -> "ScaledRows":
        """Return these rows but for some, few, given by their sorted numbers."""
        return ScaledRows(self._rows.without(numbers), self._scale, self.shape[1:], self.dtype, self.device)


class RowsFile:
    """A file of rows that is written piece by piece and then mapped; for the life of this process only.

    Parameters
    ----------
    features : int
    dtype : dtype
    folder : Path, optional
        Where it takes room; by default where the system keeps temporary files. It has no name there (where the system
        has such files), so that a kill leaves nothing behind, and the room is free when the rows are of no more use.

    Raises
    ------
    OSError
        Wherever it cannot be written.
    """

    def __init__(self, features: int, dtype: Any, *, folder: Path | None = None) -> None:
        self._features, self._dtype, self._rows = features, np.dtype(dtype), 0
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, rows: NDArray[Any]) -> None:
        """Write rows of shape (rows, features) behind the others."""
        self._file.write(np.ascontiguousarray(rows, dtype=self._dtype).data)
        self._rows += len(rows)

    def mapped(self) -> NDArray[Any]:
        """Return all rows, mapped; they may be read when the file is closed."""
        self._file.flush()
        return np.memmap(self._file, dtype=self._dtype, mode="r", shape=(self._rows, self._features))


def stored(X: Any) -> StoredRows | None:
    """Return rows that lie on disk as such; None for what is in memory.

    On disk are `StoredRows`, a `numpy.memmap` and any view of one, and a tensor of `torch.from_file`.
    """
    if isinstance(X, StoredRows):
        return X
    if isinstance(X, Tensor):
        on_disk = X.device.type == "cpu" and X.untyped_storage().filename is not None
        known = X.dtype not in (torch.bfloat16, torch.float16)
        return StoredRows(X.detach().numpy()) if on_disk and known and X.ndim >= 2 else None
    return StoredRows(X) if isinstance(X, np.ndarray) and X.ndim >= 2 and X.size and is_mapped(X) else None


def is_mapped(array: Any) -> bool:
    """Return whether an array's memory is a mapped file's."""
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap) and array._mmap is not None:  # type: ignore[attr-defined]
            return True
        array = array.base
    return isinstance(array, mmap.mmap)


def blocks(rows: int, row_bytes: int) -> Iterator[slice]:
    """Yield slices of so many rows, in order, each of at most `BLOCK_BYTES`."""
    size = max(BLOCK_BYTES // max(row_bytes, 1), 1)
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def among_others(numbers: Numbers, left_out: Numbers) -> Numbers:
    """Return the numbers, among all rows, of rows that are numbered without those left out.

    Parameters
    ----------
    numbers : int64 array
    left_out : int64 array, sorted, no number twice
    """
    found: Numbers = numbers + np.searchsorted(left_out - np.arange(len(left_out)), numbers, side="right")
    return found
