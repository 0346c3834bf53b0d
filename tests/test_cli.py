import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from laddernet.checkpoints import load_run
from laddernet.cli import app

RUNNER = CliRunner()
QUICK = ["train", "digits", "--labels", "50", "--epochs", "2"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def call(*arguments, status=0):
    result = RUNNER.invoke(app, [str(a) for a in arguments])
    assert result.exit_code == status, result.output
    return result


def test_train_writes_a_run_and_shows_both_networks(tmp_path):
    result = call(*QUICK, "--seed", 3, "--out", "a run", "--json")
    last = json.loads(result.stdout.splitlines()[-1])
    assert set(last) == {
        "dataset", "labels", "seed", "epochs", "test_error", "baseline_test_error", "seconds", "run",
    }  # fmt: skip
    assert (last["dataset"], last["labels"], last["seed"], last["epochs"]) == ("digits", 50, 3, 2)
    run = load_run(tmp_path / "a run")
    assert run.metrics["test_error"] == last["test_error"]
    assert run.metrics["baseline_test_error"] == last["baseline_test_error"]
    assert run.training == {"dataset": "digits", "labels": 50, "seed": 3, "recipe": "digits-50"}
    for text in ("ladder (full)", "supervised only", f"{last['test_error']:.2f} %", "run written to a run"):
        assert text in result.stdout
    assert "epoch 2/2, cost" in result.stderr


def test_evaluate_tests_on_the_rows_the_run_did_not_see():
    trained = json.loads(call(*QUICK, "--seed", 3, "--out", "run", "--json", "--no-baseline").stdout.splitlines()[-1])
    assert trained["baseline_test_error"] is None
    evaluated = call("evaluate", "run", "digits", "--json")
    assert json.loads(evaluated.stdout.splitlines()[-1])["test_error"] == trained["test_error"]
    assert f"test error {trained['test_error']:.2f} % of 597 rows" in evaluated.stdout


def test_an_existing_run_is_kept_and_a_default_folder_is_new(tmp_path):
    call(*QUICK, "--no-baseline")
    call(*QUICK, "--no-baseline")
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["digits-50-seed-0", "digits-50-seed-0-2"]
    before = (tmp_path / "runs/digits-50-seed-0/weights.safetensors").read_bytes()
    result = call(*QUICK, "--out", "runs/digits-50-seed-0", status=1)
    assert result.stderr == (
        "laddernet: runs/digits-50-seed-0 exists already. Name another folder with --out, or give --overwrite.\n"
    )
    assert (tmp_path / "runs/digits-50-seed-0/weights.safetensors").read_bytes() == before
    call(*QUICK, "--no-baseline", "--seed", 1, "--out", "runs/digits-50-seed-0", "--overwrite")
    assert (tmp_path / "runs/digits-50-seed-0/weights.safetensors").read_bytes() != before


def test_a_validation_error_is_shown_where_rows_are_kept_back(tmp_path):
    result = call(*QUICK, "--no-baseline", "--validation-fraction", 0.2, "--out", "run")
    assert "validation error" in result.stderr
    record = json.loads((tmp_path / "run/history.jsonl").read_text().splitlines()[-1])
    assert 0 <= record["validation_error"] <= 1


@pytest.mark.parametrize("variant", ["gamma", "bottom", "baseline"])
def test_variants(variant):
    result = call(*QUICK, "--variant", variant, "--no-baseline", "--out", "run")
    assert f"ladder ({variant})" in result.stdout
    assert load_run(Path("run")).model.variant == variant


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "minst"], "no data set 'minst'"),
        (["train"], "Missing argument"),
        (["train", "digits", "--labels", "0"], "--labels"),
        (["train", "digits", "--labels", "9"], "too few"),
        (["train", "digits", "--labels", "1201"], "too many"),
        (["train", "digits", "--epochs", "0"], "--epochs"),
        (["train", "digits", "--variant", "delta"], "--variant"),
        (["train", "digits", "--precision", "half"], "--precision"),
        (["train", "digits", "--recipe", "mnist-100"], "no recipe 'mnist-100' for digits"),
        (["train", "digits", "--recipe", "digits-50", "--variant", "gamma"], "of the variant full"),
        (["train", "digits", "--depth", "3"], "No such option"),
        (["evaluate", "run", "minst"], "no data set"),
        (["reproduce"], "name a recipe"),
        (["reproduce", "mnist-1"], "no recipe mnist-1"),
        (["reproduce", "digits-50", "--seeds", "9-0"], "is not a list such as 0-9"),
        (["reproduce", "digits-50", "--seeds", "x"], "is not a list"),
        (["data", "fetch", "minst"], "no data set"),
        (["dance"], "No such command"),
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2(arguments, message):
    result = call(*arguments, status=2)
    assert message in " ".join(result.stderr.replace("│", " ").split())


def test_a_failure_exits_with_1_and_one_line():
    result = call("evaluate", "nowhere", "digits", status=1)
    assert (
        result.stderr
        == "laddernet: nowhere is not a run folder: config.json cannot be read (No such file or directory).\n"
    )
    call(*QUICK, "--no-baseline", "--out", "run")
    assert call(*QUICK, "--device", "toaster", status=1).stderr.count("\n") == 1


def test_an_unwritable_folder_is_refused_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    result = call(*QUICK, "--out", "file/run", status=1)
    assert result.stderr.startswith("laddernet: no run can be written to file/run")


def test_names_say_what_was_trained_and_may_hold_brackets(tmp_path):
    call("train", "digits", "--labels", 60, "--variant", "gamma", "--epochs", 1, "--no-baseline")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["digits-60-gamma-seed-0"]
    assert "run written to a[/b]" in call(*QUICK, "--no-baseline", "--out", "a[/b]").stdout


def test_debug_shows_the_traceback():
    result = RUNNER.invoke(app, ["evaluate", "nowhere", "digits", "--debug"])
    assert result.exit_code == 1
    assert type(result.exception).__name__ == "RunError"


def test_reproduce_appends_and_resumes(tmp_path):
    arguments = ["reproduce", "digits-50-baseline", "--out", "results"]
    first = call(*arguments, "--seeds", "1")
    assert "digits-50-baseline, seed 1: test error" in first.stdout
    second = call(*arguments, "--seeds", "0-1")
    assert "digits-50-baseline, seed 1: has been run already" in second.stdout
    assert "n = 2" in second.stdout
    entries = json.loads((tmp_path / "results/digits-50-baseline.json").read_text())["seeds"]
    assert [entry["seed"] for entry in entries] == [0, 1]


def test_lists():
    recipes = call("reproduce", "--list").stdout
    assert "digits-50" in recipes
    assert "1.06 ± 0.37" in recipes
    data = call("data", "list", "--data-dir", "nothing").stdout
    assert "comes with scikit-learn" in " ".join(data.replace("│", " ").split())
    assert "4 of 4 files missing" in " ".join(data.replace("│", " ").split())
    assert "nothing to fetch" in call("data", "fetch", "digits").stdout


def laddernet(*arguments):
    command = [sys.executable, "-m", "laddernet", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "100"})


def test_help_and_version_do_not_import_torch():
    code = (
        "import sys; sys.argv = ['laddernet', {!r}]\n"
        "from laddernet.cli import main\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules, 'sklearn' in sys.modules, 'numpy' in sys.modules)"
    )
    for argument, text in (("--help", "evaluate"), ("--version", "laddernet 0.1.0")):
        result = subprocess.run(
            [sys.executable, "-c", code.format(argument)], capture_output=True, text=True, check=True
        )
        assert text in result.stdout
        assert result.stdout.splitlines()[-1] == "False False False"


def test_as_a_command_a_failure_has_no_traceback():
    result = laddernet("evaluate", "nowhere", "digits")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    result = laddernet("evaluate", "nowhere", "digits", "--debug")
    assert result.returncode == 1
    assert "Traceback" in result.stderr
