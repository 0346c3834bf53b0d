"""What a stranger's run folder can do: docs/security.md, each promise."""

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
import torch
from safetensors.torch import load_file, save_file
from sklearn.decomposition import TruncatedSVD
from sklearn.pipeline import Pipeline
from skrub import TableVectorizer
from typer.testing import CliRunner

from laddernet import LadderClassifier, RunError, networks
from laddernet.checkpoints import load_run, save_run
from laddernet.cli import app
from laddernet.preparation import FORMAT, Preparation
from laddernet.resume import Checkpoint, read
from laddernet.run_folder import seal
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


def test_a_preparation_with_an_archive_within_is_not_loaded(run: Path) -> None:
    with zipfile.ZipFile(run / "preparation.skops", "a") as archive:
        archive.writestr("../outside.npz", b"")
    seal(run)
    with pytest.raises(RunError, match="holds '../outside.npz', which no preparation does"):
        load_run(run)
    assert not (run.parent / "outside.npz").exists()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("numeric", ["a", "a"], "not a usable preparation"),
        ("columns", ["a", 3], "its columns are no list of names"),
        ("medians", np.array([np.nan]), "its medians are no array of finite numbers"),
        ("medians", np.zeros(7), "not a usable preparation"),
        ("gaps", np.zeros(1), "its gaps are no array"),
        ("encoders", {"b": Pipeline([("svd", TruncatedSVD())])}, "not a usable preparation"),
        ("vectorizer", TableVectorizer(), "holds what no preparation does"),
    ],
)
def test_a_preparation_whose_parts_do_not_fit_is_refused_at_once(
    run: Path, field: str, value: object, message: str
) -> None:
    path = run / "preparation.skops"
    state = dict(vars(Preparation.load(path)))
    skops.io.dump({"format": FORMAT, **state, field: value}, path, compression=zipfile.ZIP_DEFLATED)
    seal(run)
    with pytest.raises(RunError, match=message):
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


def forge(original: Path, folder: Path, *, tensors: bool = False, columns: int = 0, **changes: object) -> Path:
    """A run whose configuration promises more than its weights hold, perhaps with a scaling of so many columns."""
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
    if columns:
        one = torch.ones(columns, dtype=torch.float64)
        found = load_file(folder / "weights.safetensors")
        found |= {f"scaling.{name}": one.clone() for name in ("center", "scale", "weight")}
        save_file(found, folder / "weights.safetensors")
    seal(folder)
    return folder


def test_sizes_are_checked_before_memory_is_taken(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(20, 1, 8, 8)).astype(np.float32)
    settings: dict[str, Any] = {"variant": "gamma", "max_epochs": 1, "batch_size": 10, "random_state": 0}
    for network in ("conv_small", "conv_fc"):
        model = LadderClassifier(module=getattr(networks, network), **settings)
        save_run(tmp_path / network, model.fit(images, np.arange(20) % 2), training={}, metrics={})
    model = LadderClassifier((8,), **settings).fit(images.reshape(20, -1), np.arange(20) % 2)
    save_run(tmp_path / "mlp", model, training={}, metrics={})
    small, connected, flat = (tmp_path / name for name in ("conv_small", "conv_fc", "mlp"))
    huge = {"input_shape": [1, 30_000, 30_000], "n_features_in": 900_000_000}
    wide = {"input_shape": [1, 600, 600], "n_features_in": 360_000}
    many = {"labels": {"classes": list(range(200_000)), "dtype": "<i8"}}
    long = {"labels": {"classes": [*(f"c{i}" for i in range(2000)), "d" * 100_000], "dtype": "<U1"}}
    forged = {
        forge(small, tmp_path / "huge images", **huge): "another number of columns than 900000000",
        forge(small, tmp_path / "any images", tensors=True, **huge): "another number of columns than 900000000",
        # a scaling that is there, of 8.6 MB, for a convolution of 1.4 GB that is not
        forge(connected, tmp_path / "wide images", columns=360_000, **wide): "of the shape (1000, 1, 598, 598) none",
        forge(small, tmp_path / "many classes", **many): "of the shape (200000, 200000) none",
        forge(flat, tmp_path / "many of them", **many): "other widths than (64, 8, 200000)",
        forge(flat, tmp_path / "long names", **long): "names of up to 100000 characters are too many",
        forge(flat, tmp_path / "units", parameters={"hidden_layer_sizes": [10**9]}): "other widths than (64, 10",
        forge(flat, tmp_path / "layers", parameters={"hidden_layer_sizes": [8] * 10**5}): "other widths than (64, 8, 8",
    }
    command = [sys.executable, "-c", LIMITED, *map(str, [small, *forged])]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(said) == len(forged)
    for line, (folder, message) in zip(said, forged.items(), strict=True):
        assert f"{folder} is not a usable run" in line
        assert message in line


# What a run says is what a run can say.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {"classes": [1, 0], "dtype": "<i8"}}, "not of one kind, sorted and all different"),
        ({"labels": {"classes": [1, 1], "dtype": "<i8"}}, "not of one kind, sorted and all different"),
        ({"labels": {"classes": [1, "a"], "dtype": "<i8"}}, "not of one kind"),
        ({"labels": {"classes": [1, 300], "dtype": "|i1"}}, "not of one kind"),
        ({"labels": [0, 1]}, r"its field labels is \[0, 1\]"),
        ({"feature_names_in": [1]}, "feature_names_in does not hold 5 names"),
        ({"feature_names_in": "abcde"}, "its field feature_names_in is 'abcde'"),
        ({"n_features_in": True}, "its field n_features_in is True"),
        ({"input_shape": [5.0]}, "input_shape must be"),
        ({"parameters": {"noise_std": [0.1, 2e6, 0.1]}}, "noise_std must be at most 1e"),
        ({"parameters": {"device": 3}}, "device must be a device's name"),
        ({"precision": 8}, "its field precision is 8"),
        ({"training": []}, "its field training is"),
    ],
)
def test_a_configuration_that_none_can_have_is_refused(
    original: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RunError, match=message):
        load_run(forge(original, tmp_path / "forged", **changes))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ladder.network.0.0.weight", np.nan, "holds NaN or infinite values in ladder.network.0.0.weight"),
        ("scaling.scale", 0.0, "values in scaling.scale that no scaling has"),
        ("scaling.center", np.inf, "values in scaling.center that no scaling has"),
    ],
)
def test_weights_that_none_can_have_are_refused(run: Path, name: str, value: float, message: str) -> None:
    tensors = load_file(run / "weights.safetensors")
    tensors[name] = tensors[name].clone().fill_(value)
    save_file(tensors, run / "weights.safetensors")
    seal(run)
    with pytest.raises(RunError, match=message):
        load_run(run)


@pytest.mark.parametrize(
    "change", [{"epoch": 7}, {"epoch": "1"}, {"cost": "low"}, {"cost": True}, {"cost": [1]}, {"denoising_costs": [[]]}]
)
def test_records_that_no_epoch_has_are_refused(run: Path, change: dict[str, object]) -> None:
    record = json.loads((run / "history.jsonl").read_text().splitlines()[0])
    (run / "history.jsonl").write_text(json.dumps(record | change))
    seal(run)
    with pytest.raises(RunError, match=r"line 1 of history\.jsonl is no record of epoch 1"):
        load_run(run)


def test_a_cost_that_is_nan_is_read(run: Path) -> None:
    record = json.loads((run / "history.jsonl").read_text().splitlines()[0])
    (run / "history.jsonl").write_text(json.dumps(record | {"cost": float("nan")}))
    seal(run)
    assert np.isnan(load_run(run).model.history_[0]["cost"])


def test_what_a_run_says_cannot_steer_a_terminal(original: Path, tmp_path: Path) -> None:
    folder = forge(original, tmp_path / "run", training={"label": "\x1b]0;owned\x07"})
    TABLE.to_csv(tmp_path / "rows.csv", index=False)
    outcome = CliRunner().invoke(app, ["evaluate", str(folder), str(tmp_path / "rows.csv")])
    assert outcome.exit_code == 1
    assert "\x1b" not in outcome.output


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


@pytest.mark.fault("a file of an unfinished run is a link elsewhere", "an error; what it leads to stays as it is")
@pytest.mark.parametrize("name", ["checkpoint", "checkpoint.writing", "checkpoint.lock", "command.json", "new"])
def test_a_link_in_an_unfinished_run_is_neither_read_nor_written_through(
    unfinished: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "precious").write_text("years of work")
    (unfinished / "unfinished" / name).unlink(missing_ok=True)
    (unfinished / "unfinished" / name).symlink_to(tmp_path / "precious")
    with pytest.raises(RunError, match="leads elsewhere"):
        read_options(unfinished)
    with pytest.raises(RunError, match="leads elsewhere"), Making(options=OPTIONS, out=unfinished).begun(tmp_path):
        pass
    assert (tmp_path / "precious").read_text() == "years of work"


def test_a_link_in_place_of_the_unfinished_folder_is_not_followed(unfinished: Path, tmp_path: Path) -> None:
    (unfinished / "unfinished").rename(tmp_path / "elsewhere")
    (unfinished / "unfinished").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="unfinished is a link: it is neither read nor written to"):
        read_options(unfinished)


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("years of work")
    (tmp_path / "checkpoint.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(RunError, match="symbolic link"), Checkpoint(tmp_path / "checkpoint").held():
        pass
    assert (tmp_path / "precious").read_text() == "years of work"
