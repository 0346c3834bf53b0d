"""A results file is whole at any time, and has each seed once."""

import json
import multiprocessing
from dataclasses import replace

import pytest
import torch
from filelock import FileLock

from laddernet import results_file
from laddernet.errors import RunError
from laddernet.recipes import RECIPES
from laddernet.results_file import add_results, read_lines, read_results, settings_of, write_json, write_lines

RECIPE = replace(RECIPES["digits-50"], name="quick", max_epochs=2)


def entry(seed, error=1.5):
    return {"seed": seed, "test_error": error}


def write(path, seeds):
    path.write_text(json.dumps({"recipe": "quick", "settings": settings_of(RECIPE), "seeds": seeds}))


def test_no_file_means_no_results(tmp_path):
    assert read_results(tmp_path / "none.json", RECIPE) == []


def test_entries_are_added_in_the_order_of_their_seeds_and_each_once(tmp_path):
    path = tmp_path / "quick.json"
    assert add_results(path, RECIPE, [entry(3), entry(1)]) == [entry(3), entry(1)]
    assert add_results(path, RECIPE, [entry(1, 9.9), entry(2)]) == [entry(2)]
    assert read_results(path, RECIPE) == [entry(1), entry(2), entry(3)]
    assert [path.name for path in tmp_path.iterdir()] == ["quick.json"]


def add_many(path, seeds, barrier):
    for seed in seeds:
        barrier.wait(60)
        add_results(path, RECIPE, [entry(seed)])


@pytest.mark.fault("two processes add results to one file at once", "both are there")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_processes_that_add_at_once_lose_nothing(tmp_path):
    context = multiprocessing.get_context("forkserver" if torch.cuda.is_available() else "fork")
    barrier = context.Barrier(3)
    seeds = [range(first, 60, 3) for first in range(3)]
    processes = [context.Process(target=add_many, args=(tmp_path / "quick.json", part, barrier)) for part in seeds]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert [found["seed"] for found in read_results(tmp_path / "quick.json", RECIPE)] == list(range(60))
    assert [path.name for path in tmp_path.iterdir()] == ["quick.json"]


def test_a_lock_that_is_not_given_up_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(results_file, "PATIENCE", 0.1)
    path = tmp_path / "quick.json"
    write(path, [entry(0)])
    before = path.read_bytes()
    with FileLock(tmp_path / ".quick.json.lock"), pytest.raises(RunError, match="kept locked by another process"):
        add_results(path, RECIPE, [entry(1)])
    assert path.read_bytes() == before


OTHER_FILES = ["", "{", "[]", '{"recipe": "quick"}', '{"recipe": "quick", "seeds": []}']
OTHER_FILES += ['{"recipe": "other", "seeds": []}', '{"recipe": "quick", "seeds": [{}]}']


@pytest.mark.parametrize("content", OTHER_FILES)
def test_a_file_that_is_something_else_is_left_alone(tmp_path, content):
    path = tmp_path / "quick.json"
    path.write_text(content)
    with pytest.raises(RunError, match="quick.json is not a results file"):
        add_results(path, RECIPE, [entry(0)])
    assert path.read_text() == content
    assert [path.name for path in tmp_path.iterdir()] == ["quick.json"]


@pytest.mark.parametrize(
    "seeds",
    [
        {"0": entry(0)},
        "seed test_error",
        ["seed test_error"],
        [None],
        [entry("0")],
        [entry(None)],
        [entry(0.0)],
        [entry(True)],
        [entry(0, None)],
        [entry(0, "1.5")],
        [entry(0, float("nan"))],
        [entry(0), {"seed": 1}],
    ],
)
def test_what_is_no_entry_is_refused(tmp_path, seeds):
    write(tmp_path / "quick.json", seeds)
    with pytest.raises(RunError, match=r"quick.json is not a results file \(.+\); move it away"):
        read_results(tmp_path / "quick.json", RECIPE)


def test_a_seed_that_is_there_twice_is_refused(tmp_path):
    write(tmp_path / "quick.json", [entry(0), entry(1), entry(0, 2.5)])
    with pytest.raises(RunError, match="has seed 0 more than once"):
        read_results(tmp_path / "quick.json", RECIPE)


@pytest.mark.parametrize(("change", "named"), [({"name": "other"}, "of other"), ({"labels": 40}, "other settings")])
def test_results_of_another_recipe_are_refused(tmp_path, change, named):
    write(tmp_path / "quick.json", [entry(0)])
    with pytest.raises(RunError, match=named):
        read_results(tmp_path / "quick.json", replace(RECIPE, **change))


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path, full_disk):
    path = tmp_path / "some.json"
    write_json(path, [1])
    with pytest.raises(OSError, match="too large"):
        write_json(path, ["x" * 1_000_000])
    assert json.loads(path.read_text()) == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["some.json"]


def test_lines_are_read_as_they_were_written(tmp_path):
    path, lines = tmp_path / "folder/trials.jsonl", [{"error": 0.1, "machine": "é\n"}, {}]
    assert read_lines(path) == []
    write_lines(path, lines)
    assert read_lines(path) == lines
    assert len(path.read_text(encoding="utf-8").splitlines()) == 2
