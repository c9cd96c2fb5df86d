"""PyTorch on the shape of the headline comparison: 4 heads, head_dim 32, 4096 x 4096.

    pip install torch numpy && python benches/peers/attention.py

Prints the median of several runs: attention with a 2-D RBF bias of 5 basis functions, computed
and handed to scaled_dot_product_attention, and the fused kernel without a bias.
"""

import statistics
import time

import torch
import torch.nn.functional as F

HEADS, DIM, BASES, LENGTH = 4, 32, 5, 4096


def median(run, n=7):
    run()
    times = []
    for _ in range(n):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


@torch.inference_mode()
def main():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, HEADS, LENGTH, DIM) for _ in range(3))
    coords = torch.rand(1, LENGTH, 2) * 4 - 2
    a = torch.randn(HEADS, BASES)
    b = torch.rand(HEADS, BASES) + 0.1

    def biased():
        d2 = (coords[:, :, None] - coords[:, None]).square().sum(-1)
        bias = torch.zeros(1, HEADS, LENGTH, LENGTH)
        for f in range(BASES):
            bias += a[:, f, None, None] * torch.exp(-b[:, f, None, None] * d2[:, None])
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)

    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"RBF bias computed, then SDPA: {median(biased):.3f} s")
    print(f"SDPA without a bias:          {median(lambda: F.scaled_dot_product_attention(q, k, v)):.3f} s")


if __name__ == "__main__":
    main()
