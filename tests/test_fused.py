"""The fused kernels against torch's operations and the oracle; `test_ladder` checks the whole on both paths as well."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from conftest import sections
from laddernet.fused import normal, slope_of
from laddernet.kernels import load
from laddernet.ladder import VARIANTS, Ladder
from laddernet.networks import mlp
from laddernet.noise import masking
from laddernet.training import TrainingConfig, train


class SharedNoise:
    """Noise that depends on the shape alone, so that two ladders get the same."""

    def __call__(self, clean, std, generator):
        return clean + self.draw(clean, std, generator)

    def draw(self, like, std, generator):
        seed = like.shape[0] * 1000 + like.shape[1]
        noise = torch.randn(like.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        return (std * noise).to(like)


def both(widths, rows, *, dtype=torch.float64, low=False, activation=nn.ReLU, seed=0, steps=1, device="cpu", **options):
    """Costs, gradients and running statistics, with torch's operations and with the kernels."""
    results = []
    for fused in (False, True):
        generator = torch.Generator().manual_seed(seed)
        encoder = nn.Sequential(
            *[activation() if isinstance(m, nn.ReLU) else m for m in mlp(widths, generator=generator)]
        )
        weights = options.get("denoising_weights", (10.0, *[1.0] * (len(widths) - 1)))
        ladder = Ladder(
            encoder, corruption=SharedNoise(), generator=generator, **options | {"denoising_weights": weights}
        )
        ladder.to(device, dtype)
        with torch.no_grad():
            for parameter in ladder.parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.add_(0.3 * noise.to(parameter))
        x_labeled, x_unlabeled = (
            torch.randn(count, widths[0], generator=generator, dtype=torch.float64).to(device, dtype) for count in rows
        )
        y = torch.arange(rows[0], device=device) % widths[-1]
        with torch.autocast(device, torch.bfloat16, enabled=low):
            assert not fused or ladder.fuse()
            for _ in range(steps):
                ladder.zero_grad()
                costs = ladder(x_labeled, y, x_unlabeled)
                costs.total.backward()
        parts = [costs.total, costs.supervised, *(cost for cost in costs.denoising if cost is not None)]
        results.append((
            torch.stack(parts).detach(),
            {name: parameter.grad for name, parameter in ladder.named_parameters()},
            dict(ladder.named_buffers()),
        ))  # fmt: skip
    return results


def assert_same(results, **tolerance):
    (costs, gradients, buffers), (fused_costs, fused_gradients, fused_buffers) = results
    torch.testing.assert_close(fused_costs, costs, **tolerance)
    largest = max(gradient.abs().max().item() for gradient in gradients.values())
    scaled = {**tolerance, "atol": tolerance["atol"] * max(1.0, largest)}
    for name, gradient in gradients.items():
        torch.testing.assert_close(fused_gradients[name], gradient, msg=lambda m, n=name: f"{n}: {m}", **scaled)
    for name, buffer in buffers.items():
        torch.testing.assert_close(fused_buffers[name], buffer, **tolerance)


@settings(max_examples=30, deadline=None)
@given(
    widths=st.lists(st.integers(1, 40), min_size=2, max_size=5),
    outputs=st.integers(2, 20),
    rows=st.tuples(st.integers(5, 20), st.integers(5, 20)),  # statistics of two rows amplify rounding
    variant=st.sampled_from(VARIANTS),
    slope=st.sampled_from([nn.ReLU, nn.LeakyReLU, nn.Identity]),
    seed=st.integers(0, 1000),
)
def test_any_network_costs_and_learns_the_same_as_with_torchs_operations(widths, outputs, rows, variant, slope, seed):
    results = both([*widths, outputs], rows, variant=variant, activation=slope, seed=seed)
    assert_same(results, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("supervised_path", ["noisy", "clean"])
@pytest.mark.parametrize("weights", [(1.0, 0, 0, 0), (0, 2.0, 0, 0), (0, 0, 0, 3.0), (0.5, 0, 3.0, 0)])
def test_layers_without_a_cost_are_left_out_alike(weights, supervised_path):
    results = both([9, 20, 17, 4], (6, 8), denoising_weights=weights, supervised_path=supervised_path)
    assert_same(results, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("noise_std", [0.0, (0.3, 0.0, 0.2, 0.0)])
def test_layers_without_noise(noise_std):
    assert_same(both([9, 20, 17, 4], (6, 8), noise_std=noise_std), rtol=1e-8, atol=1e-10)


def test_running_statistics_follow_over_many_steps():
    assert_same(both([9, 20, 4], (6, 8), steps=5), rtol=1e-8, atol=1e-10)


def test_float32_is_the_same_but_for_rounding():
    assert_same(both([40, 70, 33, 5], (50, 60), dtype=torch.float32), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("threads", [2, 3])
def test_any_number_of_threads_gives_the_same_numbers(threads):
    def costs(count):
        torch.set_num_threads(count)
        try:
            return both([300, 200, 100, 5], (60, 60), dtype=torch.float32)[1]
        finally:
            torch.set_num_threads(1)

    one, many = costs(1), costs(threads)
    torch.testing.assert_close(one[0], many[0], rtol=1e-5, atol=1e-6)  # the matrix products may sum in other orders
    for name, gradient in one[1].items():
        torch.testing.assert_close(many[1][name], gradient, rtol=1e-3, atol=1e-4 * gradient.abs().max().item())


@pytest.mark.parametrize("variant", VARIANTS)
def test_bfloat16_is_as_near_to_float32_as_torchs_own(variant):
    exact = both([60, 50, 40, 5], (80, 90), dtype=torch.float32, variant=variant)[0]
    eager, fused = both([60, 50, 40, 5], (80, 90), dtype=torch.float32, variant=variant, low=True)
    for result in (eager, fused):
        torch.testing.assert_close(result[0], exact[0], rtol=0.03, atol=0.01)
    for name, gradient in exact[1].items():
        far = [(result[1][name] - gradient).norm() / gradient.norm() for result in (eager, fused)]
        assert far[1] < max(0.03, 1.5 * far[0]), name


def test_gradients_reach_what_lies_before_the_ladder():
    gradients = []
    for fused in (False, True):
        generator = torch.Generator().manual_seed(0)
        ladder = Ladder(mlp([6, 20, 3], generator=generator), corruption=SharedNoise(), generator=generator).double()
        assert not fused or ladder.fuse()
        before = nn.Linear(4, 6, dtype=torch.float64)
        nn.init.normal_(before.weight, generator=generator)
        rows = torch.randn(2, 9, 4, dtype=torch.float64, generator=generator)
        nn.init.zeros_(before.bias)
        ladder(before(rows[0]), torch.arange(9) % 3, before(rows[1])).total.backward()
        gradients.append(before.weight.grad)
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("slope", [1.0, 30.0, 300.0])
def test_the_sigmoid_is_exact_to_rounding(slope):
    """With a1 = 1, a2 the slope, all else 0 and v = 0, z_hat is the sigmoid of the slope times u."""
    rows, features = 400, 33
    x = torch.randn(rows, features, generator=torch.Generator().manual_seed(0))
    a, z_noisy, z_hat = torch.zeros(10, features), torch.zeros(rows, features), torch.empty(rows, features)
    a[0], a[1], a[6] = 1.0, slope, 1.0
    mean, inverse_std, cost = torch.empty(features), torch.empty(features), torch.empty(())
    load(torch.float32).call(
        "descend", (torch.float32,) * 3, x, z_noisy, a, None, None, None, mean, inverse_std, z_hat, cost, rows,
        features, 1e-10,
    )  # fmt: skip
    u = (x - mean) * inverse_std
    expected = torch.sigmoid((slope * u).double())
    large = expected > 1e-37  # below, float32 has no normal numbers
    torch.testing.assert_close(z_hat.double()[large], expected[large], rtol=1e-6, atol=0.0)
    assert large.float().mean() > 0.5


def test_a_type_without_kernels_has_none():
    ladder = Ladder(mlp([6, 20, 3])).to(torch.bfloat16)
    assert not ladder.fuse()
    with torch.autocast("cpu", torch.float16):
        assert not Ladder(mlp([6, 20, 3])).fuse()


def test_not_a_number_stays_one():
    for low in (False, True):
        generator = torch.Generator().manual_seed(0)
        ladder = Ladder(mlp([6, 20, 3], generator=generator), generator=generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            assert ladder.fuse()
            x = torch.randn(9, 6)
            x[2, 3] = torch.nan
            costs = ladder(torch.randn(9, 6), torch.arange(9) % 3, x)
        assert all(cost.isnan() for cost in costs.denoising)
        assert not costs.supervised.isnan()


@pytest.mark.parametrize("options", [{"combinator": "amlp"}, {"corruption": masking}, {"activation": nn.Tanh}])
def test_what_has_no_kernel_runs_without(options):
    costs = []
    for fused in (False, True):
        generator = torch.Generator().manual_seed(0)
        activation = options.get("activation", nn.ReLU)
        encoder = nn.Sequential(nn.Linear(6, 8), activation(), nn.Linear(8, 3))
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        others = {name: value for name, value in options.items() if name != "activation"}
        ladder = Ladder(encoder, generator=generator, **{"corruption": SharedNoise(), **others})
        assert not fused or ladder.fuse()
        x = torch.rand(9, 6, generator=generator)
        costs.append(ladder(x, torch.arange(9) % 3, x).total)
    torch.testing.assert_close(*costs)


def test_noise_goes_through_the_ladders_generator():
    def cost(seed):
        ladder = Ladder(mlp([6, 20, 3], generator=torch.Generator().manual_seed(0)))
        ladder.generator = torch.Generator().manual_seed(seed)
        assert ladder.fuse()
        x = torch.ones(9, 6) * torch.arange(9).unsqueeze(1)
        return [ladder(x, torch.arange(9) % 3, x).total.item() for _ in range(2)]

    assert cost(1) == cost(1)
    assert cost(1) != cost(2)
    assert len(set(cost(1))) == 2


def test_streams_get_noise_of_their_own():
    library = load(torch.float32)
    ladder = Ladder(mlp([6, 20, 3]), noise_std=0.5)
    ladder.generator = torch.Generator().manual_seed(0)
    labeled, unlabeled, clean = ladder._draw(1, (20,), [400, 500, 500], library, None, {})
    assert clean is None
    assert (labeled.shape, unlabeled.shape) == ((400, 20), (500, 20))
    for noise in (labeled, unlabeled):
        assert noise.std().item() == pytest.approx(0.5, rel=0.03)
    assert abs(np.corrcoef(labeled.flatten(), unlabeled[:400].flatten())[0, 1]) < 0.04
    assert normal(library, (3, 4), std=0.0, generator=None).abs().max() == 0


def test_slopes():
    assert slope_of(nn.ReLU()) == 0
    assert slope_of(nn.LeakyReLU(0.2)) == pytest.approx(0.2)
    assert slope_of(nn.Identity()) == 1
    assert slope_of(nn.Tanh()) is None
    assert slope_of(nn.LeakyReLU(-0.2)) is None  # its output's sign does not tell its input's


def test_rows_that_are_a_part_of_wider_ones_count_as_they_are():
    costs = []
    for fused in (False, True):
        generator = torch.Generator().manual_seed(0)
        ladder = Ladder(mlp([6, 20, 3], generator=generator), corruption=SharedNoise(), generator=generator).double()
        assert not fused or ladder.fuse()
        wide = torch.randn(2, 9, 10, dtype=torch.float64, generator=generator)
        costs.append(ladder(wide[0, :, :6], torch.arange(9) % 3, wide[1, :, 4:]).total)
    torch.testing.assert_close(*costs, rtol=1e-9, atol=1e-9)


def test_a_weight_that_is_a_transposed_view_is_trained_as_any_other():
    learned = []
    for transposed in (False, True):
        generator = torch.Generator().manual_seed(0)
        encoder = mlp([6, 20, 3], generator=generator)
        if transposed:
            for module in (encoder[0], encoder[2]):
                module.weight = nn.Parameter(module.weight.detach().t().contiguous().t())
                assert not module.weight.is_contiguous()
        ladder = Ladder(encoder, generator=generator)
        x = torch.randn(60, 6, generator=generator)
        config = TrainingConfig(epochs=3, batch_size=20, kernels="compiled")
        train(ladder, x, x[:12], torch.arange(12) % 3, config, generator=generator)
        learned.append(sections(ladder)[0].map.weight)
    assert torch.equal(*learned)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_frozen_weight_stays_as_it_is(precision):
    generator = torch.Generator().manual_seed(0)
    ladder = Ladder(mlp([6, 20, 3], generator=generator), generator=generator)
    sections(ladder)[0].map.weight.requires_grad_(False)
    before = sections(ladder)[0].map.weight.clone()
    x = torch.randn(60, 6, generator=generator)
    config = TrainingConfig(epochs=2, batch_size=20, kernels="compiled", precision=precision)
    train(ladder, x, x[:12], torch.arange(12) % 3, config, generator=generator)
    assert torch.equal(sections(ladder)[0].map.weight, before)
    assert sections(ladder)[0].rung.beta.abs().max() > 0


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda ladder: pickle.loads(pickle.dumps(ladder))])
@pytest.mark.parametrize("fused", [False, True])
def test_a_copy_draws_the_same_noise(copied, fused):
    generator = torch.Generator().manual_seed(0)
    ladder = Ladder(mlp([6, 20, 3], generator=generator))
    x, y = torch.rand(30, 6, generator=generator), torch.arange(30) % 3
    assert ladder.fuse() or not fused
    ladder.fused = fused
    other = copied(ladder)
    costs = []
    for made in (ladder, other):
        made.generator = torch.Generator().manual_seed(1)
        costs.append(made(x, y, x).total)
    assert costs[0] == costs[1]
