"""The TNP-KR / BSA-TNP network as plain functions over a flat dictionary of parameters.

The keys are the flattened flax paths ("KRBlock_0.attn.proj_qs.Dense_0.kernel"), so
what is trained here is, name by name, what the checkpoint file holds. The configuration
decides everything that the shapes do not; `ATTENTIONS` and `BIASES` are the places to
add another attention or bias.
"""

import jax
import jax.numpy as jnp

PRECISION = "highest"  # full float32 products on every backend (TPU/GPU default is less)


def default_config(width=64, n_blocks=6, n_heads=4, n_basis=5, attention="scan", phase=False, n_classes=0, min_std=0.0):
    """For one coordinate group `s`. Scan attention (BSA-TNP) sees only distances; deep
    kernel attention (TNP-KR) sees the coordinate itself.

    With `phase`, for time and the phase of a known cycle: `s` is the time and `phase` the
    cosine and sine, each with a bias of its own and part of the token too.

    With `n_classes`, for states of places over time: `s` is the place and `t` the time, part of the token
    too, whose later moments are not read; values are one of so many classes.
    """
    w = width
    cfg = {
        "n_blocks": n_blocks,
        "n_repeats": 1,
        "n_values": 1,
        "groups": [
            {
                "name": "s",
                "dim": None,  # only distances are used, so any dimension will do
                "embed": False,
                "bias": {"kernel": "rbf", "distance": "euclidean", "n_basis": n_basis},
            }
        ],
        "embed_all": {"dims": [4 * w, 2 * w, w], "activation": "gelu_tanh"},
        "attention": {
            "kind": "scan",
            "n_heads": n_heads,
            "proj_qs": {"dims": [2 * w]},
            "proj_ks": {"dims": [2 * w]},
            "proj_vs": {"dims": [2 * w]},
            "proj_out": {"dims": [w]},
        },
        "ffn": {"dims": [4 * w, w], "activation": "gelu_tanh"},
        "head": {"dims": [4 * w, w, 2], "activation": "gelu_tanh"},
        "output": {"kind": "gaussian", "min_std": min_std},
    }
    if phase:
        bias = cfg["groups"][0]["bias"]
        cfg["groups"] = [
            {"name": "s", "dim": 1, "embed": True, "bias": bias},
            {"name": "phase", "dim": 2, "embed": True, "bias": bias},
        ]
    if n_classes:
        bias = cfg["groups"][0]["bias"]
        time = {"name": "t", "dim": 1, "embed": True, "bias": {**bias, "distance": "causal_time"}}
        cfg |= {"groups": [{"name": "s", "dim": 2, "embed": False, "bias": bias}, time], "n_values": n_classes}
        cfg["head"]["dims"][-1] = n_classes
        cfg["output"] = {"kind": "categorical"}
    if attention == "deep_kernel":
        assert not phase, "deep kernel attention reads the group `s` alone"
        cfg["groups"] = [{"name": "s", "dim": 1, "embed": True, "bias": None}]
        cfg["attention"] = {
            "kind": "deep_kernel",
            "n_heads": 1,
            "proj_qks": {"dims": [2 * w, 2 * w], "activation": "gelu_tanh"},
            "proj_vs": {"dims": [2 * w, w], "activation": "gelu_tanh"},
        }
    return cfg


# --- layers -----------------------------------------------------------------------------


def gelu_tanh(x):
    return jax.nn.gelu(x, approximate=True)


ACTIVATIONS = {"gelu_tanh": gelu_tanh, "relu": jax.nn.relu}


def dense(p, name, x):
    """x W + b. One flat matrix product: its gradient is much faster on a CPU."""
    rows = x.reshape(-1, x.shape[-1])
    y = jnp.dot(rows, p[f"{name}.kernel"], precision=PRECISION) + p[f"{name}.bias"]
    return y.reshape(*x.shape[:-1], -1)


def mlp(p, name, x, spec):
    """Dense layers with the activation between them, none after the last."""
    last = len(spec["dims"]) - 1
    for i in range(last):
        x = ACTIVATIONS[spec["activation"]](dense(p, f"{name}.Dense_{i}", x))
    return dense(p, f"{name}.Dense_{last}", x)


def layer_norm(p, name, x):
    mean = x.mean(-1, keepdims=True)
    var = jnp.maximum(0.0, (x * x).mean(-1, keepdims=True) - mean * mean)
    scale = jax.lax.rsqrt(var + 1e-6) * p[f"{name}.scale"]
    return (x - mean) * scale + p[f"{name}.bias"]


# --- attention --------------------------------------------------------------------------


def squared_distance(q, k):
    """[B,Q,M], [B,K,M] -> [B,Q,K]; by differences, because the expanded form cancels."""
    return jnp.square(q[:, :, None, :] - k[:, None, :, :]).sum(-1)


def per_head(x):
    return x[None, :, None, None]


@jax.custom_vjp
def rbf_bias(a, b, d2):
    """sum_f a_hf exp(-b_hf d^2): a, b [H,F], d2 [B,Q,K] -> [B,H,Q,K]."""
    terms = [per_head(a[:, f]) * jnp.exp(-per_head(b[:, f]) * d2[:, None]) for f in range(a.shape[1])]
    return sum(terms)


def rbf_bias_backward(saved, g):
    """By hand: it recomputes the exponentials instead of keeping F of them per pair, and
    a loop over the bases is four times faster on a CPU than what XLA makes of autodiff.
    Coordinates are data, so d2 gets no gradient."""
    a, b, d2 = saved

    def one_basis(ab):
        term = g * jnp.exp(-per_head(ab[1]) * d2[:, None])
        return term.sum((0, 2, 3)), -ab[0] * (term * d2[:, None]).sum((0, 2, 3))

    grad_a, grad_b = jax.lax.map(one_basis, (a.T, b.T))
    return grad_a.T, grad_b.T, jnp.zeros_like(d2)


rbf_bias.defvjp(lambda a, b, d2: (rbf_bias(a, b, d2), (a, b, d2)), rbf_bias_backward)

BIASES = {"rbf": rbf_bias}


def scan_attention(q, k, v, mask, bias):
    """Softmax attention [B,H,L,D], mask [B,Q or 1,K], whose running maximum starts at -1e-6 and whose sum
    gets 1e-10 (per block of 1024 keys; here there is always one block). A row without
    any valid key gives zeros."""
    scores = jnp.einsum("bhqd,bhkd->bhqk", q * q.shape[-1] ** -0.5, k, precision=PRECISION) + bias
    scores = jnp.where(mask[:, None], scores, -jnp.inf)
    top = jax.lax.stop_gradient(jnp.maximum(-1e-6, scores.max(-1, keepdims=True)))
    weights = jnp.exp(scores - top)
    out = jnp.einsum("bhqk,bhkd->bhqd", weights, v, precision=PRECISION)
    return out / (weights.sum(-1, keepdims=True) + 1e-10)


def split_heads(x, n_heads):
    return x.reshape(*x.shape[:2], n_heads, -1).transpose(0, 2, 1, 3)


def merge_heads(x):
    return x.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1)


def multi_head_scan(p, name, cfg, x_q, x_k, mask, s_q, s_k):
    spec, n_heads = cfg["attention"], cfg["attention"]["n_heads"]
    split = lambda x: split_heads(x, n_heads)
    q = split(mlp(p, f"{name}.proj_qs", x_q, spec["proj_qs"]))
    k = split(mlp(p, f"{name}.proj_ks", x_k, spec["proj_ks"]))
    v = split(mlp(p, f"{name}.proj_vs", x_k, spec["proj_vs"]))
    bias, mask = 0.0, mask[:, None]
    for g in cfg["groups"]:
        if g["bias"]:
            if g["bias"]["distance"] == "causal_time":  # what is later is not read
                mask = mask & (s_k[g["name"]][:, None, :, 0] <= s_q[g["name"]][:, :, None, 0])
            a, b = (p[f"{name}.attn.{g['name']}_bias_{x}"] for x in "ab")
            bias = bias + BIASES[g["bias"]["kernel"]](a, b, squared_distance(s_q[g["name"]], s_k[g["name"]]))
    out = scan_attention(q, k, v, mask, bias)
    return mlp(p, f"{name}.proj_out", merge_heads(out), spec["proj_out"])


def deep_kernel(p, name, cfg, x_q, x_k, mask, s_q, s_k):
    """Linear attention over learned features of coordinates and tokens, joined in that
    order. No normaliser but the mean over the keys and the layer norm at the end."""
    spec, n_heads = cfg["attention"], cfg["attention"]["n_heads"]
    names = [g["name"] for g in cfg["groups"] if g["name"] == "s"]
    scale = x_q.shape[-1] ** -0.25

    def features(x, s):
        joined = jnp.concatenate([*(s[n] for n in names), x], -1)
        return mlp(p, f"{name}.proj_qks", joined, spec["proj_qks"]) * scale

    q, k = features(x_q, s_q), features(x_k, s_k) * mask[..., None]
    v = mlp(p, f"{name}.proj_vs", x_k, spec["proj_vs"]) / mask.sum(-1)[:, None, None]
    q, k, v = (split_heads(x, n_heads) for x in (q, k, v))
    state = jnp.einsum("bhkf,bhkv->bhfv", k, v, precision=PRECISION)
    out = jnp.einsum("bhqf,bhfv->bhqv", q, state, precision=PRECISION)
    return layer_norm(p, f"{name}.LayerNorm_0", merge_heads(out))


ATTENTIONS = {"scan": multi_head_scan, "deep_kernel": deep_kernel}


# --- the network ------------------------------------------------------------------------


def forward(p, cfg, coords_ctx, f_ctx, mask_ctx, coords_test):
    """Raw head output [B,Lt,2*n_values], of classes [B,Lt,n_values]. `coords_*` map a group's name to [B,L,M].

    In a KRBlock every token, context or test, does the same thing: it reads from the
    block's input context. So both streams run as one array, context rows first.
    """
    n_ctx = f_ctx.shape[1]
    names = [g["name"] for g in cfg["groups"]]
    coords = {n: jnp.concatenate([coords_ctx[n], coords_test[n]], 1) for n in names}

    n_batch, n_all = next(iter(coords.values())).shape[:2]
    observed = (jnp.arange(n_all) < n_ctx).astype(int)
    obs = jnp.broadcast_to(p["embed_obs.embedding"][observed], (n_batch, n_all, 4))
    values = jnp.pad(f_ctx, ((0, 0), (0, n_all - n_ctx), (0, 0)))
    embedded = [coords[g["name"]] for g in cfg["groups"] if g["embed"]]
    x = mlp(p, "embed_all", jnp.concatenate([obs, *embedded, values], -1), cfg["embed_all"])
    x = layer_norm(p, "LayerNorm_0", x)

    attend = ATTENTIONS[cfg["attention"]["kind"]]
    passes = [i for i in range(cfg["n_blocks"]) for _ in range(cfg["n_repeats"])]
    for n, i in enumerate(passes):
        block = f"KRBlock_{i}"
        h = layer_norm(p, f"{block}.norm", x)
        context, queries = h[:, :n_ctx], h
        if n == len(passes) - 1:  # nobody reads the last block's context
            x, queries = x[:, n_ctx:], h[:, n_ctx:]
            coords = coords_test
        x = x + attend(p, f"{block}.attn", cfg, queries, context, mask_ctx, coords, coords_ctx)
        x = x + mlp(p, f"{block}.ffn", layer_norm(p, f"{block}.LayerNorm_0", x), cfg["ffn"])
    return mlp(p, "head", layer_norm(p, "LayerNorm_1", x), cfg["head"])


def gaussian(act, cfg):
    """Raw output -> mean and std."""
    mean, raw = jnp.split(act, 2, -1)
    min_std = cfg["output"]["min_std"]
    return mean, min_std + (1.0 - min_std) * jax.nn.softplus(raw)


# --- initial parameters -----------------------------------------------------------------


B_RANGE = {"s": (0.1, 1000.0), "phase": (0.1, 100.0), "t": (0.1, 30.0)}  # of b: inverse squared lengths
PEAK = 5.0
# But on a line, what the heads see first, as multiples of PEAK: what is near in time, in
# phase, in both, in phase and a little in time.
PEAKS = {"s": [1.0, 0.0, 1.0, 0.3], "phase": [0.0, 1.0, 1.0, 1.0], "t": [0.0, 1.0, 1.0, 1.0]}


def init(key, cfg, coord_dims):
    """Random parameters. `coord_dims` gives the dimension of each embedded group.

    The F basis functions of a head are interchangeable: equal ones would get equal
    gradients for ever. So b is spread over the inverse squared length scales of
    interest (shifted from head to head) and a is random. But on a line, a is larger and
    positive, so that what a head reads is near from the start.
    """
    p = {}

    def next_key():
        nonlocal key
        key, sub = jax.random.split(key)
        return sub

    def add_mlp(name, n_in, spec):
        for i, n_out in enumerate(spec["dims"]):
            p[f"{name}.Dense_{i}.kernel"] = jax.nn.initializers.orthogonal()(next_key(), (n_in, n_out))
            p[f"{name}.Dense_{i}.bias"] = jnp.zeros(n_out)
            n_in = n_out
        return n_in

    def add_norm(name, n):
        p[f"{name}.scale"], p[f"{name}.bias"] = jnp.ones(n), jnp.zeros(n)

    # What `gp_1d` started from is kept as it was.
    is_local = any(g["name"] == "phase" or coord_dims[g["name"]] > 1 for g in cfg["groups"])
    p["embed_obs.embedding"] = jax.random.normal(next_key(), (2, 4))
    n_in = 4 + cfg["n_values"] + sum(coord_dims[g["name"]] for g in cfg["groups"] if g["embed"])
    width = add_mlp("embed_all", n_in, cfg["embed_all"])
    add_norm("LayerNorm_0", width)
    spec = cfg["attention"]
    for i in range(cfg["n_blocks"]):
        block = f"KRBlock_{i}"
        add_norm(f"{block}.norm", width)
        add_norm(f"{block}.LayerNorm_0", width)
        if spec["kind"] == "deep_kernel":
            n_coords = sum(coord_dims[g["name"]] for g in cfg["groups"] if g["name"] == "s")
            add_mlp(f"{block}.attn.proj_qks", n_coords + width, spec["proj_qks"])
            add_norm(f"{block}.attn.LayerNorm_0", add_mlp(f"{block}.attn.proj_vs", width, spec["proj_vs"]))
        else:
            for proj in ("proj_qs", "proj_ks", "proj_vs"):
                inner = add_mlp(f"{block}.attn.{proj}", width, spec[proj])
            add_mlp(f"{block}.attn.proj_out", inner, spec["proj_out"])
        add_mlp(f"{block}.ffn", width, cfg["ffn"])
        for g in cfg["groups"]:
            if g["bias"]:
                n_heads, n_basis = spec["n_heads"], g["bias"]["n_basis"]
                grid = jnp.geomspace(*B_RANGE.get(g["name"], B_RANGE["s"]), n_heads * n_basis).reshape(n_basis, n_heads).T
                a = jax.random.normal(next_key(), grid.shape)
                if is_local:
                    heads = jnp.asarray(PEAKS[g["name"]])[jnp.arange(n_heads) % 4, None]
                    a = 0.3 * a + PEAK * heads / n_basis
                p[f"{block}.attn.attn.{g['name']}_bias_a"] = a
                p[f"{block}.attn.attn.{g['name']}_bias_b"] = grid
    add_norm("LayerNorm_1", width)
    add_mlp("head", width, cfg["head"])
    return {name: x.astype(jnp.float32) for name, x in p.items()}
