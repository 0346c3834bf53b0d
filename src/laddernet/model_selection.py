"""Cross-validation and scores for partly labelled data, to use with scikit-learn's own model selection.

scikit-learn's splitters would test on rows without a label. Those here split the labelled rows alone, and leave the
others in every training part::

    GridSearchCV(LadderClassifier(), grid, cv=LabeledKFold(3, random_state=0))
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import is_regressor
from sklearn.metrics import get_scorer
from sklearn.model_selection import KFold, ShuffleSplit, StratifiedKFold
from sklearn.utils import _safe_indexing, check_random_state

from laddernet.data.labels import Task, class_numbers, guess_task, hold_out, labeled_rows, plain_labels
from laddernet.errors import DataError

TaskOrAuto = Literal["auto", "classification", "regression"]
Split = tuple[NDArray[np.int64], NDArray[np.int64]]


class LabeledKFold(KFold):  # type: ignore[misc]
    """K folds of the labelled rows, stratified by class; rows without a label are in every training part.

    Parameters
    ----------
    n_splits : int
        Folds; at least 2, and no more than the smallest class has labelled rows.
    task : {"auto", "classification", "regression"}
        What `y` holds; see `laddernet.data.labeled_rows` for what then marks a row without a label. "auto" takes
        numbers that are not all whole for a regression and all else for classes. A regression is not stratified.
    shuffle : bool
        Whether rows are shuffled before they are split.
    random_state : int, RandomState or None
        Of the shuffling; None without it.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.model_selection import cross_val_score
    >>> from laddernet import LadderClassifier
    >>> from laddernet.model_selection import LabeledKFold
    >>> X, y = load_iris(return_X_y=True)
    >>> y[5:50] = y[55:100] = y[105:] = -1  # five labels a class are left
    >>> model = LadderClassifier(hidden_layer_sizes=(20,), max_epochs=5, random_state=0)
    >>> cross_val_score(model, X, y, cv=LabeledKFold(5, random_state=0)).shape
    (5,)
    """

    def __init__(
        self,
        n_splits: int = 5,
        *,
        task: TaskOrAuto = "auto",
        shuffle: bool = True,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        super().__init__(n_splits, shuffle=shuffle, random_state=random_state)
        self.task = task

    def split(self, X: Any, y: ArrayLike | None = None, groups: object = None) -> Iterator[Split]:
        """Yield the numbers of the training rows and of the test rows, `n_splits` times.

        Parameters
        ----------
        X : ignored
        y : array-like of shape (rows,)
        groups : ignored

        Raises
        ------
        DataError
            If `y` is None, or it or one of its classes has too few labels; before anything is yielded.
        """
        labels, task = _read(y, self.task)
        rows = np.flatnonzero(labeled_rows(labels, task=task))
        if len(rows) < self.n_splits:
            raise DataError(
                f"{len(rows) or 'no'} row{'' if len(rows) == 1 else 's'} of {len(labels)} "
                f"{'has' if len(rows) == 1 else 'have'} a label, too few for {self.n_splits} folds. Label more."
            )
        kind, classes = KFold, rows
        if task == "classification":
            kind, classes = StratifiedKFold, self._checked_classes(labels[rows])
        folds = kind(self.n_splits, shuffle=self.shuffle, random_state=self.random_state)
        for _, test in folds.split(rows, classes):
            yield np.delete(np.arange(len(labels)), rows[test]), rows[test]

    def _checked_classes(self, labels: NDArray[Any]) -> NDArray[np.int64]:
        classes, numbers = class_numbers(labels)
        sizes = np.bincount(numbers)
        smallest = sizes.argmin()
        name, size = classes.tolist()[smallest], sizes[smallest]
        if size >= self.n_splits:
            return numbers
        reason = (
            f"the class {name!r} has one labelled row, which cannot be both trained and tested on: label more of it, "
            "leave it out,"
            if size == 1
            else f"the class {name!r} has {size} labelled rows, too few for {self.n_splits} folds: take {size} "
            f"(n_splits={size}, or --folds {size}), label more of it,"
        )
        values = " If y holds values, not classes, say task='regression'." if labels.dtype.kind in "iuf" else ""
        raise DataError(f"{reason} or use LabeledShuffleSplit.{values}")


class LabeledShuffleSplit(ShuffleSplit):  # type: ignore[misc]
    """Repeated, independent hold-outs of labelled rows; the better judge where a class has very few of them.

    Every part is made by `laddernet.data.hold_out`: a class that has one labelled row keeps it in training.

    Parameters
    ----------
    n_splits : int
        Repetitions.
    test_size : float in (0, 1)
        Share of the labelled rows to test on.
    task : {"auto", "classification", "regression"}
        As in `LabeledKFold`.
    random_state : int, RandomState or None
        Of the choices.
    """

    def __init__(
        self,
        n_splits: int = 10,
        *,
        test_size: float = 0.2,
        task: TaskOrAuto = "auto",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        super().__init__(n_splits, test_size=test_size, random_state=random_state)
        self.task = task

    def split(self, X: Any, y: ArrayLike | None = None, groups: object = None) -> Iterator[Split]:
        """Yield the numbers of the training rows and of the test rows; see `LabeledKFold.split`."""
        labels, task = _read(y, self.task)
        for seed in check_random_state(self.random_state).randint(np.iinfo(np.int32).max, size=self.n_splits):
            yield hold_out(labels, self.test_size, task=task, seed=int(seed))


@dataclass(frozen=True, repr=False)
class LabeledScorer:
    """What `labeled_scorer` returns."""

    scoring: str | Callable[..., float]

    def __call__(self, estimator: Any, X: Any, y: ArrayLike) -> float:
        """Score an estimator on the rows that have a label; what marks the others depends on its kind.

        Raises
        ------
        DataError
            If no row has a label.
        """
        labels = plain_labels(y)
        rows = np.flatnonzero(labeled_rows(labels, task="regression" if is_regressor(estimator) else "classification"))
        if not len(rows):
            raise DataError(
                f"none of the {len(labels)} rows to score on has a label. Use LabeledKFold or LabeledShuffleSplit, "
                "which test on labelled rows."
            )
        known = np.array(labels[rows].tolist()) if labels.dtype.kind == "O" else labels[rows]
        return float(get_scorer(self.scoring)(estimator, _safe_indexing(X, rows), known))

    def __repr__(self) -> str:
        return f"labeled_scorer({self.scoring!r})"


def labeled_scorer(scoring: str | Callable[..., float] = "accuracy") -> LabeledScorer:
    """Make a scorer that leaves rows without a label out, for ``scoring=`` of scikit-learn's tools.

    Parameters
    ----------
    scoring : str or callable
        One of scikit-learn's scorers by name, or a callable of an estimator, rows and labels.

    Returns
    -------
    LabeledScorer
        A callable of an estimator, rows and labels.

    Raises
    ------
    ValueError
        If scikit-learn has no such scorer.
    """
    get_scorer(scoring)
    return LabeledScorer(scoring)


def _read(y: ArrayLike | None, task: TaskOrAuto) -> tuple[NDArray[Any], Task]:
    if y is None:
        raise DataError("y is needed to tell which rows have a label.")
    return plain_labels(y), guess_task(y) if task == "auto" else task
