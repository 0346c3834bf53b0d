"""How long a training step takes, against the same step written literally and against what it cannot do without.

For the MNIST network, 784-1000-500-250-250-250-10 with 100 + 100 rows, in one process, interleaved, medians:

    a  Algorithm 1 as one would write it: plain torch, torch's fused Adam (literal.py); in float32, as a / b has it, and
       under torch's autocast
    b  this library's step, in float32 and in bfloat16
    c  the floor: the step's matrix products in that precision, Adam's update and the noise, by torch

and then b for other widths, depths, batches and threads, an epoch of the real training loop, and prediction. Writes
results/step-DEVICE.json. `python benchmarks/step.py --device cuda` on a GPU.
"""

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path

import torch
from literal import LiteralLadder
from rich.console import Console
from rich.table import Table
from torch import nn

from laddernet.kernels import Library
from laddernet.ladder import Ladder
from laddernet.loop import Callback
from laddernet.networks import mlp
from laddernet.reproduce import describe_machine, versions
from laddernet.training import TrainingConfig, make_optimizer, step_context, train

WIDTHS = (784, 1000, 500, 250, 250, 250, 10)
ROWS = 100
LABELS = 10
PRECISIONS = ("float32", "bfloat16")
Step = Callable[[], None]


def weights_of(widths: tuple[int, ...]) -> tuple[float, ...]:
    return (1000.0, 10.0, *[0.1] * (len(widths) - 2))


def rows_of(widths: tuple[int, ...], rows: int, device: torch.device) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    x_labeled, x_unlabeled = torch.rand(2, rows, widths[0], generator=generator).to(device)
    return x_labeled, torch.arange(rows, device=device) % widths[-1], x_unlabeled


def training_step(
    ladder: nn.Module,
    optimizer: torch.optim.Optimizer,
    rows: tuple[torch.Tensor, ...],
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Step:
    """One step of a ladder that answers with its costs, the total first."""

    def step() -> None:
        with autocast():
            total = ladder(*rows)[0]
        optimizer.zero_grad()
        total.backward()
        optimizer.step()

    return step


def literal_step(device: torch.device, precision: str = "float32") -> Step:
    ladder = LiteralLadder(WIDTHS, weights_of(WIDTHS)).to(device)
    optimizer = torch.optim.Adam(ladder.parameters(), lr=0.002, fused=True)
    autocast = functools.partial(torch.autocast, device.type, getattr(torch, precision), precision != "float32")
    return training_step(ladder, optimizer, rows_of(WIDTHS, ROWS, device), autocast)


def make_ladder(widths: tuple[int, ...], device: torch.device) -> Ladder:
    generator = torch.Generator().manual_seed(0)
    ladder = Ladder(mlp(widths, generator=generator), denoising_weights=weights_of(widths), generator=generator)
    ladder.to(device).generator = torch.Generator(device).manual_seed(0)
    return ladder


@contextmanager
def library_step(
    device: torch.device,
    precision: str,
    *,
    widths: tuple[int, ...] = WIDTHS,
    rows: int = ROWS,
    kernels: str = "compiled",
) -> Iterator[Step]:
    ladder = make_ladder(widths, device)
    config = TrainingConfig(precision=precision, kernels=kernels, batch_size=rows)
    optimizer = make_optimizer(ladder, config)
    with step_context(ladder, optimizer, config, steps=1) as autocast:
        yield training_step(ladder, optimizer, rows_of(widths, rows, device), autocast)


def products_of(widths: tuple[int, ...], rows: int) -> list[tuple[int, int, int, bool]]:
    """Rows, widths and whether the input needs a gradient, of each of the step's maps; both ways."""
    up = [(3 * rows, below, above, below != widths[0]) for below, above in pairwise(widths)]
    return up + [(rows, above, below, True) for below, above in pairwise(widths)]


def arithmetic(widths: tuple[int, ...], rows: int) -> float:
    """GFLOP of the step's matrix products."""
    return sum(2 * n * i * o * (3 if needs else 2) for n, i, o, needs in products_of(widths, rows)) / 1e9


def floor_step(device: torch.device, precision: str, *, products_only: bool = False) -> Step:
    dtype = getattr(torch, precision)
    operands = [
        (*(torch.rand(shape, device=device).to(dtype) for shape in ((n, i), (o, i), (n, o))), needs)
        for n, i, o, needs in products_of(WIDTHS, ROWS)
    ]
    ladder = make_ladder(WIDTHS, device)
    optimizer = torch.optim.Adam(ladder.parameters(), lr=0.002, fused=True)
    for parameter in ladder.parameters():
        parameter.grad = torch.rand_like(parameter)
    noise = [torch.empty(ROWS, width, device=device) for width in WIDTHS for _ in range(2)]

    def step() -> None:
        for values in [] if products_only else noise:
            values.normal_()
        for h, weight, grad, needs_input_gradient in operands:
            _ = h @ weight.t()
            _ = grad.t() @ h
            if needs_input_gradient:
                _ = grad @ weight
        if not products_only:
            optimizer.step()

    return step


def medians(steps: dict[str, Step], device: torch.device, repeats: int) -> dict[str, float]:
    """Milliseconds of each, the candidates in turn."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats + 10):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if repeat >= 10:
                times[name].append(1000 * (time.perf_counter() - started))
    return {name: round(statistics.median(elapsed), 4) for name, elapsed in times.items()}


def compare(device: torch.device, repeats: int) -> dict[str, object]:
    with ExitStack() as stack:
        steps = {f"a literal, {precision}": literal_step(device, precision) for precision in PRECISIONS}
        for precision in PRECISIONS:
            steps[f"b laddernet, {precision}"] = stack.enter_context(library_step(device, precision))
            steps[f"c floor, {precision}"] = floor_step(device, precision)
        uncompiled = library_step(device, "float32", kernels="torch")
        steps["b without compiled kernels, float32"] = stack.enter_context(uncompiled)
        found = medians(steps, device, repeats)
    ratios = {}
    for precision in PRECISIONS:
        ours = found[f"b laddernet, {precision}"]
        ratios[f"a/b {precision}"] = round(found["a literal, float32"] / ours, 2)
        ratios[f"b/c {precision}"] = round(ours / found[f"c floor, {precision}"], 2)
    ratios["a/b both bfloat16"] = round(found["a literal, bfloat16"] / found["b laddernet, bfloat16"], 2)
    return {"milliseconds": found, "ratios": ratios}


def parts(precision: str, repeats: int) -> dict[str, float]:
    """Milliseconds of a step that each kind of kernel takes, of its products alone, and of all else together.

    And, outside the step, of its noise by torch.
    """
    spent: dict[str, list[float]] = {}
    call = Library.call

    def timed(self: Library, name: str, *arguments: object) -> None:
        started = time.perf_counter()
        call(self, name, *arguments)
        spent.setdefault(name, []).append(1000 * (time.perf_counter() - started))

    device = torch.device("cpu")
    Library.call = timed
    try:
        with library_step(device, precision) as step:
            whole = medians({"step": step}, device, repeats)["step"]
    finally:
        Library.call = call
    steps = len(spent["adam"])
    found = {name: sum(elapsed) / steps for name, elapsed in spent.items()}
    products = floor_step(device, precision, products_only=True)
    found["matrix products, alone"] = medians({"products": products}, device, repeats)["products"]
    found["all else"] = whole - sum(found.values())
    noise = [torch.empty(ROWS, width) for width in WIDTHS for _ in range(2)]
    by_torch = medians({"noise": lambda: [values.normal_() for values in noise]}, device, repeats)["noise"]
    return {"step": whole, "noise by torch": by_torch} | {name: round(elapsed, 3) for name, elapsed in found.items()}


def scaling(device: torch.device, repeats: int) -> list[dict[str, object]]:
    """One thing changed at a time: milliseconds a step, and for each GFLOP of its matrix products."""
    shapes: dict[str, tuple[tuple[int, ...], int]] = {
        f"width x {factor}": ((784, *(int(w * factor) for w in WIDTHS[1:-1]), 10), ROWS) for factor in (0.5, 1, 2, 4)
    }
    shapes |= {f"depth {n}": ((250,) * n + (10,), ROWS) for n in (3, 6, 12, 24)}
    shapes |= {f"rows {rows} + {rows}": (WIDTHS, rows) for rows in (50, 100, 200, 400, 800)}
    found = []
    for threads in sorted({1, torch.get_num_threads()}, reverse=True):
        for name, (widths, rows) in shapes.items():
            with at_most(threads), library_step(device, "float32", widths=widths, rows=rows) as step:
                elapsed = medians({name: step}, device, max(repeats // 5, 5))[name]
            work = arithmetic(widths, rows)
            found.append({"what": name, "threads": threads, "ms": elapsed, "ms_per_gflop": round(elapsed / work, 2)})
        if device.type != "cpu":
            break
    return found


@contextmanager
def at_most(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Epochs(Callback):
    """Seconds from the first step to the last of each epoch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_begin(self, epochs: int, steps_per_epoch: int) -> None:
        self.started = time.perf_counter()

    def on_epoch_end(self, record: object) -> None:
        now = time.perf_counter()
        self.seconds.append(now - self.started)
        self.started = now


def epoch(device: torch.device, precision: str, rows: int, repeats: int) -> dict[str, object]:
    """Milliseconds a step of the real loop (gathering, schedule, records) over so many rows, and of the step alone.

    The two are timed in turn.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(rows, WIDTHS[0], generator=generator).to(device)
    y = torch.arange(10 * LABELS, device=device) % LABELS
    # On a GPU the first epoch captures the graph, so the last one counts.
    epochs = 1 if device.type == "cpu" else 3
    config = TrainingConfig(epochs=epochs, batch_size=ROWS, precision=precision, kernels="compiled")
    looped, alone = [], []
    for _ in range(repeats):
        watch = Epochs()
        train(make_ladder(WIDTHS, device), x, x[: len(y)], y, config, generator=generator, callback=watch)
        looped.append(1000 * watch.seconds[-1] / (rows // ROWS))
        with library_step(device, precision) as step:
            alone.append(medians({"step": step}, device, 100)["step"])
    pair = statistics.median(looped), statistics.median(alone)
    ratio = statistics.median(a / b for a, b in zip(looped, alone, strict=True))
    return {"rows": rows, "precision": precision, "loop_ms": round(pair[0], 3), "step_ms": round(pair[1], 3),
            "ratio": round(ratio, 3)}  # fmt: skip


def prediction(device: torch.device, repeats: int) -> dict[str, float]:
    """Milliseconds of `Ladder.predict` for one row and for 10,000, and of the latter's matrix products alone."""
    ladder = make_ladder(WIDTHS, device).eval()
    x = torch.rand(10_000, WIDTHS[0], device=device)
    operands = [(torch.rand(10_000, i, device=device), torch.rand(i, o, device=device)) for i, o in pairwise(WIDTHS)]

    def products() -> None:
        for h, weight in operands:
            _ = h @ weight

    many = {"10,000 rows": lambda: ladder.predict(x), "products of 10,000 rows": products}
    return medians({"1 row": lambda: ladder.predict(x[:1])}, device, repeats) | medians(many, device, repeats // 5)


def show(result: dict[str, object]) -> None:
    console = Console()
    console.print(f"{result['machine']}, torch {result['versions']['torch']}")
    for title, cells in (
        ("a training step", result["step"]["milliseconds"]),
        *((f"parts of b, {precision}", found) for precision, found in result["parts"].items()),
        ("prediction", result["prediction"]),
    ):
        table = Table(title, "ms", title_justify="left")
        for name, elapsed in cells.items():
            table.add_row(name, f"{elapsed:.2f}")
        console.print(table)
    console.print(", ".join(f"{name}: {ratio}" for name, ratio in result["step"]["ratios"].items()))
    for entry in result["epoch"]:
        console.print(
            f"an epoch of {entry['rows']:,} rows, {entry['precision']}: {entry['loop_ms']} ms a step, "
            f"{entry['ratio']} times the step alone"
        )
    table = Table("b, float32", "threads", "ms a step", "ms a GFLOP of products")
    for entry in result["scaling"]:
        table.add_row(entry["what"], str(entry["threads"]), f"{entry['ms']:.2f}", f"{entry['ms_per_gflop']:.2f}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("results"))
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    result = {
        "machine": describe_machine(make_ladder(WIDTHS, device)),
        "versions": versions(),
        "repeats": arguments.repeats,
        "step": compare(device, arguments.repeats),
        "parts": {p: parts(p, arguments.repeats) for p in PRECISIONS} if device.type == "cpu" else {},
        "prediction": prediction(device, arguments.repeats),
        "epoch": [epoch(device, p, rows, 3) for p in PRECISIONS for rows in (6_000, 60_000)],
        "scaling": scaling(device, arguments.repeats),
    }
    show(result)
    arguments.out.mkdir(exist_ok=True)
    path = arguments.out / f"step-{device.type}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
