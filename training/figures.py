"""Scores checkpoints on stored tasks: a figure that the crate's tests compute again.

    python figures.py --draw image recall ...                 # ../tests/tasks/NAME.safetensors anew
    python figures.py ../checkpoints/gp_1d.safetensors ...    # writes `evaluation` into the metadata

Parameters stay as they are, bit for bit. Regression and classes are in `KINDS`; algorithms are scored on
problems, the few-shot classifiers on episodes.
"""

import json
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save_file

import algorithm
import domain
import epidemic
import few_shot
import tasks
import train

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "tasks"
SEED, N_TASKS = 4_000_003, 64
KINDS = ["line", "series", "record", "field", "epidemic", "image"]
N_PROBLEMS, LENGTHS = 32, (8, 16, 24)  # of each length; trained are up to 8
SHOTS, N_EPISODES = (1, 5), 20


def draw(name):
    """Tasks of every range of context sizes, as often as in training, padded to the longest; and what the
    exact process, which knows the kernel and the noise, makes of each target; of classes, persistence."""
    kind, rng, parts = tasks.TASKS[name], np.random.default_rng(SEED), []
    kind = getattr(kind, "fresh", kind)
    longest = max(high for _, high in kind.buckets)
    for bucket, share in kind.buckets.items():
        batch, drawn = tasks.draw_batch(rng, round(N_TASKS * share), bucket, kind.n_targets, kind, longest)
        if tasks.n_classes(kind):
            batch["persistence"] = np.array([epidemic.persistence(task) for task in drawn])
        else:
            oracle = np.array([tasks.oracle(task) for task in drawn])
            batch |= {"oracle_mean": oracle[:, 0], "oracle_std": oracle[:, 1]}
        parts.append(batch)
    whole = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return {key: np.ascontiguousarray(x, np.uint8 if x.dtype == bool else np.float32) for key, x in whole.items()}


def score(y, mean, std):
    log_likelihood, square, coverage = tasks.score(*(np.float64(x) for x in (y, mean, std)))
    return {"log_likelihood": log_likelihood, "rmse": square**0.5, "coverage": coverage}


def score_classes(y, p):
    names = ("log_likelihood", "brier", "most_likely_right")
    return dict(zip(names, tasks.score_classes(y.argmax(-1), np.float64(p))))


def evaluate_regression(path):
    name, params, cfg, training = train.load_checkpoint(path)
    kind = training["data"].get("kind", "line")
    kind = "field" if kind == "scene" else kind
    stored = load_file(FOLDER / f"{kind}.safetensors")
    stored["mask_ctx"] = stored["mask_ctx"].astype(bool)
    predicted, y = train.make_predict(name, cfg)(params, stored), stored["f_test"]
    if train.is_categorical(cfg):
        found = {"model": score_classes(y, np.exp(predicted)), "persistence": score_classes(y, stored["persistence"])}
    else:
        oracle = (stored["oracle_mean"][..., None], stored["oracle_std"][..., None])
        found = {"model": score(y, *predicted), "oracle": score(y, *oracle)}
    return {"tasks": kind, "n_tasks": len(y)} | found


# --- algorithms ---------------------------------------------------------------------------


def draw_problems(name):
    """Tokens of each length and, of those at their end, the answers."""
    rng, stored = np.random.default_rng(SEED), {}
    for n in LENGTHS:
        tokens, targets = algorithm.TASKS[name].draw(rng, N_PROBLEMS, n)
        scored = (targets[0] != algorithm.NOT_SCORED).sum()
        stored |= {f"tokens.{n}": tokens, f"answers.{n}": targets[:, -scored:]}
    return {key: np.ascontiguousarray(x, np.uint8) for key, x in stored.items()}


def score_logits(logits, y):
    """The mean log-likelihood of the right class, and whether it is the most likely."""
    log_p = np.asarray(jax.nn.log_softmax(jnp.asarray(logits)), np.float64)
    return np.take_along_axis(log_p, y[..., None], -1)[..., 0], log_p.argmax(-1) == y


def evaluate_algorithm(path):
    params, metadata = algorithm.load_parameters(path), algorithm.load_metadata(path)
    name, cfg = metadata["task"]["name"], metadata["config"]
    run = algorithm.make_run(cfg, algorithm.MODELS[metadata["model"]].forward)
    stored, likelihoods, right = load_file(FOLDER / f"{name}.safetensors"), [], {}
    for n in LENGTHS:
        tokens, answers = (stored[f"{key}.{n}"].astype(int) for key in ("tokens", "answers"))
        log_p, is_right = score_logits(run(params, tokens)[:, -answers.shape[1] :], answers)
        likelihoods.append(log_p.ravel())
        right[f"right_{n}"] = is_right.all(1).mean()
    found = {"log_likelihood": np.concatenate(likelihoods).mean()} | right
    return {"tasks": name, "n_tasks": N_PROBLEMS * len(LENGTHS), "model": found}


# --- few-shot classifiers -----------------------------------------------------------------


def draw_episodes(shots):
    """Rows of ../data/digits.csv: supports of each novel class, and queries of each class, base classes first."""
    splits = np.array([line.split(",")[1] for line in open(few_shot.DATA)][1:])
    labels = np.array([int(line.split(",")[0]) for line in list(open(few_shot.DATA))[1:]])
    rng = np.random.default_rng([SEED, shots])

    def rows(split, first, n):
        of = lambda c: rng.choice(np.flatnonzero((splits == split) & (labels == c)), n, replace=False)
        return np.concatenate([of(c) for c in range(first, few_shot.N_BASE + few_shot.N_NOVEL)])

    drawn = [(rows("train", few_shot.N_BASE, shots), rows("test", 0, few_shot.N_QUERIES)) for _ in range(N_EPISODES)]
    supports, queries = (np.array(x, np.float32) for x in zip(*drawn))
    return {"supports": supports, "queries": queries}


def evaluate_few_shot(path):
    params, metadata = algorithm.load_parameters(path), algorithm.load_metadata(path)
    cfg, about = metadata["config"], metadata["task"]
    shots, base = about["shots"], np.array(about["base_ids"])
    images = np.array([line.split(",")[2:] for line in list(open(few_shot.DATA))[1:]], np.float32) * about["pixel_scale"]
    stored = load_file(FOLDER / f"few_shot_{shots}.safetensors")
    labels = np.repeat(np.eye(few_shot.N_NOVEL, dtype=np.float32), shots, 0)
    y = np.repeat(np.arange(few_shot.N_BASE + few_shot.N_NOVEL), few_shot.N_QUERIES)
    run = jax.jit(lambda support, query: few_shot.scores(params, cfg, support, labels, base, query))
    rows = zip(stored["supports"].astype(int), stored["queries"].astype(int))
    log_p, right = zip(*(score_logits(run(images[support], images[query]), y) for support, query in rows))
    found = {"log_likelihood": np.mean(log_p), "both": np.mean(right)}
    return {"tasks": f"few_shot_{shots}", "n_tasks": N_EPISODES, "model": found}


EVALUATE = {
    "tnp_kr": evaluate_regression, "cmanp": evaluate_regression, "nam_tm": evaluate_algorithm,
    "nam_lsam": evaluate_algorithm, "nam_few_shot": evaluate_few_shot,
}  # fmt: skip


def evaluate(path):
    metadata = domain.read_metadata(path)
    found = EVALUATE[metadata["model"]](path)
    digits = lambda x: round(float(x), 5) + 0.0 if isinstance(x, float) else x  # no -0.0
    rounded = {of: {key: digits(x) for key, x in scores.items()} if isinstance(scores, dict) else scores
               for of, scores in found.items()}  # fmt: skip
    metadata |= {"evaluation": json.dumps(rounded)}
    domain.write(path, load_file(path), metadata)
    print(path, metadata["evaluation"])


def main():
    if sys.argv[1:2] == ["--draw"]:
        FOLDER.mkdir(exist_ok=True)
        stored = {name: partial(draw, name) for name in KINDS}
        stored |= {name: partial(draw_problems, name) for name in algorithm.TASKS}
        stored |= {f"few_shot_{shots}": partial(draw_episodes, shots) for shots in SHOTS}
        for name in sys.argv[2:]:
            save_file(stored[name](), FOLDER / f"{name}.safetensors", {"case": f"tasks_{name}", "config": "{}"})
    else:
        for path in sys.argv[1:]:
            evaluate(path)


if __name__ == "__main__":
    main()
