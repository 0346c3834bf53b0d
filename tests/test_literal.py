"""The slow version that the benchmarks compare with computes the same as the library: Algorithm 1."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import oracle
from conftest import GivenNoise
from laddernet.ladder import Ladder
from laddernet.networks import conv_large

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from literal import LiteralLadder
from literal_conv import LiteralConvLarge

WIDTHS, WEIGHTS = (5, 4, 3, 3), (1.5, 0.7, 0.3, 0.2)


def test_the_literal_version_agrees_with_the_oracle(make_case):
    case = make_case(widths=WIDTHS, weights=WEIGHTS)
    p, problem = case.parameters, case.problem
    literal = LiteralLadder(WIDTHS, WEIGHTS).double()
    with torch.no_grad():
        for layer in range(1, 4):
            literal.W[layer - 1].copy_(torch.from_numpy(p.W[layer]))
            literal.V[layer - 1].copy_(torch.from_numpy(p.V[layer]))
            literal.beta[layer - 1].copy_(torch.from_numpy(p.beta[layer]))
        literal.gamma.copy_(torch.from_numpy(p.gamma[3]))
        for layer in range(4):
            literal.a[layer].copy_(torch.from_numpy(p.a[layer][0]))
    noise = [
        torch.from_numpy(np.concatenate(pair))
        for pair in zip(problem.noise_labeled, problem.noise_unlabeled, strict=True)
    ]
    rows = map(torch.from_numpy, (problem.x_labeled, problem.y, problem.x_unlabeled))
    total, supervised, denoising = literal(*rows, corrupt=lambda z: z + noise.pop(0))
    expected = oracle.costs(p, problem)
    assert total.item() == pytest.approx(expected[0], rel=1e-9)
    assert supervised.item() == pytest.approx(expected[1], rel=1e-9)
    assert [cost.item() for cost in denoising] == pytest.approx(expected[2], rel=1e-9)
    total.backward()
    for layer in (1, 3):
        actual = literal.W[layer - 1].grad.numpy()
        np.testing.assert_allclose(
            actual, oracle.gradient(p, problem, lambda q, n=layer: q.W[n]), rtol=1e-6, atol=1e-6 * np.abs(actual).max()
        )


def test_the_literal_conv_large_agrees_with_the_library():
    weights = (*[0.0] * 12, 4.0)
    ladder = Ladder(conv_large((3, 12, 12)), input_shape=(3, 12, 12), denoising_weights=weights).double()
    literal = LiteralConvLarge().double()
    rng = np.random.default_rng(0)
    rungs = ladder._rungs
    with torch.no_grad():
        for parameter in ladder.parameters():
            parameter += 0.1 * torch.from_numpy(rng.standard_normal(tuple(parameter.shape)))
        convolutions = [module for module in ladder.network.modules() if isinstance(module, torch.nn.Conv2d)]
        for ours, theirs in zip(literal.W, convolutions, strict=True):
            ours.copy_(theirs.weight)
        for ours, rung in zip(literal.beta, [rung for rung in rungs if rung.beta is not None], strict=True):
            ours.copy_(rung.beta)
        literal.a.copy_(ladder.decoder["12"].combinator.a)
    x_labeled, x_unlabeled = (torch.from_numpy(rng.standard_normal((n, 3, 12, 12))) for n in (5, 6))
    y = torch.arange(5)
    noise = [[0.3 * rng.standard_normal((n, *shape)) for n in (5, 6)] for shape in ladder.shapes]
    ladder.corruption = GivenNoise([part for pair in noise for part in pair])
    costs = ladder(x_labeled, y, x_unlabeled)
    corrupted = [torch.from_numpy(np.concatenate(pair)) for pair in noise]
    total, supervised, denoising = literal(x_labeled, y, x_unlabeled, corrupt=lambda z: z + corrupted.pop(0))
    assert total.item() == pytest.approx(costs.total.item(), rel=1e-9)
    assert supervised.item() == pytest.approx(costs.supervised.item(), rel=1e-9)
    assert denoising.item() == pytest.approx(costs.denoising[12].item(), rel=1e-9)
    costs.total.backward()
    total.backward()
    torch.testing.assert_close(literal.W[3].grad, convolutions[3].weight.grad, rtol=1e-7, atol=1e-7)
