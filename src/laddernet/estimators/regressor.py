"""scikit-learn's face of the ladder for numbers."""

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score, root_mean_squared_error
from sklearn.utils.validation import check_consistent_length

from laddernet.data.labels import Task
from laddernet.errors import memory_watched
from laddernet.estimators.base import LESS_MEMORY, LadderEstimator
from laddernet.estimators.inputs import row_weights


class LadderRegressor(RegressorMixin, LadderEstimator):  # type: ignore[misc]
    """Semi-supervised regression: a Ladder network with a linear output.

    In `y`, NaN (or None) marks a row without a label. The target is standardised for training. The parameters are
    `LadderClassifier`'s, without `class_weight`.

    Attributes
    ----------
    y_mean_, y_scale_ : float
        Mean and standard deviation of the labels that were trained on.
    n_features_in_, feature_names_in_, n_iter_, interrupted_, ladder_, scaling_
        As in `LadderClassifier`.
    history_ : list of dict
        One an epoch; `validation_error` is the root mean square error, in y's units.

    Examples
    --------
    >>> import numpy as np
    >>> from laddernet import LadderRegressor
    >>> X = np.random.default_rng(0).normal(size=(60, 3))
    >>> y = X.sum(axis=1)
    >>> y[20:] = np.nan
    >>> LadderRegressor(hidden_layer_sizes=(20,), max_epochs=5, random_state=0).fit(X, y).predict(X[:2]).shape
    (2,)
    """

    _task: Task = "regression"
    _FEWEST_LABELS = 2

    def partial_fit(self, X: ArrayLike, y: ArrayLike | None = None, sample_weight: ArrayLike | None = None) -> Self:
        """Go on training for one pass over new rows; see `LadderClassifier.partial_fit`.

        The target's mean and scale stay those of the first labels.
        """
        self.check_settings()
        with self._all_or_nothing(), memory_watched(LESS_MEMORY):
            return self._partial_fit(X, y, sample_weight, None)

    def _check_known(self, known: NDArray[Any]) -> None:
        if np.isinf(self._numbers(known)).any():
            raise ValueError("Input y contains infinity.")

    def _learn_labels(self, y: NDArray[Any], *, again: bool) -> None:
        if not again:
            known = self._numbers(y)
            self.y_mean_, self.y_scale_ = float(known.mean()), float(known.std()) or 1.0

    def _encode_labels(self, y: NDArray[Any]) -> NDArray[Any]:
        return ((self._numbers(y) - self.y_mean_) / self.y_scale_).astype(self._dtype)

    def _validation_error(self, output: NDArray[Any], y: NDArray[Any], weight: NDArray[np.float64]) -> float:
        answers = self._decode_labels(output)
        return float(root_mean_squared_error(self._numbers(y), answers, sample_weight=weight))

    @staticmethod
    def _numbers(known: NDArray[Any]) -> NDArray[np.float64]:
        try:
            return known.astype(np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"y must hold numbers, and NaN where there is no label: {error}.") from error

    def _outputs(self) -> int:
        return 1

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the value of each row, float64 of shape (rows,), in y's units."""
        return self._decode_labels(self._compute(X, lambda ladder, x: ladder.predict(x)))

    def _decode_labels(self, output: NDArray[Any]) -> NDArray[np.float64]:
        """In float64, since float32 would round away what varies of values far from 0, such as times in seconds."""
        return output[:, 0].astype(np.float64) * self.y_scale_ + self.y_mean_

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Coefficient of determination over the rows of `X` that have a label in `y`."""
        check_consistent_length(X, y)
        labels = self._read_labels(y, fewest=2)
        weight = None if sample_weight is None else row_weights(sample_weight, y)[labels.numbers]
        answers = self.predict(X)[labels.numbers]
        return float(r2_score(self._numbers(labels.values), answers, sample_weight=weight))
