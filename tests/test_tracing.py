import torch
from torch import nn
from torch.nn import functional

from laddernet.tracing import Trace


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv1d(2, 4, 3), nn.Linear(4, 2)
        self.side = nn.Conv1d(4, 4, 1)

    def forward(self, x):
        h = functional.relu(self.first(x))
        h = h * torch.sigmoid(self.side(h))
        first, second = h.chunk(2, dim=1)  # one node with two values
        return self.last((torch.cat([first, second], 1)).mean(dim=2))


def test_calls_in_order_with_their_shapes():
    trace = Trace(Gated().eval(), (2, 7))
    assert [(call.name, call.shape_in, call.shape_out) for call in trace.calls] == [
        ("first", (2, 7), (4, 5)),
        ("side", (4, 5), (4, 5)),
        ("last", (4,), (2,)),
        ("", (2, 7), (2,)),
    ]
    assert [trace.is_on_trunk(call) for call in trace.calls] == [True, False, True, True]


def test_the_trunk_leaves_out_branches_and_values_that_are_several():
    names = [node.name() for node in Trace(Gated().eval(), (2, 7)).trunk]
    assert "SqueezeBackward1" in names or "ConvolutionBackward0" in names
    assert "ReluBackward0" in names
    assert "MulBackward0" in names
    assert "SigmoidBackward0" not in names
    assert not any(name.startswith("Split") for name in names)


def test_the_way_between_two_values():
    trace = Trace(Gated().eval(), (2, 7))
    first, _, last, _ = trace.calls
    steps = trace.way(first.result, last.source)
    assert [step.call for step in steps] == [None] * len(steps)
    assert [step.parts for step in steps].count(True) >= 1
    assert (steps[0].shape_in, steps[-1].shape_out) == ((4, 5), (4,))
    (linear,) = trace.way(last.source, last.result)
    assert linear.call is last
    assert trace.way(last.result, first.result) is None
    assert trace.uses(first.result) == 1


def test_a_network_is_left_as_it_was():
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(inplace=True), nn.Linear(4, 2)).eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = torch.get_rng_state()
    with torch.no_grad():
        Trace(network, (3,))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in network.parameters())
