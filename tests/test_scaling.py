import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array
from sklearn.datasets import load_digits

from laddernet.scaling import PIXELS, Scaling

DIGITS = load_digits().data
MIXED = np.random.default_rng(0).normal(size=(500, 4)) * np.array([1e-6, 1.0, 1e3, 1e6]) + np.array([0, 5, 0, -1e6])


OFTEN_ON = DIGITS[:, (np.mean(DIGITS > 0, axis=0) > 0.3) | (DIGITS.std(axis=0) == 0)]


@pytest.mark.parametrize("X", [OFTEN_ON, MIXED], ids=["digits", "mixed"])
def test_columns_are_standardised_one_by_one_or_all_together(X):
    varying = X.std(axis=0) > 0
    by_column, pooled = (Scaling.fit(X, method) for method in ("columns", "pooled"))
    one_by_one, together = ((X - scaling.center) / scaling.scale for scaling in (by_column, pooled))
    np.testing.assert_allclose(one_by_one.mean(axis=0), 0, atol=1e-8)
    np.testing.assert_allclose(one_by_one[:, varying].std(axis=0), 1)
    np.testing.assert_allclose(together.mean(axis=0), 0, atol=1e-8)
    assert np.sqrt(together.var(axis=0).mean()) == pytest.approx(PIXELS)
    ratios = together[:, varying].std(axis=0) / X[:, varying].std(axis=0)
    np.testing.assert_allclose(ratios, ratios[0])
    assert (by_column.size, pooled.size) == (1.0, PIXELS)


def test_the_inputs_weight_is_in_the_same_units():
    assert Scaling.fit(DIGITS, "pooled").weigh((1000, 10, 0.1)) == (1000, 10, 0.1)
    assert Scaling.fit(DIGITS, "none").weigh((1000, 10, 0.1)) == (1000, 10, 0.1)
    assert Scaling.fit(DIGITS, "columns").weigh((1000, 10, 0.1)) == (pytest.approx(2 * 67.6), 20, 0.2)


def test_weights_multiply_what_is_scaled():
    weight = np.array([1.0, 0.5, 2.0, 0.1])
    for method in ("columns", "pooled", "none"):
        plain, weighted = Scaling.fit(MIXED, method), Scaling.fit(MIXED, method, weight)
        far = np.vstack([MIXED, MIXED.mean(axis=0) + 1e3 * MIXED.std(axis=0)])
        np.testing.assert_array_equal(weighted.apply(far, np.float64), plain.apply(far, np.float64) * weight)
        np.testing.assert_allclose(weighted.invert(weighted.apply(far, np.float64)), far, rtol=1e-9)
        assert (weighted.size, weighted.limit) == (plain.size, plain.limit)


def test_the_inputs_denoising_cost_counts_as_much_whatever_the_weights():
    """A cost that is the same share of each column's variance: its mean times the denoising weight."""
    weight = np.array([1.0, 0.5, 2.0, 0.1])
    plain, weighted = Scaling.fit(MIXED, "columns"), Scaling.fit(MIXED, "columns", weight)
    costs = [
        scaling.weigh((1000, 10))[0] * scaling.apply(MIXED, np.float64).var(axis=0).mean()
        for scaling in (plain, weighted)
    ]
    assert costs[1] == pytest.approx(costs[0], rel=0.05)
    assert weighted.weigh((1000, 10))[1] == plain.weigh((1000, 10))[1]


def test_columns_of_different_weights_are_not_taken_for_pixels():
    weight = np.ones(DIGITS.shape[1])
    np.testing.assert_array_equal(Scaling.fit(DIGITS, "auto", weight).scale, Scaling.fit(DIGITS, "pooled").scale)
    weight[:2] = 0.5
    np.testing.assert_array_equal(Scaling.fit(DIGITS, "auto", weight).scale, Scaling.fit(DIGITS, "columns").scale)


@pytest.mark.parametrize("weight", [[1.0, 1.0], [1, 1, 1, 0], [1, 1, 1, -1], [1, 1, 1, np.nan], [1, 1, 1, np.inf], 1.0])
def test_weights_are_one_positive_number_a_column(weight):
    with pytest.raises(ValueError, match="one finite number greater than 0 for each of the 4 columns"):
        Scaling.fit(MIXED, "auto", weight)


def test_auto_keeps_the_relation_of_pixels_and_evens_out_mixed_units():
    np.testing.assert_array_equal(Scaling.fit(DIGITS, "auto").scale, Scaling.fit(DIGITS, "pooled").scale)
    np.testing.assert_array_equal(Scaling.fit(MIXED, "auto").scale, Scaling.fit(MIXED, "columns").scale)
    wide = np.tile(MIXED, 10)
    np.testing.assert_array_equal(Scaling.fit(wide, "auto").scale, Scaling.fit(wide, "columns").scale)
    few = DIGITS[:, 20:24]
    np.testing.assert_array_equal(Scaling.fit(few, "auto").scale, Scaling.fit(few, "columns").scale)


def test_none_leaves_everything():
    np.testing.assert_array_equal(Scaling.fit(MIXED, "none").apply(MIXED, np.float64), MIXED)


@given(st.floats(1e-3, 1e3), st.floats(-1e3, 1e3), st.sampled_from(["auto", "pooled", "columns"]))
def test_units_do_not_matter(factor, offset, method):
    X = DIGITS[:200]
    expected = Scaling.fit(X, method).apply(X, np.float64)
    moved = X * factor + offset
    np.testing.assert_allclose(Scaling.fit(moved, method).apply(moved, np.float64), expected, atol=1e-6)


@pytest.mark.parametrize("method", ["auto", "pooled", "columns"])
@pytest.mark.parametrize("constant", [0.0, 3.0, 1e15])
def test_constant_columns_become_zero(method, constant):
    X = np.column_stack([np.full(10, constant), np.arange(10.0)])
    scaled = Scaling.fit(X, method).apply(X, np.float32)
    assert not scaled[:, 0].any()
    assert np.isfinite(scaled).all()
    assert scaled[:, 1].std() > 0
    other = Scaling.fit(X, method)
    assert not other.apply(X + 100, np.float32)[:, 0].any()  # what it holds later is ignored
    np.testing.assert_allclose(other.invert(other.apply(X, np.float64)), X, atol=1e-9)
    only_constant = Scaling.fit(X[:, :1], method).apply(X[:, :1], np.float32)
    assert not only_constant.any()


@given(st.integers(1, 3))
def test_invert_undoes_apply(seed):
    X = np.random.default_rng(seed).normal(size=(50, 4)) * 100
    scaling = Scaling.fit(X, "columns")
    np.testing.assert_allclose(scaling.invert(scaling.apply(X, np.float64)), X, atol=1e-9)
    assert scaling.invert(scaling.apply(X, np.float32)).dtype == np.float32


TAILED = np.random.default_rng(3).standard_t(df=1, size=(2000, 3))


@pytest.mark.parametrize("method", ["columns", "pooled"])
def test_heavy_tails_leave_the_bulk_its_size_and_come_back(method):
    X = TAILED.copy()
    X[7, 0], X[8, 1] = 1e12, -1e9
    scaling = Scaling.fit(X, method)
    scaled = scaling.apply(X, np.float64)
    middle = np.diff(np.quantile(scaled, [0.25, 0.75], axis=0), axis=0)
    assert (middle > 0.3 * scaling.size).all()
    assert np.abs(scaled).max() < 150 * scaling.size
    assert (np.argsort(scaled, axis=0) == np.argsort(X, axis=0)).all()  # nothing is clipped, order stays
    np.testing.assert_allclose(scaling.invert(scaled), X, rtol=1e-9, atol=1e-9)


def test_ordinary_values_are_scaled_linearly():
    X = np.random.default_rng(0).normal(size=(4000, 3)) + 10
    scaling = Scaling.fit(X, "columns")
    np.testing.assert_array_equal(scaling.apply(X, np.float64), (X - scaling.center) / scaling.scale)
    np.testing.assert_allclose(scaling.center, X.mean(axis=0))
    np.testing.assert_allclose(scaling.scale, X.std(axis=0))
    digits = Scaling.fit(DIGITS, "pooled")
    np.testing.assert_array_equal(digits.apply(DIGITS, np.float64), (DIGITS - digits.center) / digits.scale)
    np.testing.assert_allclose(digits.center, DIGITS.mean(axis=0))  # also of pixels that are hardly ever on


@given(st.floats(-1e30, 1e30), st.floats(-1e30, 1e30))
def test_scaling_keeps_the_order_and_comes_back(a, b):
    scaling = Scaling.fit(MIXED[:, 1:2], "columns")
    scaled = scaling.apply(np.array([[a], [b]]), np.float64)
    assert (scaled[0] <= scaled[1]) == (a <= b) or scaled[0] == pytest.approx(scaled[1])
    np.testing.assert_allclose(scaling.invert(scaled), [[a], [b]], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", ["auto", "pooled", "columns", "none"])
def test_sparse_rows_are_scaled_as_dense_ones(method):
    sparse = csr_array(DIGITS)
    dense, same = Scaling.fit(DIGITS, method), Scaling.fit(sparse, method)
    np.testing.assert_array_equal(same.apply(sparse, np.float32), dense.apply(DIGITS, np.float32))


def test_large_arrays_are_measured_in_parts_and_whole():
    X = np.random.default_rng(0).normal(size=(10_000, 3)).astype(np.float32) + 100
    scaling = Scaling.fit(X, "columns")
    np.testing.assert_allclose(scaling.center, X.mean(axis=0, dtype=np.float64), rtol=1e-9)
    np.testing.assert_allclose(scaling.scale, X.std(axis=0, dtype=np.float64), rtol=1e-6)


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="one of auto, pooled, columns, none, whitened, got 'minmax'"):
        Scaling.fit(MIXED, "minmax")


def test_rows_that_nothing_changes_are_not_copied():
    x = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
    scaling = Scaling.fit(x, "none")
    assert scaling.apply(x, np.float32) is x
    locked = x.copy()
    locked.flags.writeable = False
    for other, dtype in ((x, np.float64), (locked, np.float32), (x.astype(np.float64), np.float32)):
        scaled = scaling.apply(other, dtype)
        assert scaled is not other
        assert scaled.flags.writeable
        np.testing.assert_array_equal(scaled, other.astype(dtype))
    assert Scaling.fit(x, "none", [1, 2, 1]).apply(x, np.float32) is not x
