"""Contrast normalisation and whitening of images, as scikit-learn's transformers."""

from collections.abc import Callable, Iterable
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigh
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils import gen_batches
from sklearn.utils.validation import check_is_fitted, validate_data

_CHUNK = 2048
LEAST_CONTRAST = 1e-6
"""Norm of a row about its mean, in units of its largest value, up to which it counts as having no contrast."""


class GlobalContrastNormalization(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Removes each row's mean over all its values and scales the row to one Euclidean norm.

    A row whose values are all the same becomes 0. Nothing is learned from the data.

    Parameters
    ----------
    norm : float
        Of every row; the paper's 55 makes the values of a CIFAR-10 image about 1 on average.

    Attributes
    ----------
    n_features_in_ : int

    Examples
    --------
    >>> GlobalContrastNormalization(norm=5.0).fit_transform([[1.0, 4.0, 7.0, 8.0]]).round(3).tolist()
    [[-3.651, -0.913, 1.826, 2.739]]
    """

    def __init__(self, norm: float = 55.0) -> None:
        self.norm = norm

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Check the rows; X is of shape (rows, features).

        Raises
        ------
        ValueError
            If X holds something else than finite numbers, or the norm is not positive.
        """
        if not 0 < self.norm < np.inf:
            raise ValueError(f"norm must be positive and finite, got {self.norm}.")
        validate_data(self, X, dtype=[np.float64, np.float32])
        return self

    def transform(self, X: ArrayLike) -> NDArray[Any]:
        """Return the rows normalised, in their own floating-point type."""
        check_is_fitted(self, "n_features_in_")
        rows = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        return normalize_contrast(rows, self.norm)


class ZCAWhitening(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Whitens rows by the symmetric root: ``(X - mean) (C + regularization I)^(-1/2)``, C the training covariance.

    Parameters
    ----------
    regularization : float
        Added to the diagonal of the covariance, in X's units squared; the paper's is 0.1.

    Attributes
    ----------
    mean_ : array of shape (features,)
    whitening_ : array of shape (features, features)
        Symmetric.
    n_features_in_ : int
    """

    def __init__(self, regularization: float = 0.1) -> None:
        self.regularization = regularization

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Measure the covariance of rows, X of shape (rows, features).

        Raises
        ------
        ValueError
            If X holds something else than finite numbers, or the regularisation is not positive.
        """
        if not 0 < self.regularization < np.inf:
            raise ValueError(f"regularization must be positive and finite, got {self.regularization}.")
        rows = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2)
        parts = list(gen_batches(len(rows), _CHUNK))
        self.mean_, self.whitening_ = measure_whitening(lambda: (rows[part] for part in parts), self.regularization)
        return self

    def transform(self, X: ArrayLike) -> NDArray[Any]:
        """Return the rows whitened, in their own floating-point type."""
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        whitened: NDArray[Any] = (rows - self.mean_.astype(rows.dtype)) @ self.whitening_.astype(rows.dtype)
        return whitened

    def inverse_transform(self, X: ArrayLike) -> NDArray[Any]:
        """Undo `transform`."""
        check_is_fitted(self)
        original: NDArray[Any] = np.linalg.solve(self.whitening_, np.asarray(X, dtype=np.float64).T).T + self.mean_
        return original


def normalize_contrast(rows: NDArray[Any], norm: float) -> NDArray[Any]:
    """See `GlobalContrastNormalization`; computed in float64, where the rounding of equal values stays out of sight."""
    result = np.empty_like(rows)
    for part in gen_batches(len(rows), _CHUNK):
        peak = np.abs(rows[part]).max(axis=1, keepdims=True, initial=0).astype(np.float64)
        centred = np.divide(rows[part], peak, out=np.zeros(rows[part].shape), where=peak > 0, dtype=np.float64)
        centred -= centred.mean(axis=1, keepdims=True)
        length = np.linalg.norm(centred, axis=1, keepdims=True)
        result[part] = centred * np.divide(norm, length, out=np.zeros_like(length), where=length > LEAST_CONTRAST)
    return result


def measure_whitening(
    parts: Callable[[], Iterable[NDArray[Any]]], regularization: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and whitening matrix; see `ZCAWhitening`.

    Parameters
    ----------
    parts : callable
        Gives all rows, some at a time, each time that it is called. Sums over them are made in float64.
    regularization : float
    """
    count, total = 0, np.zeros(())
    for rows in parts():
        count, total = count + len(rows), total + rows.sum(axis=0, dtype=np.float64)
    mean = total / count
    covariance = np.zeros((len(mean), len(mean)))
    for rows in parts():
        centred = rows - mean
        covariance += centred.T @ centred
    covariance /= count
    covariance[np.diag_indices_from(covariance)] += regularization
    values, vectors = eigh(covariance, overwrite_a=True, check_finite=False)
    values = np.maximum(values, regularization)  # less is rounding
    return mean, (vectors / np.sqrt(values)) @ vectors.T
