"""A network split at its rungs, and the way back down.

A rung is where a network normalises. `split` cuts an encoder into sections, each a map, its rung and the
activation after it; `mirror` gives the decoder's map against a section's map. A new kind of map joins by
registering with `mirror`; the ladder itself does not change.
"""

import copy
from collections.abc import Iterator
from functools import singledispatch

import torch
from torch import Tensor, nn

from laddernet.normalization import EPSILON, Statistics, per_feature
from laddernet.products import LinearMap

HOMOGENEOUS = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.Identity)
"""Activations with ``f(c x) = c f(x)`` for c > 0: a scale before them is redundant with the next map's."""

_NORMALIZED_OUTPUTS = (nn.Softmax, nn.LogSoftmax, nn.Softmax2d, nn.Softmin, nn.Sigmoid, nn.LogSigmoid)


class Rung(nn.Module):
    """Shift, scale and prediction statistics of one layer: ``gamma * (z + beta)``.

    Parameters
    ----------
    features : int
        Width of the layer.
    scale : bool
        Whether gamma is learned. It is redundant before a positively homogeneous activation.
    """

    def __init__(self, features: int, *, scale: bool) -> None:
        super().__init__()
        self.features = features
        self.beta = nn.Parameter(torch.zeros(features))
        self.gamma = nn.Parameter(torch.ones(features)) if scale else None
        self.statistics = Statistics(features)

    def forward(self, z: Tensor) -> Tensor:
        """Shift and scale normalised values of shape (batch, features, *positions)."""
        shifted = z + per_feature(self.beta, z)
        return shifted if self.gamma is None else per_feature(self.gamma, z) * shifted

    def clean(self, z_pre: Tensor) -> Tensor:
        """``gamma * (BN(z_pre) + beta)`` with the stored statistics, in two passes over the values.

        Not in one, as ``scale * z_pre + shift``: where a unit hardly varies, that loses its digits.
        """
        scale = torch.rsqrt(self.statistics.var + EPSILON)
        shift: Tensor = self.beta
        if self.gamma is not None:
            scale, shift = self.gamma * scale, self.gamma * shift
        centred = z_pre - per_feature(self.statistics.mean, z_pre)
        return torch.addcmul(per_feature(shift, z_pre), centred, per_feature(scale, z_pre))


class Section(nn.Module):
    """One layer of the encoder: ``map``, then normalisation (and noise), then ``activate``.

    Parameters
    ----------
    map : nn.Module
        From the activations below to pre-activations; without a bias, which normalisation would remove.
    rung : Rung
    activation : nn.Module
        What follows the rung, up to the next map.
    """

    def __init__(self, map: nn.Module, rung: Rung, activation: nn.Module) -> None:
        super().__init__()
        self.map = map
        self.rung = rung
        self.activation = activation

    def activate(self, z: Tensor) -> Tensor:
        """``activation(gamma * (z + beta))``."""
        h: Tensor = self.activation(self.rung(z))
        return h

    def clean(self, h: Tensor) -> Tensor:
        """The whole layer for prediction: map, normalise with the stored statistics, scale and shift, activate."""
        answer: Tensor = self.activation(self.rung.clean(self.map(h)))
        return answer

    def plain(self) -> list[nn.Module]:
        """The same as `clean`, as ordinary modules: map, batch normalisation, activation."""
        statistics, rung = self.rung.statistics, self.rung
        norm = nn.BatchNorm1d(rung.features, eps=EPSILON, device=rung.beta.device, dtype=rung.beta.dtype)
        with torch.no_grad():
            gamma = torch.ones_like(rung.beta) if rung.gamma is None else rung.gamma
            norm.weight.copy_(gamma)
            norm.bias.copy_(gamma * rung.beta)
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.copy_(statistics.mean)
            norm.running_var.copy_(statistics.var)
        assert isinstance(self.map, nn.Linear)
        linear = nn.Linear(self.map.in_features, self.map.out_features, bias=False, device="meta")
        linear.weight = copy.deepcopy(self.map.weight)
        activation = [] if isinstance(self.activation, nn.Identity) else list(_leaves(self.activation))
        return [linear, norm, *copy.deepcopy(activation)]


class DecoderLayer(nn.Module):
    """One layer of the decoder: ``u = BN(map(z_hat above))`` and ``z_hat = combinator(z_noisy, u)``.

    Parameters
    ----------
    map : nn.Module or None
        From the layer above; None at the top, where u is the normalised noisy output.
    combinator : nn.Module
        Called with ``(z_noisy, u)``; where it has an attribute `needs_above` that is False, u is only of u's shape.
    features : int
        Width of the layer.
    """

    def __init__(self, map: nn.Module | None, combinator: nn.Module, features: int) -> None:
        super().__init__()
        self.map = map
        self.combinator = combinator
        self.needs_above: bool = getattr(combinator, "needs_above", True)
        self.statistics = Statistics(features)


def split(encoder: nn.Module) -> list[Section]:
    """Cut a copy of a fully connected network into sections, one a linear map.

    Weights are kept. A bias before a rung is dropped, since normalisation removes it. A `BatchNorm1d` after a
    linear map gives its place to the rung, which keeps its learned scale and shift. The stored statistics
    start as what makes the sections compute what the network computed in evaluation mode.

    Parameters
    ----------
    encoder : nn.Module
        `nn.Sequential`, nested ones included, of `nn.Linear`, `nn.BatchNorm1d` directly after one, and
        element-wise activations. It ends in the linear map (or its BatchNorm1d) that gives the logits.

    Returns
    -------
    list of Section, from the input upwards.

    Raises
    ------
    TypeError
        If a module cannot be part of a ladder; the message names it.
    ValueError
        If the network is empty, starts or ends with something else than a map, or ends in a softmax.
    """
    if not isinstance(encoder, (nn.Sequential, nn.Linear)):
        raise TypeError(
            f"the encoder must be an nn.Sequential of linear maps and activations, got {type(encoder).__name__}."
        )
    modules = copy.deepcopy(list(_leaves(encoder)))
    _check(modules)
    starts = [i for i, module in enumerate(modules) if isinstance(module, nn.Linear)]
    ends = [*starts[1:], len(modules)]
    return [_section(modules[start:end], top=end == len(modules)) for start, end in zip(starts, ends, strict=True)]


@singledispatch
def mirror(map: nn.Module, generator: torch.Generator | None) -> nn.Module:
    """Return the decoder's map against an encoder's map: same shapes, the other way round, new weights.

    Raises
    ------
    TypeError
        If no mirror is registered for this kind of map.
    """
    raise TypeError(f"no decoder is known for a map of type {type(map).__name__}.")


@mirror.register
def _(map: nn.Linear, generator: torch.Generator | None) -> nn.Module:
    back = LinearMap(map.out_features, map.in_features)
    nn.init.normal_(back.weight, std=map.out_features**-0.5, generator=generator)
    return back


def _leaves(module: nn.Module) -> Iterator[nn.Module]:
    if isinstance(module, nn.Sequential):
        for child in module:
            yield from _leaves(child)
    else:
        yield module


def _check(modules: list[nn.Module]) -> None:
    if not modules or not isinstance(modules[0], nn.Linear):
        first = type(modules[0]).__name__ if modules else "nothing"
        raise ValueError(
            f"the encoder must start with nn.Linear, but starts with {first}. Flatten, scale or embed the input "
            "before it reaches the ladder."
        )
    last = modules[-1]
    if isinstance(last, _NORMALIZED_OUTPUTS):
        raise ValueError(
            f"the encoder ends in {type(last).__name__}: take it out. The ladder needs the logits and applies the "
            "output activation itself; with both, it would be applied twice."
        )
    if not isinstance(last, (nn.Linear, nn.BatchNorm1d)):
        raise ValueError(
            f"the encoder must end in the linear map that gives the logits, but ends in {type(last).__name__}."
        )
    for i, module in enumerate(modules):
        where = f"module {i} of the encoder, {type(module).__name__},"
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if not isinstance(module, nn.BatchNorm1d) or not isinstance(modules[i - 1], nn.Linear):
                raise TypeError(f"{where} must be a BatchNorm1d directly after a linear map to become a rung.")
        elif isinstance(module, nn.modules.dropout._DropoutNd):
            raise TypeError(
                f"{where} is noise of its own; the ladder brings the noise. Take it out, or pass "
                "corruption=laddernet.noise.masking."
            )
        elif not isinstance(module, nn.Linear) and not _is_elementwise(module):
            raise TypeError(f"{where} is neither a linear map nor an element-wise activation.")


def _is_elementwise(module: nn.Module) -> bool:
    if isinstance(module, nn.PReLU):  # one slope a column, so that the probe below may not fit
        return True
    with torch.no_grad():
        probe = torch.linspace(-2.0, 2.5, 12).view(3, 4)
        try:
            whole = copy.deepcopy(module).float().cpu()(probe)
            parts = torch.cat(
                [copy.deepcopy(module).float().cpu()(column) for column in torch.split(probe, 1, dim=1)], 1
            )
        except (RuntimeError, TypeError, ValueError):
            return False
    return isinstance(whole, Tensor) and whole.shape == probe.shape and torch.allclose(whole, parts)


def _section(modules: list[nn.Module], *, top: bool) -> Section:
    linear, rest = modules[0], modules[1:]
    assert isinstance(linear, nn.Linear)
    norm = rest[0] if rest and isinstance(rest[0], nn.BatchNorm1d) else None
    after = rest if norm is None else rest[1:]
    activation = after[0] if len(after) == 1 else nn.Sequential(*after) if after else nn.Identity()
    redundant_scale = not top and all(isinstance(module, HOMOGENEOUS) for module in after)
    rung = Rung(linear.out_features, scale=_has_learned_scale(norm) or not redundant_scale)
    rung.to(linear.weight.device, linear.weight.dtype)
    with torch.no_grad():
        if norm is None:
            rung.statistics.var -= EPSILON
        else:
            _keep(norm, rung)
        if linear.bias is not None:  # the stored mean stands for it, until training or calibration
            rung.statistics.mean -= linear.bias
    map = LinearMap(linear.in_features, linear.out_features)
    map.weight = linear.weight
    map.weight.data = linear.weight.detach().contiguous()  # the kernels go by rows
    return Section(map, rung, activation)


def _has_learned_scale(norm: nn.BatchNorm1d | None) -> bool:
    return norm is not None and norm.affine and not torch.equal(norm.weight, torch.ones_like(norm.weight))


def _keep(norm: nn.BatchNorm1d, rung: Rung) -> None:
    """Copy what a BatchNorm1d has learned: its scale, its shift (in units of the scale), its statistics."""
    if norm.affine:
        scale = torch.where(norm.weight == 0, torch.finfo(norm.weight.dtype).tiny ** 0.5, norm.weight)
        if rung.gamma is not None:
            rung.gamma.copy_(scale)
        rung.beta.copy_(norm.bias / scale)
    if norm.running_mean is not None and norm.running_var is not None:
        rung.statistics.mean.copy_(norm.running_mean)
        rung.statistics.var.copy_(norm.running_var + norm.eps - EPSILON)
