import copy
import pickle
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from laddernet.kernels import load
from laddernet.ladder import Ladder
from laddernet.optimizer import Adam
from laddernet.training import TrainingConfig, train

SHAPES = [(7,), (300, 301), (), (16,), (5, 33)]


def parameters(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES]


def run(make, *, steps=30, compiled=False, low=None, dtype=torch.float32):
    values, generator = parameters(dtype), torch.Generator().manual_seed(1)
    optimizer = make(values)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    copies = {values[i]: values[i].detach().to(torch.bfloat16).requires_grad_() for i in low or ()}
    kernels = load(torch.float32)
    with optimizer.compiled(kernels, copies) if compiled else nullcontext():
        for step in range(steps):
            optimizer.zero_grad()
            for value in values:
                leaf = copies.get(value, value)
                gradient = torch.randn(value.shape, generator=generator).to(leaf.dtype)
                if step % 3 or value.dim() != 1:  # some have no gradient at times
                    leaf.grad = gradient * 10 ** (step % 4 - 2)
            optimizer.step()
            schedule.step()
    return values, optimizer, copies


def torchs(values):
    return torch.optim.Adam(values, lr=0.01, fused=True)


def ours(values):
    return Adam(values, lr=0.01)


@pytest.mark.parametrize("compiled", [False, True])
def test_it_updates_as_torchs_adam(compiled):
    expected, reference, _ = run(torchs)
    actual, optimizer, _ = run(ours, compiled=compiled)
    for ours_, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours_, theirs, rtol=1e-5, atol=1e-6)
    for ours_, theirs in zip(optimizer.state.values(), reference.state.values(), strict=True):
        assert set(ours_) == set(theirs)
        for key, value in theirs.items():
            torch.testing.assert_close(ours_[key], value, rtol=1e-5, atol=1e-6)


def test_float64_is_updated_in_float64():
    expected, _, _ = run(torchs, dtype=torch.float64)
    actual, _, _ = run(ours, compiled=True, dtype=torch.float64)
    for ours_, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours_, theirs, rtol=1e-12, atol=1e-12)


def test_copies_follow_and_give_the_gradient():
    values, _, copies = run(ours, compiled=True, low=[1, 4])
    assert len(copies) == 2
    for value, copy_ in copies.items():
        assert torch.equal(copy_, value.detach().to(torch.bfloat16))
        assert value.grad is None
    expected, _, _ = run(torchs)
    for value, theirs in zip(values, expected, strict=True):
        torch.testing.assert_close(value, theirs, rtol=0.02, atol=0.01)  # gradients rounded to bfloat16
    assert not torch.equal(values[1], expected[1])


def test_it_goes_on_from_torchs_state_and_through_copies():
    values, reference, _ = run(torchs)
    optimizer = Adam(values, lr=0.01)
    optimizer.load_state_dict(reference.state_dict())
    for restored in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert {int(state["step"]) for state in restored.state.values()} == {20, 30}
        assert restored.kernels is None


def test_not_a_number_is_not_hidden():
    value = nn.Parameter(torch.zeros(20))
    optimizer = Adam([value], lr=0.1)
    with optimizer.compiled(load(torch.float32), {}):
        value.grad = torch.ones(20)
        value.grad[3] = torch.nan
        optimizer.step()
    assert value.isnan().nonzero().flatten().tolist() == [3]


def test_a_closure_computes_the_gradients_first():
    value = nn.Parameter(torch.ones(3))
    optimizer = Adam([value], lr=0.1)

    def closure():
        optimizer.zero_grad()
        cost = value.square().sum()
        cost.backward()
        return cost

    assert optimizer.step(closure).item() == 3.0
    torch.testing.assert_close(value.detach(), torch.full((3,), 0.9))


def test_weights_of_another_layout_in_memory_are_updated_alike():
    learned = []
    for kernels in ("torch", "compiled"):
        generator = torch.Generator().manual_seed(0)
        encoder = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(8, 3),
        )  # fmt: skip
        for parameter in encoder.parameters():
            nn.init.normal_(parameter, std=0.2, generator=generator)
        ladder = Ladder(
            encoder.to(memory_format=torch.channels_last), input_shape=(3, 7, 7), noise_std=0.0, variant="gamma"
        )
        config = TrainingConfig(epochs=2, batch_size=10, kernels=kernels, precision="float32")
        x = torch.randn(40, 3, 7, 7, generator=generator)
        train(ladder, x, x[:10], torch.arange(10) % 3, config, generator=torch.Generator().manual_seed(1))
        learned.append([parameter.detach() for parameter in ladder.network.parameters()])
    for ours, theirs in zip(*learned, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
