"""Choosing settings for a table: Optuna's trials, judged on labelled rows held out by `LabeledKFold`.

The study lies in a file, so that an interrupted search goes on where it was.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from laddernet.errors import DataError, RunError, TrainingError
from laddernet.estimators.settings import auto_widths
from laddernet.ladder import default_weights
from laddernet.model_selection import LabeledKFold, labeled_scorer
from laddernet.reproduce import fit_whole
from laddernet.scaling import Scaling
from laddernet.tables import Prepared

if TYPE_CHECKING:
    import optuna

WIDTHS = (50, 100, 250, 500)
FACTORS = (0.1, 10.0)
NOISE = (0.05, 1.0)
DEPTHS = (1, 3)
_STUDY = "laddernet"
_DEFAULTS = "defaults"


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What a search has found so far.

    Attributes
    ----------
    settings : dict
        The best trial's, as the estimators take them; with `max_epochs` where that was given, since what is best in few
        epochs need not be so in many.
    error, default_error : float
        Mean over the folds: percent of wrong answers, or root mean square error in units of the labels' deviation; of
        the best trial, and of the first, which has the defaults (NaN if it could not be trained to the end).
    trials : int
        Finished ones, in all, among them those that were pruned.
    """

    settings: dict[str, Any]
    error: float
    default_error: float
    trials: int


def tune(
    prepared: Prepared,
    *,
    storage: Path,
    trials: int,
    folds: int = 3,
    max_epochs: int | None = None,
    seed: int = 0,
    on_trial: Callable[[int, float, float], None] | None = None,
) -> Tuned:
    """Search for settings until there are so many finished trials, counting those in the storage.

    Searched are the noise, factors on the default denoising weights of the input and of the layers above, and the
    number and width of the hidden layers. The first trial has the defaults. A trial that is clearly behind after a
    fold, or whose cost becomes infinite, is pruned. A search that was interrupted goes on with the trials that it
    would have had.

    Parameters
    ----------
    prepared : Prepared
        Of its rows only those to train on are looked at.
    storage : Path
        File of the study; made where it is not there.
    trials : int
    folds : int
        At most as many as the smallest class has labelled rows.
    max_epochs : int, optional
        Of each trial; by default the estimator's own number.
    seed : int
        Of the folds, the networks and the search.
    on_trial : callable, optional
        Called after each trial with the number of finished ones, its error and the best error.

    Raises
    ------
    RunError
        If the storage is of another search (other rows, folds, epochs or seed) or damaged; it is left as it is.
    DataError
        If there are too few labels for the folds.
    TrainingError
        If in every trial a cost became infinite.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if prepared.task == "classification" and len(np.unique(prepared.known.values.tolist())) < 2:
        raise DataError("the labelled rows hold one class only; a classifier needs at least two.")
    splits = list(LabeledKFold(folds, task=prepared.task, random_state=seed).split(prepared.x_train, prepared.y_train))
    study = _open(storage, _describe(prepared, folds=folds, max_epochs=max_epochs, seed=seed))
    weigh = Scaling.fit(prepared.x_train, "auto", prepared.preparation.column_weights).weigh

    def error(trial: "optuna.Trial") -> float:
        settings = _settings(trial, weigh, max_epochs)
        trial.set_user_attr("settings", settings)
        errors: list[float] = []
        for fold, (training, test) in enumerate(splits):
            model = prepared.estimator(random_state=seed, **settings)
            try:
                fit_whole(model, prepared.x_train[training], prepared.y_train[training])
                errors.append(_error(model, prepared, test))
            except TrainingError as failure:
                raise optuna.TrialPruned(str(failure)) from failure
            trial.report(float(np.mean(errors)), fold)
            if fold + 1 < len(splits) and trial.should_prune():
                raise optuna.TrialPruned
        return float(np.mean(errors))

    def tell(study: "optuna.Study", trial: "optuna.trial.FrozenTrial") -> None:
        if on_trial is not None:
            best = study.best_value if _finished(study) and _complete(study) else float("nan")
            on_trial(_finished(study), trial.value if trial.value is not None else float("nan"), best)

    if not any(trial.state.name in ("WAITING", "COMPLETE", "PRUNED") for trial in _with_defaults(study.trials)):
        defaults = {"noise_std": 0.3, "input_factor": 1.0, "upper_factor": 1.0, **_default_widths(prepared)}
        study.enqueue_trial(defaults, user_attrs={_DEFAULTS: True})
    while (number := _finished(study)) < trials:
        study.sampler = _sampler(seed, number)
        study.optimize(error, n_trials=1, callbacks=[tell])
    complete = _complete(study)
    if not complete:
        raise TrainingError(
            f"none of the {_finished(study)} trials could be trained to the end, as a cost became infinite in each. "
            "Check the input for values far outside the rest."
        )
    default_errors = [trial.value for trial in _with_defaults(complete) if trial.value is not None]
    return Tuned(
        settings=json.loads(json.dumps(study.best_trial.user_attrs["settings"])),
        error=study.best_value,
        default_error=default_errors[0] if default_errors else float("nan"),
        trials=_finished(study),
    )


def _sampler(seed: int, number: int) -> "optuna.samplers.BaseSampler":
    """Sampler of one trial: seeded by its number, for one seed alone would begin anew where a search goes on."""
    import optuna

    return optuna.samplers.TPESampler(seed=int(np.random.SeedSequence((seed, number)).generate_state(1)[0]))


def _settings(trial: "optuna.Trial", weigh: Callable[..., tuple[float, ...]], max_epochs: int | None) -> dict[str, Any]:
    depth = trial.suggest_int("depth", *DEPTHS)
    width = trial.suggest_categorical("width", WIDTHS)
    first, *others = weigh(default_weights("full", depth + 1))
    input_factor, upper_factor = (trial.suggest_float(f"{n}_factor", *FACTORS, log=True) for n in ("input", "upper"))
    settings: dict[str, Any] = {
        "hidden_layer_sizes": [width] * depth,
        "noise_std": round(trial.suggest_float("noise_std", *NOISE, log=True), 3),
        "denoising_weights": [_round(first * input_factor), *(_round(weight * upper_factor) for weight in others)],
    }
    return settings | ({} if max_epochs is None else {"max_epochs": max_epochs})


def _round(weight: float) -> float:
    return float(f"{weight:.3g}")


def _default_widths(prepared: Prepared) -> dict[str, int]:
    widths = auto_widths(prepared.x_train.shape[1])
    return {"depth": len(widths), "width": widths[0]}


def _error(model: Any, prepared: Prepared, test: Any) -> float:
    x, y = prepared.x_train[test], prepared.y_train[test]
    if prepared.task == "classification":
        return round(100 * (1 - labeled_scorer("accuracy")(model, x, y)), 4)
    deviation = float(prepared.known.values.astype(np.float64).std()) or 1.0
    wrong = model.predict(x) - y.astype(np.float64)
    if not np.isfinite(wrong).all():
        raise TrainingError("the predictions are not finite.")
    return round(float(np.sqrt(np.mean(wrong**2))) / deviation, 6)


def _finished(study: "optuna.Study") -> int:
    return sum(trial.state.is_finished() and trial.state.name != "FAIL" for trial in study.trials)


def _with_defaults(trials: list["optuna.trial.FrozenTrial"]) -> list["optuna.trial.FrozenTrial"]:
    return [trial for trial in trials if _DEFAULTS in trial.user_attrs]


def _complete(study: "optuna.Study") -> list["optuna.trial.FrozenTrial"]:
    return [trial for trial in study.trials if trial.state.name == "COMPLETE"]


def _describe(prepared: Prepared, **others: Any) -> dict[str, Any]:
    """What tells one search from another: the rows by their hash, and how they are judged."""
    digest = hashlib.sha256(prepared.x_train.tobytes())
    digest.update(repr(prepared.y_train.tolist()).encode())
    return {"rows": digest.hexdigest(), "task": prepared.task, **others}


def _open(storage: Path, search: dict[str, Any]) -> "optuna.Study":
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    try:
        storage.parent.mkdir(parents=True, exist_ok=True)
        _check_end(storage)
        journal = JournalStorage(JournalFileBackend(str(storage)))
        names = optuna.get_all_study_names(journal)
        if names not in ([], [_STUDY]):
            raise ValueError("it holds another study")
        open_study = optuna.load_study if names else optuna.create_study  # creating what is there would write to it
        study = open_study(study_name=_STUDY, storage=journal, pruner=optuna.pruners.MedianPruner(n_startup_trials=5))
        known = study.user_attrs.get("search")
    except Exception as error:  # a damaged file fails anywhere in building what it describes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RunError(f"{storage} cannot be used as a search's storage ({reason}). Name another file.") from error
    if known is None and not study.trials:
        study.set_user_attr("search", search)
    elif known != search:
        raise RunError(
            f"{storage} holds a search over other rows, or with other folds, epochs or seed. Name another file "
            "(--storage, or another --out), or give the same options."
        )
    return study


def _check_end(storage: Path) -> None:
    """Check that a file ends as a journal does: Optuna passes over a last line that it cannot read, and writes on."""
    content = storage.read_bytes() if storage.exists() else b""
    if content:
        *_, last, end = b"\n", *content.rsplit(b"\n", 2)
        if end:
            raise ValueError("its last line is cut short")
        json.loads(last)
