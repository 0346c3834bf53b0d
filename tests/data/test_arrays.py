import numpy as np
import pytest

from laddernet.data.files import read_rows
from laddernet.errors import DataError


def save_npz(path, **arrays):
    np.savez(path, **arrays)
    return path


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
