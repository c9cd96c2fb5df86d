import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, final, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Adapter",
    "Bias",
    "Classifier",
    "Cmanp",
    "CmanpPosterior",
    "Device",
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
    "open",
    "random_features",
    "scan_attention",
]

_F32: TypeAlias = NDArray[np.float32]
_F64: TypeAlias = NDArray[np.float64]
_Bool: TypeAlias = NDArray[np.bool_]
_Path: TypeAlias = str | os.PathLike[str]
_Distance: TypeAlias = Literal["euclidean", "great_circle", "causal_time"]
# A function of coordinates of queries and keys, the head and the parameters: a number for each pair.
_Twin: TypeAlias = Callable[[_F32, _F32, int, _F32], ArrayLike]
# An array [n], [n, dim] or [batch, n, dim], or one for each group of coordinates by its name.
_Places: TypeAlias = ArrayLike | Mapping[str, ArrayLike]

@final
class Device:
    """A device: the CPU, or a GPU. `with Device.best() as device:` closes it in the end."""

    @staticmethod
    def best() -> Device: ...
    @staticmethod
    def cpu() -> Device: ...
    @staticmethod
    def by_name(name: str) -> Device: ...
    @property
    def name(self) -> str: ...
    @property
    def is_closed(self) -> bool: ...
    def close(self) -> None: ...
    def __enter__(self) -> Device: ...
    def __exit__(self, _type: object, _value: object, _traceback: object) -> None: ...
    def __eq__(self, value: object, /) -> bool: ...
    def __ne__(self, value: object, /) -> bool: ...

@final
class Adapter:
    """Something that a device can be opened on: `Device.by_name(adapter.name)`."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def backend(self) -> str: ...
    @property
    def driver(self) -> str: ...

def devices() -> list[Adapter]:
    """What kernels can run on here, the best GPU first, the CPU last."""

@final
class Bias:
    """One summand of an attention bias, or with `+` several: a function of some columns `(first, end)` of the
    coordinates of a query and of a key. Parameters are `[n_heads, n_basis]`, all of a term of one shape; `[n_heads]`
    is one basis function."""

    @staticmethod
    def scalar(a: ArrayLike, *, columns: tuple[int, int] | None = None, distance: _Distance = "euclidean") -> Bias: ...
    @staticmethod
    def rbf(
        a: ArrayLike, b: ArrayLike, *, columns: tuple[int, int] | None = None, distance: _Distance = "euclidean"
    ) -> Bias: ...
    @staticmethod
    def tisa(
        a: ArrayLike,
        b: ArrayLike,
        c: ArrayLike,
        *,
        columns: tuple[int, int] | None = None,
        distance: _Distance = "euclidean",
    ) -> Bias: ...
    @staticmethod
    def exponential(
        a: ArrayLike, b: ArrayLike, *, columns: tuple[int, int] | None = None, distance: _Distance = "euclidean"
    ) -> Bias: ...
    @staticmethod
    def matern32(
        a: ArrayLike, b: ArrayLike, *, columns: tuple[int, int] | None = None, distance: _Distance = "euclidean"
    ) -> Bias: ...
    @staticmethod
    def wgsl(
        text: str,
        params: ArrayLike | None = None,
        *,
        numpy: _Twin | None = None,
        columns: tuple[int, int] | None = None,
        name: str = "bias",
    ) -> Bias:
        """The body of `fn(q_coord: array<f32, C>, k_coord: array<f32, C>, head: u32) -> f32`, in which `params(i)`
        reads a parameter. `numpy` is its twin for the CPU: of coordinates `[n_queries, 1, C]` and `[1, n_keys, C]`,
        the head and the parameters it returns `[n_queries, n_keys]`, a matrix that a GPU does without."""

    def __add__(self, value: Bias, /) -> Bias: ...
    # Of 0 alone, with which `sum` begins; its own types ask for any `int`.
    def __radd__(self, value: int, /) -> Bias: ...

@overload
def scan_attention(
    q: _F32,
    k: _F32,
    v: _F32,
    *,
    bias: Bias | _F32 | list[Bias | _F32] | None = None,
    q_coords: _F32 | None = None,
    k_coords: _F32 | None = None,
    mask: _Bool | None = None,
    causal: bool = False,
    scale: float | None = None,
    n_heads: int | None = None,
    n_kv_heads: int | None = None,
    return_log_sum_exp: Literal[False] = False,
    device: Device | None = None,
) -> _F32:
    """`softmax(scale q k^T + bias) v` of each head, in memory that grows with the length and not with its square.

    `bias` is a `Bias` of coordinates `q_coords [n_queries, n_columns]` (or with a batch) and `k_coords`, or a matrix
    `[batch, n_heads, n_queries, n_keys]` of which the first three sizes may be 1, or a list of both. `mask [n_keys]`
    or `[batch, n_keys]` is true where a key exists. `scale` is `1 / sqrt(head_dim)` if not given."""

@overload
def scan_attention(
    q: _F32,
    k: _F32,
    v: _F32,
    *,
    bias: Bias | _F32 | list[Bias | _F32] | None = None,
    q_coords: _F32 | None = None,
    k_coords: _F32 | None = None,
    mask: _Bool | None = None,
    causal: bool = False,
    scale: float | None = None,
    n_heads: int | None = None,
    n_kv_heads: int | None = None,
    return_log_sum_exp: Literal[True],
    device: Device | None = None,
) -> tuple[_F32, _F32]: ...

@final
class LinearAttention:
    """Attention as a sum over features of the keys, of constant size."""

    def __new__(
        cls,
        features: Literal["identity", "softmax", "relu", "gelu", "exp", "elu"] = "identity",
        projection: _F32 | None = None,
        *,
        scale: float = 1.0,
        normalizer: Literal["none", "key_count", "feature_sum", "stable"] = "none",
        floor: float = 1e-6,
        n_heads: int | None = None,
        n_kv_heads: int | None = None,
        device: Device | None = None,
    ) -> LinearAttention: ...
    @staticmethod
    def favor(
        projection: _F32, *, n_heads: int | None = None, n_kv_heads: int | None = None, device: Device | None = None
    ) -> LinearAttention:
        """FAVOR+: softmax attention, estimated with a projection of `random_features`."""

    def write(self, k: _F32, v: _F32, state: LinearState | None = None, mask: _Bool | None = None) -> LinearState: ...
    def read(self, q: _F32, state: LinearState) -> _F32: ...

@final
class LinearState:
    """What was written."""

    def __new__(
        cls, sums: _F32, v_dim: int, n_keys: Sequence[int], *, is_stable: bool = False, device: Device | None = None
    ) -> LinearState: ...
    @property
    def sums(self) -> _F32: ...
    @property
    def v_dim(self) -> int: ...
    @property
    def is_stable(self) -> bool: ...
    @property
    def n_keys(self) -> list[int]: ...
    def merge(self, other: LinearState) -> LinearState: ...

def random_features(
    seed: int,
    n_features: int,
    head_dim: int,
    *,
    rows: Literal["orthogonal", "independent", "orthogonal_unit"] = "orthogonal",
) -> _F32:
    """A random projection `[n_features, head_dim]`, the same for a seed everywhere."""

@final
class RollingAttention:
    """Fixed queries read an endless stream of keys in constant memory, exactly."""

    def __new__(
        cls,
        queries: _F32,
        *,
        scale: float | None = None,
        n_heads: int | None = None,
        n_kv_heads: int | None = None,
        device: Device | None = None,
    ) -> RollingAttention: ...
    def write(self, k: _F32, v: _F32, state: RollingState | None = None, mask: _Bool | None = None) -> RollingState: ...
    @overload
    def read(self, state: RollingState, *, return_log_sum_exp: Literal[False] = False) -> _F32: ...
    @overload
    def read(self, state: RollingState, *, return_log_sum_exp: Literal[True]) -> tuple[_F32, _F32]: ...

@final
class RollingState:
    """What the queries have read so far."""

    def __new__(
        cls, rows: _F32, *, n_heads: int | None = None, n_kv_heads: int | None = None, device: Device | None = None
    ) -> RollingState: ...
    @property
    def rows(self) -> _F32: ...
    @property
    def n_bytes(self) -> int: ...
    def merge(self, other: RollingState) -> RollingState: ...

@final
class MemoryState:
    """The matrix of every head, `[batch, n_heads, v_dim, head_dim]`."""

    def __new__(cls, memory: _F32, *, erased: bool = False, device: Device | None = None) -> MemoryState: ...
    @property
    def memory(self) -> _F32: ...
    @property
    def erased(self) -> bool: ...
    def merge(self, other: MemoryState) -> MemoryState: ...

def attention_memory(
    q: _F32,
    k: _F32,
    v: _F32,
    *,
    p_read: _F32 | None = None,
    p_write: _F32 | None = None,
    p_erase: _F32 | None = None,
    decay: _F32 | None = None,
    state: MemoryState | None = None,
    n_heads: int | None = None,
    form: Literal["recurrent", "chunked"] | None = None,
    device: Device | None = None,
) -> tuple[_F32, MemoryState]:
    """Writes, erases and reads a matrix at every step of a sequence: with `p_erase = p_write` the delta rule, with a
    `decay` the gated one. Queries and keys are unit vectors; probabilities are `[batch, n_heads, n]`, or `[batch, n,
    n_heads]` where `n_heads` is given."""

@final
class Prediction:
    """A distribution of every value at every point, `[n_points, n_values]`, or with the batch of the context."""

    @property
    def mean(self) -> _F32: ...
    @property
    def std(self) -> _F32: ...
    @property
    def activations(self) -> _F32: ...
    @property
    def output(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def outside(self) -> list[str]:
        """How the context and the points differ from what the network was trained on, in words."""

    def quantile(self, p: float) -> _F64: ...
    def interval(self, probability: float = 0.95) -> tuple[_F64, _F64]: ...
    def log_density(self, y: ArrayLike) -> _F64:
        """Of the values of each point together."""

    def cdf(self, y: ArrayLike) -> _F64: ...
    def crps(self, y: ArrayLike) -> _F64: ...
    def sample(self, n: int, *, seed: int = 0) -> _F64:
        """Draws of each point by itself. Those whose points go together are the `draws` of a model."""

    def in_units(self, scale: Sequence[float], shift: Sequence[float]) -> Prediction: ...
    def __len__(self) -> int: ...

@final
class JointPrediction:
    """The values of all points together, normally distributed: value `c` of point `t` is number `t dim_y + c`."""

    @property
    def mean(self) -> _F64: ...
    @property
    def std(self) -> _F64: ...
    @property
    def covariance(self) -> _F64: ...
    def log_density(self, y: ArrayLike) -> float:
        """Of all numbers together, `[n]` or `[n_points, dim_y]`."""

    def sample(self, n: int, *, seed: int = 0) -> _F64: ...
    def __len__(self) -> int: ...

@final
class Evaluation:
    """How likely values are, block after block of points, each given the true values of those before."""

    @property
    def mean(self) -> _F64: ...
    @property
    def std(self) -> _F64: ...
    @property
    def log_densities(self) -> _F64: ...
    @property
    def log_density_joint(self) -> _F64: ...
    @property
    def per_target(self) -> _F64: ...

@final
class TnpKr:
    """TNP-KR and BSA-TNP: points are described by groups of coordinates, `s` (space), `t` (time), `x`."""

    @staticmethod
    def open(path: _Path, *, device: Device | None = None) -> TnpKr: ...
    @property
    def config(self) -> dict[str, Any]: ...
    @property
    def domain(self) -> dict[str, Any] | None: ...
    @property
    def device(self) -> Device: ...
    def condition(
        self, x: _Places, y: ArrayLike, *, mask: _Bool | None = None, origin: _Places | None = None
    ) -> TnpKrPosterior:
        """Reads observations `y [n, n_values]` at `x [n, dim]` (or with a batch first). `mask` is true where a point
        exists; `origin` is taken off the coordinates in f64, before they are rounded. Whole numbers from 2^53 on,
        nanoseconds say, are refused: f64 does not tell them apart."""

    def draws(
        self,
        x: _Places,
        y: ArrayLike,
        at: _Places,
        n: int,
        *,
        seed: int = 0,
        block: int = 1,
        mask: _Bool | None = None,
        origin: _Places | None = None,
    ) -> _F32:
        """Draws `n` whole functions at `at`, whose points go together."""

    def evaluate(
        self,
        x: _Places,
        y: ArrayLike,
        at: _Places,
        y_at: ArrayLike,
        *,
        block: int = 1,
        mask: _Bool | None = None,
        origin: _Places | None = None,
    ) -> Evaluation: ...
    def predict_local(
        self,
        x: _Places,
        y: ArrayLike,
        at: _Places,
        *,
        nearest: int,
        together: int = 1,
        standardise: bool = False,
        weights: Mapping[str, float] | None = None,
    ) -> tuple[_F32, _F32]:
        """The mean and the standard deviation, each place from its nearest observations."""

    def restore(self, saved: _Path | bytes) -> TnpKrPosterior: ...

@final
class TnpKrPosterior:
    """A model that has read its context."""

    def predict(self, at: _Places) -> Prediction: ...
    @property
    def n_context(self) -> int: ...
    @property
    def n_bytes(self) -> int: ...
    def merge(self, other: TnpKrPosterior) -> TnpKrPosterior: ...
    def save(self, path: _Path) -> None: ...
    def to_bytes(self) -> bytes: ...

@final
class Cmanp:
    """CMANP, CMANP-AND and LBANP: observations come in an endless stream, in constant memory."""

    @staticmethod
    def open(path: _Path, *, device: Device | None = None) -> Cmanp: ...
    @property
    def config(self) -> dict[str, Any]: ...
    @property
    def domain(self) -> dict[str, Any] | None: ...
    @property
    def device(self) -> Device: ...
    def condition(
        self, x: ArrayLike, y: ArrayLike, *, mask: _Bool | None = None, origin: ArrayLike | None = None
    ) -> CmanpPosterior: ...
    def restore(self, saved: _Path | bytes) -> CmanpPosterior: ...

@final
class CmanpPosterior:
    """A model that has read observations, and goes on."""

    def update(self, x: ArrayLike, y: ArrayLike, *, mask: _Bool | None = None) -> CmanpPosterior: ...
    def merge(self, other: CmanpPosterior) -> CmanpPosterior: ...
    def predict(self, at: ArrayLike) -> Prediction: ...
    def predict_joint(self, at: ArrayLike) -> list[JointPrediction]: ...
    def draws(self, at: ArrayLike, n: int, *, seed: int = 0, block: int = 1) -> _F32: ...
    def evaluate(self, at: ArrayLike, y: ArrayLike, *, block: int = 1) -> Evaluation: ...
    @property
    def n_points(self) -> list[int]: ...
    @property
    def n_bytes(self) -> int: ...
    def save(self, path: _Path) -> None: ...
    def to_bytes(self) -> bytes: ...

@final
class NamTm:
    """A neural-attention-memory Turing machine."""

    @staticmethod
    def open(path: _Path, *, device: Device | None = None) -> NamTm: ...
    @property
    def config(self) -> dict[str, Any]: ...
    @property
    def device(self) -> Device: ...
    def predict(self, tokens: ArrayLike) -> _F32: ...

@final
class LsamAe:
    """An autoencoder of long short-term attention memories."""

    @staticmethod
    def open(path: _Path, *, device: Device | None = None) -> LsamAe: ...
    @property
    def config(self) -> dict[str, Any]: ...
    @property
    def device(self) -> Device: ...
    def predict(self, tokens: ArrayLike) -> _F32: ...

@final
class NamTransformer:
    """A transformer of neural attention memories that classifies sequences."""

    @staticmethod
    def open(path: _Path, *, device: Device | None = None) -> NamTransformer: ...
    @property
    def config(self) -> dict[str, Any]: ...
    @property
    def device(self) -> Device: ...
    def predict(self, tokens: ArrayLike) -> _F32: ...

@final
class FewShot:
    """Learns new classes from a few examples."""

    @staticmethod
    def open(path: _Path, *, device: Device | None = None) -> FewShot: ...
    @property
    def config(self) -> dict[str, Any]: ...
    @property
    def device(self) -> Device: ...
    def condition(self, supports: ArrayLike, labels: ArrayLike, *, base_ids: ArrayLike | None = None) -> Classifier: ...
    def base(self, base_ids: ArrayLike | None = None) -> Classifier: ...

@final
class Classifier:
    """The classes of one episode, base classes first."""

    def predict(self, inputs: ArrayLike) -> _F32: ...
    @property
    def n_classes(self) -> int: ...

def open(
    path: _Path, *, device: Device | None = None
) -> TnpKr | Cmanp | NamTm | LsamAe | NamTransformer | FewShot:
    """The model that a file is of, whichever."""
