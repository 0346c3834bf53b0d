"""Make docs/results.md, and the table of the README, from the files in results/. Usage: python tools/results.py."""

import json
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from scipy.stats import t

from laddernet.recipes import RECIPES, Recipe
from laddernet.results_file import read_lines, read_results

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- made by make results -->", "<!-- end of what make results made -->"
PAST = "MNIST, past the paper"
GROUPS = {
    "MNIST, nothing known about images": lambda r: r.dataset == "mnist" and not (r.network or r.ablation or r.to_beat),
    PAST: lambda r: bool(r.to_beat),
    "MNIST, convolutional networks": lambda r: r.dataset == "mnist" and bool(r.network),
    "CIFAR-10": lambda r: r.dataset == "cifar10",
    "Digits, which come with scikit-learn (8 x 8 pixels)": lambda r: r.dataset == "digits",
}
FEWEST = 3
"""Seeds that a row needs to be judged by."""
INTRODUCTION = """\
# Results

Test errors in percent of every recipe that was run, made by `make results` from the files in [results](../results) (the
commands go on with these; `--out again` begins anew), which have each seed's precision, commit, versions, machine and
seconds. A seed chooses the labelled rows, the starting weights, the batches and the noise. The standard deviation is
that of the seeds (n - 1), the interval is Student's for their mean, cut at 0 and 100. The paper's figures are its mean
± standard deviation; a star marks those not confirmed against the paper itself. *At most* is the paper's mean plus
twice its standard deviation over the root of our n: where our mean of three seeds or more is no larger, the row holds.
Past the paper it is what our mean shall be below: for 20, 50 and 100 labels the lowest published, of a Ladder with
projected weights (Huang et al. 2017), for 1000 and all a little less than the paper's own. The seconds are those on the
clock, with any time in which the training was paused; where a training was taken up by other code or on another
machine, the file says so (`earlier`).
"""
CHOICE = """\
### How the settings were chosen

By images kept out of the training images ([what was tried](#past-the-paper-what-was-tried)); then they were run on the
test images. Students were the first choice for what is now `mnist-*-best`, 300 epochs the second, wide layers the
third:

- `mnist-*-student` train twice: the row of the paper, and then, from the start, a student that takes its answers for
  the labels of all training rows (`Recipe.teacher`). On kept-out images, with 100 labels and one seed: 1.13 % instead
  of 1.33. On the test images they gain nothing.
- `mnist-*-300-epochs` are the paper's settings in twice its epochs. On kept-out images, with the same seed: 1.12 %. On
  the test images they gain little, as far as they were run.
- `mnist-*-best` have five hidden layers of 1000 units instead of 1000, 500, 250, 250 and 250. What students and 300
  epochs do on the test images was known when these were tried; they were chosen by kept-out images alone.
- `mnist-100-projected` has less noise above the input, twice the denoising weights, and weights projected to unit
  length: the best of the trials of 20 epochs before wider layers were tried. In 150 epochs it gains nothing.

Why `mnist-*-best` are what they are, and what they are not:

- With 100 and 1000 labels wide layers have the lowest error of all trials of 20 epochs on kept-out images, and with 100
  labels and 150 epochs 0.96 % (one seed).
- With all labels they have 0.70 % of kept-out images in 20 epochs, one seed, where the paper's layers have 0.76. That
  is 6 images of 10,000; a clean supervised path with averaged weights (0.69), it alone (0.71) or less noise (0.71) on
  the paper's layers gain as much, and one seed does not tell such changes apart. In the whole schedule the test images
  bear no gain out.
- With 20 and 50 labels they are those chosen with 100, and were tried on kept-out images only after two test results
  that are worse than those of the paper's layers with the same seeds; the third seeds, which are better, were run after
  that. They were not changed: it would have been a choice by test images.
- With 50 labels, in 10 epochs and with three seeds they have 2.69 % of kept-out images, the paper's layers 3.30, a gain
  that the whole schedule does not bear out.
- With 20 labels, in 10 epochs, six seeds have a median of 3.20 %, the paper's layers 6.94 with the same, but one of
  them has 22.89 (the worst of the paper's layers 11.96): about as many as two digits that change places would cost.
  They have fewer errors with five of the six seeds and nearly three times as many with the sixth, so that the means
  tell no gain.
- The draw of the labels is most of that spread with 50 labels, and with 20 the start has a larger part in it: in 10
  epochs another start with the same labels (`another start`) changes the error of the paper's layers by 0.19 on average
  (three seeds), where two of those seeds differ by 0.71, and by 2.26 with 20 labels (six seeds), where they differ by
  3.84. Of the two draws of 20 labels that are worst for wide layers, one is good with another start: three starts have
  22.89, 10.30 and 2.65 % with one draw, 11.45, 12.13 and 11.07 with the other.
- The cost, which needs no labels, is no guide to which of several starts to keep, as far as it was tried. Of the second
  and third start with those two draws, which have their cost on record, the one with the lower last cost has fewer
  errors both times in wide layers, and more both times in the paper's layers (12.29 % where the other has 3.58, 13.29
  where it has 11.87). On digits, with eight draws of 10 and
  of 20 labels and five starts each, a start has 20.05 and 10.37 % of the rows without a label wrong on average, that
  with the lowest last cost 19.99 and 11.21, and that with the fewest errors 17.64 and 8.59: `python
  benchmarks/starts.py`, results/starts.jsonl.
"""


@dataclass(frozen=True)
class Row:
    """A recipe and its seeds, as a results file has them."""

    recipe: Recipe
    seeds: tuple[dict[str, Any], ...]

    @property
    def errors(self) -> list[float]:
        return [entry["test_error"] for entry in self.seeds]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.errors)

    @property
    def std(self) -> float | None:
        return statistics.stdev(self.errors) if len(self.errors) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Student's, 95 %, for the mean."""
        if self.std is None:
            return None
        n = len(self.errors)
        half = float(t.ppf(0.975, n - 1)) * self.std / math.sqrt(n)
        return max(self.mean - half, 0.0), min(self.mean + half, 100.0)

    @property
    def at_most(self) -> float | None:
        """What the mean may be for the paper's row to hold, or is to beat; None where the paper has no deviation."""
        if self.recipe.to_beat is not None:
            return self.recipe.to_beat
        mean, sign, std = self.recipe.paper.partition("±")
        return float(mean) + 2 * float(std) / math.sqrt(len(self.errors)) if sign else None

    @property
    def commands(self) -> dict[str, list[float]]:
        """The errors of the seeds that each command makes; one for each kind of device and precision."""
        groups: dict[tuple[bool, str], list[dict[str, Any]]] = {}
        for entry in self.seeds:
            groups.setdefault((was_on_gpu(entry), entry["precision"]), []).append(entry)
        commands = {}
        for (on_gpu, precision), entries in groups.items():
            words = ["laddernet reproduce", self.recipe.name, "--seeds", ranges(entry["seed"] for entry in entries)]
            words += ["--device cuda"] * on_gpu + ["--precision", precision]
            commands[" ".join(words)] = [entry["test_error"] for entry in entries]
        return commands

    @property
    def cost(self) -> str:
        """Median seconds of a seed, by machine and precision."""
        by_machine: dict[tuple[str, str], list[float]] = {}
        for entry in self.seeds:
            by_machine.setdefault((entry["machine"], entry["precision"]), []).append(seconds_of(entry))
        return "; ".join(
            f"{statistics.median(seconds):,.0f} s, {machine}, {precision}"
            for (machine, precision), seconds in by_machine.items()
        )

    def minutes(self, *, on_gpu: bool) -> str:
        """What a seed took, from the shortest to the longest."""
        took = [seconds_of(entry) / 60 for entry in self.seeds if was_on_gpu(entry) == on_gpu]
        if not took:
            return "not measured"
        shortest, longest = (f"{some(took):.{0 if min(took) >= 10 else 1}f}" for some in (min, max))
        return shortest if shortest == longest else f"{shortest} to {longest}"


def was_on_gpu(entry: dict[str, Any]) -> bool:
    return "NVIDIA" in entry["machine"]


def seconds_of(entry: dict[str, Any]) -> float:
    """A seed's own share of those that were trained together."""
    return float(entry["seconds"]) / int(entry.get("together", 1))


def ranges(numbers: Iterable[int]) -> str:
    """Numbers as the command line takes them, such as 0-2,5."""
    parts = []
    for _, run in groupby(enumerate(sorted(numbers)), key=lambda pair: pair[1] - pair[0]):
        values = [value for _, value in run]
        parts.append(f"{values[0]}" if len(values) == 1 else f"{values[0]}-{values[-1]}")
    return ",".join(parts)


def read(folder: Path) -> list[Row]:
    """All recipes that have results, in the recipes' order.

    An error where a file has another recipe's results, or results with other settings, or is of no recipe.
    """
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and "seeds" in content and path.stem not in RECIPES:
            raise ValueError(f"{path} has results of no recipe: name it after one, or move it away.")
    found = [(recipe, read_results(folder / f"{recipe.name}.json", recipe)) for recipe in RECIPES.values()]
    return [Row(recipe, tuple(sorted(seeds, key=lambda entry: int(entry["seed"])))) for recipe, seeds in found if seeds]


def spread(row: Row) -> str:
    return f"{row.mean:.2f}" if row.std is None else f"{row.mean:.2f} ± {row.std:.2f}"


def between(row: Row) -> str:
    return "" if row.interval is None else f"{row.interval[0]:.2f} to {row.interval[1]:.2f}"


def page(rows: list[Row], trials: list[dict[str, Any]]) -> str:
    """The text of docs/results.md."""
    parts = [INTRODUCTION]
    for title, belongs in GROUPS.items():
        here = [row for row in rows if belongs(row.recipe)]
        missing = [r.name for r in RECIPES.values() if belongs(r) and r.name not in {row.recipe.name for row in rows}]
        parts.append(f"## {title}\n")
        if here:
            parts.append(table(here))
            parts.append("".join(f"- {each(row)}{beside(row, rows)}\n" for row in here))
        if missing:
            parts.append(f"Not run yet: {', '.join(f'`{name}`' for name in missing)}.\n")
        if title == PAST:
            parts.append(CHOICE)
    parts.append(ablations({row.recipe.name: row for row in rows}))
    parts.append(past(trials))
    return "\n".join(parts)


def past(trials: list[dict[str, Any]]) -> str:
    """What was tried past the paper, the best first, and the mean difference from the reference's same seeds."""
    text = """\
## Past the paper: what was tried

Every trial of `benchmarks/beyond.py`, which changes something of the paper's settings, by the error on 10,000 training
images that were kept out; test images were not looked at. 50000 labels are all that are not kept out. A line is made
again by `python benchmarks/beyond.py --labels L --epochs E --precision P --seeds 100-109 --only "CHANGED"`; every seed
is in results/beyond.jsonl, with its precision, which is bfloat16 but for four seeds of other starts. *Less* is the mean
difference from the reference's error with the same seed, which chooses the labelled rows.
"""
    errors: dict[tuple[int, int], dict[str, dict[int, float]]] = {}
    for line in trials:
        group = errors.setdefault((line["labels"], line["epochs"]), {})
        group.setdefault(line["trial"], {})[line["seed"]] = line["error"]
    for (labels, epochs), group in sorted(errors.items()):
        reference = group.get("reference", {})
        text += f"\n{labels} labels, {epochs} epochs:\n\n"
        text += "| changed | n | mean ± std | median | less |\n| --- | ---: | ---: | ---: | ---: |\n"
        for trial, seeds in sorted(group.items(), key=lambda item: statistics.fmean(item[1].values())):
            values = list(seeds.values())
            std = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            pairs = [reference[seed] - seeds[seed] for seed in seeds if seed in reference]
            less = f"{statistics.fmean(pairs):+.2f}" if pairs and trial != "reference" else ""
            cells = (
                trial,
                len(values),
                f"{statistics.fmean(values):.2f}{std}",
                f"{statistics.median(values):.2f}",
                less,
            )
            text += "| " + " | ".join(map(str, cells)) + " |\n"
    return text


def ablations(rows: dict[str, Row]) -> str:
    """What was changed, what came of it, and by how much it is worse than with nothing changed."""
    reference, *changed = (recipe for recipe in RECIPES.values() if recipe.ablation)
    lines = [
        "## What matters: ablations\n",
        f"`{reference.name}` is the paper's run with {reference.labels} labels in a whole schedule of "
        f"{reference.max_epochs} epochs; each other recipe changes one thing. *More* is the difference of the means.\n",
        "The MLP combinators are far from the 1.002 % that is published for the augmented one with 100 labels "
        "(Pezeshki et al. 2016). These denoising weights do not suit them: weights of 1 above the first layer help, "
        "and so does a network for each unit instead of one for all; with both, the augmented one is far better, "
        "though still behind the Gaussian (the trials of AMLP below, of 4 and 20 epochs, one seed each).\n",
        "| recipe | changed | n | mean ± std | median | 95 % interval | more |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for recipe in (reference, *changed):
        cells = [f"`{recipe.name}`", recipe.ablation]
        if row := rows.get(recipe.name):
            more = f"{row.mean - rows[reference.name].mean:+.2f}" if reference.name in rows else ""
            cells += [str(len(row.errors)), spread(row), f"{statistics.median(row.errors):.2f}", between(row), more]
        else:
            cells += ["0", "not run", "", "", ""]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["\n![Every seed of each ablation](ablations.svg)"] if picture(rows) else []
    run = [rows[recipe.name] for recipe in (reference, *changed) if recipe.name in rows]
    lines += ["", *[f"- {each(row)}" for row in run]] if run else []
    return "\n".join(lines) + "\n"


def picture(rows: dict[str, Row]) -> Figure | None:
    """Every seed of the ablations, the best at the top; None where fewer than two have been run."""
    run = sorted((row for row in rows.values() if row.recipe.ablation), key=lambda row: row.mean, reverse=True)
    if len(run) < 2:
        return None
    figure = Figure(figsize=(7, 0.4 * len(run) + 1), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(run):
        axes.plot(row.errors, [place] * len(row.errors), "o", color="tab:blue", alpha=0.5, markersize=5)
        axes.plot([row.mean], [place], "|", color="black", markersize=16)
    axes.set_yticks(range(len(run)), [row.recipe.ablation for row in run])
    axes.set_xlabel("test error, %: every seed, and their mean")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "235" else "")
    axes.grid(axis="x", which="both", alpha=0.3)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a picture that is the same for the same figures."""
    with matplotlib.rc_context({"svg.hashsalt": "laddernet", "svg.fonttype": "path"}):
        figure.savefig(path, metadata={"Date": None})


def beside(row: Row, rows: list[Row]) -> str:
    """What a student's teacher, or the paper's row past which this goes, has with the same seeds and with others."""
    if row.recipe.to_beat is None:
        return ""
    name = row.recipe.teacher.name if row.recipe.teacher else f"mnist-{row.recipe.labels or 'all'}"
    theirs = [other for other in rows if other.recipe.name == name]
    if not theirs:
        return ""
    own = {entry["seed"] for entry in row.seeds}
    same, others = (
        ", ".join(f"{e['test_error']:.2f}" for e in theirs[0].seeds if (e["seed"] in own) == wanted)
        for wanted in (True, False)
    )
    text = f" `{name}` with the same seeds: {same}" + (f"; with seeds that it lacks: {others}" if others else "")
    return f"{text}."


def table(rows: list[Row]) -> str:
    lines = [
        "| recipe | labels | epochs | n | mean ± std | median | 95 % interval | paper | at most | holds |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        enough = row.at_most is not None and len(row.errors) >= FEWEST
        below = row.at_most is not None and (row.mean <= row.at_most if row.recipe.paper else row.mean < row.at_most)
        holds = "" if row.at_most is None else "too few" if not enough else "yes" if below else "no"
        cells = (
            f"`{row.recipe.name}`", row.recipe.labels or "all", row.recipe.epochs, len(row.errors), spread(row),
            f"{statistics.median(row.errors):.2f}", between(row), row.recipe.paper,
            "" if row.at_most is None else f"{row.at_most:.2f}", holds,
        )  # fmt: skip
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def each(row: Row) -> str:
    """Every seed, the command and the time."""
    made = "; ".join(f"`{command}`: {listed(errors)}" for command, errors in row.commands.items())
    return f"{made}. A seed: {row.cost}."


def listed(errors: Iterable[float]) -> str:
    return ", ".join(f"{error:.2f}" for error in errors)


def summary(rows: list[Row]) -> str:
    """The README's table: the rows that the paper has, and the best past it."""
    lines = [
        "| recipe | labels | n | test error, % | paper, or to beat | minutes a seed, one CPU core | on a GPU |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        to_beat = f"below {row.recipe.to_beat:.2f}" if row.recipe.name.endswith("-best") else ""
        theirs = row.recipe.paper or to_beat
        cells = (
            f"`{row.recipe.name}`", row.recipe.labels or "all", len(row.errors), spread(row), theirs,
            row.minutes(on_gpu=False), row.minutes(on_gpu=True),
        )  # fmt: skip
        if theirs:
            lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def in_readme(text: str, rows: list[Row]) -> str:
    """The README with the table in its place."""
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"README.md has no place for the table: {BEGIN} and {END}.")
    return f"{before}{BEGIN}\n\n{summary(rows)}\n{END}{after}"


def main() -> None:
    rows, readme = read(ROOT / "results"), ROOT / "README.md"
    trials = read_lines(ROOT / "results/beyond.jsonl")
    (ROOT / "docs/results.md").write_text(page(rows, trials), encoding="utf-8")
    if figure := picture({row.recipe.name: row for row in rows}):
        save(figure, ROOT / "docs/ablations.svg")
    readme.write_text(in_readme(readme.read_text(encoding="utf-8"), rows), encoding="utf-8")


if __name__ == "__main__":
    main()
