import gzip
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laddernet.data.files import prediction_table, read_rows, tell_task, write_predictions
from laddernet.errors import DataError


@pytest.fixture
def write(tmp_path):
    def to_file(content, name="rows.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return to_file


def labels_of(write, *cells):
    rows = read_rows(write("a,y\n" + "".join(f"1,{cell}\n" for cell in cells)), label_column="y")
    return rows.y, rows.labeled.tolist()


def save_npz(path, **arrays):
    np.savez(path, **arrays)
    return path


class TestTables:
    def test_features_and_labels_come_in_the_files_order(self, write):
        rows = read_rows(write("a,y,b\n1,u,x\n2,,\n3,v,z\n"), label_column="y")
        assert list(rows.x) == ["a", "b"]
        assert rows.x["a"].tolist() == [1, 2, 3]
        assert rows.x["b"].isna().tolist() == [False, True, False]
        assert rows.y.tolist() == ["u", None, "v"]
        assert rows.labeled.tolist() == [True, False, True]
        assert rows.label == "y"

    @pytest.mark.parametrize(
        ("cells", "labels", "dtype"),
        [
            (("0", "", "2"), [0, None, 2], object),
            (("0.0", "1.0"), [0, 1], np.int64),
            (("0.0", "  ", "-1.0"), [0, None, -1], object),
            (("1.5", "", "2"), [1.5, np.nan, 2.0], np.float64),
            (("007", "7", ""), ["007", "7", None], object),
            ((" cat", "cat  ", '" "'), ["cat", "cat", None], object),
            (("True", "False", ""), ["True", "False", None], object),
            (("1", "two", ""), ["1", "two", None], object),
            (("99999999999999999999", "1"), [1e20, 1.0], np.float64),
        ],
    )
    def test_labels_of_a_csv_are_what_the_text_says(self, write, cells, labels, dtype):
        y, labeled = labels_of(write, *cells)
        np.testing.assert_array_equal(y, np.array(labels, dtype=dtype))
        assert [type(label) for label in y.tolist()] == [type(label) for label in labels]
        assert y.dtype == dtype
        assert labeled == [label is not None and label == label for label in labels]

    def test_marks_of_missing_values_are_classes_with_a_warning(self, write):
        with pytest.warns(UserWarning, match="the labels 'y' hold 'NA', 'None', 'nan', 'null', which"):
            y, labeled = labels_of(write, "NA", "None", "nan", "null", "cat", "")
        assert y.tolist() == ["NA", "None", "nan", "null", "cat", None]
        assert y.dtype == object
        assert labeled == [True] * 5 + [False]

    def test_marks_of_missing_values_are_classes_in_parquet_too(self, tmp_path):
        pd.DataFrame({"a": [1, 2, 3], "y": ["NA", None, " "]}).to_parquet(tmp_path / "r.parquet")
        with pytest.warns(UserWarning, match="hold 'NA', which counts as a class"):
            rows = read_rows(tmp_path / "r.parquet", label_column="y")
        assert rows.y.tolist() == ["NA", None, None]
        assert rows.labeled.tolist() == [True, False, False]

    def test_columns_that_are_text_stay_as_they_are_written(self, write):
        path = write("code,n,y\n001,1.0,u\n1,1.0,v\n")
        assert read_rows(path, label_column="y").x["code"].tolist() == [1, 1]
        rows = read_rows(path, label_column="y", text_columns=["code", "n", "elsewhere"])
        assert rows.x.to_numpy().tolist() == [["001", "1.0"], ["1", "1.0"]]

    def test_for_prediction_labels_are_not_looked_at(self, write):
        rows = read_rows(write("a,y\n1,inf\n2,?\n3,2\n"), label_column="y", labels_required=False)
        assert (list(rows.x), rows.y, rows.labeled.tolist()) == (["a"], None, [False] * 3)

    def test_a_line_too_short_has_no_label(self, write):
        rows = read_rows(write("a,y\n1,u\n2\n"), label_column="y")
        assert rows.labeled.tolist() == [True, False]

    @pytest.mark.parametrize("mark", ["NA", "NaN", "None"])
    def test_a_mark_among_numbers_is_refused(self, write, mark):
        with pytest.raises(DataError, match=f"are numbers, but also '{mark}'. Leave the cell empty"):
            labels_of(write, "1.5", mark, "2")

    @settings(max_examples=30, deadline=None)
    @given(
        cells=st.lists(
            st.sampled_from(["", " ", "NA", "red", "None", "blue ", "a,b", 'quo"te']), min_size=1, max_size=20
        )
    )
    def test_the_mask_is_where_cells_are_not_blank(self, tmp_path_factory, cells):
        path = tmp_path_factory.mktemp("mask") / "rows.csv"
        pd.DataFrame({"y": cells, "a": range(len(cells))}).to_csv(path, index=False)
        known = [cell.strip() or None for cell in cells]
        if not any(known):
            with pytest.raises(DataError, match="no row has a label"):
                read_rows(path, label_column="y")
            return
        with warnings.catch_warnings(action="ignore"):  # of classes named NA and None
            rows = read_rows(path, label_column="y")
        assert rows.labeled.tolist() == [cell is not None for cell in known]
        assert rows.y.tolist() == known

    @pytest.mark.parametrize("name", ["r.csv", "r.CSV", "r.csv.gz", "r.tsv", "r.tsv.gz"])
    def test_every_kind_of_csv_is_read(self, write, name):
        content = "a,y\n1,u\n".replace(",", "\t" if ".tsv" in name else ",").encode()
        rows = read_rows(write(gzip.compress(content) if name.endswith("gz") else content, name), label_column="y")
        assert (rows.x["a"].tolist(), rows.y.tolist()) == ([1], ["u"])

    def test_a_byte_order_mark_is_no_part_of_a_name(self, write):
        assert read_rows(write(b"\xef\xbb\xbfy,a\nu,1\n"), label_column="y").y.tolist() == ["u"]

    def test_a_counter_without_a_name_is_left_out(self, write):
        with pytest.warns(UserWarning, match="only counts the rows"):
            rows = read_rows(write(",a,y\n0,5,u\n1,6,v\n"), label_column="y")
        assert list(rows.x) == ["a"]

    @pytest.mark.parametrize("content", [",a,y\n1,5,u\n0,6,v\n", "n,a,y\n0,5,u\n1,6,v\n"])
    def test_other_columns_that_count_are_kept(self, write, content):
        assert read_rows(write(content), label_column="y").x.shape == (2, 2)

    def test_labels_may_be_absent_for_prediction(self, write):
        path = write("a,y\n1,u\n2,\n")
        rows = read_rows(write("a\n1\n", "new.csv"), label_column="y", labels_required=False)
        assert (list(rows.x), rows.y, rows.labeled.tolist(), rows.label) == (["a"], None, [False], None)
        assert list(read_rows(path, label_column="y", labels_required=False).x) == ["a"]
        assert list(read_rows(path, labels_required=False).x) == ["a", "y"]

    @pytest.mark.parametrize(
        ("column", "labels"),
        [
            (pd.Series([0.0, np.nan, 2.0]), [0, None, 2]),
            (pd.Series([0, None, 2], dtype="Int64"), [0, None, 2]),
            (pd.Series([1.5, np.nan, 2.0]), [1.5, None, 2.0]),
            (pd.Series(["red", None, " "]), ["red", None, None]),
            (pd.Series(["1", None, "2"]), ["1", None, "2"]),
            (pd.Series(["u", None, "v"], dtype="category"), ["u", None, "v"]),
            (pd.Series([True, None, False], dtype="boolean"), ["True", None, "False"]),
        ],
    )
    def test_labels_of_parquet_keep_their_kind(self, tmp_path, column, labels):
        pd.DataFrame({"a": [1, 2, 3], "y": column}).to_parquet(tmp_path / "r.parquet")
        rows = read_rows(tmp_path / "r.parquet", label_column="y")
        assert [None if y != y else y for y in rows.y.tolist()] == labels
        assert rows.labeled.tolist() == [label is not None for label in labels]

    def test_an_index_of_parquet_is_no_feature(self, tmp_path):
        pd.DataFrame({"a": [1, 2], "y": [0, 1]}, index=[7, 3]).to_parquet(tmp_path / "r.parquet")
        rows = read_rows(tmp_path / "r.parquet", label_column="y")
        assert (list(rows.x), rows.x.index.tolist()) == (["a"], [0, 1])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.csv", "", "is empty"),
        ("r.csv", "a,y\n", "0 rows and 2 columns"),
        ("r.csv", "a,y,a\n1,2,3\n", "more than one column named 'a'"),
        ("r.csv", "a;y\n1;2\n", "separated by a semicolon, not by a comma"),
        ("r.csv", "a\ty\n1\t2\n", "separated by a tab, not by a comma"),
        ("r.tsv", "a,y\n1,2\n", "separated by a comma, not by a tab"),
        ("r.csv", b"a,y\ncaf\xe9,2\n", "not UTF-8 text .byte 0xe9"),
        ("r.csv", b"caf\xe9,y\n1,2\n", "not UTF-8 text .byte 0xe9"),
        ("r.csv", "a,y\n1,2\n1,2,3\n", "more cells than columns .*line 3"),
        ("r.csv", "a,y\n1,2,3\n1,2,3\n", "more cells than columns"),
        ("r.csv", "a,b\n1,2\n", "no column 'y' .* one of 'a', 'b'"),
        ("r.csv", "a,y\n1,\n2, \n", "no row has a label in 'y'"),
        ("r.csv", "y\n1\n", "no other column"),
        ("r.csv", "a,y\n1,0\n1,inf\n", "row 2 has an infinite 'y'"),
        ("r.csv.gz", "a,y\n1,2\n", "damaged"),
        ("r.csv.gz", gzip.compress(b"a,y\n" + b"1,2\n" * 999, mtime=0)[:-12], "damaged"),
        ("r.parquet", "PAR1", "damaged"),
        ("r.npz", "PK", "damaged"),
        ("r.npz", "", "damaged"),
        ("r.xlsx", "a", "suffix .xlsx"),
        ("r", "a", r"suffix \(none\)"),
    ],
)
def test_files_that_cannot_be_used_are_refused_by_name(write, name, content, message):
    path = write(content, name)
    with pytest.raises(DataError, match=message) as caught:
        read_rows(path, label_column="y")
    assert str(path) in str(caught.value)


def test_what_is_not_a_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="not there"):
        read_rows(tmp_path / "none.csv", label_column="y")
    with pytest.raises(DataError, match="a folder"):
        read_rows(tmp_path, label_column="y")


def test_columns_are_listed_and_close_names_first(write):
    path = write("age,income,species\n1,2,u\n")
    with pytest.raises(DataError, match="one of 'species', 'age', 'income'"):
        read_rows(path, label_column="specie")
    with pytest.raises(
        DataError, match="which column holds the labels. Name one with --label-column .*: 'age', 'income', 'species'"
    ):
        read_rows(path)


def test_parquet_cut_short_or_with_strange_labels_is_refused(tmp_path):
    path = tmp_path / "r.parquet"
    pd.DataFrame({"a": [1, 2], "y": pd.to_datetime(["2020-01-01", "2020-01-02"])}).to_parquet(path)
    with pytest.raises(DataError, match="labels 'y' are of kind datetime"):
        read_rows(path, label_column="y")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="damaged"):
        read_rows(path, label_column="y")


class TestArrays:
    X = np.arange(6.0).reshape(3, 2)

    @pytest.mark.parametrize(
        ("y", "labels"),
        [
            (np.array([0, -1, 2]), [0, None, 2]),
            (np.array([0, 1, 255], dtype=np.uint8), [0, 1, 255]),
            (np.array([[0], [-1], [2]], dtype=np.int8), [0, None, 2]),
            (np.array([0.0, np.nan, -1.0], dtype=np.float32), [0, None, -1]),
            (np.array([0.5, np.nan, 2.0]), [0.5, None, 2.0]),
            (np.array(["NA", "", " "]), ["NA", None, None]),
            (np.array([True, False, True]), ["True", "False", "True"]),
        ],
    )
    def test_labels_of_npz(self, tmp_path, y, labels):
        rows = read_rows(save_npz(tmp_path / "r.npz", X=self.X, y=y))
        np.testing.assert_array_equal(rows.x, self.X)
        assert [None if label != label else label for label in rows.y.tolist()] == labels
        assert rows.labeled.tolist() == [label is not None for label in labels]
        assert rows.label == "y"

    @pytest.mark.parametrize("names", [("X.npy", "y.npy"), ("X_train.npy", "y_train.npy"), ("Xs_X.npy", "Xs_y.npy")])
    def test_the_labels_of_npy_are_in_the_file_of_the_same_name(self, tmp_path, names):
        np.save(tmp_path / names[0], self.X)
        with pytest.raises(DataError, match=f"looked for in .*{names[1]}"):
            read_rows(tmp_path / names[0])
        assert read_rows(tmp_path / names[0], labels_required=False).y is None
        np.save(tmp_path / names[1], np.array([1, -1, 0]))
        assert read_rows(tmp_path / names[0]).y.tolist() == [1, None, 0]

    def test_the_labels_of_npy_may_be_named(self, tmp_path):
        np.save(tmp_path / "rows.npy", self.X)
        with pytest.raises(DataError, match="which file holds the labels"):
            read_rows(tmp_path / "rows.npy")
        np.save(tmp_path / "answers.npy", np.array(["u", "", "v"]))
        rows = read_rows(tmp_path / "rows.npy", labels_path=tmp_path / "answers.npy")
        assert rows.y.tolist() == ["u", None, "v"]
        with pytest.raises(DataError, match="no column 'k'"):
            read_rows(tmp_path / "rows.npy", label_column="k")
        with pytest.raises(DataError, match="looked for in .*other.npy"):
            read_rows(tmp_path / "rows.npy", labels_path=tmp_path / "other.npy", labels_required=False)

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"x": X, "y": np.zeros(3)}, "no array X of the features; it holds x, y"),
            ({"X": X, "z": np.zeros(3)}, "no array y of the labels; it holds X, z"),
            ({"X": X.reshape(3, 2, 1), "y": np.zeros(3)}, r"X has shape \(3, 2, 1\), not \(rows, features\). Reshape"),
            ({"X": X.astype(str), "y": np.zeros(3)}, "X is of <U"),
            ({"X": X[:0], "y": np.zeros(0)}, "no data"),
            ({"X": X, "y": np.zeros(4)}, r"have shape \(4,\), but X has 3 rows"),
            ({"X": X, "y": np.zeros((3, 2))}, r"have shape \(3, 2\)"),
            ({"X": X, "y": np.full(3, -1)}, "no row has a label"),
            ({"X": X, "y": np.array([0, np.nan, np.inf])}, "row 3 has an infinite 'y'"),
            ({"X": X, "y": np.zeros(3, dtype=complex)}, "are of complex128"),
            ({"X": X, "y": np.array(["u", None, "v"], dtype=object)}, "Python objects, which are not read"),
        ],
    )
    def test_arrays_of_the_wrong_form_are_refused(self, tmp_path, arrays, message):
        path = save_npz(tmp_path / "r.npz", **arrays)
        with pytest.raises(DataError, match=message) as caught:
            read_rows(path)
        assert str(path) in str(caught.value)

    def test_labels_may_be_absent_for_prediction(self, tmp_path):
        rows = read_rows(save_npz(tmp_path / "r.npz", X=self.X), labels_required=False)
        assert (rows.y, rows.labeled.tolist(), rows.label) == (None, [False] * 3, None)

    @pytest.mark.parametrize("kept", [0.3, 0.7, 0.99])
    @pytest.mark.parametrize("name", ["r.npz", "X.npy"])
    def test_files_cut_short_are_refused(self, tmp_path, name, kept):
        path = tmp_path / name
        if name == "r.npz":
            np.savez(path, X=np.ones((50, 9)), y=np.zeros(50))
        else:
            np.save(path, np.ones((50, 9)))
            np.save(tmp_path / "y.npy", np.zeros(50))
        content = path.read_bytes()
        path.write_bytes(content[: int(kept * len(content))])
        with pytest.raises(DataError, match="damaged"):
            read_rows(path)

    def test_a_damaged_member_is_refused(self, tmp_path):
        path = save_npz(tmp_path / "r.npz", X=np.ones((50, 9)), y=np.zeros(50))
        content = bytearray(path.read_bytes())
        content[1000] ^= 255
        path.write_bytes(content)
        with pytest.raises(DataError, match="damaged"):
            read_rows(path)

    def test_no_pickle_is_ever_loaded(self, tmp_path):
        np.save(tmp_path / "X.npy", np.array([[{}]], dtype=object), allow_pickle=True)
        with pytest.raises(DataError, match="Python objects"):
            read_rows(tmp_path / "X.npy", labels_required=False)

    def test_a_suffix_that_lies_is_refused(self, tmp_path):
        np.savez(tmp_path / "r.npz", X=self.X)
        (tmp_path / "r.npz").rename(tmp_path / "X.npy")
        with pytest.raises(DataError, match="not what its suffix says"):
            read_rows(tmp_path / "X.npy", labels_required=False)

    def test_labels_within_have_no_file(self, write, tmp_path):
        with pytest.raises(DataError, match="has its labels within"):
            read_rows(write("a,y\n1,2\n"), label_column="y", labels_path=tmp_path / "y.npy")


@pytest.mark.parametrize(
    ("y", "task"),
    [
        (["u", "v"], "classification"),
        (np.array(["u", "v"], dtype=object), "classification"),
        ([True, False], "classification"),
        (pd.Series([1.5, 2.5], dtype="category").astype(str), "classification"),
        ([0.5, 1.0, 1.0, 1.0], "regression"),
        ([3], "classification"),
        ([0, 7], "classification"),
        (np.array([0, 7, 7], dtype=object), "classification"),
        ([0.0, 7.0], "classification"),
        ([0, 1, 2, 3, 4], "regression"),
        ([0, 1, 2, 0, 1], "regression"),
        ([0, 1, 2, 0, 1, 2], "classification"),
        ([0, 1, 2, 2, 2, 2], "classification"),
        (list(range(20)) * 2, "classification"),
        (list(range(21)) * 9, "regression"),
        (list(range(-9, 21)), "regression"),
    ],
)
def test_the_task_is_told_from_the_labels(y, task):
    assert tell_task(y) == task


def test_a_task_that_cannot_be_told():
    with pytest.raises(DataError, match="no row has a label"):
        tell_task([])
    with pytest.raises(DataError, match="one of the classes is -1"):
        tell_task([-1, 1, 1, -1])


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
        ("name", "message"), [("p.txt", "suffix"), ("p.npz", "are written as"), ("no/p.csv", "cannot be written")]
    )
    def test_places_that_cannot_be_written_are_refused(self, tmp_path, name, message):
        with pytest.raises(DataError, match=message):
            write_predictions(tmp_path / name, {"prediction": np.zeros(2)})


def test_a_column_of_numbers_and_text_is_read_as_one_kind_without_a_warning(write):
    rows = read_rows(write("a,y\n" + "1,u\n" * 300_000 + "text,v\n"), label_column="y")
    assert set(rows.x["a"]) == {"1", "text"}
