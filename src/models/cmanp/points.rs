//! Observations and where to predict, checked.

use std::ops::Range;

use super::config::Config;
use crate::{
    device::Device,
    error::{Error, Result},
    models::points::{check_batch, check_length, mask},
    tensor::{Mask, Tensor, check_finite},
};

const OP: &str = "cmanp";

/// Observations: where `x [batch, n, dim_x]`, and what `y [batch, n, dim_y]`, row-major.
///
/// ```
/// use wgpu_attention::{Device, models::cmanp::{Cmanp, Context}};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let model = Cmanp::open(&Device::best(), "checkpoints/cmanp_gp_1d.safetensors")?;
/// // Two data sets, of two points and of one; a point is three numbers.
/// let (x, y) = ([0.5; 12], [0.1, 0.2, 0.1, f32::NAN]);
/// let context = Context::new(&x, &y).batch(2).mask(&[true, true, true, false]);
/// assert_eq!(model.condition(&context)?.n_points(), [2, 1]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    x: &'a [f32],
    y: &'a [f32],
    batch: usize,
    mask: Option<&'a [bool]>,
}

impl<'a> Context<'a> {
    /// Observations of one data set.
    pub fn new(x: &'a [f32], y: &'a [f32]) -> Self {
        Self { x, y, batch: 1, mask: None }
    }

    /// Sets the batch size: independent data sets of as many points each, one after another.
    pub fn batch(mut self, batch: usize) -> Self {
        self.batch = batch;
        self
    }

    /// Says which points exist, `[batch, n]`, where the data sets differ in length. What the
    /// others hold is not read.
    pub fn mask(mut self, keep: &'a [bool]) -> Self {
        self.mask = Some(keep);
        self
    }
}

/// Checked observations, or targets if there are no values.
pub(super) struct Points<'a> {
    pub batch: usize,
    /// Points in each batch element, those that do not exist included.
    pub n: usize,
    /// `(dim, numbers)`: the coordinates, then the values if there are any.
    columns: Vec<(usize, &'a [f32])>,
    mask: Option<&'a [bool]>,
}

impl<'a> Points<'a> {
    pub fn observed(config: &Config, context: &Context<'a>) -> Result<Self> {
        let Context { x, y, batch, mask } = *context;
        check_batch(OP, batch)?;
        // The larger of both, so that neither missing numbers nor a wrong width goes unseen.
        let n = x.len().div_ceil(batch.saturating_mul(config.dim_x));
        check_length(OP, "the length of x", &[batch, n, config.dim_x], x.len())?;
        check_length(OP, "the length of y", &[batch, n, config.dim_y], y.len())?;
        if let Some(mask) = mask {
            check_length(OP, "the length of mask", &[batch, n], mask.len())?;
        }
        let points = Self { batch, n, columns: vec![(config.dim_x, x), (config.dim_y, y)], mask };
        points.check_finite()?;
        Ok(points)
    }

    /// Refuses a batch element without a point.
    pub fn check_not_empty(&self) -> Result<()> {
        // Before the counts: any batch fits no points, and counts would be made for all of it.
        if self.n == 0 {
            return Err(Error::EmptyContext { batch: None });
        }
        match self.counts().iter().position(|&n| n == 0) {
            Some(batch) => Err(Error::EmptyContext { batch: Some(batch) }),
            None => Ok(()),
        }
    }

    pub fn targets(config: &Config, batch: usize, x: &'a [f32]) -> Result<Self> {
        let n = x.len().div_ceil(batch.saturating_mul(config.dim_x));
        check_length(OP, "the length of x", &[batch, n, config.dim_x], x.len())?;
        let points = Self { batch, n, columns: vec![(config.dim_x, x)], mask: None };
        points.check_finite()?;
        Ok(points)
    }

    fn check_finite(&self) -> Result<()> {
        for (name, (dim, numbers)) in ["x", "y"].into_iter().zip(&self.columns) {
            for (i, numbers) in numbers.chunks(*dim).enumerate() {
                if self.exists(i) && numbers.iter().any(|x| !x.is_finite()) {
                    check_finite(&format!("{name} of point {i}"), numbers)?;
                }
            }
        }
        Ok(())
    }

    /// Whether point `i` of all the batch exists.
    fn exists(&self, i: usize) -> bool {
        self.mask.is_none_or(|mask| mask[i])
    }

    /// How many points of each batch element exist.
    pub fn counts(&self) -> Vec<u64> {
        match self.mask {
            None => vec![self.n as u64; self.batch],
            Some(_) if self.n == 0 => vec![0; self.batch],
            Some(mask) => mask.chunks(self.n).map(|mask| mask.iter().filter(|keep| **keep).count() as u64).collect(),
        }
    }

    /// Coordinates and values side by side, `[batch, len, dims]`; zeros where there is no point.
    pub fn rows(&self, device: &Device, range: &Range<usize>) -> Result<Tensor> {
        let width: usize = self.columns.iter().map(|(dim, _)| dim).sum();
        let mut rows = Vec::with_capacity(self.batch * range.len() * width);
        for b in 0..self.batch {
            for i in range.clone().map(|i| b * self.n + i) {
                for &(dim, numbers) in &self.columns {
                    if self.exists(i) {
                        rows.extend_from_slice(&numbers[i * dim..][..dim]);
                    } else {
                        rows.resize(rows.len() + dim, 0.0);
                    }
                }
            }
        }
        Tensor::new(device, &[self.batch, range.len(), width], &rows)
    }

    /// Which of some points exist, if not all do.
    pub fn mask(&self, device: &Device, range: &Range<usize>) -> Result<Option<Mask>> {
        mask(device, self.mask, self.n, range)
    }
}
