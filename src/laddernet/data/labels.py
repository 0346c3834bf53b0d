"""Which rows have a label, and which keep it: balanced, seeded choices without replacement."""

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from laddernet.errors import DataError

Task = Literal["classification", "regression"]
_PART = 2**16


@dataclass(frozen=True, kw_only=True, eq=False)
class SparseLabels:
    """The labels of a few rows among many, which take no memory for the others.

    Attributes
    ----------
    rows : int
        How many rows there are.
    numbers : int64 array of shape (labelled rows,), sorted
        Which of them have a label.
    values : array of shape (labelled rows,)
        Their labels.
    """

    rows: int
    numbers: NDArray[np.int64]
    values: NDArray[Any]

    @classmethod
    def of(cls, y: "ArrayLike | SparseLabels", *, task: Task = "classification") -> Self:
        """Find the labels of an array; see `labeled_rows`. It is gone through in parts, so it may lie on disk."""
        if isinstance(y, cls):
            return y
        labels = plain_labels(y)  # type: ignore[arg-type]
        if labels.ndim != 1:
            labeled_rows(labels, task=task)  # which says what is wrong
        starts = range(0, len(labels), _PART) or [0]
        found = [np.flatnonzero(labeled_rows(labels[i : i + _PART], task=task)) + i for i in starts]
        numbers = np.concatenate(found)
        return cls(rows=len(labels), numbers=numbers, values=labels[numbers])

    @property
    def shape(self) -> tuple[int]:
        """As of an array with a label for each row."""
        return (self.rows,)

    def __len__(self) -> int:
        return self.rows

    def without(self, left_out: NDArray[np.int64]) -> "SparseLabels":
        """Return the labels of the other rows, where some, given by their sorted numbers, are left out."""
        kept = ~np.isin(self.numbers, left_out)
        numbers = self.numbers[kept]
        numbers = numbers - np.searchsorted(left_out, numbers)
        return SparseLabels(rows=self.rows - len(left_out), numbers=numbers, values=self.values[kept])

    def keep(self, count: int, *, task: Task = "classification", seed: int) -> "SparseLabels":
        """Return so many of the labels, chosen as `hide_labels` does."""
        known = self.values if task == "classification" else np.zeros(len(self.numbers))
        kept = choose_labeled(known, count, seed=seed)
        return SparseLabels(rows=self.rows, numbers=self.numbers[kept], values=self.values[kept])


def plain_labels(y: ArrayLike) -> NDArray[Any]:
    """Labels as a numpy array; a pandas column of categories or nullable type becomes one of objects."""
    if isinstance(dtype := getattr(y, "dtype", None), np.dtype) or not hasattr(y, "to_numpy"):
        labels = np.asarray(y)
    else:  # whole numbers beside missing ones stay whole
        labels = y.to_numpy(dtype=object) if getattr(dtype, "kind", "") in ("i", "u") else np.asarray(y.to_numpy())
    return labels.ravel() if labels.ndim == 2 and labels.shape[1] == 1 else labels


def guess_task(y: ArrayLike) -> Task:
    """Return "regression" where y holds numbers that are not all whole; anything else is classes."""
    labels = plain_labels(y)
    known = labels[~_is_missing(labels)]
    known = np.array(known.tolist()) if known.dtype.kind == "O" else known
    return "regression" if known.dtype.kind == "f" and (known != np.floor(known)).any() else "classification"


def labeled_rows(y: ArrayLike, *, task: Task = "classification") -> NDArray[np.bool_]:
    """Tell which rows have a label.

    Parameters
    ----------
    y : array-like of shape (rows,)
        Labels. None and NaN (pandas.NA and NaT as well) mark a row without one; in classification -1 does too.
    task : {"classification", "regression"}

    Returns
    -------
    bool array of shape (rows,)

    Raises
    ------
    DataError
        If y is not one column, there is no such task, y is an array of strings in which a mark was turned into a
        string, or a label is an empty string.
    """
    if task not in ("classification", "regression"):
        raise DataError(f"the task must be 'classification' or 'regression', got {task!r}.")
    labels = plain_labels(y)
    if labels.ndim != 1:
        raise DataError(f"y must have one entry a row, got an array of shape {labels.shape}.")
    labeled = ~_is_missing(labels)
    if task == "regression":
        return labeled
    if labels.dtype.kind in "iuf":
        labeled &= labels != -1
    elif labels.dtype.kind == "O":
        labeled &= ~np.fromiter(map(_is_minus_one, labels), bool, len(labels))
    elif labels.dtype.kind in "US" and {"-1", "nan", "None"} & set(map(str, np.unique(labels))):
        raise DataError(
            "y is an array of strings in which '-1', 'nan' or 'None' stands, as numpy makes of a mark beside "
            "strings. Mark rows without a label with None in an array of dtype object."
        )
    if labels.dtype.kind in "OUS" and any(map(_is_blank, labels.tolist())):
        raise DataError("y has empty strings, which are no class. Mark rows without a label with None.")
    return labeled


def class_numbers(labels: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the classes, sorted, and the number of each row's class among them.

    Raises
    ------
    DataError
        If labels of different kinds cannot be sorted together.
    """
    try:
        return np.unique(labels, return_inverse=True)
    except TypeError as error:
        raise DataError(f"y mixes labels that cannot be sorted together ({error}).") from error


def choose_labeled(y: NDArray[Any], count: int, *, seed: int) -> NDArray[np.int64]:
    """Choose rows to keep their labels, balanced over the classes.

    Each class gives the same number of rows; where the count does not divide, randomly chosen classes give one
    more. A class too small for its share gives all it has, and the others make up for it.

    Parameters
    ----------
    y : array of shape (rows,)
        The class of each row.
    count : int
        Rows to choose, between the number of classes and the number of rows.
    seed : int
        Of the choice; the same seed gives the same rows.

    Returns
    -------
    int64 array of shape (count,), sorted, no row twice.

    Raises
    ------
    DataError
        If there are fewer labels than classes, or more than rows.
    """
    classes, inverse = class_numbers(y)
    if not len(classes) <= count <= len(y):
        raise DataError(
            f"cannot keep {count} labels: there are {len(y)}, and every class keeps one at least, so choose between "
            f"{len(classes)} and {len(y)}."
        )
    rng = np.random.default_rng(seed)
    rows_of = [rng.permutation(np.flatnonzero(inverse == index)) for index in range(len(classes))]
    taken = np.zeros(len(classes), dtype=np.int64)
    turn = rng.permutation(len(classes))
    sizes = np.array([len(rows) for rows in rows_of])
    while (missing := count - taken.sum()) > 0:
        open_classes = turn[taken[turn] < sizes[turn]]
        share = max(missing // len(open_classes), 1)
        for index in open_classes[: missing // share]:
            taken[index] += min(share, sizes[index] - taken[index])
    chosen = np.concatenate([rows[:number] for rows, number in zip(rows_of, taken, strict=True)])
    return np.sort(chosen)


def hide_labels(y: ArrayLike, count: int, *, task: Task = "classification", seed: int) -> NDArray[Any]:
    """Copy labels with all but `count` of them hidden.

    Parameters
    ----------
    y : array-like of shape (rows,)
        Labels of any type, of which some may be missing already; see `labeled_rows`.
    count : int
        Labels to keep. Of classes they are balanced, see `choose_labeled`; of numbers all rows are equally likely.
    task : {"classification", "regression"}
    seed : int
        Of the choice.

    Returns
    -------
    array of shape (rows,)
        The hidden labels are -1 in whole numbers, NaN in floats (and whole numbers of a regression, which become
        floats), None in anything else, which becomes an array of objects.

    Raises
    ------
    DataError
        If there are fewer labels than `count`, or more classes.
    """
    labels = plain_labels(y)
    keep = SparseLabels.of(labels, task=task).keep(count, task=task, seed=seed).numbers
    hidden: NDArray[Any]
    if labels.dtype.kind == "f" or (labels.dtype.kind in "iu" and task == "regression"):
        hidden = np.full(labels.shape, np.nan, dtype=labels.dtype if labels.dtype.kind == "f" else np.float64)
    elif labels.dtype.kind in "iu":
        hidden = np.full(labels.shape, -1, dtype=labels.dtype if labels.dtype.kind == "i" else np.int64)
    else:
        hidden = np.full(labels.shape, None, dtype=object)
    hidden[keep] = labels[keep]
    return hidden


def hold_out(
    y: ArrayLike, fraction: float, *, task: Task = "classification", seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split rows into training rows, among them all without a label, and labelled rows to test on.

    Every class gives `fraction` of its labelled rows to the test, rounded so that the sum is `fraction` of all
    (at least one row), and keeps one or more in training.

    Parameters
    ----------
    y : array-like of shape (rows,)
        Labels; see `labeled_rows` for what marks a row without one.
    fraction : float in (0, 1)
        Share of the labelled rows to test on.
    task : {"classification", "regression"}
        Of a regression any labelled rows are taken, and two or more kept.
    seed : int
        Of the choice.

    Returns
    -------
    training, test : int64 arrays, sorted
        Row numbers; each row is in one of them.

    Raises
    ------
    DataError
        If the fraction is out of range, no row has a label, or too few would be left to train on.
    """
    labels = SparseLabels.of(y, task=task)
    held_out = choose_held_out(labels, fraction, task=task, seed=seed)
    return np.delete(np.arange(labels.rows), held_out), held_out


def choose_held_out(
    labels: SparseLabels, fraction: float, *, task: Task, seed: int, option: str = "--test-fraction"
) -> NDArray[np.int64]:
    """Return the sorted numbers of the rows that `hold_out` takes to test on; `option` names the fraction in errors."""
    if not 0 < fraction < 1:
        raise DataError(f"the share of rows to hold out must be between 0 and 1, got {fraction}.")
    rows = labels.numbers
    if not len(rows):
        raise DataError("no row has a label, so none can be held out.")
    group = class_numbers(labels.values)[1] if task == "classification" else np.zeros(len(rows), dtype=np.int64)
    sizes = np.bincount(group)
    spare = np.maximum(sizes - (1 if task == "classification" else 2), 0)
    count = max(round(fraction * len(rows)), 1)
    if count > spare.sum():
        needs = "every class needs one to train on" if task == "classification" else "training needs two"
        raise DataError(
            f"{count} of the {len(rows)} labelled rows cannot be held out: {needs}, so {spare.sum()} at most can. "
            f"Hold out a smaller share ({option}; 0 for none), or label more rows."
        )
    rng = np.random.default_rng(seed)
    taken = np.minimum(np.floor(fraction * sizes).astype(np.int64), spare)
    while (missing := count - taken.sum()) > 0:
        owing = rng.permutation(np.flatnonzero(taken < spare))
        owing = owing[np.argsort((taken - fraction * sizes)[owing], kind="stable")]
        taken[owing[:missing]] += 1
    test = [rng.permutation(rows[group == index])[:number] for index, number in enumerate(taken)]
    return np.sort(np.concatenate(test))


def _is_missing(labels: NDArray[Any]) -> NDArray[np.bool_]:
    if labels.dtype.kind == "f":
        missing: NDArray[np.bool_] = np.isnan(labels)
        return missing
    if labels.dtype.kind != "O" or labels.ndim != 1:
        return np.zeros(labels.shape, dtype=bool)
    return np.fromiter(map(_is_missing_object, labels), bool, len(labels))


def _is_missing_object(label: Any) -> bool:
    if label is None:
        return True
    try:
        return bool(label != label)  # NaN, and pandas' NaT
    except TypeError:  # pandas.NA is neither equal to itself nor not
        return True


def _is_blank(label: Any) -> bool:
    return isinstance(label, (str, bytes)) and not label.strip()


def _is_minus_one(label: Any) -> bool:
    return isinstance(label, (int, float, np.number)) and bool(label == -1)
