//! A normal distribution that was predicted for an observation, and how good it is.

use std::f64::consts::{PI, TAU};

use rand::{Rng, RngExt};

/// Half of the width of the central 95%, in standard deviations.
pub const Z95: f64 = 1.959_963_984_540_054;

/// A normal distribution, predicted for one observation.
#[derive(Clone, Copy, Debug)]
pub struct Normal {
    /// The expected value.
    pub mean: f64,
    /// The standard deviation.
    pub std: f64,
}

impl Normal {
    /// One with the mean and the deviation of the even mixture of two.
    pub fn mixture([a, b]: [Self; 2]) -> Self {
        let apart = 0.5 * (a.mean - b.mean);
        Self { mean: b.mean + apart, std: (0.5 * (a.std.powi(2) + b.std.powi(2)) + apart.powi(2)).sqrt() }
    }

    /// The logarithm of the density of what was observed.
    pub fn log_density(self, y: f64) -> f64 {
        -0.5 * ((y - self.mean) / self.std).powi(2) - self.std.ln() - 0.5 * (2.0 * PI).ln()
    }

    /// Whether the central 95% hold it.
    pub fn covers(self, y: f64) -> bool {
        (y - self.mean).abs() <= Z95 * self.std
    }

    /// The continuous ranked probability score, in units of the values; smaller is better.
    pub fn crps(self, y: f64) -> f64 {
        let z = (y - self.mean) / self.std;
        let density = (-0.5 * z * z).exp() / (2.0 * PI).sqrt();
        self.std * (z * libm::erf(z / 2f64.sqrt()) + 2.0 * density - 1.0 / PI.sqrt())
    }

    /// The score of the central 95% (Gneiting and Raftery 2007, section 6.2): its width, and 40 times what
    /// the observation lies outside; smaller is better.
    pub fn interval_score(self, y: f64) -> f64 {
        let outside = ((y - self.mean).abs() - Z95 * self.std).max(0.0);
        2.0 * Z95 * self.std + 2.0 / 0.05 * outside
    }
}

/// A number of the standard normal distribution (Box and Muller).
pub fn standard_normal(rng: &mut impl Rng) -> f64 {
    let [u, v]: [f64; 2] = [rng.random(), rng.random()];
    (-2.0 * (1.0 - u).ln()).sqrt() * (TAU * v).cos()
}

/// The number below which a share of all lies, between its two neighbours as far as the share says.
pub fn quantile(numbers: impl Iterator<Item = f64>, share: f64) -> f64 {
    let mut sorted: Vec<_> = numbers.collect();
    sorted.sort_by(f64::total_cmp);
    let at = share * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    // The same where both are, also where they are infinite.
    if low == high { low } else { low + at.fract() * (high - low) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The old code took one of the numbers: of an even count the upper one in the middle.
    #[test]
    fn the_median_of_an_even_count_lies_in_the_middle() {
        let of = |numbers: &[f64], share| quantile(numbers.iter().copied(), share);
        assert_eq!((of(&[4.0, 1.0, 2.0, 3.0], 0.5), of(&[3.0, 1.0, 2.0], 0.5)), (2.5, 2.0));
        let ends = [0.0, 0.25, 0.75, 1.0].map(|share| of(&[5.0, 1.0, 2.0, 3.0, 4.0], share));
        assert_eq!((ends, of(&[7.0], 0.3)), ([1.0, 2.0, 4.0, 5.0], 7.0));
        assert!((of(&[0.0, 1.0], 0.75) - 0.75).abs() < 1e-15);
    }

    #[test]
    fn a_mixture_has_the_moments_of_both() {
        let [a, b] = [Normal { mean: 1.0, std: 2.0 }, Normal { mean: 5.0, std: 0.5 }];
        let mixed = Normal::mixture([a, b]);
        // Of both their mean squares.
        let square = 0.5 * ((1.0 + 4.0) + (25.0 + 0.25));
        assert!((mixed.mean - 3.0).abs() < 1e-12 && (mixed.std.powi(2) - (square - 9.0)).abs() < 1e-12);
        assert_eq!((Normal::mixture([a, a]).mean, Normal::mixture([a, a]).std), (1.0, 2.0));
    }

    /// By numerical integration of their definitions.
    #[test]
    fn scores_are_what_their_definitions_say() {
        let normal = Normal { mean: 1.0, std: 2.0 };
        for y in [-3.0, 0.5, 1.0, 9.0] {
            let step = 1e-3;
            let cdf = |x: f64| 0.5 * (1.0 + libm::erf((x - 1.0) / 2.0 / 2f64.sqrt()));
            let square = |x: f64| (cdf(x) - f64::from(u8::from(x >= y))).powi(2);
            let integral: f64 = (-30_000..30_000).map(|i| square(step * (f64::from(i) + 0.5)) * step).sum();
            assert!((normal.crps(y) - integral).abs() < 1e-3, "{y}: {} {integral}", normal.crps(y));
        }
        assert!((normal.interval_score(1.0) - 4.0 * Z95).abs() < 1e-12);
        assert!((normal.interval_score(1.0 + 2.0 * Z95 + 0.1) - (4.0 * Z95 + 4.0)).abs() < 1e-9);
    }
}
