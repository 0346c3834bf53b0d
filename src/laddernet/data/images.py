"""Folders of images: one subfolder a class, and beside them ``unlabeled`` for those without one.

Images of any size and kind become squares of one size, once: what comes out is kept in the user's cache, under the
names, sizes and dates of the files, and mapped from there. Many images are read by several processes.
"""

import hashlib
import math
import multiprocessing
import os
import signal
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import connection, reduction
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from laddernet.data.formats import part_rows
from laddernet.errors import DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
UNLABELED = ("unlabeled", "unlabelled")
"""Names of the subfolder of images without a label, in capitals or not."""
WORKED = 500
"""Images from which on processes of their own read them: starting these takes about half a second."""
IN_MEMORY = 2**28
"""Bytes of images, in colour, that memory may hold where they cannot be kept in the cache."""
_TASK = 64  # images that a process reads at a time
_BLOCK = 2**24  # bytes of images that are converted at a time
_READ_COLOUR, _READ_GREY = 1, 2
_GREY = ("1", "L", "LA", "I", "F")


@dataclass(frozen=True, kw_only=True)
class Images:
    """Images of one size.

    Attributes
    ----------
    x : uint8 array of shape (images, channels, size, size)
        Red, green and blue, or grey. Mapped from the cache, so that what is not read takes no memory.
    labels : object array of shape (images,)
        Names of the classes' folders; None where there is none.
    paths : list of Path
    """

    x: NDArray[np.uint8]
    labels: NDArray[np.object_]
    paths: list[Path]

    def parts(self) -> Iterator[slice]:
        """Yield all images in their order, as many at a time as there are rows of a table (`files.part_rows`)."""
        size = part_rows(math.prod(self.x.shape[1:]))
        for start in range(0, len(self.x), size):
            yield slice(start, start + size)

    def names(self, folder: Path, part: slice = slice(None)) -> NDArray[np.object_]:
        """Return the files' names from a folder on, with slashes; what is no UTF-8 in them becomes question marks."""
        names = (path.relative_to(folder).as_posix() for path in self.paths[part])
        return np.array([name.encode("utf-8", "replace").decode("utf-8") for name in names], dtype=object)


def read_images(
    folder: Path,
    *,
    size: int,
    channels: int | None = None,
    fewest_classes: int | None = 2,
    on_image: Callable[[int, int], None] | None = None,
    workers: int | None = None,
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
    workers : int, optional
        Processes that read the images, 0 for this one alone; by default one a core, of `WORKED` images or more. A
        script that is run as such must then do its work under ``if __name__ == "__main__"``, as with all processes that
        Python spawns.

    Raises
    ------
    DataError
        If there are no images or classes, one cannot be read, a process that reads them dies, or there is no room for
        them; the message names the images, and says what to do.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder} of images.")
    try:
        files, labels = (_images_in(folder), []) if fewest_classes is None else _list(folder, fewest_classes)
        if not files:
            raise DataError(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))}).")
        cache = _cache_path(folder, files, size, channels)
    except OSError as error:
        raise DataError(
            f"{error.filename or folder} cannot be read ({error.strerror or error}). Make it readable, or take it out "
            f"of {folder}."
        ) from error
    found = np.array(labels or [None] * len(files), dtype=object)
    x = _from_cache(cache, len(files), size)
    if x is None:
        x = _resize(files, size, channels, on_image or (lambda done, of: None), workers, cache)
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
    for root, inside, names in os.walk(folder, onerror=_raise, followlinks=True):
        real = os.path.realpath(root)
        inside[:] = [] if real in seen else sorted(name for name in inside if not name.startswith("."))
        if real not in seen:
            found += [path for path in (Path(root, name) for name in names) if _is_image(path)]
        seen.add(real)
    return sorted(found)


def _raise(error: OSError) -> NoReturn:
    raise error


OnImage = Callable[[int, int], None]


def _resize(
    files: Sequence[Path], size: int, channels: int | None, on_image: OnImage, workers: int | None, cache: Path
) -> NDArray[np.uint8]:
    """Read all images and keep them in the cache; return them mapped, or, few where it lacks room, in memory."""
    shape = (len(files), size, size, 3)
    room = int(np.prod(shape))

    def no_room(error: OSError) -> None:
        if room > IN_MEMORY:
            raise DataError(
                f"{len(files):,} images of {size} by {size} take {2 * room:,} bytes in the cache {cache.parent} while "
                f"they are read, and there is no such room ({error.strerror or error}). Make room there, name another "
                "cache (XDG_CACHE_HOME), or take a smaller size."
            ) from error

    with ExitStack() as stack:
        reserved: list[IO[bytes]] = []
        try:
            cache.parent.mkdir(parents=True, exist_ok=True)
            reserved += [stack.enter_context(_reserved(cache.parent, count)) for count in (room, len(files))]
        except OSError as error:
            no_room(error)
        scratch = _Scratch(shape, *reserved)
        count = _workers(len(files)) if workers is None else workers
        if count and reserved:
            _read_by_workers(files, scratch, count, on_image)
        else:
            for number in range(len(files)):
                scratch.read(files[number], number)
                on_image(number + 1, len(files))
        grey, kept = scratch.is_grey(channels), None
        try:
            if reserved:
                _write_cache(cache, scratch.colours, grey=grey)
                kept = _from_cache(cache, len(files), size)
        except OSError as error:
            no_room(error)
        return np.concatenate(list(_converted(scratch.colours, grey=grey))) if kept is None else kept


class _Scratch:
    """Images in colour while they are read, each with a mark when that is done: in files, or in memory."""

    def __init__(self, shape: tuple[int, ...], *files: IO[bytes]) -> None:
        self._files = files
        self.colours, self.marks = (
            np.zeros(part, dtype=np.uint8) if file is None else np.memmap(file, dtype=np.uint8, mode="r+", shape=part)
            for file, part in zip(files or (None, None), (shape, shape[:1]), strict=True)
        )

    def __reduce__(self) -> Any:
        """Go to a process that is being spawned, which maps the same files: they need no name for it."""
        return _mapped_again, (self.colours.shape, *(reduction.DupFd(file.fileno()) for file in self._files))

    def read(self, path: Path, number: int) -> None:
        self.colours[number], is_grey = _read(path, self.colours.shape[1])
        self.marks[number] = _READ_GREY if is_grey else _READ_COLOUR

    def is_grey(self, channels: int | None) -> bool:
        """Whether the images shall be grey: those that are read."""
        return channels == 1 or (channels is None and bool((self.marks == _READ_GREY).all()))


def _mapped_again(shape: tuple[int, ...], *handles: Any) -> _Scratch:
    return _Scratch(shape, *(os.fdopen(handle.detach(), "r+b") for handle in handles))


def _reserved(folder: Path, size: int) -> IO[bytes]:
    """A file of so many zeros, which are there: writing to a mapping that finds no room would be the process's end."""
    file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - the caller closes it
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            for start in range(0, size, _BLOCK):
                file.write(bytes(min(_BLOCK, size - start)))
            file.flush()
    except BaseException:
        file.close()
        raise
    return file


def _workers(images: int) -> int:
    """Processes to read so many images with; 0 for this one, which may have no children if it is itself a daemon."""
    if images < WORKED or multiprocessing.current_process().daemon or os.name == "nt":
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, images // _TASK)


def _read_by_workers(files: Sequence[Path], scratch: _Scratch, workers: int, on_image: OnImage) -> None:
    """Have processes read all images into the scratch files, each the next few when it is done with the last."""
    context = multiprocessing.get_context("spawn")
    tasks = iter(range(0, len(files), _TASK))
    at_work: dict[Future[None], range] = {}
    done = 0
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker, initargs=(scratch,))
    try:
        while True:
            while len(at_work) < workers and (start := next(tasks, None)) is not None:
                task = range(start, min(start + _TASK, len(files)))
                paths = [files[number] for number in task]
                at_work[pool.submit(_work, paths, task)] = task
            if not at_work:
                return
            for future in wait(at_work, return_when=FIRST_COMPLETED).done:
                future.result()
                done += len(at_work.pop(future))
            on_image(done, len(files))
    except BrokenProcessPool as error:
        raise DataError(_what_broke(files, scratch.marks, list(at_work.values()))) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _what_broke(files: Sequence[Path], marks: NDArray[np.uint8], at_work: Sequence[range]) -> str:
    """What to say where a process has died: each was at the first image of its task that has no mark."""
    unread = [next((i for i in task if not marks[i]), None) for task in at_work]
    names = ", ".join(str(files[i]) for i in unread if i is not None)
    hint = "" if marks.any() else ' (In a script of your own, read images under if __name__ == "__main__".)'
    return (
        "a process that reads images died: it was killed, perhaps as memory is short, or an image broke the decoder. "
        f"Being read were {names or 'none'}. Close other programs; if it happens again at the same image, remove that "
        f"image or save it anew.{hint}"
    )


_scratch: _Scratch | None = None


def _begin_worker(scratch: _Scratch) -> None:
    """Leave Ctrl-C to the process that waits for this one, and end when that one has ended, however that was."""
    global _scratch
    _scratch = scratch
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch(sentinel: int) -> None:
        connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, args=(parent.sentinel,), daemon=True).start()


def _work(files: Sequence[Path], numbers: range) -> None:
    assert _scratch is not None
    for path, number in zip(files, numbers, strict=True):
        _scratch.read(path, number)


def _converted(colours: NDArray[np.uint8], *, grey: bool) -> Iterator[NDArray[np.uint8]]:
    """Images in colour as they are kept, channels first, a part at a time; grey by the usual weights of the colours."""
    size = max(_BLOCK // int(np.prod(colours.shape[1:])), 1)
    for start in range(0, len(colours), size):
        part = np.ascontiguousarray(colours[start : start + size])
        if grey:
            yield np.rint(part @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)[:, None]
        else:
            yield np.ascontiguousarray(part.transpose(0, 3, 1, 2))


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
    except MemoryError:
        raise
    except Exception as error:  # a decoder fails in many ways
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
        kept: np.memmap[Any, np.dtype[np.uint8]] = np.load(path, mmap_mode="r", allow_pickle=False)
        whole = kept.offset + kept.nbytes == path.stat().st_size
    except Exception:  # a damaged header fails anywhere in being read as Python's literals
        return None
    fits = whole and kept.ndim == 4 and kept.dtype == np.uint8 and kept.shape[1] in (1, 3)
    return kept if fits and (len(kept), *kept.shape[2:]) == (count, size, size) else None


def _write_cache(path: Path, colours: NDArray[np.uint8], *, grey: bool) -> None:
    shape = (len(colours), 1 if grey else 3, *colours.shape[1:3])
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".npy")
    try:
        with os.fdopen(handle, "wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for part in _converted(colours, grey=grey):
                file.write(part.data)
        Path(beside).replace(path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
