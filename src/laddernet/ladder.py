"""The Ladder network: Algorithm 1 of Rasmus et al. (2015), around any encoder that `rungs.split` can cut.

Legend: l = 0 is the input, L the top; z_pre are pre-activations, z_clean and z_noisy normalised values without
and with noise, h activations, u what comes down the decoder, z_hat the estimate of z_clean. Three streams of
rows (labelled, unlabelled-noisy, unlabelled-clean) are stacked for one matrix product a layer; each keeps its
own batch statistics. The equations are restated in docs/algorithm.md.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from laddernet.combinators import COMBINATORS, CombinatorFactory, Gaussian
from laddernet.fused import DecoderStep, EncoderLayer, decode, encode, library, normal, slope_of
from laddernet.kernels import Library
from laddernet.losses import TASKS
from laddernet.noise import Corruption, gaussian
from laddernet.normalization import Normalized, Statistics, batch_normalize, normalize
from laddernet.products import product_weight
from laddernet.rungs import DecoderLayer, Section, mirror, split

RUNNING_WEIGHT = 0.01
"""Weight of the newest batch in the running statistics, once 100 batches have been seen."""
DECODER_ROWS = 10_000
"""Rows that `Ladder.calibrate` measures the decoder's statistics on, at most."""

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


class Ladder(nn.Module):
    """A Ladder network around a feedforward encoder.

    Works on a copy of the encoder and keeps the weights it finds; biases that normalisation makes redundant are
    dropped. Nothing is built or computed that no cost reaches.

    Parameters
    ----------
    encoder : nn.Module
        From rows of shape (batch, features) to logits of shape (batch, outputs); see `rungs.split`.
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
        at each layer whose noise_std is above 0.
    task : {"classification", "regression", "multilabel"}
        Gives the output activation and the supervised cost; see `losses`.
    supervised_path : {"noisy", "clean"}
        Which path the supervised cost comes from. The paper's is "noisy".
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
        noise_std: float | Sequence[float] = 0.3,
        denoising_weights: Sequence[float] | None = None,
        variant: Variant = "full",
        combinator: str | CombinatorFactory = "gaussian",
        corruption: Corruption | None = None,
        task: TaskName = "classification",
        supervised_path: Literal["noisy", "clean"] = "noisy",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if task not in TASKS:
            raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}.")
        if supervised_path not in ("noisy", "clean"):
            raise ValueError(f"supervised_path must be 'noisy' or 'clean', got {supervised_path!r}.")
        self.sections = nn.ModuleList(split(encoder))
        layers = len(self.sections)
        self.noise_std = _noise_stds(noise_std, layers)
        self.denoising_weights = variant_weights(variant, denoising_weights, layers)
        self.variant = variant
        self.task = task
        self.supervised_path = supervised_path
        self.corruption: Corruption = gaussian if corruption is None else corruption
        self.generator = generator
        self.fused = False
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        reached = [layer for layer, weight in enumerate(self.denoising_weights) if weight > 0]
        self._highest_target = max(reached, default=0)
        self._has_clean_stream = self._highest_target > 0
        start = generator
        if generator is not None and generator.device.type != "cpu":
            start = torch.Generator().manual_seed(generator.initial_seed())
        if isinstance(combinator, str):
            if combinator not in COMBINATORS:
                raise ValueError(f"combinator must be one of {', '.join(COMBINATORS)}, got {combinator!r}.")
            combinator = COMBINATORS[combinator]
        needs_above = getattr(combinator, "needs_above", True)
        built = range(min(reached), layers + 1) if reached and needs_above else reached
        self.decoder = nn.ModuleDict({str(layer): self._decoder_layer(layer, combinator, start) for layer in built})

    def _decoder_layer(self, layer: int, combinator: CombinatorFactory, start: torch.Generator | None) -> DecoderLayer:
        features = self._section(layer - 1).rung.features if layer > 0 else _in_features(self._section(0).map)
        needs_above = layer < len(self.sections) and getattr(combinator, "needs_above", True)
        back = mirror(self._section(layer).map, start) if needs_above else None
        made = DecoderLayer(back, combinator(features, generator=start), features)
        return made.to(self._section(0).rung.beta.device, self._section(0).rung.beta.dtype)

    # Training: the streams up, the decoder down, the costs.

    def forward(
        self, x_labeled: Tensor, y: Tensor, x_unlabeled: Tensor | None = None, weight: Tensor | None = None
    ) -> Costs:
        """Compute the costs of one step.

        In training mode the statistics for prediction follow along; in evaluation mode they are left alone.

        Parameters
        ----------
        x_labeled : Tensor of shape (labelled rows, features)
        y : Tensor
            The labels of those rows, in the form that the task's cost takes (see `losses`).
        x_unlabeled : Tensor of shape (unlabelled rows, features), optional
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
        self._check_rows("x_labeled", x_labeled)
        if self.decoder:
            if x_unlabeled is None:
                raise ValueError("x_unlabeled is needed: there are denoising costs, which it is computed on.")
            self._check_rows("x_unlabeled", x_unlabeled)
        if weight is not None and weight.shape != (len(x_labeled),):
            raise ValueError(f"weight must have shape ({len(x_labeled)},), got {tuple(weight.shape)}.")
        kernels = self._kernels(x_labeled)
        if kernels is not None and x_unlabeled is not None:
            x_unlabeled = x_unlabeled.contiguous()
        encoded = self._encode(x_labeled, x_unlabeled, kernels)
        supervised = TASKS[self.task].cost(encoded.logits_labeled, y, weight)
        denoising = self._decode(encoded, x_unlabeled, kernels)
        total = supervised
        for denoising_weight, cost in zip(self.denoising_weights, denoising, strict=True):
            if cost is not None:
                total = torch.add(total, cost, alpha=denoising_weight)
        return Costs(total, supervised, denoising)

    def _encode(self, x_labeled: Tensor, x_unlabeled: Tensor | None, kernels: Library | None) -> _Encoded:
        """Run the streams up; stacked they are labelled, unlabelled-noisy, unlabelled-clean."""
        noisy_supervision = self.supervised_path == "noisy"
        streams = [self._corrupt(x_labeled, 0, kernels) if noisy_supervision else x_labeled]
        z_noisy: list[Tensor] = []
        clean: list[Normalized] = []
        if self.decoder:
            assert x_unlabeled is not None
            z_noisy.append(self._corrupt(x_unlabeled, 0, kernels).contiguous())
            streams.append(z_noisy[0])
            if self._has_clean_stream:
                streams.append(x_unlabeled)
        running_weight = self._count_step()
        sizes = [len(stream) for stream in streams]
        h = torch.cat(streams)
        if kernels is not None and all(slope_of(section.activation) is not None for section in self._sections()):
            return self._encode_fused(h, sizes, z_noisy, running_weight, kernels)
        for layer, section in enumerate(self._sections(), start=1):
            if layer == self._highest_target + 1 and self._has_clean_stream:  # no cost needs it above
                del sizes[2]
                h = h[: sum(sizes)]
            z_pre = torch.split(section.map(h), sizes)
            normalized = [batch_normalize(stream) for stream in z_pre]
            z = [stream.z for stream in normalized]
            if noisy_supervision:
                z[0] = self._corrupt(z[0], layer)
            if self.decoder:
                z[1] = self._corrupt(z[1], layer)
                z_noisy.append(z[1])
            if len(sizes) == 3:
                clean.append(normalized[2])
            if self.training:
                section.rung.statistics.update(normalized[-1], running_weight)
            h = section.activate(torch.cat(z))
        logits = torch.split(h, sizes)
        return _Encoded(logits[0], logits[1] if self.decoder else None, z_noisy, clean)

    def _decode(self, encoded: _Encoded, x_clean: Tensor | None, kernels: Library | None) -> tuple[Tensor | None, ...]:
        """Run the decoder down the unlabelled rows; the denoising cost of each layer, layer 0 first."""
        costs: list[Tensor | None] = [None] * (len(self.sections) + 1)
        down = None if encoded.logits_noisy is None else TASKS[self.task].activate(encoded.logits_noisy)
        if kernels is not None and self.decoder and all(_is_gaussian(decoder) for _, decoder in self._decoder_layers()):
            return self._decode_fused(down, encoded, x_clean, kernels)
        for layer, decoder in self._decoder_layers():
            assert down is not None
            u = encoded.z_noisy[layer]
            if decoder.needs_above:
                u = batch_normalize(down if decoder.map is None else decoder.map(down)).z
            z_hat = decoder.combinator(encoded.z_noisy[layer], u)
            if self.denoising_weights[layer] > 0 and layer == 0:  # compared with the raw input
                assert x_clean is not None
                costs[0] = nn.functional.mse_loss(z_hat, x_clean)
            elif self.denoising_weights[layer] > 0:
                z_clean, mean, inverse_std = encoded.clean[layer - 1]
                costs[layer] = nn.functional.mse_loss(normalize(z_hat, mean, inverse_std), z_clean)
            down = z_hat
        return tuple(costs)

    def _count_step(self) -> Tensor:
        """Weight of this batch in the running statistics: 1/steps at first, so that all weigh alike."""
        if self.training:
            self.steps += 1
        return (1.0 / self.steps).clamp(min=RUNNING_WEIGHT)

    def _corrupt(self, clean: Tensor, layer: int, kernels: Library | None = None) -> Tensor:
        std = self.noise_std[layer]
        if kernels is not None and std > 0 and self.corruption is gaussian and clean.dtype == torch.float32:
            return normal(kernels, *clean.shape, std=std, generator=self.generator).add_(clean)
        return self.corruption(clean, std, self.generator) if std > 0 else clean

    # The same by compiled kernels.

    def fuse(self) -> bool:
        """Train with compiled kernels from now on; they are built where they are not there yet.

        There are kernels for float32, float64 and, under autocast, bfloat16 products on the CPU, for encoders whose
        activations are ReLU, leaky ReLU or none, and for decoders with the Gaussian combinator. Elsewhere, and with a
        corruption that has no `draw`, torch's operations stay in use. Costs and gradients are the same but for
        rounding; Gaussian noise in float32 is drawn by a kernel as well, which takes other numbers from the same
        generator. `training.train` calls this where it pays.

        Returns
        -------
        bool
            Whether the kernels could be built, for the ladder's present type and autocast's.
        """
        self.fused = library(self._section(0).rung.beta) is not None
        return self.fused

    def _kernels(self, like: Tensor) -> Library | None:
        return library(like) if self.fused and hasattr(self.corruption, "draw") else None

    def _encode_fused(
        self, h: Tensor, sizes: list[int], z_noisy: list[Tensor], running_weight: Tensor, kernels: Library
    ) -> _Encoded:
        layers = []
        for layer, section in enumerate(self._sections(), start=1):
            if layer == self._highest_target + 1 and self._has_clean_stream:
                sizes = sizes[:2]
            slope, rung = slope_of(section.activation), section.rung
            assert slope is not None
            layers.append(
                EncoderLayer(
                    weight=product_weight(section.map),
                    beta=rung.beta,
                    gamma=rung.gamma,
                    sizes=sizes,
                    draw=partial(self._draw, layer, rung.beta, sizes, kernels),
                    slope=slope,
                    running=rung.statistics if self.training else None,
                )
            )
        encoded = encode(kernels, h, layers, float(running_weight))
        logits = torch.split(encoded.logits, sizes)
        if not self.decoder:
            return _Encoded(logits[0], None, z_noisy, [])
        clean = encoded.last[: self._highest_target] if self._has_clean_stream else []
        return _Encoded(logits[0], logits[1], [*z_noisy, *(z[1] for z in encoded.z)], clean)

    def _draw(self, layer: int, beta: Tensor, sizes: list[int], kernels: Library) -> list[Tensor | None]:
        """Noise for each stream, in tensors of their own; None for a clean one."""
        std, features = self.noise_std[layer], len(beta)
        noisy = [std > 0 and is_noisy for is_noisy in (self.supervised_path == "noisy", True, False)[: len(sizes)]]
        drawn = [size if is_noisy else 0 for size, is_noisy in zip(sizes, noisy, strict=True)]
        if self.corruption is not gaussian or beta.dtype != torch.float32:
            draw = self.corruption.draw  # type: ignore[attr-defined]
            like = [beta.new_empty(rows, features) for rows in drawn]
            return [draw(rows, std, self.generator).contiguous() if len(rows) else None for rows in like]
        if not any(noisy):
            return [None] * len(sizes)
        noise = torch.split(normal(kernels, sum(drawn), features, std=std, generator=self.generator), drawn)
        return [part if is_noisy else None for part, is_noisy in zip(noise, noisy, strict=True)]

    def _decode_fused(
        self, down: Tensor | None, encoded: _Encoded, x_clean: Tensor | None, kernels: Library
    ) -> tuple[Tensor | None, ...]:
        assert down is not None
        nothing = (None, None, None)
        steps = []
        for layer, decoder in self._decoder_layers():
            wanted = self.denoising_weights[layer] > 0
            target = nothing if not wanted else (x_clean, None, None) if layer == 0 else encoded.clean[layer - 1]
            weight = None if decoder.map is None else product_weight(decoder.map)
            assert isinstance(decoder.combinator, Gaussian)
            steps.append(DecoderStep(weight, decoder.combinator.a, encoded.z_noisy[layer], *target))
        costs = decode(kernels, down, steps)
        below = [None] * (len(self.sections) + 1 - len(costs))
        return (*below, *reversed(costs))

    # After training: the clean path with stored statistics.

    def logits(self, x: Tensor) -> Tensor:
        """Outputs of the clean path before their activation, of shape (rows, outputs); differentiable."""
        return self.hidden(x, len(self.sections))

    def hidden(self, x: Tensor, layer: int) -> Tensor:
        """Activations h of a layer on the clean path, of shape (rows, width); layer 0 is `x` itself."""
        self._check_rows("x", x, at_least=0)
        h = x
        for section in self._sections()[:layer]:
            h = section.clean(h)
        return h

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Class probabilities (classification, multilabel) or values (regression) of each row.

        Uses the clean path with stored statistics, so a row's answer does not depend on the others. During training
        these are running averages, of the clean stream where a cost needs one, else of the noisy rows; `calibrate`
        makes them exact.

        Parameters
        ----------
        x : Tensor of shape (rows, features)

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
        x : Tensor of shape (rows, features)
            Taken as it is; corrupt it before where that is wanted.

        Returns
        -------
        Tensor of shape (rows, features)

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

    def _z_pre(self, x: Tensor, *, layer: int) -> Tensor:
        """Pre-activations of a layer (from 1) on the clean path."""
        z_pre: Tensor = self._section(layer - 1).map(self.hidden(x, layer - 1))
        return z_pre

    def _reconstruct(self, x: Tensor, *, stop: int | None = None) -> Tensor:
        """The clean path up and the decoder down to the input, or to u of layer `stop` before its BN."""
        z, h = [x], x
        for section in self._sections():
            z.append(section.rung.statistics.normalize(section.map(h)))
            h = section.activate(z[-1])
        down = TASKS[self.task].activate(h)
        for layer, decoder in self._decoder_layers():
            u = z[layer]
            if decoder.needs_above:
                u_pre = down if decoder.map is None else decoder.map(down)
                if layer == stop:
                    return u_pre
                u = decoder.statistics.normalize(u_pre)
            down = decoder.combinator(z[layer], u)
        return down

    @torch.no_grad()
    def calibrate(self, x: Tensor, *, batch_size: int = 2000, rows_before: int = 0) -> None:
        """Set the statistics for prediction to those of `x` exactly: one pass over it for each layer.

        Deviation: the original predicts with the statistics of the labelled rows alone. Those of all training
        rows, labelled or not, are far better known, and are what the clean stream trained with.
        The decoder's own statistics, which only `denoise` uses, come from at most 10,000 of the rows, evenly
        spaced.

        Parameters
        ----------
        x : Tensor of shape (rows, features)
            All rows of the training data; on the ladder's device or not.
        batch_size : int
            Rows taken at a time, which bounds the memory and changes the result only by rounding.
        rows_before : int
            How many earlier rows the present statistics stand for: they are pooled with those of `x`. With 0 they are
            forgotten.

        Raises
        ------
        ValueError
            If there are fewer than two rows, and none before.
        """
        self._check_rows("x", x, at_least=1 if rows_before else 2)
        pool = partial(self._measure, rows_before=rows_before, batch_size=batch_size)
        for layer, section in enumerate(self._sections()):
            pool(section.rung.statistics, x, partial(self._z_pre, layer=layer + 1))
        sample = x[:: -(-len(x) // DECODER_ROWS)]
        for layer, decoder in self._decoder_layers():
            if decoder.needs_above:
                pool(decoder.statistics, sample, partial(self._reconstruct, stop=layer))

    def _measure(
        self,
        statistics: Statistics,
        x: Tensor,
        values: Callable[[Tensor], Tensor],
        *,
        rows_before: int,
        batch_size: int,
    ) -> None:
        if rows_before == 0:
            statistics.reset()
        for start in range(0, len(x), batch_size):
            rows = x[start : start + batch_size].to(statistics.mean.device)
            statistics.accumulate(values(rows), rows_before + start)

    @property
    def encoder(self) -> nn.Sequential:
        """A plain copy of the trained encoder, from rows to logits, with BatchNorm1d where the rungs are.

        In evaluation mode (as it is returned) its logits are those of `logits`.
        """
        return nn.Sequential(*[module for section in self._sections() for module in section.plain()]).eval()

    @property
    def widths(self) -> tuple[int, ...]:
        """Number of units of each layer, the input first."""
        return (_in_features(self._section(0).map), *(section.rung.features for section in self._sections()))

    # Typed access to the submodules, and checks.

    def _sections(self) -> list[Section]:
        return cast(list[Section], list(self.sections))

    def _section(self, index: int) -> Section:
        return cast(Section, self.sections[index])

    def _decoder_layers(self) -> list[tuple[int, DecoderLayer]]:
        """The layers that a cost reaches, from the top down."""
        layers = [(int(layer), cast(DecoderLayer, module)) for layer, module in self.decoder.items()]
        return layers[::-1]

    def _check_rows(self, name: str, x: Tensor, *, at_least: int = 2) -> None:
        features, parameter = _in_features(self._section(0).map), self._section(0).rung.beta
        if x.dim() != 2 or x.shape[1] != features:
            raise ValueError(f"{name} must have shape (rows, {features}), got {tuple(x.shape)}.")
        if x.dtype != parameter.dtype:
            raise ValueError(f"{name} must be {parameter.dtype} as the ladder is, got {x.dtype}.")
        if len(x) < at_least:
            raise ValueError(f"{name} has {len(x)} rows; batch statistics need at least {at_least}.")


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
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}.")
    weights = default_weights(variant, layers) if weights is None else weights
    weights = tuple(float(weight) for weight in weights)
    if len(weights) != layers + 1:
        raise ValueError(
            f"denoising_weights must have {layers + 1} entries, one for the input and one for each of the "
            f"{layers} layers, got {len(weights)}."
        )
    if not all(0 <= weight < float("inf") for weight in weights):
        raise ValueError(f"denoising_weights must be finite and not negative, got {weights}.")
    counts = {"full": range(layers + 1), "gamma": (layers,), "bottom": (0,), "baseline": ()}[variant]
    return tuple(weight if layer in counts else 0.0 for layer, weight in enumerate(weights))


def default_weights(variant: Variant, layers: int) -> tuple[float, ...]:
    """Return the denoising weights of the paper's MNIST network, for any number of layers; see `Ladder`."""
    top = 1.0 if variant == "gamma" else 0.1
    return (1000.0, *(10.0, *[0.1] * layers)[: layers - 1], top)


def _noise_stds(noise_std: float | Sequence[float], layers: int) -> tuple[float, ...]:
    stds = tuple(noise_std) if isinstance(noise_std, Iterable) else (float(noise_std),) * (layers + 1)
    if len(stds) != layers + 1:
        raise ValueError(
            f"noise_std must be one number or {layers + 1} of them, one for the input and one for each of the "
            f"{layers} layers, got {len(stds)}."
        )
    if not all(0 <= std < float("inf") for std in stds):
        raise ValueError(f"noise_std must be finite and not negative, got {noise_std}.")
    return tuple(float(std) for std in stds)


def _is_gaussian(decoder: DecoderLayer) -> bool:
    return type(decoder.combinator) is Gaussian


def _in_features(map: nn.Module) -> int:
    assert isinstance(map, nn.Linear)
    return map.in_features
