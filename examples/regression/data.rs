//! Reading series from CSV files, with errors that say where, and splitting them.

use std::{ops::Range, path::Path};

use anyhow::{Result, anyhow, ensure};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use shared::{
    lines::{Lines, cut},
    warn,
};

/// Points that are left to learn from, at least.
const MIN_CONTEXT: usize = 8;

/// A series sorted by its coordinate.
#[derive(Clone, Debug, Default)]
pub struct Series {
    pub x: Vec<f64>,
    /// As many as there are coordinates; NaN where nothing was observed.
    pub y: Vec<f64>,
}

impl Series {
    pub fn len(&self) -> usize {
        self.x.len()
    }

    /// The points with these indices.
    fn pick(&self, indices: &[usize]) -> Self {
        let pick = |from: &[f64]| indices.iter().map(|&i| from[i]).collect();
        Self { x: pick(&self.x), y: pick(&self.y) }
    }

    /// So many points, chosen by the seed, and the others.
    pub fn some(&self, n: usize, seed: u64) -> (Self, Self) {
        let mut order: Vec<usize> = (0..self.len()).collect();
        shuffle(&mut order, &mut StdRng::seed_from_u64(seed));
        let (some, others) = order.split_at_mut(n.min(self.len()));
        some.sort_unstable();
        others.sort_unstable();
        (self.pick(some), self.pick(others))
    }

    /// The points of the last `length` units of the coordinate.
    pub fn last(&self, length: f64) -> Self {
        let end = self.x.last().copied().unwrap_or(0.0);
        let first = self.x.partition_point(|&x| x <= end - length);
        self.pick(&(first..self.len()).collect::<Vec<_>>())
    }

    /// Whether anything was observed.
    pub fn is_observed(&self) -> bool {
        self.y.iter().any(|y| y.is_finite())
    }
}

/// Reads the columns `x` and `y` of a CSV file. Without `y_required` that column may be missing,
/// and so may its cells. Other lines that lack a number are passed over, and counted.
pub fn read(path: &Path, y_required: bool) -> Result<Series> {
    let name = path.display();
    let mut lines = Lines::open(path)?;
    let names = lines.header()?;
    let find = |column: &str| {
        let mut found = names.iter().enumerate().filter(|(_, name)| name.eq_ignore_ascii_case(column));
        (found.next().map(|(i, _)| i), found.count())
    };
    let wrong = |wanted: &str| {
        let found = cut(&names.join(","));
        anyhow!("{name}: line 1: the first line must name the columns {wanted}, found {found:?}")
    };
    let wanted = if y_required { "x,y" } else { "x or x,y" };
    let ((x_column, x_others), (y_column, y_others)) = (find("x"), find("y"));
    ensure!(x_others + y_others == 0, wrong("x and y once"));
    let x_column = x_column.ok_or_else(|| wrong(wanted))?;
    ensure!(!y_required || y_column.is_some(), wrong(wanted));

    let (mut points, mut n_missing, mut first_missing) = (Vec::new(), 0, 0);
    while lines.advance()? {
        let cells = lines.cells(names.len())?;
        let number = |column: usize| {
            let place = || format!("{}, column {} ({})", lines.place(), column + 1, names[column]);
            cells[column].optional().map_err(|why| anyhow!("{}: {why}", place()))
        };
        let (x, y) = (number(x_column)?, y_column.map_or(Ok(None), number)?);
        match (x, y) {
            (Some(x), Some(y)) => points.push((x, y)),
            (Some(x), None) if !y_required => points.push((x, f64::NAN)),
            _ => {
                n_missing += 1;
                first_missing = if n_missing == 1 { lines.number() } else { first_missing };
            }
        }
    }
    if n_missing > 0 {
        warn!("{name}: {n_missing} lines without a number passed over, the first of them line {first_missing}")?;
    }
    ensure!(!points.is_empty(), "{name}: no points after the first line");
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (x, y) = points.into_iter().unzip();
    Ok(Series { x, y })
}

/// What the models see, and what they are asked for.
pub struct Split {
    pub context: Series,
    pub targets: Series,
    /// Which targets lie in the gap.
    pub gap: Range<usize>,
}

fn shuffle(order: &mut [usize], rng: &mut StdRng) {
    for i in (1..order.len()).rev() {
        order.swap(i, rng.random_range(0..=i));
    }
}

/// Holds out a run of neighbouring points somewhere in the middle, and a fraction of the
/// others at random.
pub fn hold_out(series: &Series, fraction: f64, gap: usize, seed: u64) -> Result<Split> {
    let n = series.len();
    ensure!(
        n >= MIN_CONTEXT && gap <= n - MIN_CONTEXT,
        "{n} point(s) are too few to hold out a gap of {gap}: {MIN_CONTEXT} more than the gap are needed; give more \
         points, a smaller --gap, or --targets, with which none is held out"
    );
    let mut rng = StdRng::seed_from_u64(seed);
    let margin = (n - gap) / 4;
    let start = rng.random_range(margin..=n - gap - margin);
    let gap = start..start + gap;
    let others = (n - gap.len()) as f64;
    // Exactly so many, whatever the seed.
    let mut scattered: Vec<usize> = (0..n).filter(|i| !gap.contains(i)).collect();
    shuffle(&mut scattered, &mut rng);
    scattered.truncate((fraction * others).round() as usize);
    let mut held_out: Vec<usize> = scattered.into_iter().chain(gap.clone()).collect();
    held_out.sort_unstable();
    ensure!(!held_out.is_empty(), "nothing is held out of {n} points; raise --hold-out or --gap, or give --targets");
    let kept: Vec<usize> = (0..n).filter(|i| held_out.binary_search(i).is_err()).collect();
    let first = held_out.partition_point(|&i| i < gap.start);
    Ok(Split { context: series.pick(&kept), targets: series.pick(&held_out), gap: first..first + gap.len() })
}
