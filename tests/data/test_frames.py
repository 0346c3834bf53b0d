import gzip
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laddernet.data.files import read_rows
from laddernet.errors import DataError


def labels_of(write, *cells):
    rows = read_rows(write("a,y\n" + "".join(f"1,{cell}\n" for cell in cells)), label_column="y")
    return rows.y, rows.labeled.tolist()


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


def test_a_column_of_numbers_and_text_is_read_as_one_kind_without_a_warning(write):
    rows = read_rows(write("a,y\n" + "1,u\n" * 300_000 + "text,v\n"), label_column="y")
    assert set(rows.x["a"]) == {"1", "text"}
