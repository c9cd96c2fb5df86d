"""What is wrong is an exception that says what was given and what is allowed; nothing ends the interpreter."""

import numpy as np
import pytest
from conftest import CHECKPOINTS, f32

import wgpu_attention as wa
from wgpu_attention.errors import ArrayTypeError, CheckpointError, DeviceError, FileError, InputError

GP = CHECKPOINTS / "gp_1d.safetensors"


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
        ({"mask": np.ones(9, bool)}, InputError, None),
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
    with pytest.raises(InputError, match="q has shape"):
        wa.scan_attention(q[0], k, v, causal=True)
    with pytest.raises(InputError, match="features"):
        wa.LinearAttention("cosine")
    with pytest.raises(InputError, match="probability"):
        wa.attention_memory(q, k, v, p_write=f32(np.full((1, 2, 10), 1.5)))


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
    with pytest.raises(InputError, match='"tnp_kr"'):
        wa.Cmanp.open(GP)
    model = wa.TnpKr.open(GP)
    with pytest.raises(CheckpointError):
        model.restore(b"no posterior")
    with pytest.raises(CheckpointError):
        model.restore(GP)
    with pytest.raises(TypeError):
        model.restore(3.0)


def test_points():
    model = wa.TnpKr.open(GP)
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
