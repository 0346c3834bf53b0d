"""The kernels for CUDA devices against torch's operations: on one where there is one, else by Triton's interpreter."""

import importlib
import importlib.util
import os
import sys

import numpy as np
import pytest
import torch
from torch import nn

from laddernet import fused
from laddernet.ladder import VARIANTS, Ladder
from laddernet.networks import WideResNet, mlp
from laddernet.normalization import batch_normalize
from laddernet.together import Labeled, train_together
from laddernet.training import TrainingConfig, train
from test_fused import SharedNoise, assert_same, both

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # read where the kernels are defined: before the import
if sys.platform != "linux":
    pytest.skip("Triton is there on Linux alone", allow_module_level=True)
triton_kernels = importlib.import_module("laddernet.fused_triton")


@pytest.fixture(autouse=True)
def _in_use(monkeypatch):
    monkeypatch.setitem(fused.LOADERS, DEVICE, fused.load_triton)


@pytest.fixture(params=["one tile", "many tiles"])
def tiles(request, monkeypatch):
    """Rows of a stream in one tile, and in several."""
    if request.param == "many tiles":
        monkeypatch.setattr(triton_kernels, "ONE_TILE_ROWS", 4)
        monkeypatch.setattr(triton_kernels, "TILE", (32, 16))


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize(
    ("variant", "activation"),
    [*[(variant, nn.ReLU) for variant in VARIANTS], ("full", nn.LeakyReLU), ("full", nn.Identity)],
)
def test_costs_gradients_and_statistics_are_those_of_torchs_operations(variant, activation):
    results = both([9, 40, 17, 4], (20, 37), variant=variant, activation=activation, device=DEVICE)
    assert_same(results, rtol=1e-8, atol=1e-10)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize(
    "options",
    [
        {"denoising_weights": (0.5, 0, 3.0, 0), "supervised_path": "clean"},
        {"denoising_weights": (0, 2.0, 0, 0)},
        {"noise_std": (0.3, 0.0, 0.2, 0.0)},
        {"steps": 4},
        {"activation": nn.Tanh},
    ],
    ids=str,
)
def test_in_other_settings_too(options):
    assert_same(both([9, 20, 17, 4], (6, 8), device=DEVICE, **options), rtol=1e-8, atol=1e-10)


@pytest.mark.usefixtures("tiles")
def test_float32_is_the_same_but_for_rounding():
    assert_same(both([40, 70, 33, 5], (50, 60), dtype=torch.float32, device=DEVICE), rtol=1e-3, atol=1e-4)


def test_bfloat16_is_as_near_to_float32_as_torchs_own():
    settings = {"dtype": torch.float32, "device": DEVICE}
    exact = both([60, 50, 40, 5], (80, 90), **settings)[0]
    eager, ours = both([60, 50, 40, 5], (80, 90), low=True, **settings)
    for result in (eager, ours):
        torch.testing.assert_close(result[0], exact[0], rtol=0.03, atol=0.01)
    for name, gradient in exact[1].items():
        far = [(result[1][name] - gradient).norm() / gradient.norm() for result in (eager, ours)]
        assert far[1] < max(0.03, 1.5 * far[0]), name


def plain():
    return nn.Sequential(
        nn.Conv2d(2, 20, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(20, 18, 3), nn.LeakyReLU(0.1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(18, 5),
    )  # fmt: skip


def residual():
    return WideResNet((2, 6, 6), 5, width=1)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize(("make", "variant"), [(plain, "full"), (plain, "gamma"), (residual, "full")])
def test_networks_on_images(make, variant):
    results = []
    for is_fused in (False, True):
        generator = torch.Generator().manual_seed(0)
        torch.manual_seed(0)
        ladder = Ladder(make(), input_shape=(2, 6, 6), variant=variant, corruption=SharedNoise(), generator=generator)
        ladder.to(DEVICE, torch.float64)
        assert not is_fused or ladder.fuse()
        x = torch.randn(7, 2, 6, 6, dtype=torch.float64, generator=generator).to(DEVICE)
        costs = ladder(x[:3], torch.arange(3, device=DEVICE), x[3:])
        costs.total.backward()
        gradients = {name: p.grad for name, p in ladder.named_parameters() if p.grad is not None}
        results.append((costs.total.detach(), gradients, {}))
    assert_same(results, rtol=1e-8, atol=1e-9)


@pytest.mark.usefixtures("tiles")
def test_the_statistics_of_a_column_far_from_zero_are_exact():
    z_pre = 1000 + torch.randn(90, 5, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    given = {"sizes": [90], "noise": [None], "wanted": [True], "slope": 1.0, "running": None}
    risen = triton_kernels.TritonKernels().rise(
        z_pre, None, None, running_weight=torch.ones(()), dtype=torch.float32, **given
    )
    torch.testing.assert_close(risen.last.mean.double(), z_pre.double().mean(0), rtol=1e-6, atol=0.0)
    inverse_std = 1 / z_pre.double().std(0, correction=0)
    torch.testing.assert_close(risen.last.inverse_std.double(), inverse_std, rtol=1e-4, atol=0.0)


class TestNoise:
    """Drawn by the kernels."""

    rows, shape = (60, 60, 60), (36, 3, 3)

    def drawn(self, seed, salt=2, noisy=(True, True, False)):
        """What is added to each stream's BN(z_pre)."""
        z_pre = torch.randn(sum(self.rows), *self.shape, generator=torch.Generator().manual_seed(0)).to(DEVICE)
        noise = fused.Drawn(noisy, 0.3, torch.tensor(seed, device=DEVICE), salt)
        risen = triton_kernels.TritonKernels().rise(
            z_pre, None, None, sizes=self.rows, noise=noise, wanted=[True] * 3, slope=1.0, running=None,
            running_weight=torch.ones(()), dtype=torch.float32,
        )  # fmt: skip
        streams = zip(risen.z, torch.split(z_pre, self.rows), strict=True)
        return [(z - batch_normalize(stream).z).movedim(1, -1).flatten(0, -2).cpu().numpy() for z, stream in streams]

    @pytest.mark.usefixtures("tiles")
    def test_is_normal_and_independent(self):
        *noisy, clean = self.drawn(12345678901234567)
        assert np.abs(clean).max() < 1e-5
        for noise in noisy:
            assert noise.std() == pytest.approx(0.3, rel=0.02)
            assert abs(noise.mean()) < 0.01
            assert (noise**4).mean() == pytest.approx(3 * 0.3**4, rel=0.1)
            for rows in (noise[:200], noise.T):
                correlations = np.corrcoef(rows)
                np.fill_diagonal(correlations, 0)
                assert np.abs(correlations).max() < 6 / np.sqrt(rows.shape[1])
        assert abs(np.corrcoef(noisy[0].ravel(), noisy[1].ravel())[0, 1]) < 0.03

    def test_is_fixed_by_the_seed_and_the_salt(self):
        first, again = self.drawn(7), self.drawn(7)
        np.testing.assert_array_equal(first[0], again[0])
        for other in (self.drawn(8), self.drawn(7, salt=4)):
            assert abs(np.corrcoef(first[0].ravel(), other[0].ravel())[0, 1]) < 0.03

    def test_does_not_depend_on_the_tiles(self, monkeypatch):
        one = self.drawn(7)
        monkeypatch.setattr(triton_kernels, "TILE", (64, 16))
        np.testing.assert_allclose(self.drawn(7)[1], one[1], atol=1e-5)

    def test_goes_through_the_ladders_generator(self):
        def costs(seed):
            ladder = Ladder(mlp([6, 20, 3], generator=torch.Generator().manual_seed(0))).to(DEVICE)
            ladder.generator = torch.Generator(DEVICE).manual_seed(seed)
            assert ladder.fuse()
            assert ladder.is_seeded
            x = (torch.ones(9, 6) * torch.arange(9).unsqueeze(1)).to(DEVICE)
            return [ladder(x, torch.arange(9, device=DEVICE) % 3, x).total.item() for _ in range(2)]

        assert costs(1) == costs(1)
        assert costs(1) != costs(2)
        assert len(set(costs(1))) == 2

    def test_at_the_input_is_normal(self):
        kernels, x = triton_kernels.TritonKernels(), torch.ones(300, 35, device=DEVICE)
        noise = [
            kernels.noisy(x, fused.Drawn((True,), 0.3, torch.tensor(7, device=DEVICE), salt)) - 1 for salt in (0, 1)
        ]
        for drawn in noise:
            assert drawn.std().item() == pytest.approx(0.3, rel=0.03)
        assert abs(torch.corrcoef(torch.stack(noise).flatten(1))[0, 1].item()) < 0.04

    def test_at_the_input_lets_gradients_through(self):
        x = torch.ones(4, 3, device=DEVICE, requires_grad=True)
        noise = fused.Drawn((True,), 0.3, torch.tensor(7, device=DEVICE), 0)
        (2 * triton_kernels.TritonKernels().noisy(x, noise)).sum().backward()
        assert (x.grad == 2).all()


@pytest.mark.parametrize("variant", ["full", "baseline"])
def test_ladders_at_once_learn_what_each_learns_alone(variant):
    x = torch.randn(30, 6, generator=torch.Generator().manual_seed(99)).to(DEVICE)
    y = torch.arange(10, device=DEVICE) % 3
    config = TrainingConfig(epochs=1, batch_size=10, kernels="compiled")

    def problem(seed):
        generator = torch.Generator().manual_seed(seed)
        encoder = mlp([6, 9, 3], generator=generator)
        ladder = Ladder(encoder, variant=variant, denoising_weights=(1.0, 1.0, 0.1), generator=generator)
        with torch.no_grad():  # away from where some gradients are 0 but for rounding, which Adam makes steps of
            for parameter in ladder.parameters():
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
        ladder.to(DEVICE).generator = torch.Generator(DEVICE).manual_seed(seed)
        return ladder, Labeled(x[10 * seed : 10 * seed + 10], y), torch.Generator().manual_seed(seed)

    alone, together = ([problem(seed) for seed in range(2)] for _ in range(2))
    histories = [train(ladder, x, rows.x, rows.y, config, generator=batches) for ladder, rows, batches in alone]
    ladders, labeled, generators = zip(*together, strict=True)
    at_once = train_together(ladders, x, labeled, config, generators=generators)
    for (one, _, _), other in zip(alone, ladders, strict=True):
        for (name, a), b in zip(one.named_parameters(), other.named_parameters(), strict=True):
            torch.testing.assert_close(b[1], a, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
    for one, other in zip(histories, at_once, strict=True):
        assert other[-1]["cost"] == pytest.approx(one[-1]["cost"], rel=1e-4)


def test_not_a_number_stays_one():
    ladder = Ladder(mlp([6, 20, 3])).to(DEVICE)
    assert ladder.fuse()
    x = torch.randn(9, 6, device=DEVICE)
    x[2, 3] = torch.nan
    costs = ladder(torch.randn(9, 6, device=DEVICE), torch.arange(9, device=DEVICE) % 3, x)
    assert all(cost.isnan() for cost in costs.denoising)
    assert not costs.supervised.isnan()


def test_where_triton_fails_a_warning_says_why(monkeypatch):
    monkeypatch.setitem(sys.modules, "laddernet.fused_triton", None)  # its import fails
    fused.load_triton.cache_clear()
    try:
        with pytest.warns(UserWarning, match=r"Triton does not work here \(import of .*\). It needs a C compiler"):
            assert fused.load_triton(torch.float32) is None
        assert not Ladder(mlp([6, 20, 3])).to(DEVICE).fuse()
    finally:
        fused.load_triton.cache_clear()


def test_without_triton_one_warning_says_so(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    fused.load_triton.cache_clear()
    try:
        with pytest.warns(UserWarning, match="Triton, which comes with torch for CUDA devices, is not installed"):
            assert fused.load_triton(torch.float32) is None
    finally:
        fused.load_triton.cache_clear()
