import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laddernet.data import choose_labeled, hide_labels
from laddernet.errors import DataError


@st.composite
def problems(draw):
    counts = draw(st.lists(st.integers(1, 30), min_size=1, max_size=8))
    y = np.repeat(np.arange(len(counts)) * 3, counts)
    y = np.random.default_rng(draw(st.integers(0, 99))).permutation(y)
    return y, draw(st.integers(len(counts), len(y))), draw(st.integers(0, 99))


@given(problems())
def test_the_choice_is_balanced_without_replacement_and_of_the_right_size(problem):
    y, count, seed = problem
    chosen = choose_labeled(y, count, seed=seed)
    assert len(chosen) == len(set(chosen.tolist())) == count
    classes, available = np.unique(y, return_counts=True)
    taken = np.array([(y[chosen] == label).sum() for label in classes])
    open_classes = taken[taken < available]  # classes that could have given more
    if len(open_classes):
        assert taken.max() - open_classes.min() <= 1
    assert taken.min() >= 1


def test_the_seed_fixes_the_choice_and_another_seed_changes_it():
    y = np.arange(1000) % 10
    np.testing.assert_array_equal(choose_labeled(y, 100, seed=1), choose_labeled(y, 100, seed=1))
    assert set(choose_labeled(y, 100, seed=1)) != set(choose_labeled(y, 100, seed=2))


def test_which_class_gives_one_more_is_random():
    y = np.arange(1000) % 10
    generous = {tuple(np.bincount(y[choose_labeled(y, 13, seed=seed)]) - 1) for seed in range(20)}
    assert len(generous) > 5


def test_hidden_labels_are_minus_one():
    y = np.arange(50) % 5
    hidden = hide_labels(y, 10, seed=0)
    assert (hidden >= 0).sum() == 10
    np.testing.assert_array_equal(hidden[hidden >= 0], y[hidden >= 0])
    assert (y >= 0).all()


@pytest.mark.parametrize("count", [0, 4, 51])
def test_impossible_numbers_are_refused(count):
    with pytest.raises(DataError, match=f"cannot keep {count} labels: .*between 5 and 50"):
        choose_labeled(np.arange(50) % 5, count, seed=0)
