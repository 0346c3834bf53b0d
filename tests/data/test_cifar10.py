import gzip
import pickle
import struct
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from laddernet.data import DATASETS, fetch, load, missing_files
from laddernet.data.cifar10 import LAYOUTS, read_cifar10
from laddernet.errors import DataError

ROWS = 3
RNG = np.random.default_rng(0)
NAMES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
PIXELS = {name: RNG.integers(0, 256, (ROWS, 3072), dtype=np.uint8) for name in NAMES}
LABELS = {name: RNG.integers(0, 10, ROWS).tolist() for name in NAMES}


def python_2(pixels, labels):
    """Write a batch as Python 2's cPickle wrote the original: text and arrays are strings of bytes."""

    def string(text):
        size = struct.pack("<i", len(text))
        return b"U" + size[:1] + text if len(text) < 256 else b"T" + size + text

    def number(value):
        return b"K" + bytes([value]) if 0 <= value < 256 else b"J" + struct.pack("<i", value)

    shape = b"".join(map(number, pixels.shape)) + b"\x86"
    dtype = b"cnumpy\ndtype\nq\x0a" + string(b"u1") + b"K\x00K\x01\x87Rq\x0b(K\x03" + string(b"|") + b"NNN"
    dtype += 2 * b"J\xff\xff\xff\xff" + b"K\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85" + string(b"b") + b"\x87Rq\x09"
    array += b"(K\x01" + shape + dtype + b"\x89" + string(pixels.tobytes()) + b"tb"
    entries = string(b"batch_label") + b"q\x02" + string(b"training batch 1 of 5") + b"q\x03"
    entries += string(b"labels") + b"q\x04]q\x05(" + b"".join(map(number, labels)) + b"e"
    entries += string(b"data") + b"q\x06" + array
    entries += string(b"filenames") + b"q\x0c]q\x0d(" + string(b"a.png") + b"h\x04e"
    return b"\x80\x02}q\x01(" + entries + b"u."


def python_3(protocol):
    def write(pixels, labels):
        return pickle.dumps({b"labels": labels, b"data": pixels, b"filenames": [b"a.png"]}, protocol=protocol)

    return write


def records(pixels, labels):
    return np.column_stack([np.array(labels, dtype=np.uint8), pixels]).tobytes()


WRITERS = {"python-2": python_2, **{f"protocol-{number}": python_3(number) for number in (2, 3, 4, 5)}}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "cifar10").mkdir()
    return tmp_path / "cifar10"


def write_layout(folder, layout, writer):
    target = folder / layout
    target.mkdir(parents=True)
    for name in NAMES:
        file = f"{name}.bin" if layout.endswith("bin") else name
        (target / file).write_bytes(writer(PIXELS[name], LABELS[name]))
    return target


def check(arrays):
    x_train, y_train, x_test, y_test = arrays
    assert (x_train.dtype, x_test.dtype, y_train.dtype, y_test.dtype) == (np.float32, np.float32, np.int64, np.int64)
    pixels = np.concatenate([PIXELS[name] for name in NAMES[:-1]]).astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(x_train, pixels)
    np.testing.assert_array_equal(x_test, PIXELS["test_batch"].astype(np.float32) / np.float32(255))
    assert y_train.tolist() == [label for name in NAMES[:-1] for label in LABELS[name]]
    assert y_test.tolist() == LABELS["test_batch"]


def test_the_handmade_pickle_is_one_that_python_understands():
    batch = pickle.loads(python_2(PIXELS["test_batch"], LABELS["test_batch"]), encoding="bytes")
    np.testing.assert_array_equal(batch[b"data"], PIXELS["test_batch"])
    assert batch[b"labels"] == LABELS["test_batch"]


@pytest.mark.parametrize("writer", WRITERS)
def test_the_python_layout_is_read_whoever_wrote_it(folder, writer):
    write_layout(folder, "cifar-10-batches-py", WRITERS[writer])
    check(read_cifar10(folder))


def test_the_binary_layout_is_read(folder):
    write_layout(folder, "cifar-10-batches-bin", records)
    check(read_cifar10(folder))


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar"])
@pytest.mark.parametrize(
    ("archive", "layout", "writer"),
    [("python", "cifar-10-batches-py", python_2), ("binary", "cifar-10-batches-bin", records)],
)
def test_archives_are_read_without_unpacking_them(tmp_path, folder, archive, layout, writer, suffix):
    source = write_layout(tmp_path / "source", layout, writer)
    path = folder / f"cifar-10-{archive}{suffix}"
    with tarfile.open(path, "w:gz" if suffix.endswith("gz") else "w") as tar:
        tar.add(source, layout)
    check(read_cifar10(folder))
    assert list(folder.iterdir()) == [path]


def test_it_is_a_data_set_by_name(folder, tmp_path):
    assert missing_files("cifar10", data_dir=tmp_path) == ["cifar-10-python.tar.gz"]
    write_layout(folder, "cifar-10-batches-bin", records)
    assert missing_files("cifar10", data_dir=tmp_path) == fetch("cifar10", data_dir=tmp_path, mirrors=[]) == []
    data = load("cifar10", data_dir=tmp_path)
    check((data.x_train, data.y_train, data.x_test, data.y_test))
    assert (DATASETS["cifar10"].features, DATASETS["cifar10"].classes) == (3072, 10)


def test_the_error_says_which_layouts_are_looked_for_and_where(folder, tmp_path):
    for attempt in (
        lambda: read_cifar10(folder),
        lambda: fetch("cifar10", data_dir=tmp_path, mirrors=["http://127.0.0.1:1/"]),
    ):
        with pytest.raises(DataError) as caught:
            attempt()
        assert all(text in str(caught.value) for text in (str(folder), *LAYOUTS))


class Evil:
    def __reduce__(self):
        import os

        return os.system, ("touch executed",)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("place", ["data", "labels", "whole"])
def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(folder, monkeypatch, place, protocol):
    monkeypatch.chdir(folder)
    target = write_layout(folder, "cifar-10-batches-py", python_2)
    batch = {b"data": PIXELS["test_batch"], b"labels": LABELS["test_batch"]} | {place.encode(): Evil()}
    (target / "data_batch_1").write_bytes(pickle.dumps(Evil() if place == "whole" else batch, protocol=protocol))
    with pytest.raises(
        DataError, match=r"data_batch_1 is not a batch.*names '(posix|nt) system'.*nothing of it was run"
    ):
        read_cifar10(folder)
    assert not (folder / "executed").exists()


GOOD = PIXELS["test_batch"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cut short"),
        (python_2(GOOD, [1, 2, 3])[:-20], "cut short"),
        (python_2(GOOD, [1, 2, 10]), r"labels from 1 to 10.*0\.\.9"),
        (python_2(GOOD, [1, -1, 3]), "labels from -1 to 3"),
        (python_2(GOOD, [1, 2]), "3 rows of data, but 2 labels"),
        (python_2(GOOD[:, 1:], [1, 2, 3]), r"'data' is no array of bytes of shape \(rows, 3072\)"),
        (python_2(GOOD.reshape(-1), [1, 2, 3]), "'data' is no array"),
        (pickle.dumps({b"data": GOOD.astype(np.float32), b"labels": [1, 2, 3]}), "'data' is no array"),
        (pickle.dumps({b"data": GOOD.view(np.int8), b"labels": [1, 2, 3]}), "'data' is no array"),
        (python_2(SimpleNamespace(shape=GOOD.shape, tobytes=lambda: b"short"), [1, 2, 3]), "'data' is no array"),
        (pickle.dumps({b"data": np.asfortranarray(GOOD), b"labels": [1, 2, 3]}, protocol=3), "'data' is no array"),
        (pickle.dumps({b"data": GOOD, b"fine_labels": [1, 2, 3]}), "'labels' is no list of whole numbers"),
        (pickle.dumps({b"data": GOOD, b"labels": [1, 2, "3"]}), "'labels' is no list"),
        (pickle.dumps({b"data": GOOD, b"labels": [1, True, 3]}), "'labels' is no list"),
        (pickle.dumps({b"labels": [1, 2, 3]}), "'data' is no array"),
        (pickle.dumps({1: GOOD}), "name is no text"),
        (pickle.dumps("text"), "no pickle of a dictionary"),
        (pickle.dumps({b"data": 1.5}), "opcode BINFLOAT"),
        (python_2(GOOD[:2], [1, 2]), "same number of rows.*data_batch_1 3, test_batch 2|same number.*test_batch 2"),
    ],
)
def test_pickles_that_are_something_else_are_refused_by_name(folder, content, message):
    target = write_layout(folder, "cifar-10-batches-py", python_2)
    (target / "test_batch").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_cifar10(folder)
    assert str(target) in str(caught.value)
    assert "test_batch" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes, which is no multiple of 3073"),
        (records(GOOD, [1, 2, 3])[:-1], "9218 bytes"),
        (records(GOOD, [1, 10, 3]), "label 10"),
        (records(GOOD[:2], [1, 2]), "same number of rows"),
    ],
)
def test_records_that_are_something_else_are_refused_by_name(folder, content, message):
    target = write_layout(folder, "cifar-10-batches-bin", records)
    (target / "data_batch_5.bin").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_cifar10(folder)
    assert "data_batch_5.bin" in str(caught.value)


def test_what_an_incomplete_layout_lacks_is_named(folder):
    target = write_layout(folder, "cifar-10-batches-bin", records)
    (target / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match=r"incomplete: it lacks data_batch_3\.bin\."):
        read_cifar10(folder)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    source = write_layout(folder, "cifar-10-batches-bin", records)
    with tarfile.open(folder / "plain.tar", "w") as tar:
        tar.add(source, "cifar-10-batches-bin")
    return (folder / "plain.tar").read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda tar: gzip.compress(tar)[:-5000],
        lambda tar: gzip.compress(tar)[:-6] + b"\0\0\0\0\0\0",
        lambda tar: gzip.compress(tar[:9000]),
        lambda tar: b"<html>not found</html>",
        lambda tar: b"",
    ],
    ids=["cut", "check sum", "tar cut", "html", "empty"],
)
def test_damaged_archives_are_refused(folder, archive, damage):
    path = folder / "cifar-10-binary.tar.gz"
    path.write_bytes(damage(archive))
    with pytest.raises(DataError, match=r"cifar-10-binary.tar.gz.*(damaged or cut short|incomplete)"):
        read_cifar10(folder)


def test_links_in_an_archive_are_not_followed(folder):
    with tarfile.open(folder / "cifar-10-binary.tar", "w") as tar:
        for name in NAMES:
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            member.type, member.linkname = tarfile.SYMTYPE, member.name
            tar.addfile(member)
    with pytest.raises(DataError, match="lacks data_batch_1.bin"):
        read_cifar10(folder)


FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
FLIPS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6)


def flipped(content, places, flips):
    """Put bytes at shares of the places that matter most: all but the pixels."""
    damaged = bytearray(content)
    for share, value in flips:
        damaged[places[int(share * len(places))]] = value
    return bytes(damaged)


def read_or_refuse(folder):
    try:
        arrays = read_cifar10(folder)
    except DataError:
        return
    assert [array.shape for array in arrays] == [(15, 3072), (15,), (3, 3072), (3,)]


@FUZZ
@given(flips=FLIPS, writer=st.sampled_from(list(WRITERS)))
def test_a_damaged_pickle_gives_nothing_but_a_data_error(tmp_path_factory, flips, writer):
    folder = tmp_path_factory.getbasetemp() / "fuzzed-pickles"
    target = folder / "cifar-10-batches-py"
    if not target.exists():
        write_layout(folder, target.name, python_2)
    content = WRITERS[writer](GOOD, LABELS["test_batch"])
    start = content.find(GOOD.tobytes()[:4])
    start = start if start >= 0 else len(content) // 2
    places = [*range(start), *range(min(start + GOOD.size, len(content) - 40), len(content))]
    (target / "test_batch").write_bytes(flipped(content, places, flips))
    read_or_refuse(folder)


@FUZZ
@given(flips=FLIPS)
def test_a_damaged_archive_gives_nothing_but_a_data_error(tmp_path_factory, archive, flips):
    folder = tmp_path_factory.getbasetemp() / "fuzzed-archives"
    folder.mkdir(exist_ok=True)
    heads = [at for at in range(0, len(archive) - 512, 512) if archive[at : at + 6] == b"cifar-"]
    places = [at + offset for at in heads for offset in range(512)]
    (folder / "cifar-10-binary.tar").write_bytes(flipped(archive, places, flips))
    read_or_refuse(folder)


PIECES = [
    b"U\x04data",
    b"U\x06labels",
    b"X\x01\0\0\0a",
    b"C\x01b",
    b"cnumpy\nndarray\n",
    b"c_codecs\nencode\n",
    b"K\x03",
]
PIECES += [b"q\x00", b"h\x00", *(bytes([code]) for code in b"}](uetsabRN.\x85\x86\x87\x88\x89\x93\x94"), b"S'\\d'\n"]


@FUZZ
@given(pieces=st.lists(st.sampled_from(PIECES) | st.binary(max_size=3), max_size=40))
def test_any_opcodes_give_nothing_but_a_data_error(tmp_path_factory, pieces):
    target = tmp_path_factory.getbasetemp() / "fuzzed-opcodes" / "cifar-10-batches-py"
    target.mkdir(parents=True, exist_ok=True)
    (target / "data_batch_1").write_bytes(b"\x80\x02}" + b"".join(pieces) + b".")
    with pytest.raises(DataError):
        read_cifar10(target.parent)
