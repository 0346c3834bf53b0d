"""What the top of the ladder answers: its output activation and its supervised cost.

A task maps the top rung's values (logits, before any activation) to an answer, and to a cost against labels.
The costs start from the logits, so that no softmax or sigmoid is applied twice.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, kw_only=True)
class Task:
    """One kind of supervised task.

    Parameters
    ----------
    activate : callable
        Logits of shape (batch, outputs) to the answer of the same shape: probabilities or values. It is also
        what the noisy path sends into the decoder.
    cost : callable
        ``(logits, y, weight=None)`` to a scalar, the mean over rows of each row's cost times its weight.
    divergence : callable
        ``(logits, others)`` to a scalar, the sum over rows of how far the second answer is from the first: the
        Kullback-Leibler divergence of the answers as distributions, a value's being Gaussian with variance 1.
    """

    activate: Callable[[Tensor], Tensor]
    cost: Callable[..., Tensor]
    divergence: Callable[[Tensor, Tensor], Tensor]


def _softmax(logits: Tensor) -> Tensor:
    return torch.softmax(logits, dim=1)


def _mean(cost: Tensor, weight: Tensor | None) -> Tensor:
    """Mean over rows of weight times cost, of shape (batch,) or (batch, outputs)."""
    if weight is None:
        return cost.mean()
    per_row = cost if cost.dim() == 1 else cost.mean(dim=1)
    return (weight * per_row).mean()


_NO_INDEX = -(2**63)
"""In place of the one below 0 that torch would leave out of the cost without a word."""


def cross_entropy(logits: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean over rows of ``-weight log softmax(logits)[y]``.

    Parameters
    ----------
    logits : Tensor of shape (batch, classes)
    y : int64 Tensor of shape (batch,), each in 0 .. classes - 1
    weight : Tensor of shape (batch,), optional
        Of each row; 1 for all by default.

    Raises
    ------
    ValueError
        If `y` has another shape or dtype, or (checked on the CPU) a label out of range.
    """
    if y.dim() != 1 or len(y) != len(logits) or y.dtype != torch.int64:
        raise ValueError(
            f"y must be an int64 tensor of shape ({len(logits)},), one class index a labelled row, "
            f"got {y.dtype} of shape {tuple(y.shape)}."
        )
    try:
        cost = functional.cross_entropy(logits, y, reduction="none", ignore_index=_NO_INDEX)
    except IndexError as error:
        raise ValueError(
            f"y must hold class indices in 0..{logits.shape[1] - 1}, got {int(y.min())}..{int(y.max())}. "
            "Rows without a label belong in x_unlabeled only."
        ) from error
    return _mean(cost, weight)


def _same_shape(output: Tensor, y: Tensor) -> Tensor:
    y = y.unsqueeze(1) if y.dim() == 1 else y
    if y.shape != output.shape or not y.is_floating_point():
        raise ValueError(
            f"y must be a floating-point tensor of shape {tuple(output.shape)}, "
            f"got {y.dtype} of shape {tuple(y.shape)}."
        )
    return y


def squared_error(output: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean over all elements of ``weight (output - y)^2``; `y` standardised (mean 0, variance 1) by the caller.

    Parameters
    ----------
    output : Tensor of shape (batch, outputs)
    y : Tensor of shape (batch, outputs), or (batch,) for one output
    weight : Tensor of shape (batch,), optional
        Of each row; 1 for all by default.

    Raises
    ------
    ValueError
        If the shapes do not agree, or `y` is not of a floating-point type.
    """
    return _mean(functional.mse_loss(output, _same_shape(output, y), reduction="none"), weight)


def binary_cross_entropy(logits: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean over all elements of weight times the logistic cost; `y` in [0, 1], one column a label, floating point.

    Parameters
    ----------
    logits : Tensor of shape (batch, labels)
    y : Tensor of shape (batch, labels)
    weight : Tensor of shape (batch,), optional
        Of each row; 1 for all by default.

    Raises
    ------
    ValueError
        If the shapes do not agree, or `y` is not of a floating-point type.
    """
    cost = functional.binary_cross_entropy_with_logits(logits, _same_shape(logits, y), reduction="none")
    return _mean(cost, weight)


def _between_classes(logits: Tensor, others: Tensor) -> Tensor:
    p, q = torch.log_softmax(logits, dim=1), torch.log_softmax(others, dim=1)
    return functional.kl_div(q, p, reduction="sum", log_target=True)


def _between_values(output: Tensor, others: Tensor) -> Tensor:
    return functional.mse_loss(others, output, reduction="sum") / 2


def _between_labels(logits: Tensor, others: Tensor) -> Tensor:
    p = torch.sigmoid(logits)
    return (p * (logits - others) + functional.softplus(others) - functional.softplus(logits)).sum()


TASKS: dict[str, Task] = {
    "classification": Task(activate=_softmax, cost=cross_entropy, divergence=_between_classes),
    "regression": Task(activate=lambda output: output, cost=squared_error, divergence=_between_values),
    "multilabel": Task(activate=torch.sigmoid, cost=binary_cross_entropy, divergence=_between_labels),
}
"""The tasks by the name that `Ladder` takes."""
