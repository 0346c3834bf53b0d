"""scikit-learn's face of the ladder: `LadderClassifier` and `LadderRegressor`."""

import copy
from abc import abstractmethod
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    RegressorMixin,
    TransformerMixin,
)
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state, gen_batches
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d, validate_data

from laddernet.ladder import Ladder, TaskName, Variant, default_weights
from laddernet.networks import mlp
from laddernet.scaling import InputScaling, Scaling
from laddernet.training import (
    Callback,
    EpochRecord,
    Precision,
    TrainingConfig,
    resolve_precision,
    steps_per_epoch,
    train,
)

PATIENCE = 10
"""Epochs without a lower validation error after which ``early_stopping=True`` stops."""
_AUTO_STEPS = 1500
_PREDICTION_ROWS = 2000


class _LadderEstimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """What both estimators share: everything but how labels are read and answers given."""

    def __init__(
        self,
        hidden_layer_sizes: Sequence[int] = (250, 250),
        *,
        variant: Variant = "full",
        noise_std: float | Sequence[float] = 0.3,
        denoising_weights: Literal["auto"] | Sequence[float] = "auto",
        combinator: str = "gaussian",
        input_scaling: InputScaling = "auto",
        learning_rate: float = 0.01,
        decay_start: float = 2 / 3,
        batch_size: int = 100,
        max_epochs: int | Literal["auto"] = "auto",
        validation_fraction: float = 0.0,
        early_stopping: bool = False,
        device: str = "auto",
        precision: Precision = "auto",
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.variant = variant
        self.noise_std = noise_std
        self.denoising_weights = denoising_weights
        self.combinator = combinator
        self.input_scaling = input_scaling
        self.learning_rate = learning_rate
        self.decay_start = decay_start
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.validation_fraction = validation_fraction
        self.early_stopping = early_stopping
        self.device = device
        self.precision = precision
        self.random_state = random_state
        self.verbose = verbose

    # What the two kinds of labels do differently.

    @abstractmethod
    def _read_labels(self, y: Any) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return labels (anything where there is none) and which rows have one; checked."""

    @abstractmethod
    def _encode_labels(self, y: NDArray[Any]) -> NDArray[Any]:
        """Learn the labels' form (classes, or mean and scale) and return what the task takes."""

    @abstractmethod
    def _validation_error(self, output: NDArray[Any], y: NDArray[Any]) -> float:
        """Error of a ladder's output against raw labels."""

    @abstractmethod
    def _outputs(self) -> int:
        """Width of the ladder's top layer; after `_encode_labels`."""

    _task: TaskName

    # Fitting.

    def fit(self, X: ArrayLike, y: ArrayLike, *, callback: Callback | None = None) -> Self:
        """Train on labelled and unlabelled rows.

        Parameters
        ----------
        X : array-like of shape (rows, features)
            All training rows, labelled or not. Finite numbers.
        y : array-like of shape (rows,)
            Labels; the class docstring says what marks a row without one.
        callback : Callback, optional
            Watches the training.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If X or y cannot be used; the message says why.
        TrainingError
            If a cost becomes infinite or NaN.
        """
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None.")
        rows: NDArray[Any] = validate_data(self, X, dtype=_input_types(X), ensure_min_samples=2)
        config = self._training_config(len(rows))
        check_consistent_length(rows, y)
        labels, labeled = self._read_labels(y)
        training, held_out = self._hold_out(labels, labeled)
        targets = self._encode_labels(labels[training])
        kept = np.delete(np.arange(len(rows)), held_out)

        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        device = _device(self.device)
        self.scaling_ = Scaling.fit(rows[kept] if len(held_out) else rows, self.input_scaling)
        x = torch.from_numpy(self.scaling_.apply(rows, self._dtype)).to(device)
        self.ladder_ = self._build_ladder(rows.shape[1], seed, device)
        self._n_features_out = (rows.shape[1], *self.hidden_layer_sizes)[-1]
        x_held_out, y_held_out = x[torch.from_numpy(held_out)], labels[held_out]

        def validate(ladder: Ladder) -> float:
            return self._validation_error(ladder.predict(x_held_out).cpu().numpy(), y_held_out)

        self.history_: list[EpochRecord] = train(
            self.ladder_,
            x[torch.from_numpy(kept)] if len(held_out) else x,
            x[torch.from_numpy(training)],
            torch.from_numpy(targets).to(device),
            config,
            generator=torch.Generator().manual_seed(seed + 1),
            validate=validate if len(held_out) else None,
            callback=callback if callback is not None or not self.verbose else _progress(),
        )
        self.ladder_.generator = None  # its work is done, and not every generator can be pickled
        self.n_iter_ = len(self.history_)
        self.precision_ = resolve_precision(self.precision)
        return self

    def _training_config(self, rows: int) -> TrainingConfig:
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(f"validation_fraction must be in [0, 1), got {self.validation_fraction}.")
        if self.early_stopping and self.validation_fraction == 0:
            raise ValueError(
                "early_stopping needs rows to judge by: set validation_fraction, e.g. to 0.2, to keep that share of "
                "the labelled rows out of training."
            )
        if self.max_epochs != "auto" and not isinstance(self.max_epochs, Integral):
            raise ValueError(f"max_epochs must be 'auto' or a whole number, got {self.max_epochs!r}.")
        if not isinstance(self.batch_size, Integral):
            raise ValueError(f"batch_size must be a whole number, got {self.batch_size!r}.")
        if isinstance(self.hidden_layer_sizes, (Integral, str)):
            raise ValueError(
                f"hidden_layer_sizes must be a sequence of widths, such as (250, 250), got {self.hidden_layer_sizes!r}."
            )
        epochs = -(-_AUTO_STEPS // steps_per_epoch(rows, max(self.batch_size, 1)))
        return TrainingConfig(
            epochs=min(max(epochs, 10), 1000) if isinstance(self.max_epochs, str) else self.max_epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            decay_start=self.decay_start,
            precision=self.precision,
            patience=PATIENCE if self.early_stopping else None,
        )

    def _hold_out(
        self, labels: NDArray[Any], labeled: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Split the labelled rows into those to train on and those to validate on."""
        rows = np.flatnonzero(labeled)
        if self.validation_fraction == 0:
            return rows, rows[:0]
        try:
            train_rows, validation_rows = train_test_split(
                rows,
                test_size=self.validation_fraction,
                stratify=labels[rows] if self._task == "classification" else None,
                random_state=check_random_state(self.random_state),
            )
        except ValueError as error:
            raise ValueError(
                f"the {len(rows)} labelled rows cannot be split into training and validation rows with "
                f"validation_fraction={self.validation_fraction}: {error} Set validation_fraction=0, or label more."
            ) from error
        wanted, kept = set(labels[rows].tolist()), set(labels[train_rows].tolist())
        if (self._task == "classification" and kept != wanted) or len(train_rows) < 2:
            raise ValueError(
                f"validation_fraction={self.validation_fraction} leaves too few of the {len(rows)} labelled rows "
                "to train on (a class would have none). Lower it, or label more."
            )
        return np.sort(train_rows), np.sort(validation_rows)

    @property
    def _dtype(self) -> type[np.floating[Any]]:
        return np.float64 if self.precision == "float64" else np.float32

    def _build_ladder(self, features: int, seed: int, device: torch.device) -> Ladder:
        generator = torch.Generator().manual_seed(seed)
        layers = len(self.hidden_layer_sizes) + 1
        weights = self.denoising_weights
        if isinstance(weights, str):
            if weights != "auto":
                raise ValueError(f"denoising_weights must be 'auto' or one number a layer, got {weights!r}.")
            weights = self.scaling_.weigh(default_weights(self.variant, layers))
        ladder = Ladder(
            mlp([features, *self.hidden_layer_sizes, self._outputs()], generator=generator),
            noise_std=self.noise_std,
            denoising_weights=weights,
            variant=self.variant,
            combinator=self.combinator,
            task=self._task,
            generator=generator,
        )
        ladder.to(device, torch.float64 if self.precision == "float64" else torch.float32)
        if device.type != "cpu":
            ladder.generator = torch.Generator(device).manual_seed(seed)
        return ladder

    # Answers.

    def transform(self, X: ArrayLike) -> NDArray[Any]:
        """Activations of the last hidden layer on the clean path, of shape (rows, width)."""
        return self._compute(X, lambda ladder, x: ladder.hidden(x, len(ladder.sections) - 1))

    def denoise(self, X: ArrayLike) -> NDArray[Any]:
        """Reconstruct rows from what the decoder makes of them, of X's shape and in X's units.

        Raises
        ------
        ValueError
            If the variant has no decoder down to the input ("gamma", "baseline").
        """
        return self.scaling_.invert(self._compute(X, lambda ladder, x: ladder.denoise(x)))

    def _compute(self, X: ArrayLike, answer: Callable[[Ladder, torch.Tensor], torch.Tensor]) -> NDArray[Any]:
        """Apply a ladder's method to rows; on the CPU in float64 where X is float64.

        In float32 a row's answer differs in the last digits with the number of rows it is computed with.
        """
        check_is_fitted(self)
        rows: NDArray[Any] = validate_data(self, X, dtype=_input_types(X), reset=False)
        ladder, dtype = self.ladder_, self._dtype
        device = ladder.steps.device
        if rows.dtype == np.float64 and dtype == np.float32 and device.type == "cpu":
            ladder, dtype = copy.deepcopy(ladder).double(), np.float64
        parts = []
        with torch.no_grad():
            for batch in gen_batches(len(rows), _PREDICTION_ROWS):
                x = torch.from_numpy(self.scaling_.apply(rows[batch], dtype)).to(device)
                parts.append(answer(ladder, x).cpu().numpy())
        return np.concatenate(parts)


def _input_types(X: Any) -> list[type[np.floating[Any]]]:
    """Floats stay as they are; whole numbers that float32 holds exactly become float32, all others float64."""
    small = getattr(X, "dtype", None) in (np.bool_, np.uint8, np.int8, np.uint16, np.int16)
    return [np.float32, np.float64] if small else [np.float64, np.float32]


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return device


def _progress() -> Callback:
    from laddernet.progress import progress

    return progress()


class LadderClassifier(ClassifierMixin, _LadderEstimator):  # type: ignore[misc]
    """Semi-supervised classifier: a Ladder network on a fully connected encoder.

    In `y`, -1 marks a row without a label; None and NaN do as well, where the dtype allows. Inputs are scaled for
    you, so their units do not matter.

    Parameters
    ----------
    hidden_layer_sizes : sequence of int
        Widths of the hidden layers.
    variant : {"full", "gamma", "bottom", "baseline"}
        Which layers have a denoising cost: all, the top one, the input, none (the last learns from the labelled
        rows alone).
    noise_std : float or sequence of float
        Standard deviation of the noise, in every layer, or one a layer, input first (hidden layers + 2 of them).
        At the input it is in units of the scaled columns (see `input_scaling`).
    denoising_weights : "auto" or sequence of float
        Weight of each layer's denoising cost, input first (hidden layers + 2 of them). "auto" is
        the paper's 1000, 10, 0.1, 0.1 ..., with the input's in units of the scaled columns; for the variant "gamma"
        1 at the top.
    combinator : str
        The decoder's element-wise function; a name in `laddernet.combinators.COMBINATORS`.
    input_scaling : {"auto", "pooled", "columns", "none"}
        See `laddernet.scaling.Scaling.fit`. With "none" the inputs go into the network as they are.
    learning_rate : float
        Adam's, until the decay starts. Short runs, as "auto" makes of small tables, want more than the 0.002 that the
        paper's 90,000 steps have.
    decay_start : float in [0, 1]
        Share of the training after which the learning rate falls linearly to 0.
    batch_size : int
        Rows of each kind, labelled and unlabelled, in a step; at least 2.
    max_epochs : int or "auto"
        Passes over all rows. "auto" is as many as make 1500 steps, but between 10 and 1000.
    validation_fraction : float in [0, 1)
        Share of the labelled rows kept out of training to measure `validation_error` after each epoch.
    early_stopping : bool
        Stop after 10 epochs without a lower validation error, and keep the best epoch's weights. Needs a
        validation_fraction.
    device : str
        "auto" (a CUDA device where there is one, else the CPU), or a torch device's name.
    precision : {"auto", "float32", "bfloat16", "float64"}
        Of the matrix products in training. "auto" is float32.
    random_state : int, RandomState or None
        Fixes the starting weights, batches, noise and hold-out.
    verbose : bool
        Show progress on the standard error stream.

    Attributes
    ----------
    classes_ : array of shape (classes,)
        The labels, sorted.
    n_features_in_ : int
    feature_names_in_ : array of shape (features,)
        Only where X had column names.
    n_iter_ : int
        Epochs run.
    history_ : list of dict
        One an epoch; see `laddernet.training.EpochRecord`. `validation_error` is the share of wrong answers.
    precision_ : str
        What ``precision="auto"`` stood for.
    ladder_ : Ladder
        The trained network, on scaled inputs.
    scaling_ : Scaling
        What `fit` measured of the columns.

    References
    ----------
    Rasmus et al.: Semi-Supervised Learning with Ladder Networks. NIPS 2015, arXiv 1507.02672.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from laddernet import LadderClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> y[5:50] = y[55:100] = y[105:] = -1  # five labels a class are left
    >>> model = LadderClassifier(hidden_layer_sizes=(20,), max_epochs=5, random_state=0).fit(X, y)
    >>> model.predict_proba(X[:2]).shape
    (2, 3)
    """

    _task: TaskName = "classification"

    def _read_labels(self, y: Any) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        labels = column_or_1d(_plain_array(y), warn=True)
        labeled = ~_is_missing(labels)
        if labels.dtype.kind in "iuf":
            labeled &= labels != -1
        elif labels.dtype.kind == "O":
            labeled &= np.array([not _is_minus_one(label) for label in labels])
        elif labels.dtype.kind in "US" and {"-1", "nan", "None"} & set(map(str, np.unique(labels))):
            raise ValueError(
                "y is an array of strings in which '-1', 'nan' or 'None' stands, as numpy makes of a mark beside "
                "strings. Mark rows without a label with None in an array of dtype object."
            )
        if not labeled.any():
            raise ValueError("no row has a label: in y, every entry is -1, None or NaN. Label at least two classes.")
        known = labels[labeled]
        if known.dtype.kind == "f" and np.isinf(known).any():
            raise ValueError("Input y contains infinity, which is no class.")
        try:
            known = np.array(np.unique(known).tolist())
        except TypeError as error:
            raise ValueError(f"y mixes labels that cannot be sorted together ({error}).") from error
        check_classification_targets(known)
        return labels, labeled

    def _encode_labels(self, y: NDArray[Any]) -> NDArray[Any]:
        classes, targets = np.unique(y, return_inverse=True)
        self.classes_: NDArray[Any] = np.array(classes.tolist()) if classes.dtype == object else classes
        if len(classes) < 2:
            raise ValueError(f"y holds one class only, {classes[0]!r}; a classifier needs at least two classes.")
        return targets.astype(np.int64)

    def _validation_error(self, output: NDArray[Any], y: NDArray[Any]) -> float:
        return 1.0 - float(accuracy_score(y.astype(self.classes_.dtype), self.classes_[output.argmax(axis=1)]))

    def _outputs(self) -> int:
        return len(self.classes_)

    def predict_proba(self, X: ArrayLike) -> NDArray[Any]:
        """Probability of each class (in the order of `classes_`) for each row, of shape (rows, classes)."""
        return self._compute(X, lambda ladder, x: ladder.predict(x))

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the most probable class of each row, of shape (rows,)."""
        best = self.predict_proba(X).argmax(axis=1)
        classes: NDArray[Any] = self.classes_[best]
        return classes

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Share of right answers among the rows of `X` that have a label in `y`."""
        check_consistent_length(X, y, sample_weight)
        labels, labeled = self._read_labels(y)
        weight = None if sample_weight is None else np.asarray(sample_weight)[labeled]
        truth, answers = labels[labeled].tolist(), self.predict(X)[labeled].tolist()
        return float(accuracy_score(truth, answers, sample_weight=weight))


class LadderRegressor(RegressorMixin, _LadderEstimator):  # type: ignore[misc]
    """Semi-supervised regression: a Ladder network with a linear output.

    In `y`, NaN (or None) marks a row without a label. The target is standardised for training. The parameters are
    `LadderClassifier`'s; ``batch_size``, ``noise_std`` and the weights mean the same.

    Attributes
    ----------
    y_mean_, y_scale_ : float
        Mean and standard deviation of the labels that were trained on.
    n_features_in_, feature_names_in_, n_iter_, ladder_, scaling_
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

    _task: TaskName = "regression"

    def _read_labels(self, y: Any) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        labels = column_or_1d(_plain_array(y), warn=True)
        missing = _is_missing(labels)
        try:
            labels = np.where(missing, np.nan, labels).astype(np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"y must hold numbers, and NaN where there is no label: {error}.") from error
        if np.isinf(labels).any():
            raise ValueError("Input y contains infinity.")
        if (~missing).sum() < 2:
            raise ValueError(f"{(~missing).sum()} rows have a label; regression needs at least two.")
        return labels, ~missing

    def _encode_labels(self, y: NDArray[Any]) -> NDArray[Any]:
        self.y_mean_, self.y_scale_ = float(y.mean()), float(y.std()) or 1.0
        return ((y - self.y_mean_) / self.y_scale_).astype(self._dtype)

    def _validation_error(self, output: NDArray[Any], y: NDArray[Any]) -> float:
        answers = output[:, 0] * self.y_scale_ + self.y_mean_
        return float(np.sqrt(np.mean((answers - y) ** 2)))

    def _outputs(self) -> int:
        return 1

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the value of each row, of shape (rows,), in y's units."""
        return self._compute(X, lambda ladder, x: ladder.predict(x))[:, 0] * self.y_scale_ + self.y_mean_

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Coefficient of determination over the rows of `X` that have a label in `y`."""
        check_consistent_length(X, y, sample_weight)
        labels, labeled = self._read_labels(y)
        weight = None if sample_weight is None else np.asarray(sample_weight)[labeled]
        return float(r2_score(labels[labeled], self.predict(X)[labeled], sample_weight=weight))


def _plain_array(y: Any) -> NDArray[Any]:
    """Labels as a numpy array; a pandas column of categories or nullable type becomes one of objects."""
    if hasattr(y, "to_numpy"):
        return np.asarray(y.to_numpy())
    return np.asarray(y)


def _is_missing(labels: NDArray[Any]) -> NDArray[np.bool_]:
    if labels.dtype.kind == "f":
        missing: NDArray[np.bool_] = np.isnan(labels)
        return missing
    if labels.dtype.kind != "O":
        return np.zeros(len(labels), dtype=bool)
    return np.array([_is_missing_object(label) for label in labels], dtype=bool)


def _is_missing_object(label: Any) -> bool:
    if label is None:
        return True
    try:
        return bool(label != label)  # NaN, and pandas' NaT
    except TypeError:  # pandas.NA is neither equal to itself nor not
        return True


def _is_minus_one(label: Any) -> bool:
    return isinstance(label, (int, float, np.number)) and label == -1
