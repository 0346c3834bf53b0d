"""The way that values take through a network: one run of it, its modules' calls, and where the paths part and meet.

A network is run once, in evaluation mode; the graph that automatic differentiation records tells which values came
from which, whatever the network's `forward` is written in. A value that everything goes through is on the *trunk*; the
inside of a residual block is not.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Node = Any
"""What automatic differentiation keeps for one operation's result."""

PROBES = 3
"""Rows that a network is run on."""


class Call(NamedTuple):
    """One call of a module, from one tensor to one tensor.

    Attributes
    ----------
    name : str
        As in `named_modules`.
    module : nn.Module
    source, result : Node
        What the input and the output came from.
    shape_in, shape_out : tuple of int
        Of one row.
    """

    name: str
    module: nn.Module
    source: Node
    result: Node
    shape_in: tuple[int, ...]
    shape_out: tuple[int, ...]

    @property
    def is_leaf(self) -> bool:
        """Whether the module has none inside it."""
        return not any(True for _ in self.module.children())


class Step(NamedTuple):
    """One step of a way along the trunk, from one value to the next that is known.

    Attributes
    ----------
    call : Call or None
        The module that made it; None for an operation of the network's own `forward`.
    parts : bool
        Whether paths part and meet again in it, as in a residual block.
    shape_in, shape_out : tuple of int
        Of one row.
    """

    call: Call | None
    parts: bool
    shape_in: tuple[int, ...]
    shape_out: tuple[int, ...]


class Trace:
    """What one run of a network shows.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode.
    input_shape : sequence of int
        Of one row.

    Attributes
    ----------
    calls : list of Call
        In the order in which they ended.
    input_shape : tuple of int
    called : set of nn.Module
        All modules that were called, with one tensor or otherwise.
    output : Tensor of shape (PROBES, outputs)
        What the network answered on `rows`.
    rows : Tensor of shape (PROBES, *input_shape)
    trunk : list of Node
        The input first, the output last.

    Raises
    ------
    ValueError
        If the network cannot take such rows, gives something else than a tensor, or mixes rows.
    """

    def __init__(self, network: nn.Module, input_shape: Sequence[int]) -> None:
        self.calls: list[Call] = []
        self.input_shape = tuple(input_shape)
        self.called: set[nn.Module] = set()
        generator = torch.Generator().manual_seed(0)
        like = next((p for p in network.parameters() if p.is_floating_point()), torch.zeros(()))
        rows = torch.randn(PROBES, *input_shape, generator=generator, dtype=torch.float64)
        start = rows.to(like.device, like.dtype).requires_grad_()
        with torch.inference_mode(False), torch.enable_grad():
            x = start.clone()
            origin = x.grad_fn
            output = self._run(network, x)
        self._check_output(start, output)
        self.rows, self.output = start.detach(), output.detach()
        self._order = _between(origin, output.grad_fn)
        if not self._order:
            raise ValueError("no gradient reaches the encoder's input: its output does not depend on it.")
        if any(node.name().startswith("CheckpointFunction") for node in self._order):
            raise ValueError(
                "the encoder uses torch.utils.checkpoint, which hides what is inside it and runs it again in the "
                "backward pass, where the ladder's streams are gone: take it out."
            )
        self._check_alone(network)
        self._known = set(self._order)
        self.trunk = _trunk(self._order)
        self._place = {node: place for place, node in enumerate(self.trunk)}
        self._calls_to: dict[Node, list[Call]] = {}
        for call in self.calls:
            self._calls_to.setdefault(call.result, []).append(call)

    def _run(self, network: nn.Module, x: Tensor) -> Any:
        started: list[tuple[Node, tuple[int, ...]]] = []

        def before(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            self.called.add(module)
            first = arguments[0] if len(arguments) == 1 and isinstance(arguments[0], Tensor) else None
            started.append((None, ()) if first is None else (first.grad_fn, tuple(first.shape[1:])))

        def after(name: str, module: nn.Module, output: Any) -> None:
            source, shape = started.pop()
            if source is not None and isinstance(output, Tensor) and output.grad_fn is not None:
                self.calls.append(Call(name, module, source, output.grad_fn, shape, tuple(output.shape[1:])))

        handles = []
        for name, module in network.named_modules():
            handles.append(module.register_forward_pre_hook(before))
            handles.append(module.register_forward_hook(lambda m, _, output, name=name: after(name, m, output)))
        try:
            return network(x)
        except (RuntimeError, TypeError, ValueError, IndexError, AssertionError, AttributeError) as error:
            where = " ".join(str(error).split())
            raise ValueError(
                f"the encoder cannot take rows of shape {tuple(x.shape[1:])}, one tensor of {x.dtype}: {where:.200}. "
                "Give the shape of one row as input_shape, such as (1, 28, 28); what takes something else needs "
                "a module around it that makes it of such rows."
            ) from error
        finally:
            for handle in handles:
                handle.remove()

    @staticmethod
    def _check_output(x: Tensor, output: Any) -> None:
        if not isinstance(output, Tensor) or output.dim() != 2 or len(output) != len(x):
            found = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"the encoder must give logits of shape (batch, outputs), but for {len(x)} rows it gives {found}. End "
                "it in a pool and nn.Flatten, or in a linear map."
            )
        if output.grad_fn is None:
            raise ValueError("no gradient reaches the encoder's input: its output does not depend on it.")

    def _check_alone(self, network: nn.Module) -> None:
        output = self.output
        with torch.inference_mode(False), torch.no_grad():
            alone = network(self.rows[:1].clone())
        tolerance = 1e-3 * (1 + float(output.abs().max()))
        if output.isfinite().all() and not torch.allclose(alone, output[:1], rtol=1e-3, atol=tolerance):
            raise ValueError("the encoder's answer for a row depends on the other rows of its batch.")

    def is_on_trunk(self, call: Call) -> bool:
        """Whether everything goes through what the call takes and what it gives."""
        return call.source in self._place and call.result in self._place

    def position(self, node: Node) -> int:
        """Place of a value on the trunk, or of the last one there that it came from."""
        if node in self._place:
            return self._place[node]
        return max(self._place[other] for other in _between(self.trunk[0], node) if other in self._place)

    @staticmethod
    def rows_of(call: Call) -> int:
        """How many rows the result of a call has; `PROBES`, unless the network folds other dimensions into them."""
        return int(call.result._input_metadata[0].shape[0])

    def uses(self, node: Node) -> int:
        """How many operations take a value."""
        return sum(target is node for source in self._order for target, _ in _inputs(source))

    def way(self, low: Node, high: Node) -> list[Step] | None:
        """The steps from one value up to another, or None where they are not both on the trunk, in this order."""
        if low not in self._place or high not in self._place or self._place[low] > self._place[high]:
            return None
        steps: list[Step] = []
        node = high
        while node is not low:
            call = self._made_by(node, self._place[low])
            below = call.source if call else self.trunk[self._place[node] - 1]
            inputs = {id(target) for target, _ in _inputs(node) if target in self._known}
            parts = call is None and len(inputs) > 1
            steps.append(Step(call, parts, _shape(below), _shape(node)))
            node = below
        return steps[::-1]

    def _made_by(self, node: Node, lowest: int) -> Call | None:
        """The smallest module that made a value from one on the trunk."""
        made = [
            call
            for call in self._calls_to.get(node, [])
            if call.is_leaf and call.source is not node and self._place.get(call.source, -1) >= lowest
        ]
        return made[0] if made else None


def _inputs(node: Node) -> Iterator[tuple[Node, int]]:
    return ((target, number) for target, number in node.next_functions if target is not None)


def _between(low: Node, high: Node) -> list[Node]:
    """All nodes on a way from one up to another, each after those that it came from."""
    order: list[Node] = []
    reaches: dict[Node, bool] = {low: True}
    pending: list[tuple[Node, bool]] = [(high, False)]
    while pending:
        node, expanded = pending.pop()
        if expanded:
            reaches[node] = any(reaches.get(target, False) for target, _ in _inputs(node))
            if reaches[node]:
                order.append(node)
        elif node not in reaches:
            reaches[node] = False
            pending.append((node, True))
            pending += [(target, False) for target, _ in _inputs(node)]
    if high is low:
        return [low]
    return [low, *order] if reaches[high] else []


def _trunk(order: list[Node]) -> list[Node]:
    """The nodes of one tensor that every way goes through, by counting the ways past each."""
    place = {node: i for i, node in enumerate(order)}
    passing = [0] * (len(order) + 1)
    single = set(order)
    for node in order:
        for target, number in _inputs(node):
            if target in place:
                passing[place[target] + 1] += 1
                passing[place[node]] -= 1
                if number > 0:
                    single.discard(target)
    trunk, count = [], 0
    for i, node in enumerate(order):
        count += passing[i]
        if count == 0 and node in single:
            trunk.append(node)
    return trunk


def _shape(node: Node) -> tuple[int, ...]:
    """Shape of a value without its first dimension."""
    return tuple(node._input_metadata[0].shape[1:])
