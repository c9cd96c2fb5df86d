//! Lines of CSV, checked, as points of the model.

use std::{
    fmt,
    io::{self, BufRead, Write as _},
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use wgpu_attention::models::cmanp::Config;

use crate::{
    lines::{self, Lines, cut},
    saved::Progress,
};

/// Observations that a picture shows at most.
const MAX_DRAWN: usize = 2000;

/// From the units of the data to those of the model; a stream cannot be scaled by what has not
/// come yet, so it is told.
#[derive(Args, Clone, Debug)]
pub struct ScalingArgs {
    /// The length of the known cycle in units of x, for a model that is told its phase; 0 for
    /// none: the columns are then the model's own numbers, unless the next options say otherwise.
    #[arg(long, value_name = "LENGTH", default_value = "1", value_parser = not_negative)]
    cycle: f64,
    /// The values of x that the model's -2 and 2 stand for [default: 1958,2002 with a cycle, for
    /// the CO2 record].
    #[arg(long, value_name = "FROM,TO", value_parser = range, allow_hyphen_values = true)]
    x_range: Option<(f64, f64)>,
    /// The value that is subtracted from y at the beginning of the range [default: 309.4 with a
    /// cycle].
    #[arg(long, allow_negative_numbers = true)]
    level: Option<f64>,
    /// How much more is subtracted for each unit of x [default: 1.3 with a cycle].
    #[arg(long, allow_negative_numbers = true)]
    slope: Option<f64>,
    /// What y is divided by after that [default: 3 with a cycle].
    #[arg(long, value_parser = positive)]
    unit: Option<f64>,
}

/// [`ScalingArgs`] with their defaults filled in.
#[derive(Clone, Debug)]
pub struct Scaling {
    cycle: f64,
    x_range: (f64, f64),
    level: f64,
    slope: f64,
    pub unit: f64,
}

fn range(text: &str) -> Result<(f64, f64), String> {
    let numbers: Vec<f64> = text.split(',').filter_map(|number| number.trim().parse().ok()).collect();
    match numbers[..] {
        [from, to] if from < to && from.is_finite() && to.is_finite() => Ok((from, to)),
        _ => Err("two numbers are needed, the first below the second".into()),
    }
}

fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number >= 0.0 && number.is_finite() => Ok(number),
        _ => Err("0 or a number above is needed".into()),
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok(number),
        _ => Err("a number above 0 is needed".into()),
    }
}

impl fmt::Display for Scaling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { x_range, cycle, level, slope, unit } = self;
        write!(f, "x-range {},{} cycle {cycle} level {level} slope {slope} unit {unit}", x_range.0, x_range.1)
    }
}

impl Scaling {
    /// Fails if the model takes something else than one coordinate and its phase, or, without a
    /// cycle, than what the columns say.
    pub fn new(args: &ScalingArgs, config: &Config) -> Result<Self> {
        let (range, level, slope, unit) =
            if args.cycle > 0.0 { ((1958.0, 2002.0), 309.4, 1.3, 3.0) } else { ((-2.0, 2.0), 0.0, 0.0, 1.0) };
        let scaling = Self {
            cycle: args.cycle,
            x_range: args.x_range.unwrap_or(range),
            level: args.level.unwrap_or(level),
            slope: args.slope.unwrap_or(slope),
            unit: args.unit.unwrap_or(unit),
        };
        ensure!(
            args.cycle == 0.0 || config.dim_x == 3,
            "the model takes {} coordinates, not a time and the phase of a cycle: give --cycle 0",
            config.dim_x
        );
        ensure!(config.covariance.is_none(), "the model predicts points together; a stream needs a CMANP");
        ensure!(config.n_latents_per_layer.is_some(), "the model is an LBANP, which cannot take in a stream");
        Ok(scaling)
    }

    /// Whether there is one coordinate and one channel, to be drawn.
    pub fn is_line(&self, config: &Config) -> bool {
        self.n_coordinates(config) == 1 && config.dim_y == 1
    }

    /// Coordinates in a line.
    fn n_coordinates(&self, config: &Config) -> usize {
        if self.cycle > 0.0 { 1 } else { config.dim_x }
    }

    /// The model's coordinates.
    pub fn point(&self, x: &[f64]) -> Vec<f32> {
        let (from, to) = self.x_range;
        let time = 4.0 * (x[0] - from) / (to - from) - 2.0;
        let mut point = vec![time];
        if self.cycle > 0.0 {
            let angle = std::f64::consts::TAU * x[0] / self.cycle;
            point.extend([angle.cos(), angle.sin()]);
        }
        point.extend(&x[1..]);
        point.into_iter().map(|x| x as f32).collect()
    }

    /// What is subtracted from y.
    pub fn trend(&self, x: f64) -> f64 {
        self.level + self.slope * (x - self.x_range.0)
    }

    /// The value that the model's `y` stands for.
    pub fn value(&self, x: f64, y: f32) -> f64 {
        self.trend(x) + self.unit * f64::from(y)
    }

    /// Where predictions are made.
    pub fn grid(&self) -> Vec<f64> {
        let (from, to) = self.x_range;
        (0..=1000).map(|i| from + (to - from) * f64::from(i) / 1000.0).collect()
    }
}

/// Observations in the model's units.
#[derive(Default)]
pub struct Block {
    pub x: Vec<f32>,
    pub y: Vec<f32>,
    /// `y` in the units of the data.
    pub values: Vec<f64>,
    n: u64,
    /// How the input ended, if it did: at its end, or at a line that cannot be read.
    pub ended: Option<Result<()>>,
}

impl Block {
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    pub fn len(&self) -> u64 {
        self.n
    }
}

/// An observation that is drawn: how many came before it, its coordinate and its value.
pub type Drawn = (u64, f64, f64);

/// The numbers of a line, and those of the model.
struct Row {
    numbers: Vec<f64>,
    x: Vec<f32>,
    y: Vec<f32>,
}

impl Row {
    /// The first column that is not finite in the model's 32 bits.
    fn bad_column(&self) -> Option<usize> {
        let n_coordinates = self.numbers.len() - self.y.len();
        // The phase comes from the first column, too.
        let n_derived = self.x.len() - n_coordinates;
        let x = self.x.iter().position(|x| !x.is_finite()).map(|i| i.saturating_sub(n_derived));
        x.or_else(|| Some(n_coordinates + self.y.iter().position(|y| !y.is_finite())?))
    }
}

pub struct Rows<'a> {
    lines: Lines,
    names: Vec<String>,
    n_coordinates: usize,
    scaling: &'a Scaling,
    takes_unfinished: bool,
}

impl<'a> Rows<'a> {
    /// `takes_unfinished`: whether a last line counts that no newline ends.
    pub fn new(input: Box<dyn BufRead>, config: &Config, scaling: &'a Scaling, takes_unfinished: bool) -> Result<Self> {
        let mut lines = Lines::new(input);
        let names = lines.header()?;
        let n_coordinates = scaling.n_coordinates(config);
        let wanted = n_coordinates + config.dim_y;
        ensure!(
            names.len() == wanted,
            "the header has {} columns ({}), the model needs {wanted}: {n_coordinates} coordinate(s), then {} value(s)",
            names.len(),
            cut(&names.join(",")),
            config.dim_y
        );
        Ok(Self { lines, names, n_coordinates, scaling, takes_unfinished })
    }

    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The names of the coordinates and of the values.
    pub fn columns(&self) -> (&[String], &[String]) {
        self.names.split_at(self.n_coordinates)
    }

    /// Goes on after what the state has consumed, which is passed over unless the input begins
    /// there. Fails if this is another stream.
    pub fn resume(&mut self, progress: &Progress, continues: bool) -> Result<()> {
        ensure!(
            progress.names == self.names,
            "the header is {:?}, the state was written with {:?}: give the same stream, or another --state",
            cut(&self.names.join(",")),
            cut(&progress.names.join(","))
        );
        if continues {
            return Ok(());
        }
        let (n_rows, mut hash) = (progress.n_rows, lines::HASH_START);
        for row in 0..n_rows {
            ensure!(self.lines.advance()?, "the input ends after {row} lines, but the state has consumed {n_rows}");
            hash = lines::hash(hash, self.lines.bytes());
        }
        ensure!(
            hash == progress.hash,
            "the first {n_rows} lines are not those that the state has consumed: give the same stream, or another --state"
        );
        Ok(())
    }

    /// The next `size` observations, fewer at the end.
    pub fn next_block(&mut self, size: u64, progress: &mut Progress) -> Block {
        let mut block = Block::default();
        while block.n < size && block.ended.is_none() {
            match self.next_row(progress) {
                Ok(Some(row)) => {
                    block.x.extend(row.x);
                    block.y.extend(row.y);
                    block.values.extend(&row.numbers[self.n_coordinates..]);
                    block.n += 1;
                }
                Ok(None) => block.ended = Some(Ok(())),
                // What came before it is still taken in.
                Err(error) => block.ended = Some(Err(error)),
            }
        }
        block
    }

    /// The next line that is not rejected.
    fn next_row(&mut self, progress: &mut Progress) -> Result<Option<Row>> {
        while let Some(row) = self.read()? {
            let Some(column) = row.bad_column() else {
                progress.consume(self.lines.bytes());
                return Ok(Some(row));
            };
            let why = if row.numbers[column].is_finite() { ", too large for 32 bits" } else { "" };
            let text = cut(self.lines.fields()?[column]);
            self.warn(&format!("column {:?} is {text}{why}: line rejected", self.names[column]))?;
            progress.consume(self.lines.bytes());
            progress.n_rejected += 1;
        }
        if !self.lines.is_finished() {
            self.warn("no newline ends it: left to the next run, when it is whole")?;
        }
        Ok(None)
    }

    fn warn(&self, what: &str) -> Result<()> {
        writeln!(io::stderr(), "line {}: {what}", self.lines.number()).context("cannot write to standard error")
    }

    fn read(&mut self) -> Result<Option<Row>> {
        if !self.lines.advance()? || !(self.lines.is_finished() || self.takes_unfinished) {
            return Ok(None);
        }
        let numbers = self.lines.numbers(&self.names)?;
        let (x, y) = numbers.split_at(self.n_coordinates);
        let trend = self.scaling.trend(x[0]);
        let y = y.iter().map(|y| ((y - trend) / self.scaling.unit) as f32).collect();
        Ok(Some(Row { x: self.scaling.point(x), y, numbers }))
    }

    /// Observations to draw, in the units of the data: all, or every 2nd, 4th, ... of many.
    pub fn thinned(mut self) -> Result<Vec<Drawn>> {
        let (mut points, mut n, mut step) = (Vec::new(), 0, 1);
        while let Some(row) = self.read()? {
            if row.bad_column().is_some() {
                continue;
            }
            if n % step == 0 {
                points.push((n, row.numbers[0], row.numbers[self.n_coordinates]));
            }
            n += 1;
            if points.len() > MAX_DRAWN {
                step *= 2;
                points.retain(|(n, ..)| n % step == 0);
            }
        }
        Ok(points)
    }
}
