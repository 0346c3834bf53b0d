"""Algorithm 1 as one would write it from the paper: what the library's speed is compared with.

Plain torch operations, both encoders over all rows, autograd, no kernels of its own. `tests/test_literal.py` checks
it against the same oracle as the library.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

EPSILON = 1e-10


def batch_norm(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mean, var = z.mean(dim=0), z.var(dim=0, unbiased=False)
    return (z - mean) / torch.sqrt(var + EPSILON), mean, var


class LiteralLadder(nn.Module):
    def __init__(self, widths: Sequence[int], weights: Sequence[float], noise_std: float = 0.3) -> None:
        super().__init__()
        self.weights, self.noise_std, self.layers = weights, noise_std, len(widths) - 1
        self.W = nn.ParameterList(nn.Parameter(torch.randn(o, i) / i**0.5) for i, o in pairwise(widths))
        self.V = nn.ParameterList(nn.Parameter(torch.randn(i, o) / o**0.5) for i, o in pairwise(widths))
        self.beta = nn.ParameterList(nn.Parameter(torch.zeros(o)) for o in widths[1:])
        self.gamma = nn.Parameter(torch.ones(widths[-1]))
        start = torch.tensor([0.0, 1, 0, 0, 0, 0, 1, 0, 0, 0])
        self.a = nn.ParameterList(nn.Parameter(start[:, None].repeat(1, width)) for width in widths)

    def encode(self, x: Tensor, labeled: int, corrupt: Callable[[Tensor], Tensor]):
        """All rows up one path; statistics are those of the labelled and of the unlabelled rows, each apart."""
        z, means, variances = [corrupt(x)], [None], [None]
        h = z[0]
        for layer in range(1, self.layers + 1):
            z_pre = h @ self.W[layer - 1].T
            z_labeled, _, _ = batch_norm(z_pre[:labeled])
            z_unlabeled, mean, var = batch_norm(z_pre[labeled:])
            z.append(corrupt(torch.cat([z_labeled, z_unlabeled])))
            means.append(mean)
            variances.append(var)
            h = z[layer] + self.beta[layer - 1]
            h = torch.relu(h) if layer < self.layers else self.gamma * h
        return h, z, means, variances

    def combine(self, layer: int, z: Tensor, u: Tensor) -> Tensor:
        a1, a2, a3, a4, a5, a6, a7, a8, a9, a10 = self.a[layer]
        mu = a1 * torch.sigmoid(a2 * u + a3) + a4 * u + a5
        v = a6 * torch.sigmoid(a7 * u + a8) + a9 * u + a10
        return (z - mu) * v + mu

    def forward(
        self,
        x_labeled: Tensor,
        y: Tensor,
        x_unlabeled: Tensor,
        corrupt: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Total, supervised and denoising costs, the input's first."""
        corrupt = corrupt or (lambda z: z + self.noise_std * torch.randn_like(z))
        labeled = len(x_labeled)
        x = torch.cat([x_labeled, x_unlabeled])
        logits, z_noisy, _, _ = self.encode(x, labeled, corrupt)
        _, z_clean, means, variances = self.encode(x, labeled, lambda z: z)
        supervised = functional.cross_entropy(logits[:labeled], y)
        costs: list[Tensor] = []
        down = functional.softmax(logits[labeled:], dim=1)
        for layer in range(self.layers, -1, -1):
            u, _, _ = batch_norm(down if layer == self.layers else down @ self.V[layer].T)
            down = z_hat = self.combine(layer, z_noisy[layer][labeled:], u)
            if layer > 0:
                z_hat = (z_hat - means[layer]) / torch.sqrt(variances[layer] + EPSILON)
            costs.insert(0, functional.mse_loss(z_hat, z_clean[layer][labeled:]))
        total = supervised + sum(weight * cost for weight, cost in zip(self.weights, costs, strict=True))
        return total, supervised, costs
