//! Predictions from the nearest observations: fields of more points than a network was trained on.

use super::{Context, Locations, TnpKr, points::Points};
use crate::{
    error::{Result, check_argument},
    models::{
        Prediction,
        neighbours::{Neighbourhood, Positions, neighbourhoods},
    },
    tensor::check_finite,
};

const OP: &str = "predict_local";

/// Numbers of keys that pass through a network at once.
const AT_ONCE: usize = 1 << 15;

/// Of the deviation of all observations, the least that a neighbourhood is scaled by.
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
    /// less time: they must lie within half of the distance that the observations reach.
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
    /// root of the mean squared distance from the middle of its observations is 1. For networks that were
    /// trained so, such as `checkpoints/field.safetensors`; predictions are in the units of the data.
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
        let config = self.config();
        for (name, number) in [("nearest", local.nearest), ("together", local.together)] {
            check_argument(number > 0, OP, name, number, "1 or more")?;
        }
        for batch in [context.locations().batch, locations.batch] {
            check_argument(batch == 1, OP, "batch", batch, "1: a neighbourhood is a batch element already")?;
        }
        let observed = Points::observed(config, self.domain(), context)?;
        let places = Points::targets(config, locations, &observed.frame)?;
        let (found, columns) = (places.columns(), observed.columns());
        let allowed = format_args!("{columns:?}, those of the context");
        check_argument(found == columns, OP, "coordinate columns", format_args!("{found:?}"), allowed)?;
        let known: Vec<&str> = config.groups.iter().map(|group| group.name.as_str()).collect();
        for (group, weight) in &local.weights {
            let allowed = format_args!("of a coordinate group of the model: {known:?}");
            check_argument(known.contains(&group.as_str()), OP, "a weight", format_args!("of {group:?}"), allowed)?;
            let is_weight = weight.is_finite() && *weight >= 0.0;
            check_argument(is_weight, OP, "a weight", weight, "0 or more")?;
        }
        let weight = |group: Option<&str>| {
            let named = local.weights.iter().rev().find(|(name, _)| group == Some(name.as_str()));
            named.map_or(1.0, |(_, weight)| *weight)
        };
        let weights: Vec<f64> = observed.cloud().columns.iter().map(|column| weight(column.group)).collect();
        let [from, to] = [observed.cloud(), places.cloud()].map(|cloud| Positions::new(cloud, &weights));
        let seen = observed.cloud().of_element(0);
        Ok(neighbourhoods(&from, seen, &to, places.n_points, local.nearest, local.together))
    }

    /// Predicts each place from the observations that are nearest to it, as far as they matter: a network
    /// that was trained on some hundred points does not read a hundred thousand at once, and need not.
    /// Time grows with the number of places, memory not at all.
    ///
    /// Each neighbourhood is a data set of its own, many at a time; `receive` gets it with what was
    /// predicted at its places, `[1, n_places, n_values]`. Stops at the first error, which may be the
    /// receiver's.
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
        let parts = self.neighbourhoods(context, locations, local)?;
        let observed = Points::observed(self.config(), self.domain(), context)?;
        let places = Points::targets(self.config(), locations, &observed.frame)?;
        if local.standardised {
            self.check_standardised(&observed)?;
        }
        let least = LEAST_DEVIATION * deviation(&observed, observed.cloud().of_element(0)).1;
        let n_observations = parts.first().map_or(1, |part| part.observations.len());
        for parts in parts.chunks((AT_ONCE / n_observations).max(1)) {
            let frames: Vec<_> = parts.iter().map(|part| frame(&observed, part, local.standardised, least)).collect();
            let n_places = parts.iter().map(|part| part.places.len()).max().unwrap_or(0);
            let keys = self.gather(&observed, parts, &frames, n_observations, |part| &part.observations);
            let queries = self.gather(&places, parts, &frames, n_places, |part| &part.places);
            let values: Vec<f32> = parts.iter().zip(&frames).flat_map(|(part, frame)| frame.scaled(&observed, part)).collect();
            let (keys, queries) = (self.locations(parts.len(), &keys), self.locations(parts.len(), &queries));
            let prediction = self.condition(&Context::new(keys, &values))?.predict_async(&queries).await?;
            let n_values = prediction.shape()[2];
            let n_out = prediction.activations().len() / (parts.len() * n_places);
            for ((part, frame), rows) in parts.iter().zip(&frames).zip(prediction.activations().chunks(n_places * n_out)) {
                let rows = rows[..part.places.len() * n_out].to_vec();
                let own = Prediction::new(prediction.output(), [1, part.places.len(), n_values], rows)?;
                let own = own.with_outside(prediction.outside().clone());
                receive(part, if local.standardised { own.in_units(&frame.units, &frame.levels)? } else { own })?;
            }
        }
        Ok(())
    }

    /// Refuses to scale what means something by itself.
    fn check_standardised(&self, observed: &Points<'_>) -> Result<()> {
        let is_relative = observed.cloud().columns.iter().find(|column| !column.is_shifted() || column.is_angle());
        let group = is_relative.and_then(|column| column.group);
        let allowed = "groups of straight distances or of time that the network sees differences of alone";
        check_argument(is_relative.is_none(), OP, "standardise", format_args!("with the group {group:?}"), allowed)?;
        let output = self.config().output;
        let allowed = "a Gaussian output: classes, counts and shares have no units";
        check_argument(output.has_units(), OP, "standardise", format_args!("a {} output", output.name()), allowed)
    }

    /// The coordinates of some points of each neighbourhood, `[n_parts, len, dim]` for each group. One with
    /// fewer points repeats its first.
    fn gather(
        &self,
        points: &Points<'_>,
        parts: &[Neighbourhood],
        frames: &[Frame],
        len: usize,
        of: impl Fn(&Neighbourhood) -> &[usize],
    ) -> Vec<Vec<f64>> {
        let gather = |columns: Range<usize>| {
            let mut numbers = Vec::with_capacity(parts.len() * len * columns.len());
            for (part, frame) in parts.iter().zip(frames) {
                let indices = of(part);
                for j in 0..len {
                    let i = indices[if j < indices.len() { j } else { 0 }];
                    numbers.extend(columns.clone().map(|c| frame.coordinate(c, points.cloud().columns[c].at(i))));
                }
            }
            numbers
        };
        points.columns().into_iter().map(gather).collect()
    }

    fn locations<'a>(&self, batch: usize, groups: &'a [Vec<f64>], columns: &[Range<usize>]) -> Locations<'a> {
        let mut locations = Locations::default().batch(batch);
        for ((group, numbers), columns) in self.config().groups.iter().zip(groups).zip(columns) {
            locations = locations.group(&group.name, columns.len(), numbers);
        }
        locations
    }
}

/// What a neighbourhood is scaled by.
struct Frame {
    /// The middle of each column and what one unit of its group is.
    coordinates: Vec<[f64; 2]>,
    /// The mean of each value, and its deviation.
    levels: Vec<f64>,
    units: Vec<f64>,
}

impl Frame {
    fn coordinate(&self, column: usize, x: f64) -> f64 {
        let [middle, unit] = self.coordinates[column];
        (x - middle) / unit
    }

    /// The values of the observations, `[n_observations, n_values]`.
    fn scaled(&self, observed: &Points<'_>, part: &Neighbourhood) -> Vec<f32> {
        let n = self.levels.len();
        let scale = |i: &usize, c: usize| (f64::from(observed.value(*i, n)[c]) - self.levels[c]) / self.units[c];
        part.observations.iter().flat_map(|i| (0..n).map(move |c| scale(i, c) as f32)).collect()
    }
}
