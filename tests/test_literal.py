"""The slow version that the benchmarks compare with computes the same as the library: Algorithm 1."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import oracle

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from literal import LiteralLadder

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
