"""Adam, its update in one kernel."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from laddernet.kernels import Library


class Adam(torch.optim.Adam):
    """`torch.optim.Adam` with the update of all parameters in one call, and the same state.

    Parameters
    ----------
    params : iterable of Tensor
    lr : float

    Attributes
    ----------
    kernels : Library or None
        Compiled kernels to use for float32 parameters on the CPU; without them torch's fused kernel does the update.
    low : mapping of nn.Parameter to Tensor
        Copies in bfloat16 that the matrix products use: the gradient is taken from the copy, the update made in full
        precision and written to both.

    References
    ----------
    Kingma and Ba: Adam: A Method for Stochastic Optimization. ICLR 2015, arXiv 1412.6980.
    """

    kernels: Library | None = None
    low: Mapping[nn.Parameter, Tensor] = MappingProxyType({})
    _present: Sequence[int] = ()
    _addresses: Sequence[Tensor] = ()

    def __init__(self, params: Iterable[Tensor], lr: float) -> None:
        super().__init__(params, lr=lr, fused=True)

    @contextmanager
    def compiled(self, kernels: Library, low: Mapping[nn.Parameter, Tensor]) -> Iterator[None]:
        """Use kernels and copies (see the class) while the context lasts, in which no parameter may be moved."""
        self.kernels, self.low = kernels, low
        try:
            yield
        finally:
            del self.kernels, self.low
            self._present = self._addresses = ()

    @torch.no_grad()
    def refresh(self, parameter: nn.Parameter) -> None:
        """Bring the copy of a parameter that something else has changed up to date."""
        if parameter in self.low:
            self.low[parameter].copy_(parameter)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, those of the copies as well."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None
        for copy in self.low.values():
            copy.grad = None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient; a `closure` computes them first, and its result is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if self.kernels is None or len(self.param_groups) > 1 or not self._update_compiled(group, self.kernels):
                self._update(group)
        return loss

    def _update(self, group: dict[str, Any]) -> None:
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        states = [self.state[parameter] or self._start(parameter) for parameter in parameters]
        m, v, steps = ([state[key] for state in states] for key in ("exp_avg", "exp_avg_sq", "step"))
        beta1, beta2 = group["betas"]
        adam(
            parameters, [parameter.grad for parameter in parameters], m, v, [], steps, fused=True, amsgrad=False,
            has_complex=False, beta1=beta1, beta2=beta2, lr=group["lr"], weight_decay=0.0, eps=group["eps"],
            maximize=False,
        )  # fmt: skip

    def _update_compiled(self, group: dict[str, Any], kernels: Library) -> bool:
        """Update in one call, or return False where the parameters are not float32, or not laid out row by row."""
        leaves = [self.low.get(parameter, parameter) for parameter in group["params"]]
        present = [i for i, leaf in enumerate(leaves) if leaf.grad is not None]
        if any(p.dtype != torch.float32 or not p.is_contiguous() for p in (group["params"][i] for i in present)):
            return False
        if present != self._present:
            parameters = [group["params"][i] for i in present]
            states = [self.state[parameter] or self._start(parameter) for parameter in parameters]
            columns = [parameters, *([state[key] for state in states] for key in ("exp_avg", "exp_avg_sq", "step"))]
            columns.append([self.low.get(parameter) for parameter in parameters])
            counts = torch.tensor([parameter.numel() for parameter in parameters])
            self._present, self._addresses = present, [*map(_addresses, columns), counts]
        grads = [leaves[i].grad.contiguous() for i in present]
        beta1, beta2 = group["betas"]
        kernels.call(
            "adam", (torch.float32,), len(present), _addresses(grads), *self._addresses, float(group["lr"]), beta1,
            beta2, group["eps"],
        )  # fmt: skip
        return True

    def _start(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[parameter]
        state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        state["exp_avg"] = torch.zeros_like(parameter)
        state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state


def _addresses(tensors: Iterable[Tensor | None]) -> Tensor:
    return torch.tensor([0 if tensor is None else tensor.data_ptr() for tensor in tensors])
