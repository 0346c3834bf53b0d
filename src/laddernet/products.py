"""The ladder's matrix product, in the precision that autocast asks for.

On the CPU, torch's own gradient of a weight is a transposed matrix, which is copied, and under autocast cast as well,
at the cost of a part of the product itself. `LinearMap` keeps every matrix contiguous. Elsewhere it is `nn.Linear`.
What normalises its answer gives it the full type again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from laddernet.normalization import quick

SMALL = 2**14
"""Weights below which what a function of our own costs in Python is more than a copy."""


class LinearMap(nn.Linear):
    """A linear map without a bias; where autocast computes its product in bfloat16, that is what it answers in.

    Its weight is not initialised, so that making one draws no random numbers: the maker fills it.

    Attributes
    ----------
    low : Tensor of shape (out_features, in_features), or None
        The weight in autocast's type, which the product then uses, and which gets the gradient in place of the weight;
        see `low_precision_weights`.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)
        self.low: Tensor | None = None

    def reset_parameters(self) -> None:
        """Leave the weight as it is."""

    def forward(self, h: Tensor) -> Tensor:
        """Map rows of shape (batch, in_features) to (batch, out_features)."""
        low = h.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        if not low and (h.device.type != "cpu" or self.weight.numel() < SMALL):
            return functional.linear(h, self.weight)
        dtype = torch.get_autocast_dtype("cpu") if low else h.dtype
        product: Tensor = _Product.apply(h, product_weight(self), dtype)  # type: ignore[no-untyped-call]
        return product


def product_weight(map: nn.Module) -> Tensor:
    """The weight that a `LinearMap`'s product uses: under autocast its copy in autocast's type, where there is one."""
    assert isinstance(map, LinearMap)
    return map.low if map.low is not None and torch.is_autocast_enabled("cpu") else map.weight


@contextmanager
def low_precision_weights(network: nn.Module, dtype: torch.dtype) -> Iterator[dict[nn.Parameter, Tensor]]:
    """Give each `LinearMap` a copy of its weight in this type, while the context lasts.

    The optimiser (see `optimizer.Adam`) keeps the copies up to date, so that no weight and no gradient is cast in a
    step of its own.
    """
    maps = [module for module in network.modules() if isinstance(module, LinearMap)]
    try:
        copies: dict[nn.Parameter, Tensor] = {}
        for module in maps:
            weight = cast(nn.Parameter, module.weight)
            if weight not in copies:  # maps may share one
                copies[weight] = weight.detach().to(dtype).requires_grad_(weight.requires_grad)
            module.low = copies[weight]
        yield copies
    finally:
        for module in maps:
            module.low = None


@quick
class _Product(torch.autograd.Function):
    """``h @ weight.T`` with inputs rounded to a type and returned in it; gradients are of the inputs' own."""

    generate_vmap_rule = True

    @staticmethod
    def forward(h: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
        return h.to(dtype) @ weight.to(dtype).t()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, torch.dtype], output: Tensor) -> None:
        h, weight, dtype = inputs
        ctx.save_for_backward(h.to(dtype), weight.to(dtype))
        ctx.dtypes = h.dtype, weight.dtype

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        h, weight = ctx.saved_tensors
        h_dtype, weight_dtype = ctx.dtypes
        grad_h = (grad @ weight).to(h_dtype) if ctx.needs_input_grad[0] else None
        grad_weight = (grad.t() @ h).to(weight_dtype) if ctx.needs_input_grad[1] else None
        return grad_h, grad_weight, None
