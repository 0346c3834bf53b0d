"""The fifteen faults of other implementations (docs/algorithm.md, "What others got wrong"), a test for each.

`make faults` puts each of them into a copy of the source and checks that its test here fails.
"""

import itertools
import runpy
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_pre_hook

import oracle
from conftest import sections
from laddernet import Ladder, LadderClassifier
from laddernet.data import choose_labeled
from laddernet.networks import mlp
from laddernet.sampling import Batches
from laddernet.training import LinearDecay, TrainingConfig, steps_per_epoch, train

DIGITS_X, DIGITS_Y = load_digits(return_X_y=True)
both_ways = pytest.mark.parametrize("fused", [False, True], ids=["torch", "kernels"])


def assert_costs_agree(case, layers):
    *_, expected = oracle.costs(case.parameters, case.problem)
    costs = case.costs().denoising
    for layer in layers:
        assert costs[layer].item() == pytest.approx(expected[layer], rel=1e-9)


def widen(case, factor):
    """Make the pre-activations of layer 1 have deviations far from 1, so that variance and deviation differ."""
    with torch.no_grad():
        sections(case.ladder)[0].map.weight *= factor
    case.parameters.W[1] *= factor
    return case


@both_ways
def test_fault_01_the_deviation_divides_not_the_variance(make_case, fused):
    assert_costs_agree(widen(make_case(fused=fused), 5.0), [1])


@both_ways
def test_fault_02_estimates_are_normalised_above_the_input_and_not_at_it(make_case, fused):
    assert_costs_agree(widen(make_case(fused=fused), 5.0), [0, 1, 2, 3])


def test_fault_03_noise_comes_after_the_statistics(make_case):
    """What is given to the corruption above the input is normalised already: mean 0 and variance 1."""
    ladder, problem, seen = make_case().ladder, make_case().problem, []
    ladder.corruption = lambda clean, std, generator: seen.append(clean) or clean + 7 * torch.randn_like(clean)
    ladder(*(torch.from_numpy(a) for a in (problem.x_labeled, problem.y, problem.x_unlabeled)))
    for clean in seen[2:]:
        assert clean.mean(dim=0).abs().max() < 1e-9
        assert (clean.var(dim=0, correction=0) - 1).abs().max() < 1e-6


def test_fault_03_the_kernels_add_noise_after_they_normalise(make_case):
    case = widen(make_case(fused=True), 5.0)
    expected = oracle.costs(case.parameters, case.problem)[1]
    assert case.costs().supervised.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("supervised_path", ["noisy", "clean"])
def test_fault_04_the_supervised_cost_has_no_floor(supervised_path):
    """Softmax twice cannot get below 1.4612 for ten classes; sure and right answers cost nothing here."""
    ladder = Ladder(nn.Linear(10, 10, bias=False), noise_std=0.0, variant="baseline", supervised_path=supervised_path)
    with torch.no_grad():
        sections(ladder)[0].map.weight.copy_(torch.eye(10))
        sections(ladder)[0].rung.gamma.fill_(20.0)
    assert ladder(torch.eye(10), torch.arange(10)).supervised < 1e-6


@both_ways
def test_fault_05_gradients_flow_through_the_clean_target_and_its_statistics(make_case, fused):
    case = make_case(weights=(0.0, 1.0, 0.0, 0.0), fused=fused)
    case.costs().total.backward()
    expected = oracle.gradient(case.parameters, case.problem, lambda p: p.W[1])
    np.testing.assert_allclose(sections(case.ladder)[0].map.weight.grad, expected, rtol=1e-6, atol=1e-8)


@both_ways
def test_fault_06_streams_do_not_share_statistics(make_case, fused):
    case = make_case(variant="full", fused=fused)
    before = case.costs().supervised.item()
    case.problem.x_unlabeled = case.problem.x_unlabeled * 100 + 5
    assert case.costs().supervised.item() == before


def streams_of_a_fit(y, **settings):
    """Rows of digits, by number, that reached each stream while an estimator was fitted."""
    labeled, unlabeled, numbers = [], [], {row.tobytes(): i for i, row in enumerate(DIGITS_X[:200])}
    settings = {"batch_size": 50, "input_scaling": "none", "random_state": 0, **settings}
    model = LadderClassifier((10,), **settings)

    def watch(module, inputs):
        if isinstance(module, Ladder) and len(inputs) == 3:
            for rows, kept in ((inputs[0], labeled), (inputs[2], unlabeled)):
                kept += [numbers[row.numpy().astype(np.float64).tobytes()] for row in rows]

    handle = register_module_forward_pre_hook(watch)
    try:
        model.fit(DIGITS_X[:200], y)
    finally:
        handle.remove()
    return labeled, unlabeled


def few_labels():
    return np.where(np.arange(200) < 40, DIGITS_Y[:200], -1)


def test_fault_07_the_unlabelled_stream_holds_the_labelled_rows_as_well():
    labeled, unlabeled = streams_of_a_fit(few_labels(), max_epochs=1)
    assert len(set(map(bytes, DIGITS_X[:200]))) == 200  # all rows differ, so that they can be told apart
    assert sorted(unlabeled) == list(range(200))
    assert set(labeled) == set(range(40))


def test_fault_08_an_answer_does_not_depend_on_the_other_rows(make_case):
    case = make_case()
    case.ladder.calibrate(torch.randn(50, 5, dtype=torch.float64))
    x = torch.randn(20, 5, dtype=torch.float64)
    for mode in (True, False):
        case.ladder.train(mode)
        together = case.ladder.predict(x)
        alone = torch.cat([case.ladder.predict(row.unsqueeze(0)) for row in x])
        torch.testing.assert_close(alone, together, rtol=1e-12, atol=1e-14)


def watched_training(epochs=6, decay_start=0.5):
    """Train with a hook on every optimiser step; what it saw, and the history."""
    rates, optimizers, ladder = [], [], Ladder(mlp([4, 3, 2]))

    def watch(optimizer, args, kwargs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizers.append(optimizer)

    handle = register_optimizer_step_pre_hook(watch)
    x, config = torch.randn(40, 4), TrainingConfig(epochs=epochs, batch_size=10, decay_start=decay_start)
    try:
        history = train(ladder, x, x[:8], torch.arange(8) % 2, config, generator=torch.Generator())
    finally:
        handle.remove()
    return rates, optimizers, history


def test_fault_09_the_rate_that_is_logged_is_the_one_that_was_used():
    rates, _, history = watched_training()
    assert [record["learning_rate"] for record in history] == rates[3::4]
    assert rates[:13] == [0.002] * 13
    assert rates[12:] == pytest.approx([0.002 * left / 12 for left in range(12, 0, -1)])


def test_fault_10_the_rate_never_rises_again():
    decay = LinearDecay(100, 2 / 3)
    assert [decay(step) for step in range(100, 400)] == [0.0] * 300
    assert all(later <= earlier for earlier, later in itertools.pairwise(decay(step) for step in range(120)))


def test_fault_11_one_optimiser_keeps_its_moments_to_the_end():
    rates, optimizers, _ = watched_training()
    assert len(rates) == 24
    assert len(set(map(id, optimizers))) == 1
    assert {int(state["step"]) for state in optimizers[0].state.values()} == {24}


@pytest.mark.parametrize("factor", [1000.0, 1 / 16])
def test_fault_12_inputs_are_scaled_for_the_user(factor):
    y = np.where(np.arange(len(DIGITS_Y)) < 100, DIGITS_Y, -1)

    def answers(X):
        model = LadderClassifier((30,), max_epochs=4, learning_rate=0.01, random_state=0)
        return model.fit(X, y).predict(X)

    assert np.mean(answers(DIGITS_X) == answers(DIGITS_X * factor)) >= 0.99


@pytest.mark.parametrize("count", [10, 50, 100, 103])
def test_fault_13_the_labelled_rows_are_balanced_and_distinct(count):
    y = np.sort(DIGITS_Y)
    chosen = choose_labeled(y, count, seed=1)
    assert len(set(chosen.tolist())) == count
    counts = np.bincount(y[chosen], minlength=10)
    assert counts.max() - counts.min() <= (1 if count % 10 else 0)


@pytest.fixture
def no_hang():
    """A loop that never yields would hang the suite; turn that into a failure."""

    def stop(number, frame):
        raise AssertionError("hangs")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


@pytest.mark.parametrize("labels", [1, 2, 9, 10, 11, 20])
def test_fault_14_any_number_of_labels_gives_batches(labels, no_hang):
    stream = Batches(labels, 10, torch.Generator())
    taken = list(itertools.islice(stream, 6))
    assert [len(batch) for batch in taken] == [min(labels, 10)] * 6
    if labels <= 10:
        assert all(sorted(batch.tolist()) == list(range(labels)) for batch in taken)
    assert steps_per_epoch(labels, 10) == (2 if labels == 20 else 1)


def test_fault_15_the_rows_that_judge_a_model_do_not_train_it():
    labeled, unlabeled = streams_of_a_fit(few_labels(), max_epochs=1, batch_size=19, validation_fraction=0.25)
    held_out = set(range(200)) - set(unlabeled)
    assert len(held_out) == 10
    assert held_out <= set(range(40))
    assert set(labeled) == set(range(40)) - held_out


def test_what_make_faults_replaces_is_still_there():
    assert runpy.run_path(str(Path(__file__).parents[1] / "tools" / "faults.py"))["misfits"]() == []
