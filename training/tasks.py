"""Regression tasks drawn from Gaussian processes on a line, and the exact GP answer.

A task is a noisy sample of a random function at `n_ctx + n_tgt` points, split into
context and targets. One unit of the coordinate is about a quarter of the record.
"""

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.special import ive

FAMILIES = {  # how often each is drawn
    "rbf": 0.12,
    "matern32": 0.12,
    "matern52": 0.12,
    "periodic": 0.14,
    "quasi_periodic": 0.2,
    "smooth_plus_periodic": 0.3,
}


# --- kernels ----------------------------------------------------------------------------


def rbf(d, length):
    return np.exp(-0.5 * (d / length) ** 2)


def matern32(d, length):
    r = np.sqrt(3.0) * d / length
    return (1 + r) * np.exp(-r)


def matern52(d, length):
    r = np.sqrt(5.0) * d / length
    return (1 + r + r * r / 3) * np.exp(-r)


def periodic(d, period, length):
    """exp(-2 sin^2(pi d/p) / l^2) without its constant part and scaled back to variance 1.

    A smooth cycle (large l) would otherwise be nearly all constant. As l grows this
    tends to a pure sinusoid. The constant Fourier coefficient is e^{-z} I_0(z), z = 1/l^2.
    """
    constant = ive(0, length**-2)
    k = np.exp(-2 * np.square(np.sin(np.pi * d / period) / length))
    return (k - constant) / (1 - constant)


SMOOTH = {"rbf": rbf, "matern32": matern32, "matern52": matern52}


def log_uniform(rng, low, high):
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def draw_kernel(rng, shortest_period):
    """The family and a random covariance function of the distance, variance around 1."""
    family = rng.choice(list(FAMILIES), p=list(FAMILIES.values()))
    variance = log_uniform(rng, 0.5, 2.0)
    if family in SMOOTH:
        length = log_uniform(rng, 0.1, 2.0)
        return family, lambda d: variance * SMOOTH[family](d, length)
    period = log_uniform(rng, shortest_period, 1.5)
    roughness = log_uniform(rng, 0.5, 3.0)
    if family == "periodic":
        return family, lambda d: variance * periodic(d, period, roughness)
    # The shape of the cycle may drift, over at least about a period.
    drift = log_uniform(rng, max(0.5, period), 10.0)
    cycle = lambda d: periodic(d, period, roughness) * rbf(d, drift)
    if family == "quasi_periodic":
        return family, lambda d: variance * cycle(d)
    smooth = SMOOTH[rng.choice(list(SMOOTH))]
    length = log_uniform(rng, 0.3, 3.0)
    share = rng.uniform(0.05, 0.95)
    return family, lambda d: variance * (share * cycle(d) + (1 - share) * smooth(d, length))


# --- points -----------------------------------------------------------------------------


def draw_points(rng, n, length):
    """Sorted points: a regular grid, a jittered one, or uniformly random."""
    kind = rng.integers(3)
    if kind == 2:
        return np.sort(rng.uniform(0, length, n))
    step = length / n
    jitter = rng.uniform(-0.5, 0.5, n) * step if kind == 1 else 0.0
    return np.arange(n) * step + jitter


def draw_split(rng, n_ctx, n_tgt):
    """Indices of context and targets. One task in three has a gap: a run of
    neighbouring points, possibly at an end, that are all targets."""
    n = n_ctx + n_tgt
    score = rng.random(n)
    if rng.random() < 1 / 3:
        width = rng.integers(n_tgt // 4, n_tgt + 1)
        start = rng.integers(0, n - width + 1)
        score[start : start + width] += 1.0
    order = np.argsort(score)
    return order[:n_ctx], order[n_ctx:]


def draw_task(rng, n_ctx, n_tgt):
    length = rng.uniform(3.0, 5.0)
    # A cycle with fewer than six context points is mostly not identifiable.
    shortest_period = np.clip(6 * length / n_ctx, 0.2, 1.4)
    family, kernel = draw_kernel(rng, shortest_period)
    # Around zero, for networks that see the coordinate itself.
    s = draw_points(rng, n_ctx + n_tgt, length) - length / 2
    noise = log_uniform(rng, 0.01, 0.3)
    gram = kernel(np.abs(s[:, None] - s[None, :]))
    gram[np.diag_indices_from(gram)] += noise**2
    y = np.linalg.cholesky(gram) @ rng.standard_normal(len(s))
    ctx, tgt = draw_split(rng, n_ctx, n_tgt)
    return {"family": family, "s": s, "y": y, "gram": gram, "ctx": ctx, "tgt": tgt}


def draw_batch(rng, n_batch, n_ctx_range, n_tgt):
    """Context padded to the upper end of the range, with a mask. Also the tasks."""
    low, high = n_ctx_range
    batch = {
        "s_ctx": np.zeros((n_batch, high, 1), np.float32),
        "f_ctx": np.zeros((n_batch, high, 1), np.float32),
        "mask_ctx": np.zeros((n_batch, high), bool),
        "s_test": np.zeros((n_batch, n_tgt, 1), np.float32),
        "f_test": np.zeros((n_batch, n_tgt, 1), np.float32),
    }
    tasks = []
    for b in range(n_batch):
        n_ctx = rng.integers(low, high + 1)
        task = draw_task(rng, n_ctx, n_tgt)
        ctx, tgt = task["ctx"], task["tgt"]
        batch["s_ctx"][b, :n_ctx, 0] = task["s"][ctx]
        batch["f_ctx"][b, :n_ctx, 0] = task["y"][ctx]
        batch["mask_ctx"][b, :n_ctx] = True
        batch["s_test"][b, :, 0] = task["s"][tgt]
        batch["f_test"][b, :, 0] = task["y"][tgt]
        tasks.append(task)
    return batch, tasks


# --- the best possible answer -----------------------------------------------------------


def oracle(task):
    """Predictive mean and std of the target observations, true kernel and noise known."""
    gram, ctx, tgt = task["gram"], task["ctx"], task["tgt"]
    factor = cho_factor(gram[np.ix_(ctx, ctx)], lower=True)
    cross = gram[np.ix_(ctx, tgt)]
    mean = cross.T @ cho_solve(factor, task["y"][ctx])
    var = np.diag(gram)[tgt] - np.einsum("ct,ct->t", cross, cho_solve(factor, cross))
    return mean, np.sqrt(var)


def log_density(y, mean, std):
    return -0.5 * np.square((y - mean) / std) - np.log(std) - 0.5 * np.log(2 * np.pi)
