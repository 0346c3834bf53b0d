"""The way back down: the decoder's map from one rung to the one below, the mirror of what the network has there.

A linear map is mirrored by a linear map, a convolution by a transposed one and the other way round, with the shapes
matched exactly; a pool by nearest upsampling, a mean over all positions by its expansion, a flattening by its reverse.
Where paths part and meet again, as in a residual block, and where nothing else is known, a small learned map stands
in. A new kind of module joins by registering with `mirror`.
"""

import math
from collections.abc import Mapping, Sequence
from functools import singledispatch
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from laddernet.normalization import Statistics, features_last
from laddernet.products import LinearMap
from laddernet.rungs import Between
from laddernet.tracing import Step

Shape = tuple[int, ...]

_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class DecoderLayer(nn.Module):
    """One layer of the decoder: ``u = BN(map(z_hat above))`` and ``z_hat = combinator(z_noisy, u)``.

    Parameters
    ----------
    map : nn.Module or None
        From the layer above; None at the top, where u is the normalised noisy output.
    combinator : nn.Module
        Called with ``(z_noisy, u)``; where it has an attribute `needs_above` that is False, u is only of u's shape.
    features : int
        Width or channels of the layer.
    """

    def __init__(self, map: nn.Module | None, combinator: nn.Module, features: int) -> None:
        super().__init__()
        self.map = map
        self.combinator = combinator
        self.needs_above: bool = getattr(combinator, "needs_above", True)
        self.statistics = Statistics(features)


class Fit(nn.Module):
    """Cut the end off each dimension of the positions, or pad it with 0, to a given size."""

    def __init__(self, size: Sequence[int]) -> None:
        super().__init__()
        self.size = tuple(size)

    def forward(self, h: Tensor) -> Tensor:
        """Take and return values of shape (batch, channels, *positions)."""
        missing = [wanted - there for wanted, there in zip(self.size, h.shape[2:], strict=True)]
        return functional.pad(h, [end for amount in missing[::-1] for end in (0, amount)])


class Resize(nn.Module):
    """Nearest upsampling (or downsampling) to a given size; of a single position, its expansion."""

    def __init__(self, size: Sequence[int]) -> None:
        super().__init__()
        self.size = tuple(size)

    def forward(self, h: Tensor) -> Tensor:
        """Take and return values of shape (batch, channels, *positions)."""
        return functional.interpolate(h, size=list(self.size), mode="nearest")


class Reshape(nn.Module):
    """The same values in rows of another shape."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, h: Tensor) -> Tensor:
        """Take and return as many values a row."""
        return h.reshape(len(h), *self.shape)


class TransposedConvolution(nn.Module):
    """The transpose of a convolution as a linear map: from values of its output's shape to values of its input's.

    The same as torch's transposed convolutions, but that any size of the input is met exactly, and that the work is
    done by the kernels of a convolution's backward pass, which on the CPU are many times faster.

    Parameters
    ----------
    below, above : tuple of int
        Shape of one row of the convolution's input and of its output: (channels, *positions).
    kernel_size, stride, padding, dilation : sequence of int
        The convolution's, one a dimension of the positions; the padding before the first position.
    groups : int
    """

    def __init__(
        self,
        below: Shape,
        above: Shape,
        kernel_size: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
    ) -> None:
        super().__init__()
        self.stride, self.padding, self.dilation, self.groups = (*map(list, (stride, padding, dilation)), groups)
        self.below = below
        reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel_size, strict=True)]
        ends = zip(above[1:], below[1:], reach, stride, padding, strict=True)
        # Padding after the last position may be greater than before the first; values there are cut off again.
        self.more = [max((n - 1) * s + r - 2 * p - size, 0) for n, size, r, s, p in ends]
        self.weight = nn.Parameter(torch.empty(above[0], below[0] // groups, *kernel_size))

    def forward(self, h: Tensor) -> Tensor:
        """Map values of shape (batch, *above) to (batch, *below)."""
        device = h.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else h.dtype
        size = [n + more for n, more in zip(self.below[1:], self.more, strict=True)]
        settings = (self.stride, self.padding, self.dilation, self.groups)
        answer: Tensor = _Transposed.apply(  # type: ignore[no-untyped-call]
            h.to(dtype), self.weight.to(dtype), (len(h), self.below[0], *size), settings
        )
        for dimension, n in enumerate(self.below[1:], start=2):
            answer = answer.narrow(dimension, 0, n)
        return answer


class _Transposed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, shape: Shape, settings: tuple[Any, ...]) -> Tensor:
        ctx.save_for_backward(h, weight)
        ctx.settings = settings
        like = torch.empty(shape, dtype=h.dtype, device=h.device)
        like = features_last(like) if h.stride(1) == 1 else like
        answer: Tensor = _convolution_backward(h, like, weight, settings, (True, False))[0]
        return answer

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        h, weight = ctx.saved_tensors
        *settings, groups = ctx.settings
        none = [0] * len(settings[0])
        grad_h = None
        if ctx.needs_input_grad[0]:
            grad_h = torch.ops.aten.convolution(grad, weight, None, *settings, False, none, groups)
        return grad_h, _convolution_backward(h, grad, weight, ctx.settings, (False, True))[1], None, None


def _convolution_backward(
    grad: Tensor, like: Tensor, weight: Tensor, settings: tuple[Any, ...], wanted: tuple[bool, bool]
) -> Any:
    """Gradients of a convolution with respect to its input and its weight."""
    *others, groups = settings
    none = [0] * len(others[0])
    backward = torch.ops.aten.convolution_backward
    return backward(grad, like, weight, None, *others, False, none, groups, (*wanted, False))


@singledispatch
def mirror(module: nn.Module, below: Shape, above: Shape, generator: torch.Generator | None) -> nn.Module | None:
    """Return the decoder's module against one of the encoder's: from values of its output's shape to its input's.

    Register a function for a type of your own with ``mirror.register``.

    Parameters
    ----------
    module : nn.Module
        Of the encoder.
    below, above : tuple of int
        Shape of one row of its input and of its output.
    generator : torch.Generator or None
        Source of the starting weights.

    Returns
    -------
    nn.Module or None
        None where no mirror is registered for this type.
    """
    return None


@mirror.register
def _(module: nn.Linear, below: Shape, above: Shape, generator: torch.Generator | None) -> nn.Module | None:
    return _linear(above[0], below[0], generator) if len(below) == 1 else None


@mirror.register
def _(module: nn.Flatten, below: Shape, above: Shape, generator: torch.Generator | None) -> nn.Module:
    return Reshape(below)


@mirror.register
def _(module: nn.Unflatten, below: Shape, above: Shape, generator: torch.Generator | None) -> nn.Module:
    return Reshape(below)


@mirror.register
def _(module: _ConvNd, below: Shape, above: Shape, generator: torch.Generator | None) -> nn.Module:
    kernel, stride, dilation = module.kernel_size, module.stride, module.dilation
    if isinstance(module, _ConvTransposeNd):
        kind = cast(Any, _CONVOLUTIONS[len(kernel)])
        back = nn.utils.skip_init(  # type: ignore[no-untyped-call]
            kind, above[0], below[0], kernel, stride, _padding(module), dilation, module.groups, bias=False
        )
        _start_convolution(back.weight, above[0] // module.groups, generator)
        return nn.Sequential(back, Fit(below[1:]))
    transposed = TransposedConvolution(below, above, kernel, stride, _padding(module), dilation, module.groups)
    _start_convolution(transposed.weight, above[0] // module.groups, generator)
    return transposed


def _padding(module: _ConvNd) -> tuple[int, ...]:
    """Padding before the first position; that after the last may be greater by 1."""
    if isinstance(module.padding, str):
        reach = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        return tuple(r // 2 if module.padding == "same" else 0 for r in reach)
    return tuple(int(padding) for padding in module.padding)


def _linear(fan_in: int, fan_out: int, generator: torch.Generator | None) -> LinearMap:
    """A linear map that starts as N(0, 1 / fan_in)."""
    back = LinearMap(fan_in, fan_out)
    nn.init.normal_(back.weight, std=fan_in**-0.5, generator=generator)
    return back


def _start_convolution(weight: Tensor, channels: int, generator: torch.Generator | None) -> None:
    """Uniform in ±sqrt(3 / fan_in), with the fan-in from so many channels."""
    bound = math.sqrt(3 / (channels * math.prod(weight.shape[2:])))
    nn.init.uniform_(weight, -bound, bound, generator=generator)


def map_down(between: Between, given: nn.Module | None, generator: torch.Generator | None) -> nn.Module:
    """Return the decoder's map from a rung to the one below.

    Parameters
    ----------
    between : Between
    given : nn.Module or None
        The caller's own, which is taken as it is.
    generator : torch.Generator or None
        Source of the starting weights.

    Raises
    ------
    TypeError
        If nothing can stand against what is between; the message names it.
    ValueError
        If the caller's own map gives another shape than that of the rung below.
    """
    if given is not None:
        _check_given(given, between)
        return given
    parts: list[nn.Module] = []
    unknown: list[Step] = []
    steps = [Step(None, True, between.below, between.above)] if between.steps is None else between.steps
    for step in reversed(steps):
        found = None if step.parts else _against(step, generator)
        if found is None:
            unknown.append(step)
            continue
        if isinstance(found, nn.Identity):
            continue
        if unknown:
            parts.append(_learned(unknown, between.rung, generator))
            unknown = []
        parts.append(found)
    if unknown:
        parts.append(_learned(unknown, between.rung, generator))
    return parts[0] if len(parts) == 1 else nn.Sequential(*parts)


def _against(step: Step, generator: torch.Generator | None) -> nn.Module | None:
    """The mirror of a step, an identity where there is nothing to undo, or None where it is not known."""
    below, above = step.shape_in, step.shape_out
    if step.call is not None:
        found = mirror(step.call.module, below, above, generator)
        if found is not None:
            return found
    if below == above:
        return nn.Identity()
    if len(below) == len(above) and below[0] == above[0]:
        return Resize(below[1:])
    if len(above) == 1 and below[0] == above[0]:
        return nn.Sequential(Reshape((*above, *[1] * (len(below) - 1))), Resize(below[1:]))
    if len(below) != len(above) and math.prod(below) == math.prod(above):
        return Reshape(below)
    return None


def _learned(steps: list[Step], rung: str, generator: torch.Generator | None) -> nn.Module:
    """A small learned map for steps that have no mirror, which are given from above."""
    above, below = steps[0].shape_out, steps[-1].shape_in
    if len(above) == len(below) == 1:
        return _linear(above[0], below[0], generator)
    if len(above) == len(below) <= 1 + len(_CONVOLUTIONS):
        kind = cast(Any, _CONVOLUTIONS[len(above) - 1])
        back = nn.utils.skip_init(kind, above[0], below[0], 1, bias=False)  # type: ignore[no-untyped-call]
        _start_convolution(back.weight, above[0], generator)
        return back if above[1:] == below[1:] else nn.Sequential(back, Resize(below[1:]))
    if len(above) == 1:
        back = _linear(above[0], below[0], generator)
        return nn.Sequential(back, Reshape((below[0], *[1] * (len(below) - 1))), Resize(below[1:]))
    names = [f"{s.call.name!r} ({type(s.call.module).__name__})" for s in steps[::-1] if s.call is not None]
    across = f" across {', '.join(names)}" if names else ""
    raise TypeError(
        f"no decoder is known from rung {rung!r} down{across}: from rows of shape {above} to {below}. Pass a module "
        f"that maps one to the other: mirrors={{{rung!r}: module}}."
    )


def _check_given(given: nn.Module, between: Between) -> None:
    like = next(given.parameters(), torch.zeros(()))
    with torch.no_grad():
        result = given(torch.zeros(2, *between.above, dtype=like.dtype, device=like.device))
    if tuple(result.shape) != (2, *between.below):
        raise ValueError(
            f"the mirror of rung {between.rung!r} must map rows of shape {between.above} to {between.below}, but gives "
            f"{tuple(result.shape[1:])}."
        )


def check_names(mirrors: Mapping[str, nn.Module], rungs: Sequence[str]) -> None:
    """Check that each of the caller's own maps is for a rung that there is."""
    if unknown := [name for name in mirrors if name not in rungs]:
        raise ValueError(f"mirrors names {', '.join(map(repr, unknown))}; the rungs are {', '.join(map(repr, rungs))}.")
