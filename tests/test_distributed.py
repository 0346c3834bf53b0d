"""Several processes train one network as one process does."""

import gc
import os
import pickle
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.multiprocessing.spawn import spawn
from typer.testing import CliRunner

from laddernet import Ladder, LadderClassifier
from laddernet.cli import app
from laddernet.distributed import ALONE, Processes
from laddernet.errors import ProcessLostError
from laddernet.loop import Callback
from laddernet.networks import mlp
from laddernet.noise import VirtualAdversarial, masking
from laddernet.normalization import batch_normalize, batch_normalize_streams
from laddernet.resume import Checkpoint
from laddernet.training import TrainingConfig, train

LONG = {"full", "gamma", "convolutional"}
"""Trained for 50 steps on the first data; the others for 12."""


def small(**settings: Any) -> Ladder:
    return Ladder(mlp([6, 8, 5, 3]), denoising_weights=(10, 1, 0.1, 0.1), **settings)


def convolutional(**settings: Any) -> Ladder:
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.LeakyReLU(0.1), nn.Dropout2d(0.2), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 2), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(24, 3),
    )  # fmt: skip
    return Ladder(network, input_shape=(1, 8, 8), **settings)


def straight_through(clean: torch.Tensor, std: float, generator: torch.Generator | None) -> torch.Tensor:
    """A corruption of a user's own: noise that grows with the value."""
    return clean + std * clean.abs() * torch.rand(clean.shape, generator=generator, dtype=clean.dtype)


LADDERS: dict[str, tuple[Callable[..., Ladder], dict[str, Any]]] = {
    "full": (small, {}),
    "gamma": (small, {"variant": "gamma"}),
    "bottom": (small, {"variant": "bottom"}),
    "baseline": (small, {"variant": "baseline"}),
    "clean path": (small, {"supervised_path": "clean"}),
    "joint statistics": (small, {"joint_statistics": True}),
    "no lateral connections": (small, {"combinator": "no_lateral"}),
    "masking": (small, {"corruption": masking}),
    "own corruption": (small, {"corruption": straight_through}),
    "adversarial": (small, {"corruption": VirtualAdversarial()}),
    "weight normalization": (small, {"weight_normalization": "all"}),
    "regression": (small, {"task": "regression"}),
    "convolutional": (convolutional, {}),
    "convolutional gamma": (convolutional, {"variant": "gamma"}),
}
DATA: dict[str, tuple[int, int, dict[str, Any]]] = {  # labelled rows, all rows, settings
    "uneven": (7, 33, {"batch_size": 11}),
    "two labels": (2, 20, {"batch_size": 10}),
    "repeated labels": (4, 20, {"batch_size": 10, "repeat_labels": True}),
    "averaged": (7, 22, {"batch_size": 11, "averaged_epochs": 3, "decay": "cosine"}),
}
TWO = [(name, "uneven") for name in LADDERS] + [("full", name) for name in DATA if name != "uneven"]
THREE = [("full", "uneven"), ("full", "two labels"), ("adversarial", "two labels"), ("convolutional", "uneven")]


def run(name: str, data: str, processes: Processes, **others: Any) -> dict[str, Any]:
    """Train in float64; the costs of each epoch, the weights and the statistics."""
    make, settings = LADDERS[name]
    labeled, rows, config = DATA[data]
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    ladder = make(generator=generator, **settings).double()
    numbers = np.random.default_rng(2)
    x = torch.from_numpy(numbers.normal(size=(rows, *ladder.input_shape)))
    y = torch.from_numpy(numbers.integers(3, size=labeled))
    if ladder.task == "regression":
        y = torch.nn.functional.one_hot(y, 3).double()
    steps = 50 if name in LONG and data == "uneven" else 12
    epochs = -(-steps // (rows // config["batch_size"]))
    if name == "bottom":  # some of its gradients are 0 but for rounding, which Adam makes steps of full size of
        others["optimizer"] = torch.optim.SGD(ladder.parameters())
    history = train(
        ladder, x, x[:labeled], y, TrainingConfig(epochs=epochs, learning_rate=0.01, **config),
        generator=torch.Generator().manual_seed(3), processes=processes,
        weight=torch.linspace(0.5, 1.5, labeled, dtype=torch.float64), **others,
    )  # fmt: skip
    costs = [[r["cost"], r["supervised_cost"], *(c or 0.0 for c in r["denoising_costs"])] for r in history]
    state = {key: value.numpy() for key, value in ladder.state_dict().items()}
    return {"costs": np.array(costs), **state}


def fitted(processes: Processes) -> dict[str, Any]:
    """Fit an estimator with validation rows and early stopping."""
    numbers = np.random.default_rng(0)
    x = numbers.normal(size=(120, 6))
    y = np.where(np.arange(120) < 40, (x[:, 0] > 0).astype(int), -1)
    model = LadderClassifier(
        (12,), max_epochs=15, batch_size=25, precision="float64", early_stopping=True, validation_fraction=0.3,
        random_state=0,
    )  # fmt: skip
    model.fit(x, y, processes=processes)
    errors = [record["validation_error"] for record in model.history_]
    return {"errors": np.array(errors), "answers": model.predict_proba(x)}


def fused(processes: Processes) -> dict[str, Any]:
    """Train a few steps in float32 with the kernels' noise."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    ladder = small(generator=generator)
    x = torch.from_numpy(np.random.default_rng(2).normal(size=(33, 6)).astype(np.float32))
    config = TrainingConfig(epochs=2, batch_size=11, kernels="compiled", precision="float32")
    history = train(
        ladder, x, x[:7], torch.arange(7) % 3, config, generator=torch.Generator().manual_seed(3), processes=processes
    )
    return {"costs": np.array([record["cost"] for record in history])}


def normalized(processes: Processes) -> dict[str, Any]:
    """Normalise this process's share of two streams, and the gradients of a sum over all processes."""
    numbers = np.random.default_rng(4)
    sizes, shape = (7, 2), (3, 2, 2)
    streams, weights = (
        [torch.from_numpy(numbers.normal(5, 3, size=(size, *shape))) for size in sizes] for _ in range(2)
    )
    shares = [processes.share(size) for size in sizes]
    parts = [share.of(stream).clone().requires_grad_() for share, stream in zip(shares, streams, strict=True)]
    found = batch_normalize_streams(parts, processes)
    total = sum(
        (share.of(weight) * one.z).sum() + (one.mean.sum() + one.inverse_std.square().sum()) / processes.size
        for share, weight, one in zip(shares, weights, found, strict=True)
    )
    total.backward()
    return {
        f"{name} {i}": processes.sum(share.among_all(value.detach())).numpy()
        for i, (share, part, one) in enumerate(zip(shares, parts, found, strict=True))
        for name, value in (("z", one.z), ("grad", part.grad))
    }


def everything(processes: Processes, cases: Sequence[tuple[str, str]]) -> dict[str, dict[str, Any]]:
    found = {f"{name}, {data}": run(name, data, processes) for name, data in cases}
    return found | {"fitted": fitted(processes), "fused": fused(processes), "normalized": normalized(processes)}


def one_of_three(rank: int, folder: str) -> None:
    """Train as one of three processes and, all but the last, as one of two."""
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=3)
    two = torch.distributed.new_group([0, 1])
    found = {3: everything(Processes(), THREE)} | ({2: everything(Processes(two), TWO)} if rank < 2 else {})
    Path(folder, f"{rank}.pickle").write_bytes(pickle.dumps(found))
    gc.collect()
    torch.distributed.destroy_process_group()


def test_several_processes_train_as_one(tmp_path: Path) -> None:
    spawn(one_of_three, (str(tmp_path),), nprocs=3)
    alone = everything(ALONE, list(dict.fromkeys([*TWO, *THREE])))
    for rank in range(3):
        for size, found in pickle.loads(Path(tmp_path, f"{rank}.pickle").read_bytes()).items():
            for name, values in found.items():
                for key, value in values.items():
                    close = 1e-4 if name == "fused" else 1e-5  # float32, float64
                    text = f"process {rank} of {size}, {name}: {key}"
                    np.testing.assert_allclose(value, alone[name][key], rtol=close, atol=close, err_msg=text)


def test_the_shares_are_the_batch() -> None:
    batch = torch.arange(14.0).reshape(7, 2)
    shares = []
    for rank in range(3):
        processes = Processes()
        processes.rank, processes.size = rank, 3
        shares.append(processes.share(7))
    assert torch.equal(torch.cat([share.of(batch) for share in shares]), batch)
    assert {share.rows for share in shares} == {2, 3}
    for share in shares:
        assert torch.equal(share.of(share.among_all(share.of(batch))), share.of(batch))
        assert share.among_all(share.of(batch)).shape == batch.shape


def test_statistics_of_one_process_are_those_of_its_rows() -> None:
    stream = torch.randn(5, 3)
    (found,) = batch_normalize_streams([stream], ALONE)
    assert torch.equal(found.z, batch_normalize(stream).z)


def test_a_ladder_wants_its_share_of_the_batch() -> None:
    processes = Processes()
    processes.size = 2
    ladder = small()
    ladder.distribute(processes, labeled=4, unlabeled=10)
    with pytest.raises(ValueError, match="x_labeled has 4 rows, but this process's share of a batch of 4 is 2"):
        ladder(torch.randn(4, 6), torch.zeros(4, dtype=torch.int64), torch.randn(5, 6))


def test_a_seed_is_needed_to_fit_together() -> None:
    processes = Processes()
    processes.size = 2
    with pytest.raises(ValueError, match="random_state"):
        LadderClassifier().fit(np.eye(4), [0, 1, 0, 1], processes=processes)


# What can befall one of them.


class Killed(Callback):
    """Kills its own process, as a power cut would, in the middle of an epoch."""

    def __init__(self, step: int) -> None:
        self.left = step

    def on_step_end(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def with_a_victim(rank: int, folder: str) -> None:
    """Train as one of two processes, of which the second is killed; the first says what it sees."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    processes = Processes()
    keeper = Checkpoint(f"{folder}/checkpoint", minutes=1e-9, processes=processes)
    try:
        with keeper.held():
            run("full", "uneven", processes, keeper=keeper, callback=Killed(20) if rank else None)
    except ProcessLostError as error:
        Path(folder, "said").write_text(str(error))
        os._exit(1)  # torch would wait for the other one


@pytest.mark.fault(
    "One of two processes is killed",
    "the other ends with an error; the run goes on, in one process as well",
    lost="the work since the last state, which is done again",
)
def test_a_killed_process_ends_the_others_and_the_run_goes_on(tmp_path: Path) -> None:
    both = [get_context("spawn").Process(target=with_a_victim, args=(rank, str(tmp_path))) for rank in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
    assert [process.exitcode for process in both] == [1, -signal.SIGKILL]
    assert "another of the 2 processes ended" in (tmp_path / "said").read_text()
    keeper = Checkpoint(tmp_path / "checkpoint")
    resumed = run("full", "uneven", ALONE, keeper=keeper)
    undisturbed = run("full", "uneven", ALONE)
    for key, value in undisturbed.items():
        np.testing.assert_allclose(resumed[key], value, rtol=1e-5, atol=1e-5, err_msg=key)


def launch(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "0"]
    command += ["-m", "laddernet", *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def workers_of(launcher: subprocess.Popen[str]) -> list[int]:
    """The processes that a launcher started, by their rank."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    ranks = {}
    for child in map(int, children):
        environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        ranks |= {int(entry[5:]): child for entry in environment if entry.startswith(b"RANK=")}
    return [ranks[rank] for rank in sorted(ranks)]


def wait_for(path: Path) -> None:
    for _ in range(1200):
        if path.exists():
            return
        time.sleep(0.1)
    pytest.fail(f"{path} did not come.")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_torchrun(tmp_path: Path, number: signal.Signals) -> None:
    asked = ("train", "digits", "--labels", "50", "--epochs", "8", "--no-baseline")
    undisturbed = launch(*asked, "--out", "whole", folder=tmp_path)
    assert undisturbed.communicate()[0].count("run written to whole") == 1
    broken = launch(*asked, "--out", "broken", folder=tmp_path)
    wait_for(tmp_path / "broken/unfinished/checkpoint")
    os.kill(workers_of(broken)[1], number)
    said = broken.communicate()[0]
    assert broken.returncode == 1
    assert "go on with: laddernet train --resume broken" in said
    resumed = launch("train", "--resume", "broken", folder=tmp_path)
    assert resumed.communicate()[0].count("taken up again") == 1
    assert resumed.returncode == 0
    assert (tmp_path / "broken/weights.safetensors").read_bytes() == (
        tmp_path / "whole/weights.safetensors"
    ).read_bytes()
    one = CliRunner().invoke(app, [*asked, "--out", str(tmp_path / "one")])
    assert one.exit_code == 0
    weights = [load_file(tmp_path / name / "weights.safetensors") for name in ("one", "whole")]
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, rtol=0.1, atol=0.1)  # float32, whose rounding grows


def test_other_commands_run_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    outcome = CliRunner().invoke(app, ["reproduce", "--list"])
    assert outcome.exit_code == 2
    assert "reproduce runs in one process" in " ".join(outcome.output.split())
