"""What this library raises when the input, not the code, is wrong."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class LaddernetError(Exception):
    """Base of all errors of this library that the user can do something about."""


class ArgumentError(LaddernetError, ValueError, TypeError):
    """An argument is not what it must be; the message names it."""


class DataError(LaddernetError, ValueError):
    """Data are missing, unreadable or not of the promised form."""


class RunError(LaddernetError, ValueError):
    """A run folder cannot be written or read back."""


class OutOfMemoryError(LaddernetError, MemoryError):
    """There is not enough memory for what was asked for."""


class TrainingError(LaddernetError, ArithmeticError):
    """Training cannot go on: a cost is no longer finite."""


class ProcessLostError(LaddernetError, RuntimeError):
    """Another process of the same training ended, or cannot be reached."""


def memory_size() -> float:
    """Return this machine's memory in bytes; infinite where it cannot be told."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return math.inf


@contextmanager
def about(path: Path) -> Iterator[None]:
    """Put a file's name before what a `DataError` says of its content, where it does not name it already."""
    try:
        yield
    except DataError as error:
        if str(path) in str(error):
            raise
        raise DataError(f"{path}: {error}") from error


@contextmanager
def memory_watched(advice: str) -> Iterator[None]:
    """Turn the several errors in which Python, NumPy and torch say that memory is short into one of ours.

    Parameters
    ----------
    advice : str
        What to do about it.
    """
    try:
        yield
    except LaddernetError:
        raise
    except (MemoryError, RuntimeError) as error:
        text = " ".join(str(error).split("\n", maxsplit=1)[0].split())
        if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
            raise OutOfMemoryError(f"out of memory: {advice} ({text or 'no more could be had'})") from error
        raise
