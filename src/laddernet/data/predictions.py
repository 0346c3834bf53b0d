"""Tables of predictions, written whole or not at all."""

import gzip
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from laddernet.data.formats import SEPARATORS
from laddernet.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

_DECIMALS = 6


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
    suffix = next((end for end in (*SEPARATORS, ".parquet") if path.name.lower().endswith(end)), None)
    if suffix is None:
        raise DataError(
            f"{path} cannot be written with the suffix {path.suffix or '(none)'}: predictions are written as .csv, "
            ".tsv or .parquet (the first two with .gz as well). Name such a file."
        )
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
                    frame.to_csv(file, index=False, sep=SEPARATORS[suffix], header=number == 0)
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
