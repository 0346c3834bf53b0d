import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from laddernet import cli
from laddernet.checkpoints import load_run
from laddernet.cli import app
from laddernet.errors import ProcessLostError
from laddernet.recipes import RECIPES
from laddernet.run_folder import seal

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
        (["train"], "name what to train on, or a run to --resume"),
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
        (["train", "digits", "--label-column", "y"], "--label-column: is for a file, and digits is a data set"),
        (["train", "digits", "--labels-file", "y.npy"], "is for a file, and digits is a data set"),
        (["train", "digits", "--test", "test.csv"], "--test: is for a file"),
        (["train", "digits", "--test-fraction", "0.1"], "--test-fraction: is for a file"),
        (["train", "digits", "--task", "regression"], "--task: is for a file"),
        (["train", "digits", "--settings", "best.json"], "--settings: is for a file"),
        (["train", "a.csv", "--recipe", "digits-50"], "a recipe is of a data set, and a.csv is a file"),
        (["train", "a.csv", "--test", "b.csv", "--test-fraction", "0.2"], "there are test rows already"),
        (["tune", "a.csv", "--test", "b.csv", "--test-fraction", "0.2"], "there are test rows already"),
        (["train", "a.csv", "--test-fraction", "1"], "--test-fraction"),
        (["train", "a.csv", "--task", "clustering"], "--task"),
        (["tune", "a.csv", "--folds", "1"], "--folds"),
        (["tune", "a.csv", "--trials", "0"], "--trials"),
        (["train", "rows"], "no data set 'rows' and no such file"),
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
    told = "seed 1: has been run already, and is in results/digits-50-baseline.json; another --out runs it again"
    assert f"digits-50-baseline, {told}" in second.stdout
    assert "n = 2" in second.stdout
    entries = json.loads((tmp_path / "results/digits-50-baseline.json").read_text())["seeds"]
    assert [entry["seed"] for entry in entries] == [0, 1]


def test_reproduce_sums_up_a_teachers_row_beside_its_students(tmp_path):
    kept = Path(__file__).parents[1] / "results"
    for name in ("mnist-100-student", "mnist-100"):
        (tmp_path / f"{name}.json").write_bytes((kept / f"{name}.json").read_bytes())
        shown = call("reproduce", "mnist-100-student", "--seeds", "0-1", "--out", ".").stdout.splitlines()
        assert shown[:2] == [
            f"mnist-100-student, seed {seed}: has been run already, and is in mnist-100-student.json; another --out "
            "runs it again"
            for seed in (0, 1)
        ]
        assert [line.split(":")[0] for line in shown[2:]] == ["mnist-100", "mnist-100-student"][-len(shown[2:]) :]
    assert len(shown) == 4


def rows_of(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in table.splitlines() if "│" in line]


def test_lists():
    recipes = call("reproduce", "--list").stdout
    cells = rows_of(recipes)
    assert [cell[0] for cell in cells] == list(RECIPES)
    assert ["mnist-100", "100", "150", "1.06 ± 0.37"] in cells
    assert max(map(len, recipes.splitlines())) <= 80
    data = call("data", "list", "--data-dir", "nothing").stdout
    cells = rows_of(data)
    assert ["digits", "1,200", "597", "64", "10", "in scikit-learn"] in cells
    assert ["mnist", "60,000", "10,000", "784", "10", "4 of 4 missing"] in cells
    assert max(map(len, data.splitlines())) <= 80
    assert "in nothing, each" in data
    assert "nothing to fetch" in call("data", "fetch", "digits").stdout


def test_a_recipes_settings_are_listed():
    shown = call("reproduce", "mnist-100-student", "ablation-labeled-statistics", "mnist-100-conv-fc", "--list").stdout
    cells = rows_of(shown)
    for row in (
        ["noise_std", "0.3, 0.2 x6"],
        ["denoising_weights", "2000, 20, 0.1 x5"],
        ["max_epochs", "30"],
        ["(labels of the rest)", "the answers of mnist-100"],
        ["(when tested)", "the labelled rows' statistics"],
        ["module", "networks.conv_fc"],
    ):
        assert cells.count(row) == 1
    assert "mnist-100-student: mnist, 100 labels" in shown


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


def test_a_signal_upon_an_error_does_not_hide_how_to_go_on(capsys):
    """As where a process of several has died, and what launched them ends the others while they say so."""
    before = signal.getsignal(signal.SIGTERM)

    @cli._clear_errors
    def command():
        try:
            error = ProcessLostError("another process is gone.")
            error.add_note("Go on with: laddernet train --resume run")
            raise error
        finally:
            raise KeyboardInterrupt(signal.SIGTERM)

    with pytest.raises(typer.Exit) as ended:
        command()
    assert ended.value.exit_code == 143
    assert capsys.readouterr().err == "laddernet: interrupted. Go on with: laddernet train --resume run\n"
    assert signal.getsignal(signal.SIGTERM) is before


CLASSES = ("cat", "dog", "a long name")


def table(rows=60, *, unlabeled=12, seed=0):
    rng = np.random.default_rng(seed)
    classes = np.arange(rows) % 3
    frame = pd.DataFrame(
        {
            "size": classes * 2 + rng.normal(0, 0.5, rows).round(4),
            "colour": rng.choice(["red", "green", "blue"], rows),
            "animal": np.array(CLASSES, dtype=object)[classes],
            "age": rng.integers(1, 9, rows),
        }
    )
    frame.loc[: unlabeled - 1, "animal"] = None
    return frame


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Files, and runs trained on them that no test changes."""
    folder = tmp_path_factory.mktemp("trained")
    table().to_csv(folder / "animals.csv", index=False)
    table(30, seed=1).to_csv(folder / "others.csv", index=False)
    numbers = table().drop(columns=["animal", "colour"]).assign(code=np.r_[[np.nan] * 12, [3, 4, 70] * 16])
    numbers.to_parquet(folder / "codes.parquet")
    numbers.assign(price=numbers["size"] * 100 + 0.5).drop(columns="code").to_csv(folder / "prices.csv", index=False)
    for name, label in (("animals.csv", "animal"), ("codes.parquet", "code"), ("prices.csv", "price")):
        arguments = ["train", folder / name, "--label-column", label, "--epochs", 3, "--json"]
        result = call(*arguments, "--out", folder / name.split(".")[0])
        (folder / f"{name}.json").write_text(result.stdout.splitlines()[-1])
    return folder


def failure(*arguments):
    """The one line that a failing command says."""
    result = call(*arguments, status=1)
    assert result.stderr.startswith("laddernet: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


class TestTrainOnAFile:
    def test_it_shows_all_models_and_writes_a_run(self, trained, tmp_path):
        result = call("train", trained / "animals.csv", "--label-column", "animal", "--epochs", 2, "--json")
        shown = " ".join(result.stdout.split())
        assert "animals.csv: 36 labelled and 12 unlabelled rows to train on, 12 to test on; 3 classes" in shown
        assert "(a long name 12, cat 12, dog 12); 3 columns make 5 features; seed 0" in shown
        assert "wrong of 12" in shown
        for model in ("ladder (full)", "supervised only", "logistic regression", "the most common class"):
            assert model in shown
        run = Path("runs/animals-seed-0")
        assert f"run written to {run}; now: laddernet predict {run} FILE" in result.stdout
        last = json.loads(result.stdout.splitlines()[-1])
        assert set(last) == {
            "file", "label", "task", "labels", "rows", "test_rows", "seed", "test_error", "baseline_test_error",
            "linear_test_error", "constant_test_error", "epochs", "seconds", "run",
        }  # fmt: skip
        assert f"{last['test_error']:.2f} %" in shown
        assert f"{last['linear_test_error']:.2f} %" in shown
        assert last["constant_test_error"] == 66.6667
        assert "66.67 % │ 8 │" in shown
        run = load_run(tmp_path / last["run"])
        assert run.metrics == {name: last[name] for name in last if "error" in name or name == "seconds"}
        assert run.training == {name: last[name] for name in run.training}
        assert run.training["label"] == "animal"
        assert run.model.classes_.tolist() == sorted(CLASSES)
        assert run.preparation.columns == ["size", "colour", "age"]
        assert run.model.n_iter_ == last["epochs"] == 2

    def test_regression(self, trained):
        last = json.loads((trained / "prices.csv.json").read_text())
        assert last["task"] == "regression"
        for model in ("", "baseline_", "linear_", "constant_"):
            assert last[f"{model}test_rmse"] > 0
            assert last[f"{model}test_r2"] <= 1
        result = call("train", trained / "prices.csv", "--label-column", "price", "--epochs", 1, "--seed", 1)
        assert "a regression; 2 columns" in " ".join(result.stdout.split())
        assert "ridge regression" in result.stdout

    def test_arrays(self, trained, tmp_path):
        frame = pd.read_parquet(trained / "codes.parquet")
        x, y = frame[["size", "age"]].to_numpy(), frame["code"].fillna(-1).to_numpy(dtype=int)
        np.savez("rows.npz", X=x, y=y)
        np.save("some_X.npy", x)
        np.save("some_y.npy", y)
        expected = load_run(trained / "codes")
        for name in ("rows.npz", "some_X.npy"):
            call("train", name, "--epochs", 3, "--no-baseline", "--out", f"run of {name}")
            run = load_run(tmp_path / f"run of {name}")
            assert run.training["label"] == "y"
            assert run.metrics["test_error"] == expected.metrics["test_error"]
            assert run.model.classes_.tolist() == [3, 4, 70]
            lacks = f"{trained / 'codes.parquet'}: the table lacks columns that training had: '0', '1'"
            said = failure("predict", f"run of {name}", trained / "codes.parquet")
            assert said.startswith(f"laddernet: {lacks}")
            call("predict", f"run of {name}", "some_X.npy", "--out", f"{name}.csv")
            call("predict", f"run of {name}", "rows.npz", "--out", f"{name}.2.csv")
            np.save("narrow.npy", x[:, :1])
            assert "the table lacks columns" in failure("predict", f"run of {name}", "narrow.npy", "--out", "x.csv")
        assert len({path.read_text() for path in tmp_path.glob("*.csv")}) == 1
        call("predict", trained / "codes", trained / "codes.parquet", "--out", "of table.csv")
        np.testing.assert_allclose(pd.read_csv("of table.csv"), pd.read_csv("rows.npz.csv"), atol=1e-5)

    def test_labels_in_an_array_of_another_name(self, trained):
        frame = pd.read_parquet(trained / "codes.parquet")
        x, y = frame[["size", "age"]].to_numpy(), frame["code"].fillna(-1).to_numpy(dtype=int)
        np.savez("rows.npz", X=x, code=y)
        np.save("X.npy", x)
        np.save("y.npy", y)
        call("train", "rows.npz", "--label-column", "code", "--epochs", 1, "--no-baseline", "--out", "run")
        call("predict", "run", "X.npy", "--out", "one.csv")
        call("predict", "run", "rows.npz", "--out", "two.csv")
        assert Path("one.csv").read_text() == Path("two.csv").read_text()
        errors = {json.loads(call("evaluate", "run", name, "--json").stdout.splitlines()[-1])["test_error"]
                  for name in ("X.npy", "rows.npz")}  # fmt: skip
        assert len(errors) == 1

    def test_few_labels_and_a_file_of_test_rows(self, trained):
        arguments = ["--label-column", "animal", "--test", trained / "others.csv", "--labels", 6, "--epochs", 1]
        result = call("train", trained / "animals.csv", *arguments, "--no-baseline", "--json", "--out", "run")
        last = json.loads(result.stdout.splitlines()[-1])
        assert (last["labels"], last["rows"], last["test_rows"]) == (6, 60, 18)
        assert "linear_test_error" not in last
        evaluated = call("evaluate", "run", trained / "others.csv", "--json")
        assert json.loads(evaluated.stdout.splitlines()[-1])["test_error"] == last["test_error"]
        assert "supervised only" not in result.stdout

    def test_without_test_rows_it_says_so(self, trained, tmp_path):
        arguments = ["--label-column", "animal", "--test-fraction", 0, "--epochs", 1, "--json", "--out", "run"]
        result = call("train", trained / "animals.csv", *arguments)
        assert "laddernet: there are no test rows, so no error is measured; ask for some" in result.stderr
        last = json.loads(result.stdout.splitlines()[-1])
        assert last["test_rows"] == 0
        assert not any("error" in name for name in last)
        assert load_run(tmp_path / "run").model.n_iter_ == 1

    def test_settings_are_used_and_options_override_them(self, trained, tmp_path):
        settings = {"hidden_layer_sizes": [7], "noise_std": 0.25, "max_epochs": 4, "validation_fraction": 0.25,
                    "precision": "float64", "random_state": 9}  # fmt: skip
        Path("best.json").write_text(json.dumps(settings))
        arguments = ["train", trained / "animals.csv", "--label-column", "animal", "--settings", "best.json"]
        call(*arguments, "--no-baseline", "--out", "one")
        model = load_run(tmp_path / "one").model
        expected = settings | {"hidden_layer_sizes": (7,), "random_state": 0}
        assert {name: model.get_params()[name] for name in settings} == expected
        assert model.n_iter_ == 4
        others = ["--epochs", 2, "--precision", "float32", "--variant", "gamma", "--validation-fraction", 0.5]
        call(*arguments, "--out", "two", *others)
        model = load_run(tmp_path / "two").model
        assert (model.n_iter_, model.precision, model.variant) == (2, "float32", "gamma")
        assert (model.noise_std, model.validation_fraction) == (0.25, 0.5)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["nowhere.csv", "--label-column", "animal"], "nowhere.csv is not there. Name a file of data."),
            (["rows.txt"], "rows.txt has the suffix .txt, which says no known format. Use .csv"),
            (["animals.csv"], "which column holds the labels? Name one with --label-column"),
            (["animals.csv", "--label-column", "anima"], "has no column 'anima' to take the labels from"),
            (["animals.csv", "--label-column", "animal", "--labels", "2"], "cannot keep 2 labels"),
            (["animals.csv", "--label-column", "animal", "--labels-file", "y.npy"], "has its labels within"),
            (["animals.csv", "--label-column", "animal", "--test", "no.csv"], "no.csv is not there"),
            (["animals.csv", "--label-column", "animal", "--settings", "no.json"], "the settings no.json cannot be"),
            (["animals.csv", "--label-column", "animal", "--settings", "bad.json"], "must hold settings only; it has"),
            (["animals.csv", "--label-column", "size", "--settings", "class.json"], "class_weight has no meaning in"),
            (["animals.csv", "--label-column", "animal", "--task", "regression"], "could not convert string to float"),
            (["animals.csv", "--label-column", "animal", "--device", "toaster"], "toaster"),
        ],
    )  # fmt: skip
    def test_a_failure_is_one_line_and_leaves_an_existing_run(self, trained, arguments, message):
        table().to_csv("animals.csv", index=False)
        Path("rows.txt").write_text("")
        Path("bad.json").write_text('{"d": 1}')
        Path("class.json").write_text('{"class_weight": "balanced"}')
        Path("run").mkdir()
        for name in ("config.json", "history.jsonl", "metrics.json"):
            Path("run", name).write_text("precious")
        assert message in failure("train", *arguments, "--out", "new")
        assert message in failure("train", *arguments, "--out", "run", "--overwrite")
        assert "run exists already" in failure("train", *arguments, "--out", "run")
        assert [path.read_text() for path in Path("run").iterdir()] == ["precious"] * 3
        assert not Path("new").exists()

    def test_columns_are_left_out_here_and_in_every_later_file(self, trained, tmp_path):
        arguments = ["--label-column", "animal", "--epochs", 1, "--drop", "age", "--drop", "colour"]
        result = call("train", trained / "animals.csv", *arguments, "--test", trained / "others.csv")
        assert "1 column makes 1 feature;" in " ".join(result.stdout.split())
        run = Path("runs/animals-seed-0")
        shown = call("evaluate", run, trained / "others.csv")
        answers = call("predict", run, trained / "others.csv")
        assert not any("left out" in one.stderr for one in (result, shown, answers))
        table(30, seed=1)[["size"]].to_csv("kept.csv", index=False)
        call("predict", run, "kept.csv", "--out", "again.csv")
        assert Path("again.csv").read_text() == Path("predictions.csv").read_text()
        best = call("tune", trained / "animals.csv", *arguments, "--trials", 1, "--folds", 2)
        assert "1 column makes 1 feature;" in " ".join(best.stdout.split())

    def test_a_column_to_leave_out_must_be_there(self, trained):
        arguments = ["train", trained / "animals.csv", "--label-column", "animal"]
        assert "no column 'colur' to leave out (perhaps 'colour')" in failure(*arguments, "--drop", "colur")
        every = [part for name in ("size", "colour", "age") for part in ("--drop", name)]
        assert "every column is to be left out" in failure(*arguments, *every)
        assert not list(Path("runs").iterdir())

    def test_the_labels_are_never_among_the_columns_to_leave_out(self, trained):
        arguments = ["train", trained / "animals.csv", "--label-column", "animal", "--drop", "animal"]
        assert "'animal' holds the labels, so it cannot be left out" in failure(*arguments)

    def test_codes_that_read_as_numbers_in_one_file_stay_codes(self, tmp_path):
        codes = ["001", "002", "X01"] * 20
        frame = pd.DataFrame({"code": codes, "n": np.arange(60) % 7, "label": ["a", "b", "c"] * 20})
        frame.to_csv("codes.csv", index=False)
        call("train", "codes.csv", "--label-column", "label", "--epochs", 2, "--no-baseline", "--out", "run")
        numbers = frame[frame["code"] != "X01"].drop(columns="label")
        for name, rows in (("whole", frame.drop(columns="label")), ("numbers", numbers)):
            rows.to_csv(f"{name}.csv", index=False)
            call("predict", "run", f"{name}.csv", "--out", f"{name}-out.csv")
        whole, part = (pd.read_csv(f"{name}-out.csv") for name in ("whole", "numbers"))
        pd.testing.assert_frame_equal(part, whole[frame["code"] != "X01"].reset_index(drop=True), atol=2e-6)
        frame[frame["code"] != "X01"].to_csv("labelled.csv", index=False)
        right = (whole["prediction"] == frame["label"])[frame["code"] != "X01"].mean()
        shown = call("evaluate", "run", "labelled.csv").stdout
        assert f"test error {100 * (1 - right):.2f} %" in shown

    def test_whole_numbers_that_are_taken_for_amounts_are_said_to_be(self, tmp_path):
        frame = pd.DataFrame({"a": np.arange(40.0), "y": [*range(12), *[np.nan] * 28]})
        frame.to_csv("few.csv", index=False)
        arguments = ["train", "few.csv", "--label-column", "y", "--epochs", 1, "--no-baseline"]
        hint = "if they are classes, say --task classification"
        assert hint in call(*arguments).stderr
        assert hint not in call(*arguments, "--task", "regression").stderr

    def test_an_interrupted_comparison_leaves_the_finished_ladder(self, trained, tmp_path):
        arguments = ["train", trained / "animals.csv", "--label-column", "animal", "--epochs", 600, "--out", "run"]
        command = [sys.executable, "-m", "laddernet", *map(str, arguments)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            said = ""
            for line in process.stderr:
                said += line
                if line.startswith("supervised only: epoch"):
                    process.send_signal(signal.SIGINT)
                    break
            said += process.stderr.read()
        assert process.returncode == 130
        assert "the ladder was trained before and is in run" in said
        run = load_run(tmp_path / "run")
        assert set(run.metrics) == {"test_error", "seconds"}
        assert run.model.n_iter_ == 600

    def test_balanced_is_of_classes(self, trained, tmp_path):
        arguments = ["--epochs", 1, "--no-baseline", "--balanced", "--out", "run"]
        call("train", trained / "animals.csv", "--label-column", "animal", *arguments)
        assert load_run(tmp_path / "run").model.class_weight == "balanced"
        arguments = ["--epochs", 1, "--balanced", "--out", "other", "--json"]
        result = call("train", trained / "animals.csv", "--label-column", "animal", *arguments)
        last = json.loads(result.stdout.splitlines()[-1])
        assert last["constant_test_balanced_error"] == 66.6667
        assert {"test_balanced_error", "baseline_test_balanced_error", "linear_test_balanced_error"} < set(last)
        assert "balanced error" in " ".join(result.stdout.split())
        arguments[-2] = "third"
        text = failure("train", trained / "prices.csv", "--label-column", "price", *arguments)
        assert "class_weight has no meaning in regression" in text

    def test_many_features_of_one_column_count_as_one(self, trained):
        animals, codes = (load_run(trained / name) for name in ("animals", "codes"))
        weights = np.array(animals.model.column_weights)
        np.testing.assert_array_equal(weights, animals.preparation.column_weights)
        np.testing.assert_array_equal(weights, animals.model.scaling_.weight)
        assert set(weights) == {1, 3**-0.5}
        assert animals.model.get_params()["column_weights"] == tuple(weights)
        assert codes.model.column_weights is None


class TestPredict:
    def test_a_class_and_probabilities_for_every_row_in_order(self, trained):
        frame = table(unlabeled=12)
        frame.to_csv("rows.csv", index=False)
        result = call("predict", trained / "animals", "rows.csv")
        assert "60 predictions written to predictions.csv" in result.stdout
        predictions = pd.read_csv("predictions.csv")
        assert list(predictions) == ["prediction", *(f"probability_{name}" for name in sorted(CLASSES))]
        probabilities = predictions.drop(columns="prediction").to_numpy()
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
        assert predictions["prediction"].tolist() == [sorted(CLASSES)[k] for k in probabilities.argmax(axis=1)]
        run = load_run(trained / "animals")
        x = run.preparation.apply(frame.drop(columns="animal"))
        np.testing.assert_allclose(probabilities, run.model.predict_proba(x), atol=1e-6)
        assert predictions["prediction"].tolist() == run.model.predict(x).tolist()
        assert predictions["prediction"].nunique() > 1

        order = np.random.default_rng(0).permutation(60)
        columns = ["age", "animal", "size", "colour"]  # found by their names
        frame.iloc[order][columns].to_csv("permuted.csv", index=False)
        call("predict", trained / "animals", "permuted.csv", "--out", "permuted predictions.csv")
        permuted = pd.read_csv("permuted predictions.csv")
        assert permuted["prediction"].tolist() == predictions["prediction"].iloc[order].tolist()
        np.testing.assert_allclose(permuted.drop(columns="prediction"), probabilities[order], atol=1e-6)

    def test_labels_are_not_needed_and_not_looked_at(self, trained):
        frame = table()
        frame.to_csv("with.csv", index=False)
        frame.drop(columns="animal").to_csv("without.csv", index=False)
        frame.assign(animal="unicorn").to_csv("other.csv", index=False)
        for name in ("with", "without", "other"):
            call("predict", trained / "animals", f"{name}.csv", "--out", f"{name}.predictions.csv")
        assert len({path.read_text() for path in Path().glob("*.predictions.csv")}) == 1

    def test_whole_numbers_stay_whole_and_other_formats_are_written(self, trained):
        call("predict", trained / "codes", trained / "codes.parquet", "--out", "p.parquet")
        predictions = pd.read_parquet("p.parquet")
        assert list(predictions) == ["prediction", "probability_3", "probability_4", "probability_70"]
        assert predictions["prediction"].dtype == np.int64
        call("predict", trained / "codes", trained / "codes.parquet", "--out", "p.tsv")
        assert pd.read_csv("p.tsv", sep="\t")["prediction"].tolist() == predictions["prediction"].tolist()

    def test_of_a_regression_only_the_values(self, trained):
        call("predict", trained / "prices", trained / "prices.csv")
        predictions = pd.read_csv("predictions.csv")
        assert list(predictions) == ["prediction"]
        run = load_run(trained / "prices")
        x = run.preparation.apply(pd.read_csv(trained / "prices.csv").drop(columns="price"))
        np.testing.assert_allclose(predictions["prediction"], run.model.predict(x), rtol=1e-5)

    def test_of_a_run_on_a_data_set_arrays_of_its_width(self):
        call(*QUICK, "--no-baseline", "--out", "run")
        x = np.random.default_rng(0).uniform(0, 16, (5, 64))
        np.save("X.npy", x)
        call("predict", "run", "X.npy")
        assert pd.read_csv("predictions.csv")["prediction"].tolist() == load_run(Path("run")).model.predict(x).tolist()
        np.save("narrow.npy", x[:, :9])
        assert "9 features" in failure("predict", "run", "narrow.npy", "--out", "other.csv")
        table().assign(digit=np.arange(60) % 10)[["size", "digit"]].to_csv("rows.csv", index=False)
        assert "was not trained on a file" in failure("evaluate", "run", "rows.csv")

    def test_nothing_is_overwritten_unless_told(self, trained):
        Path("predictions.csv").write_text("precious")
        arguments = ["predict", trained / "animals", trained / "animals.csv"]
        assert "predictions.csv exists already and is not overwritten" in failure(*arguments)
        assert "no folder no" in failure(*arguments, "--out", "no/p.csv")
        assert "predictions are written as .csv, .tsv or .parquet" in failure(*arguments, "--out", "p.npz")
        table().drop(columns="age").to_csv("less.csv", index=False)
        failure("predict", trained / "animals", "less.csv", "--overwrite")
        assert Path("predictions.csv").read_text() == "precious"
        call(*arguments, "--overwrite")
        assert len(pd.read_csv("predictions.csv")) == 60
        assert sorted(path.name for path in Path().iterdir()) == ["less.csv", "predictions.csv"]

    def test_missing_and_renamed_columns_are_named(self, trained):
        table().drop(columns=["age", "size"]).to_csv("less.csv", index=False)
        text = failure("predict", trained / "animals", "less.csv")
        lacks = "the table lacks columns that training had: 'size', 'age'. Add or rename them."
        assert text == f"laddernet: less.csv: {lacks}\n"
        table().rename(columns={"colour": "colours"}).to_csv("renamed.csv", index=False)
        text = failure("predict", trained / "animals", "renamed.csv")
        assert "lacks columns that training had: 'colour' (perhaps now called 'colours')" in text
        table().assign(age="old").to_csv("words.csv", index=False)
        assert "column 'age' held numbers in the training rows, but row 1 holds 'old'" in failure(
            "predict", trained / "animals", "words.csv"
        )
        assert not Path("predictions.csv").exists()

    def test_a_new_column_is_left_out_with_a_warning(self, trained):
        table().assign(more=1).to_csv("more.csv", index=False)
        with pytest.warns(UserWarning, match="columns that training did not have are left out: 'more'"):
            call("predict", trained / "animals", "more.csv", "--out", "one.csv")
        call("predict", trained / "animals", trained / "animals.csv", "--out", "two.csv")
        assert Path("one.csv").read_text() == Path("two.csv").read_text()

    def test_a_damaged_preparation_is_one_line(self, trained, tmp_path):
        run = tmp_path / "run"
        run.mkdir()
        for path in (trained / "animals").iterdir():
            (run / path.name).write_bytes(path.read_bytes())
        (run / "preparation.skops").write_bytes(b"PK")
        assert "preparation.skops is damaged: its checksum is not the one" in failure(
            "predict", run, trained / "animals.csv"
        )
        seal(run)
        assert "preparation.skops cannot be read as a preparation" in failure("predict", run, trained / "animals.csv")


class TestEvaluateOnAFile:
    @pytest.mark.parametrize(("name", "label"), [("animals.csv", "animal"), ("codes.parquet", "code")])
    def test_it_agrees_with_the_predictions(self, trained, name, label):
        run = trained / name.split(".")[0]
        result = call("evaluate", run, trained / name, "--json")
        last = json.loads(result.stdout.splitlines()[-1])
        assert (last["run"], last["dataset"]) == (str(run), str(trained / name))
        call("predict", run, trained / name)
        read = pd.read_csv if name.endswith(".csv") else pd.read_parquet
        truth = read(trained / name)[label]
        wrong = (pd.read_csv("predictions.csv")["prediction"] != truth)[truth.notna()]
        assert last["test_error"] == pytest.approx(100 * wrong.mean(), abs=1e-4)
        assert f"test error {last['test_error']:.2f} % of 48 rows" in result.stdout

    def test_it_says_where_the_run_may_have_learned_the_labels(self, trained):
        learned = "it has learned labels that it is tested on here"
        assert learned in call("evaluate", trained / "animals", trained / "animals.csv").stderr
        assert learned not in call("evaluate", trained / "animals", trained / "others.csv").stderr

    def test_regression(self, trained):
        last = json.loads(
            call("evaluate", trained / "prices", trained / "prices.csv", "--json").stdout.splitlines()[-1]
        )
        call("predict", trained / "prices", trained / "prices.csv")
        wrong = pd.read_csv("predictions.csv")["prediction"] - pd.read_csv(trained / "prices.csv")["price"]
        assert last["test_rmse"] == pytest.approx(np.sqrt((wrong**2).mean()), rel=1e-5)
        assert "is not a classifier" in failure("evaluate", trained / "prices", "digits")

    def test_a_run_on_a_file_is_not_tested_on_a_data_set(self, trained):
        assert "is not a classifier that the train command wrote for a named data set" in failure(
            "evaluate", trained / "animals", "digits"
        )


class TestTune:
    ARGUMENTS = ("--label-column", "animal", "--trials", 2, "--folds", 2, "--epochs", 1)

    def test_it_writes_settings_for_train_and_goes_on(self, trained, tmp_path):
        result = call("tune", trained / "animals.csv", *self.ARGUMENTS)
        assert "tuning: trial 1/2, error " in result.stderr
        assert "tuning: trial 2/2, error " in result.stderr
        assert "best of 2 trials: " in result.stdout
        assert "% of held-out labels wrong (one label: 2.78); with the defaults " in result.stdout
        best = json.loads(Path("best.json").read_text())
        assert f"settings written to best.json: {json.dumps(best)}" in result.stdout
        assert sorted(path.name for path in tmp_path.iterdir()) == ["best.json", "best.json.journal"]

        again = call("tune", trained / "animals.csv", *self.ARGUMENTS)
        assert "trial" not in again.stderr
        assert again.stdout == result.stdout
        assert json.loads(Path("best.json").read_text()) == best
        assert "best of 3 trials" in call("tune", trained / "animals.csv", *self.ARGUMENTS, "--trials", 3).stdout

        best = json.loads(Path("best.json").read_text())
        arguments = ["--label-column", "animal", "--settings", "best.json", "--no-baseline", "--out", "run"]
        call("train", trained / "animals.csv", *arguments)
        parameters = load_run(tmp_path / "run").model.get_params()
        for name, value in best.items():
            assert parameters[name] == (tuple(value) if isinstance(value, list) else value)

    def test_the_search_of_other_rows_is_refused_and_its_settings_stay(self, trained):
        call("tune", trained / "animals.csv", *self.ARGUMENTS, "--trials", 1)
        before = {path.name: path.read_bytes() for path in Path().iterdir()}
        text = failure("tune", trained / "animals.csv", *self.ARGUMENTS, "--seed", 1)
        assert "best.json.journal holds a search over other rows" in text
        Path("notes.txt").write_text("precious\n")
        text = failure("tune", trained / "animals.csv", *self.ARGUMENTS, "--storage", "notes.txt")
        assert "notes.txt cannot be used as a search's storage" in text
        assert {path.name: path.read_bytes() for path in Path().iterdir()} == before | {"notes.txt": b"precious\n"}

    def test_a_file_that_holds_no_settings_is_not_overwritten(self):
        table().to_csv("rows.csv", index=False)
        before = Path("rows.csv").read_bytes()
        text = failure("tune", "rows.csv", *self.ARGUMENTS, "--out", "rows.csv")
        assert "rows.csv exists and does not hold settings, so it is not overwritten" in text
        assert {path.name: path.read_bytes() for path in Path().iterdir()} == {"rows.csv": before}
        assert "not overwritten" in failure("tune", "rows.csv", *self.ARGUMENTS, "--out", ".")

    def test_regression_and_a_search_kept_elsewhere(self, trained):
        arguments = ["--label-column", "price", "--trials", 1, "--folds", 2, "--epochs", 1]
        result = call("tune", trained / "prices.csv", *arguments, "--out", "a.json", "--storage", "b/c.journal")
        assert "of the labels' deviation; with the defaults" in result.stdout
        assert Path("a.json").is_file()
        assert Path("b/c.journal").is_file()

    def test_too_few_labels_are_one_line(self, trained):
        text = failure("tune", trained / "animals.csv", *self.ARGUMENTS, "--labels", 4, "--folds", 3)
        assert "has one labelled row" in text
        assert not list(Path().iterdir())


def test_as_a_command_warnings_are_lines_like_errors(trained):
    table().assign(more=1).to_csv("more.csv", index=False)
    result = laddernet("predict", str(trained / "animals"), "more.csv")
    assert result.returncode == 0
    assert result.stderr == "laddernet: columns that training did not have are left out: 'more'.\n"
    assert len(pd.read_csv("predictions.csv")) == 60


def test_warnings_for_developers_stay_as_they_are():
    from laddernet.cli import _format_warning

    assert _format_warning(UserWarning("two\nlines"), UserWarning, "file.py", 3) == "laddernet: two lines\n"
    assert _format_warning("old", DeprecationWarning, "file.py", 3).startswith("file.py:3: DeprecationWarning: old\n")


def test_results_that_cannot_be_written_anywhere_are_told(tmp_path):
    (tmp_path / "taken").write_text("")
    result = RUNNER.invoke(app, ["reproduce", "digits-50-baseline", "--out", "taken/results"])
    assert result.exit_code == 1
    assert "no results can be written to taken/results" in result.stderr
    assert "Name another folder (--out)" in result.stderr


def test_who_reads_no_more_is_no_error():
    command = f"{shlex.quote(sys.executable)} -m laddernet data list | true"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == ("", "")
