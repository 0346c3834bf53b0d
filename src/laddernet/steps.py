"""Training steps, one after the other or, on a CUDA device, several in one launch of a CUDA graph."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

STEPS_A_LAUNCH = 25
"""At most. One launch costs the host some tens of microseconds, whatever it holds."""

Step = Callable[[tuple[Tensor, ...]], None]
"""Takes the row numbers of each stream's batch, on the device, and makes one step; without waiting for the device."""


def launch_size(steps: int) -> int:
    """The largest number of steps a launch, up to `STEPS_A_LAUNCH`, that divides so many steps."""
    return max(size for size in range(1, STEPS_A_LAUNCH + 1) if steps % size == 0)


class Steps:
    """Makes steps one by one, or in launches of a CUDA graph.

    Parameters
    ----------
    step, optimizer, device, generators
        See `Graphed`.
    divide : int
        What the number of steps in a launch must divide.
    graphed : bool

    Attributes
    ----------
    size : int
        Steps that each call makes.
    """

    def __init__(
        self,
        step: Step,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        generators: Sequence[torch.Generator | None],
        *,
        divide: int,
        graphed: bool,
    ) -> None:
        self.size = launch_size(divide) if graphed else 1
        self._launch = Graphed(step, optimizer, device, generators) if graphed else Eager(step, optimizer, device)

    def __call__(
        self,
        first: int,
        batches: Iterator[tuple[Tensor, ...]],
        rate: Callable[[int], float],
        on_step_end: Callable[[], None],
    ) -> None:
        """Make the run's steps from `first` on, each with its learning rate."""
        rates = [rate(step) for step in range(first, first + self.size)]
        self._launch([next(batches) for _ in rates], rates)
        for _ in rates:
            on_step_end()


class Eager:
    """Makes the steps one by one."""

    def __init__(self, step: Step, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self._step, self._optimizer, self._device = step, optimizer, device

    def __call__(self, batches: Sequence[tuple[Tensor, ...]], rates: Sequence[float]) -> None:
        """Make one step for each batch, each with its own learning rate."""
        for batch, rate in zip(batches, rates, strict=True):
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            self._step(tuple(rows.to(self._device) for rows in batch))


class Graphed:
    """Makes a fixed number of steps in each launch of a CUDA graph, which is captured once.

    The first call makes its steps without a graph, which prepares all that a capture must find ready (the optimiser's
    state, the libraries' workspaces); the second captures.

    Parameters
    ----------
    step : callable
        See `Step`. It must do the same work each time, on tensors that stay where they are.
    optimizer : torch.optim.Optimizer
        With learning rates that may be tensors, as `optimizer.Adam`.
    device : torch.device
    generators : sequence of (torch.Generator or None)
        All that the steps draw from; None is the device's default one.
    """

    def __init__(
        self,
        step: Step,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        generators: Sequence[torch.Generator | None],
    ) -> None:
        self._step, self._optimizer, self._device = step, optimizer, device
        self._generators = [g for g in generators if g is not None and g.device.type == "cuda"]
        self._graph: torch.cuda.CUDAGraph | None = None
        self._stream: torch.cuda.Stream | None = None

    def __call__(self, batches: Sequence[tuple[Tensor, ...]], rates: Sequence[float]) -> None:
        """Make one step for each batch, each with its own learning rate; always as many as at first."""
        given = [torch.stack(rows) for rows in zip(*batches, strict=True)]
        wanted = torch.tensor(rates, dtype=torch.float32)  # as the optimiser's kernel reads it
        with torch.cuda.device(self._device):
            if self._stream is None:
                self._prepare(given, wanted)
            for ours, theirs in zip(self._given, given, strict=True):
                ours.copy_(theirs.pin_memory(), non_blocking=True)
            self._rates.copy_(wanted.pin_memory(), non_blocking=True)
            if self._stream is None:
                self._first()
                return
            if self._graph is None:
                self._graph = self._capture(self._stream)
            self._graph.replay()

    def _prepare(self, given: Sequence[Tensor], rates: Tensor) -> None:
        self._given = [torch.empty_like(rows, device=self._device) for rows in given]
        self._rates = torch.empty_like(rates, device=self._device)
        for group in self._optimizer.param_groups:
            group["lr"] = torch.zeros((), dtype=torch.float32, device=self._device)

    def _first(self) -> None:
        """Make the steps on the stream that they will be captured on."""
        stream = self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        try:
            with torch.cuda.stream(stream):
                self._steps()
        finally:
            torch.cuda.current_stream(self._device).wait_stream(stream)

    def _steps(self) -> None:
        for i in range(len(self._rates)):
            for group in self._optimizer.param_groups:
                group["lr"].copy_(self._rates[i])
            self._step(tuple(rows[i] for rows in self._given))

    def _capture(self, stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
        self._optimizer.zero_grad()
        graph = torch.cuda.CUDAGraph()
        for generator in self._generators:
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph, stream=stream):
            self._steps()
        return graph
