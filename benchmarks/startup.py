"""What it costs to start: imports, the command line, the first step with its build, and the memory of the MNIST run.

Each is a process of its own, in turn, the median of several; MNIST is found under LADDERNET_DATA. Writes
results/startup.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

FIRST_STEP = """
import sys, torch
from laddernet.ladder import Ladder
from laddernet.networks import mlp
widths = (784, 1000, 500, 250, 250, 250, 10)
ladder = Ladder(mlp(widths), denoising_weights=(1000, 10, *[0.1] * 5))
with torch.autocast("cpu", torch.bfloat16, enabled="bfloat16" in sys.argv):
    if "torch" not in sys.argv:
        assert ladder.fuse()
    x = torch.rand(100, 784)
    ladder(x, torch.arange(100) % 10, x).total.backward()
"""
MNIST = """
from dataclasses import replace
from laddernet.data import load
from laddernet.recipes import RECIPES
from laddernet.reproduce import Machine, run_recipe
recipe = replace(RECIPES["mnist-100"], max_epochs=1)
print(run_recipe(recipe, load("mnist"), seeds=[0], machine=Machine(device="cpu", precision="{precision}"))[0].seconds)
"""
LADDERNET = str(Path(sys.executable).with_name("laddernet"))


def seconds(command: list[str], **environment: str) -> float:
    started = time.perf_counter()
    subprocess.run(command, env={**os.environ, **environment}, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", code, *arguments]


def starts(repeats: int) -> dict[str, float]:
    commands = {
        "import torch": python("import torch"),
        "import laddernet": python("import laddernet"),
        "from laddernet import Ladder": python("from laddernet import Ladder"),
        "from laddernet import LadderClassifier": python("from laddernet import LadderClassifier"),
        "import torch, sklearn.base, sklearn.metrics": python("import torch, sklearn.base, sklearn.metrics"),
        "laddernet --help": [LADDERNET, "--help"],
        "first MNIST step, no kernels": python(FIRST_STEP, "torch"),
        "first MNIST step, float32 kernels there": python(FIRST_STEP),
        "first MNIST step, bfloat16 kernels there": python(FIRST_STEP, "bfloat16"),
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    built: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    for repeat in range(repeats + 1):
        for name, command in commands.items():
            elapsed = seconds(command)
            if repeat:
                times[name].append(elapsed)
        for precision, elapsed in built.items():
            with tempfile.TemporaryDirectory() as empty:
                elapsed.append(seconds(python(FIRST_STEP, precision), XDG_CACHE_HOME=empty))
    found = {name: statistics.median(elapsed) for name, elapsed in times.items()}
    found |= {f"first MNIST step, {p} kernels built": statistics.median(elapsed) for p, elapsed in built.items()}
    return {name: round(elapsed, 3) for name, elapsed in found.items()}


def memory(precision: str) -> float:
    """MiB at most of a process that loads MNIST, trains an epoch of mnist-100, calibrates and tests."""
    with subprocess.Popen(python(MNIST.format(precision=precision)), stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit("the MNIST run failed")
    return round(usage.ru_maxrss / 1024, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("results"))
    arguments = parser.parse_args()
    found = starts(arguments.repeats)
    ratios = {
        "import laddernet / import torch": round(found["import laddernet"] / found["import torch"], 3),
        "from laddernet import Ladder / import torch": round(
            found["from laddernet import Ladder"] / found["import torch"], 3
        ),
    }
    peak = {precision: memory(precision) for precision in ("float32", "bfloat16")}
    table = Table("what", "seconds")
    for name, elapsed in found.items():
        table.add_row(name, f"{elapsed:.2f}")
    console = Console()
    console.print(table, ratios, {"peak MiB of the MNIST run": peak})

    from laddernet.reproduce import processor, versions

    result = {"machine": processor(), "versions": versions(), "repeats": arguments.repeats, "seconds": found,
              "ratios": ratios, "mnist_peak_mib": peak}  # fmt: skip
    arguments.out.mkdir(exist_ok=True)
    (arguments.out / "startup.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
