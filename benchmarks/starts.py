"""Whether the cost, which needs no labels, tells the better of several starts with the same few labels.

On digits: of each draw of labels, ladders that differ in their starting weights, batches and noise alone. The errors
are those on the training rows whose labels were hidden; test rows are not looked at. Results go to
results/starts.jsonl, one line a training as it finishes; what is there already is not run again.

    python benchmarks/starts.py --labels 10 20 --draws 8 --starts 5
    python benchmarks/starts.py --report
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from laddernet import LadderClassifier
from laddernet.data import choose_labeled, load
from laddernet.recipes import RECIPES
from laddernet.reproduce import describe_machine, versions
from laddernet.results_file import locked, read_lines, write_lines

EPOCHS = (10, 20, 50, 100, 150)
"""Whose cost is kept; the learning rate falls from the 100th on."""
FIRST_DRAW = 100


def one(labels: int, draw: int, start: int) -> dict[str, Any]:
    """Train once."""
    data = load("digits")
    known = choose_labeled(data.y_train, labels, seed=draw)
    y = np.full_like(data.y_train, -1)
    y[known] = data.y_train[known]
    model = LadderClassifier(**RECIPES["digits-50"].settings(), random_state=draw + 1000 * start)
    wrong = model.fit(data.x_train, y).predict(data.x_train) != data.y_train
    costs = {str(epoch): model.history_[epoch - 1]["cost"] for epoch in EPOCHS}
    error = round(100 * float(wrong[y == -1].mean()), 2)
    return {"error": error, "costs": costs, "machine": describe_machine(model.ladder_), "versions": versions()}


def add(path: Path, line: dict[str, Any]) -> None:
    """Write a line behind the others; the file is whole, or as it was."""
    with locked(path):
        write_lines(path, [*read_lines(path), line])


def summary(lines: list[dict[str, Any]], labels: int) -> dict[str, float]:
    """Means over the draws: of all starts' errors, the least one, and that of the start with the lowest cost."""
    draws: dict[int, list[dict[str, Any]]] = {}
    for line in lines:
        if line["labels"] == labels:
            draws.setdefault(line["draw"], []).append(line)

    def chosen(starts: list[dict[str, Any]], epoch: int) -> float:
        return float(min(starts, key=lambda line: line["costs"][str(epoch)])["error"])

    found = {
        "draws": float(len(draws)),
        "all": statistics.fmean(statistics.fmean(line["error"] for line in starts) for starts in draws.values()),
        "least": statistics.fmean(min(line["error"] for line in starts) for starts in draws.values()),
    }
    return found | {
        f"epoch {epoch}": statistics.fmean(chosen(starts, epoch) for starts in draws.values()) for epoch in EPOCHS
    }


def report(lines: list[dict[str, Any]]) -> None:
    counts = sorted({line["labels"] for line in lines})
    columns = ("labels", "draws", "all starts", "least", *(f"epoch {epoch}" for epoch in EPOCHS))
    table = Table(*columns, title="mean error in percent; by epoch: of the start with the lowest cost there")
    for labels in counts:
        draws, *errors = summary(lines, labels).values()
        table.add_row(f"{labels}", f"{draws:.0f}", *(f"{error:.2f}" for error in errors))
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, nargs="+", default=[10, 20])
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("results/starts.jsonl"))
    parser.add_argument("--report", action="store_true")
    chosen = parser.parse_args()
    done = {(line["labels"], line["draw"], line["start"]) for line in read_lines(chosen.out)}
    for labels in [] if chosen.report else chosen.labels:
        for draw in range(FIRST_DRAW, FIRST_DRAW + chosen.draws):
            for start in range(chosen.starts):
                if (labels, draw, start) not in done:
                    key = {"labels": labels, "draw": draw, "start": start}
                    add(chosen.out, {**key, **one(labels, draw, start)})
    report(read_lines(chosen.out))


if __name__ == "__main__":
    main()
