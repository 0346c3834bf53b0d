import numpy as np
import pytest

from laddernet import LadderRegressor
from samples import DIABETES_X, DIABETES_Y, small


def test_partial_fit_of_a_regression():
    y = np.where(np.arange(442) % 2 == 0, DIABETES_Y, np.nan)
    model = small(LadderRegressor, learning_rate=0.003).partial_fit(DIABETES_X, y)
    mean, first = model.y_mean_, model.score(DIABETES_X[1::2], DIABETES_Y[1::2])
    for _ in range(6):
        model.partial_fit(DIABETES_X, y).partial_fit(DIABETES_X)
    assert model.y_mean_ == mean
    assert model.score(DIABETES_X[1::2], DIABETES_Y[1::2]) > max(first + 0.1, 0.3)


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


def test_values_far_from_zero_keep_what_varies_of_them():
    x, far = DIABETES_X.astype(np.float32), 1.7e9  # seconds: float32 steps there by 128
    y = np.where(np.arange(442) < 100, DIABETES_Y, np.nan)
    near = small(LadderRegressor, max_epochs=3).fit(x, y).predict(x)
    answers = small(LadderRegressor, max_epochs=3).fit(x, y + far).predict(x)
    assert near.dtype == answers.dtype == np.float64
    np.testing.assert_allclose(answers - far, near, rtol=0, atol=0.01)


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
