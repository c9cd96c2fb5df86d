//! Between the units of the data and those that the network was trained in.

use anyhow::{Context, Result, ensure};
use nalgebra::{DMatrix, DVector};

use crate::{Normal, data::Series};

/// What is taken out of the data before a model sees them.
pub struct Scaling {
    /// The middle of the record.
    x_middle: f64,
    /// Units of the data in one unit of the model.
    pub x_unit: f64,
    /// Coefficients of a polynomial in model units, constant first.
    trend: Vec<f64>,
    /// The standard deviation of the context around the trend.
    pub y_unit: f64,
}

impl Scaling {
    /// Values are scaled by the context alone, so nothing that is held out leaks; the
    /// coordinates, by the record that is asked about.
    pub fn fit(context: &Series, targets: &Series, degree: usize, length: f64) -> Result<Self> {
        ensure!(context.len() > degree + 1, "{} context points are too few for the trend", context.len());
        let all = || context.x.iter().chain(&targets.x).copied();
        let (first, last) = (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max));
        ensure!(last - first > 0.0 && (last - first).is_finite(), "all points have the same x");
        let mut scaling = Self {
            x_middle: 0.5 * (first + last),
            x_unit: (last - first) / length,
            trend: vec![0.0; degree + 1],
            y_unit: 1.0,
        };
        let x = scaling.coords(&context.x);
        let powers = DMatrix::from_fn(x.len(), degree + 1, |i, j| x[i].powi(j as i32));
        let y = DVector::from_column_slice(&context.y);
        let trend = powers.svd(true, true).solve(&y, 1e-12).ok().context("the trend cannot be fitted")?;
        scaling.trend = trend.iter().copied().collect();
        let square = |(x, y): (&f64, &f64)| (y - scaling.trend(*x)).powi(2);
        let variance = context.x.iter().zip(&context.y).map(square).sum::<f64>() / context.len() as f64;
        ensure!(variance.is_finite(), "the values are too large");
        // A series that is constant, up to rounding, keeps its unit.
        let largest = context.y.iter().fold(0.0, |largest: f64, y| largest.max(y.abs()));
        if variance.sqrt() > 1e-9 * largest {
            scaling.y_unit = variance.sqrt();
        }
        Ok(scaling)
    }

    /// Coordinates in model units.
    pub fn coords(&self, x: &[f64]) -> Vec<f64> {
        x.iter().map(|x| (x - self.x_middle) / self.x_unit).collect()
    }

    /// The trend in the data's units.
    pub fn trend(&self, x: f64) -> f64 {
        let x = (x - self.x_middle) / self.x_unit;
        self.trend.iter().rev().fold(0.0, |sum, coefficient| sum * x + coefficient)
    }

    /// Values in model units.
    pub fn values(&self, series: &Series) -> Vec<f64> {
        series.x.iter().zip(&series.y).map(|(&x, y)| (y - self.trend(x)) / self.y_unit).collect()
    }

    /// A prediction in the data's units.
    pub fn restore(&self, x: f64, prediction: Normal) -> Normal {
        Normal { mean: self.trend(x) + self.y_unit * prediction.mean, std: self.y_unit * prediction.std }
    }
}
