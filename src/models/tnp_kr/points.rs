//! Where observations and predictions are: named groups of coordinates, checked against the
//! configuration.

use std::ops::Range;

use super::config::Config;
use crate::{
    error::{Error, Result},
    models::points::{check_batch, check_length},
    ops::Distance,
    tensor::check_finite,
};

const OP: &str = "tnp_kr";

/// Points that are described by named groups of coordinates, `[batch, n_points, dim]` each,
/// row-major.
///
/// ```
/// use wgpu_attention::{Device, models::tnp_kr::{BiasConfig, Config, Context, GroupConfig, Locations, TnpKr}};
/// use wgpu_attention::ops::{BiasKernel, Distance};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let mut config = Config { n_blocks: 1, ..Config::scan(1) };
/// let bias = BiasConfig { kernel: BiasKernel::Scalar, distance: Distance::CausalTime, n_basis: 1 };
/// config.groups.push(GroupConfig { name: "t".into(), dim: None, embed: false, bias: Some(bias) });
/// let model = TnpKr::random(&Device::best(), &config, 0)?;
/// // Two points of the plane, the second an hour later.
/// let at = Locations::space(2, &[0.0, 0.0, 1.0, 1.0]).time(&[12.0, 13.0]);
/// let posterior = model.condition(&Context::new(at.clone(), &[0.5, 0.7]))?;
/// assert_eq!(posterior.predict(&at)?.shape, [1, 2, 1]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Locations<'a> {
    pub(super) batch: usize,
    groups: Vec<(String, usize, &'a [f32])>,
}

impl Default for Locations<'_> {
    fn default() -> Self {
        Self { batch: 1, groups: Vec::new() }
    }
}

impl<'a> Locations<'a> {
    /// Points in space, `dim` numbers each: the group `s`.
    pub fn space(dim: usize, coords: &'a [f32]) -> Self {
        Self::default().group("s", dim, coords)
    }

    /// Sets the batch size: independent data sets of as many points each, one after another.
    pub fn batch(mut self, batch: usize) -> Self {
        self.batch = batch;
        self
    }

    /// Adds a moment for each point: the group `t`.
    pub fn time(self, times: &'a [f32]) -> Self {
        self.group("t", 1, times)
    }

    /// Adds a group by its name in the configuration, `dim` numbers a point.
    pub fn group(mut self, name: &str, dim: usize, coords: &'a [f32]) -> Self {
        self.groups.push((name.to_owned(), dim, coords));
        self
    }
}

/// Observations: where, and what.
///
/// ```
/// use wgpu_attention::{Device, models::tnp_kr::{Context, Locations, TnpKr}};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let model = TnpKr::open(&Device::best(), "checkpoints/gp_1d.safetensors")?;
/// // Two data sets, of two points and of one.
/// let at = Locations::space(1, &[0.0, 1.0, 0.0, f32::NAN]).batch(2);
/// let context = Context::new(at, &[0.5, 0.7, 0.5, f32::NAN]).mask(&[true, true, true, false]);
/// let both = model.condition(&context)?.predict(&Locations::space(1, &[1.0, 1.0]).batch(2))?;
/// let second = model.condition(&Context::new(Locations::space(1, &[0.0]), &[0.5]))?;
/// let second = second.predict(&Locations::space(1, &[1.0]))?;
/// assert!((both.mean[1] - second.mean[0]).abs() < 1e-5);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Context<'a> {
    locations: Locations<'a>,
    values: &'a [f32],
    mask: Option<&'a [bool]>,
}

impl<'a> Context<'a> {
    /// `values` is `[batch, n_points, n_values]`; one-hot for a categorical model.
    pub fn new(locations: Locations<'a>, values: &'a [f32]) -> Self {
        Self { locations, values, mask: None }
    }

    /// Says which points exist, `[batch, n_points]`, where the data sets of a batch differ in
    /// length. What the others hold is not read.
    pub fn mask(mut self, keep: &'a [bool]) -> Self {
        self.mask = Some(keep);
        self
    }
}

/// Checked points, coordinates in the order of the configuration: observations, or where to predict
/// if there are no values.
pub(super) struct Points<'a> {
    pub batch: usize,
    pub n_points: usize,
    /// `(dim, embed, coords)` for each group of the configuration.
    groups: Vec<(usize, bool, &'a [f32])>,
    pub values: Option<&'a [f32]>,
    pub keep: Option<&'a [bool]>,
}

impl<'a> Points<'a> {
    pub fn observed(config: &Config, context: &Context<'a>) -> Result<Self> {
        let &Context { ref locations, values, mask: keep } = context;
        let (batch, n_values) = (locations.batch, config.n_values);
        check_batch(OP, batch)?;
        // A batch that overflows has no points.
        let n_points = values.len() / batch.saturating_mul(n_values);
        check_length(OP, "the length of values", &[batch, n_points, n_values], values.len())?;
        if n_points == 0 {
            return Err(Error::EmptyContext { batch: None });
        }
        if let Some(keep) = keep {
            check_length(OP, "the length of mask", &[batch, n_points], keep.len())?;
            if let Some(batch) = keep.chunks(n_points).position(|keep| !keep.contains(&true)) {
                return Err(Error::EmptyContext { batch: Some(batch) });
            }
        }
        let points = Self { values: Some(values), ..Self::new(config, locations, keep, Some(n_points))? };
        for (i, values) in values.chunks(n_values).enumerate() {
            if points.exists(i) {
                check_finite(&format!("values of point {i}"), values)?;
            }
        }
        Ok(points)
    }

    pub fn targets(config: &Config, locations: &Locations<'a>) -> Result<Self> {
        Self::new(config, locations, None, None)
    }

    /// `n_points` is what the other data say, where there are any: a model without groups
    /// cannot tell by itself.
    fn new(
        config: &Config,
        locations: &Locations<'a>,
        keep: Option<&'a [bool]>,
        n_points: Option<usize>,
    ) -> Result<Self> {
        let batch = locations.batch;
        let argument = |name, found: String, allowed: String| Err(Error::argument(OP, name, found, allowed));
        check_batch(OP, batch)?;
        let known: Vec<&str> = config.groups.iter().map(|group| group.name.as_str()).collect();
        if let Some((name, ..)) = locations.groups.iter().find(|(name, ..)| !known.contains(&name.as_str())) {
            return argument("coordinate group", format!("{name:?}"), format!("the model's: {known:?}"));
        }
        let mut n_points = n_points;
        let mut groups = Vec::new();
        for group in &config.groups {
            let given: Vec<_> = locations.groups.iter().filter(|(name, ..)| *name == group.name).collect();
            let &[(_, dim, coords)] = given.as_slice() else {
                return argument(
                    "coordinate groups",
                    format!("{} of name {:?}", given.len(), group.name),
                    format!("each of {known:?} once"),
                );
            };
            let wanted = match group.bias.as_ref().map(|bias| bias.distance) {
                Some(Distance::GreatCircle) => Some(2),
                Some(Distance::CausalTime) => Some(1),
                _ => None,
            };
            if *dim == 0 || group.dim.or(wanted).is_some_and(|wanted| wanted != *dim) {
                let allowed = group.dim.or(wanted).map_or("1 or more".into(), |dim| dim.to_string());
                return argument("dim of a coordinate group", format!("{dim} for {:?}", group.name), allowed);
            }
            let per_batch = n_points.unwrap_or(coords.len() / batch.saturating_mul(*dim));
            n_points = Some(per_batch);
            check_length(OP, "the length of coordinates", &[batch, per_batch, *dim], coords.len())?;
            groups.push((*dim, group.embed, *coords));
        }
        let points = Self { batch, n_points: n_points.unwrap_or(0), groups, values: None, keep };
        for (group, (dim, _, coords)) in config.groups.iter().zip(&points.groups) {
            let bad = coords.iter().enumerate().find(|(i, x)| !x.is_finite() && points.exists(i / dim));
            if let Some((index, &value)) = bad {
                return Err(Error::NonFinite { name: format!("coordinates {:?}", group.name), index, value });
            }
        }
        Ok(points)
    }

    /// Whether point `i` of all the batch exists.
    pub fn exists(&self, i: usize) -> bool {
        self.keep.is_none_or(|keep| keep[i])
    }

    /// Which columns of the packed coordinates belong to each group.
    pub fn columns(&self) -> Vec<Range<usize>> {
        let mut first = 0;
        let next = |&(dim, ..): &(usize, bool, &[f32])| {
            first += dim;
            first - dim..first
        };
        self.groups.iter().map(next).collect()
    }

    /// The coordinates of some points of every batch element, `[batch, len, n_columns]`.
    pub fn coords(&self, range: &Range<usize>) -> Vec<f32> {
        self.rows(range, |i, row| self.push_coords(i, |_| true, row))
    }

    /// The inputs of the first layer: `[obs, embedded coordinates, values]` for each point.
    pub fn tokens(&self, range: &Range<usize>, obs: &[f32], n_values: usize) -> Vec<f32> {
        self.rows(range, |i, row| {
            row.extend_from_slice(obs);
            self.push_coords(i, |embed| embed, row);
            match self.values {
                Some(values) if self.exists(i) => row.extend_from_slice(&values[i * n_values..][..n_values]),
                _ => row.extend(std::iter::repeat_n(0.0, n_values)),
            }
        })
    }

    fn rows(&self, range: &Range<usize>, push: impl Fn(usize, &mut Vec<f32>)) -> Vec<f32> {
        let mut rows = Vec::new();
        for batch in 0..self.batch {
            for i in range.clone() {
                push(batch * self.n_points + i, &mut rows);
            }
        }
        rows
    }

    fn push_coords(&self, i: usize, wanted: impl Fn(bool) -> bool, row: &mut Vec<f32>) {
        for &(dim, embed, coords) in &self.groups {
            if wanted(embed) && self.exists(i) {
                row.extend_from_slice(&coords[i * dim..][..dim]);
            } else if wanted(embed) {
                row.extend(std::iter::repeat_n(0.0, dim));
            }
        }
    }
}
