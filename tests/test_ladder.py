import numpy as np
import pytest
from torch import nn

import oracle

RELATIVE = 1e-9
GRADIENT = 1e-6
SETTINGS = [
    *[{"combinator": name} for name in oracle.COMBINATORS],
    *[{"variant": name} for name in ("gamma", "bottom", "baseline")],
    *[{"task": name} for name in ("regression", "multilabel")],
    {"supervised_path": "clean"},
    {"supervised_path": "clean", "variant": "baseline"},
    {"activation": nn.Tanh},
    {"activation": nn.Sigmoid, "combinator": "sigmoid"},
    {"labeled": 4, "unlabeled": 11},
    {"labeled": 11, "unlabeled": 4},
    {"labeled": 2, "unlabeled": 2},
    {"weights": (1.0, 0.0, 0.0, 0.0)},
    {"weights": (0.0, 2.0, 0.0, 0.0)},
    {"weights": (0.0, 0.0, 0.0, 3.0)},
    {"weights": (0.5, 0.0, 3.0, 0.0)},
    {"widths": (3, 4), "weights": (1.0, 2.0)},
    {"widths": (4, 5, 6, 3, 4, 2), "weights": (3.0, 1.0, 0.5, 0.2, 0.1, 0.1)},
]


def ident(setting):
    return "-".join(str(getattr(value, "__name__", value)) for value in setting.values())


@pytest.mark.parametrize("setting", SETTINGS, ids=ident)
def test_costs_agree_with_the_oracle(make_case, setting):
    case = make_case(**setting)
    total, supervised, denoising = oracle.costs(case.parameters, case.problem)
    costs = case.costs()
    assert costs.total.item() == pytest.approx(total, rel=RELATIVE)
    assert costs.supervised.item() == pytest.approx(supervised, rel=RELATIVE)
    assert len(costs.denoising) == len(denoising)
    for ours, theirs in zip(costs.denoising, denoising, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert ours.item() == pytest.approx(theirs, rel=RELATIVE)


@pytest.mark.parametrize("setting", SETTINGS, ids=ident)
def test_gradients_agree_with_the_oracle(make_case, setting):
    case = make_case(**setting)
    case.costs().total.backward()
    compared = 0
    for layer, section in enumerate(case.ladder.sections, start=1):
        pairs = [
            (section.map.weight, lambda p, n=layer: p.W[n]),
            (section.rung.beta, lambda p, n=layer: p.beta[n]),
            (section.rung.gamma, lambda p, n=layer: p.gamma[n]),
        ]
        compared += check_gradients(case, pairs)
    for name, module in case.ladder.decoder.items():
        layer = int(name)
        pairs = [(module.map.weight, lambda p, n=layer: p.V[n + 1])] if module.map is not None else []
        pairs += [
            (parameter, lambda p, n=layer, i=i: p.a[n][i]) for i, parameter in enumerate(module.combinator.parameters())
        ]
        compared += check_gradients(case, pairs)
    assert compared == len(list(case.ladder.parameters()))


def check_gradients(case, pairs):
    compared = 0
    for parameter, get in pairs:
        if parameter is None:
            continue
        expected = oracle.gradient(case.parameters, case.problem, get)
        # A parameter that the cost does not reach at all (u's map under "lateral_only") has no gradient.
        actual = np.zeros_like(expected) if parameter.grad is None else parameter.grad.numpy()
        np.testing.assert_allclose(actual, expected, rtol=GRADIENT, atol=GRADIENT * max(1, np.abs(expected).max()))
        compared += 1
    return compared
