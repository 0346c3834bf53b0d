import gzip

import numpy as np
import pandas as pd
import pytest

from laddernet.data.files import read_rows, tell_task
from laddernet.errors import DataError


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
