"""Train a TNP-KR or a CMANP on Gaussian-process tasks and export a checkpoint.

    python train.py --minutes 85 --out ../checkpoints/gp_1d.safetensors
    python train.py --minutes 120 --out ../checkpoints/gp_1d.safetensors --resume
    python train.py --tasks record --minutes 75 --out ../checkpoints/record.safetensors
    python train.py --model cmanp --minutes 50 --out ../checkpoints/cmanp_gp_1d.safetensors
    python train.py --evaluate ../checkpoints/gp_1d.safetensors

Every few minutes, and on Ctrl-C or SIGTERM, the checkpoint and, beside it, the training
state (OUT.state.npz or --state) are replaced atomically.
"""

import argparse
import collections
import concurrent.futures
import functools
import itertools
import json
import multiprocessing
import os
import signal
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import safetensors
from safetensors.numpy import load_file

import cmanp
import domain
import epidemic
import model
import tasks

PEAK_RATE, WARM_UP = 2e-3, 300
MIXED = 4  # tasks of one length in a batch of several
STEPS_AHEAD = 8


def coordinate_groups(cfg, s):
    """The columns of a point by the configuration's groups; one without a dim takes the rest."""
    groups, first = {}, 0
    for g in cfg["groups"]:
        last = first + g["dim"] if g["dim"] else s.shape[-1]
        groups[g["name"]], first = s[..., first:last], last
    assert first == s.shape[-1], f"points of {s.shape[-1]} coordinates for groups of {first}"
    return groups


def predict_tnp_kr(params, cfg, batch):
    s_ctx, s_test = (coordinate_groups(cfg, batch[x]) for x in ("s_ctx", "s_test"))
    act = model.forward(params, cfg, s_ctx, batch["f_ctx"], batch["mask_ctx"], s_test)
    return jax.nn.log_softmax(act) if is_categorical(cfg) else model.gaussian(act, cfg)


def is_categorical(cfg):
    return cfg.get("output", {}).get("kind") == "categorical"


# Mean and std at the targets; of classes, the logarithms of their probabilities.
PREDICT = {"tnp_kr": predict_tnp_kr, "cmanp": cmanp.predict}


def negative_log_likelihood(predict, params, cfg, batch):
    """Expected over targets of mean `f_test` and variance `var_test`, see `tasks.expected`."""
    predicted = predict(params, cfg, batch)
    if is_categorical(cfg):
        return -(batch["f_test"] * predicted).sum(-1).mean()
    mean, std = predicted
    spread = 0.5 * batch["var_test"] / jnp.square(std)
    return (spread - jax.scipy.stats.norm.logpdf(batch["f_test"], mean, std)).mean()


def is_matrix(name):
    return name.endswith(("kernel", "weight")) and "norm" not in name


def halved(params):
    return {name: np.asarray(x, np.float16 if is_matrix(name) else np.float32) for name, x in params.items()}


def stack(arrays):
    """Arrays of one shape as one, those for Muon apart."""
    groups = collections.defaultdict(list)
    for name, x in arrays.items():
        groups[group(name, x)].append(x)
    return {key: jnp.stack(xs) for key, xs in groups.items()}


def unstack(stacked, like):
    rows = {key: iter(x) for key, x in stacked.items()}
    return {name: next(rows[group(name, x)]) for name, x in like.items()}


def group(name, x):
    return f"{'matrices' if is_matrix(name) else 'others'} of {x.shape}"


def make_optimizer():
    """Muon for the matrices, Adam for the rest, at rate 1 (the step scales it).

    In four minutes from scratch Muon reached a log-likelihood of -0.31, Adam -0.54. It takes the matrices of a
    shape together: one by one a GPU waits for the thousand small products to be launched.
    """
    matrices = optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)
    muon = optax.contrib.muon(
        1.0, consistent_rms=0.2, adam_b1=0.9, adam_b2=0.99,
        muon_weight_dimension_numbers=lambda stacked: {
            key: matrices if key.startswith("matrices") else None for key in stacked
        },
    )  # fmt: skip
    clipped = optax.chain(optax.clip_by_global_norm(1.0), muon)
    inner = optax.apply_if_finite(clipped, max_consecutive_errors=10)

    def update(updates, state, params):
        stacked, state = inner.update(stack(updates), state, stack(params))
        return unstack(stacked, updates), state

    return optax.GradientTransformation(lambda params: inner.init(stack(params)), update)


def make_step(of, cfg, optimizer):
    def loss_fn(params, batches):
        return sum(share * negative_log_likelihood(PREDICT[of], params, cfg, batch) for share, batch in batches)

    bound = (lambda params: cmanp.bound_scores(params, cfg)) if of == "cmanp" else lambda params: params

    @jax.jit
    def step(params, state, batches, rate):
        """Of batches and what share of the loss each has."""
        loss, grads = jax.value_and_grad(loss_fn)(params, batches)
        updates, state = optimizer.update(grads, state, params)
        for name in updates:
            # b spans four decades, so it moves in proportion to itself.
            own = jnp.abs(params[name]) if name.endswith("_bias_b") else 1.0
            updates[name] = rate * own * updates[name]
        return bound(optax.apply_updates(params, updates)), state, loss

    return step


def learning_rate(peak, step, progress, decay=None):
    """Linear warm-up, then a cosine over the budget (of steps or of time) to zero; or, given
    `decay`, constant until that share of the budget is left, then linear to zero."""
    rate = peak * min(1.0, (step + 1) / WARM_UP)
    if decay is None:
        return rate * 0.5 * (1 + np.cos(np.pi * min(1.0, progress)))
    return rate * np.clip((1 - progress) / decay, 0.0, 1.0)


def draw_training_batch(kind, seed, step, n_batch, bucket=None):
    """Tasks of one bucket. A function of seed, step and bucket only, so that a resumed run needs no generator state."""
    rng = np.random.default_rng([seed, step])
    return [(1.0, draw_of(kind, rng, n_batch, bucket or draw_bucket(kind, rng)))]


def draw_every_length(kind, seed, step, n_batch):
    """Tasks of each bucket, each with its share of the loss: less noise in a step than by one bucket after another."""
    rng = np.random.default_rng([seed, step])
    draw = lambda share, bucket: draw_of(kind, rng, max(1, round(n_batch * share)), bucket)
    return [(share, draw(share, bucket)) for bucket, share in kind.buckets.items()]


def draw_of(kind, rng, n_batch, bucket):
    return tasks.expected(*tasks.draw_batch(rng, n_batch * kind.times.get(bucket, 1), bucket, kind.n_targets, kind), kind)


def draw_bucket(kind, rng):
    return list(kind.buckets)[rng.choice(len(kind.buckets), p=list(kind.buckets.values()))]


def draw_mixed_batch(kind, seed, step, n_batch):
    """For a GPU, which gains little by short contexts and waits for each shape that is compiled: all are
    padded to the longest, and every `MIXED` tasks draw their own length."""
    rng = np.random.default_rng([seed, step])
    longest = max(high for _, high in kind.buckets)
    parts = []
    for first in range(0, n_batch, MIXED):
        low, high = draw_bucket(kind, rng)
        n = min(MIXED, n_batch - first)
        parts.append(tasks.expected(*tasks.draw_batch(rng, n, (low, high), kind.n_targets, kind, longest), kind))
    return [(1.0, {key: np.concatenate([part[key] for part in parts]) for key in parts[0]})]


def batches_ahead(workers, first_step, draw):
    """What `draw(step)` returns for one step after the other, drawn ahead of its use by processes of a thread each."""
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        ahead = collections.deque(pool.submit(draw, first_step + i) for i in range(4 * workers))
        for step in itertools.count(first_step + len(ahead)):
            ahead.append(pool.submit(draw, step))
            yield ahead.popleft().result()


# --- files ------------------------------------------------------------------------------


def save_checkpoint(path, name, params, cfg, training, seen):
    metadata = {"model": name} | {
        key: json.dumps(x) for key, x in {"config": cfg, "training": training, "domain": seen}.items() if x
    }
    domain.write(path, params, metadata)


def load_checkpoint(path):
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    params = {name: jnp.asarray(x, jnp.float32) for name, x in load_file(path).items()}
    return metadata["model"], params, json.loads(metadata["config"]), json.loads(metadata["training"])


def save_state(path, params, state, progress):
    leaves = {f"opt.{i}": np.asarray(x) for i, x in enumerate(jax.tree.leaves(state))}
    arrays = {f"param.{name}": np.asarray(x) for name, x in params.items()}
    with open(path + ".tmp", "wb") as file:
        np.savez(file, progress=json.dumps(progress), **arrays, **leaves)
    os.replace(path + ".tmp", path)


def load_state(path, optimizer):
    stored = np.load(path)
    params = {k[len("param.") :]: jnp.asarray(stored[k]) for k in stored if k.startswith("param.")}
    like, tree = jax.tree.flatten(optimizer.init(params))
    leaves = [jnp.asarray(stored[f"opt.{i}"]) for i in range(len(like))]
    return params, jax.tree.unflatten(tree, leaves), json.loads(str(stored["progress"]))


# --- evaluation -------------------------------------------------------------------------


def make_predict(name, cfg):
    return jax.jit(lambda params, batch: PREDICT[name](params, cfg, batch))


def compare(kind, run, params, seed, n_batches, n_batch=16):
    """Per fresh task: family, context size and, for model and oracle, the mean
    log-likelihood, mean squared error and coverage of the 95% interval. Of classes: the Brier score and how
    often the most likely class is right, beside persistence."""
    rows = []
    for bucket, share in kind.buckets.items():
        rng = np.random.default_rng([seed, bucket[0]])
        for _ in range(max(1, round(n_batches * share))):
            batch, drawn = tasks.draw_batch(rng, n_batch, bucket, kind.n_targets, kind)
            predicted = run(params, batch)
            if tasks.n_classes(kind):
                rows += [class_row(task, np.exp(np.asarray(p, np.float64))) for task, p in zip(drawn, predicted)]
                continue
            mean, std = (np.asarray(x, np.float64)[..., 0] for x in predicted)
            for b, task in enumerate(drawn):
                y = task["y"][task["tgt"]]
                row = [task["family"], len(task["ctx"])]
                for m, s in ((mean[b], std[b]), tasks.oracle(task)):
                    row += tasks.score(y, m, s)
                rows.append(row)
    return rows


def class_row(task, probabilities):
    y = task["y"][task["tgt"]]
    row = [task["family"], len(task["ctx"])]
    for p in (probabilities, epidemic.persistence(task)):
        row += tasks.score_classes(y, p)
    return row


def evaluate(path, seed, n_batches, data=None):
    name, params, cfg, training = load_checkpoint(path)
    kind = tasks.TASKS[training["data"].get("kind", "line")]
    if data:
        kind.load(data)
    else:
        kind = getattr(kind, "limits", getattr(kind, "fresh", kind))
    print(f"{path}: {training['steps']} steps, {training['tasks']} tasks, {training['minutes']:.0f} minutes")
    rows = compare(kind, make_predict(name, cfg), params, seed, n_batches)
    if tasks.n_classes(kind):
        print(f"{len(rows)} fresh tasks; in place of an oracle: the state of the nearest observation")
        print(f"{'':24}{'mean log-likelihood':>22}{'root of Brier':>18}{'most likely':>16}")
    else:
        oracle = getattr(kind, "oracle", "the exact GP with the true kernel and noise")
        print(f"{len(rows)} fresh tasks; the oracle is {oracle}")
        print(f"{'':24}{'mean log-likelihood':>22}{'RMSE':>18}{'95% coverage':>16}")
    print(f"{'':24}{'model':>11}{'oracle':>11}{'model':>9}{'oracle':>9}{'model':>8}{'oracle':>8}")

    def line(name, rows):
        if rows:
            ll, se, cov, oracle_ll, oracle_se, oracle_cov = np.mean([r[2:] for r in rows], axis=0)
            print(
                f"{name:24}{ll:11.3f}{oracle_ll:11.3f}{se**0.5:9.3f}{oracle_se**0.5:9.3f}"
                f"{cov:8.1%}{oracle_cov:8.1%}"
            )

    line("all", rows)
    for low, high in kind.buckets:
        line(f"{low} to {high} context", [r for r in rows if low <= r[1] <= high])
    for family in kind.families:
        line(family, [r for r in rows if r[0] == family])


# --- training ---------------------------------------------------------------------------


def default_config(args, kind):
    min_std = getattr(kind, "min_std", 0.0)
    if args.model == "cmanp":
        return cmanp.default_config(kind.dim, args.width or 48, args.blocks or 3, args.latents or 48, min_std)
    cfg = model.default_config(
        args.width or 64, args.blocks or 6, n_basis=args.basis or (3 if kind.phase else 5),
        attention=args.attention, phase=kind.phase, n_classes=tasks.n_classes(kind), min_std=min_std,
    )  # fmt: skip
    return cfg


def init(name, key, cfg, kind):
    dims = {g["name"]: g["dim"] or kind.dim for g in cfg["groups"]} if name == "tnp_kr" else None
    return cmanp.init(key, cfg) if name == "cmanp" else model.init(key, cfg, dims)


def train(args):
    tasks_name = args.tasks or {"tnp_kr": "line", "cmanp": "series"}[args.model]
    kind = tasks.TASKS[tasks_name]
    if args.data:
        kind.load(args.data)
    cfg, first = json.load(open(args.config)) if args.config else default_config(args, kind), None
    if args.start:
        of, *first = load_checkpoint(args.start)
        assert of == args.model, f"{args.start} is a {of}, not a {args.model}"
        cfg = first[1]
    seen = domain.domain(args.model, cfg, {"data": {"kind": tasks_name}})
    optimizer, state_path = make_optimizer(), args.state or args.out + ".state.npz"
    if args.resume:
        params, state, progress = load_state(state_path, optimizer)
    else:
        params = first[0] if first else init(args.model, jax.random.key(args.seed), cfg, kind)
        state, progress = optimizer.init(params), {"step": 0, "seconds": 0.0, "loss": None}
    step_fn, run = make_step(args.model, cfg, optimizer), make_predict(args.model, cfg)
    budget_steps, budget_seconds = args.steps or np.inf, 60 * args.minutes if args.minutes else np.inf

    stop, finish = [], []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.append(True))
    signal.signal(signal.SIGUSR1, lambda *_: finish.append(True))
    clock = time.process_time if args.cpu_time else time.time

    step, recent = progress["step"], []
    n_tasks = progress.get("tasks", step * args.batch)
    before, start, saved = progress["seconds"], clock(), clock()
    done = rate = 0.0
    if args.workers:
        mixed = functools.partial(draw_mixed_batch, kind, args.seed, n_batch=args.batch)
        ahead = batches_ahead(args.workers, step, mixed)

    def save():
        validated = getattr(kind, "validation", kind)
        rows = compare(validated, run, params, seed=args.seed + 1_000_003, n_batches=10)
        ll, oracle_ll = np.mean([r[2] for r in rows]), np.mean([r[5] for r in rows])
        loss = float(np.mean(recent)) if recent else progress["loss"]
        seconds = before + clock() - start
        if not args.decay or rate >= args.rate * (1 - 1e-9) or step < WARM_UP:  # else it could not go on
            save_state(
                state_path, params, state, {"step": step, "tasks": n_tasks, "seconds": seconds, "loss": loss}
            )
        training = {
            "seed": args.seed,
            "steps": step,
            "batch": args.batch,
            "short_first": args.short_first,
            "every_length": args.every_length or args.workers > 0,
            "tasks": n_tasks,
            "minutes": round(seconds / 60, 1),
            "peak_learning_rate": args.rate,
            "decay": args.decay,
            "cpu_time": args.cpu_time,
            "data": {
                "kind": tasks_name,
                "families": kind.families,
                "context": list(kind.buckets),
                "targets": kind.n_targets,
            },
            "final_loss": loss,
            "validation": {"log_likelihood": float(ll), "oracle_log_likelihood": float(oracle_ll)},
            "finished": done >= 1.0,
            "versions": {"jax": jax.__version__, "optax": optax.__version__, "numpy": np.__version__},
        }
        if first:
            training["start"] = {key: first[2][key] for key in ("seed", "steps", "tasks")}
        save_checkpoint(args.out, args.model, halved(params) if args.half else params, cfg, training, seen)
        print(
            f"step {step:6}  {seconds / 60:6.1f} min  rate {rate:.1e}  training loss {np.nan if loss is None else loss:7.4f}"
            f"  validation log-likelihood {ll:7.4f}  oracle {oracle_ll:7.4f}",
            flush=True,
        )
        recent.clear()

    while True:
        seconds = before + clock() - start
        done = max(step / budget_steps, seconds / budget_seconds)
        if finish and args.decay and done < 1 - args.decay:
            finish.clear()
            save()
            budget_seconds, budget_steps = seconds / (1 - args.decay), step / (1 - args.decay)
            done = max(step / budget_steps, seconds / budget_seconds)
        if done >= 1.0 or stop:
            break
        rate = learning_rate(args.rate, step, done, args.decay)
        bucket = min(kind.buckets) if done < args.short_first else None
        if args.workers:
            batches = next(ahead)
        elif args.every_length:
            batches = draw_every_length(kind, args.seed, step, args.batch)
        else:
            batches = draw_training_batch(kind, args.seed, step, args.batch, bucket)
        params, state, loss = step_fn(params, state, batches, rate)
        recent.append(loss)
        # The next batch is drawn meanwhile, but no more than some steps wait.
        recent[-STEPS_AHEAD:][0].block_until_ready()
        step += 1
        n_tasks += sum(len(batch["f_ctx"]) for _, batch in batches)
        if clock() - saved > args.save_seconds:
            save()
            saved = clock()
    save()


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--out", default="gp_1d.safetensors", help="the checkpoint to write")
    args.add_argument("--steps", type=int, help="budget in steps")
    args.add_argument("--minutes", type=float, help="budget in minutes, earlier runs included")
    args.add_argument("--resume", action="store_true", help="go on from OUT.state.npz")
    args.add_argument("--start", metavar="CHECKPOINT", help="begin with its configuration and parameters")
    args.add_argument("--seed", type=int, default=0)
    args.add_argument("--batch", type=int, default=16)
    args.add_argument("--rate", type=float, default=PEAK_RATE, help="peak learning rate")
    args.add_argument("--model", choices=PREDICT, default="tnp_kr")
    args.add_argument("--tasks", choices=tasks.TASKS, help="default: line, series for CMANP")
    args.add_argument("--data", metavar="FILE", help="for the tasks scene: rows lon,lat,temperature,role")
    args.add_argument("--width", type=int, help="default: 64, 48 for CMANP")
    args.add_argument("--blocks", type=int, help="blocks or layers; default: 6, 3 for CMANP")
    args.add_argument("--latents", type=int, help="of each layer of a CMANP; default: 48")
    args.add_argument("--basis", type=int, help="basis functions of a bias; default: 5, 3 with a phase")
    args.add_argument("--short-first", type=float, default=0.0, metavar="SHARE",
                      help="share of the budget that is spent on the shortest tasks alone, first")  # fmt: skip
    args.add_argument("--decay", type=float, metavar="SHARE",
                      help="in place of the cosine: a constant rate that falls to zero in this last share of the "
                      "budget, or from SIGUSR1 on; --resume goes on from before the fall")  # fmt: skip
    args.add_argument("--cpu-time", action="store_true", help="--minutes and --save-seconds are of the processor")
    args.add_argument("--workers", type=int, default=0, metavar="N",
                      help="for a GPU: processes that draw the tasks, lengths mixed in each batch")  # fmt: skip
    args.add_argument("--every-length", action="store_true", help="every step has tasks of all lengths, in their shares")
    args.add_argument("--half", action="store_true", help="writes the matrices as float16")
    args.add_argument("--state", metavar="FILE", help="the training state; default: OUT.state.npz")
    args.add_argument("--attention", choices=model.ATTENTIONS, default="scan")
    args.add_argument("--config", help="model configuration (JSON) in place of width and blocks")
    args.add_argument("--save-seconds", type=float, default=120)
    args.add_argument("--evaluate", metavar="CHECKPOINT", help="compare with the exact GP and exit")
    args.add_argument("--batches", type=int, default=60, help="for --evaluate, 16 tasks each")
    args = args.parse_args()
    if args.decay is not None and not 0 < args.decay <= 1:
        sys.exit(f"--decay {args.decay}: a share of the budget is needed, above 0 and at most 1")
    if not 0 <= args.short_first <= 1:
        sys.exit(f"--short-first {args.short_first}: a share of the budget is needed, from 0 to 1")
    if args.config and args.start:
        sys.exit("--config and --start each say what the network is: give one of them")
    if (args.config or args.start) and (args.width or args.blocks or args.basis or args.latents):
        sys.exit("--width, --blocks, --basis and --latents are for a network that --config or --start does not describe")
    if args.evaluate:
        evaluate(args.evaluate, args.seed + 2_000_003, args.batches, args.data)
    elif not (args.steps or args.minutes):
        sys.exit("give --steps or --minutes")
    elif sum(map(bool, (args.short_first, args.every_length, args.workers))) > 1:
        sys.exit("--short-first, --every-length and --workers each say which lengths a step has: give one of them")
    else:
        train(args)


if __name__ == "__main__":
    main()
