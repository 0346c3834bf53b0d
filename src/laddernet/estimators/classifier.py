"""scikit-learn's face of the ladder for classes."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length

from laddernet.arguments import check_kind
from laddernet.data.labels import Task, class_numbers
from laddernet.errors import memory_watched
from laddernet.estimators.base import LESS_MEMORY, LadderEstimator
from laddernet.estimators.inputs import row_weights
from laddernet.estimators.settings import Module
from laddernet.ladder import Variant
from laddernet.scaling import InputScaling
from laddernet.training import Precision


class LadderClassifier(ClassifierMixin, LadderEstimator):  # type: ignore[misc]
    """Semi-supervised classifier: a Ladder network on a fully connected encoder.

    In `y`, -1 marks a row without a label; None and NaN do as well, where the dtype allows. Inputs are scaled for
    you, so their units do not matter.

    Parameters
    ----------
    hidden_layer_sizes : sequence of int or "auto"
        Widths of the hidden layers. "auto" is two of 100, or two of 250 where there are more than 50 columns.
    module : nn.Module or callable, optional
        The encoder instead of a fully connected one: a torch module (of which a copy is trained) or a function that
        makes one of the shape of a row and the number of outputs, such as `laddernet.networks.conv_small`.
    input_shape : sequence of int, optional
        Shape of a row, for the module, where X has its rows flat; (channels, height, width) of images. Not needed
        where X has that shape itself.
    rungs : sequence of str, optional
        Where the module's rungs are; see `laddernet.Ladder`.
    variant : {"full", "gamma", "bottom", "baseline"}
        Which layers have a denoising cost: all, the top one, the input, none (the last learns from the labelled
        rows alone).
    noise_std : float or sequence of float
        Standard deviation of the noise, in every layer, or one a layer, input first (hidden layers + 2 of them).
        At the input it is in units of the scaled columns (see `input_scaling`).
    denoising_weights : "auto" or sequence of float
        Weight of each layer's denoising cost, input first (hidden layers + 2 of them). "auto" is
        the paper's 1000, 10, 0.1, 0.1 ..., in units of the scaled columns (`laddernet.scaling.Scaling.weigh`); for
        the variant "gamma" 1 at the top.
    combinator : str
        The decoder's element-wise function; a name in `laddernet.combinators.COMBINATORS`.
    ladder_options : mapping or None
        Further arguments of `laddernet.Ladder`: `supervised_path`, `detach_targets`, `joint_statistics`,
        `weight_normalization`.
    input_scaling : {"auto", "pooled", "columns", "none", "whitened"}
        See `laddernet.scaling.Scaling.fit`. With "none" the inputs go into the network as they are. "whitened" is for
        images: each one's contrast normalised, then ZCA whitening, as in the paper's CIFAR-10 runs.
    column_weights : array-like of shape (features,) or None
        Factor on each column once it is scaled, greater than 0; None for 1. Less for columns that say one thing in
        many: of a category encoded as k columns, each counts for 1/sqrt(k), as
        `laddernet.preparation.Preparation.column_weights` has it.
    learning_rate : float
        Adam's, until the decay starts. Short runs, as "auto" makes of small tables, want more than the 0.002 that the
        paper's 90,000 steps have.
    decay_start : float in [0, 1]
        Share of the training after which the learning rate falls linearly to 0.
    training_options : mapping or None
        Further arguments of `laddernet.training.TrainingConfig`: `decay`, `averaged_epochs`.
    batch_size : int
        Rows of each kind, labelled and unlabelled, in a step; at least 2.
    repeat_labels : bool
        Where the labelled rows are fewer than a batch, take each as often as fits into one, every time with its own
        noise; the paper takes each once.
    max_epochs : int or "auto"
        Passes over all rows. "auto" is as many as make 1500 steps, but between 10 and 1000.
    validation_fraction : float in [0, 1)
        Share of the labelled rows kept out of training to measure `validation_error` after each epoch.
    early_stopping : bool
        Stop after 10 epochs in which neither the validation error nor the denoising cost of held-out rows has fallen,
        and keep the weights of the epoch with the lowest error, and of those with the lowest denoising cost: with
        few labels the error alone says little. Needs a validation_fraction, which then is kept out of the unlabelled
        rows as well (2000 of them at most).
    class_weight : mapping, "balanced" or None
        Factor on the supervised cost of each class's rows, relative to the mean over the labelled rows; "balanced"
        gives each class the same share.
    warm_start : bool
        Whether `fit` starts from the fitted network's weights, scaling and classes where there is one.
    device : str
        "auto" (a CUDA device where there is one, else the CPU), or a torch device's name.
    precision : {"auto", "float32", "tf32", "bfloat16", "float64"}
        Of the matrix products in training; "tf32" on a GPU alone. "auto" is bfloat16 for a network of 300,000 weights
        or more on a CPU that multiplies bfloat16 faster than float32, else float32.
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
    interrupted_ : bool
        Whether Ctrl-C ended the training early.
    history_ : list of dict
        One an epoch; see `laddernet.loop.EpochRecord`. `validation_error` is the share of wrong answers.
    precision_ : str
        What ``precision="auto"`` stood for.
    ladder_ : Ladder
        The trained network, on scaled inputs.
    scaling_ : Scaling or Whitening
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

    _task: Task = "classification"
    _FEWEST_LABELS = 1

    def __init__(
        self,
        hidden_layer_sizes: Sequence[int] | Literal["auto"] = "auto",
        *,
        module: Module | None = None,
        input_shape: Sequence[int] | None = None,
        rungs: Sequence[str] | None = None,
        variant: Variant = "full",
        noise_std: float | Sequence[float] = 0.3,
        denoising_weights: Literal["auto"] | Sequence[float] = "auto",
        combinator: str = "gaussian",
        ladder_options: Mapping[str, Any] | None = None,
        input_scaling: InputScaling = "auto",
        column_weights: ArrayLike | None = None,
        learning_rate: float = 0.01,
        decay_start: float = 2 / 3,
        training_options: Mapping[str, Any] | None = None,
        batch_size: int = 200,
        repeat_labels: bool = True,
        max_epochs: int | Literal["auto"] = "auto",
        validation_fraction: float = 0.0,
        early_stopping: bool = False,
        class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
        warm_start: bool = False,
        device: str = "auto",
        precision: Precision = "auto",
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(
            hidden_layer_sizes,
            module=module,
            input_shape=input_shape,
            rungs=rungs,
            variant=variant,
            noise_std=noise_std,
            denoising_weights=denoising_weights,
            combinator=combinator,
            ladder_options=ladder_options,
            input_scaling=input_scaling,
            column_weights=column_weights,
            learning_rate=learning_rate,
            decay_start=decay_start,
            training_options=training_options,
            batch_size=batch_size,
            repeat_labels=repeat_labels,
            max_epochs=max_epochs,
            validation_fraction=validation_fraction,
            early_stopping=early_stopping,
            warm_start=warm_start,
            device=device,
            precision=precision,
            random_state=random_state,
            verbose=verbose,
        )
        self.class_weight = class_weight

    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Go on training for one pass over new rows, at the full learning rate.

        After `fit` or an earlier `partial_fit`, whose scaling and classes stay. The newest 2000 labelled rows are
        remembered and take part in the supervised cost, so that new rows may all be unlabelled; a remembered row
        that comes again has its new label. A part smaller than a batch is filled up with them. At the full rate one
        pass can make a model worse as well as better: keep a copy, and judge it on labelled rows before you use it.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (rows, features)
            At least two rows where the model is new.
        y : array-like of shape (rows,), optional
            Labels, as in `fit`; by default no row has one.
        classes : array-like of shape (classes,), optional
            In the first call, all classes that will come; by default those in `y`.
        sample_weight : array-like of shape (rows,), optional
            As in `fit`.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If X, y or a setting cannot be used, or a class is new; the model is left as it was.
        TrainingError
            If a cost becomes infinite or NaN.
        """
        self.check_settings()
        with self._all_or_nothing(), memory_watched(LESS_MEMORY):
            return self._partial_fit(X, y, sample_weight, classes)

    def _check_known(self, known: NDArray[Any]) -> None:
        if known.dtype.kind == "f" and np.isinf(known).any():
            raise ValueError("Input y contains infinity, which is no class.")
        check_classification_targets(np.array(class_numbers(known)[0].tolist()))

    def _learn_labels(self, y: NDArray[Any], *, again: bool) -> None:
        classes = class_numbers(y)[0]
        classes = np.array(classes.tolist()) if classes.dtype == object else classes
        if not again:
            if len(classes) < 2:
                only = f"one class only, {classes.tolist()[0]!r}" if len(classes) else "no class"
                raise ValueError(f"y holds {only}; a classifier needs at least two classes.")
            self.classes_: NDArray[Any] = classes
        elif unseen := set(classes.tolist()) - set(self.classes_.tolist()):
            raise ValueError(
                f"y has classes that the model was not made for: {', '.join(sorted(map(repr, unseen)))}; it knows "
                f"{', '.join(map(repr, self.classes_.tolist()))}. Fit it anew, or name all classes in the first call "
                "of partial_fit."
            )

    def _encode_labels(self, y: NDArray[Any]) -> NDArray[Any]:
        return np.searchsorted(self.classes_, y.astype(self.classes_.dtype)).astype(np.int64)

    def _class_weights(self, targets: NDArray[Any]) -> NDArray[np.float64]:
        if not isinstance(self.class_weight, str) and self.class_weight is not None:
            check_kind("class_weight", self.class_weight, Mapping, "a mapping of classes to weights, or 'balanced'")
        if self.class_weight is None:
            return super()._class_weights(targets)
        return np.asarray(compute_sample_weight(self.class_weight, self.classes_[targets]), dtype=np.float64)

    def _validation_error(self, output: NDArray[Any], y: NDArray[Any], weight: NDArray[np.float64]) -> float:
        answers = self.classes_[output.argmax(axis=1)]
        return 1.0 - float(accuracy_score(y.astype(self.classes_.dtype), answers, sample_weight=weight))

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
        check_consistent_length(X, y)
        labels = self._read_labels(y, fewest=1)
        weight = None if sample_weight is None else row_weights(sample_weight, y)[labels.numbers]
        truth, answers = labels.values.tolist(), self.predict(X)[labels.numbers].tolist()
        return float(accuracy_score(truth, answers, sample_weight=weight))
