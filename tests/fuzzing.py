"""A fuzzer of what reads files: valid ones, altered at random, must be read or refused by an error of ours.

    PYTHONPATH=tests python tests/fuzzing.py --seconds 600        # for longer than the suite does

An alteration is a few of: bytes set, flipped, inserted, left out, doubled or swapped with others; the end cut off; a
number or a word in a text replaced by an extreme one; another reader's file in its place.
"""

import argparse
import json
import random
import re
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from laddernet import LadderClassifier
from laddernet.checkpoints import load_run, save_run
from laddernet.data.cifar10 import read_cifar10
from laddernet.data.files import known_labels, read_array_labels, read_parts, read_rows
from laddernet.data.idx import read_idx
from laddernet.data.images import read_images
from laddernet.errors import LaddernetError
from laddernet.recipes import RECIPES
from laddernet.results_file import read_results
from laddernet.resume import Checkpoint, read
from laddernet.run_folder import seal
from laddernet.tables import FileOptions, prepare, read_settings
from laddernet.unfinished import Making, TrainOptions, read_options

WORDS = [
    b"", b"0", b"-1", b"1e999", b"-1e308", b"NaN", b"null", b"true", b"[]", b"{}", b'""', b"99999999999999999999999",
    b"../../x", b"/etc/passwd", b"\xff\xfe", b"\x00", b"\r\n", b'"', b",,,", "é".encode(), b"1" * 5000, b"[" * 3000,
]  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A reader: what writes a valid input into a folder, and what reads it from there."""

    make: Callable[[Path], None]
    read: Callable[[Path], Any]


def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"size": rng.normal(size=30), "colour": ["red", "blue", "rot"] * 10, "n": np.arange(30)})
    frame["day"] = pd.date_range("2024-01-01", periods=30).astype(str)
    frame["kind"] = ["a", "b", None] * 10
    return frame


def arrays() -> tuple[Any, Any]:
    return np.random.default_rng(0).normal(size=(12, 3)), np.array([0, 1, -1] * 4)


def read_all_parts(path: Path) -> Any:
    parts = [part for as_text in (True, False) for part in read_parts(path, label_column="kind", as_text=as_text)]
    return known_labels(path, "kind", [(part.numbers, part.labels) for part in parts], rows=len(table()))


def make_idx(folder: Path) -> None:
    header = bytes([0, 0, 8, 3]) + b"".join(size.to_bytes(4, "big") for size in (5, 4, 4))
    (folder / "images").write_bytes(header + bytes(80))


def make_idx_gz(folder: Path) -> None:
    import gzip

    make_idx(folder)
    (folder / "images.gz").write_bytes(gzip.compress((folder / "images").read_bytes()))
    (folder / "images").unlink()


def make_cifar10(folder: Path) -> None:
    inside = folder / "cifar-10-batches-bin"
    inside.mkdir()
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        (inside / name).write_bytes((b"\x03" + bytes(3072)) * 2)


def make_cifar10_python(folder: Path) -> None:
    import pickle

    inside = folder / "cifar-10-batches-py"
    inside.mkdir()
    batch = {
        b"data": np.zeros((2, 3072), dtype=np.uint8),
        b"labels": [1, 9],
        b"batch_label": b"x",
        b"filenames": [b"a"],
    }
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        (inside / name).write_bytes(pickle.dumps(batch, protocol=2))


def make_images(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (9, 7, 3), dtype=np.uint8)
    for name, suffix in (("one", "png"), ("two", "jpg"), ("unlabeled", "bmp"), ("two", "gif")):
        (folder / "images" / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / "images" / name / f"a.{suffix}")


def fitted(**settings: Any) -> LadderClassifier:
    x, y = arrays()
    return LadderClassifier(hidden_layer_sizes=(4,), max_epochs=1, random_state=0, **settings).fit(x, y)


def make_run(folder: Path) -> None:
    save_run(folder / "run", fitted(), training={"seed": 0}, metrics={"test_error": 1.0})


def make_table_run(folder: Path) -> None:
    table().to_csv(folder / "rows.csv", index=False)
    options = FileOptions(
        label_column="kind", labels_path=None, labels=None, test=None, test_fraction=0.0, task=None, drop=(), seed=0
    )
    prepared = prepare(folder / "rows.csv", options)
    model = prepared.estimator(hidden_layer_sizes=(4,), max_epochs=1, random_state=0)
    model.fit(prepared.x_train, prepared.y_train)
    save_run(folder / "run", model, training={}, metrics={}, preparation=prepared.preparation)
    (folder / "rows.csv").unlink()


def make_checkpoint(folder: Path) -> None:
    fitted_with = Checkpoint(folder / "checkpoint")
    x, y = arrays()
    with fitted_with.held():
        fitted_with.load({"seed": 1})
        fitted_with.save({"x": {"y": LadderClassifier(max_epochs=1).fit(x, y).ladder_.state_dict()}, "epoch": 3})
    (folder / "checkpoint.lock").unlink()


def make_unfinished(folder: Path) -> None:
    options = TrainOptions(
        data="digits", labels=50, label_column=None, labels_file=None, test=None, test_fraction=None, task=None,
        drop=None, balanced=False, image_size=None, network=None, settings=None, recipe=None, epochs=3, seed=0,
        variant=None, validation_fraction=0.0, data_dir=folder, device="auto", precision="auto", baseline=True,
    )  # fmt: skip
    with Making(options=options, out=folder / "run").begun(folder) as (_, checkpoint):
        checkpoint.save({})
    for path in (folder / "run" / "unfinished").glob("checkpoint*"):
        path.unlink()


def make_results(folder: Path) -> None:
    shutil.copy(Path(__file__).parents[1] / "results" / "digits-50.json", folder)


def use(run: Path) -> None:
    """Read a run, and predict with it."""
    if (run / "config.json").is_file():
        seal(run)  # past the checksums, as a forger would
    loaded = load_run(run)
    model = loaded.model
    rows = np.zeros((3, model.n_features_in_))
    if loaded.preparation is None:
        model.predict(rows)
    else:
        model.predict(loaded.preparation.apply(table().drop(columns="kind")))


TARGETS = {
    "csv": Target(
        lambda f: table().to_csv(f / "t.csv", index=False), lambda f: read_rows(f / "t.csv", label_column="kind")
    ),
    "csv.gz": Target(
        lambda f: table().to_csv(f / "t.csv.gz", index=False), lambda f: read_rows(f / "t.csv.gz", label_column="kind")
    ),
    "parquet": Target(
        lambda f: table().to_parquet(f / "t.parquet"), lambda f: read_rows(f / "t.parquet", label_column="kind")
    ),
    "npz": Target(
        lambda f: np.savez_compressed(f / "t.npz", X=arrays()[0], y=arrays()[1]), lambda f: read_rows(f / "t.npz")
    ),
    "npy": Target(
        lambda f: [np.save(f / f"{name}.npy", array) for name, array in zip("Xy", arrays(), strict=True)],
        lambda f: [np.asarray(read_rows(f / "X.npy").x).sum(), read_array_labels(f / "X.npy", None)],
    ),
    "csv by parts": Target(lambda f: table().to_csv(f / "t.csv", index=False), lambda f: read_all_parts(f / "t.csv")),
    "parquet by parts": Target(
        lambda f: table().to_parquet(f / "t.parquet"), lambda f: read_all_parts(f / "t.parquet")
    ),
    "idx": Target(make_idx, lambda f: read_idx(f / "images", shape=(5, 4, 4))),
    "idx.gz": Target(make_idx_gz, lambda f: read_idx(f / "images.gz", shape=(5, 4, 4))),
    "cifar10": Target(make_cifar10, read_cifar10),
    "cifar10 python": Target(make_cifar10_python, read_cifar10),
    "images": Target(make_images, lambda f: read_images(f / "images", size=5)),
    "run": Target(make_run, lambda f: use(f / "run")),
    "run on a table": Target(make_table_run, lambda f: use(f / "run")),
    "checkpoint": Target(make_checkpoint, lambda f: read(f / "checkpoint")),
    "unfinished": Target(make_unfinished, lambda f: read_options(f / "run")),
    "settings": Target(
        lambda f: (f / "s.json").write_text(json.dumps({"noise_std": [0.1, 0.2], "max_epochs": 3})) and None,
        lambda f: read_settings(f / "s.json"),
    ),
    "results": Target(make_results, lambda f: read_results(f / "digits-50.json", RECIPES["digits-50"])),
}  # fmt: skip


def altered(content: bytes, rng: random.Random) -> bytes:
    """Return content with a few random alterations."""
    for _ in range(rng.choice([1, 1, 1, 2, 3, 8])):
        at = rng.randrange(len(content) + 1) if rng.random() < 0.6 else rng.randrange(min(len(content), 200) + 1)
        end = min(at + rng.choice([1, 1, 2, 4, 8, 40]), len(content))
        kind = rng.randrange(9)
        if kind == 0:
            content = content[:at] + rng.randbytes(end - at) + content[end:]
        elif kind == 1 and at < len(content):
            content = content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :]
        elif kind == 2:
            content = content[:at] + rng.randbytes(rng.choice([1, 4, 100])) + content[at:]
        elif kind == 3:
            content = content[:at] + content[end:]
        elif kind == 4:
            content = content[:at] + content[at:end] * 2 + content[end:]
        elif kind == 5:
            content = content[:at]
        elif kind == 6:
            content = content[:at] + rng.choice(WORDS) + content[at:]
        elif found := list(re.finditer(rb"-?\d+\.?\d*|[A-Za-z_]{3,}", content[:20_000])):
            word = rng.choice(found)
            content = content[: word.start()] + rng.choice(WORDS) + content[word.end() :]
    return content


def failures(name: str, seeds: range) -> list[str]:
    """Alter a target's files with each seed; what was neither read nor refused by an error of ours."""
    target, found = TARGETS[name], []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        valid, root = Path(folder) / "valid", Path(folder) / "altered"
        valid.mkdir()
        target.make(valid)
        target.read(valid)
        files = sorted(path.relative_to(valid) for path in valid.rglob("*") if path.is_file())
        for seed in seeds:
            rng = random.Random(f"{name} {seed}")
            shutil.rmtree(root, ignore_errors=True)
            shutil.copytree(valid, root)
            chosen = root / rng.choice(files)
            content = chosen.read_bytes()
            if rng.random() < 0.05:
                content = (valid / rng.choice(files)).read_bytes() if rng.random() < 0.5 else b""
            chosen.write_bytes(altered(content, rng))
            try:
                target.read(root)
            except LaddernetError as error:
                if str(root) not in str(error) and chosen.name not in str(error):
                    found.append(f"{name}, seed {seed}: does not say where: {error}")
            except Exception:
                found.append(f"{name}, seed {seed}, {chosen.name}: {traceback.format_exc(limit=-6)}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--only", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--first", type=int, default=0, help="first seed")
    chosen = parser.parse_args()
    end, seed, bad = time.monotonic() + chosen.seconds, chosen.first, 0
    while time.monotonic() < end:
        for name in chosen.only:
            for failure in failures(name, range(seed, seed + 50)):
                sys.stdout.write(f"{failure}\n")
                bad += 1
        seed += 50
    sys.stdout.write(f"{seed - chosen.first} alterations of each of {len(chosen.only)}, {bad} failures\n")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
