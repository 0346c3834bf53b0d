import os
import stat
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats

from laddernet import kernels
from laddernet.fused import normal
from laddernet.kernels import KernelWarning, load

ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("CXX", "XDG_CACHE_HOME")}
BUILD = """
import torch, warnings
from laddernet import kernels
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    libraries = [kernels.load(torch.float32), kernels.load(torch.float32), kernels.load(torch.float64)]
    print([library is not None for library in libraries], [str(w.message) for w in caught])
"""


def build(tmp_path, **environment):
    """What a fresh process says that builds into an empty cache."""
    given = {**ENVIRONMENT, "XDG_CACHE_HOME": str(tmp_path), "TMPDIR": str(tmp_path), **environment}
    return subprocess.run([sys.executable, "-c", BUILD], env=given, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def library():
    found = load(torch.float32)
    assert found is not None
    return found


def test_a_build_is_kept_for_the_next_process_in_a_folder_of_the_users_own(tmp_path):
    assert build(tmp_path) == "[True, True, True] []\n"
    folder = tmp_path / "laddernet" / "kernels"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    built = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert sorted(name.split("-")[0] for name in built) == ["float32", "float64"]
    assert build(tmp_path) == "[True, True, True] []\n"
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == built


def test_what_others_can_write_to_is_not_run(tmp_path):
    folder = tmp_path / "laddernet" / "kernels"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    assert build(tmp_path).startswith("[True")
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [
        ("no-such-compiler", "no C++ compiler was found (no-such-compiler)"),
        ("false", "false failed"),
    ],
)
def test_without_a_compiler_one_warning_says_so(tmp_path, compiler, reason):
    said = build(tmp_path, CXX=compiler)
    assert said.startswith("[False, False, False] [")
    assert said.count("the fused kernels could not be built") == 1
    assert reason in said
    assert "Install a C++ compiler" in said


def test_a_source_that_does_not_compile_leaves_nothing_behind(tmp_path, monkeypatch):
    source = tmp_path / "broken.cpp"
    source.write_text("this is no C++\n")
    monkeypatch.setattr(kernels, "SOURCE", source)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernels.load.cache_clear()
    kernels.say_once.cache_clear()
    try:
        with pytest.warns(KernelWarning, match=r"failed \(.*error"):
            assert load(torch.float64) is None
    finally:
        kernels.load.cache_clear()
        kernels.say_once.cache_clear()
    assert not list((tmp_path / "laddernet" / "kernels").iterdir())


class TestNormal:
    def test_the_numbers_are_standard_normal_and_independent(self, library):
        numbers = normal(library, (1000, 1001), std=1.0, generator=torch.Generator().manual_seed(0)).double().numpy()
        flat = numbers.ravel()
        assert np.isfinite(flat).all()
        assert stats.kstest(flat, "norm").pvalue > 0.001
        assert 4.4 < np.abs(flat).max() < 5.8
        for power, expected in enumerate((0, 1, 0, 3), start=1):
            deviation = ((flat**power).mean() - expected) / ((flat**power).std() / len(flat) ** 0.5)
            assert abs(deviation) < 4
        for lag in (1, 2, 15, 16, 17, 31, 32, 8192):
            assert abs((flat[:-lag] * flat[lag:]).mean()) * len(flat) ** 0.5 < 4
            assert abs((flat[:-lag] ** 2 * flat[lag:] ** 2).mean() - 1) * (len(flat) / 8) ** 0.5 < 4

    def test_the_generator_and_not_the_threads_fixes_the_numbers(self, library):
        def draw(seed, threads):
            torch.set_num_threads(threads)
            try:
                return normal(library, (300, 333), std=0.3, generator=torch.Generator().manual_seed(seed))
            finally:
                torch.set_num_threads(1)

        assert torch.equal(draw(5, 1), draw(5, 3))
        assert not torch.equal(draw(5, 1), draw(6, 1))
        assert draw(5, 1).std().item() == pytest.approx(0.3, rel=0.02)

    def test_each_call_goes_on_with_the_generator(self, library):
        generator = torch.Generator().manual_seed(0)
        first, second = (normal(library, (7, 5), std=1.0, generator=generator) for _ in range(2))
        assert not torch.equal(first, second)
        assert not set(first.flatten().tolist()) & set(second.flatten().tolist())
