"""Which rows keep their label: a balanced, seeded choice without replacement."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from laddernet.errors import DataError


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
    classes, inverse = np.unique(y, return_inverse=True)
    if not len(classes) <= count <= len(y):
        raise DataError(
            f"cannot keep {count} labels: there are {len(classes)} classes and {len(y)} rows, so choose between "
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


def hide_labels(y: NDArray[Any], count: int, *, seed: int) -> NDArray[Any]:
    """Copy integer labels with all but `count` of them set to -1; see `choose_labeled`."""
    hidden = np.full_like(y, -1)
    keep = choose_labeled(y, count, seed=seed)
    hidden[keep] = y[keep]
    return hidden
