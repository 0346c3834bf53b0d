"""Corruption of the noisy streams, drawn from an explicit generator.

A corruption is any callable ``(clean, std, generator) -> corrupted``. A ladder calls it once for each noisy
stream of rows at each layer whose ``std`` is above 0: at layer 0 on the input itself, above on the normalised
pre-activations. The result has the shape of ``clean`` and gradients must flow through it to ``clean``.

A corruption that only adds noise may have a method ``draw(like, std, generator)`` that returns the noise alone, in a
tensor of its own; the fused kernels of `Ladder.fuse` work with those.

A corruption that depends on the network has a method ``changes(divergence, likes, stds, generator)`` too, which a
ladder calls once a step: what it returns is added to the noisy streams beside what a call or `draw` gives. See
`VirtualAdversarial`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from laddernet.arguments import check_number


class Corruption(Protocol):
    """What a ladder takes as `corruption`."""

    def __call__(self, clean: Tensor, std: float, generator: torch.Generator | None) -> Tensor:
        """Return a corrupted tensor of the same shape."""
        ...


class Gaussian:
    """Isotropic Gaussian noise: ``clean + std * N(0, I)``. `gaussian` is one."""

    def __call__(self, clean: Tensor, std: float, generator: torch.Generator | None) -> Tensor:
        """Return clean values of any shape with noise of that standard deviation added."""
        noise = torch.empty_like(clean, requires_grad=False).normal_(generator=generator)
        return torch.add(clean, noise, alpha=std)

    def draw(self, like: Tensor, std: float, generator: torch.Generator | None) -> Tensor:
        """Return the noise alone: a new tensor of that shape, the same numbers as a call draws."""
        return torch.empty_like(like, requires_grad=False).normal_(std=std, generator=generator)


gaussian = Gaussian()


def is_gaussian(corruption: Corruption) -> bool:
    """Return whether a corruption is Gaussian noise alone, which kernels can draw: `gaussian` or a copy of it."""
    return type(corruption) is Gaussian


class VirtualAdversarial(Gaussian):
    """Gaussian noise and, in the same layers, a small change in the direction that moves a row's answer most.

    The direction is found by one step of the power method: r = length * g / |g|, with g the gradient of the divergence
    between the clean answer and the one with a random change of length `probe`, by that change; for all layers at
    once. It costs another pass up and down the encoder.

    Deviation: Shinoda et al. choose a length for each layer; here it is a share of the length that the layer's
    Gaussian noise has on average, so that one number serves networks of any width. In any one direction the noise has
    1 / sqrt(values of a row) of that length, 0.04 for MNIST's images; a few tenths are far more. With 100 labels of
    MNIST, 20 epochs and one seed, shares of 0.03, 0.1 and 0.3 all make the error larger (docs/results.md).

    Parameters
    ----------
    share : float
        Length of a row's change in a layer, over the noise's, which is ``std * sqrt(values of a row in that layer)``.
    probe : float
        Length of a row's random change in a layer.

    Raises
    ------
    ValueError
        If `share` is negative or not finite, or `probe` is not positive and finite.

    References
    ----------
    Miyato et al.: Distributional Smoothing with Virtual Adversarial Training. ICLR 2016, arXiv 1507.00677.
    Shinoda, Worrall, Brostow: Virtual Adversarial Ladder Networks for Semi-supervised Learning. 2017, arXiv 1711.07476.
    """

    def __init__(self, share: float = 0.03, *, probe: float = 0.1) -> None:
        check_number("share", share, "finite and not negative", 0)
        check_number("probe", probe, "positive and finite", 0, above=True)
        self.share = share
        self.probe = probe

    def changes(
        self,
        divergence: Callable[[Sequence[Tensor]], Tensor],
        likes: Sequence[Tensor],
        stds: Sequence[float],
        generator: torch.Generator | None,
    ) -> list[Tensor]:
        """Return the changes of all rows in each layer, for no gradient to pass.

        Parameters
        ----------
        divergence : callable
            Changes, one tensor a layer, to how far they move the answers, summed over rows.
        likes : sequence of Tensor of shape (rows, *shape of the layer)
            What the changes have the shape, type and device of.
        stds : sequence of float
            Standard deviation of the Gaussian noise in each of the layers.
        generator : torch.Generator or None
        """
        random = [torch.empty_like(like, requires_grad=False).normal_(generator=generator) for like in likes]
        probes = [_of_length(self.probe, change).requires_grad_() for change in random]
        with torch.enable_grad():
            gradients = torch.autograd.grad(divergence(probes), probes)
        lengths = [self.share * std * math.sqrt(like[0].numel()) for like, std in zip(likes, stds, strict=True)]
        return [_of_length(length, gradient) for length, gradient in zip(lengths, gradients, strict=True)]


def _of_length(length: float, rows: Tensor) -> Tensor:
    """Rows scaled to that Euclidean length, however small they are; a row of zeros stays one."""
    values = tuple(range(1, rows.dim()))
    rows = rows / rows.abs().amax(values, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
    norm: Tensor = torch.linalg.vector_norm(rows, dim=values, keepdim=True)
    return rows * (length / norm.clamp_min(1))


def masking(clean: Tensor, std: float, generator: torch.Generator | None) -> Tensor:
    """Set a random share ``std`` (between 0 and 1) of the entries to 0.

    Raises
    ------
    ValueError
        If `std` is above 1, since it is a share here.
    """
    if std > 1:
        raise ValueError(f"masking sets a share of the entries to 0, so noise_std must be in [0, 1], got {std}.")
    return clean * torch.empty_like(clean, requires_grad=False).bernoulli_(1 - std, generator=generator)
