"""The files of a run: complete or absent, told when they are altered, and in their folder alone.

A folder is written beside its place and renamed. ``checksums.json`` tells a file that was altered or cut short.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from laddernet.errors import RunError

CONFIG, WEIGHTS, HISTORY, METRICS = "config.json", "weights.safetensors", "history.jsonl", "metrics.json"
PREPARATION = "preparation.skops"
FILES = (CONFIG, WEIGHTS, HISTORY, METRICS, PREPARATION)
"""Files of a run, the last of which not all have."""
EXPORTED = {"onnx": "network.onnx", "torch": "network.pt2"}
"""What a run is exported to by each format, unless another place is named."""
JSON_BYTES = 2**26
"""A larger JSON file is none of ours."""
UNFINISHED = "unfinished"
"""Subfolder of what makes a run; see `laddernet.unfinished`."""
COMMAND = "command.json"
"""File in it that says how the run is made."""
_CHECKSUMS = "checksums.json"
_OURS = {*FILES, _CHECKSUMS, UNFINISHED, *EXPORTED.values()}
_FEWEST = 3  # of a run's files, to take a folder for one


def check_free(folder: Path, *, overwrite: bool) -> None:
    """Check, before a long training, that a run can be written to `folder`; its parents are made.

    Raises
    ------
    RunError
        If something is there that is not to be overwritten, or the parent folder cannot be written to.
    """
    place = folder.resolve()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent)).rmdir()
    except OSError as error:
        raise RunError(
            f"no run can be written to {folder}: {error.strerror or error}. Name another with --out."
        ) from error
    if not place.exists() or _holds_nothing(place):
        return
    unfinished = (place / UNFINISHED / COMMAND).is_file()
    if unfinished and not overwrite:
        raise RunError(
            f"{folder} holds a run that is not finished: go on with it by --resume, name another folder with --out, or "
            "give --overwrite."
        )
    is_run = unfinished or sum((place / name).is_file() for name in (*FILES, _CHECKSUMS)) >= _FEWEST
    if not is_run and overwrite:
        raise RunError(f"{folder} exists and is not a run folder, so it is not overwritten. Name another with --out.")
    if not is_run:
        raise RunError(f"{folder} exists already, and is not a run folder. Name another with --out.")
    if not overwrite:
        raise RunError(f"{folder} exists already. Name another folder with --out, or give --overwrite.")


def _holds_nothing(folder: Path) -> bool:
    """Whether a folder is empty, or all that is there is a run that was killed before there was anything to keep."""
    if folder.is_dir() and not any(folder.iterdir()):
        return True
    begun = folder / UNFINISHED
    if not begun.is_dir() or [path.name for path in folder.iterdir()] != [UNFINISHED]:
        return False
    names = {path.name for path in begun.iterdir()}
    return COMMAND not in names and all(name.startswith(("checkpoint", COMMAND)) for name in names)


@contextmanager
def writing(folder: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a folder to write a run's files into, and put it in its place once they are all there and on the disk.

    What else is in a folder that is replaced, and is no run's, stays in it.

    Raises
    ------
    RunError
        If `folder` is taken; see `check_free`.
    OSError
        If it cannot be written; what was there stays.
    """
    check_free(folder, overwrite=overwrite)
    place = folder.resolve()
    beside = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    try:
        yield beside
        seal(beside)
        for path in beside.iterdir():
            with path.open("r+b") as file:
                os.fsync(file.fileno())
        mode = (beside / CONFIG).stat().st_mode & 0o666
        beside.chmod(mode | (mode & 0o444) >> 2)  # it was made private to the user
        check_free(folder, overwrite=overwrite)  # again: much may have happened since
        _replace(beside, place)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _replace(complete: Path, folder: Path) -> None:
    """Put a complete folder in its place; an old one makes way, gives what is no run's, and is deleted last."""
    if not folder.exists():
        complete.rename(folder)
        return
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    old = beside / "run"
    try:
        folder.rename(old)
    except BaseException:
        beside.rmdir()
        raise
    try:
        complete.rename(folder)
    except BaseException:
        old.rename(folder)
        beside.rmdir()
        raise
    for path in old.iterdir():
        if path.name not in _OURS:
            path.rename(folder / path.name)
    shutil.rmtree(beside, ignore_errors=True)


def seal(folder: Path) -> None:
    """Write the checksums of a run's files, as they are now."""
    write(folder / _CHECKSUMS, {name: _digest(folder / name) for name in FILES if (folder / name).is_file()})


def check_files(folder: Path, names: Iterable[str]) -> None:
    """Check that a run's files are in it, and that none was altered or cut short by accident."""
    checksums = read(folder / _CHECKSUMS)
    for name in names:
        path = inside(folder / name)
        try:
            found = _digest(path)
        except OSError as error:
            raise RunError(f"{folder} is not a usable run: {name} cannot be read ({error.strerror}).") from error
        if checksums.get(name) != found:
            raise RunError(f"{path} is damaged: its checksum is not the one in {_CHECKSUMS}. Copy the run again.")


def inside(path: Path) -> Path:
    """Check that a file of a run is a file in the run's folder, and no way out of it."""
    try:
        leads = path.resolve().parent != path.parent.resolve() or (path.exists() and not path.is_file())
    except (OSError, RuntimeError):  # a link to itself
        leads = True
    if leads:
        raise RunError(f"{path} is not a file of this folder, but leads elsewhere: it is not read.")
    return path


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON object, numpy's values within it as JSON knows them."""
    path.write_text(json.dumps(content, indent=1, default=_plain) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """Numpy's numbers and arrays, as JSON knows them."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} {value!r} cannot be written to a run.")


def read(path: Path) -> dict[str, Any]:
    """Read a JSON object of a run.

    Raises
    ------
    RunError
        If there is none, it is damaged or larger than any of ours, or the path leads out of the folder.
    """
    try:
        content = json.loads(read_text(path))
    except OSError as error:
        if (path.parent / UNFINISHED).is_dir():
            raise RunError(f"{path.parent} is not finished yet: go on with it by train --resume.") from error
        raise RunError(f"{path.parent} is not a run folder: {path.name} cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{path} is damaged: {error}.") from error
    if not isinstance(content, dict):
        raise RunError(f"{path} is damaged: it does not hold a JSON object.")
    return content


def read_text(path: Path) -> str:
    """Read a file of text in a run, if it is of a size that one can be of."""
    if (size := inside(path).stat().st_size) > JSON_BYTES:
        raise RunError(f"{path} has {size:,} bytes, which none of its kind has: it is not read.")
    return path.read_text(encoding="utf-8")
