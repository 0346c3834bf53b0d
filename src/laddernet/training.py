"""Training one ladder: the configuration, the schedule, the step, and what is measured on the way."""

import copy
import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor

from laddernet.arguments import check_choice, check_flag, check_number, check_whole
from laddernet.distributed import ALONE, Processes
from laddernet.kernels import load
from laddernet.ladder import Costs, Ladder, project
from laddernet.loop import Callback, EpochRecord, Keeper, Loop, TrainingStopped
from laddernet.noise import Corruption, VirtualAdversarial, is_gaussian, masking
from laddernet.optimizer import Adam
from laddernet.products import low_precision_weights
from laddernet.rows import ScaledRows
from laddernet.rungs import Normalization, Rung
from laddernet.sampling import Sampler

ONE_THREAD_PARAMETERS = 300_000
"""A ladder with fewer parameters trains on one CPU thread: a second one gains little (nothing for 47-100-100-4, a fifth
of the time for 64-250-250-10), and where another process wants the core, waiting for it makes a step many times
slower."""

GRAPHED_STEPS = 500
"""Steps from which a run on a GPU is made in launches of a CUDA graph."""

VALIDATION_ROWS = 10_000
"""Training rows, at most and evenly spaced, on which statistics are made exact before each validation."""

COMPILED_WORK = 5e7
"""Steps times rows of a batch times units of all layers from which a run with a decoder uses the compiled kernels. They
save some 40 ns of each; building them, once on a machine, takes one to two seconds. Without a decoder it is ten times
that. What decides is the run alone, and not whether they are there already, so that a run's result does not depend on
an earlier one's."""

LEAST_IMPROVEMENT = 1e-3
"""Share by which the held-out denoising cost must fall to count as progress."""

Kernels = Literal["auto", "compiled", "torch"]
KERNELS: tuple[Kernels, ...] = ("auto", "compiled", "torch")

Precision = Literal["auto", "float32", "tf32", "bfloat16", "float64"]
PRECISIONS: tuple[Precision, ...] = ("auto", "float32", "tf32", "bfloat16", "float64")


class Validation(NamedTuple):
    """What was measured on rows that training does not see; see `EpochRecord`."""

    error: float
    denoising_cost: float | None = None


class TrainingInterrupted(KeyboardInterrupt):
    """Training was interrupted; the ladder holds what it had learned, ready to predict.

    Attributes
    ----------
    history : list of EpochRecord
        Of the epochs that were finished.
    """

    def __init__(self, history: list[EpochRecord]) -> None:
        super().__init__(f"interrupted after {len(history)} epochs")
        self.history = history


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How to train; see `train`.

    Parameters
    ----------
    epochs : int
        Passes over the unlabelled rows.
    batch_size : int
        Rows of each stream in a step.
    learning_rate : float
        Adam's, until the decay starts.
    decay_start : float in [0, 1]
        Share of all steps after which the learning rate falls linearly to 0. The paper's is 2/3.
    repeat_labels : bool
        Where the labelled rows are fewer than a batch, take each as often as fits into one, every time with its own
        noise. Not in the paper; see docs/tables.md.
    precision : {"auto", "float32", "tf32", "bfloat16", "float64"}
        Of the matrix products; all else stays in the ladder's own type. "tf32" is float32 with products of 10 bits of
        mantissa, which NVIDIA's tensor cores make; torch takes them for convolutions in any case. For "auto" see
        `resolve_precision`.
    kernels : {"auto", "compiled", "torch"}
        "torch" makes each step by torch's operations; "compiled" uses compiled kernels on the CPU (see `Ladder.fuse`)
        and a CUDA graph on a GPU; "auto" does so where the run is long enough to gain by it (see `COMPILED_WORK`).
    decay : {"linear", "cosine"}
        How it falls: on a line, as in the paper, or on half a cosine.
    averaged_epochs : int
        The weights after each of so many epochs at the end are averaged into those that the run ends with; 0 for the
        last weights alone.
    patience : int, optional
        Stop after that many epochs in which neither the validation error nor the held-out denoising cost has fallen,
        and go back to the best epoch's weights: that of the lowest error, and of those the one of the lowest
        denoising cost. With very few labels the error alone says little, and many epochs share it.
    """

    epochs: int = 150
    batch_size: int = 100
    learning_rate: float = 0.002
    decay_start: float = 2 / 3
    repeat_labels: bool = False
    precision: Precision = "auto"
    kernels: Kernels = "auto"
    decay: Literal["linear", "cosine"] = "linear"
    averaged_epochs: int = 0
    patience: int | None = None

    def __post_init__(self) -> None:
        check_whole("epochs", self.epochs, 1)
        check_whole("batch_size", self.batch_size, 1)
        if self.batch_size < 2:
            raise ValueError("batch_size must be at least 2: one row has no variance.")
        check_number("learning_rate", self.learning_rate, "positive and finite", 0, above=True)
        check_number("decay_start", self.decay_start, "between 0 and 1", 0, 1)
        check_flag("repeat_labels", self.repeat_labels)
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("kernels", self.kernels, KERNELS)
        check_choice("decay", self.decay, ("linear", "cosine"))
        if self.patience is not None:
            check_whole("patience", self.patience, 1)
        check_whole("averaged_epochs", self.averaged_epochs, 0)
        if self.averaged_epochs > self.epochs:
            raise ValueError(f"averaged_epochs must be between 0 and epochs, got {self.averaged_epochs}.")
        if self.averaged_epochs and self.patience is not None:
            raise ValueError("averaged_epochs and patience both choose the weights that a run ends with: take one.")


@dataclass(frozen=True)
class LinearDecay:
    """Factor on the learning rate: 1 for the first steps, then linearly to 0 at the end, and 0 ever after.

    With ``start=1`` it is 1 throughout.

    Deviation: the original lowers the rate once an epoch; here it falls a step at a time.

    Parameters
    ----------
    steps : int
        All steps of the run.
    start : float in [0, 1]
        Share of the steps before the decay.
    """

    steps: int
    start: float

    def __call__(self, step: int) -> float:
        """Return the factor for step 0, 1, ..."""
        remaining = max(self.steps - step, 0)
        decaying = self.steps * (1 - self.start)
        return 1.0 if remaining >= decaying else remaining / decaying


@dataclass(frozen=True)
class CosineDecay:
    """The same, on half a cosine from 1 to 0 (Loshchilov and Hutter 2017, arXiv 1608.03983, without restarts)."""

    steps: int
    start: float

    def __call__(self, step: int) -> float:
        """Return the factor for step 0, 1, ..."""
        return (1 - math.cos(math.pi * LinearDecay(self.steps, self.start)(step))) / 2


def decay_of(config: TrainingConfig, steps: int) -> LinearDecay | CosineDecay:
    """Return the factor on the learning rate by the step, for a run of so many steps."""
    kind = LinearDecay if config.decay == "linear" else CosineDecay
    return kind(steps, config.decay_start)


class WeightAverage:
    """The mean of some tensors' values at several times.

    Parameters
    ----------
    tensors : sequence of Tensor
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = list(tensors)
        self._means: list[Tensor] = []
        self._count = 0

    @torch.no_grad()
    def add(self) -> None:
        """Count the present values."""
        self._count += 1
        if self._count == 1:
            self._means = [tensor.detach().clone() for tensor in self._tensors]
        for mean, tensor in zip(self._means, self._tensors, strict=True):
            mean.lerp_(tensor, 1 / self._count)

    def state_dict(self) -> dict[str, Any]:
        """Return the means and how many values they are of."""
        return {"count": self._count, "means": {str(i): mean for i, mean in enumerate(self._means)}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from such a state."""
        self._count = state["count"]
        means = [state["means"][str(i)] for i in range(len(state["means"]))]
        self._means = [mean.to(tensor) for mean, tensor in zip(means, self._tensors, strict=False)]

    @torch.no_grad()
    def put(self) -> None:
        """Set the tensors to the mean, if any values were counted."""
        for tensor, mean in zip(self._tensors, self._means, strict=False):
            tensor.copy_(mean)


def cpu_threads(ladder: Ladder) -> int:
    """Return how many CPU threads `train` uses: torch's number, or one for a small ladder on the CPU."""
    return 1 if _is_small(ladder) and ladder.steps.device.type == "cpu" else torch.get_num_threads()


def _is_small(ladder: Ladder) -> bool:
    return sum(parameter.numel() for parameter in ladder.parameters()) < ONE_THREAD_PARAMETERS


def resolve_precision(precision: Precision, ladder: Ladder) -> Precision:
    """Return what "auto" stands for; other precisions stand for themselves, "tf32" on a CUDA device alone.

    It is bfloat16 for a float32 ladder on a CPU that multiplies bfloat16 natively and faster than float32, where the
    ladder is large enough to gain by it, else float32. The results are as good; see docs/performance.md.
    """
    if precision == "tf32" and ladder.steps.device.type != "cuda":
        raise ValueError("precision='tf32' is for CUDA devices: use 'float32', 'bfloat16' or 'auto' here.")
    if precision != "auto":
        return precision
    if next(ladder.parameters()).dtype == torch.float64:
        return "float64"
    gains = ladder.steps.device.type == "cpu" and not _is_small(ladder) and has_fast_bfloat16(cpu_capabilities())
    return "bfloat16" if gains else "float32"


def cpu_capabilities() -> Mapping[str, Any]:
    """Return what torch knows of the processor: instruction sets by name, and its name; nothing on an older torch."""
    found: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return found


def has_fast_bfloat16(capabilities: Mapping[str, Any]) -> bool:
    """Return whether bfloat16 products are faster than float32 ones: with AMX, or with AVX-512 BF16 but Intel's.

    Intel's AVX-512 BF16 has half as many units as its float32 arithmetic; on AMD's processors bfloat16 products took
    half of float32's time. The figures are in docs/performance.md.
    """
    vector = capabilities.get("avx512_bf16", False) and "Intel" not in str(capabilities.get("cpu_name", "Intel"))
    return bool(capabilities.get("amx_bf16", False) or vector)


def sampler(labeled: int, unlabeled: int | None, config: TrainingConfig, generator: torch.Generator) -> Sampler:
    """Return what draws each step's rows for a configuration."""
    return Sampler(
        labeled,
        unlabeled,
        batch_size=config.batch_size,
        repeat_labels=config.repeat_labels,
        generator=generator,
    )


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Whole batches in one pass over the rows, at least one."""
    return max(rows // batch_size, 1)


def train(
    ladder: Ladder,
    x: Tensor | ScaledRows,
    x_labeled: Tensor,
    y: Tensor,
    config: TrainingConfig,
    *,
    generator: torch.Generator,
    weight: Tensor | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    rows_before: int = 0,
    validate: Callable[[Ladder], Validation] | None = None,
    callback: Callback | None = None,
    keeper: Keeper | None = None,
    processes: Processes = ALONE,
) -> list[EpochRecord]:
    """Train a ladder in place and set its statistics to the exact ones.

    Parameters
    ----------
    ladder : Ladder
    x : Tensor of shape (rows, features), or ScaledRows
        All training rows, the labelled ones included: the unlabelled stream. On the ladder's device, or on disk.
    x_labeled : Tensor of shape (labelled rows, features)
    y : Tensor
        Their labels, in the form that the ladder's task takes.
    config : TrainingConfig
    generator : torch.Generator
        On the CPU; shuffles both streams, independently.
    weight : Tensor of shape (labelled rows,), optional
        Factor on each labelled row's supervised cost; 1 for all by default.
    optimizer : torch.optim.Optimizer, optional
        Of an earlier run on the same ladder (see `make_optimizer`), to go on with its moments; a new one by default.
    rows_before : int
        How many rows of earlier runs the present statistics stand for; see `Ladder.calibrate`.
    validate : callable, optional
        Measures after each epoch, from rows that training does not see.
    callback : Callback, optional
    keeper : Keeper, optional
        Keeps the run's state, and gives it back where the same run was begun before: it then goes on from there, and
        ends as it would have (`resume.Checkpoint`).
    processes : Processes
        That train together, each on its share of every batch. All of them call this, with the same arguments: all
        rows, and generators of the same seeds.

    Returns
    -------
    list of EpochRecord

    Raises
    ------
    TrainingError
        If a cost becomes infinite or NaN.
    TrainingInterrupted
        Where a KeyboardInterrupt arrives in training; the ladder keeps what it has.
    TrainingStopped
        Where the keeper was asked to stop; the ladder is of no use.
    RunError
        If what the keeper gives back is of another run.
    ProcessLostError
        If another process ended.
    ValueError
        If there is a patience and nothing to judge by.
    """
    if config.patience is not None and validate is None:
        raise ValueError("patience needs validate, the error that it waits for.")
    optimizer = optimizer or make_optimizer(ladder, config)
    per_epoch = steps_per_epoch(len(x), config.batch_size)
    decay = decay_of(config, config.epochs * per_epoch)
    rows = sampler(len(x_labeled), len(x) if ladder.decoder else None, config, generator)
    average = WeightAverage(list(ladder.parameters()))
    best = _Best()
    graphed = processes.size == 1 and uses_cuda_graph(x.device, config, config.epochs * per_epoch, ladder.corruption)
    loop = Loop(
        {"ladder": ladder, "average": average, "best": best},
        samplers=[rows],
        optimizer=optimizer,
        generators=[ladder.generator],
        like=torch.empty((), dtype=x.dtype, device=x.device),
        weights=ladder.denoising_weights,
        epochs=config.epochs,
        steps_per_epoch=per_epoch,
        rate=lambda step: config.learning_rate * decay(step),
        graphed=graphed and isinstance(optimizer, Adam) and isinstance(x, Tensor),  # not what the host reads
        identity=partial(identity, ladder, x, x_labeled, y, weight, config, [generator]),
        keeper=keeper,
        callback=callback or Callback(),
        where=partial(_first_broken, ladder),
        processes=processes,
    )
    if config.patience is not None and loop.progress.epoch - best.progress >= config.patience:
        loop.stop()  # as it had when it was kept
    share_out = partial(ladder.distribute, processes, labeled=rows.sizes[0], unlabeled=rows.sizes[-1])
    shares = [processes.share(size) for size in rows.sizes]
    network = processes.wrap(ladder)
    projected = [ladder.get_parameter(name) for name in ladder.projected]

    def step(rows: tuple[Tensor, ...]) -> None:
        labeled, *unlabeled = (share.of(batch) for share, batch in zip(shares, rows, strict=True))
        with autocast():
            costs = network(
                x_labeled[labeled],
                y[labeled],
                x[unlabeled[0]] if unlabeled else None,
                weight=None if weight is None else weight[labeled],
            )
        optimizer.zero_grad()
        costs.total.backward()
        optimizer.step()
        for parameter in projected:
            project(parameter)
            if isinstance(optimizer, Adam):
                optimizer.refresh(parameter)
        loop.log.add(as_vector(costs).unsqueeze(0))

    interrupted = False
    history = loop.progress.histories[0]
    threads = torch.get_num_threads()
    stack = ExitStack()
    try:
        torch.set_num_threads(cpu_threads(ladder))
        context = step_context(ladder, optimizer, config, steps=config.epochs * per_epoch)
        autocast = stack.enter_context(context)
        ladder.train()
        share_out()
        with processes.watched():
            for epoch in loop(step, rows):
                if epoch > config.epochs - config.averaged_epochs:
                    average.add()
                if validate is not None:
                    ladder.distribute(ALONE)
                    measure = partial(_validate, ladder, x[:: -(-len(x) // VALIDATION_ROWS)], validate)
                    found = processes.from_first(measure)  # so that all stop at the same epoch
                    history[-1].update(cast(EpochRecord, found))
                    ladder.train()
                    share_out()
                if config.patience is not None:
                    best.see(history[-1], ladder)
                    if epoch - best.progress >= config.patience:
                        loop.stop()
    except TrainingStopped:
        raise
    except KeyboardInterrupt:
        interrupted = True
    finally:
        stack.close()
        optimizer.zero_grad()  # on a GPU they would keep the graph's memory
        torch.set_num_threads(threads)
        ladder.distribute(ALONE)
        loop.end()
    best.put(ladder)
    if not interrupted:
        average.put()
    ladder.eval()
    ladder.calibrate(x, rows_before=rows_before)
    if interrupted:
        raise TrainingInterrupted(history)
    return history


def _validate(ladder: Ladder, measured: Tensor, validate: Callable[[Ladder], Validation]) -> dict[str, float]:
    """Measure on rows that training does not see, with the exact statistics of some that it does."""
    ladder.eval()
    ladder.calibrate(measured)
    error, denoising_cost = validate(ladder)
    found = {"validation_error": error}
    if denoising_cost is not None:
        found["validation_denoising_cost"] = denoising_cost
    return found


def _first_broken(ladder: Ladder) -> str | None:
    """The lowest place whose statistics of the last step are not finite, where it can be told."""
    if ladder.steps.device.type != "cpu":  # costs are looked at some steps later there
        return None
    for name, module in ladder.network.named_modules():
        if isinstance(module, Normalization) and not all(map(_is_finite, module.statistics.buffers())):
            return f"layer {module.layer} ({module.name})" if isinstance(module, Rung) else name
    return None


def _is_finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def make_optimizer(ladder: Ladder, config: TrainingConfig) -> torch.optim.Optimizer:
    """Return the optimiser that `train` makes for a new run: Adam, in one fused update."""
    return Adam(ladder.parameters(), lr=config.learning_rate)


def uses_compiled_kernels(ladder: Ladder, config: TrainingConfig, steps: int) -> bool:
    """Return whether a run of that many steps uses the compiled kernels, where they can be built."""
    device = ladder.steps.device.type
    if device not in ("cpu", "cuda") or config.kernels == "torch":
        return False
    if device == "cuda":  # compiling takes some seconds
        return config.kernels == "compiled" or ladder.fused or steps >= GRAPHED_STEPS
    work = steps * config.batch_size * ladder.units / (1 if ladder.decoder else 10)
    return config.kernels == "compiled" or ladder.fused or work >= COMPILED_WORK


def uses_cuda_graph(device: torch.device, config: TrainingConfig, steps: int, corruption: Corruption) -> bool:
    """Return whether a run of that many steps is made in launches of a CUDA graph.

    Capturing it takes a second, and replays what the corruption did then: of the caller's own ones only where
    ``kernels="compiled"`` says that they can be.
    """
    wanted = config.kernels == "compiled" or (config.kernels == "auto" and steps >= GRAPHED_STEPS)
    ours = is_gaussian(corruption) or corruption is masking or type(corruption) is VirtualAdversarial
    known = ours or config.kernels == "compiled"
    return device.type == "cuda" and wanted and known


@contextmanager
def tensor_cores(precision: Precision) -> Iterator[None]:
    """Let products of float32 matrices be made in TF32 while the context lasts, if that is the precision."""
    settings: Any = torch.backends.cuda.matmul
    before = settings.fp32_precision
    try:
        if precision == "tf32":
            settings.fp32_precision = "tf32"
        yield
    finally:
        if precision == "tf32":
            settings.fp32_precision = before


@contextmanager
def step_context(
    ladder: Ladder, optimizer: torch.optim.Optimizer, config: TrainingConfig, *, steps: int
) -> Iterator[Callable[[], AbstractContextManager[Any]]]:
    """Set a ladder and its optimiser up for the steps of a run of that length, while the context lasts.

    Yields what the costs of each step are computed under: ``with autocast(): costs = ladder(...)``.
    """
    precision = resolve_precision(config.precision, ladder)
    device, low = ladder.steps.device.type, precision == "bfloat16"
    before = ladder.fused
    with ExitStack() as stack:
        stack.enter_context(tensor_cores(precision))
        stack.callback(setattr, ladder, "fused", before)
        wanted, ladder.fused = uses_compiled_kernels(ladder, config, steps), False
        with torch.autocast(device, torch.bfloat16, enabled=low):
            built = wanted and ladder.fuse()
        kernels = load(torch.bfloat16 if low else torch.float32) if built and device == "cpu" else None
        if kernels is not None and isinstance(optimizer, Adam) and len(optimizer.param_groups) == 1:
            copies = stack.enter_context(low_precision_weights(ladder, torch.bfloat16)) if low else {}
            stack.enter_context(optimizer.compiled(kernels, copies))
        yield lambda: torch.autocast(device, torch.bfloat16, enabled=low)


class _Best:
    """The best epoch so far, and when anything last improved; none before the first was seen."""

    def __init__(self) -> None:
        self.error = self.denoising_cost = self.lowest_cost = math.inf
        self.progress = 0
        self._weights: dict[str, Tensor] = {}

    def see(self, record: EpochRecord, ladder: Ladder) -> None:
        """Compare with an epoch that has been validated."""
        error, cost = record["validation_error"], record.get("validation_denoising_cost", math.inf)
        first, fell = not self._weights, cost < self.lowest_cost * (1 - LEAST_IMPROVEMENT)
        if first or fell or error < self.error:
            self.progress = record["epoch"]
        if first or fell:
            self.lowest_cost = cost
        if first or (error, cost) < (self.error, self.denoising_cost):
            self.error, self.denoising_cost = error, cost
            self._weights = copy.deepcopy(ladder.state_dict())

    def put(self, ladder: Ladder) -> None:
        """Set a ladder to the best epoch's weights, if any epoch was seen."""
        if self._weights:
            ladder.load_state_dict(self._weights)

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)


_OPTIONS = ("task", "supervised_path", "detach_targets", "joint_statistics", "weight_normalization")
"""Of a ladder, which its weights' shapes do not tell."""


def identity(
    ladder: Ladder,
    x: Tensor | ScaledRows,
    x_labeled: Tensor,
    y: Tensor,
    weight: Tensor | None,
    config: TrainingConfig,
    generators: Sequence[torch.Generator],
) -> dict[str, Any]:
    """What tells a run from others: its settings, its seeds and its data (of many rows, some)."""
    digest = hashlib.sha256()
    every = -(-len(x) // VALIDATION_ROWS)
    parts = (x[start : start + 1000 * every : every] for start in range(0, len(x), 1000 * every))
    for tensor in itertools.chain(parts, (x_labeled, y, weight)):
        if tensor is not None:
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return {
        "configuration": asdict(config),
        "precision": resolve_precision(config.precision, ladder),
        "network": [[name, *value.shape] for name, value in ladder.state_dict().items()],
        "modules": [type(module).__name__ for module in ladder.modules()],
        "options": {name: getattr(ladder, name) for name in _OPTIONS},
        "corruption": _named(ladder.corruption),
        "noise_std": ladder.noise_std,
        "denoising_weights": ladder.denoising_weights,
        "device": x.device.type,
        "seeds": [generator.initial_seed() for generator in generators],
        "rows": [*x.shape],
        "labelled rows": len(x_labeled),
        "data": digest.hexdigest(),
    }


def _named(corruption: Corruption) -> str:
    """Its name and its numbers, such as "VirtualAdversarial(share=0.03, probe=0.1)"."""
    name = getattr(corruption, "__name__", type(corruption).__name__)
    numbers = {k: v for k, v in getattr(corruption, "__dict__", {}).items() if isinstance(v, int | float | str)}
    return f"{name}({', '.join(f'{k}={v!r}' for k, v in numbers.items())})" if numbers else name


def as_vector(costs: Costs) -> Tensor:
    """The total, the supervised and the denoising costs, 0 where there is none."""
    zero = torch.zeros_like(costs.total)
    parts = [costs.total, costs.supervised, *(zero if cost is None else cost for cost in costs.denoising)]
    return torch.stack(parts)
