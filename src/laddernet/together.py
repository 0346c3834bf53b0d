"""Several ladders of one shape trained at once, as one batched network: the seeds of an experiment.

Each ladder keeps its own weights, batches and noise, and learns what it would learn alone.
"""

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state

from laddernet.ladder import Ladder, project
from laddernet.loop import Callback, EpochRecord, Keeper, Loop
from laddernet.optimizer import Adam
from laddernet.rows import ScaledRows
from laddernet.rungs import Dropout
from laddernet.training import (
    TrainingConfig,
    WeightAverage,
    as_vector,
    decay_of,
    identity,
    resolve_precision,
    sampler,
    steps_per_epoch,
    tensor_cores,
    uses_compiled_kernels,
    uses_cuda_graph,
)


class Labeled(NamedTuple):
    """One ladder's labelled rows, of shape (rows, features), their labels, and a factor on each one's cost."""

    x: Tensor
    y: Tensor
    weight: Tensor | None = None


class _GivenNoise:
    """A corruption that adds prepared noise, in the order in which a ladder asks for it."""

    def __init__(self) -> None:
        self.noise: list[Tensor] = []

    def __call__(self, clean: Tensor, std: float, generator: torch.Generator | None) -> Tensor:
        return clean + self.noise.pop(0)


def train_together(
    ladders: Sequence[Ladder],
    x: Tensor | ScaledRows,
    labeled: Sequence[Labeled],
    config: TrainingConfig,
    *,
    generators: Sequence[torch.Generator],
    callback: Callback | None = None,
    keeper: Keeper | None = None,
) -> list[list[EpochRecord]]:
    """Train ladders in place and set their statistics to the exact ones, as `training.train` does for one.

    Parameters
    ----------
    ladders : sequence of Ladder
        Of one shape, with the same settings; each with a generator of its own, and a corruption that adds noise which
        does not depend on what it is added to.
    x : Tensor of shape (rows, features), or ScaledRows
        All training rows: the unlabelled stream of all. On the ladders' device, or on disk.
    labeled : sequence of Labeled
        One a ladder, all of as many rows.
    config : TrainingConfig
        Without a patience.
    generators : sequence of torch.Generator
        On the CPU; each shuffles one ladder's streams.
    callback : Callback, optional
        Its records are those of the first ladder.
    keeper : Keeper, optional
        As in `training.train`.

    Returns
    -------
    list of list of EpochRecord
        One list a ladder.

    Raises
    ------
    TrainingError
        If a cost becomes infinite or NaN in one of them.
    ValueError
        If there is a patience, the numbers do not agree, not all have weights or none has, or the ladders have
        convolutions, dropout, or a corruption that depends on the network.
    """
    counts = {len(rows.x) for rows in labeled}
    if config.patience is not None:
        raise ValueError("ladders that are trained together cannot stop early: patience must be None.")
    if not len(ladders) == len(labeled) == len(generators) or len(counts) != 1:
        raise ValueError("each ladder needs labelled rows, as many as the others, and a generator.")
    if any(len(shape) > 1 for shape in ladders[0].shapes) or any(isinstance(m, Dropout) for m in ladders[0].modules()):
        raise ValueError("only fully connected ladders without dropout can be trained together: train one at a time.")
    if hasattr(ladders[0].corruption, "changes"):
        raise ValueError("ladders whose corruption depends on the network cannot be trained together: one at a time.")
    weights = [rows.weight for rows in labeled if rows.weight is not None]
    if len(weights) not in (0, len(labeled)):
        raise ValueError("either all ladders have weights of their labelled rows, or none has.")
    for ladder in ladders:
        ladder.eval()  # running statistics would be of no use: the exact ones follow
    parameters, buffers = stack_module_state(list(ladders))
    base = copy.copy(ladders[0])
    precision = resolve_precision(config.precision, base)
    low = precision == "bfloat16"
    per_epoch = steps_per_epoch(len(x), config.batch_size)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=low):
        wanted = uses_compiled_kernels(base, config, config.epochs * per_epoch)
        in_kernels = wanted and base.fuse() and base.is_seeded
    network = _Batched(base, parameters, buffers, in_kernels=in_kernels)
    optimizer = Adam(list(parameters.values()), lr=0.0)
    count = counts.pop()
    offsets = torch.arange(len(ladders)).unsqueeze(1) * count
    x_labeled, y = torch.cat([rows.x for rows in labeled]), torch.cat([rows.y for rows in labeled])
    weight = torch.cat(weights) if weights else None
    decay = decay_of(config, config.epochs * per_epoch)
    samplers = [sampler(count, len(x) if base.decoder else None, config, generator) for generator in generators]
    average = WeightAverage(list(parameters.values()))
    loop = Loop(
        {"ladders": _Stacked(parameters), "average": average},
        samplers=samplers,
        optimizer=optimizer,
        generators=[ladder.generator for ladder in ladders],
        like=torch.empty((), dtype=x.dtype, device=x.device),
        weights=base.denoising_weights,
        epochs=config.epochs,
        steps_per_epoch=per_epoch,
        rate=lambda step: config.learning_rate * decay(step),
        graphed=isinstance(x, Tensor)  # not what the host reads
        and uses_cuda_graph(x.device, config, config.epochs * per_epoch, ladders[0].corruption),
        identity=partial(identity, ladders[0], x, x_labeled, y, weight, config, generators),
        keeper=keeper,
        callback=callback or Callback(),
    )
    batches = (_stacked(each, offsets) for each in zip(*samplers, strict=True))

    def step(rows: tuple[Tensor, ...]) -> None:
        of_labeled, *of_unlabeled = rows
        x_unlabeled = x[of_unlabeled[0]] if of_unlabeled else None
        if in_kernels:
            noise = [_seeds(ladders)]
        else:
            noise = _draw(ladders, of_labeled.shape[1], 0 if x_unlabeled is None else x_unlabeled.shape[1])
        with torch.autocast(x.device.type, torch.bfloat16, enabled=low):
            vectors = network(
                x_labeled[of_labeled], y[of_labeled], x_unlabeled, None if weight is None else weight[of_labeled], noise
            )
        optimizer.zero_grad()
        torch.autograd.backward(vectors[:, 0].sum())
        optimizer.step()
        for name in base.projected:
            project(parameters[name], networks=len(ladders))
        loop.log.add(vectors)

    try:
        with tensor_cores(precision):
            for epoch in loop(step, batches):
                if epoch > config.epochs - config.averaged_epochs:
                    average.add()
        average.put()
    finally:
        loop.end()
        optimizer.zero_grad()
        with torch.no_grad():
            for i, ladder in enumerate(ladders):
                for name, parameter in ladder.named_parameters():
                    parameter.copy_(parameters[name][i])
                ladder.steps += loop.progress.epoch * per_epoch
    for ladder in ladders:
        ladder.calibrate(x)
    return loop.progress.histories


class _Stacked:
    """The parameters of all ladders, one tensor of each name."""

    def __init__(self, parameters: dict[str, Tensor]) -> None:
        self._parameters = parameters

    def state_dict(self) -> dict[str, Tensor]:
        return self._parameters

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(state[name])


class _Batched:
    """The ladders' costs, all at once: one row each of the total, the supervised and the denoising ones.

    The noise is that of each layer and stream or, where kernels draw it, its seeds alone.
    """

    def __init__(
        self, base: Ladder, parameters: dict[str, Tensor], buffers: dict[str, Tensor], *, in_kernels: bool
    ) -> None:
        self._base, self._parameters, self._buffers = base, parameters, buffers
        self._noise = _GivenNoise()
        base.fused = in_kernels
        if not in_kernels:
            base.corruption = self._noise

    def __call__(
        self, x_labeled: Tensor, y: Tensor, x_unlabeled: Tensor | None, weight: Tensor | None, noise: list[Tensor]
    ) -> Tensor:
        def costs(
            parameters: dict[str, Tensor],
            buffers: dict[str, Tensor],
            x_labeled: Tensor,
            y: Tensor,
            x_unlabeled: Tensor | None,
            weight: Tensor | None,
            noise: list[Tensor],
        ) -> Tensor:
            if self._base.fused:
                self._base.seed = noise[0]
            else:
                self._noise.noise = list(noise)
            found = functional_call(
                self._base, (parameters, buffers), (x_labeled, y, x_unlabeled), {"weight": weight}, strict=True
            )
            return as_vector(found)

        given = (x_labeled, y, x_unlabeled, weight, noise)
        dims = tuple(None if value is None else 0 for value in given)
        result: Tensor = torch.vmap(costs, in_dims=(0, 0, *dims))(self._parameters, self._buffers, *given)
        return result


def _seeds(ladders: Sequence[Ladder]) -> Tensor:
    """Of each ladder's noise, from its own generator as in a step of its own."""
    seeds = torch.empty(len(ladders), dtype=torch.int64, device=ladders[0].steps.device)
    for seed, ladder in zip(seeds, ladders, strict=True):
        seed.random_(generator=ladder.generator)
    return seeds


def _draw(ladders: Sequence[Ladder], labeled: int, unlabeled: int) -> list[Tensor]:
    """Each ladder's noise, from its own generator in the order of a step of its own, stacked."""
    drawn = []
    for ladder in ladders:
        streams = ([labeled] if ladder.supervised_path == "noisy" else []) + ([unlabeled] if ladder.decoder else [])
        like = ladder.steps.new_empty((), dtype=next(ladder.parameters()).dtype)
        drawn.append([
            ladder.corruption(like.new_zeros(rows, *shape), std, ladder.generator)
            for shape, std in zip(ladder.shapes, ladder.noise_std, strict=True)
            if std > 0
            for rows in streams
        ])  # fmt: skip
    return [torch.stack(parts) for parts in zip(*drawn, strict=True)]


def _stacked(batches: Sequence[tuple[Tensor, ...]], offsets: Tensor) -> tuple[Tensor, ...]:
    """One batch of each ladder, of shape (ladders, rows); labelled rows are numbered through all ladders' ones."""
    of_labeled, *of_unlabeled = (torch.stack(rows) for rows in zip(*batches, strict=True))
    return (of_labeled + offsets, *of_unlabeled)
