"""The tutorial's script, and the tutorial's commands as they are printed; shortened, but the same code.

``python tests/test_examples.py`` runs the commands in full, in a folder that is deleted afterwards, and puts what they
print into docs/tutorial.md. The figures in the text around them are then to be read again.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import pytest

from laddernet.checkpoints import load_run

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "examples" / "tutorial.py"
NETWORKS = ROOT / "examples" / "networks.py"
TUTORIAL = ROOT / "docs" / "tutorial.md"
BLOCK = re.compile(r"(?<=^```console\n).*?(?=^```)", flags=re.MULTILINE | re.DOTALL)
PROGRESS = re.compile(r".*(, \d+ s left|^tuning: trial .*)$")
SHORTER = {
    "laddernet train": " --epochs 2",
    "laddernet tune": " --epochs 1 --trials 2",
    "python examples/tutorial.py my-folder": " --quick",
}
ENVIRONMENT = os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])}


def run(command, folder, **others):
    return subprocess.run(command, cwd=folder, shell=isinstance(command, str), text=True, **others)


def commands_of(block):
    return [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]


class Reader:
    """Someone who types the tutorial's commands, in a checkout that holds nothing but its example."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "examples").mkdir()
        shutil.copy(SCRIPT, folder / "examples")

    def type(self, command, **environment):
        if command.startswith("cd "):
            self.folder = (self.folder / command.removeprefix("cd ")).resolve(strict=True)
            return ""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        result = run(command, self.folder, env=ENVIRONMENT | environment, **pipes)
        assert result.returncode == 0, f"{command}\n{result.stdout}"
        return result.stdout


def test_the_script_does_what_the_tutorial_says(tmp_path):
    result = run(
        [sys.executable, "-W", "error", SCRIPT, "out", "--quick"],
        tmp_path,
        env=ENVIRONMENT | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
    )
    assert result.returncode == 0, result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {
        "pumps.csv", "pumps-checked.csv", "pumps-new.csv", "predictions.csv", "run",
    }  # fmt: skip
    reports, new = pd.read_csv(out / "pumps.csv"), pd.read_csv(out / "pumps-new.csv")
    assert reports["diagnosis"].notna().sum() == 60
    errors = {what.strip(): float(value) for what, value in re.findall(r"\] (.*): test error ([\d.]+)%", result.stdout)}
    chance = errors.pop("'healthy' for every row")
    assert {"ladder", "supervised only", "logistic regression"} < set(errors)
    assert all(error < chance for error in errors.values()), errors

    loaded = load_run(out / "run")
    predictions = pd.read_csv(out / "predictions.csv")
    probabilities = loaded.model.predict_proba(loaded.preparation.apply(new[loaded.preparation.columns]))
    assert len(predictions) == len(new) == 400
    assert predictions.columns[1:].tolist() == [f"probability_{name}" for name in loaded.model.classes_]
    assert abs(predictions.iloc[:, 1:].to_numpy() - probabilities).max() < 1e-5
    assert (predictions["prediction"] == loaded.model.classes_[probabilities.argmax(axis=1)]).all()


def test_the_script_touches_no_folder_that_holds_anything(tmp_path):
    (tmp_path / "mine.csv").write_text("a\n1\n")
    result = run([sys.executable, SCRIPT, tmp_path, "--only-data"], tmp_path, capture_output=True)
    assert result.returncode == 2
    assert "is not empty" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.csv"]


@pytest.mark.slow
def test_the_commands_of_the_tutorial_run_as_printed(tmp_path):
    commands = [command for block in BLOCK.findall(TUTORIAL.read_text("utf-8")) for command in commands_of(block)]
    verbs = {command.split()[1] for command in commands if command.startswith("laddernet ")}
    assert verbs == {"train", "predict", "tune", "evaluate"}
    reader = Reader(tmp_path)
    for command in commands:
        more = next((more for start, more in SHORTER.items() if command.startswith(start)), "")
        reader.type(command + more, OMP_NUM_THREADS="1")
    assert len(pd.read_csv(tmp_path / "tutorial" / "predictions.csv")) == 400


def test_the_excerpts_of_the_tutorial_run(tmp_path, monkeypatch):
    assert run([sys.executable, SCRIPT, tmp_path, "--only-data"], tmp_path, capture_output=True).returncode == 0
    monkeypatch.chdir(tmp_path)
    text = "\n".join(re.findall(r"^```python\n(.*?)^```", TUTORIAL.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL))
    text = text.replace("random_state=0).fit", "random_state=0, max_epochs=2).fit").replace(
        "max_epochs=10", "max_epochs=2"
    )
    names = {}
    exec(text, names)
    assert names["ladder"].n_iter_ == 3  # two, and one of partial_fit
    assert len(names["scores"]) == 3


def test_three_foreign_networks_get_a_ladder(tmp_path):
    """The script runs, and the document shows its code."""
    result = run(
        [sys.executable, "-W", "error", NETWORKS, "--quick"],
        tmp_path,
        env=ENVIRONMENT | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
    )
    assert result.returncode == 0, result.stderr
    names = [line.split(":")[0] for line in result.stdout.splitlines()]
    assert names == ["residual", "depthwise-separable", "one-dimensional"]
    text, source = (ROOT / "docs" / "networks.md").read_text("utf-8"), NETWORKS.read_text("utf-8")
    blocks = [
        b for b in re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL) if b.startswith("def")
    ]
    assert len(blocks) == 3
    for block in blocks:
        assert block in source
        assert len(block.splitlines()) <= 5


def refresh():
    with tempfile.TemporaryDirectory() as folder:
        reader = Reader(Path(folder))

        def printed(block):
            lines = []
            for command in commands_of(block.group()):
                sys.stderr.write(f"$ {command}\n")
                output = reader.type(command).splitlines()
                lines += [f"$ {command}", *(line.rstrip() for line in output if not PROGRESS.match(line))]
            return "\n".join(lines) + "\n"

        text = BLOCK.sub(printed, TUTORIAL.read_text("utf-8"))
    TUTORIAL.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    refresh()
