"""A run folder in the making: the command that makes it, and the state of its training until it is complete.

Both lie in the folder's own subfolder ``unfinished``, so that an older run in the same place stays whole until the new
one takes its place.
"""

import json
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from laddernet import __version__
from laddernet.checkpoints import save_run
from laddernet.distributed import ALONE, Processes
from laddernet.errors import RunError
from laddernet.resume import Checkpoint
from laddernet.run_folder import COMMAND, UNFINISHED, check_free, inside

_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What ``laddernet train`` was asked for; its options by their names. See ``laddernet train --help``."""

    data: str
    labels: int | None
    label_column: str | None
    labels_file: Path | None
    test: Path | None
    test_fraction: float | None
    task: Any
    drop: list[str] | None
    balanced: bool
    image_size: int | None
    network: str | None
    settings: Path | None
    recipe: str | None
    epochs: int | None
    seed: int
    variant: Any
    validation_fraction: float
    data_dir: Path | None
    device: str
    precision: Any
    baseline: bool
    by_parts: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it with whole paths, so that it means the same in any folder."""
        options = {name: str(v.resolve()) if isinstance(v, Path) else v for name, v in asdict(self).items()}
        if Path(self.data).exists():
            options["data"] = str(Path(self.data).resolve())
        return options

    @classmethod
    def from_json(cls, options: dict[str, Any]) -> "TrainOptions":
        """Return what `to_json` was made of.

        Raises
        ------
        ValueError
            If an option is missing, unknown or of another type.
        """
        kinds = get_type_hints(cls)
        if odd := sorted(set(options) ^ set(kinds)):
            raise ValueError(f"its options are not those of this version: {', '.join(odd)}")
        typed: dict[str, Any] = {}
        for name, value in options.items():
            kinds_of = get_args(kinds[name]) or (kinds[name],)
            typed[name] = Path(value) if Path in kinds_of and isinstance(value, str) else value
            allowed = tuple(get_origin(kind) or kind for kind in kinds_of if kind is not Any)
            if allowed and not isinstance(typed[name], allowed) and not (allowed == (float,) and type(value) is int):
                raise ValueError(f"its option {name} is {value!r}")
        return cls(**typed)


@dataclass(frozen=True, kw_only=True)
class Making:
    """Where a run is to be written.

    Attributes
    ----------
    options : TrainOptions
    out : Path or None
        The folder; None for a new one under the name that is usual for the data.
    overwrite : bool
        Replace a run that is there, once the new one is complete.
    resumed : bool
        Go on with what is unfinished in `out`.
    minutes : float
        See `Checkpoint`.
    processes : Processes
        That make the run together; the first of them writes it.
    """

    options: TrainOptions
    out: Path | None = None
    overwrite: bool = False
    resumed: bool = False
    minutes: float = 5.0
    processes: Processes = ALONE

    @contextmanager
    def begun(self, usual: Path) -> Iterator[tuple[Path, Checkpoint]]:
        """Reserve the folder, and yield it with the checkpoint of its training.

        No other process may make the same run meanwhile. What fails before anything was kept leaves nothing behind,
        but for a run that was begun before.

        Raises
        ------
        RunError
            If the folder is taken, in use by another process, or cannot be written to.
        """
        is_first = self.processes.is_first
        folder = self.processes.from_first(lambda: self._choose(usual))
        checkpoint = Checkpoint(folder / UNFINISHED / "checkpoint", minutes=self.minutes, processes=self.processes)
        with checkpoint.locked():
            try:
                if is_first and not self.resumed:
                    checkpoint.forget()
                    self._write_command(folder / UNFINISHED / COMMAND)
                yield folder, checkpoint
            except BaseException as error:
                if checkpoint.exists:
                    error.add_note(f"The training's state is kept; go on with: {how_to_resume(folder)}")
                elif is_first and not self.resumed:
                    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
                    with suppress(OSError):
                        folder.rmdir()  # if nothing else is in it
                raise

    def _choose(self, usual: Path) -> Path:
        folder = self.out or new_folder(usual)
        _check_inside(folder)
        if not self.resumed:
            check_free(folder, overwrite=self.overwrite)
        return folder

    def write(self, folder: Path, model: Any, **others: Any) -> None:
        """Write the run, in place of what there is of it; see `checkpoints.save_run`."""
        if self.processes.is_first:
            save_run(folder, model, overwrite=True, **others)

    def _write_command(self, path: Path) -> None:
        content = {"format": _FORMAT, "laddernet": __version__, "options": self.options.to_json()}
        beside = path.with_name(f"{path.name}.writing")
        beside.unlink(missing_ok=True)
        beside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        beside.replace(path)


def how_to_resume(folder: Path) -> str:
    """Return the command that goes on with an unfinished run."""
    return f"laddernet train --resume {shlex.quote(str(folder))}"


def _check_inside(folder: Path) -> None:
    """Check that what is written while a run is made goes into its folder, and not to where a link in it leads."""
    unfinished = folder / UNFINISHED
    if unfinished.is_symlink():
        raise RunError(f"{unfinished} is a link: it is neither read nor written to.")
    for path in unfinished.iterdir() if unfinished.is_dir() else ():
        inside(path)


def is_unfinished(folder: Path) -> bool:
    """Return whether a run was begun there and not finished."""
    return (folder / UNFINISHED / COMMAND).is_file()


def read_options(folder: Path) -> TrainOptions:
    """Return what an unfinished run was asked for.

    Raises
    ------
    RunError
        If nothing is unfinished there, or its command cannot be read.
    """
    _check_inside(folder)
    path = inside(folder / UNFINISHED / COMMAND)
    if not path.is_file():
        finished = (folder / "config.json").is_file()
        raise RunError(f"{folder} {'is a finished run' if finished else 'holds no run'}: there is nothing to resume.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            raise RunError(f"{path} has format {content['format']!r}; this version reads format {_FORMAT}.")
        return TrainOptions.from_json(content["options"])
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{path} is damaged: {' '.join(str(error).split())}.") from error


def new_folder(wanted: Path) -> Path:
    """Return that folder, or with -2, -3 ... behind it where it is taken."""
    folder, number = wanted, 1
    while folder.exists():
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    return folder
