//! Special functions in f64, accurate for parameters from 1e-38 to 1e38.
//!
//! Densities are written with the two functions of C. Loader ("Fast and accurate computation of binomial
//! probabilities", 2000), which do not cancel where counts are large; incomplete functions as series and
//! continued fractions (DLMF 8.7.1, 8.9.2, 8.17.22), and by their uniform expansions (DLMF 8.12; N. Temme,
//! "The asymptotic expansion of the incomplete gamma functions", 1979) where those would take long.

use std::f64::consts::{FRAC_1_SQRT_2, PI, TAU};

/// From here on the uniform expansion of the incomplete gamma function is exact to 1e-13.
const LARGE_GAMMA: f64 = 1e4;

/// From here on the continued fraction of the incomplete beta function takes more than 1e5 terms.
const LARGE_BETA: f64 = 1e10;

/// More terms than any series takes here.
const MAX_TERMS: usize = 1 << 19;

/// A probability and that of the rest, which rounding to 1 would lose.
#[derive(Clone, Copy, Debug)]
pub struct Level {
    pub below: f64,
    pub above: f64,
}

impl Level {
    pub fn new(below: f64) -> Self {
        Self { below, above: 1.0 - below }
    }

    /// Whether a distribution has reached this level, from its probabilities below and above a number.
    pub fn is_reached(self, cdf: Level) -> bool {
        if self.below <= 0.5 { cdf.below >= self.below } else { cdf.above <= self.above }
    }
}

/// `log(1 + e^x)`.
pub fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// `1 / (1 + e^-x)`.
pub fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 { 1.0 / (1.0 + (-x).exp()) } else { x.exp() / (1.0 + x.exp()) }
}

pub fn normal_density(z: f64) -> f64 {
    (-0.5 * z * z).exp() / TAU.sqrt()
}

pub fn normal_cdf(z: f64) -> f64 {
    0.5 * libm::erfc(-z * FRAC_1_SQRT_2)
}

/// The number below which a standard normal number is with this probability.
pub fn normal_quantile(level: Level) -> f64 {
    if level.below > 0.5 {
        return -normal_quantile(Level { below: level.above, above: level.below });
    }
    let p = level.below;
    // Abramowitz and Stegun 26.2.23, then two steps of Halley's method.
    let t = (-2.0 * p.ln()).sqrt();
    let top = 2.515517 + t * (0.802853 + t * 0.010328);
    let mut z = top / (1.0 + t * (1.432788 + t * (0.189269 + t * 0.001308))) - t;
    for _ in 0..2 {
        let density = normal_density(z);
        if density == 0.0 {
            break;
        }
        let step = (normal_cdf(z) - p) / density;
        z -= step / (1.0 + 0.5 * z * step);
    }
    z
}

/// `ln Γ(x + 1)` less Stirling's formula, `x ln x - x + ln(2 π x) / 2`.
fn stirling_error(x: f64) -> f64 {
    if x <= 15.0 {
        return libm::lgamma(x + 1.0) - (x + 0.5) * x.ln() + x - 0.5 * TAU.ln();
    }
    let square = x * x;
    let coefficients = [1.0 / 1188.0, -1.0 / 1680.0, 1.0 / 1260.0, -1.0 / 360.0, 1.0 / 12.0];
    coefficients.into_iter().reduce(|sum, coefficient| sum / square + coefficient).unwrap_or(0.0) / x
}

/// `x ln(x / mean) + mean - x`.
fn deviance(x: f64, mean: f64) -> f64 {
    if x == 0.0 {
        return mean;
    }
    let apart = x - mean;
    if apart.abs() >= 0.1 * (x + mean) {
        return x * (x / mean).ln() - apart;
    }
    let v = apart / (x + mean);
    let mut sum = apart * v;
    let mut power = 2.0 * x * v;
    for j in 1..1000 {
        power *= v * v;
        let next = sum + power / f64::from(2 * j + 1);
        if next == sum {
            break;
        }
        sum = next;
    }
    sum
}

/// `x ln(mean) - mean - ln Γ(x + 1)`: the probability of a Poisson count, of any `x >= 0`.
pub fn ln_poisson(x: f64, mean: f64) -> f64 {
    if x == 0.0 {
        return -mean;
    }
    -stirling_error(x) - deviance(x, mean) - 0.5 * (TAU * x).ln()
}

/// `ln(Γ(a + b + 1) / (Γ(a + 1) Γ(b + 1)) x^a y^b)` with `y = 1 - x`: the probability of `a` of `a + b`, of
/// any `a, b >= 0`.
pub fn ln_binomial(a: f64, b: f64, x: f64, y: f64) -> f64 {
    match (a == 0.0, b == 0.0) {
        (true, true) => 0.0,
        (true, false) => b * ln_rest(x, y),
        (false, true) => a * ln_rest(y, x),
        (false, false) => {
            let n = a + b;
            let errors = stirling_error(n) - stirling_error(a) - stirling_error(b);
            errors - deviance(a, n * x) - deviance(b, n * y) + 0.5 * (n / a / b / TAU).ln()
        }
    }
}

/// `ln(1 - x)` with `y = 1 - x`: the logarithm of a number near 1 is that of the difference.
fn ln_rest(x: f64, y: f64) -> f64 {
    if x < 0.5 { (-x).ln_1p() } else { y.ln() }
}

/// The regularised incomplete gamma functions, `P(a, x)` below and `Q(a, x)` above.
pub fn gamma_cdf(a: f64, x: f64) -> Level {
    if x <= 0.0 || x == f64::INFINITY {
        let below = if x > 0.0 { 1.0 } else { 0.0 };
        return Level { below, above: 1.0 - below };
    }
    if a >= LARGE_GAMMA {
        return gamma_cdf_large(a, x);
    }
    let scale = ln_poisson(a, x).exp();
    if x < a + 1.0 {
        let (mut term, mut sum) = (1.0, 1.0);
        for n in 1..MAX_TERMS {
            term *= x / (a + n as f64);
            sum += term;
            if term <= sum * f64::EPSILON {
                break;
            }
        }
        return Level::new((scale * sum).min(1.0));
    }
    let step = |n: f64| (n * (a - n), x + 1.0 - a + 2.0 * n);
    let above = (scale * a / continued_fraction(x + 1.0 - a, step)).min(1.0);
    Level { below: 1.0 - above, above }
}

fn gamma_cdf_large(a: f64, x: f64) -> Level {
    let half_square = deviance(a, x);
    let eta = (2.0 * half_square / a).sqrt().copysign(x - a);
    let w = (2.0 * half_square).sqrt().copysign(x - a);
    // Of larger eta the exponential is 0.
    let rest = if eta.abs() < 1.0 {
        let c0 = -1.0 / 3.0 + eta * (1.0 / 12.0 + eta * (-2.0 / 135.0 + eta * (1.0 / 864.0 + eta / 2835.0)));
        let c1 = -1.0 / 540.0 + eta * (-1.0 / 288.0 + eta * 25.0 / 12096.0);
        (-half_square).exp() / (TAU * a).sqrt() * (c0 + c1 / a)
    } else {
        0.0
    };
    Level { below: (normal_cdf(w) - rest).clamp(0.0, 1.0), above: (normal_cdf(-w) + rest).clamp(0.0, 1.0) }
}

/// The regularised incomplete beta function `I_x(a, b)` below and `I_y(b, a)` above, with `y = 1 - x`.
pub fn beta_cdf(a: f64, b: f64, x: f64, y: f64) -> Level {
    if x <= 0.0 || y <= 0.0 {
        let below = if x <= 0.0 { 0.0 } else { 1.0 };
        return Level { below, above: 1.0 - below };
    }
    if a + b >= LARGE_BETA {
        return beta_cdf_large(a, b, x, y);
    }
    if x * (a + b + 2.0) > a + 1.0 {
        let Level { below, above } = beta_cdf_series(b, a, y, x);
        return Level { below: above, above: below };
    }
    beta_cdf_series(a, b, x, y)
}

/// Where `x` is below the mean, about.
fn beta_cdf_series(a: f64, b: f64, x: f64, y: f64) -> Level {
    let scale = (ln_binomial(a, b, x, y) + (b / (a + b)).ln()).exp();
    let step = |n: f64| {
        let m = (0.5 * n).floor();
        let numerator = if n % 2.0 == 0.0 {
            m * (b - m) * x / ((a + (n - 1.0)) * (a + n))
        } else {
            -(a + m) * (a + b + m) * x / ((a + (n - 1.0)) * (a + n))
        };
        (numerator, 1.0)
    };
    Level::new((scale / continued_fraction(1.0, step)).min(1.0))
}

fn beta_cdf_large(a: f64, b: f64, x: f64, y: f64) -> Level {
    if a.min(b) < 1e5 {
        // One of many: the count of rare events (J. Wise, "The incomplete beta function as a contour integral",
        // 1950).
        return if a <= b {
            gamma_cdf(a, -(b + 0.5 * (a - 1.0)) * ln_rest(x, y))
        } else {
            let Level { below, above } = gamma_cdf(b, -(a + 0.5 * (b - 1.0)) * ln_rest(y, x));
            Level { below: above, above: below }
        };
    }
    let n = a + b;
    // The difference of the smaller ones, which does not cancel.
    let apart = if y < x { b - n * y } else { n * x - a };
    let w = (2.0 * (deviance(a, n * x) + deviance(b, n * y))).sqrt().copysign(apart);
    let rest =
        if w.abs() < 0.01 { (b - a) / (3.0 * (a * n).sqrt() * b.sqrt()) } else { 1.0 / w - (a / n * b).sqrt() / apart };
    let rest = normal_density(w) * rest;
    Level { below: (normal_cdf(w) + rest).clamp(0.0, 1.0), above: (normal_cdf(-w) - rest).clamp(0.0, 1.0) }
}

/// `b + a_1 / (b_1 + a_2 / (b_2 + ..))` by the method of Lentz and Thompson; `step` returns `(a_n, b_n)`.
fn continued_fraction(b: f64, step: impl Fn(f64) -> (f64, f64)) -> f64 {
    const TINY: f64 = 1e-300;
    let not_zero = |x: f64| if x.abs() < TINY { TINY } else { x };
    let mut value = not_zero(b);
    let (mut c, mut d) = (value, 0.0);
    for n in 1..MAX_TERMS {
        let (a, b) = step(n as f64);
        d = 1.0 / not_zero(b + a * d);
        c = not_zero(b + a / c);
        value *= c * d;
        // The last bits may go back and forth for ever.
        if (c * d - 1.0).abs() <= 2.0 * f64::EPSILON {
            break;
        }
    }
    value
}

/// The mean distance of two independent counts, of which the characteristic function at `t` has the
/// logarithm `ln_square(sin(t / 2)²)` of its squared modulus; `curvature` is about the steepest of it.
///
/// It is `1/π ∫ (1 - |φ(t)|²) / (1 - cos t) dt` over half a period. With `tan(t / 2) = e^v` what is integrated
/// decays on both sides, so that equal steps converge exponentially.
pub fn mean_distance(curvature: f64, ln_square: impl Fn(f64) -> f64) -> f64 {
    const STEP: f64 = 0.125;
    const REACH: i32 = 360;
    let peak = (-0.5 * curvature.ln()).min(0.0);
    let at = |v: f64| -ln_square(1.0 / (1.0 + (-2.0 * v).exp())).exp_m1() * (peak - v).exp();
    let sum: f64 = (-REACH..=REACH).map(|i| at(peak + f64::from(i) * STEP)).sum();
    STEP / PI * sum * (-peak).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expansions_meet_where_they_take_over() {
        let a = LARGE_GAMMA - 1.0;
        for z in [-6.0, -2.0, -0.01, 0.0, 0.5, 3.0, 7.0] {
            let x = a + z * a.sqrt();
            let [exact, about] = [gamma_cdf(a, x), gamma_cdf_large(a, x)];
            assert!((exact.below - about.below).abs() < 1e-11, "{z}: {exact:?} and {about:?}");
        }
        for share in [1e-7, 0.3, 0.999] {
            let (a, b) = (share * LARGE_BETA, (1.0 - share) * LARGE_BETA);
            for z in [-5.0, -1.0, 0.001, 2.0] {
                let x = share + z * (share * (1.0 - share) / LARGE_BETA).sqrt();
                let [exact, about] =
                    [beta_cdf(a * (1.0 - 1e-12), b * (1.0 - 1e-12), x, 1.0 - x), beta_cdf_large(a, b, x, 1.0 - x)];
                assert!((exact.below - about.below).abs() < 1e-6, "{share}, {z}: {exact:?} and {about:?}");
            }
        }
    }

    /// `a` many times `b`: as many events of a rare kind, which is Poisson's distribution.
    #[test]
    fn far_from_even_shapes_are_as_poissons_distribution() {
        for (large, mean) in [(1e15, 2e5), (1e20, 2e5), (1e20, 1e7), (1e25, 1e6)] {
            for z in [-3.0, -1.0, 0.0, 0.5, 2.0] {
                let k = (mean + z * f64::sqrt(mean)).floor();
                // Of a negative binomial count: the chance of more than `k` is that of a waiting time.
                let (x, y) = (large / (large + mean), mean / (large + mean));
                let [found, expected] = [beta_cdf(large, k + 1.0, x, y), gamma_cdf(k + 1.0, mean)];
                assert!((found.below - expected.above).abs() < 1e-3, "{large}, {k}: {found:?} and {expected:?}");
                let mirrored = beta_cdf(k + 1.0, large, y, x);
                assert!((mirrored.above - found.below).abs() < 1e-9, "{large}, {k}: {mirrored:?} and {found:?}");
            }
        }
    }

    #[test]
    fn quantiles_of_the_normal_distribution_invert_it() {
        for p in [1e-300, 1e-12, 0.025, 0.3, 0.5, 0.75, 1.0 - 1e-12] {
            let z = normal_quantile(Level::new(p));
            assert!((normal_cdf(z) - p).abs() < 1e-11 * p, "{p}: {z}");
        }
    }
}
