"""Training steps, one after the other or, on a CUDA device, several in one launch of a CUDA graph."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

STEPS_A_LAUNCH = 25
"""At most. One launch costs the host some tens of microseconds, whatever it holds."""

Step = Callable[[tuple[Tensor, ...]], None]
"""Takes the row numbers of each stream's batch, on the device, and makes one step; without waiting for the device."""


def launch_size(steps: int) -> int:
    """The largest number of steps a launch, up to `STEPS_A_LAUNCH`, that divides so many steps."""
    return max(size for size in range(1, STEPS_A_LAUNCH + 1) if steps % size == 0)


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
    generators : sequence of torch.Generator
        All that the steps draw from, on the device.
    """

    def __init__(
        self,
        step: Step,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        generators: Sequence[torch.Generator],
    ) -> None:
        self._step, self._optimizer, self._device = step, optimizer, device
        self._generators = generators
        self._graph: torch.cuda.CUDAGraph | None = None
        self._calls = 0

    def __call__(self, batches: Sequence[tuple[Tensor, ...]], rates: Sequence[float]) -> None:
        """Make one step for each batch, each with its own learning rate; always as many as at first."""
        given = [torch.stack(rows) for rows in zip(*batches, strict=True)]
        if self._calls == 0:
            self._given = [rows.to(self._device) for rows in given]
            self._rates = torch.zeros(len(rates), device=self._device)
            for group in self._optimizer.param_groups:
                group["lr"] = torch.zeros((), device=self._device)
        for ours, theirs in zip(self._given, given, strict=True):
            ours.copy_(theirs.pin_memory(), non_blocking=True)
        self._rates.copy_(torch.tensor(rates).pin_memory(), non_blocking=True)
        if self._calls == 0:
            stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(stream):
                self._steps()
            torch.cuda.current_stream(self._device).wait_stream(stream)
        else:
            if self._graph is None:
                self._graph = self._capture()
            self._graph.replay()
        self._calls += 1

    def _steps(self) -> None:
        for i in range(len(self._rates)):
            for group in self._optimizer.param_groups:
                group["lr"].copy_(self._rates[i])
            self._step(tuple(rows[i] for rows in self._given))

    def _capture(self) -> torch.cuda.CUDAGraph:
        self._optimizer.zero_grad()
        graph = torch.cuda.CUDAGraph()
        for generator in self._generators:
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph):
            self._steps()
        return graph
