from itertools import pairwise

import numpy as np
import pytest
import torch

import oracle
from laddernet.combinators import AMLP, COMBINATORS, MLP, Gaussian


def test_every_combinator_has_an_oracle():
    assert set(COMBINATORS) == set(oracle.COMBINATORS)


@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, {}) for name in COMBINATORS), ("mlp", {"shared": False}), ("amlp", {"shared": False, "hidden": (4,)})],
)
def test_formula_for_units_and_for_channels(name, options):
    rng = np.random.default_rng(0)
    combinator = COMBINATORS[name](3, **options).double()
    with torch.no_grad():
        for parameter in combinator.parameters():
            parameter += torch.from_numpy(rng.standard_normal(tuple(parameter.shape)))
    z, u = rng.standard_normal((2, 40, 3))
    expected = oracle.COMBINATORS[name]([p.detach().numpy() for p in combinator.parameters()], z, u)
    z, u = torch.from_numpy(z), torch.from_numpy(u)
    np.testing.assert_allclose(combinator(z, u).detach(), expected, rtol=1e-10, atol=1e-12)
    # The same values laid out as 10 rows of 3 channels at 4 positions give the same answers.
    as_channels = [v.view(10, 4, 3).transpose(1, 2).reshape(10, 3, 2, 2) for v in (z, u)]
    answer = combinator(*as_channels).reshape(10, 3, 4).transpose(1, 2).reshape(40, 3)
    np.testing.assert_allclose(answer.detach(), expected, rtol=1e-10, atol=1e-12)


STARTS = {
    "gaussian": lambda z, u: torch.zeros_like(z),  # mu = v = 0
    "lateral_only": lambda z, u: torch.zeros_like(z),
    "sigmoid": lambda z, u: z + torch.sigmoid(z),
    "linear": lambda z, u: z,
    "no_lateral": lambda z, u: u,
}


@pytest.mark.parametrize("name", STARTS)
def test_start(name):
    z, u = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(COMBINATORS[name](3)(z, u), STARTS[name](z, u))


def test_start_of_the_gaussian_parameters():
    a = Gaussian(4).a
    assert a.shape == (10, 4)
    assert a[:, 0].tolist() == [0, 1, 0, 0, 0, 0, 1, 0, 0, 0]


@pytest.mark.parametrize(("kind", "inputs"), [(MLP, 2), (AMLP, 3)])
@pytest.mark.parametrize("hidden", [(2, 2, 2), (4,), ()])
@pytest.mark.parametrize(("shared", "own"), [(True, ()), (False, (1000,))])
def test_networks_start_small_and_are_shared_or_each_units_own(kind, inputs, hidden, shared, own):
    combinator = kind(1000, hidden=hidden, shared=shared, generator=torch.Generator().manual_seed(0))
    widths = [inputs, *hidden, 1]
    expected = [(above, below, *own) for below, above in pairwise(widths)]
    assert [tuple(m.weight.shape) for m in combinator.maps] == expected
    weights = torch.cat([m.weight.flatten() for m in combinator.maps])
    assert 0 < weights.abs().max() < 0.125  # five standard deviations of 0.025
    if not shared:
        assert weights.std().item() == pytest.approx(0.025, rel=0.05)
    assert all(not m.bias.any() for m in combinator.maps)


def test_networks_keep_full_precision_under_autocast():
    combinator = AMLP(3, generator=torch.Generator().manual_seed(0))
    z, u = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        low = combinator(z, u)
    assert low.dtype == torch.float32
    assert torch.equal(low, combinator(z, u))
