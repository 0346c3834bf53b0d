"""From a file to rows that are ready for the estimators, and what a model is worth on them.

A file is read, some labelled rows are kept out to test on, a `Preparation` is fitted to the others, and labels are
hidden where that is asked for; in this order, so that nothing is learned from the test rows. A large file is read by
parts (`streaming`), and its rows stay on disk.
"""

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laddernet import streaming
from laddernet.data.files import MOST_CLASSES, known_labels, read_parts, read_rows, tell_task
from laddernet.data.labels import (
    SparseLabels,
    Task,
    choose_held_out,
    class_numbers,
    hide_labels,
    hold_out,
    labeled_rows,
)
from laddernet.errors import DataError, about
from laddernet.estimators import LadderClassifier, LadderRegressor
from laddernet.preparation import Preparation

Model = LadderClassifier | LadderRegressor

WHOLE_BYTES = 2**28
"""Size of a table up to which it is read whole, unless that is said otherwise."""


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """What to do with a file.

    Attributes
    ----------
    label_column : str or None
        The labels' column of a table, or array of an .npz file.
    labels_path : Path or None
        The labels' file beside an .npy file.
    labels : int or None
        Labels to keep in training, balanced over classes; None for all that there are.
    test : Path or None
        A file of test rows, of the same form.
    test_fraction : float in [0, 1)
        Share of the labelled rows to test on where there is no such file, stratified by class; 0 for no test.
    task : {"classification", "regression"} or None
        None to tell it from the labels; see `laddernet.data.files.tell_task`.
    drop : tuple of str
        Columns to leave out.
    seed : int
        Of the choice of test rows and of labels.
    by_parts : bool or None
        Read the file by parts and keep its rows on disk, or all at once; None for what its size asks for
        (`WHOLE_BYTES`).
    """

    label_column: str | None = None
    labels_path: Path | None = None
    labels: int | None = None
    test: Path | None = None
    test_fraction: float = 0.25
    task: Task | None = None
    drop: tuple[str, ...] = ()
    seed: int = 0
    by_parts: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A file's rows, ready for an estimator.

    Attributes
    ----------
    task : {"classification", "regression"}
    label : str
        The labels' column.
    preparation : Preparation
        As fitted to the training rows.
    x_train : float32 array or StoredRows of shape (rows, features)
        All training rows.
    x_test : float32 array of shape (rows, features)
        The labelled rows to test on, of which there may be none.
    y_train : array of shape (rows,), or SparseLabels
        Labels; see `laddernet.data.files.Rows` for what marks a row without one in an array.
    y_test : array of shape (rows,)
    fitted : int or None
        How many of the rows the preparation was fitted to, where it was not all that train.
    """

    task: Task
    label: str
    preparation: Preparation
    x_train: Any
    y_train: Any
    x_test: NDArray[np.float32]
    y_test: NDArray[Any]
    fitted: int | None = None

    @property
    def known(self) -> SparseLabels:
        """The labels that the training rows have."""
        return SparseLabels.of(self.y_train, task=self.task)

    def estimator(self, **settings: Any) -> Model:
        """Make an unfitted estimator of this task, with the preparation's column weights unless others are given."""
        weights = self.preparation.column_weights
        weighted = {"column_weights": None if (weights == 1).all() else weights, **settings}
        return LadderClassifier(**weighted) if self.task == "classification" else LadderRegressor(**weighted)


def is_large(path: Path, by_parts: bool | None = None) -> bool:
    """Return whether a file is to be read by parts: if that is asked for, or else if it is larger than `WHOLE_BYTES`.

    An .npy file is, whatever its size, for it costs nothing; an .npz file never is.

    Raises
    ------
    DataError
        If it cannot be read by parts, but is to be.
    """
    if path.suffix.lower() == ".npz":
        if by_parts:
            raise DataError(f"{path} is an archive, which is read whole: save its X as an .npy file, beside y.npy.")
        return False
    if by_parts is not None:
        return by_parts
    return path.is_file() and (path.suffix.lower() == ".npy" or path.stat().st_size > WHOLE_BYTES)


def prepare(path: Path, options: FileOptions, *, folder: Path | None = None) -> Prepared:
    """Read a file, keep test rows out, prepare its columns and hide labels.

    Parameters
    ----------
    path : Path
    options : FileOptions
    folder : Path, optional
        Where the rows of a large table are kept on disk; by default where the system keeps temporary files.

    Raises
    ------
    DataError
        If a file cannot be used, or has too few labels for what is asked.
    """
    if is_large(path, options.by_parts):
        return _prepare_large(path, options, folder)
    rows = read_rows(path, label_column=options.label_column, labels_path=options.labels_path)
    y, label = rows.y, rows.label
    assert y is not None
    assert label is not None
    _check_drop(label, options)
    task = options.task or tell_task(y[rows.labeled])
    _check_marks(path, y[rows.labeled], task)
    _check_classes(path, label, y[rows.labeled], task)
    training, test = np.arange(len(y)), np.arange(0)
    if options.test is None and options.test_fraction > 0:
        training, test = hold_out(y, options.test_fraction, task=task, seed=options.seed)
    with about(path):
        preparation = Preparation.fit(_take(rows.x, training), drop=options.drop, first=training)
        x_train = preparation.apply(_take(rows.x, training), first=training)
    if options.test is not None:
        x_test, y_test = read_labeled(options.test, preparation, label_column=label, task=task)
    else:
        with about(path):
            x_test = preparation.apply(_take(rows.x, test), first=test) if len(test) else x_train[:0]
        y_test = y[test]
    y_train = y[training]
    if options.labels is not None:
        y_train = hide_labels(y_train, options.labels, task=task, seed=options.seed)
    return Prepared(
        task=task,
        label=label,
        preparation=preparation,
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
    )


def _prepare_large(path: Path, options: FileOptions, folder: Path | None) -> Prepared:
    """The same by parts."""
    with about(path):
        found, labels, label = streaming.survey(
            path,
            label_column=options.label_column,
            labels_path=options.labels_path,
            drop=options.drop,
            seed=options.seed,
        )
    _check_drop(label, options)
    task = options.task or tell_task(labels.values)
    _check_marks(path, labels.values, task)
    _check_classes(path, label, labels.values, task)
    test = np.arange(0)
    if options.test is None and options.test_fraction > 0:
        test = choose_held_out(labels, options.test_fraction, task=task, seed=options.seed)
    with about(path):
        preparation, fitted = streaming.fit_preparation(path, found, test, options.drop)
        x = streaming.prepared_rows(path, label, preparation, found.rows, folder)
    if options.test is not None:
        x_test, y_test = read_labeled(options.test, preparation, label_column=label, task=task)
    else:
        x_test, y_test = x[test], labels.values[np.isin(labels.numbers, test)]
    y_train = labels.without(test)
    if options.labels is not None:
        y_train = y_train.keep(options.labels, task=task, seed=options.seed)
    return Prepared(
        task=task,
        label=label,
        preparation=preparation,
        x_train=x.without(test) if len(test) else x,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        fitted=fitted if fitted < found.rows - len(test) else None,
    )


def _check_drop(label: str, options: FileOptions) -> None:
    if label in options.drop:
        raise DataError(f"{label!r} holds the labels, so it cannot be left out. It is never among the features.")


def read_labeled(
    path: Path, preparation: Preparation | None, *, label_column: str | None, task: Task
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the labelled rows of another file of the same form, prepared, and their labels.

    Raises
    ------
    DataError
        If the file cannot be used, or no row has a label.
    """
    text = [] if preparation is None else preparation.text_columns
    label_column = label_in(path, label_column)
    if is_large(path) and path.suffix.lower() != ".npy":  # whose rows are mapped
        return _read_labeled_of_large(path, preparation, str(label_column), task)
    rows = read_rows(path, label_column=label_column, text_columns=text)
    assert rows.y is not None
    _check_marks(path, rows.y[rows.labeled], task)
    with about(path):
        labeled = np.flatnonzero(rows.labeled)
        x = _take(rows.x, labeled)
        return (np.asarray(x) if preparation is None else preparation.apply(x, first=labeled)), rows.y[rows.labeled]


def _read_labeled_of_large(
    path: Path, preparation: Preparation | None, label: str, task: Task
) -> tuple[NDArray[Any], NDArray[Any]]:
    text = [] if preparation is None else preparation.text_columns
    x, labels = [], []
    rows = 0
    for part in read_parts(path, label_column=label, text_columns=text):
        labels.append((part.numbers, part.labels))
        rows = part.start + len(part.x)
        if len(part.numbers):
            found = _take(part.x, part.numbers - part.start)
            with about(path):
                x.append(np.asarray(found) if preparation is None else preparation.apply(found, first=part.numbers))
    known = known_labels(path, label, labels, rows=rows)
    _check_marks(path, known.values, task)
    return np.concatenate(x), known.values


def label_in(path: Path, label: str | None) -> str | None:
    """Return the `label_column` with which to read another file, where `label` is that of the training file."""
    suffix = path.suffix.lower()
    return None if suffix == ".npy" or (suffix == ".npz" and label == "y") else label


def looks_like_classes(prepared: Prepared) -> bool:
    """Whether the labels are few whole numbers, which can be classes even where they were taken for amounts."""
    distinct = np.unique(prepared.known.values.astype(np.float64))
    return len(distinct) <= MOST_CLASSES and bool((distinct % 1 == 0).all())


def score(model: Model, x: NDArray[Any], y: NDArray[Any]) -> dict[str, float]:
    """Measure a model on labelled rows.

    Returns
    -------
    dict
        Of a classifier ``test_error``, in percent of the rows, and with class weights ``test_balanced_error``, the mean
        over the classes of each one's; of a regressor ``test_rmse`` (root mean square error, in the target's units)
        and, of two rows or more, ``test_r2`` (coefficient of determination). Classes are told apart by how they are
        written, so that 1, 1.0 and "1" are the same; one that the model does not know is named in a warning.
    """
    if isinstance(model, LadderClassifier):
        known = set(map(_written, model.classes_.tolist()))
        if unknown := sorted(set(map(_written, y.tolist())) - known):
            warnings.warn(
                f"the test rows have classes that training had not, {', '.join(map(repr, unknown[:10]))}; all answers "
                f"there are wrong. Training had {', '.join(map(repr, sorted(known)[:10]))}.",
                stacklevel=2,
            )
    return _measure(model, model.predict(x), y)


def constant_score(prepared: Prepared, model: Model) -> dict[str, float]:
    """Measure, as `score` does `model`, the most common class of the labelled training rows, or their mean."""
    from sklearn.dummy import DummyClassifier, DummyRegressor

    constant = DummyClassifier() if prepared.task == "classification" else DummyRegressor()
    constant.fit(np.zeros((len(prepared.known.numbers), 1)), np.array(prepared.known.values.tolist()))
    return _measure(model, constant.predict(prepared.x_test), prepared.y_test)


def linear_score(prepared: Prepared, model: Model) -> dict[str, float]:
    """Measure scikit-learn's linear model, trained on the labelled rows alone, scaled and weighed as for `model`."""
    from sklearn.linear_model import LogisticRegression, Ridge

    known = prepared.known
    x, x_test = (model.scaling_.apply(rows, np.float64) for rows in (prepared.x_train[known.numbers], prepared.x_test))
    y = np.array(known.values.tolist())
    if isinstance(model, LadderClassifier):
        linear = LogisticRegression(max_iter=5000, class_weight=model.class_weight)
    else:
        linear = Ridge()
    return _measure(model, linear.fit(x, y).predict(x_test), prepared.y_test)


def read_settings(path: Path) -> dict[str, Any]:
    """Read an estimator's arguments from a JSON file, as `laddernet tune` writes it.

    Raises
    ------
    DataError
        If the file cannot be read, or names an argument that there is not.
    """
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"the settings {path} cannot be read: {error}.") from error
    known = LadderClassifier().get_params()
    if not isinstance(settings, dict) or (unknown := sorted(set(settings) - set(known))):
        what = "a JSON object" if not isinstance(settings, dict) else f"settings only; it has {', '.join(unknown)}"
        raise DataError(f"{path} must hold {what}. Known are {', '.join(sorted(known))}.")
    try:
        (LadderClassifier if "class_weight" in settings else LadderRegressor)(**settings).check_settings()
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: {error}") from error
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}


def check_settings_file(path: Path) -> None:
    """Check, before long work, that settings can be written there: to a new file, or over other settings.

    Raises
    ------
    DataError
        If something else is there, or it cannot be written.
    """
    try:
        if path.exists():
            read_settings(path)
    except DataError as error:
        raise DataError(f"{path} exists and does not hold settings, so it is not overwritten. Name another.") from error
    try:
        _beside(path).touch()
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror or error}). Name another file.") from error
    _beside(path).unlink()


def write_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Write an estimator's arguments as JSON; the file is complete or as it was."""
    beside = _beside(path)
    try:
        beside.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}")


def settings_for(prepared: Prepared, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that an estimator of this task takes; one that it does not is refused."""
    known = prepared.estimator().get_params()
    if unknown := sorted(set(given) - set(known)):
        raise DataError(f"the setting {', '.join(unknown)} has no meaning in {prepared.task}. Leave it out.")
    return dict(given)


def _written(label: Any) -> str:
    """How a class is written: a whole float as an integer."""
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)


def _measure(model: Model, answers: NDArray[Any], y: NDArray[Any]) -> dict[str, float]:
    """Measure answers, of whatever model, as `score` does those of `model`."""
    from sklearn.metrics import accuracy_score, r2_score, recall_score, root_mean_squared_error

    if isinstance(model, LadderClassifier):
        truth, told = ([_written(label) for label in labels.tolist()] for labels in (y, answers))
        measured = {"test_error": round(100 * (1 - float(accuracy_score(truth, told))), 4)}
        if model.class_weight is not None:
            right = recall_score(truth, told, labels=sorted(set(truth)), average="macro")
            measured["test_balanced_error"] = round(100 * (1 - float(right)), 4)
        return measured
    amounts = y.astype(np.float64)
    measured = {"test_rmse": float(root_mean_squared_error(amounts, answers))}
    return measured | ({"test_r2": round(float(r2_score(amounts, answers)), 4)} if len(amounts) > 1 else {})


def _take(x: Any, rows: NDArray[np.int64]) -> Any:
    return x.iloc[rows] if hasattr(x, "iloc") else x[rows]


def _check_classes(path: Path, label: str, known: NDArray[Any], task: Task) -> None:
    """Check that there are two classes or more."""
    names = class_numbers(known)[0].tolist() if task == "classification" else []
    if len(names) == 1:
        raise DataError(
            f"{path}: {label!r} holds one class only, {names[0]!r}, and a classifier needs two. Label some rows of "
            "another, or name another column."
        )


def _check_marks(path: Path, known: NDArray[Any], task: Task) -> None:
    """Check that the labels that rows have are labels to the estimator as well."""
    if not labeled_rows(known, task=task).all():
        raise DataError(
            f"{path}: one of the classes is -1, which stands for a row without a label. Rename the class, or empty "
            "the cells of the rows that have no label."
        )
