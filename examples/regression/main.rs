//! Regression on a real series: a trained neural process beside an exact Gaussian process.
//!
//!     cargo run --release --example regression
//!     cargo run --release --example regression -- --context my.csv --targets where.csv
//!
//! The series is the CO2 record of Mauna Loa, see `data/README.md`. The network was trained on
//! draws from Gaussian processes and has seen neither this series nor its kernel; the Gaussian
//! process is fitted to the very points that it predicts from. Both get the same split, and each the
//! preprocessing that is best for it: harmonics of a known cycle are taken out for the network alone, because
//! the process knows the cycle by its covariance; and the committed networks are asked twice, of the values and of
//! their negatives, for that a function is as likely as its negative they have learned only nearly. Writes `predictions.csv`, `regression.svg` and
//! `regression_steps.svg`, predictions from 10, 30 and all observations. With `--seeds 20` it draws
//! 20 splits, and prints the medians of their scores alone.

mod data;
mod gp;
mod plot;
mod scaling;
mod scores;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use shared::{
    args::positive,
    axis::{digits, number, plain},
    normal::Normal,
    out, progress, say,
};
use wgpu_attention::{
    Device,
    models::tnp_kr::{Context, Locations, Posterior, TnpKr},
};

use data::{Series, Split};
use gp::GaussianProcess;
use scaling::{Scaling, Trend};

const CO2: &str = "data/mauna_loa_co2.csv";

/// Observations from which on the network is not quick.
const MANY: usize = 5000;
/// Points that the network predicts at once.
const TILE: usize = 2048;

/// Predicts held-out points of a series with a trained neural process and with an exact
/// Gaussian process.
///
/// For data of your own give --context FILE, a CSV file whose first line names the columns x and y,
/// and --targets FILE to say where to predict; without it a part of the points is held out and
/// the predictions are scored. Lines that lack a number (empty, NA, null, nan) are passed over. If the
/// series has a cycle whose length is known, say so with --cycle. Results go to
/// predictions.csv, regression.svg and regression_steps.svg in --out. Run it in the root of the repository.
#[derive(Parser)]
struct Args {
    /// Your own observations: a CSV file with the columns x,y [default: the CO2 record].
    #[arg(long, value_name = "FILE")]
    context: Option<PathBuf>,
    /// Where to predict: a CSV file with the columns x or x,y. Without it, a part of the
    /// context is held out.
    #[arg(long, value_name = "FILE", requires = "context", conflicts_with_all = ["hold_out", "gap"])]
    targets: Option<PathBuf>,
    /// The trained network [default: checkpoints/record.safetensors, which is told the phase of a
    /// known cycle, else checkpoints/gp_1d.safetensors].
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// cpu, gpu, best, or a part of an adapter's name.
    #[arg(long, default_value = "best")]
    device: String,
    /// Where the results go.
    #[arg(long, value_name = "DIR", default_value = "out")]
    out: PathBuf,
    /// Use only the last part of the record, in units of x [default: 12 for the CO2 record,
    /// else all].
    #[arg(long, value_name = "LENGTH", allow_negative_numbers = true, value_parser = positive)]
    last: Option<f64>,
    /// The length of a cycle that is known, such as the year, in units of x; 0 if none is
    /// [default: 1 for the CO2 record, else 0].
    #[arg(long, value_name = "LENGTH", allow_negative_numbers = true, value_parser = cycle)]
    cycle: Option<f64>,
    /// Harmonics of that cycle that are fitted to the context and taken out for the network, at most one for
    /// 16 points [default: 2].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=3))]
    harmonics: Option<u8>,
    /// How long the record is in units of the model, which was trained on 3 to 5. Without --cycle set
    /// it so that a cycle has a length of 0.25 to 1.5.
    #[arg(long, default_value = "4", allow_negative_numbers = true, value_parser = length)]
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
    /// Print the medians of the scores over so many splits, those of the seeds after --seed; no file
    /// is written.
    #[arg(long, value_name = "N", conflicts_with = "targets", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    seeds: Option<u64>,
}

impl Args {
    /// The length of the cycle that the models are told.
    fn cycle(&self) -> Option<f64> {
        let known = if self.context.is_none() { 1.0 } else { 0.0 };
        Some(self.cycle.unwrap_or(known)).filter(|cycle| *cycle > 0.0)
    }

    fn checkpoint(&self) -> PathBuf {
        let trained = if self.cycle().is_some() { "record" } else { "gp_1d" };
        self.checkpoint.clone().unwrap_or_else(|| format!("checkpoints/{trained}.safetensors").into())
    }

    /// The committed networks were trained where a function is as likely as its negative; of others nothing is known.
    fn signs(&self) -> &'static [f64] {
        if self.checkpoint.is_none() { &[1.0, -1.0] } else { &[1.0] }
    }

    fn trend(&self) -> Trend {
        Trend { degree: self.trend.into(), cycle: self.cycle(), harmonics: self.harmonics.unwrap_or(2).into() }
    }

    /// What is taken out for the Gaussian process: it models the cycle by itself, and is better so.
    fn plain_trend(&self) -> Trend {
        Trend { harmonics: 0, ..self.trend() }
    }
}

/// The network knows nothing longer or shorter.
fn length(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (0.01..=100.0).contains(&number) => Ok(number),
        _ => Err("a number from 0.01 to 100 is needed".into()),
    }
}

fn cycle(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number == 0.0 || (1e-300..1e300).contains(&number) => Ok(number),
        _ => Err("a length in units of x is needed, or 0".into()),
    }
}

fn fraction(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (0.0..=0.9).contains(&number) => Ok(number),
        _ => Err("a number from 0 to 0.9 is needed".into()),
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let (Some(n @ 1..), None) = (args.harmonics, args.cycle()) {
        bail!("--harmonics {n}: there is no cycle that they could be of; give its length, --cycle LENGTH");
    }
    if args.seeds.is_none() {
        out::folder(&args.out, &["predictions.csv", "regression.svg", "regression_steps.svg"])?;
        let read = [args.context.as_deref(), args.targets.as_deref()];
        out::unless_read(&args.out.join("predictions.csv"), read.into_iter().flatten())?;
    }
    let series = series(&args)?;
    let device = Device::by_name(&args.device)?;
    let model = TnpKr::open(&device, args.checkpoint())
        .context("cannot load the model (run in the repository's root, or give --checkpoint)")?;
    say!("device    {device}")?;
    if let Some(n) = args.seeds {
        return many_splits(&args, &device, &model, &series, n);
    }
    let split = split(&args, &series, args.seed)?;
    let Split { context, targets, gap } = &split;
    let scaling = Scaling::fit(context, targets, args.trend(), args.length)?;
    let plain = Scaling::fit(context, targets, args.plain_trend(), args.length)?;
    say!("context   {} points, targets {}, of which {} in a gap", context.len(), targets.len(), gap.len())?;
    say!(
        "network   minus {} fitted to the context, divided by {}; 1 model unit = {} of x",
        scaling.removed(),
        number(scaling.y_unit),
        number(scaling.x_unit)
    )?;
    let curve_x = curve_coordinates(context, targets);
    let places = [&context.x[..], &targets.x, &curve_x];
    let [at_context, at_targets, curve] = neural_process(&device, &model, (&scaling, args.signs()), context, places)?;
    let [gp_context, gp_targets, gp_curve] = gaussian_process(&plain, context, places)?;
    if targets.is_observed() {
        let trend = trend_alone(&scaling, targets);
        let models = [("neural process", &at_targets), ("Gaussian process", &gp_targets), ("trend alone", &trend)];
        scores::print(&scores::of_split(&targets.y, gap, &models))?;
    }

    let csv = args.out.join("predictions.csv");
    let parts = [(context, &at_context, &gp_context, false), (targets, &at_targets, &gp_targets, true)];
    write_csv(&csv, &parts, scaling.y_unit)?;
    let svg = args.out.join("regression.svg");
    let (title, x_label, y_label) = match args.context {
        None => ("CO2 at Mauna Loa, monthly means", "year", "CO2 (ppm)"),
        Some(_) => ("Regression", "x", "y"),
    };
    let picture = plot::Picture {
        title,
        x_label,
        y_label,
        context,
        targets,
        gap: (!gap.is_empty()).then(|| targets.x[gap.start]..targets.x[gap.end - 1]),
        x: &curve_x,
        neural_process: &curve,
        gaussian_process: &gp_curve,
    };
    plot::draw(&svg, &picture).with_context(|| format!("cannot draw {}", svg.display()))?;
    let steps = args.out.join("regression_steps.svg");
    draw_steps(&args, &model, context, picture, &steps)?;
    say!("\nwrote {}, {} and {}", csv.display(), svg.display(), steps.display())
}

/// What the network predicts from 10, from 30 and from all observations.
fn draw_steps(args: &Args, model: &TnpKr, all: &Series, picture: plot::Picture<'_>, path: &Path) -> Result<()> {
    let mut numbers: Vec<usize> = [10, 30].into_iter().filter(|n| 2 * n <= all.len()).collect();
    numbers.push(all.len());
    let parts: Vec<_> = numbers.iter().map(|&n| (all.some(n, args.seed), format!("After {n} observations"))).collect();
    let mut curves = Vec::new();
    for ((some, _), _) in &parts {
        let scaling = Scaling::fit(some, picture.targets, args.trend(), args.length)?;
        let posterior = model.condition(&observe(&scaling, some, args.signs()).context())?;
        curves.push(predict(&posterior, &scaling, picture.x, &mut String::new(), &|_| {})?);
    }
    let mut steps = Vec::new();
    for (((context, targets), title), neural_process) in parts.iter().zip(&curves) {
        steps.push(plot::Picture {
            title,
            context,
            targets,
            neural_process,
            gaussian_process: &[],
            gap: None,
            ..picture
        });
    }
    plot::draw_steps(path, &steps).with_context(|| format!("cannot draw {}", path.display()))
}

/// The medians of the scores over splits of one series.
fn many_splits(args: &Args, device: &Device, model: &TnpKr, series: &Series, n: u64) -> Result<()> {
    let bar = progress::bar("splits", "splits", n)?;
    let mut all = Vec::new();
    for seed in 1..=n {
        let Split { context, targets, gap } = split(args, series, args.seed.wrapping_add(seed))?;
        let scaling = Scaling::fit(&context, &targets, args.trend(), args.length)?;
        let observed = observe(&scaling, &context, args.signs());
        let posterior = model.condition(&observed.context())?;
        device.wait()?;
        let ours = predict(&posterior, &scaling, &targets.x, &mut String::new(), &|_| {})?;
        let plain = Scaling::fit(&context, &targets, args.plain_trend(), args.length)?;
        let process = (context.len() <= gp::MAX_POINTS).then(|| fitted(&plain, &context)).transpose()?;
        let theirs = process.map_or(Vec::new(), |process| restored(&process, &plain, &targets.x));
        let trend = trend_alone(&scaling, &targets);
        let models = [("neural process", &ours), ("Gaussian process", &theirs), ("trend alone", &trend)];
        all.push(scores::of_split(&targets.y, &gap, &models));
        bar.add(1);
    }
    drop(bar);
    say!(
        "medians of the scores of {n} splits, of the seeds {} to {}; of the coverage, the mean",
        args.seed.wrapping_add(1),
        args.seed.wrapping_add(n)
    )?;
    scores::print(&scores::medians(&all))
}

/// What needs no model at all.
fn trend_alone(scaling: &Scaling, targets: &Series) -> Vec<Normal> {
    targets.x.iter().map(|&x| Normal { mean: scaling.trend(x), std: scaling.y_unit }).collect()
}

/// Reads the observations.
fn series(args: &Args) -> Result<Series> {
    let path = args.context.as_deref().unwrap_or(Path::new(CO2));
    let mut series = data::read(path, true)?;
    say!("data      {}: {} points", path.display(), series.len())?;
    let last = args.last.or(args.context.is_none().then_some(12.0));
    if let Some(last) = last {
        series = series.last(last);
        ensure!(series.len() > 1, "--last {last} leaves {} point(s)", series.len());
    }
    say!("used      {} points, x from {} to {}", series.len(), series.x[0], series.x[series.len() - 1])?;
    Ok(series)
}

/// Decides what is held out.
fn split(args: &Args, series: &Series, seed: u64) -> Result<Split> {
    match &args.targets {
        Some(path) => Ok(Split { context: series.clone(), targets: data::read(path, false)?, gap: 0..0 }),
        None => data::hold_out(series, args.hold_out, args.gap.unwrap_or(series.len() / 12), seed),
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

/// Points as the network reads them, once for each sign of the values, as a batch.
struct Points {
    n_signs: usize,
    x: Vec<f32>,
    /// Cosine and sine of the phase of a known cycle.
    phases: Option<Vec<f32>>,
    /// What was observed; nothing where it is to be predicted.
    y: Vec<f32>,
}

impl Points {
    fn new(scaling: &Scaling, x: &[f64], n_signs: usize) -> Self {
        let phases = scaling.phases(x).map(|phases| single(&phases).repeat(n_signs));
        Self { n_signs, x: single(&scaling.coords(x)).repeat(n_signs), phases, y: Vec::new() }
    }

    fn locations(&self) -> Locations<'_> {
        let time = Locations::space(1, &self.x).batch(self.n_signs);
        match &self.phases {
            Some(phases) => time.group("phase", 2, phases),
            None => time,
        }
    }

    fn context(&self) -> Context<'_> {
        Context::new(self.locations(), &self.y)
    }
}

fn observe(scaling: &Scaling, context: &Series, signs: &[f64]) -> Points {
    let y = scaling.values(context);
    let of_signs: Vec<f64> = signs.iter().flat_map(|sign| y.iter().map(move |y| sign * y)).collect();
    Points { y: single(&of_signs), ..Points::new(scaling, &context.x, signs.len()) }
}

fn single(numbers: &[f64]) -> Vec<f32> {
    numbers.iter().map(|&x| x as f32).collect()
}

/// Predicts in tiles, and says how many are done, and what of it the network was not trained for.
fn predict(
    posterior: &Posterior,
    scaling: &Scaling,
    x: &[f64],
    outside: &mut String,
    done: &dyn Fn(usize),
) -> Result<Vec<Normal>> {
    let mut normals = Vec::with_capacity(x.len());
    let n_signs = posterior.batch();
    posterior.predict_tiles(&Points::new(scaling, x, n_signs).locations(), TILE, |points, tile| {
        if outside.is_empty() {
            // Of the values themselves.
            let mut found = tile.outside().clone();
            found.departures.retain(|departure| departure.element == 0);
            *outside = found.to_string();
        }
        let n = points.len();
        let normal = |i: usize| Normal { mean: tile.mean()[i].into(), std: tile.std()[i].into() };
        normals.extend(x[points].iter().enumerate().map(|(i, &x)| match n_signs {
            1 => scaling.restore(x, normal(i)),
            _ => {
                let negative = normal(n + i);
                scaling.restore(x, Normal::mixture([normal(i), Normal { mean: -negative.mean, ..negative }]))
            }
        }));
        done(n);
        Ok(())
    })?;
    Ok(normals)
}

/// Conditions the network on the context and predicts in three places; no training.
fn neural_process(
    device: &Device,
    model: &TnpKr,
    (scaling, signs): (&Scaling, &[f64]),
    context: &Series,
    places: [&[f64]; 3],
) -> Result<[Vec<Normal>; 3]> {
    let observed = observe(scaling, context, signs);
    if context.len() > MANY {
        say!(
            "neural process    {} observations: the time it takes grows with the square of their number, and it was trained \
             on some hundred; --last N reads the last N",
            context.len()
        )?;
    }
    let start = Instant::now();
    let spinner = progress::spinner("neural process: reads the observations");
    let posterior = model.condition(&observed.context())?;
    device.wait()?;
    drop(spinner);
    let condition = start.elapsed();
    let bar =
        progress::bar("neural process: predicts", "points", places.map(<[f64]>::len).iter().sum::<usize>() as u64)?;
    let (mut times, mut outside) = (Vec::new(), String::new());
    let mut timed = |x: &[f64]| {
        let start = Instant::now();
        let normals = predict(&posterior, scaling, x, &mut outside, &|n| bar.add(n as u64));
        times.push(start.elapsed());
        normals
    };
    let predictions = [timed(places[0])?, timed(places[1])?, timed(places[2])?];
    drop(bar);
    let ms = |time: Duration| 1e3 * time.as_secs_f64();
    say!(
        "neural process    condition {:.2} ms, predict {} targets {:.2} ms",
        ms(condition),
        places[1].len(),
        ms(times[1])
    )?;
    if !outside.is_empty() {
        // The observations and all places fill one length: a place far off leaves little of it for the rest.
        say!("warning           outside of what the network was trained on, so not to be believed: {outside}")?;
    }
    Ok(predictions)
}

fn fitted(scaling: &Scaling, context: &Series) -> Result<GaussianProcess> {
    let scaled = Series { x: scaling.coords(&context.x), y: scaling.values(context) };
    GaussianProcess::fit(&scaled, scaling.period())
}

/// Predictions of a fitted process, in the data's units.
fn restored(process: &GaussianProcess, scaling: &Scaling, x: &[f64]) -> Vec<Normal> {
    let normals = process.predict(&scaling.coords(x));
    x.iter().zip(normals).map(|(&x, normal)| scaling.restore(x, normal)).collect()
}

/// Fits a Gaussian process to the context and predicts in three places. Nothing, if there are
/// too many points for an exact one.
fn gaussian_process(scaling: &Scaling, context: &Series, places: [&[f64]; 3]) -> Result<[Vec<Normal>; 3]> {
    if context.len() > gp::MAX_POINTS {
        say!("Gaussian process  left out: an exact one takes too long over {} points", gp::MAX_POINTS)?;
        return Ok(Default::default());
    }
    let spinner = progress::spinner("Gaussian process: fits its hyper-parameters");
    let start = Instant::now();
    let process = fitted(scaling, context)?;
    let fit = start.elapsed();
    let start = Instant::now();
    let predictions = places.map(|x| restored(&process, scaling, x));
    drop(spinner);
    say!(
        "Gaussian process  fit {:.2} s, predict {:.2} ms; log marginal likelihood {:.2}",
        fit.as_secs_f64(),
        1e3 * start.elapsed().as_secs_f64(),
        process.log_likelihood
    )?;
    let hyper: Vec<_> = process.hyper().map(|(name, value)| format!("{name} {value:.3}")).collect();
    let (removed, unit) = (scaling.removed(), number(scaling.y_unit));
    say!("  minus {removed}, divided by {unit}; in model units: {}", hyper.join(", "))?;
    Ok(predictions)
}

/// One line for each point, sorted by its coordinate. What is not known stays empty.
fn write_csv(path: &Path, parts: &[(&Series, &Vec<Normal>, &Vec<Normal>, bool)], unit: f64) -> Result<()> {
    let mut rows = Vec::new();
    for (series, neural_process, gaussian_process, held_out) in parts {
        for (i, &x) in series.x.iter().enumerate() {
            let mut row = vec![plain(x)];
            let y = series.y[i];
            row.push(if y.is_finite() { plain(y) } else { String::new() });
            row.push(u8::from(*held_out).to_string());
            for model in [neural_process, gaussian_process] {
                row.push(model.get(i).map(|normal| digits(normal.mean, unit)).unwrap_or_default());
                row.push(model.get(i).map(|normal| digits(normal.std, unit)).unwrap_or_default());
            }
            rows.push((x, row));
        }
    }
    rows.sort_by(|a, b| a.0.total_cmp(&b.0));
    out::table(path, |csv| {
        csv.write_record(["x", "y", "held_out", "np_mean", "np_std", "gp_mean", "gp_std"])?;
        rows.into_iter().try_for_each(|(_, row)| csv.write_record(row))
    })
}
