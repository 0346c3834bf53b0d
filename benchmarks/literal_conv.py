"""The paper's Conv-Large gamma network as one would write it: what the library's speed on images is compared with.

Plain torch operations, both paths over all rows, autograd, no kernels of its own. `tests/test_literal.py` checks that
it computes the library's costs.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

EPSILON = 1e-10
LAYERS = (  # maps, kernel, padding; or a pool
    (96, 3, 0), (96, 3, 2), (96, 3, 2), "pool", (192, 3, 0), (192, 3, 2), (192, 3, 0), "pool", (192, 3, 0), (192, 1, 0),
    (10, 1, 0),
)  # fmt: skip


def batch_norm(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    axes = [axis for axis in range(z.dim()) if axis != 1]
    mean, var = z.mean(axes, keepdim=True), z.var(axes, unbiased=False, keepdim=True)
    return (z - mean) / torch.sqrt(var + EPSILON), mean, var


class LiteralConvLarge(nn.Module):
    def __init__(self, weight: float = 4.0, noise_std: float = 0.3) -> None:
        super().__init__()
        self.weight, self.noise_std = weight, noise_std
        self.W, self.beta = nn.ParameterList(), nn.ParameterList()
        channels = 3
        for layer in LAYERS:
            if layer != "pool":
                maps, kernel, _ = layer
                self.W.append(nn.Parameter(torch.randn(maps, channels, kernel, kernel) / (channels * kernel**2) ** 0.5))
                self.beta.append(nn.Parameter(torch.zeros(maps)))
                channels = maps
        self.beta.append(nn.Parameter(torch.zeros(10)))
        start = torch.tensor([0.0, 1, 0, 0, 0, 0, 1, 0, 0, 0])
        self.a = nn.Parameter(start[:, None].repeat(1, 10))

    def encode(self, x: Tensor, labeled: int, corrupt: Callable[[Tensor], Tensor]):
        """All rows up one path; statistics are those of the labelled and of the unlabelled rows, each apart."""

        def normalize(z_pre: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            z_labeled, _, _ = batch_norm(z_pre[:labeled])
            z_unlabeled, mean, var = batch_norm(z_pre[labeled:])
            return corrupt(torch.cat([z_labeled, z_unlabeled])), mean, var

        h, index = corrupt(x), 0
        for layer in LAYERS:
            if layer == "pool":
                h, _, _ = normalize(functional.max_pool2d(h, 2, ceil_mode=True))
                continue
            z, _, _ = normalize(functional.conv2d(h, self.W[index], padding=layer[2]))
            h = functional.leaky_relu(z + self.beta[index].view(1, -1, 1, 1), 0.1)
            index += 1
        z, mean, var = normalize(h.mean(dim=(2, 3)))
        return z + self.beta[-1], z, mean, var

    def forward(
        self, x_labeled: Tensor, y: Tensor, x_unlabeled: Tensor, corrupt: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Total, supervised and denoising cost."""
        corrupt = corrupt or (lambda z: z + self.noise_std * torch.randn_like(z))
        labeled = len(x_labeled)
        x = torch.cat([x_labeled, x_unlabeled])
        logits, z_noisy, _, _ = self.encode(x, labeled, corrupt)
        _, z_clean, mean, var = self.encode(x, labeled, lambda z: z)
        supervised = functional.cross_entropy(logits[:labeled], y)
        u, _, _ = batch_norm(functional.softmax(logits[labeled:], dim=1))
        a1, a2, a3, a4, a5, a6, a7, a8, a9, a10 = self.a
        mu = a1 * torch.sigmoid(a2 * u + a3) + a4 * u + a5
        v = a6 * torch.sigmoid(a7 * u + a8) + a9 * u + a10
        z_hat = (z_noisy[labeled:] - mu) * v + mu
        denoising = functional.mse_loss((z_hat - mean) / torch.sqrt(var + EPSILON), z_clean[labeled:])
        return supervised + self.weight * denoising, supervised, denoising
