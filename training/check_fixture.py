"""Compare the forward pass with a stored float64 result of the reference implementation.

    python check_fixture.py FILE [--params FILE] [--config FILE.json] [--tolerance 2e-6]

FILE is a safetensors file with inputs `in.*`, parameters `param.*` (or in --params) and
expected outputs `out64.*`. Prints max |a-b| / (1+|b|) per output; fails above the tolerance.
"""

import argparse
import json
import sys

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

import model


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("file")
    args.add_argument("--params", help="take the parameters from this file")
    args.add_argument("--config", help="model configuration (JSON); default: the 1-D BSA-TNP")
    args.add_argument("--tolerance", type=float, default=2e-6)
    args = args.parse_args()

    tensors = load_file(args.file)
    stored = load_file(args.params) if args.params else tensors
    params = {k[len("param.") :]: jnp.asarray(x) for k, x in stored.items() if k.startswith("param.")}
    cfg = json.load(open(args.config)) if args.config else model.default_config()

    names = [g["name"] for g in cfg["groups"]]
    coords = lambda which: {n: jnp.asarray(tensors[f"in.{n}_{which}"]) for n in names}
    mask = jnp.asarray(tensors["in.mask_ctx"]).astype(bool)
    act = model.forward(params, cfg, coords("ctx"), jnp.asarray(tensors["in.f_ctx"]), mask, coords("test"))
    mean, std = model.gaussian(act, cfg)

    worst = 0.0
    for name, got in {"act": act, "mean": mean, "std": std}.items():
        want = tensors[f"out64.{name}"]
        error = np.max(np.abs(np.asarray(got, np.float64) - want) / (1 + np.abs(want)))
        worst = max(worst, float(error))
        print(f"{name:5} {error:.2e}")
    print("ok" if worst < args.tolerance else f"FAILED: {worst:.2e} >= {args.tolerance:.0e}")
    sys.exit(worst >= args.tolerance)


if __name__ == "__main__":
    main()
