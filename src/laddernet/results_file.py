"""Results files: a recipe's entry for each seed that was run, whole at any time.

A file is ``{"recipe": name, "settings": {...}, "seeds": [entry, ...]}``. It is replaced as a whole, under a lock, so
that several processes may add to it.
"""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from laddernet.errors import RunError
from laddernet.recipes import Recipe
from laddernet.resume import sync

PATIENCE = 60.0
"""Seconds to wait for another process that adds to the same file, which takes it some milliseconds."""


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """Return what distinguishes a recipe's results from another's, as JSON gives it back."""
    chosen = recipe.settings()
    if recipe.network:
        chosen["module"] = recipe.network
    if recipe.labeled_statistics:
        chosen["labeled_statistics"] = True
    if recipe.teacher is not None:
        chosen["teacher"] = settings_of(recipe.teacher)
    settings: dict[str, Any] = json.loads(json.dumps({"labels": recipe.labels, **chosen}))
    return settings


def read_results(path: Path, recipe: Recipe) -> list[dict[str, Any]]:
    """Return the entries of a results file; none where there is no file.

    Raises
    ------
    RunError
        If it is not a results file of this recipe with these settings, an entry has no whole seed or no finite error,
        or a seed is there twice.
    """
    if not path.exists():
        return []
    left = "move it away, it is left as it is."
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        name, settings, entries = content["recipe"], content["settings"], content["seeds"]
        if type(entries) is not list:
            raise TypeError(f"seeds are {entries!r}")
        seeds = [_seed_of(entry) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(f"{path} is not a results file ({error}); {left}") from error
    if name != recipe.name:
        raise RunError(f"{path} is not a results file of {recipe.name}; {left}")
    if settings != settings_of(recipe):
        raise RunError(f"{path} has results of {recipe.name} with other settings; {left}")
    if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
        raise RunError(f"{path} has seed {', '.join(map(str, twice))} more than once; {left}")
    return entries


def _seed_of(entry: Any) -> int:
    """Return an entry's seed; an error where it is not an entry."""
    seed, error = entry["seed"], entry["test_error"]
    if type(seed) is not int or type(error) not in (int, float) or not math.isfinite(error):
        raise ValueError(f"seed {seed!r} with test_error {error!r}")
    return seed


def add_results(path: Path, recipe: Recipe, new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add to a results file the entries whose seed it lacks, and return those.

    Raises
    ------
    RunError
        If it is not a results file of this recipe, or another process keeps it locked.
    OSError
        If it cannot be written; it is then as it was.
    """
    with locked(path):
        there = read_results(path, recipe)
        new = [entry for entry in new if entry["seed"] not in {other["seed"] for other in there}]
        if new:
            entries = sorted([*there, *new], key=lambda entry: int(entry["seed"]))
            write_json(path, {"recipe": recipe.name, "settings": settings_of(recipe), "seeds": entries})
    return new


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes that add to a file from it while the context lasts; see `add_results`."""
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=PATIENCE)
    try:
        lock.acquire()
    except Timeout as error:
        raise RunError(f"{path} is kept locked by another process; it is left as it is.") from error
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # while it is held: who waits for it sees that, and makes another
        lock.release()


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file as `write_text` does."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return what a file has of one JSON object a line; nothing where there is no file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    """Write one JSON object a line; the file is complete, and on the disk, or as it was."""
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))


def write_text(path: Path, text: str) -> None:
    """Write a text file, which is complete, and on the disk, or as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    sync(path.parent)
