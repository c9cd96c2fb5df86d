//! From the units of the data to those of the model: given by the user, never guessed for them.

use std::fmt;

use anyhow::{Result, bail, ensure};
use clap::{Args, ValueEnum};
use shared::{
    args::{not_negative, positive},
    axis::digits,
    lines::Lines,
};
use wgpu_attention::models::cmanp::Config;

/// Lines that a proposal looks at.
const N_PROPOSED: usize = 10_000;

/// A stream cannot be scaled by what has not come yet, so its scaling is told.
#[derive(Args, Clone, Debug)]
pub struct ScalingArgs {
    /// What the numbers of a known record stand for, in the place of the options below.
    #[arg(long, value_enum, conflicts_with_all = ["cycle", "x_range", "level", "slope", "unit"])]
    scale: Option<Known>,
    /// The length of a known cycle in units of x, for a network that is told its phase, as the
    /// committed one is. 0 for a network of other coordinates: the columns are then its own
    /// numbers, unless the next options say otherwise.
    #[arg(long, value_name = "LENGTH", value_parser = not_negative)]
    cycle: Option<f64>,
    /// The values of x that the network's -2 and 2 stand for: all that is to come should lie between.
    #[arg(long, value_name = "FROM,TO", value_parser = range, allow_hyphen_values = true)]
    x_range: Option<(f64, f64)>,
    /// The value that is subtracted from y at the beginning of the range.
    #[arg(long, allow_negative_numbers = true, value_parser = finite)]
    level: Option<f64>,
    /// How much more is subtracted for each unit of x [default: 0].
    #[arg(long, allow_negative_numbers = true, value_parser = finite)]
    slope: Option<f64>,
    /// What y is divided by after that: about its spread around the line.
    #[arg(long, allow_negative_numbers = true, value_parser = positive)]
    unit: Option<f64>,
    /// A line is passed over if one of its numbers is beyond this in the units of the network, in
    /// which x lies from -2 to 2 and y around 0 with a spread of about 1.
    #[arg(long, default_value = "100", allow_negative_numbers = true, value_parser = positive)]
    bound: f64,
}

/// Records whose scaling is known.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Known {
    /// The CO2 record of Mauna Loa in data/mauna_loa_co2.csv: --cycle 1 --x-range 1958,2002
    /// --level 309.4 --slope 1.3 --unit 3.
    Co2,
}

/// What the numbers stand for.
#[derive(Clone, Debug)]
pub struct Scaling {
    /// The length of the cycle; 0 for none.
    pub cycle: f64,
    x_range: (f64, f64),
    level: f64,
    slope: f64,
    pub unit: f64,
    /// How far a number may be from 0 in the units of the model.
    pub bound: f64,
}

fn range(text: &str) -> Result<(f64, f64), String> {
    let numbers: Option<Vec<f64>> = text.split(',').map(|number| number.trim().parse().ok()).collect();
    match numbers.as_deref() {
        Some(&[from, to]) if from < to && (to - from).is_finite() => Ok((from, to)),
        _ => Err("two numbers are needed, the first below the second".into()),
    }
}

fn finite(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|number: &f64| number.is_finite()).ok_or_else(|| "a number is needed".into())
}

impl fmt::Display for Scaling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { x_range, cycle, level, slope, unit, bound } = self;
        let (from, to) = x_range;
        write!(f, "x-range {from},{to} cycle {cycle} level {level} slope {slope} unit {unit} bound {bound}")
    }
}

impl Scaling {
    /// What was told; `lines` are those that a proposal may look at, if there are some.
    ///
    /// # Errors
    /// The model takes something else than one coordinate and its phase, or, without a cycle,
    /// than what the columns say; or the scaling was not told, and then one is proposed.
    pub fn new(args: &ScalingArgs, config: &Config, lines: impl FnOnce() -> Option<Lines>) -> Result<Self> {
        ensure!(config.covariance.is_none(), "the model predicts points together; a stream needs a CMANP");
        ensure!(config.n_latents_per_layer.is_some(), "the model is an LBANP, which cannot take in a stream");
        ensure!(
            args.cycle == Some(0.0) || config.dim_x == 3,
            "the model takes {} coordinates, not a time and the phase of a cycle: give --cycle 0",
            config.dim_x
        );
        let bound = args.bound;
        if let Some(Known::Co2) = args.scale {
            return Ok(Self { cycle: 1.0, x_range: (1958.0, 2002.0), level: 309.4, slope: 1.3, unit: 3.0, bound });
        }
        let slope = args.slope.unwrap_or(0.0);
        match (args.cycle, args.x_range, args.level, args.unit) {
            (Some(0.0), x_range, level, unit) => Ok(Self {
                cycle: 0.0,
                x_range: x_range.unwrap_or((-2.0, 2.0)),
                level: level.unwrap_or(0.0),
                slope,
                unit: unit.unwrap_or(1.0),
                bound,
            }),
            (Some(cycle), Some(x_range), Some(level), Some(unit)) => {
                Ok(Self { cycle, x_range, level, slope, unit, bound })
            }
            _ => bail!("{}", proposal(args, lines())),
        }
    }

    /// Whether there is one coordinate and one channel, to be drawn.
    pub fn is_line(&self, config: &Config) -> bool {
        self.n_coordinates(config) == 1 && config.dim_y == 1
    }

    /// Coordinates in a line.
    pub fn n_coordinates(&self, config: &Config) -> usize {
        if self.cycle > 0.0 { 1 } else { config.dim_x }
    }

    /// The model's coordinates.
    pub fn point(&self, x: &[f64]) -> Vec<f32> {
        let (from, to) = self.x_range;
        let time = 4.0 * ((x[0] - from) / (to - from)) - 2.0;
        let mut point = vec![time];
        if self.cycle > 0.0 {
            // Whole turns off first: a quotient is exact to its last bits where an angle is not.
            let angle = std::f64::consts::TAU * (x[0] / self.cycle).fract();
            point.extend([angle.cos(), angle.sin()]);
        }
        point.extend(&x[1..]);
        point.into_iter().map(|x| x as f32).collect()
    }

    /// A length of the first coordinate in the units of the model.
    pub fn span(&self, x: f64) -> f64 {
        4.0 * x / (self.x_range.1 - self.x_range.0)
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

/// What to type: the command of this run with what it lacks, from the first lines where there are some.
fn proposal(args: &ScalingArgs, lines: Option<Lines>) -> String {
    let found = lines.and_then(|lines| Line::fit(lines).ok().flatten());
    let mut command: Vec<String> = vec!["cargo run --release --example stream --".into()];
    command.extend(std::env::args().skip(1));
    let mut add = |is_there: bool, option: &str, value: Option<String>, name: &str| {
        if !is_there {
            command.push(format!("{option} {}", value.unwrap_or_else(|| name.into())));
        }
    };
    let of = |text: fn(&Line) -> String| found.as_ref().map(text);
    add(args.cycle.is_some(), "--cycle", None, "LENGTH");
    add(args.x_range.is_some(), "--x-range", of(|line| format!("{},{}", line.from, line.to)), "FROM,TO");
    add(args.level.is_some(), "--level", of(|line| digits(line.level, 1e4 * line.unit)), "LEVEL");
    let slope = of(|line| digits(line.slope, 1e4 * line.unit / (line.to - line.from)));
    add(args.slope.is_some(), "--slope", slope, "SLOPE");
    add(args.unit.is_some(), "--unit", of(|line| digits(line.unit, 1e4 * line.unit)), "UNIT");
    let from = match &found {
        Some(line) => format!("a straight line through the first {} lines would be", line.n),
        None => "they are".into(),
    };
    format!(
        "it was not said what the numbers stand for, and nothing was read in: {from}\n\n    {}\n\nLENGTH is the length \
         of a cycle that is known, in units of x; the range is to hold what is still to come; --help says what the \
         others are. For data/mauna_loa_co2.csv give --scale co2 instead.",
        command.join(" ")
    )
}

/// A straight line through the first lines of a file of two columns.
struct Line {
    n: usize,
    from: f64,
    to: f64,
    /// At `from`.
    level: f64,
    slope: f64,
    /// The spread around it.
    unit: f64,
}

impl Line {
    fn fit(mut lines: Lines) -> Result<Option<Self>> {
        let names = lines.header()?;
        let mut points = Vec::new();
        while points.len() < N_PROPOSED && lines.advance()? {
            if let Ok(&[x, y]) = lines.numbers(&names).as_deref() {
                points.push((x, y));
            }
        }
        let n = points.len() as f64;
        let mean = |of: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(|point| of(point) / n).sum::<f64>();
        // Of differences from the first, for a sum of equal numbers is rounded, and they have no spread.
        let (x0, y0) = points.first().copied().unwrap_or_default();
        let (x, y) = (x0 + mean(&|p| p.0 - x0), y0 + mean(&|p| p.1 - y0));
        let variance = mean(&|p| (p.0 - x).powi(2));
        let slope = mean(&|p| (p.0 - x) * (p.1 - y)) / variance;
        let unit = mean(&|p| (p.1 - y - slope * (p.0 - x)).powi(2)).sqrt();
        let (from, to) = points.iter().fold((f64::MAX, f64::MIN), |(low, high), p| (low.min(p.0), high.max(p.0)));
        let line = Self { n: points.len(), from, to, level: y + slope * (from - x), slope, unit };
        // What is left around a line by rounding is no unit either.
        let is_spread = unit > 1e-9 * mean(&|p| (p.1 - y).powi(2)).sqrt();
        let is_line = variance > 0.0 && is_spread && [slope, unit, line.level, to - from].iter().all(|x| x.is_finite());
        Ok(is_line.then_some(line))
    }
}
