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
"""Names of the subfolder of images without a label, in capitals or not."""
_GREY = ("1", "L", "LA", "I", "F")


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
        """Return the files' names from a folder on, with slashes; what is no UTF-8 in them becomes question marks."""
        names = (path.relative_to(folder).as_posix() for path in self.paths)
        return np.array([name.encode("utf-8", "replace").decode("utf-8") for name in names], dtype=object)


def read_images(
    folder: Path,
    *,
    size: int,
    channels: int | None = None,
    fewest_classes: int | None = 2,
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
    fewest_classes : int, optional
        How many classes there must be. With None, all images anywhere in the folder are read, by name, without labels.
    on_image : callable, optional
        Told how many of how many images are done, where they are not in the cache.

    Raises
    ------
    DataError
        If there are no images or classes, or one cannot be read; the message names it.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder} of images.")
    files, labels = (_images_in(folder), []) if fewest_classes is None else _list(folder, fewest_classes)
    if not files:
        raise DataError(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))}).")
    found = np.array(labels or [None] * len(files), dtype=object)
    cache = _cache_path(folder, files, size, channels)
    x = _from_cache(cache, len(files), size)
    if x is None:
        x = _resize(files, size, channels, on_image)
        _to_cache(cache, x)
    return Images(x=x, labels=found, paths=files)


def _list(folder: Path, fewest_classes: int) -> tuple[list[Path], list[str | None]]:
    files: list[Path] = []
    labels: list[str | None] = []
    left_out = [path.name for path in folder.iterdir() if _is_image(path)]
    for part in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        inside = _images_in(part)
        left_out += [] if inside else [f"{part.name}/"]
        files += inside
        labels += [None if part.name.lower() in UNLABELED else part.name] * len(inside)
    classes = {label for label in labels if label is not None}
    if len(classes) < fewest_classes:
        found = f"has images of {len(classes)}" if classes else "has no subfolder with images"
        raise DataError(
            f"{folder} {found}: it needs {'two classes' if fewest_classes == 2 else 'a class'} or more, one subfolder "
            "each, and unlabeled/ for the images without a label."
        )
    for name in classes:
        if not name.isprintable() or name != name.encode("utf-8", "replace").decode("utf-8"):
            raise DataError(f"{folder} has a class whose name is no text, {name!r}: rename the subfolder.")
    if left_out:
        shown = ", ".join(left_out[:5]) + (f" and {len(left_out) - 5} more" if len(left_out) > 5 else "")
        warnings.warn(
            f"left out of {folder}: {shown!a}. Images belong in a class's subfolder or in unlabeled/, and a subfolder "
            "without images is no class.",
            stacklevel=3,
        )
    return files, labels


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _images_in(folder: Path) -> list[Path]:
    """All images in a folder and below, through links as well, each folder once."""
    found: list[Path] = []
    seen: set[str] = set()
    for root, inside, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        inside[:] = [] if real in seen else sorted(name for name in inside if not name.startswith("."))
        if real not in seen:
            found += [path for path in (Path(root, name) for name in names) if _is_image(path)]
        seen.add(real)
    return sorted(found)


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
                is_grey = upright.mode in _GREY or upright.mode.startswith("I;16")
                if upright.mode.startswith(("I", "F")):  # more than 8 bits a pixel
                    upright = Image.fromarray(_eight_bits(np.asarray(upright), upright.mode, image.format))
                square = ImageOps.fit(upright.convert("RGB"), (size, size), method=Image.Resampling.BICUBIC)
                return np.asarray(square), is_grey
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError, Warning) as error:
        raise DataError(f"{path} cannot be read as an image ({' '.join(str(error).split()):.200}).") from error


def _eight_bits(values: NDArray[Any], mode: str, format: str | None) -> NDArray[np.uint8]:
    """Levels of 0..255 by what the kind of file can hold, so that one image does not count otherwise than the next."""
    if mode == "F":
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError("its floating-point values are not all in 0..1: save it so, or with 8 or 16 bits")
        return np.rint(values.astype(np.float64) * 255).astype(np.uint8)
    if mode == "I" and format != "PPM":  # which have 16 bits
        raise ValueError("it has whole numbers of 32 bits, whose white is not known: save it with 8 or 16 bits")
    return np.rint(np.clip(values.astype(np.float64), 0, 65535) / 257).astype(np.uint8)


def _cache_path(folder: Path, files: Sequence[Path], size: int, channels: int | None) -> Path:
    import pooch

    key = hashlib.sha256(b"2 " + os.fsencode(folder.resolve()) + f" {size} {channels}".encode())
    for path in files:
        status = path.stat()
        key.update(b"\0" + os.fsencode(path.relative_to(folder)))
        key.update(f"\0{status.st_size}\0{status.st_mtime_ns}".encode())
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
