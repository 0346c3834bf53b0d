"""Kill a training at random moments, and see that what it ends with is always the same.

`laddernet train digits` runs in a process of its own, keeps its state at the end of every epoch, and is killed
(SIGKILL) at a random moment, from before its first step to after its last; `--resume` goes on with it, is killed again,
and so on until it ends. Then its weights are compared, byte for byte, with those of a run that was left alone.

    python benchmarks/kill_resume.py --kills 50
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

from laddernet import resume
from laddernet.cli import app
from laddernet.reproduce import processor, versions
from laddernet.run_folder import UNFINISHED

EPOCHS = 20
TRAIN = ["train", "digits", "--labels", "50", "--epochs", str(EPOCHS), "--no-baseline"]


def work(arguments: list[str]) -> None:
    """Run laddernet, its state kept at the end of every epoch, whatever that costs."""
    resume.SHARE = 1e9
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        app(arguments)


def start(arguments: list[str]) -> multiprocessing.Process:
    # A fork has all imports done, so that what is killed is the training and not the start of Python.
    process = multiprocessing.get_context("fork").Process(target=work, args=(arguments,))
    process.start()
    return process


def state_of(folder: Path) -> str:
    """What a kill has left."""
    kept = folder / UNFINISHED
    if (folder / "config.json").exists():
        return "a finished run"
    if (kept / "checkpoint.writing").exists():
        return "half a checkpoint beside whole ones" if (kept / "checkpoint").exists() else "half a checkpoint"
    if (kept / "checkpoint").exists():
        return "a checkpoint"
    if (kept / "checkpoint.previous").exists():
        return "the previous checkpoint alone"
    return "no checkpoint" if kept.exists() else "no folder"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/kill_resume.json"))
    chosen = parser.parse_args()
    rng, found, runs, different = random.Random(chosen.seed), Counter[str](), 0, 0
    often = ["--checkpoint-minutes", "0.01"]
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        started = time.perf_counter()
        start([*TRAIN, "--out", str(root / "whole")]).join()
        usual = time.perf_counter() - started
        expected = (root / "whole" / "weights.safetensors").read_bytes()
        while found.total() < chosen.kills:
            folder = root / "run"
            shutil.rmtree(folder, ignore_errors=True)
            while not (folder / "config.json").exists():
                kept = (folder / UNFINISHED / "command.json").exists()
                arguments = ["train", "--resume", str(folder)] if kept else [*TRAIN, "--out", str(folder)]
                process = start([*arguments, *often])
                process.join(rng.uniform(0, usual))
                if process.is_alive():
                    process.kill()
                    process.join()
                if process.exitcode == -signal.SIGKILL:
                    found[state_of(folder)] += 1
                elif process.exitcode != 0:
                    raise SystemExit(f"{arguments} ended with {process.exitcode}")
                elif not kept and not (folder / "config.json").exists():
                    raise SystemExit("nothing was written")
            runs += 1
            different += (folder / "weights.safetensors").read_bytes() != expected
            print(f"{found.total()} kills, {runs} runs, {different} with other weights", flush=True)
    content = {
        "kills": found.total(),
        "runs": runs,
        "runs_with_other_weights": different,
        "left_by_the_kills": dict(found.most_common()),
        "seconds_of_a_run": round(usual, 2),
        "seed": chosen.seed,
        "machine": processor(),
        "versions": versions(),
    }
    chosen.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
