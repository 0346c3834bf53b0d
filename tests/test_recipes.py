import inspect

import pytest

from laddernet.estimators import LadderClassifier
from laddernet.ladder import Ladder
from laddernet.networks import mlp
from laddernet.recipes import RECIPES, recipe_for

# The table of docs/algorithm.md, "Settings": weights from the input to the top.
TAIL = (0.1,) * 5
TABLE = {
    "mnist-50": (50, (2000, 20, *TAIL), 0.3),
    "mnist-100": (100, (1000, 10, *TAIL), 0.3),
    "mnist-1000": (1000, (2000, 20, *TAIL), (0.3, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2)),
    "mnist-all": (None, (1000, 1, 0.01, 0.01, 0.01, 0.01, 0.01), 0.3),
    "mnist-100-bottom": (100, (5000, 0, 0, 0, 0, 0, 0), 0.3),
    "mnist-1000-bottom": (1000, (2000, 0, 0, 0, 0, 0, 0), 0.3),
    "mnist-all-bottom": (None, (2000, 0, 0, 0, 0, 0, 0), 0.3),
    "mnist-100-gamma": (100, (0, 0, 0, 0, 0, 0, 0.5), 0.3),
    "mnist-1000-gamma": (1000, (0, 0, 0, 0, 0, 0, 10), 0.3),
    "mnist-all-gamma": (None, (0, 0, 0, 0, 0, 0, 2), 0.3),
    "mnist-100-baseline": (100, (0,) * 7, (0.3, *[0.5] * 6)),
    "mnist-1000-baseline": (1000, (0,) * 7, (0.3, *[0.5] * 6)),
    "mnist-all-baseline": (None, (0,) * 7, (0.3, *[0.5] * 6)),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_papers_settings(name):
    labels, weights, noise = TABLE[name]
    recipe = RECIPES[name]
    assert recipe.labels == labels
    assert recipe.denoising_weights == weights
    assert recipe.noise_std == noise
    assert recipe.hidden_layer_sizes == (1000, 500, 250, 250, 250)
    assert (recipe.learning_rate, recipe.batch_size, recipe.max_epochs) == (0.002, 100, 150)
    assert round(recipe.decay_start * 150) == 100
    ladder = Ladder(
        mlp([784, *recipe.hidden_layer_sizes, 10]),
        noise_std=recipe.noise_std,
        denoising_weights=recipe.denoising_weights,
        variant=recipe.variant,
    )
    assert ladder.denoising_weights == weights  # the variant takes nothing away


def test_an_ablation_changes_one_thing_of_a_shorter_run():
    reference, full = RECIPES["ablation-none"], RECIPES["mnist-100"]
    same = ("max_epochs", "name", "paper", "ablation")
    assert {f: v for f, v in vars(reference).items() if f not in same} == {
        f: v for f, v in vars(full).items() if f not in same
    }
    assert reference.max_epochs == 20
    changes = {
        name: [field for field, value in vars(recipe).items() if value != getattr(reference, field)]
        for name, recipe in RECIPES.items()
        if recipe.ablation and recipe is not reference
    }
    assert len(changes) == 11
    for name, changed in changes.items():
        assert name.startswith("ablation-")
        assert len(set(changed) - {"name", "ablation"}) == 1, name
        LadderClassifier(**RECIPES[name].settings())
    assert RECIPES["ablation-clean-path"].settings()["ladder_options"] == {"supervised_path": "clean"}
    assert RECIPES["ablation-amlp"].settings()["combinator"] == "amlp"
    assert not {"ladder_options", "combinator", "labeled_statistics"} & set(full.settings())


# Network, labels, weights, noise of the ladder and of its baseline, epochs, decay, and those of the baseline.
CONVOLUTIONAL = {
    "mnist-100-conv-fc": ("conv_fc", 100, (1000, 10, *[0.1] * 6), (0.3, *[0.45] * 7), (150, 2 / 3), (20, 0.5)),
    "mnist-100-conv-small-gamma": ("conv_small", 100, (*[0] * 9, 1), (0.3, *[0.45] * 9), (150, 2 / 3), (20, 0.5)),
    "cifar10-4000-gamma": ("conv_large", 4000, (*[0] * 12, 4), 0.3, (70, 0.86), (20, 0.5)),
}


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_the_papers_convolutional_settings(name):
    network, labels, weights, baseline_noise, (epochs, decay), of_baseline = CONVOLUTIONAL[name]
    recipe = RECIPES[name]
    baseline = RECIPES[name.removesuffix("-gamma") + "-baseline"]
    assert (recipe.network, recipe.labels, recipe.denoising_weights) == (network, labels, weights)
    assert (recipe.max_epochs, recipe.decay_start, recipe.learning_rate, recipe.batch_size) == (
        epochs,
        decay,
        0.002,
        100,
    )
    assert (recipe.noise_std, baseline.noise_std) == (0.3, baseline_noise)
    assert (baseline.max_epochs, baseline.decay_start, baseline.variant) == (*of_baseline, "baseline")
    assert (baseline.network, baseline.labels) == (network, labels)
    for one in (recipe, baseline):
        settings = one.settings()
        encoder = settings["module"](settings["input_shape"], 10)
        ladder = Ladder(encoder, input_shape=settings["input_shape"], noise_std=one.noise_std, variant=one.variant,
                        denoising_weights=one.denoising_weights)  # fmt: skip
        assert ladder.denoising_weights == one.denoising_weights


def test_settings_are_arguments_of_the_estimator():
    known = set(inspect.signature(LadderClassifier).parameters)
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        assert set(recipe.settings()) <= known
        whitened = recipe.dataset == "cifar10" and recipe.network
        assert recipe.settings()["input_scaling"] == ("whitened" if whitened else "none")


def test_a_baseline_has_no_decoder_and_its_own_noise():
    baseline = RECIPES["mnist-100"].baseline()
    assert (baseline.name, baseline.variant) == ("mnist-100-baseline", "baseline")
    assert baseline.noise_std == (0.3, *[0.5] * 6)
    assert baseline.labels == 100


@pytest.mark.parametrize(
    ("dataset", "labels", "variant", "expected"),
    [
        ("digits", None, "full", "digits-50"),
        ("digits", 200, "full", "digits-50"),
        ("digits", 100, "baseline", "digits-50-baseline"),
        ("mnist", None, "full", "mnist-100"),
        ("mnist", 60, "full", "mnist-50"),
        ("mnist", 500, "full", "mnist-1000"),
        ("mnist", 60_000, "full", "mnist-all"),
        ("mnist", 100, "gamma", "mnist-100-gamma"),
        ("mnist", 20_000, "bottom", "mnist-all-bottom"),
    ],
)
def test_the_nearest_recipe_is_taken(dataset, labels, variant, expected):
    recipe = recipe_for(dataset, labels, variant)
    assert recipe.name == expected
    assert recipe.labels == (labels or RECIPES[expected].labels)


def test_a_variant_without_a_recipe_takes_default_weights():
    recipe = recipe_for("digits", 50, "gamma")
    assert (recipe.variant, recipe.denoising_weights) == ("gamma", "auto")


@pytest.mark.parametrize("labels", [20, 50, 100, 1000])
def test_training_on_a_data_set_takes_the_papers_settings_and_no_teacher(labels):
    recipe = recipe_for("mnist", labels, "full")
    assert recipe == RECIPES[f"mnist-{labels}"]
    assert (recipe.teacher, recipe.to_beat, recipe.ladder_options) == (None, None, None)


@pytest.mark.parametrize("labels", [20, 50, 100, 1000, "all"])
@pytest.mark.parametrize(
    ("which", "expected"),
    [("best", {"hidden_layer_sizes": (1000, 1000, 1000, 1000, 1000)}), ("300-epochs", {"max_epochs": 300})],
)
def test_what_goes_past_a_row_of_the_paper_changes_one_thing(labels, which, expected):
    row, past = RECIPES[f"mnist-{labels}"], RECIPES[f"mnist-{labels}-{which}"]
    settings = past.settings()
    assert {k: settings[k] for k, v in row.settings().items() if settings[k] != v} == expected
    assert past.labels == row.labels


@pytest.mark.parametrize("recipe", [r for r in RECIPES.values() if r.teacher], ids=lambda r: r.name)
def test_a_teacher_is_a_recipe_of_its_own(recipe):
    for stage in recipe.stages:
        assert RECIPES[stage.name] is stage
        assert stage.labels == recipe.labels
