"""Memory-efficient attention on any GPU, and on none: kernels for NumPy arrays, and trained neural processes.

>>> import numpy as np, wgpu_attention as wa
>>> q, k, v = (np.random.rand(1, 4, 100, 16).astype(np.float32) for _ in range(3))
>>> wa.scan_attention(q, k, v, causal=True).shape
(1, 4, 100, 16)

Operations take arrays of float32 whose numbers lie side by side, row-major; on the CPU they are read where they are,
without a copy, and other threads of Python run meanwhile: do not write to an array while an operation reads it.
Whatever lends its memory (DLPack), a tensor of PyTorch on the CPU say, is an array, too. Arrays are `[batch, n_heads,
n, dim]`, or with `n_heads=` given `[batch, n, n_heads * dim]`. Coordinates and values of models may be anything that
NumPy makes an array of numbers of.

Everything runs on the device that is given, or on `Device.best()`: a GPU where there is one, else the CPU. What goes
wrong is an exception of `wgpu_attention.errors`, which says what was given and what is allowed.
"""

from . import errors
from ._native import (
    Adapter,
    Bias,
    Classifier,
    Cmanp,
    CmanpPosterior,
    Device,
    Evaluation,
    FewShot,
    JointPrediction,
    LinearAttention,
    LinearState,
    LsamAe,
    MemoryState,
    NamTm,
    NamTransformer,
    Prediction,
    RollingAttention,
    RollingState,
    TnpKr,
    TnpKrPosterior,
    attention_memory,
    devices,
    open,
    random_features,
    scan_attention,
)
from .errors import Error

__all__ = [
    "Adapter",
    "Bias",
    "Classifier",
    "Cmanp",
    "CmanpPosterior",
    "Device",
    "Error",
    "Evaluation",
    "FewShot",
    "JointPrediction",
    "LinearAttention",
    "LinearState",
    "LsamAe",
    "MemoryState",
    "NamTm",
    "NamTransformer",
    "Prediction",
    "RollingAttention",
    "RollingState",
    "TnpKr",
    "TnpKrPosterior",
    "attention_memory",
    "devices",
    "errors",
    "open",
    "random_features",
    "scan_attention",
]
