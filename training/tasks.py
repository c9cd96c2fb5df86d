"""Regression tasks drawn from Gaussian processes on a line, and the exact GP answer.

A task is a noisy sample of a random function at `n_ctx + n_tgt` points, split into
context and targets. One unit of the coordinate is about a quarter of the record.

`Line` has the coordinate alone. `Series` is for streams with a known cycle, such as a day
or a year: a point is (time, cos, sin of the cycle's phase). `Record` is what a user brings
to a regression with such a cycle: the same points, scaled as the `regression` example
scales a record. `Field` is a place on a map and its nearest observations. `Epidemic` has classes in
place of numbers. `Image` is a patch of a photograph.
"""

import csv
import gzip

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.spatial import cKDTree
from scipy.special import ive

import epidemic
import image
from sampling import log_uniform

FAMILIES = {  # how often each is drawn
    "rbf": 0.12,
    "matern32": 0.12,
    "matern52": 0.12,
    "periodic": 0.14,
    "quasi_periodic": 0.2,
    "smooth_plus_periodic": 0.3,
}


# --- kernels ----------------------------------------------------------------------------


def rbf(d, length):
    return np.exp(-0.5 * (d / length) ** 2)


def matern32(d, length):
    r = np.sqrt(3.0) * d / length
    return (1 + r) * np.exp(-r)


def matern52(d, length):
    r = np.sqrt(5.0) * d / length
    return (1 + r + r * r / 3) * np.exp(-r)


def periodic(d, period, length):
    """exp(-2 sin^2(pi d/p) / l^2) without its constant part and scaled back to variance 1.

    A smooth cycle (large l) would otherwise be nearly all constant. As l grows this
    tends to a pure sinusoid. The constant Fourier coefficient is e^{-z} I_0(z), z = 1/l^2.
    """
    constant = ive(0, length**-2)
    k = np.exp(-2 * np.square(np.sin(np.pi * d / period) / length))
    return (k - constant) / (1 - constant)


SMOOTH = {"rbf": rbf, "matern32": matern32, "matern52": matern52}


def draw_kernel(rng, shortest_period):
    """The family and a random covariance function of the distance, variance around 1."""
    family = rng.choice(list(FAMILIES), p=list(FAMILIES.values()))
    variance = log_uniform(rng, 0.5, 2.0)
    if family in SMOOTH:
        length = log_uniform(rng, 0.1, 2.0)
        return family, lambda d: variance * SMOOTH[family](d, length)
    period = log_uniform(rng, shortest_period, 1.5)
    roughness = log_uniform(rng, 0.5, 3.0)
    if family == "periodic":
        return family, lambda d: variance * periodic(d, period, roughness)
    # The shape of the cycle may drift, over at least about a period.
    drift = log_uniform(rng, max(0.5, period), 10.0)
    cycle = lambda d: periodic(d, period, roughness) * rbf(d, drift)
    if family == "quasi_periodic":
        return family, lambda d: variance * cycle(d)
    smooth = SMOOTH[rng.choice(list(SMOOTH))]
    length = log_uniform(rng, 0.3, 3.0)
    share = rng.uniform(0.05, 0.95)
    return family, lambda d: variance * (share * cycle(d) + (1 - share) * smooth(d, length))


# --- points -----------------------------------------------------------------------------


def draw_points(rng, n, length):
    """Sorted points: a regular grid, a jittered one, or uniformly random."""
    kind = rng.integers(3)
    if kind == 2:
        return np.sort(rng.uniform(0, length, n))
    step = length / n
    jitter = rng.uniform(-0.5, 0.5, n) * step if kind == 1 else 0.0
    return np.arange(n) * step + jitter


def draw_split(rng, n_ctx, n_tgt):
    """Indices of context and targets. One task in three has a gap: a run of
    neighbouring points, possibly at an end, that are all targets."""
    n = n_ctx + n_tgt
    score = rng.random(n)
    if rng.random() < 1 / 3:
        width = rng.integers(n_tgt // 4, n_tgt + 1)
        start = rng.integers(0, n - width + 1)
        score[start : start + width] += 1.0
    order = np.argsort(score)
    return order[:n_ctx], order[n_ctx:]


def draw_task(rng, n_ctx, n_tgt):
    length = rng.uniform(3.0, 5.0)
    # A cycle with fewer than six context points is mostly not identifiable.
    shortest_period = np.clip(6 * length / n_ctx, 0.2, 1.4)
    family, kernel = draw_kernel(rng, shortest_period)
    # Around zero, for networks that see the coordinate itself.
    s = draw_points(rng, n_ctx + n_tgt, length) - length / 2
    noise = log_uniform(rng, 0.01, 0.3)
    gram = kernel(np.abs(s[:, None] - s[None, :]))
    gram[np.diag_indices_from(gram)] += noise**2
    y = np.linalg.cholesky(gram) @ rng.standard_normal(len(s))
    ctx, tgt = draw_split(rng, n_ctx, n_tgt)
    return {"family": family, "s": s, "y": y, "gram": gram, "ctx": ctx, "tgt": tgt}


# --- series with a known cycle ----------------------------------------------------------


def draw_series_kernel(rng):
    """The family and a covariance function of the distances in time and in phase (turns)."""
    family = rng.choice(list(Series.families), p=list(Series.families.values()))
    variance = log_uniform(rng, 0.5, 2.0)
    smooth = SMOOTH[rng.choice(list(SMOOTH))]
    length = log_uniform(rng, 0.3, 3.0)
    roughness = log_uniform(rng, 0.5, 3.0)
    drift = log_uniform(rng, 1.0, 20.0)  # the cycle's shape may change over time
    share = {"smooth": 0.0, "cycle": 1.0, "smooth_plus_cycle": rng.uniform(0.1, 0.95)}[family]

    def kernel(d, turns):
        cycle = share * periodic(turns, 1.0, roughness) * rbf(d, drift) if share else 0.0
        return variance * (cycle + ((1 - share) * smooth(d, length) if share < 1 else 0.0))

    return family, kernel


def draw_series_tasks(rng, n_tasks, n_ctx, n_tgt):
    """Tasks with points and kernel in common, whose covariance is factorised once to draw them."""
    length = rng.uniform(3.0, 5.0)
    family, kernel = draw_series_kernel(rng)
    if rng.random() < 0.5:  # part of a record is missing
        time = draw_points(rng, n_ctx + n_tgt, length)
        splits = [draw_split(rng, n_ctx, n_tgt) for _ in range(n_tasks)]
    else:  # the record so far; targets within and up to one unit beyond
        seen = length * rng.uniform(0.1, 1.0)
        targets = rng.uniform(0, min(seen + 1.0, length), n_tgt)
        time = np.concatenate([draw_points(rng, n_ctx, seen), targets])
        splits = [(np.arange(n_ctx), np.arange(n_ctx, n_ctx + n_tgt))] * n_tasks
    time -= length / 2
    phase = time * log_uniform(rng, 2.0, 60.0) / length + rng.random()  # cycles per record
    angle = 2 * np.pi * phase
    noise = log_uniform(rng, 0.01, 0.3)
    gram = kernel(np.abs(time[:, None] - time[None, :]), phase[:, None] - phase[None, :])
    gram[np.diag_indices_from(gram)] += noise**2
    s = np.stack([time, np.cos(angle), np.sin(angle)], -1)
    y = rng.standard_normal((n_tasks, len(s))) @ np.linalg.cholesky(gram).T
    return [
        {"family": family, "s": s, "y": y[i], "gram": gram, "ctx": ctx, "tgt": tgt}
        for i, (ctx, tgt) in enumerate(splits)
    ]


# --- records with a known cycle, scaled as a user scales them ---------------------------


def draw_record_kernel(rng):
    """The family and a covariance function of the distances in time and in phase (turns);
    variance 1, because the values are scaled anyway."""
    family = rng.choice(list(Record.families), p=list(Record.families.values()))
    smooths = [SMOOTH[rng.choice(list(SMOOTH))] for _ in range(2)]
    lengths = [log_uniform(rng, 0.3, 4.0), log_uniform(rng, 0.12, 1.0)]
    slow = rng.choice([0.0, 1.0, rng.uniform(0.2, 0.9)], p=[0.2, 0.4, 0.4])
    roughness = log_uniform(rng, 0.4, 3.0)
    drift = log_uniform(rng, 1.5, 60.0)  # the cycle's shape may change over time
    share = {"smooth": 0.0, "cycle": 1.0, "smooth_plus_cycle": rng.uniform(0.05, 0.98)}[family]

    def kernel(d, turns):
        k = 0.0
        for part, smooth, length in zip((slow, 1 - slow), smooths, lengths):
            if part > 0 and share < 1:
                k = k + (1 - share) * part * smooth(d, length)
        return k + (share * periodic(turns, 1.0, roughness) * rbf(d, drift) if share else 0.0)

    return family, kernel


def draw_record_points(rng, n, length):
    """Sorted times and cycles per record. Mostly a regular grid with so many steps a cycle,
    such as months of years, of which some may be missing."""
    if rng.random() < 0.7:
        n_grid = n if rng.random() < 0.5 else rng.integers(n, max(n, 200) + 1)
        time = np.sort(rng.choice(n_grid, n, replace=False)) * (length / n_grid)
        return time, n_grid / rng.choice([4, 6, 7, 8, 10, 12, 12, 12, 16, 20, 24, 30])
    return draw_points(rng, n, length), log_uniform(rng, 2.0, min(40.0, n / 3))


def draw_record_split(rng, n_ctx, n_tgt):
    """Scattered targets, or a gap and scattered ones; one gap in four is a forecast."""
    n = n_ctx + n_tgt
    score = rng.random(n)
    if rng.random() < 0.6:
        width = round(log_uniform(rng, 4, min(n_tgt, n_ctx) + 0.49))
        start = n - width if rng.random() < 0.25 else rng.integers(0, n - width + 1)
        score[start : start + width] += 1.0
    order = np.argsort(score)
    return order[:n_ctx], order[n_ctx:]


def scale_record(time, phase, y, ctx, degree, harmonics):
    """A polynomial and harmonics of the cycle, fitted to the context by least squares, and the
    context's deviation from them."""
    turns = 2 * np.pi * phase[:, None] * np.arange(1, harmonics + 1)
    columns = np.concatenate([np.vander(time, degree + 1), np.cos(turns), np.sin(turns)], -1)
    trend = columns @ np.linalg.lstsq(columns[ctx], y[ctx], rcond=None)[0]
    return trend, np.sqrt(np.square(y - trend)[ctx].mean())


def draw_record_tasks(rng, n_tasks, n_ctx, n_tgt):
    """Tasks with points and kernel in common. The oracle knows the values before scaling:
    `trend` and `unit` lead to what the network sees."""
    length = rng.uniform(3.0, 5.0)
    family, kernel = draw_record_kernel(rng)
    time, cycles = draw_record_points(rng, n_ctx + n_tgt, length)
    time = time - (time[0] + time[-1]) / 2
    phase = time * cycles / length + rng.random()
    noise = log_uniform(rng, 0.02, 0.6)
    gram = kernel(np.abs(time[:, None] - time[None, :]), phase[:, None] - phase[None, :])
    gram[np.diag_indices_from(gram)] += noise**2
    s = np.stack([time, np.cos(2 * np.pi * phase), np.sin(2 * np.pi * phase)], -1)
    draws = rng.standard_normal((n_tasks, len(s))) @ np.linalg.cholesky(gram).T
    drawn = []
    for y in draws:
        ctx, tgt = draw_record_split(rng, n_ctx, n_tgt)
        degree = rng.choice(3, p=[0.2, 0.6, 0.2] if n_ctx >= 20 else [0.5, 0.5, 0.0])
        harmonics = min(rng.choice(4, p=[0.3, 0.15, 0.4, 0.15]), n_ctx // 16)
        trend, unit = scale_record(time, phase, y, ctx, degree, harmonics)
        drawn.append({"family": family, "s": s, "y": (y - trend) / unit, "gram": gram, "ctx": ctx, "tgt": tgt,
                      "trend": trend, "unit": unit})  # fmt: skip
    return drawn


# --- places of a field, each with its nearest observations ------------------------------

N_WAVES = 24


def draw_clouds(rng, points, share):
    """Whether each point lies under a cloud: where a sum of random waves is among its highest."""
    size = log_uniform(rng, 0.1, 1.0) * np.ptp(points, 0).max()
    waves = rng.standard_normal((2, N_WAVES)) * (2 / size)
    height = np.cos(points @ waves + rng.uniform(0, 2 * np.pi, N_WAVES)).sum(-1)
    return height > np.quantile(height, 1 - share)


def draw_places(rng, n_ctx, n_tgt):
    """The nearest observations of a few neighbouring places, and these: under a cloud, which
    nothing was seen through, or between observations. In one task of five all lie anywhere."""
    if rng.random() < 0.2:
        return rng.uniform(0, 1, (n_ctx + n_tgt, 2))
    n = 6 * (n_ctx + n_tgt)
    if rng.random() < 0.7:  # pixels, or every so many of them
        side = int(np.ceil(n**0.5))
        points = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2).astype(float)
    else:
        points = rng.uniform(0, n**0.5, (n, 2))
    cloudy = draw_clouds(rng, points, rng.uniform(0.1, 0.6))
    hidden = rng.random() < 0.7
    observed = ~cloudy if hidden else rng.random(len(points)) > rng.uniform(0.1, 0.7)
    if observed.sum() < n_ctx + n_tgt or (~observed).sum() < n_tgt:
        return draw_places(rng, n_ctx, n_tgt)
    asked = points[~observed]
    first = asked[rng.integers(len(asked))]
    targets = asked[np.argsort(np.square(asked - first).sum(-1))[:n_tgt]]
    seen = points[observed]
    context = seen[np.argsort(np.square(seen - targets.mean(0)).sum(-1))[:n_ctx]]
    return np.concatenate([context, targets])


def draw_field_kernel(rng):
    """The family and a covariance of the distance, variance 1; one unit is the root mean
    square distance of the context from its middle."""
    family = rng.choice(list(Field.families), p=list(Field.families.values()))
    length, far = log_uniform(rng, 0.1, 20.0), log_uniform(rng, 1.0, 20.0)
    share = rng.uniform(0.2, 0.9)
    matern12 = lambda d, length: np.exp(-d / length)
    return family, {
        "matern12": lambda d: matern12(d, length),
        "matern32": lambda d: matern32(d, length),
        "matern52": lambda d: matern52(d, length),
        "rbf": lambda d: rbf(d, min(length, 3.0)),
        "rough_plus_smooth": lambda d: share * matern12(d, length) + (1 - share) * matern32(d, far),
    }[family]


def draw_field_tasks(rng, n_tasks, n_ctx, n_tgt):
    """Values are scaled by the mean and the deviation of the context."""
    s = draw_places(rng, n_ctx, n_tgt)
    s = s - s[:n_ctx].mean(0)
    s = s / np.square(s[:n_ctx]).sum(-1).mean() ** 0.5
    family, kernel = draw_field_kernel(rng)
    along = s.copy()
    if rng.random() < 0.5:  # longer one way than the other
        angle, ratio = rng.uniform(0, np.pi), log_uniform(rng, 1.0, 3.0)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        along = s @ turn * [ratio**0.5, ratio**-0.5]
    distance = np.sqrt(np.square(along[:, None] - along).sum(-1))
    noise = 1e-3 if rng.random() < 0.3 else log_uniform(rng, 0.01, 0.7)
    gram = kernel(distance)
    gram[np.diag_indices_from(gram)] += noise**2
    ctx, tgt = np.arange(n_ctx), np.arange(n_ctx, n_ctx + n_tgt)
    drawn = []
    for y in rng.standard_normal((n_tasks, len(s))) @ np.linalg.cholesky(gram).T:
        level, unit = y[ctx].mean(), y[ctx].std()
        drawn.append({"family": family, "s": s, "y": (y - level) / unit, "gram": gram, "ctx": ctx, "tgt": tgt,
                      "trend": np.full(len(s), level), "unit": unit})  # fmt: skip
    return drawn


class Field:
    dim, phase = 2, False
    n_targets = 16
    families = {"matern12": 0.4, "matern32": 0.2, "matern52": 0.1, "rbf": 0.1, "rough_plus_smooth": 0.2}
    buckets = {(4, 64): 0.3, (65, 128): 0.7}
    times = {(4, 64): 2}
    at_once = 4
    draw = draw_field_tasks


# --- the same of a scene that was measured ----------------------------------------------


class Scene:
    """Places of one measured field, hidden under drawn clouds: to go on with what was trained on
    `Field`, whose tasks stay among these."""

    limits = Field  # that a checkpoint promises: those of the tasks that anyone can draw
    dim, phase = 2, False
    n_targets = 16
    families = {"scene": 0.7, **{name: 0.3 * share for name, share in Field.families.items()}}
    buckets = {(65, 128): 0.4, (257, 512): 0.6}
    times = {(65, 128): 4}
    at_once = 1

    def load(path):
        """Rows `lon,lat,temperature,role` of a CSV file, those whose role is `train`."""
        with (gzip.open if path.endswith(".gz") else open)(path, "rt") as file:
            rows = [row for row in csv.DictReader(file) if row["role"] == "train"]
        places = np.array([[float(row["lon"]), float(row["lat"])] for row in rows])
        places[:, 0] *= np.cos(np.radians(places[:, 1].mean()))
        Scene.places, Scene.tree = places, cKDTree(places)
        Scene.values = np.array([float(row["temperature"]) for row in rows])

    def draw(rng, n_tasks, n_ctx, n_tgt):
        if rng.random() > Scene.families["scene"]:
            return draw_field_tasks(rng, n_tasks, n_ctx, n_tgt)
        around = Scene.tree.query(Scene.places[rng.integers(len(Scene.places))], 16 * (n_ctx + n_tgt))[1]
        places, values = Scene.places[around], Scene.values[around]
        cloudy = draw_clouds(rng, places, rng.uniform(0.1, 0.6))
        if rng.random() < 0.15:
            cloudy = rng.random(len(places)) < rng.uniform(0.1, 0.7)
        hidden, seen = np.flatnonzero(cloudy), np.flatnonzero(~cloudy)
        near = hidden[hidden < len(places) // 2]  # the others lie at the edge of what is looked at
        if len(hidden) < n_tgt or not len(near):
            return Scene.draw(rng, n_tasks, n_ctx, n_tgt)
        first = places[rng.choice(near)]
        tgt = hidden[np.argsort(np.square(places[hidden] - first).sum(-1))[:n_tgt]]
        ctx = seen[np.argsort(np.square(places[seen] - places[tgt].mean(0)).sum(-1))[:n_ctx]]
        s = places[np.concatenate([ctx, tgt])]
        s = s - s[:n_ctx].mean(0)
        y = values[np.concatenate([ctx, tgt])]
        level, unit = y[:n_ctx].mean(), max(y[:n_ctx].std(), 1e-4)
        return [{"family": "scene", "s": s / np.square(s[:n_ctx]).sum(-1).mean() ** 0.5, "y": (y - level) / unit,
                 "gram": None, "ctx": np.arange(n_ctx), "tgt": np.arange(n_ctx, n_ctx + n_tgt)}]  # fmt: skip


# --- batches ----------------------------------------------------------------------------

# Context sizes are padded to one of three lengths: three compilations instead of one, and
# no time spent on the padding of small tasks. The number is how often.


class Line:
    dim, phase = 1, False
    n_targets = 48
    families = FAMILIES
    buckets = {(3, 32): 0.2, (33, 64): 0.3, (65, 128): 0.5}
    times = {}
    at_once = 1

    def draw(rng, n_tasks, n_ctx, n_tgt):
        return [draw_task(rng, n_ctx, n_tgt) for _ in range(n_tasks)]


class Series:
    dim, phase = 3, True
    n_targets = 48
    families = {"smooth": 0.15, "cycle": 0.15, "smooth_plus_cycle": 0.7}
    buckets = {(3, 32): 0.2, (33, 128): 0.45, (129, 512): 0.35}
    times = {}
    at_once = 4
    draw = draw_series_tasks


class Record:
    dim, phase = 3, True
    n_targets = 48
    families = {"smooth": 0.1, "cycle": 0.1, "smooth_plus_cycle": 0.8}
    buckets = {(10, 48): 0.4, (49, 128): 0.6}
    times = {(10, 48): 2}  # twice as many tasks, so that a batch costs about the same
    at_once = 4
    draw = draw_record_tasks


class Epidemic:
    """Classes, not numbers: in place of the exact process stands the state of the nearest observation."""

    dim, phase, n_classes = 3, False, 3
    n_targets = 64
    families = {"epidemic": 1.0}
    buckets = {(16, 96): 0.4, (97, 256): 0.6}
    times = {(16, 96): 2}
    at_once = 4
    draw = epidemic.draw_tasks


class Image:
    """In place of the exact process, which photographs do not come from, stands one with their covariance."""

    oracle, oracle_is_exact = "a GP with the average covariance of the patches", False
    dim, phase = 2, False
    n_targets = 64
    min_std = 0.05  # three of 256 greys: what is flat would be worth any number
    families = image.TRAINED_ON
    buckets = {(8, 64): 0.4, (65, 128): 0.3, (129, 288): 0.3}
    times = {(8, 64): 4, (65, 128): 2}
    at_once = 4

    @classmethod
    def draw(cls, rng, n_tasks, n_ctx, n_tgt):
        return image.draw_tasks(rng, cls.families, cls.draw_patch, n_tasks, n_ctx, n_tgt)

    def draw_patch(rng, name):
        return image.draw_varied_patch(rng, name, validates=False)


class ImageValidation(Image):
    def draw_patch(rng, name):
        return image.draw_varied_patch(rng, name, validates=True)


class ImageShown(Image):
    families, draw_patch = image.SHOWN, image.draw_patch


Image.validation, Image.fresh = ImageValidation, ImageShown

TASKS = {
    "line": Line, "series": Series, "record": Record, "field": Field, "scene": Scene, "epidemic": Epidemic,
    "image": Image,
}  # fmt: skip


def n_classes(kind):
    """0 where values are numbers."""
    return getattr(kind, "n_classes", 0)


def draw_batch(rng, n_batch, n_ctx_range, n_tgt, kind=Line, padded=None):
    """Context padded to the upper end of the range, or to `padded`, with a mask. Also the tasks."""
    low, high = n_ctx_range
    padded = padded or high
    n_values = n_classes(kind) or 1
    batch = {
        "s_ctx": np.zeros((n_batch, padded, kind.dim), np.float32),
        "f_ctx": np.zeros((n_batch, padded, n_values), np.float32),
        "mask_ctx": np.zeros((n_batch, padded), bool),
        "s_test": np.zeros((n_batch, n_tgt, kind.dim), np.float32),
        "f_test": np.zeros((n_batch, n_tgt, n_values), np.float32),
    }
    tasks = []
    while len(tasks) < n_batch:
        n_ctx = rng.integers(low, high + 1)
        tasks += kind.draw(rng, min(kind.at_once, n_batch - len(tasks)), n_ctx, n_tgt)
    for b, task in enumerate(tasks):
        ctx, tgt = task["ctx"], task["tgt"]
        n_ctx = len(ctx)
        batch["s_ctx"][b, :n_ctx] = task["s"].reshape(-1, kind.dim)[ctx]
        y = np.eye(n_values)[task["y"]] if n_values > 1 else task["y"][:, None]
        batch["f_ctx"][b, :n_ctx] = y[ctx]
        batch["mask_ctx"][b, :n_ctx] = True
        batch["s_test"][b] = task["s"].reshape(-1, kind.dim)[tgt]
        batch["f_test"][b] = y[tgt]
    return batch, tasks


# --- how good an answer is ----------------------------------------------------------------

Z95 = 1.959964  # half of the width of the central 95%, in standard deviations


def score(y, mean, std):
    """The mean log-likelihood, the mean squared error, and the coverage of the 95% interval."""
    inside = np.abs(y - mean) < Z95 * std
    return log_density(y, mean, std).mean(), np.square(y - mean).mean(), inside.mean()


def score_classes(y, p):
    """The mean log-likelihood, the Brier score, and how often the most likely class is right."""
    right = np.take_along_axis(p, y[..., None], -1)[..., 0]
    brier = np.square(p).sum(-1) - 2 * right + 1
    return np.log(right).mean(), brier.mean(), (p.argmax(-1) == y).mean()


# --- the best possible answer -----------------------------------------------------------


def oracle(task):
    """Predictive mean and std of the target observations, true kernel and noise known; where they are
    not, those of the context."""
    if task["gram"] is None:
        return np.zeros(len(task["tgt"])), np.ones(len(task["tgt"]))
    gram, ctx, tgt = task["gram"], task["ctx"], task["tgt"]
    trend, unit = task.get("trend", np.zeros(len(gram))), task.get("unit", 1.0)
    factor = cho_factor(gram[np.ix_(ctx, ctx)], lower=True)
    cross = gram[np.ix_(ctx, tgt)]
    mean = cross.T @ cho_solve(factor, task["y"][ctx] * unit + trend[ctx])
    var = np.diag(gram)[tgt] - np.einsum("ct,ct->t", cross, cho_solve(factor, cross))
    return (mean - trend[tgt]) / unit, np.sqrt(var) / unit


def expected(batch, drawn, kind):
    """The batch with the oracle's mean and variance in place of the targets where the oracle is exact: the
    gradients of the loss are the same on average and have less noise. `var_test` is 0 beside targets that were
    drawn or measured."""
    if n_classes(kind):
        return batch
    is_exact = getattr(kind, "oracle_is_exact", True)
    batch = {**batch, "f_test": batch["f_test"].copy(), "var_test": np.zeros_like(batch["f_test"])}
    for b, task in enumerate(drawn):
        if task["gram"] is not None and is_exact:
            mean, std = oracle(task)
            batch["f_test"][b, :, 0], batch["var_test"][b, :, 0] = mean, np.square(std)
    return batch


def log_density(y, mean, std):
    return -0.5 * np.square((y - mean) / std) - np.log(std) - 0.5 * np.log(2 * np.pi)
