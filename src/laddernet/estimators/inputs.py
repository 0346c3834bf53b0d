"""What the estimators are given as rows and their weights: which kinds there are, and what they become."""

import math
from collections import Counter
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import _check_sample_weight

from laddernet.data.labels import SparseLabels
from laddernet.rows import ScaledRows, StoredRows


def check_numeric_kind(X: Any) -> None:
    """Refuse what scikit-learn takes for numbers in silence, or where it fails in another library's words."""
    if np.ma.is_masked(X):
        raise ValueError("X is a masked array, whose masked values would count: fill them, or leave the rows out.")
    if getattr(getattr(X, "dtype", None), "kind", "") in ("M", "m"):
        raise ValueError("X holds dates or durations: give numbers, such as days since the first of them.")
    if hasattr(X, "columns") and hasattr(X, "dtypes"):
        names = list(map(str, X.columns))
        if doubled := [name for name, count in Counter(names).items() if count > 1]:
            raise ValueError(f"X has more than one column named {', '.join(doubled)}. Give each its own name.")
        kinds = zip(names, X.dtypes, strict=True)
        if dates := [name for name, kind in kinds if getattr(kind, "kind", "O") in ("M", "m")]:
            raise ValueError(
                f"X has columns that hold dates or durations: {', '.join(dates)}. Give numbers, such as days since the "
                "first of them, or have `laddernet train FILE` make them."
            )


def flat_rows(X: Any) -> tuple[Any, tuple[int, ...]]:
    """Return rows of more than one dimension as flat ones, with the shape that they had; others as they are."""
    if isinstance(X, torch.Tensor):
        X = X.detach().cpu()
        X = (X.float() if X.dtype in (torch.bfloat16, torch.float16) else X).numpy()
    if isinstance(X, np.ndarray) and X.ndim > 2:
        return X.reshape(len(X), math.prod(X.shape[1:])), X.shape[1:]
    return X, ()


def input_types(X: Any) -> list[type[np.floating[Any]]]:
    """Floats stay as they are; whole numbers that float32 holds exactly become float32, all others float64."""
    small = getattr(X, "dtype", None) in (np.bool_, np.uint8, np.int8, np.uint16, np.int16)
    return [np.float32, np.float64] if small else [np.float64, np.float32]


def float_type(rows: Any) -> Any:
    """What the type of rows becomes when they are checked."""
    return rows.dtype if rows.dtype in (np.float32, np.float64) else input_types(rows)[0]


def text_columns(X: Any) -> list[str]:
    """Names of a data frame's columns that hold something else than numbers."""
    kinds = getattr(X, "dtypes", None)
    if kinds is None or not hasattr(kinds, "items"):
        return []
    return [str(name) for name, kind in kinds.items() if getattr(kind, "kind", "O") not in "biuf"]


def without(rows: Any, left_out: NDArray[np.int64]) -> Any:
    """Rows but for some, given by their sorted numbers: a copy of what is in memory."""
    if not len(left_out):
        return rows
    if isinstance(rows, (StoredRows, ScaledRows)):
        return rows.without(left_out)
    kept = np.delete(np.arange(rows.shape[0]), left_out)
    return rows[torch.from_numpy(kept) if isinstance(rows, torch.Tensor) else kept]


def row_weights(sample_weight: ArrayLike | None, rows: Any) -> NDArray[np.float64]:
    """Return a weight for each row, checked; 1 where none are given."""
    if sample_weight is not None:
        given = np.asarray(sample_weight)
        try:
            if given.dtype.kind not in "biufO":
                raise TypeError(f"they are of {given.dtype}")
            sample_weight = given.astype(np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"sample_weight must hold numbers: {error}.") from error
    weights = _check_sample_weight(sample_weight, rows, dtype=np.float64, ensure_non_negative=True)
    return np.asarray(weights, dtype=np.float64)


def known_weights(sample_weight: Any, rows: Any, labels: SparseLabels) -> NDArray[np.float64]:
    """The caller's weights of the labelled rows, 1 where none are given."""
    if sample_weight is None:
        return np.ones(len(labels.numbers))
    weight = row_weights(sample_weight, rows)
    of_known: NDArray[np.float64] = weight[labels.numbers]
    return of_known
