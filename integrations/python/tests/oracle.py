"""The operations in float64, written as their definitions are."""

import numpy as np


def attention(q, k, v, bias=0.0, mask=None, scale=None):
    """`[batch, n_heads, n, dim]`; also the log-sum-exp. A row without a key reads as zeros."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    k, v = (np.repeat(x, q.shape[1] // x.shape[1], axis=1) for x in (k, v))
    logits = (scale or q.shape[-1] ** -0.5) * q @ k.swapaxes(-1, -2) + bias
    if mask is not None:
        logits = np.where(np.broadcast_to(mask, (q.shape[0], k.shape[2]))[:, None, None, :], logits, -np.inf)
    largest = np.maximum(logits.max(-1, keepdims=True), -1e300)
    weights = np.exp(logits - largest)
    total = weights.sum(-1, keepdims=True)
    values = np.where(total > 0, weights @ v / np.where(total > 0, total, 1), 0)
    with np.errstate(divide="ignore"):
        return values, (np.log(total) + largest)[..., 0]


def causal(n):
    return np.where(np.tril(np.ones((n, n), bool)), 0.0, -np.inf)


def euclidean(q, k):
    return np.sqrt(((q[..., :, None, :] - k[..., None, :, :]).astype(np.float64) ** 2).sum(-1))


def great_circle(q, k):
    """In degrees, of (longitude, latitude) in degrees."""
    q, k = (np.radians(np.asarray(x, np.float64)) for x in (q[..., :, None, :], k[..., None, :, :]))
    half = np.sin((q - k) / 2) ** 2
    return np.degrees(2 * np.arcsin(np.sqrt(half[..., 1] + np.cos(q[..., 1]) * np.cos(k[..., 1]) * half[..., 0])))


def causal_time(q, k):
    d = k[..., None, :, 0].astype(np.float64) - q[..., :, None, 0]
    return np.where(d <= 0, d, -np.inf)


KERNELS = {
    "scalar": lambda d, a: a * d,
    "rbf": lambda d, a, b: a * np.exp(-b * d**2),
    "tisa": lambda d, a, b, c: a * np.exp(-b * (d - c) ** 2),
    "exponential": lambda d, a, b: a * np.exp(-b * d),
    "matern32": lambda d, a, b: a * (1 + np.sqrt(3) * b * d) * np.exp(-np.sqrt(3) * b * d),
}


def bias(kernel, distances, parameters):
    """`[.., n_heads, n_queries, n_keys]` of distances `[.., n_queries, n_keys]`, of parameters `[n_heads, n_basis]`."""
    exists = np.isfinite(distances)
    d = np.where(exists, distances, 0)[..., None, None, :, :]
    parameters = [np.asarray(p, np.float64)[..., None, None] for p in parameters]
    return np.where(exists[..., None, :, :], KERNELS[kernel](d, *parameters).sum(-3), -np.inf)


def memory(q, k, v, p_write, p_erase, decay=None):
    """The delta rule, step by step; probabilities `[batch, n_heads, n]`."""
    q, k, v, w, e = (np.asarray(x, np.float64) for x in (q, k, v, p_write, p_erase))
    decay = np.ones_like(w) if decay is None else np.asarray(decay, np.float64)
    state = np.zeros((*k.shape[:2], v.shape[-1], k.shape[-1]))
    values = np.zeros(v.shape)
    for t in range(k.shape[2]):
        key = k[:, :, t, None, :]
        state = state * decay[:, :, t, None, None]
        known = (state * key).sum(-1, keepdims=True)
        state = state + (w[:, :, t, None, None] * v[:, :, t, :, None] - e[:, :, t, None, None] * known) * key
        values[:, :, t] = (state * q[:, :, t, None, :]).sum(-1)
    return values, state
