"""What keeping a training's state costs: the share of its time that goes into it, on MNIST with the paper's network.

LADDERNET_DATA=... python benchmarks/checkpoint_cost.py --epochs 4
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from laddernet import LadderClassifier
from laddernet.data import load
from laddernet.recipes import RECIPES
from laddernet.reproduce import describe_machine, labels_for, versions
from laddernet.resume import Checkpoint


class Timed(Checkpoint):
    """A checkpoint that counts the time it takes, that of asking whether it is due included."""

    seconds = 0.0

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.each: list[float] = []

    def after_steps(self, state: Callable[[], Mapping[str, Any]], *, epoch_ended: bool) -> None:
        started = time.perf_counter()
        super().after_steps(state, epoch_ended=epoch_ended)
        self.seconds += time.perf_counter() - started

    def save(self, state: Mapping[str, Any]) -> None:
        super().save(state)
        self.each.append(self._cost)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("results/checkpoint-cost.json"))
    chosen = parser.parse_args()
    recipe = RECIPES["mnist-100"]
    data = load("mnist")
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Timed(Path(folder) / "checkpoint")
        settings = recipe.settings() | {"max_epochs": chosen.epochs}
        model = LadderClassifier(**settings, device=chosen.device, random_state=0)
        model.fit(data.x_train, labels_for(recipe, data, seed=0), checkpoint=checkpoint)
        size = checkpoint.path.stat().st_size
    training = sum(record["seconds"] for record in model.history_)
    content = {
        "epochs": chosen.epochs,
        "seconds": round(training, 2),
        "seconds_keeping": round(checkpoint.seconds, 3),
        "percent": round(100 * checkpoint.seconds / training, 2),
        "written": len(checkpoint.each),
        "median_seconds_of_one": round(statistics.median(checkpoint.each), 3),
        "bytes": size,
        "precision": model.precision_,
        "machine": describe_machine(model.ladder_),
        "versions": versions(),
    }
    chosen.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
