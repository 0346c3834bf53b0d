import copy
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import oracle
from conftest import sections
from laddernet.combinators import AMLP
from laddernet.errors import ArgumentError
from laddernet.ladder import Ladder
from laddernet.networks import mlp
from laddernet.noise import masking

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
    {"detach_targets": True},
    {"detach_targets": True, "weights": (0.5, 0.0, 3.0, 0.0)},
    {"joint_statistics": True},
    {"joint_statistics": True, "variant": "bottom"},
    {"joint_statistics": True, "variant": "baseline"},
    {"joint_statistics": True, "weights": (0.0, 2.0, 0.0, 0.0), "supervised_path": "clean"},
    {"joint_statistics": True, "detach_targets": True, "labeled": 4, "unlabeled": 11},
    {"widths": (3, 4), "weights": (1.0, 2.0)},
    {"widths": (4, 5, 6, 3, 4, 2), "weights": (3.0, 1.0, 0.5, 0.2, 0.1, 0.1)},
]


def ident(setting):
    return "-".join(str(getattr(value, "__name__", value)) for value in setting.values())


@pytest.mark.parametrize("fused", [False, True], ids=["eager", "fused"])
@pytest.mark.parametrize("setting", SETTINGS, ids=ident)
def test_costs_agree_with_the_oracle(make_case, setting, fused):
    case = make_case(**setting, fused=fused)
    total, supervised, denoising = oracle.costs(case.parameters, case.problem)
    costs = case.costs()
    assert costs.total.item() == pytest.approx(total, rel=RELATIVE)
    assert costs.supervised.item() == pytest.approx(supervised, rel=RELATIVE)
    assert len(costs.denoising) == len(denoising)
    for ours, theirs in zip(costs.denoising, denoising, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert ours.item() == pytest.approx(theirs, rel=RELATIVE)


@pytest.mark.parametrize("fused", [False, True], ids=["eager", "fused"])
@pytest.mark.parametrize("setting", SETTINGS, ids=ident)
def test_gradients_agree_with_the_oracle(make_case, setting, fused):
    case = make_case(**setting, fused=fused)
    case.costs().total.backward()
    compared = 0
    for layer, section in enumerate(sections(case.ladder), start=1):
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


# Prediction, calibration, reconstruction.


@pytest.mark.parametrize("setting", [{}, {"task": "regression"}, {"task": "multilabel"}, {"activation": nn.Tanh}])
@pytest.mark.usefixtures("calibrated_both_ways")
def test_calibrated_predictions_agree_with_the_oracle(make_case, setting):
    case = make_case(**setting)
    rng = np.random.default_rng(1)
    x_train, x = rng.standard_normal((50, 5)) * 4 + 2, rng.standard_normal((9, 5))
    case.ladder.calibrate(torch.from_numpy(x_train), batch_size=7)
    expected = oracle.predict(case.parameters, case.problem, x, x_train)
    np.testing.assert_allclose(case.ladder.predict(torch.from_numpy(x)), expected, rtol=1e-9, atol=1e-12)


def test_calibration_depends_on_the_batch_size_by_rounding_only(make_case, monkeypatch):
    case = make_case()
    x = torch.randn(57, 5, dtype=torch.float64)
    states = []
    for batch_size, at_once in ((1, 0), (10, 0), (100, 0), (10, 2**25)):
        monkeypatch.setattr("laddernet.ladder.AT_ONCE", at_once)
        case.ladder.calibrate(x, batch_size=batch_size)
        states.append({name: tensor.clone() for name, tensor in case.ladder.state_dict().items()})
    for name, tensor in states[0].items():
        for other in states[1:]:
            torch.testing.assert_close(tensor, other[name], rtol=1e-9, atol=1e-10)


@pytest.mark.usefixtures("calibrated_both_ways")
def test_calibration_pools_with_the_statistics_of_earlier_rows(make_case):
    case = make_case()
    x = torch.randn(57, 5, dtype=torch.float64) * 3
    rung = sections(case.ladder)[0].rung
    case.ladder.calibrate(x[:56])
    case.ladder.calibrate(x[56:], rows_before=56)
    z_pre = sections(case.ladder)[0].map(x)
    torch.testing.assert_close(rung.statistics.mean, z_pre.mean(dim=0))
    torch.testing.assert_close(rung.statistics.var, z_pre.var(dim=0, correction=0))
    with pytest.raises(ValueError, match="x has 1 rows; batch statistics need at least 2"):
        case.ladder.calibrate(x[:1])


def test_rows_weights_multiply_the_supervised_cost_alone(make_case):
    def costs(weight):
        torch.manual_seed(0)
        ladder = simple(generator=torch.Generator().manual_seed(0))
        generator = torch.Generator().manual_seed(1)
        x, y = torch.randn(6, 4, generator=generator), torch.tensor([0, 1, 0, 0, 1, 1])
        return ladder(x, y, x, None if weight is None else torch.tensor(weight))

    plain, ones, some, others = map(costs, (None, [1.0] * 6, [2.0, 0, 0, 1, 0.5, 0], [-1.0, 1, 1, 0, 0.5, 1]))
    assert ones.supervised.item() == pytest.approx(plain.supervised.item(), rel=1e-6)
    assert some.supervised.item() + others.supervised.item() == pytest.approx(plain.supervised.item(), rel=1e-6)
    assert some.supervised.item() != pytest.approx(others.supervised.item(), rel=1e-2)
    assert [c.item() for c in some.denoising] == [c.item() for c in plain.denoising]
    with pytest.raises(ValueError, match=r"weight must have shape \(6,\), got \(2,\)"):
        costs([1.0, 1.0])


def test_the_plain_encoder_gives_the_logits(make_case):
    case = make_case(activation=nn.Tanh)
    x = torch.randn(30, 5, dtype=torch.float64)
    case.ladder.calibrate(x)
    plain = case.ladder.encoder
    assert {type(module) for module in plain} == {nn.Linear, nn.BatchNorm1d, nn.Tanh}
    torch.testing.assert_close(plain(x), case.ladder.logits(x), rtol=1e-9, atol=1e-12)
    with torch.no_grad():
        plain[0].weight.zero_()
    assert sections(case.ladder)[0].map.weight.abs().sum() > 0


@pytest.mark.usefixtures("calibrated_both_ways")
def test_denoise_runs_down_to_the_input(make_case):
    """With calibrated statistics the decoder's BN is that of one large batch of clean rows."""
    case = make_case()
    x = torch.randn(40, 5, dtype=torch.float64)
    case.ladder.calibrate(x)
    p, problem = case.parameters, case.problem
    z, _, h, _ = oracle.encode(p, problem, x.numpy(), None)
    z_hat = h[3]
    for layer in range(3, -1, -1):
        u = oracle.bn(z_hat if layer == 3 else z_hat @ p.V[layer + 1].T)
        z_hat = oracle.g_gaussian(p.a[layer], z[layer], u)
    np.testing.assert_allclose(case.ladder.denoise(x), z_hat, rtol=1e-7, atol=1e-9)


def test_without_a_way_down_nothing_is_built_for_it(make_case):
    ladder = make_case(combinator="lateral_only").ladder
    assert all(decoder.map is None for decoder in ladder.decoder.values())
    x = torch.randn(30, 5, dtype=torch.float64)
    ladder.calibrate(x)
    expected = oracle.g_lateral_only([ladder.decoder["0"].combinator.a.detach().numpy()], x.numpy(), x.numpy())
    np.testing.assert_allclose(ladder.denoise(x), expected, rtol=1e-9)


@pytest.mark.parametrize("variant", ["gamma", "baseline"])
def test_denoise_needs_a_decoder(make_case, variant):
    with pytest.raises(ValueError, match="no decoder down to the input.*Give layer 0 a weight"):
        make_case(variant=variant).ladder.denoise(torch.zeros(3, 5, dtype=torch.float64))


def test_evaluation_mode_leaves_the_statistics_alone(make_case):
    case = make_case()
    case.ladder.eval()
    before = {name: tensor.clone() for name, tensor in case.ladder.state_dict().items()}
    evaluated = case.costs()
    assert all(torch.equal(tensor, before[name]) for name, tensor in case.ladder.state_dict().items())
    case.ladder.train()
    assert case.costs().total.item() == evaluated.total.item()
    assert case.ladder.steps.item() == 1
    assert not torch.equal(sections(case.ladder)[0].rung.statistics.mean, before["network.0.1.statistics.mean"])


def test_running_statistics_are_those_of_the_clean_stream(make_case):
    case = make_case()
    case.costs()
    _, z_pre, _, _ = oracle.encode(case.parameters, case.problem, case.problem.x_unlabeled, None)
    for layer, section in enumerate(sections(case.ladder), start=1):
        np.testing.assert_allclose(section.rung.statistics.mean, z_pre[layer].mean(axis=0), rtol=1e-9, atol=1e-12)
        unbiased = z_pre[layer].var(axis=0, ddof=1)
        np.testing.assert_allclose(section.rung.statistics.var, unbiased, rtol=1e-6, atol=1e-9)


# Nothing is built or computed that no cost reaches.


@pytest.mark.parametrize(
    ("setting", "decoder", "rows"),
    [
        ({}, ["0", "1", "2", "3"], [20, 20, 20]),
        ({"combinator": "lateral_only"}, ["0", "1", "2", "3"], [20, 20, 20]),
        ({"combinator": "lateral_only", "weights": (1.0, 0.0, 1.0, 0.0)}, ["0", "2"], [20, 20, 13]),
        ({"variant": "gamma"}, ["3"], [20, 20, 20]),
        ({"variant": "bottom"}, ["0", "1", "2", "3"], [13, 13, 13]),
        ({"variant": "baseline"}, [], [6, 6, 6]),
        ({"weights": (1.0, 1.0, 0.0, 0.0)}, ["0", "1", "2", "3"], [20, 13, 13]),
        ({"weights": (0.0, 0.0, 1.0, 0.0)}, ["2", "3"], [20, 20, 13]),
    ],
    ids=["full", "lateral", "lateral-some", "gamma", "bottom", "baseline", "two-lowest", "one-inside"],
)
def test_only_what_a_cost_reaches_is_built_and_computed(make_case, setting, decoder, rows):
    case = make_case(**setting)
    assert list(case.ladder.decoder) == decoder
    seen = []
    for section in sections(case.ladder):
        section.map.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    case.costs().total.backward()
    assert seen == rows  # one product a layer: 6 labelled, 7 noisy and, where a cost needs it, 7 clean rows
    unreached = [name for name, parameter in case.ladder.named_parameters() if parameter.grad is None]
    assert unreached == []


def test_the_baseline_needs_no_unlabelled_rows(make_case):
    case = make_case(variant="baseline")
    case.ladder.corruption = lambda clean, std, generator: clean
    x, y = torch.from_numpy(case.problem.x_labeled), torch.from_numpy(case.problem.y)
    costs = case.ladder(x, y)
    assert costs.total.item() == costs.supervised.item()
    assert costs.denoising == (None,) * 4


# Arguments.


def simple(**settings):
    return Ladder(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), **settings)


def rows(count=6):
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(0))


LABELS = torch.tensor([0, 1, 0, 1, 0, 1])


def test_noise_may_be_an_array():
    assert simple(noise_std=np.array([0.3, 0.0, 0.2])).noise_std == (0.3, 0.0, 0.2)


def test_corruption_is_called_once_a_noisy_stream_and_layer_with_its_own_deviation():
    calls = []
    generator = torch.Generator().manual_seed(3)

    def record(clean, std, given):
        calls.append((len(clean), clean.shape[1], std))
        assert given is generator
        return clean

    simple(noise_std=(0.3, 0.0, 0.2), corruption=record, generator=generator)(rows(), LABELS, rows(9))
    assert calls == [(6, 4, 0.3), (9, 4, 0.3), (6, 2, 0.2), (9, 2, 0.2)]


def test_masking_corrupts_the_input():
    ladder = simple(noise_std=(0.5, 0.0, 0.0), corruption=masking, generator=torch.Generator().manual_seed(0))
    costs = ladder(rows(), LABELS, rows(40))
    costs.total.backward()
    assert torch.isfinite(costs.total)


def test_the_generator_fixes_weights_and_noise():
    def cost(seed):
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        ladder = Ladder(encoder, generator=torch.Generator().manual_seed(seed))
        return ladder(rows(), LABELS, rows(9)).total.item()

    assert cost(1) == cost(1)
    assert cost(1) != cost(2)


@pytest.mark.parametrize("shared", [True, False])
def test_a_combinator_of_the_callers_own(shared):
    ladder = simple(combinator=partial(AMLP, hidden=(4,), shared=shared))
    own = () if shared else ladder.shapes[0]
    assert tuple(ladder.decoder["0"].combinator.maps[0].weight.shape) == (4, 3, *own)
    ladder(rows(), LABELS, rows(9)).total.backward()


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("full", (1000, 10, 0.1)),
        ("gamma", (0, 0, 1)),
        ("bottom", (1000, 0, 0)),
        ("baseline", (0, 0, 0)),
    ],
)
def test_default_weights(variant, expected):
    assert simple(variant=variant).denoising_weights == expected


def test_denoising_costs_are_unweighted():
    def costs(factor):
        torch.manual_seed(0)
        ladder = simple(denoising_weights=(factor, 2 * factor, 3 * factor), generator=torch.Generator().manual_seed(0))
        return ladder(rows(), LABELS, rows(9))

    one, ten = costs(1.0), costs(10.0)
    assert [c.item() for c in one.denoising] == [c.item() for c in ten.denoising]
    parts = sum(w * c.item() for w, c in zip((10, 20, 30), ten.denoising, strict=True))
    assert ten.total.item() == pytest.approx(ten.supervised.item() + parts, rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise_std": -0.1}, "noise_std must be finite and not negative"),
        ({"noise_std": float("nan")}, "noise_std must be finite"),
        ({"noise_std": (0.3, 0.3)}, "one number or 3 of them.*got 2"),
        ({"denoising_weights": (1, 2)}, "must have 3 entries.*got 2"),
        ({"denoising_weights": (1, -2, 3)}, "finite and not negative"),
        ({"denoising_weights": (1, float("inf"), 3)}, "finite and not negative"),
        ({"variant": "delta"}, "variant must be one of full, gamma, bottom, baseline, got 'delta'"),
        ({"combinator": "gauss"}, "combinator must be one of gaussian, .*got 'gauss'"),
        ({"task": "ranking"}, "task must be one of"),
        ({"supervised_path": "both"}, "supervised_path must be one of noisy, clean, got 'both'"),
    ],
)
def test_bad_arguments_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        simple(**settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((rows()[:, :3], LABELS, rows()), r"x_labeled must have shape \(rows, 4\), got \(6, 3\)"),
        ((rows(), LABELS, rows()[0]), r"x_unlabeled must have shape"),
        ((rows(), LABELS), "x_unlabeled is needed"),
        ((rows(1), LABELS[:1], rows()), "x_labeled has 1 rows; batch statistics need at least 2"),
        ((rows(), LABELS, rows(1)), "x_unlabeled has 1 rows"),
        ((rows().double(), LABELS, rows()), "x_labeled must be torch.float32 as the ladder is"),
        ((rows(), LABELS - 1, rows()), "class indices"),
    ],
)
def test_bad_rows_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        simple()(*arguments)


def test_state_goes_to_another_ladder_and_through_copies():
    ladder = simple(generator=torch.Generator().manual_seed(0))
    ladder(rows(), LABELS, rows(9))
    other = simple()
    other.load_state_dict(ladder.state_dict())
    expected = ladder.predict(rows())
    assert torch.equal(other.predict(rows()), expected)
    assert torch.equal(copy.deepcopy(ladder).predict(rows()), expected)


def test_a_step_in_bfloat16_is_near_the_one_in_float32(make_case):
    def gradient(low):
        torch.manual_seed(0)
        ladder = Ladder(
            nn.Sequential(nn.Linear(50, 40), nn.ReLU(), nn.Linear(40, 5)), generator=torch.Generator().manual_seed(0)
        )
        x = torch.randn(30, 50, generator=torch.Generator().manual_seed(1))
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            costs = ladder(x, torch.arange(30) % 5, x)
        costs.total.backward()
        assert costs.total.dtype == torch.float32
        return costs.total.item(), torch.cat([p.grad.flatten() for p in ladder.parameters()])

    (low, low_gradient), (full, full_gradient) = gradient(True), gradient(False)
    assert low == pytest.approx(full, rel=0.01)
    assert torch.nn.functional.cosine_similarity(low_gradient, full_gradient, dim=0) > 0.999


def test_docstring_examples():
    import doctest

    from laddernet import ladder
    from laddernet.estimators import classifier, regressor

    for module in (ladder, classifier, regressor):
        result = doctest.testmod(module)
        assert result.attempted > 0
        assert result.failed == 0


class Sequences(nn.Module):
    """A network with randomness of its own in training."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(2, 6, num_layers=2, dropout=0.5, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.lstm(x.transpose(1, 2))[0][:, -1])


def test_the_clean_path_is_that_of_evaluation_mode_and_training_goes_on():
    generator = torch.Generator().manual_seed(0)
    ladder = Ladder(Sequences(), input_shape=(2, 5), rungs=("head",), generator=generator)
    x, y = torch.randn(12, 2, 5, generator=generator), torch.arange(12) % 3
    ladder(x, y, x)
    trained = [module for module in ladder.modules() if module.training]
    for answer in (ladder.logits, ladder.predict, lambda x: ladder.hidden(x, 1)):
        assert torch.equal(answer(x), answer(x))
    for batch_size in (12, 5):
        ladder.calibrate(x, batch_size=batch_size)
        mean = ladder.network.head[1].statistics.mean.clone()
        ladder.calibrate(x, batch_size=batch_size)
        assert torch.equal(ladder.network.head[1].statistics.mean, mean)
    assert [module for module in ladder.modules() if module.training] == trained != []
    assert ladder.eval().predict(x).equal(ladder.predict(x))
    assert not any(module.training for module in ladder.modules())


@pytest.mark.parametrize("layer", [-1, 3, 1.0, None])
def test_hidden_wants_a_layer_that_is_there(layer):
    ladder = Ladder(mlp([4, 3, 2]))
    with pytest.raises(ArgumentError, match="layer must be (at least 0|at most 2|a layer's number)"):
        ladder.hidden(torch.rand(5, 4), layer)
    assert ladder.hidden(torch.rand(5, 4), 2).shape == (5, 2)


def test_a_float16_ladder_is_refused():
    ladder = Ladder(mlp([4, 3, 2])).half()
    x = torch.rand(6, 4, dtype=torch.float16)
    with pytest.raises(ValueError, match="use float32, and autocast"):
        ladder(x, torch.arange(6) % 2, x)
