import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from laddernet.normalization import EPSILON, Statistics, batch_normalize, normalize, per_feature

SHAPES = [(6, 3), (5, 3, 4), (4, 2, 3, 5)]


def axes(z):
    return tuple(d for d in range(z.dim()) if d != 1)


def random(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator) * 3 + 5


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_batch_normalize_is_the_formula(shape):
    z_pre = random(shape)
    z, mean, inverse_std = batch_normalize(z_pre)
    array = z_pre.numpy()
    keep = {"axis": axes(z_pre), "keepdims": True}
    expected = (array - array.mean(**keep)) / np.sqrt(array.var(**keep) + EPSILON)
    np.testing.assert_allclose(z.numpy(), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(mean.numpy(), array.mean(axis=axes(z_pre)), rtol=1e-12)
    np.testing.assert_allclose(inverse_std.numpy(), (array.var(axis=axes(z_pre)) + EPSILON) ** -0.5, rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("outputs", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
def test_gradients_flow_through_values_and_statistics(shape, outputs):
    z_pre = random(shape).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: [batch_normalize(z)[i] for i in outputs], z_pre)


def test_a_constant_feature_becomes_zero():
    z_pre = torch.tensor([[1.0, 2.0], [1.0, 4.0]])
    assert batch_normalize(z_pre).z[:, 0].tolist() == [0.0, 0.0]


def test_per_feature_broadcasts_along_dimension_one():
    vector = torch.tensor([1.0, 2.0])
    assert per_feature(vector, torch.zeros(3, 2)).shape == (2,)
    assert (torch.zeros(3, 2, 4, 4) + per_feature(vector, torch.zeros(3, 2, 4, 4)))[:, 1].unique().tolist() == [2.0]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.integers(0, 1000))
def test_exact_statistics_do_not_depend_on_the_batches(sizes, seed):
    rows = random((sum(sizes), 3), seed)
    statistics = Statistics(3).double()
    statistics.update(batch_normalize(random((4, 3), 1)), torch.tensor(1.0))  # must be forgotten
    done = 0
    for batch in torch.split(rows, sizes):
        statistics.pool(batch, done)
        done += len(batch)
    np.testing.assert_allclose(statistics.mean, rows.mean(0), rtol=1e-10)
    np.testing.assert_allclose(statistics.var, rows.var(0, correction=0), rtol=1e-9, atol=1e-9)


def test_exact_statistics_survive_a_large_offset():
    rows = random((1000, 2)) + 1e8
    statistics = Statistics(2).double()
    for start in range(0, 1000, 100):
        statistics.pool(rows[start : start + 100], start)
    np.testing.assert_allclose(statistics.var, rows.var(0, correction=0), rtol=1e-6)


def test_running_statistics_tend_to_those_of_all_rows():
    rows = random((4000, 3))
    statistics = Statistics(3).double()
    for count, batch in enumerate(torch.split(rows, 4), start=1):
        statistics.update(batch_normalize(batch), torch.tensor(1 / count))
    np.testing.assert_allclose(statistics.mean, rows.mean(0), rtol=1e-9)
    # Batches of 4 have variances a quarter too small; the factor n / (n - 1) makes up for it.
    np.testing.assert_allclose(statistics.var, rows.var(0, correction=0), rtol=0.03)


def test_normalize_with_stored_statistics():
    statistics = Statistics(2)
    statistics.mean.copy_(torch.tensor([1.0, 2.0]))
    statistics.var.copy_(torch.tensor([4.0, 9.0]))
    assert torch.allclose(statistics.normalize(torch.tensor([[3.0, 5.0]])), torch.ones(1, 2))
    assert torch.allclose(
        normalize(torch.ones(1, 2), torch.zeros(2), torch.tensor([2.0, 3.0])), torch.tensor([[2.0, 3.0]])
    )
