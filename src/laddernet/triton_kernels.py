"""The kernels of `fused_triton`, in Triton. Equations: docs/algorithm.md; the same as in kernels.cpp.

Values are matrices (rows, features), row after row; statistics are those of a column. A program has a tile: BR rows of
one stream and BF columns. Legend: n0, n1 and n2 are the rows of the streams, s a program's stream, m its network; T is
the type that is computed in.
"""

import inspect
from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl

_COUNTS = ["n0", "n1", "n2", "n", "tiles", "streams", "salt"]


def _kernel(function: Callable[..., None]) -> Any:
    """Compile a function once for all numbers of rows."""
    counts = [name for name in _COUNTS if name in inspect.signature(function).parameters]
    return triton.jit(function, do_not_specialize=counts)


@triton.jit
def _place(tiles, n0, n1, n2, features, BR: tl.constexpr, BF: tl.constexpr):
    """Stream, network, where the stream's rows begin among all, its row count, and this tile's rows and columns."""
    s = tl.program_id(1) // tiles
    first = (tl.program_id(1) % tiles) * BR
    n = tl.where(s == 0, n0, tl.where(s == 1, n1, n2))
    start = tl.where(s == 0, 0, tl.where(s == 1, n0, n0 + n1))
    rows = (first + tl.arange(0, BR)).to(tl.int64)
    columns = tl.program_id(0) * BF + tl.arange(0, BF)
    there = (rows[:, None] < n) & (columns[None, :] < features)
    return s, tl.program_id(2).to(tl.int64), start, n, rows, columns, there


@triton.jit
def _normal(seed, rows, features, BR: tl.constexpr, BF: tl.constexpr):
    """Standard normal numbers for a tile; each depends on the seed, its row and its column alone."""
    fours = tl.program_id(0) * (BF // 4) + tl.arange(0, BF // 4)
    a, b, c, d = tl.randn4x(seed, (rows[:, None] * tl.cdiv(features, 4) + fours[None, :]).to(tl.uint32))
    return tl.reshape(tl.join(tl.join(a, b), tl.join(c, d)), (BR, BF))


@triton.jit
def _statistics(x, there, totals, first_row, s, m, streams, columns, n, features, epsilon, WHOLE: tl.constexpr):
    """Mean and 1 / sqrt(var + epsilon) of a tile's columns: of the tile, or from sums about the stream's first row."""
    if WHOLE:
        mean = tl.sum(x, 0) / n
        centred = tl.where(there, x - mean[None, :], 0.0)
        var = tl.sum(centred * centred, 0) / n
    else:
        inside = columns < features
        totals += (m * streams + s) * 2 * features + columns
        about = tl.load(first_row + columns, mask=inside, other=0.0).to(x.dtype)
        off = tl.load(totals, mask=inside, other=0.0) / n
        mean = about + off
        var = tl.maximum(tl.load(totals + features, mask=inside, other=0.0) / n - off * off, 0.0)
    return mean, 1 / tl.sqrt(var + epsilon)


@_kernel
def sums(x, sums, n0, n1, n2, features, tiles, T: tl.constexpr, BR: tl.constexpr, BF: tl.constexpr):
    """Sums of x - k and (x - k)^2 over a tile's rows, k being the first row of the stream."""
    s, m, start, n, rows, columns, there = _place(tiles, n0, n1, n2, features, BR, BF)
    inside = columns < features
    x += (m * (n0 + n1 + n2) + start) * features
    about = tl.load(x + columns, mask=inside, other=0.0).to(T)
    values = tl.load(x + rows[:, None] * features + columns[None, :], mask=there, other=0.0).to(T)
    off = tl.where(there, values - about[None, :], 0.0)
    sums += (m * tl.num_programs(1) + tl.program_id(1)) * 2 * features + columns
    tl.store(sums, tl.sum(off, 0), mask=inside)
    tl.store(sums + features, tl.sum(off * off, 0), mask=inside)


@_kernel
def rise(
    z_pre, totals, h, mean, inverse_std, mean_last, inverse_std_last, beta, gamma, z0, z1, z2, seed, running_mean,
    running_var, weight, n0, n1, n2, features, tiles, streams, salt, std: tl.constexpr, slope: tl.constexpr,
    epsilon: tl.constexpr, given: tl.constexpr, drawn: tl.constexpr, T: tl.constexpr, WHOLE: tl.constexpr,
    BR: tl.constexpr, BF: tl.constexpr,
):  # fmt: skip
    """BN, noise, shift, scale and rectifier. `given` and `drawn` say by a bit for each stream where its noise is from.

    A z holds the given noise before, and is None where nobody wants it.
    """
    s, m, start, n, rows, columns, there = _place(tiles, n0, n1, n2, features, BR, BF)
    inside = columns < features
    row = rows[:, None] * features + columns[None, :]
    own = (m * (n0 + n1 + n2) + start) * features
    x = tl.load(z_pre + own + row, mask=there, other=0.0).to(T)
    mu, v = _statistics(x, there, totals, z_pre + own, s, m, streams, columns, n, features, epsilon, WHOLE)
    if tl.program_id(1) % tiles == 0:
        tl.store(mean + (m * streams + s) * features + columns, mu, mask=inside)
        tl.store(inverse_std + (m * streams + s) * features + columns, v, mask=inside)
        last = inside & (s == streams - 1)
        tl.store(mean_last + m * features + columns, mu, mask=last)
        tl.store(inverse_std_last + m * features + columns, v, mask=last)
        if running_mean is not None:
            newest = tl.load(weight)
            var = (1 / (v * v) - epsilon) * (n.to(T) / (n - 1).to(T))
            old_mean = tl.load(running_mean + columns, mask=last, other=0.0)
            old_var = tl.load(running_var + columns, mask=last, other=0.0)
            tl.store(running_mean + columns, old_mean + newest * (mu - old_mean), mask=last)
            tl.store(running_var + columns, old_var + newest * (var - old_var), mask=last)
    value = (x - mu[None, :]) * v[None, :]
    if given & 1:
        value += tl.load(z0 + m * n0 * features + row, mask=there & (s == 0), other=0.0)
    if given & 2:
        value += tl.load(z1 + m * n1 * features + row, mask=there & (s == 1), other=0.0)
    if given & 4:
        value += tl.load(z2 + m * n2 * features + row, mask=there & (s == 2), other=0.0)
    if drawn != 0:
        if ((drawn >> s) & 1) != 0:
            value += std * _normal(tl.load(seed + m) + salt, rows + start, features, BR, BF).to(T)
    if z0 is not None:
        tl.store(z0 + m * n0 * features + row, value, mask=there & (s == 0))
    if z1 is not None:
        tl.store(z1 + m * n1 * features + row, value, mask=there & (s == 1))
    if z2 is not None:
        tl.store(z2 + m * n2 * features + row, value, mask=there & (s == 2))
    if beta is not None:
        value += tl.load(beta + m * features + columns, mask=inside, other=0.0)[None, :]
    if gamma is not None:
        value *= tl.load(gamma + m * features + columns, mask=inside, other=0.0)[None, :]
    tl.store(h + own + row, tl.where(value > 0, value, slope * value), mask=there)


@_kernel
def rise_back(
    z_pre, h, mean, inverse_std, beta, gamma, z0, z1, z2, grad_h, grad_z0, grad_z1, grad_z2, grad_mean,
    grad_inverse_std, sums, totals, grad_z_pre, n0, n1, n2, features, tiles, streams, slope: tl.constexpr,
    T: tl.constexpr, WHOLE: tl.constexpr, SECOND: tl.constexpr, BR: tl.constexpr, BF: tl.constexpr,
):  # fmt: skip
    """Both passes at once where WHOLE; else the first, which leaves the tile's sums, or the SECOND."""
    s, m, start, n, rows, columns, there = _place(tiles, n0, n1, n2, features, BR, BF)
    inside = columns < features
    row = rows[:, None] * features + columns[None, :]
    own = (m * (n0 + n1 + n2) + start) * features
    mu = tl.load(mean + (m * streams + s) * features + columns, mask=inside, other=0.0)
    v = tl.load(inverse_std + (m * streams + s) * features + columns, mask=inside, other=0.0)
    normalized = (tl.load(z_pre + own + row, mask=there, other=0.0).to(T) - mu[None, :]) * v[None, :]
    normalized = tl.where(there, normalized, 0.0)
    above = tl.zeros((BR, BF), dtype=T)
    if grad_h is not None:
        above = tl.load(grad_h + own + row, mask=there, other=0.0).to(T)
        above = tl.where(tl.load(h + own + row, mask=there, other=0.0).to(T) > 0, above, slope * above)
    shifted = above  # d cost / d (z + beta)
    if gamma is not None:
        shifted = above * tl.load(gamma + m * features + columns, mask=inside, other=0.0)[None, :]
    g = shifted
    if grad_z0 is not None:
        g += tl.load(grad_z0 + m * n0 * features + row, mask=there & (s == 0), other=0.0)
    if grad_z1 is not None:
        g += tl.load(grad_z1 + m * n1 * features + row, mask=there & (s == 1), other=0.0)
    if grad_z2 is not None:
        g += tl.load(grad_z2 + m * n2 * features + row, mask=there & (s == 2), other=0.0)
    if SECOND:
        totals += (m * streams + s) * 4 * features + columns
        g_sum = tl.load(totals, mask=inside, other=0.0)
        gz_sum = tl.load(totals + features, mask=inside, other=0.0)
    else:
        g_sum, gz_sum = tl.sum(g, 0), tl.sum(g * normalized, 0)
        sums += (m * tl.num_programs(1) + tl.program_id(1)) * 4 * features + columns
        tl.store(sums, g_sum, mask=inside)
        tl.store(sums + features, gz_sum, mask=inside)
        tl.store(sums + 2 * features, tl.sum(shifted, 0), mask=inside)
        if gamma is not None:
            z = tl.load(z0 + m * n0 * features + row, mask=there & (s == 0), other=0.0)
            if z1 is not None:
                z += tl.load(z1 + m * n1 * features + row, mask=there & (s == 1), other=0.0)
            if z2 is not None:
                z += tl.load(z2 + m * n2 * features + row, mask=there & (s == 2), other=0.0)
            if beta is not None:
                z += tl.load(beta + m * features + columns, mask=inside, other=0.0)[None, :]
            tl.store(sums + 3 * features, tl.sum(above * z, 0), mask=inside)
    if WHOLE or SECOND:
        last = inside & (s == streams - 1)
        constant, to_std = -v * g_sum, gz_sum
        if grad_mean is not None:
            constant += tl.load(grad_mean + m * features + columns, mask=last, other=0.0)
        if grad_inverse_std is not None:
            to_std += v * tl.load(grad_inverse_std + m * features + columns, mask=last, other=0.0)
        back = v[None, :] * g + (constant / n)[None, :] - (v * to_std / n)[None, :] * normalized
        tl.store(grad_z_pre + own + row, back, mask=there)


@_kernel
def descend(
    u_pre, totals, a, z_noisy, z_clean, mean_clean, inverse_std_clean, mean, inverse_std, z_hat, errors, n, features,
    tiles, epsilon: tl.constexpr, T: tl.constexpr, WHOLE: tl.constexpr, BR: tl.constexpr, BF: tl.constexpr,
):  # fmt: skip
    """BN, the Gaussian combinator, and a tile's part of the cost."""
    s, m, start, n, rows, columns, there = _place(tiles, n, 0, 0, features, BR, BF)
    inside = columns < features
    own = m * n * features
    at = own + rows[:, None] * features + columns[None, :]
    x = tl.load(u_pre + at, mask=there, other=0.0).to(T)
    mu_u, v_u = _statistics(x, there, totals, u_pre + own, s, m, 1, columns, n, features, epsilon, WHOLE)
    if tl.program_id(1) == 0:
        tl.store(mean + m * features + columns, mu_u, mask=inside)
        tl.store(inverse_std + m * features + columns, v_u, mask=inside)
    u = (x - mu_u[None, :]) * v_u[None, :]
    mu, v, s_mu, s_var, a1, a2, a4, a6, a7, a9 = _gaussian(a + m * 10 * features + columns, u, features, inside)
    estimate = (tl.load(z_noisy + at, mask=there, other=0.0) - mu) * v + mu
    tl.store(z_hat + at, estimate, mask=there)
    if z_clean is not None:
        compared = estimate
        if mean_clean is not None:
            m_clean = tl.load(mean_clean + m * features + columns, mask=inside, other=0.0)
            v_clean = tl.load(inverse_std_clean + m * features + columns, mask=inside, other=0.0)
            compared = (estimate - m_clean[None, :]) * v_clean[None, :]
        d = tl.where(there, compared - tl.load(z_clean + at, mask=there, other=0.0), 0.0)
        errors += (m * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(0) + tl.program_id(0)
        tl.store(errors, tl.sum(d * d) / n / features)


@triton.jit
def _gaussian(a, u, features, inside):
    """The combinator's mu(u) and v(u), their sigmoids, and the parameters that its gradient takes."""
    a1 = tl.load(a, mask=inside, other=0.0)[None, :]
    a2 = tl.load(a + features, mask=inside, other=0.0)[None, :]
    a3 = tl.load(a + 2 * features, mask=inside, other=0.0)[None, :]
    a4 = tl.load(a + 3 * features, mask=inside, other=0.0)[None, :]
    a5 = tl.load(a + 4 * features, mask=inside, other=0.0)[None, :]
    a6 = tl.load(a + 5 * features, mask=inside, other=0.0)[None, :]
    a7 = tl.load(a + 6 * features, mask=inside, other=0.0)[None, :]
    a8 = tl.load(a + 7 * features, mask=inside, other=0.0)[None, :]
    a9 = tl.load(a + 8 * features, mask=inside, other=0.0)[None, :]
    a10 = tl.load(a + 9 * features, mask=inside, other=0.0)[None, :]
    s_mu, s_var = 1 / (1 + tl.exp(-(a2 * u + a3))), 1 / (1 + tl.exp(-(a7 * u + a8)))
    return a1 * s_mu + a4 * u + a5, a6 * s_var + a9 * u + a10, s_mu, s_var, a1, a2, a4, a6, a7, a9


@_kernel
def descend_back(
    u_pre, a, z_noisy, z_clean, mean_clean, inverse_std_clean, mean, inverse_std, grad_z_hat, grad_cost, sums, totals,
    grad_u_pre, grad_z_noisy, grad_z_clean, n, features, tiles, T: tl.constexpr, WHOLE: tl.constexpr,
    SECOND: tl.constexpr, BR: tl.constexpr, BF: tl.constexpr,
):  # fmt: skip
    """Both passes at once where WHOLE; else the first, which leaves the tile's sums and d cost / d u, or the SECOND.

    The sums: of a's gradient, ten; of those of mean_clean and inverse_std_clean; of d cost / d u, and of it times u.
    """
    s, m, start, n, rows, columns, there = _place(tiles, n, 0, 0, features, BR, BF)
    inside = columns < features
    at = m * n * features + rows[:, None] * features + columns[None, :]
    mu_u = tl.load(mean + m * features + columns, mask=inside, other=0.0)
    v_u = tl.load(inverse_std + m * features + columns, mask=inside, other=0.0)
    u = (tl.load(u_pre + at, mask=there, other=0.0).to(T) - mu_u[None, :]) * v_u[None, :]
    if SECOND:
        g_u = tl.load(grad_u_pre + at, mask=there, other=0.0).to(T)
        totals += m * 14 * features + columns
        g_sum = tl.load(totals + 12 * features, mask=inside, other=0.0)
        gu_sum = tl.load(totals + 13 * features, mask=inside, other=0.0)
    else:
        mu, v, s_mu, s_var, a1, a2, a4, a6, a7, a9 = _gaussian(a + m * 10 * features + columns, u, features, inside)
        lateral = tl.load(z_noisy + at, mask=there, other=0.0) - mu
        g = tl.zeros((BR, BF), dtype=T)
        if grad_z_hat is not None:
            g = tl.load(grad_z_hat + at, mask=there, other=0.0).to(T)
        sums += (m * tl.num_programs(1) + tl.program_id(1)) * 14 * features + columns
        if grad_cost is not None:
            factor = 2 * tl.load(grad_cost + m) / n / features
            estimate = lateral * v + mu
            clean = tl.load(z_clean + at, mask=there, other=0.0)
            if mean_clean is not None:
                v_clean = tl.load(inverse_std_clean + m * features + columns, mask=inside, other=0.0)[None, :]
                centred = estimate - tl.load(mean_clean + m * features + columns, mask=inside, other=0.0)[None, :]
                d = tl.where(there, factor * (centred * v_clean - clean), 0.0)
                g += d * v_clean
                tl.store(sums + 10 * features, -tl.sum(d * v_clean, 0), mask=inside)
                tl.store(sums + 11 * features, tl.sum(d * centred, 0), mask=inside)
            else:
                d = tl.where(there, factor * (estimate - clean), 0.0)
                g += d
            if grad_z_clean is not None:
                tl.store(grad_z_clean + at, -d, mask=there)
        tl.store(grad_z_noisy + at, g * v, mask=there)
        g_mu, g_var = g * (1 - v), g * lateral
        t_mu, t_var = g_mu * a1 * s_mu * (1 - s_mu), g_var * a6 * s_var * (1 - s_var)
        g_u = g_mu * a4 + t_mu * a2 + g_var * a9 + t_var * a7
        g_sum, gu_sum = tl.sum(g_u, 0), tl.sum(g_u * u, 0)
        tl.store(sums, tl.sum(g_mu * s_mu, 0), mask=inside)
        tl.store(sums + features, tl.sum(t_mu * u, 0), mask=inside)
        tl.store(sums + 2 * features, tl.sum(t_mu, 0), mask=inside)
        tl.store(sums + 3 * features, tl.sum(g_mu * u, 0), mask=inside)
        tl.store(sums + 4 * features, tl.sum(g_mu, 0), mask=inside)
        tl.store(sums + 5 * features, tl.sum(g_var * s_var, 0), mask=inside)
        tl.store(sums + 6 * features, tl.sum(t_var * u, 0), mask=inside)
        tl.store(sums + 7 * features, tl.sum(t_var, 0), mask=inside)
        tl.store(sums + 8 * features, tl.sum(g_var * u, 0), mask=inside)
        tl.store(sums + 9 * features, tl.sum(g_var, 0), mask=inside)
        tl.store(sums + 12 * features, g_sum, mask=inside)
        tl.store(sums + 13 * features, gu_sum, mask=inside)
    if WHOLE or SECOND:
        back = v_u[None, :] * (g_u - (g_sum[None, :] + u * gu_sum[None, :]) / n)
        tl.store(grad_u_pre + at, back, mask=there)
    else:
        tl.store(grad_u_pre + at, g_u, mask=there)


@_kernel
def noisy(
    clean, noisy, seed, n, features, tiles, salt, std: tl.constexpr, T: tl.constexpr, BR: tl.constexpr,
    BF: tl.constexpr,
):  # fmt: skip
    """Values and noise."""
    s, m, start, n, rows, columns, there = _place(tiles, n, 0, 0, features, BR, BF)
    at = m * n * features + rows[:, None] * features + columns[None, :]
    value = tl.load(clean + at, mask=there, other=0.0)
    value += std * _normal(tl.load(seed + m) + salt, rows, features, BR, BF).to(T)
    tl.store(noisy + at, value, mask=there)
