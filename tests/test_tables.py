import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, balanced_accuracy_score, r2_score, root_mean_squared_error

from laddernet import DataError, LadderClassifier, LadderRegressor
from laddernet.tables import (
    FileOptions,
    check_settings_file,
    constant_score,
    label_in,
    linear_score,
    prepare,
    read_labeled,
    read_settings,
    score,
    settings_for,
    write_settings,
)

SMALL = {"hidden_layer_sizes": (6,), "max_epochs": 2, "random_state": 0}
CLASSES = ("a", "bb", "long name")


def table(rows=60, *, unlabeled=(), seed=0):
    """Three classes by turns; the column id tells the rows apart."""
    rng = np.random.default_rng(seed)
    classes = np.arange(rows) % 3
    frame = pd.DataFrame(
        {
            "id": np.arange(rows) + 0.5,
            "size": classes + rng.normal(0, 0.3, rows).round(3),
            "colour": rng.choice(["red", "green", "blue"], rows),
            "kind": np.array(CLASSES, dtype=object)[classes],
        }
    )
    frame.loc[list(unlabeled), "kind"] = None
    return frame


@pytest.fixture
def write(tmp_path):
    def to_file(frame, name="rows.csv"):
        frame.to_csv(tmp_path / name, index=False)
        return tmp_path / name

    return to_file


def ids(x):
    return x[:, 0].tolist()


def of_kind(**others):
    return FileOptions(label_column="kind", **others)


class TestPrepare:
    def test_labelled_rows_are_held_out_by_class_and_the_others_train(self, write):
        frame = table(80, unlabeled=range(0, 80, 4))
        prepared = prepare(write(frame), of_kind(test_fraction=0.25))
        assert (prepared.task, prepared.label) == ("classification", "kind")
        assert len(prepared.x_train) == len(prepared.y_train) == 65
        assert sorted(prepared.y_test.tolist()) == ["a"] * 5 + ["bb"] * 5 + ["long name"] * 5
        assert sorted(ids(prepared.x_train) + ids(prepared.x_test)) == frame["id"].tolist()
        kinds = {
            row: kind if isinstance(kind, str) else None for row, kind in zip(frame["id"], frame["kind"], strict=True)
        }
        assert [kinds[row] for row in ids(prepared.x_train)] == prepared.y_train.tolist()
        assert [kinds[row] for row in ids(prepared.x_test)] == prepared.y_test.tolist()
        assert len(prepared.known.numbers) == 45

    @pytest.mark.parametrize("by_parts", [False, True])
    def test_labels_of_one_class_are_named_with_their_column(self, write, by_parts):
        path = write(table().assign(kind="stay"))
        with pytest.raises(DataError, match=f"{path.name}: 'kind' holds one class only, 'stay', and a classifier"):
            prepare(path, of_kind(by_parts=by_parts))

    def test_the_seed_fixes_the_rows(self, write):
        path = write(table())
        first, again, other = (prepare(path, of_kind(seed=seed)) for seed in (0, 0, 1))
        np.testing.assert_array_equal(first.x_train, again.x_train)
        np.testing.assert_array_equal(first.x_test, again.x_test)
        assert ids(first.x_test) != ids(other.x_test)

    def test_nothing_is_learned_from_the_test_rows(self, write):
        frame = table()
        before = prepare(write(frame), of_kind())
        for row in np.flatnonzero(frame["id"].isin(ids(before.x_test))):
            frame.loc[row, ["size", "colour"]] = [1e6 if row % 2 else np.nan, f"colour {row}"]
        with pytest.warns(UserWarning, match="values are missing in 'size', which lacked none in training"):
            after = prepare(write(frame), of_kind())
        assert ids(after.x_test) == ids(before.x_test)
        assert after.x_test[:, 1].max() == 1e6
        assert after.preparation.feature_names == before.preparation.feature_names
        np.testing.assert_array_equal(after.x_train, before.x_train)

    def test_labels_are_hidden_in_training_alone_and_balanced(self, write):
        path = write(table(90, unlabeled=range(6)))
        whole, few = prepare(path, of_kind()), prepare(path, of_kind(labels=7))
        np.testing.assert_array_equal(few.x_train, whole.x_train)
        np.testing.assert_array_equal(few.x_test, whole.x_test)
        np.testing.assert_array_equal(few.y_test, whole.y_test)
        kept = few.known.values.tolist()
        assert sorted(map(kept.count, CLASSES)) == [2, 2, 3]
        assert kept == whole.y_train[few.known.numbers].tolist()
        assert [label for label in few.y_train if label is not None] == kept

    @pytest.mark.parametrize("count", [2, 46])
    def test_too_few_or_too_many_labels_to_keep(self, write, count):
        with pytest.raises(DataError, match=f"cannot keep {count} labels: there are 45.*between 3 and 45"):
            prepare(write(table()), of_kind(labels=count))

    def test_a_file_of_test_rows(self, write):
        frame, other = table(unlabeled=[0, 1]), table(9, unlabeled=[2, 7], seed=1)
        other.loc[3, "colour"] = "beige"
        prepared = prepare(write(frame), of_kind(test=write(other, "test.csv"), test_fraction=0.25))
        assert ids(prepared.x_train) == frame["id"].tolist()
        assert ids(prepared.x_test) == [0.5, 1.5, 3.5, 4.5, 5.5, 6.5, 8.5]
        assert prepared.y_test.tolist() == other["kind"].dropna().tolist()
        assert not any("beige" in name for name in prepared.preparation.feature_names)

    def test_no_test(self, write):
        prepared = prepare(write(table()), of_kind(test_fraction=0))
        assert prepared.x_train.shape[0] == 60
        assert prepared.x_test.shape == (0, prepared.x_train.shape[1])
        assert prepared.y_test.shape == (0,)

    def test_regression(self, write):
        frame = table().assign(price=lambda rows: rows["size"] * 3 - 1)
        frame.loc[[3, 4], "price"] = np.nan
        frame.loc[5, "price"] = -1.0  # a value as any other
        prepared = prepare(write(frame.drop(columns="kind")), FileOptions(label_column="price", labels=20))
        assert prepared.task == "regression"
        assert len(prepared.known.numbers) == 20
        assert len(prepared.y_test) == 14  # a quarter of 58
        assert prepared.x_train.shape[0] == 46
        assert isinstance(prepared.estimator(), LadderRegressor)
        whole = prepare(write(frame.drop(columns="kind")), FileOptions(label_column="price", test_fraction=0))
        assert len(whole.known.numbers) == 58

    def test_the_task_may_be_given(self, write):
        frame = table().assign(kind=lambda rows: np.arange(60) % 3)
        path = write(frame)
        assert prepare(path, of_kind()).task == "classification"
        prepared = prepare(path, of_kind(task="regression"))
        assert prepared.task == "regression"
        assert len(prepared.known.numbers) == len(prepared.y_train)

    @pytest.mark.parametrize("task", [None, "classification"])
    def test_a_class_minus_one_is_refused(self, write, task):
        frame = table().assign(kind=np.arange(60) % 3 - 1)
        with pytest.raises(DataError, match="one of the classes is -1.*Rename the class"):
            prepare(write(frame), of_kind(task=task))
        fine = write(frame[frame["kind"] >= 0])
        test = write(frame, "test.csv")
        with pytest.raises(DataError, match=r"test\.csv: one of the classes is -1"):
            prepare(fine, of_kind(task=task, test=test))

    def test_arrays_give_the_same_as_a_table(self, write, tmp_path):
        numbers = table().drop(columns=["colour", "kind"])
        y = np.where(np.arange(60) < 10, -1, np.arange(60) % 3)
        csv = write(numbers.assign(kind=[None if label < 0 else str(label) for label in y]))
        x = numbers.to_numpy()
        np.savez(tmp_path / "rows.npz", X=x, y=y)
        np.savez(tmp_path / "named.npz", X=x, kind=y)
        np.save(tmp_path / "rows_X.npy", x)
        np.save(tmp_path / "rows_y.npy", y)
        np.save(tmp_path / "elsewhere.npy", y)
        expected = prepare(csv, of_kind(labels=9, seed=2))
        for name, options in {
            "rows.npz": FileOptions(labels=9, seed=2),
            "named.npz": of_kind(labels=9, seed=2),
            "rows_X.npy": FileOptions(labels=9, seed=2),
            "./rows_X.npy": FileOptions(labels=9, seed=2, labels_path=tmp_path / "elsewhere.npy"),
        }.items():
            found = prepare(tmp_path / name, options)
            assert found.label == ("kind" if name == "named.npz" else "y")
            for part in ("x_train", "x_test", "y_test"):
                np.testing.assert_array_equal(getattr(found, part)[:], getattr(expected, part))
            np.testing.assert_array_equal(found.known.numbers, expected.known.numbers)
            np.testing.assert_array_equal(found.known.values, expected.known.values)


def test_labelled_rows_of_another_file_are_found_whatever_its_form(tmp_path, write):
    x, y = np.arange(12.0).reshape(6, 2), np.array([0, 1, -1, 0, 1, 1])
    np.savez(tmp_path / "rows.npz", X=x, y=y)
    np.savez(tmp_path / "named.npz", X=x, kind=y)
    np.save(tmp_path / "X.npy", x)
    np.save(tmp_path / "y.npy", y)
    csv = write(pd.DataFrame(x, columns=["0", "1"]).assign(kind=[0, 1, None, 0, 1, 1]))
    for path, label in ((csv, "kind"), ("rows.npz", "y"), ("named.npz", "kind"), ("X.npy", "y"), ("X.npy", "kind")):
        found, labels = read_labeled(tmp_path / path, None, label_column=label, task="classification")
        np.testing.assert_array_equal(found, x[y >= 0])
        assert labels.tolist() == [0, 1, 0, 1, 1]
    assert label_in(tmp_path / "rows.tsv", "y") == "y"


class TestScore:
    @pytest.mark.parametrize("names", [CLASSES, (0, 1, 7)])
    def test_classes(self, names):
        rng = np.random.default_rng(0)
        x, truth = rng.normal(size=(60, 3)), np.array(names, dtype=object)[np.arange(60) % 3]
        model = LadderClassifier(**SMALL).fit(x, truth)
        expected = 100 * (1 - accuracy_score(truth.tolist(), model.predict(x).tolist()))
        assert 0 < expected < 100
        assert score(model, x, truth) == {"test_error": pytest.approx(expected, abs=1e-4)}
        one = np.array(["a class that is longer than any other"] * 60)
        with pytest.warns(UserWarning, match="classes that training had not, 'a class that is longer than any other'"):
            assert score(model, x, one) == {"test_error": 100.0}

    def test_a_class_is_the_same_however_it_is_read(self):
        rng = np.random.default_rng(0)
        x, truth = rng.normal(size=(60, 3)), np.arange(60) % 3
        expected = score(LadderClassifier(**SMALL).fit(x, truth), x, truth)
        for known, tested in ((truth.astype(str), truth), (truth, truth.astype(str)), (truth.astype(float), truth)):
            model = LadderClassifier(**SMALL).fit(x, known)
            assert score(model, x, tested) == expected
            assert score(model, x, tested.astype(object)) == expected

    def test_with_class_weights_the_balanced_error_too(self):
        rng = np.random.default_rng(0)
        x, truth = rng.normal(size=(60, 3)), np.array(["a"] * 50 + ["b"] * 10)
        model = LadderClassifier(**SMALL, class_weight="balanced").fit(x, truth)
        wrong = 100 * (1 - balanced_accuracy_score(truth, model.predict(x)))
        assert score(model, x, truth)["test_balanced_error"] == pytest.approx(wrong, abs=1e-4)

    def test_regression(self):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(60, 3))
        y = x[:, 0] * 10 + 50
        model = LadderRegressor(**SMALL).fit(x, y)
        answers = model.predict(x)
        found = score(model, x, np.array([*y[:-1], y[-1]], dtype=object))
        assert found["test_rmse"] == pytest.approx(root_mean_squared_error(y, answers))
        assert found["test_r2"] == pytest.approx(r2_score(y, answers), abs=1e-4)
        assert list(score(model, x[:1], y[:1])) == ["test_rmse"]

    def test_what_knows_no_columns(self, write):
        prepared = prepare(write(table(90)), of_kind(labels=8))
        known = prepared.known.values.tolist()
        most = max(sorted(set(known)), key=known.count)
        wrong = 100 * np.mean([kind != most for kind in prepared.y_test])
        model = prepared.estimator(**SMALL).fit(prepared.x_train, prepared.y_train)
        assert constant_score(prepared, model) == {"test_error": pytest.approx(wrong, abs=1e-4)}
        model.class_weight = "balanced"
        rest = 100 * (1 - 1 / len(CLASSES))
        assert constant_score(prepared, model)["test_balanced_error"] == pytest.approx(rest, abs=1e-4)
        frame = table(90).assign(kind=lambda rows: rows["size"] * 100 + 0.5)
        prepared = prepare(write(frame), of_kind(labels=20))
        truth = prepared.y_test.astype(float)
        off = np.sqrt(np.mean((truth - prepared.known.values.astype(float).mean()) ** 2))
        model = prepared.estimator(**SMALL).fit(prepared.x_train, prepared.y_train)
        assert constant_score(prepared, model)["test_rmse"] == pytest.approx(off)

    def test_the_linear_model_learns_from_the_labelled_rows_alone(self, write):
        prepared = prepare(write(table(90)), of_kind(labels=9))
        model = prepared.estimator(**SMALL).fit(prepared.x_train, prepared.y_train)
        x, x_test = (model.scaling_.apply(rows, np.float64) for rows in (prepared.x_train, prepared.x_test))
        linear = LogisticRegression(max_iter=5000)
        linear.fit(x[prepared.known.numbers], prepared.known.values.tolist())
        wrong = 100 * (1 - linear.score(x_test, prepared.y_test.tolist()))
        assert linear_score(prepared, model) == {"test_error": pytest.approx(wrong, abs=1e-4)}

    def test_the_linear_model_of_a_regression(self, write):
        frame = table(90).assign(kind=lambda rows: rows["size"] * 100 + 0.5)
        prepared = prepare(write(frame), of_kind(labels=20))
        model = prepared.estimator(**SMALL).fit(prepared.x_train, prepared.y_train)
        x, x_test = (model.scaling_.apply(rows, np.float64) for rows in (prepared.x_train, prepared.x_test))
        answers = Ridge().fit(x[prepared.known.numbers], prepared.known.values).predict(x_test)
        found = linear_score(prepared, model)
        assert found["test_rmse"] == pytest.approx(root_mean_squared_error(prepared.y_test, answers), rel=1e-6)
        assert found["test_r2"] == pytest.approx(r2_score(prepared.y_test, answers), abs=1e-4)


class TestSettings:
    def test_they_come_back_as_the_estimators_take_them(self, tmp_path):
        settings = {"hidden_layer_sizes": [50, 20], "noise_std": 0.2, "denoising_weights": [1.0, 0.1, 0.1, 0.5]}
        write_settings(tmp_path / "best.json", settings)
        found = read_settings(tmp_path / "best.json")
        assert found == settings | {"hidden_layer_sizes": (50, 20), "denoising_weights": (1.0, 0.1, 0.1, 0.5)}
        assert [path.name for path in tmp_path.iterdir()] == ["best.json"]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ('{"depth": 3, "noise_std": 1}', r"must hold settings only; it has depth\. Known are.*noise_std"),
            ("{", "cannot be read"),
            ("[" * 100_000, "cannot be read"),
            ("[1]", "must hold a JSON object"),
            ('"noise_std"', "must hold a JSON object"),
            (b"\xff", "cannot be read"),
            (None, "cannot be read.*No such file"),
        ],
        ids=["unknown", "cut", "deep", "list", "string", "binary", "missing"],
    )
    def test_what_is_no_settings_file_is_refused(self, tmp_path, content, message):
        path = tmp_path / "best.json"
        if content is not None:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(DataError, match=message) as caught:
            read_settings(path)
        assert str(path) in str(caught.value)

    def test_where_they_cannot_be_written_is_told_before(self, tmp_path):
        check_settings_file(tmp_path / "best.json")
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(DataError, match=r"nowhere/best.json cannot be written \(No such file"):
            check_settings_file(tmp_path / "nowhere" / "best.json")

    def test_a_failure_while_writing_keeps_the_file(self, tmp_path, monkeypatch):
        path = tmp_path / "best.json"
        write_settings(path, {"noise_std": 0.2})
        before = path.read_bytes()
        with pytest.raises(TypeError):
            write_settings(path, {"noise_std": object()})

        def full(self, target):
            raise OSError("no space left on device")

        monkeypatch.setattr(type(path), "replace", full)
        with pytest.raises(OSError, match="no space"):
            write_settings(path, {"noise_std": 0.3})
        assert path.read_bytes() == before
        assert [path.name for path in tmp_path.iterdir()] == ["best.json"]
        assert json.loads(before) == {"noise_std": 0.2}

    def test_a_setting_without_meaning_for_the_task_is_refused(self, write):
        prepared = prepare(write(table()), of_kind())
        assert settings_for(prepared, {"class_weight": "balanced"}) == {"class_weight": "balanced"}
        regression = dataclasses.replace(prepared, task="regression")
        with pytest.raises(DataError, match="class_weight has no meaning in regression"):
            settings_for(regression, {"class_weight": "balanced", "noise_std": 0.1})
        assert settings_for(regression, {"noise_std": 0.1}) == {"noise_std": 0.1}
