"""Batch normalisation of one stream, and the statistics that prediction uses.

A *stream* is a set of rows that share their batch statistics: labelled, unlabelled-noisy or unlabelled-clean
rows (docs/algorithm.md, "Streams"). Everything here is per feature: dimension 1 of a tensor of shape
(batch, features) or (batch, channels, *positions); all other dimensions are averaged over.
"""

import inspect
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from laddernet.distributed import ALONE, Processes

EPSILON = 1e-10
"""Added to every variance, as in the paper's own experiments."""


def per_feature(vector: Tensor, like: Tensor) -> Tensor:
    """View a vector of one entry a feature, or one number for all, so that it broadcasts against `like`.

    Parameters
    ----------
    vector : Tensor of shape (features,) or ()
    like : Tensor of shape (batch, features, *positions)

    Returns
    -------
    Tensor of the same shape, or (features or 1, 1, ..., 1) where `like` has positions.
    """
    return vector if like.dim() == 2 else vector.view(-1, *[1] * (like.dim() - 2))


def features_last(values: Tensor) -> Tensor:
    """Return the same values, laid out in memory with the features of one position side by side.

    Parameters
    ----------
    values : Tensor of shape (batch, features, *positions)
    """
    return values.contiguous() if values.dim() == 2 else values.movedim(1, -1).contiguous().movedim(-1, 1)


def as_the_device_likes(values: Tensor) -> Tensor:
    """Return the same values, images on a GPU with the channels of a pixel side by side: its convolutions want that."""
    is_image_on_gpu = values.is_cuda and values.dim() == 4
    return values.contiguous(memory_format=torch.channels_last) if is_image_on_gpu else values


class Normalized(NamedTuple):
    """A normalised stream and the statistics that normalised it; gradients flow through all three.

    Attributes
    ----------
    z : Tensor of shape (batch, features, *positions)
    mean : Tensor of shape (features,)
    inverse_std : Tensor of shape (features,)
        ``1 / sqrt(var + 1e-10)`` with the biased variance.
    """

    z: Tensor
    mean: Tensor
    inverse_std: Tensor


def batch_normalize(z_pre: Tensor) -> Normalized:
    """Normalise a stream with its own batch statistics: ``(z_pre - mean) / sqrt(var + 1e-10)``.

    No parameters are learned; the variance is the biased one.

    Parameters
    ----------
    z_pre : Tensor of shape (batch, features, *positions)

    Returns
    -------
    Normalized
    """
    return Normalized(*_BatchNormalize.apply(z_pre))  # type: ignore[no-untyped-call]


def normalize(z: Tensor, mean: Tensor, inverse_std: Tensor) -> Tensor:
    """``(z - mean) * inverse_std``, with the statistics of another stream or of the training data."""
    return (z - per_feature(mean, z)) * per_feature(inverse_std, z)


def quick(function: type[torch.autograd.Function]) -> type[torch.autograd.Function]:
    """Keep the signature of a function's `forward`, which torch otherwise works out anew at every call."""
    forward: Any = function.forward
    forward.__signature__ = inspect.signature(forward)
    return function


@quick
class _BatchNormalize(torch.autograd.Function):
    """Torch's fused kernel, with gradients through the statistics as well, which the kernel alone drops.

    With n rows (and positions) a feature: d mean / d z_pre = 1 / n, d inverse_std / d z_pre = - inverse_std^2 z / n.
    """

    @staticmethod
    def forward(z_pre: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z, mean, inverse_std = torch.native_batch_norm(z_pre, None, None, None, None, True, 0.0, EPSILON)
        return z, mean, inverse_std

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.save_for_backward(inputs[0], output[1], output[2])
        ctx.set_materialize_grads(False)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int], z_pre: Tensor
    ) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[int, int, int]]:
        """Several networks' streams at once: their features side by side are those of one stream."""
        together = z_pre.movedim(in_dims[0], 1)  # (batch, networks, features, ...)
        shape = together.shape
        z, mean, inverse_std = batch_normalize(together.flatten(1, 2))
        return (z.view(shape), mean.view(shape[1:3]), inverse_std.view(shape[1:3])), (1, 0, 0)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_z: Tensor | None, grad_mean: Tensor | None, grad_inverse_std: Tensor | None
    ) -> Tensor | None:
        z_pre, mean, inverse_std = ctx.saved_tensors
        grad: Tensor | None = None
        if grad_z is not None:
            grad = torch.ops.aten.native_batch_norm_backward(
                grad_z, z_pre, None, None, None, mean, inverse_std, True, EPSILON, (True, False, False)
            )[0]
        n = z_pre.numel() // len(mean)
        if grad_mean is not None:
            through_mean = per_feature(grad_mean / n, z_pre)
            grad = through_mean.expand_as(z_pre) if grad is None else grad + through_mean
        if grad_inverse_std is not None:
            z = normalize(z_pre, mean, inverse_std)
            through_std = z * per_feature(grad_inverse_std * inverse_std.square() / -n, z_pre)
            grad = through_std if grad is None else grad + through_std
        return grad


def batch_normalize_streams(streams: Sequence[Tensor], processes: Processes = ALONE) -> list[Normalized]:
    """Normalise each stream as `batch_normalize` does, with the statistics of its rows in all processes.

    Parameters
    ----------
    streams : sequence of Tensor of shape (rows, features, *positions)
        This process's rows, of which there may be none. All processes must call this with as many streams.
    processes : Processes
    """
    if processes.size == 1:
        return [batch_normalize(stream) for stream in streams]
    flat = _NormalizeOverAll.apply(processes, *streams)  # type: ignore[no-untyped-call]
    return [Normalized(*flat[i : i + 3]) for i in range(0, len(flat), 3)]


class _NormalizeOverAll(torch.autograd.Function):
    """Several streams, with one message for all of them each way.

    With n values a feature in all processes, and g, g_m, g_s the gradients by z, mean and inverse_std = s:
    d z_pre = s g - A / n - z B / n, where A and B are the sums of s g - g_m and s g z + s^2 g_s over all processes.
    """

    @staticmethod
    def forward(ctx: Any, processes: Processes, *streams: Tensor) -> tuple[Tensor, ...]:
        features = streams[0].shape[1]
        message = streams[0].new_zeros(len(streams), 2, features, dtype=torch.float64)
        counts = streams[0].new_zeros(len(streams), 1, 1, dtype=torch.float64)
        for stream, sums, count in zip(streams, message, counts, strict=True):
            if len(stream):
                values = stream.numel() // features
                var, mean = torch.var_mean(stream, dim=_all_but_features(stream), correction=0)
                count.fill_(values)
                sums[0] = values * mean.double()
                sums[1] = values * (var.double() + mean.double().square())
        whole = processes.sum(torch.cat([message, counts.expand(-1, 2, 1)], dim=2))
        n = whole[:, :1, -1]
        mean = whole[:, 0, :-1] / n
        var = (whole[:, 1, :-1] / n - mean.square()).clamp_min(0)
        inverse_std = torch.rsqrt(var + EPSILON).to(streams[0].dtype)
        mean = mean.to(streams[0].dtype)
        ctx.processes, ctx.streams = processes, len(streams)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(n.to(streams[0].dtype), mean, inverse_std, *streams)
        normalized = ((normalize(stream, m, s), m, s) for stream, m, s in zip(streams, mean, inverse_std, strict=True))
        return tuple(value for values in normalized for value in values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        n, mean, inverse_std, *streams = ctx.saved_tensors
        message = mean.new_zeros(len(streams), 2, mean.shape[1])
        for i, (stream, sums) in enumerate(zip(streams, message, strict=True)):
            grad_z, grad_mean, grad_inverse_std = grads[3 * i : 3 * i + 3]
            if grad_z is not None:
                dims, z = _all_but_features(stream), normalize(stream, mean[i], inverse_std[i])
                sums[0] = inverse_std[i] * grad_z.sum(dims)
                sums[1] = inverse_std[i] * (grad_z * z).sum(dims)
            if grad_mean is not None:
                sums[0] -= grad_mean
            if grad_inverse_std is not None:
                sums[1] += inverse_std[i].square() * grad_inverse_std
        whole = ctx.processes.sum(message) / n[:, :, None]
        found = []
        for i, stream in enumerate(streams):
            z, grad_z = normalize(stream, mean[i], inverse_std[i]), grads[3 * i]
            grad = per_feature(-whole[i, 0], z) - z * per_feature(whole[i, 1], z)
            found.append(grad if grad_z is None else grad + grad_z * per_feature(inverse_std[i], z))
        return None, *found


def _all_but_features(values: Tensor) -> list[int]:
    return [dim for dim in range(values.dim()) if dim != 1]


class Statistics(nn.Module):
    """Mean and biased variance of each feature over the training data, for prediction.

    Holds either running averages over the batches of training (`update`) or the exact statistics of a pass
    over the data (`pool`).

    Parameters
    ----------
    features : int
        Number of features (units or channels).
    """

    mean: Tensor
    var: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("var", torch.ones(features))

    @torch.no_grad()
    def update(self, batch: Normalized, weight: Tensor, whole: int | None = None) -> None:
        """Count one training batch into the running averages.

        The batch's variance is multiplied by n / (n - 1), since that of n rows about their own mean is too
        small by that factor on average; the running average then tends to the variance over all rows.

        Parameters
        ----------
        batch : Normalized
            What `batch_normalize` returned.
        weight : Tensor, scalar in (0, 1]
            Weight of this batch against all before.
        whole : int, optional
            Rows of the batch in all processes; those of `batch` by default.
        """
        n = (len(batch.z) if whole is None else whole) * math.prod(batch.z.shape[2:])
        var = batch.inverse_std.detach().pow(-2).sub_(EPSILON).mul_(n / (n - 1))
        self.mean.lerp_(batch.mean.detach(), weight)
        self.var.lerp_(var, weight)

    @torch.no_grad()
    def pool(self, z_pre: Tensor, rows_before: int) -> None:
        """Count a batch into exact statistics, in which `rows_before` rows are counted; with none they begin anew.

        Pools the mean and variance of two groups of rows (Chan, Golub and LeVeque 1983).
        """
        if rows_before == 0:
            self.mean.zero_()
            self.var.zero_()
        var, mean = torch.var_mean(z_pre, dim=_all_but_features(z_pre), correction=0)
        weight = len(z_pre) / (rows_before + len(z_pre))
        delta = mean - self.mean
        self.mean += weight * delta
        self.var += weight * (var - self.var) + weight * (1 - weight) * delta.square()

    def normalize(self, z_pre: Tensor) -> Tensor:
        """Normalise with these statistics: the answer for a row does not depend on the other rows."""
        return normalize(z_pre, self.mean, torch.rsqrt(self.var + EPSILON))
