import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import coo_array, csc_array, csr_array, csr_matrix
from sklearn.base import clone

from laddernet import LadderClassifier, LadderRegressor
from samples import DIGITS_X, DIGITS_Y, IRIS_X, IRIS_Y, few, small

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
