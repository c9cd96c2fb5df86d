"""What is wrong is an exception that says what was given and what is allowed; nothing ends the interpreter."""

import collections
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import CHECKPOINTS, f32, write_checkpoint

import wgpu_attention as wa
from wgpu_attention.errors import ArrayTypeError, CheckpointError, DeviceError, FileError, InputError

GP = CHECKPOINTS / "gp_1d.safetensors"


class Kept(np.ma.MaskedArray):
    """A masked array of another name, as astropy's columns are."""


class Bits(np.ndarray):
    """An array of another library with a mask."""

    mask = False


class Lends:
    """What makes an array of itself, a masked one."""

    def __array__(self, dtype=None, copy=None):
        return np.ma.masked_less([0.3, -1.0], 0)


@pytest.fixture
def qkv(rng):
    return [f32(rng.normal(size=(1, 2, 10, 4))) for _ in range(3)]


def test_kinds_of_exceptions():
    for kind, base in (
        (InputError, ValueError),
        (ArrayTypeError, TypeError),
        (CheckpointError, ValueError),
        (DeviceError, RuntimeError),
        (FileError, OSError),
        (wa.errors.MemoryExhausted, MemoryError),
    ):
        assert issubclass(kind, base) and issubclass(kind, wa.Error)


@pytest.mark.parametrize(
    ("wrong", "kind", "message"),
    [
        (lambda q: q.astype(np.float64), ArrayTypeError, r"q is an array of float64, allowed is float32"),
        (lambda q: q.astype(np.float16), ArrayTypeError, "float16"),
        (lambda q: q.astype(">f4"), ArrayTypeError, ">f4"),
        (lambda q: q.astype(object), ArrayTypeError, "array of object"),
        (lambda q: q.astype(np.complex64), ArrayTypeError, "complex64"),
        (lambda q: q.tolist(), ArrayTypeError, "q is of type list, allowed is a NumPy array"),
        (lambda q: None, ArrayTypeError, "NoneType"),
        (lambda q: "q", ArrayTypeError, "str"),
        (lambda q: np.ma.masked_less(q, 0), ArrayTypeError, "q is a masked array"),
        (lambda q: np.ma.masked_less(q, 0).view(Kept), ArrayTypeError, "q is a masked array"),
        (lambda q: q.view(Bits), ArrayTypeError, "q is a masked array"),
        (lambda q: q.swapaxes(1, 2), InputError, "side by side, row-major"),
        (lambda q: q[:, :, ::2], InputError, "ascontiguousarray"),
        (lambda q: np.broadcast_to(q[:1, :1], q.shape), InputError, "strides"),
        (lambda q: q[0], InputError, r"shape \[2, 10, 4\]"),
        (lambda q: q[:, :1], InputError, None),
        (lambda q: q.reshape(1, 2, 10, 4)[:, :, :, :2].copy(), InputError, "head"),
        (lambda q: f32(0.0), InputError, r"shape \[1\]"),
        (lambda q: np.zeros((0, 0, 0, 0), np.float32), InputError, None),
    ],
)
def test_arrays(qkv, wrong, kind, message):
    q, k, v = qkv
    with pytest.raises(kind, match=message):
        wa.scan_attention(wrong(q), k, v)


def test_every_operation_refuses_what_it_would_have_to_copy(qkv):
    q, k, v = qkv
    linear, rolling = wa.LinearAttention(), wa.RollingAttention(q)
    for wrong, kind in ((q.astype(np.float64), ArrayTypeError), (q.swapaxes(1, 2), InputError)):
        for work in (
            lambda: linear.write(wrong, v),
            lambda: linear.write(k, wrong),
            lambda: linear.read(wrong, linear.write(k, v)),
            lambda: rolling.write(k, wrong),
            lambda: wa.RollingAttention(wrong),
            lambda: wa.attention_memory(q, wrong, v),
            lambda: wa.attention_memory(q, k, v, decay=wrong),
            lambda: wa.MemoryState(wrong),
            lambda: wa.RollingState(wrong),
            lambda: wa.LinearState(wrong, 4, [1]),
            lambda: wa.LinearAttention("softmax", wrong),
        ):
            with pytest.raises(kind):
                work()


def test_an_array_that_is_not_aligned(qkv):
    q, k, v = qkv
    raw = np.zeros(q.nbytes + 1, np.uint8)[1:]
    shifted = raw.view(np.float32).reshape(q.shape)
    if not shifted.flags.aligned:
        with pytest.raises(InputError):
            wa.scan_attention(shifted, k, v)


def test_masks_and_options(qkv):
    q, k, v = qkv
    for more, kind, message in (
        ({"mask": np.ones(10)}, ArrayTypeError, "mask is an array of float64, allowed is bool"),
        ({"mask": np.ones(9, bool)}, InputError, r"mask is an array of shape \[9\], allowed is \[10\] or \[1, 10\]"),
        ({"mask": np.ones((2, 10), bool)}, InputError, r"mask is an array of shape \[2, 10\]"),
        ({"n_heads": 10**12}, InputError, "q is an array of shape"),
        ({"mask": [True] * 10}, ArrayTypeError, "list"),
        ({"bias": "rbf"}, ArrayTypeError, "bias is of type str"),
        ({"bias": wa.Bias.scalar([1.0, 1.0])}, InputError, "coordinates"),
        ({"bias": f32(np.zeros((3, 3)))}, InputError, "bias.matrix"),
        ({"bias": [f32(np.zeros((10, 10)))] * 2}, InputError, "two matrices"),
        ({"n_kv_heads": 2}, InputError, "n_heads"),
        ({"scale": float("nan")}, InputError, "scale"),
    ):
        with pytest.raises(kind, match=message):
            wa.scan_attention(q, k, v, **more)
    with pytest.raises(TypeError):
        wa.scan_attention(q, k, v, scale="large")
    with pytest.raises(TypeError):
        wa.scan_attention(q, k, v, 3)
    with pytest.raises(InputError, match="causal is true for 5 queries and 10 keys"):
        wa.scan_attention(np.ascontiguousarray(q[:, :, :5]), k, v, causal=True)
    with pytest.raises(InputError, match="distance"):
        wa.Bias.scalar([1.0], distance="taxi")
    with pytest.raises(InputError, match="columns"):
        wa.Bias.scalar([1.0], columns=(2, 1))
    x = f32(np.zeros((10, 2)))
    for bias in (wa.Bias.scalar([1.0, 1.0], columns=(1, 5)), wa.Bias.scalar([1.0] * 3), wa.Bias.scalar([np.nan] * 2)):
        with pytest.raises(InputError):
            wa.scan_attention(q, k, v, bias=bias, q_coords=x, k_coords=x)
    for coords in (x.tolist(), x.astype(float), x.T):
        with pytest.raises(wa.Error, match="q_coords"):
            wa.scan_attention(q, k, v, bias=wa.Bias.scalar([1.0, 1.0]), q_coords=coords, k_coords=x)
    with pytest.raises(InputError, match="q_coords"):
        wa.scan_attention(q, k, v, causal=True, q_coords=f32(np.zeros((9, 1))), k_coords=x)
    with pytest.raises(InputError, match=r"q is an array of shape \[2, 10, 4\], allowed is \[batch, n_heads, n, dim\]"):
        wa.scan_attention(q[0], k, v, causal=True)
    with pytest.raises(InputError, match="features"):
        wa.LinearAttention("cosine")
    with pytest.raises(InputError, match="probability"):
        wa.attention_memory(q, k, v, p_write=f32(np.full((1, 2, 10), 1.5)))


def test_shapes_of_the_parameters_of_a_bias(qkv):
    a = np.ones((2, 5))
    for work, message in (
        (lambda: wa.Bias.rbf(a, a.T), r"bias parameter b is an array of shape \[5, 2\], allowed is \[2, 5\], as a"),
        (lambda: wa.Bias.tisa(a, a, a[:, 0]), r"bias parameter c is an array of shape \[2\]"),
        (lambda: wa.Bias.exponential(a[None], a[None]), r"allowed is \[n_heads\] or \[n_heads, n_basis\]"),
        (lambda: wa.Bias.scalar(1.0), r"bias parameter a is an array of shape \[\]"),
    ):
        with pytest.raises(InputError, match=message):
            work()
    x = f32(np.zeros((10, 2)))
    for causal in (False, True):
        transposed = {"bias": wa.Bias.rbf(a.T, a.T), "q_coords": x, "k_coords": x, "causal": causal}
        with pytest.raises(InputError, match=r"shape \[5, 2\], allowed is \[2\] or \[2, n_basis\]: q has 2 heads"):
            wa.scan_attention(*qkv, **transposed)


@pytest.mark.parametrize("left", [[3], 3.0, 0.0, None, False, 1, "near", f32(np.zeros((10, 10)))])
def test_what_a_bias_is_not_added_to(left):
    near = wa.Bias.scalar([1.0, 1.0])
    assert repr(0 + near) == repr(near)
    for add in (lambda: left + near, lambda: near + left):
        with pytest.raises(TypeError):
            add()


def test_sizes_that_no_memory_has(qkv):
    """Arrays without numbers, whose other sizes are anything."""
    large = 1 << 40
    rows = lambda *shape: np.zeros(shape, np.float32)  # noqa: E731
    for q, k, more, kind in (
        (rows(large, 1, 0, 1), rows(1, 1, 3, 1), {"mask": np.ones(3, bool)}, InputError),
        (rows(1, 1, 3, 1), rows(large, 1, 3, 0), {"mask": np.ones(3, bool)}, InputError),
        (rows(1, 1, 3, 1), rows(large, 0, 3, 1), {"mask": np.ones(3, bool)}, InputError),
        (rows(1, 1, large, 0), rows(1, 1, large, 0), {"causal": True}, InputError),
        (rows(1, large, 0), rows(1, large, 0), {"causal": True, "n_heads": 1}, InputError),
        (rows(1, large, 0, 1), rows(1, large, 0, 1), {"causal": True}, None),
        (rows(0, 1, large, 1), rows(0, 1, large, 1), {"causal": True}, None),
        (rows(0, large, 1, 1), rows(0, large, 1, 1), {"causal": True}, None),
        (rows(1, 1, 1, 1), rows(1, 1, 1, 1), {"causal": True, "q_coords": rows(large, 1, 0)}, InputError),
    ):
        if kind is None:
            try:
                assert wa.scan_attention(q, k, k, **more).shape == q.shape
            except wa.Error:
                pass  # no fault either
        else:
            with pytest.raises(kind):
                wa.scan_attention(q, k, k, **more)
    for memory in (wa.LinearAttention(), wa.RollingAttention(rows(1, 1, 1, 1))):
        for k in (rows(large, 1, 3, 0), rows(large, 0, 3, 1), rows(large, 3, 0)):
            with pytest.raises(InputError, match="heads that are not empty"):
                memory.write(k, k, mask=np.ones(3, bool))
    model = wa.TnpKr.open(GP)
    with pytest.raises(InputError, match=r"at is an array of shape \[1099511627776, 0\]"):
        model.predict_local([0.0, 1.0], [0.3, 0.1], np.zeros((large, 0)), nearest=1)


def test_a_closed_device(qkv):
    with wa.Device.cpu() as device:
        model = wa.TnpKr.open(GP, device=device)
        posterior = model.condition([0.0, 1.0], [0.3, 0.1])
        memory = wa.LinearAttention(device=device)
        state = memory.write(qkv[1], qkv[2])
        assert not device.is_closed
    device.close()  # again
    assert device.is_closed and "closed" in repr(device)
    for work in (
        lambda: wa.scan_attention(*qkv, device=device),
        lambda: wa.TnpKr.open(GP, device=device),
        lambda: model.condition([0.0, 1.0], [0.3, 0.1]),
        lambda: model.draws([0.0, 1.0], [0.3, 0.1], [0.5], 2),
        lambda: posterior.predict([0.5]),
        lambda: posterior.to_bytes(),
        lambda: memory.read(qkv[0], state),
        lambda: state.sums,
        lambda: state.merge(state),
        lambda: wa.attention_memory(*qkv, device=device),
    ):
        with pytest.raises(DeviceError, match="the device is closed"):
            work()
    wa.scan_attention(*qkv)  # others are open


def test_the_best_device_is_opened_again(qkv):
    first = wa.TnpKr.open(GP)
    with first.device:
        pass
    with pytest.raises(DeviceError, match="the device is closed"):
        first.condition([0.0, 1.0], [0.3, 0.1])
    assert wa.scan_attention(*qkv).shape == (1, 2, 10, 4)
    again = wa.TnpKr.open(GP)
    assert not again.device.is_closed and first.device.is_closed
    again.condition([0.0, 1.0], [0.3, 0.1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_fork_of_a_process_that_used_it():
    """Its threads are not in the fork, which would wait for them for ever."""
    program = """
import os, signal, sys, numpy as np, wgpu_attention as wa
GP = sys.argv[1]
cpu, q = wa.Device.cpu(), np.ones((1, 8, 300, 16), np.float32)
if os.fork() == 0:
    wa.scan_attention(q, q, q, device=cpu)  # nothing was used before this fork
    os._exit(0)
assert os.wait()[1] == 0
model = wa.TnpKr.open(GP, device=cpu)
posterior, rolling = model.condition([0.0, 1.0], [0.3, 0.1]), wa.RollingAttention(q, device=cpu)
state, prediction = rolling.write(q, q), posterior.predict([0.5])
if os.fork() == 0:
    signal.alarm(60)
    works = [
        lambda: wa.scan_attention(q, q, q, device=cpu),
        lambda: wa.scan_attention(q, q, q),
        lambda: wa.attention_memory(q, q, q, device=cpu),
        lambda: wa.random_features(0, 64, 64),
        lambda: wa.LinearAttention(device=wa.Device.cpu()).write(q, q),
        lambda: wa.RollingAttention(q),
        lambda: rolling.write(q, q),
        lambda: rolling.read(state),
        lambda: state.rows,
        lambda: state.merge(state),
        lambda: wa.open(GP),
        lambda: wa.TnpKr.open(GP, device=cpu),
        lambda: model.condition([0.0, 1.0], [0.3, 0.1]),
        lambda: posterior.predict([0.5]),
        lambda: posterior.to_bytes(),
        lambda: wa.Device.best(),
        lambda: wa.Device.by_name("gpu"),
        lambda: wa.devices(),
    ]
    wrong = 0
    for i, work in enumerate(works):
        try:
            work()
        except wa.errors.DeviceError as error:
            wrong += "after a fork" not in str(error) or "spawn or forkserver" not in str(error)
        else:
            wrong += 1
    prediction.quantile(0.5)  # of numbers alone
    os._exit(wrong)
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program, GP], timeout=300)
    assert done.returncode == 0


def test_devices_that_are_not_there():
    with pytest.raises(DeviceError, match="no such adapter"):
        wa.Device.by_name("no such adapter")
    with pytest.raises(InputError, match="name is empty"):
        wa.Device.by_name("")
    with pytest.raises(TypeError):
        wa.scan_attention(*[f32(np.zeros((1, 1, 1, 1)))] * 3, device="cpu")


def test_files(tmp_path):
    with pytest.raises(FileError, match="nothing.safetensors"):
        wa.open(tmp_path / "nothing.safetensors")
    (tmp_path / "text.safetensors").write_text("hello, this is no checkpoint")
    for opens in (wa.open, wa.TnpKr.open, wa.Cmanp.open, wa.NamTm.open, wa.FewShot.open):
        with pytest.raises(CheckpointError, match="text.safetensors"):
            opens(tmp_path / "text.safetensors")
    with pytest.raises(CheckpointError, match='"tnp_kr"'):
        wa.Cmanp.open(GP)
    write_checkpoint(tmp_path / "other.safetensors", {"model": "gpt"}, {})
    with pytest.raises(CheckpointError, match='other.safetensors: it is of model "gpt", allowed is tnp_kr, cmanp'):
        wa.open(tmp_path / "other.safetensors")
    write_checkpoint(tmp_path / "other.safetensors", {"model": "cmanp", "config": "{}"}, {})
    for opens in (wa.open, wa.Cmanp.open):
        with pytest.raises(CheckpointError, match="other.safetensors: missing field"):
            opens(tmp_path / "other.safetensors")
    model = wa.TnpKr.open(GP)
    with pytest.raises(CheckpointError):
        model.restore(b"no posterior")
    with pytest.raises(CheckpointError):
        model.restore(GP)
    with pytest.raises(TypeError):
        model.restore(3.0)


def test_points():
    model = wa.TnpKr.open(GP)
    endless = []
    endless.append(endless)
    for x, y, kind, message in (
        ([0.0, 1.0], [0.3], InputError, r"y is an array of shape \[1\], allowed is \[2, 1\]"),
        ([], [], InputError, "empty"),
        ([0.0, np.nan], [0.3, 0.1], InputError, "finite"),
        ([0.0, 1.0], [0.3, np.inf], InputError, "finite"),
        (np.zeros((2, 3, 4, 1)), [0.3], InputError, r"\[batch, n, dim\]"),
        ("where", [0.3], ArrayTypeError, "allowed are numbers"),
        (["0.0"], [0.3], ArrayTypeError, "allowed are numbers"),
        ([None], [0.3], ArrayTypeError, "allowed are numbers"),
        ([[0.0], [1.0, 2.0]], [0.3, 0.1], wa.Error, None),
        ([1j], [0.3], ArrayTypeError, "complex"),
        ([0.0, 1.0], np.ma.masked_less([0.3, -1.0], 0), ArrayTypeError, "y is a masked array"),
        ([0.0, 1.0], np.ma.masked_less([0.3, -1.0], 0).view(Kept), ArrayTypeError, "y is a masked array"),
        ([0.0, 1.0], np.array([0.3, -1.0]).view(Bits), ArrayTypeError, "y is a masked array"),
        ([0.0, 1.0], Lends(), ArrayTypeError, "y is a masked array"),
        ([0.0, 1.0], [[0.3], np.ma.masked_less([-1.0], 0)], ArrayTypeError, "y is a masked array"),
        ([0.0, 1.0], collections.deque([np.ma.masked_less([0.3], 0), np.ma.masked_less([-1.0], 0)]), ArrayTypeError, "y is a masked array"),
        ([[[0.0]]], ([(np.ma.masked_less([0.3], 1),)],), ArrayTypeError, "y is a masked array"),
        ({"s": [np.ma.masked_less([-1.0], 0)]}, [0.3], ArrayTypeError, "is a masked array"),
        (endless, [0.3], wa.Error, None),
        ([2**60, 2**60 + 100], [0.3, 0.1], InputError, r"x\[0\] is 1152921504606846976, .* take an origin off before"),
        (np.array([0, 2**63], np.uint64), [0.3, 0.1], InputError, r"x\[1\] is 9223372036854775808, allowed"),
        (np.array([0, -(2**63)]), [0.3, 0.1], InputError, r"x\[1\] is -9223372036854775808, allowed"),
        ({}, [0.3], InputError, "empty dict"),
        ({"s": [0.0], "t": [0.0, 1.0]}, [0.3], InputError, "points of"),
    ):
        with pytest.raises(kind, match=message):
            model.condition(x, y)
    with pytest.raises(InputError, match="mask"):
        model.condition([0.0, 1.0], [0.3, 0.1], mask=np.ones(3, bool))
    posterior = model.condition([0.0, 1.0], [0.3, 0.1])
    with pytest.raises(InputError, match="without a batch, as the context"):
        posterior.predict(np.zeros((1, 1, 1)))
    prediction = posterior.predict([0.5, 0.7])
    with pytest.raises(InputError, match="p is 1, allowed"):
        prediction.quantile(1.0)
    with pytest.raises(InputError, match=r"\[1, 2\]"):
        prediction.log_density([[0.1, 0.2]])
    with pytest.raises(OverflowError):
        prediction.sample(-1)


def test_no_room():
    with pytest.raises(wa.Error):
        wa.random_features(0, 1 << 30, 1 << 30)
    model = wa.TnpKr.open(GP)
    with pytest.raises((wa.errors.MemoryExhausted, InputError)):
        model.condition([0.0, 1.0], [0.3, 0.1]).predict([0.5] * 1000).sample(1 << 50)
