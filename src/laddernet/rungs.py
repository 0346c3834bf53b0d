"""Rungs, and a network with rungs in it.

A rung is where a network normalises. `place` puts rungs into a copy of a network: in the place of its batch
normalisations, after its maps where it has none, or at the submodules that the caller names. The network's own
`forward` then runs the ladder; what a rung does on the way up, the ladder tells it through a `Visitor`. `plain` takes
the rungs out again.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

from laddernet.arguments import check_sizes, shown
from laddernet.distributed import Stack
from laddernet.normalization import EPSILON, Statistics, per_feature
from laddernet.products import LinearMap
from laddernet.tracing import PROBES, Call, Node, Step, Trace

MAPS = (nn.Linear, _ConvNd)
"""Modules with a bias that normalisation would remove; transposed convolutions are among the latter."""

HOMOGENEOUS = (
    nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.Identity, nn.Flatten, nn.Unflatten, _DropoutNd,
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
)  # fmt: skip
"""Modules with ``f(c x) = c f(x)`` for c > 0: a scale before them is redundant with what follows."""

POOLS = HOMOGENEOUS[7:]
_NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)
LARGEST_SHIFT = 10.0
"""Of a batch normalisation, over its scale, up to which it is learned in the scale's units."""
_OUTPUT_NODES = ("SoftmaxBackward", "LogSoftmaxBackward", "SigmoidBackward", "LogSigmoidBackward", "ReluBackward")
_OUTPUTS = (nn.Softmax, nn.LogSoftmax, nn.Softmax2d, nn.Softmin, nn.Sigmoid, nn.LogSigmoid)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
"""By the number of positions' dimensions."""


class Visitor:
    """What the normalisations of one network do at present; the ladder sets it, they share it.

    Attributes
    ----------
    visit : callable or None
        ``(normalization, z_pre) -> h``. Without one, stored statistics normalise.
    rows : int
        Of all streams.
    noisy : slice
        The rows that are of noisy streams; dropout takes place in these alone.
    stack : Stack
        What they are of all processes' rows.
    generator : torch.Generator or None
        Source of dropout.
    """

    def __init__(self) -> None:
        self.visit: Callable[[Normalization, Tensor], Tensor] | None = None
        self.rows = 0
        self.noisy = slice(0, 0)
        self.stack = Stack()
        self.generator: torch.Generator | None = None

    @contextmanager
    def visiting(
        self,
        visit: "Callable[[Normalization, Tensor], Tensor]",
        *,
        rows: int = 0,
        noisy: slice = slice(0, 0),
        stack: Stack = Stack(),  # noqa: B008 - it does not change
        generator: torch.Generator | None = None,
    ) -> Iterator[None]:
        """Have every normalisation answer by `visit` while the context lasts."""
        self.visit, self.rows, self.noisy, self.stack, self.generator = visit, rows, noisy, stack, generator
        try:
            yield
        finally:
            self.visit, self.rows, self.noisy, self.stack, self.generator = None, 0, slice(0, 0), Stack(), None


class Normalization(nn.Module):
    """Shift, scale and statistics of one place that normalises: ``activation(gamma * (BN(z_pre) + beta))``.

    Parameters
    ----------
    name : str
        Where it is in the network.
    shape : tuple of int
        Of one row of what is normalised: (features,) or (channels, *positions).
    visitor : Visitor
    shift, scale : bool
        Whether beta and gamma are learned. gamma is redundant before a positively homogeneous activation.

    Attributes
    ----------
    offset : Parameter of shape (features,), or None
        A shift after the scale, in the place of beta, where `keep` found one that is large beside the scale.
    """

    def __init__(
        self, name: str, shape: tuple[int, ...], visitor: Visitor, *, shift: bool = True, scale: bool = True
    ) -> None:
        super().__init__()
        features = shape[0]
        self.name = name
        self.shape = shape
        self.visitor = visitor
        self.beta = nn.Parameter(torch.zeros(features)) if shift else None
        self.gamma = nn.Parameter(torch.ones(features)) if scale else None
        self.offset: nn.Parameter | None = None
        self.statistics = Statistics(features)
        self.activation: nn.Module = nn.Identity()

    def forward(self, z_pre: Tensor) -> Tensor:
        """Normalise pre-activations of shape (batch, features, *positions), as the visitor wants it."""
        return self.clean(z_pre) if self.visitor.visit is None else self.visitor.visit(self, z_pre)

    def activate(self, z: Tensor) -> Tensor:
        """``activation(gamma * (z + beta))``, or ``activation(gamma * z + offset)``."""
        if self.beta is not None:
            z = z + per_feature(self.beta, z)
        if self.gamma is not None:
            z = per_feature(self.gamma, z) * z
        if self.offset is not None:
            z = z + per_feature(self.offset, z)
        h: Tensor = self.activation(z)
        return h

    def clean(self, z_pre: Tensor) -> Tensor:
        """``activation(gamma * (BN(z_pre) + beta))`` with the stored statistics, in two passes over the values.

        Not in one, as ``scale * z_pre + shift``: where a unit hardly varies, that loses its digits.
        """
        z_pre = z_pre.to(self.statistics.mean.dtype)
        scale = torch.rsqrt(self.statistics.var + EPSILON)
        shift = torch.zeros_like(scale) if self.beta is None else self.beta
        if self.gamma is not None:
            scale, shift = self.gamma * scale, self.gamma * shift
        if self.offset is not None:
            shift = shift + self.offset
        centred = z_pre - per_feature(self.statistics.mean, z_pre)
        answer: Tensor = self.activation(torch.addcmul(per_feature(shift, z_pre), centred, per_feature(scale, z_pre)))
        return answer

    def plain(self) -> nn.Module:
        """The same as ordinary batch normalisation, without the activation."""
        like = self.statistics.mean
        kind = _BATCH_NORMS[len(self.shape) - 1]
        norm = kind(self.shape[0], eps=EPSILON, device=like.device, dtype=like.dtype)
        with torch.no_grad():
            gamma = torch.ones_like(like) if self.gamma is None else self.gamma
            norm.weight.copy_(gamma)
            if self.beta is not None:
                norm.bias.copy_(gamma * self.beta)
            if self.offset is not None:
                norm.bias.add_(self.offset)
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.copy_(self.statistics.mean)
            norm.running_var.copy_(self.statistics.var)
        return norm

    def keep(self, norm: _BatchNorm) -> None:
        """Take over what a batch normalisation has learned: scale, shift (in units of the scale), statistics.

        In such units a shift beside which the scale is small is huge, and moves by as much with each step of the
        scale's. Where there is one, it stays as it is, after the scale.
        """
        with torch.no_grad():
            if norm.affine:
                if self.gamma is not None and self.beta is not None:
                    is_large = bool((norm.bias.abs() > LARGEST_SHIFT * norm.weight.abs()).any())
                    self.offset, self.beta = (self.beta, None) if is_large else (None, self.beta)
                scale = torch.where(norm.weight == 0, torch.finfo(norm.weight.dtype).tiny ** 0.5, norm.weight)
                if self.gamma is not None:
                    self.gamma.copy_(scale).requires_grad_(norm.weight.requires_grad)
                if self.beta is not None:
                    self.beta.copy_(norm.bias / scale).requires_grad_(norm.bias.requires_grad)
                if self.offset is not None:
                    self.offset.copy_(norm.bias).requires_grad_(norm.bias.requires_grad)
            if norm.running_mean is not None and norm.running_var is not None:
                self.statistics.mean.copy_(norm.running_mean)
                self.statistics.var.copy_(norm.running_var + norm.eps - EPSILON)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        """Shift where the state does: before the scale or after it."""
        if f"{prefix}offset" in state_dict and self.beta is not None:
            self.offset, self.beta = self.beta, None
        elif f"{prefix}beta" in state_dict and self.offset is not None:
            self.beta, self.offset = self.offset, None
        super()._load_from_state_dict(state_dict, prefix, *others)


class Rung(Normalization):
    """A layer of the ladder: noise comes in here, and the decoder has a layer against it.

    Attributes
    ----------
    layer : int
        Its number; the input is 0.
    """

    layer = 0


class Dropout(nn.Module):
    """Dropout of the noisy streams alone, from the ladder's generator.

    Parameters
    ----------
    original : nn.Module
        The network's own, which comes back in the plain encoder.
    visitor : Visitor
    """

    def __init__(self, original: _DropoutNd, visitor: Visitor) -> None:
        super().__init__()
        self.original = original
        self.visitor = visitor

    def forward(self, input: Tensor) -> Tensor:  # named as torch's own
        """Set a share of the values, or of the channels, to 0 and scale the others up.

        Raises
        ------
        ValueError
            If it comes to something else than all streams' rows, of which no part is the noisy ones.
        """
        h, share, rows = input, self.original.p, self.visitor.noisy
        if not self.training or rows.stop == rows.start or share == 0:
            return h
        if len(h) != self.visitor.rows:
            raise ValueError(
                f"a {type(self.original).__name__} of the encoder gets {len(h)} rows where the batch has "
                f"{self.visitor.rows}: the noisy streams cannot be told apart there. Use it on a batch's values alone."
            )
        noisy = h[rows]
        whole_channels = not isinstance(self.original, nn.Dropout)
        like, drawn = noisy.detach(), self.visitor.stack.whole
        positions = (1,) * (like.dim() - 2) if whole_channels else like.shape[2:]
        mask = like.new_empty(drawn, like.shape[1], *positions)
        mask = self.visitor.stack.of(mask.bernoulli_(1 - share, generator=self.visitor.generator))
        noisy = noisy * (mask / (1 - share) if share < 1 else mask)
        return torch.cat([h[: rows.start], noisy, h[rows.stop :]])


class _WithRung(nn.Sequential):
    """A module of the network and the rung that was put after it."""


class _Moved(nn.Identity):
    """In the place of an activation that the rung before it applies."""


class Between(NamedTuple):
    """What lies between a rung and the one below, or the input.

    Attributes
    ----------
    rung : str
        Name of the upper one.
    steps : list of Step, or None
        From below; None where the two do not follow each other on the trunk.
    below, above : tuple of int
        Shape of one row of the lower value and of the upper one.
    """

    rung: str
    steps: list[Step] | None
    below: tuple[int, ...]
    above: tuple[int, ...]


class Placed(NamedTuple):
    """A network with rungs in it; see `place`.

    Attributes
    ----------
    network : nn.Module
    normalizations : list of Normalization
        In the order in which values come to them, the rungs among them.
    between : list of Between
        One a rung, the lowest first.
    visitor : Visitor
        Of all of them.
    """

    network: nn.Module
    normalizations: list[Normalization]
    between: list[Between]
    visitor: Visitor


class _Place(NamedTuple):
    """Where a rung goes: in the place of a batch normalisation, or after a module."""

    call: Call
    is_norm: bool

    @property
    def input(self) -> Node:
        return self.call.source if self.is_norm else self.call.result


def place(encoder: nn.Module, rungs: Sequence[str] | None, input_shape: Sequence[int] | None) -> Placed:
    """Put rungs into a copy of a network.

    By default a rung takes the place of each batch normalisation on the trunk, and goes after each linear or
    convolutional map and each block (a module inside which paths part and meet) that none follows. Batch
    normalisations elsewhere keep their place, with statistics of each stream. A bias before a normalisation is
    dropped. The stored statistics start as what makes the network answer what it did in evaluation mode.

    Parameters
    ----------
    encoder : nn.Module
        From rows of shape (batch, *input_shape) to logits of shape (batch, outputs), without the output activation.
    rungs : sequence of str, or None
        Submodules, by their names in ``encoder.named_modules()``, after which the rungs go; a batch normalisation that
        is named, ends the submodule but for its activation, or follows it, gives up its place. The last one gives the
        network's output.
    input_shape : sequence of int, or None
        Of one row; None where the network begins with a linear map.

    Raises
    ------
    TypeError, ValueError
        If the network cannot become a ladder; the message says where and why.
    """
    if not isinstance(encoder, nn.Module):
        raise TypeError(f"the encoder must be a torch module, got {type(encoder).__name__}.")
    if input_shape is None:
        shape = _input_shape(encoder)
    else:
        shape = check_sizes("input_shape", input_shape, "the shape of a row in whole numbers, such as (1, 28, 28)")
    try:
        network = copy.deepcopy(encoder)
    except (RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"the encoder cannot be copied ({reason:.200}): give one that copy.deepcopy can.") from error
    modes = [(module, module.training) for module in network.modules()]
    for name, module in network.named_modules():
        _check_module(name, module)
        if isinstance(module, _BatchNorm) and module.running_mean is None:  # which would mix rows in evaluation too
            like = next(module.parameters(), torch.zeros(()))
            module.running_mean = torch.zeros(module.num_features, device=like.device, dtype=like.dtype)
            module.running_var = torch.ones_like(module.running_mean)
            module.track_running_stats = True
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # a rung's values are kept
    device = next((parameter.device.type for parameter in network.parameters()), "cpu")
    with torch.autocast(device, enabled=False):
        trace = Trace(network.eval(), shape)
        _check_end(trace)
        places = _default_places(trace) if rungs is None else _named_places(trace, rungs)
        placed = _Surgery(network, trace, places).operate()
        _rehearse(trace, placed.network.eval())
        _rehearse_training(trace, placed.network)
    placed.network.train(encoder.training)
    for module, training in modes:
        module.training = training
    return placed


def is_torchs_own(network: nn.Module) -> bool:
    """Whether all modules are torch's or ours, so that no `forward` holds surprises."""
    return all(type(module).__module__.startswith(("torch.nn.modules.", "laddernet.")) for module in network.modules())


def _rehearse(trace: Trace, network: nn.Module) -> None:
    """Check that the network with rungs, and what `plain` makes of it, still answer as the network did."""
    for what, run in (("with rungs", network), ("without its rungs again", plain(network))):
        try:
            with torch.no_grad():
                answer = run(trace.rows.clone())
        except (RuntimeError, AttributeError, TypeError, IndexError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"the encoder cannot be run {what} ({reason:.200}). Its forward asks for more of a module than to be "
                "called: change that, or name other rungs."
            ) from error
        scale = 1 + float(trace.output.abs().max())
        if trace.output.isfinite().all() and not torch.allclose(answer, trace.output, rtol=1e-2, atol=1e-2 * scale):
            raise ValueError(
                f"the encoder answers otherwise {what}: its forward does more with the modules that rungs go to than "
                "to call each once. Name other rungs."
            )


def _rehearse_training(trace: Trace, network: nn.Module) -> None:
    """Check that the network with rungs mixes no rows in training either, and runs each module in its forward alone."""
    network = copy.deepcopy(network).train()  # whose buffers may change
    visitor = next(module.visitor for module in network.modules() if isinstance(module, Normalization))
    visits: list[str] = []

    def visit(norm: Normalization, z_pre: Tensor) -> Tensor:
        visits.append(norm.name)
        return norm.clean(z_pre)

    rows = trace.rows.clone().requires_grad_()
    devices = [rows.device] if rows.is_cuda else []
    with torch.random.fork_rng(devices), torch.enable_grad(), visitor.visiting(visit, rows=PROBES):
        try:
            answer = network(rows)
        except (RuntimeError, AttributeError, TypeError, IndexError, ValueError, AssertionError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"the encoder cannot be run in training mode ({reason:.200}).") from error
        if not isinstance(answer, Tensor) or answer.shape != trace.output.shape:
            found = f"shape {tuple(answer.shape)}" if isinstance(answer, Tensor) else type(answer).__name__
            raise ValueError(
                f"the encoder gives {found} in training mode, but logits of shape {tuple(trace.output.shape)} in "
                "evaluation mode: it must give the logits alone in both."
            )
        forward = len(visits)
        (gradient,) = torch.autograd.grad(answer[0].sum(), rows)
    if len(visits) > forward:
        raise ValueError(
            f"module {visits[forward]!r} of the encoder is run again in the backward pass, as by "
            "torch.utils.checkpoint, where the ladder's streams are gone: take that out."
        )
    if bool(gradient[1:].count_nonzero()):
        raise ValueError(
            "the encoder's answer for a row depends on the other rows of its batch in training mode: it normalises by "
            "statistics of its own making. Use torch's BatchNorm modules, which become the ladder's."
        )


def count_rungs(encoder: nn.Module, rungs: Sequence[str] | None, input_shape: Sequence[int] | None) -> int:
    """Return how many rungs `place` puts into a network."""
    return sum(isinstance(made, Rung) for made in place(encoder, rungs, input_shape).normalizations)


def _input_shape(encoder: nn.Module) -> tuple[int, ...]:
    first = next((module for module in encoder.modules() if not any(True for _ in module.children())), encoder)
    if isinstance(first, nn.Linear):
        return (first.in_features,)
    raise ValueError(
        f"the encoder begins with {type(first).__name__}, which does not tell the shape of a row: give it as "
        "input_shape, such as (1, 28, 28) for images of one channel."
    )


def _check_module(name: str, module: nn.Module) -> None:
    if any(nn.parameter.is_lazy(parameter) for parameter in module.parameters(recurse=False)):
        raise ValueError(f"{_named(name, module)} has no weights yet: run the encoder on a batch first.")
    if isinstance(module, (nn.AlphaDropout, nn.FeatureAlphaDropout)):
        raise TypeError(f"{_named(name, module)} cannot be kept out of the clean stream: use nn.Dropout instead.")


def _named(name: str, module: nn.Module) -> str:
    return (
        f"module {name!r} of the encoder, {type(module).__name__},"
        if name
        else f"the encoder ({type(module).__name__})"
    )


def _check_end(trace: Trace) -> None:
    last = next((call for call in trace.calls if call.is_leaf and call.result is trace.trunk[-1]), None)
    top = trace.trunk[-1].name()
    if last is None and top.startswith(_OUTPUT_NODES):
        raise ValueError(
            f"the encoder ends in {top.split('Backward')[0]}: take it out. The ladder needs the logits and applies the "
            "output activation itself; with both, it would be applied twice."
        )
    if last is None:
        return
    kind = type(last.module).__name__
    if isinstance(last.module, _OUTPUTS):
        raise ValueError(
            f"the encoder ends in {kind}: take it out. The ladder needs the logits and applies the output activation "
            "itself; with both, it would be applied twice."
        )
    if not isinstance(last.module, (*MAPS, _BatchNorm, *POOLS, nn.Flatten, nn.Identity)) and (
        last.shape_in == last.shape_out
    ):
        raise ValueError(f"the encoder must end in what gives the logits, but ends in {kind}.")


def _default_places(trace: Trace) -> list[_Place]:
    on_trunk = [call for call in trace.calls if trace.is_on_trunk(call) and call.source is not call.result]
    norms = [call for call in on_trunk if isinstance(call.module, _BatchNorm)]
    maps = [call for call in on_trunk if isinstance(call.module, MAPS)]
    beside = [call.name for call in trace.calls if call.is_leaf and not trace.is_on_trunk(call)]
    blocks = [
        call for call in on_trunk
        if call.name and not call.is_leaf and any(name.startswith(f"{call.name}.") for name in beside)
    ]  # fmt: skip
    inner = [call for call in blocks if not any(other.name.startswith(f"{call.name}.") for other in blocks)]
    taken = {id(node) for call in norms for node in (call.source, call.result)}
    after = [call for call in (*maps, *inner) if id(call.result) not in taken]
    places = _in_order(trace, [*(_Place(call, True) for call in norms), *(_Place(call, False) for call in after)])
    top = trace.trunk[-1]
    if not places or places[-1].call.result is not top:
        made = [call for call in trace.calls if call.result is top]
        places.append(_Place(next((call for call in made if call.is_leaf), made[-1]), False))
    return places


def _named_places(trace: Trace, names: Sequence[str]) -> list[_Place]:
    known = {call.name for call in trace.calls}
    is_sequence = isinstance(names, Sequence) and not isinstance(names, str) and len(names) > 0
    if not is_sequence or not all(isinstance(name, str) for name in names):
        raise ValueError(f"rungs must be a sequence of submodules' names, got {shown(names)}.")
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"rungs names {', '.join(map(repr, unknown))}, which the encoder has not, or does not call with one "
            f"tensor. It has {', '.join(sorted(known - {''}))}."
        )
    places = _in_order(trace, [_named_place(trace, name) for name in names])
    if places[-1].call.result is not trace.trunk[-1]:
        last = next(call for call in trace.calls if call.result is trace.trunk[-1])
        raise ValueError(
            f"the last rung must give the logits, but {places[-1].call.name!r} does not: add {last.name!r} to rungs."
        )
    return places


def _named_place(trace: Trace, name: str) -> _Place:
    call = next(call for call in trace.calls if call.name == name)
    node = call.result
    while True:
        norms = [c for c in trace.calls if isinstance(c.module, _BatchNorm) and c.result is node]
        if norms and f"{norms[0].name}.".startswith(f"{name}." if name else ""):
            return _Place(norms[0], True)
        inside = f"{name}." if name else ""
        made = [c for c in trace.calls if c.is_leaf and c.result is node and c.name.startswith(inside)]
        if not made or isinstance(made[0].module, MAPS) or made[0].shape_in != made[0].shape_out:
            break
        node = made[0].source
    following = [c for c in trace.calls if isinstance(c.module, _BatchNorm) and c.source is call.result]
    if following and trace.uses(call.result) == 1:
        return _Place(following[0], True)
    return _Place(call, False)


def _in_order(trace: Trace, places: Sequence[_Place]) -> list[_Place]:
    """The places as values come to them, each once."""
    order = {id(call): i for i, call in enumerate(trace.calls)}
    by_node = {id(found.call.result): found for found in sorted(places, key=lambda p: not p.is_norm)[::-1]}
    return sorted(by_node.values(), key=lambda found: order[id(found.call)])


class _Surgery:
    """Puts the rungs in, and takes out what they make redundant."""

    def __init__(self, network: nn.Module, trace: Trace, places: list[_Place]) -> None:
        self._network, self._trace, self._places = network, trace, places
        self._visitor = Visitor()
        self._like = next((p for p in network.parameters() if p.is_floating_point()), torch.zeros(()))
        self._slots: dict[int, list[tuple[nn.Module, str]]] = {}
        for parent in network.modules():
            for key, child in parent._modules.items():
                self._slots.setdefault(id(child), []).append((parent, key))

    def operate(self) -> Placed:
        """Return the network with rungs."""
        made: dict[int, Normalization] = {}
        by_call = {id(found.call): i for i, found in enumerate(self._places)}
        self._check_all_seen()
        moves = is_torchs_own(self._network)
        for call in self._trace.calls:
            if isinstance(call.module, _DropoutNd):
                self._check_rows(call)
        for module in [module for module in self._network.modules() if isinstance(module, _DropoutNd)]:
            self._replace(module, Dropout(module, self._visitor))  # a forward may call it in training alone
        for call in self._trace.calls:
            if id(call) in by_call:
                made[id(call)] = self._put_rung(by_call[id(call)])
            elif isinstance(call.module, _BatchNorm):
                made[id(call)] = self._put_normalization(call)
        for parent in list(self._network.modules()) if moves else []:
            if type(parent) is nn.Sequential:
                _move_activations(parent)
        normalizations = [made[id(call)] for call in self._trace.calls if id(call) in made]
        return Placed(self._network, normalizations, self._between(), self._visitor)

    def _between(self) -> list[Between]:
        node, shape = self._trace.trunk[0], self._trace.input_shape
        between = []
        for found in self._places:
            call = found.call
            between.append(Between(call.name, self._trace.way(node, found.input), shape, call.shape_out))
            node, shape = call.result, call.shape_out
        return between

    def _put_rung(self, index: int) -> Rung:
        found, is_top = self._places[index], index + 1 == len(self._places)
        module, shape = found.call.module, found.call.shape_out
        self._check_called_once(found.call)
        if isinstance(module, nn.Linear) and len(shape) > 1:
            raise ValueError(
                f"{_named(found.call.name, module)} gives rows of shape {shape}, its features last, but a rung wants "
                "(features,) or (channels, *positions). Name other rungs, or transpose the values before them."
            )
        if not found.is_norm and len(shape) > 1 and self._ends_features_last(found.call):
            raise ValueError(
                f"{_named(found.call.name, module)} gives rows of shape {shape}, its features last, as what is inside "
                "it does, but a rung wants (channels, *positions). Name other rungs, or transpose the values before "
                "them."
            )
        if not 1 <= len(shape) <= len(_BATCH_NORMS):
            raise ValueError(f"{_named(found.call.name, module)} gives rows of shape {shape}, which no rung can take.")
        norm = module if isinstance(module, _BatchNorm) and found.is_norm else None
        is_pool = isinstance(module, POOLS) and not is_top
        learned, frozen = _scale_of(norm)
        rung = Rung(
            found.call.name, shape, self._visitor,
            shift=norm.affine if norm is not None else not is_pool,
            scale=learned or not (frozen or is_pool or (not is_top and self._is_redundant(index))),
        )  # fmt: skip
        self._finish(rung, norm)
        if norm is None:
            self._drop_bias(found.call, rung)
            self._replace(found.call.module, _WithRung(self._now(found.call.module), rung))
        else:
            self._drop_bias_before(found.call, rung)
            self._replace(norm, rung)
        return rung

    def _ends_features_last(self, block: Call) -> bool:
        """Whether the last map or normalisation inside a block goes by the last dimension."""
        inside = [
            call.module for call in self._trace.calls
            if call.name.startswith(f"{block.name}.") and call.shape_out == block.shape_out
            and isinstance(call.module, (*MAPS, *_NORMS))
        ]  # fmt: skip
        return bool(inside) and isinstance(inside[-1], (nn.Linear, nn.LayerNorm))

    def _put_normalization(self, call: Call) -> Normalization:
        norm = call.module
        assert isinstance(norm, _BatchNorm)
        self._check_called_once(call)
        made = Normalization(call.name, call.shape_out, self._visitor, shift=norm.affine, scale=norm.affine)
        self._finish(made, norm)
        self._drop_bias_before(call, made)
        self._replace(norm, made)
        return made

    def _finish(self, made: Normalization, norm: _BatchNorm | None) -> None:
        made.to(self._like.device, self._like.dtype)
        made.training = self._network.training
        if norm is None:
            made.statistics.var -= EPSILON
        else:
            made.keep(norm)

    def _is_redundant(self, index: int) -> bool:
        """Whether a scale after this rung is redundant with the next map, or with the next rung's normalisation."""
        steps = self._trace.way(self._places[index].call.result, self._places[index + 1].input)
        for step in steps or []:
            if step.call is not None and isinstance(step.call.module, MAPS):
                return True
            if step.call is None or not isinstance(step.call.module, HOMOGENEOUS):
                return False
        return steps is not None

    def _drop_bias_before(self, call: Call, made: Normalization) -> None:
        for below in self._trace.calls:
            if below.result is call.source and isinstance(below.module, MAPS) and self._trace.uses(below.result) == 1:
                self._drop_bias(below, made)

    def _drop_bias(self, call: Call, made: Normalization) -> None:
        module = call.module
        if isinstance(module, nn.Linear) and len(call.shape_out) > 1:
            return  # its features are last, and what normalises goes by the first dimension
        if not isinstance(module, MAPS) or sum(other.module is module for other in self._trace.calls) > 1:
            return
        if module.bias is not None:
            with torch.no_grad():  # the stored mean stands for it, until training or calibration
                made.statistics.mean -= module.bias
            module.bias = None
        if type(module) is nn.Linear:
            linear = LinearMap(module.in_features, module.out_features)
            linear.weight = module.weight
            linear.weight.data = module.weight.detach().contiguous()  # the kernels go by rows
            self._replace(module, linear)

    def _check_all_seen(self) -> None:
        seen = {id(call.module) for call in self._trace.calls}
        for name, module in self._network.named_modules():
            if isinstance(module, _BatchNorm) and module in self._trace.called and id(module) not in seen:
                raise ValueError(f"{_named(name, module)} must be called with one tensor, by position.")

    def _check_rows(self, call: Call) -> None:
        if self._trace.rows_of(call) != PROBES:
            raise ValueError(
                f"{_named(call.name, call.module)} gets {self._trace.rows_of(call)} rows for {PROBES}: the streams "
                "cannot be told apart there. Keep a batch's rows in the first dimension."
            )

    def _check_called_once(self, call: Call) -> None:
        self._check_rows(call)
        if sum(other.module is call.module for other in self._trace.calls) > 1:
            raise ValueError(
                f"{_named(call.name, call.module)} is called more than once, but its statistics differ from one place "
                "to the other: give each place a module of its own."
            )

    def _now(self, module: nn.Module) -> nn.Module:
        """What is now in a module's place."""
        slots = self._slots.get(id(module))
        return slots[0][0]._modules[slots[0][1]] or module if slots else self._network

    def _replace(self, module: nn.Module, by: nn.Module) -> None:
        slots = self._slots.get(id(module))
        for parent, key in slots or []:
            parent._modules[key] = by
        if slots is None:
            self._network = by


def _scale_of(norm: _BatchNorm | None) -> tuple[bool, bool]:
    """Whether a batch normalisation has a scale that must be kept, and whether it has none or one that stays 1."""
    if norm is None:
        return False, False
    if not norm.affine:
        return False, True
    is_one = torch.equal(norm.weight, torch.ones_like(norm.weight))
    return not is_one, not norm.weight.requires_grad


def _move_activations(parent: nn.Sequential) -> None:
    """Have rungs apply the activation that follows them, a rectifier as one operation in the kernels."""
    children = list(parent)
    for i, (child, following) in enumerate(pairwise(children)):
        last = _rung_at_end(child)
        if last is not None and type(following).__module__ == "torch.nn.modules.activation":
            last.activation = following
            parent[i + 1] = _Moved()


def _rung_at_end(module: nn.Module) -> Normalization | None:
    last = module[1] if isinstance(module, _WithRung) else module
    return last if isinstance(last, Normalization) else None


def plain(network: nn.Module) -> nn.Module:
    """Return a copy of a placed network with batch normalisation where its rungs are; in evaluation mode."""
    made = _plain(copy.deepcopy(network), is_sequence=True)
    return (made[0] if len(made) == 1 else nn.Sequential(*made)).eval()


def _plain(module: nn.Module, *, is_sequence: bool = False) -> list[nn.Module]:
    """A module without rungs, as one module or as several that follow each other.

    Only where nothing but `nn.Sequential` is around (`is_sequence`) are several put side by side; elsewhere a `forward`
    may go by their number.
    """
    if isinstance(module, Normalization):
        return [module.plain()]
    if isinstance(module, Dropout):
        return [module.original]
    if isinstance(module, LinearMap):
        linear = nn.Linear(module.in_features, module.out_features, bias=False, device="meta")
        linear.weight = module.weight
        return [linear]
    if isinstance(module, _WithRung):
        return [part for child in module for part in _plain(child, is_sequence=is_sequence)]
    below: nn.Module | None = None
    parts: list[nn.Module] = []
    for key, child in module._modules.items():
        if child is None:
            continue
        flat = is_sequence and type(module) is nn.Sequential
        rung = _rung_at_end(below) if below is not None and isinstance(child, _Moved) else None
        made = _plain(child, is_sequence=flat) if rung is None else [rung.activation]
        below = child
        parts += made
        module._modules[key] = made[0] if len(made) == 1 else nn.Sequential(*made)
    if is_sequence and type(module) is nn.Sequential and all(key.isdecimal() for key in module._modules):
        return [nn.Sequential(*parts)]
    return [module]
