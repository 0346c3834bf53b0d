import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laddernet.data.predictions import prediction_table, write_predictions
from laddernet.errors import DataError


class TestPredictions:
    def test_a_table_has_a_column_for_each_class(self):
        columns = prediction_table(np.array([0, 2]), np.array([2, 0]), np.array([[0.1, 0.9], [0.8, 0.2]]))
        assert list(columns) == ["prediction", "probability_0", "probability_2"]
        assert columns["probability_2"].tolist() == [0.9, 0.2]
        assert list(prediction_table(None, np.zeros(2))) == ["prediction"]
        with pytest.raises(ValueError, match="zip"):
            prediction_table([0, 1], np.zeros(2), np.ones((2, 3)))

    @settings(max_examples=30, deadline=None)
    @given(
        answers=st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), min_size=1, max_size=20),
        suffix=st.sampled_from([".csv", ".tsv.gz", ".parquet"]),
        data=st.data(),
    )
    def test_what_is_written_is_read_back_in_order(self, tmp_path_factory, answers, suffix, data):
        path = tmp_path_factory.mktemp("table") / f"p{suffix}"
        finite = st.floats(allow_nan=False, allow_infinity=False)
        numbers = np.array(data.draw(st.lists(finite, min_size=len(answers), max_size=len(answers))))
        write_predictions(path, {"prediction": np.array(answers, dtype=object), "probability_u": numbers})
        text = {"keep_default_na": False, "dtype": {"prediction": str}}
        separator = "\t" if "tsv" in suffix else ","
        found = pd.read_parquet(path) if suffix == ".parquet" else pd.read_csv(path, sep=separator, **text)
        assert found["prediction"].tolist() == answers
        np.testing.assert_array_equal(found["probability_u"], numbers)

    def test_whole_numbers_are_written_whole(self, tmp_path):
        write_predictions(tmp_path / "p.csv", {"prediction": np.array([1, 0])})
        assert (tmp_path / "p.csv").read_text().splitlines() == ["prediction", "1", "0"]

    def test_an_existing_file_is_kept_unless_told(self, tmp_path):
        path = tmp_path / "p.csv"
        path.write_text("mine")
        with pytest.raises(DataError, match="exists already"):
            write_predictions(path, {"prediction": np.zeros(2)})
        assert path.read_text() == "mine"
        write_predictions(path, {"prediction": np.zeros(2)}, overwrite=True)
        assert path.read_text().startswith("prediction")
        assert [found.name for found in tmp_path.iterdir()] == ["p.csv"]

    @pytest.mark.parametrize("name", ["p.csv", "p.tsv.gz", "p.parquet"])
    def test_a_full_disk_leaves_what_was_there(self, tmp_path, full_disk, name):
        path = tmp_path / name
        path.write_text("mine")
        numbers = np.random.default_rng(0).random(5000)
        with pytest.raises(DataError, match="cannot be written .*File too large"):
            write_predictions(path, ({"prediction": numbers} for _ in range(3)), overwrite=True)
        assert path.read_text() == "mine"
        assert [found.name for found in tmp_path.iterdir()] == [name]

    @pytest.mark.parametrize("name", ["p.csv", "p.csv.gz", "p.tsv", "p.parquet"])
    def test_parts_give_the_same_table_as_the_whole(self, tmp_path, name):
        answers, numbers = np.array(["a", 'b"', "c"] * 3, dtype=object), np.linspace(0, 1, 9)
        read = pd.read_parquet if name == "p.parquet" else lambda path: pd.read_csv(path, sep=None, engine="python")
        parts = ({"prediction": answers[i : i + 4], "probability_a": numbers[i : i + 4]} for i in (0, 4, 8))
        write_predictions(tmp_path / name, parts)
        write_predictions(tmp_path / f"whole.{name}", {"prediction": answers, "probability_a": numbers})
        pd.testing.assert_frame_equal(read(tmp_path / name), read(tmp_path / f"whole.{name}"))

    def test_a_part_that_cannot_be_made_leaves_what_was_there(self, tmp_path):
        def parts():
            yield {"prediction": np.zeros(2)}
            raise DataError("damaged further on")

        path = tmp_path / "p.csv"
        with pytest.raises(DataError, match="damaged further on"):
            write_predictions(path, parts())
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("p.txt", "suffix .txt"),
            ("p", r"suffix \(none\)"),
            ("p.npz", "are written as .csv"),
            ("no/p.csv", "cannot be written"),
        ],
    )
    def test_places_that_cannot_be_written_are_refused(self, tmp_path, name, message):
        with pytest.raises(DataError, match=message):
            write_predictions(tmp_path / name, {"prediction": np.zeros(2)})
