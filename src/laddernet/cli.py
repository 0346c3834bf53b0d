"""The command line. Heavy imports wait inside the commands, so that ``laddernet --help`` answers at once."""

import functools
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, ParamSpec

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from laddernet import __version__

if TYPE_CHECKING:
    from laddernet.recipes import Recipe

app = typer.Typer(
    name="laddernet",
    help="Semi-supervised learning with Ladder networks: a few labels, many unlabelled samples.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="List the data sets that have a name here, or download one.", no_args_is_help=True)
app.add_typer(data_app, name="data")

DataName = Annotated[str, typer.Argument(metavar="DATA", help="A data set: digits (embedded) or mnist.")]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder under which data sets lie. [default: $LADDERNET_DATA, else the user's cache]"),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, or another torch device.")]
Precision = Annotated[
    Literal["auto", "float32", "bfloat16", "float64"],
    typer.Option(help="Of the matrix products; auto is float32."),
]
Variant = Literal["full", "gamma", "bottom", "baseline"]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback where a command fails.")]
P = ParamSpec("P")


def main() -> None:
    """Entry point of the ``laddernet`` command."""
    app()


def _clear_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Turn a failure into one line and exit status 1; wrong usage (status 2) and --debug pass through."""

    @functools.wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (typer.BadParameter, typer.Exit):
            raise
        except KeyboardInterrupt:
            _say("interrupted; results that were finished are kept, the unfinished one is not written.")
            raise typer.Exit(130) from None
        except Exception as error:
            if kwargs.get("debug"):
                raise
            from laddernet.errors import LaddernetError

            known = isinstance(error, (LaddernetError, OSError, ValueError))
            text = " ".join(str(error).split())
            _say(text if known and text else f"{type(error).__name__}: {text} (--debug shows where)")
            raise typer.Exit(1) from None

    return guarded


def _say(text: str) -> None:
    typer.echo(f"laddernet: {text}", err=True)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"laddernet {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None: ...


@app.command()
@_clear_errors
def train(
    data: DataName,
    labels: Annotated[
        int | None, typer.Option(min=1, help="How many rows keep their label. [default: the recipe's]")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Settings by name (see reproduce --list). [default: the nearest]")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the data. [default: the recipe's]")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Fixes the labelled rows and all else random.")] = 0,
    variant: Annotated[Variant | None, typer.Option(help="Which layers denoise.")] = None,
    validation_fraction: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of the labelled rows kept back, to show an error each epoch.")
    ] = 0.0,
    out: Annotated[Path | None, typer.Option(help="Run folder to write. [default: a new one under runs/]")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that is in --out.")] = False,
    data_dir: DataDir = None,
    device: Device = "auto",
    precision: Precision = "auto",
    baseline: Annotated[
        bool, typer.Option("--baseline/--no-baseline", help="Train the supervised-only network as well.")
    ] = True,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train on a data set of which few rows keep their label, test, and write a run folder."""
    chosen = _choose_recipe(data, labels, recipe, variant, epochs)
    chosen = replace(chosen, validation_fraction=validation_fraction)
    title = f"{data}-{chosen.labels}" + ("" if chosen.variant == "full" else f"-{chosen.variant}")
    usual = Path("runs") / f"{title}-seed-{seed}"

    from laddernet.checkpoints import check_free, save_run
    from laddernet.data import load
    from laddernet.progress import progress
    from laddernet.reproduce import Machine, run_recipe

    check_free(out or _new_folder(usual), overwrite=overwrite)
    machine = Machine(device=device, precision=precision, data_dir=data_dir)
    rows = load(data, data_dir=data_dir, seed=seed)
    with_baseline = baseline and chosen.variant != "baseline"
    ladder = run_recipe(chosen, rows, seed=seed, machine=machine, callback=progress(title=title))
    metrics = {"test_error": round(ladder.test_error, 4), "seconds": round(ladder.seconds, 2)}
    if with_baseline:
        supervised = run_recipe(
            chosen.baseline(), rows, seed=seed, machine=machine, callback=progress(title="supervised only")
        )
        metrics["baseline_test_error"] = round(supervised.test_error, 4)
        metrics["baseline_seconds"] = round(supervised.seconds, 2)
    training = {"dataset": data, "labels": chosen.labels, "seed": seed, "recipe": recipe or chosen.name}

    table = Table(title=f"{data}, {chosen.labels} labels of {len(rows.y_train)} rows, seed {seed}")
    for column in ("network", "test error", f"wrong of {len(rows.y_test)}", "seconds"):
        table.add_column(column, justify="left" if column == "network" else "right")
    table.add_row(*_table_row(f"ladder ({chosen.variant})", ladder, len(rows.y_test)))
    if with_baseline:
        table.add_row(*_table_row("supervised only", supervised, len(rows.y_test)))
    console = Console()
    console.print(table)
    folder = out or _new_folder(usual)
    save_run(folder, ladder.model, training=training, metrics=metrics, overwrite=overwrite)
    typer.echo(f"run written to {folder}")
    if as_json:
        verdict = {
            "dataset": data,
            "labels": chosen.labels,
            "seed": seed,
            "epochs": ladder.model.n_iter_,
            "test_error": metrics["test_error"],
            "baseline_test_error": metrics.get("baseline_test_error"),
            "seconds": metrics["seconds"],
            "run": str(folder),
        }
        typer.echo(json.dumps(verdict))


@app.command()
@_clear_errors
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder that train wrote.")],
    data: DataName,
    data_dir: DataDir = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Test a run on a data set's test rows (of digits: those of the split that the run was trained on)."""
    _check_dataset(data)
    from laddernet.checkpoints import load_run
    from laddernet.data import load
    from laddernet.errors import RunError

    loaded = load_run(run)
    seed = loaded.training.get("seed")
    if not hasattr(loaded.model, "classes_") or not isinstance(seed, int):
        raise RunError(f"{run} is not a classifier that the train command wrote for a named data set.")
    rows = load(data, data_dir=data_dir, seed=seed)
    error = 100 * (1 - loaded.model.score(rows.x_test, rows.y_test))
    typer.echo(f"{run} on {data}: test error {error:.2f} % of {len(rows.y_test)} rows")
    if as_json:
        typer.echo(json.dumps({"run": str(run), "dataset": data, "test_error": round(error, 4)}))


@app.command()
@_clear_errors
def reproduce(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Recipes; see --list.")] = None,
    seeds: Annotated[str, typer.Option(help="Such as 0-9 or 1,3,5-7.")] = "0",
    out: Annotated[Path, typer.Option(help="Folder of the results, one JSON file a recipe.")] = Path("results"),
    list_recipes: Annotated[bool, typer.Option("--list", help="List the recipes.")] = False,
    data_dir: DataDir = None,
    device: Device = "auto",
    precision: Precision = "auto",
    debug: Debug = False,
) -> None:
    """Run recipes over seeds; each result is appended to OUT/NAME.json as it finishes, and never done twice."""
    from laddernet.recipes import RECIPES

    if list_recipes:
        _list_recipes()
        return
    if not names:
        raise typer.BadParameter("name a recipe, or ask for --list.", param_hint="NAME")
    if unknown := [name for name in names if name not in RECIPES]:
        raise typer.BadParameter(f"there is no recipe {', '.join(unknown)}; see --list.", param_hint="NAME")
    numbers = _parse_seeds(seeds)

    from laddernet.progress import progress
    from laddernet.reproduce import Machine, read_results
    from laddernet.reproduce import reproduce as run_seed

    machine = Machine(device=device, precision=precision, data_dir=data_dir)
    for name in names:
        for seed in numbers:
            watch = progress(title=f"{name}, seed {seed}")
            entry = run_seed(RECIPES[name], seed=seed, out=out, machine=machine, callback=watch)
            status = "has been run already" if entry is None else f"test error {entry['test_error']:.2f} %"
            typer.echo(f"{name}, seed {seed}: {status}")
        _summarize(RECIPES[name], read_results(out / f"{name}.json", RECIPES[name]), out / f"{name}.json")


@data_app.command("list")
@_clear_errors
def list_data(data_dir: DataDir = None, debug: Debug = False) -> None:
    """List the data sets, and where they are."""
    from laddernet.data import DATASETS, data_folder, missing_files

    table = Table()
    for column in ("data set", "training rows", "test rows", "features", "classes", "where"):
        table.add_column(column, justify="left" if column in ("data set", "where") else "right", overflow="fold")
    for name, info in DATASETS.items():
        if not info.files:
            where = "comes with scikit-learn"
        elif missing := missing_files(name, data_dir=data_dir):
            where = f"{len(missing)} of {len(info.files)} files missing in {data_folder(data_dir) / name}"
        else:
            where = str(data_folder(data_dir) / name)
        numbers = (info.train_rows, info.test_rows, info.features, info.classes)
        table.add_row(name, *(f"{number:,}" for number in numbers), escape(where))
    Console().print(table)


@data_app.command("fetch")
@_clear_errors
def fetch_data(name: DataName, data_dir: DataDir = None, debug: Debug = False) -> None:
    """Download what a data set lacks; every file is checked by its hash."""
    _check_dataset(name)
    from laddernet.data import DATASETS, data_folder, fetch

    fetched = fetch(name, data_dir=data_dir)
    if not DATASETS[name].files:
        typer.echo(f"{name} comes with scikit-learn; there is nothing to fetch.")
    elif fetched:
        typer.echo(f"fetched {', '.join(fetched)} into {data_folder(data_dir) / name}")
    else:
        typer.echo(f"{name} is complete in {data_folder(data_dir) / name}")


def _check_dataset(name: str) -> None:
    from laddernet.data import DATASETS

    if name not in DATASETS:
        raise typer.BadParameter(f"there is no data set {name!r}; known are {', '.join(DATASETS)}.", param_hint="DATA")


def _choose_recipe(
    dataset: str, labels: int | None, name: str | None, variant: str | None, epochs: int | None
) -> "Recipe":
    _check_dataset(dataset)
    from laddernet.data import DATASETS
    from laddernet.recipes import RECIPES, recipe_for

    info = DATASETS[dataset]
    if labels is not None and not info.classes <= labels <= info.train_rows:
        raise typer.BadParameter(
            f"{dataset} has {info.classes} classes and {info.train_rows} training rows, so {labels} labels are too "
            f"{'few' if labels < info.classes else 'many'}.",
            param_hint="--labels",
        )
    if name is None:
        chosen = recipe_for(dataset, labels, variant or "full")
    elif name not in RECIPES or RECIPES[name].dataset != dataset:
        raise typer.BadParameter(f"there is no recipe {name!r} for {dataset}.", param_hint="--recipe")
    elif variant not in (None, RECIPES[name].variant):
        raise typer.BadParameter(f"the recipe {name} is of the variant {RECIPES[name].variant}.")
    else:
        chosen = RECIPES[name] if labels is None else replace(RECIPES[name], labels=labels)
    chosen = replace(chosen, labels=chosen.labels or info.train_rows)
    return chosen if epochs is None else replace(chosen, max_epochs=epochs)


def _new_folder(wanted: Path) -> Path:
    """Return that folder, or with -2, -3 ... behind it where it is taken."""
    folder, number = wanted, 1
    while folder.exists():
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    return folder


def _table_row(name: str, outcome: Any, rows: int) -> tuple[str, str, str, str]:
    wrong = round(outcome.test_error / 100 * rows)
    return name, f"{outcome.test_error:.2f} %", str(wrong), f"{outcome.seconds:.1f}"


def _parse_seeds(text: str) -> list[int]:
    seeds: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise typer.BadParameter(f"{text!r} is not a list such as 0-9 or 1,3,5-7.", param_hint="--seeds")
        seeds.update(range(int(first), int(last if dash else first) + 1))
    return sorted(seeds)


def _list_recipes() -> None:
    from laddernet.recipes import RECIPES

    table = Table(caption="paper: test error, %, mean ± standard deviation; * not confirmed")
    for column in ("recipe", "labels", "noise", "denoising weights", "epochs", "paper"):
        table.add_column(column, no_wrap=column in ("recipe", "paper"))
    for recipe in RECIPES.values():
        weights, labels = _shorten(recipe.denoising_weights), str(recipe.labels or "all")
        table.add_row(recipe.name, labels, _shorten(recipe.noise_std), weights, str(recipe.max_epochs), recipe.paper)
    Console().print(table)


def _shorten(values: float | str | Sequence[float]) -> str:
    """Write 1000, 10, 0.1, 0.1, 0.1 as "1000, 10, 0.1 x3"."""
    if isinstance(values, (int, float, str)):
        return f"{values:g}" if isinstance(values, (int, float)) else values
    groups = [(value, len(list(group))) for value, group in itertools.groupby(values)]
    return ", ".join(f"{value:g}" if count == 1 else f"{value:g} x{count}" for value, count in groups)


def _summarize(recipe: "Recipe", entries: list[dict[str, Any]], path: Path) -> None:
    from statistics import fmean, median, stdev

    errors = [float(entry["test_error"]) for entry in entries]
    spread = f" ± {stdev(errors):.2f}" if len(errors) > 1 else ""
    paper = f"; paper {recipe.paper} %" if recipe.paper else ""
    typer.echo(
        f"{recipe.name}: mean {fmean(errors):.2f}{spread} %, median {median(errors):.2f} %, n = {len(errors)}, "
        f"each {', '.join(f'{error:.2f}' for error in errors)}{paper} ({path})"
    )
