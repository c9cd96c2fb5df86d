//! Where observations and predictions are: named groups of coordinates, checked against the
//! configuration.

use std::{ops::Range, sync::Arc};

use super::config::{AttentionConfig, CategoryConfig, Config, GroupConfig};
use crate::{
    error::{Error, Result},
    models::{
        domain::{Domain, Outside, Summary},
        frame::{Cloud, Column, Frame},
        points::{Coordinate, Numbers, check_batch, check_length},
    },
    ops::Distance,
    tensor::check_finite,
};

const OP: &str = "tnp_kr";

/// The most columns of coordinates that a point has.
pub(super) const MAX_COLUMNS: usize = 1 << 16;

/// Points that are described by named groups of coordinates, `[batch, n_points, dim]` each,
/// row-major, in f32 or f64.
///
/// ```
/// use wgpu_attention::{Device, models::tnp_kr::{BiasConfig, Config, Context, GroupConfig, Locations, TnpKr}};
/// use wgpu_attention::ops::{BiasKernel, Distance};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let mut config = Config { n_blocks: 1, ..Config::scan(1) };
/// let bias = BiasConfig { kernel: BiasKernel::Scalar, distance: Distance::CausalTime, n_basis: 1 };
/// config.groups.push(GroupConfig { name: "t".into(), dim: None, embed: false, bias: Some(bias), category: None });
/// let model = TnpKr::random(&Device::best(), &config, 0)?;
/// // Two points of the plane, the second an hour later.
/// let at = Locations::space(2, &[0.0, 0.0, 1.0, 1.0]).time(&[12.0, 13.0]);
/// let posterior = model.condition(&Context::new(at.clone(), &[0.5, 0.7]))?;
/// assert_eq!(posterior.predict(&at)?.shape(), [1, 2, 1]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Locations<'a> {
    pub(super) batch: usize,
    pub(super) groups: Vec<(String, usize, Numbers<'a>)>,
}

/// The name of a coordinate group, its size, and its numbers, `[batch, n_points, dim]`.
pub(super) type Group<'a> = (&'a str, usize, Vec<f64>);

impl Default for Locations<'_> {
    fn default() -> Self {
        Self { batch: 1, groups: Vec::new() }
    }
}

impl<'a> Locations<'a> {
    /// Points in space, `dim` numbers each: the group `s`.
    pub fn space<T: Coordinate>(dim: usize, coords: &'a [T]) -> Self {
        Self::default().group("s", dim, coords)
    }

    /// Sets the batch size: independent data sets of as many points each, one after another.
    pub fn batch(mut self, batch: usize) -> Self {
        self.batch = batch;
        self
    }

    /// Adds a moment for each point: the group `t`.
    pub fn time<T: Coordinate>(self, times: &'a [T]) -> Self {
        self.group("t", 1, times)
    }

    /// Of groups that own their numbers.
    pub(super) fn of(groups: &'a [Group<'_>], batch: usize) -> Self {
        let all = Self::default().batch(batch);
        groups.iter().fold(all, |all, (name, dim, numbers)| all.group(name, *dim, numbers))
    }

    /// Adds a group by its name in the configuration, `dim` numbers a point.
    pub fn group<T: Coordinate>(mut self, name: &str, dim: usize, coords: &'a [T]) -> Self {
        self.groups.push((name.to_owned(), dim, Numbers::new(coords)));
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
/// assert!((both.mean()[1] - second.mean()[0]).abs() < 1e-5);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Context<'a> {
    pub(super) locations: Locations<'a>,
    pub(super) values: &'a [f32],
    pub(super) mask: Option<&'a [bool]>,
    pub(super) origins: Vec<(String, Vec<f64>)>,
}

impl<'a> Context<'a> {
    /// `values` is `[batch, n_points, n_values]`; one-hot for a categorical model.
    pub fn new(locations: Locations<'a>, values: &'a [f32]) -> Self {
        Self { locations, values, mask: None, origins: Vec::new() }
    }

    /// Says which points exist, `[batch, n_points]`, where the data sets of a batch differ in
    /// length. What the others hold is not read.
    pub fn mask(mut self, keep: &'a [bool]) -> Self {
        self.mask = Some(keep);
        self
    }

    /// How many data sets there are.
    pub(super) fn batch(&self) -> usize {
        self.locations.batch
    }

    /// Sets what is taken off the coordinates of a group, in f64, before they are rounded to f32: a
    /// number for each coordinate, the same for all the batch. The posterior keeps it and takes it off
    /// every point that it predicts at.
    ///
    /// Where the network sees differences of a group's coordinates alone (a group of scan attention
    /// that is not embedded), any origin is the same to it, and if none is given it is the middle of
    /// the context of each batch element. Where the network sees the coordinates themselves it is zero:
    /// taking anything off is then up to the caller, as it was in training. Great circles have none: a
    /// longitude is taken relative to the others, a latitude as it is.
    ///
    /// ```
    /// use wgpu_attention::{Device, models::tnp_kr::{Config, Context, Locations, TnpKr}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let model = TnpKr::random(&Device::cpu(), &Config { n_blocks: 1, ..Config::deep_kernel(1, 1) }, 0)?;
    /// let far = Context::new(Locations::space(1, &[1.7e9, 1.7e9 + 0.5]), &[0.1, 0.2]);
    /// assert!(model.condition(&far).is_err()); // f32 has no numbers between them
    /// let posterior = model.condition(&far.origin("s", &[1.7e9]))?;
    /// let near = model.condition(&Context::new(Locations::space(1, &[0.0, 0.5]), &[0.1, 0.2]))?;
    /// let [there, here] = [[1.7e9 + 0.25], [0.25]];
    /// assert_eq!(posterior.predict(&Locations::space(1, &there))?, near.predict(&Locations::space(1, &here))?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn origin(mut self, group: &str, origin: &[f64]) -> Self {
        self.origins.push((group.to_owned(), origin.to_vec()));
        self
    }
}

/// Checked points, coordinates in the order of the configuration: observations, or where to predict
/// if there are no values.
pub(super) struct Points<'a> {
    pub batch: usize,
    pub n_points: usize,
    /// Each group of the configuration, and how many numbers a point has of it.
    groups: Vec<(&'a GroupConfig, usize)>,
    cloud: Cloud<'a>,
    /// What is taken off the coordinates.
    pub frame: Arc<Frame>,
    pub values: Option<&'a [f32]>,
    pub keep: Option<&'a [bool]>,
}

impl<'a> Points<'a> {
    pub fn observed(config: &'a Config, domain: Option<&Domain>, context: &Context<'a>) -> Result<Self> {
        let &Context { ref locations, values, mask: keep, ref origins } = context;
        let (batch, n_values) = (locations.batch, config.n_values);
        check_batch(OP, batch)?;
        // A batch that overflows has no points.
        let n_points = values.len() / batch.saturating_mul(n_values);
        let because = format_args!(": as many points in each of {batch} batch elements, of {n_values} values each");
        check_length(OP, "the length of values", &[batch, n_points, n_values], values.len(), because)?;
        if n_points == 0 {
            return Err(Error::EmptyContext { batch: None });
        }
        if let Some(keep) = keep {
            check_length(OP, "the length of mask", &[batch, n_points], keep.len(), "")?;
            if let Some(batch) = keep.chunks(n_points).position(|keep| !keep.contains(&true)) {
                return Err(Error::EmptyContext { batch: Some(batch) });
            }
        }
        let mut points = Self { values: Some(values), ..Self::new(config, locations, keep, Some(n_points))? };
        let (found, trained) = (points.cloud.columns.len(), domain.map(|domain| domain.coordinates.len()));
        if let Some(trained) = trained.filter(|trained| *trained != found) {
            let allowed = format!("{trained}, as in training");
            return Err(Error::argument(OP, "the number of coordinates of a point", found, allowed));
        }
        let given = given(config, &points, origins)?;
        points.frame = Arc::new(points.cloud.frame(|_, c| given[c])?);
        for (i, values) in values.chunks(n_values).enumerate() {
            if points.exists(i) {
                check_finite(&format!("values of point {i}"), values)?;
                if let Some((at, allowed)) = config.output.refuses(values) {
                    let found = format_args!("{:?} in point {i}", &values[at..]);
                    let allowed = format_args!("{allowed}, as the output is {}", config.output.name());
                    return Err(Error::argument(OP, "an observation", found, allowed));
                }
            }
        }
        Ok(points)
    }

    /// Where to predict with a posterior of this frame.
    pub fn targets(config: &'a Config, locations: &Locations<'a>, frame: &Arc<Frame>) -> Result<Self> {
        let points = Self::new(config, locations, None, None)?;
        points.cloud.check()?;
        if frame.origin.len() == points.batch * points.cloud.columns.len() {
            points.cloud.fits(frame, true)?;
        }
        Ok(Self { frame: frame.clone(), ..points })
    }

    /// `n_points` is what the other data say, where there are any: a model without groups
    /// cannot tell by itself.
    fn new(
        config: &'a Config,
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
        let of_values = n_points;
        let mut n_points = n_points;
        let (mut groups, mut columns) = (Vec::new(), Vec::new());
        for group in &config.groups {
            let given: Vec<_> = locations.groups.iter().filter(|(name, ..)| *name == group.name).collect();
            let &[&(_, dim, numbers)] = given.as_slice() else {
                return argument(
                    "coordinate groups",
                    format!("{} of name {:?}", given.len(), group.name),
                    format!("each of {known:?} once"),
                );
            };
            let distance = group.bias.as_ref().map(|bias| bias.distance);
            let wanted = match distance {
                Some(Distance::GreatCircle) => Some(2),
                Some(Distance::CausalTime) => Some(1),
                _ => None,
            };
            if dim == 0 || group.dim.or(wanted).is_some_and(|wanted| wanted != dim) {
                let allowed = group.dim.or(wanted).map_or("1 or more".into(), |dim| dim.to_string());
                return argument("dim of a coordinate group", format!("{dim} for {:?}", group.name), allowed);
            }
            // Without points, no numbers say that there are not so many.
            let more = MAX_COLUMNS - columns.len();
            if dim > more {
                let found = format!("{dim} for {:?}", group.name);
                let allowed = format!("1 to {more}: a point has {MAX_COLUMNS} columns at most");
                return argument("dim of a coordinate group", found, allowed);
            }
            let per_batch = n_points.unwrap_or(numbers.len() / batch.saturating_mul(dim));
            let there = numbers.len() as f64 / (batch as f64 * dim as f64);
            let because = match of_values {
                Some(n) => {
                    format!(": there are {there} points of {:?} in each batch element, and values of {n}", group.name)
                }
                None => format!(": there are {there} points of {:?} in each of {batch} batch elements", group.name),
            };
            check_length(OP, "the length of coordinates", &[batch, per_batch, dim], numbers.len(), because)?;
            n_points = Some(per_batch);
            groups.push((group, dim));
            let is_relative = sees_differences(config, group);
            let name = Some(group.name.as_str());
            columns.extend((0..dim).map(|index| Column { group: name, numbers, dim, index, is_relative, distance }));
        }
        let n_points = n_points.unwrap_or(0);
        let cloud = Cloud { op: OP, batch, n: n_points, columns, keep };
        let points = Self { batch, n_points, groups, cloud, frame: Arc::default(), values: None, keep };
        points.check_categories()?;
        Ok(points)
    }

    /// Refuses numbers of categories that there are not.
    fn check_categories(&self) -> Result<()> {
        for ((group, _), columns) in self.groups.iter().zip(self.columns()) {
            let Some(CategoryConfig { channel, n_categories, .. }) = group.category else { continue };
            let column = &self.cloud.columns[columns.start + channel];
            let is_one = |x: f64| x >= 0.0 && x < n_categories as f64 && x.fract() == 0.0;
            let wrong = (0..self.batch * self.n_points).find(|i| self.exists(*i) && !is_one(column.at(*i)));
            if let Some(i) = wrong {
                let found = format_args!("{} in point {i}: coordinate {channel} of {:?}", column.at(i), group.name);
                let allowed = format_args!("a whole number from 0 to {}", n_categories - 1);
                return Err(Error::argument(OP, "a category", found, allowed));
            }
        }
        Ok(())
    }

    /// The coordinates as they were given.
    pub fn cloud(&self) -> &Cloud<'a> {
        &self.cloud
    }

    /// Numbers that were observed at a point.
    pub fn n_values(&self) -> usize {
        self.values.map_or(0, |values| values.len() / (self.batch * self.n_points).max(1))
    }

    /// Number `c` that was observed at point `i` of all the batch.
    pub fn value(&self, i: usize, c: usize) -> f32 {
        self.values.map_or(0.0, |values| values[i * self.n_values() + c])
    }

    /// Whether point `i` of all the batch exists.
    fn exists(&self, i: usize) -> bool {
        self.keep.is_none_or(|keep| keep[i])
    }

    /// What of the observations is compared with a domain.
    pub fn summary(&self) -> Option<Summary> {
        let values = self.values?;
        Some(Summary::new(&self.cloud, values, self.n_values()))
    }

    /// What of a context and of these targets lies outside of a domain.
    pub fn outside(&self, domain: Option<&Domain>, context: Option<&Summary>) -> Outside {
        match (domain, context) {
            (Some(domain), Some(context)) => context.outside(domain, &self.frame, &self.cloud),
            _ => Outside::default(),
        }
    }

    /// Which columns of the packed coordinates belong to each group.
    pub fn columns(&self) -> Vec<Range<usize>> {
        let mut first = 0;
        let next = |&(_, dim): &(&GroupConfig, usize)| {
            first += dim;
            first - dim..first
        };
        self.groups.iter().map(next).collect()
    }

    /// The coordinates of some points of every batch element, `[batch, len, n_columns]`.
    pub fn coords(&self, range: &Range<usize>) -> Vec<f32> {
        self.rows(range, |i, row| row.extend((0..self.cloud.columns.len()).map(|c| self.seen(c, i))))
    }

    /// The inputs of the first layer: `[obs, embedded coordinates, values]` for each point; `categories` are the
    /// learned numbers of those of each group.
    pub fn tokens(
        &self,
        range: &Range<usize>,
        obs: &[f32],
        n_values: usize,
        categories: &[Option<Vec<f32>>],
    ) -> Vec<f32> {
        let groups: Vec<_> = self.groups.iter().zip(self.columns()).zip(categories).collect();
        self.rows(range, |i, row| {
            row.extend_from_slice(obs);
            for (((group, _), columns), learned) in groups.iter().filter(|(((group, _), _), _)| group.embed) {
                for c in columns.clone() {
                    match (group.category, learned) {
                        (Some(category), Some(learned)) if columns.start + category.channel == c => {
                            let at = if self.exists(i) { self.cloud.columns[c].at(i) as usize } else { 0 };
                            row.extend_from_slice(&learned[at * category.n_features..][..category.n_features]);
                        }
                        _ => row.push(self.seen(c, i)),
                    }
                }
            }
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

    /// What the network sees of point `i` in column `c`.
    fn seen(&self, c: usize, i: usize) -> f32 {
        let first = i / self.n_points * self.cloud.columns.len();
        if self.exists(i) { self.frame.seen(&self.cloud.columns[c], first + c, i) } else { 0.0 }
    }
}

/// Whether a network sees differences of a group's coordinates alone.
pub(super) fn sees_differences(config: &Config, group: &GroupConfig) -> bool {
    matches!(config.attention, AttentionConfig::Scan { .. }) && !group.embed
}

/// The origin of each column that was given.
fn given(config: &Config, points: &Points<'_>, origins: &[(String, Vec<f64>)]) -> Result<Vec<Option<f64>>> {
    let mut given = vec![None; points.cloud.columns.len()];
    for (name, origin) in origins {
        let refused = |found: String, allowed: &str| Err(Error::argument(OP, "an origin", found, allowed));
        let of_group = config.groups.iter().zip(points.columns()).find(|(group, _)| group.name == *name);
        let Some((group, columns)) = of_group else {
            return refused(format!("of {name:?}"), "of a coordinate group of the model");
        };
        if group.bias.as_ref().is_some_and(|bias| bias.distance == Distance::GreatCircle) {
            return refused(format!("of {name:?}"), "of a group without a great circle, which has its own");
        }
        if origin.len() != columns.len() || origin.iter().any(|x| !x.is_finite()) {
            let found = format!("{origin:?} for {name:?}");
            return refused(found, "a finite number for each coordinate of the group");
        }
        columns.zip(origin).for_each(|(column, x)| given[column] = Some(*x));
    }
    Ok(given)
}
