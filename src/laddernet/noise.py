"""Corruption of the noisy streams, drawn from an explicit generator.

A corruption is any callable ``(clean, std, generator) -> corrupted``. A ladder calls it once for each noisy
stream of rows at each layer whose ``std`` is above 0: at layer 0 on the input itself, above on the normalised
pre-activations. The result has the shape of ``clean`` and gradients must flow through it to ``clean``.

A corruption that only adds noise may have a method ``draw(like, std, generator)`` that returns the noise alone, in a
tensor of its own; the fused kernels of `Ladder.fuse` work with those.
"""

from typing import Protocol

import torch
from torch import Tensor


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
