"""Input scaling: units chosen so that the paper's noise and denoising weights mean what they mean on MNIST."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.preprocessing import StandardScaler
from sklearn.utils import gen_batches

from laddernet.arguments import shown
from laddernet.preprocessing import measure_whitening, normalize_contrast

InputScaling = Literal["auto", "pooled", "columns", "none", "whitened"]
INPUT_SCALINGS: tuple[InputScaling, ...] = ("auto", "pooled", "columns", "none", "whitened")

PIXELS = 0.26
"""Root mean square, over columns, of the standard deviation of MNIST's pixels in 0..1: the units in which the paper's
noise of 0.3 and its weight of 1000 for the input's denoising cost were chosen."""
LIMIT = 5.0
"""Distance from the centre, in units of the scaled columns' standard deviation, beyond which values grow as their
logarithm only: what is a million standard deviations away must not be all that the network sees."""
CONTRAST_NORM = 55.0
"""Euclidean norm of an image before it is whitened, the paper's."""
REGULARIZATION = 0.1
"""Added to the diagonal of the covariance before whitening, the paper's."""
_OWN_UNITS = 2.0
_SAME_UNIT = 100.0
_MANY_COLUMNS = 32
_TAIL = 0.05
_REACH = 3.0
_SAMPLE = 10_000
_VALUES = 2**20  # that are computed with at a time
CHUNK = 4096
"""Rows that are scaled at a time."""


@dataclass(frozen=True)
class Scaling:
    """``weight * squash((X - center) / scale)``, column by column.

    Up to `limit`, `squash` changes nothing; beyond, ``squash(z) = sign(z) limit (1 + log(|z| / limit))``.

    Attributes
    ----------
    center, scale : float64 array of shape (features,)
        The scale of a column that never varied is infinite: nothing was learned from it, so its values are ignored.
    weight : float64 array of shape (features,)
        The caller's; all 1 by default.
    size : float
        Root mean square of the scaled columns' standard deviation, before they are weighted: over all columns for
        "pooled", over those that vary for "columns"; that of MNIST's pixels is assumed for "none".
    limit : float
        Infinite for "none".
    """

    center: NDArray[np.float64]
    scale: NDArray[np.float64]
    weight: NDArray[np.float64]
    size: float = PIXELS
    limit: float = np.inf

    @classmethod
    def fit(cls, X: Any, method: InputScaling, weight: ArrayLike | None = None) -> "Scaling":
        """Measure the columns of training data.

        What lies more than three times as far from its column's median as the 5 % or the 95 % quantile does counts as
        that far away, so that a few broken measurements do not set a column's unit.

        Parameters
        ----------
        X : array or scipy sparse matrix of shape (rows, features), finite
        method : {"auto", "pooled", "columns", "none"}
            "columns" gives each column mean 0 and standard deviation 1, so that noise of 0.3 hides a third of it.
            "pooled" scales all columns by one number, to 0.26 on average, as MNIST's pixels have it: columns that
            hardly vary stay so, and noise of 0.3 hides most of any single column but not what many agree on. "none"
            leaves X as it is. "auto" takes "pooled" where there are at least 32 columns that look like one kind of
            measurement (pixels, a spectrum): most that vary have a standard deviation within a factor of 100 of the
            largest, and all have the same weight.
        weight : array-like of shape (features,), optional
            Factor on each column once it is scaled, greater than 0; 1 by default. What is known of several columns
            together, such as the indicators of one category's values, counts as one of the others does where their
            squared weights add up to 1 (`laddernet.preparation.Preparation.column_weights`).

        Raises
        ------
        ValueError
            If there is no such method, or the weights are not one positive number a column.
        """
        if method not in INPUT_SCALINGS:
            raise ValueError(f"input_scaling must be one of {', '.join(INPUT_SCALINGS)}, got {method!r}.")
        features = X.shape[1]
        weights = _check_weight(weight, features)
        if method == "none":
            return cls(np.zeros(features), np.ones(features), weights)
        middle, reach = _reach(X)
        mean, std = _measure(X, middle, np.where(reach > 0, reach, np.inf))
        if method == "auto":
            many_alike = features >= _MANY_COLUMNS and (weights == weights[0]).all()
            same_unit = many_alike and std.any() and np.mean(std[std > 0] * _SAME_UNIT > std.max()) > 0.5
            method = "pooled" if same_unit else "columns"
        if method == "columns":
            return cls(mean, np.where(std > 0, std, np.inf), weights, 1.0, LIMIT)
        if reach.any():  # one kind of measurement: what one column may hold, others may as well
            mean, std = _measure(X, middle, reach.max())
        unit = np.sqrt(np.mean(std**2))
        return cls(mean, np.where(std > 0, unit / PIXELS, np.inf), weights, PIXELS, LIMIT * PIXELS)

    def weigh(self, denoising_weights: Sequence[float]) -> tuple[float, ...]:
        """Scale denoising weights, meant for MNIST's pixels, to these units.

        The input's weighs what it weighs there. Where each column has a unit of its own, all are doubled, as was found
        best on small tables (docs/tables.md).
        """
        first, *others = denoising_weights
        factor = _OWN_UNITS if self.size != PIXELS else 1.0
        first *= float((PIXELS / self.size) ** 2 / np.mean(self.weight**2))
        return (factor * first, *(factor * weight for weight in others))

    def apply(self, X: Any, dtype: type[np.floating[Any]]) -> NDArray[Any]:
        """Scale rows, computed in float64 and returned in `dtype`, without a second full-size float64 copy.

        Where nothing changes ("none", no weights) the array given is returned itself, if it is of that type and can be
        written to, as torch wants it.
        """
        unchanged = not self.center.any() and (self.scale == 1).all() and (self.weight == 1).all()
        if unchanged and np.isinf(self.limit) and isinstance(X, np.ndarray) and X.dtype == dtype and X.flags.writeable:
            return X
        scaled = np.empty(X.shape, dtype=dtype)
        for rows in gen_batches(X.shape[0], min(CHUNK, _VALUES // X.shape[1] + 1)):
            z = (_dense(X[rows]) - self.center) / self.scale
            far = np.abs(z) > self.limit
            z[far] = np.sign(z[far]) * self.limit * (1 + np.log(np.abs(z[far]) / self.limit))
            scaled[rows] = z * self.weight
        return scaled

    def invert(self, scaled: NDArray[Any]) -> NDArray[Any]:
        """Undo `apply`; a column that never varied gets its one value back."""
        scale = np.where(np.isfinite(self.scale), self.scale, 0.0)
        z = scaled.astype(np.float64) / self.weight
        far = np.abs(z) > self.limit
        z[far] = np.sign(z[far]) * self.limit * np.exp(np.abs(z[far]) / self.limit - 1)
        original: NDArray[Any] = (z * scale + self.center).astype(scaled.dtype)
        return original


@dataclass(frozen=True)
class Whitening:
    """Contrast normalisation, then ZCA whitening, of images; see `preprocessing`.

    Attributes
    ----------
    mean : float64 array of shape (features,)
    whitening : float64 array of shape (features, features)
    size : float
        Root mean square of the whitened columns' standard deviation over the training data.
    norm : float
        Of each row, before it is whitened.
    """

    mean: NDArray[np.float64]
    whitening: NDArray[np.float64]
    size: float
    norm: float = CONTRAST_NORM

    @classmethod
    def fit(cls, X: Any) -> "Whitening":
        """Measure training data, an array of shape (rows, features)."""

        def parts() -> Iterator[NDArray[np.float32]]:
            for rows in gen_batches(X.shape[0], CHUNK):
                yield normalize_contrast(_dense(X[rows]).astype(np.float32), CONTRAST_NORM)

        mean, whitening = measure_whitening(parts, REGULARIZATION)
        # With the covariance C and W = (C + r I)^(-1/2), the whitened one is W C W = I - r W^2.
        size = np.sqrt(1 - REGULARIZATION * np.mean(np.sum(whitening**2, axis=0)))
        return cls(mean, whitening, float(max(size, np.finfo(np.float32).tiny)))

    def weigh(self, denoising_weights: Sequence[float]) -> tuple[float, ...]:
        """Scale denoising weights, meant for MNIST's pixels: the input's weighs what it weighs there."""
        first, *others = denoising_weights
        return (first * (PIXELS / self.size) ** 2, *others)

    def apply(self, X: Any, dtype: type[np.floating[Any]]) -> NDArray[Any]:
        """Normalise and whiten rows, in `dtype`."""
        whitened = np.empty(X.shape, dtype=dtype)
        mean, whitening = self.mean.astype(dtype), self.whitening.astype(dtype)
        for rows in gen_batches(X.shape[0], CHUNK):
            contrast = normalize_contrast(_dense(X[rows]), self.norm).astype(dtype)
            np.matmul(contrast - mean, whitening, out=whitened[rows])
        return whitened

    def invert(self, scaled: NDArray[Any]) -> NDArray[Any]:
        """Undo the whitening; a row's own mean and contrast do not come back."""
        original: NDArray[Any] = (np.linalg.solve(self.whitening, scaled.astype(np.float64).T).T + self.mean).astype(
            scaled.dtype
        )
        return original


def fit_scaling(X: Any, method: InputScaling, weight: ArrayLike | None = None) -> Scaling | Whitening:
    """Measure training data for any of `INPUT_SCALINGS`; see `Scaling.fit` and `Whitening`.

    Raises
    ------
    ValueError
        If there is no such method, or the weights are not one positive number a column, or "whitened" is to have some.
    """
    if method != "whitened":
        return Scaling.fit(X, method, weight)
    if weight is not None:
        raise ValueError("column_weights have no meaning with input_scaling='whitened', which mixes the columns.")
    return Whitening.fit(X)


def _check_weight(weight: ArrayLike | None, features: int) -> NDArray[np.float64]:
    try:
        weights = np.ones(features) if weight is None else np.array(weight, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"column_weights must be numbers, one a column, got {shown(weight)}.") from error
    if weights.shape != (features,) or not (np.isfinite(weights) & (weights > 0)).all():
        raise ValueError(
            f"column_weights must be one finite number greater than 0 for each of the {features} columns. Leave a "
            "column that shall not count out of X."
        )
    return weights


def _dense(rows: Any) -> NDArray[np.float64]:
    dense: NDArray[np.float64] = (rows.toarray() if issparse(rows) else rows).astype(np.float64, copy=False)
    return dense


def _reach(X: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Each column's median, and how far from it a value is believed; 0 where nearly all rows hold the same value."""
    sample = X[:: -(-X.shape[0] // _SAMPLE)]
    parts = gen_batches(X.shape[1], _VALUES // _SAMPLE)
    quantiles = [np.quantile(_dense(sample[:, part]), [_TAIL, 0.5, 1 - _TAIL], axis=0) for part in parts]
    low, middle, high = np.concatenate(quantiles, axis=1)
    return middle, _REACH * np.maximum(middle - low, high - middle)


def _measure(X: Any, middle: NDArray[np.float64], reach: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each column within `reach`; 0 for a column that does not vary."""
    low, high = middle - reach, middle + reach
    parts = list(gen_batches(X.shape[1], _VALUES // CHUNK, min_batch_size=64))  # one alone is summed otherwise
    scalers = [StandardScaler() for _ in parts]
    for rows in gen_batches(X.shape[0], CHUNK):
        block = X[rows]
        for scaler, part in zip(scalers, parts, strict=True):
            scaler.partial_fit(np.clip(_dense(block[:, part]), low[part], high[part]))
    mean, variance, scale = (
        np.concatenate([getattr(scaler, name) for scaler in scalers]) for name in ("mean_", "var_", "scale_")
    )
    std = np.sqrt(variance)
    varies = scale == std  # StandardScaler puts 1 where the variance is but rounding
    return mean, np.where(varies, std, 0.0)
