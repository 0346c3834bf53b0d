"""Past the paper: what helps on MNIST with few labels, judged on training images alone.

A fixed 10,000 of the training images are kept out, the labels are chosen from the rest; test images are never looked
at. Each trial changes something of the paper's settings, in a whole schedule; "a + b" makes the changes of both.
Results go to results/beyond.jsonl, one line for each trial and seed as it finishes; what is there already is not run
again, and a training that was stopped goes on where it was. A student's teacher is a trial too, whose result is written
down; its state stays beside the results, for other students. --combine takes the changes that helped, the best first,
and keeps each that helps with those before it.

    python benchmarks/beyond.py --labels 100 --epochs 20 --seeds 100-109 --device cuda    # ten seeds at once
    python benchmarks/beyond.py --labels 100 --epochs 20 --seeds 100-102 --only reference cosine
    python benchmarks/beyond.py --labels 100 --epochs 20 --seeds 100-109 --device cuda --combine
    python benchmarks/beyond.py --report
"""

import argparse
import functools
import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.model_selection import train_test_split
from torch import Tensor

from laddernet.combinators import AMLP
from laddernet.data import choose_labeled, load
from laddernet.errors import TrainingError
from laddernet.ladder import Ladder
from laddernet.networks import mlp
from laddernet.noise import VirtualAdversarial
from laddernet.recipes import RECIPES, Recipe
from laddernet.reproduce import describe_machine, versions
from laddernet.results_file import locked, read_lines, write_lines
from laddernet.resume import Checkpoint
from laddernet.together import Labeled, train_together
from laddernet.training import TrainingConfig, train

KEPT_OUT = 10_000
ALL_LABELS = 60_000 - KEPT_OUT
Changes = dict[str, dict[str, Any]]
"""What a trial changes of the network's, the ladder's and the training's settings, and of a student's after it; `start`
is added to the seeds of all but the labels."""


def seeds_of(text: str) -> list[int]:
    """Such as 100-109 or 100,103."""
    pairs = [(part.partition("-")[0], part.rpartition("-")[2]) for part in text.split(",")]
    return [seed for first, last in pairs for seed in range(int(first), int(last) + 1)]


def weights(at_input: float, first: float, rest: float) -> tuple[float, ...]:
    return (at_input, first, *[rest] * 5)


TRIALS: dict[str, Changes] = {
    "reference": {},
    "projection, encoder": {"ladder": {"weight_normalization": "encoder"}},
    "projection, all": {"ladder": {"weight_normalization": "all"}},
    "cosine": {"training": {"decay": "cosine"}},
    "cosine from the start": {"training": {"decay": "cosine", "decay_start": 0.0}},
    "linear from the start": {"training": {"decay_start": 0.0}},
    "linear from a third": {"training": {"decay_start": 1 / 3}},
    "no decay, a quarter averaged": {"training": {"decay_start": 1.0, "averaged": 0.25}},
    "a quarter averaged": {"training": {"averaged": 0.25}},
    "rate 0.001": {"training": {"learning_rate": 0.001}},
    "rate 0.004": {"training": {"learning_rate": 0.004}},
    "rate 0.008": {"training": {"learning_rate": 0.008}},
    "noise 0.2": {"ladder": {"noise_std": 0.2}},
    "noise 0.4": {"ladder": {"noise_std": 0.4}},
    "noise 0.3, 0.2 above": {"ladder": {"noise_std": (0.3, *[0.2] * 6)}},
    "noise 0.45, 0.3 above": {"ladder": {"noise_std": (0.45, *[0.3] * 6)}},
    "weights twice": {"ladder": {"denoising_weights": weights(2000, 20, 0.2)}},
    "weights half": {"ladder": {"denoising_weights": weights(500, 5, 0.05)}},
    "weights above 1": {"ladder": {"denoising_weights": weights(1000, 10, 1)}},
    "weights 5000, 50, 0.5": {"ladder": {"denoising_weights": weights(5000, 50, 0.5)}},
    "weights 2000, 20, 0.03": {"ladder": {"denoising_weights": weights(2000, 20, 0.03)}},
    "AMLP": {"ladder": {"combinator": "amlp"}},
    "AMLP of each unit": {"ladder": {"combinator": functools.partial(AMLP, shared=False)}},
    "network twice as wide": {"network": {"hidden_layer_sizes": (2000, 1000, 500, 500, 500)}},
    "first layers twice as wide": {"network": {"hidden_layer_sizes": (2000, 1000, 250, 250, 250)}},
    "last layers twice as wide": {"network": {"hidden_layer_sizes": (1000, 500, 500, 500, 500)}},
    "all layers of 1000": {"network": {"hidden_layer_sizes": (1000, 1000, 1000, 1000, 1000)}},
    "another start": {"start": {"plus": 1000}},
    "a third start": {"start": {"plus": 2000}},
    "clean supervised path": {"ladder": {"supervised_path": "clean"}},
    "adversarial, 3 hundredths": {"ladder": {"corruption": VirtualAdversarial(0.03)}},
    "adversarial, a tenth": {"ladder": {"corruption": VirtualAdversarial(0.1)}},
    "adversarial, 3 tenths": {"ladder": {"corruption": VirtualAdversarial(0.3)}},
    "student": {"student": {"epochs": 30}},
    "student, weights of 1000 labels": {"student": {"epochs": 30, "recipe": "mnist-1000"}},
    "student, noise 0.5": {"student": {"epochs": 30, "noise_std": 0.5}},
    "student, 60 epochs": {"student": {"epochs": 60}},
    "student, 150 epochs": {"student": {"epochs": 150}},
    "student of a student": {"student": {"epochs": 30, "times": 2}},
}


def changes_of(trial: str) -> Changes:
    """What a trial, or several with " + " between, changes; an error where two of them set the same."""
    merged: Changes = {"network": {}, "ladder": {}, "training": {}, "student": {}, "start": {}}
    for part in trial.split(" + "):
        for kind, settings in TRIALS[part].items():
            if twice := merged[kind].keys() & settings.keys():
                raise ValueError(f"{trial}: {', '.join(twice)} is set twice")
            merged[kind] |= settings
    return merged


def name_of(text: str) -> str:
    try:
        changes_of(text)
    except (KeyError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"no such trial: {error}; there are {', '.join(TRIALS)}") from None
    return text


class Stage(NamedTuple):
    """One training: of a trial's network, or of a student that learns the answers of the one before."""

    hidden_layer_sizes: tuple[int, ...]
    ladder: dict[str, Any]
    training: dict[str, Any]


def stages_of(trial: str, labels: int, epochs: int) -> list[Stage]:
    changes = changes_of(trial)
    student = {"times": 1, "recipe": "mnist-all", **changes["student"]}
    noise = {"noise_std": student["noise_std"]} if "noise_std" in student else {}

    def stage(recipe: Recipe, ladder: dict[str, Any], training: dict[str, Any]) -> Stage:
        sizes = changes["network"].get("hidden_layer_sizes", recipe.hidden_layer_sizes)
        usual = {"noise_std": recipe.noise_std, "denoising_weights": recipe.denoising_weights}
        return Stage(sizes, {**usual, **ladder}, training)

    row = f"mnist-{'all' if labels == ALL_LABELS else labels}"
    first = RECIPES[row if row in RECIPES else "mnist-50"]
    training = dict(changes["training"])
    averaged = {"averaged_epochs": max(1, round(epochs * training.pop("averaged")))} if "averaged" in training else {}
    stages = [stage(first, changes["ladder"], {"epochs": epochs, **training, **averaged})]
    if changes["student"]:
        stages += student["times"] * [stage(RECIPES[student["recipe"]], noise, {"epochs": student["epochs"]})]
    return stages


def ladder_of(seed: int, device: str, stage: Stage) -> Ladder:
    generator = torch.Generator().manual_seed(seed)
    encoder = mlp([784, *stage.hidden_layer_sizes, 10], generator=generator)
    ladder = Ladder(encoder, generator=generator, **stage.ladder).to(device)
    ladder.generator = torch.Generator(device).manual_seed(seed)
    return ladder


@functools.cache
def split() -> list[NDArray[Any]]:
    """Images to train on and those kept out, then their digits."""
    data = load("mnist")
    parts: list[NDArray[Any]] = train_test_split(
        data.x_train, data.y_train, test_size=KEPT_OUT, stratify=data.y_train, random_state=0
    )
    return parts


def answers(ladder: Ladder, x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([ladder.predict(part).argmax(1) for part in x.split(10_000)])


def fit(
    stage: Stage, rows: Tensor, known: Sequence[Labeled], seeds: list[int], precision: str, keeper: Checkpoint
) -> tuple[list[Ladder], list[float], float]:
    """Ladders with each seed, the cost of each in the last epoch, and the seconds of all epochs."""
    config = TrainingConfig(precision=precision, **stage.training)
    ladders = [ladder_of(seed, rows.device.type, stage) for seed in seeds]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    with keeper.held():
        if len(seeds) > 1:
            histories = train_together(ladders, rows, known, config, generators=generators, keeper=keeper)
        else:
            (one,) = known
            histories = [train(ladders[0], rows, one.x, one.y, config, generator=generators[0], keeper=keeper)]
    costs = [history[-1]["cost"] for history in histories]
    return ladders, costs, sum(record["seconds"] for record in histories[0])


def keeper_of(name: str, seeds: list[int], chosen: argparse.Namespace) -> Checkpoint:
    name = f"{name}-{chosen.labels}-{chosen.epochs}-{'-'.join(map(str, seeds))}"
    return Checkpoint(chosen.out.with_name(f".{chosen.out.stem}-{name}.checkpoint"))


def errors(trial: str, seeds: list[int], chosen: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the percent of images kept out that each seed gets wrong, of a teacher and then of the trial itself."""
    x, x_out, y, y_out = (torch.from_numpy(part).to(chosen.device) for part in split())
    kept = [torch.from_numpy(choose_labeled(split()[2], chosen.labels, seed=seed)).to(x.device) for seed in seeds]
    known = [Labeled(x[rows], y[rows]) for rows in kept]
    starts = starts_of(trial, seeds)
    *teachers, last = stages_of(trial, chosen.labels, chosen.epochs)
    seconds = 0.0

    def outcome(ladders: list[Ladder], costs: list[float]) -> dict[str, Any]:
        wrong = [round(100 * float((answers(ladder, x_out) != y_out).float().mean()), 2) for ladder in ladders]
        machine = describe_machine(ladders[0])
        return {"errors": wrong, "costs": costs, "seconds": round(seconds, 1), "machine": machine}

    for number, stage in enumerate(teachers):
        name = f"teacher {number} of {trial}" if number else untaught(trial)
        keeper = keeper_of(f"teacher, {name}", seeds, chosen)
        ladders, costs, took = fit(stage, x, known, starts, chosen.precision, keeper)
        seconds += took
        if not number:
            yield name, outcome(ladders, costs)
        all_known = [
            answers(ladder, x).index_copy(0, rows, y[rows]) for ladder, rows in zip(ladders, kept, strict=True)
        ]
        known = [Labeled(x, labels) for labels in all_known]
    own = keeper_of(trial, seeds, chosen)
    with own.until_done():
        ladders, costs, took = fit(last, x, known, starts, chosen.precision, own)
    seconds += took
    yield trial, outcome(ladders, costs)


def starts_of(trial: str, seeds: Sequence[int]) -> list[int]:
    """Seeds of the starting weights, the batches and the noise, where `seeds` are those of the labels."""
    plus = changes_of(trial)["start"].get("plus", 0)
    return [seed + plus for seed in seeds]


def untaught(trial: str) -> str:
    """Name a student's first teacher: the trial without the student."""
    return " + ".join(part for part in trial.split(" + ") if "student" not in TRIALS[part]) or "reference"


def report(results: list[dict[str, Any]]) -> None:
    table = Table("labels", "epochs", "trial", "n", "mean", "std", "median", "each")
    groups: dict[tuple[int, int, str], list[float]] = {}
    for line in results:
        groups.setdefault((line["labels"], line["epochs"], line["trial"]), []).append(line["error"])
    for (labels, epochs, trial), values in sorted(groups.items(), key=lambda item: statistics.fmean(item[1])):
        spread = f"{statistics.stdev(values):.2f}" if len(values) > 1 else ""
        cells = (
            labels,
            epochs,
            trial,
            len(values),
            f"{statistics.fmean(values):.3f}",
            spread,
            statistics.median(values),
        )
        table.add_row(*map(str, cells), ", ".join(map(str, values)))
    Console(width=150).print(table)


def mean(trial: str, chosen: argparse.Namespace) -> float:
    """Of the chosen seeds' errors; infinite where one is missing."""
    key = {"labels": chosen.labels, "epochs": chosen.epochs, "trial": trial}
    found = {line["seed"]: line["error"] for line in read_lines(chosen.out) if key.items() <= line.items()}
    return statistics.fmean(found.get(seed, math.inf) for seed in chosen.seeds)


def missing(trial: str, seeds: Sequence[int], chosen: argparse.Namespace) -> list[int]:
    key = {"labels": chosen.labels, "epochs": chosen.epochs, "trial": trial}
    done = {line["seed"] for line in read_lines(chosen.out) if key.items() <= line.items()}
    return [seed for seed in seeds if seed not in done]


def run(trial: str, chosen: argparse.Namespace) -> None:
    """Run what is missing of a trial, and write it down."""
    left = missing(trial, chosen.seeds, chosen)
    alone = chosen.device == "cpu" or "corruption" in changes_of(trial)["ladder"]
    for seeds in [[seed] for seed in left] if alone else [left] * bool(left):
        try:
            for name, found in errors(trial, seeds, chosen):
                write(name, seeds, found, chosen)
        except TrainingError as diverged:
            print(trial, seeds, diverged, flush=True)


def write(trial: str, seeds: list[int], found: dict[str, Any], chosen: argparse.Namespace) -> None:
    """Add a trial's results for the seeds that have none; the file is whole, or as it was."""
    key = {"labels": chosen.labels, "epochs": chosen.epochs, "trial": trial}
    others = {"precision": chosen.precision, "seconds": found["seconds"], "together": len(seeds)}
    others |= {"machine": found["machine"], "versions": versions()}
    with locked(chosen.out):
        left = missing(trial, seeds, chosen)
        each = zip(seeds, found["errors"], found["costs"], strict=True)
        new = [{"seed": seed, "error": error, "cost": cost} for seed, error, cost in each if seed in left]
        write_lines(chosen.out, [*read_lines(chosen.out), *[{**key, **result, **others} for result in new]])
    for result in new:
        print(trial, *result.values(), f"{found['seconds']} s", flush=True)


def combine(chosen: argparse.Namespace) -> None:
    """Try the changes that helped, the best first, each with those that have helped so far."""
    best, lowest = "", mean("reference", chosen)
    for trial in sorted((t for t in TRIALS if "start" not in TRIALS[t]), key=lambda trial: mean(trial, chosen)):
        together = f"{best} + {trial}".removeprefix(" + ")
        try:
            changes_of(together)
        except ValueError:
            continue
        if mean(trial, chosen) >= mean("reference", chosen):
            break
        run(together, chosen)
        if mean(together, chosen) < lowest:
            best, lowest = together, mean(together, chosen)
    print(f"best: {best or 'reference'}, {lowest:.3f} %", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=100, help=f"{ALL_LABELS} are all of them")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=seeds_of, default=[100, 101, 102])
    parser.add_argument("--only", nargs="+", type=name_of, default=list(TRIALS), metavar="TRIAL")
    parser.add_argument("--combine", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--out", type=Path, default=Path("results/beyond.jsonl"))
    parser.add_argument("--report", action="store_true")
    chosen = parser.parse_args()
    if chosen.report:
        report(read_lines(chosen.out))
        return
    if chosen.combine:
        combine(chosen)
        return
    for trial in chosen.only:
        run(trial, chosen)


if __name__ == "__main__":
    main()
