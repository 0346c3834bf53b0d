"""Convolutional and pooling rungs against the oracle, and ladders on random networks."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

import oracle
from conftest import GivenNoise
from laddernet.ladder import Ladder
from laddernet.mirrors import TransposedConvolution
from laddernet.products import LinearMap


def frozen_scale(features):
    norm = nn.BatchNorm1d(features)
    norm.weight.requires_grad_(False)
    return norm


@dataclass
class Network:
    """An encoder, the same for the oracle, and where its weights are."""

    encoder: nn.Sequential
    input_shape: tuple[int, ...]
    maps: dict
    activations: dict


def pools():
    """Full and valid convolutions, pools with rungs of their own, a mean at the top: the paper's kinds of layers."""
    encoder = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=2, bias=False), nn.BatchNorm2d(3), nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True), nn.BatchNorm2d(3, affine=False),
        nn.Conv2d(3, 4, (2, 3), stride=(2, 1), dilation=(1, 2), bias=False), nn.BatchNorm2d(4), nn.LeakyReLU(0.1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), frozen_scale(4),
    )  # fmt: skip
    maps = {
        1: oracle.Conv((1, 1), (2, 2), (1, 1)),
        2: oracle.MaxPool(2, 2, round_up=True),
        3: oracle.Conv((2, 1), (0, 0), (1, 2)),
        4: oracle.GlobalMean(),
    }
    return Network(encoder, (2, 5, 7), maps, {2: lambda z: z, 3: oracle.leaky})


def grouped():
    """Strides, groups and a transposed convolution in one dimension, without batch normalisation."""
    encoder = nn.Sequential(
        nn.Conv1d(2, 4, 3, stride=2, padding=1, groups=2), nn.Tanh(),
        nn.ConvTranspose1d(4, 6, 3, stride=3, padding=1, output_padding=1, groups=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(84, 3),
    )  # fmt: skip
    maps = {
        1: oracle.Conv((2,), (1,), (1,), groups=2),
        2: oracle.Transposed(oracle.Conv((3,), (1,), (1,), groups=2), (6, 14)),
        3: oracle.FlatLinear(),
    }
    return Network(encoder, (2, 9), maps, {1: np.tanh, 2: oracle.relu})


def between():
    """Pools that are no rungs, rounding down, and an overlapping one."""
    encoder = nn.Sequential(
        nn.Conv2d(1, 2, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 3, 2, padding=1), nn.ReLU(),
        nn.MaxPool2d(3, stride=1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip
    maps = {
        1: oracle.Conv((1, 1), (0, 0), (1, 1)),
        2: oracle.Pooled(oracle.MaxPool(2, 2), oracle.Conv((1, 1), (1, 1), (1, 1)), (2, 2, 3)),
        3: oracle.Pooled(oracle.MaxPool(3, 1), oracle.FlatLinear(), (3, 1, 2)),
    }
    return Network(encoder, (1, 6, 8), maps, {1: oracle.relu, 2: oracle.relu})


NETWORKS = {"pools": pools, "grouped": grouped, "between": between}


class Case:
    """A ladder in float64 with random parameters, its rows and noise, and the same for the oracle."""

    def __init__(self, name, *, fused, variant="full"):
        made, rng = NETWORKS[name](), np.random.default_rng(0)
        torch.manual_seed(0)
        top = len(made.maps)
        weights = (1.5, *[0.7, 0.4, 0.3, 0.2][:top])
        self.ladder = Ladder(
            made.encoder, input_shape=made.input_shape, denoising_weights=weights, variant=variant, noise_std=0.3
        ).double()
        with torch.no_grad():
            for parameter in self.ladder.parameters():
                parameter += 0.3 * torch.from_numpy(rng.standard_normal(tuple(parameter.shape)))
        if fused:
            assert self.ladder.fuse()
        shapes = self.ladder.shapes
        outputs = shapes[-1][0]
        counts = {"full": range(top + 1), "gamma": [top], "bottom": [0], "baseline": []}[variant]
        self.problem = oracle.Problem(
            x_labeled=rng.standard_normal((4, *made.input_shape)),
            y=np.arange(4) % outputs,
            x_unlabeled=rng.standard_normal((5, *made.input_shape)),
            noise_labeled=[0.3 * rng.standard_normal((4, *shape)) for shape in shapes],
            noise_unlabeled=[0.3 * rng.standard_normal((5, *shape)) for shape in shapes],
            weights=tuple(w if layer in counts else 0.0 for layer, w in enumerate(weights)),
            maps=made.maps,
            activations=made.activations,
        )
        weighted = (nn.modules.conv._ConvNd, nn.Linear, TransposedConvolution)
        rungs = dict(enumerate(self.ladder._rungs, start=1))
        maps = [module for module in self.ladder.network.modules() if isinstance(module, weighted)]
        with_weight = [layer for layer, m in made.maps.items() if not isinstance(m, oracle.MaxPool | oracle.GlobalMean)]
        self.where = {"W": dict(zip(with_weight, [module.weight for module in maps], strict=True)), "V": {}, "a": {}}
        for key, module in self.ladder.decoder.items():
            found = [m.weight for m in (module.map or nn.Identity()).modules() if isinstance(m, weighted)]
            assert len(found) <= 1
            self.where["V"] |= {int(key) + 1: weight for weight in found}
            self.where["a"][int(key)] = module.combinator.a
        self.where |= {
            "beta": {layer: rung.beta for layer, rung in rungs.items() if rung.beta is not None},
            "gamma": {layer: rung.gamma for layer, rung in rungs.items() if rung.gamma is not None},
        }
        arrays = {kind: {k: v.detach().numpy().copy() for k, v in found.items()} for kind, found in self.where.items()}
        for kind in ("W", "beta", "gamma"):
            arrays[kind] = {layer: arrays[kind].get(layer) for layer in rungs}
        arrays["a"] = {layer: [array] for layer, array in arrays["a"].items()}
        self.parameters = oracle.Parameters(**arrays)

    def costs(self):
        problem, noise = self.problem, []
        for labeled, unlabeled in zip(problem.noise_labeled, problem.noise_unlabeled, strict=True):
            noise += [labeled] + ([unlabeled] if any(problem.weights) else [])
        self.ladder.corruption = GivenNoise(noise)
        result = self.ladder(*map(torch.from_numpy, (problem.x_labeled, problem.y, problem.x_unlabeled)))
        assert not self.ladder.corruption.arrays
        return result


both_ways = pytest.mark.parametrize("fused", [False, True], ids=["torch", "kernels"])
SETTINGS = [*[(name, "full") for name in NETWORKS], ("pools", "gamma"), ("grouped", "bottom"), ("between", "baseline")]


@both_ways
@pytest.mark.parametrize(("name", "variant"), SETTINGS)
def test_costs_agree_with_the_oracle(name, variant, fused):
    case = Case(name, fused=fused, variant=variant)
    total, supervised, denoising = oracle.costs(case.parameters, case.problem)
    costs = case.costs()
    assert costs.total.item() == pytest.approx(total, rel=1e-9)
    assert costs.supervised.item() == pytest.approx(supervised, rel=1e-9)
    for ours, theirs in zip(costs.denoising, denoising, strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or ours.item() == pytest.approx(theirs, rel=1e-9)


@both_ways
@pytest.mark.parametrize(("name", "variant"), SETTINGS)
def test_gradients_agree_with_the_oracle(name, variant, fused):
    case = Case(name, fused=fused, variant=variant)
    case.costs().total.backward()
    compared = 0
    for kind, found in case.where.items():
        for layer, parameter in found.items():

            def get(p, kind=kind, layer=layer):
                return getattr(p, kind)[layer][0] if kind == "a" else getattr(p, kind)[layer]

            expected = oracle.gradient(case.parameters, case.problem, get)
            np.testing.assert_allclose(
                parameter.grad.numpy(), expected, rtol=1e-6, atol=1e-6 * max(1, np.abs(expected).max())
            )
            compared += 1
    assert compared == len(list(case.ladder.parameters()))


# Any network.


KINDS = {
    1: (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d, nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveAvgPool1d),
    2: (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d),
}


@st.composite
def networks(draw):
    """A random network of up to three convolutions with what goes with them, and the shape of its rows."""
    dimensions = draw(st.integers(1, 2))
    conv, transposed, norm, max_pool, average, adaptive = KINDS[dimensions]
    shape = (draw(st.sampled_from([1, 2, 4])), *(draw(st.integers(4, 11)) for _ in range(dimensions)))
    torch.manual_seed(draw(st.integers(0, 1000)))
    modules = []

    def result(*more):
        """What the network makes of a row with these modules added, or None where they do not fit."""
        try:
            return nn.Sequential(*modules, *more).eval()(torch.zeros(1, *shape))
        except RuntimeError:
            return None

    def add(*more):
        made = result(*more)
        if made is not None and 2 < made[0, 0].numel() < 400:
            modules.extend(more)

    for _ in range(draw(st.integers(1, 3))):
        channels = result(nn.Identity()).shape[1]
        kernel, stride, dilation = (tuple(draw(st.integers(1, n)) for _ in range(dimensions)) for n in (3, 3, 2))
        padding = tuple(draw(st.integers(0, 2)) for _ in range(dimensions))
        groups = draw(st.sampled_from([g for g in (1, 2, 4) if channels % g == 0]))
        sizes = (channels, groups * draw(st.integers(1, 3)), kernel, stride, padding)
        shared = {"groups": groups, "dilation": dilation, "bias": draw(st.booleans())}
        add(draw(st.sampled_from([conv, conv, transposed]))(*sizes, **shared))
        channels = result(nn.Identity()).shape[1]
        add(*[norm(channels)] * draw(st.booleans()), draw(st.sampled_from([nn.ReLU, nn.LeakyReLU, nn.GELU, nn.Tanh]))())
        pools = [max_pool(2), max_pool(2, ceil_mode=True), max_pool(3, 2, 1), average(2, ceil_mode=True), adaptive(2)]
        others = [nn.Dropout(0.2), nn.GroupNorm(1, channels), nn.Identity()]
        add(draw(st.sampled_from([*pools, *others])), *[norm(channels, affine=False)] * draw(st.booleans()))
    end = [adaptive(1)] if draw(st.booleans()) else []
    end.append(nn.Flatten())
    return nn.Sequential(*modules, *end, nn.Linear(result(*end).shape[1], 3)), shape


@settings(max_examples=40, deadline=None)
@given(made=networks(), variant=st.sampled_from(["full", "full", "gamma", "bottom"]), fused=st.booleans())
def test_any_network_gets_a_ladder(made, variant, fused):
    """The decoder's shapes fit, the costs are finite and reach all weights, the plain encoder answers as `predict`."""
    encoder, shape = made
    generator = torch.Generator().manual_seed(0)
    ladder = Ladder(encoder, input_shape=shape, variant=variant, generator=generator)
    assert not fused or ladder.fuse()
    x = torch.randn(12, *shape, generator=generator)
    costs = ladder(x[:6], torch.arange(6) % 3, x)
    assert math.isfinite(costs.total.item())
    costs.total.backward()
    for name, parameter in ladder.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    ladder.eval()
    if "0" in ladder.decoder:
        assert ladder.denoise(x).shape == x.shape
    assume(all((norm.statistics.var > 1e-6).all() for norm in ladder._normalizations))  # else rounding is all there is
    torch.testing.assert_close(torch.softmax(ladder.encoder(x), dim=1), ladder.predict(x), rtol=1e-5, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(made=networks(), seed=st.integers(0, 100))
def test_kernels_give_any_network_the_same_costs_and_gradients(made, seed):
    encoder, shape = made
    results = []
    for fused in (False, True):
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(0)
        encoder = nn.Sequential(*[m for m in encoder if not isinstance(m, nn.Dropout)])
        ladder = Ladder(encoder, input_shape=shape, corruption=NoiseOfRows(), generator=generator).double()
        with torch.no_grad():  # away from the kinks that values of exactly 0 would lie on
            for parameter in ladder.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        assert not fused or ladder.fuse()
        x = torch.randn(12, *shape, generator=generator, dtype=torch.float64)
        costs = ladder(x[:6], torch.arange(6) % 3, x)
        costs.total.backward()
        results.append((costs.total.detach(), [parameter.grad for parameter in ladder.parameters()]))
    (cost, gradients), (fused_cost, fused_gradients) = results
    largest = max(gradient.abs().max().item() for gradient in gradients)
    assume(largest < 1e5)  # a channel that hardly varies amplifies rounding
    torch.testing.assert_close(fused_cost, cost, rtol=1e-7, atol=1e-9)
    for ours, theirs in zip(fused_gradients, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8 * max(1.0, largest))


class NoiseOfRows:
    """Gaussian noise that does not depend on how values are laid out in memory."""

    def __call__(self, clean, std, generator):
        return clean + self.draw(clean, std, generator)

    def draw(self, like, std, generator):
        return std * torch.randn(like.shape, generator=generator, dtype=like.dtype)


def test_a_linear_map_is_one_of_the_librarys_own():
    ladder = Ladder(nn.Sequential(nn.Conv1d(1, 2, 2), nn.Flatten(), nn.Linear(6, 2)), input_shape=(1, 4))
    assert [type(module) for module in ladder.network.modules()].count(LinearMap) == 1


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv1d(1, 3, 2), nn.Linear(3, 2)

    def forward(self, x):
        h = torch.relu_(self.first(x))
        return self.last(h.mean(dim=2))


@both_ways
def test_a_network_may_overwrite_what_a_rung_gives(fused):
    ladder = Ladder(InPlace(), input_shape=(1, 6), noise_std=0.0).double()
    assert not fused or ladder.fuse()
    x = torch.randn(8, 1, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    parameter = ladder.network.first[0].weight
    ladder(x, torch.arange(8) % 2, x).total.backward()
    with torch.no_grad():
        gradient, step = parameter.grad[0, 0, 0].item(), 1e-6
        costs = []
        for change in (step, -2 * step):
            parameter[0, 0, 0] += change
            costs.append(ladder(x, torch.arange(8) % 2, x).total.item())
    assert (costs[0] - costs[1]) / (2 * step) == pytest.approx(gradient, rel=1e-4)
