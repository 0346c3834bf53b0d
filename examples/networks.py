"""Three networks that know nothing of ladders, and the lines that give each one: docs/networks.md tells about them.

Usage: python examples/networks.py [--quick]

Each learns from a few labels among many rows, beside the same network that learns from the labels alone (the variant
"baseline"), and prints what both get wrong of rows that neither has seen. Takes some minutes; --quick makes a few
steps only, to see that it runs.
"""

import argparse

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from laddernet import Ladder
from laddernet.training import TrainingConfig, train

# A pre-activation residual network.


class Block(nn.Module):
    def __init__(self, below: int, above: int, stride: int = 1) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(below), nn.BatchNorm2d(above)
        self.conv1 = nn.Conv2d(below, above, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(above, above, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(below, above, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv1(functional.relu(self.norm1(x)))
        return self.shortcut(x) + self.conv2(functional.relu(self.norm2(h), inplace=True))


class ResNet(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.layer1 = nn.Sequential(Block(16, 16), Block(16, 16))
        self.layer2 = nn.Sequential(Block(16, 32, stride=2), Block(32, 32))
        self.norm = nn.BatchNorm2d(32)
        self.head = nn.Linear(32, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = functional.relu(self.norm(self.layer2(self.layer1(self.stem(x)))))
        return self.head(functional.adaptive_avg_pool2d(h, 1).flatten(1))


def residual(variant: str) -> Ladder:
    rungs = ("stem", "layer1", "norm", "head")
    return Ladder(ResNet(10), rungs=rungs, input_shape=(1, 8, 8), variant=variant)


# A depthwise-separable one.


def separable(below: int, above: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(below, below, 3, padding=1, groups=below, bias=False), nn.BatchNorm2d(below), nn.ReLU6(),
        nn.Conv2d(below, above, 1, bias=False), nn.BatchNorm2d(above), nn.ReLU6(),
    )  # fmt: skip


def mobile_net(classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.Hardswish(), separable(32, 64), nn.MaxPool2d(2),
        separable(64, 128), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(128, classes),
    )  # fmt: skip


def depthwise(variant: str) -> Ladder:
    weights = (0, 0, 0, 0, 0, 0, 0.3)
    return Ladder(mobile_net(10), input_shape=(1, 8, 8), variant=variant, denoising_weights=weights)


# A one-dimensional one, for traces of three sensors; nothing in it normalises but a group normalisation.


def trace_net(classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(3, 24, 7, stride=2, dilation=2), nn.GELU(), nn.Conv1d(24, 32, 5, stride=2, padding=2),
        nn.GroupNorm(4, 32), nn.GELU(), nn.AdaptiveMaxPool1d(4), nn.Flatten(), nn.Linear(128, classes),
    )  # fmt: skip


def traces(variant: str) -> Ladder:
    return Ladder(trace_net(4), input_shape=(3, 96), variant=variant, denoising_weights=(10, 1, 0.1, 0.1))


# Their data.

Rows = tuple[torch.Tensor, torch.Tensor]


def digits() -> Rows:
    images, classes = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    return torch.from_numpy(images[order] / 16).float().view(-1, 1, 8, 8), torch.from_numpy(classes[order])


def sensor_traces(rows: int = 1800) -> Rows:
    """Four states of a machine: how fast three sensors swing, how they follow each other, and bursts, under noise."""
    rng = np.random.default_rng(0)
    classes = rng.integers(4, size=rows)
    time = np.arange(96)
    pitch = np.array([0.20, 0.20, 0.27, 0.27])[classes] * rng.normal(1, 0.06, rows)
    lag = np.array([0.5, 1.4, 0.5, 1.4])[classes] + rng.normal(0, 0.2, rows)
    phase = rng.uniform(0, 2 * np.pi, rows)
    angle = pitch[:, None, None] * time + phase[:, None, None] + lag[:, None, None] * np.arange(3)[:, None]
    x = rng.gamma(4, 0.25, (rows, 1, 1)) * np.sin(angle) + rng.normal(0, 0.6, (rows, 3, 96))
    return torch.from_numpy(x).float(), torch.from_numpy(classes)


def learn(ladder: Ladder, data: Rows, labels: int, epochs: int) -> float:
    """Train with a few labels per class; the share of wrong answers on the last 600 rows."""
    x, classes = data
    x_train, y_train, x_test, y_test = x[:-600], classes[:-600], x[-600:], classes[-600:]
    labeled = torch.cat([torch.nonzero(y_train == kind).flatten()[:labels] for kind in classes.unique()])
    ladder.generator = torch.Generator().manual_seed(0)
    config = TrainingConfig(epochs=epochs, batch_size=100, repeat_labels=True)
    train(ladder, x_train, x_train[labeled], y_train[labeled], config, generator=torch.Generator().manual_seed(1))
    return float((ladder.predict(x_test).argmax(dim=1) != y_test).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one epoch each")
    quick = parser.parse_args().quick
    for name, make, variant, data, labels in (
        ("residual", residual, "gamma", digits(), 5),
        ("depthwise-separable", depthwise, "gamma", digits(), 5),
        ("one-dimensional", traces, "full", sensor_traces(), 10),
    ):
        errors = {}
        for kind in (variant, "baseline"):
            torch.manual_seed(0)
            ladder = make(kind)
            errors[kind] = learn(ladder, data, labels, epochs=1 if quick else 60)
        rungs = ", ".join(ladder.rung_names)
        text = ", ".join(f"{kind} {100 * error:.1f} %" for kind, error in errors.items())
        print(f"{name}: rungs at {rungs}; wrong: {text}")


if __name__ == "__main__":
    main()
