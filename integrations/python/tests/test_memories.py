"""The other memories, against NumPy in float64."""

import numpy as np
import oracle
import pytest
from conftest import f32

import wgpu_attention as wa

CLOSE = dict(rtol=2e-5, atol=2e-5)


def unit(x):
    return f32(x / np.linalg.norm(x, axis=-1, keepdims=True))


@pytest.mark.parametrize("normalizer", ["none", "key_count"])
def test_linear_attention_of_features(device, rng, normalizer):
    q, k, v = (f32(rng.normal(size=(2, 3, n, d))) for n, d in ((11, 5), (40, 5), (40, 4)))
    memory = wa.LinearAttention(normalizer=normalizer, device=device)
    keep = rng.random((2, 40)) < 0.5
    state = memory.write(k, v, mask=keep)
    assert state.n_keys == keep.sum(1).tolist()
    expected = q.astype(float) @ (np.where(keep[:, None, :, None], k, 0).swapaxes(-1, -2).astype(float) @ v)
    if normalizer == "key_count":
        expected /= keep.sum(1)[:, None, None, None]
    np.testing.assert_allclose(memory.read(q, state), expected, **CLOSE)
    parts = memory.write(k[:, :, :10].copy(), v[:, :, :10].copy())
    whole = memory.write(k[:, :, 10:].copy(), v[:, :, 10:].copy(), parts)
    merged = parts.merge(memory.write(k[:, :, 10:].copy(), v[:, :, 10:].copy()))
    np.testing.assert_allclose(whole.sums, memory.write(k, v).sums, **CLOSE)
    np.testing.assert_allclose(merged.sums, whole.sums, **CLOSE)
    again = wa.LinearState(state.sums, state.v_dim, state.n_keys, is_stable=state.is_stable, device=device)
    np.testing.assert_array_equal(memory.read(q, again), memory.read(q, state))


def test_random_features_estimate_softmax_attention(device, rng):
    q, k, v = (f32(0.5 * rng.normal(size=(1, 2, n, d))) for n, d in ((20, 8), (50, 8), (50, 3)))
    projection = wa.random_features(0, 4096, 8)
    assert projection.shape == (4096, 8)
    memory = wa.LinearAttention.favor(projection, device=device)
    read = memory.read(q, memory.write(k, v))
    assert np.abs(read - oracle.attention(q, k, v)[0]).max() < 0.05


def test_rolling_attention(device, rng):
    queries, k, v = (f32(rng.normal(size=(2, 3, n, d))) for n, d in ((4, 6), (90, 6), (90, 5)))
    memory = wa.RollingAttention(queries, device=device)
    queries += 100  # what is kept is a copy
    state = None
    for first in range(0, 90, 30):
        k_new, v_new = (x[:, :, first : first + 30].copy() for x in (k, v))
        state = memory.write(k_new, v_new, state)
    values, log_sum_exp = memory.read(state, return_log_sum_exp=True)
    expected, expected_sum = oracle.attention(queries - 100, k, v)
    np.testing.assert_allclose(values, expected, rtol=2e-4, atol=2e-4)  # `queries` was rounded
    np.testing.assert_allclose(log_sum_exp, expected_sum, rtol=2e-4, atol=2e-4)
    assert state.n_bytes == state.rows.nbytes
    again = wa.RollingState(state.rows, device=device)
    np.testing.assert_array_equal(memory.read(again), values)
    halves = [memory.write(k[:, :, a:b].copy(), v[:, :, a:b].copy()) for a, b in ((0, 45), (45, 90))]
    np.testing.assert_allclose(memory.read(halves[0].merge(halves[1])), values, **CLOSE)


@pytest.mark.parametrize("form", [None, "recurrent", "chunked"])
def test_attention_memory(device, rng, form):
    q, k = (unit(rng.normal(size=(2, 2, 70, 8))) for _ in range(2))
    v = f32(rng.normal(size=(2, 2, 70, 5)))
    p_write, p_erase, decay = (f32(rng.uniform(0.5, 1, size=(2, 2, 70))) for _ in range(3))
    expected, memory = oracle.memory(q, k, v, p_write, p_erase, decay)
    p = {"p_write": p_write, "p_erase": p_erase, "decay": decay}
    values, state = wa.attention_memory(q, k, v, **p, form=form, device=device)
    np.testing.assert_allclose(values, expected, **CLOSE)
    np.testing.assert_allclose(state.memory, memory, **CLOSE)
    assert state.erased
    # In two parts.
    part = lambda x, rows: np.ascontiguousarray(x[:, :, rows])  # noqa: E731
    state = None
    for rows in (slice(0, 30), slice(30, 70)):
        p_part = {name: part(x, rows) for name, x in p.items()}
        values, state = wa.attention_memory(
            part(q, rows), part(k, rows), part(v, rows), **p_part, state=state, form=form, device=device
        )
    np.testing.assert_allclose(values, expected[:, :, 30:], **CLOSE)
    with pytest.raises(wa.errors.InputError, match="erased"):
        state.merge(state)
    again = wa.MemoryState(state.memory, device=device)
    np.testing.assert_allclose(again.merge(again).memory, 2 * state.memory)
