import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import coo_array, csc_array, csr_array, csr_matrix
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits, load_iris
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from conftest import sections
from laddernet import LadderClassifier, LadderRegressor, TrainingError
from laddernet.data.labels import SparseLabels
from laddernet.loop import Callback

IRIS_X, IRIS_Y = load_iris(return_X_y=True)
DIGITS_X, DIGITS_Y = load_digits(return_X_y=True)
DIABETES_X, DIABETES_Y = load_diabetes(return_X_y=True)


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


# Columns.


def test_columns_count_by_their_weight():
    weight = [1.0, 1.0, 0.3, 1.0]
    model = clone(small(column_weights=weight)).fit(IRIS_X, IRIS_Y)
    np.testing.assert_array_equal(model.scaling_.weight, weight)
    x = model.scaling_.apply(IRIS_X, np.float64)
    np.testing.assert_allclose(x.std(axis=0), weight, rtol=0.02)
    np.testing.assert_allclose(
        model.ladder_.predict(torch.from_numpy(x).float()), model.predict_proba(IRIS_X), atol=1e-5
    )
    np.testing.assert_allclose(model.denoise(IRIS_X).std(axis=0), IRIS_X.std(axis=0), rtol=0.5)
    first = small(column_weights=weight).partial_fit(IRIS_X, IRIS_Y)
    np.testing.assert_array_equal(first.scaling_.weight, weight)


def test_there_is_a_weight_for_each_column():
    with pytest.raises(ValueError, match="one finite number greater than 0 for each of the 4 columns"):
        small(column_weights=[1.0, 1.0]).fit(IRIS_X, IRIS_Y)


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


# Rows of all kinds.


@pytest.mark.parametrize("as_sparse", [csr_array, csr_matrix, csc_array, coo_array])
def test_sparse_rows_are_learned_from_as_dense_ones(as_sparse):
    X = DIGITS_X[:300]
    dense, sparse = (small(max_epochs=3).fit(rows, few(DIGITS_Y[:300])) for rows in (X, as_sparse(X)))
    np.testing.assert_array_equal(sparse.predict_proba(as_sparse(X)), dense.predict_proba(X))
    assert isinstance(sparse.transform(as_sparse(X)), np.ndarray)


def test_columns_of_all_scales_constant_ones_and_heavy_tails():
    """Each informative column is as good as in its plain form, whatever stands beside it."""
    rng = np.random.default_rng(0)
    X = np.column_stack(
        [
            IRIS_X * np.array([1e-6, 1e6, 1.0, 1e3]),
            np.full(150, 7.0),
            rng.standard_t(df=1, size=150) * 1e5,
            np.where(np.arange(150) == 90, 1e15, 0.0),
        ]
    )
    X[60, 1] = 1e12  # a broken measurement in a column that matters
    model = small(hidden_layer_sizes=(100, 100), max_epochs=200).fit(X, few(IRIS_Y))
    assert np.mean(model.predict(X) == IRIS_Y) > 0.9
    extreme = np.full((1, X.shape[1]), 1e300)
    assert np.isfinite(model.predict_proba(extreme)).all()
    assert np.isfinite(model.denoise(X)).all()


@pytest.mark.parametrize("rows", [2, 3, 20])
def test_fewer_rows_than_a_batch(rows):
    X = IRIS_X[[0, 60, *range(1, rows - 1)]]
    y = np.array([0, 1] + [-1] * (rows - 2))
    probabilities = small(batch_size=100, max_epochs=3).fit(X, y).predict_proba(X)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


@pytest.mark.parametrize("kind", [LadderClassifier, LadderRegressor])
def test_one_row_is_refused(kind):
    with pytest.raises(ValueError, match=r"1 sample.* a minimum of 2 is required"):
        small(kind).fit(IRIS_X[:1], IRIS_Y[:1])


def test_text_columns_are_named():
    X = pd.DataFrame({"size": [1.0, 2.0, 3.0], "colour": ["red", "blue", "red"], "kind": pd.Categorical(list("aba"))})
    message = "columns that do not hold numbers: colour, kind.*TableVectorizer"
    with pytest.raises(ValueError, match=message):
        small().fit(X, [0, 1, -1])
    model = small(max_epochs=1).fit(X[["size"]].assign(b=[True, False, True], c=[1, 2, 3]), [0, 1, -1])
    with pytest.raises(ValueError, match="columns that do not hold numbers: b"):
        model.predict(X[["size"]].assign(b=["yes", "no", "yes"], c=1))


# Weights of rows and classes.


def imbalanced(seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(600, 2))
    truth = (rng.uniform(size=600) < 0.1).astype(int)
    X[:, 0] += 1.5 * truth
    y = np.full(600, -1)
    y[np.flatnonzero(truth == 0)[:90]], y[np.flatnonzero(truth == 1)[:10]] = 0, 1
    return X, y, truth


def test_balanced_classes_find_the_rare_class():
    X, y, truth = imbalanced()
    plain, balanced, by_hand = (
        small(class_weight=weight, max_epochs=20).fit(X, y)
        for weight in (None, "balanced", {0: 100 / 180, 1: 100 / 20})
    )
    recall = [np.mean(model.predict(X)[truth == 1] == 1) for model in (plain, balanced)]
    assert recall[1] > recall[0] + 0.2
    np.testing.assert_array_equal(by_hand.predict_proba(X), balanced.predict_proba(X))


def test_sample_weights_are_relative_and_reach_the_cost():
    X, y, _ = imbalanced()
    weight = np.where(y == 1, 9.0, 1.0)
    balanced = small(class_weight="balanced", max_epochs=5).fit(X, y).predict_proba(X)
    weighted = small(max_epochs=5).fit(X, y, sample_weight=weight).predict_proba(X)
    np.testing.assert_allclose(weighted, balanced, rtol=1e-5)
    scaled = small(max_epochs=5).fit(X, y, np.where(y < 0, 1e9, weight * 32)).predict_proba(X)
    np.testing.assert_array_equal(scaled, weighted)
    regression = small(LadderRegressor, max_epochs=5)
    target = np.where(y < 0, np.nan, y)
    assert (regression.fit(X, target).predict(X) != regression.fit(X, target, weight).predict(X)).any()


def test_bad_weights_are_refused():
    X, y, _ = imbalanced()
    with pytest.raises(ValueError, match="weights of all labelled rows are zero"):
        small().fit(X, y, np.where(y < 0, 1.0, 0.0))
    with pytest.raises(ValueError, match="[Nn]egative values"):
        small().fit(X, y, np.full(600, -1.0))
    with pytest.raises(ValueError, match=r"class_weight"):
        small(class_weight="even").fit(X, y)


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


@pytest.mark.parametrize(("columns", "width"), [(1, 100), (50, 100), (51, 250)])
def test_widths_are_chosen_by_the_columns_unless_told(columns, width):
    X = np.random.default_rng(0).normal(size=(40, columns))
    model = LadderClassifier(max_epochs=1).fit(X, np.arange(40) % 2)
    assert [section.rung.shape[0] for section in sections(model.ladder_)] == [width, width, 2]
    assert model.transform(X).shape == (40, width)


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
    assert sections(model.ladder_)[0].map.weight.dtype == (torch.float64 if precision == "float64" else torch.float32)
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


def test_partial_fit_of_a_regression():
    y = np.where(np.arange(442) % 2 == 0, DIABETES_Y, np.nan)
    model = small(LadderRegressor, learning_rate=0.003).partial_fit(DIABETES_X, y)
    mean, first = model.y_mean_, model.score(DIABETES_X[1::2], DIABETES_Y[1::2])
    for _ in range(6):
        model.partial_fit(DIABETES_X, y).partial_fit(DIABETES_X)
    assert model.y_mean_ == mean
    assert model.score(DIABETES_X[1::2], DIABETES_Y[1::2]) > max(first + 0.1, 0.3)


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
        (np.full(442, np.nan), "no row has a label .*; 2 or more are needed"),
        (np.array(["a"] * 442), "y must hold numbers"),
        (np.where(np.arange(442) == 3, np.inf, 1.0), "contains infinity"),
    ],
    ids=["none", "strings", "infinite"],
)
def test_bad_targets_are_refused(y, message):
    with pytest.raises(ValueError, match=message):
        small(LadderRegressor).fit(DIABETES_X, y)


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
