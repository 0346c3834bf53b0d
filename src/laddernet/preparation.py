"""Tables to numbers: categories, dates, text and missing values, as the training rows had them."""

import difflib
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from laddernet.data.frames import MISSING_MARKS
from laddernet.errors import DataError, RunError

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
MOST_BYTES, MOST_TIMES = 2**26, 200
"""What a saved preparation may unpack to: so many bytes, or so many times its own size if that is more. Columns of
categories say much the same and shrink to a fiftieth, 450 of them from 290 MB to 6 MB."""
# Text: latent semantics of hashed character n-grams. On 20,000 short misspelt texts of 10 classes, a linear classifier
# got 32 % right from it (in 1.0 s, hashing each text; 0.2 MB of state), 20 % from skrub's StringEncoder (1.7 s, 31 MB)
# and 20 % from its MinHashEncoder (10.5 s, 0.9 MB), each with 30 columns; more buckets gave nothing.
_BUCKETS, _COMPONENTS, _TEXTS = 2**10, 30, 10_000
_ZONED = r"\s*\d[\d./-]*[ T]\d\d?:\d\d(:\d\d(\.\d+)?)?\s*(Z|[+-]\d\d:?\d\d)\s*"  # 2020-01-31T12:00:00+01:00
_FEW = 0.1  # share of cells that are no numbers in what was probably meant as a column of numbers
_CODE = r"[+-]?0\d"  # 001, which is no number
_NUMBER_WITH_MORE = (  # $1,234.00, 0,13, 12 kg or 5 %
    r"[+-]?[$€£¥]?\s?(\d{1,3}([,.' ]\d{3})+|\d+)([.,]\d+)?(\s?[%$€£¥°]|\s[A-Za-z°µ/²³]{1,6})?"
)
_COARSE = 2.0**24  # from here on float32 skips whole numbers
_AMOUNTS = {"datetime": "dates", "numeric": "numbers"}  # the vectorizer's kinds of columns that can have gaps
# What a preparation consists of, besides what skops trusts by itself: transformers and predicates that compute on a
# column what their names say, and none of which calls anything that a file could name.
_TRUSTED = [
    "numpy.dtype",
    "skrub._apply_to_each_col.ApplyToEachCol",
    "skrub._check_input.CheckInputDataFrame",
    "skrub._clean_categories.CleanCategories",
    "skrub._clean_null_strings.CleanNullStrings",
    "skrub._dataframe._common.is_any_date",
    "skrub._dataframe._common.is_categorical",
    "skrub._dataframe._common.is_numeric",
    "skrub._datetime_encoder.DatetimeEncoder",
    "skrub._drop_uninformative.DropUninformative",
    "skrub._duration_to_float.DurationToFloat",
    "skrub._table_vectorizer.PassThrough",
    "skrub._table_vectorizer.ShortReprDict",
    "skrub._table_vectorizer.TableVectorizer",
    "skrub._table_vectorizer._created_by_predicate",
    "skrub._to_datetime.ToDatetime",
    "skrub._to_float.ToFloat",
    "skrub._to_str.ToStr",
    "skrub.selectors._base.All",
    "skrub.selectors._base.And",
    "skrub.selectors._base.Cols",
    "skrub.selectors._base.Filter",
    "skrub.selectors._base.Sub",
    "skrub.selectors._selectors._cardinality_below",
]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Preparation:
    """Turns a table's rows into numbers, as fitted to training rows; saved without pickle.

    Numbers, booleans and durations (in seconds) stay one column each; those of 2^24 and more, whose units float32
    cannot tell, are counted from their median. Dates (in UTC, where they have a time zone) become year, month, day and
    so on, and seconds since 1970. Strings and categories of fewer than 40 different values become a column for each
    value, all 0 for a value that training did not have; other text becomes 30 columns, from the pieces of its words.
    Where a number or date is missing, the training rows' median stands in, and a further column tells where it does (1)
    and where not (0), if it was missing in training as well. Columns that are empty in training give nothing.

    Attributes
    ----------
    columns : list of str
        The input's columns, in the training table's order.
    dropped : list of str
        Those of the training table that were left out, and are wherever they come again.
    numeric : list of str
        Those that are numbers.
    vectorizer : skrub.TableVectorizer or None
        Of the others; it leaves text as it is.
    encoders : dict of str to sklearn.pipeline.Pipeline
        Of the columns of text, whose pieces are counted.
    medians : float64 array of shape (amounts,)
        Of the numbers and dates, as they come out of these.
    offsets : float64 array of shape (amounts,)
        What is taken off these: the median of those that are too large for float32 to tell apart, else 0.
    gaps : bool array of shape (amounts,)
        Which of them were missing in some row of training.
    """

    columns: list[str]
    dropped: list[str]
    numeric: list[str]
    vectorizer: Any
    encoders: dict[str, Any]
    medians: NDArray[np.float64]
    offsets: NDArray[np.float64]
    gaps: NDArray[np.bool_]

    @classmethod
    def fit(
        cls, frame: "pd.DataFrame | NDArray[Any]", *, drop: Sequence[str] = (), first: "int | NDArray[np.int64]" = 0
    ) -> "Preparation":
        """Fit to training rows.

        Parameters
        ----------
        frame : DataFrame or array of shape (rows, columns)
            The columns of an array are called 0, 1, 2, ...
        drop : sequence of str
            Columns to leave out.
        first : int or int64 array of shape (rows,)
            Number of the first row, from 0, or of each, by which errors count.

        Raises
        ------
        DataError
            If a column's name occurs twice, there is no column of a name to leave out, a number is infinite or beyond
            float32, or the table holds nothing or what skrub cannot read.
        """
        from sklearn.preprocessing import OneHotEncoder
        from skrub import TableVectorizer

        frame = _drop(_as_table(frame, first), drop)
        filled = [str(name) for name in frame if frame[name].notna().any()]
        numeric = [name for name in filled if _holds_numbers(frame[name])]
        vectorizer, encoders, vectorized = None, {}, frame[[]]
        if others := [name for name in filled if name not in set(numeric)]:
            one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False, dtype="float32")
            vectorizer = TableVectorizer(low_cardinality=one_hot, high_cardinality="passthrough", n_jobs=1)
            vectorized = _call(vectorizer.fit_transform, frame[others])
            for name in others:
                if vectorizer.column_to_kind_.get(name) not in _AMOUNTS:
                    _warn_of_numbers(frame[name])
            for name in vectorizer.kind_to_columns_["high_cardinality"]:
                encoders[name] = _fit_text(_texts(vectorized[name]))
        amounts = _amounts(numeric, vectorizer, frame, vectorized)
        gone: NDArray[np.bool_] = np.isnan(amounts)
        medians = np.array([np.median(x[~out]) for x, out in zip(amounts.T, gone.T, strict=True)], dtype=np.float64)
        fitted = cls(
            columns=list(frame.columns),
            dropped=list(dict.fromkeys(drop)),
            numeric=numeric,
            vectorizer=vectorizer,
            encoders=encoders,
            medians=medians,
            offsets=np.where((np.abs(amounts) >= _COARSE).any(axis=0), medians, 0.0),
            gaps=np.array([out.any() for out in gone.T], dtype=bool),
        )
        if not fitted.feature_names:
            raise DataError("no column of the table holds anything. Give it columns of features.")
        return fitted

    @property
    def feature_names(self) -> list[str]:
        """Names of the columns that come out, made from those that go in; a name may occur twice."""
        amounts = [*self.numeric, *_outputs(self.vectorizer, *_AMOUNTS)]
        gaps = [f"{name}_missing" for name, has_gaps in zip(amounts, self.gaps, strict=True) if has_gaps]
        texts = [f"{name}_{index}" for name in self.encoders for index in range(_COMPONENTS)]
        return [*amounts, *gaps, *_outputs(self.vectorizer, "low_cardinality"), *texts]

    @property
    def column_weights(self) -> NDArray[np.float64]:
        """Weights that make the outputs of one input column count as much together as a lone number does.

        One over the square root of how many outputs the input has; float64 array of shape (len(feature_names),), for
        the estimators' `column_weights`.
        """
        amounts = [*self.numeric, *_inputs(self.vectorizer, *_AMOUNTS)]
        gaps = [name for name, has_gaps in zip(amounts, self.gaps, strict=True) if has_gaps]
        texts = [name for name in self.encoders for _ in range(_COMPONENTS)]
        inputs = [*amounts, *gaps, *_inputs(self.vectorizer, "low_cardinality"), *texts]
        outputs = Counter(inputs)
        return np.array([outputs[name] ** -0.5 for name in inputs])

    @property
    def text_columns(self) -> list[str]:
        """The input's columns that were text, which a file's reader must not take for numbers ("007")."""
        kinds = {} if self.vectorizer is None else self.vectorizer.column_to_kind_
        return [name for name, kind in kinds.items() if kind not in _AMOUNTS]

    def apply(
        self, frame: "pd.DataFrame | NDArray[Any]", *, first: "int | NDArray[np.int64]" = 0
    ) -> NDArray[np.float32]:
        """Turn rows of a table into numbers, each row for itself.

        Columns are found by their names, in any order; those that training did not have are left out with a warning.
        Another one tells of numbers and dates that are missing in columns that lacked none in training.

        Parameters
        ----------
        frame : DataFrame or array of shape (rows, columns)
        first : int or int64 array of shape (rows,)
            Number of the first row, from 0, or of each, by which errors count.

        Returns
        -------
        float32 array of shape (rows, len(feature_names)), all finite.

        Raises
        ------
        DataError
            If a column is missing, or holds what cannot be read as in training, or an infinite number; the message
            names it.
        """
        if isinstance(frame, np.ndarray) and self._takes(frame):
            amounts = frame[:, list(map(int, self.numeric))].astype(np.float64)
            for name, column in zip(self.numeric, amounts.T, strict=True):
                check_finite(name, column, first)
            return self._filled(amounts)
        frame = _as_table(frame, first, text=self.text_columns)
        found = set(frame.columns)
        if missing := [name for name in self.columns if name not in found]:
            extra = [name for name in frame.columns if name not in set(self.columns)]
            close = [near for name in missing for near in difflib.get_close_matches(name, extra, n=1)]
            hint = f" (perhaps now called {_quote(close)})" if close else ""
            raise DataError(f"the table lacks columns that training had: {_quote(missing)}{hint}. Add or rename them.")
        if extra := [name for name in frame.columns if name not in {*self.columns, *self.dropped}]:
            warnings.warn(f"columns that training did not have are left out: {_quote(extra)}.", stacklevel=2)
        vectorized = self._vectorize(frame)
        amounts = _amounts(self.numeric, self.vectorizer, frame, vectorized)
        categories = vectorized[_outputs(self.vectorizer, "low_cardinality")].to_numpy(dtype=np.float32)
        texts = [_encode_text(encoder, _texts(vectorized[name])) for name, encoder in self.encoders.items()]
        return np.concatenate([self._filled(amounts), categories, *texts], axis=1, dtype=np.float32)

    def _takes(self, array: NDArray[Any]) -> bool:
        """Whether it is an array of numbers with the columns, without names, of one that this was fitted to."""
        names = list(map(str, range(array.shape[1] if array.ndim == 2 else 0)))
        return array.dtype.kind in "biuf" and self.vectorizer is None and set(names) == {*self.columns, *self.dropped}

    def _filled(self, amounts: NDArray[np.float64]) -> NDArray[np.float32]:
        """Numbers and dates with the medians in their gaps, and where the gaps are."""
        gone: NDArray[np.bool_] = np.isnan(amounts)
        self._warn_of_gaps(gone)
        filled = np.where(gone, self.medians, amounts) - self.offsets
        return np.concatenate([filled.astype(np.float32), gone[:, self.gaps]], axis=1, dtype=np.float32)

    def save(self, path: str | Path) -> None:
        """Write it to a file of skops' format."""
        import skops.io

        state = {name: getattr(self, name) for name in _FIELDS}
        skops.io.dump({"format": FORMAT, **state}, path, compression=zipfile.ZIP_DEFLATED)

    @classmethod
    def load(cls, path: str | Path) -> "Preparation":
        """Read it back; no code of the file's is run.

        Raises
        ------
        RunError
            If the file is not a preparation, is damaged, or holds anything else than a preparation's parts.
        """
        import skops.io
        from skops.io.exceptions import UntrustedTypesFoundException

        try:
            with zipfile.ZipFile(path) as archive:
                size = sum(entry.file_size for entry in archive.infolist())
                odd = [name for name in archive.namelist() if not re.fullmatch(r"schema\.json|\d+\.npy", name)]
            if size > max(MOST_BYTES, MOST_TIMES * Path(path).stat().st_size):
                raise RunError(f"{path} would take {size:,} bytes, which no preparation does: it is not loaded.")
            if odd:  # such as archives within
                raise RunError(f"{path} holds {odd[0]!a:.100}, which no preparation does: it is not loaded.")
            state = skops.io.load(path, trusted=_TRUSTED)
        except RunError:
            raise
        except UntrustedTypesFoundException as error:
            raise RunError(f"{path} holds what no preparation does, and is not loaded: {error}") from error
        except Exception as error:  # a damaged file fails anywhere in building what it describes
            reason = " ".join(str(error).split()) or type(error).__name__
            raise RunError(f"{path} cannot be read as a preparation ({reason}).") from error
        if not isinstance(state, dict) or state.pop("format", None) != FORMAT or set(state) != set(_FIELDS):
            raise RunError(f"{path} is not a preparation of format {FORMAT}.")
        loaded = cls(**state)
        try:
            loaded._try()
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise RunError(f"{path} is not a usable preparation: {reason}") from error
        return loaded

    def _try(self) -> None:
        """Prepare a row of gaps, in which each part has its turn, so that parts that do not fit are found at once."""
        import pandas as pd

        for name in ("columns", "dropped", "numeric"):
            names = getattr(self, name)
            if not isinstance(names, list) or not all(type(entry) is str for entry in names):
                raise ValueError(f"its {name} are no list of names.")
        for name in ("medians", "offsets", "gaps"):
            values, kind = getattr(self, name), np.bool_ if name == "gaps" else np.float64
            if not isinstance(values, np.ndarray) or values.dtype != kind or not np.isfinite(values).all():
                raise ValueError(f"its {name} are no array of finite numbers.")
        with warnings.catch_warnings(action="ignore"):
            made = self.apply(pd.DataFrame({name: [None] for name in self.columns}, dtype=object))
        wanted = (1, len(self.feature_names))
        if made.shape != wanted or self.column_weights.shape != wanted[1:] or not np.isfinite(made).all():
            raise ValueError(f"it makes rows of shape {made.shape[1:]}, not {wanted[1:]}, or not all finite.")

    def _warn_of_gaps(self, gone: NDArray[np.bool_]) -> None:
        """Tell of columns that lack values, but did not in training, which then learned nothing from a gap."""
        new = gone.any(axis=0) & ~self.gaps
        inputs = [*self.numeric, *_inputs(self.vectorizer, *_AMOUNTS)]
        if names := list(dict.fromkeys(name for name, lacks in zip(inputs, new, strict=True) if lacks)):
            warnings.warn(
                f"values are missing in {_quote(names)}, which lacked none in training: the median of its rows stands "
                "in.",
                stacklevel=4,
            )

    def _vectorize(self, frame: "pd.DataFrame") -> "pd.DataFrame":
        """Numbers and, in columns of text, strings of the columns that are not numeric."""
        if self.vectorizer is None:
            return frame[[]]
        given = frame[self.vectorizer.feature_names_in_].copy()
        for name, kind in self.vectorizer.column_to_kind_.items():
            given[name] = _read_strings(given[name]) if kind not in _AMOUNTS else given[name]
        vectorized = _call(self.vectorizer.transform, given)
        for kind, what in _AMOUNTS.items():
            for name in self.vectorizer.kind_to_columns_[kind]:
                clean = self.vectorizer.all_processing_steps_[name][0].transform(given[name])
                read = vectorized[self.vectorizer.input_to_outputs_[name]].notna().any(axis=1)
                _check_all_read(given[name], clean.notna() & ~read, what)
        return vectorized


_FIELDS = [field.name for field in fields(Preparation)]


def _as_table(
    frame: "pd.DataFrame | NDArray[Any]", first: "int | NDArray[np.int64]", text: Sequence[str] = ()
) -> "pd.DataFrame":
    """Rows as a table whose index are their numbers, with dates in UTC where a column is not known to be text."""
    import pandas as pd

    table = pd.DataFrame(frame).reset_index(drop=True).infer_objects()
    table.columns = pd.Index([str(name) for name in table.columns], dtype=object)
    for number in range(table.shape[1]):
        if table.columns[number] not in text:
            table.isetitem(number, _without_zone(table.iloc[:, number]).array)
    if doubled := table.columns[table.columns.duplicated()].unique().tolist():
        raise DataError(f"the table has more than one column named {_quote(doubled)}. Give each its own name.")
    if table.empty:
        raise DataError(f"the table has {len(table)} rows and {table.shape[1]} columns, so no data.")
    table.index = pd.RangeIndex(first, first + len(table)) if isinstance(first, int) else pd.Index(first)
    return table


def _without_zone(column: "pd.Series[Any]") -> "pd.Series[Any]":
    """Dates with a time zone, or text of such, as dates in UTC; other columns as they are."""
    import pandas as pd

    if isinstance(column.dtype, pd.DatetimeTZDtype):
        in_utc: pd.Series[Any] = column.dt.tz_convert("UTC").dt.tz_localize(None)
        return in_utc
    if column.dtype == object or isinstance(column.dtype, pd.StringDtype):
        known = column.dropna()
        if len(known) and known.astype(str).str.fullmatch(_ZONED).all():
            dates = pd.to_datetime(column, utc=True, errors="coerce", format="mixed")
            return column if dates[known.index].isna().any() else dates.dt.tz_localize(None)
    return column


def _drop(table: "pd.DataFrame", names: Sequence[str]) -> "pd.DataFrame":
    if unknown := [name for name in names if name not in set(table.columns)]:
        close = [near for name in unknown for near in difflib.get_close_matches(name, list(table.columns), n=1)]
        hint = f" (perhaps {_quote(close)})" if close else ""
        raise DataError(
            f"there is no column {_quote(unknown)} to leave out{hint}; the columns are {_quote(list(table.columns))}."
        )
    if len(set(names)) == table.shape[1]:
        raise DataError("every column is to be left out. Keep one or more to learn from.")
    return table.drop(columns=list(names))


def _call(method: Callable[["pd.DataFrame"], "pd.DataFrame"], frame: "pd.DataFrame") -> "pd.DataFrame":
    """Call skrub, without its warnings, and with its errors as ours."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return method(frame)
    except (ValueError, TypeError, AttributeError) as error:
        reasons = " ".join(" ".join([str(error), *getattr(error, "__notes__", [])]).split())
        raise DataError(f"the table cannot be read: {reasons}") from error


def _outputs(vectorizer: Any, *kinds: str) -> list[str]:
    """Names of the columns that a vectorizer makes of inputs of some kinds."""
    if vectorizer is None:
        return []
    inputs = [name for kind in kinds for name in vectorizer.kind_to_columns_[kind]]
    return [output for name in inputs for output in vectorizer.input_to_outputs_[name]]


def _inputs(vectorizer: Any, *kinds: str) -> list[str]:
    """Name of the input of each column that `_outputs` names."""
    return [vectorizer.output_to_input_[output] for output in _outputs(vectorizer, *kinds)]


def _amounts(
    numeric: list[str], vectorizer: Any, frame: "pd.DataFrame", vectorized: "pd.DataFrame"
) -> NDArray[np.float64]:
    """Numbers and dates, NaN where missing, of shape (rows, amounts)."""
    outputs = _outputs(vectorizer, *_AMOUNTS)
    values = np.empty((len(frame), len(numeric) + len(outputs)), dtype=np.float64)
    for index, name in enumerate(numeric):
        values[:, index] = _read_numbers(frame[name])
    for index, name in enumerate(outputs, start=len(numeric)):
        dates = vectorized[name].to_numpy(np.float64)
        values[:, index] = check_finite(vectorizer.output_to_input_[name], dates, frame.index.to_numpy())
    return values


def _holds_numbers(column: "pd.Series[Any]") -> bool:
    import pandas as pd

    kinds = ("boolean", "integer", "floating", "mixed-integer-float", "decimal")
    if column.dtype == object:
        return pd.api.types.infer_dtype(column, skipna=True) in kinds
    return pd.api.types.is_numeric_dtype(column) or column.dtype.kind == "m"


def _read_numbers(column: "pd.Series[Any]") -> NDArray[np.float64]:
    """A column of numbers, booleans or durations (in seconds) as float64; in strings, numbers as pandas reads them."""
    import pandas as pd

    numbers = column.dt.total_seconds() if column.dtype.kind == "m" else column
    if not pd.api.types.is_numeric_dtype(numbers):
        numbers = pd.to_numeric(column.astype(object), errors="coerce")
        blank = column.astype(str).str.strip() == ""
        _check_all_read(column, numbers.isna() & column.notna() & ~blank, "numbers")
    return check_finite(str(column.name), numbers.to_numpy(dtype=np.float64, na_value=np.nan), column.index.to_numpy())


def _warn_of_numbers(column: "pd.Series[Any]") -> None:
    """Warn of a column of text in which few cells are all that is no number, or which are numbers with something to it.

    That is a currency or a unit, a decimal comma or separators of thousands.
    """
    import pandas as pd

    known = column.dropna().astype(str).str.strip()
    known = known[known != ""]
    odd = known[pd.to_numeric(known, errors="coerce").isna()]
    are_few = 0 < len(odd) <= _FEW * len(known) or (0 < len(odd) < len(known) and odd.isin(MISSING_MARKS).all())
    if are_few and not known.str.match(_CODE).any():
        warnings.warn(
            f"column {column.name!r} is taken for text, as {len(odd)} of {len(known)} cells hold no number, such as "
            f"{odd.iloc[0]!r}. Correct or empty them to have it as numbers.",
            stacklevel=3,
        )
    elif len(odd) and known.str.fullmatch(_NUMBER_WITH_MORE).mean() >= 1 - _FEW and not known.str.match(_CODE).any():
        warnings.warn(
            f"column {column.name!r} is taken for text, as {len(odd)} of {len(known)} cells hold more than a number, "
            f"such as {odd.iloc[0]!r}. Write them as plain numbers, such as 1234.5, to have it as numbers.",
            stacklevel=3,
        )


def _read_strings(column: "pd.Series[Any]") -> "pd.Series[Any]":
    """A column of strings or categories as objects; numbers are written without the .0 that missing ones bring."""
    import pandas as pd

    if not pd.api.types.is_numeric_dtype(column):
        return column
    strings = column.convert_dtypes().astype(object)
    return strings.map(str).where(column.notna(), None)


def _texts(column: "pd.Series[Any]") -> "pd.Series[Any]":
    return column.astype(object).where(column.notna(), "")


def _fit_text(texts: "pd.Series[Any]") -> Any:
    """Encoder of counted pieces of text to 30 columns, from evenly spread ones of the different values."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.pipeline import make_pipeline

    distinct = sorted(set(texts))
    encoder = make_pipeline(TfidfTransformer(), TruncatedSVD(_COMPONENTS, random_state=0))
    return encoder.fit(_count_pieces(distinct[:: -(-len(distinct) // _TEXTS)]))


def _encode_text(encoder: Any, texts: "pd.Series[Any]") -> NDArray[np.float32]:
    import pandas as pd

    codes, distinct = pd.factorize(texts)
    encoded: NDArray[np.float32] = encoder.transform(_count_pieces(distinct.tolist()))[codes]
    return encoded


def _count_pieces(texts: Sequence[str]) -> Any:
    """How often the hashed pieces of two and three characters occur; sparse, of shape (texts, buckets).

    No piece spans two words, so that pieces are looked for once for each different word.
    """
    import pandas as pd
    from scipy.sparse import csr_array
    from sklearn.feature_extraction.text import HashingVectorizer

    hashing = HashingVectorizer(
        analyzer="char_wb", ngram_range=(2, 3), n_features=_BUCKETS, alternate_sign=False, norm=None, dtype=np.float32
    )
    words = [text.lower().split() for text in texts]
    ends = np.cumsum([0, *map(len, words)])
    codes, distinct = pd.factorize(np.array([word for text in words for word in text], dtype=object))
    if not len(distinct):
        return csr_array((len(texts), _BUCKETS), dtype=np.float32)
    counts = csr_array((np.ones(len(codes), dtype=np.float32), codes, ends), shape=(len(texts), len(distinct)))
    return counts @ csr_array(hashing.transform(distinct))


def _check_all_read(column: "pd.Series[Any]", lost: "pd.Series[bool]", what: str) -> None:
    if lost.any():
        row = int(lost.to_numpy().argmax())
        raise DataError(
            f"column {column.name!r} held {what} in the training rows, but row {column.index[row] + 1} holds "
            f"{column.iloc[row]!r}. Correct it, or leave the cell empty."
        )


def is_finite(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which values float32 holds as a finite number, or are missing."""
    finite: NDArray[np.bool_] = ~(np.abs(values) > np.finfo(np.float32).max)
    return finite


def check_finite(name: str, values: NDArray[np.float64], first: "int | NDArray[np.int64]" = 0) -> NDArray[np.float64]:
    """Return a column's numbers, all finite in float32 or missing; `first` is the number of the first row, or of each.

    Raises
    ------
    DataError
        If they are not.
    """
    finite = is_finite(values)
    if not finite.all():
        place = int(finite.argmin())
        row = first + place if isinstance(first, int) else int(first[place])
        raise DataError(
            f"column {name!r} is infinite, or beyond {np.finfo(np.float32).max:.1e}, in row {row + 1}. Correct it, or "
            "leave the cell empty."
        )
    return values


def _quote(names: list[str]) -> str:
    return ", ".join(map(repr, names[:10])) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
