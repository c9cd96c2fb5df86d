"""PyTorch on the shape of the headline comparison: 4 heads, head_dim 32, 4096 x 4096.

    pip install torch numpy && python benches/peers/attention.py

Prints the median of several runs: attention with a 2-D RBF bias of 5 basis functions, by compiled
FlexAttention (which makes no matrix of biases and needs a C++ compiler), and computed eagerly and
handed to scaled_dot_product_attention; and the fused kernel without a bias.
"""

import statistics
import time

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import flex_attention

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

    x0, x1 = coords[0, :, 0].contiguous(), coords[0, :, 1].contiguous()

    def score(logit, batch, head, i, j):
        d2 = (x0[i] - x0[j]) ** 2 + (x1[i] - x1[j]) ** 2
        for f in range(BASES):
            logit = logit + a[head, f] * torch.exp(-b[head, f] * d2)
        return logit

    flex = torch.compile(flex_attention)

    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"RBF bias, FlexAttention:      {median(lambda: flex(q, k, v, score_mod=score)):.3f} s")
    print(f"RBF bias computed, then SDPA: {median(biased):.3f} s")
    print(f"SDPA without a bias:          {median(lambda: F.scaled_dot_product_attention(q, k, v)):.3f} s")


if __name__ == "__main__":
    main()
