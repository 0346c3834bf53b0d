"""A practitioner's files: tables and arrays in which most rows have no label.

Tables are CSV (.csv, .tsv, also with .gz) and .parquet (`data.frames`); arrays are .npz and .npy (`data.arrays`).
Nothing is ever unpickled.
"""

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from laddernet.data.arrays import array_labels, array_parts, check_array, labels_beside, map_array, read_npy, read_npz
from laddernet.data.formats import Part, Rows, check_labeled, fill, raise_damaged, suffix_of, suffix_of_file
from laddernet.data.frames import known_of_table, read_table, table_parts
from laddernet.data.labels import SparseLabels
from laddernet.errors import DataError

MOST_CLASSES = 20


def read_rows(
    path: str | Path,
    *,
    label_column: str | None = None,
    labels_path: str | Path | None = None,
    labels_required: bool = True,
    text_columns: Sequence[str] = (),
) -> Rows:
    """Read a table or arrays.

    In a table, a row has no label where the label's cell is empty or blank (in Parquet, also where it is null or
    NaN); text such as "NA" or "None" is a class. Text that reads as numbers throughout is numbers, unless a leading
    zero ("007") shows that it is a code. A counter 0, 1, 2, ... without a name, such as an index written along, is
    left out with a warning.

    An .npz file holds arrays X and y. An .npy file is X, and its labels are in `labels_path`, or in the file of the
    same name with X replaced by y (X.npy and y.npy, X_train.npy and y_train.npy, digits_X.npy and digits_y.npy). In
    arrays, a row has no label where y is -1 (integers), NaN (floats) or blank (strings); so give a regression target
    in which -1 occurs as floats.

    Parameters
    ----------
    path : str or Path
        Its suffix, in any case, says the format: .csv, .csv.gz, .tsv, .tsv.gz, .parquet, .npz or .npy.
    label_column : str, optional
        The labels' column of a table (needed where `labels_required`), or their array in an .npz file instead of y.
    labels_path : str or Path, optional
        The labels' file, of an .npy file only.
    labels_required : bool
        Raise where there are no labels. If not, labels that are there are not looked at, and kept out of the features
        all the same, provided that they are named.
    text_columns : sequence of str
        Columns of a CSV that stay as they are written, even where all of their cells read as numbers.

    Raises
    ------
    DataError
        If the file cannot be read, is not of the promised form, or has no label; the message names it and says what
        to do.
    """
    path = Path(path)
    suffix = suffix_of_file(path)
    _check_labels_path(path, suffix, labels_path)
    try:
        if suffix == ".npy":
            x, y, label = read_npy(path, label_column, labels_path, labels_required)
        elif suffix == ".npz":
            x, y, label = read_npz(path, label_column or "y", labels_required)
        else:
            return read_table(path, suffix, label_column, labels_required, text_columns)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
        raise_damaged(path, error)
    check_array(path, x)
    if y is None or not labels_required:
        return Rows(x=x, y=None, labeled=np.zeros(len(x), dtype=bool), label=None)
    labels = array_labels(path, label, y, rows=len(x))
    check_labeled(path, label, len(labels.numbers))
    labeled = np.zeros(len(x), dtype=bool)
    labeled[labels.numbers] = True
    return Rows(x=x, y=fill(labels.values, labeled), labeled=labeled, label=label)


def read_parts(
    path: str | Path,
    *,
    label_column: str | None = None,
    labels_required: bool = True,
    text_columns: Sequence[str] = (),
    as_text: bool = False,
) -> Iterator[Part]:
    """Read a table or an .npy file from its beginning to its end, at most `formats.PART_ROWS` rows at a time.

    What is told from a column as a whole by `read_rows` is told from each part by itself here: whether text that reads
    as numbers is numbers. An .npz file comes in one part, and the labels of an .npy file are not read.

    Parameters
    ----------
    path, label_column, labels_required, text_columns
        As in `read_rows`.
    as_text : bool
        Leave all cells of a CSV as they are written.

    Raises
    ------
    DataError
        As `read_rows` does; what is wrong further on is found when it is come to.
    """
    path = Path(path)
    suffix = suffix_of_file(path)
    try:
        if suffix == ".npy":
            yield from array_parts(path, map_array(path))
        elif suffix == ".npz":
            rows = read_rows(path, labels_required=False)
            yield Part(rows.x, 0, np.empty(0, dtype=np.int64), [])
        else:
            yield from table_parts(path, suffix, label_column, labels_required, text_columns, as_text)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
        raise_damaged(path, error)


def known_labels(
    path: str | Path, label_column: str, parts: Sequence[tuple[NDArray[np.int64], list[Any]]], *, rows: int
) -> SparseLabels:
    """Return the labels of a table of which all parts have been read, each one's `numbers` and `labels`.

    Raises
    ------
    DataError
        If there are none, or they are not of one kind.
    """
    import pandas as pd

    path = Path(path)
    numbers = np.concatenate([part[0] for part in parts])
    check_labeled(path, label_column, len(numbers))
    known = pd.Series([label for part in parts for label in part[1]], dtype=object)
    values = known_of_table(path, label_column, known, numbers, is_text=suffix_of(path) != ".parquet")
    return SparseLabels(rows=rows, numbers=numbers, values=values)


def read_array_labels(path: str | Path, labels_path: str | Path | None) -> SparseLabels:
    """Return the labels of an .npy file's rows; see `read_rows`.

    Raises
    ------
    DataError
        If there are none, or not one for each row.
    """
    path = Path(path)
    _check_labels_path(path, suffix_of(path), labels_path)
    beside = labels_beside(path, labels_path, required=True)
    assert beside is not None
    labels = array_labels(path, "y", map_array(beside), rows=len(map_array(path)))
    check_labeled(path, "y", len(labels.numbers))
    return labels


def tell_task(y: ArrayLike) -> Literal["classification", "regression"]:
    """Tell from the labels whether they are classes or amounts.

    Strings, booleans and categories are classes. Numbers of which any has a fractional part are amounts. Whole
    numbers (whole floats as well) are classes if at most 20 different ones occur, and either at most two, or each
    twice or more on average; else amounts.

    Parameters
    ----------
    y : array-like of shape (labelled rows,)
        The labels of those rows that have one.

    Raises
    ------
    DataError
        If there is no label, or if -1 is among numeric classes, as the classifier takes it for "no label".
    """
    labels = np.asarray(y)
    labels = np.array(labels.tolist()) if labels.dtype == object else labels
    if labels.size == 0:
        raise DataError("no row has a label, so that the task cannot be told. Label some rows.")
    if labels.dtype.kind not in "iuf":
        return "classification"
    distinct = np.unique(labels)
    repeated = len(distinct) <= 2 or len(labels) >= 2 * len(distinct)
    if (distinct % 1 != 0).any() or len(distinct) > MOST_CLASSES or not repeated:
        return "regression"
    if -1 in distinct:
        raise DataError(
            "one of the classes is -1, which stands for a row without a label. Rename the class, or empty the cells of "
            "the rows that have no label."
        )
    return "classification"


def _check_labels_path(path: Path, suffix: str, labels_path: str | Path | None) -> None:
    if labels_path is not None and suffix != ".npy":
        raise DataError(f"{path} has its labels within, so {labels_path} cannot be given as their file.")
