import pytest
import torch

from laddernet.noise import gaussian, masking


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_gaussian_adds_noise_of_the_given_deviation():
    clean = torch.full((200, 100), 7.0)
    noise = gaussian(clean, 0.3, generator()) - clean
    assert noise.std().item() == pytest.approx(0.3, rel=0.02)
    assert noise.mean().item() == pytest.approx(0.0, abs=0.01)


def test_gaussian_draws_from_the_generator_alone():
    clean = torch.zeros(4, 3)
    torch.manual_seed(1)
    first = gaussian(clean, 1.0, generator(5))
    torch.manual_seed(2)
    assert torch.equal(first, gaussian(clean, 1.0, generator(5)))
    assert not torch.equal(first, gaussian(clean, 1.0, generator(6)))


@pytest.mark.parametrize("corruption", [gaussian, masking])
def test_gradients_reach_the_clean_values(corruption):
    clean = torch.ones(5, 4, requires_grad=True)
    corruption(clean, 0.5, generator()).sum().backward()
    assert clean.grad is not None
    assert clean.grad.abs().sum() > 0


def test_masking_removes_the_given_share():
    masked = masking(torch.ones(500, 100), 0.3, generator())
    assert set(masked.unique().tolist()) == {0.0, 1.0}
    assert (masked == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)


def test_masking_refuses_a_share_above_one():
    with pytest.raises(ValueError, match=r"noise_std must be in \[0, 1\], got 1.5"):
        masking(torch.ones(2, 2), 1.5, generator())
