//! A neural process at scale: 100,000 observations, a million predictions, constant memory.
//!
//!     cargo run --release --example million
//!     cargo run --release --example million -- --context 100000 --test 1000000
//!
//! The observations lie in the plane. The network is the papers' full-size BSA-TNP (6 blocks of
//! width 64, 4 heads, an RBF bias of 5 bases computed inside the kernel); coordinates act
//! through the bias alone, so the checkpoint for one dimension runs in two. It was not trained
//! for them: this example is about time and memory, not about the predictions.

use std::{
    ops::Range,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use wgpu_attention::{
    Device,
    models::tnp_kr::{Context, Locations, Posterior, TnpKr},
};

/// Measures the time and the memory of a neural process on synthetic data in the plane. Run it
/// in the root of the repository.
#[derive(Parser)]
struct Args {
    /// Observations to condition on.
    #[arg(long, value_name = "N", default_value = "2000", value_parser = count)]
    context: usize,
    /// Points to predict.
    #[arg(long, value_name = "M", default_value = "20000", value_parser = count)]
    test: usize,
    /// Points that are predicted at once.
    #[arg(long, value_name = "POINTS", default_value = "8192", value_parser = count)]
    tile: usize,
    /// The trained network.
    #[arg(long, value_name = "FILE", default_value = "checkpoints/gp_1d.safetensors")]
    checkpoint: PathBuf,
    /// cpu, gpu, best, or a part of an adapter's name.
    #[arg(long, default_value = "best")]
    device: String,
    /// Chooses the data.
    #[arg(long, default_value = "0")]
    seed: u64,
}

/// A whole number above 0; `100_000` is allowed.
fn count(text: &str) -> Result<usize, String> {
    match text.replace('_', "").parse() {
        Ok(0) | Err(_) => Err("a whole number above 0 is needed".into()),
        Ok(n) => Ok(n),
    }
}

/// The dimension of the coordinates.
const DIM: usize = 2;

/// The coordinates lie in a square of this side, the length that the network was trained on.
const SIDE: f32 = 4.0;

/// Test points that exist on the host at once, in tiles.
const TILES_AT_ONCE: usize = 8;

fn main() -> Result<()> {
    let args = Args::parse();
    let device = Device::by_name(&args.device)?;
    let model = load(&args, &device)?;
    let config = model.config();
    let n_reads = (config.n_blocks * config.n_repeats) as u64;
    println!("device     {device}");
    println!("model      {}, {n_reads} attention layers", args.checkpoint.display());
    println!("context    {} points, test {} points", HumanCount(args.context as u64), HumanCount(args.test as u64));

    let mut rng = StdRng::seed_from_u64(args.seed);
    let (posterior, time) = condition(&device, &model, args.context, &mut rng)?;
    // Every layer but the last is read by the context itself.
    let n = args.context as u64;
    report("condition", time, n, n * n * (n_reads - 1));

    let (means, time) = predict(&posterior, &args, &mut rng)?;
    let m = args.test as u64;
    report("predict", time, m, n * m * n_reads);
    println!("means      from {:.3} to {:.3}", means.start, means.end);

    println!("memory     {}", memory(&device));
    Ok(())
}

/// The network to measure.
fn load(args: &Args, device: &Device) -> Result<TnpKr> {
    TnpKr::open(device, &args.checkpoint)
        .context("cannot load the model (run in the repository's root, or give --checkpoint)")
}

/// Conditions on a smooth function with noise.
fn condition(device: &Device, model: &TnpKr, n: usize, rng: &mut StdRng) -> Result<(Posterior, Duration)> {
    let x = coordinates(n, rng);
    let y: Vec<f32> = x.chunks_exact(DIM).map(|x| function(x) + 0.1 * noise(rng)).collect();
    let spinner = ProgressBar::new_spinner().with_message("condition");
    spinner.enable_steady_tick(Duration::from_millis(200));
    let start = Instant::now();
    let posterior = model.condition(&Context::new(Locations::space(DIM, &x), &y))?;
    device.wait()?;
    let time = start.elapsed();
    spinner.finish_and_clear();
    Ok((posterior, time))
}

/// Predicts at random points, which are made and forgotten a few tiles at a time. Returns the
/// range of the means.
fn predict(posterior: &Posterior, args: &Args, rng: &mut StdRng) -> Result<(Range<f32>, Duration)> {
    let bar = ProgressBar::new(args.test as u64).with_style(ProgressStyle::with_template(
        "predict {wide_bar} {human_pos}/{human_len} points, {per_sec}, {eta} left",
    )?);
    bar.enable_steady_tick(Duration::from_millis(200));
    let start = Instant::now();
    let mut means = f32::INFINITY..f32::NEG_INFINITY;
    let mut left = args.test;
    while left > 0 {
        let n = left.min(args.tile.saturating_mul(TILES_AT_ONCE));
        let x = coordinates(n, rng);
        posterior.predict_tiles(&Locations::space(DIM, &x), args.tile, |points, tile| {
            for &mean in &tile.mean {
                means.start = means.start.min(mean);
                means.end = means.end.max(mean);
            }
            bar.inc(points.len() as u64);
            Ok(())
        })?;
        left -= n;
    }
    let time = start.elapsed();
    bar.finish_and_clear();
    ensure!(means.start.is_finite() && means.end.is_finite(), "the predictions are not finite: {means:?}");
    Ok((means, time))
}

/// Points in the square, uniformly.
fn coordinates(n: usize, rng: &mut StdRng) -> Vec<f32> {
    (0..n * DIM).map(|_| SIDE * rng.random::<f32>()).collect()
}

fn function(x: &[f32]) -> f32 {
    (2.0 * x[0]).sin() * (1.5 * x[1]).cos() + 0.5 * (3.0 * (x[0] + x[1])).sin()
}

/// About normal, with standard deviation 1.
fn noise(rng: &mut StdRng) -> f32 {
    (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0
}

/// `pairs` counts a query and a key once in each layer, for all heads together.
fn report(what: &str, time: Duration, points: u64, pairs: u64) {
    let seconds = time.as_secs_f64().max(1e-9);
    println!(
        "{what:<10} {seconds:.2} s: {} points/s, {:.2e} query-key pairs/s",
        HumanCount((points as f64 / seconds) as u64),
        pairs as f64 / seconds
    );
}

/// The most memory that was taken: the device's, or the process's on the CPU.
fn memory(device: &Device) -> String {
    let peak = device.memory().peak;
    if *device != Device::cpu() {
        return format!("{} on the device at most", HumanBytes(peak));
    }
    match peak_resident() {
        Some(bytes) => format!("{} of the process at most", HumanBytes(bytes)),
        None => "not known on this system".into(),
    }
}

/// The largest resident set of this process in bytes, where the system says.
fn peak_resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(1024 * kibibytes)
}
