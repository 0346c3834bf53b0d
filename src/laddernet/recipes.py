"""The settings of known experiments, by name: the paper's rows, what goes past them, and digits.

Facts and figures are those of docs/algorithm.md, "Settings". A recipe says what to train on and with which
arguments of `LadderClassifier`; `reproduce` runs it over seeds.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One experiment: a data set, a number of labels, and the settings of a `LadderClassifier`.

    Attributes
    ----------
    name, dataset : str
    labels : int or None
        How many rows keep their label, balanced over the classes; None for all.
    network : str
        Name of the encoder in `networks`; empty for a fully connected one of `hidden_layer_sizes`.
    hidden_layer_sizes, variant, noise_std, denoising_weights, learning_rate, decay_start, batch_size, max_epochs
        As in `LadderClassifier`.
    combinator, ladder_options, training_options
        As in `LadderClassifier`.
    labeled_statistics : bool
        Whether to test with the statistics of the labelled training rows alone, as the original code does.
    ablation : str
        What of the algorithm is changed to see whether it matters; empty where nothing is.
    teacher : Recipe or None
        What is trained before, with the same seed, and whose answers are the labels of the rows that have none:
        self-training, as with a noisy student (Xie et al. 2020, arXiv 1911.04252).
    input_scaling : str
        As in `LadderClassifier`; the inputs are pixels in 0..1.
    validation_fraction : float
        As in `LadderClassifier`; a share of the labelled rows.
    baseline_noise_std : float or tuple of float
        The noise of the supervised-only network that is trained beside it.
    baseline_epochs : int or None
        Its epochs; None for as many.
    baseline_decay_start : float or None
        Its `decay_start`; None for the same.
    paper : str
        The test error in percent that the paper gives, as mean ± standard deviation; a star marks figures not
        confirmed against the paper itself. Empty where there is none.
    to_beat : float or None
        What the mean test error in percent shall be below, nothing being known about images: for 20, 50 and 100 labels
        the lowest published one, of a Ladder with projected weights (Huang et al. 2017, arXiv 1710.02338); for 1000 and
        all labels a little less than the paper's own.
    """

    name: str
    dataset: str
    labels: int | None
    network: str = ""
    hidden_layer_sizes: tuple[int, ...] = ()
    variant: str = "full"
    noise_std: float | tuple[float, ...] = 0.3
    denoising_weights: tuple[float, ...] | Literal["auto"]
    learning_rate: float = 0.002
    decay_start: float = 2 / 3
    batch_size: int = 100
    max_epochs: int
    validation_fraction: float = 0.0
    input_scaling: str = "none"
    combinator: str = "gaussian"
    ladder_options: Mapping[str, Any] | None = None
    training_options: Mapping[str, Any] | None = None
    labeled_statistics: bool = False
    ablation: str = ""
    teacher: "Recipe | None" = None
    baseline_noise_std: float | tuple[float, ...] = 0.3
    baseline_epochs: int | None = None
    baseline_decay_start: float | None = None
    paper: str = ""
    to_beat: float | None = None

    def settings(self) -> dict[str, Any]:
        """Return arguments for `LadderClassifier`.

        Labelled rows are not repeated within a batch, as the paper does not.
        """
        own = ("name", "dataset", "labels", "network", "labeled_statistics", "ablation", "teacher", "paper", "to_beat")
        chosen = {k: v for k, v in asdict(self).items() if k not in own and not k.startswith("baseline_")}
        for later, usual in _LATER.items():
            if chosen[later] == usual:
                del chosen[later]
        if self.network:
            from laddernet import networks
            from laddernet.data import DATASETS

            del chosen["hidden_layer_sizes"]
            chosen |= {"module": getattr(networks, self.network), "input_shape": DATASETS[self.dataset].shape}
        return chosen | {"repeat_labels": False}

    @property
    def stages(self) -> "tuple[Recipe, ...]":
        """What is trained one after the other: the teachers, then the recipe itself."""
        return (*(self.teacher.stages if self.teacher is not None else ()), self)

    @property
    def epochs(self) -> str:
        """The epochs of each stage, such as "150 + 30"."""
        return " + ".join(str(stage.max_epochs) for stage in self.stages)

    def baseline(self) -> "Recipe":
        """Return the supervised-only network on the same labels: no decoder, noise and normalisation stay."""
        return replace(
            self,
            name=f"{self.name}-baseline",
            variant="baseline",
            noise_std=self.baseline_noise_std,
            max_epochs=self.baseline_epochs or self.max_epochs,
            decay_start=self.decay_start if self.baseline_decay_start is None else self.baseline_decay_start,
            paper="",
        )


_LATER = {"combinator": "gaussian", "ladder_options": None, "training_options": None}
"""Settings that came later, which results files name only where they are not the usual ones."""
_MNIST_LAYERS = (1000, 500, 250, 250, 250)
_TO_BEAT = {20: 2.52, 50: 1.06, 100: 0.91, 1000: 0.80, None: 0.56}
_MNIST_BASELINE_NOISE = (0.3, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5)


def _mnist(labels: int | None, full: tuple[float, float, float], paper: str, **others: Any) -> Recipe:
    input_weight, first, rest = full
    return Recipe(
        name=f"mnist-{labels or 'all'}",
        dataset="mnist",
        labels=labels,
        hidden_layer_sizes=_MNIST_LAYERS,
        denoising_weights=(input_weight, first, *[rest] * 5),
        max_epochs=150,
        baseline_noise_std=_MNIST_BASELINE_NOISE,
        paper=paper,
        **others,
    )


def _variants(full: Recipe, *, bottom: float, gamma: float, papers: tuple[str, str, str]) -> list[Recipe]:
    """Return a row's bottom, gamma and baseline recipes; their noise is 0.3 in every layer but the baseline's."""
    zeros = (0.0,) * 6
    return [
        replace(
            full,
            name=f"{full.name}-bottom",
            variant="bottom",
            noise_std=0.3,
            denoising_weights=(bottom, *zeros),
            paper=papers[0],
        ),
        replace(
            full,
            name=f"{full.name}-gamma",
            variant="gamma",
            noise_std=0.3,
            denoising_weights=(*zeros, gamma),
            paper=papers[1],
        ),
        replace(full.baseline(), denoising_weights=(0.0, *zeros), paper=papers[2]),
    ]


def _past(row: Recipe, name: str, **changes: Any) -> Recipe:
    """Return a row with changes that were chosen on training images that were kept out (docs/results.md)."""
    return replace(row, name=f"{row.name}-{name}", paper="", to_beat=_TO_BEAT[row.labels], **changes)


def _student(teacher: Recipe, student: Recipe) -> Recipe:
    """Return a student of a row, which learns from its answers with another row's settings."""
    row = replace(student, name=teacher.name, labels=teacher.labels)
    return _past(row, "student", max_epochs=30, teacher=teacher)


def _ablations(full: Recipe) -> list[Recipe]:
    """Return 20 epochs of a row with something changed in each, and first with nothing."""
    short = replace(full, max_epochs=20, paper="")

    def changed(name: str, ablation: str, **changes: Any) -> Recipe:
        return replace(short, name=f"ablation-{name}", ablation=ablation, **changes)

    return [
        changed("none", "nothing"),
        changed("sigmoid", "the paper's first combinator", combinator="sigmoid"),
        changed("linear", "a linear combinator", combinator="linear"),
        changed("mlp", "an MLP as combinator", combinator="mlp"),
        changed("amlp", "an augmented MLP as combinator", combinator="amlp"),
        changed("no-lateral", "no lateral connections", combinator="no_lateral"),
        changed("lateral-only", "nothing comes down the decoder", combinator="lateral_only"),
        changed("input-noise", "noise at the input alone", noise_std=(0.3, *[0.0] * 6)),
        changed("clean-path", "the supervised cost from the clean path", ladder_options={"supervised_path": "clean"}),
        changed("detached-targets", "no gradient through the targets", ladder_options={"detach_targets": True}),
        changed("joint-statistics", "one set of statistics for all streams", ladder_options={"joint_statistics": True}),
        changed("labeled-statistics", "tested with the labelled rows' statistics", labeled_statistics=True),
    ]


def _supervised(ladder: Recipe, name: str, layers: int, paper: str = "") -> Recipe:
    """Return a convolutional ladder's supervised-only network as a recipe of its own."""
    return replace(ladder.baseline(), name=name, denoising_weights=(0.0,) * layers, paper=paper)


def _all_recipes() -> dict[str, Recipe]:
    digits = Recipe(
        name="digits-50",
        dataset="digits",
        labels=50,
        hidden_layer_sizes=(250, 250),
        denoising_weights=(1000.0, 10.0, 0.1, 0.1),
        learning_rate=0.01,
        max_epochs=150,
    )
    mnist_50 = _mnist(50, (2000, 20, 0.1), "1.62 ± 0.65")
    mnist_20 = replace(mnist_50, name="mnist-20", labels=20, paper="")
    mnist_100 = _mnist(100, (1000, 10, 0.1), "1.06 ± 0.37")
    mnist_1000 = _mnist(1000, (2000, 20, 0.1), "0.84 ± 0.08", noise_std=(0.3, *[0.2] * 6))
    mnist_all = _mnist(None, (1000, 1, 0.01), "0.57 ± 0.02")
    mnist = (mnist_20, mnist_50, mnist_100, mnist_1000, mnist_all)
    cifar10 = Recipe(  # the paper's network for it is convolutional; this one has no figure to compare with
        name="cifar10-4000-mlp",
        dataset="cifar10",
        labels=4000,
        hidden_layer_sizes=_MNIST_LAYERS,
        denoising_weights=(1000.0, 10.0, *[0.1] * 5),
        max_epochs=30,
    )
    conv_fc = replace(
        mnist_100,
        name="mnist-100-conv-fc",
        network="conv_fc",
        hidden_layer_sizes=(),
        denoising_weights=(1000.0, 10.0, *[0.1] * 6),
        baseline_noise_std=(0.3, *[0.45] * 7),
        baseline_epochs=20,
        baseline_decay_start=0.5,
        paper="0.99*",
    )
    conv_small = replace(
        conv_fc,
        name="mnist-100-conv-small-gamma",
        network="conv_small",
        variant="gamma",
        denoising_weights=(*[0.0] * 9, 1.0),
        baseline_noise_std=(0.3, *[0.45] * 9),
        paper="0.89*",
    )
    conv_large = Recipe(
        name="cifar10-4000-gamma",
        dataset="cifar10",
        labels=4000,
        network="conv_large",
        variant="gamma",
        denoising_weights=(*[0.0] * 12, 4.0),
        decay_start=0.86,
        max_epochs=70,
        input_scaling="whitened",
        baseline_epochs=20,
        baseline_decay_start=0.5,
        paper="20.40 ± 0.47",
    )
    recipes = [
        digits,
        digits.baseline(),
        mnist_20,
        mnist_50,
        mnist_100,
        *_variants(mnist_100, bottom=5000, gamma=0.5, papers=("1.09*", "3.06*", "21.7*")),
        replace(mnist_100, name="mnist-100-10-epochs", max_epochs=10, paper=""),
        mnist_1000,
        *_variants(mnist_1000, bottom=2000, gamma=10, papers=("0.90*", "1.53*", "5.70*")),
        mnist_all,
        *_variants(mnist_all, bottom=2000, gamma=2, papers=("0.59*", "0.78*", "0.80 ± 0.03")),
        _past(
            mnist_100,
            "projected",
            noise_std=(0.3, *[0.2] * 6),
            denoising_weights=(2000.0, 20.0, *[0.2] * 5),
            ladder_options={"weight_normalization": "all"},
        ),
        *[_past(row, "best", hidden_layer_sizes=(1000,) * 5) for row in mnist],
        *[_past(row, "300-epochs", max_epochs=300) for row in mnist],
        *[_student(row, mnist_1000) for row in (mnist_20, mnist_50, mnist_100)],
        *_ablations(mnist_100),
        conv_fc,
        _supervised(conv_fc, "mnist-100-conv-fc-baseline", 8),
        replace(conv_fc, name="mnist-100-conv-fc-15-epochs", max_epochs=15, paper=""),
        conv_small,
        _supervised(conv_small, "mnist-100-conv-small-baseline", 10),
        replace(conv_small, name="mnist-100-conv-small-gamma-15-epochs", max_epochs=15, paper=""),
        cifar10,
        cifar10.baseline(),
        conv_large,
        _supervised(conv_large, "cifar10-4000-baseline", 13, "23.3*"),
    ]
    return {recipe.name: recipe for recipe in recipes}


RECIPES: Mapping[str, Recipe] = MappingProxyType(_all_recipes())
"""Every recipe by its name."""


_USUAL_LABELS = {"digits": 50, "mnist": 100, "cifar10": 4000}


def recipe_for(dataset: str, labels: int | None, variant: str) -> Recipe:
    """Return a data set's recipe of a variant whose number of labels is nearest, by ratio, with `labels` put in.

    Parameters
    ----------
    dataset : str
    labels : int or None
        None for the data set's usual number: 50 of digits, 100 of mnist, 4000 of cifar10.
    variant : {"full", "gamma", "bottom", "baseline"}
        Where no recipe has it, the full one's settings with that variant's default weights.
    """
    of_dataset = [
        r
        for r in RECIPES.values()
        if r.dataset == dataset and not (r.name.endswith("-epochs") or r.to_beat or r.network or r.ablation)
    ]
    full = [r for r in of_dataset if r.variant == "full"]
    candidates = [r for r in of_dataset if r.variant == variant] or [
        replace(r, variant=variant, denoising_weights="auto") for r in full
    ]
    wanted = labels or _USUAL_LABELS[dataset]

    def distance(candidate: Recipe) -> float:
        available = candidate.labels or 60_000
        return max(available / wanted, wanted / available)

    return replace(min(candidates, key=distance), labels=wanted)
