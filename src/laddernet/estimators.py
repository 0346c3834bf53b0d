"""scikit-learn's face of the ladder: `LadderClassifier` and `LadderRegressor`."""

import copy
import math
import warnings
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

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
from sklearn.metrics import accuracy_score, r2_score, root_mean_squared_error
from sklearn.utils import Tags, check_random_state, gen_batches
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    _check_sample_weight,
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
    validate_data,
)
from torch import nn

from laddernet.arguments import (
    check_choice,
    check_flag,
    check_kind,
    check_number,
    check_numbers,
    check_sizes,
    check_whole,
    shown,
)
from laddernet.combinators import COMBINATORS
from laddernet.data.labels import SparseLabels, Task, choose_held_out, class_numbers
from laddernet.distributed import ALONE, Processes
from laddernet.errors import OutOfMemoryError, memory_size, memory_watched
from laddernet.ladder import VARIANTS, Ladder, Variant, check_noise, default_weights
from laddernet.loop import Callback, EpochRecord
from laddernet.networks import mlp
from laddernet.resume import Checkpoint
from laddernet.rows import RowsFile, ScaledRows, StoredRows, among_others, stored
from laddernet.rungs import count_rungs
from laddernet.scaling import CHUNK, INPUT_SCALINGS, InputScaling, Scaling, Whitening, fit_scaling
from laddernet.together import Labeled, train_together
from laddernet.training import (
    Precision,
    TrainingConfig,
    TrainingInterrupted,
    Validation,
    make_optimizer,
    resolve_precision,
    steps_per_epoch,
    train,
)

Module = nn.Module | Callable[[tuple[int, ...], int], nn.Module]
"""An encoder, or what makes one of the shape of a row and the number of outputs."""

PATIENCE = 10
"""Epochs without a lower validation error or held-out denoising cost after which ``early_stopping=True`` stops."""
MEMORY_ROWS = 2000
"""Labelled rows, at most, that `partial_fit` remembers, the newest first; also how many of the earlier rows the
statistics for prediction stand for when a new part comes."""
DEVICE_SHARE = 0.25
"""Share of a GPU's free memory up to which rows that lie on disk are put there for the training."""
LADDER_OPTIONS = frozenset({"supervised_path", "detach_targets", "joint_statistics", "weight_normalization"})
"""What `ladder_options` may name."""
TRAINING_OPTIONS = frozenset({"decay", "averaged_epochs"})
"""What `training_options` may name."""
_LESS_MEMORY = "a smaller batch_size, a narrower network (hidden_layer_sizes) or fewer rows need less."
_BYTES = 16  # of a parameter in training: its value, its gradient and Adam's two moments
_COMBINATOR = 10  # parameters of a unit of the decoder
_AUTO_STEPS = 1500
_FEW_COLUMNS = 50
_PREDICTION_ROWS = 2000


class _Labeled(NamedTuple):
    """Labelled rows: scaled, with the task's targets and the caller's weights."""

    x: torch.Tensor
    y: NDArray[Any]
    weight: NDArray[np.float64]

    def first(self, count: int) -> "_Labeled":
        return _Labeled(self.x[:count].clone(), self.y[:count], self.weight[:count])

    def and_before(self, older: "_Labeled | None") -> "_Labeled":
        """These rows, then the older ones; a row that is in both has its new label."""
        if older is None:
            return self
        both = torch.cat([self.x, older.x])
        _, kinds = np.unique(both.cpu().numpy(), axis=0, return_inverse=True)
        again = np.isin(kinds, kinds[: len(self.y)])
        again[: len(self.y)] = False
        y, weight = np.concatenate([self.y, older.y]), np.concatenate([self.weight, older.weight])
        return _Labeled(both[torch.from_numpy(~again)], y[~again], weight[~again])


@dataclass(frozen=True, kw_only=True)
class _Start:
    """What a training starts from, see `train`: all rows that it sees, scaled, and the labelled ones among them."""

    ladder: Ladder
    x: torch.Tensor | ScaledRows
    known: _Labeled
    config: TrainingConfig
    seed: int
    validate: Callable[[Ladder], Validation] | None


def _batch_generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed + 1)


@dataclass(frozen=True, kw_only=True)
class _Past:
    """What `partial_fit` goes on from: labelled rows, how many rows there were in all, and Adam's moments."""

    labeled: _Labeled | None = None
    rows: int = MEMORY_ROWS
    optimizer: torch.optim.Optimizer | None = None


class _LadderEstimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """What both estimators share: everything but how labels are read and answers given."""

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
        warm_start: bool = False,
        device: str = "auto",
        precision: Precision = "auto",
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.module = module
        self.input_shape = input_shape
        self.rungs = rungs
        self.variant = variant
        self.noise_std = noise_std
        self.denoising_weights = denoising_weights
        self.combinator = combinator
        self.ladder_options = ladder_options
        self.input_scaling = input_scaling
        self.column_weights = column_weights
        self.learning_rate = learning_rate
        self.decay_start = decay_start
        self.training_options = training_options
        self.batch_size = batch_size
        self.repeat_labels = repeat_labels
        self.max_epochs = max_epochs
        self.validation_fraction = validation_fraction
        self.early_stopping = early_stopping
        self.warm_start = warm_start
        self.device = device
        self.precision = precision
        self.random_state = random_state
        self.verbose = verbose

    # What the two kinds of labels do differently.

    input_shape_: tuple[int, ...]
    _task: Task
    _FEWEST_LABELS: int

    @abstractmethod
    def _check_known(self, known: NDArray[Any]) -> None:
        """Check labels that rows have."""

    @abstractmethod
    def _learn_labels(self, y: NDArray[Any], *, again: bool) -> None:
        """Learn the labels' form (classes, or mean and scale); `again` keeps what is known, and checks `y` by it."""

    @abstractmethod
    def _encode_labels(self, y: NDArray[Any]) -> NDArray[Any]:
        """Return labels as the task takes them; after `_learn_labels`."""

    @abstractmethod
    def _validation_error(self, output: NDArray[Any], y: NDArray[Any], weight: NDArray[np.float64]) -> float:
        """Error of a ladder's output against raw labels."""

    @abstractmethod
    def _outputs(self) -> int:
        """Width of the ladder's top layer; after `_learn_labels`."""

    def _class_weights(self, targets: NDArray[Any]) -> NDArray[np.float64]:
        """Weight of each labelled row by its class; `targets` as `_encode_labels` gives them."""
        return np.ones(len(targets))

    def _read_labels(self, y: Any, *, fewest: int) -> SparseLabels:
        """Return the labels that rows have; checked."""
        if not isinstance(y, SparseLabels):
            y = column_or_1d(np.asarray(y.to_numpy() if hasattr(y, "to_numpy") else y), warn=True)
            if y.dtype.kind in ("m", "M"):
                raise ValueError(f"y holds dates or durations ({y.dtype}): make them classes or numbers first.")
        labels = SparseLabels.of(y, task=self._task)
        if (count := len(labels.numbers)) < fewest:
            mark = "-1, None or NaN" if self._task == "classification" else "NaN or None"
            have = f"{count} rows have" if count else "no row has"
            raise ValueError(f"{have} a label (in y, {mark} marks a row without one); {fewest} or more are needed.")
        if count:
            self._check_known(labels.values)
        return labels

    # Fitting.

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        callback: Callback | None = None,
        checkpoint: Checkpoint | str | Path | None = None,
        processes: Processes = ALONE,
    ) -> Self:
        """Train on labelled and unlabelled rows.

        Ctrl-C ends the training early: the model keeps what it has learned, with a warning, and can predict. With a
        checkpoint it raises `TrainingStopped` instead, as SIGTERM does, and the same call goes on from there.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (rows, features)
            All training rows, labelled or not. Finite numbers. A sparse matrix is made dense, once it is scaled. A
            `numpy.memmap` stays on disk: batches are read and scaled when they are needed, with the same result as
            from memory; see docs/large.md.
        y : array-like of shape (rows,), or SparseLabels
            Labels; the class docstring says what marks a row without one.
        sample_weight : array-like of shape (rows,), optional
            Factor on each labelled row's supervised cost, taken relative to the mean over the labelled rows; not
            negative. Those of unlabelled rows have no meaning.
        callback : Callback, optional
            Watches the training.
        checkpoint : Checkpoint, str or Path, optional
            File in which the training's state is kept, and from which it goes on where it is there already, as it would
            have gone on without the break: give the same rows, settings and whole number as `random_state`. It stays
            when the training is done.
        processes : Processes
            That fit the same model together (docs/scaling.md): all of them call this with the same arguments, among
            which is a whole number as `random_state`, and all have the fitted model in the end.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If X, y or a setting cannot be used; the message says why. The model is left as it was.
        TrainingError
            If a cost becomes infinite or NaN.
        RunError
            If the checkpoint is of another training, damaged, or in use by another process.
        OutOfMemoryError
            If there is not enough memory.
        ProcessLostError
            If another of the processes ended.
        """
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None.")
        if processes.size > 1 and not isinstance(self.random_state, Integral):
            raise ValueError("several processes fit a model together with a whole number as random_state alone.")
        if isinstance(checkpoint, (str, Path)):
            keeper: Checkpoint | None = Checkpoint(checkpoint, processes=processes)
        else:
            keeper = checkpoint
        if keeper is not None and keeper.processes is not processes:
            raise ValueError("the checkpoint is of other processes: make it by Checkpoint(path, processes=...).")
        self.check_settings()
        callback = callback if callback is not None or not self.verbose else _progress()
        with self._all_or_nothing(), memory_watched(_LESS_MEMORY):
            self._fit(X, y, sample_weight, callback, keeper, processes)
        return self

    def _fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None,
        callback: Callback | None,
        keeper: Checkpoint | None,
        processes: Processes,
    ) -> None:
        start = self._prepare(X, y, sample_weight)
        self._train(
            start.ladder,
            start.x,
            start.known,
            start.config,
            seed=start.seed,
            validate=start.validate,
            callback=callback,
            keeper=keeper,
            processes=processes,
        )
        self._keep(start)

    def _prepare(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None) -> "_Start":
        """Check and read what `fit` is given, learn the scaling and the labels, and build the ladder."""
        previous: Ladder | None = getattr(self, "ladder_", None) if self.warm_start else None
        if previous is not None:
            self._check_same_rows(X)
        rows = self._check_rows(X, reset=previous is None, fewest=2)
        config = self._training_config(rows.shape[0])
        check_consistent_length(rows, y)
        labels = self._read_labels(y, fewest=self._FEWEST_LABELS)
        weight = _known_weights(sample_weight, rows, labels)
        seed, device = self._seed(), device_of(self.device)
        held_out = self._hold_out(labels, seed)
        judged = np.isin(labels.numbers, held_out)
        self._learn_labels(labels.values[~judged], again=previous is not None)
        if previous is None:
            self.scaling_ = fit_scaling(_without(rows, held_out), self.input_scaling, self.column_weights)
        elif self.column_weights is not None and not (
            isinstance(self.scaling_, Scaling) and np.array_equal(self.column_weights, self.scaling_.weight)
        ):
            raise ValueError("warm_start goes on with the fitted scaling, and that has other column_weights.")
        elif (self.input_scaling == "whitened") != isinstance(self.scaling_, Whitening):
            raise ValueError("warm_start goes on with the fitted scaling, and that is not the input_scaling asked for.")
        x = self._scaled(rows, device)
        self._check_room()
        ladder = self._build_ladder(seed, device)
        if previous is not None:
            _start_from(previous, ladder)

        def part(which: NDArray[np.bool_]) -> _Labeled:
            chosen = torch.from_numpy(labels.numbers[which])
            return _Labeled(x[chosen], self._encode_labels(labels.values[which]), weight[which])

        known, x_held_out = part(~judged), x[torch.from_numpy(held_out)]
        truth, judged_numbers = labels.values[judged], torch.from_numpy(labels.numbers[judged])

        def validate(ladder: Ladder) -> Validation:
            output = ladder.predict(x[judged_numbers]).cpu().numpy()
            row_weight = weight[judged] * self._class_weights(self._encode_labels(truth))
            row_weight = row_weight if row_weight.any() else np.ones(len(truth))
            error = self._validation_error(output, truth, row_weight)
            return Validation(error, _denoising_cost(ladder, known, x_held_out, seed) if self.early_stopping else None)

        return _Start(
            ladder=ladder,
            x=_without(x, held_out),
            known=known,
            config=config,
            seed=seed,
            validate=validate if len(held_out) else None,
        )

    def _keep(self, start: "_Start") -> None:
        """Set what a fitted model has."""
        self.ladder_ = start.ladder
        self._n_features_out = math.prod(start.ladder.shapes[-2])
        self.precision_ = resolve_precision(self.precision, start.ladder)
        self._past = _Past(labeled=start.known.first(MEMORY_ROWS), rows=len(start.x))

    def _train(
        self,
        ladder: Ladder,
        x: torch.Tensor | ScaledRows,
        known: "_Labeled",
        config: TrainingConfig,
        *,
        seed: int,
        earlier: Sequence[EpochRecord] = (),
        keeper: Checkpoint | None = None,
        **others: Any,
    ) -> None:
        """Call `train`, and set what it tells of the training."""
        interrupted = False
        try:
            with nullcontext() if keeper is None else keeper.held():
                history = train(
                    ladder,
                    x,
                    known.x,
                    torch.from_numpy(known.y).to(x.device),
                    config,
                    generator=_batch_generator(seed),
                    weight=self._relative_weights(known),
                    keeper=keeper,
                    **others,
                )
        except TrainingInterrupted as interruption:
            history, interrupted = interruption.history, True
            warnings.warn(
                f"training was interrupted after {len(history)} of {config.epochs} epochs; the model keeps what it has "
                "learned.",
                stacklevel=4,
            )
        finally:
            ladder.generator = None  # its work is done, and not every generator can be pickled
        self._record([*earlier, *history], len(earlier), interrupted=interrupted)

    def _record(self, history: list[EpochRecord], earlier: int, *, interrupted: bool) -> None:
        for record in history[earlier:]:
            record["epoch"] += earlier
        self.history_ = history
        self.n_iter_ = len(history)
        self.interrupted_ = interrupted

    def _relative_weights(self, known: "_Labeled") -> torch.Tensor | None:
        """Factor of each labelled row, 1 on average; None where all are alike."""
        weight = known.weight * self._class_weights(known.y)
        if not weight.any():
            raise ValueError("the weights of all labelled rows are zero; at least one must count.")
        if (weight == weight[0]).all():
            return None
        return torch.from_numpy((weight / weight.mean()).astype(self._dtype)).to(known.x.device)

    def _partial_fit(self, X: ArrayLike, y: ArrayLike | None, sample_weight: ArrayLike | None, classes: Any) -> Self:
        first = not hasattr(self, "ladder_")
        rows = self._check_rows(X, reset=first, fewest=2 if first else 1)
        config = self._training_config(rows.shape[0])
        config = replace(config, epochs=1, decay_start=1.0, patience=None, averaged_epochs=0)
        none = SparseLabels(rows=rows.shape[0], numbers=np.empty(0, dtype=np.int64), values=np.empty(0))
        given = none if y is None else y
        check_consistent_length(rows, given)
        labels = self._read_labels(given, fewest=self._FEWEST_LABELS if first else 0)
        weight = _known_weights(sample_weight, rows, labels)
        seed = self._seed()
        if first:
            if classes is not None:
                named = column_or_1d(np.asarray(classes))
                told = self._read_labels(named, fewest=0)
                if len(told.numbers) < len(named):
                    mark = np.delete(named, told.numbers).tolist()[0]
                    raise ValueError(f"classes has {mark!r}, which marks a row without a label: it is no class.")
                self._learn_labels(told.values, again=False)
            self._learn_labels(labels.values, again=classes is not None)
            self.scaling_ = fit_scaling(rows, self.input_scaling, self.column_weights)
            self._check_room()
            self.ladder_ = self._build_ladder(seed, device_of(self.device))
            self._n_features_out = math.prod(self.ladder_.shapes[-2])
            self.precision_ = resolve_precision(self.precision, self.ladder_)
        elif len(labels.numbers):
            self._learn_labels(labels.values, again=True)
        ladder, past = self.ladder_, getattr(self, "_past", _Past())
        x = self._scaled(rows, ladder.steps.device)
        known = _Labeled(x[torch.from_numpy(labels.numbers)], self._encode_labels(labels.values), weight)
        known = known.and_before(past.labeled).first(MEMORY_ROWS)
        if len(known.y) < 2:
            raise ValueError(
                "fewer than two labelled rows are known (a model that was read from a run folder remembers none): "
                "give some labelled rows with the new ones."
            )
        lacking = config.batch_size - len(x)
        stream = torch.cat([x[:], known.x[:lacking]]) if lacking > 0 else x
        optimizer = past.optimizer or make_optimizer(ladder, config)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] = config.learning_rate
        seed += getattr(self, "n_iter_", 0)
        ladder.generator = torch.Generator(ladder.steps.device).manual_seed(seed)
        self._train(
            ladder,
            stream,
            known,
            config,
            seed=seed,
            earlier=getattr(self, "history_", ()),
            optimizer=optimizer,
            rows_before=0 if first else min(past.rows, MEMORY_ROWS),
        )
        self._past = _Past(labeled=known, rows=(0 if first else past.rows) + len(x), optimizer=optimizer)
        return self

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Leave the model as it was if anything fails."""
        before = self.__dict__.copy()
        ladder = copy.deepcopy(before.get("ladder_"))
        try:
            yield
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            if ladder is not None:
                self.ladder_ = ladder
                self._past = replace(getattr(self, "_past", _Past()), optimizer=None)
            raise

    def _check_rows(self, X: Any, *, reset: bool, fewest: int = 1) -> Any:
        """Return rows as a matrix of floats, a CSR matrix, or those on disk; remember their shape, or check it."""
        on_disk = stored(X)
        if on_disk is None:
            _check_kind(X)
        X, shape = _flat_rows(X) if on_disk is None else (X, on_disk.row_shape)
        if not reset:
            self._check_shape(shape)
        if on_disk is None:
            rows = self._check_values(X, reset=reset, fewest=fewest)
        else:
            rows = on_disk
            for part in rows.blocks():
                first = part.start == 0
                self._check_values(rows[part], reset=reset and first, fewest=fewest if first else 1)
        if reset:
            self.input_shape_ = self._row_shape(shape or rows.shape[1:])
        return rows

    def _check_values(self, X: Any, *, reset: bool, fewest: int = 1) -> Any:
        """Return flat rows as a matrix of floats or a CSR matrix; all finite, with the columns that there should be."""
        try:
            return validate_data(
                self, X, dtype=_input_types(X), accept_sparse="csr", reset=reset, ensure_min_samples=fewest
            )
        except ValueError as error:
            if text := _text_columns(X):
                raise ValueError(
                    f"X has columns that do not hold numbers: {', '.join(text)}. Encode them first, as "
                    "skrub.TableVectorizer does; `laddernet train FILE` does it for you."
                ) from error
            raise
        except OverflowError as error:
            raise ValueError(f"X holds a number that is too large ({error}).") from error

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        """Check that rows with more than one dimension have those of training, where it counts."""
        given_flat = self.module is None or self.input_shape is not None
        if len(shape) > 1 and not given_flat and shape != self.input_shape_:
            raise ValueError(f"X has rows of shape {shape}, but in training they had {self.input_shape_}.")

    def _seed(self) -> int:
        try:
            return int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        except ValueError as error:
            raise ValueError(f"random_state must be a whole number, a RandomState or None: {error}.") from error

    def _training_config(self, rows: int) -> TrainingConfig:
        if self.early_stopping and self.validation_fraction == 0:
            raise ValueError(
                "early_stopping needs rows to judge by: set validation_fraction, e.g. to 0.2, to keep that share of "
                "the rows out of training."
            )
        epochs = -(-_AUTO_STEPS // steps_per_epoch(rows, max(self.batch_size, 1)))
        return TrainingConfig(
            epochs=min(max(epochs, 10), 1000) if isinstance(self.max_epochs, str) else self.max_epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            decay_start=self.decay_start,
            repeat_labels=self.repeat_labels,
            precision=self.precision,
            patience=PATIENCE if self.early_stopping else None,
            **_known(self.training_options, TRAINING_OPTIONS, "training_options"),
        )

    def check_settings(self) -> None:
        """Check all settings as far as that can be done without data; `fit` and `partial_fit` do it first.

        Raises
        ------
        ValueError, TypeError
            If one is out of range or of a wrong type; the message says which, what it may be and what it is.
        """
        if not isinstance(self.hidden_layer_sizes, str) or self.hidden_layer_sizes != "auto":
            widths = "'auto' or a sequence of widths, such as (250, 250)"
            check_sizes("hidden_layer_sizes", self.hidden_layer_sizes, widths)
        if not isinstance(self.max_epochs, str) or self.max_epochs != "auto":
            check_whole("max_epochs", self.max_epochs, 1, "'auto' or a whole number")
        check_whole("batch_size", self.batch_size, 1)
        check_number("validation_fraction", self.validation_fraction, "in [0, 1)", 0, np.nextafter(1, 0))
        for name in ("repeat_labels", "early_stopping", "warm_start", "verbose"):
            check_flag(name, getattr(self, name))
        check_choice("variant", self.variant, VARIANTS)
        check_choice("input_scaling", self.input_scaling, INPUT_SCALINGS)
        for name in ("ladder_options", "training_options"):
            check_kind(name, getattr(self, name), (Mapping, type(None)), "a mapping of names to values, or None")
        _known(self.ladder_options, LADDER_OPTIONS, "ladder_options")
        check_noise(self.noise_std)
        if not isinstance(self.denoising_weights, str):
            check_numbers("denoising_weights", self.denoising_weights)
        elif self.denoising_weights != "auto":
            raise ValueError(f"denoising_weights must be 'auto' or one number a layer, got {self.denoising_weights!r}.")
        check_choice("combinator", self.combinator, tuple(COMBINATORS))
        if self.module is not None and not callable(self.module):
            raise TypeError(f"module must be a torch module or make one, got {type(self.module).__name__}.")
        check_kind("device", self.device, (str, torch.device), "a device's name, such as 'auto', 'cpu' or 'cuda:0'")
        if isinstance(self.random_state, Integral):
            check_whole("random_state", int(self.random_state), 0, most=2**32 - 1)
        self._training_config(2)

    def _check_room(self) -> None:
        """Check, before any is taken, that there is memory to train a fully connected network of these widths."""
        if self.module is not None:
            return
        widths = [*self.input_shape_, *self._widths(*self.input_shape_), self._outputs()]
        weights = sum(fan_in * fan_out for fan_in, fan_out in pairwise(widths))
        decoders = self.variant in ("full", "bottom")
        size = _BYTES * ((1 + decoders) * weights + _COMBINATOR * decoders * sum(widths))
        if size > memory_size():
            raise OutOfMemoryError(
                f"to train a network of the widths {shown(widths)} takes {size / 2**30:,.0f} GiB, more than this "
                "machine has: make hidden_layer_sizes smaller."
            )

    def _hold_out(self, labels: SparseLabels, seed: int) -> NDArray[np.int64]:
        """Choose the rows to validate on; return their sorted numbers.

        Of labelled rows `validation_fraction` is held out; for early stopping the same share of the others, up to
        2000, as well.
        """
        if self.validation_fraction == 0:
            return np.arange(0)
        held_out = choose_held_out(labels, self.validation_fraction, task=self._task, seed=seed)
        if not self.early_stopping:
            return held_out
        others = labels.rows - len(labels.numbers)
        count = min(int(self.validation_fraction * others), _PREDICTION_ROWS)
        chosen = np.random.default_rng(seed).choice(others, count, replace=False, shuffle=False)
        return np.sort(np.concatenate([held_out, among_others(chosen, labels.numbers)]))

    def _widths(self, features: int) -> Sequence[int]:
        """Widths of the hidden layers, whatever "auto" stands for."""
        sizes = self.hidden_layer_sizes
        return auto_widths(features) if isinstance(sizes, str) else sizes

    @property
    def _dtype(self) -> type[np.floating[Any]]:
        return np.float64 if self.precision == "float64" else np.float32

    def _row_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of a row as the network takes it, from that of X's rows."""
        wanted = shape
        if self.input_shape is not None:
            if self.module is None:
                raise ValueError("input_shape is the shape of a row for a module, and there is none.")
            sizes = tuple(self.input_shape) if isinstance(self.input_shape, Sequence) else ()
            if not sizes or not all(isinstance(size, Integral) and size > 0 for size in sizes):
                raise ValueError(
                    f"input_shape must be positive whole numbers, such as (1, 28, 28), got {self.input_shape!r}."
                )
            wanted = tuple(int(size) for size in sizes)
        if self.module is None:
            return (math.prod(shape),)
        if math.prod(wanted) != math.prod(shape):
            raise ValueError(
                f"input_shape {wanted} has {math.prod(wanted)} values a row, but X has {math.prod(shape)}."
            )
        return wanted

    def _check_same_rows(self, X: Any) -> None:
        """Check that a fitted network can be gone on with, as far as the shape of its rows tells."""
        on_disk = stored(X)
        shape = _flat_rows(X)[1] if on_disk is None else on_disk.row_shape
        if shape and self._row_shape(shape) != self.input_shape_:
            raise ValueError(
                f"warm_start goes on with the fitted network, whose rows have the shape {self.input_shape_}, but the "
                "module, or X, asks for another one now. Set warm_start=False to start anew."
            )

    def _tensor(self, rows: Any, device: torch.device, dtype: type[np.floating[Any]] | None = None) -> torch.Tensor:
        """Return rows scaled, in the shape that the network takes."""
        scaled = torch.from_numpy(self.scaling_.apply(rows, dtype or self._dtype))
        return scaled.view(-1, *self.input_shape_).to(device)

    def _scaled(self, rows: Any, device: torch.device) -> torch.Tensor | ScaledRows:
        """Return rows scaled, in the shape that the network takes.

        What lies on disk stays there, unless a GPU has room for it.
        """
        if not isinstance(rows, StoredRows):
            return self._tensor(rows, device)
        dtype, shape, kind = self._dtype, self.input_shape_, torch.from_numpy(np.empty(0, self._dtype)).dtype
        if device.type == "cuda" and math.prod(rows.shape) * kind.itemsize <= DEVICE_SHARE * _free_memory(device):
            x = torch.empty(len(rows), *shape, dtype=kind, device=device)
            for part in gen_batches(len(rows), CHUNK):
                x[part] = self._tensor(rows[part], device)
            return x
        if isinstance(self.scaling_, Scaling):
            return ScaledRows(rows, partial(self.scaling_.apply, dtype=dtype), shape, kind, device)
        with RowsFile(rows.shape[1], dtype) as file:  # a matrix product for each row is made once
            for part in gen_batches(len(rows), CHUNK):
                file.append(self.scaling_.apply(rows[part], dtype))
            return ScaledRows(StoredRows(file.mapped()), lambda x: x, shape, kind, device)

    def _encoder(self, generator: torch.Generator, seed: int) -> nn.Module:
        shape = self.input_shape_
        if self.module is None:
            return mlp([*shape, *self._widths(*shape), self._outputs()], generator=generator)
        if isinstance(self.module, nn.Module):
            return self.module
        if not callable(self.module):
            raise TypeError(f"module must be a torch module or make one, got {type(self.module).__name__}.")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = self.module(shape, self._outputs())
        if not isinstance(made, nn.Module):
            raise TypeError(f"module must make a torch module, but made {type(made).__name__}.")
        return made

    def _build_ladder(self, seed: int, device: torch.device) -> Ladder:
        generator = torch.Generator().manual_seed(seed)
        encoder = self._encoder(generator, seed)
        weights = self.denoising_weights
        if isinstance(weights, str):
            if weights != "auto":
                raise ValueError(f"denoising_weights must be 'auto' or one number a layer, got {weights!r}.")
            layers = count_rungs(encoder, self.rungs, self.input_shape_)
            weights = self.scaling_.weigh(default_weights(self.variant, layers))
        ladder = Ladder(
            encoder,
            **_known(self.ladder_options, LADDER_OPTIONS, "ladder_options"),
            rungs=self.rungs,
            input_shape=self.input_shape_,
            noise_std=self.noise_std,
            denoising_weights=weights,
            variant=self.variant,
            combinator=self.combinator,
            task=self._task,
            generator=generator,
        )
        if ladder.shapes[-1] != (self._outputs(),):
            raise ValueError(f"the module gives {ladder.shapes[-1][0]} outputs, but {self._outputs()} are needed.")
        ladder.to(device, torch.float64 if self.precision == "float64" else torch.float32)
        if device.type != "cpu":
            ladder.generator = torch.Generator(device).manual_seed(seed)
        return ladder

    def __sklearn_tags__(self) -> Tags:
        """Tell scikit-learn what the estimator takes."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    # Answers.

    def transform(self, X: ArrayLike) -> NDArray[Any]:
        """Activations of the last hidden layer on the clean path, of shape (rows, width)."""
        return self._compute(X, lambda ladder, x: ladder.hidden(x, len(ladder.rung_names) - 1).flatten(1))

    def denoise(self, X: ArrayLike) -> NDArray[Any]:
        """Reconstruct rows from what the decoder makes of them, of X's shape and in X's units.

        Raises
        ------
        ValueError
            If the variant has no decoder down to the input ("gamma", "baseline").
        """
        rows = self.scaling_.invert(self._compute(X, lambda ladder, x: ladder.denoise(x).flatten(1)))
        on_disk = stored(X)
        return rows.reshape(len(rows), *(np.shape(X)[1:] if on_disk is None else on_disk.row_shape))

    def _compute(self, X: ArrayLike, answer: Callable[[Ladder, torch.Tensor], torch.Tensor]) -> NDArray[Any]:
        """Apply a ladder's method to rows; on the CPU in float64 where X is float64.

        In float32 a row's answer differs in the last digits with the number of rows it is computed with.
        """
        check_is_fitted(self)
        on_disk = stored(X)
        if on_disk is not None:
            self._check_shape(on_disk.row_shape)
        rows = self._check_rows(X, reset=False) if on_disk is None else on_disk
        ladder, dtype = self.ladder_, self._dtype
        device = ladder.steps.device
        if _float_type(rows) == np.float64 and dtype == np.float32 and device.type == "cpu":
            ladder, dtype = copy.deepcopy(ladder).double(), np.float64
        parts = []
        for batch in gen_batches(rows.shape[0], _PREDICTION_ROWS):
            part = rows[batch] if on_disk is None else self._check_values(rows[batch], reset=False)
            with torch.no_grad():
                parts.append(answer(ladder, self._tensor(part, device, dtype)).cpu().numpy())
        return np.concatenate(parts)


def _known(options: Mapping[str, Any] | None, known: frozenset[str], name: str) -> Mapping[str, Any]:
    """Return options, or none; all of them known."""
    if unknown := set(options or {}) - known:
        names = ", ".join(map(repr, sorted(unknown)))
        raise ValueError(f"{name} has {names}; known are {', '.join(sorted(known))}.")
    return options or {}


def auto_widths(features: int) -> tuple[int, ...]:
    """Return what ``hidden_layer_sizes="auto"`` stands for with so many columns."""
    return (100, 100) if features <= _FEW_COLUMNS else (250, 250)


def _check_kind(X: Any) -> None:
    """Refuse what scikit-learn takes for numbers in silence, or where it fails in another library's words."""
    if np.ma.is_masked(X):
        raise ValueError("X is a masked array, whose masked values would count: fill them, or leave the rows out.")
    if getattr(getattr(X, "dtype", None), "kind", "") in ("M", "m"):
        raise ValueError("X holds dates or durations: give numbers, such as days since the first of them.")
    if hasattr(X, "columns") and hasattr(X, "dtypes"):
        names = list(map(str, X.columns))
        if doubled := [name for name, count in Counter(names).items() if count > 1]:
            raise ValueError(f"X has more than one column named {', '.join(doubled)}. Give each its own name.")
        kinds = zip(names, X.dtypes, strict=True)
        if dates := [name for name, kind in kinds if getattr(kind, "kind", "O") in ("M", "m")]:
            raise ValueError(
                f"X has columns that hold dates or durations: {', '.join(dates)}. Give numbers, such as days since the "
                "first of them, or have `laddernet train FILE` make them."
            )


def _row_weights(sample_weight: ArrayLike | None, rows: Any) -> NDArray[np.float64]:
    """Return a weight for each row, checked; 1 where none are given."""
    if sample_weight is not None:
        given = np.asarray(sample_weight)
        try:
            if given.dtype.kind not in "biufO":
                raise TypeError(f"they are of {given.dtype}")
            sample_weight = given.astype(np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"sample_weight must hold numbers: {error}.") from error
    weights = _check_sample_weight(sample_weight, rows, dtype=np.float64, ensure_non_negative=True)
    return np.asarray(weights, dtype=np.float64)


def _flat_rows(X: Any) -> tuple[Any, tuple[int, ...]]:
    """Return rows of more than one dimension as flat ones, with the shape that they had; others as they are."""
    if isinstance(X, torch.Tensor):
        X = X.detach().cpu()
        X = (X.float() if X.dtype in (torch.bfloat16, torch.float16) else X).numpy()
    if isinstance(X, np.ndarray) and X.ndim > 2:
        return X.reshape(len(X), math.prod(X.shape[1:])), X.shape[1:]
    return X, ()


def _input_types(X: Any) -> list[type[np.floating[Any]]]:
    """Floats stay as they are; whole numbers that float32 holds exactly become float32, all others float64."""
    small = getattr(X, "dtype", None) in (np.bool_, np.uint8, np.int8, np.uint16, np.int16)
    return [np.float32, np.float64] if small else [np.float64, np.float32]


def _float_type(rows: Any) -> Any:
    """What the type of rows becomes when they are checked."""
    return rows.dtype if rows.dtype in (np.float32, np.float64) else _input_types(rows)[0]


def _free_memory(device: torch.device) -> int:
    """Bytes of a CUDA device that no process has taken."""
    return torch.cuda.mem_get_info(device)[0]


def _without(rows: Any, left_out: NDArray[np.int64]) -> Any:
    """Rows but for some, given by their sorted numbers: a copy of what is in memory."""
    if not len(left_out):
        return rows
    if isinstance(rows, (StoredRows, ScaledRows)):
        return rows.without(left_out)
    kept = np.delete(np.arange(rows.shape[0]), left_out)
    return rows[torch.from_numpy(kept) if isinstance(rows, torch.Tensor) else kept]


def _known_weights(sample_weight: Any, rows: Any, labels: SparseLabels) -> NDArray[np.float64]:
    """The caller's weights of the labelled rows, 1 where none are given."""
    if sample_weight is None:
        return np.ones(len(labels.numbers))
    weight = _row_weights(sample_weight, rows)
    of_known: NDArray[np.float64] = weight[labels.numbers]
    return of_known


def _text_columns(X: Any) -> list[str]:
    """Names of a data frame's columns that hold something else than numbers."""
    kinds = getattr(X, "dtypes", None)
    if kinds is None or not hasattr(kinds, "items"):
        return []
    return [str(name) for name, kind in kinds.items() if getattr(kind, "kind", "O") not in "biuf"]


def _denoising_cost(ladder: Ladder, known: _Labeled, x: torch.Tensor, seed: int) -> float | None:
    """Weighted denoising cost of held-out rows in evaluation mode, under noise that is the same at every call."""
    if not ladder.decoder or len(x) < 2:
        return None
    generator = ladder.generator
    ladder.generator = torch.Generator(x.device).manual_seed(seed)
    with torch.no_grad():  # a step has labelled rows too, whatever they are
        costs = ladder(known.x[:2], torch.from_numpy(known.y[:2]).to(x.device), x)
    ladder.generator = generator
    return float(costs.total - costs.supervised)


def _start_from(previous: Ladder, ladder: Ladder) -> None:
    try:
        ladder.load_state_dict(previous.state_dict())
    except RuntimeError as error:
        raise ValueError(
            "warm_start goes on with the fitted network, and that has other widths, another module, variant or "
            "combinator than the settings ask for now. Set warm_start=False to start anew, or the settings back."
        ) from error


def device_of(name: str) -> torch.device:
    """Return the device that an estimator's `device` names.

    Raises
    ------
    ValueError
        If it cannot be used here.
    """
    check_kind("device", name, (str, torch.device), "a device's name, such as 'auto', 'cpu' or 'cuda:0'")
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
        with self._all_or_nothing(), memory_watched(_LESS_MEMORY):
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
        weight = None if sample_weight is None else _row_weights(sample_weight, y)[labels.numbers]
        truth, answers = labels.values.tolist(), self.predict(X)[labels.numbers].tolist()
        return float(accuracy_score(truth, answers, sample_weight=weight))


class LadderRegressor(RegressorMixin, _LadderEstimator):  # type: ignore[misc]
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
        with self._all_or_nothing(), memory_watched(_LESS_MEMORY):
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
        answers = output[:, 0] * self.y_scale_ + self.y_mean_
        return float(root_mean_squared_error(self._numbers(y), answers, sample_weight=weight))

    @staticmethod
    def _numbers(known: NDArray[Any]) -> NDArray[np.float64]:
        try:
            return known.astype(np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"y must hold numbers, and NaN where there is no label: {error}.") from error

    def _outputs(self) -> int:
        return 1

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the value of each row, of shape (rows,), in y's units."""
        return self._compute(X, lambda ladder, x: ladder.predict(x))[:, 0] * self.y_scale_ + self.y_mean_

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Coefficient of determination over the rows of `X` that have a label in `y`."""
        check_consistent_length(X, y)
        labels = self._read_labels(y, fewest=2)
        weight = None if sample_weight is None else _row_weights(sample_weight, y)[labels.numbers]
        answers = self.predict(X)[labels.numbers]
        return float(r2_score(self._numbers(labels.values), answers, sample_weight=weight))


def fit_together(
    models: Sequence[LadderClassifier],
    X: ArrayLike,
    labels: Sequence[ArrayLike],
    *,
    callback: Callback | None = None,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Fit several classifiers on the same rows at once, as one batched network: seeds of one experiment.

    On a GPU, where a single network of this size leaves most of it idle, ten take little longer than one.

    Parameters
    ----------
    models : sequence of LadderClassifier
        Alike but for `random_state`, without `validation_fraction` or `warm_start`.
    X : array-like of shape (rows, features)
    labels : sequence of array-like of shape (rows,)
        For each model, as `fit` takes them; as many labelled rows in each.
    callback : Callback, optional
        Watches the training; its records are those of the first model.
    checkpoint : Checkpoint, optional
        As in `LadderClassifier.fit`.

    Raises
    ------
    ValueError
        If the models or labels do not fit together, or one of them cannot be used.
    TrainingError
        If a cost becomes infinite or NaN in one of them. All models are then left as they were.
    """
    if not models:
        raise ValueError("there are no models to fit together.")
    settings = [{**model.get_params(), "random_state": None} for model in models]
    if not all(_alike(other, settings[0]) for other in settings) or len(labels) != len(models):
        raise ValueError("models that are fitted together must be alike but for random_state, with labels for each.")
    if settings[0]["validation_fraction"] or settings[0]["warm_start"]:
        raise ValueError("models that are fitted together can have no validation_fraction and no warm_start.")
    with ExitStack() as stack:
        stack.enter_context(memory_watched(f"{_LESS_MEMORY} Fewer models at once need less, too."))
        for model in models:
            model.check_settings()
            stack.enter_context(model._all_or_nothing())
        _fit_together(models, X, labels, callback, checkpoint)


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two classifiers have the same settings; some of them may be arrays."""
    return all(
        value is other[name] or (type(value) is type(other[name]) and np.array_equal(value, other[name]))
        if isinstance(value, np.ndarray)
        else value == other[name]
        for name, value in one.items()
    )


def _fit_together(
    models: Sequence[LadderClassifier],
    X: ArrayLike,
    labels: Sequence[ArrayLike],
    callback: Callback | None,
    keeper: Checkpoint | None,
) -> None:
    starts: list[_Start] = []
    for model, y in zip(models, labels, strict=True):
        start = model._prepare(X, y, None)
        starts.append(replace(start, x=starts[0].x) if starts else start)  # all share one copy of the rows
    x = starts[0].x
    labeled = [
        Labeled(start.known.x, torch.from_numpy(start.known.y).to(x.device), model._relative_weights(start.known))
        for model, start in zip(models, starts, strict=True)
    ]
    with nullcontext() if keeper is None else keeper.held():
        histories = train_together(
            [start.ladder for start in starts],
            x,
            labeled,
            starts[0].config,
            generators=[_batch_generator(start.seed) for start in starts],
            callback=callback,
            keeper=keeper,
        )
    for model, start, history in zip(models, starts, histories, strict=True):
        start.ladder.generator = None
        model._record(history, 0, interrupted=False)
        model._keep(start)
