"""Algorithm 1 in NumPy, written from docs/algorithm.md alone: the tests' independent reference.

Nothing here imports the library. Every operation also works on complex numbers and is analytic in its inputs
(rectifiers and maxima decide by the real part), so that gradients come from complex steps: the derivative of f at
p is Im f(p + ih) / h, exact to rounding at h = 1e-30 because nothing is subtracted.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.complex128] | NDArray[np.float64]
EPSILON = 1e-10


def bn(z: Array) -> Array:
    mean, var = statistics(z)
    return (z - mean) / np.sqrt(var + EPSILON)


def statistics(z: Array) -> tuple[Array, Array]:
    mean = z.sum(axis=0) / len(z)
    return mean, ((z - mean) ** 2).sum(axis=0) / len(z)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def relu(x: Array) -> Array:
    return x * (x.real > 0)


def leaky(x: Array) -> Array:
    return x * np.where(x.real > 0, 1.0, 0.1)


def softmax(x: Array) -> Array:
    e = np.exp(x - x.real.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def log_softmax(x: Array) -> Array:
    shifted = x - x.real.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def g_gaussian(p: list[Array], z: Array, u: Array) -> Array:
    (a,) = p
    mu = a[0] * sigmoid(a[1] * u + a[2]) + a[3] * u + a[4]
    v = a[5] * sigmoid(a[6] * u + a[7]) + a[8] * u + a[9]
    return (z - mu) * v + mu


def g_lateral_only(p: list[Array], z: Array, u: Array) -> Array:
    return g_gaussian(p, z, np.zeros_like(u))


def g_sigmoid(p: list[Array], z: Array, u: Array) -> Array:
    (a,) = p
    a1, a2, a3, a4, b1, c1, c2, c3, c4 = a
    return a1 + a2 * z + a3 * u + a4 * z * u + b1 * sigmoid(c1 + c2 * z + c3 * u + c4 * z * u)


def g_linear(p: list[Array], z: Array, u: Array) -> Array:
    (a,) = p
    return a[0] * z + a[1] * u + a[2]


def g_no_lateral(p: list[Array], z: Array, u: Array) -> Array:
    (a,) = p
    return a[0] * u + a[1]


def _g_network(p: list[Array], h: Array) -> Array:
    pairs = list(zip(p[::2], p[1::2], strict=True))
    for w, b in pairs[:-1]:
        h = leaky(np.einsum("bdi,oi->bdo", h, w) + b)
    w, b = pairs[-1]
    return np.einsum("bdi,oi->bdo", h, w)[:, :, 0] + b[0]


def g_mlp(p: list[Array], z: Array, u: Array) -> Array:
    return _g_network(p, np.stack([z, u], axis=-1))


def g_amlp(p: list[Array], z: Array, u: Array) -> Array:
    return _g_network(p, np.stack([z, u, z * u], axis=-1))


COMBINATORS: dict[str, Callable[[list[Array], Array, Array], Array]] = {
    "gaussian": g_gaussian,
    "sigmoid": g_sigmoid,
    "amlp": g_amlp,
    "mlp": g_mlp,
    "linear": g_linear,
    "no_lateral": g_no_lateral,
    "lateral_only": g_lateral_only,
}


@dataclass
class Parameters:
    """W[l] and beta[l], gamma[l] (None where not learned) for l = 1..L; V[l + 1] and the combinators' own a[l]."""

    W: dict[int, Array]
    beta: dict[int, Array]
    gamma: dict[int, Array | None]
    V: dict[int, Array] = field(default_factory=dict)
    a: dict[int, list[Array]] = field(default_factory=dict)


@dataclass
class Problem:
    """A network's settings, its rows, and the noise to add: one array a layer for each noisy stream."""

    x_labeled: Array
    y: Array
    x_unlabeled: Array
    noise_labeled: list[Array]
    noise_unlabeled: list[Array]
    weights: tuple[float, ...]
    combinator: str = "gaussian"
    task: str = "classification"
    supervised_path: str = "noisy"
    activation: Callable[[Array], Array] = relu


def encode(p: Parameters, problem: Problem, x: Array, noise: list[Array] | None):
    """One stream up: z, z_pre and h of every layer, and the logits."""
    top = max(p.W)
    z = {0: x if noise is None else x + noise[0]}
    h, z_pre = {0: z[0]}, {}
    logits = z[0]
    for layer in range(1, top + 1):
        z_pre[layer] = h[layer - 1] @ p.W[layer].T
        z[layer] = bn(z_pre[layer])
        if noise is not None:
            z[layer] = z[layer] + noise[layer]
        scale = 1.0 if p.gamma[layer] is None else p.gamma[layer]
        logits = scale * (z[layer] + p.beta[layer])
        h[layer] = answer(problem.task, logits) if layer == top else problem.activation(logits)
    return z, z_pre, h, logits


def answer(task: str, logits: Array) -> Array:
    return {"classification": softmax, "regression": lambda o: o, "multilabel": sigmoid}[task](logits)


def supervised_cost(problem: Problem, logits: Array) -> Array:
    y = problem.y
    if problem.task == "classification":
        return -log_softmax(logits)[np.arange(len(y)), y.astype(int)].sum() / len(y)
    if problem.task == "regression":
        return ((logits - y) ** 2).sum() / y.size
    return -(y * np.log(sigmoid(logits)) + (1 - y) * np.log(1 - sigmoid(logits))).sum() / y.size


def costs(p: Parameters, problem: Problem) -> tuple[Array, Array, list[Array | None]]:
    """Total, supervised, and one denoising cost a layer (None where its weight is 0)."""
    top = max(p.W)
    noise = problem.noise_labeled if problem.supervised_path == "noisy" else None
    *_, logits = encode(p, problem, problem.x_labeled, noise)
    supervised = supervised_cost(problem, logits)
    denoising: list[Array | None] = [None] * (top + 1)
    if any(problem.weights):
        z_noisy, _, h_noisy, _ = encode(p, problem, problem.x_unlabeled, problem.noise_unlabeled)
        z_clean, z_pre_clean, _, _ = encode(p, problem, problem.x_unlabeled, None)
        z_hat = h_noisy[top]
        for layer in range(top, -1, -1):
            if layer not in p.a:
                break
            u = np.zeros_like(z_noisy[layer])
            if problem.combinator != "lateral_only":
                u = bn(z_hat if layer == top else z_hat @ p.V[layer + 1].T)
            z_hat = COMBINATORS[problem.combinator](p.a[layer], z_noisy[layer], u)
            if problem.weights[layer]:
                compared = z_hat
                if layer > 0:
                    mean, var = statistics(z_pre_clean[layer])
                    compared = (z_hat - mean) / np.sqrt(var + EPSILON)
                denoising[layer] = ((z_clean[layer] - compared) ** 2).sum() / compared.size
    total = supervised
    for weight, cost in zip(problem.weights, denoising, strict=True):
        if cost is not None:
            total = total + weight * cost
    return total, supervised, denoising


def predict(p: Parameters, problem: Problem, x: Array, x_train: Array) -> Array:
    """The clean path of `x` with the exact statistics of `x_train`."""
    top = max(p.W)
    h, h_train = x, x_train
    for layer in range(1, top + 1):
        mean, var = statistics(h_train @ p.W[layer].T)
        scale = 1.0 if p.gamma[layer] is None else p.gamma[layer]

        def up(rows: Array, layer=layer, mean=mean, var=var, scale=scale) -> Array:
            z = (rows @ p.W[layer].T - mean) / np.sqrt(var + EPSILON)
            return scale * (z + p.beta[layer])

        h, h_train = (up(rows) for rows in (h, h_train))
        if layer < top:
            h, h_train = problem.activation(h), problem.activation(h_train)
    return answer(problem.task, h)


def gradient(p: Parameters, problem: Problem, get: Callable[[Parameters], Array]) -> NDArray[np.float64]:
    """Derivative of the total cost by every entry of one array of the parameters, by complex steps."""
    step = 1e-30
    array = get(p)
    result = np.zeros(array.shape)
    for index in np.ndindex(array.shape):
        perturbed = as_complex(p)
        get(perturbed)[index] += 1j * step
        result[index] = costs(perturbed, problem)[0].imag / step
    return result


def as_complex(p: Parameters) -> Parameters:
    def convert(array: Array | None) -> Array | None:
        return None if array is None else array.astype(np.complex128)

    return replace(
        p,
        **{name: {k: convert(v) for k, v in getattr(p, name).items()} for name in ("W", "beta", "gamma", "V")},
        a={layer: [convert(array) for array in arrays] for layer, arrays in p.a.items()},
    )
