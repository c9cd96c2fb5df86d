"""Train the few-shot classifier with neural attention memory on handwritten digits.

    python few_shot.py --out ../checkpoints      # few_shot_GENERATOR_SHOTS.safetensors
    python few_shot.py --evaluate ../checkpoints/few_shot_*.safetensors

Base classes are 0 to 4, novel classes 5 to 9. Supports come from the rows of `train`,
queries from those of `test`; no image of a novel class is seen in training.
"""

import argparse
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import safetensors
from safetensors.numpy import load_file

import domain
import nam
from train import learning_rate

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data", "digits.csv")
N_BASE, N_NOVEL, N_QUERIES = 5, 5, 15  # queries of each class


# --- data -------------------------------------------------------------------------------


def load_digits(path=DATA):
    """{"train": (images [n,64] in 0..1, labels), "test": ...}"""
    rows = [line.strip().split(",") for line in open(path)][1:]
    split = np.array([row[1] for row in rows])
    labels = np.array([int(row[0]) for row in rows])
    images = np.array([row[2:] for row in rows], np.float32) / 16
    return {name: (images[split == name], labels[split == name]) for name in ("train", "test")}


def shifted(images):
    """All shifts by at most one pixel: [n,64] -> [n,9,64], the unshifted first."""
    padded = np.pad(images.reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)))
    offsets = [(1, 1)] + [(i, j) for i in range(3) for j in range(3) if (i, j) != (1, 1)]
    return np.stack([padded[:, i : i + 8, j : j + 8].reshape(-1, 64) for i, j in offsets], 1)


# Five classes are too few to play at novel classes with. Turned (quarters) and mirrored
# digits are more; those that look like others are left out.
TURNS = {0: [0, 1], 1: [0, 1], 2: [0, 1], 3: [0, 1, 2, 3], 4: [0, 1, 2, 3]}
MIRRORED = {0: [], 1: [], 2: [0, 1], 3: [], 4: [0, 1, 2, 3]}


def training_classes(digits):
    """Images by class, [9 n, 64] each: the base digits first, then turned and mirrored ones."""
    images, labels = digits["train"]
    squares = [images[labels == c].reshape(-1, 8, 8) for c in range(N_BASE)]
    turned = {(c, turn, 1): np.rot90(x, turn, (1, 2)) for c, x in enumerate(squares) for turn in TURNS[c]}
    mirrored = {(c, turn, -1): np.rot90(x[..., ::-1], turn, (1, 2)) for c, x in enumerate(squares) for turn in MIRRORED[c]}
    classes = turned | mirrored
    first = [(c, 0, 1) for c in range(N_BASE)]
    ordered = first + [name for name in classes if name not in first]
    return [shifted(classes[name].reshape(-1, 64)).reshape(-1, 64) for name in ordered]


def draw(rng, images, n):
    return images[rng.choice(len(images), n, replace=False)]


def episode(rng, novel, base, n_shots, supports, queries):
    """Support images [N*K,64] and labels, query images and the column each belongs to."""
    support = np.concatenate([draw(rng, supports[c], n_shots) for c in novel])
    labels = np.repeat(np.eye(len(novel), dtype=np.float32), n_shots, 0)
    query = np.concatenate([draw(rng, queries[c], N_QUERIES) for c in [*base, *novel]])
    return support, labels, query, np.repeat(np.arange(len(base) + len(novel)), N_QUERIES)


# --- the network ------------------------------------------------------------------------


def embed(p, cfg, images):
    """Linear layers with the activation between them, none after the last."""
    x, last = images, len(cfg["embedding"]["dims"]) - 1
    for i in range(last + 1):
        x = nam.linear(p, f"embedding.{2 * i}", x)
        x = jax.nn.relu(x) if i < last else x
    return x


def scores(p, cfg, support, labels, base, query):
    """Of one episode, [Q, base + novel]. One at a time: the erase averages over a batch."""
    features = embed(p, cfg, support)[None]
    weights = nam.classifier_weights(p, cfg, features, labels[None], base[None])
    return nam.classify(p, cfg, weights, embed(p, cfg, query)[None])[0]


def init(key, cfg):
    p = {}

    def uniform(name, shape, fan_in):
        nonlocal key
        key, sub = jax.random.split(key)
        p[name] = jax.random.uniform(sub, shape, jnp.float32, -1.0, 1.0) * (3 / fan_in) ** 0.5

    def add_linear(name, n_in, n_out):
        uniform(f"{name}.weight", (n_out, n_in), n_in)
        p[f"{name}.bias"] = jnp.zeros(n_out)

    n_in = cfg["embedding"]["n_in"]
    for i, n_out in enumerate(cfg["embedding"]["dims"]):
        add_linear(f"embedding.{2 * i}", n_in, n_out)
        n_in = n_out
    n, kind = n_in, cfg["generator"]
    uniform("weight_base", (cfg["n_base"], n), n)
    p["bias"], p["scale_cls"] = jnp.zeros(1), jnp.full(1, 10.0)
    if kind in ("nam", "namattention"):
        p["namblock.erase_logits"] = jnp.full(cfg["n_base"], -2.0)
        p["namblock.write_logits"] = jnp.zeros(N_NOVEL)  # no score depends on it
    if kind in ("nam2", "nam2attention"):
        for part in ("eraser", "writer"):  # no score depends on the writer
            add_linear(f"namblock.{part}.0", n, n)
            add_linear(f"namblock.{part}.2", n, 1)
            p[f"namblock.{part}.2.bias"] = jnp.full(1, -2.0)
    if kind in ("feature_averaging", "attention_based", "namattention", "nam2attention"):
        p["wnLayerFavg.weight"] = jnp.ones(n)
    if kind in ("attention_based", "namattention", "nam2attention"):
        p["wnLayerWatt.weight"] = jnp.zeros(n)
        p["attblock.queryLayer.weight"], p["attblock.queryLayer.bias"] = jnp.eye(n), jnp.zeros(n)
        uniform("attblock.wkeys", (cfg["n_base"], n), n)
        p["attblock.scale_att"] = jnp.full(1, 10.0)
    return p


# --- training ---------------------------------------------------------------------------


def optimise(loss_fn, p, trained, batches, n_steps, peak):
    """Adam on the parameters for which `trained(name)`, the others stay."""
    moving = {k: x for k, x in p.items() if trained(k)}
    fixed = {k: x for k, x in p.items() if not trained(k)}
    optimizer = optax.adam(1.0)

    @jax.jit
    def step(moving, state, batch, rate):
        loss, grads = jax.value_and_grad(lambda m: loss_fn({**fixed, **m}, *batch))(moving)
        updates, state = optimizer.update(grads, state, moving)
        return optax.apply_updates(moving, jax.tree.map(lambda u: rate * u, updates)), state, loss

    state, losses = optimizer.init(moving), []
    for i in range(n_steps):
        moving, state, loss = step(moving, state, batches(i), learning_rate(peak, i, i / n_steps))
        losses.append(float(loss))
    return {**fixed, **moving}, float(np.mean(losses[-100:]))


def cross_entropy(logits, target):
    return optax.softmax_cross_entropy_with_integer_labels(logits, target).mean()


def train_embedding(p, cfg, classes, seed, n_steps, n_batch=100):
    """Embedding and base weights: a cosine classifier of all training classes."""

    def loss(p, images, target):
        return cross_entropy(nam.classify(p, cfg, p["weight_base"][None], embed(p, cfg, images)[None])[0], target)

    def batch(i):
        rng = np.random.default_rng([seed, i])
        target = np.repeat(np.arange(len(classes)), n_batch // len(classes))
        return np.concatenate([draw(rng, x, n_batch // len(classes)) for x in classes]), target

    return optimise(loss, p, lambda name: not name.startswith(("namblock", "attblock", "wnLayer")), batch, n_steps, 2e-3)


def train_generator(p, cfg, classes, seed, n_steps, n_shots, n_batch=4):
    """Generator and base weights on episodes: some classes play novel, some play base."""

    def loss(p, *episodes):
        if "namblock.erase_logits" in p:
            # It goes by column, and a class has no column of its own here: one value for all.
            tied = jnp.broadcast_to(p["namblock.erase_logits"].mean(), p["namblock.erase_logits"].shape)
            p = {**p, "namblock.erase_logits": tied}
        one = lambda support, labels, query, target, base: cross_entropy(
            scores(p, cfg, support, labels, base, query), target
        )
        return jax.vmap(one)(*episodes).mean()

    def batch(i):
        rng, drawn = np.random.default_rng([seed, 1, i]), []
        for _ in range(n_batch):
            order = rng.permutation(len(classes))
            novel, base = order[:N_NOVEL], order[N_NOVEL : N_NOVEL + N_BASE]
            drawn.append((*episode(rng, novel, base, n_shots, classes, classes), base))
        return [np.stack(x) for x in zip(*drawn)]

    p, final = optimise(loss, p, lambda name: not name.startswith("embedding"), batch, n_steps, 2e-3)
    if "namblock.erase_logits" in p:
        p["namblock.erase_logits"] = jnp.full_like(p["namblock.erase_logits"], p["namblock.erase_logits"].mean())
    return p, final


def configuration(generator):
    return {
        "generator": generator,
        "classifier_type": "cosine",
        "n_base": sum(map(len, [*TURNS.values(), *MIRRORED.values()])),
        "n_novel": N_NOVEL,
        "embedding": {"n_in": 64, "dims": [128, 64], "activation": "relu"},
    }


def train(args, digits):
    """One embedding; on it, for each number of shots, each generator."""
    classes = training_classes(digits)
    cfg = configuration("none")
    start, loss_embedding = train_embedding(init(jax.random.key(args.seed), cfg), cfg, classes, args.seed, args.steps[0])
    for n_shots in args.shots:
        for generator in args.generators:
            cfg = configuration(generator)
            p = {**init(jax.random.key(args.seed), cfg), **start}
            p, loss_episodes = train_generator(p, cfg, classes, args.seed, args.steps[1], n_shots)
            means, half_width = evaluate(p, cfg, digits, n_shots, args.episodes, args.seed + 1_000_003)
            print_row(generator, n_shots, means, half_width)
            task = {
                "data": "digits.csv",
                "pixel_scale": 1 / 16,
                "base_classes": list(range(N_BASE)),
                "novel_classes": list(range(N_BASE, N_BASE + N_NOVEL)),
                "base_ids": list(range(N_BASE)),
                "shots": n_shots,
                "supports": "train",
                "queries": "test",
                "episodes": args.episodes,
                "measured": means,
            }
            training = {"seed": args.seed, "steps": args.steps, "final_loss": [loss_embedding, loss_episodes]}
            if args.out:
                path = os.path.join(args.out, f"few_shot_{generator}_{n_shots}.safetensors")
                save_checkpoint(path, p, cfg, task, training)


# --- evaluation -------------------------------------------------------------------------


METRICS = ("both", "base", "novel", "base as novel", "novel as base", "told apart")


def evaluate(p, cfg, digits, n_shots, n_episodes, seed):
    """Means over episodes with the novel digits: accuracy of all queries among all classes,
    of base queries among base classes, of novel queries among novel ones; share of base
    queries taken for a novel class and of novel queries taken for a base class; how often a
    novel query has more lead of the best novel over the best base score than a base query
    (the area under the curve: a constant added to all novel scores does not change it)."""
    by_class = {name: [x[y == c] for c in range(10)] for name, (x, y) in digits.items()}
    base, novel = np.arange(N_BASE), np.arange(N_BASE, N_BASE + N_NOVEL)
    run = jax.jit(lambda *data: scores(p, cfg, *data))
    rows = []
    for i in range(n_episodes):
        rng = np.random.default_rng([seed, i])
        support, labels, query, target = episode(rng, novel, base, n_shots, by_class["train"], by_class["test"])
        s = np.asarray(run(support, labels, base, query))
        is_novel, best = target >= N_BASE, s.argmax(1)
        lead = s[:, N_BASE:].max(1) - s[:, :N_BASE].max(1)
        rows.append(
            [
                (best == target).mean(),
                (s[~is_novel, :N_BASE].argmax(1) == target[~is_novel]).mean(),
                (s[is_novel, N_BASE:].argmax(1) + N_BASE == target[is_novel]).mean(),
                (best[~is_novel] >= N_BASE).mean(),
                (best[is_novel] < N_BASE).mean(),
                (lead[is_novel][:, None] > lead[~is_novel]).mean(),
            ]
        )
    rows = np.array(rows)
    half_width = 1.96 * rows[:, 0].std() / n_episodes**0.5
    return dict(zip(METRICS, rows.mean(0))), half_width


def print_row(name, shots, means, half_width):
    shown = "".join(f"{means[m]:15.2%}" for m in METRICS)
    print(f"{name:22}{shots:6}{shown}   +-{half_width:.2%}", flush=True)


def save_checkpoint(path, p, cfg, task, training):
    metadata = {"model": "nam_few_shot"}
    metadata |= {name: json.dumps(x) for name, x in {"config": cfg, "task": task, "training": training}.items()}
    domain.write(path, p, metadata)


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--generators", choices=nam.GENERATORS, nargs="+", default=["none", "nam", "nam2"])
    args.add_argument("--shots", type=int, nargs="+", default=[1, 5], help="supports of each novel class")
    args.add_argument("--steps", type=int, nargs=2, default=[1500, 500], help="for embedding and generator")
    args.add_argument("--seed", type=int, default=0)
    args.add_argument("--out", metavar="FOLDER", help="write checkpoints there")
    args.add_argument("--episodes", type=int, default=1000, help="for the evaluation")
    args.add_argument("--evaluate", metavar="CHECKPOINT", nargs="+")
    args = args.parse_args()
    digits = load_digits()
    print(f"{'':22}{'shots':>6}" + "".join(f"{m:>15}" for m in METRICS))
    if not args.evaluate:
        return train(args, digits)
    for path in args.evaluate:
        with safetensors.safe_open(path, "numpy") as file:
            cfg, task = (json.loads(file.metadata()[key]) for key in ("config", "task"))
        p = {name: jnp.asarray(x) for name, x in load_file(path).items()}
        result = evaluate(p, cfg, digits, task["shots"], args.episodes, args.seed + 2_000_003)
        print_row(cfg["generator"], task["shots"], *result)


if __name__ == "__main__":
    main()
