//! Predictions from the nearest observations: fields of more points than a network was trained on.

use std::ops::Range;

use super::{
    Context, Locations, TnpKr,
    points::{Group, Points, sees_differences},
};
use crate::{
    error::{Error, Result, check_argument},
    models::{
        Prediction,
        frame::Column,
        neighbours::{Neighbourhood, Positions, neighbourhoods},
    },
    ops::Distance,
};

const OP: &str = "predict_local";

/// Numbers of keys that pass through a network at once.
const AT_ONCE: usize = 1 << 15;

/// The largest coordinate, times its weight, of which squares of differences are numbers.
const FARTHEST: f64 = 1e150;

/// Of the deviation of all observations, what a neighbourhood has more of that is scaled by its own.
const LEAST_DEVIATION: f64 = 1e-4;

/// Which observations a place is predicted from, see [`TnpKr::predict_local`].
///
/// ```
/// use wgpu_attention::models::tnp_kr::Local;
///
/// let local = Local::nearest(128).together(16).standardise();
/// assert_eq!((local.nearest, local.together), (128, 16));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Local {
    /// So many observations, or all if there are fewer.
    pub nearest: usize,
    /// At most so many places, close together, share their observations.
    pub together: usize,
    /// What differences of a coordinate group count in the distance; 1 for a group that is not named.
    pub weights: Vec<(String, f64)>,
    /// Whether each neighbourhood is scaled.
    pub standardised: bool,
}

impl Local {
    /// The nearest observations, for each place by itself.
    pub fn nearest(nearest: usize) -> Self {
        Self { nearest, together: 1, weights: Vec::new(), standardised: false }
    }

    /// Places that lie close together share their observations, at most so many, which takes that much
    /// less time: they must lie within half of the distance that the observations reach. Of observations in causal
    /// time they share those before all of them, if there are enough.
    pub fn together(self, together: usize) -> Self {
        Self { together, ..self }
    }

    /// How much differences of a coordinate group count when distances are compared: how many units of
    /// space an hour is worth, say.
    pub fn weight(mut self, group: &str, weight: f64) -> Self {
        self.weights.push((group.to_owned(), weight));
        self
    }

    /// Scales each neighbourhood: the values to mean 0 and deviation 1, and the coordinates so that the
    /// root of the mean squared distance from the middle of its observations is 1. Values that are the same, to a
    /// ten-thousandth of the deviation of all observations, take that for theirs. For networks that were trained so,
    /// such as `checkpoints/field.safetensors`; predictions are in the units of the data.
    pub fn standardise(self) -> Self {
        Self { standardised: true, ..self }
    }
}

impl TnpKr {
    /// Which observations each place would be predicted from by [`TnpKr::predict_local`].
    ///
    /// # Errors
    /// As [`TnpKr::predict_local`].
    pub fn neighbourhoods(
        &self,
        context: &Context<'_>,
        locations: &Locations<'_>,
        local: &Local,
    ) -> Result<Vec<Neighbourhood>> {
        let (observed, places) = self.local_points(context, locations, local)?;
        self.near(&observed, &places, local)
    }

    /// The observations and the places, checked.
    fn local_points<'a>(
        &'a self,
        context: &Context<'a>,
        locations: &Locations<'a>,
        local: &Local,
    ) -> Result<(Points<'a>, Points<'a>)> {
        for (name, number) in [("nearest", local.nearest), ("together", local.together)] {
            check_argument(number > 0, OP, name, number, "1 or more")?;
        }
        for batch in [context.batch(), locations.batch] {
            check_argument(batch == 1, OP, "batch", batch, "1: a neighbourhood is a batch element already")?;
        }
        let observed = Points::observed(self.config(), self.domain(), context)?;
        let places = Points::targets(self.config(), locations, &observed.frame)?;
        let (found, columns) = (places.columns(), observed.columns());
        let allowed = format_args!("{columns:?}, those of the context");
        check_argument(found == columns, OP, "coordinate columns", format_args!("{found:?}"), allowed)?;
        Ok((observed, places))
    }

    fn near(&self, observed: &Points<'_>, places: &Points<'_>, local: &Local) -> Result<Vec<Neighbourhood>> {
        let known: Vec<&str> = self.config().groups.iter().map(|group| group.name.as_str()).collect();
        for (group, weight) in &local.weights {
            let allowed = format_args!("of a coordinate group of the model: {known:?}");
            check_argument(known.contains(&group.as_str()), OP, "a weight", format_args!("of {group:?}"), allowed)?;
            let is_weight = *weight == 0.0 || (1e-100..=1e100).contains(weight);
            check_argument(is_weight, OP, "a weight", weight, "0, or 1e-100 to 1e100")?;
        }
        let weight = |group: Option<&str>| {
            let named = local.weights.iter().rev().find(|(name, _)| group == Some(name.as_str()));
            named.map_or(1.0, |(_, weight)| *weight)
        };
        let weights: Vec<f64> = observed.cloud().columns.iter().map(|column| weight(column.group)).collect();
        let [from, to] = [observed.cloud(), places.cloud()].map(|cloud| Positions::new(cloud, &weights));
        let farthest = from.farthest(observed.cloud().of_element(0)).max(to.farthest(0..places.n_points));
        let allowed = format_args!("up to {FARTHEST:e} with its weight, for squares of differences to be numbers");
        check_argument(farthest <= FARTHEST, OP, "a coordinate", format_args!("{farthest:e} in size"), allowed)?;
        let seen = observed.cloud().of_element(0);
        // What is later than a place is not there for it.
        let causal = |column: &(&Column<'_>, &Column<'_>)| column.0.distance == Some(Distance::CausalTime);
        let times: Vec<_> = observed.cloud().columns.iter().zip(&places.cloud().columns).filter(causal).collect();
        let counts = |i: usize, group: &[usize]| {
            times.iter().all(|(seen, asked)| group.iter().all(|&place| seen.at(i) <= asked.at(place)))
        };
        let sizes = [local.nearest, local.together];
        let found = neighbourhoods(&from, seen, &to, places.n_points, sizes, counts);
        if let Some(part) = found.iter().find(|part| part.observations.is_empty()) {
            let place = format_args!("place {}, before all observations", part.places[0]);
            return Err(Error::argument(OP, "a location", place, "not before the first observation"));
        }
        Ok(found)
    }

    /// Predicts each place from the observations that are nearest to it, as far as they matter: a network
    /// that was trained on some hundred points does not read a hundred thousand at once, and need not.
    /// Time grows with the number of places, memory not at all.
    ///
    /// Each neighbourhood is a data set of its own, many at a time; `receive` gets it with what was
    /// predicted at its places, `[1, n_places, n_values]`. Stops at the first error, which may be the
    /// receiver's. [Origins](Context::origin) are taken off coordinates that the network sees themselves.
    ///
    /// # Errors
    /// As [`TnpKr::condition`] and [`Posterior::predict`](super::Posterior::predict); a batch that is not
    /// 1; numbers of 0; weights of groups that are not there, or that are negative. To
    /// [standardise](Local::standardise): coordinates that the network sees themselves, or great circles;
    /// a model of another family than the Gaussian.
    ///
    /// ```
    /// use wgpu_attention::{Device, models::tnp_kr::{Config, Context, Local, Locations, TnpKr}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let model = TnpKr::random(&Device::best(), &Config { n_blocks: 1, ..Config::scan(1) }, 0)?;
    /// let x: Vec<f32> = (0..1000).map(|i| i as f32).collect();
    /// let y: Vec<f32> = x.iter().map(|x| (0.1 * x).sin()).collect();
    /// let context = Context::new(Locations::space(1, &x), &y);
    /// let mut means = [0.0; 2];
    /// model.predict_local(&context, &Locations::space(1, &[0.4, 500.2]), &Local::nearest(8), |near, prediction| {
    ///     assert_eq!(near.observations.len(), 8);
    ///     near.places.iter().zip(prediction.mean()).for_each(|(place, mean)| means[*place] = *mean);
    ///     Ok(())
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(not(target_arch = "wasm32"))]
    pub fn predict_local(
        &self,
        context: &Context<'_>,
        locations: &Locations<'_>,
        local: &Local,
        receive: impl FnMut(&Neighbourhood, Prediction) -> Result<()>,
    ) -> Result<()> {
        pollster::block_on(self.predict_local_async(context, locations, local, receive))
    }

    /// [`TnpKr::predict_local`] without blocking.
    ///
    /// # Errors
    /// As [`TnpKr::predict_local`].
    pub async fn predict_local_async(
        &self,
        context: &Context<'_>,
        locations: &Locations<'_>,
        local: &Local,
        mut receive: impl FnMut(&Neighbourhood, Prediction) -> Result<()>,
    ) -> Result<()> {
        let (observed, places) = self.local_points(context, locations, local)?;
        let parts = self.near(&observed, &places, local)?;
        if local.standardised {
            self.check_standardised(&observed)?;
        }
        let columns = observed.columns();
        // Of differences there is a better one: the middle of each neighbourhood. So none is left of what is standardised.
        let of_differences = self.config().groups.iter().filter(|group| sees_differences(self.config(), group));
        let of_differences: Vec<_> = of_differences.map(|group| &group.name).collect();
        let mut origins = context.origins.clone();
        origins.retain(|(name, _)| !of_differences.contains(&name));
        let all: Vec<usize> = observed.cloud().of_element(0).collect();
        let whole: Vec<f64> = moments(&observed, &all).map(|[_, deviation]| deviation).collect();
        let n_observations = parts.iter().map(|part| part.observations.len()).max().unwrap_or(1);
        for parts in batches(&parts, n_observations) {
            let n_places = parts.iter().map(|part| part.places.len()).max().unwrap_or(0);
            let empty = self.config().groups.iter().zip(&columns);
            let empty: Vec<_> =
                empty.map(|(group, columns)| (group.name.as_str(), columns.len(), Vec::new())).collect();
            let (mut keys, mut queries) = (empty.clone(), empty);
            let (mut values, mut keep, mut scales) = (Vec::new(), Vec::new(), Vec::new());
            for part in parts {
                let scale = if local.standardised {
                    Scale::of(&observed, part, &columns, &whole)
                } else {
                    Scale::none(&observed, &columns)
                };
                // One with fewer points than others repeats its first.
                let seen = filled(&part.observations, n_observations);
                keep.extend((0..n_observations).map(|i| i < part.observations.len()));
                scale.values(&observed, &seen, &mut values);
                scale.coordinates(&observed, &seen, &columns, &mut keys);
                scale.coordinates(&places, &filled(&part.places, n_places), &columns, &mut queries);
                scales.push(scale);
            }
            let keys = Context::new(Locations::of(&keys, parts.len()), &values);
            let mut keys = Context { origins: origins.clone(), ..keys };
            if keep.contains(&false) {
                keys = keys.mask(&keep);
            }
            let prediction = self.condition(&keys)?.predict_async(&Locations::of(&queries, parts.len())).await?;
            let n_values = prediction.shape()[2];
            let rows = prediction.activations().chunks(prediction.activations().len() / parts.len());
            for (element, ((part, scale), rows)) in parts.iter().zip(&scales).zip(rows).enumerate() {
                let rows = rows[..rows.len() / n_places * part.places.len()].to_vec();
                let own = Prediction::new(prediction.output(), [1, part.places.len(), n_values], rows)?;
                let own = own.with_outside(prediction.outside().of_element(element));
                receive(part, if local.standardised { own.in_units(&scale.units, &scale.levels)? } else { own })?;
            }
        }
        Ok(())
    }

    /// Refuses to scale what means something by itself.
    fn check_standardised(&self, observed: &Points<'_>) -> Result<()> {
        let fixed = observed
            .cloud()
            .columns
            .iter()
            .find(|column| !column.is_relative || column.distance == Some(Distance::GreatCircle));
        let group = fixed.and_then(|column| column.group).unwrap_or_default();
        let allowed = "groups of straight distances or of time, of which the network sees differences alone";
        check_argument(fixed.is_none(), OP, "standardise", format_args!("with the group {group:?}"), allowed)?;
        let output = self.config().output;
        let allowed = "a Gaussian output: classes, counts and shares have no units";
        check_argument(output.has_units(), OP, "standardise", format_args!("with a {} output", output.name()), allowed)
    }
}

/// Parts that pass through the network together, one at least: there each has as many observations and places as the
/// one with most.
fn batches(mut parts: &[Neighbourhood], n_observations: usize) -> impl Iterator<Item = &[Neighbourhood]> {
    std::iter::from_fn(move || {
        let mut most = n_observations;
        let fits = |(i, part): &(usize, &Neighbourhood)| {
            most = most.max(part.places.len());
            (i + 1).saturating_mul(most) <= AT_ONCE
        };
        let n = parts.iter().enumerate().take_while(fits).count().max(1);
        let (batch, later) = parts.split_at_checked(n)?;
        parts = later;
        Some(batch)
    })
}

/// As many indices as asked for, the first again where there are fewer.
fn filled(indices: &[usize], len: usize) -> Vec<usize> {
    (0..len).map(|i| *indices.get(i).unwrap_or(&indices[0])).collect()
}

/// The mean of each value of some observations, and its deviation.
fn moments<'a>(observed: &'a Points<'_>, indices: &'a [usize]) -> impl Iterator<Item = [f64; 2]> + 'a {
    (0..observed.n_values())
        .map(move |c| mean_and_deviation(indices.iter().map(move |i| f64::from(observed.value(*i, c)))))
}

/// The mean of some numbers and their deviation, which is 0 where all are the same: so differences from the first are
/// summed, for a sum of equal numbers is rounded.
fn mean_and_deviation(numbers: impl ExactSizeIterator<Item = f64> + Clone) -> [f64; 2] {
    let n = numbers.len() as f64;
    let first = numbers.clone().next().unwrap_or(0.0);
    let mean = first + numbers.clone().map(|x| x - first).sum::<f64>() / n;
    [mean, (numbers.map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt()]
}

/// What a neighbourhood is scaled by.
struct Scale {
    /// What is taken off each column, and what is one in it then.
    columns: Vec<[f64; 2]>,
    /// The same of each value.
    levels: Vec<f64>,
    units: Vec<f64>,
}

impl Scale {
    fn none(observed: &Points<'_>, columns: &[Range<usize>]) -> Self {
        let n_columns = columns.last().map_or(0, |columns| columns.end);
        let n_values = observed.n_values();
        Self { columns: vec![[0.0, 1.0]; n_columns], levels: vec![0.0; n_values], units: vec![1.0; n_values] }
    }

    /// `whole` is the deviation of all observations, by value.
    fn of(observed: &Points<'_>, part: &Neighbourhood, columns: &[Range<usize>], whole: &[f64]) -> Self {
        let cloud = observed.cloud();
        let mut scale = Self::none(observed, columns);
        for group in columns {
            let mut size = 0f64;
            for c in group.clone() {
                let [middle, spread] = mean_and_deviation(part.observations.iter().map(|i| cloud.columns[c].at(*i)));
                scale.columns[c][0] = middle;
                size = size.hypot(spread);
            }
            // Observations that are all at one place have no size.
            let unit = if size > 0.0 { size } else { 1.0 };
            group.clone().for_each(|c| scale.columns[c][1] = unit);
        }
        for (c, [mean, deviation]) in moments(observed, &part.observations).enumerate() {
            // What is the same everywhere, as a single observation is, says nothing of how much it varies.
            let unit = if deviation > LEAST_DEVIATION * whole[c] { deviation } else { whole[c] };
            scale.levels[c] = mean;
            scale.units[c] = if unit > 0.0 { unit } else { 1.0 };
        }
        scale
    }

    /// Appends the values of observations, `[n_observations, n_values]`.
    fn values(&self, observed: &Points<'_>, indices: &[usize], to: &mut Vec<f32>) {
        for &i in indices {
            let scaled = self.levels.iter().zip(&self.units).enumerate();
            to.extend(scaled.map(|(c, (level, unit))| ((f64::from(observed.value(i, c)) - level) / unit) as f32));
        }
    }

    /// Appends the coordinates of some points to those of each group.
    fn coordinates(&self, points: &Points<'_>, indices: &[usize], columns: &[Range<usize>], to: &mut [Group<'_>]) {
        for &i in indices {
            for (group, (.., to)) in columns.iter().zip(&mut *to) {
                let scaled = |c: usize| (points.cloud().columns[c].at(i) - self.columns[c][0]) / self.columns[c][1];
                to.extend(group.clone().map(scaled));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One part with many places made all of its batch as long.
    #[test]
    fn batches_are_small_with_the_places_that_fill_them_up() {
        let part = |n: usize| Neighbourhood { observations: vec![0], places: vec![0; n] };
        let lengths = |parts: &[Neighbourhood], n_observations: usize| -> Vec<usize> {
            batches(parts, n_observations).map(<[_]>::len).collect()
        };
        let one: Vec<_> = (0..AT_ONCE + 1).map(|_| part(1)).collect();
        assert_eq!(lengths(&one, 1), [AT_ONCE, 1]);
        assert_eq!(lengths(&one[..5], AT_ONCE / 2), [2, 2, 1]);
        assert_eq!(
            lengths(&[part(1), part(2), part(AT_ONCE), part(3), part(2 * AT_ONCE), part(1)], 1),
            [2, 1, 1, 1, 1]
        );
    }
}
