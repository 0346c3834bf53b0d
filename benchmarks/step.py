"""Milliseconds a training step of the MNIST network, beside its matrix products alone.

One process, the candidates interleaved, medians over the repeats; writes results/step-DEVICE.json. Threads are torch's
own choice; set OMP_NUM_THREADS to choose them. On a GPU: python benchmarks/step.py --device cuda
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch

from laddernet.ladder import Ladder
from laddernet.networks import mlp

WIDTHS = (784, 1000, 500, 250, 250, 250, 10)
WEIGHTS = (1000, 10, 0.1, 0.1, 0.1, 0.1, 0.1)
ROWS = 100


def make_step(device: torch.device, dtype: torch.dtype) -> Callable[[], None]:
    generator = torch.Generator().manual_seed(0)
    ladder = Ladder(mlp(WIDTHS, generator=generator), denoising_weights=WEIGHTS, generator=generator).to(device)
    ladder.generator = torch.Generator(device).manual_seed(0)
    optimizer = torch.optim.Adam(ladder.parameters(), lr=0.002, fused=True)
    x_labeled, x_unlabeled = torch.rand(2, ROWS, WIDTHS[0], device=device)
    y = torch.arange(ROWS, device=device) % WIDTHS[-1]

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            costs = ladder(x_labeled, y, x_unlabeled)
        optimizer.zero_grad()
        costs.total.backward()
        optimizer.step()

    return step


def make_products(device: torch.device, dtype: torch.dtype) -> Callable[[], None]:
    """Make the step's matrix products: one up and two back for each map; the lowest needs no input gradient."""
    up = [(3 * ROWS, i, o, i != WIDTHS[0]) for i, o in pairwise(WIDTHS)]
    down = [(ROWS, o, i, True) for i, o in pairwise(WIDTHS)]
    operands = []
    for rows, fan_in, fan_out, needs_input_gradient in up + down:
        shapes = ((rows, fan_in), (fan_out, fan_in), (rows, fan_out))
        operands.append((*(torch.rand(s, device=device).to(dtype) for s in shapes), needs_input_gradient))

    def products() -> None:
        for h, weight, grad, needs_input_gradient in operands:
            _ = h @ weight.t()
            _ = grad.t() @ h
            if needs_input_gradient:
                _ = grad @ weight

    return products


def milliseconds(run: Callable[[], None], device: torch.device) -> float:
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("results"))
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    candidates = {
        f"{name}, {str(dtype).removeprefix('torch.')}": make(device, dtype)
        for dtype in (torch.float32, torch.bfloat16)
        for name, make in (("step", make_step), ("products alone", make_products))
    }
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for repeat in range(arguments.repeats + 10):
        for name, run in candidates.items():
            elapsed = milliseconds(run, device)
            if repeat >= 10:
                times[name].append(elapsed)
    medians = {name: statistics.median(elapsed) for name, elapsed in times.items()}
    machine = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    )
    result = {
        "machine": machine,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "repeats": arguments.repeats,
        "median_milliseconds": medians,
    }
    for name, median in medians.items():
        print(f"{name:25} {median:8.2f} ms")
    for dtype in ("float32", "bfloat16"):
        print(f"step / products alone, {dtype}: {medians[f'step, {dtype}'] / medians[f'products alone, {dtype}']:.2f}")
    arguments.out.mkdir(exist_ok=True)
    (arguments.out / f"step-{device.type}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
