import pytest
import torch

from laddernet.products import LinearMap


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    linear = LinearMap(40, 30)
    torch.nn.init.normal_(linear.weight, generator=generator)
    h = torch.randn(20, 40, generator=generator, requires_grad=True)
    return linear, h, torch.randn(20, 30, generator=generator)


def gradients(linear, h, towards, *, low):
    h.grad = linear.weight.grad = None
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        z_pre = linear(h)
    (z_pre * towards).sum().backward()
    return z_pre.detach(), h.grad, linear.weight.grad


def test_without_autocast_it_is_a_linear_map(problem):
    linear, h, _ = problem
    assert torch.equal(linear(h), torch.nn.functional.linear(h, linear.weight))
    assert linear.bias is None


def test_under_autocast_values_and_gradients_are_those_of_bfloat16_inputs(problem):
    linear, h, towards = problem
    low, full = gradients(linear, h, towards, low=True), gradients(linear, h, towards, low=False)
    assert [ours.dtype for ours in low] == [torch.bfloat16, torch.float32, torch.float32]
    for ours, exact in zip(low, full, strict=True):
        assert not torch.equal(ours, exact)
        assert (ours - exact).norm() / exact.norm() < 2**-7


def test_no_gradient_is_computed_for_an_input_that_needs_none(problem):
    linear, h, towards = problem
    with torch.autocast("cpu", torch.bfloat16):
        (linear(h.detach()) * towards).sum().backward()
    assert linear.weight.grad is not None
    assert h.grad is None
