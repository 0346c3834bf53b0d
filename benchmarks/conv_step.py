"""CIFAR-10 with 4000 labels on this machine: the step of Conv-Large gamma, and its recipe on a part of the data.

In one process, in turn, medians over the repeats:

    a  the step as one would write it: plain torch, torch's fused Adam (literal_conv.py)
    b  this library's, with torch's operations and with its own kernels

then two epochs of `cifar10-4000-gamma` with 4000 labels among 8,000 rows, its whitening, exact statistics and test
included. Writes results/conv-step-DEVICE.json. CIFAR-10 is found under LADDERNET_DATA.
"""

import argparse
import json
import statistics
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from literal_conv import LiteralConvLarge
from step import Step, training_step

from laddernet import LadderClassifier
from laddernet.data import hide_labels, load
from laddernet.ladder import Ladder
from laddernet.networks import conv_large
from laddernet.progress import progress
from laddernet.recipes import RECIPES
from laddernet.reproduce import describe_machine, versions
from laddernet.training import TrainingConfig, make_optimizer, step_context

RECIPE = RECIPES["cifar10-4000-gamma"]
SHAPE = (3, 32, 32)
ROWS, TRAINING_ROWS, TEST_ROWS, LABELS, EPOCHS = 100, 8000, 2000, 4000, 2


def literal_step(rows: tuple[torch.Tensor, ...], device: torch.device) -> Step:
    ladder = LiteralConvLarge().to(device)
    return training_step(ladder, torch.optim.Adam(ladder.parameters(), lr=0.002, fused=True), rows)


def library_step(rows: tuple[torch.Tensor, ...], device: torch.device, kernels: str, stack: ExitStack) -> Step:
    generator = torch.Generator().manual_seed(0)
    encoder = conv_large(SHAPE, 10, generator=generator)
    weights = RECIPE.denoising_weights
    ladder = Ladder(encoder, input_shape=SHAPE, variant="gamma", denoising_weights=weights, generator=generator)
    ladder.to(device).generator = torch.Generator(device).manual_seed(0)
    config = TrainingConfig(precision="float32", kernels=kernels)
    optimizer = make_optimizer(ladder, config)
    autocast = stack.enter_context(step_context(ladder, optimizer, config, steps=1))
    return training_step(ladder, optimizer, rows, autocast)


def compare(device: torch.device, repeats: int) -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    x_labeled, x_unlabeled = torch.randn(2, ROWS, *SHAPE, generator=generator).to(device)
    rows = (x_labeled, torch.arange(ROWS, device=device) % 10, x_unlabeled)
    times: dict[str, list[float]] = {}
    with ExitStack() as stack:
        steps = {
            "a literal": literal_step(rows, device),
            "b laddernet": library_step(rows, device, "compiled", stack),
            "b without compiled kernels": library_step(rows, device, "torch", stack),
        }
        for repeat in range(repeats + 1):
            for name, step in steps.items():
                started = time.perf_counter()
                step()
                if device.type == "cuda":
                    torch.cuda.synchronize()
                if repeat > 0:
                    times.setdefault(name, []).append(time.perf_counter() - started)
    found = {name: round(statistics.median(elapsed), 4) for name, elapsed in times.items()}
    paired = [a / b for a, b in zip(times["a literal"], times["b laddernet"], strict=True)]
    return {"seconds": found, "a/b": round(statistics.median(paired), 2), "repeats": repeats}


def end_to_end(device: torch.device) -> dict[str, object]:
    data = load("cifar10")
    x, classes = data.x_train[:TRAINING_ROWS], data.y_train[:TRAINING_ROWS]
    y = hide_labels(classes, LABELS, seed=0)
    settings = RECIPE.settings() | {"max_epochs": EPOCHS, "device": str(device), "random_state": 0}
    started = time.perf_counter()
    model = LadderClassifier(**settings).fit(x, y, callback=progress(title=RECIPE.name))
    whole = time.perf_counter() - started
    epochs = [record["seconds"] for record in model.history_]
    return {
        "rows": TRAINING_ROWS,
        "labels": LABELS,
        "epochs": EPOCHS,
        "images_per_second": round(TRAINING_ROWS * EPOCHS / sum(epochs), 1),
        "epoch_seconds": [round(seconds, 1) for seconds in epochs],
        "other_seconds": round(whole - sum(epochs), 1),
        "test_error": round(100 * float(np.mean(model.predict(data.x_test[:TEST_ROWS]) != data.y_test[:TEST_ROWS])), 2),
        "machine": describe_machine(model.ladder_),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--step-only", action="store_true", help="leave the recipe's run out")
    options = parser.parse_args()
    device = torch.device(options.device)
    result = {"versions": versions(), "step": compare(device, options.repeats)}
    print(json.dumps(result["step"]))
    if not options.step_only:
        result["recipe"] = end_to_end(device)
        print(json.dumps(result["recipe"]))
        out = Path(__file__).parents[1] / "results" / f"conv-step-{device.type}.json"
        out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
