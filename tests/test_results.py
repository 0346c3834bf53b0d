"""The tables of results are what the files in results/ say (`make results`)."""

import itertools
import json
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from laddernet.errors import RunError
from laddernet.recipes import RECIPES
from laddernet.results_file import settings_of

ROOT = Path(__file__).parents[1]
results = runpy.run_path(str(ROOT / "tools/results.py"))
Row = results["Row"]


def row(*errors, name="mnist-100", **others):
    entry = {"precision": "float32", "machine": "NVIDIA H200", "seconds": 100.0, **others}
    return Row(RECIPES[name], tuple({"seed": seed, "test_error": error, **entry} for seed, error in enumerate(errors)))


@pytest.fixture
def folder(tmp_path):
    for name in ("mnist-100", "digits-50"):
        seeds = [{**entry, "seed": 9 - entry["seed"]} for entry in row(1.0, 1.5, 0.8).seeds]
        content = {"recipe": name, "settings": settings_of(RECIPES[name]), "seeds": seeds}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def test_the_page_and_the_readme_agree_with_the_files():
    rows = results["read"](ROOT / "results")
    trials = results["read_lines"](ROOT / "results/beyond.jsonl")
    assert rows
    assert trials
    again = "results/ says otherwise: make results"
    assert (ROOT / "docs/results.md").read_text(encoding="utf-8") == results["page"](rows, trials), again
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme == results["in_readme"](readme, rows), again


@pytest.mark.parametrize(
    ("labels", "epochs", "trial"),
    [
        (100, 150, "all layers of 1000"),
        (100, 150, "reference"),
        (100, 150, "student, weights of 1000 labels"),
        (100, 300, "reference"),
        (50000, 20, "all layers of 1000"),
        (50000, 20, "reference"),
        (50000, 20, "clean supervised path + a quarter averaged"),
        (50000, 20, "clean supervised path"),
        (50000, 20, "noise 0.2"),
    ],
)
def test_the_text_tells_the_trials_as_they_are(labels, epochs, trial):
    key = {"labels": labels, "epochs": epochs, "trial": trial}
    trials = results["read_lines"](ROOT / "results/beyond.jsonl")
    (line,) = (line for line in trials if key.items() <= line.items())  # one seed
    assert f"{line['error']:.2f}" in results["CHOICE"]


def test_the_text_tells_the_trials_precision_as_it_is():
    trials = results["read_lines"](ROOT / "results/beyond.jsonl")
    others = [line["trial"] for line in trials if line["precision"] != "bfloat16"]
    assert "bfloat16 but for four seeds of other starts" in results["past"](trials)
    assert len(others) == 4
    assert set(others) == {"another start", "a third start"}


def beside_the_usual(trial, labels):
    """Errors on kept-out images in 10 epochs, of a trial and of the paper's settings, with the trial's seeds."""
    found = {trial: {}, "reference": {}}
    for line in results["read_lines"](ROOT / "results/beyond.jsonl"):
        if (line["labels"], line["epochs"]) == (labels, 10) and line["trial"] in found:
            found[line["trial"]][line["seed"]] = line["error"]
    seeds = sorted(found[trial])
    return [np.array([errors[seed] for seed in seeds]) for errors in found.values()]


def test_the_text_tells_the_trials_with_20_and_50_labels_as_they_are():
    choice = " ".join(results["CHOICE"].split())
    wider, usual = beside_the_usual("all layers of 1000", 50)
    text = "in 10 epochs and with three seeds they have {:.2f} % of kept-out images, the paper's layers {:.2f}"
    assert len(wider) == 3
    assert text.format(np.mean(wider), np.mean(usual)) in choice
    wider, usual = beside_the_usual("all layers of 1000", 20)
    text = "six seeds have a median of {:.2f} %, the paper's layers {:.2f} with the same"
    assert len(wider) == 6
    assert text.format(np.median(wider), np.median(usual)) in choice
    text = "one of them has {:.2f} (the worst of the paper's layers {:.2f})"
    assert text.format(max(wider), max(usual)) in choice
    assert "fewer errors with five of the six seeds and nearly three times as many with the sixth" in choice
    ratios = sorted(wider / usual)
    assert ratios[4] < 1
    assert 2.75 < ratios[5] < 3


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (50, "paper's layers by {:.2f} on average (%s seeds), where two of those seeds differ by {:.2f}"),
        (20, "and by {:.2f} with 20 labels (%s seeds), where they differ by {:.2f}"),
    ],
)
def test_the_text_tells_what_another_start_does(labels, text):
    other, usual = beside_the_usual("another start", labels)
    start = np.mean(np.abs(usual - other))
    draw = np.mean([abs(a - b) for a, b in itertools.combinations(usual, 2)])
    text %= {3: "three", 6: "six"}[len(other)]
    assert text.format(start, draw) in " ".join(results["CHOICE"].split())


def starts_of(layers, labels_of):
    """The three starts of a trial with 20 labels and 10 epochs that have the labels of a seed."""
    trials = results["read_lines"](ROOT / "results/beyond.jsonl")
    kept = [line for line in trials if (line["labels"], line["epochs"], line["seed"]) == (20, 10, labels_of)]
    lines = {line["trial"]: line for line in kept}
    names = [" + ".join(filter(None, (layers, start))) for start in ("", "another start", "a third start")]
    return [lines[name or "reference"] for name in names]


def test_the_text_tells_the_starts_with_20_labels_as_they_are():
    choice = " ".join(results["CHOICE"].split())
    wide, usual = ([starts_of(layers, seed) for seed in (104, 105)] for layers in ("all layers of 1000", ""))
    text = "three starts have {:.2f}, {:.2f} and {:.2f} % with one draw, {:.2f}, {:.2f} and {:.2f} with the other"
    assert text.format(*(line["error"] for starts in wide for line in starts)) in choice
    for _, one, other in wide:
        assert (one["cost"] > other["cost"]) == (one["error"] > other["error"])
    for _, one, other in usual:
        assert one["cost"] > other["cost"]
        assert one["error"] < other["error"]
    text = "({:.2f} % where the other has {:.2f}, {:.2f} where it has {:.2f})"
    assert text.format(*(start["error"] for _, one, other in usual for start in (other, one))) in choice


def test_the_text_tells_the_starts_on_digits_as_they_are():
    starts = runpy.run_path(str(ROOT / "benchmarks/starts.py"))
    lines = starts["read_lines"](ROOT / "results/starts.jsonl")
    ten, twenty = (starts["summary"](lines, labels) for labels in (10, 20))
    assert (ten["draws"], twenty["draws"], len(lines)) == (8, 8, 2 * 8 * 5)
    choice = " ".join(results["CHOICE"].split())
    assert f"a start has {ten['all']:.2f} and {twenty['all']:.2f} % of the rows" in choice
    assert f"with the lowest last cost {ten['epoch 150']:.2f} and {twenty['epoch 150']:.2f}" in choice
    assert f"with the fewest errors {ten['least']:.2f} and {twenty['least']:.2f}" in choice


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mnist-100-10-epochs", "a run of 10 epochs ends at {median:.2f} % (median of {n})"),
        ("mnist-20", "With 20 labels (`mnist-20`) the error is {mean:.2f} %"),
        ("mnist-100-best", "has {mean:.2f} % with 100 labels"),
        ("mnist-1000-best", "has {mean:.2f} % with 1000"),
        ("mnist-20-best", "three seeds of `mnist-20-best` have {min:.2f}, {median:.2f} and {max:.2f} %"),
        (
            "mnist-50-best",
            "`mnist-50-best` has {mean:.2f} % ({count} seeds), where the paper's layers have {usual:.2f}",
        ),
        (
            "mnist-all-best",
            "`mnist-all-best` has {mean:.2f} % ({count} seeds), where the paper's layers have {usual:.2f}",
        ),
        ("mnist-100-300-epochs", "In 300 epochs the paper's layers have {mean:.2f} % with 100 labels"),
    ],
)
def test_the_readme_tells_the_results_as_they_are(name, text):
    rows = {row.recipe.name: row for row in results["read"](ROOT / "results")}
    found, plain = rows[name], rows[name.removesuffix("-best")]
    usual = dict(zip((entry["seed"] for entry in plain.seeds), plain.errors, strict=True))
    figures = {"mean": found.mean, "median": np.median(found.errors), "n": len(found.errors)}
    figures |= {"min": min(found.errors), "max": max(found.errors)}
    figures["usual"] = np.mean([usual[entry["seed"]] for entry in found.seeds])
    figures["count"] = {2: "two", 3: "three", 10: "ten"}.get(len(found.errors))
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert text.format(**figures) in readme


def test_figures_are_those_of_the_seeds():
    errors = [1.0, 1.5, 0.8, 1.1]
    made = row(*errors)
    assert made.mean == pytest.approx(np.mean(errors))
    assert made.std == pytest.approx(np.std(errors, ddof=1))
    expected = stats.t.interval(0.95, 3, np.mean(errors), stats.sem(errors))
    assert made.interval == pytest.approx(expected)
    assert made.at_most == pytest.approx(1.06 + 2 * 0.37 / 2)
    cells = results["table"]([made]).splitlines()[-1].split(" | ")
    assert cells[3:] == ["4", "1.10 ± 0.29", "1.05", "0.63 to 1.57", "1.06 ± 0.37", "1.43", "yes |"]


def test_a_row_holds_up_to_twice_the_papers_deviation_and_not_beyond():
    ends = [results["table"]([row(*[error] * 4)]).rstrip().split(" | ")[-1] for error in (1.43, 1.44)]
    assert ends == ["yes |", "no |"]
    assert "too few" in results["table"]([row(0.9, 0.8)])


def test_what_goes_past_the_paper_must_be_below_what_was_published():
    ends = [
        results["table"]([row(*[e] * 3, name="mnist-100-projected")]).rstrip().split(" | ")[-2:] for e in (0.90, 0.91)
    ]
    assert ends == [["0.91", "yes |"], ["0.91", "no |"]]


def test_trials_are_compared_with_the_references_same_seeds():
    found = {"reference": {1: 2.0, 2: 3.0}, "less noise": {2: 2.5, 3: 1.1}}
    trials = [
        {"labels": 100, "epochs": 20, "trial": trial, "seed": seed, "error": error}
        for trial, seeds in found.items()
        for seed, error in seeds.items()
    ]
    lines = results["past"](trials).splitlines()[-2:]
    assert lines == [
        "| less noise | 2 | 1.80 ± 0.99 | 1.80 | +0.50 |",
        "| reference | 2 | 2.50 ± 0.71 | 2.50 |  |",
    ]


def test_a_single_seed_has_no_spread():
    made = row(2.0)
    assert made.std is made.interval is None
    cells = results["table"]([replace(made, recipe=RECIPES["digits-50"])]).splitlines()[-1].split(" | ")
    assert cells[3:6] == ["1", "2.00", "2.00"]


def test_a_student_stands_beside_its_teachers_same_seeds():
    teacher, student = row(1.0, 1.1, 2.2), row(0.9, 1.0, name="mnist-100-student")
    beside = results["beside"]
    assert beside(student, [student, teacher]) == (
        " `mnist-100` with the same seeds: 1.00, 1.10; with seeds that it lacks: 2.20."
    )
    assert beside(student, [student, row(1.0, 1.1)]) == " `mnist-100` with the same seeds: 1.00, 1.10."
    assert beside(student, [student]) == beside(teacher, [student, teacher]) == ""


@pytest.mark.parametrize("name", ["mnist-100-best", "mnist-100-300-epochs", "mnist-100-projected"])
def test_what_goes_past_a_row_stands_beside_its_same_seeds(name):
    usual, past = row(1.0, 1.1, 2.2), row(0.9, name=name)
    assert results["beside"](past, [usual, past]) == (
        " `mnist-100` with the same seeds: 1.00; with seeds that it lacks: 1.10, 2.20."
    )
    assert results["beside"](past, [past]) == results["beside"](usual, [usual, past]) == ""


def test_figures_without_a_deviation_are_not_judged():
    assert row(1.0, 1.1, 1.2, name="mnist-100-bottom").at_most is None


def test_the_interval_ends_at_zero_and_at_a_hundred():
    assert row(0.89, 2.15).interval[0] == 0
    assert row(19.01, 2.19).interval == (0, 100)


@pytest.mark.parametrize(
    ("numbers", "expected"), [([0], "0"), ([2, 0, 1], "0-2"), ([5, 1, 2, 9], "1-2,5,9"), ([1, 3], "1,3")]
)
def test_seeds_are_named_as_the_command_takes_them(numbers, expected):
    assert results["ranges"](numbers) == expected


def test_the_command_names_the_device_and_precision():
    on_gpu = row(1.0, 1.1)
    assert on_gpu.commands == {
        "laddernet reproduce mnist-100 --seeds 0-1 --device cuda --precision float32": [1.0, 1.1]
    }
    low = row(1.2, machine="AMD EPYC, 1 threads", precision="bfloat16")
    assert low.commands == {"laddernet reproduce mnist-100 --seeds 0 --precision bfloat16": [1.2]}
    high = row(1.3, machine="AMD EPYC, 1 threads")
    assert high.commands == {"laddernet reproduce mnist-100 --seeds 0 --precision float32": [1.3]}


def test_seeds_of_several_precisions_have_a_command_for_each():
    low = row(1.2, machine="AMD EPYC, 1 threads", precision="bfloat16").seeds[0]
    both = Row(RECIPES["mnist-100"], (*row(1.0, 1.1).seeds, {**low, "seed": 2}))
    assert list(both.commands.values()) == [[1.0, 1.1], [1.2]]
    assert results["each"](both) == (
        "`laddernet reproduce mnist-100 --seeds 0-1 --device cuda --precision float32`: 1.00, 1.10; "
        "`laddernet reproduce mnist-100 --seeds 2 --precision bfloat16`: 1.20. "
        "A seed: 100 s, NVIDIA H200, float32; 100 s, AMD EPYC, 1 threads, bfloat16."
    )


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"recipe": "something else"}, "not a results file of mnist-100"),
        ({"settings": {**settings_of(RECIPES["mnist-100"]), "max_epochs": 10}}, "with other settings"),
        ({"seeds": [*row(1.0).seeds, *row(1.1).seeds]}, "seed 0 more than once"),
    ],
)
def test_a_file_that_is_not_its_recipes_makes_no_page(folder, change, error):
    path = folder / "mnist-100.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(RunError, match=error):
        results["read"](folder)


def test_results_of_no_recipe_make_no_page(folder):
    (folder / "mnist-100.json").rename(folder / "mnist-100-old.json")
    with pytest.raises(ValueError, match="mnist-100-old.json has results of no recipe"):
        results["read"](folder)


def test_a_recipe_without_seeds_is_not_run(folder):
    path = folder / "mnist-100.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "seeds": []}))
    assert [row.recipe.name for row in results["read"](folder)] == ["digits-50"]


def test_seconds_are_a_seeds_own_share():
    assert row(1.0, 1.1, together=2).cost == "50 s, NVIDIA H200, float32"
    assert row(1.0).cost == "100 s, NVIDIA H200, float32"


def test_minutes_are_told_apart_by_device():
    cpu = [{**row(1.0, machine="AMD EPYC, 1 thread", seconds=s).seeds[0], "seed": i} for i, s in enumerate((900, 7250))]
    both = Row(RECIPES["mnist-100"], (*cpu, {**row(1.0, seconds=250.0, together=2).seeds[0], "seed": 2}))
    assert (both.minutes(on_gpu=False), both.minutes(on_gpu=True)) == ("15 to 121", "2.1")
    assert row(1.0).minutes(on_gpu=False) == "not measured"


def test_the_page_has_every_seed_in_order_and_what_is_missing(folder):
    page = results["page"](results["read"](folder), [])
    assert "--seeds 7-9 --device cuda --precision float32`: 0.80, 1.50, 1.00." in page
    missing = page.split("Not run yet: ")[1]
    assert "`mnist-50`" in missing
    assert "`mnist-100`," not in missing
    for name in RECIPES:
        assert f"`{name}`" in page


def test_the_picture_has_every_seed_of_the_ablations(tmp_path):
    rows = {name: row(1.9, 2.1, 2.0 + i, name=name) for i, name in enumerate(("ablation-none", "ablation-linear"))}
    figure = results["picture"](rows)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a linear combinator", "nothing"]
    assert [list(line.get_xdata()) for line in axes.lines[::2]] == [[1.9, 2.1, 3.0], [1.9, 2.1, 2.0]]
    paths = [tmp_path / f"{i}.svg" for i in range(2)]
    for path in paths:
        results["save"](results["picture"](rows), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert "ablations.svg" in results["ablations"](rows)
    text = results["ablations"](rows)
    assert "| `ablation-linear` | a linear combinator | 3 | 2.33 ± 0.59 | 2.10 | 0.88 to 3.79 | +0.33 |" in text
    assert "reproduce ablation-linear --seeds 0-2 --device cuda --precision float32`: 1.90, 2.10, 3.00." in text


def test_one_ablation_makes_no_picture():
    rows = {"ablation-none": row(1.9, name="ablation-none"), "mnist-100": row(1.0)}
    assert results["picture"](rows) is None
    assert "ablations.svg" not in results["ablations"](rows)
    assert "| `ablation-linear` | a linear combinator | 0 | not run |" in results["ablations"](rows)


def test_the_readme_shows_the_papers_rows_in_its_place(folder):
    rows = results["read"](folder)
    text = f"above\n{results['BEGIN']}\nold\n{results['END']}\nbelow\n"
    made = results["in_readme"](text, rows)
    assert made.startswith("above\n")
    assert made.endswith("\nbelow\n")
    assert "old" not in made
    assert "| `mnist-100` | 100 | 3 | 1.10 ± 0.36 | 1.06 ± 0.37 | not measured | 1.7 |" in made
    assert "digits-50" not in made
    assert results["in_readme"](made, rows) == made
    with pytest.raises(ValueError, match="no place for the table"):
        results["in_readme"]("no mark", rows)
