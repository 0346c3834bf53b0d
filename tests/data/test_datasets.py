import functools
import gzip
import http.server
import os
import struct
import threading
from pathlib import Path

import numpy as np
import pytest

from laddernet.data import DATASETS, data_folder, fetch, load, missing_files
from laddernet.errors import DataError

MNIST = data_folder() / "mnist"
HAS_MNIST = "LADDERNET_DATA" in os.environ and not missing_files("mnist")


def test_digits_are_split_by_seed_and_stratified():
    first, again, other = (load("digits", seed=seed) for seed in (0, 0, 1))
    assert first.x_train.shape == (1200, 64)
    assert first.x_test.shape == (597, 64)
    assert first.x_train.dtype == np.float32
    assert (first.x_train.min(), first.x_train.max()) == (0, 1)
    np.testing.assert_array_equal(first.x_test, again.x_test)
    assert not np.array_equal(first.x_test, other.x_test)
    share = np.bincount(first.y_test) / 597 - np.bincount(first.y_train) / 1200
    assert np.abs(share).max() < 0.005


@pytest.mark.skipif(not HAS_MNIST, reason="MNIST is not under $LADDERNET_DATA")
def test_mnist_is_the_original():
    data = load("mnist")
    assert data.x_train.shape == (60_000, 784)
    assert data.x_test.shape == (10_000, 784)
    assert (data.x_train.min(), data.x_train.max()) == (0, 1)
    assert data.x_train.mean() == pytest.approx(0.1307, abs=1e-4)  # the figures everybody normalises with
    assert data.x_train.std() == pytest.approx(0.3081, abs=1e-4)
    assert np.bincount(data.y_test).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert data.y_train[:5].tolist() == [5, 0, 4, 1, 9]


def test_the_folder_is_the_callers_else_the_environments_else_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LADDERNET_DATA", "/somewhere")
    assert data_folder(tmp_path) == tmp_path
    assert data_folder() == Path("/somewhere")
    monkeypatch.delenv("LADDERNET_DATA")
    assert data_folder().name == "laddernet"


def test_an_unknown_name_is_refused():
    with pytest.raises(DataError, match="no data set 'minst'; known are digits, mnist"):
        load("minst")


def images(rows):
    return bytes([0, 0, 8, 3]) + struct.pack(">3I", rows, 28, 28) + bytes(rows * 784)


def test_both_layouts_are_found_and_wrong_files_are_refused(tmp_path):
    folder = tmp_path / "mnist"
    folder.mkdir()
    (folder / "t10k-images-idx3-ubyte").write_bytes(images(10_000))
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(images(59_999)))
    labels = ["train-labels-idx1-ubyte.gz", "t10k-labels-idx1-ubyte.gz"]
    assert missing_files("mnist", data_dir=tmp_path) == labels
    for name in labels:
        (folder / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz should hold an array of shape \(60000, 28, 28\)"):
        load("mnist", data_dir=tmp_path)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def mirror(tmp_path):
    """A mirror on this machine, serving a folder."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    handler = functools.partial(QuietHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_a_file_with_the_wrong_hash_never_takes_its_place(tmp_path, mirror):
    folder, address = mirror
    for file in DATASETS["mnist"].files:
        (folder / f"{file}.gz").write_bytes(b"something else")
    with pytest.raises(DataError, match="could not be downloaded.*t10k-labels.*another hash.*LADDERNET_DATA") as caught:
        fetch("mnist", data_dir=tmp_path, mirrors=[address])
    assert str(tmp_path / "mnist") in str(caught.value)
    assert len(missing_files("mnist", data_dir=tmp_path)) == 4


def test_the_hash_of_an_archive_is_checked_too(tmp_path, mirror):
    folder, address = mirror
    (folder / "cifar-10-python.tar.gz").write_bytes(b"something else")
    with pytest.raises(DataError, match=r"lacks cifar-10-python.tar.gz \(another hash.*cifar-10-batches-bin.*instead"):
        fetch("cifar10", data_dir=tmp_path, mirrors=[address])
    assert missing_files("cifar10", data_dir=tmp_path) == ["cifar-10-python.tar.gz"]


@pytest.mark.skipif(not HAS_MNIST, reason="MNIST is not under $LADDERNET_DATA")
def test_the_second_mirror_serves_what_the_first_lacks(tmp_path, mirror):
    folder, address = mirror
    name = "t10k-labels-idx1-ubyte.gz"
    (folder / "good").mkdir()
    (folder / "good" / name).write_bytes((MNIST / name).read_bytes())
    target = tmp_path / "mnist"
    target.mkdir()
    for other in set(DATASETS["mnist"].files) - {name.removesuffix(".gz")}:
        (target / other).write_bytes(b"")
    assert fetch("mnist", data_dir=tmp_path, mirrors=[f"{address}none/", f"{address}good/"]) == [name]
    assert missing_files("mnist", data_dir=tmp_path) == []
    assert fetch("mnist", data_dir=tmp_path, mirrors=[]) == []


def test_offline_the_error_names_the_folder_and_the_files(tmp_path):
    with pytest.raises(DataError, match="train-labels-idx1-ubyte.gz.*ConnectionError.*Put these files there") as caught:
        fetch("mnist", data_dir=tmp_path, mirrors=["http://127.0.0.1:1/"])
    assert str(tmp_path / "mnist") in str(caught.value)
