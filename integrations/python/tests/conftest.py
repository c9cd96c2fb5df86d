"""Devices and files that the tests share."""

import json
import pathlib
import struct

import numpy as np
import pytest

import wgpu_attention as wa

CHECKPOINTS = pathlib.Path(__file__).parents[3] / "checkpoints"
# Networks of the authors' own code, with what that computes.
FIXTURES = pathlib.Path(__file__).parents[3] / "tests" / "fixtures"

# The CPU, and an adapter if there is any, be it of software.
NAMES = ["cpu"] + (["gpu"] if len(wa.devices()) > 1 else [])


@pytest.fixture(scope="session", params=NAMES)
def device(request):
    return wa.Device.by_name(request.param)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def read_arrays(path):
    """The metadata of a file of safetensors, and its arrays."""
    data = path.read_bytes()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:start])
    metadata, arrays = header.pop("__metadata__"), {}
    for name, of in header.items():
        first, end = of["data_offsets"]
        dtype = {"F32": "<f4", "F64": "<f8"}[of["dtype"]]
        arrays[name] = np.frombuffer(data[start + first : start + end], dtype).reshape(of["shape"])
    return metadata, arrays


def write_checkpoint(path, metadata, arrays):
    """A file of safetensors, of arrays of float32."""
    header, data = {"__metadata__": metadata}, b""
    for name, array in arrays.items():
        end = len(data) + array.nbytes
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": [len(data), end]}
        data += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def f32(*arrays):
    """The same numbers in float32, side by side."""
    arrays = [np.ascontiguousarray(x, np.float32) for x in arrays]
    return arrays if len(arrays) > 1 else arrays[0]
