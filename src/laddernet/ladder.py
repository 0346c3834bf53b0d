"""The Ladder network: Algorithm 1 of Rasmus et al. (2015), around any feedforward network that rungs can be put in.

Legend: l = 0 is the input, L the top; z_pre are pre-activations, z_clean and z_noisy normalised values without
and with noise, h activations, u what comes down the decoder, z_hat the estimate of z_clean. Three streams of
rows (labelled, unlabelled-noisy, unlabelled-clean) are stacked for one matrix product a layer; each keeps its
own batch statistics. The equations are restated in docs/algorithm.md.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from laddernet.arguments import (
    check_callable,
    check_choice,
    check_flag,
    check_kind,
    check_number,
    check_numbers,
    check_whole,
    shown,
)
from laddernet.combinators import COMBINATORS, CombinatorFactory, Gaussian
from laddernet.distributed import ALONE, Processes, Share, Stack
from laddernet.errors import ArgumentError
from laddernet.fused import Drawn, Kernels, Target, descend, library, normal, product_dtype, rise, slope_of
from laddernet.kernels import Library
from laddernet.losses import TASKS
from laddernet.mirrors import DecoderLayer, check_names, map_down
from laddernet.noise import Corruption, gaussian, is_gaussian
from laddernet.normalization import (
    Normalized,
    Statistics,
    as_the_device_likes,
    batch_normalize_streams,
    features_last,
    normalize,
    per_feature,
)
from laddernet.rungs import Normalization, Rung, is_torchs_own, place, plain

if TYPE_CHECKING:
    from laddernet.rows import ScaledRows

RUNNING_WEIGHT = 0.01
"""Weight of the newest batch in the running statistics, once 100 batches have been seen."""
DECODER_ROWS = 10_000
"""Rows that `Ladder.calibrate` measures the decoder's statistics on, at most."""
SALTS = 2
"""Times the layer, what its noise adds to the seed of a step; the input has one for each stream."""
MOST_NOISE = 1e6
"""Standard deviation of the noise, at most: beyond it float32 keeps nothing of what it is added to."""
AT_ONCE = 2**24
"""Rows times values of the widest layer, the input among them, up to which `Ladder.calibrate` takes all rows through
the network at once."""

Variant = Literal["full", "gamma", "bottom", "baseline"]
VARIANTS: tuple[Variant, ...] = ("full", "gamma", "bottom", "baseline")
TaskName = Literal["classification", "regression", "multilabel"]


class Costs(NamedTuple):
    """What a training step minimises, and its parts.

    Attributes
    ----------
    total : Tensor, scalar
        ``supervised + sum of weight * denoising``.
    supervised : Tensor, scalar
        Mean over the labelled rows.
    denoising : tuple of (Tensor, scalar, or None)
        One unweighted cost a layer, layer 0 first: the mean square over all elements. None where the layer's
        weight is 0.
    """

    total: Tensor
    supervised: Tensor
    denoising: tuple[Tensor | None, ...]


class _Encoded(NamedTuple):
    """What the encoder leaves for the costs: z_noisy from layer 0, clean values from layer 1 up."""

    logits_labeled: Tensor
    logits_noisy: Tensor | None
    z_noisy: list[Tensor]
    clean: list[Normalized]


_Changes = Mapping[tuple[int, int], Tensor]
"""What is added to a noisy stream beside its noise, by layer and stream (0 labelled, 1 unlabelled)."""


class _Reached(Exception):  # noqa: N818 - no error, but the way out of the network's forward
    """Carries a value out of the middle of a run."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value


class Ladder(nn.Module):
    """A Ladder network around a feedforward encoder.

    Works on a copy of the encoder and keeps the weights it finds; biases that normalisation makes redundant are
    dropped. Nothing is built or computed that no cost reaches. A *layer* is the input (0) or a rung.

    Parameters
    ----------
    encoder : nn.Module
        From rows to logits of shape (batch, outputs): any network whose answer for a row does not depend on the other
        rows, but for batch normalisation. Dropout takes place in the noisy streams alone.
    rungs : sequence of str, optional
        Names of submodules after which the rungs go, the last of which gives the logits. By default they take the
        places of the batch normalisations that all values go through, and go after every other linear or
        convolutional map and residual block; see `rungs.place`. Their names are in `rung_names`.
    input_shape : sequence of int, optional
        Shape of one row, such as (1, 28, 28); not needed where the encoder begins with a linear map.
    mirrors : mapping of str to nn.Module, optional
        The caller's own decoder maps, by the name of the upper rung: from values of its shape to values of the shape
        of the rung below. By default they mirror what lies between; see `mirrors`.
    noise_std : float or sequence of float
        Standard deviation of the noise at the input and, after normalisation, in every layer; or one a layer,
        input first (layers + 1 of them).
    denoising_weights : sequence of float, optional
        The weight of each layer's denoising cost, input first (layers + 1 of them). By default 1000, 10 and 0.1
        for all others; with ``variant="gamma"`` 1 at the top, with ``variant="bottom"`` 1000 at the input.
    variant : {"full", "gamma", "bottom", "baseline"}
        Which of the weights count: all, the top one, the input's, none.
    combinator : str or callable
        A name in `combinators.COMBINATORS`, or a callable ``(features, generator=...) -> nn.Module``.
    corruption : callable, optional
        ``(clean, std, generator) -> corrupted``; Gaussian noise by default. Called once for each noisy stream
        at each layer whose noise_std is above 0; see `noise`.
    task : {"classification", "regression", "multilabel"}
        Gives the output activation and the supervised cost; see `losses`.
    supervised_path : {"noisy", "clean"}
        Which path the supervised cost comes from. The paper's is "noisy".
    detach_targets : bool
        Ablation: no gradient reaches the clean path through what z_hat is compared with. In the paper it does.
    joint_statistics : bool
        Ablation: in training all streams are normalised with the statistics of their rows together. In the paper
        each has its own. There are no compiled kernels for it.
    weight_normalization : {"none", "encoder", "all"}
        Whether training projects the incoming weights of each unit or channel back to unit length after every step:
        those of the encoder's linear and convolutional maps, or of the decoder's too (Huang et al. 2017, arXiv
        1710.02338); not of transposed convolutions, which mirror the others in the decoder. What they feed is
        normalised anyway; what changes is how far a step turns them.
    generator : torch.Generator, optional
        Source of the decoder's starting weights and of all noise. Must be on the device that the ladder runs on.

    Raises
    ------
    ValueError, TypeError
        If the encoder cannot become a ladder, or an argument is out of range.

    References
    ----------
    Rasmus, Valpola, Honkala, Berglund, Raiko: Semi-Supervised Learning with Ladder Networks. NIPS 2015,
    arXiv 1507.02672, Algorithm 1.

    Examples
    --------
    >>> import torch
    >>> from laddernet import Ladder
    >>> from laddernet.networks import mlp
    >>> ladder = Ladder(mlp([20, 16, 3]), denoising_weights=(10, 1, 0.1))
    >>> costs = ladder(torch.randn(6, 20), torch.tensor([0, 1, 2, 0, 1, 2]), torch.randn(30, 20))
    >>> costs.total.backward()
    >>> ladder.predict(torch.randn(5, 20)).shape
    torch.Size([5, 3])
    """

    steps: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        *,
        rungs: Sequence[str] | None = None,
        input_shape: Sequence[int] | None = None,
        mirrors: Mapping[str, nn.Module] | None = None,
        noise_std: float | Sequence[float] = 0.3,
        denoising_weights: Sequence[float] | None = None,
        variant: Variant = "full",
        combinator: str | CombinatorFactory = "gaussian",
        corruption: Corruption | None = None,
        task: TaskName = "classification",
        supervised_path: Literal["noisy", "clean"] = "noisy",
        detach_targets: bool = False,
        joint_statistics: bool = False,
        weight_normalization: Literal["none", "encoder", "all"] = "none",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_choice("task", task, tuple(TASKS))
        check_choice("supervised_path", supervised_path, ("noisy", "clean"))
        check_choice("weight_normalization", weight_normalization, ("none", "encoder", "all"))
        check_flag("detach_targets", detach_targets)
        check_flag("joint_statistics", joint_statistics)
        if isinstance(combinator, str):
            check_choice("combinator", combinator, tuple(COMBINATORS))
            combinator = COMBINATORS[combinator]
        check_callable("combinator", combinator, "a name or a callable")
        check_callable("corruption", gaussian if corruption is None else corruption, "a callable, as in noise")
        check_kind("generator", generator, (torch.Generator, type(None)), "a torch.Generator or None")
        check_kind("mirrors", mirrors, (Mapping, type(None)), "a mapping of rungs' names to modules")
        placed = place(encoder, rungs, input_shape)
        self.network = placed.network
        self._normalizations = tuple(placed.normalizations)
        self._rungs = tuple(made for made in placed.normalizations if isinstance(made, Rung))
        self._visitor = placed.visitor
        self.input_shape = placed.between[0].below
        layers = len(self._rungs)
        for layer, rung in enumerate(self._rungs, start=1):
            rung.layer = layer
        self.noise_std = _noise_stds(noise_std, layers)
        self.denoising_weights = variant_weights(variant, denoising_weights, layers)
        self.variant = variant
        self.task = task
        self.supervised_path = supervised_path
        self.detach_targets = detach_targets
        self.joint_statistics = joint_statistics
        self.weight_normalization = weight_normalization
        self.corruption: Corruption = gaussian if corruption is None else corruption
        self.generator = generator
        self.seed: Tensor | None = None  # of this step's noise, where the kernels draw it
        self.fused = False
        self.processes: Processes = ALONE
        self._shares: tuple[Share, Share] | None = None
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        reached = [layer for layer, weight in enumerate(self.denoising_weights) if weight > 0]
        self._highest_target = max(reached, default=0)
        self._has_clean_stream = self._highest_target > 0
        follow = all(between.steps is not None for between in placed.between)
        parts = any(step.parts for between in placed.between for step in between.steps or [])
        self._is_torchs_own = is_torchs_own(self.network)
        self._is_chain = follow and not parts and self._is_torchs_own
        start = generator
        if generator is not None and generator.device.type != "cpu":
            start = torch.Generator().manual_seed(generator.initial_seed())
        needs_above = getattr(combinator, "needs_above", True)
        built = range(min(reached), layers + 1) if reached and needs_above else reached
        check_names(mirrors or {}, self.rung_names)
        self.decoder = nn.ModuleDict()
        for layer in built:
            down = None
            if needs_above and layer < layers:
                between = placed.between[layer]
                down = map_down(between, copy.deepcopy((mirrors or {}).get(between.rung)), start)
            features = self.shapes[layer][0]
            made = DecoderLayer(down, combinator(features, generator=start), features)
            self.decoder[str(layer)] = made.to(self._like.device, self._like.dtype)

    # Training: the streams up, the decoder down, the costs.

    def forward(
        self, x_labeled: Tensor, y: Tensor, x_unlabeled: Tensor | None = None, weight: Tensor | None = None
    ) -> Costs:
        """Compute the costs of one step.

        In training mode the statistics for prediction follow along; in evaluation mode they are left alone.

        Parameters
        ----------
        x_labeled : Tensor of shape (labelled rows, *input_shape)
        y : Tensor
            The labels of those rows, in the form that the task's cost takes (see `losses`).
        x_unlabeled : Tensor of shape (unlabelled rows, *input_shape), optional
            Not used, and may be left out, where no layer has a denoising weight.
        weight : Tensor of shape (labelled rows,), optional
            Factor on each labelled row's supervised cost; 1 for all by default.

        Returns
        -------
        Costs

        Raises
        ------
        ValueError
            If a shape does not fit, or a stream has fewer than two rows, which have no variance.
        """
        self._check_stream("x_labeled", x_labeled, 0)
        if self.decoder:
            if x_unlabeled is None:
                raise ValueError("x_unlabeled is needed: there are denoising costs, which it is computed on.")
            self._check_stream("x_unlabeled", x_unlabeled, 1)
        if weight is not None and weight.shape != (len(x_labeled),):
            raise ValueError(f"weight must have shape ({len(x_labeled)},), got {tuple(weight.shape)}.")
        kernels = self._kernels(x_labeled)
        if kernels is not None and x_unlabeled is not None:
            x_unlabeled = features_last(x_unlabeled)
        encoded = self._encode(x_labeled, x_unlabeled, kernels)
        task_cost = TASKS[self.task].cost
        supervised = self._over_all(encoded.logits_labeled, 0, lambda logits: task_cost(logits, y, weight))
        denoising = self._decode(encoded, x_unlabeled, kernels)
        total = supervised
        for denoising_weight, cost in zip(self.denoising_weights, denoising, strict=True):
            if cost is not None:
                total = torch.add(total, cost, alpha=denoising_weight)
        return Costs(total, supervised, denoising)

    def _encode(self, x_labeled: Tensor, x_unlabeled: Tensor | None, kernels: Kernels | None) -> _Encoded:
        """Run the streams up; stacked they are labelled, unlabelled-noisy, unlabelled-clean."""
        noisy_supervision = self.supervised_path == "noisy"
        seed = self._step_seed()
        changes = self._changes(x_labeled, x_unlabeled)
        draws = self._kernels(x_labeled, drawing=True)
        streams = [self._corrupt(x_labeled, 0, 0, changes, draws, seed) if noisy_supervision else x_labeled]
        z_noisy: list[Tensor] = []
        clean: list[Normalized] = []
        if self.decoder:
            assert x_unlabeled is not None
            z_noisy.append(self._corrupt(x_unlabeled, 0, 1, changes, draws, seed))
            streams.append(z_noisy[0])
            if self._has_clean_stream:
                streams.append(x_unlabeled)
        running_weight = self._count_step()
        drops_clean = self._is_chain and not self.joint_statistics
        sizes = [len(stream) for stream in streams]
        wholes = [self._share(i, stream).whole for i, stream in enumerate(streams)]

        def climb(norm: Normalization, z_pre: Tensor) -> Tensor:
            """Each stream normalised by its own statistics, the noisy ones corrupted; shift, scale, activation."""
            layer = norm.layer if isinstance(norm, Rung) else None
            if kernels is not None:
                h, z, last = self._rise(kernels, norm, layer, z_pre, sizes, running_weight, seed, changes)
            else:
                z_pre = as_the_device_likes(z_pre.to(x_labeled.dtype))
                z, last, seen = self._normalize_streams(z_pre, sizes)
                if layer is not None:
                    self._corrupt_streams(z, layer, changes, draws, seed)
                if self.training:
                    whole = wholes[len(sizes) - 1]
                    norm.statistics.update(seen, running_weight, sum(wholes) if self.joint_statistics else whole)
                h = norm.activate(torch.cat(z))
            if layer is not None:
                z_noisy.extend(z[1:2])
                clean.extend([last] if len(sizes) == 3 else [])
            if drops_clean and layer == self._highest_target and len(sizes) == 3:  # no cost needs it above
                del sizes[2]
                self._visitor.rows = sum(sizes)
                h = h[: sum(sizes)]
            return h

        noisy = slice(0 if noisy_supervision else sizes[0], sum(sizes[:2]))
        stacked = torch.cat(streams) if self._is_torchs_own else torch.cat(streams).contiguous()
        stack = Stack(tuple(map(self._share, range(len(streams)), streams))[0 if noisy_supervision else 1 : 2])
        rows = sum(sizes)
        with self._visitor.visiting(climb, rows=rows, noisy=noisy, stack=stack, generator=self.generator):
            logits = torch.split(self.network(stacked), sizes)
        return _Encoded(logits[0], logits[1] if self.decoder else None, z_noisy, clean)

    def _normalize_streams(self, z_pre: Tensor, sizes: list[int]) -> tuple[list[Tensor], Normalized, Normalized]:
        """Return z of each stream, the last one normalised, and the rows whose statistics prediction follows."""
        if self.joint_statistics:
            (seen,) = batch_normalize_streams([z_pre], self.processes)
            z = list(torch.split(seen.z, sizes))
            return z, seen._replace(z=z[-1]), seen
        normalized = batch_normalize_streams(torch.split(z_pre, sizes), self.processes)
        return [stream.z for stream in normalized], normalized[-1], normalized[-1]

    def _decode(self, encoded: _Encoded, x_clean: Tensor | None, kernels: Kernels | None) -> tuple[Tensor | None, ...]:
        """Run the decoder down the unlabelled rows; the denoising cost of each layer, layer 0 first."""
        costs: list[Tensor | None] = [None] * (len(self._rungs) + 1)
        down = None if encoded.logits_noisy is None else TASKS[self.task].activate(encoded.logits_noisy)
        for layer, decoder in self._decoder_layers():
            assert down is not None
            assert x_clean is not None
            z_noisy = encoded.z_noisy[layer]
            u_pre = down if decoder.map is None else decoder.map(down)
            wanted = self.denoising_weights[layer] > 0
            compared = encoded.clean[layer - 1] if wanted and layer else None
            if compared is not None and self.detach_targets:
                compared = Normalized(*(value.detach() for value in compared))
            if kernels is not None and type(decoder.combinator) is Gaussian:
                target = Target(*compared) if compared is not None else Target(x_clean if wanted else None)
                is_last = str(layer - 1) not in self.decoder
                dtype = x_clean.dtype if is_last else product_dtype(x_clean)
                down, cost = descend(kernels, u_pre, decoder.combinator.a, z_noisy, target, dtype)
                costs[layer] = cost if wanted else None
                continue
            u = z_noisy
            if decoder.needs_above:
                u = batch_normalize_streams([u_pre.to(z_noisy.dtype)], self.processes)[0].z
            z_hat = decoder.combinator(z_noisy, u)
            if compared is not None:
                z_clean, mean, inverse_std = compared
                costs[layer] = self._mean_square(normalize(z_hat, mean, inverse_std), z_clean)
            elif wanted:  # compared with the raw input
                costs[0] = self._mean_square(z_hat, x_clean)
            down = z_hat
        return tuple(costs)

    def _count_step(self) -> Tensor:
        """Weight of this batch in the running statistics: 1/steps at first, so that all weigh alike."""
        if self.training:
            self.steps += 1
        return (1.0 / self.steps).clamp(min=RUNNING_WEIGHT)

    def _corrupt(
        self,
        clean: Tensor,
        layer: int,
        stream: int,
        changes: _Changes,
        kernels: Kernels | None = None,
        seed: Tensor | None = None,
    ) -> Tensor:
        std, share = self.noise_std[layer], self._share(stream, clean)
        if kernels is None or std == 0 or not is_gaussian(self.corruption) or clean.dtype != torch.float32:
            corrupted = clean
            if std > 0:
                corrupted = share.of(self.corruption(share.among_all(clean), std, self.generator))
            change = changes.get((layer, stream))
            return corrupted if change is None else corrupted + change
        if share.is_part:
            whole = clean.new_zeros(share.whole, *clean.shape[1:])
            return clean + share.of(self._gaussian(whole, std, kernels, seed, SALTS * layer + stream))
        if isinstance(kernels, Library):
            return normal(kernels, clean.shape, std=std, generator=self.generator).add_(clean)
        assert seed is not None
        return kernels.noisy(clean, Drawn((True,), std, seed, SALTS * layer + stream))

    def _gaussian(self, zeros: Tensor, std: float, kernels: Kernels, seed: Tensor | None, salt: int) -> Tensor:
        """Noise as the kernels draw it."""
        if isinstance(kernels, Library):
            return normal(kernels, zeros.shape, std=std, generator=self.generator)
        assert seed is not None
        return kernels.noisy(zeros, Drawn((True,), std, seed, salt))

    def _corrupt_streams(
        self, z: list[Tensor], layer: int, changes: _Changes, kernels: Kernels | None, seed: Tensor | None
    ) -> None:
        """Corrupt the noisy streams of a rung, in the list."""
        noisy = [*([0] if self.supervised_path == "noisy" else []), *([1] if self.decoder else [])]
        std, is_float32 = self.noise_std[layer], z[0].dtype == torch.float32
        if kernels is None or not is_gaussian(self.corruption) or not is_float32 or std == 0 or not noisy:
            for stream in noisy:
                z[stream] = self._corrupt(z[stream], layer, stream, changes)
            return
        stack = Stack(tuple(self._share(stream, z[stream]) for stream in noisy))
        zeros = z[0].new_zeros(stack.whole, *z[0].shape[1:])
        noise = self._gaussian(zeros, std, kernels, seed, SALTS * layer)  # for all at once, as `_draw` does
        for stream, added in zip(noisy, stack.split(noise), strict=True):
            z[stream] = z[stream] + added

    def _changes(self, x_labeled: Tensor, x_unlabeled: Tensor | None) -> _Changes:
        """What the corruption adds to the noisy streams because of the network, if it has `changes`; see `noise`."""
        find = getattr(self.corruption, "changes", None)
        layers = [layer for layer, std in enumerate(self.noise_std) if std > 0]
        rows = {0: x_labeled} if self.supervised_path == "noisy" else {}
        if self.decoder and x_unlabeled is not None:
            rows[1] = x_unlabeled
        if find is None or not layers or not rows:
            return {}
        sizes = [len(stream) for stream in rows.values()]
        x = torch.cat(list(rows.values()))
        stack = Stack(tuple(self._share(stream, part) for stream, part in rows.items()))
        with torch.no_grad():
            clean = self._answers(x, sizes, {}).detach()

        def divergence(changes: Sequence[Tensor]) -> Tensor:
            moved = self._answers(x, sizes, dict(zip(layers, map(stack.of, changes), strict=True)))
            return TASKS[self.task].divergence(clean, moved)

        likes = [x.new_empty(stack.whole, *self.shapes[layer]) for layer in layers]
        found = find(divergence, likes, [self.noise_std[layer] for layer in layers], self.generator)
        return {
            (layer, stream): part
            for layer, change in zip(layers, found, strict=True)
            for stream, part in zip(rows, stack.split(change), strict=True)
        }

    def _answers(self, x: Tensor, sizes: list[int], changes: Mapping[int, Tensor]) -> Tensor:
        """Logits of streams without noise, each normalised on its own, with a change added in each layer."""

        def climb(norm: Normalization, z_pre: Tensor) -> Tensor:
            normalized = batch_normalize_streams(torch.split(z_pre.to(x.dtype), sizes), self.processes)
            z = torch.cat([stream.z for stream in normalized])
            if isinstance(norm, Rung) and norm.layer in changes:
                z = z + changes[norm.layer]
            return norm.activate(z)

        with self._visitor.visiting(climb):
            logits: Tensor = self.network(x + changes[0] if 0 in changes else x)
        return logits

    def _step_seed(self) -> Tensor | None:
        """The seed of all noise of a step, where the kernels draw it."""
        if not self.is_seeded or self.seed is not None:
            return self.seed
        return torch.empty((), dtype=torch.int64, device=self._like.device).random_(generator=self.generator)

    @property
    def projected(self) -> tuple[str, ...]:
        """Names of the parameters that `weight_normalization` holds at unit length; see `project`."""
        parts = {"none": (), "encoder": ("network",), "all": ("network", "decoder")}[self.weight_normalization]
        maps = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
        return tuple(
            f"{part}.{name}.weight"
            for part in parts
            for name, module in self.get_submodule(part).named_modules()
            if isinstance(module, maps)
        )

    # The same in several processes.

    def distribute(self, processes: Processes, *, labeled: int = 0, unlabeled: int = 0) -> None:
        """Train on each process's share of every batch from now on, with the statistics of all of it.

        `forward` then takes the rows of ``processes.share(labeled)`` and ``processes.share(unlabeled)``, which may be
        none; its costs are such that their mean over the processes is the whole batch's cost, and so with the
        gradients, which torch's `DistributedDataParallel` around the ladder takes the mean of. Noise is drawn for the
        whole batch, and each process keeps its rows' part: give all processes generators of the same seed. A corruption
        must treat each row for itself. The kernels of `fuse` then draw noise alone.

        Parameters
        ----------
        processes : Processes
            `Processes()` for torch's default group; `ALONE` to end it.
        labeled, unlabeled : int
            Rows of the streams' batches, of all processes together.
        """
        self.processes = processes
        alone = processes.size == 1
        self._shares = None if alone else (processes.share(labeled), processes.share(unlabeled))

    def _share(self, stream: int, rows: Tensor) -> Share:
        """Which rows of the batch of a stream these are."""
        return Share(0, len(rows), len(rows)) if self._shares is None else self._shares[min(stream, 1)]

    def _over_all(self, rows: Tensor, stream: int, cost: Callable[[Tensor], Tensor]) -> Tensor:
        """A cost that is a mean over rows, such that its mean over the processes is that over all their rows."""
        share = self._share(stream, rows)
        if not share.is_part:
            return cost(rows)
        if share.rows == 0:
            return 0 * rows.sum()  # with the same graph as elsewhere: the messages of its backward pass are awaited
        return cost(rows) * (self.processes.size * share.rows / share.whole)

    def _mean_square(self, z_hat: Tensor, z_clean: Tensor) -> Tensor:
        return self._over_all(z_hat, 1, partial(nn.functional.mse_loss, target=z_clean))

    def _check_stream(self, name: str, x: Tensor, stream: int) -> None:
        share = self._share(stream, x)
        self._check_rows(name, x, at_least=0 if share.is_part else 2)
        if len(x) != share.rows or share.whole < 2:
            raise ValueError(
                f"{name} has {len(x)} rows, but this process's share of a batch of {share.whole} is {share.rows}, and "
                "a batch needs two or more; see distribute."
            )

    # The same by compiled kernels.

    def fuse(self) -> bool:
        """Train with compiled kernels from now on; they are built where they are not there yet.

        There are kernels for float32, float64 and, under autocast, bfloat16 products, in C++ for the CPU and in Triton
        for a CUDA device: for normalisation with what goes with it (a ReLU or leaky ReLU that follows in an
        `nn.Sequential` included) and for the Gaussian combinator. Elsewhere, and with a corruption that has no `draw`,
        torch's operations stay in use. Costs and gradients are the same but for rounding; Gaussian noise in float32 is
        drawn by a kernel as well, which takes other numbers from the same generator. `training.train` calls this where
        it pays.

        Returns
        -------
        bool
            Whether the kernels could be built, for the ladder's present type and autocast's.
        """
        self.fused = library(self._like) is not None
        return self.fused

    @property
    def is_seeded(self) -> bool:
        """Whether all noise of a step comes from one seed, which kernels draw it from."""
        kernels = self._kernels(self._like, drawing=True)
        in_kernels = kernels is not None and not isinstance(kernels, Library)
        return in_kernels and is_gaussian(self.corruption) and self._like.dtype == torch.float32

    def _kernels(self, like: Tensor, *, drawing: bool = False) -> Kernels | None:
        """The kernels, if they are to be used: of several processes for `drawing` noise alone."""
        usable = self.fused and not self.joint_statistics and hasattr(self.corruption, "draw")
        return library(like) if usable and (drawing or self.processes.size == 1) else None

    def _rise(
        self,
        kernels: Kernels,
        norm: Normalization,
        layer: int | None,
        z_pre: Tensor,
        sizes: list[int],
        running_weight: Tensor,
        seed: Tensor | None,
        changes: _Changes,
    ) -> tuple[Tensor, list[Tensor], Normalized]:
        slope = slope_of(norm.activation) if norm.offset is None else None
        shape = z_pre.shape[1:]
        is_compared = layer is not None and self.denoising_weights[layer] > 0
        h, z, last = rise(
            kernels,
            z_pre,
            norm.beta,
            norm.gamma,
            sizes=sizes,
            noise=[None] * len(sizes) if layer is None else self._draw(layer, shape, sizes, kernels, seed, changes),
            wanted=[False, str(layer) in self.decoder, is_compared][: len(sizes)],
            slope=1.0 if slope is None else slope,
            running=norm.statistics if self.training else None,
            running_weight=running_weight,
            dtype=self._like.dtype if layer == len(self._rungs) else z_pre.dtype,
        )
        if norm.offset is not None:
            h = h + per_feature(norm.offset, h)
        h = norm.activation(h) if slope is None else h
        return h if self._is_torchs_own else h.contiguous(), z, last  # a forward may have its views of h

    def _draw(
        self,
        layer: int,
        shape: Sequence[int],
        sizes: list[int],
        kernels: Kernels,
        seed: Tensor | None,
        changes: _Changes,
    ) -> Sequence[Tensor | None] | Drawn:
        """Noise for each stream, in tensors of their own, None for a clean one; or how the kernels shall draw it."""
        std, dtype = self.noise_std[layer], self._like.dtype
        noisy = [std > 0 and is_noisy for is_noisy in (self.supervised_path == "noisy", True, False)[: len(sizes)]]
        if not is_gaussian(self.corruption) or dtype != torch.float32:
            draw = self.corruption.draw  # type: ignore[attr-defined]
            noise = [
                draw(self._like.new_empty(rows, *shape, dtype=dtype), std, self.generator) if is_noisy else None
                for rows, is_noisy in zip(sizes, noisy, strict=True)
            ]
            return [
                part + changes[layer, stream] if part is not None and (layer, stream) in changes else part
                for stream, part in enumerate(noise)
            ]
        if not isinstance(kernels, Library):
            assert seed is not None
            return Drawn(tuple(noisy), std, seed, SALTS * layer)
        drawn = [size if is_noisy else 0 for size, is_noisy in zip(sizes, noisy, strict=True)]
        if not any(drawn):
            return [None] * len(sizes)
        parts = torch.split(normal(kernels, (sum(drawn), *shape), std=std, generator=self.generator), drawn)
        return [part if is_noisy else None for part, is_noisy in zip(parts, noisy, strict=True)]

    # After training: the clean path with stored statistics.

    def logits(self, x: Tensor) -> Tensor:
        """Outputs of the clean path before their activation, of shape (rows, outputs); differentiable."""
        self._check_rows("x", x, at_least=0)
        with _evaluating(self):
            logits: Tensor = self.network(x)
        return logits

    def hidden(self, x: Tensor, layer: int) -> Tensor:
        """Values h that a layer's rung gives on the clean path, of shape (rows, *shape of the layer); 0 is `x` itself.

        They are after the activation where that is a module that follows in an `nn.Sequential`.

        Raises
        ------
        ValueError
            If there is no such layer.
        """
        self._check_rows("x", x, at_least=0)
        check_whole("layer", layer, 0, f"a layer's number, at most {len(self._rungs)}", most=len(self._rungs))
        return x if layer == 0 else self._run_until(x, self._rungs[layer - 1], lambda norm, z_pre: norm.clean(z_pre))

    def _run_until(self, x: Tensor, last: Normalization, value: Callable[[Normalization, Tensor], Tensor]) -> Tensor:
        """Run the clean path up to a normalisation, for what `value` makes of what comes to it."""

        def visit(norm: Normalization, z_pre: Tensor) -> Tensor:
            if norm is last:
                raise _Reached(value(norm, z_pre))
            return norm.clean(z_pre)

        try:
            with self._visitor.visiting(visit), _evaluating(self):
                self.network(x)
        except _Reached as reached:
            return reached.value
        raise RuntimeError(f"the encoder no longer comes to {last.name!r}, as it did when the ladder was built.")

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Class probabilities (classification, multilabel) or values (regression) of each row.

        Uses the clean path with stored statistics, so a row's answer does not depend on the others. During training
        these are running averages, of the clean stream where a cost needs one, else of the noisy rows; `calibrate`
        makes them exact.

        Parameters
        ----------
        x : Tensor of shape (rows, *input_shape)

        Returns
        -------
        Tensor of shape (rows, outputs)
        """
        return TASKS[self.task].activate(self.logits(x))

    @torch.no_grad()
    def denoise(self, x: Tensor) -> Tensor:
        """Reconstruct the input: up the encoder without further noise, down the decoder.

        The decoder's statistics are those of the last `calibrate`; call it first, as `training.train` does at its end.

        Parameters
        ----------
        x : Tensor of shape (rows, *input_shape)
            Taken as it is; corrupt it before where that is wanted.

        Returns
        -------
        Tensor of shape (rows, *input_shape)

        Raises
        ------
        ValueError
            If the decoder does not reach the input, as in the variants "gamma" and "baseline".
        """
        if "0" not in self.decoder:
            raise ValueError(
                f"variant {self.variant!r} with denoising weights {self.denoising_weights} has no decoder down to "
                "the input, so it cannot reconstruct it. Give layer 0 a weight."
            )
        return self._reconstruct(x)

    def _reconstruct(
        self, x: Tensor, see: Callable[[DecoderLayer, Tensor], None] = lambda decoder, u_pre: None
    ) -> Tensor:
        """The clean path up and the decoder down as far as it goes; `see` is shown each u before its normalisation."""
        z = [x]

        def climb(norm: Normalization, z_pre: Tensor) -> Tensor:
            normalized = norm.statistics.normalize(z_pre)
            z.extend([normalized] if isinstance(norm, Rung) else [])
            return norm.activate(normalized)

        with _evaluating(self):
            with self._visitor.visiting(climb):
                down = TASKS[self.task].activate(self.network(x))
            for layer, decoder in self._decoder_layers():
                u = z[layer]
                if decoder.needs_above:
                    u_pre: Tensor = down if decoder.map is None else decoder.map(down)
                    see(decoder, u_pre)
                    u = decoder.statistics.normalize(u_pre)
                down = decoder.combinator(z[layer], u)
            return down

    def _come_down_to(self, last: DecoderLayer, x: Tensor) -> Tensor:
        """Run the clean path and the decoder, for what comes to the normalisation of one of its layers."""

        def see(decoder: DecoderLayer, u_pre: Tensor) -> None:
            if decoder is last:
                raise _Reached(u_pre)

        try:
            self._reconstruct(x, see)
        except _Reached as reached:
            return reached.value
        raise AssertionError("the decoder has no such layer.")

    @torch.no_grad()
    def calibrate(self, x: "Tensor | ScaledRows", *, batch_size: int = 2000, rows_before: int = 0) -> None:
        """Set the statistics for prediction to those of `x` exactly.

        A layer's need those of the layers below: few rows go through all layers together, many in one pass for each.

        Deviation: the original predicts with the statistics of the labelled rows alone. Those of all training
        rows, labelled or not, are far better known, and are what the clean stream trained with.
        The decoder's own statistics, which only `denoise` uses, come from at most 10,000 of the rows, evenly
        spaced.

        Parameters
        ----------
        x : Tensor of shape (rows, *input_shape), or ScaledRows
            All rows of the training data; on the ladder's device or not, or on disk.
        batch_size : int
            Rows taken at a time where they are too many to go together (`AT_ONCE`), which bounds the memory and
            changes the result only by rounding.
        rows_before : int
            How many earlier rows the present statistics stand for: they are pooled with those of `x`. With 0 they are
            forgotten.

        Raises
        ------
        ValueError
            If there are fewer than two rows, and none before.
        """
        self._check_rows("x", x, at_least=1 if rows_before else 2)
        every = -(-len(x) // DECODER_ROWS)
        shapes = [self.input_shape, *(norm.shape for norm in self._normalizations)]
        if len(x) * max(map(math.prod, shapes)) <= AT_ONCE:
            self._measure_at_once(x[:], x[::every], rows_before)
            return
        pool = partial(self._measure, rows_before=rows_before, batch_size=batch_size)
        for norm in self._normalizations:
            pool(norm.statistics, x, partial(self._run_until, last=norm, value=lambda _, z_pre: z_pre))
        for _, decoder in self._decoder_layers():
            if decoder.needs_above:
                pool(decoder.statistics, x, partial(self._come_down_to, decoder), every=every)

    def _measure_at_once(self, x: Tensor, sample: Tensor, rows_before: int) -> None:
        device = self._like.device
        measured: set[nn.Module] = set()

        def measure(owner: Normalization | DecoderLayer, values: Tensor) -> None:
            if owner not in measured:  # a module may come twice: its first place counts, as in `_run_until`
                owner.statistics.pool(values, rows_before)
            measured.add(owner)

        def climb(norm: Normalization, z_pre: Tensor) -> Tensor:
            measure(norm, z_pre)
            return norm.clean(z_pre)

        with self._visitor.visiting(climb), _evaluating(self):
            self.network(x.to(device))
        if self.decoder:
            self._reconstruct(sample.to(device), measure)

    def _measure(
        self,
        statistics: Statistics,
        x: "Tensor | ScaledRows",
        values: Callable[[Tensor], Tensor],
        *,
        rows_before: int,
        batch_size: int,
        every: int = 1,
    ) -> None:
        for start in range(0, len(x), batch_size * every):
            rows = x[start : start + batch_size * every : every].to(statistics.mean.device)
            statistics.pool(values(rows), rows_before + start // every)

    @property
    def encoder(self) -> nn.Module:
        """A plain copy of the trained encoder, from rows to logits, with batch normalisation where the rungs are.

        It is of the caller's own class. In evaluation mode (as it is returned) its logits are those of `logits`.
        """
        return plain(self.network)

    @property
    def rung_names(self) -> tuple[str, ...]:
        """Where the rungs are: names of the encoder's modules, the lowest first."""
        return tuple(rung.name for rung in self._rungs)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of one row in each layer, the input first."""
        return (self.input_shape, *(rung.shape for rung in self._rungs))

    @property
    def units(self) -> int:
        """Number of values of one row in all layers."""
        return sum(math.prod(shape) for shape in self.shapes)

    # Typed access to the submodules, and checks.

    @property
    def _like(self) -> Tensor:
        """A tensor of the ladder's type, on its device."""
        return self._rungs[0].statistics.mean

    def _decoder_layers(self) -> list[tuple[int, DecoderLayer]]:
        """The layers that a cost reaches, from the top down."""
        layers = [(int(layer), cast(DecoderLayer, module)) for layer, module in self.decoder.items()]
        return layers[::-1]

    def _check_rows(self, name: str, x: "Tensor | ScaledRows", *, at_least: int = 2) -> None:
        if tuple(x.shape[1:]) != self.input_shape:
            wanted = ", ".join(map(str, self.input_shape))
            raise ValueError(f"{name} must have shape (rows, {wanted}), got {tuple(x.shape)}.")
        if x.dtype != self._like.dtype:
            raise ValueError(f"{name} must be {self._like.dtype} as the ladder is, got {x.dtype}.")
        if x.dtype == torch.float16:
            raise ValueError("a float16 ladder has no room for what is added to variances: use float32, and autocast.")
        if len(x) < at_least:
            raise ValueError(f"{name} has {len(x)} rows; batch statistics need at least {at_least}.")


@contextmanager
def _evaluating(ladder: nn.Module) -> Iterator[None]:
    """Have a ladder in evaluation mode while the context lasts: the clean path has no noise of its own making."""
    training = [module for module in ladder.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@torch.no_grad()
def project(weight: Tensor, networks: int = 0) -> None:
    """Scale the incoming weights of each unit to unit length, in place.

    Parameters
    ----------
    weight : Tensor of shape (units, incoming, ...), or (networks, units, incoming, ...)
    networks : int
        How many networks' weights it holds, one after the other; 0 for one without that dimension.
    """
    incoming = tuple(range(2 if networks else 1, weight.dim()))
    weight.div_(torch.linalg.vector_norm(weight, dim=incoming, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny))


def variant_weights(variant: Variant, weights: Sequence[float] | None, layers: int) -> tuple[float, ...]:
    """Return the denoising weights that a variant counts, input first, the others set to 0.

    Parameters
    ----------
    variant : {"full", "gamma", "bottom", "baseline"}
    weights : sequence of float, or None for the defaults that `Ladder` describes
        One a layer and one for the input; each finite and not negative.
    layers : int
        Number of layers above the input.

    Raises
    ------
    ValueError
        If the variant is unknown, or the weights are of wrong number or sign.
    """
    check_choice("variant", variant, VARIANTS)
    weights = default_weights(variant, layers) if weights is None else check_numbers("denoising_weights", weights)
    if len(weights) != layers + 1:
        raise ValueError(
            f"denoising_weights must have {layers + 1} entries, one for the input and one for each of the "
            f"{layers} layers, got {len(weights)}."
        )
    counts = {"full": range(layers + 1), "gamma": (layers,), "bottom": (0,), "baseline": ()}[variant]
    return tuple(weight if layer in counts else 0.0 for layer, weight in enumerate(weights))


def default_weights(variant: Variant, layers: int) -> tuple[float, ...]:
    """Return the denoising weights of the paper's MNIST network, for any number of layers; see `Ladder`."""
    top = 1.0 if variant == "gamma" else 0.1
    return (1000.0, *(10.0, *[0.1] * layers)[: layers - 1], top)


def check_noise(noise_std: Any) -> tuple[float, ...]:
    """Return the entries of `noise_std`, as `Ladder` takes it; one where it is a number.

    Raises
    ------
    ArgumentError
        If it is neither a number nor a sequence of them, or one is out of range.
    """
    if isinstance(noise_std, Iterable):
        stds = check_numbers("noise_std", noise_std)
    else:
        check_number("noise_std", noise_std, "finite and not negative", 0)
        stds = (float(noise_std),)
    if stds and max(stds) > MOST_NOISE:
        raise ArgumentError(
            f"noise_std must be at most {MOST_NOISE:g}, beyond which nothing is left of what it is added to, got "
            f"{shown(noise_std)}."
        )
    return stds


def _noise_stds(noise_std: float | Sequence[float], layers: int) -> tuple[float, ...]:
    stds = check_noise(noise_std)
    stds = stds if isinstance(noise_std, Iterable) else stds * (layers + 1)
    if len(stds) != layers + 1:
        raise ValueError(
            f"noise_std must be one number or {layers + 1} of them, one for the input and one for each of the "
            f"{layers} layers, got {len(stds)}."
        )
    return stds
