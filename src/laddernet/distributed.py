"""Several processes that train one network: which rows each has, and what they tell each other.

Each process takes its own rows of every batch. Batch statistics, gradients and costs are those of the whole batch
(`normalization.batch_normalize_streams`, torch's DistributedDataParallel, `Processes.mean`), and all processes draw the
same random numbers for the whole batch, so that a run is the same whatever their number, but for rounding.
"""

import gc
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from laddernet.errors import LaddernetError, ProcessLostError
from laddernet.launcher import launched_size

T = TypeVar("T")


class Share(NamedTuple):
    """The rows of a batch that one process has: `rows` of all `whole`, from `first` on."""

    first: int
    rows: int
    whole: int

    @property
    def is_part(self) -> bool:
        """Whether other processes have rows of the batch, too."""
        return self.rows < self.whole

    def of(self, batch: Tensor) -> Tensor:
        """Return its rows of a whole batch, of shape (whole, ...)."""
        return batch[self.first : self.first + self.rows]

    def among_all(self, rows: Tensor) -> Tensor:
        """Return a whole batch that holds these rows, of shape (rows, ...), in their place, and zeros elsewhere."""
        if not self.is_part:
            return rows
        after = self.whole - self.first - self.rows
        parts = [rows.new_zeros(self.first, *rows.shape[1:]), rows, rows.new_zeros(after, *rows.shape[1:])]
        return torch.cat(parts)


class Stack(NamedTuple):
    """The shares of several streams, one behind the other."""

    shares: tuple[Share, ...] = ()

    @property
    def whole(self) -> int:
        """Rows of all streams in all processes."""
        return sum(share.whole for share in self.shares)

    def split(self, batches: Tensor) -> list[Tensor]:
        """Return this process's rows of each stream; of whole batches, of shape (whole, ...)."""
        parts = torch.split(batches, [share.whole for share in self.shares])
        return [share.of(part) for share, part in zip(self.shares, parts, strict=True)]

    def of(self, batches: Tensor) -> Tensor:
        """Return this process's rows of all streams."""
        if not any(share.is_part for share in self.shares):
            return batches
        return torch.cat(self.split(batches))


class Processes:
    """The processes of a training, seen from one of them; by default it is alone.

    All of them must call the methods that say so, in the same order.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup, optional
        By default torch's default group, where one has been made (`torch.distributed.init_process_group`).

    Attributes
    ----------
    rank : int
        Number of this process, from 0.
    size : int
        How many there are.
    agree_every : int
        Steps after which, at the latest, they ask each other what is to be done: 1 without GPUs.
    """

    def __init__(self, group: Any = None) -> None:
        self.rank, self.size, self.agree_every, self._group = 0, 1, 1, group
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            self.rank, self.size = torch.distributed.get_rank(group), torch.distributed.get_world_size(group)
            config = str(torch.distributed.distributed_c10d.get_backend_config(group))
            self._device = torch.device("cpu" if "cpu:" in config else "cuda")
            self.agree_every = 25 if self.size > 1 and torch.cuda.is_available() else 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and shows what there is."""
        return self.rank == 0

    def share(self, rows: int) -> Share:
        """Return which of a batch's rows this process has, one after the other; shares differ by a row at most."""
        first, end = rows * self.rank // self.size, rows * (self.rank + 1) // self.size
        return Share(first, end - first, rows)

    def sum(self, values: Tensor) -> Tensor:
        """Add a tensor up over all processes, in place, and return it; all must call it."""
        if self.size > 1:
            torch.distributed.all_reduce(values, group=self._group)
        return values

    def mean(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return an array's mean over all processes; all must call it."""
        if self.size == 1:
            return values
        total: NDArray[np.float64] = self.sum(torch.from_numpy(values).to(self._device)).cpu().numpy()
        return total / self.size

    def most(self, *numbers: int) -> list[int]:
        """Return the largest of each number over all processes; all must call it."""
        if self.size == 1:
            return list(numbers)
        found = torch.tensor(numbers, device=self._device)
        torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX, group=self._group)
        return cast(list[int], found.tolist())

    def from_first(self, make: Callable[[], T]) -> T:
        """Return what a function gives in the first process, or raise its error, in all; all must call it."""
        if self.size == 1:
            return make()
        outcome: list[Any] = [None, None]
        raised: Exception | None = None
        if self.is_first:
            try:
                outcome[0] = make()
            except Exception as error:
                raised = error
                outcome[1] = error if isinstance(error, (LaddernetError, OSError)) else RuntimeError(repr(error))
        first = 0 if self._group is None else torch.distributed.get_global_rank(self._group, 0)
        torch.distributed.broadcast_object_list(outcome, first, group=self._group, device=self._device)
        if raised is not None:
            raise raised
        if outcome[1] is not None:
            raise outcome[1]
        return cast(T, outcome[0])

    def after_first(self, make: Callable[[], T]) -> T:
        """Return what a function gives in each process, in the first one before the others; all must call it."""
        made: list[T] = []
        self.from_first(lambda: made.append(make()))
        return made[0] if made else make()

    def wrap(self, network: nn.Module) -> nn.Module:
        """Return what computes a network's answer, and leaves gradients averaged over all processes behind it."""
        if self.size == 1:
            return network
        device = next(network.parameters()).device
        known = inspect.signature(nn.parallel.DistributedDataParallel).parameters
        keep_buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        others: dict[str, Any] = {keep_buffers: False}  # they are the same everywhere
        devices = None if device.type == "cpu" else [device]
        return nn.parallel.DistributedDataParallel(network, devices, process_group=self._group, **others)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Turn the errors in which torch says that another process is gone into one of ours.

        Raises
        ------
        ProcessLostError
        """
        try:
            yield
        except RuntimeError as error:
            text = " ".join(str(error).split())
            lost = isinstance(error, torch.distributed.DistError) or any(
                word in text.lower() for word in ("gloo", "nccl", "connection closed", "connection reset")
            )
            if self.size == 1 or not lost:
                raise
            raise ProcessLostError(
                f"another of the {self.size} processes ended, or cannot be reached: see what it said, if anything."
            ) from error


ALONE = Processes()
"""One process."""


@contextmanager
def launched() -> Iterator[Processes]:
    """Join the processes that a launcher such as torchrun has started; without one, be alone.

    On a machine with GPUs each process takes the one of its number there (``LOCAL_RANK``), and messages go by
    NCCL; else by Gloo.

    Raises
    ------
    ProcessLostError
        If not all of them come.
    """
    if launched_size() == 1:
        yield ALONE
        return
    has_gpus = torch.cuda.is_available()
    if has_gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    try:
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if has_gpus else "gloo")
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ProcessLostError(f"the {launched_size()} processes did not come together ({reason:.300}).") from error
    yield Processes()
    gc.collect()  # a DistributedDataParallel that is left would hold the group, whose threads abort when Python ends
    torch.distributed.destroy_process_group()  # not after an error, when the others may be gone
