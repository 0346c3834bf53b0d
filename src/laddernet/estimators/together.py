"""Several classifiers fitted at once, as one batched network."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from laddernet.errors import memory_watched
from laddernet.estimators.base import LESS_MEMORY, Start, batch_generator
from laddernet.estimators.classifier import LadderClassifier
from laddernet.loop import Callback
from laddernet.resume import Checkpoint
from laddernet.together import Labeled, train_together


def fit_together(
    models: Sequence[LadderClassifier],
    X: ArrayLike,
    labels: Sequence[ArrayLike],
    *,
    callback: Callback | None = None,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Fit several classifiers on the same rows at once, as one batched network: seeds of one experiment.

    On a GPU, where a single network of this size leaves most of it idle, ten take little longer than one.

    Parameters
    ----------
    models : sequence of LadderClassifier
        Alike but for `random_state`, without `validation_fraction` or `warm_start`.
    X : array-like of shape (rows, features)
    labels : sequence of array-like of shape (rows,)
        For each model, as `fit` takes them; as many labelled rows in each.
    callback : Callback, optional
        Watches the training; its records are those of the first model.
    checkpoint : Checkpoint, optional
        As in `LadderClassifier.fit`.

    Raises
    ------
    ValueError
        If the models or labels do not fit together, or one of them cannot be used.
    TrainingError
        If a cost becomes infinite or NaN in one of them. All models are then left as they were.
    """
    if not models:
        raise ValueError("there are no models to fit together.")
    settings = [{**model.get_params(), "random_state": None} for model in models]
    if not all(_alike(other, settings[0]) for other in settings) or len(labels) != len(models):
        raise ValueError("models that are fitted together must be alike but for random_state, with labels for each.")
    if settings[0]["validation_fraction"] or settings[0]["warm_start"]:
        raise ValueError("models that are fitted together can have no validation_fraction and no warm_start.")
    with ExitStack() as stack:
        stack.enter_context(memory_watched(f"{LESS_MEMORY} Fewer models at once need less, too."))
        for model in models:
            model.check_settings()
            stack.enter_context(model._all_or_nothing())
        _fit_together(models, X, labels, callback, checkpoint)


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two classifiers have the same settings; some of them may be arrays."""
    return all(
        value is other[name] or (type(value) is type(other[name]) and np.array_equal(value, other[name]))
        if isinstance(value, np.ndarray)
        else value == other[name]
        for name, value in one.items()
    )


def _fit_together(
    models: Sequence[LadderClassifier],
    X: ArrayLike,
    labels: Sequence[ArrayLike],
    callback: Callback | None,
    keeper: Checkpoint | None,
) -> None:
    starts: list[Start] = []
    for model, y in zip(models, labels, strict=True):
        start = model._prepare(X, y, None)
        starts.append(replace(start, x=starts[0].x) if starts else start)  # all share one copy of the rows
    x = starts[0].x
    labeled = [
        Labeled(start.known.x, torch.from_numpy(start.known.y).to(x.device), model._relative_weights(start.known))
        for model, start in zip(models, starts, strict=True)
    ]
    with nullcontext() if keeper is None else keeper.held():
        histories = train_together(
            [start.ladder for start in starts],
            x,
            labeled,
            starts[0].config,
            generators=[batch_generator(start.seed) for start in starts],
            callback=callback,
            keeper=keeper,
        )
    for model, start, history in zip(models, starts, histories, strict=True):
        start.ladder.generator = None
        model._record(history, 0, interrupted=False)
        model._keep(start)
