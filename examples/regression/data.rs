//! Reading series from CSV files, with errors that say where, and splitting them.

use std::{fs::File, ops::Range, path::Path};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// A series sorted by its coordinate.
#[derive(Clone, Debug, Default)]
pub struct Series {
    pub x: Vec<f64>,
    /// As many as there are coordinates, or none where nothing was observed.
    pub y: Vec<f64>,
}

impl Series {
    pub fn len(&self) -> usize {
        self.x.len()
    }

    /// The points with these indices.
    fn pick(&self, indices: &[usize]) -> Self {
        let pick = |from: &[f64]| indices.iter().filter_map(|&i| from.get(i).copied()).collect();
        Self { x: pick(&self.x), y: pick(&self.y) }
    }

    /// The points of the last `length` units of the coordinate.
    pub fn last(&self, length: f64) -> Self {
        let end = self.x.last().copied().unwrap_or(0.0);
        let first = self.x.partition_point(|&x| x <= end - length);
        self.pick(&(first..self.len()).collect::<Vec<_>>())
    }
}

/// Reads the columns `x` and `y` of a CSV file; `y` may be missing if it is not `required`.
pub fn read(path: &Path, y_required: bool) -> Result<Series> {
    let name = path.display();
    let file = File::open(path).with_context(|| format!("cannot read {name}"))?;
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).flexible(true).from_reader(file);
    let header = reader.headers().with_context(|| format!("{name}: line 1"))?.clone();
    let find = |column: &str| header.iter().position(|name| name.eq_ignore_ascii_case(column));
    let wanted = if y_required { "x,y" } else { "x or x,y" };
    let wrong = || {
        let found = header.iter().collect::<Vec<_>>().join(",");
        anyhow!("{name}: line 1: the first line must name the columns {wanted}, found {found:?}")
    };
    let x_column = find("x").ok_or_else(wrong)?;
    let y_column = find("y");
    ensure!(!y_required || y_column.is_some(), wrong());

    let mut points = Vec::new();
    for record in reader.records() {
        let record = record.with_context(|| format!("{name}: not a CSV file"))?;
        let line = record.position().map_or(0, csv::Position::line);
        ensure!(
            record.len() == header.len(),
            "{name}: line {line}: {} columns, but the first line names {}",
            record.len(),
            header.len()
        );
        let number = |column: usize| {
            let text = &record[column];
            let place = || format!("{name}: line {line}, column {} ({})", column + 1, &header[column]);
            match text.parse::<f64>() {
                Ok(number) if number.is_finite() => Ok(number),
                Ok(_) => bail!("{}: {text} is not a finite number", place()),
                Err(_) if text.is_empty() => bail!("{}: the number is missing", place()),
                Err(_) => bail!("{}: {text:?} is not a number", place()),
            }
        };
        points.push((number(x_column)?, y_column.map(number).transpose()?));
    }
    ensure!(!points.is_empty(), "{name}: no points after the first line");
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    Ok(Series {
        x: points.iter().map(|point| point.0).collect(),
        y: points.iter().filter_map(|point| point.1).collect(),
    })
}

/// What the models see, and what they are asked for.
pub struct Split {
    pub context: Series,
    pub targets: Series,
    /// Which targets lie in the gap.
    pub gap: Range<usize>,
}

/// Holds out a run of neighbouring points somewhere in the middle, and a fraction of the
/// others at random.
pub fn hold_out(series: &Series, fraction: f64, gap: usize, seed: u64) -> Result<Split> {
    let n = series.len();
    ensure!(gap + 8 <= n, "{n} points are too few for a gap of {gap}");
    let mut rng = StdRng::seed_from_u64(seed);
    let margin = (n - gap) / 4;
    let start = rng.random_range(margin..=n - gap - margin);
    let gap = start..start + gap;
    let others = (n - gap.len()) as f64;
    // Exactly so many, whatever the seed.
    let mut scattered: Vec<usize> = (0..n).filter(|i| !gap.contains(i)).collect();
    for i in (1..scattered.len()).rev() {
        scattered.swap(i, rng.random_range(0..=i));
    }
    scattered.truncate((fraction * others).round() as usize);
    let mut held_out: Vec<usize> = scattered.into_iter().chain(gap.clone()).collect();
    held_out.sort_unstable();
    ensure!(!held_out.is_empty(), "nothing is held out of {n} points; raise --hold-out or --gap, or give --targets");
    let kept: Vec<usize> = (0..n).filter(|i| held_out.binary_search(i).is_err()).collect();
    let first = held_out.partition_point(|&i| i < gap.start);
    Ok(Split { context: series.pick(&kept), targets: series.pick(&held_out), gap: first..first + gap.len() })
}
