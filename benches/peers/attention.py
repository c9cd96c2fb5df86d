"""PyTorch on the shapes of `cargo bench --bench gpu` and `--bench scan_attention`: 4 heads, 4096 x 4096.

    pip install torch numpy && python benches/peers/attention.py

Prints the median of several runs, on a GPU where PyTorch has one, else on the CPU: attention with a
2-D RBF bias of 5 basis functions, by compiled FlexAttention (which makes no matrix of biases, and
needs a C++ compiler on the CPU), and computed eagerly and handed to scaled_dot_product_attention; and
scaled_dot_product_attention without a bias. In f32; on a GPU also with products in TF32, whose errors are
about 1e-3, and with everything in f16.
"""

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import flex_attention

HEADS, BASES = 4, 5


def median(run, device, n):
    def wait():
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(3):
        run()
    wait()
    times = []
    for _ in range(n):
        # Several calls, so that what a launch costs on the host is hidden as in a recording.
        calls = 10 if device == "cuda" else 1
        start = time.perf_counter()
        for _ in range(calls):
            run()
        wait()
        times.append((time.perf_counter() - start) / calls)
    return statistics.median(times)


def cases(dim, length, device, dtype):
    """The calls of one head size, by name."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, HEADS, length, dim, device=device, dtype=dtype) for _ in range(3))
    coords = torch.rand(1, length, 2, device=device) * 4 - 2
    a = torch.randn(HEADS, BASES, device=device)
    b = torch.rand(HEADS, BASES, device=device) + 0.1

    def biased():
        d2 = (coords[:, :, None] - coords[:, None]).square().sum(-1)
        bias = torch.zeros(1, HEADS, length, length, device=device)
        for f in range(BASES):
            bias += a[:, f, None, None] * torch.exp(-b[:, f, None, None] * d2[:, None])
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(dtype))

    x0, x1 = coords[0, :, 0].contiguous(), coords[0, :, 1].contiguous()

    def score(logit, batch, head, i, j):
        d2 = (x0[i] - x0[j]) ** 2 + (x1[i] - x1[j]) ** 2
        for f in range(BASES):
            logit = logit + a[head, f] * torch.exp(-b[head, f] * d2)
        return logit

    flex = torch.compile(flex_attention)
    return {
        "RBF bias, FlexAttention": lambda: flex(q, k, v, score_mod=score),
        "no bias, FlexAttention": lambda: flex(q, k, v),
        "RBF bias computed, then SDPA": biased,
        "SDPA without a bias": lambda: F.scaled_dot_product_attention(q, k, v),
    }


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--quick", action="store_true", help="a short sequence, once: to see that it runs")
    parser.add_argument("--warm-up", action="store_true", help="few runs: compiles what a later run times")
    parser.add_argument("--json", help="also write the times to this file")
    args = parser.parse_args()
    length = 128 if args.quick else 4096
    on_gpu = args.device == "cuda"
    name = torch.cuda.get_device_name() if on_gpu else f"{torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {name}, {HEADS} heads")
    # Of every head size in f32; of one, and of long sequences, in what is less exact and faster.
    runs = [("f32", dim, length) for dim in ([32, 64, 128] if on_gpu and not args.quick else [32])]
    if on_gpu and not args.quick:
        runs += [("f32", 64, 4 * length), ("TF32", 64, length), ("f16", 64, length), ("f16", 64, 4 * length)]
    results = []
    for products, dim, length in runs:
        torch.set_float32_matmul_precision("high" if products == "TF32" else "highest")
        dtype = torch.float16 if products == "f16" else torch.float32
        for case, run in cases(dim, length, args.device, dtype).items():
            torch._dynamo.reset()
            row = {"case": case, "head_dim": dim, "products": products, "length": length}
            try:
                row["seconds"] = median(run, args.device, 1 if args.quick or args.warm_up else 7)
                said = f"{1e3 * row['seconds']:9.3f} ms"
            except Exception as error:  # One that is missing here must not hide the others.
                row["error"] = said = str(error).splitlines()[0] if str(error) else type(error).__name__
            print(f"{products + ',':<5} head_dim {dim}, {length} x {length}: {case + ':':<30} {said}", flush=True)
            results.append(row)
            if args.json:
                with open(args.json, "w") as file:
                    json.dump({"torch": torch.__version__, "device": name, "results": results}, file, indent=1)


if __name__ == "__main__":
    main()
