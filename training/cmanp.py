"""The constant-memory attentive neural process (CMANP, arXiv 2305.14567) as plain functions
over a flat dictionary of parameters, whose keys are the names in the checkpoint.

The context is read only by `write`: fixed queries attend to it, and what is kept of it is,
per head and query, the logarithm of the softmax's sum and the softmax's average. So the
state does not grow with the context, and two states of disjoint contexts merge exactly.
"""

import jax
import jax.numpy as jnp

PRECISION = "highest"  # full float32 products on every backend
MOST_SCORE = 57.0  # of a context, beside an unrelated token: exact sums read what weighs e^-115 of what may come


def default_config(dim_x=3, d_model=48, n_layers=3, n_latents=48, min_std=0.0):
    assert min_std in (0.0, 0.05), f"a CMANP has a least std of 0.05 or none, not of {min_std}"
    return {
        "dim_x": dim_x,
        "dim_y": 1,
        "d_model": d_model,
        "dim_feedforward": 2 * d_model,
        "n_heads": 4,
        "n_latents": n_latents,
        "n_latents_per_layer": n_latents,
        "n_layers": n_layers,
        "emb_depth": 4,
        "bound_std": min_std > 0.0,
    }


# --- layers -----------------------------------------------------------------------------


def linear(p, name, x):
    """x W^T + b. One flat matrix product: its gradient is much faster on a CPU."""
    rows = x.reshape(-1, x.shape[-1])
    y = jnp.dot(rows, p[f"{name}.weight"].T, precision=PRECISION)
    if f"{name}.bias" in p:
        y = y + p[f"{name}.bias"]
    return y.reshape(*x.shape[:-1], -1)


def mlp(p, name, x, depth):
    """Linear layers, named 0, 2, 4, ..., with a ReLU between them."""
    for i in range(depth):
        x = linear(p, f"{name}.{2 * i}", jax.nn.relu(x) if i else x)
    return x


def layer_norm(p, name, x):
    x = x - x.mean(-1, keepdims=True)
    scale = jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-5) * p[f"{name}.weight"]
    return x * scale + p[f"{name}.bias"]


# --- attention --------------------------------------------------------------------------


def split_heads(x, n_heads):
    return x.reshape(*x.shape[:2], n_heads, -1).transpose(0, 2, 1, 3)


def merge_heads(x):
    return x.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1)


def write(p, name, n_heads, queries, context, mask=None):
    """The state of softmax attention: the logarithm of the sum [B,H,n,1] and the average
    [B,H,n,d]. Rows of the context whose mask is False count for nothing."""
    q = split_heads(linear(p, f"{name}.to_q", queries), n_heads)
    k, v = (split_heads(x, n_heads) for x in jnp.split(linear(p, f"{name}.to_kv", context), 2, -1))
    shape = q.shape[:3]
    # One axis of batch: on a CPU a step over short contexts is a fifth faster, over 512 points 2 to 8%.
    q, k, v = (x.reshape(-1, *x.shape[2:]) for x in (q, k, v))
    scores = jnp.matmul(q * q.shape[-1] ** -0.5, k.transpose(0, 2, 1), precision=PRECISION)
    if mask is not None:
        scores = jnp.where(jnp.repeat(mask, n_heads, 0)[:, None, :], scores, jnp.finfo(scores.dtype).min)
    total = jax.nn.logsumexp(scores, -1, keepdims=True)
    mean = jnp.matmul(jnp.exp(scores - total), v, precision=PRECISION)
    return total.reshape(*shape, 1), mean.reshape(*shape, -1)


def merge(state, other):
    """The state of both contexts together."""
    total = jnp.logaddexp(state[0], other[0])
    return total, sum(jnp.exp(t - total) * mean for t, mean in (state, other))


def read(p, name, state):
    return linear(p, f"{name}.to_out", merge_heads(state[1]))


# The residual of every sub-layer is its NORMALISED input.


def attend(p, name, cfg, x, context=None):
    """Cross-attention, or self-attention without a context."""
    u = layer_norm(p, f"{name}.norm", x)
    keys = u if context is None else layer_norm(p, f"{name}.norm_context", context)
    return read(p, f"{name}.fn", write(p, f"{name}.fn", cfg["n_heads"], u, keys)) + u


def feed_forward(p, name, x):
    u = layer_norm(p, f"{name}.norm", x)
    value, gate = jnp.split(linear(p, f"{name}.fn.net.0", u), 2, -1)
    return linear(p, f"{name}.fn.net.2", value * jax.nn.gelu(gate, approximate=False)) + u


def bound_scores(p, cfg):
    """The parameters with the queries of each head that reads a context so much shorter that none of its scores
    can be more than `MOST_SCORE` away from that of an unrelated token: exact sums can read whatever comes."""
    bounded = {}
    for i in range(cfg["n_layers"]):
        name = f"encoder.layers.{i}.layer_cross_attn"
        w = p[f"{name}.fn.to_q.weight"].reshape(cfg["n_heads"], -1, cfg["d_model"])
        factor = jnp.minimum(1.0, MOST_SCORE / score_radii(p, cfg, i).max(-1))
        bounded[f"{name}.fn.to_q.weight"] = (w * factor[:, None, None]).reshape(cfg["d_model"], -1)
    return p | bounded


def score_radii(p, cfg, layer):
    """How far from the score of an unrelated token any may be, of each head and query of a layer, [H,n]: a
    normalised token is a vector of norm sqrt(d) whose numbers have a mean of zero, before it is scaled and
    shifted."""
    name = f"encoder.layers.{layer}.layer_cross_attn"
    q = linear(p, f"{name}.fn.to_q", layer_norm(p, f"{name}.norm", p[f"encoder.layers.{layer}.latents"]))
    q = q.reshape(len(q), cfg["n_heads"], -1)
    k = jnp.split(p[f"{name}.fn.to_kv.weight"], 2)[0].reshape(cfg["n_heads"], q.shape[-1], -1)
    w = jnp.einsum("nhd,hdc->hnc", q * q.shape[-1] ** -0.5, k, precision=PRECISION)
    w = w * p[f"{name}.norm_context.weight"]
    return jnp.sqrt(jnp.square(w - w.mean(-1, keepdims=True)).sum(-1) * w.shape[-1])


# --- the network ------------------------------------------------------------------------


def condition(p, cfg, x, y, mask=None):
    """The state of every layer after a context x [B,N,dim_x], y [B,N,dim_y]."""
    embedded = mlp(p, "embedder", jnp.concatenate([x, y], -1), cfg["emb_depth"])
    states = []
    for i in range(cfg["n_layers"]):
        layer = f"encoder.layers.{i}"
        name = f"{layer}.layer_cross_attn"
        queries = layer_norm(p, f"{name}.norm", p[f"{layer}.latents"])
        queries = jnp.broadcast_to(queries, (len(x), *queries.shape))
        context = layer_norm(p, f"{name}.norm_context", embedded)
        states.append(write(p, f"{name}.fn", cfg["n_heads"], queries, context, mask))
    return states


def update(p, cfg, states, x, y, mask=None):
    """The states with more context: exact, whatever the order and the portions."""
    return [merge(old, new) for old, new in zip(states, condition(p, cfg, x, y, mask))]


def encode(p, cfg, states):
    """What the decoder's layers attend to; its size does not depend on the context."""
    latents = jnp.broadcast_to(p["latents"], (len(states[0][0]), *p["latents"].shape))
    outputs = []
    for i, state in enumerate(states):
        layer = f"encoder.layers.{i}"
        name = f"{layer}.layer_cross_attn"
        z = read(p, f"{name}.fn", state) + layer_norm(p, f"{name}.norm", p[f"{layer}.latents"])
        z = feed_forward(p, f"{layer}.layer_cross_ff", z)
        z = attend(p, f"{layer}.layer_latent_self_attn", cfg, z)
        z = feed_forward(p, f"{layer}.layer_latent_ff", z)
        latents = attend(p, f"{layer}.cross_attn", cfg, latents, z)
        latents = feed_forward(p, f"{layer}.cross_ff", latents)
        latents = attend(p, f"{layer}.latent_self_attn", cfg, latents)
        latents = feed_forward(p, f"{layer}.latent_ff", latents)
        outputs.append(latents)
    return outputs


def decode(p, cfg, outputs, x):
    """Mean and std [B,T,dim_y] at x [B,T,dim_x]."""
    q = mlp(p, "query_embedder", x, cfg["emb_depth"])
    for i, latents in enumerate(outputs):
        layer = f"decoder.layers.{i}"
        q = feed_forward(p, f"{layer}.cross_ff", attend(p, f"{layer}.cross_attn", cfg, q, latents))
    mean, raw = jnp.split(mlp(p, "predictor", layer_norm(p, "norm", q), 2), 2, -1)
    return mean, 0.05 + 0.95 * jax.nn.softplus(raw) if cfg["bound_std"] else jnp.exp(raw)


def predict(p, cfg, batch):
    """Mean and std at the targets of a batch of tasks."""
    states = condition(p, cfg, batch["s_ctx"], batch["f_ctx"], batch["mask_ctx"])
    return decode(p, cfg, encode(p, cfg, states), batch["s_test"])


# --- initial parameters -----------------------------------------------------------------


def init(key, cfg):
    d, ff = cfg["d_model"], cfg["dim_feedforward"]
    p = {}

    def next_key():
        nonlocal key
        key, sub = jax.random.split(key)
        return sub

    def add_linear(name, n_in, n_out, bias=True):
        p[f"{name}.weight"] = jax.nn.initializers.orthogonal()(next_key(), (n_out, n_in))
        if bias:
            p[f"{name}.bias"] = jnp.zeros(n_out)

    def add_mlp(name, n_in, n_hidden, n_out, depth):
        dims = [n_in, *[n_hidden] * (depth - 1), n_out]
        for i in range(depth):
            add_linear(f"{name}.{2 * i}", dims[i], dims[i + 1])

    def add_norm(name):
        p[f"{name}.weight"], p[f"{name}.bias"] = jnp.ones(d), jnp.zeros(d)

    def add_attention(name, cross):
        add_norm(f"{name}.norm")
        if cross:
            add_norm(f"{name}.norm_context")
        add_linear(f"{name}.fn.to_q", d, d, bias=False)
        add_linear(f"{name}.fn.to_kv", d, 2 * d, bias=False)
        add_linear(f"{name}.fn.to_out", d, d)

    def add_feed_forward(name):
        add_norm(f"{name}.norm")
        add_linear(f"{name}.fn.net.0", d, 2 * ff)
        add_linear(f"{name}.fn.net.2", ff, d)

    # Small: the first thing that happens to a latent is a layer norm.
    add_latents = lambda name, n: p.update({name: 0.1 * jax.random.normal(next_key(), (n, d))})

    add_mlp("embedder", cfg["dim_x"] + cfg["dim_y"], d, d, cfg["emb_depth"])
    add_mlp("query_embedder", cfg["dim_x"], d, d, cfg["emb_depth"])
    add_latents("latents", cfg["n_latents"])
    for i in range(cfg["n_layers"]):
        layer = f"encoder.layers.{i}"
        add_latents(f"{layer}.latents", cfg["n_latents_per_layer"])
        for part in ("layer_cross", "layer_latent", "cross", "latent"):
            self_attention = part.endswith("latent")
            add_attention(f"{layer}.{part}_{'self_' if self_attention else ''}attn", cross=not self_attention)
            add_feed_forward(f"{layer}.{part}_ff")
        add_attention(f"decoder.layers.{i}.cross_attn", cross=True)
        add_feed_forward(f"decoder.layers.{i}.cross_ff")
    add_norm("norm")
    add_mlp("predictor", d, ff, 2 * cfg["dim_y"], 2)
    return {name: x.astype(jnp.float32) for name, x in p.items()}
