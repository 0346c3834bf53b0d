"""Deep ladders: fully connected ones of 20 and 50 layers and a residual one of 20, on MNIST with 100 labels.

Whole schedules of 10 epochs, the ladder (full and gamma) beside the same network without a decoder; the cost of a step
of each, and how long each trains until it has a given error. Errors are of 10,000 training images that are kept out,
after every epoch and at the end; the labels are chosen from the others. Each run is appended to results/depth.jsonl as
it ends, and is not made again. MNIST is found under LADDERNET_DATA.

With --steps, only the steps are timed, those of one network in turn; that goes to results/depth-steps.json.

Usage: python benchmarks/depth.py [--seeds 0,1,2] [--only fully-connected-20 ...] [--variants full ...] [--steps]
"""

import argparse
import json
import statistics
import time
from contextlib import ExitStack
from itertools import product
from pathlib import Path

import numpy as np
import torch
from step import training_step
from torch import Tensor, nn
from torch.nn import functional

from laddernet.data import load
from laddernet.data.labels import choose_labeled
from laddernet.ladder import Ladder
from laddernet.loop import Callback
from laddernet.networks import mlp
from laddernet.reproduce import describe_machine, versions
from laddernet.training import TrainingConfig, Validation, make_optimizer, step_context, train

WIDTH, EPOCHS, LABELS, HELD_OUT = 250, 10, 100, 10_000
VARIANTS = ("full", "gamma", "baseline")
NETWORKS = ("fully-connected-20", "fully-connected-50", "residual-20")
RESULTS = Path(__file__).parents[1] / "results" / "depth.jsonl"


class Block(nn.Module):
    """Two layers before whose sum with the input nothing is normalised, as in networks that are not written for it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm1d(width), nn.BatchNorm1d(width)
        self.map1, self.map2 = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.map1(functional.relu(self.norm1(x)))
        return x + self.map2(functional.relu(self.norm2(h)))


def network(name: str) -> nn.Module:
    if name == "residual-20":  # a linear map, nine blocks of two, a linear map
        blocks = [Block(WIDTH) for _ in range(9)]
        return nn.Sequential(nn.Linear(784, WIDTH), *blocks, nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10))
    depth = int(name.rsplit("-", 1)[1])
    return mlp([784, *[WIDTH] * (depth - 1), 10])


class Watch(Callback):
    """Seconds of the steps alone, summed, after each epoch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.steps = 0

    def on_train_begin(self, epochs: int, steps_per_epoch: int) -> None:
        self.per_epoch = steps_per_epoch
        self.last = time.perf_counter()
        self.spent = 0.0

    def on_step_end(self) -> None:
        now = time.perf_counter()
        self.spent += now - self.last
        self.last, self.steps = now, self.steps + 1
        if self.steps % self.per_epoch == 0:
            self.seconds.append(self.spent)

    def on_epoch_end(self, record: object) -> None:
        self.last = time.perf_counter()


def run(name: str, variant: str, seed: int, x: Tensor, y: np.ndarray) -> dict[str, object]:
    order = np.random.default_rng(seed).permutation(len(x))
    kept, held_out = torch.from_numpy(order[HELD_OUT:]), torch.from_numpy(order[:HELD_OUT])
    labeled = kept[torch.from_numpy(choose_labeled(y[kept], LABELS, seed=seed))]
    targets = torch.from_numpy(y)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    ladder = Ladder(network(name), variant=variant, generator=generator)
    config = TrainingConfig(epochs=EPOCHS, batch_size=100)
    watch = Watch()

    def validate(ladder: Ladder) -> Validation:
        wrong = ladder.predict(x[held_out]).argmax(dim=1) != targets[held_out]
        return Validation(100 * float(wrong.double().mean()))

    history = train(
        ladder, x[kept], x[labeled], targets[labeled], config, generator=torch.Generator().manual_seed(seed + 1),
        validate=validate, callback=watch,
    )  # fmt: skip
    return {
        "network": name,
        "variant": variant,
        "seed": seed,
        "layers": len(ladder.rung_names),
        "errors": [round(record["validation_error"], 2) for record in history],
        "error": round(validate(ladder).error, 2),
        "seconds": [round(seconds, 2) for seconds in watch.seconds],
        "ms_per_step": round(1000 * watch.seconds[-1] / watch.steps, 2),
        "versions": versions(),
        "machine": describe_machine(ladder),
    }


def time_steps(repeats: int) -> list[dict[str, object]]:
    """Milliseconds of a step of each variant, the variants of one network in turn."""
    found: list[dict[str, object]] = []
    generator = torch.Generator().manual_seed(0)
    x_labeled, x_unlabeled = torch.rand(2, 100, 784, generator=generator)
    rows = (x_labeled, torch.arange(100) % 10, x_unlabeled)
    config = TrainingConfig(kernels="compiled")
    for name in NETWORKS:
        times: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
        with ExitStack() as stack:
            steps = {}
            for variant in VARIANTS:
                ladder = Ladder(network(name), variant=variant, generator=torch.Generator().manual_seed(0))
                optimizer = make_optimizer(ladder, config)
                autocast = stack.enter_context(step_context(ladder, optimizer, config, steps=1))
                steps[variant] = training_step(ladder, optimizer, rows, autocast)
            for repeat in range(repeats + 5):
                for variant, step in steps.items():
                    started = time.perf_counter()
                    step()
                    if repeat >= 5:
                        times[variant].append(1000 * (time.perf_counter() - started))
        baseline = times["baseline"]
        found.append({
            "network": name,
            "milliseconds": {variant: round(statistics.median(elapsed), 2) for variant, elapsed in times.items()},
            "of_baseline": {
                variant: round(statistics.median(a / b for a, b in zip(elapsed, baseline, strict=True)), 2)
                for variant, elapsed in times.items()
            },
            "repeats": repeats,
            "versions": versions(),
            "machine": describe_machine(ladder),
        })  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--steps", action="store_true", help="time steps, and train nothing")
    options = parser.parse_args()
    if options.steps:
        found = time_steps(repeats=50)
        print(json.dumps(found, indent=1))
        RESULTS.with_name("depth-steps.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        return
    lines = options.out.read_text(encoding="utf-8").splitlines() if options.out.exists() else []
    done = {(entry["network"], entry["variant"], entry["seed"]) for entry in map(json.loads, lines)}
    data = load("mnist")
    x = torch.from_numpy(data.x_train)
    for seed, name, variant in product(map(int, options.seeds.split(",")), options.only, options.variants):
        if (name, variant, seed) not in done:
            result = run(name, variant, seed, x, data.y_train)
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(result, ensure_ascii=False) + "\n")
            print(name, variant, seed, result["error"], f"{result['ms_per_step']} ms", flush=True)


if __name__ == "__main__":
    main()
