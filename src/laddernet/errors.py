"""What this library raises when the input, not the code, is wrong."""


class LaddernetError(Exception):
    """Base of all errors of this library that the user can do something about."""


class DataError(LaddernetError, ValueError):
    """Data are missing, unreadable or not of the promised form."""


class RunError(LaddernetError, ValueError):
    """A run folder cannot be written or read back."""


class TrainingError(LaddernetError, ArithmeticError):
    """Training cannot go on: a cost is no longer finite."""
