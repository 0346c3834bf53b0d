"""A training run's state in a file, so that a run that was stopped or killed is taken up where it was.

The file is a safetensors file: tensors by their place in the state (``ladder/network.0.0.weight``), all else as JSON
in its metadata, and a checksum of both. It is written beside its place, synced and renamed; the one before it is kept
(``.previous``) and used where the newest is damaged. A run that is taken up on the same machine ends, bit for bit, as
it would have without the break.
"""

import hashlib
import json
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from laddernet.distributed import ALONE, Processes
from laddernet.errors import RunError
from laddernet.loop import TrainingStopped

FORMAT = "laddernet checkpoint 1"
SHARE = 0.01
"""Of the training's time, at most, that writing its state takes up, where no `minutes` have passed."""
_TENSOR = "tensor"
_ORIGINS = "origins"
_SHORT = 60
"""Characters of two values, up to which a message shows them."""
_KEPT = "The training's state is kept; the same command goes on with it."


class Checkpoint:
    """Where a training run's state is kept; given to `fit` or `training.train`, for one run at a time.

    It is written at the end of an epoch and every so many minutes, but so rarely that it costs a hundredth of the time.

    Parameters
    ----------
    path : Path
        The file; its folder is made. Beside it lie the one before it and a lock.
    minutes : float
        After so long at the latest it is written in the middle of an epoch; greater than 0.
    processes : Processes
        That train together: the first of them reads and writes, and tells the others.
    origin : mapping, optional
        What makes the states, such as the code and the machine; anything that goes to JSON. It is kept with them, and
        needs not be the same where they are taken up.

    Attributes
    ----------
    origins : list
        Every origin of what was taken up, the first first; empty where nothing was.

    Raises
    ------
    ValueError
        If `minutes` is not above 0.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        minutes: float = 5.0,
        processes: Processes = ALONE,
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        if not minutes > 0:
            raise ValueError(f"minutes must be above 0, got {minutes}.")
        self.path = Path(path)
        self.minutes = minutes
        self.processes = processes
        self.origin = json.loads(json.dumps(origin))
        self.origins: list[Any] = []
        self.stop: int | None = None
        self._identity: dict[str, Any] = {}
        self._written = time.monotonic()
        self._cost = 0.0
        self._calls = 0
        self._newest_is_whole = True
        self._lock = FileLock(f"{path}.lock", timeout=0)

    @property
    def previous(self) -> Path:
        """The file before the newest."""
        return self.path.with_name(f"{self.path.name}.previous")

    @property
    def exists(self) -> bool:
        """Whether there is a state to go on from."""
        return self.path.exists() or self.previous.exists()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from this file while the context lasts, which may lie within another of its kind.

        The lock of a process that died is not in the way.

        Raises
        ------
        RunError
            If another process holds it, or the folder cannot be written to.
        """
        self.processes.from_first(self._acquire)
        try:
            yield
        finally:
            self._lock.release()

    def _acquire(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout as error:
            raise RunError(f"{self.path} is in use: another process is training this run. Wait for it.") from error
        except OSError as error:
            raise RunError(f"no checkpoint can be written to {self.path.parent}: {error.strerror or error}.") from error

    @contextmanager
    def held(self) -> Iterator[None]:
        """Be `locked` while the context lasts, in which signals stop training in good order.

        SIGINT and SIGTERM are then answered after the step that is being made: the state is written, and
        `TrainingStopped` is raised. A second one is answered at once.
        """
        self.stop = None
        with self.locked(), self._signals():
            yield
        if stop := self._stop_anywhere():  # it came when the last step was made
            raise TrainingStopped(stop)

    def _stop_anywhere(self) -> int:
        """The signal that a process got, if any; of several the same in all."""
        return self.processes.most(self.stop or 0)[0]

    @contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before: dict[int, Any] = {}

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        def stop(number: int, frame: FrameType | None) -> None:
            self.stop = number
            restore()  # the next one counts at once

        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:  # as SIGINT is in the background of a shell's script
                before[number] = signal.signal(number, stop)
        try:
            yield
        finally:
            restore()

    @contextmanager
    def until_done(self) -> Iterator[None]:
        """Be `locked` while the context lasts, which makes something of the training, and remove what was kept then.

        After an error it stays, and a note on the error says so.
        """
        with self.locked():
            try:
                yield
            except BaseException as error:
                if self.exists:
                    if _KEPT not in getattr(error, "__notes__", ()):
                        error.add_note(_KEPT)
                else:
                    self.remove()
                raise
            self.remove()

    def load(self, identity: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the state that was kept last and is whole; None where nothing was kept.

        Parameters
        ----------
        identity : mapping
            What must be the same in the run that was kept; anything that goes to JSON.

        Raises
        ------
        RunError
            If it is of another run, or nothing that was kept is whole.
        """
        self._written = time.monotonic()
        self._calls = 0
        return self.processes.from_first(lambda: self._load(identity))

    def _load(self, identity: Mapping[str, Any]) -> Mapping[str, Any] | None:
        self._identity = json.loads(json.dumps(identity))
        damaged: list[str] = []
        for path in (self.path, self.previous):
            if not path.exists():
                continue
            try:
                found, state = read(path)
            except RunError as error:
                damaged.append(str(error))
                continue
            if different := [name for name in self._identity if found.get(name) != self._identity[name]]:
                both = [(name, str(found.get(name)), str(self._identity[name])) for name in different]
                short = "; ".join(f"{name}: {a} there, {b} here" for name, a, b in both if len(a + b) <= _SHORT)
                raise RunError(
                    f"{path} is of another run: its {', '.join(different)} differ{f' ({short})' if short else ''}. "
                    "Name another file or folder, or remove it."
                )
            if damaged:
                self._newest_is_whole = False
                warnings.warn(f"{damaged[0]} The one before it, {path}, is used.", stacklevel=5)
            self.origins = list(found.get(_ORIGINS, []))
            return state
        if damaged:
            raise RunError(f"{' '.join(damaged)} Remove what is there, to begin anew.")
        return None

    def after_steps(self, state: Callable[[], Mapping[str, Any]], *, epoch_ended: bool) -> None:
        """Keep the state if it is time, or if training shall stop.

        Where it cannot be written, what was kept before stays, and training goes on with a warning. Several processes
        agree on it, on a GPU at every 25th call.

        Raises
        ------
        TrainingStopped
            After a signal, once the state is kept.
        OSError
            If it cannot be written, and training shall stop.
        """
        self._calls += 1
        if not epoch_ended and self._calls % self.processes.agree_every:
            return
        since = time.monotonic() - self._written
        due = since >= 60 * self.minutes or (epoch_ended and since * SHARE >= self._cost)
        stop, due_at_first = self.processes.most(self.stop or 0, due and self.processes.is_first)
        if stop or due_at_first:
            kept = state()
        if stop:
            self.save(kept)
            raise TrainingStopped(stop)
        if due_at_first:
            try:
                self.save(kept)
            except OSError as error:
                self._written = time.monotonic()  # not again at once
                warnings.warn(f"{error.strerror}. Training goes on without a new checkpoint.", stacklevel=2)

    def save(self, state: Mapping[str, Any]) -> None:
        """Write a state in place of the one that was kept, which becomes the previous one."""
        if not self.processes.is_first:
            return
        started = time.monotonic()
        beside = self.path.with_name(f"{self.path.name}.writing")
        try:
            is_new = self.origin not in (None, *self.origins)
            origins = [*self.origins, self.origin] if is_new else self.origins
            write(beside, {**self._identity, _ORIGINS: origins}, state)
            if self._newest_is_whole and self.path.exists():  # else the previous one is all there is
                self.path.replace(self.previous)
            beside.replace(self.path)
            self._newest_is_whole = True
            sync(self.path.parent)
        except OSError as error:
            beside.unlink(missing_ok=True)
            reason = f"the checkpoint {self.path} could not be written ({error.strerror or error})"
            raise OSError(error.errno or 0, reason) from error
        self._written = time.monotonic()
        self._cost = self._written - started

    def forget(self) -> None:
        """Remove what was kept."""
        for path in (self.path, self.previous):
            path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove what was kept and the lock, once they are of no use any more."""
        self.forget()
        Path(f"{self.path}.lock").unlink(missing_ok=True)


def write(path: Path, identity: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write a checkpoint file and sync it to the disk."""
    tensors: dict[str, Tensor] = {}
    plain = json.dumps({"identity": identity, "state": _without_tensors(state, "", tensors)})
    metadata = {"format": FORMAT, "state": plain, "sha256": _digest(tensors, plain)}
    path.unlink(missing_ok=True)
    with path.open("xb") as file:  # not to where a link leads
        file.write(save(tensors, metadata))
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a checkpoint file's identity and state.

    Raises
    ------
    RunError
        If it is not a whole file of this format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise RunError(f"{path} is no {FORMAT}, but {metadata.get('format', 'something else')!r}.")
            # Copies: what is read is mapped from the file, which is to be replaced.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - no mapping
        if _digest(tensors, metadata["state"]) != metadata["sha256"]:
            raise RunError(f"{path} is damaged: its checksum is not that of its content.")
        content = json.loads(metadata["state"])
        return content["identity"], _with_tensors(content["state"], tensors)
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, MemoryError, RecursionError) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{path} is damaged: {' '.join(str(error).split())}.") from error


def _digest(tensors: Mapping[str, Tensor], plain: str) -> str:
    digest = hashlib.sha256(plain.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _without_tensors(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """A value that goes to JSON, its tensors put into `tensors` by their place."""
    if isinstance(value, Tensor):
        tensors[place] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {_TENSOR: place}
    if isinstance(value, Mapping):
        return {
            name: _without_tensors(part, f"{place}/{name}" if place else name, tensors) for name, part in value.items()
        }
    return value


def _with_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    if value.keys() == {_TENSOR}:
        return tensors[value[_TENSOR]]
    return {name: _with_tensors(part, tensors) for name, part in value.items()}


def sync(folder: Path) -> None:
    """Have a folder's entries on the disk, where the system lets folders be synced."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
