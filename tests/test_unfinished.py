import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from laddernet.checkpoints import load_run
from laddernet.cli import app
from laddernet.data import load
from laddernet.errors import RunError
from laddernet.loop import Callback, TrainingStopped
from laddernet.recipes import RECIPES
from laddernet.reproduce import Machine, reproduce
from laddernet.resume import Checkpoint
from laddernet.unfinished import Making, TrainOptions, read_options
from test_resume import Signal


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def call(*arguments, status=0):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == status, result.output
    return result


def stopped(number, *arguments, at):
    """Run laddernet, and send it a signal when it says a line that begins so."""
    command = [sys.executable, "-m", "laddernet", *map(str, arguments)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        said = ""
        for line in process.stderr:
            said += line
            if line.startswith(at):
                process.send_signal(number)
                break
        said += process.stderr.read()
    return process.returncode, said


DIGITS = ("train", "digits", "--labels", 50, "--epochs", 20, "--no-baseline", "--seed", 2)


@pytest.mark.fault(
    "SIGINT, SIGTERM and kill -9 of `laddernet train`, one after the other",
    "goes on; the run is bit for bit that of an undisturbed one",
    times=3,
    lost="after the kill the work since the last state, which is done again",
)
def test_a_run_that_was_stopped_and_killed_is_gone_on_with(tmp_path):
    status, said = stopped(signal.SIGINT, *DIGITS, "--out", "a run", at="digits-50: epoch 2/20")
    assert status == 130
    assert said.splitlines()[-1] == (
        "laddernet: interrupted. The training's state is kept; go on with: laddernet train --resume 'a run'"
    )
    with pytest.raises(RunError, match="a run is not finished yet: go on with it by train --resume"):
        load_run(Path("a run"))
    again = call(*DIGITS, "--out", "a run", status=1)
    assert "a run holds a run that is not finished: go on with it by --resume" in again.stderr
    kept = ("train", "--resume", "a run", "--checkpoint-minutes", 0.01)
    status, said = stopped(signal.SIGTERM, *kept, at="digits-50: epoch 8/20")
    assert status == 143
    assert "epoch 2/20" not in said
    status, _ = stopped(signal.SIGKILL, *kept, at="digits-50: epoch 12/20")
    assert status == -signal.SIGKILL

    resumed = json.loads(call("train", "--resume", "a run", "--json").stdout.splitlines()[-1])
    whole = json.loads(call(*DIGITS, "--out", "whole", "--json").stdout.splitlines()[-1])
    assert resumed["test_error"] == whole["test_error"]
    assert (resumed["epochs"], resumed["run"]) == (20, "a run")
    weights = [Path(name, "weights.safetensors").read_bytes() for name in ("a run", "whole")]
    assert weights[0] == weights[1]
    left = [sorted(path.name for path in Path(name).iterdir()) for name in ("a run", "whole")]
    assert left[0] == left[1]
    assert "a run is a finished run: there is nothing to resume" in call("train", "--resume", "a run", status=1).stderr


@pytest.mark.fault(
    "kill -9 of `laddernet train` on a file that is read by parts",
    "goes on; the run is bit for bit that of an undisturbed one, and no rows are left on the disk",
    lost="the work since the last state, which is done again",
)
def test_a_killed_run_on_rows_on_disk_leaves_none_of_them():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(3000, 3)), columns=list("abc"))
    frame["kind"] = np.where(np.arange(3000) < 40, np.where(frame["a"] > 0, "up", "down"), None)
    frame.to_csv("rows.csv", index=False)
    train = ("train", "rows.csv", "--label-column", "kind", "--by-parts", "--epochs", 12, "--no-baseline")
    status, _ = stopped(signal.SIGKILL, *train, "--out", "run", at="rows.csv: epoch 4/12")
    assert status == -signal.SIGKILL
    left = {path.name for path in Path("run/unfinished").iterdir()}
    assert left <= {"command.json", "checkpoint", "checkpoint.previous", "checkpoint.lock", "checkpoint.writing"}
    call("train", "--resume", "run")
    call(*train, "--out", "whole")
    weights = [Path(name, "weights.safetensors").read_bytes() for name in ("run", "whole")]
    assert weights[0] == weights[1]


class TestInPlace:
    """In this process, a callback sends the signal in place of the progress."""

    @pytest.fixture
    def stop_after(self, monkeypatch):
        def stop(steps):
            monkeypatch.setattr("laddernet.commands.progress", lambda **_: Signal(steps))

        return stop

    def check(self, stop_after, *arguments):
        whole = call(*arguments, "--no-baseline", "--out", "whole")
        stop_after(3)
        call(*arguments, "--no-baseline", "--out", "run", status=143)
        stop_after(0)
        resumed = call("train", "--resume", "run")
        assert Path("run/weights.safetensors").read_bytes() == Path("whole/weights.safetensors").read_bytes()
        assert Path("run/config.json").read_bytes() == Path("whole/config.json").read_bytes()
        return whole, resumed

    def test_a_table(self, stop_after):
        rng = np.random.default_rng(0)
        frame = pd.DataFrame(rng.normal(size=(90, 3)), columns=list("abc"))
        frame["kind"] = np.where(np.arange(90) < 40, np.where(frame["a"] > 0, "up", "down"), None)
        frame.to_csv("rows.csv", index=False)
        arguments = ("train", "rows.csv", "--label-column", "kind", "--drop", "c", "--epochs", 5, "--balanced")
        whole, resumed = self.check(stop_after, *arguments)
        assert whole.stdout.splitlines()[0] == resumed.stdout.splitlines()[0]

    @pytest.mark.parametrize("name", ["rows.csv", "rows.parquet", "X.npy"])
    def test_rows_on_disk(self, stop_after, name):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(90, 3)).round(3)
        kind = np.where(np.arange(90) < 40, np.where(x[:, 0] > 0, 1, 0), -1)
        np.save("X.npy", x)
        np.save("y.npy", kind)
        frame = pd.DataFrame(x, columns=list("abc")).assign(kind=[label if label >= 0 else None for label in kind])
        frame.to_csv("rows.csv", index=False)
        frame.to_parquet("rows.parquet")
        label = () if name == "X.npy" else ("--label-column", "kind")
        self.check(stop_after, "train", name, *label, "--by-parts", "--epochs", 5)
        weights = Path("whole/weights.safetensors").read_bytes()
        call("train", name, *label, "--whole", "--epochs", 5, "--no-baseline", "--out", "memory")
        assert Path("memory/weights.safetensors").read_bytes() == weights

    @pytest.mark.fault("the data changed since the run was stopped", "an error; the checkpoint stays")
    def test_a_table_that_has_changed_is_refused(self, stop_after):
        frame = pd.DataFrame({"a": np.arange(40.0), "y": ["u", "v"] * 20})
        frame.to_csv("rows.csv", index=False)
        stop_after(2)
        call("train", "rows.csv", "--label-column", "y", "--epochs", 5, "--out", "run", status=143)
        frame["a"] = frame["a"][::-1].to_numpy() ** 2
        frame.to_csv("rows.csv", index=False)
        result = call("train", "--resume", "run", status=1)
        assert "is of another run: its data differ" in result.stderr
        assert Checkpoint("run/unfinished/checkpoint").exists

    def test_images(self, stop_after):
        from PIL import Image

        rng = np.random.default_rng(0)
        for name in ("one", "two", "unlabeled"):
            Path("images", name).mkdir(parents=True)
            for i in range(6):
                pixels = rng.integers(0, 255, (12, 12), dtype=np.uint8)
                Image.fromarray(pixels).save(Path("images", name, f"{i}.png"))
        self.check(stop_after, "train", "images", "--image-size", 10, "--epochs", 6, "--test-fraction", 0)

    @pytest.mark.fault("a run that replaces an older one is stopped", "the older one is whole until the new one is")
    def test_an_older_run_stays_until_the_new_one_takes_its_place(self, stop_after):
        arguments = ("train", "digits", "--epochs", 2, "--no-baseline", "--out", "run")
        call(*arguments)
        before = Path("run/weights.safetensors").read_bytes()
        stop_after(2)
        call(*arguments, "--seed", 1, "--overwrite", status=143)
        assert Path("run/weights.safetensors").read_bytes() == before
        assert load_run(Path("run")).training["seed"] == 0
        stop_after(0)
        call("train", "--resume", "run")
        assert load_run(Path("run")).training["seed"] == 1
        assert not Path("run/unfinished").exists()

    def test_what_fails_before_anything_was_kept_leaves_nothing(self):
        call("train", "mnist", "--data-dir", "nowhere", "--out", "run/deep", status=1)
        assert not Path("run/deep").exists()

    def test_overwrite_begins_anew(self, stop_after):
        arguments = ("train", "digits", "--epochs", 3, "--no-baseline", "--out", "run")
        stop_after(2)
        call(*arguments, "--seed", 1, status=143)
        stop_after(0)
        call(*arguments, "--overwrite")
        assert load_run(Path("run")).training["seed"] == 0

    @pytest.mark.fault("--overwrite of a run that another process trains", "refused")
    def test_a_run_in_use_is_not_overwritten(self, stop_after):
        arguments = ("train", "digits", "--epochs", 3, "--no-baseline", "--out", "run")
        stop_after(2)
        call(*arguments, status=143)
        with Checkpoint("run/unfinished/checkpoint").held():
            assert "in use: another process is training" in call(*arguments, "--overwrite", status=1).stderr
            assert "in use: another process is training" in call("train", "--resume", "run", status=1).stderr
        assert Checkpoint("run/unfinished/checkpoint").exists

    def test_a_run_in_use_loses_nothing_to_the_second_before_its_first_checkpoint(self):
        with Making(options=OPTIONS, out=Path("run")).begun(Path("x")):
            before = sorted(path.name for path in Path("run/unfinished").iterdir())
            assert before == ["checkpoint.lock", "command.json"]
            assert "in use: another process" in call("train", "--resume", "run", status=1).stderr
            again = call("train", "digits", "--epochs", 3, "--out", "run", "--overwrite", status=1)
            assert "in use: another process" in again.stderr
            assert sorted(path.name for path in Path("run/unfinished").iterdir()) == before

    def test_a_run_that_cannot_go_on_yet_can_later(self):
        frame = pd.DataFrame({"a": np.arange(40.0), "y": ["u", "v"] * 20})
        frame.to_csv("rows.csv", index=False)
        options = replace(OPTIONS, data="rows.csv", data_dir=None, label_column="y", labels=None)
        with Making(options=options, out=Path("run")).begun(Path("x")):
            Path("rows.csv").rename("away.csv")
        call("train", "--resume", "run", status=1)
        Path("away.csv").rename("rows.csv")
        call("train", "--resume", "run")
        assert load_run(Path("run")).training["file"] == "rows.csv"


OPTIONS = TrainOptions(
    data="digits", labels=50, label_column=None, labels_file=None, test=None, test_fraction=None, task=None, drop=None,
    balanced=False, image_size=None, network=None, settings=None, recipe=None, epochs=3, seed=0, variant=None,
    validation_fraction=0.0, data_dir=Path("data"), device="auto", precision="auto", baseline=True,
)  # fmt: skip


def test_options_come_back_with_whole_paths(tmp_path):
    with Making(options=OPTIONS, out=Path("run")).begun(Path("x")) as (_, checkpoint):
        checkpoint.save({})
    found = read_options(Path("run"))
    assert found.data_dir == tmp_path / "data"
    assert TrainOptions(**{**vars(found), "data_dir": Path("data")}) == OPTIONS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is damaged"),
        ("[]", "is damaged"),
        ('{"format": 2}', "has format 2; this version reads format 1"),
        ('{"format": 1, "options": {"data": "digits"}}', "is damaged"),
        ('{"format": 1, "options": {"data": "digits", "trick": 1}}', "is damaged.*trick"),
        ("[" * 100_000, "is damaged"),
    ],
)
def test_a_command_that_cannot_be_read_is_an_error(tmp_path, content, message):
    (tmp_path / "run/unfinished").mkdir(parents=True)
    (tmp_path / "run/unfinished/command.json").write_text(content)
    with pytest.raises(RunError, match=message):
        read_options(tmp_path / "run")


def test_a_run_that_is_taken_up_takes_no_other_options():
    for arguments in (["digits"], ["--epochs", 3], ["--out", "x"], ["--no-baseline"]):
        assert "knows what it was asked for" in " ".join(
            call("train", "--resume", "run", *arguments, status=2).stderr.replace("│", " ").split()
        )
    assert "run holds no run: there is nothing to resume" in call("train", "--resume", "run", status=1).stderr


@pytest.mark.fault("SIGTERM of `laddernet reproduce`", "the same command goes on, to the same result")
def test_reproduce_goes_on_by_itself(tmp_path):
    recipe, machine = replace(RECIPES["digits-50-baseline"], max_epochs=30), Machine(device="cpu")
    expected = reproduce(recipe, seeds=[3], out=tmp_path / "whole", machine=machine)[0]
    with pytest.raises(TrainingStopped) as stop:
        reproduce(recipe, seeds=[3], out=tmp_path, machine=machine, watch=lambda _: Signal(100))
    assert stop.value.__notes__ == ["The training's state is kept; the same command goes on with it."]
    assert (tmp_path / ".digits-50-baseline-seed-3.checkpoint").exists()

    class Steps(Callback):
        made = 0

        def on_step_end(self):
            self.made += 1

    steps = Steps()
    entry = reproduce(recipe, seeds=[3], out=tmp_path, machine=machine, watch=lambda _: steps)[0]
    per_epoch = len(load("digits", seed=3).y_train) // recipe.batch_size
    assert steps.made == 30 * per_epoch - 100
    assert (entry["test_error"], entry["cost"]) == (expected["test_error"], expected["cost"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits-50-baseline.json", "whole"]


@pytest.mark.fault("kill -9 before the first step", "what it left is not in the way")
def test_what_was_killed_before_it_began_is_not_in_the_way():
    Path("run/unfinished").mkdir(parents=True)
    Path("run/unfinished/command.json.writing").write_text("{")
    call("train", "digits", "--epochs", 1, "--no-baseline", "--out", "run")
    assert load_run(Path("run")).model.n_iter_ == 1
    assert not Path("run/unfinished").exists()
