"""The ladder's matrix product, in the precision that autocast asks for.

On the CPU, torch's own autocast casts a weight's gradient back from a transposed bfloat16 matrix, which costs as
much as the product itself. `LinearMap` keeps every cast contiguous; on the MNIST network that takes a quarter off
a step. Elsewhere, and without autocast, it is `nn.Linear`.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional


class LinearMap(nn.Linear):
    """A linear map without a bias that answers in float32 where autocast computes its product in bfloat16.

    Its weight is not initialised, so that making one draws no random numbers: the maker fills it.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def reset_parameters(self) -> None:
        """Leave the weight as it is."""

    def forward(self, h: Tensor) -> Tensor:
        """Map rows of shape (batch, in_features) to (batch, out_features)."""
        if h.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            product: Tensor = _LowPrecisionProduct.apply(h, self.weight)  # type: ignore[no-untyped-call]
            return product
        z_pre = functional.linear(h, self.weight)
        return z_pre.float() if z_pre.dtype in (torch.bfloat16, torch.float16) else z_pre


class _LowPrecisionProduct(torch.autograd.Function):
    """``h @ weight.T`` with inputs rounded to autocast's type, summed and returned in the input's own."""

    @staticmethod
    def forward(ctx: FunctionCtx, h: Tensor, weight: Tensor) -> Tensor:
        low = torch.get_autocast_dtype("cpu")
        h_low, weight_low = h.to(low), weight.to(low)
        ctx.save_for_backward(h_low, weight_low)
        return (h_low @ weight_low.t()).to(h.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor]:
        h_low, weight_low = ctx.saved_tensors
        grad_low = grad.to(h_low.dtype)
        grad_h = (grad_low @ weight_low).to(grad.dtype) if ctx.needs_input_grad[0] else None
        return grad_h, (grad_low.t() @ h_low).to(grad.dtype)
