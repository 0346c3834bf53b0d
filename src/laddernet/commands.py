"""What ``laddernet train`` does with a data set, a table or a folder of images: train, compare, write, show."""

import shlex
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from laddernet import networks
from laddernet.data import load
from laddernet.estimators import LadderClassifier
from laddernet.folders import ImageOptions, prepare_images
from laddernet.progress import image_progress, progress
from laddernet.recipes import Recipe
from laddernet.reproduce import Machine, fit_whole, run_recipe, seconds_of
from laddernet.resume import Checkpoint
from laddernet.tables import (
    FileOptions,
    Prepared,
    constant_score,
    linear_score,
    looks_like_classes,
    prepare,
    read_settings,
    score,
    settings_for,
)
from laddernet.unfinished import Making

IMAGE_SETTINGS = {"learning_rate": 0.002, "batch_size": 100}
"""Of networks on images, unless others are given: the paper's."""


def say(text: str) -> None:
    """Write a line to the standard error stream."""
    typer.echo(f"laddernet: {text}", err=True)


def train_on_dataset(chosen: Recipe, machine: Machine, making: Making, *, name: str) -> dict[str, Any]:
    """Train a recipe on a data set, beside what learns from the labels alone; write the run; return a report."""
    data, seed = making.options.data, making.options.seed
    title = f"{data}-{chosen.labels}" + ("" if chosen.variant == "full" else f"-{chosen.variant}")
    training = {"dataset": data, "labels": chosen.labels, "seed": seed, "recipe": name}
    with making.begun(Path("runs") / f"{title}-seed-{seed}") as (folder, checkpoint):
        rows = load(data, data_dir=machine.data_dir, seed=seed)
        run = partial(run_recipe, data=rows, seeds=[seed], machine=machine, processes=making.processes)
        (ladder,) = run(chosen, watch=lambda _: progress(title=title), checkpoints=[checkpoint])
        metrics = {"test_error": round(ladder.test_error, 4), "seconds": round(ladder.seconds, 2)}
        making.write(folder, ladder.model, training=training, metrics=metrics)
    table = Table(title=f"{data}, {chosen.labels} labels of {len(rows.y_train)} rows, seed {seed}")
    for column in ("network", "test error", f"wrong of {len(rows.y_test)}", "seconds"):
        table.add_column(column, justify="left" if column == "network" else "right")
    table.add_row(*_table_row(f"ladder ({chosen.variant})", ladder, len(rows.y_test)))
    if making.options.baseline and chosen.variant != "baseline":
        with _comparing(folder):
            (supervised,) = run(chosen.baseline(), watch=lambda _: progress(title="supervised only"))
            metrics["baseline_test_error"] = round(supervised.test_error, 4)
            metrics["baseline_seconds"] = round(supervised.seconds, 2)
            table.add_row(*_table_row("supervised only", supervised, len(rows.y_test)))
            making.write(folder, ladder.model, training=training, metrics=metrics)
    Console().print(table)
    typer.echo(f"run written to {folder}")
    return {
        "dataset": data,
        "labels": chosen.labels,
        "seed": seed,
        "epochs": ladder.model.n_iter_,
        "test_error": metrics["test_error"],
        "baseline_test_error": metrics.get("baseline_test_error"),
        "seconds": metrics["seconds"],
        "run": str(folder),
    }


def train_on_file(options: FileOptions, given: dict[str, Any], making: Making) -> dict[str, Any]:
    """Train on a table, beside simpler models; write the run; return a report."""
    path = Path(making.options.data)
    outcomes: dict[str, tuple[dict[str, float], float]] = {}

    def train(name: str, title: str, checkpoint: Checkpoint | None = None, **others: Any) -> Any:
        model = prepared.estimator(**chosen | others)
        started = time.perf_counter()
        fit = partial(fit_whole, model, prepared.x_train, prepared.y_train, processes=making.processes)
        fit(callback=progress(title=title), checkpoint=checkpoint)
        seconds = seconds_of(model, started)
        outcomes[name] = (score(model, prepared.x_test, prepared.y_test) if tested else {}, seconds)
        return model

    def save(measured: dict[str, float]) -> None:
        making.write(folder, model, training=training, metrics=measured, preparation=prepared.preparation)

    with making.begun(Path("runs") / f"{path.name.split('.')[0]}-seed-{options.seed}") as (folder, checkpoint):
        chosen = read_settings(making.options.settings) if making.options.settings is not None else {}
        prepared = prepare(path, options, folder=checkpoint.path.parent if making.processes.is_first else None)
        chosen = settings_for(prepared, chosen | given)
        known, tested = len(prepared.known.numbers), len(prepared.y_test)
        describe_rows(path, prepared, options.seed)
        if options.task is None and prepared.task == "regression" and looks_like_classes(prepared):
            say("the labels are taken for amounts; if they are classes, say --task classification.")
        if tested == 0:
            say("there are no test rows, so no error is measured; ask for some with --test-fraction or --test.")
        training = {
            "file": path.name,
            "label": prepared.label,
            "task": prepared.task,
            "labels": known,
            "rows": len(prepared.y_train),
            "test_rows": tested,
            "seed": options.seed,
        }
        variant = chosen.get("variant", "full")
        model = train(f"ladder ({variant})", path.name, checkpoint)
        (metrics, seconds), compared = next(iter(outcomes.values())), dict[str, Any]()
        metrics = metrics | {"seconds": round(seconds, 2)}
        save(metrics)
    if making.options.baseline and tested:
        with _comparing(folder):
            if variant != "baseline":
                train("supervised only", "supervised only", variant="baseline", denoising_weights="auto")
                compared |= {f"baseline_{name}": value for name, value in outcomes["supervised only"][0].items()}
            started = time.perf_counter()
            linear = "logistic regression" if prepared.task == "classification" else "ridge regression"
            outcomes[linear] = (linear_score(prepared, model), time.perf_counter() - started)
            compared |= {f"linear_{name}": value for name, value in outcomes[linear][0].items()}
            constant = "the most common class" if prepared.task == "classification" else "the mean label"
            outcomes[constant] = (constant_score(prepared, model), 0.0)
            compared |= {f"constant_{name}": value for name, value in outcomes[constant][0].items()}
            save(metrics | compared)
    if tested:
        Console().print(_outcome_table(tested, outcomes))
    typer.echo(f"run written to {folder}; now: laddernet predict {shlex.quote(str(folder))} FILE")
    return training | metrics | compared | {"epochs": model.n_iter_, "run": str(folder)}


def train_on_images(options: ImageOptions, given: dict[str, Any], making: Making) -> dict[str, Any]:
    """Train on a folder of images, beside what learns from the labels alone; write the run; return a report."""
    folder = Path(making.options.data)
    name = folder.resolve().name

    def train(title: str, checkpoint: Checkpoint | None = None, **others: Any) -> tuple[Any, dict[str, float], float]:
        model = LadderClassifier(**settings | others)
        started = time.perf_counter()
        fit = partial(fit_whole, model, prepared.x_train, prepared.y_train, processes=making.processes)
        fit(callback=progress(title=title), checkpoint=checkpoint)
        seconds = seconds_of(model, started)
        return model, score(model, prepared.x_test, prepared.y_test) if tested else {}, seconds

    with making.begun(Path("runs") / f"{name}-seed-{options.seed}") as (run, checkpoint):
        read = partial(prepare_images, folder, options, image_progress)
        prepared = making.processes.after_first(read)  # the others find what it has resized
        known, tested = len(prepared.y_train.numbers), len(prepared.y_test)
        channels, size, _ = prepared.x_train.row_shape
        counts = Counter(prepared.y_train.values.tolist())
        typer.echo(
            f"{name}: {known:,} labelled and {len(prepared.y_train) - known:,} unlabelled images to train "
            f"on, {tested:,} to test on; {_kinds(counts)}; {'grey' if channels == 1 else 'colour'}, {size} by {size}; "
            f"seed {options.seed}"
        )
        if tested == 0:
            say("there are no test images, so no error is measured; ask for some with --test-fraction or --test.")
        settings = {"module": getattr(networks, options.network), "variant": "gamma", **IMAGE_SETTINGS, **given}
        training = {
            "folder": name,
            "image_size": size,
            "channels": channels,
            "labels": known,
            "rows": len(prepared.y_train),
            "test_rows": tested,
            "seed": options.seed,
        }
        model, metrics, seconds = train(name, checkpoint)
        outcomes = {f"ladder ({settings['variant']})": (metrics, seconds)}
        metrics = metrics | {"seconds": round(seconds, 2)}
        making.write(run, model, training=training, metrics=metrics)
    compared: dict[str, float] = {}
    if making.options.baseline and tested and settings["variant"] != "baseline":
        with _comparing(run):
            _, measured, seconds = train("supervised only", variant="baseline")
            outcomes["supervised only"] = measured, seconds
            compared = {f"baseline_{name}": value for name, value in measured.items()}
            making.write(run, model, training=training, metrics=metrics | compared)
    if tested:
        Console().print(_outcome_table(tested, outcomes))
    typer.echo(f"run written to {run}; now: laddernet predict {shlex.quote(str(run))} FOLDER")
    return training | metrics | compared | {"epochs": model.n_iter_, "run": str(run)}


@contextmanager
def _comparing(run: Path) -> Iterator[None]:
    """Say that the ladder is there already, should the comparison with other models fail."""
    try:
        yield
    except BaseException:
        say(f"the ladder was trained before and is in {run}; its comparison with other models was not finished.")
        raise


def describe_rows(path: Path, prepared: Prepared, seed: int) -> None:
    """Say what a table's rows are."""
    known = len(prepared.known.numbers)
    classes = prepared.task == "classification"
    what = _kinds(Counter(prepared.known.values.tolist())) if classes else "a regression"
    columns, features = len(prepared.preparation.columns), prepared.x_train.shape[1]
    typer.echo(
        f"{path.name}: {known:,} labelled and {len(prepared.y_train) - known:,} unlabelled rows to train on, "
        f"{len(prepared.y_test):,} to test on; {what}; {columns} column{'s make' if columns > 1 else ' makes'} "
        f"{features} feature{'s' if features > 1 else ''}; seed {seed}"
    )
    if prepared.fitted is not None:
        typer.echo(
            f"{path.name} is read by parts: what its columns hold was told from {prepared.fitted:,} rows, among them "
            "rows at random, labelled ones, and gaps, text and the largest numbers of each column"
        )


def _kinds(counts: Counter[Any]) -> str:
    kinds = ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda kind: str(kind[0]))[:20])
    return f"{len(counts)} classes ({kinds}{', ...' if len(counts) > 20 else ''})"


def _outcome_table(tested: int, outcomes: dict[str, tuple[dict[str, float], float]]) -> Table:
    table = Table()
    table.add_column("model")
    metrics = list(next(iter(outcomes.values()))[0])
    for metric in metrics:
        table.add_column(_metric_name(metric), justify="right")
    if counted := "test_error" in metrics:
        table.add_column(f"wrong of {tested:,}", justify="right")
    table.add_column("seconds", justify="right")
    for model, (measured, seconds) in outcomes.items():
        cells = [_metric_value(metric, measured[metric]) for metric in metrics]
        cells += [f"{round(measured['test_error'] / 100 * tested):,}"] if counted else []
        table.add_row(model, *cells, f"{seconds:.1f}")
    return table


def describe_metric(name: str, value: float) -> str:
    """Write a metric with its name and unit."""
    return f"{_metric_name(name)} {_metric_value(name, value)}"


def _metric_name(name: str) -> str:
    return name.removeprefix("test_" if name == "test_balanced_error" else "").replace("_", " ")


def _metric_value(name: str, value: float) -> str:
    return f"{value:.2f} %" if name.endswith("error") else f"{value:.4g}"


def _table_row(name: str, outcome: Any, rows: int) -> tuple[str, str, str, str]:
    wrong = round(outcome.test_error / 100 * rows)
    return name, f"{outcome.test_error:.2f} %", str(wrong), f"{outcome.seconds:.1f}"
