"""How long a step takes in the real training loop on a GPU, by network, precision and kernels.

Random rows, 100 labelled and 100 unlabelled a step; the median of the epochs after the first two, in which kernels are
compiled and the graph is captured. "torch" is torch's operations without a graph. Writes results/gpu-loop.json.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from laddernet.ladder import Ladder
from laddernet.networks import conv_fc, conv_large, conv_small, mlp
from laddernet.reproduce import versions
from laddernet.together import Labeled, train_together
from laddernet.training import TrainingConfig, train

WIDTHS = (784, 1000, 500, 250, 250, 250, 10)
EPOCHS, STEPS, ROWS, SEEDS = 6, 25, 100, 10
NETWORKS: dict[str, tuple[Callable[..., nn.Module], tuple[int, ...], str]] = {
    "fully connected": (lambda shape, outputs, generator: mlp(WIDTHS, generator=generator), (784,), "full"),
    "Conv-Small gamma": (conv_small, (1, 28, 28), "gamma"),
    "Conv-FC": (conv_fc, (1, 28, 28), "full"),
    "Conv-Large gamma": (conv_large, (3, 32, 32), "gamma"),
}
TOGETHER = f"fully connected, {SEEDS} at once"


def make(name: str, seed: int) -> Ladder:
    encoder, shape, variant = NETWORKS[name]
    generator = torch.Generator().manual_seed(seed)
    network = encoder(shape, 10, generator=generator)
    ladder = Ladder(network, input_shape=shape, variant=variant, generator=generator).to("cuda")
    ladder.generator = torch.Generator("cuda").manual_seed(seed)
    return ladder


def seconds(name: str, kernels: str, precision: str) -> list[float]:
    """Of each epoch."""
    config = TrainingConfig(epochs=EPOCHS, batch_size=ROWS, kernels=kernels, precision=precision)
    alone = name if name in NETWORKS else "fully connected"
    x = torch.rand(STEPS * ROWS, *NETWORKS[alone][1], generator=torch.Generator().manual_seed(0)).to("cuda")
    y = torch.arange(ROWS, device="cuda") % 10
    batches = partial(torch.Generator().manual_seed, 0)
    if name in NETWORKS:
        history = train(make(name, 0), x, x[:ROWS], y, config, generator=batches())
    else:
        ladders = [make(alone, seed) for seed in range(SEEDS)]
        generators = [torch.Generator().manual_seed(seed) for seed in range(SEEDS)]
        labeled = [Labeled(x[:ROWS], y)] * SEEDS
        history = train_together(ladders, x, labeled, config, generators=generators)[0]
    return [record["seconds"] for record in history]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/gpu-loop.json"))
    out = parser.parse_args().out
    table = Table("network", "precision", "compiled, ms", "torch, ms", "GB")
    found = []
    for name in (*NETWORKS, TOGETHER):
        for precision in ("float32", "tf32", "bfloat16"):
            record: dict[str, object] = {"network": name, "precision": precision}
            for kernels in ("compiled", "torch"):
                torch.cuda.reset_peak_memory_stats()
                epochs = seconds(name, kernels, precision)
                record[f"{kernels}_ms"] = round(statistics.median(epochs[2:]) / STEPS * 1e3, 3)
                record[f"{kernels}_first_epochs_s"] = [round(value, 2) for value in epochs[:2]]
                if kernels == "compiled":
                    record["memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
            found.append(record)
            table.add_row(name, precision, *(str(record[key]) for key in ("compiled_ms", "torch_ms", "memory_gb")))
            made = {"machine": torch.cuda.get_device_name(), "versions": versions(), "steps": found}
            out.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    Console().print(table)


if __name__ == "__main__":
    main()
