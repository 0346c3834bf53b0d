"""The estimators with a network of the caller's, on images and on sequences."""

import copy

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from torch import nn

from laddernet import LadderClassifier, LadderRegressor
from laddernet.checkpoints import load_run, save_run
from laddernet.errors import RunError
from laddernet.networks import conv_small


def small(input_shape, outputs):
    channels, height, width = input_shape
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(8 * (height // 2 - 1) * (width // 2 - 1), outputs),
    )  # fmt: skip


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    y = y.copy()
    y[300:] = -1
    return X.reshape(-1, 1, 8, 8), y


SETTINGS = {"module": small, "max_epochs": 10, "random_state": 0}


@pytest.fixture(scope="module")
def fitted(digits):
    return LadderClassifier(**SETTINGS).fit(*digits)


def test_images_are_learned(digits, fitted):
    X, _ = digits
    labels = load_digits().target
    assert fitted.score(X[300:], labels[300:]) > 0.7  # chance is 0.1
    assert fitted.ladder_.shapes == ((1, 8, 8), (8, 6, 6), (10,))
    assert fitted.predict_proba(X[:5]).shape == (5, 10)
    assert fitted.transform(X[:5]).shape == (5, 8 * 6 * 6)
    assert len(fitted.get_feature_names_out()) == 8 * 6 * 6
    assert fitted.denoise(X[:5]).shape == X[:5].shape
    assert (fitted.input_shape_, fitted.n_features_in_) == ((1, 8, 8), 64)


def test_flat_rows_need_their_shape(digits, fitted):
    X, y = digits
    flat = LadderClassifier(**SETTINGS, input_shape=(1, 8, 8)).fit(X.reshape(len(X), -1), y)
    np.testing.assert_array_equal(flat.predict_proba(X.reshape(len(X), -1)), fitted.predict_proba(X))
    with pytest.raises(ValueError, match=r"input_shape \(3, 8, 8\) has 192 values a row, but X has 64"):
        LadderClassifier(**SETTINGS, input_shape=(3, 8, 8)).fit(X, y)


def test_another_shape_than_in_training_is_refused(digits, fitted):
    X, _ = digits
    with pytest.raises(ValueError, match=r"rows of shape \(1, 4, 16\), but in training they had \(1, 8, 8\)"):
        fitted.predict(X.reshape(-1, 1, 4, 16))
    np.testing.assert_array_equal(fitted.predict(X[:9].reshape(9, -1)), fitted.predict(X[:9]))


def test_rows_of_any_shape_are_taken_where_theirs_is_given(digits):
    X, y = digits
    model = LadderClassifier(**SETTINGS, input_shape=(1, 8, 8)).fit(X[:, 0], y)
    expected = model.predict_proba(X.reshape(len(X), 64))
    for rows in (X, X[:, 0], X.reshape(-1, 8, 8, 1)):
        np.testing.assert_array_equal(model.predict_proba(rows), expected)


def test_rows_may_be_tensors_of_any_type_with_gradients(digits, fitted):
    X, _ = digits
    for dtype in (torch.float64, torch.float16, torch.bfloat16):  # whole numbers up to 16 are exact in all
        x = torch.from_numpy(X[:20]).to(dtype).requires_grad_()
        np.testing.assert_allclose(fitted.predict_proba(x), fitted.predict_proba(X[:20]), atol=1e-6)


@pytest.mark.parametrize("X", [np.empty((0, 1, 8, 8)), torch.empty(0, 1, 8, 8)])
def test_no_rows_are_refused(digits, X):
    with pytest.raises(ValueError, match=r"Found array with 0 sample\(s\)"):
        LadderClassifier(**SETTINGS).fit(X, [])


class TestWarmStart:
    def test_goes_on(self, digits, fitted):
        X, y = digits
        model = copy.deepcopy(fitted).set_params(warm_start=True, max_epochs=1).fit(X, y)
        assert model.history_[0]["cost"] < fitted.history_[0]["cost"] / 1.5

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"input_scaling": "whitened"}, "the fitted scaling, and that is not the input_scaling asked for"),
            ({"module": None}, r"whose rows have the shape \(1, 8, 8\)"),
            ({"input_shape": (1, 4, 16)}, r"whose rows have the shape \(1, 8, 8\)"),
            ({"module": conv_small, "batch_size": 50}, "another module, variant"),
        ],
    )
    def test_refuses_what_is_another_network(self, digits, fitted, changed, message):
        X, y = digits
        model = copy.deepcopy(fitted).set_params(warm_start=True, **changed)
        with pytest.raises(ValueError, match=message):
            model.fit(X, y)
        np.testing.assert_array_equal(model.ladder_.predict(torch.zeros(1, 1, 8, 8)),
                                      fitted.ladder_.predict(torch.zeros(1, 1, 8, 8)))  # fmt: skip


def test_the_same_seed_gives_the_same_network(digits, fitted):
    again = clone(fitted).fit(*digits)
    X, _ = digits
    np.testing.assert_array_equal(again.predict_proba(X), fitted.predict_proba(X))
    state = torch.get_rng_state()
    other = LadderClassifier(**SETTINGS | {"random_state": 1}).fit(*digits)
    assert torch.equal(torch.get_rng_state(), state)
    assert not np.array_equal(other.predict_proba(X), fitted.predict_proba(X))


def test_of_a_module_a_copy_is_trained(digits):
    X, y = digits
    module = small((1, 8, 8), 10)
    before = copy.deepcopy(module.state_dict())
    LadderClassifier(module=module, max_epochs=1, random_state=0).fit(X, y)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_sequences_and_a_regression():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 2, 20)).cumsum(axis=2)
    y = X[:, 0].mean(axis=1)
    y[100:] = np.nan

    def network(input_shape, outputs):
        return nn.Sequential(
            nn.Conv1d(input_shape[0], 8, 5, stride=2), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
            nn.Linear(8, outputs),
        )  # fmt: skip

    model = LadderRegressor(module=network, max_epochs=400, random_state=0).fit(X, y)
    assert model.score(X[100:], X[100:, 0].mean(axis=1)) > 0.6
    np.testing.assert_allclose(model.predict(X), model.predict(torch.from_numpy(X)))


def test_images_without_a_module_are_rows(digits):
    X, y = digits
    settings = {"hidden_layer_sizes": (20,), "max_epochs": 2, "random_state": 0}
    images = LadderClassifier(**settings).fit(X, y)
    rows = LadderClassifier(**settings).fit(X.reshape(len(X), -1), y)
    np.testing.assert_array_equal(images.predict_proba(X), rows.predict_proba(X.reshape(len(X), -1)))


def test_partial_fit_goes_on(digits):
    X, y = digits
    model = LadderClassifier(**SETTINGS)
    for part in [*range(0, 1500, 300)] * 3:
        model.partial_fit(X[part : part + 300], y[part : part + 300], classes=np.arange(10))
    assert model.score(X[:300], y[:300]) > 0.8


def test_whitened_images(digits):
    X, y = digits
    model = LadderClassifier(**SETTINGS, input_scaling="whitened").fit(X, y)
    assert model.score(X[:300], y[:300]) > 0.85
    np.testing.assert_allclose(model.predict_proba(3 * X), model.predict_proba(X), atol=1e-4)
    assert model.denoise(X[:3]).shape == (3, 1, 8, 8)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"module": "conv"}, TypeError, "module must be a torch module or make one, got str"),
        ({"module": lambda shape, outputs: None}, TypeError, "must make a torch module, but made NoneType"),
        ({"module": lambda shape, outputs: small(shape, 7)}, ValueError, "gives 7 outputs, but 10 are needed"),
        ({"input_shape": 64}, ValueError, "input_shape must be positive whole numbers"),
        ({"input_shape": (1, -8, 8)}, ValueError, "input_shape must be positive whole numbers"),
        ({"input_shape": (1, 8.0, 8)}, ValueError, "input_shape must be positive whole numbers"),
        ({"input_shape": (1, 8, 8), "module": None}, ValueError, "the shape of a row for a module, and there is none"),
        ({"rungs": ("2", "5")}, ValueError, "names '5', which the encoder has not"),
    ],
)  # fmt: skip
def test_bad_modules_are_refused(digits, settings, error, message):
    with pytest.raises(error, match=message):
        LadderClassifier(**SETTINGS | settings).fit(*digits)


class TestRuns:
    def test_a_network_of_the_librarys_comes_back_by_its_name(self, digits, tmp_path):
        X, y = digits
        for scaling in ("auto", "whitened"):
            model = LadderClassifier(module=conv_small, variant="gamma", input_scaling=scaling, max_epochs=1,
                                     batch_size=50, random_state=0).fit(X[:400], y[:400])  # fmt: skip
            save_run(tmp_path / scaling, model, training={}, metrics={})
            loaded = load_run(tmp_path / scaling).model
            np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
            assert loaded.module is conv_small
            np.testing.assert_array_equal(loaded.transform(X[:3]), model.transform(X[:3]))
            assert len(loaded.get_feature_names_out()) == 10

    def test_of_the_callers_own_only_the_weights_are_kept(self, digits, fitted, tmp_path):
        X, _ = digits
        save_run(tmp_path / "run", fitted, training={}, metrics={})
        with pytest.raises(RunError, match="trained with a module of its own, small: give it as module="):
            load_run(tmp_path / "run")
        loaded = load_run(tmp_path / "run", module=small).model
        np.testing.assert_array_equal(loaded.predict_proba(X), fitted.predict_proba(X))
        with pytest.raises(RunError, match="not a usable run"):
            load_run(tmp_path / "run", module=conv_small)

    def test_a_module_that_is_not_needed_is_refused(self, digits, tmp_path):
        X, y = digits
        for name, module in (("none", None), ("library's", conv_small)):
            settings = {"variant": "gamma", "max_epochs": 1, "batch_size": 50}
            save_run(tmp_path / name, LadderClassifier(module=module, **settings).fit(X[:400], y[:400]), training={},
                     metrics={})  # fmt: skip
            with pytest.raises(RunError, match="it needs no module"):
                load_run(tmp_path / name, module=small)
