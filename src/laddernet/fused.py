"""The encoder's streams and the decoder, each as one operation with an analytic backward pass.

The same as the torch operations in `ladder`, which stay the reference: `encode` takes the stacked streams up, `decode`
goes down to the denoising costs. Matrix products are torch's, all else is done by the kernels of kernels.cpp. Legend:
see `ladder`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from laddernet.kernels import Library, load
from laddernet.normalization import EPSILON, Normalized, Statistics


def product_dtype(like: Tensor) -> torch.dtype:
    """The type that autocast gives matrix products of such rows, else the rows' own."""
    low = torch.is_autocast_enabled("cpu") and like.dtype == torch.float32
    return torch.get_autocast_dtype("cpu") if low else like.dtype


def library(like: Tensor) -> Library | None:
    """The kernels for such rows, or None where they are on another device or of a type that has none."""
    precision = product_dtype(like)
    known = like.dtype in (torch.float32, torch.float64) and precision in (like.dtype, torch.bfloat16)
    if like.device.type != "cpu" or not known:
        return None
    return load(precision)


def slope_of(activation: nn.Module) -> float | None:
    """Slope below 0 of an increasing, piecewise linear activation, which the kernels apply; None for any other."""
    if isinstance(activation, nn.ReLU):
        return 0.0
    if isinstance(activation, nn.LeakyReLU) and activation.negative_slope >= 0:
        return float(activation.negative_slope)
    return 1.0 if isinstance(activation, nn.Identity) else None


def normal(kernels: Library, rows: int, features: int, *, std: float, generator: torch.Generator | None) -> Tensor:
    """Gaussian noise of shape (rows, features) in float32; the generator, on the CPU, gives its seed."""
    noise = torch.empty(rows, features)
    seed = int(torch.empty((), dtype=torch.int64).random_(generator=generator))
    kernels.call("normal", (torch.float32,), noise, noise.numel(), std, seed)
    return noise


class EncoderLayer(NamedTuple):
    """One layer of the encoder and the streams that run through it.

    Attributes
    ----------
    weight : Tensor of shape (features, features below)
    beta, gamma : Tensor of shape (features,)
        gamma is None where it is not learned.
    sizes : list of int
        Rows of each stream, up to three; the rows below may have more of them, which go no further.
    draw : callable
        Returns each stream's noise, of shape (rows, features), or None where it has none. The tensors are overwritten.
    slope : float
        Of the activation below 0; see `slope_of`.
    running : Statistics or None
        Follow the last stream's.
    """

    weight: Tensor
    beta: Tensor
    gamma: Tensor | None
    sizes: list[int]
    draw: Callable[[], list[Tensor | None]]
    slope: float
    running: Statistics | None


class Encoded(NamedTuple):
    """What `encode` leaves: the logits of all streams, and of each layer z of each stream and the last one's BN(z_pre).

    The last stream is the clean one where there is one: its z is then BN(z_pre) itself.
    """

    logits: Tensor
    z: list[tuple[Tensor, ...]]
    last: list[Normalized]


def encode(kernels: Library, h: Tensor, layers: Sequence[EncoderLayer], running_weight: float) -> Encoded:
    """Take stacked streams up: ``h = activation(gamma (BN(h W') + noise + beta))``, each stream's statistics its own.

    Parameters
    ----------
    h : Tensor of shape (rows of all streams, features)
    layers : sequence of EncoderLayer
    running_weight : float
        Weight of this batch in the running statistics.
    """
    dtype = product_dtype(h)
    given = [value for layer in layers for value in (layer.weight, layer.beta, layer.gamma)]
    logits, *rest = _Encode.apply(h, kernels, layers, dtype, running_weight, *given)  # type: ignore[no-untyped-call]
    z, last = [], []
    for layer in layers:
        mean, inverse_std, *streams = rest[: 2 + len(layer.sizes)]
        del rest[: 2 + len(layer.sizes)]
        z.append(tuple(streams))
        last.append(Normalized(streams[-1], mean, inverse_std))
    return Encoded(logits, z, last)


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        h: Tensor,
        kernels: Library,
        layers: Sequence[EncoderLayer],
        dtype: torch.dtype,
        running_weight: float,
        *given: Tensor | None,
    ) -> tuple[Tensor, ...]:
        ctx.kernels, ctx.layers, ctx.input_dtype = kernels, layers, h.dtype
        ctx.set_materialize_grads(False)
        full = layers[0].beta.dtype
        h = h.to(dtype)
        outputs: list[Tensor] = []
        saved: list[Tensor | None] = []
        for i, layer in enumerate(layers):
            sizes, features = layer.sizes, len(layer.beta)
            h = h[: sum(sizes)]
            weight = layer.weight.to(dtype)
            z_pre = h @ weight.t()
            noise = layer.draw()
            z = [
                torch.empty(size, features, dtype=full) if added is None else added
                for size, added in zip(sizes, noise, strict=True)
            ]
            mean = torch.empty(len(sizes), features, dtype=full)
            inverse_std = torch.empty_like(mean)
            above = torch.empty_like(z_pre, dtype=full if i + 1 == len(layers) else dtype)
            running = (None, None) if layer.running is None else (layer.running.mean, layer.running.var)
            kernels.call(
                "rise", (full, dtype, above.dtype), z_pre, above, mean, inverse_std, layer.beta, layer.gamma,
                *_three(z, None), *_three(sizes, 0), *_three([added is not None for added in noise], False), features,
                layer.slope, EPSILON, *running, running_weight,
            )  # fmt: skip
            saved += [h, weight, z_pre, above, mean, inverse_std, *_three(z, None)]
            outputs += [mean[-1], inverse_std[-1], *z]
            h = above
        ctx.save_for_backward(*saved)
        return h, *outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_h: Tensor | None, *grads: Tensor | None) -> tuple[Any, ...]:
        saved, rest = list(ctx.saved_tensors), list(grads)
        results: list[Tensor | None] = []
        for i, layer in reversed(list(enumerate(ctx.layers))):
            h_below, weight, z_pre, h, mean, inverse_std, *z = saved[-9:]
            del saved[-9:]
            own = 2 + len(layer.sizes)
            grad_mean, grad_inverse_std, *grad_z = (_contiguous(grad) for grad in rest[-own:])
            del rest[-own:]
            if grad_h is not None and len(grad_h) < len(h):  # a stream went no further
                grad_h = torch.cat([grad_h, grad_h.new_zeros(len(h) - len(grad_h), grad_h.shape[1])])
            grad_z_pre, grad_beta = torch.empty_like(z_pre), torch.empty_like(layer.beta)
            grad_gamma = None if layer.gamma is None else torch.empty_like(layer.gamma)
            ctx.kernels.call(
                "rise_back", (layer.beta.dtype, z_pre.dtype, h.dtype), z_pre, h, mean, inverse_std, layer.beta,
                layer.gamma, *z, *_three(layer.sizes, 0), len(layer.beta), layer.slope, _contiguous(grad_h),
                *_three(grad_z, None), grad_mean, grad_inverse_std, grad_z_pre, grad_beta, grad_gamma,
            )  # fmt: skip
            results[:0] = [(grad_z_pre.t() @ h_below).to(layer.weight.dtype), grad_beta, grad_gamma]
            grad_h = grad_z_pre @ weight if i > 0 or ctx.needs_input_grad[0] else None
        return None if grad_h is None else grad_h.to(ctx.input_dtype), None, None, None, None, *results


class DecoderStep(NamedTuple):
    """One layer of the decoder, the Gaussian combinator's.

    Attributes
    ----------
    weight : Tensor of shape (features, features above), or None at the top
    a : Tensor of shape (10, features)
        The combinator's parameters.
    z_noisy : Tensor of shape (rows, features)
    z_clean : Tensor of shape (rows, features), or None where no cost is wanted
    mean, inverse_std : Tensor of shape (features,)
        What normalises z_hat before it is compared with z_clean; None at layer 0, where it is compared as it is.
    """

    weight: Tensor | None
    a: Tensor
    z_noisy: Tensor
    z_clean: Tensor | None
    mean: Tensor | None
    inverse_std: Tensor | None


def decode(kernels: Library, down: Tensor, layers: Sequence[DecoderStep]) -> list[Tensor | None]:
    """Go down: ``u = BN(z_hat V')``, ``z_hat = g(z_noisy, u)``, and the denoising costs.

    Parameters
    ----------
    down : Tensor of shape (rows, outputs)
        The noisy path's answer.
    layers : sequence of DecoderStep
        From the top down.

    Returns
    -------
    list of (Tensor, scalar, or None)
        One a layer: the mean square over all elements, or None where no cost is wanted.
    """
    given = [value for layer in layers for value in layer]
    costs = _Decode.apply(down, kernels, layers, product_dtype(down), *given)  # type: ignore[no-untyped-call]
    return [None if layer.z_clean is None else cost for layer, cost in zip(layers, costs, strict=True)]


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        down: Tensor,
        kernels: Library,
        layers: Sequence[DecoderStep],
        dtype: torch.dtype,
        *given: Tensor | None,
    ) -> tuple[Tensor, ...]:
        ctx.kernels, ctx.layers = kernels, layers
        ctx.set_materialize_grads(False)
        full = layers[0].a.dtype
        costs: list[Tensor] = []
        saved: list[Tensor | None] = []
        for i, layer in enumerate(layers):
            weight = None if layer.weight is None else layer.weight.to(dtype)
            u_pre = down.contiguous() if weight is None else down @ weight.t()
            rows, features = u_pre.shape
            mean = torch.empty(features, dtype=full)
            inverse_std, cost = torch.empty_like(mean), torch.empty((), dtype=full)
            z_hat = torch.empty_like(u_pre, dtype=full if i + 1 == len(layers) else dtype)
            kernels.call(
                "descend", (full, u_pre.dtype, z_hat.dtype), u_pre, layer.z_noisy, layer.a, layer.z_clean, layer.mean,
                layer.inverse_std, mean, inverse_std, z_hat, cost, rows, features, EPSILON,
            )  # fmt: skip
            saved += [down, weight, u_pre, mean, inverse_std]
            costs.append(cost)
            down = z_hat
        ctx.save_for_backward(*saved)
        ctx.dtypes = full, dtype
        return tuple(costs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_costs: Tensor | None) -> tuple[Any, ...]:
        saved = list(ctx.saved_tensors)
        results: list[Tensor | None] = []
        grad_z_hat: Tensor | None = None
        full, dtype = ctx.dtypes
        for layer, grad_cost in zip(ctx.layers[::-1], grad_costs[::-1], strict=True):
            down, weight, u_pre, mean, inverse_std = saved[-5:]
            del saved[-5:]
            grad_u_pre, grad_z_noisy, grad_a = map(torch.empty_like, (u_pre, layer.z_noisy, layer.a))
            compared = [
                torch.empty_like(value) if value is not None and value.requires_grad and grad_cost is not None else None
                for value in (layer.z_clean, layer.mean, layer.inverse_std)
            ]
            ctx.kernels.call(
                "descend_back", (full, u_pre.dtype, dtype if results else full), u_pre, layer.z_noisy, layer.a,
                layer.z_clean, layer.mean, layer.inverse_std, mean, inverse_std, grad_z_hat, grad_cost, grad_u_pre,
                grad_z_noisy, grad_a, *compared, *u_pre.shape,
            )  # fmt: skip
            grad_weight, grad_z_hat = None, grad_u_pre
            if weight is not None:
                grad_weight = (grad_u_pre.t() @ down).to(layer.weight.dtype)
                grad_z_hat = grad_u_pre @ weight
            results[:0] = [grad_weight, grad_a, grad_z_noisy, *compared]
        return grad_z_hat, None, None, None, *results


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _three(items: list[Any], filler: Any) -> list[Any]:
    """The kernels take up to three streams."""
    return [*items, *[filler] * (3 - len(items))]
