"""Tasks of an epidemic on a lattice: stochastic SIR, observed at some places on some days.

Every day a susceptible place catches the disease from each infected one among its eight neighbours with a
probability of its own, or from far away with a small one; an infected place recovers with another. A point is
(row, column, day): eight places and five days are one unit, and today is zero.
"""

import numpy as np

from sampling import log_uniform

SIDE, CELLS, DAYS = 32, 8.0, 5.0  # cells and days in a unit
BACK, AHEAD = 14, 10  # days that are observed and that are asked for
SUSCEPTIBLE, INFECTED, RECOVERED = range(3)


def neighbours(infected):
    """How many of the eight cells around each are infected; beyond the edge there is nobody."""
    padded = np.pad(infected, 1).astype(int)
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] - infected


def simulate(rng, n_days):
    """The state of every place on every day, [n_days, SIDE, SIDE]."""
    catches, recovers, far = log_uniform(rng, 0.04, 0.4), log_uniform(rng, 0.05, 0.35), log_uniform(rng, 1e-5, 1e-3)
    state = np.zeros((SIDE, SIDE), int)
    for _ in range(rng.integers(1, 5)):
        i, j = rng.integers(0, SIDE, 2)
        state[i, j] = INFECTED
    days = [state]
    for _ in range(n_days - 1):
        infected = state == INFECTED
        escapes = (1 - catches) ** neighbours(infected) * (1 - far * infected.mean())
        falls_ill = (state == SUSCEPTIBLE) & (rng.random(state.shape) > escapes)
        gets_well = infected & (rng.random(state.shape) < recovers)
        state = np.where(falls_ill, INFECTED, np.where(gets_well, RECOVERED, state))
        days.append(state)
    return np.array(days)


def draw_tasks(rng, n_tasks, n_ctx, n_tgt):
    """Two targets in three are forecasts; the others lie at places and on days that were not observed."""
    while True:
        days = simulate(rng, BACK + 40 + AHEAD)
        spreading = np.flatnonzero((days[BACK - 1 : -AHEAD] == INFECTED).sum((1, 2)) >= 8) + BACK - 1
        if len(spreading):
            break
    drawn = []
    for _ in range(n_tasks):
        today = rng.choice(spreading)
        # Places are observed on some days alone, each place on each of them once at most.
        surveyed = rng.choice(BACK, rng.integers(2, BACK + 1), replace=False)
        pairs = np.stack(np.meshgrid(surveyed, np.arange(SIDE * SIDE), indexing="ij"), -1).reshape(-1, 2)
        pairs = rng.permutation(pairs, axis=0)
        ahead = rng.random(n_tgt) < 2 / 3
        hidden = pairs[n_ctx : n_ctx + n_tgt]
        back = np.where(ahead, -rng.integers(1, AHEAD + 1, n_tgt), hidden[:, 0])
        cells = np.where(ahead, rng.integers(0, SIDE * SIDE, n_tgt), hidden[:, 1])
        back, cells = np.append(pairs[:n_ctx, 0], back), np.append(pairs[:n_ctx, 1], cells)
        i, j = cells // SIDE, cells % SIDE
        y = days[today - back, i, j]
        s = np.stack([i / CELLS, j / CELLS, -back / DAYS], -1)
        drawn.append({"family": "epidemic", "s": s, "y": y,
                      "ctx": np.arange(n_ctx), "tgt": np.arange(n_ctx, n_ctx + n_tgt)})  # fmt: skip
    return drawn


def persistence(task):
    """What nothing but looking gives: the state of the nearest observation, where the next place is as far away
    as 7.8 days (the square of the distance in place counts); right nine times in ten."""
    s, ctx, tgt = task["s"], task["ctx"], task["tgt"]
    apart = np.square(s[tgt, None, :2] - s[None, ctx, :2]).sum(-1) * 100 + np.abs(s[tgt, None, 2] - s[None, ctx, 2])
    return np.where(np.eye(3)[task["y"][ctx[apart.argmin(1)]]] == 1, 0.9, 0.05)
