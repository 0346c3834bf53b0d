"""Check that a CUDA device computes what the CPU does: costs and gradients of a step, training, prediction.

In float64, with the same noise on both. Usage: python benchmarks/cuda_check.py
"""

import sys

import torch

from laddernet import LadderClassifier
from laddernet.combinators import COMBINATORS
from laddernet.data import hide_labels, load
from laddernet.ladder import VARIANTS, Ladder
from laddernet.networks import mlp


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


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("there is no CUDA device here")
    print(torch.cuda.get_device_name(), torch.__version__)
    for combinator in COMBINATORS:
        for variant in VARIANTS:
            torch.testing.assert_close(step("cuda", combinator, variant), step("cpu", combinator, variant))
            print(f"{combinator}, {variant}: as on the CPU")
    data = load("digits")
    for precision in ("float32", "bfloat16", "float64"):
        model = LadderClassifier(device="cuda", precision=precision, learning_rate=0.01, max_epochs=30, random_state=0)
        model.fit(data.x_train, hide_labels(data.y_train, 50, seed=0))
        error = 100 * (1 - model.score(data.x_test, data.y_test))
        print(f"digits, 50 labels, 30 epochs, {precision}: test error {error:.2f} %")


if __name__ == "__main__":
    main()
