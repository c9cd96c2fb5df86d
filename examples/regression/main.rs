//! Regression on a real series: a trained neural process beside an exact Gaussian process.
//!
//!     cargo run --release --example regression
//!     cargo run --release --example regression -- --context my.csv --targets where.csv
//!
//! The series is the CO2 record of Mauna Loa, see `data/README.md`. The network was trained on
//! draws from Gaussian processes and has seen neither this series nor its kernel; the Gaussian
//! process is fitted to the very points that it predicts from. Both get the same preprocessing
//! and the same split. Writes `predictions.csv` and `regression.svg`.

mod data;
mod gp;
mod plot;
mod scaling;

use std::{
    ops::Range,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use wgpu_attention::{
    Device,
    models::tnp_kr::{Context, Locations, TnpKr},
};

use data::{Series, Split};
use gp::GaussianProcess;
use scaling::Scaling;

const CO2: &str = "data/mauna_loa_co2.csv";

/// Predicts held-out points of a series with a trained neural process and with an exact
/// Gaussian process. Run it in the root of the repository.
#[derive(Parser)]
struct Args {
    /// Your own observations: a CSV file with the columns x,y [default: the CO2 record].
    #[arg(long, value_name = "FILE")]
    context: Option<PathBuf>,
    /// Where to predict: a CSV file with the columns x or x,y. Without it, a part of the
    /// context is held out.
    #[arg(long, value_name = "FILE", requires = "context")]
    targets: Option<PathBuf>,
    /// The trained network.
    #[arg(long, value_name = "FILE", default_value = "checkpoints/gp_1d.safetensors")]
    checkpoint: PathBuf,
    /// cpu, gpu, best, or a part of an adapter's name.
    #[arg(long, default_value = "best")]
    device: String,
    /// Where the results go.
    #[arg(long, value_name = "DIR", default_value = "out")]
    out: PathBuf,
    /// Use only the last part of the record, in units of x [default: 12 for the CO2 record,
    /// else all].
    #[arg(long, value_name = "LENGTH", value_parser = positive)]
    last: Option<f64>,
    /// How long the record is in units of the model, which was trained on 3 to 5. Set it so
    /// that a cycle has a length of 0.25 to 1.5.
    #[arg(long, default_value = "4", value_parser = positive)]
    length: f64,
    /// Degree of the polynomial that is fitted to the context and taken out.
    #[arg(long, value_name = "DEGREE", default_value = "1", value_parser = clap::value_parser!(u8).range(0..=3))]
    trend: u8,
    /// The fraction of points that is held out at random.
    #[arg(long, value_name = "FRACTION", default_value = "0.3", value_parser = fraction)]
    hold_out: f64,
    /// How many neighbouring points are held out as a gap [default: a twelfth].
    #[arg(long, value_name = "POINTS")]
    gap: Option<usize>,
    /// Chooses what is held out.
    #[arg(long, default_value = "0")]
    seed: u64,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok(number),
        _ => Err("a number above 0 is needed".into()),
    }
}

fn fraction(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (0.0..=0.9).contains(&number) => Ok(number),
        _ => Err("a number from 0 to 0.9 is needed".into()),
    }
}

/// A normal distribution, predicted for one observation.
#[derive(Clone, Copy, Debug)]
pub struct Normal {
    /// The expected value.
    pub mean: f64,
    /// The standard deviation.
    pub std: f64,
}

/// Half of the width of the central 95%, in standard deviations.
pub const Z95: f64 = 1.959_963_984_540_054;

impl Normal {
    fn log_density(self, y: f64) -> f64 {
        -0.5 * ((y - self.mean) / self.std).powi(2) - self.std.ln() - 0.5 * (2.0 * std::f64::consts::PI).ln()
    }

    fn covers(self, y: f64) -> bool {
        (y - self.mean).abs() <= Z95 * self.std
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let Split { context, targets, gap } = split(&args)?;
    let scaling = Scaling::fit(&context, &targets, args.trend.into(), args.length)?;
    println!("context   {} points, targets {}, of which {} in a gap", context.len(), targets.len(), gap.len());
    println!(
        "scaling   minus a trend of degree {} fitted to the context, divided by {:.4}; 1 model unit = {:.4} of x",
        args.trend, scaling.y_unit, scaling.x_unit
    );

    let device = Device::by_name(&args.device)?;
    println!("device    {device}");
    let model = TnpKr::open(&device, &args.checkpoint)
        .context("cannot load the model (run in the repository's root, or give --checkpoint)")?;
    let curve_x = curve_coordinates(&context, &targets);
    let [at_context, at_targets, curve] =
        neural_process(&device, &model, &scaling, &context, [&context.x, &targets.x, &curve_x])?;
    let [gp_context, gp_targets, gp_curve] = gaussian_process(&scaling, &context, [&context.x, &targets.x, &curve_x])?;

    if !targets.y.is_empty() {
        let trend: Vec<Normal> =
            targets.x.iter().map(|&x| Normal { mean: scaling.trend(x), std: scaling.y_unit }).collect();
        let models = [("neural process", &at_targets), ("Gaussian process", &gp_targets), ("trend alone", &trend)];
        print_scores(&targets.y, &gap, &models);
    }

    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot make the folder {}", args.out.display()))?;
    let csv = args.out.join("predictions.csv");
    write_csv(&csv, &[(&context, &at_context, &gp_context, false), (&targets, &at_targets, &gp_targets, true)])
        .with_context(|| format!("cannot write {}", csv.display()))?;
    let svg = args.out.join("regression.svg");
    let (title, x_label, y_label) = match args.context {
        None => ("CO2 at Mauna Loa, monthly means", "year", "CO2 (ppm)"),
        Some(_) => ("Regression", "x", "y"),
    };
    let picture = plot::Picture {
        title,
        x_label,
        y_label,
        context: &context,
        targets: &targets,
        gap: (!gap.is_empty()).then(|| targets.x[gap.start]..targets.x[gap.end - 1]),
        x: &curve_x,
        neural_process: &curve,
        gaussian_process: &gp_curve,
    };
    plot::draw(&svg, &picture).with_context(|| format!("cannot draw {}", svg.display()))?;
    println!("\nwrote {} and {}", csv.display(), svg.display());
    Ok(())
}

/// Reads the data and decides what is held out.
fn split(args: &Args) -> Result<Split> {
    let path = args.context.as_deref().unwrap_or(Path::new(CO2));
    let mut series = data::read(path, true)?;
    println!("data      {}: {} points", path.display(), series.len());
    let last = args.last.or(args.context.is_none().then_some(12.0));
    if let Some(last) = last {
        series = series.last(last);
        ensure!(series.len() > 1, "--last {last} leaves {} point(s)", series.len());
    }
    println!("used      {} points, x from {} to {}", series.len(), series.x[0], series.x[series.len() - 1]);
    match &args.targets {
        Some(path) => Ok(Split { context: series, targets: data::read(path, false)?, gap: 0..0 }),
        None => data::hold_out(&series, args.hold_out, args.gap.unwrap_or(series.len() / 12), args.seed),
    }
}

/// Where the curves of the picture are drawn: evenly, a little beyond the data.
fn curve_coordinates(context: &Series, targets: &Series) -> Vec<f64> {
    let all = || context.x.iter().chain(&targets.x).copied();
    let (first, last) = (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max));
    let margin = 0.01 * (last - first);
    let n = 1200;
    (0..n).map(|i| first - margin + (last - first + 2.0 * margin) * f64::from(i) / f64::from(n - 1)).collect()
}

/// Conditions the network on the context and predicts in three places; no training.
fn neural_process(
    device: &Device,
    model: &TnpKr,
    scaling: &Scaling,
    context: &Series,
    places: [&[f64]; 3],
) -> Result<[Vec<Normal>; 3]> {
    let single = |numbers: Vec<f64>| -> Vec<f32> { numbers.into_iter().map(|x| x as f32).collect() };
    let (x, y) = (single(scaling.coords(&context.x)), single(scaling.values(context)));
    let observed = Context::new(Locations::space(1, &x), &y);
    let condition = || -> Result<_> {
        let posterior = model.condition(&observed)?;
        device.wait()?;
        Ok(posterior)
    };
    let posterior = condition()?;
    let targets = single(scaling.coords(places[1]));
    let targets = Locations::space(1, &targets);
    // The runs so far have compiled the shaders, where there are any.
    let first = timed(|| posterior.predict(&targets))?;
    let condition = median((0..5).map(|_| timed(condition)).collect::<Result<_>>()?);
    let predict = median((0..5).map(|_| timed(|| posterior.predict(&targets))).collect::<Result<_>>()?);
    let ms = |time: Duration| 1e3 * time.as_secs_f64();
    println!(
        "neural process    condition {:.2} ms, predict {} targets {:.2} ms (first time {:.2} ms)",
        ms(condition),
        places[1].len(),
        ms(predict),
        ms(first)
    );
    let predict = |x: &[f64]| -> Result<Vec<Normal>> {
        let prediction = posterior.predict(&Locations::space(1, &single(scaling.coords(x))))?;
        let normals = prediction.mean.iter().zip(&prediction.std);
        let normals = normals.map(|(&mean, &std)| Normal { mean: mean.into(), std: std.into() });
        Ok(x.iter().zip(normals).map(|(&x, normal)| scaling.restore(x, normal)).collect())
    };
    Ok([predict(places[0])?, predict(places[1])?, predict(places[2])?])
}

fn timed<T, E: Into<anyhow::Error>>(run: impl FnOnce() -> Result<T, E>) -> Result<Duration> {
    let start = Instant::now();
    run().map_err(Into::into)?;
    Ok(start.elapsed())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Fits a Gaussian process to the context and predicts in three places. Nothing, if there are
/// too many points for an exact one.
fn gaussian_process(scaling: &Scaling, context: &Series, places: [&[f64]; 3]) -> Result<[Vec<Normal>; 3]> {
    if context.len() > gp::MAX_POINTS {
        println!("Gaussian process  left out: an exact one takes too long over {} points", gp::MAX_POINTS);
        return Ok(Default::default());
    }
    let start = Instant::now();
    let process = GaussianProcess::fit(&scaling.coords(&context.x), &scaling.values(context))?;
    let fit = start.elapsed();
    let start = Instant::now();
    let predictions = places.map(|x| {
        let normals = process.predict(&scaling.coords(x));
        x.iter().zip(normals).map(|(&x, normal)| scaling.restore(x, normal)).collect()
    });
    println!(
        "Gaussian process  fit {:.2} s, predict {:.2} ms; log marginal likelihood {:.2}",
        fit.as_secs_f64(),
        1e3 * start.elapsed().as_secs_f64(),
        process.log_likelihood
    );
    let hyper: Vec<_> = process.hyper().map(|(name, value)| format!("{name} {value:.3}")).collect();
    println!("  in model units: {}", hyper.join(", "));
    Ok(predictions)
}

/// RMSE, mean log-likelihood and coverage on the targets: all, and apart where there is a gap.
fn print_scores(y: &[f64], gap: &Range<usize>, models: &[(&str, &Vec<Normal>)]) {
    let all: Vec<usize> = (0..y.len()).collect();
    let (in_gap, scattered): (Vec<usize>, Vec<usize>) = all.iter().partition(|i| gap.contains(i));
    let mut groups = vec![("all", all)];
    if !in_gap.is_empty() && !scattered.is_empty() {
        groups.extend([("scattered", scattered), ("in the gap", in_gap)]);
    }
    println!();
    println!(
        "{:<12} {:>6}  {:<18} {:>8} {:>15} {:>12}",
        "held out", "points", "", "RMSE", "log-likelihood", "in 95% band"
    );
    for (name, points) in groups {
        for (model, predictions) in models.iter().filter(|(_, predictions)| !predictions.is_empty()) {
            let mean =
                |score: &dyn Fn(usize) -> f64| points.iter().map(|&i| score(i)).sum::<f64>() / points.len() as f64;
            let rmse = mean(&|i| (y[i] - predictions[i].mean).powi(2)).sqrt();
            let log_likelihood = mean(&|i| predictions[i].log_density(y[i]));
            let coverage = 100.0 * mean(&|i| f64::from(u8::from(predictions[i].covers(y[i]))));
            println!(
                "{name:<12} {:>6}  {model:<18} {rmse:>8.3} {log_likelihood:>15.3} {coverage:>10.1} %",
                points.len()
            );
        }
    }
}

/// One line for each point, sorted by its coordinate. What is not known stays empty.
fn write_csv(path: &Path, parts: &[(&Series, &Vec<Normal>, &Vec<Normal>, bool)]) -> Result<()> {
    let mut rows = Vec::new();
    for (series, neural_process, gaussian_process, held_out) in parts {
        for (i, &x) in series.x.iter().enumerate() {
            let mut row = vec![x.to_string()];
            row.push(series.y.get(i).map(f64::to_string).unwrap_or_default());
            row.push(u8::from(*held_out).to_string());
            for model in [neural_process, gaussian_process] {
                row.push(model.get(i).map(|normal| format!("{:.6}", normal.mean)).unwrap_or_default());
                row.push(model.get(i).map(|normal| format!("{:.6}", normal.std)).unwrap_or_default());
            }
            rows.push((x, row));
        }
    }
    rows.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut writer = csv::Writer::from_path(path)?;
    writer.write_record(["x", "y", "held_out", "np_mean", "np_std", "gp_mean", "gp_std"])?;
    for (_, row) in rows {
        writer.write_record(row)?;
    }
    Ok(writer.flush()?)
}
