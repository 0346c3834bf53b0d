import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laddernet.data import choose_labeled, hide_labels, hold_out, labeled_rows
from laddernet.data.labels import SparseLabels, choose_held_out, guess_task
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


@pytest.mark.parametrize(
    ("y", "classification", "regression"),
    [
        ([0, -1, 2], [1, 0, 1], [1, 1, 1]),
        ([0.0, -1.0, np.nan], [1, 0, 0], [1, 1, 0]),
        (["a", "b"], [1, 1], [1, 1]),
        (np.array(["a", None, np.nan, -1, -1.0, np.int8(-1)], dtype=object), [1, 0, 0, 0, 0, 0], [1, 0, 0, 1, 1, 1]),
        (np.array([True, False, None], dtype=object), [1, 1, 0], [1, 1, 0]),
        (np.array([1, pd.NA, pd.NaT], dtype=object), [1, 0, 0], [1, 0, 0]),
        (pd.Series([1, None], dtype="Int64"), [1, 0], [1, 0]),
        (pd.Series(["a", None]).astype("category"), [1, 0], [1, 0]),
        (pd.DataFrame({"y": [0, -1]}), [1, 0], [1, 1]),
        (np.array([255, 0], dtype=np.uint8), [1, 1], [1, 1]),
        ([], [], []),
    ],
)
def test_what_marks_a_row_without_a_label_depends_on_the_task(y, classification, regression):
    for task, expected in (("classification", classification), ("regression", regression)):
        found = labeled_rows(y, task=task)
        assert found.dtype == bool
        assert found.tolist() == [bool(value) for value in expected]


@pytest.mark.parametrize(
    ("y", "task", "message"),
    [
        (["a", "-1"], "classification", "array of strings in which '-1'"),
        (np.array(["a", None]).astype(str), "classification", "'None' stands"),
        (np.zeros((2, 2)), "classification", r"one entry a row, got an array of shape \(2, 2\)"),
        (3, "regression", r"shape \(\)"),
        ([0, 1], "ranking", "must be 'classification' or 'regression', got 'ranking'"),
    ],
)
def test_labels_that_cannot_be_read_are_refused(y, task, message):
    with pytest.raises(DataError, match=message):
        labeled_rows(y, task=task)


@pytest.mark.parametrize(
    ("y", "task"),
    [
        ([0.5, 1, np.nan], "regression"),
        ([0.0, 1.0, np.nan], "classification"),
        (np.array([1, 0.5, None], dtype=object), "regression"),
        (np.array(["a", 0.5, None], dtype=object), "classification"),
        ([0, 1, -1], "classification"),
        (["0.5", "a"], "classification"),
        ([np.nan, np.nan], "classification"),
    ],
)
def test_numbers_that_are_not_all_whole_are_taken_for_a_regression(y, task):
    assert guess_task(y) == task


@pytest.mark.parametrize(
    ("y", "mark"),
    [
        (np.arange(40, dtype=np.int8) % 4, -1),
        (np.arange(40, dtype=np.uint8) % 4, -1),
        (np.arange(40) % 4 / 1.0, np.nan),
        (np.array(["a", "b", "c", "d"] * 10), None),
        (np.array(["a", "b", "c", "d"] * 10, dtype=object), None),
        (pd.Series(["a", "b", "c", "d"] * 10).astype("category"), None),
        (np.array([True, False] * 20), None),
    ],
    ids=["int", "unsigned", "float", "text", "object", "category", "bool"],
)
def test_labels_of_any_type_are_hidden_behind_their_mark(y, mark):
    hidden = hide_labels(y, 12, seed=0)
    kept = labeled_rows(hidden)
    assert kept.sum() == 12
    assert hidden[kept].tolist() == np.asarray(y)[kept].tolist()
    assert {str(value) for value in hidden[~kept]} == {str(mark)}
    _, counts = np.unique(np.array(hidden[kept].tolist()), return_counts=True)
    assert counts.max() == counts.min()


def test_labels_that_are_missing_already_stay_so_and_are_not_counted():
    y = np.array(["a", None, "b", np.nan, "a", "b", -1, "a"], dtype=object)
    for seed in range(5):
        kept = labeled_rows(hide_labels(y, 4, seed=seed))
        assert kept.sum() == 4
        assert not kept[[1, 3, 6]].any()
    with pytest.raises(DataError, match="cannot keep 6 labels: there are 5.*between 2 and 5"):
        hide_labels(y, 6, seed=0)
    with pytest.raises(DataError, match="cannot be sorted together"):
        hide_labels(np.array(["a", 1], dtype=object), 2, seed=0)


def test_any_value_of_a_regression_can_be_hidden():
    y = np.where(np.arange(50) < 40, np.arange(50) - 20.5, np.nan)
    kept = np.array([labeled_rows(hide_labels(y, 10, task="regression", seed=seed)) for seed in range(200)])
    assert (kept.sum(axis=1) == 10).all()
    assert not kept[:, 40:].any()
    assert np.abs(kept[:, :40].mean(axis=0) - 0.25).max() < 0.12
    whole = hide_labels(np.arange(-5, 5), 9, task="regression", seed=0)
    assert np.isnan(whole).sum() == 1
    with pytest.raises(DataError, match="cannot keep 41 labels: .*between 1 and 40"):
        hide_labels(y, 41, task="regression", seed=0)


@settings(deadline=None)
@given(problems(), st.floats(0.01, 0.99), st.integers(0, 30))
def test_held_out_rows_are_stratified_and_leave_every_class_in_training(problem, fraction, unlabeled):
    y, _, seed = problem
    classes, sizes = np.unique(y, return_counts=True)
    y = np.random.default_rng(seed).permutation([*y, *[-1] * unlabeled])
    wanted = max(round(fraction * sizes.sum()), 1)
    if wanted > (sizes - 1).sum():
        with pytest.raises(DataError, match=f"every class needs one to train on, so {(sizes - 1).sum()} at most can"):
            hold_out(y, fraction, seed=seed)
        return
    training, test = hold_out(y, fraction, seed=seed)
    assert sorted([*training, *test]) == list(range(len(y)))
    assert (np.diff(training) > 0).all()
    assert (np.diff(test) > 0).all()
    assert len(test) == wanted
    assert -1 not in y[test]
    assert set(classes) <= set(y[training])
    taken = np.array([(y[test] == label).sum() for label in classes])
    if (fraction * sizes <= sizes - 1).all():
        assert np.abs(taken - fraction * sizes).max() <= 1
    np.testing.assert_array_equal(hold_out(y, fraction, seed=seed)[1], test)


def test_the_class_that_is_owed_most_gives_one_more_and_equals_by_chance():
    y = np.repeat([0, 1], [19, 11])
    assert all(np.bincount(y[hold_out(y, 0.1, seed=seed)[1]]).tolist() == [2, 1] for seed in range(5))
    y = np.repeat([0, 1], 5)
    assert {y[hold_out(y, 0.1, seed=seed)[1]].item() for seed in range(20)} == {0, 1}


def test_a_regression_holds_out_any_rows_and_keeps_two():
    y = np.array([-1.0, 1.5, np.nan, -1.0, 2.0])
    tests = {tuple(hold_out(y, 0.5, task="regression", seed=seed)[1].tolist()) for seed in range(40)}
    assert tests == {(0, 1), (0, 3), (0, 4), (1, 3), (1, 4), (3, 4)}
    with pytest.raises(DataError, match="3 of the 4 labelled rows cannot.*training needs two, so 2 at most can"):
        hold_out(y, 0.75, task="regression", seed=0)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, float("nan")])
def test_impossible_shares_are_refused(fraction):
    with pytest.raises(DataError, match="must be between 0 and 1"):
        hold_out([0, 1, 0, 1], fraction, seed=0)


def test_nothing_can_be_held_out_where_nothing_can_be_spared():
    with pytest.raises(DataError, match="no row has a label"):
        hold_out([-1, -1], 0.5, seed=0)
    with pytest.raises(DataError, match="so 0 at most can. Hold out a smaller share .--test-fraction; 0"):
        hold_out([0, 1, 2, -1], 0.1, seed=0)


@pytest.mark.parametrize("kind", [object, str])
@pytest.mark.parametrize("blank", ["", "  "])
def test_an_empty_string_is_no_class(kind, blank):
    with pytest.raises(DataError, match="empty strings, which are no class. Mark rows without a label with None"):
        labeled_rows(np.array(["a", blank, "b"], dtype=kind))


def test_whole_numbers_beside_missing_ones_stay_whole():
    found = SparseLabels.of(pd.Series([1, None, 0, 1], dtype="Int64"))
    assert found.numbers.tolist() == [0, 2, 3]
    assert found.values.tolist() == [1, 0, 1]
    assert all(type(value) is int for value in found.values.tolist())


def test_the_fraction_that_is_too_large_is_named():
    labels = SparseLabels.of(np.array([0, 1, -1]))
    with pytest.raises(DataError, match=r"Hold out a smaller share \(validation_fraction; 0 for none\)"):
        choose_held_out(labels, 0.5, task="classification", seed=0, option="validation_fraction")
