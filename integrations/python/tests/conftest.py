"""Devices and files that the tests share."""

import pathlib

import numpy as np
import pytest

import wgpu_attention as wa

CHECKPOINTS = pathlib.Path(__file__).parents[3] / "checkpoints"

# The CPU, and an adapter if there is any, be it of software.
NAMES = ["cpu"] + (["gpu"] if len(wa.devices()) > 1 else [])


@pytest.fixture(scope="session", params=NAMES)
def device(request):
    return wa.Device.by_name(request.param)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def f32(*arrays):
    """The same numbers in float32, side by side."""
    arrays = [np.ascontiguousarray(x, np.float32) for x in arrays]
    return arrays if len(arrays) > 1 else arrays[0]
