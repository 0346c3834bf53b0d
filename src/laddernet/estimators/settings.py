"""What an estimator is asked for: its settings, checked, and the network and the training that they stand for."""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from numbers import Integral
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
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
from laddernet.data.labels import Task
from laddernet.errors import OutOfMemoryError, memory_size
from laddernet.ladder import VARIANTS, Ladder, Variant, check_noise, default_weights
from laddernet.networks import mlp
from laddernet.rungs import count_rungs
from laddernet.scaling import INPUT_SCALINGS, InputScaling, Scaling, Whitening
from laddernet.training import Precision, TrainingConfig, steps_per_epoch

Module = nn.Module | Callable[[tuple[int, ...], int], nn.Module]
"""An encoder, or what makes one of the shape of a row and the number of outputs."""

PATIENCE = 10
"""Epochs without a lower validation error or held-out denoising cost after which ``early_stopping=True`` stops."""
LADDER_OPTIONS = frozenset({"supervised_path", "detach_targets", "joint_statistics", "weight_normalization"})
"""What `ladder_options` may name."""
TRAINING_OPTIONS = frozenset({"decay", "averaged_epochs"})
"""What `training_options` may name."""
_BYTES = 16  # of a parameter in training: its value, its gradient and Adam's two moments
_COMBINATOR = 10  # parameters of a unit of the decoder
_AUTO_STEPS = 1500
_FEW_COLUMNS = 50


class LadderSettings(BaseEstimator):  # type: ignore[misc]
    """An estimator's settings, and what is made by them once the rows and labels are known."""

    _task: Task
    input_shape_: tuple[int, ...]
    scaling_: Scaling | Whitening

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

    @abstractmethod
    def _outputs(self) -> int:
        """Width of the ladder's top layer; after `_learn_labels`."""

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

    def _seed(self) -> int:
        try:
            return int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        except ValueError as error:
            raise ValueError(f"random_state must be a whole number, a RandomState or None: {error}.") from error

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

    def _encoder(self, generator: torch.Generator, seed: int) -> nn.Module:
        shape = self.input_shape_
        if self.module is None:
            return mlp([*shape, *self._widths(*shape), self._outputs()], generator=generator)
        if isinstance(self.module, nn.Module):
            return self.module
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


def _known(options: Mapping[str, Any] | None, known: frozenset[str], name: str) -> Mapping[str, Any]:
    """Return options, or none; all of them known."""
    if unknown := set(options or {}) - known:
        names = ", ".join(map(repr, sorted(unknown)))
        raise ValueError(f"{name} has {names}; known are {', '.join(sorted(known))}.")
    return options or {}


def auto_widths(features: int) -> tuple[int, ...]:
    """Return what ``hidden_layer_sizes="auto"`` stands for with so many columns."""
    return (100, 100) if features <= _FEW_COLUMNS else (250, 250)
