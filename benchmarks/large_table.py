"""A large mixed table on the command line: 100,000 rows, 30 columns, 1 % of the labels; time and memory.

Writes a CSV to a temporary folder, runs `laddernet train` (20 epochs, with the networks and models that it compares)
and `laddernet predict` on it as a user would, and appends wall time and peak memory of each command, imports included,
to results/large-table-cpu.json.

    python benchmarks/large_table.py
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

from laddernet.reproduce import commit_of_code, processor
from laddernet.results_file import write_json


def table(rows: int, *, seed: int) -> pd.DataFrame:
    """20 columns of numbers (5 with gaps), 3 categories, 2 of text, 2 dates, 2 booleans, a counter; 3 classes."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, rows)
    columns: dict[str, object] = {}
    for i in range(20):
        values = rng.normal(size=rows) * 10.0 ** (i % 5) + (i % 4 == 0) * kind * 10.0 ** (i % 5)
        columns[f"number_{i}"] = np.where(rng.uniform(size=rows) < 0.1 * (i % 4 == 1), np.nan, values.round(4))
    for i, size in enumerate((3, 12, 30)):
        columns[f"category_{i}"] = [f"c{c}" for c in (rng.integers(0, size, rows) + kind) % size]
    words = np.array(["pump", "valve", "seal", "leak", "noise", "heat", "belt", "oil", "crack", "wear", "dust", "rust"])
    for i in range(2):
        picks = words[(rng.integers(0, 6, (rows, 3)) + 3 * kind[:, None] * i) % 12]
        columns[f"text_{i}"] = [
            " ".join([*pick, str(n)]) for pick, n in zip(picks, rng.integers(0, 999, rows), strict=True)
        ]
    start = pd.Timestamp("2020-01-01")
    for i in range(2):
        columns[f"date_{i}"] = start + pd.to_timedelta(rng.integers(0, 2000, rows) + 50 * kind, unit="D")
        columns[f"flag_{i}"] = rng.uniform(size=rows) < 0.3 + 0.2 * kind
    columns["counter"] = np.arange(rows)
    columns["label"] = np.where(rng.uniform(size=rows) < 0.01, np.array(["good", "worn", "broken"])[kind], "")
    frame = pd.DataFrame(columns)
    assert frame.shape == (rows, 31)
    return frame


def measure(command: list[str], folder: Path) -> dict[str, float]:
    """Run a command; wall time in seconds, and the peak of its resident memory in MiB."""
    started, peak = time.perf_counter(), [0]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def watch() -> None:
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            try:
                line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
                peak[0] = max(peak[0], int(line.split()[1]))
            except (OSError, StopIteration):
                pass
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    out, err = process.communicate()
    seconds = time.perf_counter() - started
    watcher.join()
    print(out, err if process.returncode else "", sep="", flush=True)
    if process.returncode:
        sys.exit(process.returncode)
    return {"seconds": round(seconds, 1), "peak_mib": round(peak[0] / 1024)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("results/large-table-cpu.json"))
    arguments = parser.parse_args()
    laddernet = [sys.executable, "-m", "laddernet"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table(arguments.rows, seed=0).to_csv(folder / "table.csv", index=False)
        train = [*laddernet, "train", "table.csv", "--label-column", "label", "--epochs", str(arguments.epochs)]
        entry = {
            "rows": arguments.rows,
            "epochs": arguments.epochs,
            "train": measure([*train, "--out", "run"], folder),
            "predict": measure([*laddernet, "predict", "run", "table.csv"], folder),
            "predicted_rows": len(pd.read_csv(folder / "predictions.csv")),
            "metrics": json.loads((folder / "run/metrics.json").read_text()),
            "date": datetime.now(UTC).date().isoformat(),
            "commit": commit_of_code(),
            "versions": {name: version(name) for name in ("laddernet", "torch", "numpy", "pandas", "skrub")},
            "machine": f"{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        }
    print(json.dumps(entry, indent=1))
    earlier = json.loads(arguments.out.read_text()) if arguments.out.exists() else []
    write_json(arguments.out, [*earlier, entry])


if __name__ == "__main__":
    main()
