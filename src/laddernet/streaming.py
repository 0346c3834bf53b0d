"""From a file that memory does not hold to rows on disk that are ready for the estimators.

It is read twice, a part at a time. The first time its labels are found, and rows are chosen at random, to which a
`Preparation` is fitted. The second time every row is prepared and written to a file from which training reads; the rows
of an .npy file are left where they are, and prepared whenever they are read.
"""

import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from laddernet.data.arrays import map_array
from laddernet.data.files import known_labels, read_array_labels, read_parts
from laddernet.data.formats import Part
from laddernet.data.labels import SparseLabels
from laddernet.errors import DataError
from laddernet.preparation import Preparation, check_finite, is_finite
from laddernet.rows import RowsFile, StoredRows

SAMPLE_ROWS = 50_000
"""Rows with a label, and of all rows, at most, to which a preparation is fitted."""
SAMPLE_VALUES = 2**21
"""The same, in rows times columns."""
MOST_FRAMES = 100
"""Pieces in which rows are kept at a time, each of which takes memory however few they are."""


class Survey:
    """What one pass over a file's rows keeps of them, to tell what its columns hold.

    Rows at random, labelled rows and, for each column, rows without a label that show what it can hold: the first that
    lacks a value, the first that has one, the first that is no number, and those that were the largest number so far.

    Parameters
    ----------
    drop : sequence of str
        Columns that are not looked at.
    seed : int
    """

    def __init__(self, drop: tuple[str, ...], seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._any, self._labeled = _Reservoir(rng), _Reservoir(rng)
        self._shown: list[pd.DataFrame] = []
        self._seen: dict[str, set[str]] = {"a gap": set(), "a value": set(), "text": set()}
        self._largest: dict[str, float] = {}
        self._text: set[str] = set()
        self._infinite: dict[str, int] = {}
        self._drop = drop
        self.rows = 0

    def see(self, part: Part) -> None:
        """Look at the next rows, whose index are their numbers.

        Raises
        ------
        DataError
            If a column of numbers holds an infinite one.
        """
        x = part.x
        if isinstance(x, np.ndarray):
            x = x.astype(x.dtype.newbyteorder("="), copy=False)  # which pandas asks for
        frame = pd.DataFrame(x)
        frame.index = pd.RangeIndex(part.start, part.start + len(frame))
        self._any.add(frame)
        self._labeled.add(frame.loc[part.numbers])
        shown: set[int] = set()
        for name in self._new_columns(part.x) if isinstance(part.x, np.ndarray) else frame.columns:
            if str(name) not in self._drop:
                shown |= self._show(str(name), frame[name], part.start, part.numbers - part.start)
        if shown:
            self._shown.append(frame.iloc[sorted(shown)])
        self.rows += len(frame)

    def _new_columns(self, x: NDArray[Any]) -> list[int]:
        """Those columns of an array that may show something new."""
        largest, gaps = np.fmax.reduce(np.abs(x), axis=0), np.isnan(x).any(axis=0)
        return [
            column
            for column, (size, gap) in enumerate(zip(largest.tolist(), gaps.tolist(), strict=True))
            if not size <= self._largest.get(str(column), -1.0) or (gap and str(column) not in self._seen["a gap"])
        ]

    def _show(self, name: str, column: "pd.Series[Any]", start: int, labeled: NDArray[np.int64]) -> set[int]:
        """Places of those rows without a label that show something new of a column: those with one may be test rows."""
        there, unlabeled = column.notna().to_numpy(dtype=bool), np.ones(len(column), dtype=bool)
        unlabeled[labeled] = False
        new = {"a gap": ~there, "a value": there}
        if name not in self._seen["text"] and _may_be_numbers(column):
            numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
            if column.dtype.kind in "iuf":
                check_finite(name, numbers, start)
            elif (beyond := ~is_finite(numbers)).any():  # in what may yet turn out to be text
                self._infinite.setdefault(name, start + int(beyond.argmax()))
            new["text"] = there & np.isnan(numbers)
            self._text |= {name} if new["text"].any() else set()
            sizes = np.where(np.isnan(numbers), -1.0, np.abs(numbers))
            sizes[labeled] = -1.0
            if sizes.max(initial=-1.0) > self._largest.get(name, -1.0):
                self._largest[name] = float(sizes.max())
                new["largest"] = sizes == sizes.max()
        shown: set[int] = set()
        for what, places in new.items():
            if name not in self._seen.get(what, ()) and (places & unlabeled).any():
                self._seen.get(what, set()).add(name)
                shown.add(int((places & unlabeled).argmax()))
        return shown

    def frame(self, left_out: NDArray[np.int64]) -> pd.DataFrame:
        """Return the rows that were kept, in their order, but for some that are given by their numbers.

        Raises
        ------
        DataError
            If a column of numbers that are written as text holds an infinite one.
        """
        for name, row in self._infinite.items():
            if name not in self._text:
                check_finite(name, np.array([np.inf]), row)
        kept = pd.concat([self._any.frame(), self._labeled.frame(), *self._shown])
        kept = kept[~kept.index.duplicated()].sort_index()
        return kept[~kept.index.isin(left_out)]


class _Reservoir:
    """Rows at random, each equally likely, of those that come by; in the end as many as SAMPLE_... let there be."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._frames: list[pd.DataFrame] = []
        self._lots: list[NDArray[np.float64]] = []
        self._limit = 1.0

    def add(self, frame: pd.DataFrame) -> None:
        """Draw a lot for each row, and keep those that may be among the lowest."""
        lots = self._rng.random(len(frame))
        low = lots < self._limit
        if low.any() or not self._frames:
            self._frames.append(frame[low])
            self._lots.append(lots[low])
        size = _sample_size(frame.shape[1])
        if sum(map(len, self._lots)) > 1.5 * size or len(self._frames) > MOST_FRAMES:
            self._shrink(size)

    def _shrink(self, size: int) -> None:
        lots = np.concatenate(self._lots)
        chosen = np.sort(np.argsort(lots)[:size])
        self._frames, self._lots = [pd.concat(self._frames).iloc[chosen]], [lots[chosen]]
        if len(lots) > size:
            self._limit = float(lots[chosen].max())

    def frame(self) -> pd.DataFrame:
        """Return the rows that were kept."""
        self._shrink(_sample_size(self._frames[0].shape[1]))
        return self._frames[0]


def _sample_size(columns: int) -> int:
    """How many rows of so many columns a preparation is fitted to, at most."""
    return min(SAMPLE_ROWS, SAMPLE_VALUES // columns + 1)


def survey(
    path: Path, *, label_column: str | None, labels_path: Path | None, drop: tuple[str, ...], seed: int
) -> tuple[Survey, SparseLabels, str]:
    """Read a file once; return the survey of its rows, its labels, and their name.

    Raises
    ------
    DataError
        If it cannot be used; the message says why.
    """
    found = Survey(drop, seed)
    if path.suffix.lower() == ".npy":
        if label_column is not None:
            raise DataError(f"{path} is one array, with no column {label_column!r}. Give the labels' file instead.")
        known = read_array_labels(path, labels_path)
        for part in read_parts(path):
            found.see(part._replace(numbers=_within(known.numbers, part.start, part.start + len(part.x))))
        return found, known, "y"
    if labels_path is not None:
        raise DataError(f"{path} has its labels within, so {labels_path} cannot be given as their file.")
    labels = []
    for part in read_parts(path, label_column=label_column, as_text=True):
        labels.append((part.numbers, part.labels))
        found.see(part)
    return found, known_labels(path, str(label_column), labels, rows=found.rows), str(label_column)


def fit_preparation(
    path: Path, found: Survey, left_out: NDArray[np.int64], drop: tuple[str, ...]
) -> tuple[Preparation, int]:
    """Fit a preparation to the rows of a survey, but for some; return it, and how many rows there were."""
    frame = found.frame(left_out)
    numbers = frame.index.to_numpy(dtype=np.int64)
    if path.suffix.lower() not in (".npy", ".parquet"):  # cells as they are written: now they are read
        text = io.StringIO()
        frame.to_csv(text, index=False)
        text.seek(0)
        frame = pd.read_csv(text, index_col=False, low_memory=False)
    return Preparation.fit(frame, drop=drop, first=numbers), len(frame)


def prepared_rows(path: Path, label: str, preparation: Preparation, rows: int, folder: Path | None) -> StoredRows:
    """Return all rows of a file, prepared: read from it as they are needed, or written to a file of their own.

    Raises
    ------
    DataError
        If a row cannot be read as those that the preparation was fitted to, the file has changed, or there is no room.
    """
    width = len(preparation.feature_names)
    changed = "Leave it as it is while it is read."
    if path.suffix.lower() == ".npy":
        array = map_array(path)
        if len(array) != rows:
            raise DataError(f"{path} had {rows:,} rows at first, and then {len(array):,}. {changed}")
        return StoredRows(array, convert=preparation.apply, features=width, dtype=np.float32)
    parts = read_parts(path, label_column=label, labels_required=False, text_columns=preparation.text_columns)
    read = 0
    try:
        with RowsFile(width, np.float32, folder=folder) as file:
            for part in parts:
                file.append(preparation.apply(part.x, first=part.start))
                read += len(part.x)
            if read != rows:
                raise DataError(f"{path} had {rows:,} rows at first, and then {read:,}. {changed}")
            return StoredRows(file.mapped())
    except OSError as error:
        raise DataError(
            f"the prepared rows of {path}, {rows * width * 4:,} bytes, cannot be written to "
            f"{folder or tempfile.gettempdir()} ({error.strerror or error}). Make room there, or name another folder "
            "with --out."
        ) from error


def _within(numbers: NDArray[np.int64], start: int, stop: int) -> NDArray[np.int64]:
    """Those of some sorted numbers that are from `start` on and below `stop`."""
    return numbers[np.searchsorted(numbers, start) : np.searchsorted(numbers, stop)]


def _may_be_numbers(column: "pd.Series[Any]") -> bool:
    """Whether it is worth looking for numbers, or what is none, in a column."""
    kind = column.dtype.kind
    return kind in "iuf" or (kind == "O" and not isinstance(column.dtype, pd.CategoricalDtype))
