"""Input scaling: units chosen so that the paper's noise and denoising weights mean what they mean on MNIST."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler
from sklearn.utils import gen_batches

InputScaling = Literal["auto", "pooled", "columns", "none"]
INPUT_SCALINGS: tuple[InputScaling, ...] = ("auto", "pooled", "columns", "none")

PIXELS = 0.26
"""Root mean square, over columns, of the standard deviation of MNIST's pixels in 0..1: the units in which the paper's
noise of 0.3 and its weight of 1000 for the input's denoising cost were chosen."""
_SAME_UNIT = 100.0
_MANY_COLUMNS = 32
_CHUNK = 4096


@dataclass(frozen=True)
class Scaling:
    """``(X - center) / scale``, column by column.

    Attributes
    ----------
    center, scale : float64 array of shape (features,)
        The scale of a column that never varied is infinite: nothing was learned from it, so its values are ignored.
    size : float
        Root mean square of the scaled columns' standard deviation: over all columns for "pooled", over those that vary
        for "columns"; that of MNIST's pixels is assumed for "none".
    """

    center: NDArray[np.float64]
    scale: NDArray[np.float64]
    size: float = PIXELS

    @classmethod
    def fit(cls, X: NDArray[Any], method: InputScaling) -> "Scaling":
        """Measure the columns of training data.

        Parameters
        ----------
        X : array of shape (rows, features), finite
        method : {"auto", "pooled", "columns", "none"}
            "columns" gives each column mean 0 and standard deviation 1, so that noise of 0.3 hides a third of it.
            "pooled" scales all columns by one number, to 0.26 on average, as MNIST's pixels have it: columns that
            hardly vary stay so, and noise of 0.3 hides most of any single column but not what many agree on. "none"
            leaves X as it is. "auto" takes "pooled" where there are at least 32 columns that look like one kind of
            measurement (pixels, a spectrum): most that vary have a standard deviation within a factor of 100 of the
            largest.

        Raises
        ------
        ValueError
            If there is no such method.
        """
        if method not in INPUT_SCALINGS:
            raise ValueError(f"input_scaling must be one of {', '.join(INPUT_SCALINGS)}, got {method!r}.")
        features = X.shape[1]
        if method == "none":
            return cls(np.zeros(features), np.ones(features))
        scaler = StandardScaler()
        for rows in gen_batches(len(X), _CHUNK):
            scaler.partial_fit(X[rows].astype(np.float64, copy=False))
        std = np.sqrt(scaler.var_)
        varies = scaler.scale_ == std  # StandardScaler puts 1 where the variance is but rounding
        std = np.where(varies, std, 0.0)
        if method == "auto":
            same_unit = std.any() and features >= _MANY_COLUMNS and np.mean(std[std > 0] * _SAME_UNIT > std.max()) > 0.5
            method = "pooled" if same_unit else "columns"
        size, unit = (PIXELS, np.sqrt(np.mean(std**2))) if method == "pooled" else (1.0, std)
        return cls(scaler.mean_, np.where(std > 0, unit / size, np.inf), size)

    def weigh(self, denoising_weights: Sequence[float]) -> tuple[float, ...]:
        """Scale the input's weight, meant for MNIST's pixels, to what it weighs in these units."""
        first, *others = denoising_weights
        return (first * (PIXELS / self.size) ** 2, *others)

    def apply(self, X: NDArray[Any], dtype: type[np.floating[Any]]) -> NDArray[Any]:
        """Scale rows, computed in float64 and returned in `dtype`, without a second full-size float64 copy."""
        scaled = np.empty(X.shape, dtype=dtype)
        for rows in gen_batches(len(X), _CHUNK):
            scaled[rows] = (X[rows] - self.center) / self.scale
        return scaled

    def invert(self, scaled: NDArray[Any]) -> NDArray[Any]:
        """Undo `apply`; a column that never varied gets its one value back."""
        scale = np.where(np.isfinite(self.scale), self.scale, 0.0)
        original: NDArray[Any] = (scaled * scale + self.center).astype(scaled.dtype)
        return original
