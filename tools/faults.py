"""Put each known fault of other implementations into a copy of the source, and see its test fail.

For every fault of docs/algorithm.md, "What others got wrong", this copies src/ to a temporary folder, replaces one
piece of code by the faulty one, and runs that fault's test against the copy. The test must pass on the copy without
the fault and fail with it. A replacement that no longer fits the source is an error, not a pass.

Usage: python tools/faults.py [number ...]
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent

FAULTS: list[tuple[int, str, list[tuple[str, str, str]]]] = [
    (
        1,
        "z_hat divided by the variance instead of the standard deviation",
        [("ladder.py", "normalize(z_hat, mean, inverse_std)", "normalize(z_hat, mean, inverse_std.square())")],
    ),
    (
        2,
        "z_hat not normalised",
        [("ladder.py", "_mean_square(normalize(z_hat, mean, inverse_std), z_clean)", "_mean_square(z_hat, z_clean)")],
    ),
    (
        3,
        "noise added before the statistics are taken",
        [
            (
                "ladder.py",
                "z, last, seen = self._normalize_streams(z_pre, sizes)",
                "parts = list(torch.split(z_pre, sizes))\n"
                "                parts[0] = self._corrupt(parts[0], layer or 0)\n"
                "                z, last, seen = self._normalize_streams(torch.cat(parts), sizes)",
            )
        ],
    ),
    (
        4,
        "softmax followed by a cross-entropy that takes logits",
        [("losses.py", "functional.cross_entropy(logits, y,", "functional.cross_entropy(_softmax(logits), y,")],
    ),
    (
        5,
        "the clean target detached",
        [("ladder.py", "inverse_std), z_clean)", "inverse_std), z_clean.detach())")],
    ),
    (
        2,
        "layer 0 normalised as well",
        [("ladder.py", "_mean_square(z_hat, x_clean)", "_mean_square(batch_normalize_streams([z_hat])[0].z, x_clean)")],
    ),
    (
        5,
        "the clean statistics detached",
        [
            (
                "ladder.py",
                "normalize(z_hat, mean, inverse_std), z_clean)",
                "normalize(z_hat, mean.detach(), inverse_std.detach()), z_clean)",
            )
        ],
    ),
    (
        1,
        "the same in the kernels",
        [("kernels.cpp", "(estimate - m_clean) * v_clean -", "(estimate - m_clean) * v_clean * v_clean -")],
    ),
    (
        2,
        "z_hat not normalised, in the kernels",
        [("kernels.cpp", "(estimate - m_clean) * v_clean -", "estimate -")],
    ),
    (
        3,
        "noise added before it is normalised, in the kernels",
        [("kernels.cpp", "value += load(to, width);", "value += v * load(to, width);")],
    ),
    (
        5,
        "the clean target detached, in the kernels",
        [("kernels.cpp", "store(grad_z_clean + at, -d, width)", "store(grad_z_clean + at, V{}, width)")],
    ),
    (
        5,
        "the clean statistics detached, in the kernels",
        [("kernels.cpp", "mean_sum -= d * v_clean;", ""), ("kernels.cpp", "std_sum += d * centred;", "")],
    ),
    (
        6,
        "one set of statistics in the kernels",
        [
            (
                "kernels.cpp",
                "statistics<V>(z_pre + at, rows[s], features, epsilon, width)",
                "statistics<V>(z_pre + first, rows[0] + rows[1] + rows[2], features, epsilon, width)",
            )
        ],
    ),
    (
        6,
        "one set of statistics for labelled and unlabelled rows",
        [
            (
                "ladder.py",
                "return [stream.z for stream in normalized], normalized[-1]",
                "return list(torch.split(batch_normalize_streams([z_pre])[0].z, sizes)), normalized[-1]",
            )
        ],
    ),
    (
        7,
        "labelled rows left out of the unlabelled stream",
        [
            (
                "estimators/base.py",
                "x=without(x, held_out),",
                "x=without(x, np.union1d(held_out, labels.numbers)),",
            ),
        ],
    ),
    (
        8,
        "batch statistics at prediction",
        [
            (
                "rungs.py",
                "return self.clean(z_pre) if self.visitor.visit is None",
                "return self.activate(__import__('laddernet').normalization.batch_normalize(z_pre).z) "
                "if self.visitor.visit is None",
            )
        ],
    ),
    (
        9,
        "a rate that is logged as decaying while the optimiser's stays",
        [
            ("loop.py", "batches, self._rate, self._callback", "batches, lambda step: self._rate(0), self._callback"),
            (
                "loop.py",
                'float(self._optimizer.param_groups[0]["lr"])',
                "self._rate(progress.epoch * self._steps_per_epoch)",
            ),
        ],
    ),
    (
        10,
        "a schedule that rises again past its end",
        [("training.py", "max(self.steps - step, 0)", "abs(self.steps - step)")],
    ),
    (
        11,
        "the optimiser made anew at every epoch",
        [
            (
                "training.py",
                "            for epoch in loop(step, rows):\n",
                "            for epoch in loop(step, rows):\n"
                "                optimizer = torch.optim.Adam(\n"
                "                    ladder.parameters(), lr=config.learning_rate, fused=True\n"
                "                )\n",
            )
        ],
    ),
    (
        12,
        "inputs not scaled",
        [("scaling.py", 'if method == "none":', "if True:")],
    ),
    (
        13,
        "unbalanced choice of the labelled rows, with replacement",
        [
            (
                "data/labels.py",
                "    return np.sort(chosen)",
                "    return np.sort(rng.integers(len(y), size=count))",
            )
        ],
    ),
    (
        14,
        "hanging when there are as many labels as a batch, or fewer",
        [
            ("sampling.py", "max(rows - batch_size, 0)", "rows - batch_size - 1"),
            ("sampling.py", "if self._next > self._last:", "while self._next > self._last:"),
        ],
    ),
    (
        15,
        "the model judged on rows that train it",
        [("estimators/base.py", "x=without(x, held_out),", "x=x,")],
    ),
]


def misfits() -> list[str]:
    """What no longer fits the source: a replaced piece must stand there exactly once, and Python stay Python."""
    found = []
    for number, title, replacements in FAULTS:
        for file, old, new in replacements:
            text = (ROOT / "src" / "laddernet" / file).read_text(encoding="utf-8")
            if text.count(old) != 1:
                found.append(f"fault {number}, {title}: {old!r} stands {text.count(old)} times in {file}")
            elif file.endswith(".py"):
                try:
                    compile(text.replace(old, new), file, "exec")
                except SyntaxError as error:
                    found.append(f"fault {number}, {title}: {error}")
    return found


def passes(source: Path, number: int) -> bool:
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    check = "import laddernet, sys; sys.exit(not laddernet.__file__.startswith(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", check, str(source)], env=environment, check=True)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    command += ["tests/test_known_faults.py", "-k", f"fault_{number:02}"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if result.returncode not in (0, 1):
        sys.exit(f"pytest could not run the test of fault {number}:\n{result.stdout}{result.stderr}")
    return result.returncode == 0


def main() -> None:
    if lines := misfits():
        sys.exit("\n".join(lines))
    numbers = {int(argument) for argument in sys.argv[1:]}
    chosen = [fault for fault in FAULTS if not numbers or fault[0] in numbers]
    unseen = []
    for number, title, replacements in chosen:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder).resolve() / "src"
            shutil.copytree(ROOT / "src", source)
            sound = passes(source, number)
            for file, old, new in replacements:
                path = source / "laddernet" / file
                path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
            seen = sound and not passes(source, number)
        print(f"{number:2}  {'seen' if seen else 'NOT SEEN':8}  {title}", flush=True)
        unseen += [] if seen else [title]
    if unseen:
        sys.exit(f"not seen: {unseen}")
    print(f"all {len(chosen)} faults were seen by their tests")


if __name__ == "__main__":
    main()
