import pickle
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score, cross_validate
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from laddernet import LadderClassifier, LadderRegressor
from laddernet.errors import DataError
from laddernet.model_selection import LabeledKFold, LabeledShuffleSplit, labeled_scorer

TINY = {"hidden_layer_sizes": (8,), "max_epochs": 2, "random_state": 0}


def blobs(rows=60, labeled=18):
    """Three classes of rows, far apart; all but the first rows without a label."""
    y = np.arange(rows) % 3
    X = np.random.default_rng(0).normal(size=(rows, 4)) + 10 * y[:, None]
    hidden = y.copy()
    hidden[labeled:] = -1
    return X, y, hidden


def marked(kind):
    _, _, y = blobs()
    none = y == -1
    names = np.array(["a", "b", "c", None], dtype=object)[y]
    return {
        "-1": y,
        "NaN": np.where(none, np.nan, y),
        "None": np.array([None if gone else int(label) for gone, label in zip(none, y, strict=True)], dtype=object),
        "strings": names,
        "series": pd.Series(names, index=np.arange(60) + 100),
        "category": pd.Series(names).astype("category"),
        "Int64": pd.Series(y).astype("Int64").mask(none),
        "list": names.tolist(),
    }[kind]


@st.composite
def class_problems(draw):
    splits = draw(st.integers(2, 6))
    sizes = draw(st.lists(st.integers(splits, 15), min_size=2, max_size=5))
    unlabeled = draw(st.integers(0, 20))
    y = np.concatenate([np.repeat(np.arange(len(sizes)), sizes), np.full(unlabeled, -1)])
    y = np.random.default_rng(draw(st.integers(0, 99))).permutation(y)
    return y, splits, draw(st.integers(0, 99)), draw(st.booleans())


def parts(splitter, y):
    return [(train.tolist(), test.tolist()) for train, test in splitter.split(np.zeros(len(y)), y)]


@settings(deadline=None)
@given(class_problems())
def test_folds_test_each_labelled_row_once_and_train_on_all_without_a_label(problem):
    y, splits, seed, shuffle = problem
    splitter = LabeledKFold(splits, shuffle=shuffle, random_state=seed if shuffle else None)
    folds = parts(splitter, y)
    assert splitter.get_n_splits() == len(folds) == splits
    assert Counter(row for _, test in folds for row in test) == Counter(np.flatnonzero(y != -1).tolist())
    sizes = np.bincount(y[y != -1])
    for train, test in folds:
        assert sorted(train + test) == list(range(len(y)))
        assert set(np.flatnonzero(y == -1)) <= set(train)
        assert np.abs(np.bincount(y[test], minlength=len(sizes)) - sizes / splits).max() < 1
        assert set(y[train]) >= set(range(len(sizes)))
    assert folds == parts(splitter, y)


@settings(deadline=None)
@given(st.integers(2, 6), st.integers(0, 20), st.integers(0, 20), st.integers(0, 99))
def test_folds_of_numbers_are_as_equal_as_can_be(splits, more, unlabeled, seed):
    y = np.random.default_rng(seed).permutation([*(np.arange(splits + more) - 1.5), *[np.nan] * unlabeled])
    folds = parts(LabeledKFold(splits, random_state=seed), y)
    assert Counter(row for _, test in folds for row in test) == Counter(np.flatnonzero(~np.isnan(y)).tolist())
    assert max(len(test) for _, test in folds) - min(len(test) for _, test in folds) <= 1
    assert all(sorted(train + test) == list(range(len(y))) for train, test in folds)


@pytest.mark.parametrize("splitter", [LabeledKFold, LabeledShuffleSplit])
def test_the_seed_fixes_the_split(splitter):
    _, y, _ = blobs()
    assert parts(splitter(3, random_state=1), y) == parts(splitter(3, random_state=1), y)
    assert parts(splitter(3, random_state=1), y) != parts(splitter(3, random_state=2), y)


@settings(deadline=None)
@given(class_problems(), st.floats(0.05, 0.5))
def test_hold_outs_are_stratified_and_differ(problem, share):
    y, _, seed, _ = problem
    splitter = LabeledShuffleSplit(3, test_size=share, random_state=seed)
    sizes = np.bincount(y[y != -1])
    for train, test in (splits := parts(splitter, y)):
        assert sorted(train + test) == list(range(len(y)))
        assert len(test) == max(1, round(share * sizes.sum()))
        assert -1 not in y[test]
        assert np.abs(np.bincount(y[test], minlength=len(sizes)) - share * sizes).max() <= 1
        assert set(y[train]) >= set(range(len(sizes)))
    assert len(splits) == splitter.get_n_splits() == 3


def test_hold_outs_are_independent_of_each_other():
    _, _, y = blobs()
    tests = {tuple(test) for _, test in parts(LabeledShuffleSplit(8, random_state=0), y)}
    assert len(tests) > 5


@pytest.mark.parametrize("kind", ["-1", "NaN", "None", "strings", "series", "category", "Int64", "list"])
def test_every_mark_of_a_row_without_a_label_is_known(kind):
    X, _, y = blobs()
    labels = marked(kind)
    cv = LabeledKFold(3, random_state=0)
    expected = [(train.tolist(), test.tolist()) for train, test in cv.split(X, y)]
    assert [(train.tolist(), test.tolist()) for train, test in cv.split(X, labels)] == expected
    data = pd.DataFrame(X) if kind == "series" else X
    scores = cross_val_score(LadderClassifier(**TINY), data, labels, cv=cv, error_score="raise")
    scorer, any_rows = labeled_scorer("balanced_accuracy"), KFold(2, shuffle=True, random_state=0)
    others = cross_val_score(LadderClassifier(**TINY), data, labels, cv=any_rows, scoring=scorer, error_score="raise")
    assert np.isfinite([*scores, *others]).all()


def test_a_grid_search_learns_from_rows_without_a_label_and_finds_the_better_setting():
    X, truth, y = blobs()
    grid = {"ladderclassifier__hidden_layer_sizes": [(8,)], "ladderclassifier__max_epochs": [1, 40]}
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LadderClassifier(learning_rate=0.05, batch_size=20, random_state=0)),
        grid,
        cv=LabeledKFold(3, random_state=0),
        scoring=labeled_scorer("neg_log_loss"),
        error_score="raise",
    ).fit(pd.DataFrame(X, columns=list("abcd")), pd.Series(y))
    assert search.best_params_["ladderclassifier__max_epochs"] == 40
    assert (search.predict(pd.DataFrame(X, columns=list("abcd"))) == truth).mean() > 0.9


def test_a_regression_is_searched_with_nan_for_no_label():
    X, _, _ = blobs()
    y = X @ [1.0, 2.0, 3.0, 4.0]
    y[20:] = np.nan
    cv = LabeledKFold(3, random_state=0)
    search = GridSearchCV(LadderRegressor(**TINY), {"noise_std": [0.1, 0.3]}, cv=cv, error_score="raise").fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    scores = cross_val_score(LadderRegressor(**TINY), X, y, cv=cv, scoring=labeled_scorer("neg_mean_absolute_error"))
    assert (scores < 0).all()


def test_the_task_is_told_from_the_values_and_can_be_said():
    whole = np.array([-1.0, 0.0, 1.0, 2.0, 3.0, np.nan])
    X = np.zeros((6, 1))
    tested = {row for _, test in LabeledKFold(5, task="regression", random_state=0).split(X, whole) for row in test}
    assert tested == {0, 1, 2, 3, 4}
    with pytest.raises(DataError, match=r"the class 0\.0 has one labelled row.*say task='regression'"):
        list(LabeledKFold(2).split(X, whole))
    fractions = np.array([-1, 0.5, None, 2, 3, None], dtype=object)  # -1 is a value here
    assert sum(len(test) for _, test in LabeledKFold(2).split(X, fractions)) == 4
    with pytest.raises(DataError, match="task must be"):
        list(LabeledKFold(2, task="clustering").split(X, whole))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (
            ["a", "a", "a", "b", "b", None],
            "class 'b' has 2 labelled rows, too few for 3 folds: take 2 .n_splits=2, or --folds 2",
        ),
        (["a", "a", "a", "b", None, None], "class 'b' has one labelled row, which cannot be both trained and tested"),
        ([0, 0, -1, 0, 1, 1], "class 1 has 2 labelled rows"),
        ([-1] * 6, "no rows of 6 have a label, too few for 3 folds"),
        ([0.5, 1.5, *[np.nan] * 4], "2 rows of 6 have a label"),
        ([0.5, *[np.nan] * 5], "1 row of 6 has a label"),
        (["a", "b", "-1", "a", "b", "a"], "array of strings in which '-1'"),
        (np.array(["a", 1, None, "a", 1, "a"], dtype=object), "cannot be sorted together"),
        (None, "y is needed"),
        (np.zeros((6, 2)), r"shape \(6, 2\)"),
    ],
)
def test_too_few_labels_are_refused_before_anything_is_fitted(y, message):
    with pytest.raises(DataError, match=message):
        next(LabeledKFold(3).split(np.zeros((6, 1)), y))


def test_a_grid_search_shows_the_splitters_error_not_failed_fits():
    with pytest.raises(DataError, match="class 1 has 2 labelled rows"):
        GridSearchCV(LadderClassifier(), {}, cv=LabeledKFold(3)).fit(np.zeros((6, 2)), [0, 0, 0, 1, 1, -1])


def test_a_class_of_one_row_stays_in_training_in_hold_outs():
    y = np.array([0] * 8 + [1] + [-1] * 4)
    for train, test in LabeledShuffleSplit(20, test_size=0.25, random_state=0).split(y, y):
        assert 8 in train
        assert len(test) == 2
    with pytest.raises(DataError, match="every class needs one to train on"):
        next(LabeledShuffleSplit().split(y[7:], y[7:]))
    with pytest.raises(DataError, match="no row has a label"):
        next(LabeledShuffleSplit().split(y[9:], y[9:]))


def test_the_scorer_counts_labelled_rows_alone():
    X = np.arange(6.0)[:, None]
    model = KNeighborsClassifier(1).fit(X, [0, 0, 0, 1, 1, 1])
    assert labeled_scorer()(model, X, [0, 1, -1, -1, 1, 1]) == 0.75
    assert labeled_scorer("f1")(model, X, np.array([0, 0, None, None, 1, 1], dtype=object)) == 1
    assert (
        labeled_scorer(lambda estimator, rows, y: len(rows) + len(y) / 10)(model, X.tolist(), [0, 1, *[-1] * 4]) == 2.2
    )


def test_minus_one_is_a_value_to_a_regressor_and_no_label_to_a_classifier():
    X, y = np.zeros((3, 1)), np.array([-1.0, 1.0, np.nan])
    regressor = LinearRegression().fit(X[:2], [0, 0])
    assert labeled_scorer("neg_mean_squared_error")(regressor, X, y) == -1
    assert labeled_scorer(lambda estimator, rows, y: len(y))(DummyRegressor(), X, y) == 2
    assert labeled_scorer(lambda estimator, rows, y: len(y))(DummyClassifier(), X, y) == 1


def test_the_scorer_refuses_rows_without_labels_and_unknown_names():
    with pytest.raises(DataError, match="none of the 2 rows to score on has a label. Use LabeledKFold"):
        labeled_scorer()(DummyClassifier(), np.zeros((2, 1)), [-1, -1])
    with pytest.raises(ValueError, match="'acuracy'"):
        labeled_scorer("acuracy")


def test_splitters_and_scorers_can_be_copied_shown_and_sent_to_other_processes():
    X, _, y = blobs()
    scorer = labeled_scorer("accuracy")
    assert repr(scorer) == "labeled_scorer('accuracy')"
    assert pickle.loads(pickle.dumps(scorer)) == clone(scorer, safe=False) == scorer
    shown = repr(LabeledKFold(3, random_state=0))
    assert shown == "LabeledKFold(n_splits=3, random_state=0, shuffle=True, task='auto')"
    assert "test_size=0.2" in repr(LabeledShuffleSplit())
    search = GridSearchCV(
        KNeighborsClassifier(), {"n_neighbors": [1]}, cv=LabeledKFold(3, random_state=0), scoring=scorer
    )
    copied = pickle.loads(pickle.dumps(clone(search))).fit(X[:20], y[:20])
    assert copied.best_score_ == search.fit(X[:20], y[:20]).best_score_ > 0.5
    scores = cross_validate(
        KNeighborsClassifier(1), X, y, cv=LabeledShuffleSplit(2), scoring={"a": scorer, "b": "accuracy"}
    )
    np.testing.assert_array_equal(scores["test_a"], scores["test_b"])
