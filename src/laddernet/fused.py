"""One layer of the encoder's streams and one of the decoder, each as one operation with an analytic backward pass.

The same as the torch operations in `ladder`, which stay the reference: `rise` takes the stacked streams through a
normalisation, `descend` goes down to a denoising cost. Matrix products and convolutions are torch's, all else is done
by kernels, on values laid out with the features of one position side by side: those of kernels.cpp on the CPU, called
from here, and those of `fused_triton` on a CUDA device. Legend: see `ladder`.
"""

import importlib.util
import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, Union

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from laddernet.kernels import Library, load, say_once
from laddernet.normalization import EPSILON, Normalized, Statistics, features_last

if TYPE_CHECKING:
    from laddernet.fused_triton import TritonKernels

Kernels: TypeAlias = Union[Library, "TritonKernels"]


def product_dtype(like: Tensor) -> torch.dtype:
    """The type that autocast gives matrix products of such rows, else the rows' own."""
    device = like.device.type
    low = like.dtype == torch.float32 and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if low else like.dtype


@cache
def load_triton(precision: torch.dtype) -> "TritonKernels | None":
    """Return the kernels for CUDA devices, which know every precision; None, and a warning, where they do not work.

    One is tried: Triton may be missing, lack the C compiler that it wants, or not know an old device.
    """
    if importlib.util.find_spec("triton") is None:
        say_once("Triton, which comes with torch for CUDA devices, is not installed. Install it.")
        return None
    try:
        from laddernet.fused_triton import TritonKernels

        kernels = TritonKernels()
        kernels.try_out()
    except Exception as error:  # whatever Triton, its compiler or the driver raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        say_once(
            f"Triton does not work here ({reason}). It needs a C compiler such as gcc, and a device that it knows."
        )
        return None
    return kernels


LOADERS: dict[str, Callable[[torch.dtype], Kernels | None]] = {"cpu": load, "cuda": load_triton}
"""What gives the kernels, by the kind of device."""


def library(like: Tensor) -> Kernels | None:
    """The kernels for such rows, or None where they are on a device or of a type that has none."""
    precision, device = product_dtype(like), like.device.type
    known = like.dtype in (torch.float32, torch.float64) and precision in (like.dtype, torch.bfloat16)
    return LOADERS[device](precision) if known and device in LOADERS else None


def slope_of(activation: nn.Module) -> float | None:
    """Slope below 0 of an increasing, piecewise linear activation, which the kernels apply; None for any other."""
    if isinstance(activation, nn.ReLU):
        return 0.0
    if isinstance(activation, nn.LeakyReLU) and activation.negative_slope >= 0:
        return float(activation.negative_slope)
    return 1.0 if isinstance(activation, nn.Identity) else None


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A new tensor of shape (batch, features, *positions), the features of one position side by side."""
    batch, features, *positions = shape
    count = math.prod(positions)
    strides = [math.prod(positions[i + 1 :]) * features for i in range(len(positions))]
    return torch.empty_strided((batch, features, *positions), (features * count, 1, *strides), dtype=dtype)


def normal(kernels: Library, shape: Sequence[int], *, std: float, generator: torch.Generator | None) -> Tensor:
    """Gaussian noise of shape (batch, features, *positions) in float32; the generator, on the CPU, gives its seed."""
    noise = empty(shape, torch.float32)
    seed = int(torch.empty((), dtype=torch.int64).random_(generator=generator))
    kernels.call("normal", (torch.float32,), noise, noise.numel(), std, seed)
    return noise


class Drawn(NamedTuple):
    """Gaussian noise that the kernel draws where it adds it.

    Attributes
    ----------
    noisy : tuple of bool
        Which streams get it.
    std : float
    seed : Tensor, int64 scalar, on the device
    salt : int
        Makes other numbers of the same seed.
    """

    noisy: tuple[bool, ...]
    std: float
    seed: Tensor
    salt: int


class Risen(NamedTuple):
    """What `rise` gives: h of all streams, z of each one, and the last one's BN(z_pre).

    The last stream is the clean one where there is one: its z is then BN(z_pre) itself. A z that is not wanted may be
    None.
    """

    h: Tensor
    z: list[Tensor]
    last: Normalized


def rise(
    kernels: Kernels,
    z_pre: Tensor,
    beta: Tensor | None,
    gamma: Tensor | None,
    *,
    sizes: Sequence[int],
    noise: Sequence[Tensor | None] | Drawn,
    wanted: Sequence[bool],
    slope: float,
    running: Statistics | None,
    running_weight: Tensor,
    dtype: torch.dtype,
) -> Risen:
    """Normalise stacked streams: ``h = activation(gamma (BN(z_pre) + noise + beta))``, each with its own statistics.

    Parameters
    ----------
    z_pre : Tensor of shape (rows of all streams, features, *positions)
    beta, gamma : Tensor of shape (features,), or None where they are not learned
    sizes : sequence of int
        Rows of each stream, up to three.
    noise : sequence of (Tensor of shape (rows, features, *positions), or None)
        One a stream; None where it has none. The tensors are overwritten. On a CUDA device also a `Drawn`.
    wanted : sequence of bool
        One a stream: whether its z is used.
    slope : float
        Of the activation below 0; see `slope_of`.
    running : Statistics or None
        Follow the last stream's, in which this batch has weight `running_weight`, a scalar.
    dtype : torch.dtype
        Of h.
    """
    if not isinstance(kernels, Library):
        return kernels.rise(
            z_pre, beta, gamma, sizes=sizes, noise=noise, wanted=wanted, slope=slope, running=running,
            running_weight=running_weight, dtype=dtype,
        )  # fmt: skip
    settings = (kernels, list(sizes), list(noise), slope, running, float(running_weight), dtype)
    h, mean, inverse_std, *z = _Rise.apply(z_pre, beta, gamma, *settings)  # type: ignore[no-untyped-call]
    return Risen(h, z, Normalized(z[-1], mean, inverse_std))


class _Rise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        z_pre: Tensor,
        beta: Tensor | None,
        gamma: Tensor | None,
        kernels: Library,
        sizes: list[int],
        noise: list[Tensor | None],
        slope: float,
        running: Statistics | None,
        running_weight: float,
        dtype: torch.dtype,
    ) -> tuple[Tensor, ...]:
        full, features = _full(z_pre.dtype), z_pre.shape[1]
        z_pre = features_last(z_pre)
        rows = [size * math.prod(z_pre.shape[2:]) for size in sizes]
        z = [
            empty((size, *z_pre.shape[1:]), full) if added is None else features_last(added)
            for size, added in zip(sizes, noise, strict=True)
        ]
        mean = torch.empty(len(sizes), features, dtype=full)
        inverse_std = torch.empty_like(mean)
        h = empty(z_pre.shape, dtype)
        shift = torch.zeros(features, dtype=full) if beta is None else beta
        kernels.call(
            "rise", (full, z_pre.dtype, dtype), z_pre, h, mean, inverse_std, shift, gamma, *_three(z, None),
            *_three(rows, 0), *_three([added is not None for added in noise], False), features, slope, EPSILON,
            *((None, None) if running is None else (running.mean, running.var)), running_weight,
        )  # fmt: skip
        ctx.kernels, ctx.rows, ctx.slope, ctx.has_beta = kernels, rows, slope, beta is not None
        ctx.set_materialize_grads(False)
        of_sign = z_pre if slope == 1 and dtype == z_pre.dtype else h  # what follows may overwrite h
        ctx.save_for_backward(z_pre, of_sign, mean, inverse_std, shift, gamma, *(z if gamma is not None else []))
        return h, mean[-1], inverse_std[-1], *z

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_h: Tensor | None, grad_mean: Tensor | None, grad_inverse_std: Tensor | None, *grad_z: Any
    ) -> tuple[Any, ...]:
        z_pre, h, mean, inverse_std, shift, gamma, *z = ctx.saved_tensors
        grad_z_pre, grad_beta = torch.empty_like(z_pre), torch.empty_like(shift)
        grad_gamma = None if gamma is None else torch.empty_like(gamma)
        ctx.kernels.call(
            "rise_back", (shift.dtype, z_pre.dtype, h.dtype), z_pre, h, mean, inverse_std, shift, gamma,
            *_three(z, None), *_three(ctx.rows, 0), len(shift), ctx.slope, _laid_out(grad_h),
            *_three([_laid_out(grad) for grad in grad_z], None), _laid_out(grad_mean), _laid_out(grad_inverse_std),
            grad_z_pre, grad_beta, grad_gamma,
        )  # fmt: skip
        return grad_z_pre, grad_beta if ctx.has_beta else None, grad_gamma, *[None] * 7


class Target(NamedTuple):
    """What z_hat is compared with.

    Attributes
    ----------
    z_clean : Tensor of shape (rows, features, *positions), or None where no cost is wanted
    mean, inverse_std : Tensor of shape (features,)
        What normalises z_hat first; None at layer 0, where it is compared as it is.
    """

    z_clean: Tensor | None = None
    mean: Tensor | None = None
    inverse_std: Tensor | None = None


def descend(
    kernels: Kernels, u_pre: Tensor, a: Tensor, z_noisy: Tensor, target: Target, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Go down one layer: ``u = BN(u_pre)``, ``z_hat = g(z_noisy, u)``, and the denoising cost.

    Parameters
    ----------
    u_pre, z_noisy : Tensor of shape (rows, features, *positions)
    a : Tensor of shape (10, features)
        The Gaussian combinator's parameters.
    target : Target
    dtype : torch.dtype
        Of z_hat.

    Returns
    -------
    z_hat : Tensor of shape (rows, features, *positions)
    cost : Tensor, scalar
        The mean square over all elements; of no meaning where no cost is wanted.
    """
    if not isinstance(kernels, Library):
        return kernels.descend(u_pre, a, z_noisy, target, dtype)
    z_hat, cost = _Descend.apply(u_pre, a, z_noisy, *target, kernels, dtype)  # type: ignore[no-untyped-call]
    return z_hat, cost


class _Descend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        u_pre: Tensor,
        a: Tensor,
        z_noisy: Tensor,
        z_clean: Tensor | None,
        mean_clean: Tensor | None,
        inverse_std_clean: Tensor | None,
        kernels: Library,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        u_pre, z_noisy = features_last(u_pre), features_last(z_noisy)
        z_clean = None if z_clean is None else features_last(z_clean)
        full, features = a.dtype, u_pre.shape[1]
        mean = torch.empty(features, dtype=full)
        inverse_std, cost = torch.empty_like(mean), torch.empty((), dtype=full)
        z_hat = empty(u_pre.shape, dtype)
        kernels.call(
            "descend", (full, u_pre.dtype, dtype), u_pre, z_noisy, a, z_clean, mean_clean, inverse_std_clean, mean,
            inverse_std, z_hat, cost, u_pre.numel() // features, features, EPSILON,
        )  # fmt: skip
        ctx.kernels, ctx.dtype = kernels, dtype
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(u_pre, a, z_noisy, z_clean, mean_clean, inverse_std_clean, mean, inverse_std)
        return z_hat, cost

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_z_hat: Tensor | None, grad_cost: Tensor | None) -> tuple[Any, ...]:
        u_pre, a, z_noisy, *target, mean, inverse_std = ctx.saved_tensors
        grad_u_pre, grad_z_noisy, grad_a = map(torch.empty_like, (u_pre, z_noisy, a))
        compared = [
            torch.empty_like(value) if needed and grad_cost is not None else None
            for value, needed in zip(target, ctx.needs_input_grad[3:6], strict=True)
        ]
        features = u_pre.shape[1]
        ctx.kernels.call(
            "descend_back", (a.dtype, u_pre.dtype, ctx.dtype), u_pre, z_noisy, a, *target, mean, inverse_std,
            _laid_out(grad_z_hat), grad_cost, grad_u_pre, grad_z_noisy, grad_a, *compared, u_pre.numel() // features,
            features,
        )  # fmt: skip
        return grad_u_pre, grad_a, grad_z_noisy, *compared, None, None


def _full(dtype: torch.dtype) -> torch.dtype:
    """The type of all but the products."""
    return torch.float32 if dtype == torch.bfloat16 else dtype


def _laid_out(grad: Tensor | None) -> Tensor | None:
    return None if grad is None else features_last(grad) if grad.dim() > 1 else grad.contiguous()


def _three(items: list[Any], filler: Any) -> list[Any]:
    """The kernels take up to three streams."""
    return [*items, *[filler] * (3 - len(items))]
