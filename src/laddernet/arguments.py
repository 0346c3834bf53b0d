"""Checks of arguments, whose errors name the argument, what it may be, and what it is."""

import math
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, cast

import numpy as np

from laddernet.errors import ArgumentError

LARGEST = 3.4e38
"""Of numbers that are to be used in float32."""


MANY = 2**31 - 1
"""Of what is counted: rows of a batch, epochs, units of a layer."""


def shown(value: Any) -> str:
    """Return a value as an error shows it, on one line and not too long."""
    if isinstance(value, int) and abs(value) >= 10**30:  # which may have too many digits to be written
        return "a number of more than 30 digits"
    return " ".join(reprlib.repr(value).split())


def check_whole(name: str, value: Any, least: int, what: str = "a whole number", *, most: int = MANY) -> None:
    """Check that a value is a whole number from `least` to `most`, `what` in words.

    Raises
    ------
    ArgumentError
        If it is not.
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise ArgumentError(f"{name} must be {what}, got {shown(value)}.")
    if int(value) < least:
        raise ArgumentError(f"{name} must be at least {least}, got {shown(value)}.")
    if int(value) > most:
        raise ArgumentError(f"{name} must be at most {most}, got {shown(value)}.")


def check_number(name: str, value: Any, what: str, least: float, most: float = LARGEST, *, above: bool = False) -> None:
    """Check that a value is a number from `least` to `most`, or above `least`.

    Parameters
    ----------
    what : str
        The range in words.

    Raises
    ------
    ArgumentError
        If it is not.
    """
    if not isinstance(value, Real) or isinstance(value, (bool, np.bool_)):
        raise ArgumentError(f"{name} must be a number, got {shown(value)}.")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not (least < number if above else least <= number) or not number <= most:  # NaN is neither
        raise ArgumentError(f"{name} must be {what}, got {shown(value)}.")


def check_numbers(name: str, values: Any, what: str = "finite and not negative") -> tuple[float, ...]:
    """Return a sequence of numbers that are neither negative nor infinite.

    Raises
    ------
    ArgumentError
        If they are none, or one is out of range.
    """
    is_number = getattr(values, "ndim", 1) == 0  # a tensor is iterable by its type, whatever it holds
    if not isinstance(values, Iterable) or isinstance(values, (str, bytes, Mapping)) or is_number:
        raise ArgumentError(f"{name} must be a sequence of numbers, got {shown(values)}.")
    found = list(values)
    for value in found:
        if not isinstance(value, Real) or isinstance(value, (bool, np.bool_)):
            raise ArgumentError(f"{name} must be a sequence of numbers, got {shown(values)}.")
        if not 0 <= cast(Any, value) <= LARGEST:  # which compares whole numbers of any size
            raise ArgumentError(f"{name} must be {what}, got {shown(values)}.")
    return tuple(float(value) for value in found)


def check_sizes(name: str, value: Any, what: str) -> tuple[int, ...]:
    """Return a sequence of whole numbers of at least 1, `what` in words.

    Raises
    ------
    ArgumentError
        If it is none, or one is below 1.
    """
    is_array = isinstance(value, np.ndarray) and value.ndim == 1
    if not (isinstance(value, Sequence) or is_array) or isinstance(value, (str, bytes)):
        raise ArgumentError(f"{name} must be {what}, got {shown(value)}.")
    for size in value:
        if not isinstance(size, Integral) or isinstance(size, bool):
            raise ArgumentError(f"{name} must be {what}, got {shown(value)}.")
        if not 1 <= int(size) <= MANY:
            raise ArgumentError(f"{name} must be {what}, each at least 1, got {shown(value)}.")
    return tuple(int(size) for size in value)


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Check that a value is one of some names.

    Raises
    ------
    ArgumentError
        If it is not.
    """
    if not isinstance(value, str) or value not in choices:
        raise ArgumentError(f"{name} must be one of {', '.join(choices)}, got {shown(value)}.")


def check_kind(name: str, value: Any, kinds: type | tuple[type, ...], what: str) -> None:
    """Check that a value is of some type, `what` in words.

    Raises
    ------
    ArgumentError
        If it is not.
    """
    if not isinstance(value, kinds):
        raise ArgumentError(f"{name} must be {what}, got {shown(value)}.")


def check_flag(name: str, value: Any) -> None:
    """Check that a value is True or False.

    Raises
    ------
    ArgumentError
        If it is not.
    """
    check_kind(name, value, (bool, np.bool_), "True or False")


def check_callable(name: str, value: Any, what: str) -> None:
    """Check that a value can be called, `what` in words.

    Raises
    ------
    ArgumentError
        If it cannot.
    """
    if not callable(value):
        raise ArgumentError(f"{name} must be {what}, got {shown(value)}.")
