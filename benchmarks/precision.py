"""Is bfloat16 as good as float32? MNIST with 100 labels, 20 epochs, the same seeds and labels in both.

10,000 training images are kept out and judge the two; the test images are not used. Each run is appended to
results/precision.jsonl as it ends; what is there is not run again. Then:

    python benchmarks/precision.py            # runs what is missing, prints the paired difference
    python benchmarks/precision.py --report   # only prints it
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from scipy import stats

from laddernet import LadderClassifier
from laddernet.data import hide_labels, load
from laddernet.recipes import RECIPES
from laddernet.reproduce import describe_machine, versions

PRECISIONS = ("float32", "bfloat16")
HELD_OUT = 10_000


def run(seed: int, precision: str, epochs: int, device: str) -> dict[str, object]:
    data = load("mnist")
    settings = RECIPES["mnist-100"].settings() | {"max_epochs": epochs}
    order = np.random.default_rng(0).permutation(len(data.x_train))
    kept, held_out = order[HELD_OUT:], order[:HELD_OUT]
    model = LadderClassifier(**settings, precision=precision, device=device, random_state=seed)
    started = time.perf_counter()
    model.fit(data.x_train[kept], hide_labels(data.y_train[kept], 100, seed=seed))
    return {
        "seed": seed,
        "precision": precision,
        "epochs": epochs,
        "error": round(100 * (1 - model.score(data.x_train[held_out], data.y_train[held_out])), 4),
        "seconds": round(time.perf_counter() - started, 1),
        "machine": describe_machine(model.ladder_),
        "versions": versions(),
    }


def report(entries: list[dict[str, object]]) -> None:
    by_run = {(e["seed"], e["precision"]): e["error"] for e in entries}
    seeds = sorted({seed for seed, _ in by_run if all((seed, p) in by_run for p in PRECISIONS)})
    for seed in seeds:
        print(f"seed {seed}: " + ", ".join(f"{p} {by_run[seed, p]:.2f} %" for p in PRECISIONS))
    if len(seeds) < 2:
        return
    difference = np.array([by_run[seed, "bfloat16"] - by_run[seed, "float32"] for seed in seeds])
    half = stats.t.ppf(0.975, len(seeds) - 1) * difference.std(ddof=1) / len(seeds) ** 0.5
    mean = difference.mean()
    print(
        f"bfloat16 minus float32, n = {len(seeds)}: {mean:+.3f} points, "
        f"95 % from {mean - half:+.3f} to {mean + half:+.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("results/precision.jsonl"))
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    path = arguments.out
    entries = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(e["seed"], e["precision"]) for e in entries if e["epochs"] == arguments.epochs}
    for seed in range(arguments.seeds):
        for precision in PRECISIONS:
            if arguments.report or (seed, precision) in done:
                continue
            entries.append(run(seed, precision, arguments.epochs, arguments.device))
            path.parent.mkdir(exist_ok=True)
            with path.open("a") as file:
                file.write(json.dumps(entries[-1]) + "\n")
            print(entries[-1], flush=True)
    report([e for e in entries if e["epochs"] == arguments.epochs])


if __name__ == "__main__":
    main()
