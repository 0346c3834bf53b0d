"""What several processes tell each other in a training step, and how long that takes on 8, 64 and 1024 GPUs.

The messages are counted: a step is made by one process that believes to be one of several, whatever their number. The
times are computed from them, not measured: an all-reduce of n bytes between P GPUs takes

    latency * 2 log2(P) + 2 n (P - 1) / (P * bandwidth)

with the latency of a message and the bandwidth per GPU that are given below for a machine of 8 GPUs and for a network
between such machines. The gradients go while the backward pass goes on, so that their time shows only where it is
longer; the statistics must be waited for.

Usage: python benchmarks/communication.py [--out results/communication.json]
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from laddernet.distributed import Processes
from laddernet.ladder import Ladder
from laddernet.networks import conv_large, mlp

ROWS = 100  # of each stream in a process
GPUS = (8, 64, 1024)
LINKS = {"within a machine": (3e-6, 200e9), "between machines": (6e-6, 40e9)}  # seconds, bytes a second


class Counted(Processes):
    """One of several processes, which gets no answer; what it would send is counted, in bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 1_000_000  # any number above 1: the messages are the same
        self.sent: list[int] = []

    def share(self, rows: int) -> Any:
        """Count as if all rows of the batch were here."""
        return super().share(rows)._replace(first=0, rows=ROWS, whole=ROWS)

    def sum(self, values: Tensor) -> Tensor:
        """Count a message."""
        self.sent.append(values.numel() * values.element_size())
        return values


def ladders() -> dict[str, Ladder]:
    """The paper's network for MNIST and the largest one for CIFAR-10."""
    return {
        "fully connected, MNIST, full": Ladder(mlp([784, 1000, 500, 250, 250, 250, 10])),
        "Conv-Large, CIFAR-10, gamma": Ladder(conv_large((3, 32, 32), 10), input_shape=(3, 32, 32), variant="gamma"),
    }


def messages(ladder: Ladder) -> dict[str, int]:
    """Number and bytes of the statistics' messages of a step, and bytes of its gradients."""
    processes = Counted()
    ladder.distribute(processes, labeled=ROWS, unlabeled=ROWS)
    x = torch.randn(ROWS, *ladder.input_shape)
    ladder(x, torch.zeros(ROWS, dtype=torch.int64), x).total.backward()
    return {
        "statistics_messages": len(processes.sent),
        "statistics_bytes": sum(processes.sent),
        "gradient_bytes": sum(p.numel() * p.element_size() for p in ladder.parameters()),
    }


def seconds(count: int, size: int, gpus: int) -> float:
    """How long so many all-reduces of so many bytes in all take between so many GPUs."""
    latency, bandwidth = LINKS["within a machine" if gpus <= 8 else "between machines"]
    return count * latency * 2 * math.log2(gpus) + 2 * size * (gpus - 1) / (gpus * bandwidth)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "communication.json")
    out = parser.parse_args().out
    found: dict[str, Any] = {"rows": ROWS, "links": {name: list(link) for name, link in LINKS.items()}, "networks": {}}
    print("| network | statistics | gradients | " + " | ".join(f"{gpus} GPUs, ms" for gpus in GPUS) + " |")
    print("| --- | ---: | ---: |" + " ---: |" * len(GPUS))
    for name, ladder in ladders().items():
        sent = messages(ladder)
        times = {
            gpus: {
                "statistics_ms": 1e3 * seconds(sent["statistics_messages"], sent["statistics_bytes"], gpus),
                "gradients_ms": 1e3 * seconds(1, sent["gradient_bytes"], gpus),
            }
            for gpus in GPUS
        }
        found["networks"][name] = {**sent, "computed": times}
        statistics = f"{sent['statistics_messages']} messages, {sent['statistics_bytes'] / 1e3:.0f} kB"
        cells = [f"{t['statistics_ms']:.2f} + {t['gradients_ms']:.2f}" for t in times.values()]
        print(f"| {name} | {statistics} | {sent['gradient_bytes'] / 1e6:.1f} MB | {' | '.join(cells)} |")
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
