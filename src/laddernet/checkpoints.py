"""Run folders: what a training run leaves behind, and reading it back.

A run folder holds ``weights.safetensors`` (the ladder's tensors and the input scaling), ``config.json`` (what
rebuilds the estimator, and what it was trained on), ``history.jsonl`` (a line an epoch), ``metrics.json`` and, where
it was trained on a file, ``preparation.skops`` (how that file's columns become numbers). No file in it is a pickle;
docs/security.md says what a stranger's run can do, and `run_folder` is what keeps the files.
"""

import difflib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from sklearn.utils.validation import check_is_fitted

from laddernet import __version__, networks
from laddernet.arguments import check_kind, check_sizes, shown
from laddernet.errors import RunError
from laddernet.estimators import LadderClassifier, LadderRegressor
from laddernet.estimators.settings import Module
from laddernet.loop import EpochRecord
from laddernet.run_folder import (
    CONFIG,
    FILES,
    HISTORY,
    JSON_BYTES,
    METRICS,
    PREPARATION,
    WEIGHTS,
    check_files,
    read,
    read_text,
    write,
    writing,
)
from laddernet.rungs import Normalization
from laddernet.scaling import Scaling, Whitening
from laddernet.training import PRECISIONS

if TYPE_CHECKING:
    from laddernet.preparation import Preparation

FORMAT = 5
_ESTIMATORS: dict[str, Callable[..., LadderClassifier | LadderRegressor]] = {
    "LadderClassifier": LadderClassifier,
    "LadderRegressor": LadderRegressor,
}
_NUMBERS = {np.dtype(kind).str for kind in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8")}
_UNUSABLE = (
    OSError, SafetensorError, LookupError, TypeError, ValueError, RuntimeError, AttributeError, MemoryError,
    ArithmeticError, AssertionError,
)  # fmt: skip
_CONFIG_FIELDS: dict[str, type | tuple[type, ...]] = {
    "format": int, "laddernet": str, "estimator": str, "parameters": dict, "labels": dict, "n_features_in": int,
    "feature_names_in": (list, type(None)), "training": dict, "precision": str, "preparation": bool,
    "input_shape": list,
}  # fmt: skip
_RECORD_FIELDS = set(EpochRecord.__annotations__)
_OPTIONAL = {"validation_error", "validation_denoising_cost"}
_LADDER = "ladder."
_SCALING = "scaling."


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run folder's content.

    Attributes
    ----------
    model : LadderClassifier or LadderRegressor
        Fitted, on the CPU.
    training : dict
        What it was trained on, as given to `save_run`.
    metrics : dict
    preparation : Preparation or None
        What turns a table's rows into the model's, where it was trained on a file.
    """

    model: LadderClassifier | LadderRegressor
    training: dict[str, Any]
    metrics: dict[str, Any]
    preparation: "Preparation | None" = None


def save_run(
    folder: str | Path,
    model: LadderClassifier | LadderRegressor,
    *,
    training: Mapping[str, Any] = MappingProxyType({}),
    metrics: Mapping[str, Any] = MappingProxyType({}),
    preparation: "Preparation | None" = None,
    overwrite: bool = False,
) -> None:
    """Write a fitted estimator as a run folder.

    Parameters
    ----------
    folder : str or Path
        Must not exist, or be empty, unless `overwrite`; parents are made.
    model : LadderClassifier or LadderRegressor
        Fitted.
    training : mapping
        What it was trained on: anything that goes to JSON. Nothing by default.
    metrics : mapping
        What was measured. Nothing by default.
    preparation : Preparation, optional
        What turned a table's rows into the model's.
    overwrite : bool
        Replace an existing run, only once the new one is complete.

    Raises
    ------
    RunError
        If `folder` is taken.
    TypeError
        If the model is something else, such as a pipeline.
    NotFittedError
        If it is not fitted.
    OSError
        If it cannot be written; what was there stays.
    """
    folder = Path(folder)
    check_kind(
        "model",
        model,
        (LadderClassifier, LadderRegressor),
        "a LadderClassifier or a LadderRegressor (of a pipeline, its last step)",
    )
    check_is_fitted(model)
    with writing(folder, overwrite=overwrite) as new:
        (new / WEIGHTS).write_bytes(save(_tensors(model)))
        write(new / CONFIG, _config(model, training) | {"preparation": preparation is not None})
        if preparation is not None:
            preparation.save(new / PREPARATION)
        lines = [json.dumps(record) + "\n" for record in model.history_]
        (new / HISTORY).write_text("".join(lines), encoding="utf-8")
        write(new / METRICS, dict(metrics))


def load_run(folder: str | Path, *, module: Module | None = None) -> Run:
    """Read a run folder back.

    Parameters
    ----------
    folder : str or Path
    module : nn.Module or callable, optional
        The encoder, or what makes it, of a run that was trained with one of the caller's own: a run folder holds no
        code. Its weights come from the run.

    Raises
    ------
    RunError
        If it is not a complete run folder of this format; the message says what is wrong with which file.
    """
    folder = Path(folder)
    config = read(folder / CONFIG)
    _check_format(folder, config)
    _check_fields(folder / CONFIG, "field", config, _CONFIG_FIELDS)
    _check_kinds(folder / CONFIG, config)
    check_files(folder, FILES if config["preparation"] else FILES[:-1])
    try:
        model = _rebuild(folder, config, module)
        _load_weights(model, folder / WEIGHTS)
        model.history_ = _read_history(folder / HISTORY)
    except RunError:
        raise
    except _UNUSABLE as error:
        raise RunError(f"{folder} is not a usable run: {' '.join(str(error).split())}") from error
    model.n_iter_, model.interrupted_ = len(model.history_), False
    if config["precision"] not in PRECISIONS:
        raise RunError(f"{folder / 'config.json'} names an unknown precision: {config['precision']!r}.")
    model.precision_ = config["precision"]
    preparation = _load_preparation(folder / PREPARATION, model) if config["preparation"] else None
    metrics = read(folder / METRICS)
    return Run(model=model, training=config["training"], metrics=metrics, preparation=preparation)


def _load_preparation(path: Path, model: LadderClassifier | LadderRegressor) -> "Preparation":
    from laddernet.preparation import Preparation

    preparation = Preparation.load(path)
    try:
        columns = len(preparation.feature_names)
    except _UNUSABLE as error:
        raise RunError(f"{path} is not a usable preparation: {' '.join(str(error).split())}") from error
    if columns != model.n_features_in_:
        raise RunError(f"{path} gives {columns} columns, but the model takes {model.n_features_in_}.")
    return preparation


def _tensors(model: LadderClassifier | LadderRegressor) -> dict[str, torch.Tensor]:
    state = {_LADDER + name: tensor.cpu().contiguous().clone() for name, tensor in model.ladder_.state_dict().items()}
    scaling = {_SCALING + name: torch.from_numpy(np.array(value)) for name, value in vars(model.scaling_).items()}
    return state | scaling


def _module_name(module: Module | None) -> dict[str, str] | None:
    """How a run names the encoder: one of `networks`, or the caller's own, whose name is but a help."""
    if module is None:
        return None
    name = getattr(module, "__qualname__", type(module).__qualname__)
    kind = "network" if getattr(networks, name, None) is module else "own"
    return {kind: name}


def _module(named: Any, given: Module | None) -> Module | None:
    if given is not None and (named is None or "network" in named):
        raise ValueError("it needs no module: it was trained with one of the library's own networks.")
    if named is None:
        return None
    if "network" in named:
        found = getattr(networks, named["network"]) if named["network"] in networks.__all__ else None
        if found is None:
            raise ValueError(f"there is no network {named['network']!r} in this version.")
        return cast(Module, found)
    if given is None:
        raise ValueError(f"it was trained with a module of its own, {named['own']}: give it as module=.")
    return given


def _config(model: LadderClassifier | LadderRegressor, training: Mapping[str, Any]) -> dict[str, Any]:
    parameters = model.get_params()
    if not isinstance(parameters["random_state"], (int, np.integer)):
        parameters["random_state"] = None
    if parameters["column_weights"] is not None:
        parameters["column_weights"] = np.asarray(parameters["column_weights"], dtype=np.float64).tolist()
    if isinstance(parameters.get("class_weight"), Mapping):  # keys that are no strings would become such
        parameters["class_weight"] = [[_plain_key(k), float(w)] for k, w in parameters["class_weight"].items()]
    if isinstance(model, LadderClassifier):
        labels = {"classes": model.classes_.tolist(), "dtype": model.classes_.dtype.str}
    else:
        labels = {"mean": model.y_mean_, "scale": model.y_scale_}
    parameters["module"] = _module_name(model.module)
    names = getattr(model, "feature_names_in_", None)
    return {
        "format": FORMAT,
        "precision": model.precision_,
        "laddernet": __version__,
        "estimator": type(model).__name__,
        "parameters": parameters,
        "labels": labels,
        "n_features_in": model.n_features_in_,
        "input_shape": list(model.input_shape_),
        "feature_names_in": None if names is None else names.tolist(),
        "training": dict(training),
    }


def _rebuild(folder: Path, config: dict[str, Any], module: Module | None) -> LadderClassifier | LadderRegressor:
    parameters = {name: tuple(v) if isinstance(v, list) else v for name, v in config["parameters"].items()}
    if isinstance(parameters.get("class_weight"), tuple):
        parameters["class_weight"] = dict(parameters["class_weight"])
    made = _ESTIMATORS[config["estimator"]]
    _check_fields(folder / CONFIG, "parameter", parameters, made().get_params())
    parameters["module"] = _module(parameters["module"], module)
    model = made(**parameters)
    model.check_settings()
    labels, features = config["labels"], config["n_features_in"]
    if isinstance(model, LadderClassifier):
        _check_classes(labels["classes"])
        model.classes_ = np.array(labels["classes"])
        if model.classes_.dtype.kind in "iuf" and labels["dtype"] in _NUMBERS:
            model.classes_ = model.classes_.astype(labels["dtype"])
        if model.classes_.tolist() != labels["classes"] or not (model.classes_[1:] > model.classes_[:-1]).all():
            raise ValueError("the classes are not of one kind, sorted and all different.")
    else:
        model.y_mean_, model.y_scale_ = float(labels["mean"]), float(labels["scale"])
        if not math.isfinite(model.y_mean_) or not 0 < model.y_scale_ < math.inf:
            raise ValueError(f"the labels' mean and scale are {shown(labels['mean'])} and {shown(labels['scale'])}.")
    model.n_features_in_ = features
    model.input_shape_ = check_sizes("input_shape", config["input_shape"], "the shape of a row")
    if math.prod(model.input_shape_) != features:
        raise ValueError(f"rows of shape {model.input_shape_} have another number of columns than {features}.")
    if (names := config["feature_names_in"]) is not None:
        if len(names) != features or not all(isinstance(name, str) for name in names):
            raise ValueError(f"the field feature_names_in does not hold {features} names.")
        model.feature_names_in_ = np.array(config["feature_names_in"], dtype=object)
    return model


def _check_classes(classes: Any) -> None:
    """Check that classes are strings or numbers, and take no more memory as an array than a file of theirs may."""
    if not isinstance(classes, list) or not all(isinstance(label, (str, int, float)) for label in classes):
        raise ValueError("the classes are not all strings or numbers.")
    if len(classes) < 2:
        raise ValueError(f"there are {len(classes)} classes, which must be two or more.")
    longest = max(len(label) if isinstance(label, str) else 1 for label in classes)
    if len(classes) * longest > JSON_BYTES:  # each takes as much as the longest
        raise ValueError(f"{len(classes)} classes with names of up to {longest} characters are too many.")


def _load_weights(model: LadderClassifier | LadderRegressor, path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        names = file.keys()  # of no mapping
        _check_shapes(model, path.name, {name: tuple(file.get_slice(name).get_shape()) for name in names})
        tensors = {name: file.get_tensor(name) for name in names}
    kind: Any = Whitening if f"{_SCALING}whitening" in tensors else Scaling
    measured = {field.name: tensors.pop(_SCALING + field.name).numpy() for field in fields(kind)}
    _check_values(path.name, measured, tensors)
    model.scaling_ = kind(**{name: value if value.ndim else value.item() for name, value in measured.items()})
    ladder = model._build_ladder(seed=0, device=torch.device("cpu"))
    for name, module in ladder.named_modules():  # a scale that the network's own normalisation had learned
        if isinstance(module, Normalization):
            has_scale = f"{_LADDER}{name}.gamma" in tensors
            if has_scale != (module.gamma is not None):
                module.gamma = torch.nn.Parameter(torch.ones_like(module.statistics.mean)) if has_scale else None
    ladder.load_state_dict({name.removeprefix(_LADDER): tensor for name, tensor in tensors.items()})
    model.ladder_ = ladder.eval()
    model._n_features_out = math.prod(ladder.shapes[-2])


def _check_values(name: str, scaling: Mapping[str, NDArray[Any]], tensors: Mapping[str, torch.Tensor]) -> None:
    """Check that weights are finite, as all that are written are, and that the scaling is one."""
    for tensor, value in tensors.items():
        if not value.isfinite().all():
            raise ValueError(f"{name} holds NaN or infinite values in {tensor}.")
    for field, values in scaling.items():
        positive, endless = field not in ("center", "mean", "whitening"), field in ("scale", "limit")
        if np.isnan(values).any() or (positive and (values <= 0).any()) or (not endless and np.isinf(values).any()):
            raise ValueError(f"{name} holds values in {_SCALING}{field} that no scaling has.")


def _check_shapes(model: LadderClassifier | LadderRegressor, name: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check, before memory is taken, that a file of weights is large enough for the network that it is said to be of.

    The file's reader has checked that its tensors fit into it.
    """
    features = model.n_features_in_
    scaling = [shape for tensor, shape in shapes.items() if tensor.startswith(_SCALING)]
    if (features,) not in scaling or not {*scaling} <= {(), (features,), (features, features)}:
        raise ValueError(f"{name} holds a scaling for another number of columns than {features}.")
    if model.module is None:
        widths = (features, *model._widths(features), model._outputs())
        if len(model.input_shape_) != 1 or len(widths) > len(shapes):
            raise ValueError(f"{name} holds other widths than {shown(widths)}.")
        for layer, (fan_in, fan_out) in enumerate(pairwise(widths)):
            if shapes[f"{_LADDER}network.{2 * layer}.0.weight"] != (fan_out, fan_in):
                raise ValueError(f"{name} holds other widths than {shown(widths)}.")
    elif getattr(networks, getattr(model.module, "__name__", ""), None) is model.module:
        with torch.device("meta"):
            network = model._encoder(torch.Generator(), 0)
        needed = Counter(tuple(weight.shape) for weight in network.parameters() if weight.dim() > 1)
        if lacking := needed - Counter(shapes.values()):
            raise ValueError(
                f"{name} holds other weights than the network has, of the shape {max(lacking, key=math.prod)} none or "
                "too few."
            )


def _read_history(path: Path) -> list[EpochRecord]:
    """Read a line an epoch, each with the fields of an `EpochRecord`; numbers may be NaN."""
    history: list[EpochRecord] = [json.loads(line) for line in read_text(path).splitlines()]
    for number, record in enumerate(history, start=1):
        fit = isinstance(record, dict) and {*record} <= _RECORD_FIELDS and _RECORD_FIELDS - {*record} <= _OPTIONAL
        if not fit or record["epoch"] != number or not all(map(_is_measured, record.items())):
            raise ValueError(f"line {number} of {path.name} is no record of epoch {number}")
    return history


def _is_measured(field: tuple[str, Any]) -> bool:
    name, value = field
    if name == "denoising_costs":
        return isinstance(value, list) and all(cost is None or type(cost) in (int, float) for cost in value)
    return type(value) in (int, float)


def _check_kinds(path: Path, config: Mapping[str, Any]) -> None:
    for name, kind in _CONFIG_FIELDS.items():
        if not isinstance(config[name], kind) or (isinstance(config[name], bool) and kind is not bool):
            raise RunError(f"{path} is damaged: its field {name} is {shown(config[name])}.")


def _check_format(folder: Path, config: Mapping[str, Any]) -> None:
    found, made_by = config.get("format"), config.get("laddernet")
    if found == FORMAT and type(found) is int:
        return
    newer = isinstance(found, int) and found > FORMAT
    raise RunError(
        f"{folder} has run format {shown(found)}; this version reads format {FORMAT}. It was made by "
        f"{'a newer laddernet' if newer else 'another laddernet'} ({shown(made_by)}): "
        f"{'update this one' if newer else 'open it with that version, or train it anew'}."
    )


def _check_fields(path: Path, what: str, found: Iterable[str], known: Iterable[str]) -> None:
    """Check that a JSON object has the fields of this version and no others."""
    found, known = set(found), set(known)
    if missing := sorted(known - found):
        raise RunError(f"{path} has no {what} {', '.join(map(repr, missing))}: it is damaged, or no file of ours.")
    if unknown := sorted(found - known):
        close = [near for name in unknown for near in difflib.get_close_matches(name, known, n=1)]
        hint = f"perhaps {', '.join(map(repr, close))} is meant, or it" if close else "it perhaps"
        raise RunError(
            f"{path} has an unknown {what} {', '.join(map(repr, unknown))}: {hint} comes from a newer version of "
            "laddernet."
        )


def _plain_key(key: Any) -> Any:
    return key.item() if isinstance(key, np.generic) else key
