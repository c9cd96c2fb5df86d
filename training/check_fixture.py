"""Compare the forward pass with a stored float64 result of the reference implementation.

    python check_fixture.py FILE [--params FILE] [--config FILE.json] [--double] [--tolerance 2e-6]

FILE is a safetensors file with inputs `in.*`, parameters `param.*` (or in --params) and
expected outputs `out64.*`. Prints max |a-b| / (1+|b|) per output; fails above the tolerance.
A CMANP is recognised by its inputs; its configuration is in the file's metadata.
"""

import argparse
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file

import cmanp
import model


def tnp_kr_outputs(params, cfg, inputs):
    names = [g["name"] for g in cfg["groups"]]
    coords = lambda which: {n: inputs[f"{n}_{which}"] for n in names}
    mask = inputs["mask_ctx"].astype(bool)
    act = model.forward(params, cfg, coords("ctx"), inputs["f_ctx"], mask, coords("test"))
    mean, std = model.gaussian(act, cfg)
    return {"act": act, "mean": mean, "std": std}


def cmanp_config(stored):
    renamed = {"nhead": "n_heads"} | {f"num_{x}": f"n_{x}" for x in ("latents", "latents_per_layer", "layers")}
    return {renamed.get(k, k): v for k, v in stored.items()}


def cmanp_outputs(params, cfg, inputs):
    """From scratch, and after each of the updates."""
    found = {}

    def answer(suffix, states):
        outputs = cmanp.encode(params, cfg, states)
        found[f"mean{suffix}"], found[f"std{suffix}"] = cmanp.decode(params, cfg, outputs, inputs["xt"])
        return outputs

    states = cmanp.condition(params, cfg, inputs["xc"], inputs["yc"])
    outputs = answer("", states)
    found |= {f"ctx_enc.{i}": x for i, x in enumerate(outputs)}
    for i in (0, cfg["n_layers"] - 1):
        for what, x in zip(("constant", "embedding"), states[i]):
            found[f"state.{i}.{what}"] = x.reshape(-1, *x.shape[2:])
    for j in range(len(cfg["update_counts"])):
        states = cmanp.update(params, cfg, states, inputs[f"xu{j}"], inputs[f"yu{j}"])
        answer(f"_update{j}", states)
    return found


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("file")
    args.add_argument("--params", help="take the parameters from this file")
    args.add_argument("--config", help="model configuration (JSON); default: the 1-D BSA-TNP")
    args.add_argument("--double", action="store_true", help="compute in float64; errors are then near 1e-15")
    args.add_argument("--tolerance", type=float, default=2e-6)
    args = args.parse_args()
    jax.config.update("jax_enable_x64", args.double)
    array = lambda x: jnp.asarray(x, float) if x.dtype == np.float32 else jnp.asarray(x)

    tensors = load_file(args.file)
    stored = load_file(args.params) if args.params else tensors
    params = {k[len("param.") :]: array(x) for k, x in stored.items() if k.startswith("param.")}
    inputs = {k[len("in.") :]: array(x) for k, x in tensors.items() if k.startswith("in.")}
    if "xc" in inputs:
        with safe_open(args.file, "numpy") as file:
            cfg = cmanp_config(json.loads(file.metadata()["config"]))
        outputs = cmanp_outputs(params, cfg, inputs)
    else:
        cfg = json.load(open(args.config)) if args.config else model.default_config()
        outputs = tnp_kr_outputs(params, cfg, inputs)

    worst = 0.0
    for name, got in outputs.items():
        want = tensors[f"out64.{name}"]
        error = np.max(np.abs(np.asarray(got, np.float64) - want) / (1 + np.abs(want)))
        worst = max(worst, float(error))
        print(f"{name:18} {error:.2e}")
    print("ok" if worst < args.tolerance else f"FAILED: {worst:.2e} >= {args.tolerance:.0e}")
    sys.exit(worst >= args.tolerance)


if __name__ == "__main__":
    main()
