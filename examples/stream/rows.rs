//! Lines of CSV, checked, as points of the model.

use std::{fmt, io::Read};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use csv::{Reader, ReaderBuilder, StringRecord};
use wgpu_attention::models::cmanp::Config;

use crate::saved::Progress;

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
    /// Whether the input has ended.
    pub is_last: bool,
}

impl Block {
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    pub fn len(&self) -> u64 {
        self.n
    }
}

pub struct Rows<'a> {
    reader: Reader<Box<dyn Read>>,
    record: StringRecord,
    names: Vec<String>,
    n_coordinates: usize,
    scaling: &'a Scaling,
}

impl<'a> Rows<'a> {
    pub fn new(input: Box<dyn Read>, config: &Config, scaling: &'a Scaling) -> Result<Self> {
        // Lines of another length are for us to refuse.
        let mut reader = ReaderBuilder::new().flexible(true).trim(csv::Trim::All).from_reader(input);
        let names: Vec<String> =
            reader.headers().context("the header cannot be read")?.iter().map(str::to_owned).collect();
        let n_coordinates = scaling.n_coordinates(config);
        let wanted = n_coordinates + config.dim_y;
        ensure!(
            names.len() == wanted,
            "the header has {} columns ({}), the model needs {wanted}: {n_coordinates} coordinate(s), then {} value(s)",
            names.len(),
            names.join(","),
            config.dim_y
        );
        ensure!(
            names.iter().any(|name| name.parse::<f64>().is_err()),
            "the first line ({}) holds numbers, a header is needed",
            names.join(",")
        );
        Ok(Self { reader, record: StringRecord::new(), names, n_coordinates, scaling })
    }

    /// Passes over lines that were consumed before.
    pub fn skip(&mut self, n_rows: u64) -> Result<()> {
        for row in 0..n_rows {
            let is_there = self.reader.read_record(&mut self.record)?;
            ensure!(is_there, "the input ends after {row} lines, but the state has consumed {n_rows}");
        }
        Ok(())
    }

    /// The next `size` observations, fewer at the end.
    pub fn next_block(&mut self, size: u64, progress: &mut Progress) -> Result<Block> {
        let mut block = Block::default();
        while block.n < size {
            if !self.reader.read_record(&mut self.record).context("the input cannot be read")? {
                block.is_last = true;
                break;
            }
            let (line, numbers) = self.numbers()?;
            progress.n_rows += 1;
            if let Some(i) = numbers.iter().position(|number| !number.is_finite()) {
                eprintln!("line {line}: column {:?} is {}: line rejected", self.names[i], numbers[i]);
                progress.n_rejected += 1;
                continue;
            }
            let (x, y) = numbers.split_at(self.n_coordinates);
            block.x.extend(self.scaling.point(x));
            block.y.extend(y.iter().map(|y| ((y - self.scaling.trend(x[0])) / self.scaling.unit) as f32));
            block.values.extend(y);
            block.n += 1;
        }
        Ok(block)
    }

    /// The line's number and its numbers.
    fn numbers(&self) -> Result<(u64, Vec<f64>)> {
        let line = self.record.position().map_or(0, csv::Position::line);
        if self.record.len() != self.names.len() {
            bail!("line {line} has {} columns, the header has {}", self.record.len(), self.names.len());
        }
        let number = |(text, name): (&str, &String)| {
            text.parse::<f64>().with_context(|| format!("line {line}: column {name:?} is {text:?}, not a number"))
        };
        Ok((line, self.record.iter().zip(&self.names).map(number).collect::<Result<_>>()?))
    }

    /// The first coordinate and the first value of every line, in the units of the data.
    pub fn observations(mut self) -> Result<Vec<(f64, f64)>> {
        let mut points = Vec::new();
        while self.reader.read_record(&mut self.record)? {
            let (_, numbers) = self.numbers()?;
            if numbers.iter().all(|number| number.is_finite()) {
                points.push((numbers[0], numbers[self.n_coordinates]));
            }
        }
        Ok(points)
    }
}
