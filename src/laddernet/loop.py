"""The training loop: epochs of steps, of one network or of several at once, that can be kept and taken up again."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NotRequired, Protocol, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from laddernet.distributed import ALONE, Processes
from laddernet.errors import RunError, TrainingError
from laddernet.steps import Steps

CHECKED_STEPS = 1000
"""Steps on a GPU after which, at the latest, the costs are looked at: until then they stay there."""


_ADVICE = "Lower the learning rate, or check the input for values far outside the rest."


class EpochRecord(TypedDict):
    """What `history_` and `history.jsonl` hold for each epoch.

    `epoch` counts from 1; `seconds` is the epoch's own time; `learning_rate` was read back from the optimiser at
    the epoch's last step; costs are means over the epoch's steps, `denoising_costs` one a layer, unweighted, None
    where the weight is 0. `validation_error` is that of held-out labelled rows, `validation_denoising_cost` the
    weighted sum of the denoising costs of held-out rows, labelled or not.
    """

    epoch: int
    seconds: float
    learning_rate: float
    cost: float
    supervised_cost: float
    denoising_costs: list[float | None]
    validation_error: NotRequired[float]
    validation_denoising_cost: NotRequired[float]


class TrainingStopped(KeyboardInterrupt):
    """Training was asked to stop, and its state is kept, to be taken up again."""


class Callback:
    """Watches a training run; subclass it and override what is of interest."""

    def on_train_begin(self, epochs: int, steps_per_epoch: int) -> None:
        """Called once, before the first step."""

    def on_resume(self, records: Sequence[EpochRecord], steps: int) -> None:
        """Called after it where a run is taken up again: the records of its epochs, and how many steps it has made."""

    def on_step_end(self) -> None:
        """Called after each step."""

    def on_epoch_end(self, record: EpochRecord) -> None:
        """Called with each epoch's record."""

    def on_train_end(self) -> None:
        """Called once, also when training is broken off by an error."""


class Stateful(Protocol):
    """What has a state of tensors and of values that go to JSON, in nested dictionaries with names for keys."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return its state; what is in it may change later."""
        ...

    def load_state_dict(self, state: Any) -> Any:
        """Go on from such a state."""
        ...


class Keeper(Protocol):
    """Keeps a run's state; see `resume.Checkpoint`. Of several processes all call its methods."""

    def load(self, identity: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the state of the run that is known by `identity`, if it was begun before."""
        ...

    def after_steps(self, state: Callable[[], Mapping[str, Any]], *, epoch_ended: bool) -> None:
        """Keep the state if it is time; called wherever training may stop. May raise to stop it."""
        ...


class Progress:
    """How far a run has come.

    Parameters
    ----------
    networks, costs : int
        Networks that are trained at once, and costs of each.

    Attributes
    ----------
    epoch, step : int
        Epochs that are finished, and steps of the next one that are.
    seconds : float
        That those steps have taken.
    sums : array of shape (networks, costs)
        Of the costs of those steps. Added in the steps' order, so that it does not matter when they were fetched.
    histories : list of list of EpochRecord
    """

    def __init__(self, networks: int, costs: int) -> None:
        self.epoch = 0
        self.step = 0
        self.seconds = 0.0
        self.sums: NDArray[np.float64] = np.zeros((networks, costs))
        self.histories: list[list[EpochRecord]] = [[] for _ in range(networks)]

    def state_dict(self) -> dict[str, Any]:
        """Return all of it."""
        return {**vars(self), "sums": self.sums.tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set all of it."""
        vars(self).update(state)
        self.sums = np.array(state["sums"])


class CostLog:
    """The costs of steps, on the device until they are fetched.

    Parameters
    ----------
    networks, costs : int
    steps : int
        How many it has room for.
    like : Tensor
        Gives type and device.
    """

    def __init__(self, networks: int, costs: int, steps: int, like: Tensor) -> None:
        self._rows = torch.zeros(steps, networks, costs, dtype=like.dtype, device=like.device)
        self._next = torch.zeros(1, dtype=torch.int64, device=like.device)

    def add(self, costs: Tensor) -> None:
        """Put a step's costs, of shape (networks, costs), behind the others; can be captured in a graph."""
        self._rows.index_copy_(0, self._next, costs.detach().unsqueeze(0))
        self._next.add_(1)

    def fetch(self) -> NDArray[np.float64]:
        """Return the costs since the last fetch, of shape (steps, networks, costs), and forget them."""
        found: NDArray[np.float64] = self._rows[: int(self._next)].double().cpu().numpy()
        self._next.zero_()
        return found


class Loop:
    """Makes the epochs of a run from where it stands.

    Parameters
    ----------
    parts : mapping of str to Stateful
        All that the steps change, but for what is given below.
    samplers : sequence of Sampler
        Of each network.
    optimizer : torch.optim.Optimizer
    generators : sequence of (torch.Generator or None)
        All that the steps draw from; None is the device's default one.
    like : Tensor
        Of the costs' type, on the device.
    weights : sequence of float
        Of the denoising costs, one a layer.
    epochs, steps_per_epoch : int
    rate : callable
        The learning rate of each of the run's steps, from 0.
    graphed : bool
        See `steps.Steps`.
    identity : callable
        Gives what tells the run from others, a mapping of str to anything that goes to JSON; asked for a keeper alone.
    keeper : Keeper or None
    callback : Callback
    where : callable
        Which layer the values of a network first stopped being finite in, if that can be told.
    processes : Processes
        That make the steps together; the costs are the means of theirs.
    """

    def __init__(
        self,
        parts: Mapping[str, Stateful],
        *,
        samplers: Sequence[Stateful],
        optimizer: torch.optim.Optimizer,
        generators: Sequence[torch.Generator | None],
        like: Tensor,
        weights: Sequence[float],
        epochs: int,
        steps_per_epoch: int,
        rate: Callable[[int], float],
        graphed: bool,
        identity: Callable[[], Mapping[str, Any]],
        keeper: Keeper | None,
        callback: Callback,
        where: Callable[[], str | None] = lambda: None,
        processes: Processes = ALONE,
    ) -> None:
        size = (len(samplers), 2 + len(weights))
        self.progress = Progress(*size)
        self._room = 1 if like.device.type == "cpu" else CHECKED_STEPS
        self.log = CostLog(*size, self._room, like)
        self._weights = weights
        self._optimizer, self._device = optimizer, like.device
        self._generators, self._graphed = generators, graphed
        self._epochs, self._steps_per_epoch, self._rate = epochs, steps_per_epoch, rate
        self._keeper, self._callback, self._where = keeper, callback, where
        self._processes = processes
        self._parts: dict[str, Stateful] = {
            **parts,
            **{f"sampler.{i}": sampler for i, sampler in enumerate(samplers)},
            "optimizer": _OptimizerState(optimizer),
            "random": _RandomStates(generators, self._device),
            "progress": self.progress,
        }
        if keeper is not None and (kept := keeper.load(identity())) is not None:
            self._go_on_from(kept)

    def _go_on_from(self, kept: Mapping[str, Any]) -> None:
        for name, part in self._parts.items():
            try:
                part.load_state_dict(kept[name])
            except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
                reason = " ".join(str(error).split())
                raise RunError(
                    f"the {name} of the checkpoint does not fit this training ({reason}): remove it, to begin anew."
                ) from error

    def __call__(
        self, step: Callable[[tuple[Tensor, ...]], None], batches: Iterator[tuple[Tensor, ...]]
    ) -> Iterator[int]:
        """Make the epochs that are left, and yield the number of each, once its records are in `progress.histories`.

        The step adds its costs to `log`.
        """
        run = Steps(
            step, self._optimizer, self._device, self._generators, divide=self._steps_per_epoch, graphed=self._graphed
        )
        progress = self.progress
        self._callback.on_train_begin(self._epochs, self._steps_per_epoch)
        if progress.epoch or progress.step:
            done = progress.epoch * self._steps_per_epoch + progress.step
            self._callback.on_resume(progress.histories[0], done)
        while progress.epoch < self._epochs:
            started, before = time.perf_counter(), progress.seconds
            fetched = progress.step
            for first in range(progress.step, self._steps_per_epoch, run.size):
                run(progress.epoch * self._steps_per_epoch + first, batches, self._rate, self._callback.on_step_end)
                progress.step = first + run.size
                progress.seconds = before + time.perf_counter() - started
                if progress.step + run.size > fetched + self._room:
                    self._fetch()
                    fetched = progress.step
                if self._keeper is not None and progress.step < self._steps_per_epoch:
                    self._keeper.after_steps(self._state, epoch_ended=False)
            self._fetch()
            self._record()
            yield progress.epoch
            for history in progress.histories:
                history[-1]["seconds"] = before + time.perf_counter() - started
            progress.step, progress.seconds = 0, 0.0
            progress.sums[:] = 0
            self._callback.on_epoch_end(progress.histories[0][-1])
            if self._keeper is not None:
                self._keeper.after_steps(self._state, epoch_ended=True)

    def end(self) -> None:
        """Tell the callback that the training is over, however it ended."""
        self._callback.on_train_end()

    def stop(self) -> None:
        """Make no epoch after this one."""
        self._epochs = self.progress.epoch

    def _state(self) -> dict[str, Any]:
        """All that is needed to go on from here, and nothing that could not."""
        self._fetch()
        weights = (weight for group in self._optimizer.param_groups for weight in group["params"])
        if not all(bool(torch.isfinite(weight).all()) for weight in weights):
            at = f"step {self.progress.step} of epoch {self.progress.epoch + 1}"
            raise TrainingError(f"weights were no longer finite after {at}. {_ADVICE}")
        return {name: part.state_dict() for name, part in self._parts.items()}

    def _record(self) -> None:
        progress = self.progress
        progress.epoch += 1
        rate = float(self._optimizer.param_groups[0]["lr"])
        for history, means in zip(progress.histories, progress.sums / self._steps_per_epoch, strict=True):
            cost, supervised_cost, *denoising = means.tolist()
            history.append({
                "epoch": progress.epoch,
                "seconds": 0.0,
                "learning_rate": rate,
                "cost": cost,
                "supervised_cost": supervised_cost,
                "denoising_costs": [c if w > 0 else None for c, w in zip(denoising, self._weights, strict=True)],
            })  # fmt: skip

    def _fetch(self) -> None:
        """Add the costs of the steps since the last time, after checking that they are finite."""
        rows = self._processes.mean(self.log.fetch())
        if not np.isfinite(rows).all():
            step = int(np.argmin(np.isfinite(rows).all(axis=(1, 2))))
            costs = rows[step][np.argmin(np.isfinite(rows[step]).all(axis=1))]
            self._fail(self.progress.step - len(rows) + step + 1, costs)
        for row in rows:
            self.progress.sums += row

    def _fail(self, step: int, costs: NDArray[np.float64]) -> None:
        _, supervised, *denoising = costs.tolist()
        broken = [layer for layer, cost in enumerate(denoising) if not math.isfinite(cost)]
        where = self._where()
        if where is None and math.isfinite(supervised) and broken:
            where = f"layer {broken[-1]} of the decoder"  # which runs downwards
        raise TrainingError(
            f"the cost became {costs[0]} in epoch {self.progress.epoch + 1}, step {step} of {self._steps_per_epoch}"
            + (f", beginning in {where}" if where else "")
            + f". {_ADVICE}"
        )


class _OptimizerState:
    """An optimiser's moments; the learning rate is set at every step."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer

    def state_dict(self) -> dict[str, Any]:
        state = self._optimizer.state_dict()["state"]
        return {str(number): values for number, values in state.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        groups = self._optimizer.state_dict()["param_groups"]
        numbered = {int(number): dict(values) for number, values in state.items()}
        self._optimizer.load_state_dict({"state": numbered, "param_groups": groups})


class _RandomStates:
    """The states of generators, torch's own ones included, which a module or a corruption of the caller's may use."""

    def __init__(self, generators: Sequence[torch.Generator | None], device: torch.device) -> None:
        self._generators = [generator for generator in generators if generator is not None]
        self._cuda = device if device.type == "cuda" else None

    def state_dict(self) -> dict[str, Any]:
        states = {str(i): generator.get_state() for i, generator in enumerate(self._generators)}
        states["torch"] = torch.get_rng_state()
        return states if self._cuda is None else {**states, "cuda": torch.cuda.get_rng_state(self._cuda)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for i, generator in enumerate(self._generators):
            generator.set_state(state[str(i)])
        torch.set_rng_state(state["torch"])
        if self._cuda is not None and "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"], self._cuda)
