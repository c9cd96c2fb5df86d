"""JAX on the shapes of `attention.py` beside it: 4 heads, 4096 x 4096, with and without an RBF bias.

    pip install jax && python benches/peers/attention_jax.py

Prints the median of several runs of compiled functions, on the device that JAX prefers, in f32:
`jax.nn.dot_product_attention` without a bias, and with a bias that is computed from coordinates in the
same compiled function, of which XLA makes a matrix.
"""

import argparse
import json
import statistics
import time

import jax
import jax.numpy as jnp

HEADS, BASES = 4, 5


def median(run, n):
    for _ in range(2):
        jax.block_until_ready(run())
    times = []
    for _ in range(n):
        start = time.perf_counter()
        results = [run() for _ in range(5)]
        jax.block_until_ready(results)
        times.append((time.perf_counter() - start) / len(results))
    return statistics.median(times)


def cases(dim, length):
    """The calls of one head size, by name."""
    keys = jax.random.split(jax.random.key(0), 6)
    q, k, v = (jax.random.normal(key, (1, length, HEADS, dim)) for key in keys[:3])
    coords = jax.random.uniform(keys[3], (length, 2)) * 4 - 2
    a = jax.random.normal(keys[4], (HEADS, BASES))
    b = jax.random.uniform(keys[5], (HEADS, BASES)) + 0.1

    @jax.jit
    def plain(q, k, v):
        return jax.nn.dot_product_attention(q, k, v)

    @jax.jit
    def biased(q, k, v, coords, a, b):
        d2 = jnp.square(coords[:, None] - coords[None]).sum(-1)
        bias = sum(a[:, f, None, None] * jnp.exp(-b[:, f, None, None] * d2) for f in range(BASES))
        return jax.nn.dot_product_attention(q, k, v, bias=bias[None])

    return {"RBF bias, compiled": lambda: biased(q, k, v, coords, a, b), "no bias": lambda: plain(q, k, v)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a short sequence, once: to see that it runs")
    parser.add_argument("--json", help="also write the times to this file")
    args = parser.parse_args()
    jax.config.update("jax_default_matmul_precision", "highest")
    length, device = (128 if args.quick else 4096), jax.devices()[0]
    on_gpu = device.platform == "gpu"
    print(f"jax {jax.__version__}, {device.device_kind}, {HEADS} heads, {length} x {length}")
    results = []
    for dim in [32, 64, 128] if on_gpu and not args.quick else [32]:
        for case, run in cases(dim, length).items():
            seconds = median(run, 1 if args.quick else 7)
            print(f"head_dim {dim}: {case + ':':<20} {1e3 * seconds:9.3f} ms", flush=True)
            results.append({"case": case, "head_dim": dim, "length": length, "seconds": seconds})
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"jax": jax.__version__, "device": device.device_kind, "results": results}, file, indent=1)


if __name__ == "__main__":
    main()
