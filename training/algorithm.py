"""Train a NAM Turing machine, or a network of long short-term attention memories, on an algorithm, on short
problems; run it on long ones.

    python algorithm.py --task addition --minutes 20 --out ../checkpoints/nam_tm_addition.safetensors
    python algorithm.py --model nam_lsam --task recall --minutes 5 --out ../checkpoints/nam_lsam_recall.safetensors
    python algorithm.py --evaluate ../checkpoints/nam_tm_addition.safetensors

Checkpoint and training state (OUT.state.npz) are replaced atomically while it runs.
"""

import argparse
import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import safetensors
from safetensors.numpy import load_file

import domain
import nam
from train import learning_rate, load_state, save_state

NOT_SCORED = -1
TEST_LENGTHS = (2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 24, 28)


# --- tasks ------------------------------------------------------------------------------
#
# draw(rng, n_batch, n) gives problems of length n: tokens and, of the same shape, targets.


def answer(vocabulary, question, target):
    """question = then one "_" per token of the answer, which is wanted in its place."""
    n_batch, n_slots = target.shape
    constant = lambda token, n: np.full((n_batch, n), vocabulary.index(token))
    tokens = np.concatenate([question, constant("=", 1), constant("_", n_slots)], 1)
    targets = np.full(tokens.shape, NOT_SCORED)
    targets[:, -n_slots:] = target
    return tokens, targets


def pad(tokens, targets, multiple):
    """Fewer lengths to compile for, where a network is causal: what follows changes nothing."""
    after = ((0, 0), (0, -tokens.shape[1] % multiple))
    return np.pad(tokens, after), np.pad(targets, after, constant_values=NOT_SCORED)


class Addition:
    """a0 b0 a1 b1 ... = _ _ ...: digits from the lowest, in pairs; n+1 digits of the sum."""

    vocabulary = [*"0123456789", "=", "_"]
    layout = "a0 b0 a1 b1 .. a(n-1) b(n-1) = _ x (n+1); targets c0 .. cn; index 0 the lowest digit"

    def draw(self, rng, n_batch, n):
        digits = rng.integers(0, 10, (n_batch, n, 2))
        # Long carries are rare in random numbers: in half of the problems, half of the
        # pairs (all of them, at random) only hand on the carry.
        handing = rng.random((n_batch, n)) < rng.choice([0.0, 0.5], (n_batch, 1))
        digits[..., 1] = np.where(handing, 9 - digits[..., 0], digits[..., 1])
        total, carry = np.zeros((n_batch, n + 1), int), np.zeros(n_batch, int)
        for i in range(n):
            column = digits[:, i].sum(-1) + carry
            total[:, i], carry = column % 10, column // 10
        total[:, n] = carry
        return answer(self.vocabulary, digits.reshape(n_batch, 2 * n), total)


class Reduce:
    """A text of n key strokes, where "#" deletes the letter before; what is left, then dots."""

    vocabulary = [*"abcdefgh", "#", "=", "_", "."]
    layout = "n key strokes = _ x n; targets: the letters that are left, in order, then dots"
    deletes = 0.4

    def draw(self, rng, n_batch, n):
        strokes = rng.integers(0, 8, (n_batch, n))
        delete, dot = self.vocabulary.index("#"), self.vocabulary.index(".")
        left, n_left, rows = np.full((n_batch, n), dot), np.zeros(n_batch, int), np.arange(n_batch)
        for i in range(n):
            deleting = (rng.random(n_batch) < self.deletes) & (n_left > 0)
            strokes[deleting, i] = delete
            n_left -= deleting
            left[rows[deleting], n_left[deleting]] = dot
            left[rows[~deleting], n_left[~deleting]] = strokes[~deleting, i]
            n_left += ~deleting
        return answer(self.vocabulary, strokes, left)


class Recall:
    """Pairs of a letter and a digit, then letters: the digit that came last with each."""

    vocabulary = [*"abcdefghijklmnop", *"0123456789", "="]
    layout = "k0 v0 .. k(n-1) v(n-1) = q x n; targets, in the places of the q: the last digit of each"
    n_letters = 16

    def draw(self, rng, n_batch, n):
        letters, digits = rng.integers(0, self.n_letters, (n_batch, n)), rng.integers(0, 10, (n_batch, n))
        last, rows = np.zeros((n_batch, self.n_letters), int), np.arange(n_batch)
        for i in range(n):
            last[rows, letters[:, i]] = self.n_letters + digits[:, i]
        asked = np.take_along_axis(letters, rng.integers(0, n, (n_batch, n)), 1)
        pairs = np.stack([letters, self.n_letters + digits], -1).reshape(n_batch, 2 * n)
        tokens = np.concatenate([pairs, np.full((n_batch, 1), self.vocabulary.index("=")), asked], 1)
        targets = np.full(tokens.shape, NOT_SCORED)
        targets[:, -n:] = np.take_along_axis(last, asked, 1)
        return tokens, targets


TASKS = {"addition": Addition(), "reduce": Reduce(), "recall": Recall()}


# --- models -----------------------------------------------------------------------------


class TuringMachine:
    multiple = 14  # of tokens that a problem is padded to
    init, forward = nam.init, nam.forward

    def config(args, vocab_size):
        return {
            "dim": args.dim,
            "vocab_size": vocab_size,
            "n_heads": args.tapes,
            "mem_size": args.mem_size or args.dim // args.tapes,
            "tape_length": args.tape_length,
            "option": args.option,
        }


class LsamAe:
    multiple = 1  # it reads backwards too
    init = nam.lsam_init

    def config(args, vocab_size):
        return {"vocab_size": vocab_size, "d_model": args.dim, "nhead": args.heads, "dim_feedforward": 2 * args.dim}

    def forward(params, cfg, tokens, noise=None):
        return nam.lsam_forward(params, cfg, tokens)


class Lstm(LsamAe):
    """For comparison; the crate has no such network."""

    def init(key, cfg):
        return nam.lsam_init(key, cfg, "lstm")

    def forward(params, cfg, tokens, noise=None):
        return nam.lsam_forward(params, cfg, tokens, "lstm")


MODELS = {"nam_tm": TuringMachine, "nam_lsam": LsamAe, "lstm": Lstm}


# --- training ---------------------------------------------------------------------------


def cross_entropy(params, cfg, forward, tokens, targets, noise):
    """Over the answer only."""
    scored = targets != NOT_SCORED
    losses = optax.softmax_cross_entropy_with_integer_labels(
        forward(params, cfg, tokens, noise), jnp.where(scored, targets, 0)
    )
    return (losses * scored).sum() / scored.sum()


def make_optimizer():
    """Adam at rate 1 (the step scales it)."""
    return optax.apply_if_finite(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1.0, b2=0.99)), 10)


def make_step(cfg, forward, optimizer):
    """Noise on the actions makes a network decide: only softmaxes near 0 and 1 keep their
    heads in place, and then they keep them there over many more steps than in training."""

    @jax.jit
    def step(params, state, tokens, targets, rate, key, noise):
        loss, grads = jax.value_and_grad(cross_entropy)(params, cfg, forward, tokens, targets, (key, noise))
        updates, state = optimizer.update(grads, state, params)
        updates = jax.tree.map(lambda u: rate * u, updates)
        return optax.apply_updates(params, updates), state, loss

    return step


def accuracy(run, params, task, lengths, n_problems, seed, multiple, n_batch=100):
    """Share of problems with every token of the answer right, by length."""
    table = {}
    for n in lengths:
        rng, right = np.random.default_rng([seed, n]), []
        for first in range(0, n_problems, n_batch):
            tokens, targets = pad(*task.draw(rng, min(n_batch, n_problems - first), n), multiple)
            best = np.asarray(run(params, tokens)).argmax(-1)
            right.append(((best == targets) | (targets == NOT_SCORED)).all(1))
        table[n] = float(np.concatenate(right).mean())
    return table


def make_run(cfg, forward):
    return jax.jit(lambda params, tokens: forward(params, cfg, tokens))


def longest_question(cfg):
    """The tape is a ring: what is longer than it overwrites itself."""
    return cfg["tape_length"] - 2 if "tape_length" in cfg else max(TEST_LENGTHS)


def save_checkpoint(path, name, params, cfg, task, training):
    metadata = {"model": name}
    metadata |= {name: json.dumps(x) for name, x in {"config": cfg, "task": task, "training": training}.items()}
    domain.write(path, params, metadata)


def load_parameters(path):
    return {name: jnp.asarray(x) for name, x in load_file(path).items()}


def load_metadata(path):
    with safetensors.safe_open(path, "numpy") as file:
        return {name: x if name in ("model", "fingerprint") else json.loads(x) for name, x in file.metadata().items()}


def train(args):
    task, kind = TASKS[args.task], MODELS[args.model]
    cfg = kind.config(args, len(task.vocabulary))
    optimizer, state_path = make_optimizer(), args.out + ".state.npz"
    if args.resume:
        params, state, progress = load_state(state_path, optimizer)
    else:
        params = kind.init(jax.random.key(args.seed), cfg)
        if args.start:
            params = load_parameters(args.start)
        state, progress = optimizer.init(params), {"step": 0, "seconds": 0.0}
    step_fn, run = make_step(cfg, kind.forward, optimizer), make_run(cfg, kind.forward)
    clock = time.process_time if args.cpu_time else time.time
    step, before, start, saved, recent = progress["step"], progress["seconds"], clock(), clock(), []

    def store(lengths, n_problems):
        seconds = before + clock() - start
        by_length = accuracy(run, params, task, lengths, n_problems, args.seed + 1_000_003, kind.multiple)
        about = {
            "name": args.task,
            "vocabulary": task.vocabulary,
            "layout": task.layout,
            "train_lengths": [1, args.longest],
            "sequence_accuracy": by_length,
        }
        training = {
            "seed": args.seed,
            "steps": step,
            "batch": args.batch,
            "problems": step * args.batch,
            "minutes": round(seconds / 60, 1),
            "peak_learning_rate": args.rate,
            "action_noise": args.noise if args.model == "nam_tm" else 0.0,
            "longest": args.longest,
            "earlier": load_metadata(args.start)["training"] if args.start else None,
            "versions": {"jax": jax.__version__, "optax": optax.__version__, "numpy": np.__version__},
        }
        save_checkpoint(args.out, args.model, params, cfg, about, training)
        save_state(state_path, params, state, {"step": step, "seconds": seconds})
        shown = "  ".join(f"{n}: {x:.1%}" for n, x in by_length.items())
        loss = np.mean(recent) if recent else np.nan
        print(f"step {step:6}  {seconds / 60:5.1f} min  rate {rate:.1e}  loss {loss:.4f}  {shown}", flush=True)
        recent.clear()

    rate, done = 0.0, 0.0
    while done < 1.0:
        rate = learning_rate(args.rate, step, done)
        rng = np.random.default_rng([args.seed, step])
        tokens, targets = task.draw(rng, args.batch, int(rng.integers(1, args.longest + 1)))
        key = jax.random.key(rng.integers(2**31))
        params, state, loss = step_fn(params, state, *pad(tokens, targets, kind.multiple), rate, key, args.noise * min(1.0, 2 * done))
        recent.append(float(loss))
        step += 1
        done = (before + clock() - start) / (60 * args.minutes)
        if clock() - saved > args.save_seconds:
            store((args.longest, 2 * args.longest), 100)
            saved = clock()
    store([n for n in TEST_LENGTHS if n <= longest_question(cfg)], 500)


def evaluate(path, n_problems, seed):
    params, metadata = load_parameters(path), load_metadata(path)
    name, cfg, about = metadata["model"], metadata["config"], metadata["task"]
    lengths = [n for n in TEST_LENGTHS if n <= longest_question(cfg)]
    low, high = about["train_lengths"]
    print(f"{about['name']}, {cfg.get('option', name)}; trained on lengths {low} to {high}; {n_problems} fresh problems each")
    kind = MODELS[name]
    run = make_run(cfg, kind.forward)
    table = accuracy(run, params, TASKS[about["name"]], lengths, n_problems, seed, kind.multiple)
    for n, right in table.items():
        print(f"{n:4} {right:7.1%}")


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--task", choices=TASKS, default="addition")
    args.add_argument("--model", choices=MODELS, default="nam_tm")
    args.add_argument("--option", choices=nam.OPTIONS, default="default")
    args.add_argument("--out", default="nam_tm.safetensors", help="the checkpoint to write")
    args.add_argument("--minutes", type=float, default=20, help="budget, earlier runs included")
    args.add_argument("--start", metavar="CHECKPOINT", help="parameters to begin with")
    args.add_argument("--resume", action="store_true", help="go on from OUT.state.npz")
    args.add_argument("--seed", type=int, default=0)
    args.add_argument("--batch", type=int, default=64)
    args.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    args.add_argument("--noise", type=float, default=1.0, help="on the actions, from half of the training on")
    args.add_argument("--longest", type=int, default=6, help="longest problem in training")
    args.add_argument("--dim", type=int, default=64)
    args.add_argument("--tapes", type=int, default=4)
    args.add_argument("--mem-size", type=int, help="default: dim / tapes")
    args.add_argument("--tape-length", type=int, default=32)
    args.add_argument("--heads", type=int, default=2, help="of a memory, with --model nam_lsam")
    args.add_argument("--cpu-time", action="store_true", help="--minutes and --save-seconds are of the processor")
    args.add_argument("--save-seconds", type=float, default=120)
    args.add_argument("--evaluate", metavar="CHECKPOINT", help="accuracy by length and exit")
    args.add_argument("--problems", type=int, default=1000, help="for --evaluate, of each length")
    args = args.parse_args()
    if args.problems < 1:
        sys.exit(f"--problems {args.problems}: at least 1 is needed")
    if args.evaluate:
        evaluate(args.evaluate, args.problems, args.seed + 2_000_003)
    else:
        train(args)


if __name__ == "__main__":
    main()
