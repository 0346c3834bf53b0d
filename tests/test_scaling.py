import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from laddernet.scaling import PIXELS, Scaling

DIGITS = load_digits().data
MIXED = np.random.default_rng(0).normal(size=(500, 4)) * np.array([1e-6, 1.0, 1e3, 1e6]) + np.array([0, 5, 0, -1e6])


@pytest.mark.parametrize("X", [DIGITS, MIXED], ids=["digits", "mixed"])
def test_columns_are_standardised_one_by_one_or_all_together(X):
    varying = X.std(axis=0) > 0
    by_column, pooled = (Scaling.fit(X, method) for method in ("columns", "pooled"))
    one_by_one, together = by_column.apply(X, np.float64), pooled.apply(X, np.float64)
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
    assert Scaling.fit(DIGITS, "columns").weigh((1000, 10, 0.1)) == (pytest.approx(67.6), 10, 0.1)


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


def test_large_arrays_are_measured_in_parts_and_whole():
    X = np.random.default_rng(0).normal(size=(10_000, 3)).astype(np.float32) + 100
    scaling = Scaling.fit(X, "columns")
    np.testing.assert_allclose(scaling.center, X.mean(axis=0, dtype=np.float64), rtol=1e-9)
    np.testing.assert_allclose(scaling.scale, X.std(axis=0, dtype=np.float64), rtol=1e-6)


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="input_scaling must be one of auto, pooled, columns, none, got 'minmax'"):
        Scaling.fit(MIXED, "minmax")
