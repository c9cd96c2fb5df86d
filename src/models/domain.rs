//! What a network was trained on, and what lies outside of it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    exact_sum::ExactSum,
    frame::{Cloud, Frame},
};
use crate::{
    checkpoint::Checkpoint,
    error::{Error, Result},
};

/// By how much more than anything in training a number may be without a word.
const SLACK: f64 = 1.25;

/// What the tasks of a network's training were like; the metadata of a checkpoint may hold it as JSON,
/// under the key `domain`.
///
/// ```
/// use wgpu_attention::{Device, models::tnp_kr::TnpKr};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let model = TnpKr::open(&Device::cpu(), "checkpoints/gp_1d.safetensors")?;
/// let domain = model.domain().expect("the file says what it was trained on");
/// assert_eq!(domain.coordinates.len(), 1); // points on a line
/// assert!(domain.coordinates[0].extent < 6.0);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Domain {
    /// Each coordinate of a point, in the order of the configuration.
    pub coordinates: Vec<CoordinateDomain>,
    /// The values of the contexts, if they are numbers.
    #[serde(default)]
    pub values: Option<ValueDomain>,
}

/// One coordinate in training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoordinateDomain {
    /// The longest record: from its first to its last point, targets included.
    pub extent: f64,
    /// The least and the largest number, of networks that see the coordinate itself.
    #[serde(default)]
    pub position: Option<[f64; 2]>,
    /// The least and the largest mean distance between neighbours of a context.
    #[serde(default)]
    pub spacing: Option<[f64; 2]>,
}

/// The values of the contexts in training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValueDomain {
    /// The least and the largest mean of a context.
    pub mean: [f64; 2],
    /// The least and the largest standard deviation of a context.
    pub std: [f64; 2],
}

impl Domain {
    /// All ranges.
    fn ranges(&self) -> impl Iterator<Item = [f64; 2]> + '_ {
        let of_coordinate = |c: &CoordinateDomain| [Some([0.0, c.extent]), c.position, c.spacing];
        let of_values = self.values.iter().flat_map(|values| [values.mean, values.std]);
        self.coordinates.iter().flat_map(of_coordinate).flatten().chain(of_values)
    }
}

/// How a prediction's context and points differ from everything that the network was trained on; empty
/// if they do not, or if the checkpoint does not say what that was. A prediction outside is an
/// extrapolation: it may be far off and sure of itself.
///
/// ```
/// use wgpu_attention::{Device, models::tnp_kr::{Context, Locations, TnpKr}};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let model = TnpKr::open(&Device::cpu(), "checkpoints/gp_1d.safetensors")?;
/// let days = Locations::space(1, &[0.0, 31.0, 59.0]); // not scaled to a record of 3 to 5 units
/// let prediction = model.condition(&Context::new(days, &[0.3, -0.1, 0.5]))?.predict(&Locations::space(1, &[45.0]))?;
/// assert!(prediction.outside().to_string().contains("extent"), "{}", prediction.outside());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Outside {
    /// Each by itself.
    pub departures: Vec<Departure>,
}

/// One way in which data lie outside of what a network was trained on.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Departure {
    /// What differs, in words.
    pub what: String,
    /// The batch element.
    pub element: usize,
    /// What it is here.
    pub found: f64,
    /// The least and the largest of it in training.
    pub trained: [f64; 2],
}

impl Outside {
    /// Whether nothing lies outside.
    pub fn is_empty(&self) -> bool {
        self.departures.is_empty()
    }

    /// What a batch element has of it, as the only one.
    pub(crate) fn of_element(&self, element: usize) -> Self {
        let own = self.departures.iter().filter(|departure| departure.element == element);
        Self { departures: own.map(|departure| Departure { element: 0, ..departure.clone() }).collect() }
    }
}

impl fmt::Display for Outside {
    /// Each kind once: where it is largest, and in how many batch elements.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut kinds: Vec<(&Departure, usize)> = Vec::new();
        for departure in &self.departures {
            match kinds.iter_mut().find(|(first, _)| first.what == departure.what) {
                Some((largest, n)) => {
                    if departure.distance() > largest.distance() {
                        *largest = departure;
                    }
                    *n += 1;
                }
                None => kinds.push((departure, 1)),
            }
        }
        for (i, (departure, n)) in kinds.into_iter().enumerate() {
            write!(f, "{}{departure}", if i == 0 { "" } else { "; " })?;
            if n > 1 {
                write!(f, " (outside in {n} batch elements, there by most)")?;
            }
        }
        Ok(())
    }
}

impl Departure {
    /// How far from what it was in training.
    fn distance(&self) -> f64 {
        (self.trained[0] - self.found).max(self.found - self.trained[1])
    }
}

impl fmt::Display for Departure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, element, found, trained: [low, high] } = self;
        write!(f, "{what} is {found:.4} in batch element {element}, in training it was {low:.4} to {high:.4}")
    }
}

/// The domain in the metadata of a checkpoint, if there is one; `n_columns` is how many coordinates a
/// point has, where the configuration says so.
pub(crate) fn domain(checkpoint: &Checkpoint, n_columns: Option<usize>) -> Result<Option<Domain>> {
    let Ok(text) = checkpoint.metadata("domain") else { return Ok(None) };
    let refused = |message| Error::Config { message: format!("checkpoint {}: domain: {message}", checkpoint.file()) };
    let domain: Domain = serde_json::from_str(text).map_err(|error| refused(error.to_string()))?;
    let found = domain.coordinates.len();
    if let Some([low, high]) = domain.ranges().find(|[low, high]| low > high) {
        return Err(refused(format!(
            "a range is from {low} to {high}, allowed is one whose end is not before its start"
        )));
    }
    match n_columns {
        Some(n) if n != found => Err(refused(format!("it is of points of {found} coordinates, allowed is {n}"))),
        _ => Ok(Some(domain)),
    }
}

/// What of a context is compared with a domain: of constant size, and of more observations the same as
/// of all together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Summary {
    /// Observations of each batch element.
    n: Vec<u64>,
    /// The least and the largest coordinate, `[batch, n_columns]`.
    ranges: Vec<Option<[f64; 2]>>,
    /// The mean of all values, and the sum over points of the mean square of what differs from it,
    /// `[batch]`.
    moments: Vec<[f64; 2]>,
    /// Of posteriors with exact sums: what the moments are made of, so that they are the same of any cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exact: Option<Vec<Sums>>,
}

/// The sums of all values of a batch element and of their squares.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sums {
    n_values: u64,
    sum: ExactSum,
    squares: ExactSum,
}

impl Sums {
    /// As [`Summary::moments`].
    fn moments(&self, n: u64) -> [f64; 2] {
        let all = n as f64 * self.n_values as f64;
        let (sum, squares) = (self.sum.value(), self.squares.value());
        let mean = sum / all.max(1.0);
        [mean, (squares - sum * mean).max(0.0) / self.n_values.max(1) as f64]
    }
}

impl Summary {
    /// The same with sums of which nothing is rounded.
    pub fn exactly(self, cloud: &Cloud<'_>, values: &[f32], n_values: usize) -> Self {
        let of = |b| {
            let values =
                || cloud.of_element(b).flat_map(|i| &values[i * n_values..][..n_values]).map(|y| f64::from(*y));
            Sums {
                n_values: n_values as u64,
                sum: ExactSum::new(values()),
                squares: ExactSum::new(values().map(|y| y * y)),
            }
        };
        let sums: Vec<_> = (0..cloud.batch).map(of).collect();
        let moments = sums.iter().zip(&self.n).map(|(sums, n)| sums.moments(*n)).collect();
        Self { moments, exact: Some(sums), ..self }
    }

    /// Whether its moments are those of exact sums.
    pub fn is_exact(&self) -> bool {
        self.exact.is_some()
    }

    /// With other ranges of coordinates, `[batch, n_columns]`.
    pub fn with_ranges(&self, ranges: &[[f64; 2]]) -> Self {
        Self { ranges: ranges.iter().copied().map(Some).collect(), ..self.clone() }
    }

    /// Without the observations of another. The range of coordinates stays: where the least of them was
    /// forgotten, the next is not known.
    pub fn without(&self, other: &Self) -> Self {
        let n: Vec<u64> = self.n.iter().zip(&other.n).map(|(a, b)| a.saturating_sub(*b)).collect();
        let exact = self.exact.as_ref().zip(other.exact.as_ref()).map(|(a, b)| sums(a, b, ExactSum::minus));
        let moments = exact.iter().flatten().zip(&n).map(|(sums, n)| sums.moments(*n)).collect();
        Self { n, ranges: self.ranges.clone(), moments, exact }
    }

    /// Of observations with values `[batch, n, n_values]`.
    pub fn new(cloud: &Cloud<'_>, values: &[f32], n_values: usize) -> Self {
        let of = |b| {
            let values =
                || cloud.of_element(b).flat_map(|i| &values[i * n_values..][..n_values]).map(|y| f64::from(*y));
            let n = cloud.of_element(b).count();
            let mean = values().sum::<f64>() / (n * n_values).max(1) as f64;
            let squares = values().map(|y| (y - mean).powi(2)).sum::<f64>();
            (n as u64, [mean, squares / n_values.max(1) as f64])
        };
        let (n, moments) = (0..cloud.batch).map(of).unzip();
        let ranges = cloud.ranges().into_iter().map(|range| (range[0] <= range[1]).then_some(range)).collect();
        Self { n, ranges, moments, exact: None }
    }

    /// Of the observations of both.
    pub fn merge(&self, other: &Self) -> Self {
        let join = |(a, b): (&Option<[f64; 2]>, &Option<[f64; 2]>)| match (a, b) {
            (Some(a), Some(b)) => Some([a[0].min(b[0]), a[1].max(b[1])]),
            (a, b) => a.or(*b),
        };
        let moments = |i: usize| {
            let ([mean, squares], [of_other, squares_of_other]) = (self.moments[i], other.moments[i]);
            let (n, m) = (self.n[i] as f64, other.n[i] as f64);
            let (all, apart) = ((n + m).max(1.0), of_other - mean);
            [mean + apart * m / all, squares + squares_of_other + apart * apart * n * m / all]
        };
        let n: Vec<u64> = self.n.iter().zip(&other.n).map(|(a, b)| a.saturating_add(*b)).collect();
        let exact = self.exact.as_ref().zip(other.exact.as_ref()).map(|(a, b)| sums(a, b, ExactSum::plus));
        let moments = match &exact {
            Some(exact) => exact.iter().zip(&n).map(|(sums, n)| sums.moments(*n)).collect(),
            None => (0..self.n.len()).map(moments).collect(),
        };
        Self { n, ranges: self.ranges.iter().zip(&other.ranges).map(join).collect(), moments, exact }
    }

    /// Whether it is of this many batch elements and coordinates.
    pub fn fits(&self, batch: usize, n_columns: usize) -> bool {
        let fits = self.n.len() == batch && self.moments.len() == batch && self.ranges.len() == batch * n_columns;
        fits && self.exact.as_ref().is_none_or(|exact| exact.len() == batch)
    }

    /// What of the context and the targets together is outside of the domain.
    pub fn outside(&self, domain: &Domain, frame: &Frame, targets: &Cloud<'_>) -> Outside {
        let mut departures = Vec::new();
        let mut compare = |what: String, element, found: f64, trained: [f64; 2], allowed: [f64; 2]| {
            if !(allowed[0]..=allowed[1]).contains(&found) {
                departures.push(Departure { what, element, found, trained });
            }
        };
        let ranges = targets.ranges();
        for element in 0..self.n.len() {
            for (c, trained) in domain.coordinates.iter().enumerate() {
                let at = element * domain.coordinates.len() + c;
                let Some(Some([low, high])) = self.ranges.get(at).copied() else { continue };
                let Some([first, last]) = ranges.get(at) else { continue };
                // The points of targets, if there are any.
                let (all_low, all_high) = (low.min(*first), high.max(*last));
                let extent = [0.0, trained.extent];
                let what = format!("the extent of coordinate {c}");
                compare(what, element, all_high - all_low, extent, [0.0, SLACK * trained.extent]);
                if let Some([least, largest]) = trained.position {
                    let more = 0.5 * (SLACK - 1.0) * (largest - least);
                    for x in [all_low, all_high] {
                        let what = format!("coordinate {c}");
                        let allowed = [least - more, largest + more];
                        compare(what, element, x - frame.origin[at], [least, largest], allowed);
                    }
                }
                if let (Some(spacing), 2..) = (trained.spacing, self.n[element]) {
                    let found = (high - low) / (self.n[element] - 1) as f64;
                    let what = format!("the mean spacing of coordinate {c}");
                    compare(what, element, found, spacing, [spacing[0] / SLACK, spacing[1] * SLACK]);
                }
            }
            if let Some(ValueDomain { mean, std }) = domain.values {
                let more = 0.5 * (SLACK - 1.0) * (mean[1] - mean[0]);
                let [found, squares] = self.moments[element];
                compare("the mean of the values".into(), element, found, mean, [mean[0] - more, mean[1] + more]);
                // Of fewer numbers it may be anything below.
                if let n @ 2.. = self.n[element] {
                    let least = if n < 10 { 0.0 } else { std[0] / SLACK };
                    let found = (squares / n as f64).sqrt();
                    compare(
                        "the standard deviation of the values".into(),
                        element,
                        found,
                        std,
                        [least, std[1] * SLACK],
                    );
                }
            }
        }
        Outside { departures }
    }
}

/// The sums of both, batch element by batch element.
fn sums(a: &[Sums], b: &[Sums], combine: impl Fn(&ExactSum, &ExactSum) -> ExactSum) -> Vec<Sums> {
    let combined = |(a, b): (&Sums, &Sums)| Sums {
        n_values: a.n_values,
        sum: combine(&a.sum, &b.sum),
        squares: combine(&a.squares, &b.squares),
    };
    a.iter().zip(b).map(combined).collect()
}
