"""A practitioner's files: tables and arrays in which most rows have no label, and tables of predictions.

Tables are CSV (.csv, .tsv, also with .gz) and .parquet; arrays are .npz and .npy. Nothing is ever unpickled.
"""

import difflib
import gzip
import os
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from laddernet.data.labels import SparseLabels
from laddernet.errors import DataError, OutOfMemoryError, memory_size

if TYPE_CHECKING:
    import pandas as pd

_SEPARATORS = {".csv": ",", ".csv.gz": ",", ".tsv": "\t", ".tsv.gz": "\t"}
_SEPARATOR_NAMES = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a vertical bar"}
_MISSING_MARKS = {"NA", "N/A", "n/a", "<NA>", "#N/A", "nan", "NaN", "NAN", "None", "none", "null", "NULL", "?"}
MOST_CLASSES = 20
_DECIMALS = 6
_LONGEST_LINE = 2**20  # that is looked at, from the end of a file
_EXACT = 2**53  # whole floats below it are exact
_NPY = b"\x93NUMPY"
_PART = 2**16
PART_ROWS = 20_000
"""Rows that `read_parts` gives at a time, at most."""
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
    suffix = _suffix_of_file(path)
    _check_labels_path(path, suffix, labels_path)
    try:
        if suffix == ".npy":
            x, y, label = _read_npy(path, label_column, labels_path, labels_required)
        elif suffix == ".npz":
            x, y, label = _read_npz(path, label_column or "y", labels_required)
        else:
            return _read_table(path, suffix, label_column, labels_required, text_columns)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
        _raise_damaged(path, error)
    _check_array(path, x)
    if y is None or not labels_required:
        return Rows(x=x, y=None, labeled=np.zeros(len(x), dtype=bool), label=None)
    labels = _array_labels(path, label, y, rows=len(x))
    _check_labeled(path, label, len(labels.numbers))
    labeled = np.zeros(len(x), dtype=bool)
    labeled[labels.numbers] = True
    return Rows(x=x, y=_fill(labels.values, labeled), labeled=labeled, label=label)


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


def prediction_table(
    classes: Sequence[Any] | NDArray[Any] | None, answers: NDArray[Any], probabilities: NDArray[Any] | None = None
) -> dict[str, NDArray[Any]]:
    """Columns of a table of predictions, for `write_predictions`.

    Parameters
    ----------
    classes : sequence of length (classes,) or None
        None for regression.
    answers : array of shape (rows,)
    probabilities : array of shape (rows, classes), optional
        In the order of `classes`.

    Returns
    -------
    dict
        "prediction", and with probabilities "probability_<class>" for each class, to 6 decimals; arrays of shape
        (rows,).
    """
    if classes is None or probabilities is None:
        return {"prediction": answers}
    columns = zip(classes, probabilities.T, strict=True)
    rounded = {f"probability_{name}": column.astype(np.float64).round(_DECIMALS) for name, column in columns}
    return {"prediction": answers} | rounded


def check_writable(path: Path, *, overwrite: bool) -> str:
    """Check, before long work, that `write_predictions` can write there, and return the file's known suffix."""
    suffix = _suffix(path)
    if suffix not in _SEPARATORS and suffix != ".parquet":
        raise DataError(f"{path} cannot be written: predictions are written as .csv, .tsv or .parquet.")
    if path.is_dir() or (path.exists() and not overwrite):
        raise DataError(
            f"{path} exists already and is not overwritten. Name another file, or overwrite it (--overwrite)."
        )
    if not path.parent.is_dir():
        raise DataError(f"{path} cannot be written: there is no folder {path.parent}. Make it, or name another file.")
    return suffix


def write_predictions(
    path: str | Path,
    columns: Mapping[str, NDArray[Any]] | Iterable[Mapping[str, NDArray[Any]]],
    *,
    overwrite: bool = False,
) -> None:
    """Write columns as a table, in the order of the rows; the file is complete or absent.

    Parameters
    ----------
    path : str or Path
        Its suffix says the format: .csv, .csv.gz, .tsv, .tsv.gz or .parquet.
    columns : mapping of str to array of shape (rows,), or an iterable of such
        All rows, or one part after the other, each with the same columns.
    overwrite : bool
        Replace an existing file, only once the new one is complete.

    Raises
    ------
    DataError
        If the file exists and is not to be overwritten, cannot be written, or has another suffix.
    """
    import pandas as pd

    path = Path(path)
    suffix = check_writable(path, overwrite=overwrite)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        frames = (pd.DataFrame(dict(part)) for part in ([columns] if isinstance(columns, Mapping) else columns))
        if suffix == ".parquet":
            _write_parquet(beside, frames)
        else:
            opened = gzip.open if suffix.endswith(".gz") else Path.open
            with opened(beside, "wt", encoding="utf-8", newline="") as file:
                for number, frame in enumerate(frames):
                    frame.to_csv(file, index=False, sep=_SEPARATORS[suffix], header=number == 0)
        beside.replace(path)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror or error}). Name another file.") from error
    finally:
        beside.unlink(missing_ok=True)


def _write_parquet(path: Path, frames: "Iterator[pd.DataFrame]") -> None:
    import pyarrow as pa
    from pyarrow import parquet

    first = pa.Table.from_pandas(next(frames), preserve_index=False)
    with parquet.ParquetWriter(path, first.schema) as writer:
        writer.write_table(first)
        for frame in frames:
            writer.write_table(pa.Table.from_pandas(frame, schema=first.schema, preserve_index=False))


def _suffix_of_file(path: Path) -> str:
    """Known suffix of a file that is there."""
    if not path.is_file():
        raise DataError(f"{path} is {'a folder, not a file' if path.is_dir() else 'not there'}. Name a file of data.")
    return _suffix(path)


def _check_labels_path(path: Path, suffix: str, labels_path: str | Path | None) -> None:
    if labels_path is not None and suffix != ".npy":
        raise DataError(f"{path} has its labels within, so {labels_path} cannot be given as their file.")


def _suffix(path: Path) -> str:
    """Known suffix of a file, .gz with what is before it."""
    for suffix in (*_SEPARATORS, ".parquet", ".npz", ".npy"):
        if path.name.lower().endswith(suffix):
            return suffix
    raise DataError(
        f"{path} has the suffix {path.suffix or '(none)'}, which says no known format. Use .csv, .tsv (or these with "
        ".gz), .parquet, .npz or .npy."
    )


def _raise_damaged(path: Path, error: BaseException) -> NoReturn:
    reason = " ".join(str(error).split()) or type(error).__name__
    raise DataError(f"{path} is damaged, cut short or not what its name says ({reason}). Write it again.") from error


# Tables


def _read_table(path: Path, suffix: str, label_column: str | None, required: bool, text_columns: Sequence[str]) -> Rows:
    if suffix == ".parquet":
        frame = _read_parquet(path)
        names = _check_names(path, [str(name) for name in frame.columns], label_column, required)
    else:
        header = _read_header(path, suffix)
        names = _check_names(path, header, label_column, required)
        frame = _read_csv(path, suffix, header, label_column if label_column in names else None, text_columns)
    if frame.empty:
        raise DataError(f"{path} has {len(frame)} rows and {frame.shape[1]} columns, so no data. Add rows to it.")
    if not required:
        frame = frame.drop(columns=[name for name in names if name == label_column])
        return Rows(x=frame, y=None, labeled=np.zeros(len(frame), dtype=bool), label=None)
    x = frame.drop(columns=label_column)
    if x.shape[1] == 0:
        raise DataError(f"{path} has no other column than the labels'. Add columns of features.")
    y, labeled = _table_labels(path, label_column, frame[label_column], is_text=suffix != ".parquet")
    _check_labeled(path, label_column, int(labeled.sum()))
    return Rows(x=x, y=y, labeled=labeled, label=label_column)


def _read_header(path: Path, suffix: str) -> list[str]:
    """Names of a CSV's columns, as they stand there."""
    import pandas as pd

    separator = _SEPARATORS[suffix]
    try:
        first = pd.read_csv(path, sep=separator, header=None, nrows=1, dtype=str, keep_default_na=False)
    except pd.errors.EmptyDataError:
        raise DataError(f"{path} is empty. It needs a line of column names and a line for each row.") from None
    except pd.errors.ParserError as error:
        raise DataError(f"{path} is no table: {error}.") from error
    except UnicodeDecodeError as error:
        _raise_encoding(path, error)
    header: list[str] = first.iloc[0].tolist()
    if any("\0" in name for name in header):
        raise DataError(f"{path} has bytes of zero in its header, as text of UTF-16 has. Save it as UTF-8.")
    if len(header) == 1:
        if separator in header[0]:
            raise DataError(
                f"{path} has a single column, {header[0]!r}: quotation marks stand around whole lines. Save it with "
                "such marks around single cells at most."
            )
        for other, name in _SEPARATOR_NAMES.items():
            if other != separator and other in header[0]:
                raise DataError(
                    f"{path} has a single column, {header[0]!r}: its columns seem to be separated by {name}, not by "
                    f"{_SEPARATOR_NAMES[separator]}. Save it with {_SEPARATOR_NAMES[separator]} between columns, or "
                    "give it the suffix .csv (commas) or .tsv (tabs) that it should have."
                )
    _check_last_line(path, len(header), separator)
    return header


def _check_last_line(path: Path, columns: int, separator: str) -> None:
    """Refuse a file that ends in the middle of a line, whose other cells would be taken for empty ones."""
    if path.name.lower().endswith(".gz"):  # which knows its own length
        return
    with path.open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - _LONGEST_LINE, 0))
        lines = file.read().split(b"\n")
    cells = lines[-1].count(separator.encode()) + 1
    if len(lines) > 1 and lines[-1].strip() and b'"' not in lines[-1] and cells < columns:
        raise DataError(
            f"{path} ends in the middle of a line, after {cells} of {columns} cells: it seems to be cut short. Write "
            "it again, or end the last line."
        )


def _check_doubled(path: Path, names: list[str]) -> None:
    doubled = sorted({repr(name) for name in names if names.count(name) > 1})
    if doubled:
        raise DataError(f"{path} has more than one column named {', '.join(doubled)}. Give each its own name.")


def _check_names(path: Path, names: list[str], label_column: str | None, required: bool) -> list[str]:
    _check_doubled(path, names)
    if label_column in names or not required:
        return names
    close = difflib.get_close_matches(label_column or "", names, n=3)
    ordered = [*close, *(name for name in names if name not in close)]
    listed = ", ".join(map(repr, ordered[:30])) + (f" and {len(ordered) - 30} more" if len(ordered) > 30 else "")
    if label_column is None:
        which = "which column holds the labels? Name one with --label-column (label_column=)"
        raise DataError(f"{path}: {which}: {listed}.")
    raise DataError(f"{path} has no column {label_column!r} to take the labels from. Name one of {listed}.")


def _read_csv(
    path: Path, suffix: str, header: list[str], label: str | None, text_columns: Sequence[str]
) -> "pd.DataFrame":
    import pandas as pd

    separator = _SEPARATORS[suffix]
    text = dict.fromkeys(set(text_columns) & set(header), str)
    with _csv_errors(path):
        frame = pd.read_csv(path, sep=separator, index_col=False, low_memory=False, dtype=text)
        if label is not None:  # once more as it stands, so that a class named NA is no missing value
            whole = pd.read_csv(path, sep=separator, index_col=False, usecols=[label], dtype=str, keep_default_na=False)
            frame[label] = whole[label].str.strip()
    for name, found in zip(header, frame.columns, strict=True):
        if not name.strip() and found != label and np.array_equal(frame[found], np.arange(len(frame))):
            warnings.warn(f"{path}: a column without a name only counts the rows; it is left out.", stacklevel=5)
            return frame.drop(columns=found)
    return frame


@contextmanager
def _csv_errors(path: Path) -> Iterator[None]:
    """Turn what pandas says of a CSV that it cannot read into errors of ours."""
    import pandas as pd

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            yield
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        if "EOF inside string" in str(error):
            raise DataError(
                f"{path} has a quotation mark that is never closed ({' '.join(str(error).split())}): it is cut short, "
                "or the mark does not belong there."
            ) from error
        raise DataError(
            f"{path} has lines with more cells than columns ({' '.join(str(error).split())}). Put quotation marks "
            "around cells that hold a separator."
        ) from error
    except UnicodeDecodeError as error:
        _raise_encoding(path, error)


def _raise_encoding(path: Path, error: UnicodeDecodeError) -> NoReturn:
    raise DataError(
        f"{path} is not UTF-8 text (byte {error.object[error.start]:#04x}: {error.reason}). Save it as UTF-8."
    ) from error


def _read_parquet(path: Path) -> "pd.DataFrame":
    import pandas as pd
    from pyarrow import parquet

    try:
        names = list(parquet.read_schema(path).names)
    except Exception as error:
        _raise_damaged(path, error)
    _check_doubled(path, names)
    try:
        frame = pd.read_parquet(path, engine="pyarrow")
    except Exception as error:  # a damaged file fails anywhere in building what it describes
        _raise_damaged(path, error)
    return _plainly_named(frame)


def _plainly_named(frame: "pd.DataFrame") -> "pd.DataFrame":
    import pandas as pd

    frame.columns = pd.Index([str(name) for name in frame.columns])
    return frame.reset_index(drop=True)


def _table_labels(
    path: Path, name: str | None, column: "pd.Series[Any]", *, is_text: bool
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    labeled = _labeled_cells(column)
    known = _known_of_table(path, name, column[labeled].astype(object), np.flatnonzero(labeled), is_text=is_text)
    return _fill(known, labeled), labeled


def _labeled_cells(column: "pd.Series[Any]") -> NDArray[np.bool_]:
    """Which cells of the labels' column are neither empty nor blank."""
    values = column.astype(object)
    blank = np.array([isinstance(value, str) and not value.strip() for value in values], dtype=bool)
    return (values.notna() & ~blank).to_numpy(dtype=bool)


def _known_of_table(
    path: Path, name: str | None, known: "pd.Series[Any]", numbers: NDArray[np.int64], *, is_text: bool
) -> NDArray[Any]:
    """The labels of the labelled rows, whose numbers are given, of one kind."""
    import pandas as pd

    kind = pd.api.types.infer_dtype(known)
    if is_text and len(known):
        as_numbers = pd.to_numeric(known, errors="coerce")
        is_number, is_mark = as_numbers.notna(), known.str.strip().isin(_MISSING_MARKS)
        if is_number.any() and (is_number | is_mark).all() and not known.str.match(r"\s*[+-]?0\d").any():
            if is_number.all():
                return _of_one_kind(path, name, as_numbers.to_numpy(), numbers)
            raise DataError(
                f"{path}: the labels {name!r} are numbers, but also {known[is_mark].iloc[0]!r}. Leave the cell empty "
                "where a row has no label."
            )
    if kind in ("integer", "floating", "mixed-integer-float", "decimal"):
        as_numbers = pd.to_numeric(known.astype(float) if kind != "integer" else known)
        return _of_one_kind(path, name, as_numbers.to_numpy(), numbers)
    if kind not in ("string", "boolean", "empty"):
        raise DataError(f"{path}: the labels {name!r} are of kind {kind}. Make them all numbers or all strings.")
    if marks := sorted(_MISSING_MARKS.intersection(known)):
        warnings.warn(
            f"{path}: the labels {name!r} hold {', '.join(map(repr, marks))}, which counts as a class. Leave the cell "
            "empty where a row has no label.",
            stacklevel=5,
        )
    return _of_one_kind(path, name, known.to_numpy(), numbers)


# Tables and arrays, some rows at a time


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


def read_parts(
    path: str | Path,
    *,
    label_column: str | None = None,
    labels_required: bool = True,
    text_columns: Sequence[str] = (),
    as_text: bool = False,
) -> Iterator[Part]:
    """Read a table or an .npy file from its beginning to its end, at most `PART_ROWS` rows at a time.

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
    suffix = _suffix_of_file(path)
    try:
        if suffix == ".npy":
            yield from _array_parts(path, map_array(path))
        elif suffix == ".npz":
            rows = read_rows(path, labels_required=False)
            yield Part(rows.x, 0, np.empty(0, dtype=np.int64), [])
        elif suffix == ".parquet":
            frames = _parquet_frames(path, label_column, labels_required)
            yield from _parts_of(path, frames, label_column, labels_required)
        else:
            frames = _csv_frames(path, suffix, label_column, labels_required, text_columns, as_text)
            yield from _parts_of(path, frames, label_column, labels_required)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
        _raise_damaged(path, error)


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
    _check_labeled(path, label_column, len(numbers))
    known = pd.Series([label for part in parts for label in part[1]], dtype=object)
    values = _known_of_table(path, label_column, known, numbers, is_text=_suffix(path) != ".parquet")
    return SparseLabels(rows=rows, numbers=numbers, values=values)


def read_array_labels(path: str | Path, labels_path: str | Path | None) -> SparseLabels:
    """Return the labels of an .npy file's rows; see `read_rows`.

    Raises
    ------
    DataError
        If there are none, or not one for each row.
    """
    path = Path(path)
    _check_labels_path(path, _suffix(path), labels_path)
    beside = labels_beside(path, labels_path, required=True)
    assert beside is not None
    labels = _array_labels(path, "y", map_array(beside), rows=len(map_array(path)))
    _check_labeled(path, "y", len(labels.numbers))
    return labels


def part_rows(columns: int) -> int:
    """Rows of so many columns that are read at a time: a multiple of those that answers are computed of at a time."""
    return _ANSWERED * min(max(_PART_VALUES // (_ANSWERED * max(columns, 1)), 1), PART_ROWS // _ANSWERED)


def _array_parts(path: Path, x: NDArray[Any]) -> Iterator[Part]:
    _check_array(path, x)
    size = part_rows(x.shape[1])
    for start in range(0, len(x), size):
        yield Part(x[start : start + size], start, np.empty(0, dtype=np.int64), [])


def _parts_of(path: Path, frames: "Iterator[pd.DataFrame]", label: str | None, required: bool) -> Iterator[Part]:
    import pandas as pd

    start = 0
    for frame in frames:
        numbers, labels = np.empty(0, dtype=np.int64), []
        if required:
            column = frame[label]
            labeled = _labeled_cells(column)
            numbers, labels = np.flatnonzero(labeled) + start, column[labeled].tolist()
        x = frame.drop(columns=[name for name in frame.columns if name == label])
        if x.shape[1] == 0:
            raise DataError(f"{path} has no other column than the labels'. Add columns of features.")
        x.index = pd.RangeIndex(start, start + len(x))
        yield Part(x, start, numbers, labels)
        start += len(x)
    if start == 0:
        raise DataError(f"{path} has no rows, so no data. Add rows to it.")


def _csv_frames(
    path: Path, suffix: str, label: str | None, required: bool, text_columns: Sequence[str], as_text: bool
) -> "Iterator[pd.DataFrame]":
    import pandas as pd

    header = _read_header(path, suffix)
    names = _check_names(path, header, label, required)
    found = [name or f"Unnamed: {number}" for number, name in enumerate(names)]  # as pandas calls them
    text = dict.fromkeys((name for name in found if name != label and (as_text or name in set(text_columns))), str)
    counter = next(
        (other for name, other in zip(header, found, strict=True) if not name.strip() and other != label), ""
    )
    start = 0
    with ExitStack() as stack:
        given: dict[str, Any] = {"sep": _SEPARATORS[suffix], "index_col": False, "chunksize": part_rows(len(header))}
        with _csv_errors(path):
            frames = stack.enter_context(pd.read_csv(path, low_memory=False, dtype=text, **given))
            if required:  # once more as it stands, so that a class named NA is no missing value
                plain: dict[str, Any] = {"usecols": [label], "dtype": str, "keep_default_na": False}
                labels = stack.enter_context(pd.read_csv(path, **given, **plain))
        while (frame := _next_frame(path, frames)) is not None:
            if required:
                frame[label] = _next_frame(path, labels)[label].str.strip()
            if counter:
                counts = pd.to_numeric(frame[counter], errors="coerce")
                if np.array_equal(counts, np.arange(start, start + len(frame))):
                    frame = frame.drop(columns=counter)
                elif start:
                    raise DataError(
                        f"{path}: a column without a name counts the rows up to {start:,}, and then no more. Give it a "
                        "name, or remove it."
                    )
                else:
                    counter = ""
            if counter and start == 0:
                warnings.warn(f"{path}: a column without a name only counts the rows; it is left out.", stacklevel=2)
            start += len(frame)
            yield frame


def _next_frame(path: Path, frames: Any) -> Any:
    with _csv_errors(path):
        return next(frames, None)


def _parquet_frames(path: Path, label: str | None, required: bool) -> "Iterator[pd.DataFrame]":
    for number, frame in enumerate(_frames_of_parquet(path)):
        if number == 0:
            _check_names(path, list(frame.columns), label, required)
        yield frame


def _frames_of_parquet(path: Path) -> "Iterator[pd.DataFrame]":
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path, pre_buffer=False, buffer_size=2**20) as file:
            size, waiting = part_rows(len(file.schema_arrow)), []
            for batch in file.iter_batches(size, use_threads=False):
                waiting.append(batch)
                if (rows := sum(map(len, waiting))) >= size:
                    table = pa.Table.from_batches(waiting)
                    yield _plainly_named(table.slice(0, size).to_pandas())
                    waiting = table.slice(size).to_batches() if rows > size else []
            if waiting:
                yield _plainly_named(pa.Table.from_batches(waiting).to_pandas())
    except Exception as error:  # a damaged file fails anywhere in building what it describes
        _raise_damaged(path, error)


# Arrays


def _read_npz(path: Path, label: str, required: bool) -> tuple[NDArray[Any], NDArray[Any] | None, str]:
    with path.open("rb") as file, _load(path, file) as arrays:
        found = ", ".join(arrays.files) or "nothing"
        if "X" not in arrays.files:
            raise DataError(f"{path} has no array X of the features; it holds {found}. Save it as X.")
        if label not in arrays.files:
            if required:
                raise DataError(f"{path} has no array {label} of the labels; it holds {found}. Save it as {label}.")
            return _member(path, arrays, "X"), None, label
        return _member(path, arrays, "X"), _member(path, arrays, label), label


def _read_npy(
    path: Path, label_column: str | None, labels_path: str | Path | None, required: bool
) -> tuple[NDArray[Any], NDArray[Any] | None, str]:
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
    if isinstance(loaded, np.ndarray) != (_suffix(path) == ".npy"):
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
        _raise_damaged(path, error)


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


def _check_array(path: Path, x: NDArray[Any]) -> None:
    if x.ndim != 2:
        raise DataError(
            f"{path}: X has shape {x.shape}, not (rows, features). Reshape it first, for instance with "
            "X.reshape(len(X), -1)."
        )
    if x.dtype.kind not in "biuf":
        raise DataError(f"{path}: X is of {x.dtype}. Make it numbers; a table with text goes into a .csv or .parquet.")
    if x.size == 0:
        raise DataError(f"{path}: X has shape {x.shape}, so no data. Add rows and columns to it.")


def _array_labels(path: Path, name: str, y: NDArray[Any], *, rows: int) -> SparseLabels:
    if y.shape not in ((rows,), (rows, 1)):
        raise DataError(f"{path}: the labels {name} have shape {y.shape}, but X has {rows} rows. Give one label a row.")
    if y.dtype.kind not in "biufU":
        raise DataError(f"{path}: the labels {name} are of {y.dtype}. Make them numbers or strings.")
    y = y.reshape(rows)
    parts = (slice(start, start + _PART) for start in range(0, rows, _PART))
    numbers = np.concatenate([np.flatnonzero(_labeled_values(y[part])) + part.start for part in parts])
    return SparseLabels(rows=rows, numbers=numbers, values=_of_one_kind(path, name, y[numbers], numbers))


def _labeled_values(y: NDArray[Any]) -> NDArray[np.bool_]:
    kind = y.dtype.kind
    if kind == "U":
        filled: NDArray[np.bool_] = np.strings.strip(y) != ""
        return filled
    labeled: NDArray[np.bool_] = ~np.isnan(y) if kind == "f" else ~((kind == "i") & (y == -1))
    return labeled


def _of_one_kind(path: Path, name: str | None, known: NDArray[Any], numbers: NDArray[np.int64]) -> NDArray[Any]:
    """The labels of the labelled rows, whose numbers are given, in one of the types that `Rows` describes."""
    if known.dtype.kind == "f":
        if np.isinf(known).any():
            raise DataError(f"{path}: row {numbers[np.isinf(known)][0] + 1} has an infinite {name!r}.")
        known = known.astype(np.float64)
        whole = bool(((known % 1 == 0) & (np.abs(known) < _EXACT)).all())
        return known.astype(np.int64) if whole else known
    if known.dtype.kind in "iu":
        return known.astype(np.int64)
    return np.array([str(label) for label in known.tolist()], dtype=object)


def _fill(known: NDArray[Any], labeled: NDArray[np.bool_]) -> NDArray[Any]:
    """Labels of all rows from those of the labelled ones, as `Rows` describes them."""
    if labeled.all():
        return known
    y = np.full(len(labeled), np.nan) if known.dtype.kind == "f" else np.full(len(labeled), None, dtype=object)
    y[labeled] = known
    return y


def _check_labeled(path: Path, name: str | None, count: int) -> None:
    if not count:
        raise DataError(f"{path}: no row has a label in {name!r}. Fill it in for some rows.")
