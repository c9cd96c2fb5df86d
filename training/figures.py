"""Scores checkpoints on stored tasks: a figure that the crate's tests compute again.

    python figures.py --draw                                  # ../tests/tasks/*.safetensors anew
    python figures.py ../checkpoints/gp_1d.safetensors ...    # writes `evaluation` into the metadata

Parameters stay as they are, bit for bit.
"""

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

import domain
import epidemic
import tasks
import train

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "tasks"
SEED, N_TASKS = 4_000_003, 64
KINDS = ["line", "series", "record", "field", "epidemic"]


def draw(name):
    """Tasks of every range of context sizes, as often as in training, padded to the longest; and what the
    exact process, which knows the kernel and the noise, makes of each target; of classes, persistence."""
    kind, rng, parts = tasks.TASKS[name], np.random.default_rng(SEED), []
    longest = max(high for _, high in kind.buckets)
    for bucket, share in kind.buckets.items():
        batch, drawn = tasks.draw_batch(rng, round(N_TASKS * share), bucket, kind.n_targets, kind)
        if tasks.n_classes(kind):
            batch["persistence"] = np.array([epidemic.persistence(task) for task in drawn])
        else:
            oracle = np.array([tasks.oracle(task) for task in drawn])
            batch |= {"oracle_mean": oracle[:, 0], "oracle_std": oracle[:, 1]}
        for key in ("s_ctx", "f_ctx", "mask_ctx"):
            width = [(0, 0)] * batch[key].ndim
            width[1] = (0, longest - bucket[1])
            batch[key] = np.pad(batch[key], width)
        parts.append(batch)
    whole = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return {key: np.ascontiguousarray(x, np.uint8 if x.dtype == bool else np.float32) for key, x in whole.items()}


def score(y, mean, std):
    log_likelihood, square, coverage = tasks.score(*(np.float64(x) for x in (y, mean, std)))
    return {"log_likelihood": log_likelihood, "rmse": square**0.5, "coverage": coverage}


def score_classes(y, p):
    names = ("log_likelihood", "brier", "most_likely_right")
    return dict(zip(names, tasks.score_classes(y.argmax(-1), np.float64(p))))


def evaluate(path):
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
    rounded = {of: {key: round(float(x), 5) for key, x in scores.items()} for of, scores in found.items()}
    metadata = domain.read_metadata(path) | {"evaluation": json.dumps({"tasks": kind, "n_tasks": len(y)} | rounded)}
    domain.write(path, load_file(path), metadata)
    print(path, metadata["evaluation"])


def main():
    if sys.argv[1:] == ["--draw"]:
        FOLDER.mkdir(exist_ok=True)
        for name in KINDS:
            save_file(draw(name), FOLDER / f"{name}.safetensors", {"case": f"tasks_{name}", "config": "{}"})
    else:
        for path in sys.argv[1:]:
            evaluate(path)


if __name__ == "__main__":
    main()
