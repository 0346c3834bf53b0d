"""Combinators: the element-wise functions ``z_hat = g(z_noisy, u)`` at the heart of the decoder.

Legend: z_noisy is the layer's value on the noisy path (the lateral connection), u what comes down from the
layer above, normalised, z_hat the estimate of the clean value. All three have the shape
(batch, features, *positions). Parameters are one a feature: a unit under a fully connected map, a channel
under a convolution. Equations: docs/algorithm.md, "Combinators".
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from laddernet.normalization import per_feature

CombinatorFactory = Callable[..., nn.Module]
"""Makes a combinator from ``(features, generator=...)``."""


class _PerFeature(nn.Module):
    """A combinator whose parameters are the rows of one matrix ``a`` of shape (parameters, features)."""

    def __init__(self, features: int, start: Sequence[float]) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(start).unsqueeze(1).repeat(1, features))

    def _rows(self, like: Tensor) -> list[Tensor]:
        return [per_feature(row, like) for row in self.a.unbind()]


def _affine(slope: Tensor, x: Tensor, offset: Tensor) -> Tensor:
    """``slope * x + offset`` in one kernel."""
    return torch.addcmul(offset, slope, x)


class Gaussian(_PerFeature):
    """The paper's combinator: the best estimate of a Gaussian variable from a Gaussian observation.

    ``mu(u) = a1 sigmoid(a2 u + a3) + a4 u + a5``, ``v(u) = a6 sigmoid(a7 u + a8) + a9 u + a10``,
    ``g = (z_noisy - mu(u)) v(u) + mu(u)``. Row k - 1 of `a` is the paper's a_k.
    Starts at a2 = a7 = 1 and 0 elsewhere (Rasmus et al. 2015, section 4.1).
    """

    def __init__(self, features: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__(features, (0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0))

    def forward(self, z_noisy: Tensor, u: Tensor) -> Tensor:
        """Combine; see the class."""
        a1, a2, a3, a4, a5, a6, a7, a8, a9, a10 = self._rows(u)
        mu = _affine(a1, torch.sigmoid(_affine(a2, u, a3)), _affine(a4, u, a5))
        v = _affine(a6, torch.sigmoid(_affine(a7, u, a8)), _affine(a9, u, a10))
        return _affine(z_noisy - mu, v, mu)


class LateralOnly(Gaussian):
    """Ablation: the Gaussian combinator with ``u = 0``, so that nothing comes down from above.

    `needs_above` tells the ladder not to build or compute what would come down.
    """

    needs_above = False

    def forward(self, z_noisy: Tensor, u: Tensor) -> Tensor:
        """Combine; see the class."""
        return super().forward(z_noisy, torch.zeros_like(u))


class Sigmoid(_PerFeature):
    """The paper's first version.

    ``g = a1 + a2 z + a3 u + a4 z u + b1 sigmoid(c1 + c2 z + c3 u + c4 z u)`` with z = z_noisy; the rows of `a`
    are a1..a4, b1, c1..c4. Starts at a2 = b1 = c2 = 1 and 0 elsewhere.
    """

    def __init__(self, features: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__(features, (0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0))

    def forward(self, z_noisy: Tensor, u: Tensor) -> Tensor:
        """Combine; see the class."""
        a1, a2, a3, a4, b1, c1, c2, c3, c4 = self._rows(u)
        product = z_noisy * u
        inner = c1 + c2 * z_noisy + c3 * u + c4 * product
        return a1 + a2 * z_noisy + a3 * u + a4 * product + b1 * torch.sigmoid(inner)


class Linear(_PerFeature):
    """``g = a1 z_noisy + a2 u + a3``; starts at 1, 0, 0."""

    def __init__(self, features: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__(features, (1.0, 0.0, 0.0))

    def forward(self, z_noisy: Tensor, u: Tensor) -> Tensor:
        """Combine; see the class."""
        a1, a2, a3 = self._rows(u)
        return a1 * z_noisy + a2 * u + a3


class NoLateral(_PerFeature):
    """Ablation: ``g = a1 u + a2``, the decoder of a plain denoising autoencoder; starts at 1, 0."""

    def __init__(self, features: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__(features, (1.0, 0.0))

    def forward(self, z_noisy: Tensor, u: Tensor) -> Tensor:
        """Combine; see the class."""
        a1, a2 = self._rows(u)
        return a1 * u + a2


class _Weighted(nn.Module):
    """Weighted sums of units that are a tensor each: a linear map, of all a layer's units or one for each of them.

    `weight` has the shape (sums, units) or (sums, units, features), `bias` (sums,) or (sums, features).
    """

    def __init__(self, units: int, sums: int, features: Sequence[int], generator: torch.Generator | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(sums, units, *features).normal_(std=0.025, generator=generator))
        self.bias = nn.Parameter(torch.zeros(sums, *features))

    def forward(self, units: Sequence[Tensor]) -> list[Tensor]:
        """Weights are factors of whole tensors: a matrix product of so few columns waits for its one long sum."""
        sums = []
        for bias, weights in zip(self.bias, self.weight, strict=True):
            total = per_feature(bias, units[0])
            for weight, unit in zip(weights, units, strict=True):
                total = torch.addcmul(total, per_feature(weight, unit), unit)
            sums.append(total)
        return sums


class MLP(nn.Module):
    """A small network on ``[z_noisy, u]`` (Pezeshki et al. 2016).

    Leaky rectifiers of slope 0.1 between the layers, one linear output; weights start as N(0, 0.025^2), biases
    at 0.

    Parameters
    ----------
    features : int
        Units, or channels, of the layer; they matter where each has its own network.
    hidden : sequence of int
        Widths of the hidden layers.
    shared : bool
        Whether all units of a layer share one network; else each has its own, as with the other combinators. What
        either is worth with which denoising weights: docs/results.md.
    generator : torch.Generator or None
        Source of the starting weights.
    """

    inputs = 2

    def __init__(
        self,
        features: int,
        *,
        hidden: Sequence[int] = (2, 2, 2),
        shared: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        widths = [self.inputs, *hidden, 1]
        own = [] if shared else [features]
        self.maps = nn.ModuleList(_Weighted(below, above, own, generator) for below, above in pairwise(widths))

    def forward(self, z_noisy: Tensor, u: Tensor) -> Tensor:
        """Combine; see the class."""
        return self._apply_maps([z_noisy, u])

    def _apply_maps(self, units: list[Tensor]) -> Tensor:
        *hidden, last = self.maps
        with torch.autocast(units[0].device.type, enabled=False):  # element-wise work keeps full precision
            for weighted in hidden:
                units = [nn.functional.leaky_relu(unit, 0.1) for unit in weighted(units)]
            (result,) = last(units)
        return cast(Tensor, result)


class AMLP(MLP):
    """The augmented one: as `MLP`, on ``[z_noisy, u, z_noisy * u]`` (Pezeshki et al. 2016)."""

    inputs = 3

    def forward(self, z_noisy: Tensor, u: Tensor) -> Tensor:
        """Combine; see the class."""
        return self._apply_maps([z_noisy, u, z_noisy * u])


COMBINATORS: dict[str, CombinatorFactory] = {
    "gaussian": Gaussian,
    "sigmoid": Sigmoid,
    "amlp": AMLP,
    "mlp": MLP,
    "linear": Linear,
    "no_lateral": NoLateral,
    "lateral_only": LateralOnly,
}
"""The combinators by the name that `Ladder` and the estimators take."""
