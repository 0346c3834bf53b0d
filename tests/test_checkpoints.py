import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline

from laddernet import LadderClassifier, LadderRegressor, RunError
from laddernet.checkpoints import load_run, save_run
from laddernet.preparation import FORMAT, Preparation
from laddernet.run_folder import check_free, seal, writing

X, Y = load_iris(return_X_y=True)


def fitted(kind=LadderClassifier, y=Y, X=X, **settings):
    settings = {"hidden_layer_sizes": (8, 5), "max_epochs": 2, "batch_size": 50, "random_state": 0, **settings}
    return kind(**settings).fit(X, y)


def save(model, folder, **others):
    save_run(folder, model, training={"dataset": "iris", "seed": 3}, metrics={"test_error": 1.5}, **others)


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "runs" / "iris"
    save(fitted(), folder)
    return folder


@pytest.mark.parametrize(
    "model",
    [
        lambda: fitted(),
        lambda: fitted(y=np.array(["a", "bb", "c"])[Y]),
        lambda: fitted(y=np.array(["a", "bb", None], dtype=object)[Y]),
        lambda: fitted(X=pd.DataFrame(X, columns=list("abcd"))),
        lambda: fitted(variant="gamma", noise_std=(0.1, 0.2, 0.3, 0.4), denoising_weights=(1, 2, 3, 4)),
        lambda: fitted(precision="float64", combinator="amlp", ladder_options={"joint_statistics": True}),
        lambda: fitted(training_options={"averaged_epochs": 1}, ladder_options={"weight_normalization": "all"}),
        lambda: fitted(LadderRegressor, y=X[:, 0] * 3),
        lambda: fitted(random_state=np.random.RandomState(0)),
    ],
    ids=["int", "str", "object", "names", "gamma", "float64", "options", "regression", "random-state"],
)
def test_a_run_gives_back_the_same_answers(tmp_path, model):
    model = model()
    save(model, tmp_path / "run")
    loaded = load_run(tmp_path / "run")
    rows = pd.DataFrame(X, columns=list("abcd")) if hasattr(model, "feature_names_in_") else X
    np.testing.assert_array_equal(loaded.model.predict(rows), model.predict(rows))
    np.testing.assert_array_equal(loaded.model.transform(rows), model.transform(rows))
    assert loaded.model.predict(rows).dtype == model.predict(rows).dtype
    assert loaded.model.history_ == model.history_
    assert loaded.model.n_iter_ == 2
    assert loaded.training == {"dataset": "iris", "seed": 3}
    assert loaded.metrics == {"test_error": 1.5}
    assert loaded.model.get_params()["hidden_layer_sizes"] == (8, 5)


def test_a_run_folder_holds_plain_files(run):
    assert sorted(path.name for path in run.iterdir()) == [
        "checksums.json",
        "config.json",
        "history.jsonl",
        "metrics.json",
        "weights.safetensors",
    ]
    lines = (run / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
    assert [path.name for path in run.parent.iterdir()] == ["iris"]


def test_an_existing_run_is_never_replaced_unless_told(run):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(RunError, match="exists already.*--overwrite"):
        save(fitted(max_epochs=3), run)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    save(fitted(max_epochs=3), run, overwrite=True)
    assert load_run(run).model.n_iter_ == 3
    assert [path.name for path in run.parent.iterdir()] == ["iris"]


@pytest.mark.fault("the replacement of a run is broken off", "the old run is back")
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_overwrite_that_is_broken_off_brings_the_old_run_back(run, monkeypatch, error):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    rename = Path.rename

    def fail(self, target):
        if self.name.startswith(".iris.") and Path(target) == run:  # the new run, about to take its place
            raise error("stopped")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(error):
        save(fitted(), run, overwrite=True)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    assert [path.name for path in run.parent.iterdir()] == ["iris"]


@pytest.mark.fault("no room for a finished run that replaces another", "an error; the old run stays")
def test_an_overwrite_on_a_full_disk_leaves_the_old_run(tmp_path, request):
    save(fitted(), tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    wide = fitted(hidden_layer_sizes=(80, 50))
    request.getfixturevalue("full_disk")
    with pytest.raises(OSError, match="too large"):
        save(wide, tmp_path / "run", overwrite=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_numpy_arguments_are_written_as_numbers(tmp_path):
    save(fitted(hidden_layer_sizes=np.array([8, 5]), random_state=np.int64(1)), tmp_path / "run")
    assert load_run(tmp_path / "run").model.random_state == 1


def test_a_folder_that_is_no_run_is_not_overwritten_even_when_told(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="not a run folder, so it is not overwritten"):
        check_free(tmp_path, overwrite=True)


@pytest.mark.parametrize("name", ["unfinished/chapter.tex", "config.json", "unfinished/checkpoints of mine/1"])
def test_what_looks_a_little_like_a_run_is_none(tmp_path, name):
    (tmp_path / "mine" / name).parent.mkdir(parents=True)
    (tmp_path / "mine" / name).write_text("{}")
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(RunError, match="exists"):
            save(fitted(), tmp_path / "mine", overwrite=overwrite)
    assert (tmp_path / "mine" / name).read_text() == "{}"
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"


def test_what_is_no_runs_stays_in_a_folder_that_is_replaced(run):
    (run / "notes").mkdir()
    (run / "notes" / "thesis.tex").write_text("years of work")
    (run / "network.onnx").write_text("of the old run")
    save(fitted(hidden_layer_sizes=(9,)), run, overwrite=True)
    assert load_run(run).model.hidden_layer_sizes == (9,)
    assert (run / "notes" / "thesis.tex").read_text() == "years of work"
    assert not (run / "network.onnx").exists()
    assert [path.name for path in run.parent.iterdir()] == ["iris"]


def test_what_appears_while_a_run_is_written_is_not_replaced(tmp_path):
    def write():
        with writing(tmp_path / "run", overwrite=False) as new:
            (new / "config.json").write_text("{}")
            (tmp_path / "run").mkdir()
            (tmp_path / "run" / "thesis.tex").write_text("years of work")

    with pytest.raises(RunError, match="exists already"):
        write()
    assert (tmp_path / "run" / "thesis.tex").read_text() == "years of work"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_run_is_replaced_from_within_and_through_a_link(run, monkeypatch):
    monkeypatch.chdir(run)
    save(fitted(hidden_layer_sizes=(9,)), Path(), overwrite=True)
    assert load_run(run).model.hidden_layer_sizes == (9,)
    monkeypatch.chdir(run.parent)
    Path("link").symlink_to(run)
    save(fitted(hidden_layer_sizes=(7,)), Path("link"), overwrite=True)
    assert load_run(run).model.hidden_layer_sizes == load_run(Path("link")).model.hidden_layer_sizes == (7,)
    assert sorted(path.name for path in Path().iterdir()) == ["iris", "link"]


def test_names_that_are_no_utf8_are_kept(tmp_path):
    save_run(tmp_path / "run", fitted(), training={"data": "x\udcff.csv", "name": "größe"}, metrics={})
    assert load_run(tmp_path / "run").training == {"data": "x\udcff.csv", "name": "größe"}


def test_a_failure_while_writing_leaves_nothing_half_done(run):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    model = fitted()
    model.history_ = [{"epoch": 1, "cost": object()}]  # cannot go to JSON, and is written after the weights
    for folder, overwrite in [(run, True), (run.parent / "new", False)]:
        with pytest.raises(TypeError):
            save(model, folder, overwrite=overwrite)
    assert [path.name for path in run.parent.iterdir()] == ["iris"]
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def edit_config(run, **changes):
    path = run / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_parameters(run, **changes):
    edit_config(run, parameters=json.loads((run / "config.json").read_text())["parameters"] | changes)


def drop_field(run, name):
    path = run / "config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != name}))


def drop_tensor(run):
    tensors = load_file(run / "weights.safetensors")
    tensors.pop("ladder.network.0.0.weight")
    save_file(tensors, run / "weights.safetensors")


def reshape_scaling(run):
    tensors = load_file(run / "weights.safetensors")
    tensors |= {name: torch.zeros(7, dtype=value.dtype) for name, value in tensors.items() if "scaling" in name}
    save_file(tensors, run / "weights.safetensors")


def link_to_itself(run):
    (run / "metrics.json").unlink()
    (run / "metrics.json").symlink_to("metrics.json")


DAMAGES = {
    "nothing there": (shutil.rmtree, "is not a run folder: config.json cannot be read"),
    "link to itself": (link_to_itself, "leads elsewhere"),
    "config cut": (lambda run: (run / "config.json").write_text('{"format": 1,'), "config.json is damaged"),
    "config list": (lambda run: (run / "config.json").write_text("[]"), "does not hold a JSON object"),
    "format": (lambda run: edit_config(run, format=99), "run format 99; this version reads format 5.*newer.*update"),
    "older format": (lambda run: edit_config(run, format=4), "run format 4.*another laddernet.*or train it anew"),
    "unknown field": (
        lambda run: edit_config(run, surprise=1),
        "unknown field 'surprise': it perhaps comes from a newer",
    ),
    "nearly a field": (lambda run: edit_config(run, trainings=1), "'trainings': perhaps 'training' is meant"),
    "a field less": (lambda run: drop_field(run, "precision"), "has no field 'precision'"),
    "estimator": (lambda run: edit_config(run, estimator="os.system"), "not a usable run.*os.system"),
    "argument": (lambda run: edit_parameters(run, depth=3), "unknown parameter 'depth'"),
    "an argument less": (lambda run: edit_config(run, parameters={}), "has no parameter"),
    "arguments": (lambda run: edit_config(run, parameters=[1]), r"its field parameters is \[1\]"),
    "classes": (lambda run: edit_config(run, labels={"classes": [[0], [1]], "dtype": "<i8"}), "not all strings or"),
    "no classes": (
        lambda run: edit_config(run, labels={"classes": [], "dtype": "<i8"}),
        "there are 0 classes, which",
    ),
    "training": (lambda run: edit_config(run, training=[1]), r"its field training is \[1\]"),
    "depth": (lambda run: (run / "config.json").write_text("[" * 100_000), "config.json is damaged"),
    "width": (lambda run: edit_config(run, n_features_in=9), "another number of columns than 9"),
    "huge": (lambda run: edit_parameters(run, hidden_layer_sizes=[10**6, 10**6]), "other widths than"),
    "weights gone": (lambda run: (run / "weights.safetensors").unlink(), "not a usable run.*weights.safetensors"),
    "weights cut": (
        lambda run: (run / "weights.safetensors").write_bytes((run / "weights.safetensors").read_bytes()[:-50]),
        "not a usable run",
    ),
    "weights missing": (drop_tensor, "not a usable run.*ladder.network.0.0.weight"),
    "scaling": (reshape_scaling, "another number of columns"),
    "history": (lambda run: (run / "history.jsonl").write_text("{"), "not a usable run"),
    "a strange epoch": (lambda run: (run / "history.jsonl").write_text('{"epoch": 1}\n'), "line 1 of history.jsonl"),
    "metrics": (lambda run: (run / "metrics.json").unlink(), "metrics.json cannot be read"),
}


@pytest.mark.fault("a file of a finished run is damaged", "an error that says which and how")
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_runs_are_refused_with_a_reason(run, damage):
    harm, message = DAMAGES[damage]
    harm(run)
    if run.exists():
        seal(run)  # as if it had been written so
    with pytest.raises(RunError, match=message) as caught:
        load_run(run)
    assert str(run) in str(caught.value)


def test_column_weights_come_back(tmp_path):
    weight = np.linspace(0.5, 1.5, fitted().n_features_in_)
    model = fitted(column_weights=weight)
    save(model, tmp_path / "weighted")
    loaded = load_run(tmp_path / "weighted").model
    assert loaded.column_weights == tuple(weight)
    np.testing.assert_array_equal(loaded.scaling_.weight, weight)


def test_class_weights_come_back_with_the_classes_as_keys(tmp_path):
    for name, y, weights in (
        ("ints", Y, {0: 1, 1: 2.5, 2: 0.5}),
        ("numpy", Y, {np.int64(0): 1, np.int64(1): np.float32(2.5), np.int64(2): 0.5}),
        ("strings", np.array(["a", "b", "c"])[Y], {"a": 1, "b": 2.5, "c": 0.5}),
    ):
        model = fitted(y=y, class_weight=weights)
        save(model, tmp_path / name)
        loaded = load_run(tmp_path / name).model
        assert loaded.class_weight == weights
        assert {type(key) for key in loaded.class_weight} == {str if name == "strings" else int}
        np.testing.assert_array_equal(loaded.fit(X, y).predict_proba(X), model.predict_proba(X))
    save(fitted(class_weight="balanced"), tmp_path / "balanced")
    assert load_run(tmp_path / "balanced").model.class_weight == "balanced"


TABLE = pd.DataFrame(X[:, :2], columns=["a", "b"]).assign(
    c=np.array(["x", "y", None], dtype=object)[np.arange(150) % 3],
    d=pd.date_range("2020-01-01", periods=150, freq="D"),
    e=np.where(np.arange(150) % 7, X[:, 2], np.nan),
    text=[f"word{row} and other words" for row in range(150)],
)


@pytest.fixture(scope="module")
def prepared_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "run"
    preparation = Preparation.fit(TABLE)
    save(fitted(X=preparation.apply(TABLE)), folder, preparation=preparation)
    return preparation, folder


@pytest.fixture
def table_run(prepared_run, tmp_path):
    return Path(shutil.copytree(prepared_run[1], tmp_path / "run"))


def test_a_preparation_comes_back_with_the_run(table_run, prepared_run):
    loaded, before = load_run(table_run), prepared_run[0]
    rows = TABLE.iloc[::-1].assign(c="z")
    np.testing.assert_array_equal(loaded.preparation.apply(rows), before.apply(rows))
    assert loaded.preparation.feature_names == before.feature_names
    expected = fitted(X=before.apply(TABLE)).predict_proba(before.apply(rows))
    np.testing.assert_array_equal(loaded.model.predict_proba(loaded.preparation.apply(rows)), expected)
    assert load_run(table_run).training == {"dataset": "iris", "seed": 3}


def test_widths_that_the_columns_decide_come_back(tmp_path):
    model = fitted(hidden_layer_sizes="auto", max_epochs=1)
    save(model, tmp_path / "run")
    loaded = load_run(tmp_path / "run").model
    assert loaded.hidden_layer_sizes == "auto"
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))


def test_a_run_without_a_preparation_has_none(run):
    assert load_run(run).preparation is None


class Other:
    """Something that no preparation holds."""


def write_state(path, **changes):
    import skops.io

    preparation = Preparation.load(path)
    state = {name: getattr(preparation, name) for name in vars(preparation)}
    skops.io.dump({"format": FORMAT, **state, **changes}, path)


PREPARATIONS = {
    "other type": (lambda path: write_state(path, vectorizer=Other()), "holds what no preparation does.*Other"),
    "other class inside": (lambda path: write_state(path, vectorizer=Other), "holds what no preparation does"),
    "vectorizer": (lambda path: write_state(path, vectorizer=3), "is not a usable preparation"),
    "numbers": (lambda path: write_state(path, numeric=None), "is not a usable preparation"),
    "gaps": (lambda path: write_state(path, gaps=np.zeros(1, dtype=bool)), "is not a usable preparation"),
    "field": (lambda path: write_state(path, more=1), "is not a preparation of format"),
    "format": (lambda path: write_state(path, format=99), "is not a preparation of format"),
    "columns": (lambda path: Preparation.fit(TABLE[["a", "b"]]).save(path), "gives 2 columns, but the model takes"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-100]), "cannot be read as a preparation"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read as a preparation"),
    "gone": (lambda path: path.unlink(), "preparation.skops cannot be read.*No such file"),
    "folder": (lambda path: (path.unlink(), path.mkdir()), "is not a file of this folder"),
}


@pytest.mark.parametrize("damage", PREPARATIONS)
def test_a_damaged_preparation_is_refused_with_a_reason(table_run, damage):
    harm, message = PREPARATIONS[damage]
    harm(table_run / "preparation.skops")
    seal(table_run)
    with pytest.raises(RunError, match=message) as caught:
        load_run(table_run)
    assert str(table_run) in str(caught.value)
    assert "preparation" in str(caught.value)


def test_a_model_is_kept_by_its_folders_name_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    model = fitted()
    for name in ("run", "empty"):
        save_run(name, model)
        found = load_run(name)
        np.testing.assert_array_equal(found.model.predict_proba(X), model.predict_proba(X))
        assert (found.training, found.metrics, found.preparation) == ({}, {}, None)


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (LadderClassifier(), NotFittedError, "not fitted yet"),
        (
            make_pipeline(LadderClassifier()),
            TypeError,
            "model must be a LadderClassifier or a LadderRegressor .*pipeline",
        ),
        (None, TypeError, "model must be a LadderClassifier"),
    ],
)
def test_what_is_no_fitted_model_is_not_kept(tmp_path, model, error, message):
    with pytest.raises(error, match=message):
        save_run(tmp_path / "run", model)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_a_runs_place_is_not_said_to_be_overwritable(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(RunError, match="exists already, and is not a run folder. Name another with --out") as error:
        check_free(tmp_path / "run", overwrite=False)
    assert "--overwrite" not in str(error.value)
