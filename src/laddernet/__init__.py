"""Semi-supervised learning with Ladder networks.

`LadderClassifier` and `LadderRegressor` follow scikit-learn's conventions; `Ladder` attaches to a torch network.
Names are loaded when they are first used, so that the command line can answer without importing torch.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from laddernet.errors import DataError, LaddernetError, RunError, TrainingError
    from laddernet.estimators import LadderClassifier, LadderRegressor
    from laddernet.ladder import Costs, Ladder

_HOMES = {
    "Costs": "ladder",
    "ArgumentError": "errors",
    "DataError": "errors",
    "Ladder": "ladder",
    "LadderClassifier": "estimators",
    "LadderRegressor": "estimators",
    "LaddernetError": "errors",
    "RunError": "errors",
    "TrainingError": "errors",
}

__all__ = [
    "ArgumentError",
    "Costs",
    "DataError",
    "Ladder",
    "LadderClassifier",
    "LadderRegressor",
    "LaddernetError",
    "RunError",
    "TrainingError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"laddernet.{_HOMES[name]}"), name)
    if name.isidentifier() and not name.startswith("_") and find_spec(f"laddernet.{name}") is not None:
        return import_module(f"laddernet.{name}")
    raise AttributeError(f"module 'laddernet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
