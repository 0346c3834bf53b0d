import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits, load_iris
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from laddernet import LadderClassifier, LadderRegressor
from laddernet.training import Callback

IRIS_X, IRIS_Y = load_iris(return_X_y=True)
DIGITS_X, DIGITS_Y = load_digits(return_X_y=True)


def small(kind=LadderClassifier, **settings):
    return kind(
        **{
            "hidden_layer_sizes": (30,),
            "max_epochs": 60,
            "batch_size": 30,
            "learning_rate": 0.01,
            "random_state": 0,
            **settings,
        }
    )


def few(y, per_class=8, mark=-1, dtype=None):
    """Keep the first labels of each class."""
    hidden = np.array(y, dtype=dtype)
    for label in np.unique(y):
        hidden[np.flatnonzero(y == label)[per_class:]] = mark
    return hidden


# scikit-learn's own checks.

CHECKED = [
    LadderClassifier(hidden_layer_sizes=(20,), max_epochs=30, batch_size=30, learning_rate=0.01, random_state=0),
    LadderRegressor(hidden_layer_sizes=(20,), max_epochs=40, batch_size=25, learning_rate=0.02, random_state=0),
]


@parametrize_with_checks(
    CHECKED,
    expected_failed_checks=lambda estimator: (
        {"check_classifiers_classes": "trains with -1 as a class; here -1 marks a row without a label"}
        if isinstance(estimator, LadderClassifier)
        else {}
    ),
    xfail_strict=True,
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


# Labels.


@pytest.mark.parametrize("mark", [-1, None, np.nan], ids=str)
@pytest.mark.parametrize(
    "names", [np.array([0, 1, 2]), np.array(["setosa", "versicolor", "virginica"])], ids=["int", "str"]
)
def test_what_marks_an_unlabelled_row(mark, names):
    if isinstance(mark, int) and names.dtype.kind == "i":
        y = few(names[IRIS_Y], mark=mark)
    else:
        y = few(names[IRIS_Y], mark=mark, dtype=object)
    model = small().fit(IRIS_X, y)
    assert model.classes_.tolist() == names.tolist()
    assert np.mean(model.predict(IRIS_X) == names[IRIS_Y]) > 0.85
    assert model.score(IRIS_X, y) > 0.85  # of the labelled rows alone


@pytest.mark.parametrize(
    "y",
    [
        pd.Series(few(IRIS_Y, mark=np.nan, dtype=float)),
        pd.Series(few(IRIS_Y)).replace(-1, pd.NA).astype("Int64"),
        pd.Series(few(np.array(list("abc"))[IRIS_Y], mark=None, dtype=object)),
        pd.Series(few(np.array(list("abc"))[IRIS_Y], mark=None, dtype=object)).astype("category"),
    ],
    ids=["float", "nullable", "object", "category"],
)
def test_labels_in_pandas_columns(y):
    model = small(max_epochs=2).fit(pd.DataFrame(IRIS_X), y)
    assert len(model.classes_) == 3
    assert np.isfinite(model.score(IRIS_X, y))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.full(150, -1), "no row has a label"),
        (np.where(np.arange(150) < 9, 4, -1), "one class only, .*4.*at least two classes"),
        (few(np.array(["a", "b", "c"])[IRIS_Y], mark="-1", dtype="U2"), "array of strings in which '-1'.*dtype object"),
        (np.array(["a", 1, None] * 50, dtype=object), "cannot be sorted together"),
        (IRIS_Y[:100], "inconsistent numbers of samples"),
        (IRIS_X[:, 0] + 0.05, "continuous"),
        (None, "requires y to be passed"),
    ],
    ids=["none", "one-class", "strings", "mixed", "length", "continuous", "missing"],
)
def test_bad_labels_are_refused(y, message):
    with pytest.raises(ValueError, match=message):
        small().fit(IRIS_X, y)


def test_two_labels_are_enough_to_run():
    y = np.full(150, -1)
    y[0], y[60] = 0, 1
    assert small(max_epochs=2).fit(IRIS_X, y).predict_proba(IRIS_X).shape == (150, 2)


# Scale.


def disagreement(X, other, **settings):
    y = few(DIGITS_Y, per_class=5)
    answers = [small(max_epochs=6, batch_size=100, **settings).fit(a, y).predict(a) for a in (X, other)]
    return np.mean(answers[0] != answers[1])


@pytest.mark.parametrize(
    "move", [lambda X: X * 1000, lambda X: X + 50, lambda X: X / 255 - 3], ids=["x1000", "+50", "both"]
)
def test_units_of_the_input_do_not_matter(move):
    assert disagreement(DIGITS_X, move(DIGITS_X)) <= 0.01


def test_units_of_single_columns_do_not_matter_for_mixed_columns():
    y, factors = few(IRIS_Y), np.array([1e-4, 1.0, 1e4, 1e8])
    answers = [small().fit(X, y).predict(X) for X in (IRIS_X * factors, IRIS_X * factors * 2.0 ** np.arange(4))]
    assert np.mean(answers[0] == answers[1]) >= 0.99


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


def test_probabilities_sum_to_one_and_agree_with_the_classes():
    model = small().fit(IRIS_X, few(IRIS_Y))
    probabilities = model.predict_proba(IRIS_X)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_array_equal(model.classes_[probabilities.argmax(axis=1)], model.predict(IRIS_X))


@pytest.mark.parametrize(
    ("rows", "batch_size", "epochs"), [(150, 30, 300), (150, 100, 1000), (150, 2, 20), (150, 150, 1000)]
)
def test_epochs_are_enough_for_some_steps_unless_told(rows, batch_size, epochs):
    assert small(max_epochs="auto", batch_size=batch_size)._training_config(rows).epochs == epochs
    assert small(max_epochs="auto", batch_size=2)._training_config(60_000).epochs == 10


def test_transform_is_the_last_hidden_layer():
    model = small(hidden_layer_sizes=(30, 7)).fit(IRIS_X, few(IRIS_Y))
    hidden = model.transform(IRIS_X)
    assert hidden.shape == (150, 7)
    assert (hidden >= 0).all()
    assert model.get_feature_names_out().tolist() == [f"ladderclassifier{i}" for i in range(7)]
    logits = model.ladder_.sections[-1].double().clean(torch.from_numpy(hidden))
    np.testing.assert_allclose(torch.softmax(logits, 1).detach(), model.predict_proba(IRIS_X), rtol=1e-9)


def test_denoise_gives_back_the_inputs_units():
    X = DIGITS_X[:600] * 10 + 5
    model = small(max_epochs=30, hidden_layer_sizes=(100,)).fit(X, few(DIGITS_Y[:600]))
    noisy = X + np.random.default_rng(0).normal(size=X.shape) * 40
    cleaned = model.denoise(noisy)
    assert cleaned.shape == X.shape
    assert np.mean((cleaned - X) ** 2) < 0.3 * np.mean((noisy - X) ** 2)


def test_a_row_alone_gets_the_answer_it_gets_among_others():
    model = small().fit(IRIS_X, few(IRIS_Y))
    for X, tolerance in [(IRIS_X, 1e-12), (IRIS_X.astype(np.float32), 1e-5)]:
        alone = np.concatenate([model.predict_proba(X[i : i + 1]) for i in range(5)])
        np.testing.assert_allclose(alone, model.predict_proba(X)[:5], atol=tolerance)


def test_float32_input_gives_float32_answers():
    model = small(max_epochs=2).fit(IRIS_X.astype(np.float32), few(IRIS_Y))
    assert model.predict_proba(IRIS_X.astype(np.float32)).dtype == np.float32
    assert model.transform(IRIS_X).dtype == np.float64


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.float32, bool])
def test_other_number_types(dtype):
    X = (DIGITS_X > 8).astype(dtype) if dtype is bool else DIGITS_X.astype(dtype)
    model = small(max_epochs=3).fit(X, few(DIGITS_Y))
    assert np.mean(model.predict(X) == DIGITS_Y) > 0.4


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
    assert model.ladder_.sections[0].map.weight.dtype == (torch.float64 if precision == "float64" else torch.float32)
    assert model.score(IRIS_X, IRIS_Y) > 0.85


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
    assert min(errors[-10:]) >= min(errors[:-10])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"early_stopping": True}, "early_stopping needs rows to judge by"),
        ({"validation_fraction": 1.0}, r"validation_fraction must be in \[0, 1\)"),
        ({"validation_fraction": 0.05}, "24 labelled rows cannot be split"),
        ({"hidden_layer_sizes": (10, 0)}, "widths must be at least two positive"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"max_epochs": "many"}, "max_epochs must be 'auto' or a whole number, got 'many'"),
        ({"max_epochs": 2.5}, "max_epochs must be 'auto' or a whole number, got 2.5"),
        ({"hidden_layer_sizes": 8}, r"must be a sequence of widths, such as \(250, 250\), got 8"),
        ({"validation_fraction": 0.95}, "leaves too few of the 24 labelled rows|cannot be split"),
        ({"max_epochs": 0}, "epochs must be at least 1"),
        ({"denoising_weights": "heavy"}, "must be 'auto' or one number a layer"),
        ({"denoising_weights": (1, 2)}, "must have 3 entries"),
        ({"input_scaling": "yes"}, "input_scaling must be one of"),
        ({"device": "toaster"}, "device 'toaster' cannot be used here"),
        ({"precision": "half"}, "precision must be one of"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        small(**settings).fit(IRIS_X, few(IRIS_Y))


# With the rest of scikit-learn.


def test_pipeline_clone_and_grid_search():
    pipeline = make_pipeline(StandardScaler(), small(max_epochs=3))
    pipeline.fit(IRIS_X, few(IRIS_Y))
    assert clone(pipeline).fit(IRIS_X, few(IRIS_Y)).score(IRIS_X, IRIS_Y) == pipeline.score(IRIS_X, IRIS_Y)
    search = GridSearchCV(small(max_epochs=2), {"noise_std": [0.1, (0.3, 0.2, 0.1)]}, cv=2).fit(IRIS_X, IRIS_Y)
    assert search.best_score_ > 0.4
    assert cross_val_score(small(max_epochs=2), IRIS_X, IRIS_Y, cv=2).shape == (2,)


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


# Regression.

DIABETES_X, DIABETES_Y = load_diabetes(return_X_y=True)


def test_regression_learns_from_few_labels():
    y = DIABETES_Y.copy()
    y[::2] = np.nan
    model = small(LadderRegressor, max_epochs=30).fit(DIABETES_X, y)
    assert model.predict(DIABETES_X).shape == (442,)
    assert model.score(DIABETES_X[::2], DIABETES_Y[::2]) > 0.3
    assert model.score(DIABETES_X, y) > 0.3
    assert model.y_mean_ == pytest.approx(np.nanmean(y))
    assert model.y_scale_ == pytest.approx(np.nanstd(y))


def test_the_targets_units_do_not_matter():
    y = DIABETES_Y.copy()
    y[100:] = np.nan
    a = small(LadderRegressor, max_epochs=3).fit(DIABETES_X, y).predict(DIABETES_X)
    b = small(LadderRegressor, max_epochs=3).fit(DIABETES_X, 1000 * y + 7).predict(DIABETES_X)
    np.testing.assert_allclose(b, 1000 * a + 7, rtol=1e-3)


def test_regression_validation_error_is_in_the_targets_units():
    model = small(LadderRegressor, max_epochs=30, validation_fraction=0.2).fit(DIABETES_X, DIABETES_Y)
    assert 40 < model.history_[-1]["validation_error"] < DIABETES_Y.std() * 1.2


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.full(442, np.nan), "0 rows have a label; regression needs at least two"),
        (np.array(["a"] * 442), "y must hold numbers"),
        (np.where(np.arange(442) == 3, np.inf, 1.0), "contains infinity"),
    ],
    ids=["none", "strings", "infinite"],
)
def test_bad_targets_are_refused(y, message):
    with pytest.raises(ValueError, match=message):
        small(LadderRegressor).fit(DIABETES_X, y)
