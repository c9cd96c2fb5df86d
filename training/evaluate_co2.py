"""What `cargo run --example regression` does, in Python: the CO2 record's last twelve years,
the same held-out months for the same seeds, a network beside an exact Gaussian process.

    python evaluate_co2.py ../checkpoints/record.safetensors

A network whose configuration has the group `phase` is told the year's phase, and then the
Gaussian process is told the period; it fits the rest. Harmonics of the year are taken out for the
network alone: the process knows the year by its covariance, and is better so.
"""

import argparse
import os

import jax.numpy as jnp
import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

import tasks
import train

YEARS, LENGTH, GAP_SHARE, HOLD_OUT = 12.0, 4.0, 12, 0.3
CO2 = os.path.join(os.path.dirname(__file__), "..", "data", "mauna_loa_co2.csv")


# --- the splits of the example: rand's StdRng (ChaCha12), seeded with a number ----------


class StdRng:
    def __init__(self, seed):
        self.key, self.block, self.words = [], 0, []
        for _ in range(8):  # seed_from_u64: PCG32
            seed = (seed * 6364136223846793005 + 11634580027462260723) % 2**64
            mixed = (((seed >> 18) ^ seed) >> 27) % 2**32
            turn = seed >> 59
            self.key.append((mixed >> turn | mixed << (32 - turn)) % 2**32)

    def next_u32(self):
        if not self.words:
            start = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574, *self.key, self.block, 0, 0, 0]
            x = list(start)
            turn = lambda value, n: (value << n | value >> (32 - n)) % 2**32

            def quarter(a, b, c, d):
                for i, j, k, n in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                    x[i] = (x[i] + x[j]) % 2**32
                    x[k] = turn(x[k] ^ x[i], n)

            for _ in range(6):
                for i in range(4):
                    quarter(i, 4 + i, 8 + i, 12 + i)
                for i in range(4):
                    quarter(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
            self.words = [(a + b) % 2**32 for a, b in zip(x, start)]
            self.block += 1
        return self.words.pop(0)

    def below(self, n):
        """random_range(0..n): Canon's method."""
        high, low = divmod(self.next_u32() * n, 2**32)
        if low > 2**32 - n:
            high += low + (self.next_u32() * n >> 32) >= 2**32
        return high


def hold_out(n, fraction, n_gap, seed):
    """Indices of the context, of the scattered targets and of the gap."""
    rng = StdRng(seed)
    margin = (n - n_gap) // 4
    start = margin + rng.below(n - n_gap - 2 * margin + 1)
    gap = np.arange(start, start + n_gap)
    others = np.setdiff1d(np.arange(n), gap)
    order = list(others)
    for i in range(len(order) - 1, 0, -1):
        j = rng.below(i + 1)
        order[i], order[j] = order[j], order[i]
    scattered = np.sort(order[: int(fraction * len(others) + 0.5)])
    return np.setdiff1d(others, scattered), scattered, gap


# --- the Gaussian process of the example ------------------------------------------------

# The logarithms' bounds of: smooth std and length, cycle std, period, roughness, drift, noise.
BOUNDS = np.log([(1e-3, 30), (0.02, 100), (1e-3, 30), (0.05, 5), (0.1, 30), (0.1, 1000), (1e-3, 3)])
START = np.log([0.5, 1.0, 0.7, 1.0, 1.0, 4.0, 0.2])
PERIOD = 3


def covariance(hyper, d):
    smooth, length, cycle, period, roughness, drift, _ = np.exp(hyper)
    sine = np.sin(np.pi * d / period) / roughness
    return smooth**2 * tasks.rbf(d, length) + cycle**2 * tasks.rbf(d, drift) * np.exp(-2 * sine**2)


def gaussian_process(x, y, at, period=None):
    """Mean and std of observations, with the hyper-parameters of the largest marginal
    likelihood; `period` is fixed if given. Also the hyper-parameters."""
    between = np.abs(x[:, None] - x)

    def cost(hyper):
        gram = covariance(hyper, between) + np.exp(2 * hyper[-1]) * np.eye(len(x))
        try:
            factor = cho_factor(gram, lower=True)
        except np.linalg.LinAlgError:
            return 1e10
        return 0.5 * y @ cho_solve(factor, y) + np.log(np.diag(factor[0])).sum() + 0.5 * len(y) * np.log(2 * np.pi)

    bounds, starts = BOUNDS.copy(), []
    if period:
        bounds[PERIOD] = np.log(period)
        for length, drift in ((1.0, 4.0), (0.3, 4.0), (1.0, 30.0), (0.3, 30.0)):
            starts.append(START.copy())
            starts[-1][[1, PERIOD, 5]] = np.log([length, period, drift])
    else:
        for candidate in 0.1 * 20 ** (np.arange(48) / 47):
            starts.append(START.copy())
            starts[-1][PERIOD] = np.log(candidate)
        starts = sorted(starts, key=cost)[:3]
    best = min((minimize(cost, start, bounds=bounds, method="L-BFGS-B") for start in starts), key=lambda r: r.fun)
    hyper = best.x
    factor = cho_factor(covariance(hyper, between) + np.exp(2 * hyper[-1]) * np.eye(len(x)), lower=True)
    cross = covariance(hyper, np.abs(x[:, None] - at))
    explained = np.square(solve_triangular(factor[0], cross, lower=True)).sum(0)
    noise = np.exp(2 * hyper[-1])
    return cross.T @ cho_solve(factor, y), np.sqrt(np.maximum(covariance(hyper, 0.0) + noise - explained, noise)), hyper


# --- both on the record -----------------------------------------------------------------


def network(run, params, cfg, x, years, y, at, at_years):
    """Mean and std in model units, of the values and of their negatives together."""

    def points(x, years):
        columns = [x]
        if any(g["name"] == "phase" for g in cfg["groups"]):
            columns += [np.cos(2 * np.pi * years), np.sin(2 * np.pi * years)]
        return jnp.asarray(np.stack([np.stack(columns, -1)] * 2), jnp.float32)

    batch = {
        "s_ctx": points(x, years),
        "f_ctx": jnp.asarray(np.stack([y, -y])[:, :, None], jnp.float32),
        "mask_ctx": jnp.ones((2, len(y)), bool),
        "s_test": points(at, at_years),
    }
    mean, std = (np.asarray(out, np.float64)[:, :, 0] for out in run(params, batch))
    mean = mean * [[1], [-1]]
    return mean.mean(0), np.sqrt(np.square(std).mean(0) + mean.var(0))


def scores(y, mean, std):
    inside = np.abs(y - mean) <= 1.959964 * std
    return [np.sqrt(np.square(y - mean).mean()), tasks.log_density(y, mean, std).mean(), inside.mean()]


def compare(params, cfg, run, seeds, degree=1, harmonics=0, n_context=None, cache={}):
    """[seed, scattered or gap, network or Gaussian process, RMSE (ppm), log-likelihood,
    coverage]. `n_context` keeps only so many context points, chosen by the seed."""
    record = np.genfromtxt(CO2, delimiter=",", skip_header=1)
    record = record[record[:, 0] > record[-1, 0] - YEARS]
    years, ppm = record.T
    unit = (years[-1] - years[0]) / LENGTH
    x = (years - (years[0] + years[-1]) / 2) / unit
    told = any(g["name"] == "phase" for g in cfg["groups"])
    rows = []
    for seed in seeds:
        ctx, scattered, gap = hold_out(len(x), HOLD_OUT, len(x) // GAP_SHARE, seed)
        if n_context:
            ctx = np.sort(np.random.default_rng(seed).permutation(ctx)[:n_context])
        tgt = np.concatenate([scattered, gap])

        def answer(harmonics, predict):
            trend, scale = tasks.scale_record(x, years, ppm, ctx, degree, harmonics)
            mean, std = predict(((ppm - trend) / scale)[ctx])
            return trend[tgt] + scale * mean, scale * std

        def process(y):
            key = (seed, degree, n_context, told)
            if key not in cache:
                cache[key] = gaussian_process(x[ctx], y, x[tgt], 1 / unit if told else None)
            return cache[key][:2]

        ours = lambda y: network(run, params, cfg, x[ctx], years[ctx], y, x[tgt], years[tgt])
        restored = [answer(harmonics, ours), answer(0, process)]
        parts = (slice(0, len(scattered)), slice(len(scattered), None))
        rows.append([[scores(ppm[tgt][p], m[p], s[p]) for m, s in restored] for p in parts])
    return np.array(rows), cache


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("checkpoint")
    args.add_argument("--seeds", type=int, default=20, help="seeds 0, 1, ...")
    args.add_argument("--degree", type=int, default=1, help="of the polynomial that is taken out")
    args.add_argument("--harmonics", type=int, default=0, help="of the year that are taken out with it for the network")
    args.add_argument("--context", type=int, help="how many context points are kept (default: all)")
    args.add_argument("--each", action="store_true", help="print every seed")
    args = args.parse_args()
    name, params, cfg, _ = train.load_checkpoint(args.checkpoint)
    run = train.make_predict(name, cfg)
    rows, cache = compare(params, cfg, run, range(args.seeds), args.degree, args.harmonics, args.context)
    if args.each:
        for seed, row in enumerate(rows):
            hyper = ", ".join(f"{h:.3f}" for h in np.exp(cache[seed, args.degree, args.context, ("phase" in str(cfg["groups"]))][2]))
            print(seed, *(f"{what}: np {row[i, 0].round(3)} gp {row[i, 1].round(3)};" for i, what in enumerate(("scattered", "gap"))), hyper)
    print(f"{args.seeds} splits: median of RMSE (ppm) and of the mean log-likelihood, mean coverage")
    for i, what in enumerate(("scattered", "gap")):
        for j, who in enumerate(("network", "Gaussian process")):
            rmse, ll, _ = np.median(rows[:, i, j], axis=0)
            print(f"{what:10} {who:17} {rmse:6.3f} {ll:7.3f} {rows[:, i, j, 2].mean():7.1%}")


if __name__ == "__main__":
    main()
