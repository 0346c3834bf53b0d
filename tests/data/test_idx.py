import gzip
import struct

import numpy as np
import pytest

from laddernet.data.idx import read_idx
from laddernet.errors import DataError

ARRAY = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
CONTENT = bytes([0, 0, 8, 3]) + struct.pack(">3I", 2, 3, 4) + ARRAY.tobytes()


@pytest.fixture(params=["plain", "gz"])
def write(tmp_path, request):
    def to_file(content):
        path = tmp_path / ("x-ubyte.gz" if request.param == "gz" else "x-ubyte")
        path.write_bytes(gzip.compress(content) if request.param == "gz" else content)
        return path

    return to_file


def test_an_array_is_read_as_written(write):
    np.testing.assert_array_equal(read_idx(write(CONTENT), shape=(2, 3, 4)), ARRAY)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CONTENT[:-1], "has 23 bytes of data, not 24"),
        (CONTENT + b"\0", "has more bytes of data, not 24"),
        (bytes([0, 0, 8, 1]) + CONTENT[4:], "starts with 00000801, not 00000803"),
        (b"PNG", "starts with 504e47"),
        (b"", "starts with nothing"),
        (CONTENT[:6], "should hold an array"),
        (CONTENT[:4] + struct.pack(">3I", 2, 4, 3) + ARRAY.tobytes(), r"it says \(2, 4, 3\)"),
    ],
    ids=["short", "long", "dimensions", "png", "empty", "header", "shape"],
)
def test_files_that_are_something_else_are_refused_by_name(write, content, message):
    path = write(content)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path, shape=(2, 3, 4))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-9], lambda b: b[:20] + b"\xff\xff\xff" + b[23:], lambda b: b"no gzip"]
)
def test_damaged_archives_are_refused(tmp_path, damage):
    path = tmp_path / "x.gz"
    path.write_bytes(damage(gzip.compress(CONTENT)))
    with pytest.raises(DataError, match="damaged or cut short|should hold|not an IDX"):
        read_idx(path, shape=(2, 3, 4))
