//! Observations and where to predict, checked.

use std::ops::Range;

use super::config::Config;
use crate::{
    device::Device,
    error::{Error, Result},
    tensor::{Mask, Tensor, check_finite, n_elements},
};

/// Observations: where `x [batch, n, dim_x]`, and what `y [batch, n, dim_y]`, row-major.
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

fn no_batch() -> Error {
    Error::Argument { op: "cmanp", name: "batch", found: "0".into(), allowed: "1 or more".into() }
}

impl<'a> Points<'a> {
    pub fn observed(config: &Config, context: &Context<'a>) -> Result<Self> {
        let Context { x, y, batch, mask } = *context;
        if batch == 0 {
            return Err(no_batch());
        }
        // The larger of both, so that neither missing numbers nor a wrong width goes unseen.
        let n = x.len().div_ceil(batch.saturating_mul(config.dim_x));
        let columns = vec![(config.dim_x, x), (config.dim_y, y)];
        for (dim, numbers) in &columns {
            check_length([batch, n, *dim], numbers.len())?;
        }
        if let Some(mask) = mask
            && mask.len() != batch * n
        {
            return Err(Error::Length { shape: vec![batch, n], expected: batch * n, found: mask.len() });
        }
        let points = Self { batch, n, columns, mask };
        points.check_finite()?;
        Ok(points)
    }

    pub fn targets(config: &Config, batch: usize, x: &'a [f32]) -> Result<Self> {
        let n = x.len().div_ceil(batch.saturating_mul(config.dim_x));
        check_length([batch, n, config.dim_x], x.len())?;
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

    /// Ranges of at most `step` points.
    pub fn blocks(&self, step: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let n = self.n;
        (0..n).step_by(step).map(move |start| start..n.min(start.saturating_add(step)))
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
        let of_range = |mask: &[bool]| {
            let keep: Vec<bool> = mask.chunks(self.n).flat_map(|mask| &mask[range.clone()]).copied().collect();
            Mask::new(device, &[self.batch, range.len()], &keep)
        };
        self.mask.map(of_range).transpose()
    }
}

fn check_length(shape: [usize; 3], found: usize) -> Result<()> {
    let expected = n_elements(&shape);
    if expected == found { Ok(()) } else { Err(Error::Length { shape: shape.to_vec(), expected, found }) }
}
