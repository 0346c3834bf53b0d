"""The memory that a process takes for itself while it trains on a file and predicts, for 1 and 20 times the rows.

For an .npy file, a CSV, a Parquet file and a folder of images: made up, trained on and predicted in a process of its
own, whose private anonymous memory (RssAnon, mapped pages of files aside) is sampled every 5 ms. 20 times the rows are
then run under a limit of the operating system on such memory (RLIMIT_DATA) that is little above what the single rows
took; what needs more is ended by it. At last they are run from memory (--whole), to compare.

    python benchmarks/larger_than_memory.py --out results/larger-than-memory.json

Each kind of file is written there when it is done, and not run again.
"""

import argparse
import contextlib
import io
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

KINDS = ("X.npy", "rows.csv", "rows.parquet", "images")
LABELED = 200
SLACK = 64 * 2**20
SETTINGS = {"batch_size": 1000, "hidden_layer_sizes": [50]}


def make(kind: str, folder: Path, rows: int) -> Path:
    """Write rows of which the first LABELED have a label."""
    folder.mkdir()
    path = folder / kind
    if kind == "X.npy":
        x = np.lib.format.open_memmap(path, "w+", np.float32, (rows, 100))
        for start, part in _random(rows, 100):
            x[start : start + len(part)] = part
        np.save(folder / "y.npy", np.where(np.arange(rows) < LABELED, np.arange(rows) % 2, -1).astype(np.int8))
    elif kind == "images":
        _make_images(path, rows)
    else:
        frames = (_frame(start, part) for start, part in _random(rows, 20))
        if kind == "rows.csv":
            with path.open("w") as file:
                for number, frame in enumerate(frames):
                    frame.to_csv(file, index=False, header=number == 0, float_format="%.6g")
        else:
            import pyarrow as pa
            from pyarrow import parquet

            first = pa.Table.from_pandas(next(frames), preserve_index=False)
            tables = (pa.Table.from_pandas(frame, first.schema, preserve_index=False) for frame in frames)
            with parquet.ParquetWriter(path, first.schema) as writer:
                for table in itertools.chain([first], tables):
                    writer.write_table(table)
    return path


def _random(rows: int, columns: int) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, rows, 10_000):
        rng = np.random.default_rng(start)
        yield start, rng.normal(size=(min(10_000, rows - start), columns)).astype(np.float32)


def _frame(start: int, part: np.ndarray) -> object:
    import pandas as pd

    numbers = np.arange(start, start + len(part))
    frame = pd.DataFrame(part, columns=[f"c{i}" for i in range(part.shape[1])])
    frame["colour"] = np.array(["red", "green", "blue"], dtype=object)[numbers % 3]
    frame["street"] = [f"road {number % 5000}" for number in numbers.tolist()]
    frame["kind"] = np.where(numbers < LABELED, np.where(part[:, 0] > 0, "up", "down"), None)
    return frame


def _make_images(path: Path, rows: int) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in ("one", "two", "unlabeled"):
        (path / name).mkdir(parents=True)
    for number in range(rows):
        name = ("one", "two")[number % 2] if number < LABELED else "unlabeled"
        pixels = rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((40, 40)).save(path / name / f"{number}.png", compress_level=1)


def status(field: str) -> int:
    """Bytes that the kernel says of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


class Peak:
    """The highest of what the kernel says, sampled by a thread."""

    def __init__(self) -> None:
        self.found = {"RssAnon": 0, "VmData": 0}
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            for field in self.found:
                self.found[field] = max(self.found[field], status(field))
            time.sleep(0.005)

    def during(self, work: Callable[[], None]) -> dict[str, float]:
        self.found = dict.fromkeys(self.found, 0)
        started = time.perf_counter()
        work()
        measured = {f"{name}_mib": round(size / 2**20, 1) for name, size in self.found.items()}
        return measured | {"seconds": round(time.perf_counter() - started, 1)}


def work(path: Path, *, from_disk: bool, limit: int) -> None:
    """Train on a file and predict it, in this process; print what was measured."""
    if limit:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))
    os.environ["XDG_CACHE_HOME"] = str(path.parent / "cache")
    run, answers = path.parent / "run", path.parent / "answers.csv"
    peak = Peak()
    trained = peak.during(lambda: train(path, run, from_disk=from_disk))
    predicted = peak.during(lambda: predict(path, run, answers, from_disk=from_disk))
    print(json.dumps({"train": trained, "predict": predicted}))


def call(*arguments: object) -> None:
    from laddernet.cli import app

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        failed = app([str(argument) for argument in arguments], standalone_mode=False)
    if failed:
        sys.exit(said.getvalue())


def train(path: Path, run: Path, *, from_disk: bool) -> None:
    if path.name == "images":  # of a small network: what counts is how the rows come
        train_on_images(path, run, from_disk=from_disk)
        return
    settings = path.parent / "settings.json"
    settings.write_text(json.dumps(SETTINGS))
    label = () if path.suffix == ".npy" else ("--label-column", "kind")
    flag = "--by-parts" if from_disk else "--whole"
    call(
        "train", path, *label, flag, "--settings", settings, "--epochs", 1, "--no-baseline", "--out", run, "--overwrite"
    )


def predict(path: Path, run: Path, answers: Path, *, from_disk: bool) -> None:
    flag = () if path.name == "images" else ("--by-parts" if from_disk else "--whole",)
    call("predict", run, path, *flag, "--out", answers, "--overwrite")


def train_on_images(path: Path, run: Path, *, from_disk: bool) -> None:
    from laddernet import LadderClassifier
    from laddernet.checkpoints import save_run
    from laddernet.folders import ImageOptions, prepare_images

    watch = contextlib.nullcontext(lambda done, of: None)
    prepared = prepare_images(path, ImageOptions(), lambda name: watch)
    model = LadderClassifier((50,), batch_size=1000, max_epochs=1, random_state=0)
    model.fit(prepared.x_train if from_disk else np.array(prepared.x_train[:]), prepared.y_train)
    save_run(run, model, training={"image_size": 32, "channels": 3}, metrics={}, overwrite=True)


def measure(path: Path, *, from_disk: bool = True, limit: int = 0) -> dict[str, dict[str, float]] | None:
    """Do the work in a process of its own; None where it was ended by the limit."""
    command = [sys.executable, __file__, "--work", str(path), "--limit", str(limit)]
    command += [] if from_disk else ["--in-memory"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode and not limit:
        sys.exit(ended.stderr)
    return None if ended.returncode else json.loads(ended.stdout.splitlines()[-1])


def measure_steps(repeats: int = 5) -> dict[str, dict[str, float]]:
    """Milliseconds a step of training takes, at best, from memory and from a mapped file that the system holds."""
    from laddernet import LadderClassifier
    from laddernet.data.labels import SparseLabels

    found = {}
    for name, columns, widths, batch in (
        ("784 columns, 1000-500-250-250-250, 100 rows", 784, (1000, 500, 250, 250, 250), 100),
        ("20 columns, 100-100, 200 rows", 20, (100, 100), 200),
    ):
        rows = 200 * batch
        labels = SparseLabels(rows=rows, numbers=np.arange(100), values=np.arange(100) % 10)
        seconds: dict[str, list[float]] = {"memory": [], "disk": []}
        with tempfile.TemporaryDirectory() as folder:
            x = np.random.default_rng(0).normal(size=(rows, columns)).astype(np.float32)
            np.save(f"{folder}/x.npy", x)
            for place, given in [("memory", x), ("disk", np.load(f"{folder}/x.npy", mmap_mode="r"))] * repeats:
                model = LadderClassifier(widths, batch_size=batch, max_epochs=1, random_state=0).fit(given, labels)
                seconds[place].append(model.history_[0]["seconds"])
        best = {place: round(min(times) / 200 * 1000, 3) for place, times in seconds.items()}
        found[name] = best | {"ratio": round(best["disk"] / best["memory"], 3)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=50_000, help="of the single file; of images a twentieth")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--kinds", nargs="*", default=KINDS, choices=KINDS)
    parser.add_argument("--steps", action="store_true", help="measure steps from a mapped file alone")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--in-memory", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work:
        work(asked.work, from_disk=not asked.in_memory, limit=asked.limit)
        return

    from laddernet.reproduce import processor, versions

    content: dict[str, Any] = {}
    if asked.out and asked.out.exists():
        content = json.loads(asked.out.read_text(encoding="utf-8"))
    content |= {"machine": processor(), "versions": versions(), "labeled": LABELED, "slack_mib": SLACK / 2**20}
    found = content.setdefault("kinds", {})

    def keep() -> None:
        if asked.out:
            asked.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    if asked.steps:
        content["milliseconds_a_step"] = measure_steps()
        print(json.dumps(content["milliseconds_a_step"], indent=1))
        keep()
        return
    for kind in asked.kinds:
        if kind in found:
            continue
        rows = asked.rows // (20 if kind == "images" else 1)
        with tempfile.TemporaryDirectory() as folder:
            once = make(kind, Path(folder) / "once", rows)
            single = measure(once)
            assert single is not None
            limit = int(max(part["VmData_mib"] for part in single.values()) * 2**20) + SLACK
            often = make(kind, Path(folder) / "often", rows * asked.times)
            size = (
                sum(p.stat().st_size for p in often.rglob("*") if p.is_file())
                if often.is_dir()
                else often.stat().st_size
            )
            many = measure(often)
            bounded = measure(often, limit=limit)
            in_memory = measure(often, from_disk=False)
            found[kind] = {
                "rows": [rows, rows * asked.times],
                "file_mib": round(size / 2**20, 1),
                "once": single,
                "often": many,
                "limit_mib": round(limit / 2**20, 1),
                "survives_the_limit": bounded is not None,
                "often_in_memory": in_memory,
            }
            print(kind, json.dumps(found[kind]), flush=True)
            keep()
    content["milliseconds_a_step"] = measure_steps()
    keep()


if __name__ == "__main__":
    main()
