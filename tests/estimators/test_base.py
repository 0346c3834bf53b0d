import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from laddernet import LadderClassifier, LadderRegressor, TrainingError
from laddernet.data.labels import SparseLabels
from laddernet.loop import Callback
from samples import DIGITS_X, DIGITS_Y, IRIS_X, IRIS_Y, few, small

# scikit-learn's own checks.

CHECKED = [
    LadderClassifier(hidden_layer_sizes=(20,), max_epochs=25, batch_size=20, learning_rate=0.05, random_state=0),
    LadderRegressor(hidden_layer_sizes=(20,), max_epochs=25, batch_size=25, learning_rate=0.02, random_state=0),
]
WEIGHTS = "a weight multiplies a row's cost; a row twice is twice in the batches too, as for any network in batches"
FAILING = {
    "check_sample_weight_equivalence_on_dense_data": WEIGHTS,
    "check_sample_weight_equivalence_on_sparse_data": WEIGHTS,
}
OF_CLASSIFIERS = {"check_classifiers_classes": "trains with -1 as a class; here -1 marks a row without a label"}


@parametrize_with_checks(
    CHECKED,
    expected_failed_checks=lambda estimator: (
        FAILING | (OF_CLASSIFIERS if isinstance(estimator, LadderClassifier) else {})
    ),
    xfail_strict=True,
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


# What fit leaves behind.


def test_history_and_attributes():
    model = small(max_epochs=6).fit(pd.DataFrame(IRIS_X, columns=list("abcd")), few(IRIS_Y))
    assert model.n_iter_ == len(model.history_) == 6
    assert model.n_features_in_ == 4
    assert model.feature_names_in_.tolist() == list("abcd")
    record = model.history_[-1]
    keys = {"epoch", "seconds", "learning_rate", "cost", "supervised_cost", "denoising_costs"}
    assert set(record) == keys
    rates = [record["learning_rate"] for record in model.history_]
    assert rates[:4] == [0.01] * 4
    assert 0.01 > rates[4] > rates[5] > 0
    assert len(record["denoising_costs"]) == 3


def test_transform_is_the_last_hidden_layer():
    model = small(hidden_layer_sizes=(30, 7)).fit(IRIS_X, few(IRIS_Y))
    hidden = model.transform(IRIS_X)
    assert hidden.shape == (150, 7)
    assert (hidden >= 0).all()
    assert model.get_feature_names_out().tolist() == [f"ladderclassifier{i}" for i in range(7)]
    logits = model.ladder_.double().network[-1](torch.from_numpy(hidden))
    np.testing.assert_allclose(torch.softmax(logits, 1).detach(), model.predict_proba(IRIS_X), rtol=1e-9)


def test_denoise_gives_back_the_inputs_units():
    X = DIGITS_X[:600] * 10 + 5
    model = small(max_epochs=30, hidden_layer_sizes=(100,)).fit(X, few(DIGITS_Y[:600]))
    noisy = X + np.random.default_rng(0).normal(size=X.shape) * 40
    cleaned = model.denoise(noisy)
    assert cleaned.shape == X.shape
    assert np.mean((cleaned - X) ** 2) < 0.3 * np.mean((noisy - X) ** 2)


def test_the_random_state_fixes_the_result_and_global_state_is_untouched():
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, second, other = (small(max_epochs=3, random_state=s).fit(IRIS_X, few(IRIS_Y)) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), states[0])
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    np.testing.assert_array_equal(first.predict_proba(IRIS_X), second.predict_proba(IRIS_X))
    assert (first.predict_proba(IRIS_X) != other.predict_proba(IRIS_X)).any()


def test_pickling_keeps_the_answers():
    model = small(max_epochs=2).fit(IRIS_X, few(IRIS_Y))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(IRIS_X), model.predict_proba(IRIS_X))


# Validation.


def test_validation_rows_are_measured_after_each_epoch():
    model = small(validation_fraction=0.25, max_epochs=15).fit(IRIS_X, few(IRIS_Y))
    errors = [record["validation_error"] for record in model.history_]
    assert len(errors) == 15
    assert all(error * 6 == pytest.approx(round(error * 6)) for error in errors)  # 6 of 24 labelled rows


def test_early_stopping_stops():
    model = small(early_stopping=True, validation_fraction=0.5, max_epochs=400).fit(IRIS_X, few(IRIS_Y, 20))
    assert model.n_iter_ < 400
    errors = [record["validation_error"] for record in model.history_]
    costs = [record["validation_denoising_cost"] for record in model.history_]
    assert min(errors[-10:]) >= min(errors[:-10])
    assert min(costs[-10:]) >= min(costs[:-10]) * 0.99
    answers = model.predict(IRIS_X) != IRIS_Y
    assert answers.mean() < 0.2


def test_early_stopping_does_not_end_while_the_ladder_still_learns():
    """Three labels a class, one of each held out: the error has few values, and stays where it is for long."""
    settings = {"validation_fraction": 0.34, "max_epochs": 100, "batch_size": 100}
    model = small(early_stopping=True, **settings).fit(DIGITS_X, few(DIGITS_Y, 3))
    errors = [record["validation_error"] for record in model.history_]
    waited = model.n_iter_ - 1 - errors.index(min(errors))
    assert waited > 10
    assert model.score(DIGITS_X, DIGITS_Y) > 0.75


def test_early_stopping_holds_out_unlabelled_rows_too_and_the_baseline_has_no_denoising_cost():
    held_out = small(early_stopping=True, validation_fraction=0.2)._hold_out(SparseLabels.of(few(DIGITS_Y)), seed=0)
    assert len(np.unique(held_out)) == len(held_out)
    assert np.sum(few(DIGITS_Y)[held_out] >= 0) == 16
    assert len(held_out) == 16 + int(0.2 * (len(DIGITS_Y) - 80))
    model = small(variant="baseline", early_stopping=True, validation_fraction=0.2, max_epochs=3)
    assert "validation_denoising_cost" not in model.fit(IRIS_X, few(IRIS_Y)).history_[0]


# Going on with what there is.


class Interrupt(Callback):
    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch_end(self, record):
        if record["epoch"] == self.epoch:
            raise KeyboardInterrupt


def test_an_interrupted_fit_keeps_what_it_has_with_a_warning():
    model = small(max_epochs=60)
    with pytest.warns(UserWarning, match="interrupted after 30 of 60 epochs; the model keeps what it has learned"):
        model.fit(IRIS_X, few(IRIS_Y), callback=Interrupt(30))
    assert model.interrupted_
    assert model.n_iter_ == len(model.history_) == 30
    assert model.score(IRIS_X, IRIS_Y) > 0.8
    assert not model.fit(IRIS_X, few(IRIS_Y)).interrupted_


class Fail(Callback):
    def on_epoch_end(self, record):
        raise RuntimeError("no space left")


@pytest.mark.parametrize("warm_start", [False, True])
def test_a_failed_fit_leaves_the_model_as_it_was(warm_start):
    model = small(max_epochs=5, warm_start=warm_start)
    with pytest.raises(RuntimeError, match="no space"):
        model.fit(IRIS_X, few(IRIS_Y), callback=Fail())
    assert not hasattr(model, "ladder_")
    before = model.fit(IRIS_X, few(IRIS_Y)).predict_proba(IRIS_X)
    for X, y in [
        (IRIS_X, few(IRIS_Y)),
        (DIGITS_X, few(DIGITS_Y)),
        (IRIS_X, few(np.array(list("xyz"))[IRIS_Y], 8, None, object)),
    ]:
        with pytest.raises((RuntimeError, ValueError)):
            model.fit(X, y, callback=Fail())
        np.testing.assert_array_equal(model.predict_proba(IRIS_X), before)
        assert model.n_iter_ == 5
        assert model.classes_.tolist() == [0, 1, 2]


def test_warm_start_goes_on_from_the_fitted_network():
    cold = small(max_epochs=20).fit(IRIS_X, few(IRIS_Y))
    warm = small(max_epochs=20, warm_start=True).fit(IRIS_X, few(IRIS_Y))
    np.testing.assert_array_equal(warm.predict_proba(IRIS_X), cold.predict_proba(IRIS_X))
    center = warm.scaling_.center
    warm.fit(IRIS_X[:140] + 0.01, few(IRIS_Y[:140]))
    assert warm.history_[0]["cost"] < 0.8 * cold.history_[0]["cost"]
    assert warm.scaling_.center is center
    assert warm.n_iter_ == 20
    with pytest.raises(ValueError, match="warm_start goes on with the fitted network, and that has other widths"):
        warm.set_params(hidden_layer_sizes=(7,)).fit(IRIS_X, few(IRIS_Y))
    warm.set_params(hidden_layer_sizes=(30,))
    with pytest.raises(ValueError, match="classes that the model was not made for: 3; it knows 0, 1, 2"):
        warm.fit(IRIS_X, few(IRIS_Y + 1))
    with pytest.raises(ValueError, match="4 features as input"):
        warm.fit(IRIS_X[:, :3], few(IRIS_Y))


def test_partial_fit_learns_from_new_unlabelled_rows():
    """Two labels a class to start with; then rows without labels, a part at a time, make it better."""
    order = np.random.default_rng(0).permutation(len(DIGITS_X))
    X, y = DIGITS_X[order], DIGITS_Y[order]
    first, rest, test = np.split(np.arange(len(X)), [150, 1300])
    model = small(max_epochs=60, hidden_layer_sizes=(100,), batch_size=50).fit(X[first], few(y[first], 2))
    before, epochs = model.score(X[test], y[test]), model.n_iter_
    for _ in range(8):
        for part in np.array_split(rest, 5):
            model.partial_fit(X[part])
    assert model.score(X[test], y[test]) > before + 0.02
    assert model.n_iter_ == epochs + 40
    assert [record["epoch"] for record in model.history_] == list(range(1, epochs + 41))
    assert model.history_[-1]["learning_rate"] == 0.01


def test_partial_fit_from_the_start_with_labels_that_come_later():
    """The first part has two of three classes; the third is named, and labelled in the second part."""
    order = np.random.default_rng(0).permutation(150)
    X, y = IRIS_X[order], IRIS_Y[order]
    labels = np.where(np.arange(150) < 60, y, -1)
    early, late = np.where(labels == 2, -1, labels)[:75], labels[:75]
    model = small(LadderClassifier, learning_rate=0.02).partial_fit(X[:75], early, classes=[0, 1, 2])
    for _ in range(30):
        model.partial_fit(X[75:]).partial_fit(X[:75], late)
    assert model.score(X, y) > 0.85
    assert len(model._past.labeled.y) == 60


def test_partial_fit_remembers_rows_that_are_alike():
    X = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])[np.arange(40) % 4]
    y = (np.arange(40) % 5 == 0).astype(int)
    model = small(max_epochs=2).fit(X, y)
    model.partial_fit(X[:7] + 5)
    assert (len(model._past.labeled.y), model._past.labeled.y.sum()) == (40, 8)
    model.partial_fit(X[:4], [1, 1, 1, 1])  # all that were known before have new labels
    assert model._past.labeled.y.tolist() == [1] * 4


def test_warm_start_keeps_the_weights_of_columns():
    model = small(max_epochs=2, column_weights=[1, 1, 0.5, 1], warm_start=True).fit(IRIS_X, IRIS_Y)
    model.fit(IRIS_X, IRIS_Y)
    with pytest.raises(ValueError, match="other column_weights"):
        model.set_params(column_weights=[1, 1, 1, 1]).fit(IRIS_X, IRIS_Y)


def test_partial_fit_with_one_row_and_with_a_label_that_changes():
    model = small(max_epochs=3).fit(IRIS_X, few(IRIS_Y))
    before = model.predict_proba(IRIS_X)
    model.partial_fit(IRIS_X[:1])
    assert (model.predict_proba(IRIS_X) != before).any()
    assert len(model._past.labeled.y) == 24
    model.partial_fit(IRIS_X[:1], [2])
    assert len(model._past.labeled.y) == 24
    assert model._past.labeled.y[0] == 2
    clone_of = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(
        clone_of.partial_fit(IRIS_X[:9]).predict_proba(IRIS_X), model.partial_fit(IRIS_X[:9]).predict_proba(IRIS_X)
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.partial_fit(IRIS_X[:, :2]), "4 features as input"),
        (lambda m: m.partial_fit(IRIS_X[:3], [0, 1, 7]), "classes that the model was not made for: 7"),
        (lambda m: m.partial_fit(IRIS_X[:3], [0, 1]), "inconsistent numbers"),
        (lambda m: clone(m).partial_fit(IRIS_X[:30]), "no row has a label"),
        (lambda m: clone(m).partial_fit(IRIS_X[:30], IRIS_Y[:30]), "one class only"),
        (lambda m: clone(m).partial_fit(IRIS_X, few(IRIS_Y), classes=[0, 1]), "not made for: 2; it knows 0, 1"),
    ],
)
def test_partial_fit_refuses_what_does_not_fit_and_stays_as_it_was(call, message):
    model = small(max_epochs=2).fit(IRIS_X, few(IRIS_Y))
    before = model.predict_proba(IRIS_X)
    with pytest.raises(ValueError, match=message):
        call(model)
    np.testing.assert_array_equal(model.predict_proba(IRIS_X), before)
    assert model.n_iter_ == 2


def test_a_part_that_breaks_the_training_is_undone():
    model = small(max_epochs=2).fit(IRIS_X, few(IRIS_Y)).partial_fit(IRIS_X)
    before, iterations = model.predict_proba(IRIS_X), model.n_iter_
    model.set_params(learning_rate=1e38)

    def go_on_until_it_breaks():
        nonlocal before, iterations
        for _ in range(5):
            model.partial_fit(IRIS_X)
            before, iterations = model.predict_proba(IRIS_X), model.n_iter_

    with pytest.raises(TrainingError, match="the cost became nan"):
        go_on_until_it_breaks()
    np.testing.assert_array_equal(model.predict_proba(IRIS_X), before)
    assert model.n_iter_ == iterations


class Epochs(Callback):
    def __init__(self):
        self.seen = []

    def on_epoch_end(self, record):
        self.seen.append(record["epoch"])


def test_a_callback_watches_and_verbose_writes_to_standard_error(capsys):
    epochs = Epochs()
    small(max_epochs=3).fit(IRIS_X, few(IRIS_Y), callback=epochs)
    assert epochs.seen == [1, 2, 3]
    assert capsys.readouterr() == ("", "")
    small(max_epochs=3, verbose=True).fit(IRIS_X, few(IRIS_Y))
    out, err = capsys.readouterr()
    assert out == ""
    assert "epoch 3/3, cost" in err
