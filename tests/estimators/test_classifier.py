import numpy as np
import pandas as pd
import pytest

from laddernet import LadderRegressor
from samples import IRIS_X, IRIS_Y, few, small


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


def test_probabilities_sum_to_one_and_agree_with_the_classes():
    model = small().fit(IRIS_X, few(IRIS_Y))
    probabilities = model.predict_proba(IRIS_X)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_array_equal(model.classes_[probabilities.argmax(axis=1)], model.predict(IRIS_X))
