import itertools

import pytest
import torch

from laddernet.ladder import Ladder
from laddernet.networks import mlp
from laddernet.noise import gaussian, masking
from laddernet.optimizer import Adam
from laddernet.steps import STEPS_A_LAUNCH, Eager, Graphed, Steps, launch_size
from laddernet.training import TrainingConfig, train, uses_cuda_graph

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize(("steps", "expected"), [(600, 25), (12, 12), (1, 1), (29, 1), (26, 13), (50, 25), (7500, 25)])
def test_a_launch_divides_the_steps_of_an_epoch(steps, expected):
    assert launch_size(steps) == expected <= STEPS_A_LAUNCH


def test_without_a_graph_each_batch_is_a_step_with_its_own_rate():
    value = torch.nn.Parameter(torch.zeros(3))
    optimizer = Adam([value], lr=1.0)
    seen = []

    def step(rows):
        seen.append(([r.tolist() for r in rows], optimizer.param_groups[0]["lr"]))

    launch = Eager(step, optimizer, torch.device("cpu"))
    launch([(torch.tensor([1, 2]), torch.tensor([3])), (torch.tensor([4, 5]), torch.tensor([6]))], [0.5, 0.25])
    assert seen == [([[1, 2], [3]], 0.5), ([[4, 5], [6]], 0.25)]


def test_steps_are_numbered_through_the_run():
    value = torch.nn.Parameter(torch.zeros(3))
    optimizer, ended, seen = Adam([value], lr=1.0), [], []

    def step(rows):
        seen.append((int(rows[0]), optimizer.param_groups[0]["lr"]))

    run = Steps(step, optimizer, torch.device("cpu"), [], divide=3, graphed=False)
    batches = ((torch.tensor(i),) for i in itertools.count())
    for first in range(0, 6, run.size):
        run(first, batches, lambda n: 1.0 - n / 8, lambda: ended.append(len(seen)))
    assert seen == [(n, 1.0 - n / 8) for n in range(6)]
    assert ended == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("device", "kernels", "steps", "corruption", "expected"),
    [
        ("cpu", "compiled", 10_000, gaussian, False),
        ("cuda", "auto", 10_000, gaussian, True),
        ("cuda", "auto", 10_000, masking, True),
        ("cuda", "auto", 100, gaussian, False),
        ("cuda", "auto", 10_000, lambda clean, std, generator: clean, False),
        ("cuda", "compiled", 100, lambda clean, std, generator: clean, True),
        ("cuda", "torch", 10_000, gaussian, False),
    ],
)
def test_graphs_are_for_long_runs_on_a_gpu(device, kernels, steps, corruption, expected):
    assert uses_cuda_graph(torch.device(device), TrainingConfig(kernels=kernels), steps, corruption) == expected


def trained(kernels, dtype=torch.float64, **settings):
    generator = torch.Generator().manual_seed(0)
    ladder = Ladder(mlp([20, 30, 10, 5], generator=generator), generator=generator, **settings).to("cuda", dtype)
    ladder.generator = torch.Generator("cuda").manual_seed(0)
    with torch.no_grad():  # at the start some gradients are 0 but for rounding, which Adam makes steps of
        for parameter in ladder.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator).to(parameter)
    x = torch.randn(160, 20, dtype=dtype, generator=torch.Generator().manual_seed(1)).to("cuda")
    # Rates that float32, in which a graph keeps them, holds exactly.
    config = TrainingConfig(epochs=4, batch_size=10, kernels=kernels, learning_rate=2**-9, decay_start=0.5)
    batches = torch.Generator().manual_seed(2)
    history = train(ladder, x, x[:20], torch.arange(20, device="cuda") % 5, config, generator=batches)
    return ladder, history


@needs_cuda
@pytest.mark.parametrize("variant", ["full", "gamma", "bottom", "baseline"])
def test_a_graphs_steps_are_those_without_one(variant):
    (graphed, history), (plain, expected) = trained("compiled", variant=variant), trained("torch", variant=variant)
    for a, b in zip(graphed.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    for a, b in zip(history, expected, strict=True):
        assert a["cost"] == pytest.approx(b["cost"], rel=1e-9)
        assert a["learning_rate"] == pytest.approx(b["learning_rate"], rel=1e-6)


@needs_cuda
def test_a_graph_is_captured_once():
    value = torch.nn.Parameter(torch.zeros(3, device="cuda"))
    optimizer = Adam([value], lr=1.0)
    calls = []

    def step(rows):
        calls.append(1)
        optimizer.zero_grad()
        (value * rows[0]).sum().backward()
        optimizer.step()

    launch = Graphed(step, optimizer, torch.device("cuda"), [])
    for _ in range(5):
        launch([(torch.tensor([1, 2, 3]),)] * 4, [0.1, 0.2, 0.3, 0.4])
    assert len(calls) == 8  # four without a graph, four while it was captured
    torch.cuda.synchronize()
    assert value.detach().cpu() == pytest.approx(-5.0 * torch.ones(3), rel=1e-3)  # Adam's steps are its rates here
