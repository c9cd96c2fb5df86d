"""Loads a network that `training/` trained, shows it some points of a curve, and plots what it makes of them.

    pip install . matplotlib
    python examples/predict.py --out prediction.png
"""

import argparse
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import wgpu_attention as wa

args = argparse.ArgumentParser()
args.add_argument("--checkpoint", default=pathlib.Path(__file__).parents[3] / "checkpoints/gp_1d.safetensors")
args.add_argument("--device", default="best")
args.add_argument("--out", default="prediction.png")
args = args.parse_args()

# --- some noisy points of a curve ---

rng = np.random.default_rng(3)
x = np.sort(rng.uniform(-2, 2, 14))
y = np.sin(3 * x) + 0.1 * rng.normal(size=14)

# --- what the network makes of them ---

model = wa.TnpKr.open(args.checkpoint, device=wa.Device.by_name(args.device))
at = np.linspace(-2.2, 2.2, 200)
prediction = model.condition(x, y).predict(at)
low, high = prediction.interval(0.95)
functions = model.draws(x, y, at[::4], 5, seed=1)
for warning in prediction.outside:
    print("outside of the training:", warning)

# --- a picture ---

plt.figure(figsize=(8, 4))
plt.fill_between(at, low[:, 0], high[:, 0], color="C0", alpha=0.2, label="95%")
plt.plot(at, prediction.mean, color="C0", label="mean")
plt.plot(at[::4], functions[..., 0].T, color="0.5", linewidth=0.7, label=["draws"] + [None] * 4)
plt.plot(x, y, "k.", label="observed")
plt.legend()
plt.savefig(args.out, dpi=120, bbox_inches="tight")
print(f"wrote {args.out}, computed on {model.device}")
