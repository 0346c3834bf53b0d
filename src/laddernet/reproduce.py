"""Recipes run over seeds, each result written as soon as it is there."""

import platform
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch

from laddernet import __version__
from laddernet.data import DATASETS, Dataset, hide_labels, load
from laddernet.devices import device_of
from laddernet.distributed import ALONE, Processes
from laddernet.errors import RunError
from laddernet.ladder import Ladder
from laddernet.loop import Callback
from laddernet.recipes import Recipe
from laddernet.results_file import add_results, read_results
from laddernet.resume import Checkpoint
from laddernet.training import Precision, cpu_threads

Watch = Callable[[str], Callback]
"""Gives what watches a training, of the name of its recipe."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One recipe trained with one seed.

    Attributes
    ----------
    model : LadderClassifier
        The trained estimator.
    test_error : float
        Percent of the test rows.
    seconds : float
        Of training and calibration.
    """

    model: Any
    test_error: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where and in which precision to run.

    Attributes
    ----------
    device, precision : str
        As in `LadderClassifier`.
    data_dir : Path or None
        See `laddernet.data.data_folder`.
    """

    device: str = "auto"
    precision: Precision = "auto"
    data_dir: Path | None = field(default=None)


def labels_for(recipe: Recipe, data: Dataset, *, seed: int) -> np.ndarray[Any, Any]:
    """Return the training labels that a recipe keeps with this seed, -1 for all others."""
    return data.y_train if recipe.labels is None else hide_labels(data.y_train, recipe.labels, seed=seed)


def run_recipe(
    recipe: Recipe,
    data: Dataset,
    *,
    seeds: Sequence[int],
    machine: Machine,
    watch: Watch | None = None,
    checkpoints: Sequence[Checkpoint | None] = (),
    processes: Processes = ALONE,
) -> list[Outcome]:
    """Train a recipe with each seed, which fixes the labelled rows and all else random, and test it.

    Parameters
    ----------
    recipe, data
    seeds : sequence of int
        Several are trained as one batched network; see `estimators.fit_together`.
    machine : Machine
    watch : callable, optional
        Gives what watches each of `Recipe.stages`, of its name.
    checkpoints : sequence of Checkpoint, optional
        For each of the stages.
    processes : Processes
        That train one seed together.

    Returns
    -------
    list of Outcome
        In the order of the seeds; the seconds are those of all of them and of all stages.

    Raises
    ------
    KeyboardInterrupt
        If the training was interrupted: half a training has no result.
    """
    *_, outcomes = _outcomes(recipe, data, seeds, machine, watch, checkpoints, processes)
    return outcomes


def _outcomes(
    recipe: Recipe,
    data: Dataset,
    seeds: Sequence[int],
    machine: Machine,
    watch: Watch | None,
    checkpoints: Sequence[Checkpoint | None],
    processes: Processes,
) -> Iterator[list[Outcome]]:
    """Yield what `run_recipe` returns for each of the recipe's stages, as soon as it is there.

    A recipe with a teacher comes after that, with the teacher's answers as the labels of the rows that have none.
    """
    models: list[Any] = []  # of the stage before
    seconds = 0.0
    for stage, checkpoint in zip_longest(recipe.stages, checkpoints):
        labels = [labels_for(stage, data, seed=seed) for seed in seeds]
        if models:
            answers = [model.predict(data.x_train) for model in models]
            labels = [np.where(known >= 0, known, answer) for known, answer in zip(labels, answers, strict=True)]
        started = time.perf_counter()
        callback = None if watch is None else watch(stage.name)
        models = _fit(stage, data.x_train, labels, seeds, machine, callback, checkpoint, processes)
        seconds += seconds_of(models[0], started)
        errors = [_test_error(model, stage, data, seed) for model, seed in zip(models, seeds, strict=True)]
        yield [Outcome(model=m, test_error=e, seconds=seconds) for m, e in zip(models, errors, strict=True)]


def _fit(
    recipe: Recipe,
    x: Any,
    labels: Sequence[Any],
    seeds: Sequence[int],
    machine: Machine,
    callback: Callback | None,
    checkpoint: Checkpoint | None,
    processes: Processes,
) -> list[Any]:
    from laddernet.estimators import LadderClassifier, fit_together

    models = [
        LadderClassifier(**recipe.settings(), device=machine.device, precision=machine.precision, random_state=seed)
        for seed in seeds
    ]
    if len(models) == 1:
        watch = callback or Callback()
        fit_whole(models[0], x, labels[0], callback=watch, checkpoint=checkpoint, processes=processes)
    else:
        fit_together(models, x, labels, callback=callback, checkpoint=checkpoint)
    return models


def _test_error(model: Any, recipe: Recipe, data: Dataset, seed: int) -> float:
    if recipe.labeled_statistics:
        rows = data.x_train[labels_for(recipe, data, seed=seed) >= 0]
        model.ladder_.calibrate(torch.from_numpy(model.scaling_.apply(rows, np.float32)))
    return 100 * (1 - float(model.score(data.x_test, data.y_test)))


def seconds_of(model: Any, started: float) -> float:
    """Return the seconds since `started` or, of a training that was taken up again, those of its epochs if more."""
    return float(max(time.perf_counter() - started, sum(record["seconds"] for record in model.history_)))


def fit_whole(
    model: Any,
    x: Any,
    y: Any,
    *,
    callback: Callback | None = None,
    checkpoint: Checkpoint | None = None,
    processes: Processes = ALONE,
) -> None:
    """Fit an estimator, or raise KeyboardInterrupt where that was interrupted."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="training was interrupted")
        model.fit(x, y, callback=callback, checkpoint=checkpoint, processes=processes)
    if model.interrupted_:
        raise KeyboardInterrupt


def reproduce(
    recipe: Recipe,
    *,
    seeds: Sequence[int],
    out: Path,
    machine: Machine,
    watch: Watch | None = None,
) -> list[dict[str, Any]]:
    """Run a recipe with each seed, all at once, and append the results to ``out / "<recipe>.json"``.

    The file is ``{"recipe": ..., "settings": ..., "seeds": [...]}``. It is replaced as a whole, so that it is always
    complete. A teacher is a recipe too, whose result is appended to its own file as soon as it is trained. The
    training's state is kept beside (``.<recipe>-seed-<seeds>.checkpoint``, of each stage) until all is done; the same
    call, with the same seeds left, goes on from there after a break.

    Returns
    -------
    list of dict
        The recipe's new entries; none for a seed that the file has already. "seconds" are those of all stages and of
        all seeds that were trained at once, whose number is "together". Where a part of the training was made by other
        code or on another machine, "earlier" lists its commit, versions and machine.

    Raises
    ------
    RunError
        If a file is there but is not such a file, or has results of other settings; it is left as it is. If the folder
        cannot be made.
    ValueError
        If there are several seeds, and the recipe's training rows differ with the seed.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"no results can be written to {out}: {error.strerror or error}. Name another folder (--out)."
        ) from error
    seeds = _left(recipe, seeds, out)
    if not seeds:
        return []
    if len(seeds) > 1 and not can_go_together(recipe):
        raise ValueError(
            f"{recipe.name} cannot train several seeds at once, since its rows differ with the seed or its network is "
            "convolutional: run one at a time (--together 1, or leave it out)."
        )
    commit = commit_of_code()  # of the code that runs, whatever is committed meanwhile
    data = load(recipe.dataset, data_dir=machine.data_dir, seed=seeds[0])
    numbers = "-".join(map(str, seeds))
    origin = {"commit": commit, "versions": versions(), "machine": _device_name(device_of(machine.device))}
    checkpoints = [
        Checkpoint(out / f".{stage.name}-seed-{numbers}.checkpoint", origin=origin) for stage in recipe.stages
    ]
    new: list[dict[str, Any]] = []
    epochs = 0
    with ExitStack() as stack:
        for checkpoint in checkpoints:
            stack.enter_context(checkpoint.until_done())
        if _left(recipe, seeds, out) != seeds:  # another process ended them before these were locked
            return reproduce(recipe, seeds=seeds, out=out, machine=machine, watch=watch)
        stages = _outcomes(recipe, data, seeds, machine, watch, checkpoints, ALONE)
        for stage, outcomes in zip(recipe.stages, stages, strict=True):
            epochs += outcomes[0].model.n_iter_
            earlier = [made for kept in checkpoints for made in kept.origins if made != origin]
            new = [
                {
                    "seed": seed,
                    "test_error": round(outcome.test_error, 4),
                    "cost": outcome.model.history_[-1]["cost"],
                    "seconds": round(outcome.seconds, 1),
                    "together": len(seeds),
                    "epochs": epochs,
                    "precision": outcome.model.precision_,
                    "commit": commit,
                    "versions": versions(),
                    "machine": describe_machine(outcome.model.ladder_),
                    **({"earlier": earlier} if earlier else {}),
                }
                for seed, outcome in zip(seeds, outcomes, strict=True)
            ]
            new = add_results(out / f"{stage.name}.json", stage, new)
    return new


def _left(recipe: Recipe, seeds: Sequence[int], out: Path) -> list[int]:
    """Return the seeds whose result is not there yet."""
    *_, there = [read_results(out / f"{stage.name}.json", stage) for stage in recipe.stages]  # an error comes early
    done = {entry["seed"] for entry in there}
    return [seed for seed in seeds if seed not in done]


def can_go_together(recipe: Recipe) -> bool:
    """Return whether several seeds of a recipe can be trained as one batched network.

    They can on the same training rows, with a fully connected network.
    """
    return bool(DATASETS[recipe.dataset].files) and recipe.validation_fraction == 0 and not recipe.network


def seeds_at_once(recipe: Recipe, machine: Machine) -> int:
    """Return how many seeds to train at once: one on the CPU, up to ten on a GPU, as its memory allows."""
    device = device_of(machine.device)
    if device.type != "cuda" or not can_go_together(recipe):
        return 1
    widths = (DATASETS[recipe.dataset].features, *recipe.hidden_layer_sizes, DATASETS[recipe.dataset].classes)
    weights = 2 * sum(below * above for below, above in pairwise(widths))  # encoder and decoder
    values = 3 * recipe.batch_size * sum(widths)  # of all streams in all layers
    a_seed = 4 * (4 * weights + 30 * values)  # gradient and moments; what backward keeps
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, min(10, free // 2 // a_seed))


def commit_of_code() -> str:
    """The commit of a source checkout (with + where it was changed), else empty."""
    here = Path(__file__).parent
    if not (here.parents[1] / ".git").exists():  # installed: a repository further up would be the user's own
        return ""
    command = ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--exclude=*", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def versions() -> dict[str, str]:
    """Return the versions of what a result depends on."""
    return {"laddernet": __version__} | {name: version(name) for name in ("torch", "numpy", "scikit-learn")}


def describe_machine(ladder: Ladder) -> str:
    """Return the GPU's name, or the processor's and the number of threads that training uses."""
    device, threads = ladder.steps.device, cpu_threads(ladder)
    name = _device_name(device)
    return name if device.type == "cuda" else f"{name}, {threads} thread{'' if threads == 1 else 's'}"


def _device_name(device: torch.device) -> str:
    """The GPU's or the processor's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


def processor() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
