"""Encoders to build a ladder on: the paper's, and a small residual one.

The convolutional ones have batch normalisation wherever the paper's ladder has a rung. A pool's has neither scale nor
shift; at the top, over a mean of all positions, it has a shift alone. The factor side * sqrt(3) on that mean is left
out, since the normalisation takes it away again.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

__all__ = ["WideResNet", "conv_fc", "conv_large", "conv_small", "mlp"]


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
        modules += [_linear(fan_in, fan_out, generator), activation()]
    return nn.Sequential(*modules[:-1])


def conv_fc(
    input_shape: Sequence[int] = (1, 28, 28), outputs: int = 10, *, generator: torch.Generator | None = None
) -> nn.Sequential:
    """The paper's Conv-FC: its fully connected network, moved over the image.

    A valid convolution of 26 by 26 (of all but the outermost positions, for images of another size) to 1000 maps, then
    1x1 to 500, 250, 250, 250 and the outputs, each with a rectifier, and the mean over all positions. Seven rungs.

    Parameters
    ----------
    input_shape : sequence of int
        (channels, height, width), at least 3 by 3.
    outputs : int
    generator : torch.Generator, optional
        Source of the starting weights.

    Returns
    -------
    nn.Sequential from (batch, *input_shape) to (batch, outputs).

    Raises
    ------
    ValueError
        If `input_shape` is not of images, or they are too small.
    """
    channels, height, width = _image_shape(input_shape, at_least=3)
    modules = _convolution(channels, 1000, (height - 2, width - 2), nn.ReLU(), generator)
    for below, above in pairwise((1000, 500, 250, 250, 250, outputs)):
        modules += _convolution(below, above, 1, nn.ReLU(), generator)
    return nn.Sequential(*modules, nn.AdaptiveAvgPool2d(1), nn.Flatten(), _top_norm(outputs))


def conv_small(
    input_shape: Sequence[int] = (1, 28, 28), outputs: int = 10, *, generator: torch.Generator | None = None
) -> nn.Sequential:
    """The paper's Conv-Small, for MNIST.

    Convolutions of 5x5 to 32 maps (full), 3x3 to 64 (valid), 3x3 to 64 (full), 3x3 to 128 (valid) and 1x1 to the
    outputs, with rectifiers; a max-pool of 2 after the first and the third; the mean over all positions; a linear map.
    Nine rungs. Full convolutions are padded by all but one of the kernel's positions; pools round up.

    Parameters
    ----------
    input_shape : sequence of int
        (channels, height, width), at least 5 by 5.
    outputs : int
    generator : torch.Generator, optional
        Source of the starting weights.

    Returns
    -------
    nn.Sequential from (batch, *input_shape) to (batch, outputs).

    Raises
    ------
    ValueError
        If `input_shape` is not of images, or they are too small.
    """
    channels, *_ = _image_shape(input_shape, at_least=5)
    linear = _linear(outputs, outputs, generator)
    return nn.Sequential(
        *_convolution(channels, 32, 5, nn.ReLU(), generator, full=True),
        *_pool(32),
        *_convolution(32, 64, 3, nn.ReLU(), generator),
        *_convolution(64, 64, 3, nn.ReLU(), generator, full=True),
        *_pool(64),
        *_convolution(64, 128, 3, nn.ReLU(), generator),
        *_convolution(128, outputs, 1, nn.ReLU(), generator),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.BatchNorm1d(outputs, affine=False),
        linear,
        nn.BatchNorm1d(outputs),
    )


def conv_large(
    input_shape: Sequence[int] = (3, 32, 32), outputs: int = 10, *, generator: torch.Generator | None = None
) -> nn.Sequential:
    """The paper's Conv-Large, for CIFAR-10.

    Convolutions of 3x3 to 96 maps (valid, full, full), a max-pool of 2, 3x3 to 192 (valid, full, valid), a max-pool of
    2, 3x3 to 192 (valid), 1x1 to 192 and to the outputs, all with a leaky rectifier of slope 0.1; the mean over all
    positions, with neither linear map nor scale before the softmax. Twelve rungs. Full convolutions are padded by 2;
    pools round up.

    Parameters
    ----------
    input_shape : sequence of int
        (channels, height, width), at least 11 by 11.
    outputs : int
    generator : torch.Generator, optional
        Source of the starting weights.

    Returns
    -------
    nn.Sequential from (batch, *input_shape) to (batch, outputs).

    Raises
    ------
    ValueError
        If `input_shape` is not of images, or they are too small.
    """
    channels, *_ = _image_shape(input_shape, at_least=11)

    def convolution(below: int, above: int, size: int, *, full: bool = False) -> list[nn.Module]:
        return _convolution(below, above, size, nn.LeakyReLU(0.1), generator, full=full)

    return nn.Sequential(
        *convolution(channels, 96, 3),
        *convolution(96, 96, 3, full=True),
        *convolution(96, 96, 3, full=True),
        *_pool(96),
        *convolution(96, 192, 3),
        *convolution(192, 192, 3, full=True),
        *convolution(192, 192, 3),
        *_pool(192),
        *convolution(192, 192, 3),
        *convolution(192, 192, 1),
        *convolution(192, outputs, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        _top_norm(outputs),
    )


class ResidualBlock(nn.Module):
    """A pre-activation residual block of two 3x3 convolutions (He et al. 2016, arXiv 1603.05027).

    Parameters
    ----------
    below, above : int
        Channels of the input and of the output.
    stride : int
        Of the first convolution; with a stride, or where the channels differ, a 1x1 convolution makes the shortcut.
    """

    def __init__(self, below: int, above: int, stride: int = 1) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(below)
        self.conv1 = nn.Conv2d(below, above, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(above)
        self.conv2 = nn.Conv2d(above, above, 3, padding=1, bias=False)
        same = stride == 1 and below == above
        self.shortcut = nn.Identity() if same else nn.Conv2d(below, above, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, below, height, width) to (batch, above, height / stride, width / stride)."""
        h = functional.relu(self.norm1(x))
        shortcut = x if isinstance(self.shortcut, nn.Identity) else self.shortcut(h)
        answer: Tensor = shortcut + self.conv2(functional.relu(self.norm2(self.conv1(h))))
        return answer


class WideResNet(nn.Module):
    """A small wide residual network (Zagoruyko and Komodakis 2016, arXiv 1605.07146).

    A 3x3 convolution to 16 maps, three groups of pre-activation blocks of 16, 32 and 64 maps times `width` (the second
    and third halve the image), batch normalisation, the mean over all positions and a linear map. Its rungs, by
    default, are the batch normalisations that everything goes through, the other blocks and the linear map.

    Parameters
    ----------
    input_shape : sequence of int
        (channels, height, width), at least 4 by 4.
    outputs : int
    blocks : int
        In each group; the network has 6 * blocks + 4 layers.
    width : int
        Factor on the number of maps.
    generator : torch.Generator, optional
        Source of the starting weights.

    Raises
    ------
    ValueError
        If `input_shape` is not of images, or they are too small.
    """

    def __init__(
        self,
        input_shape: Sequence[int] = (3, 32, 32),
        outputs: int = 10,
        *,
        blocks: int = 1,
        width: int = 2,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        channels, *_ = _image_shape(input_shape, at_least=4)
        self.stem = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        layers: list[nn.Module] = []
        below = 16
        for group in range(3):
            above = 16 * width * 2**group
            for block in range(blocks):
                layers.append(ResidualBlock(below, above, stride=2 if group > 0 and block == 0 else 1))
                below = above
        self.blocks = nn.Sequential(*layers)
        self.norm = nn.BatchNorm2d(below)
        self.head = nn.Linear(below, outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                _start(module, generator)
        nn.init.normal_(self.head.weight, std=below**-0.5, generator=generator)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, *input_shape) to logits of shape (batch, outputs)."""
        h = functional.relu(self.norm(self.blocks(self.stem(x))))
        logits: Tensor = self.head(h.mean(dim=(2, 3)))
        return logits


def _linear(fan_in: int, fan_out: int, generator: torch.Generator | None) -> nn.Linear:
    """A map without bias, whose weights start as N(0, 1 / fan_in)."""
    linear: nn.Linear = nn.utils.skip_init(  # type: ignore[no-untyped-call]
        nn.Linear, fan_in, fan_out, bias=False, device=torch.get_default_device()
    )
    nn.init.normal_(linear.weight, std=fan_in**-0.5, generator=generator)
    return linear


def _convolution(
    below: int,
    above: int,
    size: int | tuple[int, int],
    activation: nn.Module,
    generator: torch.Generator | None,
    *,
    full: bool = False,
) -> list[nn.Module]:
    """A convolution with its normalisation and activation; "full" pads by all but one of the kernel's positions."""
    padding = size - 1 if full and isinstance(size, int) else 0
    convolution = nn.utils.skip_init(  # type: ignore[no-untyped-call]
        nn.Conv2d, below, above, size, padding=padding, bias=False, device=torch.get_default_device()
    )
    _start(convolution, generator)
    return [convolution, nn.BatchNorm2d(above), activation]


def _start(convolution: _ConvNd, generator: torch.Generator | None) -> None:
    """Uniform in ±sqrt(3 / fan_in)."""
    bound = math.sqrt(3 / math.prod(convolution.weight.shape[1:]))
    nn.init.uniform_(convolution.weight, -bound, bound, generator=generator)


def _pool(channels: int) -> list[nn.Module]:
    return [nn.MaxPool2d(2, ceil_mode=True), nn.BatchNorm2d(channels, affine=False)]


def _top_norm(outputs: int) -> _BatchNorm:
    """Batch normalisation with a shift, and a scale that stays 1."""
    norm = nn.BatchNorm1d(outputs)
    norm.weight.requires_grad_(False)
    return norm


def _image_shape(input_shape: Sequence[int], *, at_least: int) -> tuple[int, int, int]:
    if len(input_shape) != 3 or min(input_shape) < 1 or min(input_shape[1:]) < at_least:
        raise ValueError(
            f"input_shape must be (channels, height, width) of images of at least {at_least} by {at_least}, got "
            f"{tuple(input_shape)}."
        )
    channels, height, width = input_shape
    return channels, height, width
