"""Rows on disk: what they give, that training on them is training on the array, and that memory stays bounded."""

import json
import os
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from laddernet import LadderClassifier, LadderRegressor, networks
from laddernet.data.labels import SparseLabels
from laddernet.estimators import fit_together
from laddernet.loop import Callback, TrainingStopped
from laddernet.resume import Checkpoint
from laddernet.rows import RowsFile, StoredRows, among_others, blocks, is_mapped, stored

X, Y = load_digits(return_X_y=True)
X = X[:400, :61]  # a row's bytes are no multiple of what processors like
FEW = np.where(np.arange(400) < 60, Y[:400], -1)


def mapped(folder, array, mode="r"):
    np.save(folder / "rows.npy", array)
    return np.load(folder / "rows.npy", mmap_mode=mode)


def small(**settings):
    return LadderClassifier(**{"hidden_layer_sizes": (12,), "max_epochs": 3, "random_state": 0, **settings})


def assert_same(one, other, x, x_mapped):
    for name, value in one.ladder_.state_dict().items():
        assert torch.equal(value, other.ladder_.state_dict()[name]), name
    np.testing.assert_array_equal(one.predict(x), other.predict(x_mapped))
    np.testing.assert_array_equal(one.transform(x), other.transform(x_mapped))
    drop = {"seconds"}
    for mine, theirs in zip(one.history_, other.history_, strict=True):
        assert {k: v for k, v in mine.items() if k not in drop} == {k: v for k, v in theirs.items() if k not in drop}


class TestStoredRows:
    @given(st.integers(1, 30), st.data())
    @settings(max_examples=50, deadline=None)
    def test_what_is_left_out_is_not_among_them(self, rows, data):
        array = np.arange(2 * rows).reshape(rows, 2)
        first = data.draw(st.sets(st.integers(0, rows - 1), max_size=rows - 1))
        kept, found = np.delete(array, sorted(first), axis=0), StoredRows(array).without(np.array(sorted(first), int))
        second = data.draw(st.sets(st.integers(0, len(kept) - 1), max_size=len(kept) - 1))
        kept, found = np.delete(kept, sorted(second), axis=0), found.without(np.array(sorted(second), int))
        assert found.shape == kept.shape
        which = data.draw(st.lists(st.integers(0, len(kept) - 1)))
        np.testing.assert_array_equal(found[np.array(which, int)], kept[np.array(which, int)])
        part = slice(*data.draw(st.tuples(st.integers(0, rows), st.integers(0, rows), st.integers(1, 3))))
        np.testing.assert_array_equal(found[part], kept[part])

    def test_of_any_shape_order_and_conversion(self, tmp_path):
        images = np.arange(2 * 3 * 4 * 5).reshape(5, 2, 3, 4)
        rows = StoredRows(mapped(tmp_path, np.asfortranarray(images)))
        assert (rows.shape, rows.row_shape, rows.ndim) == ((5, 24), (2, 3, 4), 2)
        np.testing.assert_array_equal(rows[np.array([3, 0])], images[[3, 0]].reshape(2, 24))
        means = StoredRows(images, convert=lambda x: x.mean(axis=1, keepdims=True), features=1, dtype=np.float64)
        assert (means.shape, means.row_shape, means.dtype) == ((5, 1), (1,), np.float64)
        np.testing.assert_array_equal(means.without(np.array([1]))[1:3], images[2:4].mean(axis=(1, 2, 3))[:, None])

    def test_what_lies_on_disk_is_told_from_what_does_not(self, tmp_path):
        there = mapped(tmp_path, X)
        for view in (there, there[::2], np.asarray(there), there.view(np.ndarray)[5:], there.T):
            assert is_mapped(view)
            assert stored(view) is not None
        for copy in (X, there[[1, 2]], there + 1, there.astype(np.float32), X.tolist()):
            assert not is_mapped(copy)
            assert stored(copy) is None
        numbers = tmp_path / "numbers"
        X.astype(np.float32).tofile(numbers)
        tensor = torch.from_file(str(numbers), shared=True, size=X.size, dtype=torch.float32).view(X.shape)
        np.testing.assert_array_equal(stored(tensor)[:5], X[:5].astype(np.float32))
        assert stored(torch.zeros(3, 3)) is None

    def test_numbers_among_others(self):
        assert among_others(np.arange(4), np.array([0, 2, 5])).tolist() == [1, 3, 4, 6]

    @given(st.integers(0, 100), st.integers(0, 2**24))
    def test_blocks_are_all_rows_in_order(self, rows, row_bytes):
        parts = [number for part in blocks(rows, row_bytes) for number in range(rows)[part]]
        assert parts == list(range(rows))


class TestRowsFile:
    def test_what_is_written_can_be_read_and_no_file_is_left(self, tmp_path):
        with RowsFile(3, np.float32, folder=tmp_path) as file:
            assert list(tmp_path.iterdir()) == []
            file.append(np.ones((2, 3)))
            file.append(np.zeros((1, 6))[:, ::2])
            rows = file.mapped()
        assert list(tmp_path.iterdir()) == []
        assert rows.tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 0]]

    def test_no_room(self, tmp_path, full_disk):
        with pytest.raises(OSError, match="File too large"), RowsFile(1000, np.float64, folder=tmp_path) as file:
            file.append(np.zeros((10, 1000)))
        assert list(tmp_path.iterdir()) == []


class TestTraining:
    """From a mapped file it is, bit for bit, what it is from memory."""

    @pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.int64, ">f4", np.float16])
    def test_of_any_type(self, tmp_path, dtype):
        x = X.astype(dtype)
        there = mapped(tmp_path, x)
        assert_same(small().fit(x, FEW), small().fit(there, FEW), x, there)

    @pytest.mark.parametrize(
        "settings",
        [
            {"validation_fraction": 0.3, "early_stopping": True},
            {"validation_fraction": 0.3, "column_weights": np.linspace(1, 2, 61)},
            {"input_scaling": "none", "variant": "gamma"},
            {"input_scaling": "whitened"},
            {"input_scaling": "columns", "precision": "float64", "variant": "baseline"},
            {"module": lambda shape, outputs: networks.mlp([61, 9, outputs]), "class_weight": "balanced"},
        ],
    )
    def test_with_any_settings(self, tmp_path, settings, calibrated_both_ways):
        x = X.astype(np.float32)
        there = mapped(tmp_path, x)
        weight = np.linspace(0, 2, 400)
        one, other = (small(**settings).fit(rows, FEW, weight) for rows in (x, there))
        assert_same(one, other, x, there)
        assert one.score(x, FEW) == other.score(there, FEW)
        assert_same(one.partial_fit(x[:50], FEW[:50]), other.partial_fit(there[:50], FEW[:50]), x, there)

    def test_of_images_and_what_the_decoder_makes_of_them(self, tmp_path):
        images = np.random.default_rng(0).integers(0, 255, (90, 1, 8, 8)).astype(np.uint8)
        there = mapped(tmp_path, images, mode="r+")
        module = {"module": networks.mlp([64, 8, 3]), "input_shape": (64,)}
        y = np.arange(90) % 3
        one, other = small(**module).fit(images, y), small(**module).fit(there, y)
        assert_same(one, other, images, there)
        assert other.denoise(there).shape == images.shape
        np.testing.assert_array_equal(one.denoise(images), other.denoise(there))
        there.flush()
        np.testing.assert_array_equal(np.load(tmp_path / "rows.npy"), images)  # as it was

    def test_of_amounts_and_of_several_networks_at_once(self, tmp_path):
        there = mapped(tmp_path, X)
        y = np.where(FEW >= 0, X[:, 5], np.nan)
        one, other = (LadderRegressor(max_epochs=2, random_state=0).fit(rows, y) for rows in (X, there))
        assert_same(one, other, X, there)
        groups = [[small(random_state=seed) for seed in (0, 1)] for _ in range(2)]
        for models, rows in zip(groups, (X, there), strict=True):
            fit_together(models, rows, [FEW, FEW])
        for one, other in zip(*groups, strict=True):
            assert_same(one, other, X, there)

    def test_labels_without_an_entry_for_each_row(self, tmp_path):
        there = mapped(tmp_path, X)
        labels = SparseLabels(rows=400, numbers=np.arange(60), values=Y[:60])
        assert_same(small().fit(X, FEW), small().fit(there, labels), X, there)
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            small().fit(there[:300], labels)

    def test_goes_on_from_a_checkpoint(self, tmp_path):
        class Stop(Callback):
            steps = 0

            def on_step_end(self):
                self.steps += 1
                checkpoint.stop = 15 if self.steps == 7 else None

        there, checkpoint = mapped(tmp_path, X), Checkpoint(tmp_path / "checkpoint")
        with pytest.raises(TrainingStopped):
            small(batch_size=50).fit(there, FEW, checkpoint=checkpoint, callback=Stop())
        model = small(batch_size=50).fit(there, FEW, checkpoint=Checkpoint(tmp_path / "checkpoint"))
        assert_same(small(batch_size=50).fit(X, FEW), model, X, there)

    def test_what_cannot_be_used_is_said(self, tmp_path, monkeypatch):
        monkeypatch.setattr("laddernet.rows.BLOCK_BYTES", 1000)
        broken = X.copy()
        broken[321, 5] = np.nan
        there = mapped(tmp_path, broken)
        with pytest.raises(ValueError, match="Input X contains NaN"):
            small().fit(there, FEW)
        model = small().fit(X, FEW)
        with pytest.raises(ValueError, match="Input X contains NaN"):
            model.predict(there)
        with pytest.raises(ValueError, match="X has 60 features, but LadderClassifier is expecting 61"):
            model.predict(mapped(tmp_path, X[:, :60]))
        with pytest.raises(ValueError, match="1 sample"):
            small().fit(mapped(tmp_path, X)[:1], FEW[:1])


BOUNDED = """
    import resource, sys
    import numpy as np, torch
    from laddernet import LadderClassifier
    from laddernet.data.labels import SparseLabels

    torch.set_num_threads(1)
    folder, from_disk = sys.argv[1], sys.argv[2] == "disk"

    def work(times):
        rows = 2_000 * times
        x = np.memmap(f"{folder}/{times}", np.float32, "w+", shape=(rows, 480))
        for start in range(0, rows, 2000):
            x[start : start + 2000] = np.random.default_rng(start).normal(size=(2000, 480))
        x.flush()
        x = np.memmap(f"{folder}/{times}", np.float32, "r", shape=(rows, 480))
        y = SparseLabels(rows=rows, numbers=np.arange(100), values=np.arange(100) % 2)
        model = LadderClassifier((20,), max_epochs=1, batch_size=1000, random_state=0)
        x = x if from_disk else np.array(x)
        model.fit(x, y).predict(x)

    work(1)
    for line in open("/proc/self/status"):
        if line.startswith("VmData"):
            taken = int(line.split()[1]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (taken + 40_000_000, resource.RLIM_INFINITY))
    work(20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit does not count private memory alone elsewhere")
@pytest.mark.parametrize("place", ["disk", "memory"])
def test_twenty_times_the_rows_take_no_more_memory(tmp_path, place):
    """77 MB of rows under a limit of 40 MB more than 3.8 MB of them took; the same limit is too low for a copy."""
    assert resource.getrlimit(resource.RLIMIT_DATA)[1] == resource.RLIM_INFINITY
    command = [sys.executable, "-c", textwrap.dedent(BOUNDED), str(tmp_path), place]
    keeping = {"MALLOC_TRIM_THRESHOLD_": str(2**31), "MALLOC_MMAP_THRESHOLD_": str(2**25)}  # what was taken is the most
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **keeping})
    assert (ended.returncode == 0) == (place == "disk"), ended.stderr
    assert place == "disk" or "memory" in ended.stderr.lower()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["X.npy", "rows.csv", "rows.parquet", "images"])
def test_twenty_times_the_rows_of_any_file_take_no_more_memory(kind):
    script = Path(__file__).parents[1] / "benchmarks" / "larger_than_memory.py"
    command = [sys.executable, str(script), "--rows", "40000", "--kinds", kind]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = json.loads(said.removeprefix(kind))
    assert found["survives_the_limit"]
    for part in ("train", "predict"):
        once, often, whole = (found[how][part]["RssAnon_mib"] for how in ("once", "often", "often_in_memory"))
        assert often < once + 40
        assert often < whole or (kind, part) == ("images", "predict")  # which come from the cache either way
