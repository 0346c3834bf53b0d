"""`fused` for CUDA devices: the same equations by the kernels of `triton_kernels`, with noise drawn where it is added.

Values are laid out with the features of one position side by side. Where all rows of a stream fit into one tile, each
value is read once; else a first pass leaves each tile's sums, which torch adds up, and a second one uses them. Either
way every sum is made in one order, so that the same rows give the same bits.

Several networks of one shape go side by side, as a leading dimension (under `torch.vmap`).
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from laddernet import triton_kernels as kernels
from laddernet.fused import Drawn, Risen, Target
from laddernet.normalization import EPSILON, Normalized, Statistics, quick

ONE_TILE_ROWS = 512
"""Up to which a stream's rows are one tile."""
TILE = (128, 32)
"""Rows and features of a tile where there are more."""
ONE_TILE_FEATURES = 16


class TritonKernels:
    """The kernels as `fused` takes them; see `fused.rise` and `fused.descend`."""

    def rise(
        self,
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
        """See `fused.rise`; z of a stream is None where it is not wanted and the backward pass can do without."""
        drawn = noise if isinstance(noise, Drawn) else None
        given: list[Tensor | None] = [None] * len(sizes) if isinstance(noise, Drawn) else list(noise)
        kept = [gamma is not None or here for here in wanted]
        settings = _Normalization(tuple(sizes), given, drawn, kept, slope, running, running_weight, dtype)
        seed = None if drawn is None else drawn.seed
        risen = _Rise.apply(z_pre, beta, gamma, seed, settings)  # type: ignore[no-untyped-call]
        h, mean, inverse_std, _, _, *z = risen
        return Risen(h, z, Normalized(z[-1], mean, inverse_std))

    def descend(
        self, u_pre: Tensor, a: Tensor, z_noisy: Tensor, target: Target, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """See `fused.descend`."""
        z_hat, cost, *_ = _Descend.apply(u_pre, a, z_noisy, *target, _Descent(dtype))  # type: ignore[no-untyped-call]
        return z_hat, cost

    def try_out(self) -> None:
        """Compile and run a small kernel; an error of Triton's says that none will work."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        seed = torch.zeros((), dtype=torch.int64, device=device)
        self.noisy(torch.zeros(1, 1, device=device), Drawn((True,), 1.0, seed, 0))

    def noisy(self, clean: Tensor, drawn: Drawn) -> Tensor:
        """Values of shape (rows, features, *positions) with noise."""
        noisy: Tensor = _Noisy.apply(clean, drawn.seed, drawn, None)  # type: ignore[no-untyped-call]
        return noisy


@dataclass(frozen=True)
class _Normalization:
    sizes: tuple[int, ...]
    given: list[Tensor | None]
    drawn: Drawn | None
    kept: list[bool]
    slope: float
    running: Statistics | None
    running_weight: Tensor
    dtype: torch.dtype
    models: int | None = None


@dataclass(frozen=True)
class _Descent:
    dtype: torch.dtype
    models: int | None = None


@dataclass(frozen=True)
class _Grid:
    """How values of shape (rows, features, *positions), or (models, rows, features, *positions), are cut into tiles.

    Attributes
    ----------
    models, features : int
    rows : list of int
        Of each stream, times the positions.
    """

    models: int
    features: int
    rows: list[int]
    type: torch.dtype

    @classmethod
    def of(cls, values: Tensor, sizes: Sequence[int], models: int | None, type: torch.dtype) -> "_Grid":
        at = 1 if models is None else 2
        positions = math.prod(values.shape[at + 1 :])
        return cls(models or 1, values.shape[at], [size * positions for size in sizes], type)

    @property
    def whole(self) -> bool:
        return max(self.rows) <= ONE_TILE_ROWS

    @property
    def tile(self) -> tuple[int, int]:
        if not self.whole:
            return TILE
        return max(16, triton.next_power_of_2(max(self.rows))), ONE_TILE_FEATURES

    @property
    def tiles(self) -> int:
        """Of each stream; those beyond its rows are empty."""
        return -(-max(self.rows) // self.tile[0])

    @property
    def programs(self) -> tuple[int, int, int]:
        return -(-self.features // self.tile[1]), len(self.rows) * self.tiles, self.models

    def settings(self, **others: Any) -> dict[str, Any]:
        """What all kernels take by name."""
        rows, columns = self.tile
        warps = max(1, min(8, rows * columns // 512))
        kind = tl.float64 if self.type == torch.float64 else tl.float32
        return {"features": self.features, "tiles": self.tiles, "T": kind, "BR": rows, "BF": columns,
                "num_warps": warps, **others}  # fmt: skip

    def three(self) -> dict[str, int]:
        """The streams' rows."""
        return dict(zip(("n0", "n1", "n2"), [*self.rows, 0, 0], strict=False))

    def sums(self, count: int, device: torch.device) -> Tensor:
        """Room for so many sums of each tile's columns."""
        shape = (self.models, len(self.rows), self.tiles, count, self.features)
        return torch.empty(shape, dtype=self.type, device=device)


def _device(values: Tensor) -> AbstractContextManager[None]:
    """Kernels are launched on the current device, which shall be that of the values."""
    on_gpu: AbstractContextManager[None] = torch.cuda.device_of(values)  # type: ignore[no-untyped-call]
    return on_gpu


def _totals(x: Tensor, grid: _Grid) -> Tensor | None:
    """Where a stream is more than one tile, the first pass of its statistics."""
    if grid.whole:
        return None
    sums = grid.sums(2, x.device)
    kernels.sums[grid.programs](x, sums, **grid.three(), **grid.settings())
    return sums.sum(2)


def _laid_out(values: Tensor, models: int | None) -> Tensor:
    """The same values, the features of one position side by side."""
    at = 1 if models is None else 2
    return values.movedim(at, -1).contiguous().movedim(-1, at)


def _room(like: Tensor, rows: int, models: int | None, dtype: torch.dtype) -> Tensor:
    """A new tensor of so many rows, else of the shape, laid out so."""
    at = 0 if models is None else 1
    shape = [*like.shape[:at], rows, *like.shape[at + 2 :], like.shape[at + 1]]
    return torch.empty(shape, dtype=dtype, device=like.device).movedim(-1, at + 1)


def _full(dtype: torch.dtype) -> torch.dtype:
    """The type that is computed in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _batched(values: Sequence[Any], in_dims: Sequence[Any], models: int) -> list[Any]:
    """Tensors with the networks as the first dimension, also those that all networks share."""
    batched = []
    for value, dim in zip(values, in_dims, strict=True):
        if not isinstance(value, Tensor):
            batched.append(value)
        elif dim is None:
            batched.append(value.expand(models, *value.shape).contiguous())
        else:
            batched.append(value.movedim(dim, 0).contiguous())
    return batched


@quick
class _Rise(torch.autograd.Function):
    @staticmethod
    def forward(
        z_pre: Tensor, beta: Tensor | None, gamma: Tensor | None, seed: Tensor | None, settings: _Normalization
    ) -> tuple[Tensor | None, ...]:
        models, sizes, drawn, running = settings.models, settings.sizes, settings.drawn, settings.running
        z_pre, full = _laid_out(z_pre, models), _full(z_pre.dtype)
        grid = _Grid.of(z_pre, sizes, models, full)
        h = _room(z_pre, sum(sizes), models, settings.dtype)
        z: list[Tensor | None] = [
            _laid_out(given, models) if given is not None else _room(z_pre, size, models, full) if kept else None
            for size, given, kept in zip(sizes, settings.given, settings.kept, strict=True)
        ]
        before = () if models is None else (models,)
        mean, mean_last = (
            torch.empty(*before, *shape, dtype=full, device=z_pre.device)
            for shape in ((len(sizes), grid.features), (grid.features,))
        )
        inverse_std, inverse_std_last = torch.empty_like(mean), torch.empty_like(mean_last)
        followed = (None, None, None) if running is None else (running.mean, running.var, settings.running_weight)
        with _device(z_pre):
            kernels.rise[grid.programs](
                z_pre, _totals(z_pre, grid), h, mean, inverse_std, mean_last, inverse_std_last, beta, gamma, *_three(z),
                seed, *followed, **grid.three(), **grid.settings(), streams=len(sizes), slope=settings.slope,
                epsilon=EPSILON, salt=0 if drawn is None else drawn.salt, std=0.0 if drawn is None else drawn.std,
                drawn=0 if drawn is None else _bits(drawn.noisy),
                given=_bits([given is not None for given in settings.given]), WHOLE=grid.whole,
            )  # fmt: skip
        return h, mean_last, inverse_std_last, mean, inverse_std, *z

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        z_pre, beta, gamma, _, settings = inputs
        h, _, _, mean, inverse_std, *z = output
        ctx.mark_non_differentiable(mean, inverse_std)
        ctx.set_materialize_grads(False)
        ctx.settings = settings
        z_pre = _laid_out(z_pre, settings.models)
        of_sign = z_pre if settings.slope == 1 and settings.dtype == z_pre.dtype else h  # h may be overwritten
        ctx.save_for_backward(z_pre, of_sign, mean, inverse_std, beta, gamma, *(z if gamma is not None else []))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Any, Any]:
        *tensors, settings = inputs
        tensors = _batched(tensors, in_dims[:-1], info.batch_size)
        output = _Rise.apply(*tensors, replace(settings, models=info.batch_size))  # type: ignore[no-untyped-call]
        return output, tuple(None if value is None else 0 for value in output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        z_pre, of_sign, mean, inverse_std, beta, gamma, *z = ctx.saved_tensors
        settings, models = ctx.settings, ctx.settings.models
        grad_h, grad_mean, grad_inverse_std, _, _, *grad_z = grads
        grid = _Grid.of(z_pre, settings.sizes, models, mean.dtype)
        grad_z_pre = _room(z_pre, sum(settings.sizes), models, z_pre.dtype)
        sums = grid.sums(4, z_pre.device)
        values = (
            z_pre, of_sign, mean, inverse_std, beta, gamma, *_three(z),
            *(None if grad is None else _laid_out(grad, models) for grad in (grad_h, *_three(grad_z))),
            *(None if grad is None else grad.contiguous() for grad in (grad_mean, grad_inverse_std)),
        )  # fmt: skip
        others = grid.three() | grid.settings(streams=len(settings.sizes), slope=settings.slope)
        with _device(z_pre):
            kernels.rise_back[grid.programs](*values, sums, None, grad_z_pre, **others, WHOLE=grid.whole, SECOND=False)
            totals = sums.sum(2) if not grid.whole else sums[:, :, 0]
            if not grid.whole:
                kernels.rise_back[grid.programs](*values, None, totals, grad_z_pre, **others, WHOLE=False, SECOND=True)
        learned = totals[:, :, 2:].sum(1)
        of_beta, of_gamma = (
            None if value is None else learned[:, i].reshape(value.shape) for i, value in enumerate((beta, gamma))
        )
        return grad_z_pre, of_beta, of_gamma, None, None


@quick
class _Descend(torch.autograd.Function):
    @staticmethod
    def forward(
        u_pre: Tensor,
        a: Tensor,
        z_noisy: Tensor,
        z_clean: Tensor | None,
        mean_clean: Tensor | None,
        inverse_std_clean: Tensor | None,
        settings: _Descent,
    ) -> tuple[Tensor, ...]:
        models, full = settings.models, a.dtype
        u_pre, z_noisy = _laid_out(u_pre, models), _laid_out(z_noisy, models)
        z_clean = None if z_clean is None else _laid_out(z_clean, models)
        rows = u_pre.shape[0 if models is None else 1]
        grid = _Grid.of(u_pre, [rows], models, full)
        z_hat = _room(u_pre, rows, models, settings.dtype)
        mean = torch.empty(*a.shape[:-2], grid.features, dtype=full, device=a.device)
        inverse_std = torch.empty_like(mean)
        blocks, tiles, _ = grid.programs
        errors = torch.empty(*a.shape[:-2], tiles * blocks, dtype=full, device=a.device)
        with _device(u_pre):
            kernels.descend[grid.programs](
                u_pre, _totals(u_pre, grid), a.contiguous(), z_noisy, z_clean, mean_clean, inverse_std_clean, mean,
                inverse_std, z_hat, errors, n=grid.rows[0], epsilon=EPSILON, WHOLE=grid.whole, **grid.settings(),
            )  # fmt: skip
        return z_hat, errors.sum(-1), mean, inverse_std

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        *tensors, settings = inputs
        _, _, mean, inverse_std = output
        ctx.mark_non_differentiable(mean, inverse_std)
        ctx.set_materialize_grads(False)
        ctx.settings = settings
        ctx.save_for_backward(*tensors, mean, inverse_std)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Any, Any]:
        *tensors, settings = inputs
        tensors = _batched(tensors, in_dims[:-1], info.batch_size)
        output = _Descend.apply(*tensors, replace(settings, models=info.batch_size))  # type: ignore[no-untyped-call]
        return output, (0, 0, 0, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_z_hat: Tensor | None, grad_cost: Tensor | None, *_: None) -> tuple[Any, ...]:
        u_pre, a, z_noisy, z_clean, mean_clean, inverse_std_clean, mean, inverse_std = ctx.saved_tensors
        models = ctx.settings.models
        u_pre, z_noisy = _laid_out(u_pre, models), _laid_out(z_noisy, models)
        z_clean = None if z_clean is None else _laid_out(z_clean, models)
        rows = u_pre.shape[0 if models is None else 1]
        grid = _Grid.of(u_pre, [rows], models, a.dtype)
        grad_u_pre, grad_z_noisy = _room(u_pre, rows, models, u_pre.dtype), _room(u_pre, rows, models, a.dtype)
        to_clean = grad_cost is not None and ctx.needs_input_grad[3]
        grad_z_clean = _room(u_pre, rows, models, a.dtype) if to_clean else None
        sums = grid.sums(14, a.device)
        if grad_cost is None:
            sums[..., 10:12, :] = 0
        values = (u_pre, a.contiguous(), z_noisy, z_clean, mean_clean, inverse_std_clean, mean, inverse_std)
        grads = (
            None if grad_z_hat is None else _laid_out(grad_z_hat, models),
            None if grad_cost is None else grad_cost.contiguous(),
        )
        others = grid.settings(n=grid.rows[0])
        with _device(u_pre):
            kernels.descend_back[grid.programs](
                *values, *grads, sums, None, grad_u_pre, grad_z_noisy, grad_z_clean, **others, WHOLE=grid.whole,
                SECOND=False,
            )  # fmt: skip
            totals = sums.sum(2) if not grid.whole else sums[:, :, 0]
            if not grid.whole:
                kernels.descend_back[grid.programs](
                    *values, None, None, None, totals, grad_u_pre, None, None, **others, WHOLE=False, SECOND=True
                )
        totals = totals[:, 0] if models is not None else totals[0, 0]
        of_statistics = [
            totals[..., 10 + i, :] if needed and grad_cost is not None else None
            for i, needed in enumerate(ctx.needs_input_grad[4:6])
        ]
        return grad_u_pre, totals[..., :10, :], grad_z_noisy, grad_z_clean, *of_statistics, None


@quick
class _Noisy(torch.autograd.Function):
    @staticmethod
    def forward(clean: Tensor, seed: Tensor, drawn: Drawn, models: int | None) -> Tensor:
        clean = _laid_out(clean, models)
        rows = clean.shape[0 if models is None else 1]
        grid = _Grid.of(clean, [rows], models, clean.dtype)
        noisy = _room(clean, rows, models, clean.dtype)
        with _device(clean):
            kernels.noisy[grid.programs](
                clean, noisy, seed, n=grid.rows[0], salt=drawn.salt, std=drawn.std, **grid.settings()
            )
        return noisy

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Any, Any]:
        clean, seed = _batched(inputs[:2], in_dims[:2], info.batch_size)
        return _Noisy.apply(clean, seed, inputs[2], info.batch_size), 0  # type: ignore[no-untyped-call]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        return grad, None, None, None


def _three(items: Sequence[Any]) -> list[Any]:
    return [*items, *[None] * (3 - len(items))]


def _bits(flags: Sequence[bool]) -> int:
    return sum(flag << i for i, flag in enumerate(flags))
