import copy

import numpy as np
import pytest
import torch
from torch import nn

from conftest import sections
from laddernet import LadderClassifier, TrainingError
from laddernet.data import hide_labels, load
from laddernet.estimators import fit_together
from laddernet.ladder import VARIANTS, Ladder
from laddernet.loop import Callback
from laddernet.networks import mlp
from laddernet.together import Labeled, train_together
from laddernet.training import TrainingConfig, train

SEEDS = (3, 7, 8)


def problem(seed, *, rows=60, labeled=12, dtype=torch.float64, **settings):
    """A ladder, its labelled rows, and the generator of its batches; the unlabelled rows are those of `shared`."""
    generator = torch.Generator().manual_seed(seed)
    ladder = Ladder(
        mlp([6, 9, 7, 3], generator=generator),
        denoising_weights=settings.pop("denoising_weights", (10.0, 1.0, 0.1, 0.1)),
        generator=generator,
        **settings,
    ).to(dtype)
    # At the start z_hat is 0, so that some gradients are 0 but for rounding, which Adam makes steps of.
    with torch.no_grad():
        for parameter in ladder.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator).to(dtype)
    x = shared(rows, dtype)
    chosen = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))[:labeled]
    return ladder, Labeled(x[chosen], chosen % 3), torch.Generator().manual_seed(seed + 1)


def shared(rows=60, dtype=torch.float64):
    return torch.randn(rows, 6, dtype=dtype, generator=torch.Generator().manual_seed(99))


def alone_and_together(config, seeds=SEEDS, **settings):
    alone = [problem(seed, **settings) for seed in seeds]
    histories = [
        train(ladder, shared(), rows.x, rows.y, config, generator=generator, weight=rows.weight)
        for ladder, rows, generator in alone
    ]
    together = [problem(seed, **settings) for seed in seeds]
    ladders, labeled, generators = zip(*together, strict=True)
    return [a[0] for a in alone], histories, ladders, train_together(
        ladders, shared(), labeled, config, generators=generators
    )  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [
        *[{"variant": variant} for variant in VARIANTS],
        {"combinator": "amlp"},
        {"supervised_path": "clean"},
        {"noise_std": (0.3, 0.0, 0.2, 0.2)},
        {"weight_normalization": "all"},
        {"denoising_weights": (0.0, 2.0, 0.0, 0.0)},
        {"labeled": 30},
    ],
    ids=str,
)
def test_twenty_steps_are_those_of_each_ladder_alone(settings):
    config = TrainingConfig(epochs=4, batch_size=12, averaged_epochs=2, decay="cosine")  # 5 steps an epoch
    alone, histories, together, batched = alone_and_together(config, **settings)
    for one, other in zip(alone, together, strict=True):
        for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
        x = torch.randn(11, 6, dtype=torch.float64)
        torch.testing.assert_close(other.predict(x), one.predict(x), rtol=1e-8, atol=1e-9)
    for one, other in zip(histories, batched, strict=True):
        for a, b in zip(one, other, strict=True):
            assert b["learning_rate"] == a["learning_rate"]
            assert b["cost"] == pytest.approx(a["cost"], rel=1e-9)
            for ours, theirs in zip(b["denoising_costs"], a["denoising_costs"], strict=True):
                assert (ours is None) == (theirs is None)
                assert ours is None or ours == pytest.approx(theirs, rel=1e-9)


def test_bfloat16_products_go_together_as_well():
    config = TrainingConfig(epochs=2, batch_size=12, precision="bfloat16")
    ladders, labeled, generators = zip(*[problem(seed, dtype=torch.float32) for seed in SEEDS], strict=True)
    histories = train_together(ladders, shared(dtype=torch.float32), labeled, config, generators=generators)
    for seed, history in zip(SEEDS, histories, strict=True):
        ladder, rows, batches = problem(seed, dtype=torch.float32)
        alone = train(ladder, shared(dtype=torch.float32), rows.x, rows.y, config, generator=batches)
        assert history[-1]["cost"] == pytest.approx(alone[-1]["cost"], rel=0.02)


def test_the_steps_count_for_later_training():
    config = TrainingConfig(epochs=2, batch_size=12)
    alone, _, together, _ = alone_and_together(config)
    assert [int(ladder.steps) for ladder in together] == [int(ladder.steps) for ladder in alone] == [10, 10, 10]


def test_each_ladder_draws_for_itself():
    config = TrainingConfig(epochs=1, batch_size=12)
    _, _, (first, second), _ = alone_and_together(config, seeds=(3, 4))
    assert not torch.equal(sections(first)[0].map.weight, sections(second)[0].map.weight)
    _, _, (first, second), _ = alone_and_together(config, seeds=(3, 3))
    torch.testing.assert_close(sections(first)[0].map.weight, sections(second)[0].map.weight, rtol=1e-12, atol=1e-12)


def test_row_weights_are_each_ladders_own():
    config = TrainingConfig(epochs=2, batch_size=12)
    found = [problem(seed) for seed in SEEDS]
    weighted = [
        (ladder, rows._replace(weight=torch.arange(12.0, dtype=torch.float64) / 5.5 * (i + 1)), generator)
        for i, (ladder, rows, generator) in enumerate(found)
    ]
    expected = []
    for ladder, rows, generator in copy.deepcopy([(w[0], w[1], None) for w in weighted]):
        ladder.generator = copy.deepcopy(ladder.generator)
        expected.append((ladder, rows, generator))
    for (ladder, rows, _), seed in zip(expected, SEEDS, strict=True):
        fresh, _, batches = problem(seed)
        train(fresh, shared(), rows.x, rows.y, config, generator=batches, weight=rows.weight)
        ladder.load_state_dict(fresh.state_dict())
    ladders, labeled, generators = zip(*weighted, strict=True)
    train_together(ladders, shared(), labeled, config, generators=generators)
    for (ladder, _, _), ours in zip(expected, ladders, strict=True):
        torch.testing.assert_close(sections(ours)[1].map.weight, sections(ladder)[1].map.weight, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": TrainingConfig(epochs=1, patience=1)}, "patience must be None"),
        ({"labeled": lambda rows: [*rows[:2], Labeled(rows[2].x[:5], rows[2].y[:5])]}, "as many as the others"),
        ({"labeled": lambda rows: [*rows[:2], rows[2]._replace(weight=torch.ones(12))]}, "all ladders have weights"),
    ],
)
def test_what_cannot_go_together_is_refused(change, message):
    ladders, labeled, generators = zip(*[problem(seed) for seed in SEEDS], strict=True)
    labeled = change.get("labeled", list)(list(labeled))
    with pytest.raises(ValueError, match=message):
        train_together(
            ladders, shared(), labeled, change.get("config", TrainingConfig(epochs=1)), generators=generators
        )


def test_a_cost_that_is_not_finite_in_one_stops_all():
    ladders, labeled, generators = zip(*[problem(seed) for seed in SEEDS], strict=True)
    bad = labeled[1]._replace(x=labeled[1].x.clone())
    bad.x[3, 2] = torch.nan
    with pytest.raises(TrainingError, match="the cost became nan in epoch 1"):
        train_together(
            ladders, shared(), [labeled[0], bad, labeled[2]], TrainingConfig(epochs=2, batch_size=12),
            generators=generators,
        )  # fmt: skip


def test_a_failure_leaves_all_models_as_they_were():
    data = load("digits", seed=0)
    y = hide_labels(data.y_train, 30, seed=0)
    first = LadderClassifier((20,), max_epochs=1, random_state=0).fit(data.x_train, y)
    models, before = [first, LadderClassifier((20,), max_epochs=1, random_state=1)], first.predict_proba(data.x_test)
    with pytest.raises(ValueError, match="no row has a label"):
        fit_together(models, data.x_train, [y, np.full_like(y, -1)])
    np.testing.assert_array_equal(first.predict_proba(data.x_test), before)
    assert not hasattr(models[1], "scaling_")


class Count(Callback):
    def __init__(self):
        self.steps = self.epochs = 0

    def on_step_end(self):
        self.steps += 1

    def on_epoch_end(self, record):
        self.epochs += 1


def test_classifiers_fitted_together_are_those_fitted_alone():
    data = load("digits", seed=0)
    x, labels = data.x_train[:300], [hide_labels(data.y_train[:300], 30, seed=seed) for seed in SEEDS]
    settings = {"hidden_layer_sizes": (20,), "max_epochs": 4, "precision": "float64"}
    alone = [LadderClassifier(**settings, random_state=seed).fit(x, y) for seed, y in zip(SEEDS, labels, strict=True)]
    together, count = [LadderClassifier(**settings, random_state=seed) for seed in SEEDS], Count()
    fit_together(together, x, labels, callback=count)
    assert count.epochs == 4
    assert count.steps == 4 * (300 // together[0].batch_size)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(
            other.predict_proba(data.x_test), one.predict_proba(data.x_test), rtol=1e-7, atol=1e-9
        )
        assert other.n_iter_ == 4
        assert other.precision_ == one.precision_
        assert [r["epoch"] for r in other.history_] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("others", "message"),
    [({"noise_std": 0.1}, "alike but for random_state"), ({"validation_fraction": 0.2}, "no validation_fraction")],
)
def test_classifiers_that_cannot_go_together_are_refused(others, message):
    data = load("digits", seed=0)
    y = hide_labels(data.y_train, 30, seed=0)
    second = LadderClassifier(**others)
    first = LadderClassifier(**others) if "validation_fraction" in others else LadderClassifier()
    with pytest.raises(ValueError, match=message):
        fit_together([first, second], data.x_train, [y, y])


def test_settings_that_are_arrays_are_compared_and_no_models_are_refused():
    data = load("digits", seed=0)
    y = hide_labels(data.y_train, 30, seed=0)
    weights = [np.linspace(0.5, 1.5, 64), np.linspace(0.5, 1.5, 64)]
    models = [LadderClassifier((8,), column_weights=w, max_epochs=1, random_state=0) for w in weights]
    fit_together(models, data.x_train, [y, y])
    np.testing.assert_allclose(*(model.predict_proba(data.x_test) for model in models), rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="alike but for random_state"):
        fit_together([models[0], LadderClassifier((8,), column_weights=2 * weights[0])], data.x_train, [y, y])
    with pytest.raises(ValueError, match="no models"):
        fit_together([], data.x_train, [])


def test_only_fully_connected_ladders_without_dropout():
    for encoder, shape in (
        (nn.Sequential(nn.Conv1d(1, 2, 2), nn.Flatten(), nn.Linear(6, 2)), (1, 4)),
        (nn.Sequential(nn.Linear(4, 3), nn.Dropout(), nn.Linear(3, 2)), (4,)),
    ):
        ladders = [Ladder(encoder, input_shape=shape, generator=torch.Generator()) for _ in range(2)]
        x = torch.randn(6, *shape)
        known = [Labeled(x[:4], torch.arange(4) % 2)] * 2
        generators = [torch.Generator(), torch.Generator()]
        with pytest.raises(ValueError, match="only fully connected ladders without dropout"):
            train_together(ladders, x, known, TrainingConfig(epochs=1, batch_size=4), generators=generators)
