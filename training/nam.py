"""Neural attention memory: the NAM Turing machine, the networks of long short-term attention memories, and
the few-shot classifier.

Plain functions over a flat dictionary of parameters whose names are the checkpoint's.
Weights lie as PyTorch stores them, [out, in].
"""

import jax
import jax.numpy as jnp

PRECISION = "highest"
# Per option: head directions, and the entries of the action vector they take per head.
OPTIONS = {"default": 4, "no_jump": 3, "only_jump": 2, "no_rw_prob": 4, "no_erase": 4}
GENERATORS = ("none", "feature_averaging", "attention_based", "nam", "nam2", "namattention", "nam2attention")


# --- layers -----------------------------------------------------------------------------


def linear(p, name, x):
    rows = x.reshape(-1, x.shape[-1])
    y = jnp.dot(rows, p[f"{name}.weight"].T, precision=PRECISION) + p[f"{name}.bias"]
    return y.reshape(*x.shape[:-1], -1)


def layer_norm(p, name, x):
    centred = x - x.mean(-1, keepdims=True)
    var = jnp.square(centred).mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(var + 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]


def unit(x):
    """x / max(|x|, 1e-12) along the last axis; the gradient at zero is finite."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-24))


def lstm(p, name, x):
    """[S,B,D] -> the hidden states [S,B,H], from a zero state."""
    hidden = p[f"{name}.weight_hh_l0"]
    from_input = jnp.einsum("sbd,gd->sbg", x, p[f"{name}.weight_ih_l0"], precision=PRECISION)
    from_input = from_input + p[f"{name}.bias_ih_l0"] + p[f"{name}.bias_hh_l0"]

    def step(state, gates):
        h, c = state
        i, f, g, o = jnp.split(gates + jnp.dot(h, hidden.T, precision=PRECISION), 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zero = jnp.zeros((x.shape[1], hidden.shape[1]), x.dtype)
    return jax.lax.scan(step, (zero, zero), from_input)[1]


# --- NAM Turing machine -----------------------------------------------------------------


def turing_machine(p, cfg, x, name="tm", noise=None, with_heads=False):
    """[S,B,D] -> [S,B,D]. A tape has L slots of C numbers; a head [B,T,L] weighs the slots.

    The controller reads the inputs only, never the tape: all actions of a sequence are
    known before the first step. `noise` (key, size) is added to them before softmax and
    sigmoid. With `with_heads` also the read and write head [S,B,T,L].
    """
    option, n_tapes, n_slots, n_dirs = cfg["option"], cfg["n_heads"], cfg["tape_length"], OPTIONS[cfg["option"]]
    n_steps, n_batch = x.shape[:2]
    per_tape = lambda y: y.reshape(n_steps, n_batch, n_tapes, -1)

    hidden = lstm(p, f"{name}.controller", x)
    action = per_tape(linear(p, f"{name}.actionlayer", hidden))
    if noise:
        action = action + noise[1] * jax.random.normal(noise[0], action.shape)
    read_dirs = jax.nn.softmax(action[..., :n_dirs])
    write_dirs = jax.nn.softmax(action[..., n_dirs : 2 * n_dirs])
    prob_read, prob_write, prob_erase = jnp.moveaxis(jax.nn.sigmoid(action[..., 2 * n_dirs :]), -1, 0)
    if option == "no_rw_prob":
        prob_read = prob_write = prob_erase = jnp.ones_like(prob_read)
    prob_key = prob_write
    if option == "no_erase":
        prob_erase, prob_key = jnp.zeros_like(prob_erase), jnp.ones_like(prob_write)

    value = prob_write[..., None] * per_tape(linear(p, f"{name}.valuelayer", x))
    inputs = {"read_dirs": read_dirs, "write_dirs": write_dirs}
    jumps = option != "no_jump"
    if jumps:
        inputs["key"] = unit(per_tape(linear(p, f"{name}.keylayer", x)))
        inputs["query"] = unit(per_tape(linear(p, f"{name}.Wq", hidden)))
        inputs["prob_key"], inputs["prob_erase"] = prob_key[..., None], prob_erase[..., None]

    def move(head, dirs, jump):
        dirs = jnp.moveaxis(dirs, -1, 0)[..., None]
        if option == "only_jump":
            return dirs[0] * head + dirs[1] * jump
        moved = dirs[0] * jnp.roll(head, -1, -1) + dirs[1] * head + dirs[2] * jnp.roll(head, 1, -1)
        return moved + dirs[3] * jump if jumps else moved

    def step(state, a):
        keys, read, write = state
        jump = None
        if jumps:  # the key table [B,T,L,C] is erased by content
            known = (keys * a["key"][..., None, :]).sum(-1)
            keys = keys + (a["prob_key"] * write - a["prob_erase"] * known)[..., None] * a["key"][..., None, :]
            jump = (keys * a["query"][..., None, :]).sum(-1)
        return (keys, move(read, a["read_dirs"], jump), move(write, a["write_dirs"], jump)), (read, write)

    head = jnp.zeros((n_batch, n_tapes, n_slots), x.dtype).at[..., 0].set(1.0)
    keys = jnp.zeros((*head.shape, cfg["mem_size"]), x.dtype) if jumps else None
    read, write = jax.lax.scan(step, (keys, head, head), inputs)[1]

    # Heads do not depend on what is on the tape, so the tape needs no scan: what step s
    # wrote, u_s = p_w v_s - p_e (what lay under the head), solves a triangular system.
    # Heads that jump are not distributions; they touch the tape with norm 1.
    read_at, write_at = (unit(read), unit(write)) if jumps else (read, write)
    under = jnp.einsum("sbtl,ubtl->btsu", write_at, write_at, precision=PRECISION)
    system = jnp.moveaxis(prob_erase, 0, -1)[..., None] * jnp.tril(under, -1)
    written = jax.lax.linalg.triangular_solve(
        system, value.transpose(1, 2, 0, 3), left_side=True, lower=True, unit_diagonal=True
    )
    seen = jnp.tril(jnp.einsum("sbtl,ubtl->btsu", read_at, write_at, precision=PRECISION))
    out = jnp.einsum("btsu,btuc->sbtc", seen, written, precision=PRECISION)
    y = linear(p, f"{name}.outlayer", (prob_read[..., None] * out).reshape(n_steps, n_batch, -1))
    return (y, read, write) if with_heads else y


def forward(p, cfg, tokens, noise=None):
    """NAMTMAE: tokens [B,S] -> logits [B,S,vocabulary] (the paper's code: [B,vocabulary,S])."""
    x = p["embedding.0.weight"][tokens.T]
    x = layer_norm(p, "encnorm", linear(p, "embedding.1", x))
    y = turing_machine(p, cfg, x, noise=noise)
    logits = linear(p, "fc.3", jax.nn.relu(layer_norm(p, "fc.0", y)))
    return logits.transpose(1, 0, 2)


class Initial:
    """Parameters as PyTorch initialises them: uniform in +-1/sqrt(fan in), embeddings normal."""

    def __init__(self, key):
        self.key, self.p = key, {}

    def uniform(self, name, shape, fan_in):
        self.key, sub = jax.random.split(self.key)
        self.p[name] = jax.random.uniform(sub, shape, jnp.float32, -1.0, 1.0) * fan_in**-0.5

    def embedding(self, name, n, width):
        self.p[f"{name}.weight"] = jax.random.normal(self.key, (n, width))

    def linear(self, name, n_in, n_out):
        self.uniform(f"{name}.weight", (n_out, n_in), n_in)
        self.uniform(f"{name}.bias", (n_out,), n_in)

    def norm(self, name, width):
        self.p[f"{name}.weight"], self.p[f"{name}.bias"] = jnp.ones(width), jnp.zeros(width)

    def lstm(self, name, n_in, n_hidden):
        for side, n in (("ih", n_in), ("hh", n_hidden)):
            self.uniform(f"{name}.weight_{side}_l0", (4 * n_hidden, n), n_hidden)
            self.uniform(f"{name}.bias_{side}_l0", (4 * n_hidden,), n_hidden)


def init(key, cfg):
    dim, n_tapes, inner = cfg["dim"], cfg["n_heads"], cfg["n_heads"] * cfg["mem_size"]
    to = Initial(key)
    to.embedding("embedding.0", cfg["vocab_size"], dim)
    to.linear("embedding.1", dim, dim)
    to.norm("encnorm", dim)
    to.lstm("tm.controller", dim, dim)
    to.linear("tm.actionlayer", dim, n_tapes * (2 * OPTIONS[cfg["option"]] + 3))
    to.linear("tm.valuelayer", dim, inner)
    if cfg["option"] != "no_jump":
        to.linear("tm.keylayer", dim, inner)
        to.linear("tm.Wq", dim, inner)
    to.linear("tm.outlayer", inner, dim)
    to.norm("fc.0", dim)
    to.linear("fc.3", dim, cfg["vocab_size"])
    return to.p


# --- long short-term attention memory ---------------------------------------------------


def lsam(p, name, n_heads, x, memory=None):
    """[S,B,D] -> the hidden states [S,B,H] and the last memory [B,heads,H/heads,H/heads], from a hidden state
    of zeros."""
    weight = jnp.concatenate([p[f"{name}.{layer}.weight"] for layer in ("Wqkv", "Ww", "Wr")])
    bias = jnp.concatenate([p[f"{name}.{layer}.bias"] for layer in ("Wqkv", "Ww", "Wr")])
    n_batch, n_in = x.shape[1:]
    n_hidden = weight.shape[1] - n_in
    from_input = jnp.einsum("sbd,gd->sbg", x, weight[:, :n_in], precision=PRECISION) + bias
    per_head = lambda y: y.reshape(n_batch, n_heads, -1)

    def step(state, z):
        h, m = state
        z = z + jnp.dot(h, weight[:, n_in:].T, precision=PRECISION)
        q, k, v = (per_head(y) for y in jnp.split(z[:, : 3 * n_hidden], 3, -1))
        q, k = unit(q), unit(k)
        write, read = (jax.nn.sigmoid(y) for y in jnp.split(z[:, 3 * n_hidden :], 2, -1))
        known = jnp.einsum("bhvk,bhk->bhv", m, k, precision=PRECISION)
        m = m + jnp.einsum("bhv,bhk->bhvk", write[..., None] * (v - known), k, precision=PRECISION)
        h = read[..., None] * jnp.einsum("bhvk,bhk->bhv", m, q, precision=PRECISION)
        h = h.reshape(n_batch, n_hidden)
        return (h, m), h

    dim = n_hidden // n_heads
    memory = jnp.zeros((n_batch, n_heads, dim, dim), x.dtype) if memory is None else memory
    (_, memory), hidden = jax.lax.scan(step, (jnp.zeros((n_batch, n_hidden), x.dtype), memory), from_input)
    return hidden, memory


def lstm_cell(p, name, n_heads, x, memory=None):
    """For comparison: an LSTM in the place of a long short-term attention memory. It hands on nothing."""
    return lstm(p, name, x), None


CELLS = {"nam_lsam": lsam, "lstm": lstm_cell}


def lsam_forward(p, cfg, tokens, cell="nam_lsam"):
    """LSAMAE: tokens [B,S] -> logits [B,S,vocabulary] (the paper's code: [B,vocabulary,S])."""
    run, half = CELLS[cell], cfg["nhead"] // 2
    x = p["embedding.weight"][tokens.T]
    ahead, memory = run(p, "encoder.attn.enc_fw", half, x)
    back, other = run(p, "encoder.attn.enc_bw", half, x[::-1])
    x = x + jax.nn.relu(linear(p, "encoder.attn.Wo.0", jnp.concatenate([ahead, back[::-1]], -1)))
    x = x + linear(p, "encoder.linear2", jax.nn.relu(linear(p, "encoder.linear1", x)))
    x = layer_norm(p, "encoder.norm2", x)
    memory = None if memory is None else jnp.concatenate([memory, other], 1)
    hidden, _ = run(p, "decoder.encoder", cfg["nhead"], x, memory)
    x = layer_norm(p, "decoder.norm", jax.nn.relu(linear(p, "decoder.Wo.0", hidden)))
    return linear(p, "fc", x).transpose(1, 0, 2)


def lsam_init(key, cfg, cell="nam_lsam"):
    d, ff, n_heads = cfg["d_model"], cfg["dim_feedforward"], cfg["nhead"]
    to = Initial(key)

    def add_cell(name, n_hidden, heads):
        if cell == "lstm":
            return to.lstm(name, d, n_hidden)
        for layer, n_out in (("Wqkv", 3 * n_hidden), ("Ww", heads), ("Wr", heads)):
            to.linear(f"{name}.{layer}", d + n_hidden, n_out)

    to.embedding("embedding", cfg["vocab_size"], d)
    add_cell("encoder.attn.enc_fw", d // 2, n_heads // 2)
    add_cell("encoder.attn.enc_bw", d // 2, n_heads // 2)
    to.linear("encoder.attn.Wo.0", d, d)
    for name in ("encoder.attn.norm", "encoder.norm1", "encoder.norm2", "decoder.norm"):  # two are never read
        to.norm(name, d)
    to.linear("encoder.linear1", d, ff)
    to.linear("encoder.linear2", ff, d)
    add_cell("decoder.encoder", d, n_heads)
    to.linear("decoder.Wo.0", d, d)
    to.linear("fc", d, cfg["vocab_size"])
    return to.p


# --- few-shot classifier ----------------------------------------------------------------


def class_mean(labels, x):
    """One-hot labels [B,n,N], x [B,n,F] -> the mean of each class [B,N,F]."""
    total = jnp.einsum("bnc,bnf->bcf", labels, x, precision=PRECISION)
    return total / labels.sum(1)[..., None]


def classifier_weights(p, cfg, support, labels, base_ids):
    """The rows of the classifier, base classes first: [B, base + novel, F]."""
    kind, cosine = cfg["generator"], cfg["classifier_type"] == "cosine"
    f = unit(support) if cosine else support
    k = unit(f)
    base = p["weight_base"][base_ids]
    average = class_mean(labels, f)
    novel = average

    if kind.startswith("nam"):
        if kind.startswith("nam2"):
            base_old = unit(base)
            hidden = jax.nn.relu(linear(p, "namblock.eraser.0", f))
            prob = jax.nn.sigmoid(linear(p, "namblock.eraser.2", hidden))  # [B,n,1]: writes and erases
            novel = average = jnp.einsum("bnc,bnf->bcf", labels, prob * k, precision=PRECISION)
        else:
            base_old = base
            prob = jax.nn.sigmoid(p["namblock.erase_logits"][: base.shape[1]])  # by column
        known = jnp.einsum("bnf,bcf->bnc", k, base_old, precision=PRECISION) * prob
        # Erased is the mean over the episodes of a batch, as in the paper's code: evaluate one by one.
        erased = jnp.einsum("bnc,bnf->bcf", known, k, precision=PRECISION).mean(0)
        new_base = base_old - erased
    else:
        new_base = base

    if kind in ("attention_based", "namattention", "nam2attention"):
        query = unit(linear(p, "attblock.queryLayer", f))
        keys = unit(p["attblock.wkeys"][base_ids])
        scores = p["attblock.scale_att"] * jnp.einsum("bnf,bcf->bnc", query, keys, precision=PRECISION)
        original = unit(base) if cosine else base
        attended = jnp.einsum("bnc,bcf->bnf", jax.nn.softmax(scores), original, precision=PRECISION)
        novel = p["wnLayerFavg.weight"] * average + p["wnLayerWatt.weight"] * class_mean(labels, attended)
    elif kind == "feature_averaging":
        novel = p["wnLayerFavg.weight"] * average
    return jnp.concatenate([new_base, novel], 1)


def classify(p, cfg, weights, test):
    """weights [B,C,F], test features [B,Q,F] -> scores [B,Q,C]."""
    if cfg["classifier_type"] == "cosine":
        weights, test = unit(weights), unit(test)
    return p["scale_cls"] * (p["bias"] + jnp.einsum("bqf,bcf->bqc", test, weights, precision=PRECISION))
