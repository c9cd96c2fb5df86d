//! Observations and where to predict, checked.

use std::{ops::Range, sync::Arc};

use super::config::Config;
use crate::{
    device::Device,
    error::{Error, Result, check_argument},
    models::{
        domain::{Domain, Outside, Summary},
        frame::{Cloud, Column, Frame},
        points::{Coordinate, Numbers, check_batch, check_length, mask},
    },
    tensor::{Mask, Tensor, check_finite},
};

const OP: &str = "cmanp";

/// Observations: where `x [batch, n, dim_x]`, in f32 or f64, and what `y [batch, n, dim_y]`, row-major.
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
    pub(super) x: Numbers<'a>,
    pub(super) y: &'a [f32],
    pub(super) batch: usize,
    pub(super) mask: Option<&'a [bool]>,
    pub(super) origin: Option<&'a [f64]>,
}

impl<'a> Context<'a> {
    /// Observations of one data set.
    pub fn new<T: Coordinate>(x: &'a [T], y: &'a [f32]) -> Self {
        Self { x: Numbers::new(x), y, batch: 1, mask: None, origin: None }
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

    /// Sets what is taken off the coordinates, in f64, before they are rounded to f32: `[dim_x]`; zero
    /// if not given. The network sees the coordinates themselves, so take off what was in training. The
    /// posterior keeps it and takes it off all points that it takes in later or predicts at, where
    /// another one is an error.
    ///
    /// ```
    /// use wgpu_attention::{Device, models::cmanp::{Cmanp, Context}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let model = Cmanp::open(&Device::cpu(), "checkpoints/cmanp_gp_1d.safetensors")?;
    /// // A record that begins 1.7e9 seconds after an epoch, of which f32 holds two minutes.
    /// let x = [1.7e9 - 1.0, 1.0, 0.0, 1.7e9 + 1.0, 0.0, 1.0];
    /// let posterior = model.condition(&Context::new(&x, &[0.3, 0.6]).origin(&[1.7e9, 0.0, 0.0]))?;
    /// let near = model.condition(&Context::new(&[-1.0, 1.0, 0.0, 1.0, 0.0, 1.0], &[0.3, 0.6]))?;
    /// assert_eq!(posterior.predict(&[1.7e9, 0.0, -1.0])?, near.predict(&[0.0, 0.0, -1.0])?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn origin(mut self, origin: &'a [f64]) -> Self {
        self.origin = Some(origin);
        self
    }
}

/// Checked observations, or targets if there are no values.
pub(super) struct Points<'a> {
    pub batch: usize,
    /// Points in each batch element, those that do not exist included.
    pub n: usize,
    cloud: Cloud<'a>,
    /// What is taken off the coordinates.
    pub frame: Arc<Frame>,
    /// `[batch, n, dim_y]`, and `dim_y`; of observations alone.
    values: Option<(&'a [f32], usize)>,
    mask: Option<&'a [bool]>,
}

impl<'a> Points<'a> {
    /// Observations that a posterior of this frame takes in, or that begin one.
    pub fn observed(config: &Config, context: &Context<'a>, frame: Option<&Arc<Frame>>) -> Result<Self> {
        let Context { x, y, batch, mask, origin } = *context;
        check_batch(OP, batch)?;
        // The larger of both, so that neither missing numbers nor a wrong width goes unseen.
        let n = x.len().div_ceil(batch.saturating_mul(config.dim_x));
        let of = |numbers: usize, dim: usize| numbers as f64 / (batch as f64 * dim as f64);
        let (of_x, of_y) = (of(x.len(), config.dim_x), of(y.len(), config.dim_y));
        let there = format_args!(": x has {of_x} points in each of {batch} batch elements, y has {of_y}");
        check_length(OP, "the length of x", &[batch, n, config.dim_x], x.len(), there)?;
        check_length(OP, "the length of y", &[batch, n, config.dim_y], y.len(), there)?;
        if let Some(mask) = mask {
            check_length(OP, "the length of mask", &[batch, n], mask.len(), "")?;
        }
        let mut points = Self { values: Some((y, config.dim_y)), ..Self::new(config, batch, n, x, mask) };
        if let Some(origin) = origin {
            let fits = origin.len() == config.dim_x && origin.iter().all(|x| x.is_finite());
            let is_same = frame.is_none_or(|frame| frame.origin.iter().zip(origin.iter().cycle()).all(|(a, b)| a == b));
            let allowed = match frame {
                Some(frame) => format!("{:?}, that of the posterior", frame.origin),
                None => format!("{} finite numbers", config.dim_x),
            };
            check_argument(fits && is_same, OP, "origin", format_args!("{origin:?}"), allowed)?;
        }
        points.frame = match frame {
            Some(frame) => frame.clone(),
            // Any batch fits no points, and an origin would be made for all of it.
            None if n == 0 => return Ok(points),
            // What is taken in later is not there to be compared with.
            None => Arc::new(Frame { resolution: Vec::new(), ..points.cloud.frame(|_, c| origin.map(|o| o[c]))? }),
        };
        if frame.is_some() && points.frame.origin.len() == batch.saturating_mul(config.dim_x) {
            // As new observations would be: their differences survive. One alone has none.
            points.cloud.frame(|b, c| Some(points.frame.origin[b * config.dim_x + c]))?;
        }
        for (i, values) in y.chunks(config.dim_y).enumerate() {
            if points.exists(i) && values.iter().any(|y| !y.is_finite()) {
                check_finite(&format!("y of point {i}"), values)?;
            }
        }
        Ok(points)
    }

    fn new(config: &Config, batch: usize, n: usize, x: Numbers<'a>, mask: Option<&'a [bool]>) -> Self {
        let dim = config.dim_x;
        let column = |index| Column { group: None, numbers: x, dim, index, is_relative: false, distance: None };
        let cloud = Cloud { op: OP, batch, n, columns: (0..dim).map(column).collect(), keep: mask };
        Self { batch, n, cloud, frame: Arc::default(), values: None, mask }
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

    /// Where to predict with a posterior of this frame.
    pub fn targets(config: &Config, batch: usize, x: Numbers<'a>, frame: &Arc<Frame>) -> Result<Self> {
        let n = x.len().div_ceil(batch.saturating_mul(config.dim_x));
        let because = format_args!(": as many points for each of {batch} batch elements of the posterior");
        check_length(OP, "the length of x", &[batch, n, config.dim_x], x.len(), because)?;
        let points = Self::new(config, batch, n, x, None);
        points.cloud.check()?;
        points.cloud.fits(frame, true)?;
        Ok(Self { frame: frame.clone(), ..points })
    }

    /// What of the observations is compared with a domain.
    pub fn summary(&self, is_exact: bool) -> Option<Summary> {
        let (values, dim_y) = self.values?;
        let summary = Summary::new(&self.cloud, values, dim_y);
        Some(if is_exact { summary.exactly(&self.cloud, values, dim_y) } else { summary })
    }

    /// What of a context and of these targets lies outside of a domain.
    pub fn outside(&self, domain: Option<&Domain>, context: Option<&Summary>) -> Outside {
        match (domain, context) {
            (Some(domain), Some(context)) => context.outside(domain, &self.frame, &self.cloud),
            _ => Outside::default(),
        }
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
        let dim_x = self.cloud.columns.len();
        let (values, dim_y) = self.values.unwrap_or_default();
        let width = dim_x + dim_y;
        let mut rows = Vec::with_capacity(self.batch * range.len() * width);
        for b in 0..self.batch {
            for i in range.clone().map(|i| b * self.n + i) {
                if self.exists(i) {
                    let columns = self.cloud.columns.iter().enumerate();
                    rows.extend(columns.map(|(c, column)| self.frame.seen(column, b * dim_x + c, i)));
                    rows.extend_from_slice(&values[i * dim_y..][..dim_y]);
                } else {
                    rows.resize(rows.len() + width, 0.0);
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
