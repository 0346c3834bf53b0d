"""What a stranger's run folder can do: docs/security.md, each promise."""

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from laddernet import LadderClassifier, RunError, networks
from laddernet.checkpoints import load_run, save_run, seal
from laddernet.preparation import Preparation
from laddernet.resume import Checkpoint, read
from laddernet.unfinished import Making, TrainOptions, read_options

TABLE = pd.DataFrame({"a": np.arange(40.0), "b": list("xyzw") * 10})


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original") / "run"
    preparation = Preparation.fit(TABLE)
    model = LadderClassifier((8,), max_epochs=1, batch_size=20, random_state=0)
    model.fit(preparation.apply(TABLE), np.arange(40) % 2)
    save_run(folder, model, training={}, metrics={}, preparation=preparation)
    return folder


@pytest.fixture
def run(tmp_path: Path, original: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    for path in original.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


FILES = ("config.json", "weights.safetensors", "history.jsonl", "metrics.json", "preparation.skops")


@pytest.mark.fault("a byte of a finished run is flipped", "an error that names the file")
@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_seen(run: Path, name: str) -> None:
    path = run / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunError, match=name):
        load_run(run)


@pytest.mark.parametrize("name", [*FILES, "checksums.json"])
def test_a_link_out_of_the_folder_is_not_followed(run: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "elsewhere").write_bytes((run / name).read_bytes())
    (run / name).unlink()
    (run / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match=f"{name} is not a file of this folder"):
        load_run(run)


@pytest.mark.parametrize("name", [*FILES, "checksums.json"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(run: Path, name: str) -> None:
    (run / name).unlink()
    os.mkfifo(run / name)
    with pytest.raises(RunError, match=f"{name} is not a file of this folder"):
        load_run(run)


@pytest.mark.parametrize("name", FILES)
def test_a_pickle_is_not_loaded(run: Path, tmp_path: Path, name: str) -> None:
    (run / name).write_bytes(pickle.dumps(Evil(tmp_path / "made")))
    seal(run)
    with pytest.raises(RunError, match="run"):
        load_run(run)
    assert not (tmp_path / "made").exists()


def test_a_preparation_that_unpacks_to_much_is_not_loaded(run: Path) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", b" " * (2**28 + 1))
    (run / "preparation.skops").write_bytes(content.getvalue())
    assert len(content.getvalue()) < 2**20
    seal(run)
    with pytest.raises(RunError, match="268,435,457 bytes, which no preparation does"):
        load_run(run)


def test_a_large_text_is_not_read(run: Path) -> None:
    with (run / "metrics.json").open("r+b") as file:
        file.truncate(2**27)  # of no room on the disk
    seal(run)
    with pytest.raises(RunError, match="134,217,728 bytes"):
        load_run(run)


# Sizes are checked before memory is taken: in a process that may have little more of it.

LIMITED = """
import re, resource, sys
from pathlib import Path
from laddernet.checkpoints import load_run
from laddernet import RunError

load_run(Path(sys.argv[1]))  # all that is imported late is there now
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 2**27
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for folder in sys.argv[2:]:
    try:
        load_run(Path(folder))
    except RunError as error:
        print(error)
"""


def forge(original: Path, folder: Path, *, tensors: bool = False, **changes: object) -> Path:
    """A run whose configuration promises more than its weights hold."""
    folder.mkdir()
    for path in original.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    parameters = config["parameters"] | changes.pop("parameters", {})  # type: ignore[operator]
    (folder / "config.json").write_text(json.dumps(config | {"parameters": parameters} | changes))
    if tensors:  # a scaling of a scalar, which goes with any number of columns
        found = load_file(folder / "weights.safetensors")
        found |= {name: value.flatten()[0].clone() for name, value in found.items() if name.startswith("scaling.")}
        save_file(found, folder / "weights.safetensors")
    seal(folder)
    return folder


def test_sizes_are_checked_before_memory_is_taken(tmp_path: Path) -> None:
    images = np.random.default_rng(0).normal(size=(20, 1, 14, 14)).astype(np.float32)
    model = LadderClassifier(module=networks.conv_small, variant="gamma", max_epochs=1, batch_size=10, random_state=0)
    save_run(tmp_path / "run", model.fit(images, np.arange(20) % 2), training={}, metrics={})
    huge = {"input_shape": [1, 30_000, 30_000], "n_features_in": 900_000_000}
    forged = [
        forge(tmp_path / "run", tmp_path / "huge images", **huge),
        forge(tmp_path / "run", tmp_path / "any images", tensors=True, **huge),
        forge(tmp_path / "run", tmp_path / "many classes", labels={"classes": list(range(200_000)), "dtype": "<i8"}),
    ]
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "run"), *map(str, forged)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(said) == 3
    assert all("another number of columns than 900000000" in line for line in said[:2])
    assert "many classes is not a usable run" in said[2]


# A run that is not finished.

OPTIONS = TrainOptions(
    data="digits", labels=50, label_column=None, labels_file=None, test=None, test_fraction=None, task=None, drop=None,
    balanced=False, image_size=None, network=None, settings=None, recipe=None, epochs=None, seed=0, variant=None,
    validation_fraction=0.0, data_dir=None, device="cpu", precision="auto", baseline=True,
)  # fmt: skip


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    making = Making(options=OPTIONS, out=tmp_path / "begun")
    with making.begun(tmp_path) as (folder, _):
        assert read_options(folder) == OPTIONS
        return folder


def change(folder: Path, **options: object) -> None:
    path = folder / "unfinished/command.json"
    content = json.loads(path.read_text())
    content["options"] |= options
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": "0; rm"}, "its option seed is '0; rm'"),
        ({"drop": "a"}, "its option drop is 'a'"),
        ({"settings": 3}, "its option settings is 3"),
        ({"baseline": None}, "its option baseline is None"),
        ({"out": "/elsewhere"}, "not those of this version: out"),
    ],
)
def test_a_command_of_other_options_is_refused(unfinished: Path, options: dict[str, object], message: str) -> None:
    change(unfinished, **options)
    with pytest.raises(RunError, match=message):
        read_options(unfinished)


def test_a_checkpoint_is_not_written_to_where_a_link_leads(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    (tmp_path / "checkpoint.writing").symlink_to(tmp_path / "precious")
    checkpoint.load({})
    checkpoint.save({"weights": torch.zeros(2)})
    assert (tmp_path / "precious").read_text() == "precious"
    assert read(tmp_path / "checkpoint")[1]["weights"].tolist() == [0, 0]


def test_a_checkpoint_that_is_a_pickle_is_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").write_bytes(pickle.dumps(Evil(tmp_path / "made")))
    with pytest.raises(RunError, match="damaged"):
        read(tmp_path / "checkpoint")
    assert not (tmp_path / "made").exists()
