"""Reader of the IDX format, in which MNIST comes."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from laddernet.errors import DataError

_UNSIGNED_BYTE = 0x08


def read_idx(path: Path, *, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, gzip-compressed where its name ends in .gz.

    Parameters
    ----------
    path : Path
    shape : tuple of int
        The shape that the file must have.

    Returns
    -------
    uint8 array of that shape.

    Raises
    ------
    DataError
        If the file is not such a file, or is damaged, too short or too long; the message names it.
    """
    header, wanted = 4 + 4 * len(shape), math.prod(shape)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(header + wanted + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged or cut short ({error}). Delete it and fetch it again.") from error
    magic = bytes([0, 0, _UNSIGNED_BYTE, len(shape)])
    if content[:4] != magic:
        raise DataError(
            f"{path} is not an IDX file of bytes in {len(shape)} dimensions: it starts with "
            f"{content[:4].hex() or 'nothing'}, not {magic.hex()}."
        )
    found = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, header, 4))
    if found != shape or len(content) != header + wanted:
        size = "more" if len(content) > header + wanted else max(len(content) - header, 0)
        raise DataError(
            f"{path} should hold an array of shape {shape}; it says {found} and has {size} bytes of data, not {wanted}."
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)
