"""Encoders to build a ladder on."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn


def mlp(
    widths: Sequence[int],
    *,
    activation: type[nn.Module] = nn.ReLU,
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    """Fully connected network of the given widths, input and outputs included.

    The maps have no bias, since a ladder's normalisation removes it, and start as N(0, 1 / fan_in)
    (docs/algorithm.md, "Start").

    Parameters
    ----------
    widths : sequence of int
        At least two positive ones, e.g. ``(784, 1000, 500, 250, 250, 250, 10)``.
    activation : type of nn.Module
        Between the maps; there is none after the last, which gives the logits.
    generator : torch.Generator, optional
        Source of the starting weights.

    Returns
    -------
    nn.Sequential from (batch, widths[0]) to (batch, widths[-1]).

    Raises
    ------
    ValueError
        If there are fewer than two widths, or one is not positive.
    """
    if len(widths) < 2 or any(width < 1 for width in widths):
        raise ValueError(f"widths must be at least two positive integers, got {tuple(widths)}.")
    modules: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        linear = nn.utils.skip_init(nn.Linear, fan_in, fan_out, bias=False)  # type: ignore[no-untyped-call]
        nn.init.normal_(linear.weight, std=fan_in**-0.5, generator=generator)
        modules += [linear, activation()]
    return nn.Sequential(*modules[:-1])
