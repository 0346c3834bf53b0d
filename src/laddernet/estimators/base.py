"""What the estimators share: from arrays to a trained ladder, and from that to answers."""

import copy
import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags, gen_batches
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d, validate_data

from laddernet.data.labels import SparseLabels, choose_held_out
from laddernet.devices import device_of, free_memory
from laddernet.distributed import ALONE, Processes
from laddernet.errors import memory_watched
from laddernet.estimators.inputs import (
    check_numeric_kind,
    flat_rows,
    float_type,
    input_types,
    known_weights,
    text_columns,
    without,
)
from laddernet.estimators.settings import LadderSettings
from laddernet.ladder import Ladder
from laddernet.loop import Callback, EpochRecord
from laddernet.resume import Checkpoint
from laddernet.rows import RowsFile, ScaledRows, StoredRows, among_others, stored
from laddernet.scaling import CHUNK, Scaling, Whitening, fit_scaling
from laddernet.training import TrainingConfig, TrainingInterrupted, Validation, make_optimizer, resolve_precision, train

MEMORY_ROWS = 2000
"""Labelled rows, at most, that `partial_fit` remembers, the newest first; also how many of the earlier rows the
statistics for prediction stand for when a new part comes."""
DEVICE_SHARE = 0.25
"""Share of a GPU's free memory up to which rows that lie on disk are put there for the training."""
LESS_MEMORY = "a smaller batch_size, a narrower network (hidden_layer_sizes) or fewer rows need less."
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
class Start:
    """What a training starts from, see `train`: all rows that it sees, scaled, and the labelled ones among them."""

    ladder: Ladder
    x: torch.Tensor | ScaledRows
    known: _Labeled
    config: TrainingConfig
    seed: int
    validate: Callable[[Ladder], Validation] | None


@dataclass(frozen=True, kw_only=True)
class _Past:
    """What `partial_fit` goes on from: labelled rows, how many rows there were in all, and Adam's moments."""

    labeled: _Labeled | None = None
    rows: int = MEMORY_ROWS
    optimizer: torch.optim.Optimizer | None = None


def batch_generator(seed: int) -> torch.Generator:
    """Return what chooses the batches of a fit with this seed."""
    return torch.Generator().manual_seed(seed + 1)


class LadderEstimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, LadderSettings):  # type: ignore[misc]
    """What both estimators share: everything but how labels are read and answers given."""

    # What the two kinds of labels do differently.

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
        with self._all_or_nothing(), memory_watched(LESS_MEMORY):
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

    def _prepare(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None) -> "Start":
        """Check and read what `fit` is given, learn the scaling and the labels, and build the ladder."""
        previous: Ladder | None = getattr(self, "ladder_", None) if self.warm_start else None
        if previous is not None:
            self._check_same_rows(X)
        rows = self._check_rows(X, reset=previous is None, fewest=2)
        config = self._training_config(rows.shape[0])
        check_consistent_length(rows, y)
        labels = self._read_labels(y, fewest=self._FEWEST_LABELS)
        weight = known_weights(sample_weight, rows, labels)
        seed, device = self._seed(), device_of(self.device)
        held_out = self._hold_out(labels, seed)
        judged = np.isin(labels.numbers, held_out)
        self._learn_labels(labels.values[~judged], again=previous is not None)
        if previous is None:
            self.scaling_ = fit_scaling(without(rows, held_out), self.input_scaling, self.column_weights)
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

        return Start(
            ladder=ladder,
            x=without(x, held_out),
            known=known,
            config=config,
            seed=seed,
            validate=validate if len(held_out) else None,
        )

    def _keep(self, start: "Start") -> None:
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
                    generator=batch_generator(seed),
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
        weight = known_weights(sample_weight, rows, labels)
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
            check_numeric_kind(X)
        X, shape = flat_rows(X) if on_disk is None else (X, on_disk.row_shape)
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
            values = validate_data(
                self, X, dtype=input_types(X), accept_sparse="csr", reset=reset, ensure_min_samples=fewest
            )
        except ValueError as error:
            if text := text_columns(X):
                raise ValueError(
                    f"X has columns that do not hold numbers: {', '.join(text)}. Encode them first, as "
                    "skrub.TableVectorizer does; `laddernet train FILE` does it for you."
                ) from error
            raise
        except OverflowError as error:
            raise ValueError(f"X holds a number that is too large ({error}).") from error
        entries = values if isinstance(values, np.ndarray) else values.data
        if reset and entries.size and max(entries.max(), -entries.min()) > np.finfo(np.float32).max:
            raise ValueError(f"X holds a number beyond {np.finfo(np.float32).max:.1e}: scale its columns down.")
        return values

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        """Check that rows with more than one dimension have those of training, where it counts."""
        given_flat = self.module is None or self.input_shape is not None
        if len(shape) > 1 and not given_flat and shape != self.input_shape_:
            raise ValueError(f"X has rows of shape {shape}, but in training they had {self.input_shape_}.")

    def _hold_out(self, labels: SparseLabels, seed: int) -> NDArray[np.int64]:
        """Choose the rows to validate on; return their sorted numbers.

        Of labelled rows `validation_fraction` is held out; for early stopping the same share of the others, up to
        2000, as well.
        """
        if self.validation_fraction == 0:
            return np.arange(0)
        share = self.validation_fraction
        held_out = choose_held_out(labels, share, task=self._task, seed=seed, option="validation_fraction")
        if not self.early_stopping:
            return held_out
        others = labels.rows - len(labels.numbers)
        count = min(int(self.validation_fraction * others), _PREDICTION_ROWS)
        chosen = np.random.default_rng(seed).choice(others, count, replace=False, shuffle=False)
        return np.sort(np.concatenate([held_out, among_others(chosen, labels.numbers)]))

    def _check_same_rows(self, X: Any) -> None:
        """Check that a fitted network can be gone on with, as far as the shape of its rows tells."""
        on_disk = stored(X)
        shape = flat_rows(X)[1] if on_disk is None else on_disk.row_shape
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
        if device.type == "cuda" and math.prod(rows.shape) * kind.itemsize <= DEVICE_SHARE * free_memory(device):
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
        if float_type(rows) == np.float64 and dtype == np.float32 and device.type == "cpu":
            ladder, dtype = copy.deepcopy(ladder).double(), np.float64
        parts = []
        for batch in gen_batches(rows.shape[0], _PREDICTION_ROWS):
            part = rows[batch] if on_disk is None else self._check_values(rows[batch], reset=False)
            with torch.no_grad():
                parts.append(answer(ladder, self._tensor(part, device, dtype)).cpu().numpy())
        return np.concatenate(parts)


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


def _progress() -> Callback:
    from laddernet.progress import progress

    return progress()
