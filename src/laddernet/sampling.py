"""Which rows each training step takes: two streams, shuffled independently, that can be taken up where they were."""

from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MOST_SHUFFLED = 2**20
"""Rows up to which a pass's order is kept as a list; the order of more is computed where it is needed."""


class Shuffled:
    """Numbers 0 to rows - 1 in a random order that takes no memory for each: a place's number is computed.

    A Feistel network on the next even number of bits: rounds that add to one half of a number's bits a function of the
    other half can be undone, so that no two places get the same number; what falls beyond the last is taken through it
    again until it does not (Black and Rogaway 2002).

    Parameters
    ----------
    rows : int
        At most 2^60.
    generator : torch.Generator
        On the CPU; its keys are drawn from it.
    """

    ROUNDS = 8
    AT_ONCE = 2**16
    """Places that are computed at a time, as they are asked for one after the other."""

    def __init__(self, rows: int, generator: torch.Generator) -> None:
        self._rows = rows
        self._half = max(((rows - 1).bit_length() + 1) // 2, 1)
        self._keys = torch.randint(2**62, (self.ROUNDS,), generator=generator).tolist()
        self._first, self._numbers = 0, torch.empty(0, dtype=torch.int64)

    def __getitem__(self, places: slice) -> Tensor:
        start, stop, _ = places.indices(self._rows)
        if not self._first <= start <= stop <= self._first + len(self._numbers):
            self._first, self._numbers = start, self._compute(start, min(max(start + self.AT_ONCE, stop), self._rows))
        return self._numbers[start - self._first : stop - self._first]

    def _compute(self, start: int, stop: int) -> Tensor:
        numbers = self._once(np.arange(start, stop, dtype=np.uint64))
        while len(beyond := np.flatnonzero(numbers >= self._rows)):
            numbers[beyond] = self._once(numbers[beyond])
        return torch.from_numpy(numbers.astype(np.int64))

    def _once(self, numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
        half, mask = np.uint64(self._half), np.uint64((1 << self._half) - 1)
        left, right = numbers >> half, numbers & mask
        for key in self._keys:
            left, right = right, left ^ (_mixed(right ^ np.uint64(key)) & mask)
        return (left << half) | right


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Numbers whose every bit depends on all bits of the values (the finalizer of MurmurHash3)."""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        values = (values ^ (values >> np.uint64(33))) * np.uint64(factor)
    return values ^ (values >> np.uint64(33))


class Batches:
    """Row numbers, endlessly: pass after pass, each shuffled anew, without replacement within a pass.

    A last batch shorter than the others is dropped from its pass (its rows come in another); where the rows are
    fewer than a batch, or just one, every batch is all of them. Each is an int64 tensor of shape
    (min(rows, batch_size),).

    Parameters
    ----------
    rows : int
    batch_size : int
    generator : torch.Generator
        On the CPU.
    """

    def __init__(self, rows: int, batch_size: int, generator: torch.Generator) -> None:
        self._rows, self._batch_size, self._generator = rows, batch_size, generator
        self._last = max(rows - batch_size, 0)  # where a pass may still begin a batch
        self._next = self._last + 1
        self._before = generator.get_state()
        self._order: Tensor | Shuffled = torch.empty(0, dtype=torch.int64)

    def __iter__(self) -> Self:
        """Return itself."""
        return self

    def __next__(self) -> Tensor:
        """Return the next batch; there always is one."""
        if self._next > self._last:
            self._shuffle()
        batch = self._order[self._next : self._next + self._batch_size]
        self._next += self._batch_size
        return batch

    def _shuffle(self) -> None:
        self._before = self._generator.get_state()
        many = self._rows > MOST_SHUFFLED
        self._order = (
            Shuffled(self._rows, self._generator) if many else torch.randperm(self._rows, generator=self._generator)
        )
        self._next = 0

    def state_dict(self) -> dict[str, Any]:
        """Return where it is: what the pass was shuffled with, and how far it has come. It does not grow with the rows.

        The generator's own state, which others may draw from too, is the caller's to keep.
        """
        return {"before": self._before, "next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from such a state; the generator's state is then another."""
        self._generator.set_state(state["before"])
        if state["next"] <= self._last:
            self._shuffle()
        self._next = state["next"]


class Sampler:
    """Each step's row numbers, endlessly: of labelled rows and, where there are any, of unlabelled ones.

    Parameters
    ----------
    labeled : int
    unlabeled : int or None
    batch_size : int
    repeat_labels : bool
        Take each labelled row as often as fits into a batch, where they are fewer.
    generator : torch.Generator
        On the CPU.

    Attributes
    ----------
    sizes : list of int
        Rows of each stream in a step.
    """

    def __init__(
        self, labeled: int, unlabeled: int | None, *, batch_size: int, repeat_labels: bool, generator: torch.Generator
    ) -> None:
        self._generator = generator
        self._copies = max(batch_size // labeled, 1) if repeat_labels else 1
        counts = [rows for rows in (labeled, unlabeled) if rows is not None]
        self._streams = [Batches(rows, batch_size, generator) for rows in counts]
        self.sizes = [min(rows, batch_size) for rows in counts]
        self.sizes[0] *= self._copies

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        """Return itself."""
        return self

    def __next__(self) -> tuple[Tensor, ...]:
        """Return the row numbers of the next step."""
        labeled, *unlabeled = (next(stream) for stream in self._streams)
        return (labeled.repeat(self._copies), *unlabeled)

    def state_dict(self) -> dict[str, Any]:
        """Return where both streams are."""
        streams = {str(i): stream.state_dict() for i, stream in enumerate(self._streams)}
        return {"streams": streams, "generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from such a state."""
        for i, stream in enumerate(self._streams):
            stream.load_state_dict(state["streams"][str(i)])
        self._generator.set_state(state["generator"])
