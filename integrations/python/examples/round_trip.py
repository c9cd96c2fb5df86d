"""From the papers' own package to here and back: trains a small BSA-TNP with dl4bi for a minute, saves it with orbax,
converts it, predicts with this package and with the command, and compares all of them with dl4bi.

    pip install "jax[cpu]==0.8.3" flax==0.12.6 dl4bi==0.1.3 dl4bi-sps==0.1.2 orbax-checkpoint -r ../../tools/requirements.txt .
    cargo install --path ../../cli   # without it the command is left out
    python examples/round_trip.py
"""

import argparse
import csv
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import types

sys.modules.setdefault("wandb", types.ModuleType("wandb"))  # dl4bi logs with it; nothing here does

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import yaml
from hydra.utils import instantiate

import wgpu_attention as wa

ROOT = pathlib.Path(__file__).resolve().parents[3]

# As a file of dl4bi's `configs/model` has it, only smaller.
MODEL = """
_target_: dl4bi.meta_learning.BSATNP
num_blks: 3
embed_s: {_target_: dl4bi.meta_learning.utils.x_to_none, _partial_: true}
embed_all: {_target_: dl4bi.mlp.MLP, dims: [64, 32], act_fn: {_target_: jax.nn.gelu, _partial_: true}}
blk:
  _target_: dl4bi.transformer.KRBlock
  attn:
    _target_: dl4bi.attention.MultiHeadAttention
    proj_qs: {_target_: dl4bi.mlp.MLP, dims: [32]}
    proj_ks: {_target_: dl4bi.mlp.MLP, dims: [32]}
    proj_vs: {_target_: dl4bi.mlp.MLP, dims: [32]}
    proj_out: {_target_: dl4bi.mlp.MLP, dims: [32]}
    attn:
      _target_: dl4bi.attention.BiasedScanAttention
      bias:
        _target_: builtins.dict
        s: {_target_: dl4bi.bias.Bias.build_rbf_network_bias, num_heads: 4, num_basis: 5}
  ffn: {_target_: dl4bi.mlp.MLP, dims: [64, 32], act_fn: {_target_: jax.nn.gelu, _partial_: true}}
head: {_target_: dl4bi.mlp.MLP, dims: [32, 2], act_fn: {_target_: jax.nn.gelu, _partial_: true}}
"""

args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
args.add_argument("--seconds", type=float, default=60, help="of training")
args.add_argument("--device", default="cpu", help="of this package")
args.add_argument("--command", default="wgpu-attention", help="where the command is")
args.add_argument("--folder", type=pathlib.Path, default=None, help="keeps the files there")
args = args.parse_args()
folder = args.folder or pathlib.Path(tempfile.mkdtemp())
folder.mkdir(parents=True, exist_ok=True)
config = yaml.safe_load(MODEL)
jax.config.update("jax_default_matmul_precision", "highest")


# --- train their model ---


def tasks(rng, batch=16, n=48):
    """Smooth curves at random places."""
    s = rng.uniform(-2, 2, (batch, n, 1))
    length = rng.uniform(0.2, 0.8, (batch, 1, 1))
    covariance = np.exp(-0.5 * ((s - s.swapaxes(1, 2)) / length) ** 2) + 1e-2 * np.eye(n)
    f = np.linalg.cholesky(covariance) @ rng.normal(size=(batch, n, 1))
    s, f = np.float32(s), np.float32(f)
    keep = np.arange(16)[None] < rng.integers(3, 17, (batch, 1))
    given = dict(s_ctx=s[:, :16], f_ctx=f[:, :16], mask_ctx=keep, s_test=s[:, 16:])
    return given, f[:, 16:]


def train(seconds):
    rng = np.random.default_rng(0)
    network = instantiate(config)
    variables = network.init(jax.random.key(0), **tasks(rng)[0])
    optimizer = optax.adam(1e-3)

    @jax.jit
    def step(variables, state, given, f_test):
        loss, gradient = jax.value_and_grad(lambda v: network.apply(v, **given).nll(f_test))(variables)
        update, state = optimizer.update(gradient, state)
        return optax.apply_updates(variables, update), state, loss

    # The first step compiles.
    variables, state, loss = step(variables, optimizer.init(variables), *tasks(rng))
    losses, start = [float(loss)], time.time()
    while time.time() - start < seconds:
        variables, state, loss = step(variables, state, *tasks(rng))
        losses.append(float(loss))
    n = max(len(losses) // 10, 1)
    print(f"{len(losses)} steps of training: from {np.mean(losses[:n]):.3f} to {np.mean(losses[-n:]):.3f}")
    return variables


variables = train(args.seconds)
checkpoint = folder / "orbax"
ocp.PyTreeCheckpointer().save(checkpoint.resolve(), variables, force=True)


# --- what it predicts, in float32 and in float64 ---

given, _ = tasks(np.random.default_rng(1), batch=1)
del given["mask_ctx"]


def theirs(config, dtype):
    network = instantiate(config)
    cast = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)  # noqa: E731
    output = network.apply(cast(variables), **cast(given))
    return np.asarray(output.mu)[0], np.asarray(output.std)[0]


def double(config):
    """The same configuration with float64 wherever a layer has a type."""
    if not isinstance(config, dict):
        return config
    config = {key: double(value) for key, value in config.items()}
    return config | {"dtype": "float64"} if config.get("_target_") == "dl4bi.mlp.MLP" else config


single = theirs(config, jnp.float32)
with jax.enable_x64(True):
    exact = theirs(double(config), jnp.float64)


# --- convert it, and predict with this package and with the command ---

(folder / "model.yaml").write_text(MODEL)
converted = folder / "converted.safetensors"
convert = [sys.executable, ROOT / "tools/convert.py", checkpoint, "--model", "tnp_kr", "--config", folder / "model.yaml"]
subprocess.run([*map(str, convert), "--group", "s=1", "--values", "1", "--out", str(converted)], check=True)

device = wa.Device.by_name(args.device)
prediction = wa.open(converted, device=device).condition(given["s_ctx"][0], given["f_ctx"][0]).predict(given["s_test"][0])
results = {"this package": (prediction.mean, prediction.std)}

command = shutil.which(args.command)
if command is None:
    print(f"there is no command {args.command}: it is left out")
else:
    for name, header, columns in (("seen", "x,y", ("s_ctx", "f_ctx")), ("where", "x", ("s_test",))):
        rows = np.concatenate([given[column][0] for column in columns], -1)
        np.savetxt(folder / f"{name}.csv", rows, fmt="%.9g", delimiter=",", header=header, comments="")
    files = {"checkpoint": converted, "context": folder / "seen.csv", "targets": folder / "where.csv", "out": folder / "out.csv"}
    options = [part for name, path in files.items() for part in (f"--{name}", str(path))]
    subprocess.run([command, "predict", *options, "--device", args.device], check=True)
    rows = [[float(row["y_mean"]), float(row["y_std"])] for row in csv.DictReader((folder / "out.csv").open())]
    results["the command"] = tuple(np.array(rows).T[:, :, None])


# --- compare: at most 4 times as far from float64 as dl4bi itself is, 10 times on a GPU ---


def error(found, truth):
    return max(float((np.abs(a - b) / (1 + np.abs(b))).max()) for a, b in zip(found, truth))


own = error(single, exact)
allowed = max(4 * own, 2e-6) if args.device == "cpu" else max(10 * own, 1e-5)
print(f"dl4bi in float32 is {own:.1e} from float64; allowed is {allowed:.1e}")
wrong = False
for name, found in results.items():
    off = error(found, exact)
    wrong |= not off <= allowed
    print(f"{name} is {off:.1e} from float64: {'the same numbers' if off <= allowed else 'WRONG'}")
sys.exit(wrong)
