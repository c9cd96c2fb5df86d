//! From coordinates in f64 to those that a network sees in f32.

use super::points::Numbers;
use crate::{
    error::{Error, Result},
    ops::Distance,
};

/// Beyond this the squares of differences leave f32. Fill values of files (9.96921e36 of netCDF) are.
const FARTHEST: f64 = 1e18;

/// What rounding to f32 moves a number by, as a share of it, at most.
const ROUNDING: f64 = 1.0 / (1 << 24) as f64;

/// Rounding may move points by this share of the mean distance between neighbours …
const OF_SPACING: f64 = 1.0 / 16.0;

/// … or by this share of the whole, which no network resolves, where there are more of them; or, where
/// a network sees numbers themselves, which are of order one in training, by this.
const OF_RANGE: f64 = 1.0 / (1 << 14) as f64;

/// One coordinate of some points, `[batch, n]`.
pub(crate) struct Column<'a> {
    /// The group that it is of; the coordinates of a CMANP have no name.
    pub group: Option<&'a str>,
    /// `[batch, n, dim]`.
    pub numbers: Numbers<'a>,
    pub dim: usize,
    /// Which of `dim`.
    pub index: usize,
    /// Whether the network sees differences alone, so that any origin is the same to it.
    pub is_relative: bool,
    pub distance: Option<Distance>,
}

/// Some points of each batch element.
pub(crate) struct Cloud<'a> {
    pub op: &'static str,
    pub batch: usize,
    pub n: usize,
    pub columns: Vec<Column<'a>>,
    pub keep: Option<&'a [bool]>,
}

/// What is taken off coordinates, in f64, before they are rounded to f32.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Frame {
    /// `[batch, n_columns]`.
    pub origin: Vec<f64>,
    /// How far rounding may move the coordinates of later points; nothing is asked of them without.
    pub resolution: Vec<f64>,
    /// The moments of a context in causal time, each once, sorted, from the origin; of other columns none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moments: Vec<Vec<f64>>,
}

impl Frame {
    /// The number that the network sees of point `i` in column `at`.
    pub fn seen(&self, column: &Column<'_>, at: usize, i: usize) -> f32 {
        let x = column.at(i) - self.origin[at];
        let is_meridian = column.distance == Some(Distance::GreatCircle) && column.is_relative && column.index == 0;
        let seen = (if is_meridian && x.abs() > 360.0 { x % 360.0 } else { x }) as f32;
        // What is later than a target stays later, however it is rounded.
        let moments = self.moments.get(at).map_or(&[][..], |moments| moments);
        let next = moments.get(moments.partition_point(|moment| *moment <= x));
        if next.is_some_and(|next| *next as f32 <= seen) { seen.next_down() } else { seen }
    }

    /// Of both contexts, which have one origin and no causal time: that is of scan attention.
    pub fn merge(&self, other: &Self) -> Self {
        let resolution = self.resolution.iter().zip(&other.resolution).map(|(a, b)| a.min(*b)).collect();
        Self { origin: self.origin.clone(), resolution, moments: Vec::new() }
    }

    /// Whether it is one of this many numbers, all of them finite.
    pub fn is_of(&self, n: usize) -> bool {
        self.origin.len() == n
            && [&self.resolution.len(), &self.moments.len()].into_iter().all(|len| *len == 0 || *len == n)
            && self.origin.iter().all(|x| x.is_finite())
    }
}

impl Column<'_> {
    pub fn at(&self, i: usize) -> f64 {
        self.numbers.get(i * self.dim + self.index)
    }

    /// Whether a network that sees differences alone takes this for one: not a latitude.
    pub fn is_shifted(&self) -> bool {
        self.is_relative && !self.is_latitude()
    }

    /// How far rounding may move it, where that is the same of every context: the numbers of a CMANP are of order
    /// one in training. Its points come in any parts, and whether one is taken must not depend on which came with it.
    fn resolution(&self) -> Option<f64> {
        self.group.is_none().then_some(OF_RANGE)
    }

    pub fn is_latitude(&self) -> bool {
        self.distance == Some(Distance::GreatCircle) && self.index == 1
    }

    fn name(&self) -> String {
        match self.group {
            Some(group) => format!("coordinate {} of {group:?}", self.index),
            None => format!("coordinate {} of x", self.index),
        }
    }

    /// What is wrong with a number by itself.
    fn check(&self, op: &'static str, i: usize) -> Result<()> {
        let x = self.at(i);
        if !x.is_finite() {
            let value = x as f32;
            return Err(match self.group {
                Some(group) => Error::NonFinite {
                    name: format!("point {i}: coordinates {group:?}"),
                    index: i * self.dim + self.index,
                    value,
                },
                None => Error::NonFinite { name: format!("x of point {i}"), index: self.index, value },
            });
        }
        // What a grid's arithmetic adds to a pole is no mistake.
        if self.is_latitude() && x.abs() > 90.0 + 1e-6 {
            let found = format!("{x} in point {i}: {}", self.name());
            return Err(Error::argument(op, "latitude", found, "-90 to 90 degrees, as (longitude, latitude)"));
        }
        Ok(())
    }
}

impl Cloud<'_> {
    fn exists(&self, i: usize) -> bool {
        self.keep.is_none_or(|keep| keep[i])
    }

    /// The points of a batch element that exist.
    pub fn of_element(&self, b: usize) -> impl Iterator<Item = usize> {
        (b * self.n..(b + 1) * self.n).filter(|i| self.exists(*i))
    }

    /// The least and the largest of each column of each batch element; NaN where there is no point.
    pub fn ranges(&self) -> Vec<[f64; 2]> {
        let range = |b, column: &Column<'_>| {
            // Of the two zeros the positive one, whatever the order of the points.
            let x = self.of_element(b).map(|i| column.at(i) + 0.0);
            x.fold([f64::NAN; 2], |[low, high], x| [low.min(x), high.max(x)])
        };
        (0..self.batch).flat_map(|b| self.columns.iter().map(move |column| range(b, column))).collect()
    }

    /// Refuses numbers that are wrong by themselves.
    pub fn check(&self) -> Result<()> {
        for column in &self.columns {
            (0..self.batch * self.n).filter(|i| self.exists(*i)).try_for_each(|i| column.check(self.op, i))?;
        }
        Ok(())
    }

    /// The frame of a context: the origin that was given, or the middle of the points of each batch
    /// element where any is the same to the network, else zero.
    pub fn frame(&self, given: impl Fn(usize, usize) -> Option<f64>) -> Result<Frame> {
        self.check()?;
        let mut frame = Frame::default();
        let n_columns = self.columns.len().max(1);
        for (at, [low, high]) in self.ranges().into_iter().enumerate() {
            let (b, c) = (at / n_columns, at % n_columns);
            let column = &self.columns[c];
            let origin = if column.is_shifted() { self.middle(b, column, [low, high]) } else { 0.0 };
            frame.origin.push(given(b, c).unwrap_or(origin));
            let of_context = || self.resolution(b, column, high - low);
            frame.resolution.push(column.resolution().unwrap_or_else(of_context));
        }
        self.fits(&frame, false)?;
        if self.columns.iter().any(|column| column.distance == Some(Distance::CausalTime)) {
            let places = (0..self.batch).flat_map(|b| self.columns.iter().map(move |column| (b, column)));
            let moments = |((b, column), origin): ((usize, &Column<'_>), &f64)| {
                let is_causal = column.distance == Some(Distance::CausalTime);
                if is_causal { self.moments(b, column).map(|x| x - origin).collect() } else { Vec::new() }
            };
            frame.moments = places.zip(&frame.origin).map(moments).collect();
        }
        Ok(frame)
    }

    /// The middle of a column; the median where a fill value would be half of it.
    fn middle(&self, b: usize, column: &Column<'_>, [low, high]: [f64; 2]) -> f64 {
        if high / 2.0 - low / 2.0 <= FARTHEST / 2.0 {
            return low / 2.0 + high / 2.0;
        }
        let mut numbers: Vec<f64> = self.of_element(b).map(|i| column.at(i)).collect();
        numbers.sort_unstable_by(f64::total_cmp);
        let median = |of: usize| numbers.get(of / 2).copied().unwrap_or(0.0);
        // Of two in the middle the one that is no fill value.
        let (a, b) = (median(numbers.len().saturating_sub(1)), median(numbers.len()));
        if a.abs() < b.abs() { a } else { b }
    }

    /// A column in order, each number once.
    fn moments(&self, b: usize, column: &Column<'_>) -> impl Iterator<Item = f64> {
        let mut moments: Vec<f64> = self.of_element(b).map(|i| column.at(i)).collect();
        moments.sort_unstable_by(f64::total_cmp);
        moments.dedup();
        moments.into_iter()
    }

    /// How far rounding may move a coordinate of this context.
    fn resolution(&self, b: usize, column: &Column<'_>, range: f64) -> f64 {
        let anything = f64::MAX;
        match column.distance {
            Some(Distance::CausalTime) => {
                // No two moments may become one: what is later must not be read.
                let moments: Vec<f64> = self.moments(b, column).collect();
                moments.windows(2).map(|pair| pair[1] - pair[0]).fold(anything, f64::min) / 4.0
            }
            // A latitude cannot be taken relative to another: f32 holds half a metre of it.
            Some(Distance::GreatCircle) if column.is_relative => anything,
            _ if range > 0.0 => {
                let n = self.of_element(b).take((OF_SPACING / OF_RANGE) as usize + 2).count();
                let share = OF_RANGE.max(OF_SPACING / n.saturating_sub(1).max(1) as f64);
                match column.is_relative {
                    // Two that nearly coincide say nothing about the distances that matter.
                    true if n < 3 => anything,
                    true => range * share,
                    false => (range * share).max(OF_RANGE),
                }
            }
            _ => anything,
        }
    }

    /// Refuses points whose differences, from each other or of targets from the context, do not survive
    /// as f32.
    pub fn fits(&self, frame: &Frame, are_targets: bool) -> Result<()> {
        let n_columns = self.columns.len();
        for (b, c) in (0..self.batch).flat_map(|b| (0..n_columns).map(move |c| (b, c))) {
            let column = &self.columns[c];
            let origin = frame.origin[b * n_columns + c];
            let of_context = || frame.resolution.get(b * n_columns + c).copied().unwrap_or(f64::MAX);
            let resolution = column.resolution().unwrap_or_else(of_context);
            let is_f32 = matches!(column.numbers, Numbers::F32(_));
            // What is far from all of a context is so by a difference as exact as any.
            let is_exact = are_targets && column.is_relative;
            for i in self.of_element(b) {
                let x = column.at(i);
                let (after, before) = ((x - origin).abs(), if is_f32 { x.abs() } else { 0.0 });
                if after > FARTHEST {
                    let found = format!("{x:?} in point {i}: {}", column.name());
                    let allowed = format!("up to {FARTHEST:e} from the origin {origin:?}; is it a fill value?");
                    return Err(Error::argument(self.op, "a coordinate", found, allowed));
                }
                let moved = ROUNDING * before.max(if is_exact { 0.0 } else { after });
                if moved > resolution {
                    let found = format!("{x:?} in point {i}: {}, which f32 moves by {moved:.1e}", column.name());
                    let help = match before >= after {
                        true => "give coordinates as f64, with an origin near them or scaled",
                        false => "give an origin near them, or scale them",
                    };
                    let allowed = format!("moved by up to {resolution:.1e}, so that differences survive: {help}");
                    return Err(Error::argument(self.op, "a coordinate", found, allowed));
                }
            }
        }
        Ok(())
    }
}
