import copy
import math
import pickle

import numpy as np
import pytest
import torch

import oracle
from laddernet.ladder import Ladder
from laddernet.losses import TASKS
from laddernet.networks import mlp
from laddernet.noise import Gaussian, VirtualAdversarial, gaussian, is_gaussian, masking


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_gaussian_adds_noise_of_the_given_deviation():
    clean = torch.full((200, 100), 7.0)
    noise = gaussian(clean, 0.3, generator()) - clean
    assert noise.std().item() == pytest.approx(0.3, rel=0.02)
    assert noise.mean().item() == pytest.approx(0.0, abs=0.01)


def test_gaussian_draws_from_the_generator_alone():
    clean = torch.zeros(4, 3)
    torch.manual_seed(1)
    first = gaussian(clean, 1.0, generator(5))
    torch.manual_seed(2)
    assert torch.equal(first, gaussian(clean, 1.0, generator(5)))
    assert not torch.equal(first, gaussian(clean, 1.0, generator(6)))


@pytest.mark.parametrize("corruption", [gaussian, masking])
def test_gradients_reach_the_clean_values(corruption):
    clean = torch.ones(5, 4, requires_grad=True)
    corruption(clean, 0.5, generator()).sum().backward()
    assert clean.grad is not None
    assert clean.grad.abs().sum() > 0


def test_masking_removes_the_given_share():
    masked = masking(torch.ones(500, 100), 0.3, generator())
    assert set(masked.unique().tolist()) == {0.0, 1.0}
    assert (masked == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)


def test_masking_refuses_a_share_above_one():
    with pytest.raises(ValueError, match=r"noise_std must be in \[0, 1\], got 1.5"):
        masking(torch.ones(2, 2), 1.5, generator())


# Virtual adversarial changes, by the oracle: complex steps through the streams that it encodes.


def divergence(task, p, q):
    """Kullback-Leibler divergence of answers, summed over rows."""
    if task == "classification":
        return (np.exp(oracle.log_softmax(p)) * (oracle.log_softmax(p) - oracle.log_softmax(q))).sum()
    if task == "regression":
        return ((p - q) ** 2).sum() / 2
    a, b = oracle.sigmoid(p), oracle.sigmoid(q)
    return (a * np.log(a / b) + (1 - a) * np.log((1 - a) / (1 - b))).sum()


def unit(rows):
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1.0)  # of a row that no unit is active for, nothing moves the answer


@pytest.mark.parametrize("task", ["classification", "regression", "multilabel"])
@pytest.mark.parametrize("path", ["noisy", "clean"])
def test_virtual_adversarial_changes_agree_with_the_oracle(make_case, task, path):
    case = make_case(task=task, supervised_path=path)
    p, problem, widths = case.parameters, case.problem, (5, 4, 3, 3)
    streams = [problem.x_labeled, problem.x_unlabeled][0 if path == "noisy" else 1 :]
    rows = [len(x) for x in streams]
    drawn = generator(7)
    probes = [unit(torch.empty(sum(rows), w, dtype=torch.float64).normal_(generator=drawn).numpy()) for w in widths]
    case.ladder.corruption, case.ladder.generator = VirtualAdversarial(0.5, probe=0.1), generator(7)

    found = case.ladder._changes(torch.from_numpy(problem.x_labeled), torch.from_numpy(problem.x_unlabeled))

    start = 0
    for i, x in enumerate(streams, start=2 - len(streams)):
        own = [0.1 * probe[start : start + len(x)] for probe in probes]
        start += len(x)
        clean = oracle.encode(p, problem, x, None)[-1]
        for layer, values in enumerate(own):
            gradient = np.zeros_like(values)
            for entry in np.ndindex(values.shape):
                moved = [change.astype(complex) for change in own]
                moved[layer][entry] += 1e-30j
                gradient[entry] = divergence(task, clean, oracle.encode(p, problem, x, moved)[-1]).imag / 1e-30
            expected = 0.5 * 0.3 * np.sqrt(widths[layer]) * unit(gradient)
            np.testing.assert_allclose(found[layer, i].numpy(), expected, rtol=1e-6, atol=1e-9)


def adversarial(share, *, fused, dtype=torch.float64, widths=(6, 20, 3)):
    ladder = Ladder(
        mlp(list(widths), generator=generator()), corruption=VirtualAdversarial(share), generator=generator()
    )
    ladder.to(dtype)
    if fused:
        assert ladder.fuse()
    rows = torch.randn(9, widths[0], dtype=dtype, generator=generator(1))
    costs = ladder(rows, torch.arange(9) % 3, rows)
    costs.total.backward()
    return costs, [parameter.grad for parameter in ladder.parameters()]


def test_virtual_adversarial_noise_is_the_same_in_the_kernels():
    eager, fused = (adversarial(0.4, fused=fused) for fused in (False, True))
    assert fused[0].total.item() == pytest.approx(eager[0].total.item(), rel=1e-9)
    for one, other in zip(eager[1], fused[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)
    assert abs(fused[0].supervised.item() - adversarial(0.0, fused=True)[0].supervised.item()) > 1e-3


def test_virtual_adversarial_changes_move_the_answers_more_than_random_ones():
    ladder = Ladder(mlp([20, 30, 4], generator=generator()), corruption=VirtualAdversarial(0.1), generator=generator())
    x = torch.randn(50, 20, generator=generator(2))
    changes = {layer: change for (layer, stream), change in ladder._changes(x, x).items() if stream == 1}
    clean = ladder._answers(x, [50], {})
    random = {
        layer: torch.nn.functional.normalize(torch.randn(change.shape, generator=generator(3)))
        * change.norm(dim=1, keepdim=True)
        for layer, change in changes.items()
    }
    moved = [TASKS["classification"].divergence(clean, ladder._answers(x, [50], each)) for each in (random, changes)]
    assert moved[1] > 3 * moved[0]


def test_rows_that_nothing_moves_get_no_change():
    """The gradient of a sure answer may be too small to be squared, or zero."""
    probe = VirtualAdversarial(1.0)
    like = torch.empty(3, 2)
    scale = torch.tensor([[1.0], [1e-25], [0.0]])
    (change,) = probe.changes(lambda changes: (scale * changes[0]).sum(), [like], [0.5], generator())
    length = 0.5 * np.sqrt(2)
    np.testing.assert_allclose(change.norm(dim=1), [length, length, 0.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"share": -1.0}, "share must be"), ({"share": math.inf}, "share must be"), ({"probe": 0.0}, "probe must be")],
)
def test_virtual_adversarial_noise_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        VirtualAdversarial(**settings)


def test_gaussian_noise_is_known_by_its_kind():
    copies = [gaussian, copy.deepcopy(gaussian), pickle.loads(pickle.dumps(gaussian)), Gaussian()]
    assert all(map(is_gaussian, copies))
    assert not any(map(is_gaussian, (masking, VirtualAdversarial(), lambda clean, std, generator: clean)))
