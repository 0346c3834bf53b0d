import pytest
import torch
from torch import nn

from laddernet.networks import mlp


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
