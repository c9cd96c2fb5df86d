"""Writes values.csv: what SciPy says of the distributions that models predict (pip install scipy==1.17.1).

Parameters are made of a head's numbers a and b in float64 as the documentation of `models::Output` says.
Scores are sums and integrals of what defines them, not closed forms.
"""

import csv
import pathlib

import numpy as np
from scipy import integrate, stats
from scipy.special import expit, log_expit

PROBABILITIES = [1e-9, 0.025, 0.3, 0.5, 0.9, 0.999999]


def softplus(x):
    return np.logaddexp(0.0, x)


def inverse_softplus(y):
    """In float32, as a head returns it."""
    return float(np.float32(y + np.log(-np.expm1(-y)) if y > 1e-30 else np.log(y)))


class ZeroInflated:
    def __init__(self, logit, mean):
        self.zero, self.counted = expit(logit), expit(-logit)
        self.ln_zero, self.ln_counted = log_expit(logit), log_expit(-logit)
        self.count = stats.poisson(mean)

    def mean(self):
        return self.counted * self.count.mean()

    def std(self):
        return np.sqrt(self.mean() * (1 + self.zero * self.count.mean()))

    def logpmf(self, k):
        counted = self.ln_counted + self.count.logpmf(k)
        return np.where(k == 0, np.logaddexp(self.ln_zero, counted), counted)

    def cdf(self, k):
        return self.zero + self.counted * self.count.cdf(k)

    def ppf(self, p):
        k = 0
        while self.cdf(k) < p:
            k += 1
        return k


def negative_binomial(mean, shape):
    return stats.nbinom(shape, shape / (shape + mean))


def score_of_counts(distribution, y):
    top = distribution.mean() + 60 * distribution.std() + 10 + 2 * y
    if top > 3e6:
        return None
    k = np.arange(0, int(top))
    return np.sum((distribution.cdf(k) - (k >= y)) ** 2)


def score(distribution, y, low, high):
    below = integrate.quad(lambda x: distribution.cdf(x) ** 2, low, y, limit=500, epsabs=1e-13, epsrel=1e-11)[0]
    above = integrate.quad(lambda x: distribution.sf(x) ** 2, y, high, limit=500, epsabs=1e-13, epsrel=1e-11)[0]
    return below + above


def rows():
    def of(family, a, b, distribution, ys, logpdf, crps):
        yield family, a, b, "mean", 0.0, distribution.mean()
        yield family, a, b, "std", 0.0, distribution.std()
        for y in ys:
            yield family, a, b, "log_density", y, float(logpdf(y))
            yield family, a, b, "cdf", y, float(distribution.cdf(y))
            value = crps(y)
            if value is not None:
                yield family, a, b, "crps", y, float(value)
        for p in PROBABILITIES:
            yield family, a, b, "quantile", p, float(distribution.ppf(p))

    for a, b in [(0.0, 0.0), (1.5, -3.0), (-200.0, 12.0)]:
        for family, std in [("gaussian", softplus(b)), ("gaussian_log_std", np.exp(b))]:
            distribution = stats.norm(a, std)
            ys = [a, a + 0.25 * std, a - 3 * std, a + 30 * std]
            yield from of(
                family, a, b, distribution, ys, distribution.logpdf,
                lambda y: score(distribution, y, min(a, y) - 12 * std, max(a, y) + 12 * std),
            )
    for a in [0.0, 2.0, -9.0, 80.0, -1e4]:
        p = expit(a)
        distribution = stats.bernoulli(p)
        yield "bernoulli", a, 0.0, "mean", 0.0, p
        yield "bernoulli", a, 0.0, "std", 0.0, np.sqrt(p * expit(-a))
        for y in [0.0, 1.0]:
            yield "bernoulli", a, 0.0, "log_density", y, log_expit(a if y else -a)
            yield "bernoulli", a, 0.0, "cdf", y, 1.0 if y else expit(-a)
            yield "bernoulli", a, 0.0, "crps", y, expit(-a if y else a) ** 2
    for mean in [1e-6, 0.1, 1.0, 7.5, 300.0, 1.2e4, 1e9]:
        a = inverse_softplus(mean)
        mean = softplus(a)
        distribution = stats.poisson(mean)
        std = np.sqrt(mean)
        ys = sorted({0.0, 1.0, np.floor(mean), np.floor(mean + 2 * std), max(0.0, np.floor(mean - 3 * std))})
        yield from of(
            "poisson", a, 0.0, distribution, ys, distribution.logpmf, lambda y: score_of_counts(distribution, y)
        )
        if mean < 1e6:
            for logit in [-8.0, 0.0, 3.0]:
                inflated = ZeroInflated(logit, mean)
                yield from of(
                    "zero_inflated_poisson", logit, a, inflated, ys, inflated.logpmf,
                    lambda y: score_of_counts(inflated, y),
                )
    for mean, shape in [(0.5, 0.2), (3.0, 1.0), (40.0, 7.0), (1e3, 1e5), (2e4, 0.05), (1e9, 50.0), (1e9, 1e9)]:
        a, b = inverse_softplus(mean), inverse_softplus(shape)
        mean, shape = softplus(a), softplus(b)
        distribution = negative_binomial(mean, shape)
        std = np.sqrt(mean + mean * mean / shape)
        ys = sorted({0.0, 1.0, np.floor(mean), np.floor(mean + 2 * std)})
        yield from of(
            "negative_binomial", a, b, distribution, ys, distribution.logpmf,
            lambda y: score_of_counts(distribution, y),
        )
    for alpha, beta in [(1.0, 1.0), (0.5, 0.5), (2.0, 5.0), (0.01, 3.0), (90.0, 2.5), (1e3, 1e4), (1e6, 1e6), (1e6, 0.3)]:
        a, b = inverse_softplus(alpha), inverse_softplus(beta)
        alpha, beta = softplus(a), softplus(b)
        distribution = stats.beta(alpha, beta)
        mean, std = distribution.mean(), distribution.std()
        ys = [y for y in [1e-3, 0.2, 0.7, mean, mean - 2 * std, mean + std] if 1e-9 < y < 1 - 1e-9]
        narrow = [max(0.0, mean - 40 * std), min(1.0, mean + 40 * std)]
        yield from of(
            "beta", a, b, distribution, ys, distribution.logpdf,
            lambda y: score(distribution, y, *narrow) if narrow[0] <= y <= narrow[1] else None,
        )


path = pathlib.Path(__file__).with_name("values.csv")
with path.open("w", newline="") as file:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["family", "a", "b", "what", "at", "value"])
    for family, a, b, what, at, value in rows():
        if np.isfinite(value):
            writer.writerow([family, repr(float(a)), repr(float(b)), what, repr(float(at)), repr(float(value))])
