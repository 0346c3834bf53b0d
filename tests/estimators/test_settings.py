import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from conftest import sections
from laddernet import LadderClassifier
from samples import IRIS_X, IRIS_Y, few, small


@pytest.mark.parametrize(
    ("rows", "batch_size", "epochs"), [(150, 30, 300), (150, 100, 1000), (150, 2, 20), (150, 150, 1000)]
)
def test_epochs_are_enough_for_some_steps_unless_told(rows, batch_size, epochs):
    assert small(max_epochs="auto", batch_size=batch_size)._training_config(rows).epochs == epochs
    assert small(max_epochs="auto", batch_size=2)._training_config(60_000).epochs == 10


@pytest.mark.parametrize(("columns", "width"), [(1, 100), (50, 100), (51, 250)])
def test_widths_are_chosen_by_the_columns_unless_told(columns, width):
    X = np.random.default_rng(0).normal(size=(40, columns))
    model = LadderClassifier(max_epochs=1).fit(X, np.arange(40) % 2)
    assert [section.rung.shape[0] for section in sections(model.ladder_)] == [width, width, 2]
    assert model.transform(X).shape == (40, width)


@pytest.mark.parametrize("variant", ["gamma", "bottom", "baseline"])
def test_variants(variant):
    model = small(variant=variant).fit(IRIS_X, few(IRIS_Y))
    assert model.score(IRIS_X, IRIS_Y) > 0.8
    reached = [cost is not None for cost in model.history_[0]["denoising_costs"]]
    assert reached == {"gamma": [False, False, True], "bottom": [True, False, False], "baseline": [False] * 3}[variant]


@pytest.mark.parametrize("precision", ["bfloat16", "float64"])
def test_precisions(precision):
    model = small(precision=precision).fit(IRIS_X, few(IRIS_Y))
    assert model.precision_ == precision
    assert sections(model.ladder_)[0].map.weight.dtype == (torch.float64 if precision == "float64" else torch.float32)
    assert model.score(IRIS_X, IRIS_Y) > 0.85


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"early_stopping": True}, "early_stopping needs rows to judge by"),
        ({"validation_fraction": 1.0}, r"validation_fraction must be in \[0, 1\)"),
        ({"validation_fraction": -0.1}, r"validation_fraction must be in \[0, 1\)"),
        ({"hidden_layer_sizes": (10, 0)}, "sequence of widths, such as .250, 250., each at least 1, got .10, 0."),
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"max_epochs": "many"}, "max_epochs must be 'auto' or a whole number, got 'many'"),
        ({"max_epochs": 2.5}, "max_epochs must be 'auto' or a whole number, got 2.5"),
        ({"hidden_layer_sizes": 8}, r"must be 'auto' or a sequence of widths, such as \(250, 250\), got 8"),
        ({"hidden_layer_sizes": "wide"}, "must be 'auto' or a sequence of widths"),
        ({"validation_fraction": 0.95}, "23 of the 24 labelled rows cannot be held out: every class needs one"),
        ({"max_epochs": 0}, "epochs must be at least 1"),
        ({"denoising_weights": "heavy"}, "must be 'auto' or one number a layer"),
        ({"denoising_weights": (1, 2)}, "must have 3 entries"),
        ({"input_scaling": "yes"}, "input_scaling must be one of"),
        ({"device": "toaster"}, "device 'toaster' cannot be used here"),
        ({"precision": "half"}, "precision must be one of"),
        ({"precision": "tf32", "device": "cpu"}, "precision='tf32' is for CUDA devices"),
        (
            {"ladder_options": {"detach": True}},
            "ladder_options has 'detach'; known are detach_targets, joint_statistics",
        ),
        ({"training_options": {"decays": "cosine"}}, "training_options has 'decays'; known are averaged_epochs, decay"),
        ({"training_options": {"decay": "step"}}, "decay must be one of linear, cosine, got 'step'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        small(**settings).fit(IRIS_X, few(IRIS_Y))


def test_pipeline_clone_and_grid_search():
    pipeline = make_pipeline(StandardScaler(), small(max_epochs=3))
    pipeline.fit(IRIS_X, few(IRIS_Y))
    assert clone(pipeline).fit(IRIS_X, few(IRIS_Y)).score(IRIS_X, IRIS_Y) == pipeline.score(IRIS_X, IRIS_Y)
    search = GridSearchCV(small(max_epochs=2), {"noise_std": [0.1, (0.3, 0.2, 0.1)]}, cv=2).fit(IRIS_X, IRIS_Y)
    assert search.best_score_ > 0.4
    assert cross_val_score(small(max_epochs=2), IRIS_X, IRIS_Y, cv=2).shape == (2,)


def test_ladder_options_reach_the_ladder():
    model = small(ladder_options={"supervised_path": "clean", "detach_targets": True}).fit(IRIS_X, few(IRIS_Y))
    assert (model.ladder_.supervised_path, model.ladder_.detach_targets) == ("clean", True)
    assert not model.ladder_.joint_statistics


def test_weight_normalization_holds_each_unit_at_unit_length():
    model = small(ladder_options={"weight_normalization": "encoder"}).fit(IRIS_X, few(IRIS_Y))
    lengths = torch.cat([model.ladder_.get_parameter(name).norm(dim=1) for name in model.ladder_.projected])
    np.testing.assert_allclose(lengths.detach(), 1.0, rtol=1e-5)


def test_training_options_reach_the_training():
    usual, cosine, averaged = (
        small(max_epochs=6, training_options=options).fit(IRIS_X, few(IRIS_Y))
        for options in (None, {"decay": "cosine"}, {"averaged_epochs": 3})
    )
    rates = [[record["learning_rate"] for record in model.history_] for model in (usual, cosine)]
    assert rates[0][:4] == rates[1][:4]
    assert rates[1][4] > rates[0][4]
    assert averaged.history_[-1]["cost"] == usual.history_[-1]["cost"]  # the training is the same, its end is not
    assert not np.array_equal(averaged.predict_proba(IRIS_X), usual.predict_proba(IRIS_X))
    averaged.partial_fit(IRIS_X)
