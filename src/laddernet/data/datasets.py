"""The data sets that the command line and the recipes know by name.

Files are looked for under a folder that the caller names, else under ``$LADDERNET_DATA``, else in the user's
cache folder, and fetched where they are missing.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from laddernet.data.cifar10 import LAYOUTS, read_cifar10
from laddernet.data.idx import read_idx
from laddernet.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Rows to train and to test on.

    Attributes
    ----------
    x_train, x_test : float32 array of shape (rows, features)
        Pixels, between 0 and 1. A row of cifar10 is its red, green and blue planes: ``x.reshape(-1, 3, 32, 32)``.
    y_train, y_test : int64 array of shape (rows,)
        Classes 0..9.
    """

    x_train: NDArray[np.float32]
    y_train: NDArray[np.int64]
    x_test: NDArray[np.float32]
    y_test: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What is known of a data set before it is read.

    Attributes
    ----------
    train_rows, test_rows, classes : int
    shape : tuple of int
        Channels, height and width of an image; a row has them flat.
    files : mapping
        Name of each file under the data folder, without ".gz", to the hash of the compressed file, a SHA-256 where
        it names no other; empty for data that come with a library.
    instead : tuple of str
        Files or folders of which any one does instead of the files.
    mirrors : tuple of str
        Addresses from which the files are to be had, tried in this order.
    """

    train_rows: int
    test_rows: int
    shape: tuple[int, int, int]
    classes: int
    files: Mapping[str, str]
    instead: tuple[str, ...] = ()
    mirrors: tuple[str, ...] = ()

    @property
    def features(self) -> int:
        """Number of values in a row."""
        return math.prod(self.shape)


_MNIST_FILES = {
    "train-images-idx3-ubyte": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
DATASETS: Mapping[str, DatasetInfo] = MappingProxyType(
    {
        "digits": DatasetInfo(train_rows=1200, test_rows=597, shape=(1, 8, 8), classes=10, files={}),
        "mnist": DatasetInfo(
            train_rows=60_000,
            test_rows=10_000,
            shape=(1, 28, 28),
            classes=10,
            files=MappingProxyType(_MNIST_FILES),
            mirrors=MNIST_MIRRORS,
        ),
        "cifar10": DatasetInfo(
            train_rows=50_000,
            test_rows=10_000,
            shape=(3, 32, 32),
            classes=10,
            files=MappingProxyType({"cifar-10-python.tar": "md5:c58f30108f718f92721af3b95e74349a"}),
            instead=LAYOUTS,
            mirrors=("https://www.cs.toronto.edu/~kriz/",),
        ),
    }
)


def data_folder(data_dir: Path | None = None) -> Path:
    """Return the folder under which data sets lie: `data_dir`, else ``$LADDERNET_DATA``, else the user's cache."""
    if data_dir is not None:
        return data_dir
    if configured := os.environ.get("LADDERNET_DATA"):
        return Path(configured)
    import pooch

    return Path(pooch.os_cache("laddernet"))


def load(name: str, *, data_dir: Path | None = None, seed: int = 0) -> Dataset:
    """Read a data set, fetching what is missing.

    Parameters
    ----------
    name : {"digits", "mnist", "cifar10"}
    data_dir : Path, optional
        See `data_folder`.
    seed : int
        Of the split into training and test rows, where the data set has no split of its own (digits).

    Raises
    ------
    DataError
        If there is no such data set, or its files are damaged, or missing and not to be had.
    """
    fetch(name, data_dir=data_dir)
    if name == "digits":
        return _load_digits(seed)
    folder = data_folder(data_dir) / name
    return _load_mnist(folder) if name == "mnist" else _load_cifar10(folder)


def missing_files(name: str, *, data_dir: Path | None = None) -> list[str]:
    """Names of the files (with ".gz") that `load` would have to fetch.

    Raises
    ------
    DataError
        If there is no such data set.
    """
    folder, info = data_folder(data_dir) / name, _info(name)
    if any((folder / other).exists() for other in info.instead):
        return []
    return [f"{file}.gz" for file in info.files if _find(folder, file) is None]


def fetch(name: str, *, data_dir: Path | None = None, mirrors: Sequence[str] | None = None) -> list[str]:
    """Download the missing files of a data set, each checked by its hash before it takes its place.

    Parameters
    ----------
    name : {"digits", "mnist", "cifar10"}
    data_dir : Path, optional
        See `data_folder`.
    mirrors : sequence of str, optional
        Addresses to try in this order, each ending in a slash; those of `DATASETS` unless given.

    Returns
    -------
    list of str
        Names of the files that were downloaded.

    Raises
    ------
    DataError
        If there is no such data set, or no mirror gives a file; the message names the folder and the files.
    """
    missing = missing_files(name, data_dir=data_dir)
    if not missing:
        return []
    import pooch
    import requests

    folder, info = data_folder(data_dir) / name, _info(name)
    reasons: dict[str, str] = {}
    quiet = pooch.get_logger()
    quiet.setLevel("WARNING")
    for file in missing:
        known_hash = info.files[file.removesuffix(".gz")]
        for mirror in info.mirrors if mirrors is None else mirrors:
            try:
                pooch.retrieve(mirror + file, known_hash, fname=file, path=folder)
            except (requests.RequestException, OSError, ValueError) as error:
                what = "another hash than it should have" if type(error) is ValueError else type(error).__name__
                reasons[file] = f"{what}, from {mirror}"
            else:
                reasons.pop(file, None)
                break
    if reasons:
        instead = f", or one of {', '.join(info.instead)} instead" if info.instead else ""
        raise DataError(
            f"{name} is not complete in {folder}, and could not be downloaded: it lacks {', '.join(reasons)} "
            f"({next(iter(reasons.values()))}). Put these files there (compressed or not){instead}, "
            "or name another folder with --data-dir or LADDERNET_DATA."
        )
    return missing


def _info(name: str) -> DatasetInfo:
    if name not in DATASETS:
        raise DataError(f"there is no data set {name!r}; known are {', '.join(DATASETS)}.")
    return DATASETS[name]


def _find(folder: Path, file: str) -> Path | None:
    candidates = (folder / f"{file}.gz", folder / file)
    return next((path for path in candidates if path.is_file()), None)


def _load_mnist(folder: Path) -> Dataset:
    arrays = []
    for file in _MNIST_FILES:
        path = _find(folder, file)
        assert path is not None
        rows = 60_000 if file.startswith("train") else 10_000
        arrays.append(read_idx(path, shape=(rows, 28, 28) if "images" in file else (rows,)))
    x_train, y_train, x_test, y_test = arrays
    return Dataset(
        x_train=_pixels(x_train, 255),
        y_train=y_train.astype(np.int64),
        x_test=_pixels(x_test, 255),
        y_test=y_test.astype(np.int64),
    )


def _load_cifar10(folder: Path) -> Dataset:
    x_train, y_train, x_test, y_test = read_cifar10(folder)
    return Dataset(x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)


def _load_digits(seed: int) -> Dataset:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    info = DATASETS["digits"]
    x_train, x_test, y_train, y_test = train_test_split(
        _pixels(x, 16),
        y.astype(np.int64),
        train_size=info.train_rows,
        test_size=info.test_rows,
        stratify=y,
        random_state=seed,
    )
    return Dataset(x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)


def _pixels(x: NDArray[np.generic], largest: int) -> NDArray[np.float32]:
    scaled: NDArray[np.float32] = x.reshape(len(x), -1).astype(np.float32)
    scaled /= largest
    return scaled
