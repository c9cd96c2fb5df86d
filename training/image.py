"""Tasks of pixels of photographs: some of a patch are seen, the others are asked for.

A point is (row, column), from -1 to 1 over the patch; the value is the grey of a pixel, 0 in the middle of its
range and 1 a quarter of that range above it. What lies in the last quarter of the columns of a photograph is
kept for the validation; the photographs that the example `image` shows are not read here.
"""

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image as Photograph

FOLDER = Path(__file__).resolve().parent.parent / "data" / "photographs"
# Of their patches; brick is small and all alike.
TRAINED_ON = {"chelsea": 0.23, "coffee": 0.25, "rocket": 0.17, "retina": 0.13, "hubble_deep_field": 0.12, "brick": 0.1}
SHOWN = {"astronaut": 0.5, "camera": 0.5}
SIDE = 24  # pixels of a patch along one side
MIDDLE, UNIT = 0.5, 0.25  # of grey, which goes from 0 to 1
# The covariance of pixels of one patch, around the middle, as the photographs that are trained on have it.
VARIANCE, LENGTH, NOISE = 1.0, 1.0, 0.05


@cache
def grey(name):
    return np.asarray(Photograph.open(FOLDER / f"{name}.png"), np.float64) / 255


@cache
def places():
    """Of the pixels of a patch."""
    along = np.linspace(-1, 1, SIDE)
    return np.stack(np.meshgrid(along, along, indexing="ij"), -1).reshape(-1, 2)


@cache
def covariance():
    s = places()
    distance = np.sqrt(np.square(s[:, None] - s).sum(-1))
    return VARIANCE * np.exp(-distance / LENGTH) + NOISE**2 * np.eye(len(s))


def crop(rng, photograph, side):
    i, j = (rng.integers(0, n - side + 1) for n in photograph.shape)
    return photograph[i : i + side, j : j + side]


def draw_patch(rng, name):
    """As it is, [SIDE, SIDE]."""
    return crop(rng, grey(name), SIDE)


def draw_varied_patch(rng, name, validates):
    """One in three at half the size; turned, mirrored, darker or brighter, with less contrast, or as a negative."""
    photograph = grey(name)
    cut = photograph.shape[1] * 3 // 4
    photograph = photograph[:, cut:] if validates else photograph[:, :cut]
    if rng.random() < 1 / 3 and min(photograph.shape) >= 2 * SIDE:
        patch = crop(rng, photograph, 2 * SIDE).reshape(SIDE, 2, SIDE, 2).mean((1, 3))
    else:
        patch = crop(rng, photograph, SIDE)
    if validates:
        return patch
    patch = np.rot90(patch, rng.integers(4))
    patch = patch.T if rng.random() < 0.5 else patch
    patch = 1 - patch if rng.random() < 0.3 else patch
    if rng.random() < 0.5:
        contrast = rng.uniform(0.5, 1.0)
        patch = patch * contrast + rng.uniform(0, 1 - contrast)
    return patch


def draw_tasks(rng, shares, draw, n_tasks, n_ctx, n_tgt):
    drawn = []
    for _ in range(n_tasks):
        name = rng.choice(list(shares), p=list(shares.values()))
        pixels = rng.permutation(SIDE * SIDE)[: n_ctx + n_tgt]
        y = (draw(rng, name).reshape(-1)[pixels] - MIDDLE) / UNIT
        drawn.append({"family": name, "s": places()[pixels], "y": y, "gram": covariance()[np.ix_(pixels, pixels)],
                      "ctx": np.arange(n_ctx), "tgt": np.arange(n_ctx, n_ctx + n_tgt)})  # fmt: skip
    return drawn
