"""Make the table of docs/reliability.md: run every test of a fault, and count. Usage: python tools/reliability.py."""

import json
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- made by make reliability -->", "<!-- end of what make reliability made -->"


class Faults:
    """A pytest plugin: how often each fault was tried, and the tests that failed."""

    def __init__(self) -> None:
        self.tried: dict[tuple[str, str, str], int] = defaultdict(int)
        self.failed: list[str] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> object:
        report = yield
        for mark in item.iter_markers("fault") if report.when == "call" else ():
            name, left = mark.args
            self.tried[name, mark.kwargs.get("lost", "nothing"), left] += mark.kwargs.get("times", 1)
        if report.outcome != "passed":
            self.failed.append(item.nodeid)
        return report


def rows(faults: Faults) -> list[str]:
    killed = json.loads((ROOT / "results" / "kill_resume.json").read_text(encoding="utf-8"))
    if killed["runs_with_other_weights"]:
        sys.exit("results/kill_resume.json has runs that ended with other weights.")
    found = [(name, times, lost, left) for (name, lost, left), times in faults.tried.items()]
    name = "kill -9 of `laddernet train` at a random moment (`benchmarks/kill_resume.py`)"
    end = "goes on; the run is bit for bit that of an undisturbed one"
    found.append((name, killed["kills"], "the work since the last state, which is done again", end))
    lines = [f"| {name[0].upper()}{name[1:]} | {times} | {lost} | {left} |" for name, times, lost, left in found]
    return ["| what befalls a run | tried | lost | what happens |", "| --- | ---: | --- | --- |", *lines]


def main() -> None:
    faults = Faults()
    status = pytest.main(["-m", "fault", "-q", "-p", "no:cacheprovider", str(ROOT / "tests")], plugins=[faults])
    if status or faults.failed:
        sys.exit(f"no table is made of tests that fail: {', '.join(faults.failed)}")
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text("\n".join([before.rstrip() + "\n", BEGIN, "", *rows(faults), "", END]) + after, encoding="utf-8")


if __name__ == "__main__":
    main()
