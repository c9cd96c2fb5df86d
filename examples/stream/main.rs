//! A posterior that is kept current while observations stream in, in constant memory.
//!
//!     cargo run --release --example stream -- --input data/mauna_loa_co2.csv --score
//!     sensor | cargo run --release --example stream -- --block 1 --state sensor.safetensors
//!
//! Observations are lines of CSV with a header. The posterior, a few kilobytes whatever their
//! number, is taken to the state file now and then; a run that was killed goes on from there,
//! without losing or repeating a line. Without `--input` lines come from standard input, and
//! after a kill they are to come again from the first one (or use `--continues`).

mod meter;
mod plot;
mod rows;
mod saved;

use std::{
    io::{self, Read},
    path::PathBuf,
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use wgpu_attention::{
    Device,
    models::cmanp::{Cmanp, Context, Posterior},
};

use meter::{Meter, resident_bytes};
use rows::{Block, Rows, Scaling, ScalingArgs};
use saved::{Progress, Saved};

/// Reads observations line by line, keeps the posterior of a CMANP current, and predicts.
#[derive(Parser)]
struct Args {
    /// Observations: a CSV file with a header [default: standard input].
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// The trained network.
    #[arg(long, value_name = "FILE", default_value = "checkpoints/cmanp_gp_1d.safetensors")]
    checkpoint: PathBuf,
    /// cpu, gpu, best, or a part of an adapter's name.
    #[arg(long, default_value = "best")]
    device: String,
    /// Where the posterior is kept; if the file is there, the stream goes on from it.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Lines on standard input begin where the state ended, not at the first line.
    #[arg(long, requires = "state", conflicts_with = "input")]
    continues: bool,
    /// Where the results go.
    #[arg(long, value_name = "DIR", default_value = "out")]
    out: PathBuf,
    /// Observations that are taken in at once.
    #[arg(long, value_name = "POINTS", default_value = "1", value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    block: u64,
    /// Save the state after so many observations, and at the end.
    #[arg(long, value_name = "POINTS", default_value = "1000", value_parser = clap::value_parser!(u64).range(1..))]
    save_every: u64,
    /// Predict after every so many observations, and at the end.
    #[arg(long, value_name = "POINTS", value_parser = clap::value_parser!(u64).range(1..))]
    every: Option<u64>,
    /// Predict each block before it is taken in, and score the predictions.
    #[arg(long)]
    score: bool,
    #[command(flatten)]
    scaling: ScalingArgs,
}

/// A prediction for every value of x in a grid.
struct Stage {
    n_points: u64,
    x: Vec<f64>,
    mean: Vec<f64>,
    std: Vec<f64>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let device = Device::by_name(&args.device)?;
    let model = Cmanp::open(&device, &args.checkpoint)
        .context("cannot load the model (run in the repository's root, or give --checkpoint)")?;
    let scaling = Scaling::new(&args.scaling, model.config())?;
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot make the folder {}", args.out.display()))?;
    let saved = Saved { path: args.state.clone(), settings: scaling.to_string(), block: args.block };
    let (mut posterior, mut progress) = saved.open(&model)?;
    println!("device    {device}");
    if let Some(posterior) = &posterior {
        println!("resumed   after {} lines, {} observations", progress.n_rows, posterior.n_points()[0]);
    }

    let input: Box<dyn Read> = match &args.input {
        Some(path) => Box::new(std::fs::File::open(path).with_context(|| path.display().to_string())?),
        None => Box::new(io::stdin().lock()),
    };
    let mut rows = Rows::new(input, model.config(), &scaling)?;
    if !args.continues {
        rows.skip(progress.n_rows)?;
    }
    let mut meter = Meter::new();
    let mut stages = Vec::new();
    loop {
        let block = rows.next_block(args.block, &mut progress)?;
        if !block.is_empty() {
            if args.score
                && let Some(posterior) = &posterior
            {
                progress.score(&posterior.predict(&block.x)?, &block, scaling.unit)?;
            }
            progress.remember(&block, model.config().dim_y);
            let before = posterior.as_ref().map_or(0, |posterior| posterior.n_points()[0]);
            let started = Instant::now();
            let now = take_in(&model, posterior.take(), &block)?;
            device.wait()?;
            meter.add(started.elapsed(), block.len());
            let after = now.n_points()[0];
            let passed = |n: u64| before / n != after / n;
            if passed(args.save_every) {
                saved.save(&now, &progress)?;
            }
            if args.every.is_some_and(passed) {
                stages.push(predict(&args, &scaling, &now)?);
                // Memory stays constant; the picture shows the last ones.
                if stages.len() > plot::MAX_PANELS {
                    stages.remove(0);
                }
            }
            posterior = Some(now);
        }
        if block.is_last {
            break;
        }
    }
    let posterior = posterior.context("there is no observation: give at least one line below the header")?;
    saved.save(&posterior, &progress)?;
    report(&meter, &progress, &posterior);
    let started = Instant::now();
    let last = predict(&args, &scaling, &posterior)?;
    println!("predicted {} points in {:.1} ms", last.x.len(), started.elapsed().as_secs_f64() * 1e3);
    if stages.last().is_none_or(|stage| stage.n_points != last.n_points) {
        stages.push(last);
    }
    draw(&args, &scaling, &model, &stages)
}

/// The posterior of the block and all before it.
fn take_in(model: &Cmanp, posterior: Option<Posterior>, block: &Block) -> Result<Posterior> {
    let context = Context::new(&block.x, &block.y);
    Ok(match posterior {
        Some(posterior) => posterior.update(&context)?,
        None => model.condition(&context)?,
    })
}

/// Predicts the grid, and writes it to a file of its own. A model of several coordinates or
/// channels has none.
fn predict(args: &Args, scaling: &Scaling, posterior: &Posterior) -> Result<Stage> {
    let n_points = posterior.n_points()[0];
    if !scaling.is_line(posterior.config()) {
        return Ok(Stage { n_points, x: Vec::new(), mean: Vec::new(), std: Vec::new() });
    }
    let x = scaling.grid();
    let points: Vec<f32> = x.iter().flat_map(|&x| scaling.point(&[x])).collect();
    let prediction = posterior.predict(&points)?;
    let mean = x.iter().zip(&prediction.mean).map(|(&x, &y)| scaling.value(x, y)).collect();
    let std = prediction.std.iter().map(|&std| f64::from(std) * scaling.unit).collect();
    let stage = Stage { n_points, x, mean, std };
    let path = args.out.join(format!("predictions_{n_points}.csv"));
    let mut csv = csv::Writer::from_path(&path).with_context(|| format!("cannot write {}", path.display()))?;
    csv.write_record(["x", "mean", "std"])?;
    for ((x, mean), std) in stage.x.iter().zip(&stage.mean).zip(&stage.std) {
        csv.write_record([x, mean, std].map(f64::to_string))?;
    }
    csv.flush()?;
    Ok(stage)
}

fn report(meter: &Meter, progress: &Progress, posterior: &Posterior) {
    println!(
        "observed  {} points, {} lines rejected; the posterior takes {} bytes",
        posterior.n_points()[0],
        progress.n_rejected,
        posterior.n_bytes()
    );
    if let (Some(median), Some(last)) = (meter.quantile(0.5), meter.quantile(0.99)) {
        println!(
            "updates   {:.0} points/s; latency of an update: median {:.1} us, 99th percentile {:.1} us",
            meter.points_per_second(),
            median * 1e6,
            last * 1e6
        );
    }
    match (meter.resident_at_first(), resident_bytes()) {
        (Some(first), Some(now)) => {
            println!("resident  {:.1} MB after the first update, {:.1} MB now", mega(first), mega(now));
        }
        _ => println!("resident  not known on this system"),
    }
    if let Some(score) = progress.scores() {
        println!("forecasts {score}");
    }
}

fn mega(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn draw(args: &Args, scaling: &Scaling, model: &Cmanp, stages: &[Stage]) -> Result<()> {
    let Some(path) = args.input.as_ref().filter(|_| scaling.is_line(model.config())) else { return Ok(()) };
    // Only the picture looks at observations twice.
    let file = std::fs::File::open(path)?;
    let observed = Rows::new(Box::new(file), model.config(), scaling)?.observations()?;
    ensure!(!observed.is_empty(), "{} holds no observation", path.display());
    let svg = args.out.join("stream.svg");
    plot::draw(&svg, stages, &observed, |x| scaling.trend(x))?;
    println!("picture   {}", svg.display());
    Ok(())
}
