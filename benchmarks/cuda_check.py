"""Check that a CUDA device computes what the CPU does, and that CUDA graphs and batched seeds change nothing.

In float64, with the same noise on both. Usage: python benchmarks/cuda_check.py
"""

import sys
from collections.abc import Callable

import torch
from torch import nn

from laddernet import LadderClassifier
from laddernet.combinators import COMBINATORS
from laddernet.data import hide_labels, load
from laddernet.estimators import fit_together
from laddernet.ladder import VARIANTS, Ladder
from laddernet.networks import WideResNet, conv_fc, conv_large, conv_small, mlp
from laddernet.training import TrainingConfig, train


def shared_noise(clean: torch.Tensor, std: float, generator: torch.Generator | None) -> torch.Tensor:
    seed = clean.shape[0] * 1000 + clean.shape[1]
    noise = torch.randn(clean.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return clean + std * noise.to(clean.device)


def step(device: str, combinator: str, variant: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    ladder = Ladder(
        mlp([20, 30, 10, 5], generator=generator),
        combinator=combinator,
        variant=variant,
        corruption=shared_noise,
        generator=generator,
    ).to(device, torch.float64)
    x = torch.randn(40, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(device)
    costs = ladder(x[:10], torch.arange(10, device=device) % 5, x)
    costs.total.backward()
    gradients = [p.grad.flatten() for p in ladder.parameters() if p.grad is not None]
    ladder.calibrate(x.cpu())
    return torch.cat([costs.total.detach().view(1), *gradients, ladder.predict(x).flatten()]).cpu()


def convolutional_step(device: str, make: Callable[..., nn.Module], variant: str) -> torch.Tensor:
    """Costs, gradients and predictions of a network on images."""
    generator = torch.Generator().manual_seed(0)
    encoder = make((2, 12, 12), 5, generator=generator).to(device, torch.float64)
    ladder = Ladder(encoder, input_shape=(2, 12, 12), variant=variant, corruption=shared_noise, generator=generator)
    x = torch.randn(40, 2, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(device)
    costs = ladder(x[:10], torch.arange(10, device=device) % 5, x)
    costs.total.backward()
    gradients = [p.grad.flatten() for p in ladder.parameters() if p.grad is not None]
    ladder.calibrate(x.cpu())
    return torch.cat([costs.total.detach().view(1), *gradients, ladder.predict(x).flatten()]).cpu()


def trained(kernels: str, variant: str) -> torch.Tensor:
    """Weights and mean costs after 4 epochs of 16 steps, in one launch each where they are graphed.

    The rates are such as float32, in which a graph keeps them, holds exactly; and the start is no degenerate one.
    """
    generator = torch.Generator().manual_seed(0)
    ladder = Ladder(mlp([20, 30, 10, 5], generator=generator), variant=variant, generator=generator)
    ladder.to("cuda", torch.float64).generator = torch.Generator("cuda").manual_seed(0)
    with torch.no_grad():
        for parameter in ladder.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator).to(parameter)
    x = torch.randn(160, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to("cuda")
    config = TrainingConfig(epochs=4, batch_size=10, kernels=kernels, learning_rate=2**-9, decay_start=0.5)
    batches = torch.Generator().manual_seed(2)
    history = train(ladder, x, x[:20], torch.arange(20, device="cuda") % 5, config, generator=batches)
    costs = torch.tensor([record["cost"] for record in history], dtype=torch.float64)
    return torch.cat([costs, *(p.detach().flatten().cpu() for p in ladder.parameters())])


def together(at_once: bool) -> torch.Tensor:
    """Test errors of three classifiers, fitted at once or one after the other."""
    data = load("digits")
    labels = [hide_labels(data.y_train, 50, seed=seed) for seed in range(3)]
    models = [
        LadderClassifier(device="cuda", precision="float64", max_epochs=120, random_state=seed) for seed in range(3)
    ]
    if at_once:
        fit_together(models, data.x_train, labels)
    else:
        for model, y in zip(models, labels, strict=True):
            model.fit(data.x_train, y)
    return torch.tensor([100 * (1 - model.score(data.x_test, data.y_test)) for model in models])


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("there is no CUDA device here")
    print(torch.cuda.get_device_name(), torch.__version__)
    for combinator in COMBINATORS:
        for variant in VARIANTS:
            torch.testing.assert_close(step("cuda", combinator, variant), step("cpu", combinator, variant))
            print(f"{combinator}, {variant}: as on the CPU")
    for make in (conv_fc, conv_small, conv_large, WideResNet):
        for variant in ("full", "gamma"):
            ours, theirs = (convolutional_step(device, make, variant) for device in ("cuda", "cpu"))
            torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-7)
            print(f"{make.__name__}, {variant}: as on the CPU")
    for variant in VARIANTS:
        torch.testing.assert_close(trained("compiled", variant), trained("torch", variant), rtol=1e-9, atol=1e-9)
        print(f"{variant}: a CUDA graph's steps are those without one")
    at_once, alone = together(True), together(False)
    print(f"digits, 50 labels, three seeds at once: test errors {at_once.tolist()} %, alone {alone.tolist()} %")
    torch.testing.assert_close(at_once, alone, rtol=0.0, atol=1.0)  # rounding makes some digits go the other way
    data = load("digits")
    for precision in ("float32", "bfloat16", "float64"):
        model = LadderClassifier(device="cuda", precision=precision, learning_rate=0.01, max_epochs=120, random_state=0)
        model.fit(data.x_train, hide_labels(data.y_train, 50, seed=0))
        error = 100 * (1 - model.score(data.x_test, data.y_test))
        print(f"digits, 50 labels, 120 epochs, {precision}: test error {error:.2f} %")


if __name__ == "__main__":
    main()
