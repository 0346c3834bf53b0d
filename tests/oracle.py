"""Algorithm 1 in NumPy, written from docs/algorithm.md alone: the tests' independent reference.

Nothing here imports the library. Every operation also works on complex numbers and is analytic in its inputs
(rectifiers and maxima decide by the real part), so that gradients come from complex steps: the derivative of f at
p is Im f(p + ih) / h, exact to rounding at h = 1e-30 because nothing is subtracted.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.complex128] | NDArray[np.float64]
EPSILON = 1e-10


def bn(z: Array) -> Array:
    mean, var = statistics(z)
    return (z - mean) / np.sqrt(var + EPSILON)


def statistics(z: Array) -> tuple[Array, Array]:
    """Mean and biased variance of each unit, or of each channel over rows and positions; of a shape to broadcast."""
    axes = (0, *range(2, z.ndim))
    mean = z.mean(axis=axes, keepdims=True)
    return mean, ((z - mean) ** 2).mean(axis=axes, keepdims=True)


def along(vector: Array, z: Array) -> Array:
    """One entry a unit or channel, of a shape to broadcast against z."""
    return vector.reshape(-1, *[1] * (z.ndim - 2))


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
    a = [along(row, u) for row in p[0]]
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
    units = h.shape[1]  # each with a network of its own, or all with the same
    pairs = [
        (np.broadcast_to(w.reshape(*w.shape[:2], -1), (*w.shape[:2], units)), b.reshape(len(b), -1))
        for w, b in zip(p[::2], p[1::2], strict=True)
    ]
    for w, b in pairs[:-1]:
        h = leaky(np.einsum("bdi,oid->bdo", h, w) + b.T)
    w, b = pairs[-1]
    return np.einsum("bdi,oid->bdo", h, w)[:, :, 0] + b[0]


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


# What lies between two rungs: up with W[l], and its mirror down with V[l].


class Linear:
    def up(self, h: Array, W: Array) -> Array:
        return h @ W.T

    def down(self, z: Array, V: Array, below: tuple[int, ...]) -> Array:
        return z @ V.T


def windows(size: int, kernel: int, stride: int, padding: int, dilation: int, above: int):
    """For each position above and each one of the kernel: the position below, or None where there is none."""
    for i in range(above):
        for k in range(kernel):
            at = i * stride - padding + k * dilation
            yield i, k, at if 0 <= at < size else None


@dataclass
class Conv:
    """A convolution written position by position, over any number of dimensions; W is (out, in / groups, *kernel)."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1

    def _pairs(self, below: tuple[int, ...], above: tuple[int, ...], kernel: tuple[int, ...]):
        settings = zip(below, kernel, self.stride, self.padding, self.dilation, above, strict=True)
        for combination in product(*[list(windows(*setting)) for setting in settings]):
            if all(at is not None for _, _, at in combination):
                i, k, at = zip(*combination, strict=True)
                yield i, k, at

    def up(self, h: Array, W: Array) -> Array:
        reach = [d * (k - 1) + 1 for d, k in zip(self.dilation, W.shape[2:], strict=True)]
        ends = zip(h.shape[2:], reach, self.stride, self.padding, strict=True)
        above = tuple((n + 2 * p - r) // s + 1 for n, r, s, p in ends)
        z = np.zeros((len(h), len(W), *above), dtype=np.result_type(h, W))
        for group in range(self.groups):
            outs, ins = parts(len(W), self.groups, group), parts(h.shape[1], self.groups, group)
            for i, k, at in self._pairs(h.shape[2:], above, W.shape[2:]):
                z[(slice(None), outs, *i)] += h[(slice(None), ins, *at)] @ W[(outs, slice(None), *k)].T
        return z

    def down(self, z: Array, V: Array, below: tuple[int, ...]) -> Array:
        """The transposed map: the same pairs of positions, the other way."""
        h = np.zeros((len(z), *below), dtype=np.result_type(z, V))
        for group in range(self.groups):
            outs, ins = parts(len(V), self.groups, group), parts(below[0], self.groups, group)
            for i, k, at in self._pairs(below[1:], z.shape[2:], V.shape[2:]):
                h[(slice(None), ins, *at)] += z[(slice(None), outs, *i)] @ V[(outs, slice(None), *k)]
        return h


def parts(channels: int, groups: int, group: int) -> slice:
    size = channels // groups
    return slice(group * size, (group + 1) * size)


@dataclass
class Transposed:
    """A transposed convolution, W of (in, out / groups, *kernel); its mirror is the convolution, cut to the size."""

    conv: Conv
    above: tuple[int, ...]

    def up(self, h: Array, W: Array) -> Array:
        return self.conv.down(h, W, self.above)

    def down(self, z: Array, V: Array, below: tuple[int, ...]) -> Array:
        h = self.conv.up(z, V)
        return h[(slice(None), slice(None), *[slice(n) for n in below[1:]])]


@dataclass
class MaxPool:
    kernel: int
    stride: int
    round_up: bool = False

    def up(self, h: Array, W: None) -> Array:
        def size(n: int) -> int:
            short = n - self.kernel
            return (-(-short // self.stride) if self.round_up else short // self.stride) + 1

        above = [size(n) for n in h.shape[2:]]
        z = np.zeros((*h.shape[:2], *above), dtype=h.dtype)
        for i in np.ndindex(*above):
            window = h[(..., *[slice(n * self.stride, n * self.stride + self.kernel) for n in i])]
            flat = window.reshape(*h.shape[:2], -1)
            z[(..., *i)] = np.take_along_axis(flat, flat.real.argmax(axis=2)[..., None], axis=2)[..., 0]
        return z

    def down(self, z: Array, V: None, below: tuple[int, ...]) -> Array:
        return nearest(z, below[1:])


class GlobalMean:
    def up(self, h: Array, W: None) -> Array:
        return h.reshape(*h.shape[:2], -1).mean(axis=2)

    def down(self, z: Array, V: None, below: tuple[int, ...]) -> Array:
        return np.broadcast_to(z.reshape(*z.shape, *[1] * (len(below) - 1)), (len(z), *below))


def nearest(z: Array, size: tuple[int, ...]) -> Array:
    for axis, n in enumerate(size, start=2):
        z = np.take(z, [i * z.shape[axis] // n for i in range(n)], axis=axis)
    return z


@dataclass
class FlatLinear:
    """A flattening, then a linear map."""

    def up(self, h: Array, W: Array) -> Array:
        return h.reshape(len(h), -1) @ W.T

    def down(self, z: Array, V: Array, below: tuple[int, ...]) -> Array:
        return (z @ V.T).reshape(len(z), *below)


@dataclass
class Pooled:
    """A pool, then a map, with no rung between them; `between` is the shape of a row there."""

    pool: MaxPool
    map: Conv | FlatLinear
    between: tuple[int, ...]

    def up(self, h: Array, W: Array) -> Array:
        return self.map.up(self.pool.up(h, None), W)

    def down(self, z: Array, V: Array, below: tuple[int, ...]) -> Array:
        return self.pool.down(self.map.down(z, V, self.between), None, below)


@dataclass
class Parameters:
    """W[l] and beta[l], gamma[l] (None where not learned) for l = 1..L; V[l + 1] and the combinators' own a[l]."""

    W: dict[int, Array | None]
    beta: dict[int, Array | None]
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
    detach_targets: bool = False
    joint_statistics: bool = False
    activation: Callable[[Array], Array] = relu
    maps: dict[int, Any] = field(default_factory=dict)
    activations: dict[int, Callable[[Array], Array]] = field(default_factory=dict)


def encode(p: Parameters, problem: Problem, x: Array, noise: list[Array] | None):
    """One stream up: z, z_pre and h of every layer, and the logits."""
    top = max(p.W)
    z = {0: x if noise is None else x + noise[0]}
    h, z_pre = {0: z[0]}, {}
    logits = z[0]
    for layer in range(1, top + 1):
        z_pre[layer] = problem.maps.get(layer, Linear()).up(h[layer - 1], p.W[layer])
        z[layer] = bn(z_pre[layer])
        if noise is not None:
            z[layer] = z[layer] + noise[layer]
        logits = z[layer] if p.beta[layer] is None else z[layer] + along(p.beta[layer], z[layer])
        logits = logits if p.gamma[layer] is None else along(p.gamma[layer], logits) * logits
        activation = problem.activations.get(layer, problem.activation)
        h[layer] = answer(problem.task, logits) if layer == top else activation(logits)
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


def encode_streams(p: Parameters, problem: Problem):
    """The labelled, unlabelled-noisy and unlabelled-clean stream, each with its own statistics."""
    return (
        encode(p, problem, problem.x_labeled, problem.noise_labeled if problem.supervised_path == "noisy" else None),
        encode(p, problem, problem.x_unlabeled, problem.noise_unlabeled),
        encode(p, problem, problem.x_unlabeled, None),
    )


def encode_jointly(p: Parameters, problem: Problem):
    """The same with the statistics of all rows together, those of a clean stream where a cost above the input needs it.

    What is given as z_pre of the clean stream are the rows that its statistics are those of: all.
    """
    x, noise = [problem.x_labeled], [problem.noise_labeled]
    if problem.supervised_path == "clean":
        noise = [[np.zeros_like(values) for values in problem.noise_labeled]]
    if any(problem.weights):
        x, noise = [*x, problem.x_unlabeled], [*noise, problem.noise_unlabeled]
    if any(problem.weights[1:]):
        x, noise = [*x, problem.x_unlabeled], [*noise, [np.zeros_like(values) for values in problem.noise_unlabeled]]
    together = [np.concatenate(values) for values in zip(*noise, strict=True)]
    z, z_pre, h, logits = encode(p, problem, np.concatenate(x), together)
    ends = np.cumsum([len(rows) for rows in x])

    def stream(i: int):
        if i >= len(x):  # the input itself is all that is compared
            return {0: problem.x_unlabeled}, {}, {}, None
        rows = slice(ends[i] - len(x[i]), ends[i])
        return {k: v[rows] for k, v in z.items()}, z_pre, {k: v[rows] for k, v in h.items()}, logits[rows]

    return stream(0), stream(1), stream(2)


def costs(p: Parameters, problem: Problem) -> tuple[Array, Array, list[Array | None]]:
    """Total, supervised, and one denoising cost a layer (None where its weight is 0)."""
    top = max(p.W)
    labeled, noisy, clean = encode_jointly(p, problem) if problem.joint_statistics else encode_streams(p, problem)
    supervised = supervised_cost(problem, labeled[3])
    denoising: list[Array | None] = [None] * (top + 1)
    if any(problem.weights):
        (z_noisy, _, h_noisy, _), (z_clean, z_pre_clean, _, _) = noisy, clean
        z_hat = h_noisy[top]
        for layer in range(top, -1, -1):
            if layer not in p.a:
                break
            u = np.zeros_like(z_noisy[layer])
            if problem.combinator != "lateral_only":
                above = problem.maps.get(layer + 1, Linear())
                shape = z_noisy[layer].shape[1:]
                u = bn(z_hat if layer == top else above.down(z_hat, p.V.get(layer + 1), shape))
            z_hat = COMBINATORS[problem.combinator](p.a[layer], z_noisy[layer], u)
            if problem.weights[layer]:
                compared = z_hat
                if layer > 0:
                    mean, var = statistics(z_pre_clean[layer])
                    if problem.detach_targets:
                        mean, var = mean.real, var.real
                    compared = (z_hat - mean) / np.sqrt(var + EPSILON)
                target = z_clean[layer].real if problem.detach_targets else z_clean[layer]
                denoising[layer] = ((target - compared) ** 2).sum() / compared.size
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
