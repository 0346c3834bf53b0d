"""The compiled kernels of kernels.cpp: built on first use by the machine's own C++ compiler, kept in the user's cache.

A build takes one to two seconds and is made once for a machine, a compiler and a precision. Where there is no
compiler, one warning says so and torch's own operations do the work.
"""

import atexit
import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("kernels.cpp")
COMPILERS = ("c++", "g++", "clang++")
FLAGS = (
    "-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC", "-shared",
    *(["-mprefer-vector-width=512"] if platform.machine().lower() in ("x86_64", "amd64") else []),
)  # fmt: skip
ADVICE = "Install a C++ compiler (g++ or clang++, with OpenMP), or name one in the environment variable CXX."
BUILD_SECONDS = 120
"""After which a build is given up."""


class KernelWarning(UserWarning):
    """The kernels could not be built, so torch's own operations are used."""


class _BuildError(Exception):
    pass


class Library:
    """The kernels for one precision of the matrix products.

    Parameters
    ----------
    path : Path
        A shared library built from kernels.cpp.
    """

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._functions: dict[tuple[str, tuple[torch.dtype, ...]], Any] = {}

    def call(self, name: str, kinds: tuple[torch.dtype, ...], *arguments: Tensor | float | None) -> None:
        """Call ``name`` for the given types; tensors, which must be contiguous, go by their address, None as null."""
        function = self._functions.get((name, kinds))
        if function is None:
            function = getattr(self._library, "_".join([name, *(_name(kind) for kind in kinds)]))
            function.restype = None
            function.argtypes = [_C_TYPES.get(type(argument), ctypes.c_void_p) for argument in arguments]
            self._functions[name, kinds] = function
        function(*[a if a.__class__ in _AS_IT_IS else a.data_ptr() for a in arguments])  # type: ignore[union-attr]


_AS_IT_IS = frozenset({int, float, bool, type(None)})
_C_TYPES = {bool: ctypes.c_bool, int: ctypes.c_int64, float: ctypes.c_double}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@cache
def load(precision: torch.dtype) -> Library | None:
    """Return the kernels for matrix products in this precision, built where they are not there yet.

    Parameters
    ----------
    precision : torch.dtype
        torch.float32, torch.float64, or torch.bfloat16 (with all else in float32).

    Returns
    -------
    Library or None
        None where they cannot be built; a `KernelWarning` has said why, once.
    """
    try:
        return Library(_built(_name(precision)))
    except (_BuildError, OSError) as error:
        say_once(f"{error}. {ADVICE}")
        return None


@cache
def say_once(reason: str) -> None:
    """Warn that there are no kernels."""
    warnings.warn(
        f"the fused kernels could not be built, so training takes about twice as long: {reason}",
        KernelWarning,
        stacklevel=2,
    )


def _built(precision: str) -> Path:
    """Path of the shared library, which is built if the cache has none for this source, machine and compiler."""
    compiler = _compiler()
    command = [compiler, *FLAGS, f"-DLADDERNET_{precision}", str(SOURCE)]
    key = hashlib.sha256()
    for part in (SOURCE.read_bytes(), " ".join(command).encode(), _version(compiler).encode(), _processor().encode()):
        key.update(hashlib.sha256(part).digest())
    folder = _cache_folder()
    path = folder / f"{precision}-{key.hexdigest()[:32]}.so"
    if not path.exists():  # beside it, then renamed: another thread or process may build it as well
        with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as beside:
            built = Path(beside) / path.name
            _run([*command, "-o", str(built)])
            built.replace(path)
    return path


def _compiler() -> str:
    named = os.environ.get("CXX", "").strip()
    for name in (named,) if named else COMPILERS:
        found = shutil.which(name)
        if found:
            return found
    raise _BuildError(f"no C++ compiler was found ({named or ', '.join(COMPILERS)})")


def _version(compiler: str) -> str:
    return _run([compiler, "--version"])


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise _BuildError(f"{command[0]} could not be run ({error})") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()[-1:]
        raise _BuildError(f"{command[0]} failed ({' '.join(lines)[:200]})")
    return done.stdout


def _processor() -> str:
    """What tells one kind of processor from another, since the kernels use all of its instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    except OSError:
        return f"{platform.machine()} {platform.processor()}"


def _cache_folder() -> Path:
    """A folder of the user's own, which nobody else can write to: what lies there is run."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "laddernet" / "kernels"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = folder.stat()
        if status.st_uid == os.getuid() and not status.st_mode & 0o022 and os.access(folder, os.W_OK):
            return folder
    except (OSError, AttributeError):
        pass
    return _own_folder()


@cache
def _own_folder() -> Path:
    """For this process alone, and gone with it."""
    folder = tempfile.mkdtemp(prefix="laddernet-kernels-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
