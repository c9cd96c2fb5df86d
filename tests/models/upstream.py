"""Writes upstream.json: every configuration of a TNP-KR that dl4bi's benchmarks come with, and what dl4bi's own
code makes of it.

    pip install "jax[cpu]==0.8.3" flax==0.12.6 dl4bi==0.1.3 dl4bi-sps==0.1.2 pyyaml
    pip download --no-deps --no-binary :all: dl4bi==0.1.3 && tar -xzf dl4bi-0.1.3.tar.gz
    python upstream.py dl4bi-0.1.3/benchmarks/meta_learning/configs

The networks have the papers' sizes, so no parameter is kept: each is a fixed function of its name and of an
element's number (`uniform`), which the test computes again, as are the inputs. `out` is what the head returns in
float32, `out64` in float64.
"""

import json
import pathlib
import sys
import types

sys.modules.setdefault("wandb", types.ModuleType("wandb"))  # of use in training alone

import jax
import jax.numpy as jnp
import numpy as np
import yaml
from flax import traverse_util
from hydra.utils import instantiate

jax.config.update("jax_default_matmul_precision", "highest")

# Widths of the groups of coordinates that a benchmark's data have, by folder, and of the values.
DATA = {
    "beijing_air_quality": (dict(x=12, s=2, t=1), 2),
    "bouncing_ball": (dict(s=2), 1),
    "celeba": (dict(s=2), 3),
    "default/s_1d/f_1d": (dict(s=1), 1),
    "default/s_2d/f_3c": (dict(s=2), 3),
    "default/s_2d/f_3c/st": (dict(s=2, t=1), 3),
    "default/st_2d/f_1d": (dict(s=2, t=1), 1),
    "default/st_xnd": (dict(x=4, s=2, t=1), 1),
    "default/t_xnd": (dict(x=4, t=1), 1),
    "default/x_nd": (dict(x=4), 1),
    "dengue": (dict(x=5, s=2, t=1), 1),
    "era5_bsa_vs_svgp": (dict(s=2, t=1), 1),
    "gneiting_gp": (dict(s=2, t=1), 1),
    "heaton": (dict(s=2), 1),
    "household_electric": (dict(x=6, t=1), 1),
}
BATCH, N_CONTEXT, N_TEST, N_MASKED = 2, 12, 4, 5


def uniform(name, shape):
    """Numbers from -1 to 1 by name: FNV-1a of the name, then Wellons' lowbias32 of it and the element's number."""
    seed = np.uint32(2166136261)
    with np.errstate(over="ignore"):
        for byte in name.encode():
            seed = (seed ^ np.uint32(byte)) * np.uint32(16777619)
        h = seed + np.arange(np.prod(shape), dtype=np.uint32) * np.uint32(0x9E3779B9)
        h = (h ^ (h >> 16)) * np.uint32(0x7FEB352D)
        h = (h ^ (h >> 15)) * np.uint32(0x846CA68B)
        h = h ^ (h >> 16)
    return ((h >> 8) / 2.0**23 - 1.0).reshape(shape)


def parameter(name, shape):
    u, last = uniform(name, shape), name.split(".")[-1]
    if last == "kernel":
        return u * np.sqrt(3.0 / shape[0])
    if last in ("U", "V"):
        return u * np.sqrt(3.0 / shape[1])
    if last == "scale":
        return 1.0 + 0.25 * u
    if last.endswith("bias_b"):
        return 0.5 + 0.45 * u
    if last.endswith("bias"):
        return 0.3 * u
    return 1.7 * u  # embeddings, heights of biases, random features


def inputs(dims, n_values, n_categories, output):
    data = {}
    for part, n in [("ctx", N_CONTEXT), ("test", N_TEST)]:
        for name, dim in dims.items():
            values = 2.0 * uniform(f"{name}_{part}", (BATCH, n, dim))
            if name == "t":
                # One after another, and no target before an observation.
                values = np.arange(n)[None, :, None] / n + 0.01 * values + (part == "test")
            if name == "x" and n_categories:
                values[..., 0] = np.floor((values[..., 0] + 2.0) / 4.0 * n_categories)
            data[f"{name}_{part}"] = values
    f = uniform("f_ctx", (BATCH, N_CONTEXT, n_values))
    if "Multinomial" in output:  # 1 for the class, 0 for the others
        f = f == f.max(-1, keepdims=True)
    if "Poisson" in output:
        f = np.floor(4.0 * (f + 1.0))
    data["f_ctx"] = f
    data = {name: np.float32(values) for name, values in data.items()}
    data["mask_ctx"] = np.arange(N_CONTEXT)[None] < np.array([[N_CONTEXT], [N_CONTEXT - N_MASKED]])
    return data


def double(settings):
    """The same settings with float64 wherever a layer has a type, defaults written out."""
    if not isinstance(settings, dict):
        return settings
    settings = {key: double(value) for key, value in settings.items()}
    kind = settings.get("_target_", "").split(".")[-1]
    if kind in ("MLP", "HyperLoRA"):
        settings["dtype"] = "float64"
    if kind == "MultiHeadAttention":
        settings.setdefault("proj_out", {"_target_": "dl4bi.mlp.MLP", "dims": [64], "dtype": "float64"})
    return settings


def mended(settings):
    """What dl4bi's last release itself refuses of its files: a key of older releases, and two paths misspelt."""
    if not isinstance(settings, dict):
        return settings
    settings = {key: mended(value) for key, value in settings.items() if key not in ("dist", "bias") or value}
    path = settings.get("_target_")
    paths = {"DeepKernelAttention": "dl4bi.attention.DeepKernelAttention", "dl4bi.mlpMLP": "dl4bi.mlp.MLP"}
    return settings | ({"_target_": paths[path]} if path in paths else {})


def run(settings, data, variables, dtype):
    network = instantiate(settings)
    network = network.copy(output_fn=lambda act: act)
    cast = lambda x: jnp.asarray(x, dtype) if np.issubdtype(np.asarray(x).dtype, np.floating) else jnp.asarray(x)
    run = jax.jit(lambda variables, data: network.apply(variables, **data))
    return np.asarray(run(jax.tree.map(cast, variables), jax.tree.map(cast, data)))


def golden(settings, dims, n_values):
    output = settings.get("output_fn", {}).get("_target_", "")
    data = inputs(dims, n_values, settings.get("embed_x", {}).get("num_ids", 0), output)
    keys = {"params": jax.random.key(0), "extra": jax.random.key(1)}
    flat = traverse_util.flatten_dict(jax.eval_shape(instantiate(settings).init, keys, **data), sep=".")
    named = {key: key.removeprefix("params.") for key in flat}
    flat = {key: np.float32(parameter(named[key], value.shape)) for key, value in flat.items()}
    variables = traverse_util.unflatten_dict(flat, sep=".")
    single = run(settings, data, variables, jnp.float32)
    with jax.enable_x64(True):
        exact = run(double(settings), data, variables, jnp.float64)
    assert exact.dtype == np.float64 and np.isfinite(exact).all()
    return {
        "n_parameters": int(sum(value.size for value in flat.values())),
        "shape": list(exact.shape),
        "out": [float(x) for x in single.ravel()],
        "out64": [float(x) for x in exact.ravel()],
    }


root = pathlib.Path(sys.argv[1])
found = []
for path in sorted(root.glob("**/*.yaml")):
    settings = yaml.safe_load(path.read_text())
    if settings.get("_target_", "").split(".")[-1] not in ("BSATNP", "BTNP"):
        continue
    folder = str(path.parent.relative_to(root)).removesuffix("/model")
    dims, n_values = DATA[folder]
    case = {"file": str(path.relative_to(root)), "groups": list(dims.items()), "n_values": n_values}
    case |= {"settings": settings} | golden(mended(settings), dims, n_values)
    off = max(abs(a - b) for a, b in zip(case["out"], case["out64"]))
    print(case["file"], case["n_parameters"], f"{off:.1e}", f"{np.ptp(case['out64']):.2f}")
    found.append(case)
lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in found)
(pathlib.Path(__file__).parent / "upstream.json").write_text(f"[\n{lines}\n]\n")
