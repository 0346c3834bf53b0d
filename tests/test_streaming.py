"""Files larger than memory: read by parts they give what they give as a whole."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from laddernet import streaming
from laddernet.cli import app
from laddernet.data import formats
from laddernet.data.labels import hold_out
from laddernet.errors import DataError
from laddernet.preparation import Preparation
from laddernet.tables import FileOptions, is_large, prepare, read_labeled

ROWS = 260  # more than a part, in which there are 200 here


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(formats, "_ANSWERED", 200)
    monkeypatch.setattr(formats, "_PART_VALUES", 0)


def table(rows=ROWS):
    rng = np.random.default_rng(0)
    days = pd.Timestamp("2020-01-31") + pd.to_timedelta(rng.integers(0, 900, rows), unit="D")
    return pd.DataFrame({
        "age": np.where(rng.random(rows) < 0.1, np.nan, rng.integers(1, 90, rows)),
        "color": rng.choice(["red", "green", "blue"], rows),
        "code": [f"{number % 45:03d}" for number in range(rows)],
        "when": days.strftime("%Y-%m-%d"),
        "street": [f"road {number} x{other}" for number, other in enumerate(rng.integers(0, 99, rows))],
        "member": rng.random(rows) < 0.5,
        "large": rng.integers(0, 2**40, rows),
        "empty": np.nan,
        "late text": [*map(str, range(rows - 30)), "unknown", *map(str, range(29))],
        "height": np.where(np.arange(rows) % 3, "low", "inf"),
        "seen": np.where(np.arange(rows) < rows - 10, "2020-01-31T12:00:00Z", "never"),
        "late value": [*[np.nan] * (rows - 20), *range(20)],
        "kind": np.where(np.arange(rows) < 120, rng.choice(["NA", "b", "c"], rows), ""),
    })  # fmt: skip


def write(frame, path):
    if path.suffix == ".parquet":
        kind = frame["kind"].where(frame["kind"] != "", None)
        frame.assign(
            kind=kind, stamp=pd.to_datetime(frame["when"]), group=frame["color"].astype("category")
        ).to_parquet(path, row_group_size=70)
    else:
        frame.to_csv(path, sep="\t" if ".tsv" in path.name else ",")  # with an index, which only counts
    return path


def options(**others):
    return FileOptions(**{"label_column": "kind", "labels": 60, "drop": ("empty",), **others})


def assert_same(one, other):
    assert one.preparation.feature_names == other.preparation.feature_names
    for part in ("x_train", "x_test", "y_test"):
        np.testing.assert_array_equal(getattr(one, part)[:], getattr(other, part)[:])
    np.testing.assert_array_equal(one.known.numbers, other.known.numbers)
    assert one.known.values.tolist() == other.known.values.tolist()


@pytest.mark.filterwarnings("ignore:.*(only counts|counts as a class|is taken for text)")
class TestByParts:
    @pytest.mark.parametrize("name", ["t.csv", "t.tsv.gz", "t.parquet"])
    def test_it_is_the_same_as_the_whole(self, tmp_path, name):
        path = write(table(), tmp_path / name)
        parts = prepare(path, options(by_parts=True), folder=tmp_path)
        assert_same(prepare(path, options(by_parts=False)), parts)
        assert parts.fitted is None
        assert [found.name for found in tmp_path.iterdir()] == [name]

    @pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
    def test_a_sample_tells_what_the_columns_hold(self, tmp_path, monkeypatch, name):
        monkeypatch.setattr(streaming, "SAMPLE_ROWS", 60)
        path = write(table(), tmp_path / name)
        whole, parts = (prepare(path, options(by_parts=by_parts)) for by_parts in (False, True))
        assert parts.preparation.feature_names == whole.preparation.feature_names  # the late ones among them
        assert 60 < parts.fitted < 140
        assert parts.x_train.shape == whole.x_train.shape
        np.testing.assert_array_equal(parts.preparation.offsets > 0, whole.preparation.offsets > 0)
        again = prepare(path, options(by_parts=True))
        np.testing.assert_array_equal(again.x_train[:], parts.x_train[:])

    def test_nothing_is_learned_from_test_rows(self, tmp_path):
        frame = table()
        before = prepare(write(frame, tmp_path / "a.csv"), options(by_parts=True))
        marked = np.where(frame["kind"] == "", None, frame["kind"])
        frame.loc[hold_out(marked, 0.25, seed=0)[1], "age"] = 1e6
        after = prepare(write(frame, tmp_path / "b.csv"), options(by_parts=True))
        np.testing.assert_array_equal(after.preparation.medians, before.preparation.medians)
        np.testing.assert_array_equal(after.x_train[:], before.x_train[:])
        assert after.x_test.max() >= 1e6

    def test_labelled_rows_of_a_large_file_of_test_rows(self, tmp_path, monkeypatch):
        path = write(table(), tmp_path / "t.csv")
        prepared = prepare(path, options(by_parts=False, test_fraction=0))
        whole = read_labeled(path, prepared.preparation, label_column="kind", task="classification")
        monkeypatch.setattr("laddernet.tables.WHOLE_BYTES", 0)
        parts = read_labeled(path, prepared.preparation, label_column="kind", task="classification")
        np.testing.assert_array_equal(parts[0], whole[0])
        assert parts[1].tolist() == whole[1].tolist()
        assert_same(prepare(path, options(test=path)), prepare(path, options(test=path, by_parts=False)))

    def test_a_regression(self, tmp_path):
        frame = table().drop(columns=["late text"])
        frame["kind"] = np.where(np.arange(ROWS) < 90, np.arange(ROWS) * 0.5, np.nan)
        path = write(frame, tmp_path / "t.csv")
        assert_same(*(prepare(path, options(by_parts=by_parts)) for by_parts in (False, True)))


@pytest.mark.parametrize("sample", [10, 100_000])
def test_arrays_stay_where_they_are(tmp_path, monkeypatch, sample):
    monkeypatch.setattr(streaming, "SAMPLE_ROWS", sample)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 7))
    x[5, 2] = x[ROWS - 1, 3] = np.nan
    x[:, 6] = 2**30 + rng.integers(0, 9, ROWS)
    np.save(tmp_path / "X.npy", x)
    np.save(tmp_path / "y.npy", np.where(np.arange(ROWS) % 10 == 0, np.arange(ROWS) % 3, -1))
    whole = prepare(tmp_path / "X.npy", FileOptions(by_parts=False, seed=3))
    parts = prepare(tmp_path / "X.npy", FileOptions(seed=3))
    assert parts.preparation.feature_names == whole.preparation.feature_names
    assert "3_missing" in parts.preparation.feature_names
    if sample > ROWS:
        assert_same(whole, parts)
    np.testing.assert_allclose(parts.x_train[:], whole.x_train, atol=4)  # but for the medians
    assert sorted(found.name for found in tmp_path.iterdir()) == ["X.npy", "y.npy"]


def test_few_rows_of_many_parts_are_kept_in_few_pieces(monkeypatch):
    monkeypatch.setattr(streaming, "MOST_FRAMES", 5)
    monkeypatch.setattr(streaming, "SAMPLE_ROWS", 7)
    kept = streaming._Reservoir(np.random.default_rng(0))
    for start in range(60):
        kept.add(pd.DataFrame({"a": [start]}, index=[start]) if start % 20 == 0 else pd.DataFrame({"a": []}))
        assert len(kept._frames) <= 5
    assert kept.frame()["a"].tolist() == [0, 20, 40]
    for start in range(60, 200):
        kept.add(pd.DataFrame({"a": [start]}, index=[start]))
        assert len(kept._frames) <= 11
    assert len(kept.frame()) == 7
    assert kept.frame()["a"].max() > 60


class TestTrouble:
    def test_what_the_first_rows_did_not_show(self, tmp_path, monkeypatch):
        """A date that is none, far from the sampled rows: an error that names it, and its row in the file."""
        monkeypatch.setattr(streaming, "SAMPLE_ROWS", 10)
        frame = table()[["age", "when", "kind"]]
        frame.loc[239, "when"] = "soon"
        path = write(frame, tmp_path / "t.csv")
        with (
            pytest.raises(DataError, match="column 'when' held dates in the training rows, but row 240 holds 'soon'"),
            pytest.warns(UserWarning, match="only counts|counts as a class"),
        ):
            prepare(path, options(by_parts=True, drop=(), labels=None, test_fraction=0.1), folder=tmp_path)
        assert [found.name for found in tmp_path.iterdir()] == ["t.csv"]

    @pytest.mark.parametrize("name", ["t.csv", "X.npy"])
    @pytest.mark.parametrize("value", [-np.inf, 1e39])
    def test_an_infinite_number_is_found_at_once(self, tmp_path, name, value):
        x = np.ones((ROWS, 2))
        x[222, 1] = value
        if name == "X.npy":
            np.save(tmp_path / name, x)
            np.save(tmp_path / "y.npy", np.arange(ROWS) % 2)
        else:
            pd.DataFrame(x).assign(kind=np.arange(ROWS) % 2).to_csv(tmp_path / name, index=False)
        label = None if name == "X.npy" else "kind"
        with pytest.raises(DataError, match=rf"{name}: column '1' is infinite, or beyond 3.4e.38, in row 223"):
            prepare(tmp_path / name, FileOptions(label_column=label, by_parts=True))

    @pytest.mark.parametrize("by_parts", [True, False])
    def test_an_infinite_number_has_its_row_of_the_file(self, tmp_path, by_parts):
        x = np.ones((ROWS, 2))
        frame = pd.DataFrame(x, columns=["a", "b"]).assign(kind=np.where(np.arange(ROWS) % 4, "", "uv"[0]))
        frame.loc[::8, "kind"] = "v"
        frame.to_csv(tmp_path / "whole.csv", index=False)
        frame.loc[ROWS - 4, "b"] = np.inf  # with a label
        frame.to_csv(tmp_path / "t.csv", index=False)
        given = FileOptions(label_column="kind", by_parts=by_parts)
        with pytest.raises(DataError, match=rf"t.csv: column 'b' is infinite.* in row {ROWS - 3}\."):
            prepare(tmp_path / "t.csv", given)
        with pytest.raises(DataError, match=rf"t.csv: column 'b' is infinite.* in row {ROWS - 3}\."):
            prepare(
                tmp_path / "whole.csv", FileOptions(label_column="kind", by_parts=by_parts, test=tmp_path / "t.csv")
            )

    @pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
    @pytest.mark.parametrize("by_parts", [True, False])
    def test_a_labels_column_that_is_not_there(self, tmp_path, name, by_parts):
        path = write(table(), tmp_path / name)
        for label, message in (("kin", "t.* has no column 'kin'.*one of 'kind'"), (None, "which column holds the")):
            with pytest.raises(DataError, match=message):
                prepare(path, FileOptions(label_column=label, by_parts=by_parts))

    @pytest.mark.parametrize("by_parts", [True, False])
    def test_two_columns_of_one_name(self, tmp_path, by_parts):
        columns = pa.array(np.arange(9.0)), pa.array(np.arange(9.0)), pa.array(list("uvuvuvuvu"))
        parquet.write_table(pa.Table.from_arrays(columns, ["a", "a", "kind"]), tmp_path / "t.parquet")
        with pytest.raises(DataError, match=r"t.parquet has more than one column named 'a'"):
            prepare(tmp_path / "t.parquet", FileOptions(label_column="kind", by_parts=by_parts))

    def test_an_array_that_changes_meanwhile(self, tmp_path):
        np.save(tmp_path / "X.npy", np.ones((20, 2)))
        preparation = Preparation.fit(np.ones((20, 2)))
        with pytest.raises(DataError, match=r"X.npy had 21 rows at first, and then 20"):
            streaming.prepared_rows(tmp_path / "X.npy", "y", preparation, 21, None)

    def test_no_room(self, tmp_path, full_disk):
        (tmp_path / "t.csv").write_text("a,b,kind\n" + "1,2,\n" * 1298 + "1,2,u\n3,2,v\n")
        with pytest.raises(DataError, match=r"prepared rows of .*t.csv, 10,400 bytes, cannot be written.*Make room"):
            prepare(
                tmp_path / "t.csv", FileOptions(label_column="kind", by_parts=True, test_fraction=0), folder=tmp_path
            )
        assert [found.name for found in tmp_path.iterdir()] == ["t.csv"]

    def test_a_counting_column_that_stops_to_count(self, tmp_path):
        frame = pd.DataFrame({"": range(ROWS), "a": 1.0, "kind": "u"})
        frame.loc[210, ""] = 7
        frame.to_csv(tmp_path / "t.csv", index=False)
        with (
            pytest.raises(DataError, match="a column without a name counts the rows up to 200, and then no more"),
            pytest.warns(UserWarning, match="only counts the rows"),
        ):
            prepare(tmp_path / "t.csv", FileOptions(label_column="kind", by_parts=True))

    def test_an_archive_is_read_whole(self, tmp_path):
        assert not is_large(tmp_path / "rows.npz")
        with pytest.raises(DataError, match="is an archive, which is read whole: save its X as an .npy"):
            prepare(tmp_path / "rows.npz", FileOptions(by_parts=True))

    def test_labels_beside_a_table_or_a_column_of_an_array(self, tmp_path):
        path = write(table(), tmp_path / "t.csv")
        with pytest.raises(DataError, match="has its labels within"):
            prepare(path, options(by_parts=True, labels_path=path))
        np.save(tmp_path / "X.npy", np.ones((3, 3)))
        with pytest.raises(DataError, match="is one array, with no column 'kind'"):
            prepare(tmp_path / "X.npy", options(by_parts=True))
        with (
            pytest.raises(DataError, match="cannot be left out"),
            pytest.warns(UserWarning, match="only counts|counts as a class"),
        ):
            prepare(path, options(by_parts=True, drop=("kind",)))


@pytest.mark.filterwarnings("ignore:.*(only counts|counts as a class|is taken for text)")
class TestPredict:
    @pytest.mark.parametrize("name", ["t.csv", "t.tsv.gz", "t.parquet", "X.npy"])
    def test_by_parts_it_answers_as_from_the_whole(self, tmp_path, name):
        if name == "X.npy":
            np.save(tmp_path / name, table()[["age", "large"]].to_numpy())
            np.save(tmp_path / "y.npy", np.where(np.arange(ROWS) < 40, np.arange(ROWS) % 2, -1))
        path = tmp_path / name if name == "X.npy" else write(table(), tmp_path / name)
        label = () if name == "X.npy" else ("--label-column", "kind")
        call("train", path, *label, "--epochs", 2, "--no-baseline", "--by-parts", "--out", tmp_path / "run")
        for how in ("parts.csv", "whole.csv"):
            flag = "--by-parts" if how == "parts.csv" else "--whole"
            said = call("predict", tmp_path / "run", path, flag, "--out", tmp_path / how)
            assert f"{ROWS} predictions written" in said
        assert (tmp_path / "parts.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()

    def test_damage_further_on_leaves_no_answers(self, tmp_path):
        path = write(table(), tmp_path / "t.csv")
        call("train", path, "--label-column", "kind", "--epochs", 1, "--no-baseline", "--out", tmp_path / "run")
        with path.open("a") as file:
            file.write("too,many,cells" * 9 + "\n")
        said = call("predict", tmp_path / "run", path, "--by-parts", "--out", tmp_path / "p.csv", status=1)
        assert "t.csv has lines with more cells than columns" in said
        assert not (tmp_path / "p.csv").exists()

    def test_a_folder_is_not_a_file(self, tmp_path):
        path = write(table(), tmp_path / "t.csv")
        call("train", path, "--label-column", "kind", "--epochs", 1, "--no-baseline", "--out", tmp_path / "run")
        assert "is for a file" in call("predict", tmp_path / "run", tmp_path, "--by-parts", status=2)


def call(*arguments, status=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output
    return result.output
