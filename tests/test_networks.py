import subprocess
import sys

import pytest
import torch
from torch import nn

from laddernet.ladder import Ladder
from laddernet.networks import WideResNet, conv_fc, conv_large, conv_small, mlp


def test_shape_activations_and_start():
    network = mlp([400, 300, 200, 5], activation=nn.Tanh, generator=torch.Generator().manual_seed(0))
    assert [type(m) for m in network] == [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh, nn.Linear]
    assert network(torch.zeros(2, 400)).shape == (2, 5)
    for linear in network[::2]:
        assert linear.bias is None
        assert linear.weight.std().item() == pytest.approx(linear.in_features**-0.5, rel=0.05)


def test_the_generator_fixes_the_weights():
    first, again = (mlp([4, 3], generator=torch.Generator().manual_seed(1))[0].weight for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize("widths", [[3], [], [3, 0], [3, -1, 2]])
def test_bad_widths_are_refused(widths):
    with pytest.raises(ValueError, match="widths must be at least two positive integers"):
        mlp(widths)


def test_conv_large_has_the_papers_sizes():
    ladder = Ladder(conv_large(), input_shape=(3, 32, 32), variant="gamma")
    heights = [shape[1] if len(shape) > 1 else 1 for shape in ladder.shapes]
    assert heights == [32, 30, 32, 34, 17, 15, 17, 15, 8, 6, 6, 6, 1]
    assert [shape[0] for shape in ladder.shapes] == [3, 96, 96, 96, 96, 192, 192, 192, 192, 192, 192, 10, 10]
    assert [(rung.beta is not None, rung.gamma is not None) for rung in ladder._rungs] == [
        (layer not in (4, 8), False) for layer in range(1, 13)
    ]
    slopes = {module.negative_slope for module in ladder.modules() if isinstance(module, nn.LeakyReLU)}
    assert slopes == {0.1}


def test_conv_small_and_conv_fc_have_the_papers_layers():
    ladder = Ladder(conv_small(), input_shape=(1, 28, 28), variant="gamma")
    assert ladder.shapes == (
        (1, 28, 28), (32, 32, 32), (32, 16, 16), (64, 14, 14), (64, 16, 16), (64, 8, 8), (128, 6, 6), (10, 6, 6), (10,),
        (10,),
    )  # fmt: skip
    assert [rung.beta is not None for rung in ladder._rungs] == [layer not in (2, 5, 8) for layer in range(1, 10)]
    assert [rung.gamma is not None for rung in ladder._rungs] == [False] * 8 + [True]
    ladder = Ladder(conv_fc(), input_shape=(1, 28, 28))
    assert ladder.shapes == ((1, 28, 28), *[(width, 3, 3) for width in (1000, 500, 250, 250, 250, 10)], (10,))
    assert [rung.gamma is not None for rung in ladder._rungs] == [False] * 7


@pytest.mark.parametrize("make", [conv_fc, conv_small, conv_large, WideResNet])
def test_convolutions_start_uniform_by_their_fan_in_from_the_generator(make):
    def built(seed):
        return make((2, 12, 13), 4, generator=torch.Generator().manual_seed(seed))

    first, again, other = built(0), built(0), built(1)
    convolutions = [module for module in first.modules() if isinstance(module, nn.Conv2d)]
    for module in convolutions:
        bound = (3 / module.weight[0].numel()) ** 0.5
        assert 0.9 * bound < module.weight.abs().max().item() <= bound
        assert module.weight.std().item() == pytest.approx(module.weight[0].numel() ** -0.5, rel=0.1)
    pairs = zip(first.parameters(), again.parameters(), other.parameters(), strict=True)
    weights = [(a, b, c) for a, b, c in pairs if a.dim() > 1]
    assert all(torch.equal(a, b) and not torch.equal(a, c) for a, b, c in weights)
    assert first(torch.zeros(3, 2, 12, 13)).shape == (3, 4)


@pytest.mark.parametrize("make", [conv_fc, conv_small, conv_large, WideResNet])
@pytest.mark.parametrize("shape", [(784,), (1, 28), (1, 2, 28), (0, 28, 28)])
def test_shapes_that_are_no_images_are_refused(make, shape):
    with pytest.raises(ValueError, match=r"input_shape must be \(channels, height, width\) of images of at least"):
        make(shape, 10)


@pytest.mark.parametrize(("make", "side"), [(conv_fc, 3), (conv_small, 5), (conv_large, 11), (WideResNet, 4)])
def test_the_smallest_images_pass(make, side):
    network = make((1, side, side), 3)
    assert network(torch.zeros(2, 1, side, side)).shape == (2, 3)


def test_submodules_are_there_without_being_imported():
    code = "import laddernet as l; l.networks.conv_small; print(hasattr(l, 'nothing'), l.noise.__name__)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["False", "laddernet.noise"]
