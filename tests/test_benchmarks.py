"""Benchmarks begin: what they import is there. What they measure is no test."""

import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_a_benchmark_can_be_begun(path, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)  # some import each other
    assert runpy.run_path(str(path))["__doc__"]


class TestBeyond:
    beyond = runpy.run_path(str(FOLDER / "beyond.py"))

    def test_a_share_of_the_epochs_is_averaged_whatever_their_number(self):
        (twenty,), (many,) = (self.beyond["stages_of"]("a quarter averaged", 100, epochs) for epochs in (20, 300))
        assert (twenty.training["averaged_epochs"], many.training["averaged_epochs"]) == (5, 75)
        assert "averaged" not in many.training

    def test_another_start_is_that_of_the_trials_teacher_too(self):
        starts_of, untaught = self.beyond["starts_of"], self.beyond["untaught"]
        assert starts_of("cosine", [3, 4]) == [3, 4]
        assert starts_of("cosine + another start", [3, 4]) == [1003, 1004]
        assert untaught("another start + student") == "another start"

    def test_lines_are_added_whole_and_each_once(self, tmp_path, full_disk, capsys):
        chosen = self.beyond["argparse"].Namespace(
            labels=100, epochs=20, precision="float32", out=tmp_path / "beyond.jsonl"
        )
        found = {"errors": [1.5, 1.6], "costs": [6.1, 6.2], "seconds": 1.0, "machine": "some processor"}
        self.beyond["write"]("reference", [3, 4], found, chosen)
        self.beyond["write"]("reference", [4, 5], found, chosen)
        lines = self.beyond["read_lines"](chosen.out)
        assert [(line["seed"], line["error"], line["cost"]) for line in lines] == [
            (3, 1.5, 6.1),
            (4, 1.6, 6.2),
            (5, 1.6, 6.2),
        ]
        before = chosen.out.read_bytes()
        with pytest.raises(OSError, match="too large"):
            self.beyond["write"]("cosine", [3, 4], {**found, "machine": "x" * 20_000}, chosen)
        assert chosen.out.read_bytes() == before


class TestStarts:
    starts = runpy.run_path(str(FOLDER / "starts.py"))

    def test_of_each_draw_the_start_with_the_lowest_cost_is_taken(self):
        errors_and_costs = {100: [(1.0, 7), (3.0, 6), (8.0, 9)], 101: [(2.0, 5), (4.0, 8), (9.0, 6)]}
        same = {"20": 1, "50": 1, "100": 1}
        lines = [
            {"labels": 10, "draw": draw, "error": error, "costs": {**same, "10": 8 - number, "150": cost}}
            for draw, starts in errors_and_costs.items()
            for number, (error, cost) in enumerate(starts)
        ]
        others = [{**line, "labels": 20, "error": 50.0} for line in lines]
        found = self.starts["summary"](lines + others, 10)
        assert found["draws"] == 2
        assert (found["all"], found["least"]) == (4.5, 1.5)
        assert (found["epoch 10"], found["epoch 150"]) == (8.5, 2.5)
