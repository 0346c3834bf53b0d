"""From a folder of images to rows that are ready for the estimators."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from laddernet import networks
from laddernet.data.images import Images, read_images
from laddernet.data.labels import SparseLabels, choose_held_out
from laddernet.errors import DataError
from laddernet.rows import StoredRows

Watch = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]
"""Shows the reading of a folder: called with its name, it gives what `read_images` is to tell."""


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """What to do with a folder of images.

    Attributes
    ----------
    size : int
        Height and width that all images get.
    network : str
        Name of the encoder in `networks`.
    labels : int or None
        Labels to keep in training, balanced over classes; None for all that there are.
    test : Path or None
        A folder of test images, of the same form.
    test_fraction : float in [0, 1)
        Share of the labelled images to test on where there is no such folder, stratified by class; 0 for no test.
    seed : int
        Of the choice of test images and of labels.
    """

    size: int = 32
    network: str = "conv_small"
    labels: int | None = None
    test: Path | None = None
    test_fraction: float = 0.25
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class PreparedImages:
    """Images to train and to test on.

    Attributes
    ----------
    x_train : StoredRows
        Images of `channels`, of `size` by `size`.
    y_train : SparseLabels
        Names of classes.
    x_test : uint8 array of shape (images, channels, size, size)
    y_test : object array of shape (images,)
        Names of classes.
    """

    x_train: StoredRows
    y_train: SparseLabels
    x_test: NDArray[np.uint8]
    y_test: NDArray[np.object_]


def prepare_images(folder: Path, options: ImageOptions, watch: Watch) -> PreparedImages:
    """Read a folder of images, keep some labelled ones out to test on, and hide labels where that is asked for.

    Raises
    ------
    DataError
        If it cannot be read, there are too few labels, the test images are of other classes, or the size is too small
        for the network.
    """
    try:
        getattr(networks, options.network)((1, options.size, options.size), 2)
    except ValueError as error:
        raise DataError(f"images of {options.size} by {options.size} are too small for {options.network}.") from error
    with watch(folder.name) as on_image:
        images = read_images(folder, size=options.size, on_image=on_image)
    x, y, held_out = StoredRows(images.x), SparseLabels.of(images.labels), np.arange(0)
    if options.test is not None:
        test = _read_test(options.test, images, options.size, watch)
        known = SparseLabels.of(test.labels)
        x_test, y_test = test.x[known.numbers], known.values
    else:
        if options.test_fraction > 0:
            held_out = choose_held_out(y, options.test_fraction, task="classification", seed=options.seed)
        x_test, y_test = images.x[held_out], images.labels[held_out]
    y = y.without(held_out)
    if options.labels is not None:
        y = y.keep(options.labels, seed=options.seed)
    return PreparedImages(x_train=x.without(held_out), y_train=y, x_test=x_test, y_test=y_test)


def _read_test(folder: Path, images: Images, size: int, watch: Watch) -> Images:
    with watch(folder.name) as on_image:
        test = read_images(folder, size=size, channels=images.x.shape[1], fewest_classes=1, on_image=on_image)
    known = {label for label in images.labels.tolist() if label is not None}
    if unknown := {label for label in test.labels.tolist() if label is not None} - known:
        raise DataError(f"{folder} has classes that the training images have not: {', '.join(sorted(unknown))}.")
    return test
