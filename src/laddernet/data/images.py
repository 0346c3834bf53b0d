"""Folders of images: one subfolder a class, and beside them ``unlabeled`` for those without one.

Images of any size and kind become squares of one size, once: what comes out is kept in the user's cache, under the
names, sizes and dates of the files.
"""

import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laddernet.errors import DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
UNLABELED = ("unlabeled", "unlabelled")
"""Names of the subfolder of images without a label."""
_GREY = frozenset({"1", "L", "LA", "I", "I;16", "F"})


@dataclass(frozen=True, kw_only=True)
class Images:
    """Images of one size.

    Attributes
    ----------
    x : uint8 array of shape (images, channels, size, size)
        Red, green and blue, or grey.
    labels : object array of shape (images,)
        Names of the classes' folders; None where there is none.
    paths : list of Path
    """

    x: NDArray[np.uint8]
    labels: NDArray[np.object_]
    paths: list[Path]

    def names(self, folder: Path) -> NDArray[np.object_]:
        """Return the files' names from a folder on, with slashes."""
        return np.array([path.relative_to(folder).as_posix() for path in self.paths], dtype=object)


def read_images(
    folder: Path,
    *,
    size: int,
    channels: int | None = None,
    labeled: bool = True,
    on_image: Callable[[int, int], None] | None = None,
) -> Images:
    """Read a folder of images.

    An image is turned upright, cut to its middle square and resized.

    Parameters
    ----------
    folder : Path
        With a subfolder for each class, whose name is the class, and those of `UNLABELED`; subfolders of these belong
        to them. Files that are no images by their suffix are left out, and so is what begins with a dot.
    size : int
        Height and width of the result, at least 1.
    channels : {1, 3}, optional
        Grey or colour; by default grey where all images are.
    labeled : bool
        Whether there must be classes. Without, all images anywhere in the folder are read, by name, without labels.
    on_image : callable, optional
        Told how many of how many images are done, where they are not in the cache.

    Raises
    ------
    DataError
        If there are no images or classes, or one cannot be read; the message names it.
    """
    files, labels = _list(folder) if labeled else (_images_in(folder), [])
    if not files:
        raise DataError(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))}).")
    found = np.array(labels or [None] * len(files), dtype=object)
    cache = _cache_path(folder, files, size, channels)
    x = _from_cache(cache, len(files), size)
    if x is None:
        x = _resize(files, size, channels, on_image)
        _to_cache(cache, x)
    return Images(x=x, labels=found, paths=files)


def _list(folder: Path) -> tuple[list[Path], list[str | None]]:
    files: list[Path] = []
    labels: list[str | None] = []
    for part in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        inside = _images_in(part)
        files += inside
        labels += [None if part.name in UNLABELED else part.name] * len(inside)
    classes = {label for label in labels if label is not None}
    if len(classes) < 2:
        found = f"has images of {len(classes)}" if classes else "has no subfolder with images"
        raise DataError(
            f"{folder} {found}: it needs two classes or more, one subfolder each, and unlabeled/ for the images "
            "without a label."
        )
    return files, labels


def _images_in(folder: Path) -> list[Path]:
    inside = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(path for path in inside if not any(name.startswith(".") for name in path.relative_to(folder).parts))


def _resize(
    files: Sequence[Path], size: int, channels: int | None, on_image: Callable[[int, int], None] | None
) -> NDArray[np.uint8]:
    colours = np.empty((len(files), size, size, 3), dtype=np.uint8)
    grey = channels == 1 or channels is None
    for i, path in enumerate(files):
        colours[i], is_grey = _read(path, size)
        grey = grey and (is_grey or channels == 1)
        if on_image is not None:
            on_image(i + 1, len(files))
    if grey:  # by the usual weights of red, green and blue
        levels = colours @ np.array([0.299, 0.587, 0.114])
        rounded: NDArray[np.uint8] = np.rint(levels).astype(np.uint8)[:, None]
        return rounded
    return np.ascontiguousarray(colours.transpose(0, 3, 1, 2))


def _read(path: Path, size: int) -> tuple[NDArray[np.uint8], bool]:
    """One image in colour, and whether it is a grey one."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                upright = ImageOps.exif_transpose(image)
                is_grey = upright.mode in _GREY
                if upright.mode in ("I", "I;16", "F"):  # more than 8 bits a pixel
                    upright = _eight_bits(upright)
                square = ImageOps.fit(upright.convert("RGB"), (size, size), method=Image.Resampling.BICUBIC)
                return np.asarray(square), is_grey
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError, Warning) as error:
        raise DataError(f"{path} cannot be read as an image ({' '.join(str(error).split()):.150}).") from error


def _eight_bits(image: Any) -> Any:
    from PIL import Image

    values = np.asarray(image, dtype=np.float64)
    largest = 65535.0 if values.max(initial=0) > 255 else 255.0
    return Image.fromarray(np.clip(values / largest * 255, 0, 255).astype(np.uint8))


def _cache_path(folder: Path, files: Sequence[Path], size: int, channels: int | None) -> Path:
    import pooch

    key = hashlib.sha256(f"1 {folder.resolve()} {size} {channels}".encode())
    for path in files:
        status = path.stat()
        key.update(f"\0{path.relative_to(folder)}\0{status.st_size}\0{status.st_mtime_ns}".encode())
    return Path(pooch.os_cache("laddernet")) / "images" / f"{key.hexdigest()[:32]}.npy"


def _from_cache(path: Path, count: int, size: int) -> NDArray[np.uint8] | None:
    try:
        kept: NDArray[np.uint8] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    fits = kept.ndim == 4 and kept.dtype == np.uint8 and kept.shape[1] in (1, 3)
    return kept if fits and (len(kept), *kept.shape[2:]) == (count, size, size) else None


def _to_cache(path: Path, x: NDArray[np.uint8]) -> None:
    """Keep it if that can be done; the cache is a convenience."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".npy")
        try:
            with os.fdopen(handle, "wb") as file:
                np.save(file, x)
            Path(beside).replace(path)
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise
    except OSError:
        pass
