"""What files of data there are, and what is the same in all of them: suffixes, the kinds of labels, parts of rows."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from laddernet.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

SEPARATORS = {".csv": ",", ".csv.gz": ",", ".tsv": "\t", ".tsv.gz": "\t"}
_EXACT = 2**53  # whole floats below it are exact
PART_ROWS = 20_000
"""Rows that are read at a time, at most."""
_ANSWERED = 2000  # rows that the estimators compute answers of at a time: a part is a multiple
_PART_VALUES = 2**20


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A file's rows.

    Attributes
    ----------
    x : DataFrame or array of shape (rows, features)
        The features alone, in the file's order. Of an .npy file, mapped: what is not read takes no memory.
    y : array of shape (rows,) or None
        The labels. Whole numbers are int64, other numbers float64, strings (and booleans, as "True" and "False")
        objects. Where rows have no label, float64 holds NaN and everything else is an object array with None there.
        None if the file has no labels at all.
    labeled : bool array of shape (rows,)
        Which rows have a label.
    label : str or None
        The name of the labels' column; of arrays, "y" unless another was asked for.
    """

    x: "pd.DataFrame | NDArray[Any]"
    y: NDArray[Any] | None
    labeled: NDArray[np.bool_]
    label: str | None


class Part(NamedTuple):
    """Some rows of a file, one after the other.

    Attributes
    ----------
    x : DataFrame or array of shape (rows, features)
        The features alone. A frame's index is the rows' numbers in the file, from 0.
    start : int
        Number of the first one.
    numbers : int64 array
        Numbers of those that have a label, in the file.
    labels : list
        Their labels as they stand there; see `known_labels`.
    """

    x: "pd.DataFrame | NDArray[Any]"
    start: int
    numbers: NDArray[np.int64]
    labels: list[Any]


def part_rows(columns: int) -> int:
    """Return how many rows of so many columns to read at a time: a multiple of those that are answered at a time."""
    return _ANSWERED * min(max(_PART_VALUES // (_ANSWERED * max(columns, 1)), 1), PART_ROWS // _ANSWERED)


def suffix_of_file(path: Path) -> str:
    """Return the known suffix of a file that is there."""
    if not path.is_file():
        raise DataError(f"{path} is {'a folder, not a file' if path.is_dir() else 'not there'}. Name a file of data.")
    return suffix_of(path)


def suffix_of(path: Path) -> str:
    """Return the known suffix of a file, .gz with what is before it."""
    for suffix in (*SEPARATORS, ".parquet", ".npz", ".npy"):
        if path.name.lower().endswith(suffix):
            return suffix
    raise DataError(
        f"{path} has the suffix {path.suffix or '(none)'}, which says no known format. Use .csv, .tsv (or these with "
        ".gz), .parquet, .npz or .npy."
    )


def raise_damaged(path: Path, error: BaseException) -> NoReturn:
    """Say of a file that it could not be read to its end."""
    reason = " ".join(str(error).split()) or type(error).__name__
    raise DataError(f"{path} is damaged, cut short or not what its name says ({reason}). Write it again.") from error


def of_one_kind(path: Path, name: str | None, known: NDArray[Any], numbers: NDArray[np.int64]) -> NDArray[Any]:
    """Return the labels of the labelled rows, whose numbers are given, in one of the types that `Rows` describes."""
    if known.dtype.kind == "f":
        if np.isinf(known).any():
            raise DataError(f"{path}: row {numbers[np.isinf(known)][0] + 1} has an infinite {name!r}.")
        known = known.astype(np.float64)
        whole = bool(((known % 1 == 0) & (np.abs(known) < _EXACT)).all())
        return known.astype(np.int64) if whole else known
    if known.dtype.kind in "iu":
        return known.astype(np.int64)
    return np.array([str(label) for label in known.tolist()], dtype=object)


def fill(known: NDArray[Any], labeled: NDArray[np.bool_]) -> NDArray[Any]:
    """Return the labels of all rows from those of the labelled ones, as `Rows` describes them."""
    if labeled.all():
        return known
    y = np.full(len(labeled), np.nan) if known.dtype.kind == "f" else np.full(len(labeled), None, dtype=object)
    y[labeled] = known
    return y


def check_labeled(path: Path, name: str | None, count: int) -> None:
    """Check that any row has a label."""
    if not count:
        raise DataError(f"{path}: no row has a label in {name!r}. Fill it in for some rows.")
