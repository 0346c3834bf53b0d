import resource
import signal
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

import oracle
from laddernet.ladder import Ladder

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the suite runs in the background of a script

torch.set_num_threads(1)  # the suite runs in two processes, and its matrices are small


class GivenNoise:
    """A corruption that adds prepared arrays, and keeps count: labelled first, then unlabelled, layer by layer."""

    def __init__(self, arrays: list[np.ndarray]) -> None:
        self.arrays = [torch.from_numpy(array) for array in arrays]

    def __call__(self, clean, std, generator):
        return clean + self.draw(clean, std, generator)

    def draw(self, like, std, generator):
        return self.arrays.pop(0).clone()


class Section(NamedTuple):
    """A map of a fully connected ladder, and the rung after it."""

    map: nn.Module
    rung: nn.Module


def sections(ladder: Ladder) -> list[Section]:
    """The maps and rungs of a ladder without batch normalisation of its own."""
    return [Section(*module) for module in ladder.network.modules() if type(module).__name__ == "_WithRung"]


def parameters_of(ladder: Ladder) -> oracle.Parameters:
    """Copy a ladder's parameters into the oracle's own structure."""

    def array(tensor):
        return None if tensor is None else tensor.detach().numpy().copy()

    layers = dict(enumerate(sections(ladder), start=1))
    decoder = {int(layer): module for layer, module in ladder.decoder.items()}
    return oracle.Parameters(
        W={layer: array(section.map.weight) for layer, section in layers.items()},
        beta={layer: array(section.rung.beta) for layer, section in layers.items()},
        gamma={layer: array(section.rung.gamma) for layer, section in layers.items()},
        V={layer + 1: array(m.map.weight) for layer, m in decoder.items() if m.map is not None},
        a={layer: [array(p) for p in m.combinator.parameters()] for layer, m in decoder.items()},
    )


def encoder_of(widths, activation=nn.ReLU):
    layers = []
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out, bias=False), activation()]
    return nn.Sequential(*layers[:-1])


class Case:
    """A small ladder in float64 with random parameters, its rows and its noise, and the same for the oracle."""

    def __init__(
        self,
        *,
        widths=(5, 4, 3, 3),
        labeled=6,
        unlabeled=7,
        weights=(1.5, 0.7, 0.3, 0.2),
        variant="full",
        combinator="gaussian",
        task="classification",
        supervised_path="noisy",
        activation=nn.ReLU,
        seed=0,
        fused=False,
        **ablation,
    ):
        rng = np.random.default_rng(seed)
        torch.manual_seed(seed)
        top = len(widths) - 1
        self.ladder = Ladder(
            encoder_of(widths, activation),
            noise_std=0.3,
            denoising_weights=weights,
            variant=variant,
            combinator=combinator,
            task=task,
            supervised_path=supervised_path,
            **ablation,
        ).double()
        with torch.no_grad():
            for parameter in self.ladder.parameters():
                parameter += 0.3 * torch.from_numpy(rng.standard_normal(tuple(parameter.shape)))
        if fused:
            assert self.ladder.fuse()
        outputs = widths[-1]
        y = {
            "classification": np.arange(labeled) % outputs,
            "regression": rng.standard_normal((labeled, outputs)),
            "multilabel": rng.integers(0, 2, (labeled, outputs)).astype(float),
        }[task]
        counts = {"full": range(top + 1), "gamma": [top], "bottom": [0], "baseline": []}[variant]
        self.problem = oracle.Problem(
            x_labeled=rng.standard_normal((labeled, widths[0])),
            y=y,
            x_unlabeled=rng.standard_normal((unlabeled, widths[0])),
            noise_labeled=[0.3 * rng.standard_normal((labeled, width)) for width in widths],
            noise_unlabeled=[0.3 * rng.standard_normal((unlabeled, width)) for width in widths],
            weights=tuple(w if layer in counts else 0.0 for layer, w in enumerate(weights)),
            combinator=combinator,
            task=task,
            supervised_path=supervised_path,
            **ablation,
            activation={nn.ReLU: oracle.relu, nn.Tanh: np.tanh, nn.Sigmoid: oracle.sigmoid}[activation],
        )
        self.parameters = parameters_of(self.ladder)

    def costs(self):
        """Costs of the ladder, with the noise that the oracle adds."""
        problem, noise = self.problem, []
        for labeled, unlabeled in zip(problem.noise_labeled, problem.noise_unlabeled, strict=True):
            noise += [labeled] if problem.supervised_path == "noisy" else []
            noise += [unlabeled] if any(problem.weights) else []
        self.ladder.corruption = GivenNoise(noise)
        result = self.ladder(
            torch.from_numpy(problem.x_labeled),
            torch.from_numpy(problem.y),
            torch.from_numpy(problem.x_unlabeled),
        )
        assert not self.ladder.corruption.arrays
        return result


@pytest.fixture
def make_case():
    return Case


@pytest.fixture(params=["at once", "layer by layer"])
def calibrated_both_ways(request, monkeypatch):
    """`Ladder.calibrate` takes all rows through all layers together, or a pass for each layer."""
    monkeypatch.setattr("laddernet.ladder.AT_ONCE", 2**24 if request.param == "at once" else 0)


@pytest.fixture
def full_disk():
    """No file may become larger than this process now lets it: 10,000 bytes, as on a disk with no more room."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def write(tmp_path):
    """Write a file of some content, and say where."""

    def to_file(content, name="rows.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return to_file
