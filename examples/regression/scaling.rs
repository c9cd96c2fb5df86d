//! Between the units of the data and those that the network was trained in, in f64.

use std::f64::consts::TAU;

use anyhow::{Context, Result, ensure};
use nalgebra::{DMatrix, DVector};

use shared::normal::Normal;

use crate::data::Series;

/// Neighbouring points that may fall together in the 32 bits of the network, as a fraction.
const MAX_MERGED: f64 = 0.1;
/// A series whose spread is below this, beside its largest value, is constant but for rounding.
const CONSTANT: f64 = 16.0 * f64::EPSILON;

/// What is taken out of the data before a model sees them.
pub struct Scaling {
    /// The middle of the record.
    x_middle: f64,
    /// Units of the data in one unit of the model.
    pub x_unit: f64,
    /// A value in the middle of the context: what is close to it keeps its digits.
    y_middle: f64,
    /// What is fitted to the context and taken out.
    trend: Trend,
    /// The coefficient of each column of the trend, in `y_unit`.
    coefficients: Vec<f64>,
    /// The standard deviation of the context around the trend.
    pub y_unit: f64,
}

/// A polynomial and, where a cycle is known, its first harmonics.
#[derive(Clone, Copy)]
pub struct Trend {
    pub degree: usize,
    /// The length of the cycle in units of x.
    pub cycle: Option<f64>,
    pub harmonics: usize,
}

/// A harmonic takes as many points at least: with fewer it would fit the noise.
const POINTS_PER_HARMONIC: usize = 16;

impl Trend {
    /// With no more harmonics than so many points can carry.
    fn of(self, n_points: usize) -> Self {
        let harmonics = self.cycle.map_or(0, |_| self.harmonics.min(n_points / POINTS_PER_HARMONIC));
        Self { harmonics, ..self }
    }

    /// The columns that are fitted, at a point: x in its own units and in those of the model.
    fn columns(&self, x: f64, scaled: f64) -> Vec<f64> {
        let mut columns: Vec<_> = (0..=self.degree).map(|power| scaled.powi(power as i32)).collect();
        if let Some(cycle) = self.cycle {
            for harmonic in 1..=self.harmonics {
                let (sin, cos) = (TAU * harmonic as f64 * phase(x, cycle)).sin_cos();
                columns.extend([cos, sin]);
            }
        }
        columns
    }
}

/// Where x lies in its cycle, in turns.
fn phase(x: f64, cycle: f64) -> f64 {
    (x / cycle).rem_euclid(1.0)
}

impl Scaling {
    /// Values are scaled by the context alone, so nothing that is held out leaks; the
    /// coordinates, by the record that is asked about.
    pub fn fit(context: &Series, targets: &Series, trend: Trend, length: f64) -> Result<Self> {
        let (trend, degree) = (trend.of(context.len()), trend.degree);
        ensure!(
            context.len() > degree + 1,
            "{} context point(s) are too few for a trend of degree {degree}, which needs {}",
            context.len(),
            degree + 2
        );
        let (first, last) = ends(context.x.iter().chain(&targets.x));
        ensure!(last > first, "all points have the same x, {first:?}");
        let span = last - first;
        ensure!(
            (1e-300..1e300).contains(&span),
            "x from {first:e} to {last:e}: that range is beyond what 64-bit numbers can scale (1e-300 to 1e300)"
        );
        let (low, high) = ends(&context.y);
        ensure!(
            (high - low) < 1e300,
            "y from {low:e} to {high:e}: that range is beyond what 64-bit numbers can scale (up to 1e300)"
        );
        let mut scaling = Self {
            x_middle: 0.5 * first + 0.5 * last,
            x_unit: span / length,
            y_middle: 0.5 * low + 0.5 * high,
            trend,
            coefficients: Vec::new(),
            y_unit: 1.0,
        };
        // Of the size of one, whatever the units: squares neither overflow nor vanish.
        let size = if high > low { 0.5 * high - 0.5 * low } else { 1.0 };
        let x = scaling.coords(&context.x);
        scaling.keeps_apart(&context.x, &x, first, last)?;
        let rows: Vec<_> = context.x.iter().zip(&x).map(|(&x, &scaled)| trend.columns(x, scaled)).collect();
        let columns = DMatrix::from_fn(x.len(), rows[0].len(), |i, j| rows[i][j]);
        let y = DVector::from_iterator(x.len(), context.y.iter().map(|y| (y - scaling.y_middle) / size));
        let fitted = columns.clone().svd(true, true).solve(&y, 1e-12).ok().context("the trend cannot be fitted")?;
        let deviation = ((columns * &fitted - y).norm_squared() / context.len() as f64).sqrt();
        // A series that is constant, up to rounding, keeps its unit.
        if deviation * size > CONSTANT * low.abs().max(high.abs()) {
            scaling.y_unit = deviation * size;
        }
        ensure!(scaling.y_unit > 0.0, "y differs by less than 64-bit numbers can scale");
        scaling.coefficients = fitted.iter().map(|coefficient| coefficient * (size / scaling.y_unit)).collect();
        Ok(scaling)
    }

    /// The network reads coordinates of 32 bits: where one point lies far from all others, those
    /// become the same.
    fn keeps_apart(&self, x: &[f64], scaled: &[f64], first: f64, last: f64) -> Result<()> {
        let neighbours = || x.windows(2).zip(scaled.windows(2)).filter(|(x, _)| x[0] < x[1]);
        let merged = neighbours().filter(|(_, scaled)| scaled[0] as f32 == scaled[1] as f32).count();
        ensure!(
            merged as f64 <= MAX_MERGED * neighbours().count() as f64,
            "x from {first:?} to {last:?}: {merged} pairs of neighbouring points fall together in the network's 32 \
             bits; is there a point far from all others? --last leaves the beginning out"
        );
        Ok(())
    }

    /// Coordinates in model units.
    pub fn coords(&self, x: &[f64]) -> Vec<f64> {
        x.iter().map(|x| (x - self.x_middle) / self.x_unit).collect()
    }

    /// Cosine and sine of the phase of each point, where a cycle is known.
    pub fn phases(&self, x: &[f64]) -> Option<Vec<f64>> {
        let cycle = self.trend.cycle?;
        Some(x.iter().flat_map(|&x| [(TAU * phase(x, cycle)).cos(), (TAU * phase(x, cycle)).sin()]).collect())
    }

    /// The length of the cycle in model units.
    pub fn period(&self) -> Option<f64> {
        self.trend.cycle.map(|cycle| cycle / self.x_unit)
    }

    /// What was taken out, in words.
    pub fn removed(&self) -> String {
        let Trend { degree, harmonics, .. } = self.trend;
        let cycle = if harmonics > 0 { format!(" and {harmonics} harmonic(s) of the cycle") } else { String::new() };
        format!("a trend of degree {degree}{cycle}")
    }

    /// The trend over `y_middle`, in `y_unit`.
    fn scaled_trend(&self, x: f64) -> f64 {
        let columns = self.trend.columns(x, (x - self.x_middle) / self.x_unit);
        columns.iter().zip(&self.coefficients).map(|(column, coefficient)| column * coefficient).sum()
    }

    /// The trend in the data's units.
    pub fn trend(&self, x: f64) -> f64 {
        self.y_middle + self.y_unit * self.scaled_trend(x)
    }

    /// Values in model units.
    pub fn values(&self, series: &Series) -> Vec<f64> {
        let points = series.x.iter().zip(&series.y);
        points.map(|(&x, y)| (y - self.y_middle) / self.y_unit - self.scaled_trend(x)).collect()
    }

    /// A prediction in the data's units.
    pub fn restore(&self, x: f64, prediction: Normal) -> Normal {
        let mean = self.y_middle + self.y_unit * (self.scaled_trend(x) + prediction.mean);
        Normal { mean, std: self.y_unit * prediction.std }
    }
}

fn ends<'a>(numbers: impl IntoIterator<Item = &'a f64>) -> (f64, f64) {
    let ends = (f64::INFINITY, f64::NEG_INFINITY);
    numbers.into_iter().fold(ends, |(low, high), &number| (low.min(number), high.max(number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: Trend = Trend { degree: 1, cycle: None, harmonics: 0 };

    fn fit(x: impl Fn(f64) -> f64, y: impl Fn(f64) -> f64) -> Result<(Series, Scaling)> {
        let places = || (0..200).map(|i| f64::from(i) / 20.0);
        let series = Series { x: places().map(x).collect(), y: places().map(y).collect() };
        let scaling = Scaling::fit(&series, &Series::default(), LINE, 4.0)?;
        Ok((series, scaling))
    }

    /// The old code held it to be constant, since its spread was below 1e-9 of its size.
    #[test]
    fn f11_a_small_signal_on_a_large_level_is_seen() {
        let (plain, expected) = fit(|x| x, |x| x.sin()).unwrap();
        for (level, size) in [(1e9, 1e-3), (-1e6, 1e-6), (0.0, 1e-200), (0.0, 1e200), (0.0, 1e-40), (1e30, 1e20)] {
            let (series, scaling) = fit(|x| x, |x| level + size * x.sin()).unwrap();
            let rounding = 4.0 * f64::EPSILON * level.abs() / size;
            let found = scaling.values(&series);
            for (found, expected) in found.iter().zip(expected.values(&plain)) {
                assert!((found - expected).abs() <= 1e-9 + 4.0 * rounding, "{level} {size}: {found} {expected}");
            }
            for ((&x, &y), found) in series.x.iter().zip(&series.y).zip(found) {
                let back = scaling.restore(x, Normal { mean: found, std: 1.0 }).mean;
                assert!((back - y).abs() <= 1e-12 * size + 4.0 * f64::EPSILON * level.abs(), "{back} {y}");
            }
        }
        let (series, scaling) = fit(|x| x, |_| 1e9 + 0.1).unwrap();
        assert_eq!(scaling.y_unit, 1.0);
        assert!(scaling.values(&series).iter().all(|y| y.abs() < 1e-6));
    }

    /// The old code said "all points have the same x" of a range that overflows.
    #[test]
    fn f11_the_cause_is_named_where_coordinates_cannot_be_scaled() {
        let refused = |x: &dyn Fn(f64) -> f64, word: &str| {
            let message = fit(x, |x| x).err().unwrap().to_string();
            assert!(message.contains(word), "{message}");
        };
        refused(&|x| if x < 5.0 { -1e308 } else { 1e308 }, "x from -1e308 to 1e308");
        refused(&|_| 3.5, "the same x, 3.5");
        refused(&|x| 1e20 + x, "the same x");
        refused(&|x| if x < 9.9 { x } else { 1e12 }, "fall together");
        assert!(fit(|x| 1.7e9 + x, |x| x).is_ok());
        let message = fit(|x| x, |x| if x < 5.0 { -1e308 } else { 1e308 }).err().unwrap().to_string();
        assert!(message.contains("y from -1e308 to 1e308"), "{message}");
    }

    #[test]
    fn harmonics_of_a_known_cycle_are_taken_out_where_there_are_points_enough() {
        let x: Vec<f64> = (0..200).map(|i| 1958.0 + f64::from(i) / 12.0).collect();
        let y =
            x.iter().map(|x| 3.0 + 0.5 * x + (TAU * x).sin() + 0.3 * (2.0 * TAU * x).cos() + 0.01 * (40.0 * x).sin());
        let series = Series { y: y.collect(), x };
        let trend = Trend { degree: 1, cycle: Some(1.0), harmonics: 2 };
        let scaling = Scaling::fit(&series, &Series::default(), trend, 4.0).unwrap();
        assert!(scaling.y_unit < 0.011, "{}", scaling.y_unit);
        assert_eq!(scaling.trend.of(31).harmonics, 1);
        assert_eq!(scaling.trend.of(10).harmonics, 0);
        assert_eq!(Trend { cycle: None, ..trend }.of(200).harmonics, 0);
    }
}
