import math

import numpy as np
import pytest
import torch

from laddernet.losses import TASKS, binary_cross_entropy, cross_entropy, squared_error

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, 1.0]], dtype=torch.float64)


def test_cross_entropy_is_the_mean_negative_log_probability():
    probabilities = np.exp(LOGITS.numpy())
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    expected = -(math.log(probabilities[0, 2]) + math.log(probabilities[1, 1])) / 2
    assert cross_entropy(LOGITS, torch.tensor([2, 1])).item() == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(TASKS["classification"].activate(LOGITS), probabilities, rtol=1e-12)


def test_squared_error_takes_one_column_as_a_vector():
    output, y = LOGITS[:, :1], torch.tensor([1.0, 4.0], dtype=torch.float64)
    assert squared_error(output, y).item() == (1 + 16) / 2
    assert squared_error(output, y.unsqueeze(1)).item() == (1 + 16) / 2


def test_binary_cross_entropy_is_the_mean_over_all_labels():
    y = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    p = 1 / (1 + np.exp(-LOGITS.numpy()))
    expected = -(y.numpy() * np.log(p) + (1 - y.numpy()) * np.log(1 - p)).mean()
    assert binary_cross_entropy(LOGITS, y).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("cost", "y"),
    [
        (cross_entropy, torch.tensor([2, 1])),
        (squared_error, torch.tensor([[1.0, 0.5, 2.0], [3.0, -1.0, 0.0]], dtype=torch.float64)),
        (binary_cross_entropy, torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]], dtype=torch.float64)),
    ],
)
def test_a_rows_weight_multiplies_its_cost(cost, y):
    first, second = (cost(LOGITS[i : i + 1], y[i : i + 1]).item() for i in (0, 1))
    weighted = cost(LOGITS, y, torch.tensor([3.0, 0.5], dtype=torch.float64)).item()
    assert weighted == pytest.approx((3 * first + 0.5 * second) / 2, rel=1e-12)
    ones = torch.ones(2, dtype=torch.float64)
    assert cost(LOGITS, y, ones).item() == pytest.approx(cost(LOGITS, y).item(), rel=1e-12)


@pytest.mark.parametrize(
    ("cost", "y", "message"),
    [
        (cross_entropy, torch.tensor([0, 3]), r"class indices in 0..2, got 0..3"),
        (cross_entropy, torch.tensor([0, -1]), r"Rows without a label belong in x_unlabeled"),
        (cross_entropy, torch.tensor([0.0, 1.0]), "must be an int64 tensor"),
        (cross_entropy, torch.tensor([0]), r"shape \(2,\)"),
        (squared_error, torch.zeros(2), r"floating-point tensor of shape \(2, 3\)"),
        (binary_cross_entropy, torch.zeros(2, 3, dtype=torch.int64), "floating-point tensor"),
    ],
)
def test_labels_of_the_wrong_form_are_refused(cost, y, message):
    with pytest.raises(ValueError, match=message):
        cost(LOGITS, y)
