"""Tables: CSV (.csv, .tsv, also with .gz) and Parquet files, read whole or some rows at a time."""

import difflib
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from laddernet.data.formats import SEPARATORS, Part, Rows, check_labeled, fill, of_one_kind, part_rows, raise_damaged
from laddernet.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

_SEPARATOR_NAMES = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a vertical bar"}
MISSING_MARKS = {"NA", "N/A", "n/a", "<NA>", "#N/A", "nan", "NaN", "NAN", "None", "none", "null", "NULL", "?"}
"""What people write in a cell that has no value."""
_LONGEST_LINE = 2**20  # that is looked at, from the end of a file


def read_table(path: Path, suffix: str, label_column: str | None, required: bool, text_columns: Sequence[str]) -> Rows:
    """Read a table whole; see `files.read_rows`."""
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
    check_labeled(path, label_column, int(labeled.sum()))
    return Rows(x=x, y=y, labeled=labeled, label=label_column)


def _read_header(path: Path, suffix: str) -> list[str]:
    """Names of a CSV's columns, as they stand there."""
    import pandas as pd

    separator = SEPARATORS[suffix]
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

    separator = SEPARATORS[suffix]
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
        raise_damaged(path, error)
    _check_doubled(path, names)
    try:
        frame = pd.read_parquet(path, engine="pyarrow")
    except Exception as error:  # a damaged file fails anywhere in building what it describes
        raise_damaged(path, error)
    return _plainly_named(frame)


def _plainly_named(frame: "pd.DataFrame") -> "pd.DataFrame":
    import pandas as pd

    frame.columns = pd.Index([str(name) for name in frame.columns])
    return frame.reset_index(drop=True)


def _table_labels(
    path: Path, name: str | None, column: "pd.Series[Any]", *, is_text: bool
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    labeled = _labeled_cells(column)
    known = known_of_table(path, name, column[labeled].astype(object), np.flatnonzero(labeled), is_text=is_text)
    return fill(known, labeled), labeled


def _labeled_cells(column: "pd.Series[Any]") -> NDArray[np.bool_]:
    """Which cells of the labels' column are neither empty nor blank."""
    values = column.astype(object)
    blank = np.array([isinstance(value, str) and not value.strip() for value in values], dtype=bool)
    return (values.notna() & ~blank).to_numpy(dtype=bool)


def known_of_table(
    path: Path, name: str | None, known: "pd.Series[Any]", numbers: NDArray[np.int64], *, is_text: bool
) -> NDArray[Any]:
    """Return the labels of the labelled rows, whose numbers are given, of one kind."""
    import pandas as pd

    kind = pd.api.types.infer_dtype(known)
    if is_text and len(known):
        as_numbers = pd.to_numeric(known, errors="coerce")
        is_number, is_mark = as_numbers.notna(), known.str.strip().isin(MISSING_MARKS)
        if is_number.any() and (is_number | is_mark).all() and not known.str.match(r"\s*[+-]?0\d").any():
            if is_number.all():
                return of_one_kind(path, name, as_numbers.to_numpy(), numbers)
            raise DataError(
                f"{path}: the labels {name!r} are numbers, but also {known[is_mark].iloc[0]!r}. Leave the cell empty "
                "where a row has no label."
            )
    if kind in ("integer", "floating", "mixed-integer-float", "decimal"):
        as_numbers = pd.to_numeric(known.astype(float) if kind != "integer" else known)
        return of_one_kind(path, name, as_numbers.to_numpy(), numbers)
    if kind not in ("string", "boolean", "empty"):
        raise DataError(f"{path}: the labels {name!r} are of kind {kind}. Make them all numbers or all strings.")
    if marks := sorted(MISSING_MARKS.intersection(known)):
        warnings.warn(
            f"{path}: the labels {name!r} hold {', '.join(map(repr, marks))}, which counts as a class. Leave the cell "
            "empty where a row has no label.",
            stacklevel=5,
        )
    return of_one_kind(path, name, known.to_numpy(), numbers)


def table_parts(
    path: Path, suffix: str, label: str | None, required: bool, text_columns: Sequence[str], as_text: bool
) -> Iterator[Part]:
    """Read a table some rows at a time; see `files.read_parts`."""
    if suffix == ".parquet":
        frames = _parquet_frames(path, label, required)
    else:
        frames = _csv_frames(path, suffix, label, required, text_columns, as_text)
    return _parts_of(path, frames, label, required)


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
        given: dict[str, Any] = {"sep": SEPARATORS[suffix], "index_col": False, "chunksize": part_rows(len(header))}
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
        raise_damaged(path, error)
