import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from laddernet import resume
from laddernet.checkpoints import load_run, save_run
from laddernet.data import Dataset, hide_labels, load, missing_files
from laddernet.errors import RunError
from laddernet.estimators import LadderClassifier
from laddernet.loop import Callback, TrainingStopped
from laddernet.normalization import Statistics
from laddernet.recipes import RECIPES
from laddernet.reproduce import Machine, can_go_together, reproduce, run_recipe, seeds_at_once
from laddernet.results_file import read_results
from laddernet.resume import Checkpoint

OTHER_FILES = ["", "{", "[]", '{"recipe": "quick"}', '{"recipe": "quick", "seeds": []}']
OTHER_FILES += ['{"recipe": "other", "seeds": []}', '{"recipe": "quick", "seeds": [{}]}']
QUICK = replace(RECIPES["digits-50"], name="quick", max_epochs=2, hidden_layer_sizes=(20,), denoising_weights="auto")


def run(tmp_path, seed, recipe=QUICK):
    entries = reproduce(recipe, seeds=[seed], out=tmp_path, machine=Machine(device="cpu"))
    return entries[0] if entries else None


def test_each_seed_is_appended_once(tmp_path):
    second = run(tmp_path, 2)
    first = run(tmp_path, 1)
    assert run(tmp_path, 2) is None
    content = json.loads((tmp_path / "quick.json").read_text())
    assert set(content) == {"recipe", "settings", "seeds"}
    assert content["settings"]["max_epochs"] == 2
    assert content["seeds"] == [first, second]
    assert [path.name for path in tmp_path.iterdir()] == ["quick.json"]


@pytest.mark.fault("no room for a result", "an error; the results that are there stay, and the training's state")
def test_on_a_full_disk_the_results_that_are_there_stay(tmp_path, request):
    entry = run(tmp_path, 1)
    content = json.loads((tmp_path / "quick.json").read_text())
    content["seeds"] = [{**entry, "seed": seed, "note": "x" * 1000} for seed in range(1, 20)]
    (tmp_path / "quick.json").write_text(json.dumps(content))
    before = (tmp_path / "quick.json").read_bytes()
    request.getfixturevalue("full_disk")
    with pytest.raises(OSError, match="too large"), pytest.warns(UserWarning, match="without a new checkpoint"):
        run(tmp_path, 0)
    assert (tmp_path / "quick.json").read_bytes() == before


@pytest.mark.fault("a second process on one seed of `laddernet reproduce`", "the second is refused")
def test_the_same_seed_is_not_made_twice_at_once(tmp_path):
    checkpoint = Checkpoint(tmp_path / ".quick-seed-1.checkpoint")
    with checkpoint.locked():
        with pytest.raises(RunError, match="in use: another process"):
            run(tmp_path, 1)
        assert [path.name for path in tmp_path.iterdir()] == [".quick-seed-1.checkpoint.lock"]
    run(tmp_path, 1)


def test_what_another_process_ended_meanwhile_is_not_trained_again(tmp_path, monkeypatch):
    lock = Checkpoint.until_done

    def ends_first(checkpoint):  # between the first look and the lock
        monkeypatch.setattr(Checkpoint, "until_done", lock)
        run(tmp_path, 1)
        return lock(checkpoint)

    monkeypatch.setattr(Checkpoint, "until_done", ends_first)
    watched = {"quick": _Counted()}
    others = {"out": tmp_path, "machine": Machine(device="cpu"), "watch": watched.__getitem__}
    assert reproduce(QUICK, seeds=[1], **others) == []
    assert watched["quick"].epochs == []
    assert [path.name for path in tmp_path.iterdir()] == ["quick.json"]


def test_an_entry_says_what_was_measured_and_where(tmp_path):
    entry = run(tmp_path, 0)
    assert set(entry) == {
        "seed", "test_error", "cost", "seconds", "together", "epochs", "precision", "commit", "versions", "machine",
    }  # fmt: skip
    assert 0 < entry["test_error"] < 100
    assert entry["epochs"] == 2
    assert entry["precision"] == "float32"
    assert set(entry["versions"]) == {"laddernet", "torch", "numpy", "scikit-learn"}
    assert entry["machine"]


def test_the_same_seed_gives_the_same_result(tmp_path):
    errors = [run(tmp_path / str(i), 0)["test_error"] for i in range(2)]
    assert errors[0] == errors[1]
    assert run(tmp_path, 0)["cost"] != run(tmp_path, 1)["cost"]


def test_a_recipe_may_be_tested_with_the_labelled_rows_statistics(tmp_path):
    recipe = replace(QUICK, labeled_statistics=True)
    data = load("digits", seed=0)
    usual, labeled = (run_recipe(r, data, seeds=[0], machine=Machine(device="cpu"))[0].model for r in (QUICK, recipe))
    rows = torch.from_numpy(data.x_train[hide_labels(data.y_train, 50, seed=0) >= 0].astype(np.float32))
    first = labeled.ladder_.network[0]
    mean, var = next((module.mean, module.var) for module in first.modules() if isinstance(module, Statistics))
    z_pre = rows @ next(first.parameters()).T
    torch.testing.assert_close(mean, z_pre.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(var, z_pre.var(0, correction=0), rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(labeled.ladder_.parameters(), usual.ladder_.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)  # training is the same
    run(tmp_path, 0, recipe)
    with pytest.raises(RunError, match="with other settings"):
        run(tmp_path, 1)


STUDENT = replace(QUICK, name="student", teacher=QUICK, denoising_weights=(1000.0, 1.0, 0.01))


def test_a_student_learns_its_teachers_answers(tmp_path):
    data, machine = load("digits", seed=3), Machine(device="cpu")
    (student,) = run_recipe(STUDENT, data, seeds=[3], machine=machine)
    (teacher,) = run_recipe(QUICK, data, seeds=[3], machine=machine)
    known = hide_labels(data.y_train, 50, seed=3)
    answers = np.where(known >= 0, known, teacher.model.predict(data.x_train))
    alone = LadderClassifier(**STUDENT.settings(), device="cpu", random_state=3).fit(data.x_train, answers)
    np.testing.assert_array_equal(student.model.predict_proba(data.x_test), alone.predict_proba(data.x_test))
    assert student.test_error != teacher.test_error
    entry = run(tmp_path, 3, STUDENT)
    assert (entry["test_error"], entry["epochs"]) == (round(student.test_error, 4), 4)
    (own,) = read_results(tmp_path / "quick.json", QUICK)
    assert (own["seed"], own["test_error"], own["epochs"]) == (3, round(teacher.test_error, 4), 2)
    assert own["seconds"] < entry["seconds"]
    assert run(tmp_path, 3) is None  # the teacher's row has it, too
    with pytest.raises(RunError, match="student with other settings"):
        run(tmp_path, 4, replace(STUDENT, teacher=replace(QUICK, name="other", learning_rate=0.1)))
    with pytest.raises(RunError, match="quick with other settings"):
        run(tmp_path, 4, replace(STUDENT, name="second", teacher=replace(QUICK, learning_rate=0.1)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["quick.json", "student.json"]


def test_a_teachers_row_that_is_there_stays_as_it_is(tmp_path):
    run(tmp_path, 3)
    before = (tmp_path / "quick.json").read_bytes()
    assert run(tmp_path, 3, STUDENT)
    assert (tmp_path / "quick.json").read_bytes() == before


def test_a_student_goes_on_with_its_teachers_own_row_that_was_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "SHARE", 1e9)  # the state is kept after each epoch
    others = {"seeds": [0], "out": tmp_path, "machine": Machine(device="cpu")}
    with pytest.raises(TrainingStopped):
        reproduce(QUICK, **others, watch=lambda _: _StoppedIn())
    watched = {"quick": _Counted(), "student": _Counted()}
    reproduce(STUDENT, **others, watch=watched.__getitem__)
    assert [watch.epochs for watch in watched.values()] == [[2], [1, 2]]


def test_an_entry_names_the_code_that_began_its_training(tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "SHARE", 1e9)  # the state is kept after each epoch
    others = {"seeds": [0], "out": tmp_path, "machine": Machine(device="cpu")}
    with monkeypatch.context() as changed:
        changed.setattr("laddernet.reproduce.commit_of_code", lambda: "an earlier one")
        with pytest.raises(TrainingStopped):
            reproduce(QUICK, **others, watch=lambda _: _StoppedIn())
    (entry,) = reproduce(QUICK, **others)
    (earlier,) = entry["earlier"]
    assert earlier["commit"] == "an earlier one" != entry["commit"]
    assert earlier["versions"] == entry["versions"]
    assert entry["machine"].startswith(earlier["machine"])


def test_a_training_is_not_taken_up_in_another_precision(tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "SHARE", 1e9)  # the state is kept after each epoch
    wide = replace(QUICK, hidden_layer_sizes=(1000, 1000))  # for which "auto" depends on the processor
    native = {"amx_bf16": True, "cpu_name": "one with AMX"}
    others = {"seeds": [0], "out": tmp_path, "machine": Machine(device="cpu")}
    monkeypatch.setattr("laddernet.training.cpu_capabilities", lambda: native)
    with pytest.raises(TrainingStopped):
        reproduce(wide, **others, watch=lambda _: _StoppedIn())
    monkeypatch.setattr("laddernet.training.cpu_capabilities", dict)
    with pytest.raises(RunError, match=r"its precision differ \(precision: bfloat16 there, float32 here\)"):
        reproduce(wide, **others)
    assert (tmp_path / ".quick-seed-0.checkpoint").exists()


class _StoppedIn(Callback):
    def on_epoch_end(self, record):
        os.kill(os.getpid(), signal.SIGINT)


class _Counted(Callback):
    def __init__(self):
        self.epochs = []

    def on_epoch_end(self, record):
        self.epochs.append(record["epoch"])


@pytest.mark.fault("a student's training is stopped", "the same command goes on with the student, to the same end")
def test_a_student_that_was_stopped_goes_on_and_its_teacher_is_not_trained_again(tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "SHARE", 1e9)  # the state is kept after each epoch
    whole = run(tmp_path / "whole", 0, STUDENT)
    others = {"seeds": [0], "out": tmp_path, "machine": Machine(device="cpu")}
    with pytest.raises(TrainingStopped) as stopped:
        reproduce(STUDENT, **others, watch=lambda name: _StoppedIn() if name == "student" else Callback())
    assert stopped.value.__notes__ == ["The training's state is kept; the same command goes on with it."]
    watched = {"quick": _Counted(), "student": _Counted()}
    (entry,) = reproduce(STUDENT, **others, watch=watched.__getitem__)
    assert [watch.epochs for watch in watched.values()] == [[], [2]]
    assert (entry["test_error"], entry["cost"]) == (whole["test_error"], whole["cost"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["quick.json", "student.json", "whole"]


@pytest.mark.parametrize("content", [*OTHER_FILES, '{"recipe": "quick", "seeds": [{"seed": null, "test_error": 1}]}'])
def test_a_file_that_is_something_else_is_left_alone(tmp_path, content):
    path = tmp_path / "quick.json"
    path.write_text(content)
    with pytest.raises(RunError, match="quick.json is not a results file"):
        run(tmp_path, 0)
    assert path.read_text() == content
    assert [path.name for path in tmp_path.iterdir()] == ["quick.json"]


def test_results_of_other_settings_are_not_mixed(tmp_path):
    run(tmp_path, 0)
    with pytest.raises(RunError, match="has results of quick with other settings"):
        run(tmp_path, 1, replace(QUICK, learning_rate=0.1))


def test_all_labels_are_kept_where_the_recipe_says_so(tmp_path):
    longer = replace(QUICK, max_epochs=10)
    everything = run(tmp_path / "all", 0, replace(longer, labels=None))
    assert everything["test_error"] < run(tmp_path / "few", 0, longer)["test_error"]


def test_seeds_whose_data_differ_are_not_trained_at_once(tmp_path):
    assert not can_go_together(QUICK)
    assert seeds_at_once(QUICK, Machine(device="cpu")) == 1
    with pytest.raises(ValueError, match="quick cannot train several seeds at once.*--together 1"):
        reproduce(QUICK, seeds=[0, 1], out=tmp_path, machine=Machine(device="cpu"))


@pytest.mark.slow
@pytest.mark.skipif(bool(missing_files("mnist")), reason="needs MNIST under LADDERNET_DATA")
@pytest.mark.parametrize("taught", [False, True])
def test_seeds_trained_at_once_end_where_each_ends_alone(tmp_path, taught):
    recipe = replace(
        RECIPES["mnist-100"], name="quick", hidden_layer_sizes=(20,), denoising_weights=(100.0, 1.0, 0.1),
        batch_size=3000, max_epochs=1,
    )  # fmt: skip
    if taught:
        recipe = replace(recipe, teacher=replace(recipe, name="teacher"))
    machine = Machine(device="cpu", precision="float64")
    together = reproduce(recipe, seeds=[4, 5], out=tmp_path / "together", machine=machine)
    assert [entry["seed"] for entry in together] == [4, 5]
    assert [entry["together"] for entry in together] == [2, 2]
    alone = [reproduce(recipe, seeds=[seed], out=tmp_path / "alone", machine=machine)[0] for seed in (4, 5)]
    for one, other in zip(alone, together, strict=True):
        assert other["test_error"] == pytest.approx(one["test_error"], abs=0.02)
        assert other["cost"] == pytest.approx(one["cost"], rel=1e-7)
    assert reproduce(recipe, seeds=[5, 4], out=tmp_path / "together", machine=machine) == []


def images(shape, rows):
    """A data set of small pictures of two kinds, flat, as those by name are."""
    rng = np.random.default_rng(0)
    y = np.arange(rows) % 10
    x = rng.random((rows, *shape)).astype(np.float32)
    x[:, :, :14] += 0.1 * y[:, None, None, None]
    x = x.reshape(rows, -1)
    return Dataset(x_train=x, y_train=y, x_test=x[:30], y_test=y[:30])


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("mnist-100-conv-small-gamma", (1, 28, 28)),
        pytest.param("cifar10-4000-gamma", (3, 32, 32), marks=pytest.mark.slow),  # its whitening alone takes seconds
    ],
)
def test_a_convolutional_recipe_runs_and_comes_back(name, shape, tmp_path):
    rows = 60 if shape[0] == 1 else 20
    recipe = replace(RECIPES[name], max_epochs=1, labels=10, batch_size=rows // 2)
    data = images(shape, rows)
    (outcome,) = run_recipe(recipe, data, seeds=[0], machine=Machine(device="cpu"))
    assert outcome.model.input_shape_ == shape
    assert 0 <= outcome.test_error <= 100
    save_run(tmp_path / "run", outcome.model, training={"dataset": recipe.dataset}, metrics={})
    loaded = load_run(tmp_path / "run").model
    np.testing.assert_array_equal(loaded.predict_proba(data.x_test), outcome.model.predict_proba(data.x_test))
    assert not can_go_together(recipe)
