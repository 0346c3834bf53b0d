"""Input scaling: units chosen so that the paper's noise and denoising weights mean what they mean on MNIST."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler
from sklearn.utils import gen_batches

InputScaling = Literal["auto", "pooled", "columns", "none"]
INPUT_SCALINGS: tuple[InputScaling, ...] = ("auto", "pooled", "columns", "none")

STANDARD_DEVIATION = 0.26
"""Root mean square, over columns, of the scaled columns' standard deviation: that of MNIST pixels in 0..1.
Noise of 0.3 is then a bit more than the signal, and 1000 weighs the input's denoising cost as in the paper."""
_SAME_UNIT = 100.0
_CHUNK = 4096


@dataclass(frozen=True)
class Scaling:
    """``(X - center) / scale``, column by column.

    Attributes
    ----------
    center, scale : float64 array of shape (features,)
    """

    center: NDArray[np.float64]
    scale: NDArray[np.float64]

    @classmethod
    def fit(cls, X: NDArray[Any], method: InputScaling) -> "Scaling":
        """Measure the columns of training data.

        Parameters
        ----------
        X : array of shape (rows, features), finite
        method : {"auto", "pooled", "columns", "none"}
            "columns" scales each column by its own standard deviation, "pooled" all by one number, so that columns
            which hardly vary stay so (pixels, spectra), "none" leaves X as it is. "auto" takes "pooled" where the
            columns look like one kind of measurement: where most of the columns that vary have standard deviations
            within a factor of 100 of the largest.

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
        if not std.any():
            return cls(scaler.mean_, np.ones(features))
        if method == "auto":
            same_unit = np.mean(std[std > 0] * _SAME_UNIT > std.max()) > 0.5
            method = "pooled" if same_unit else "columns"
        unit = np.sqrt(np.mean(std**2)) if method == "pooled" else np.where(std > 0, std, 1.0)
        return cls(scaler.mean_, np.broadcast_to(unit / STANDARD_DEVIATION, (features,)).copy())

    def apply(self, X: NDArray[Any], dtype: type[np.floating[Any]]) -> NDArray[Any]:
        """Scale rows, computed in float64 and returned in `dtype`, without a second full-size float64 copy."""
        scaled = np.empty(X.shape, dtype=dtype)
        for rows in gen_batches(len(X), _CHUNK):
            scaled[rows] = (X[rows] - self.center) / self.scale
        return scaled

    def invert(self, scaled: NDArray[Any]) -> NDArray[Any]:
        """Undo `apply`."""
        original: NDArray[Any] = (scaled * self.scale + self.center).astype(scaled.dtype)
        return original
