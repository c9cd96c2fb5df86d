"""Softmax attention against NumPy in float64, and against PyTorch where it is installed."""

import numpy as np
import oracle
import pytest
from conftest import f32

import wgpu_attention as wa

# Sums of float32 over some hundred products of numbers of size one.
CLOSE = dict(rtol=2e-5, atol=2e-5)


def qkv(rng, n_queries=65, n_keys=100, heads=2, kv_heads=None, dim=12, v_dim=7, batch=2):
    shape = (batch, kv_heads or heads, n_keys)
    return f32(rng.normal(size=(batch, heads, n_queries, dim)), rng.normal(size=(*shape, dim)), rng.normal(size=(*shape, v_dim)))


@pytest.mark.parametrize("n", [1, 7, 64, 100])
def test_plain(device, rng, n):
    q, k, v = qkv(rng, n_queries=n, n_keys=n)
    values, log_sum_exp = wa.scan_attention(q, k, v, return_log_sum_exp=True, device=device)
    expected, expected_sum = oracle.attention(q, k, v)
    assert values.dtype == np.float32 and values.flags.c_contiguous and values.flags.writeable
    np.testing.assert_allclose(values, expected, **CLOSE)
    np.testing.assert_allclose(log_sum_exp, expected_sum, **CLOSE)


def test_scale_mask_and_heads_side_by_side(device, rng):
    q, k, v = qkv(rng)
    keep = rng.random((2, 100)) < 0.7
    expected = oracle.attention(q, k, v, mask=keep, scale=0.7)[0]
    np.testing.assert_allclose(wa.scan_attention(q, k, v, mask=keep, scale=0.7, device=device), expected, **CLOSE)
    one = oracle.attention(q, k, v, mask=keep[:1])[0]
    np.testing.assert_allclose(wa.scan_attention(q, k, v, mask=keep[0], device=device), one, **CLOSE)
    side = [f32(x.swapaxes(1, 2).reshape(2, x.shape[2], -1)) for x in (q, k, v)]
    values = wa.scan_attention(*side, n_heads=2, mask=keep, scale=0.7, device=device)
    np.testing.assert_allclose(values.reshape(2, 65, 2, 7).swapaxes(1, 2), expected, **CLOSE)
    none = wa.scan_attention(q, k, v, mask=np.zeros(100, bool), device=device)
    assert (none == 0).all()


def test_groups_of_heads_share_keys(device, rng):
    q, k, v = qkv(rng, heads=4, kv_heads=2)
    np.testing.assert_allclose(wa.scan_attention(q, k, v, device=device), oracle.attention(q, k, v)[0], **CLOSE)


@pytest.mark.parametrize("n", [1, 33, 100])
def test_causal(device, rng, n):
    q, k, v = qkv(rng, n_queries=n, n_keys=n)
    expected = oracle.attention(q, k, v, bias=oracle.causal(n))[0]
    np.testing.assert_allclose(wa.scan_attention(q, k, v, causal=True, device=device), expected, **CLOSE)


def test_causal_beside_a_bias(device, rng):
    q, k, v = qkv(rng, n_queries=50, n_keys=50)
    x = f32(rng.normal(size=(2, 50, 3)))
    a, b = rng.random((2, 3)), rng.random((2, 3))
    bias = oracle.bias("rbf", oracle.euclidean(x, x), (a, b)) + oracle.causal(50)
    values = wa.scan_attention(q, k, v, bias=wa.Bias.rbf(a, b), q_coords=x, k_coords=x, causal=True, device=device)
    np.testing.assert_allclose(values, oracle.attention(q, k, v, bias=bias)[0], **CLOSE)


@pytest.mark.parametrize("kernel", oracle.KERNELS)
@pytest.mark.parametrize("distance", ["euclidean", "great_circle", "causal_time"])
def test_biases_of_coordinates(device, rng, kernel, distance):
    q, k, v = qkv(rng)
    width = {"euclidean": 3, "great_circle": 2, "causal_time": 1}[distance]
    # The columns that are read stand behind one that is not.
    q_coords, k_coords = (f32(rng.uniform(-1, 1, size=(2, n, 1 + width))) for n in (65, 100))
    n_basis = 1 if kernel == "scalar" else 3
    names = {"scalar": "a", "rbf": "ab", "tisa": "abc", "exponential": "ab", "matern32": "ab"}[kernel]
    parameters = [rng.uniform(0.1, 1, size=(2, n_basis)) for _ in names]
    term = getattr(wa.Bias, kernel)(*parameters, columns=(1, 1 + width), distance=distance)
    values = wa.scan_attention(q, k, v, bias=term, q_coords=q_coords, k_coords=k_coords, device=device)
    d = getattr(oracle, distance)(q_coords[..., 1:], k_coords[..., 1:])
    expected = oracle.attention(q, k, v, bias=oracle.bias(kernel, d, f32(*parameters) if n_basis > 0 and len(parameters) > 1 else parameters))[0]
    np.testing.assert_allclose(values, expected, **CLOSE)


def test_terms_are_added_to_each_other_and_to_a_matrix(device, rng):
    q, k, v = qkv(rng)
    q_coords, k_coords = (f32(rng.normal(size=(n, 2))) for n in (65, 100))
    matrix = f32(rng.normal(size=(1, 2, 65, 100)))
    d = oracle.euclidean(q_coords, k_coords)
    a, b = np.array([[0.5], [1.0]]), np.array([[2.0], [0.25]])
    bias = oracle.bias("rbf", d, (a, b)) + oracle.bias("scalar", d, (-a,)) + matrix
    terms = wa.Bias.rbf(a, b) + wa.Bias.scalar(-a)
    for given in (terms, sum([wa.Bias.rbf(a, b), wa.Bias.scalar(-a)])):
        values = wa.scan_attention(
            q, k, v, bias=[given, matrix], q_coords=q_coords, k_coords=k_coords, device=device
        )
        np.testing.assert_allclose(values, oracle.attention(q, k, v, bias=bias)[0], **CLOSE)
    alone = wa.scan_attention(q, k, v, bias=matrix, device=device)
    np.testing.assert_allclose(alone, oracle.attention(q, k, v, bias=matrix)[0], **CLOSE)


def test_wgsl_and_its_twin(device, rng):
    q, k, v = qkv(rng)
    q_coords, k_coords = (f32(rng.normal(size=(2, n, 2))) for n in (65, 100))
    alibi = wa.Bias.wgsl(
        "return -params(head) * abs(q_coord[0] - k_coord[0]);",
        [0.5, 0.25],
        numpy=lambda q, k, head, params: -params[head] * np.abs(q[..., 0] - k[..., 0]),
        columns=(1, 2),
        name="alibi",
    )
    slope = np.array([0.5, 0.25])[:, None, None]
    matrix = f32(rng.normal(size=(65, 100)))
    bias = -slope * np.abs(q_coords[:, None, :, None, 1] - k_coords[:, None, None, :, 1]) + matrix
    values = wa.scan_attention(q, k, v, bias=[alibi, matrix], q_coords=q_coords, k_coords=k_coords, device=device)
    np.testing.assert_allclose(values, oracle.attention(q, k, v, bias=bias)[0], **CLOSE)


def test_wgsl_that_is_none(device, rng):
    q, k, v = qkv(rng)
    coords = {"q_coords": f32(np.zeros((65, 1))), "k_coords": f32(np.zeros((100, 1)))}
    alone = wa.Bias.wgsl("return 0.0;")
    if device == wa.Device.cpu():
        with pytest.raises(wa.errors.InputError, match="give its twin for the CPU"):
            wa.scan_attention(q, k, v, bias=alone, **coords, device=device)
        wrong = wa.Bias.wgsl("return 0.0;", numpy=lambda q, k, head, params: np.zeros(3))
        with pytest.raises(wa.errors.InputError, match=r"shape \(3,\), allowed is \(65, 100\)"):
            wa.scan_attention(q, k, v, bias=wrong, **coords, device=device)
        failing = wa.Bias.wgsl("return 0.0;", numpy=lambda q, k, head, params: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            wa.scan_attention(q, k, v, bias=failing, **coords, device=device)
    else:
        wa.scan_attention(q, k, v, bias=alone, **coords, device=device)
        with pytest.raises(wa.errors.InputError, match="not valid WGSL"):
            wa.scan_attention(q, k, v, bias=wa.Bias.wgsl("return nonsense;"), **coords, device=device)


@pytest.mark.parametrize("causal", [False, True])
def test_like_pytorch(rng, causal):
    torch = pytest.importorskip("torch")
    q, k, v = qkv(rng, n_queries=128, n_keys=128, dim=32, v_dim=32)
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(torch.from_numpy(x) for x in (q, k, v)), is_causal=causal
    )
    np.testing.assert_allclose(wa.scan_attention(q, k, v, causal=causal), expected.numpy(), **CLOSE)
    # Tensors of PyTorch on the CPU are arrays, too.
    lent = wa.scan_attention(*(torch.from_numpy(x) for x in (q, k, v)), causal=causal)
    np.testing.assert_array_equal(lent, wa.scan_attention(q, k, v, causal=causal))


def test_inputs_are_not_copied_on_the_cpu():
    """A process that may take little more than its arrays."""
    import subprocess
    import sys

    program = """
import resource, numpy as np, wgpu_attention as wa
cpu = wa.Device.cpu()
q, k, v = np.ones((1, 1, 1, 64), np.float32), np.ones((1, 1, 2_000_000, 64), np.float32), np.ones((1, 1, 2_000_000, 1), np.float32)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
wa.scan_attention(q, k, v, device=cpu)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    more = int(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)
    assert more < 200, f"{more} MiB more, for keys of 488"


def test_other_threads_run_meanwhile(rng):
    import threading
    import time

    q, k, v = qkv(rng, n_queries=6000, n_keys=6000, heads=8, dim=64, v_dim=64)
    done = threading.Event()

    # One call: a lock that is held through it would stop this thread for all of its time.
    def attend():
        wa.scan_attention(q, k, v, device=wa.Device.cpu())
        done.set()

    thread = threading.Thread(target=attend)
    start = time.perf_counter()
    thread.start()
    longest, last = 0.0, time.perf_counter()
    while not done.is_set():
        time.sleep(0.001)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    thread.join()
    took = time.perf_counter() - start
    assert longest < 0.5 * took, f"this thread stood still for {longest:.2f} of {took:.2f} s"
