import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from laddernet import LadderClassifier
from laddernet.errors import OutOfMemoryError, TrainingError, memory_watched


@pytest.fixture
def little_memory():
    """Let this process take 300 MB more than it has."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 300 * 2**20, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.fault("memory is short", "an error that says what needs less; the model is as it was")
@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize(
    "settings", [{"hidden_layer_sizes": (20_000, 20_000)}, {"hidden_layer_sizes": (30_000,), "batch_size": 5000}]
)
def test_where_memory_is_short_it_is_said_what_needs_less(settings):
    X = np.random.default_rng(0).normal(size=(5000, 4))
    y = np.where(np.arange(5000) < 100, np.arange(5000) % 2, -1)
    model = LadderClassifier(max_epochs=1, **settings)
    with pytest.raises(OutOfMemoryError, match="out of memory: a smaller batch_size, a narrower network .* need less"):
        model.fit(X, y)
    assert not hasattr(model, "ladder_")


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (TrainingError("the cost became nan"), False),
    ],
)
def test_what_means_that_memory_is_short(error, seen):
    with pytest.raises(OutOfMemoryError if seen else type(error)) as raised, memory_watched("take less."):
        raise error
    assert ("take less." in str(raised.value)) == seen
