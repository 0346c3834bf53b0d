"""The command line. Heavy imports wait inside the commands, so that ``laddernet --help`` answers at once."""

import functools
import itertools
import json
import math
import os
import re
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal, ParamSpec

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from laddernet import __version__
from laddernet.launcher import launched_rank, launched_size, restarts

if TYPE_CHECKING:
    from laddernet.checkpoints import Run
    from laddernet.data.images import Images
    from laddernet.data.labels import Task
    from laddernet.loop import Callback
    from laddernet.recipes import Recipe
    from laddernet.tables import FileOptions
    from laddernet.unfinished import Making

app = typer.Typer(
    name="laddernet",
    help="Semi-supervised learning with Ladder networks: a few labels, many unlabelled samples.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="List the data sets that have a name here, or download one.", no_args_is_help=True)
app.add_typer(data_app, name="data")

_LAST_SEED = 2**32 - 1
_MOST_SEEDS = 10_000
_KNOWN = "digits (embedded), mnist or cifar10"
DataName = Annotated[str, typer.Argument(metavar="DATA", help=f"A data set: {_KNOWN}.")]
DataOrFile = Annotated[
    str,
    typer.Argument(metavar="DATA|FILE", help=f"A data set: {_KNOWN}; or a file: .csv, .tsv, .parquet, .npz or .npy."),
]
_DATA_FILE_OR_FOLDER = typer.Argument(
    metavar="DATA|FILE|FOLDER",
    help=f"A data set: {_KNOWN}; a file: .csv, .tsv, .parquet, .npz or .npy; or a folder of images.",
    show_default=False,
)
DataFileOrFolder = Annotated[str, _DATA_FILE_OR_FOLDER]
FileOrFolder = Annotated[
    Path,
    typer.Argument(
        metavar="FILE|FOLDER",
        help="A .csv, .tsv, .parquet, .npz or .npy file; of a run on images, a folder of images.",
    ),
]
TableFile = Annotated[Path, typer.Argument(metavar="FILE", help="A .csv, .tsv, .parquet, .npz or .npy file.")]
LabelColumn = Annotated[
    str | None, typer.Option(help="Of a FILE: the column of the labels; an empty cell is a row without a label.")
]
LabelsFile = Annotated[
    Path | None, typer.Option(help="Of an .npy FILE: the labels' file. [default: y.npy beside X.npy]")
]
TestFile = Annotated[
    Path | None, typer.Option(help="Of a FILE or FOLDER: a file or folder of test rows, of the same form.")
]
TestFraction = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=0.9,
        help="Of a FILE or FOLDER: share of the labelled rows to test on where there is no --test; 0 for no test. "
        "[default: 0.25]",
    ),
]
TaskOption = Annotated[
    Literal["classification", "regression"] | None,
    typer.Option(help="Of a FILE. [default: told from the labels]"),
]
Drop = Annotated[
    list[str] | None, typer.Option(metavar="COLUMN", help="Of a FILE: a column to leave out; give it once for each.")
]
ByParts = Annotated[
    bool | None,
    typer.Option(
        "--by-parts/--whole",
        help="Of a FILE: read it a part at a time and keep its rows on disk, or all at once. [default: by parts above "
        "256 MiB, and .npy]",
        show_default=False,
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder under which data sets lie. [default: $LADDERNET_DATA, else the user's cache]"),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, or another torch device.")]
Precision = Annotated[
    Literal["auto", "float32", "tf32", "bfloat16", "float64"],
    typer.Option(
        help="Of the matrix products; auto is float32, or bfloat16 for a large network on a processor that gains by it."
    ),
]
Variant = Literal["full", "gamma", "bottom", "baseline"]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback where a command fails.")]
P = ParamSpec("P")
_python_format = warnings.formatwarning


def main() -> None:
    """Entry point of the ``laddernet`` command."""
    warnings.formatwarning = _format_warning
    signal.signal(signal.SIGTERM, _terminate)
    app()


def _terminate(number: int, frame: FrameType | None) -> None:
    """Let SIGTERM end a command as Ctrl-C does, with its own exit status."""
    raise KeyboardInterrupt(number)


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Write what is meant for the user as one line, and other warnings as Python does."""
    if issubclass(category, UserWarning):
        return f"laddernet: {_printable(str(message))}\n"
    return _python_format(message, category, filename, lineno, line)


def _clear_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Turn a failure into one line and exit status 1; wrong usage (status 2) and --debug pass through."""

    @functools.wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (typer.BadParameter, typer.Exit):
            raise
        except KeyboardInterrupt as interrupt:
            with _undisturbed():
                unkept = "Results that were finished are kept, the unfinished one is not written."
                if launched_rank() == 0:
                    _say(f"interrupted. {' '.join(_notes(interrupt)) or unkept}")
            raise typer.Exit(143 if interrupt.args == (signal.SIGTERM,) else 130) from None
        except Exception as error:
            if kwargs.get("debug") or isinstance(error, BrokenPipeError):  # whose reader wants no more
                raise
            from laddernet.errors import LaddernetError

            with _undisturbed():
                known = isinstance(error, (LaddernetError, OSError, ValueError))
                text = " ".join(str(error).split())
                notes = "".join(f" {note}" for note in _notes(error))
                _say((text if known and text else f"{type(error).__name__}: {text} (--debug shows where)") + notes)
            raise typer.Exit(1) from None

    return guarded


def _notes(error: BaseException | None) -> list[str]:
    """What was added to an error, or to the one that it came upon."""
    while error is not None and not hasattr(error, "__notes__"):
        error = error.__context__
    return getattr(error, "__notes__", [])


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Leave SIGTERM for later: where a process of several ends, its launcher sends it to the others as they say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler or signal.SIG_DFL)


def _say(text: str) -> None:
    rank = launched_rank()
    typer.echo(f"laddernet{f' (process {rank})' if rank else ''}: {_printable(text)}", err=True)


def _printable(text: str) -> str:
    """Text on one line, without what could steer a terminal: names out of files are in errors and warnings."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"laddernet {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    if launched_size() > 1 and context.invoked_subcommand != "train":
        raise typer.BadParameter(f"{context.invoked_subcommand} runs in one process: start it without the launcher.")


@app.command()
@_clear_errors
def train(
    context: typer.Context,
    data: Annotated[str | None, _DATA_FILE_OR_FOLDER] = None,
    labels: Annotated[
        int | None, typer.Option(min=1, help="How many rows keep their label. [default: the recipe's; of a FILE, all]")
    ] = None,
    label_column: LabelColumn = None,
    labels_file: LabelsFile = None,
    test: TestFile = None,
    test_fraction: TestFraction = None,
    task: TaskOption = None,
    drop: Drop = None,
    balanced: Annotated[
        bool, typer.Option("--balanced", help="Of a FILE: give each class the same weight, however few its labels.")
    ] = False,
    by_parts: ByParts = None,
    image_size: Annotated[
        int | None,
        typer.Option(min=5, max=1024, help="Of a FOLDER: height and width that images get. [default: 32]"),
    ] = None,
    network: Annotated[
        Literal["conv-small", "conv-large"] | None, typer.Option(help="Of a FOLDER. [default: conv-small]")
    ] = None,
    settings: Annotated[Path | None, typer.Option(help="Of a FILE: settings that tune has written.")] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="Of a data set: settings by name (see reproduce --list). [default: the nearest]"),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the data. [default: the recipe's; of a FILE, by its rows]")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=_LAST_SEED, help="Fixes the labelled rows and all else random.")] = 0,
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
        bool, typer.Option("--baseline/--no-baseline", help="Train what learns from the labelled rows alone as well.")
    ] = True,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Go on with a run that was stopped or killed; it knows all other options."),
    ] = None,
    checkpoint_minutes: Annotated[
        float,
        typer.Option(min=0.01, help="The training's state is kept at the end of epochs, and as often as this."),
    ] = 5.0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train on a file, a folder of images, or a data set of which few rows keep their label; write a run folder.

    A folder of images has a subfolder for each class, and unlabeled/ for those without one.
    """
    if resume is not None:
        _check_alone(context, "resume", "checkpoint_minutes", "as_json", "debug")
    elif data is None:
        raise typer.BadParameter("name what to train on, or a run to --resume.", param_hint="DATA|FILE|FOLDER")
    from laddernet.distributed import launched
    from laddernet.unfinished import Making, TrainOptions, is_unfinished, read_options

    with launched() as processes, _heard(processes.is_first):
        again = out if restarts() and out is not None and processes.from_first(partial(is_unfinished, out)) else resume
        if again is not None:
            options = processes.from_first(partial(read_options, again))
        else:
            options = TrainOptions(**{field.name: context.params[field.name] for field in fields(TrainOptions)})
        report = _train(
            Making(
                options=options,
                out=again or out,
                overwrite=overwrite,
                resumed=again is not None,
                minutes=checkpoint_minutes,
                processes=processes,
            )
        )
        if as_json:
            typer.echo(json.dumps(report))


@contextmanager
def _heard(wanted: bool) -> Iterator[None]:
    """Let one of several processes alone show what there is; the others tell their errors only."""
    if wanted:
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def _check_alone(context: typer.Context, *known: str) -> None:
    """Check that no option was given but these."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if name not in known and source is not None and source.name == "COMMANDLINE":
            hint = "DATA|FILE|FOLDER" if name == "data" else f"--{name.replace('_', '-')}"
            raise typer.BadParameter("a run that is taken up again knows what it was asked for.", param_hint=hint)


def _train(making: "Making") -> dict[str, Any]:
    """Check what was asked for, and train on a data set, a file or a folder of images."""
    asked = making.options
    data, test, variant, epochs = asked.data, asked.test, asked.variant, asked.epochs
    of_files = {
        "--label-column": asked.label_column,
        "--labels-file": asked.labels_file,
        "--test": test,
        "--test-fraction": asked.test_fraction,
        "--task": asked.task,
        "--drop": asked.drop or None,
        "--balanced": asked.balanced or None,
        "--settings": asked.settings,
        "--by-parts/--whole": asked.by_parts,
    }
    given: dict[str, Any] = {
        "validation_fraction": asked.validation_fraction,
        "device": asked.device,
        "precision": asked.precision,
    }
    for_images = {"--image-size": asked.image_size, "--network": asked.network}
    if _is_folder(data):
        not_of_images = {
            "--recipe": asked.recipe,
            "--data-dir": asked.data_dir,
            **{k: v for k, v in of_files.items() if not k.startswith("--test")},
        }
        if misplaced := [name for name, value in not_of_images.items() if value is not None]:
            raise typer.BadParameter(f"has no meaning for {data}, a folder of images.", param_hint=misplaced[0])
        from laddernet.commands import train_on_images
        from laddernet.folders import ImageOptions

        images = ImageOptions(
            size=asked.image_size or 32,
            network=(asked.network or "conv-small").replace("-", "_"),
            labels=asked.labels,
            test=test,
            test_fraction=_test_fraction(test, asked.test_fraction),
            seed=asked.seed,
        )
        given |= {"random_state": asked.seed, "max_epochs": epochs or "auto"}
        given |= {} if variant is None else {"variant": variant}
        return train_on_images(images, given, making)
    if misplaced := [name for name, value in for_images.items() if value is not None]:
        raise typer.BadParameter(f"is for a folder of images, which {data} is not.", param_hint=misplaced[0])
    if _is_file(data):
        from laddernet.commands import train_on_file

        if asked.recipe is not None:
            raise typer.BadParameter(f"a recipe is of a data set, and {data} is a file.", param_hint="--recipe")
        _check_no_data_dir(data, asked.data_dir)
        options = _file_options(
            asked.label_column,
            asked.labels_file,
            asked.labels,
            test,
            asked.test_fraction,
            asked.task,
            asked.drop,
            asked.seed,
            asked.by_parts,
        )
        given = {name: value for name, value in given.items() if value not in (0.0, "auto")}  # else as in the settings
        given |= {"random_state": asked.seed}
        given |= {} if variant is None else {"variant": variant}
        given |= {} if epochs is None else {"max_epochs": epochs}
        given |= {"class_weight": "balanced"} if asked.balanced else {}
        return train_on_file(options, given, making)
    chosen = _choose_recipe(data, asked.labels, asked.recipe, variant, epochs)
    if misplaced := [name for name, value in of_files.items() if value is not None]:
        raise typer.BadParameter(f"is for a file, and {data} is a data set.", param_hint=misplaced[0])
    chosen = replace(chosen, validation_fraction=asked.validation_fraction)
    from laddernet.commands import train_on_dataset
    from laddernet.reproduce import Machine

    machine = Machine(device=asked.device, precision=asked.precision, data_dir=asked.data_dir)
    return train_on_dataset(chosen, machine, making, name=asked.recipe or chosen.name)


@app.command()
@_clear_errors
def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder that train wrote.")],
    file: FileOrFolder,
    out: Annotated[Path, typer.Option(help="File to write: .csv, .tsv or .parquet.")] = Path("predictions.csv"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file that is in --out.")] = False,
    by_parts: ByParts = None,
    debug: Debug = False,
) -> None:
    """Write the class, and the probability of each class, of every row of a file, in the file's order.

    Of a folder of images: of every image in it or below, by name.
    """
    from laddernet.checkpoints import load_run
    from laddernet.data.predictions import check_writable, prediction_table, write_predictions

    check_writable(out, overwrite=overwrite)
    loaded = load_run(run)
    _check_training(run, loaded)
    written = 0

    def answers(x: Any) -> dict[str, Any]:
        nonlocal written
        written += len(x)
        if not hasattr(loaded.model, "classes_"):
            return prediction_table(None, loaded.model.predict(x))
        probabilities, classes = loaded.model.predict_proba(x), loaded.model.classes_
        return prediction_table(classes, classes[probabilities.argmax(axis=1)], probabilities)

    if file.is_dir():
        if by_parts is not None:
            raise typer.BadParameter(f"is for a file, and {file} is a folder.", param_hint="--by-parts/--whole")
        images = _images_for(run, loaded, file)
        tables = ({"file": images.names(file, part)} | answers(images.x[part]) for part in images.parts())
    else:
        tables = (answers(x) for x in _rows_for(run, loaded, file, by_parts))
    write_predictions(out, tables, overwrite=overwrite)
    typer.echo(f"{written:,} predictions written to {out}")


def _check_training(run: Path, loaded: "Run") -> None:
    """Check what a run says of its data, as far as a command goes by it."""
    from laddernet.arguments import shown
    from laddernet.errors import RunError

    known = loaded.training
    for name, kind in {"label": str, "seed": int, "dataset": str, "image_size": int, "channels": int}.items():
        if name in known and (not isinstance(known[name], kind) or isinstance(known[name], bool)):
            raise RunError(f"{run} is damaged: it has {shown(known[name])} as the {name} that it was trained with.")


def _rows_for(run: Path, loaded: "Run", file: Path, by_parts: bool | None) -> Iterator[Any]:
    """Rows of a file as a run's model takes them: by parts, or all of them."""
    from laddernet.data.files import read_parts, read_rows
    from laddernet.errors import RunError, about
    from laddernet.tables import is_large, label_in

    known = loaded.training
    if "image_size" in known:
        raise RunError(f"{run} was trained on a folder of images, but {file} is a file. Name a folder of images.")
    label, preparation = label_in(file, known.get("label")), loaded.preparation
    text = [] if preparation is None else preparation.text_columns

    def prepared(x: Any, first: int = 0) -> Any:
        with about(file):
            return x if preparation is None else preparation.apply(x, first=first)

    if not is_large(file, by_parts):
        yield prepared(read_rows(file, label_column=label, labels_required=False, text_columns=text).x)
        return
    for part in read_parts(file, label_column=label, labels_required=False, text_columns=text):
        yield prepared(part.x, part.start)


def _images_for(run: Path, loaded: "Run", folder: Path, *, labeled: bool = False) -> "Images":
    """Images of a folder as a run's model takes them."""
    from laddernet.data.images import read_images
    from laddernet.errors import RunError

    if "image_size" not in loaded.training:
        raise RunError(f"{run} was not trained on a folder of images, but {folder} is a folder.")
    size, channels = loaded.training["image_size"], loaded.training.get("channels")
    values = math.prod(loaded.model.input_shape_)
    if not isinstance(size, int) or channels not in (1, 3) or values != channels * size * size:
        raise RunError(f"{run} is damaged: it does not say the size and the channels of its images.")
    return read_images(folder, size=size, channels=channels, fewest_classes=1 if labeled else None)


@app.command()
@_clear_errors
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder that train wrote.")],
    format: Annotated[
        Literal["onnx", "torch"], typer.Option("--format", help="onnx, or what torch.export.load reads.")
    ] = "onnx",
    out: Annotated[
        Path | None, typer.Option(help="File to write. [default: RUN/network.onnx or RUN/network.pt2]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file that is in --out.")] = False,
    debug: Debug = False,
) -> None:
    """Write a run's network, its input scaling included, as one file for other programs."""
    from laddernet.checkpoints import load_run
    from laddernet.export import export as write
    from laddernet.run_folder import EXPORTED

    path = out or run / EXPORTED[format]
    notes = write(load_run(run), path, format=format, overwrite=overwrite)
    shape = ", ".join(map(str, notes["input"]["shape"]))
    typer.echo(f"{path}: x of shape ({shape}) to {', '.join(notes['outputs'])}; its answers are the run's")
    if notes["preparation"] is not None:
        typer.echo(f"the making of columns from a table is {notes['preparation']}")


@app.command()
@_clear_errors
def tune(
    file: TableFile,
    label_column: LabelColumn = None,
    labels_file: LabelsFile = None,
    labels: Annotated[int | None, typer.Option(min=1, help="How many rows keep their label. [default: all]")] = None,
    test: TestFile = None,
    test_fraction: TestFraction = None,
    task: TaskOption = None,
    drop: Drop = None,
    trials: Annotated[int, typer.Option(min=1, help="Settings to try, in all; those in --storage count.")] = 30,
    folds: Annotated[int, typer.Option(min=2, help="Parts of the labelled rows, each held out once.")] = 3,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the data in each trial, and in training with what is found.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=_LAST_SEED, help="Fixes the rows, the networks and the search.")] = 0,
    out: Annotated[Path, typer.Option(help="File of the best settings, for train --settings.")] = Path("best.json"),
    storage: Annotated[
        Path | None, typer.Option(help="File of the search, which a later call goes on with. [default: OUT.journal]")
    ] = None,
    debug: Debug = False,
) -> None:
    """Search for better settings of a file; give the same rows' options as to train, so that test rows stay unseen."""
    from laddernet.commands import describe_rows
    from laddernet.progress import trial_progress
    from laddernet.tables import check_settings_file, prepare, write_settings
    from laddernet.tuning import tune as search

    check_settings_file(out)
    options = _file_options(label_column, labels_file, labels, test, test_fraction, task, drop, seed, False)
    prepared = prepare(file, options)
    describe_rows(file, prepared, seed)
    with trial_progress(trials) as watch:
        tuned = search(
            prepared,
            storage=storage or out.with_name(out.name + ".journal"),
            trials=trials,
            folds=folds,
            max_epochs=epochs,
            seed=seed,
            on_trial=watch,
        )
    write_settings(out, tuned.settings)
    one = 100 / len(prepared.known.numbers)
    classes = prepared.task == "classification"
    unit = f"% of held-out labels wrong (one label: {one:.3g})" if classes else "of the labels' deviation"
    typer.echo(f"best of {tuned.trials} trials: {tuned.error:.4g} {unit}; with the defaults {tuned.default_error:.4g}")
    typer.echo(f"settings written to {out}: {json.dumps(tuned.settings)}")


@app.command()
@_clear_errors
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder that train wrote.")],
    data: DataFileOrFolder,
    data_dir: DataDir = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Test a run on the labelled rows of a file or folder, or a data set's test rows (of digits: those left out)."""
    folder, file = _is_folder(data), _is_file(data)
    if file:
        _check_no_data_dir(data, data_dir)
    else:
        _check_dataset(data, or_file=True)
    from laddernet.checkpoints import load_run
    from laddernet.commands import describe_metric, say
    from laddernet.data import load
    from laddernet.errors import RunError
    from laddernet.tables import read_labeled, score

    loaded = load_run(run)
    _check_training(run, loaded)
    seed = loaded.training.get("seed")
    x: Any
    y: Any
    if folder:
        images = _images_for(run, loaded, Path(data), labeled=True)
        known = [label is not None for label in images.labels]
        x, y = images.x[known], images.labels[known]
    elif file:
        label = loaded.training.get("label")
        task: Task = "classification" if hasattr(loaded.model, "classes_") else "regression"
        if label is None:
            raise RunError(f"{run} was not trained on a file, so that the columns of {data} cannot be told.")
        x, y = read_labeled(Path(data), loaded.preparation, label_column=label, task=task)
    else:
        if not hasattr(loaded.model, "classes_") or not isinstance(seed, int) or "dataset" not in loaded.training:
            raise RunError(f"{run} is not a classifier that the train command wrote for a named data set.")
        rows = load(data, data_dir=data_dir, seed=seed)
        x, y = rows.x_test, rows.y_test
    metrics = score(loaded.model, x, y)
    measured = ", ".join(describe_metric(name, value) for name, value in metrics.items())
    typer.echo(f"{run} on {data}: {measured} of {len(y)} rows")
    kind, name = ("folder", Path(data).resolve().name) if folder else ("file", Path(data).name)
    if name == loaded.training.get(kind):  # a run on a named data set has neither
        say(
            f"{run} was trained on a {kind} of this name. If it is the same, it has learned "
            "labels that it is tested on here; its error on rows kept apart, if there were any, is in its metrics.json."
        )
    if as_json:
        typer.echo(json.dumps({"run": str(run), "dataset": data, **metrics}))


def _test_fraction(test: Path | None, wanted: float | None) -> float:
    if test is not None and wanted:
        raise typer.BadParameter("there are test rows already, in --test.", param_hint="--test-fraction")
    return 0.25 if wanted is None else wanted


def _file_options(
    label_column: str | None,
    labels_file: Path | None,
    labels: int | None,
    test: Path | None,
    test_fraction: float | None,
    task: Literal["classification", "regression"] | None,
    drop: Sequence[str] | None,
    seed: int,
    by_parts: bool | None,
) -> "FileOptions":
    from laddernet.tables import FileOptions

    return FileOptions(
        label_column=label_column,
        labels_path=labels_file,
        labels=labels,
        test=test,
        test_fraction=_test_fraction(test, test_fraction),
        task=task,
        drop=tuple(drop or ()),
        seed=seed,
        by_parts=by_parts,
    )


@app.command()
@_clear_errors
def reproduce(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Recipes; see --list.")] = None,
    seeds: Annotated[str, typer.Option(help="Such as 0-9 or 1,3,5-7.")] = "0",
    out: Annotated[Path, typer.Option(help="Folder of the results, one JSON file a recipe.")] = Path("results"),
    list_recipes: Annotated[bool, typer.Option("--list", help="List the recipes, or NAME's settings.")] = False,
    together: Annotated[
        int | None,
        typer.Option(min=1, help="Seeds to train at once, as one batched network; by default as many as a GPU holds."),
    ] = None,
    data_dir: DataDir = None,
    device: Device = "auto",
    precision: Precision = "auto",
    debug: Debug = False,
) -> None:
    """Run recipes over seeds; each result is appended to OUT/NAME.json as it finishes, and never done twice.

    What was interrupted is gone on with by the same command. A recipe that learns from another (mnist-100-student
    from mnist-100) gives that one's result as well.
    """
    from laddernet.recipes import RECIPES

    if unknown := [name for name in names or () if name not in RECIPES]:
        raise typer.BadParameter(f"there is no recipe {', '.join(unknown)}; see --list.", param_hint="NAME")
    if list_recipes:
        _list_recipes([RECIPES[name] for name in names or ()])
        return
    if not names:
        raise typer.BadParameter("name a recipe, or ask for --list.", param_hint="NAME")
    numbers = _parse_seeds(seeds)

    from laddernet.progress import progress
    from laddernet.reproduce import Machine, seeds_at_once
    from laddernet.reproduce import reproduce as run_seeds
    from laddernet.results_file import read_results

    machine = Machine(device=device, precision=precision, data_dir=data_dir)
    for name in names:
        recipe, path = RECIPES[name], out / f"{name}.json"
        done = {entry["seed"] for entry in read_results(path, recipe)}
        for seed in sorted(done & set(numbers)):
            typer.echo(f"{name}, seed {seed}: has been run already, and is in {path}; another --out runs it again")
        left = [seed for seed in numbers if seed not in done]
        at_once = seeds_at_once(recipe, machine) if together is None else together
        for first in range(0, len(left), at_once):
            group = left[first : first + at_once]

            def watch(stage: str, name: str = name, group: list[int] = group) -> "Callback":
                student = "" if stage == name else f" for {name}"
                return progress(title=f"{stage}{student}, seed {', '.join(map(str, group))}")

            for entry in run_seeds(recipe, seeds=group, out=out, machine=machine, watch=watch):
                typer.echo(f"{name}, seed {entry['seed']}: test error {entry['test_error']:.2f} %")
        for stage in recipe.stages:
            stages_path = out / f"{stage.name}.json"
            if entries := read_results(stages_path, stage):  # a teacher's are missing where they were not kept
                _summarize(stage, entries, stages_path)


@data_app.command("list")
@_clear_errors
def list_data(data_dir: DataDir = None, debug: Debug = False) -> None:
    """List the data sets, and where they are."""
    from laddernet.data import DATASETS, data_folder, missing_files

    table = Table()
    for column in ("data set", "training rows", "test rows", "features", "classes", "files"):
        table.add_column(column, justify="left" if column in ("data set", "files") else "right")
    for name, info in DATASETS.items():
        missing = missing_files(name, data_dir=data_dir)
        files = f"{len(missing)} of {len(info.files)} missing" if missing else "there"
        numbers = (info.train_rows, info.test_rows, info.features, info.classes)
        table.add_row(name, *(f"{number:,}" for number in numbers), files if info.files else "in scikit-learn")
    Console().print(table)
    typer.echo(f"in {data_folder(data_dir)}, each in a folder of its name")


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


def _check_dataset(name: str, *, or_file: bool = False) -> None:
    from laddernet.data import DATASETS

    if name not in DATASETS:
        file = " and no such file" if or_file else ""
        known = ", ".join(DATASETS)
        raise typer.BadParameter(f"there is no data set {name!r}{file}; known are {known}.", param_hint="DATA")


def _check_no_data_dir(data: str, data_dir: Path | None) -> None:
    if data_dir is not None:
        raise typer.BadParameter(f"is where data sets lie, and {data} is none.", param_hint="--data-dir")


def _is_folder(data: str) -> bool:
    """Tell a folder from a data set by name: it is there, and no data set is called so."""
    from laddernet.data import DATASETS

    return data not in DATASETS and Path(data).is_dir()


def _is_file(data: str) -> bool:
    from laddernet.data import DATASETS

    return data not in DATASETS and (Path(data).suffix != "" or Path(data).exists())


def _choose_recipe(
    dataset: str, labels: int | None, name: str | None, variant: str | None, epochs: int | None
) -> "Recipe":
    _check_dataset(dataset, or_file=True)
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
    return chosen if epochs is None else replace(chosen, max_epochs=epochs, baseline_epochs=None)


def _parse_seeds(text: str) -> list[int]:
    seeds: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        last = last if dash else first
        if not all(re.fullmatch("[0-9]{1,10}", number) for number in (first, last)) or int(last) < int(first):
            raise typer.BadParameter(f"{text!r:.80} is not a list such as 0-9 or 1,3,5-7.", param_hint="--seeds")
        if int(last) > _LAST_SEED or int(last) - int(first) >= _MOST_SEEDS:
            raise typer.BadParameter(
                f"{text!r:.80} goes beyond {_LAST_SEED}, or has more than {_MOST_SEEDS} seeds.", param_hint="--seeds"
            )
        seeds.update(range(int(first), int(last) + 1))
    return sorted(seeds)


def _list_recipes(chosen: Sequence["Recipe"]) -> None:
    """Write all settings of the chosen recipes, or the names of all that there are."""
    from laddernet.recipes import RECIPES

    if not chosen:
        table = Table(caption="paper: test error, %, mean ± standard deviation; * not confirmed")
        for column in ("recipe", "labels", "epochs", "paper"):
            table.add_column(column, justify="left" if column == "recipe" else "right")
        for recipe in RECIPES.values():
            table.add_row(recipe.name, str(recipe.labels or "all"), recipe.epochs, recipe.paper)
        Console().print(table)
    for recipe in chosen:
        table = Table(title=f"{recipe.name}: {recipe.dataset}, {recipe.labels or 'all'} labels", title_justify="left")
        table.add_column("setting of LadderClassifier")
        table.add_column("value", overflow="fold")
        settings = recipe.settings() | ({"module": f"networks.{recipe.network}"} if recipe.network else {})
        for name, value in settings.items():
            by_layer = name in ("noise_std", "denoising_weights")
            written = _shorten(value) if by_layer or isinstance(value, float) else str(value)
            table.add_row(name, escape(written))
        if recipe.teacher:
            table.add_row("(labels of the rest)", f"the answers of {recipe.teacher.name}")
        if recipe.labeled_statistics:
            table.add_row("(when tested)", "the labelled rows' statistics")
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
