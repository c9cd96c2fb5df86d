//! A neural process at scale: 100,000 observations, a million predictions, constant memory.
//!
//!     cargo run --release --example million
//!     cargo run --release --example million -- --context 100000 --test 1000000
//!
//!     cargo run --release --example million -- --attention scan --scaling
//!
//! The observations lie in the plane. The networks are the papers' at full size (6 blocks of
//! width 64) with random parameters, or a trained one: this example is about time and memory,
//! not about the predictions.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum};
use indicatif::{HumanBytes, HumanCount};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use shared::{args::count, progress, say};
use wgpu_attention::{
    Device,
    models::tnp_kr::{AttentionConfig, Config, Context, Locations, Posterior, TnpKr},
};

/// Measures the time and the memory of a neural process on synthetic data in the plane.
///
/// It reads no data and writes no file; a network of your own is measured with --checkpoint FILE.
/// Run it in the root of the repository.
#[derive(Parser)]
struct Args {
    /// Observations to condition on.
    #[arg(long, value_name = "N", default_value = "2000", value_parser = count)]
    context: usize,
    /// Points to predict.
    #[arg(long, value_name = "M", default_value = "20000", value_parser = count)]
    test: usize,
    /// Points that are predicted at once: 8192 on the CPU, 65536 on a GPU, which few points leave idle.
    #[arg(long, value_name = "POINTS", value_parser = count)]
    tile: Option<usize>,
    /// How the network attends.
    #[arg(long, value_enum, default_value = "deep-kernel")]
    attention: Attention,
    /// A trained network instead; its attention is its own.
    #[arg(long, value_name = "FILE", conflicts_with = "attention")]
    checkpoint: Option<PathBuf>,
    /// Also run a quarter and a half of each number, and print how time grows.
    #[arg(long)]
    scaling: bool,
    /// cpu, gpu, best, or a part of an adapter's name.
    #[arg(long, default_value = "best")]
    device: String,
    /// Chooses the data.
    #[arg(long, default_value = "0")]
    seed: u64,
}

/// The attentions of the papers.
#[derive(Clone, Copy, ValueEnum)]
enum Attention {
    /// Deep kernel attention: learned features, linear in the number of points.
    DeepKernel,
    /// FAVOR+: random features of the softmax kernel, linear in the number of points.
    Performer,
    /// Softmax attention with an RBF bias: quadratic.
    Scan,
}

/// The coordinates lie in a square of this side, the length that the network was trained on.
const SIDE: f32 = 4.0;

/// Test points that exist on the host at once, in tiles.
const TILES_AT_ONCE: usize = 8;

fn main() -> Result<()> {
    let args = Args::parse();
    let device = Device::by_name(&args.device)?;
    let model = load(&args, &device)?;
    let config = model.config();
    let kind = match config.attention {
        AttentionConfig::Scan { .. } => "scan attention",
        AttentionConfig::Performer { .. } => "Performer attention",
        AttentionConfig::DeepKernel { .. } => "deep kernel attention",
        _ => "attention",
    };
    say!("device     {device}")?;
    say!("model      {kind}, {} layers", config.n_blocks * config.n_repeats)?;
    if args.scaling {
        return scaling(&args, &device, &model);
    }
    say!("context    {} points, test {} points", HumanCount(args.context as u64), HumanCount(args.test as u64))?;
    let times = run(&args, &device, &model, args.context, args.test)?;
    report("condition", times[0], args.context)?;
    report("predict", times[1], args.test)?;
    report("together", times[0] + times[1], args.context + args.test)?;
    say!("memory     {}", memory(&device))?;
    Ok(())
}

/// The network to measure.
fn load(args: &Args, device: &Device) -> Result<TnpKr> {
    if let Some(checkpoint) = &args.checkpoint {
        return TnpKr::open(device, checkpoint).context("cannot load the model (are you in the repository's root?)");
    }
    let config = match args.attention {
        Attention::DeepKernel => Config::deep_kernel(2, 1),
        Attention::Performer => Config::performer(2, 1),
        Attention::Scan => Config::scan(1),
    };
    Ok(TnpKr::random(device, &config, args.seed)?)
}

/// Conditions and predicts: the time of each.
fn run(args: &Args, device: &Device, model: &TnpKr, n_context: usize, n_test: usize) -> Result<[Duration; 2]> {
    let dim = model.config().groups.first().and_then(|group| group.dim).unwrap_or(2);
    let mut rng = StdRng::seed_from_u64(args.seed);
    let (posterior, condition) = condition(device, model, n_context, dim, &mut rng)?;
    let tile = args.tile.unwrap_or(if *device == Device::cpu() { 8192 } else { 65_536 });
    let predict = predict(&posterior, n_test, tile, dim, &mut rng)?;
    Ok([condition, predict])
}

/// Time at three sizes, and the exponent of the number of points in it, by least squares.
fn scaling(args: &Args, device: &Device, model: &TnpKr) -> Result<()> {
    // Compiles shaders and wakes threads.
    run(args, device, model, args.context.min(1000), args.test.min(1000))?;
    let mut times = [Vec::new(), Vec::new()];
    for part in [4, 2, 1] {
        let (n_context, n_test) = (args.context.div_ceil(part), args.test.div_ceil(part));
        let [condition, predict] = run(args, device, model, n_context, n_test)?;
        report("condition", condition, n_context)?;
        report("predict", predict, n_test)?;
        times[0].push((n_context as f64, condition.as_secs_f64()));
        times[1].push((n_test as f64, predict.as_secs_f64()));
    }
    let [condition, predict] = times.map(|times| exponent(&times));
    say!("exponent   condition {condition:.2}, predict {predict:.2}: time grows with points to that power")?;
    say!("memory     {}", memory(device))?;
    Ok(())
}

fn exponent(times: &[(f64, f64)]) -> f64 {
    let n = times.len() as f64;
    let logs = || times.iter().map(|(size, time)| (size.ln(), time.ln()));
    let (x, y) = logs().fold((0.0, 0.0), |mean, (x, y)| (mean.0 + x / n, mean.1 + y / n));
    logs().map(|(a, b)| (a - x) * (b - y)).sum::<f64>() / logs().map(|(a, _)| (a - x).powi(2)).sum::<f64>()
}

/// Conditions on a smooth function with noise.
fn condition(device: &Device, model: &TnpKr, n: usize, dim: usize, rng: &mut StdRng) -> Result<(Posterior, Duration)> {
    let x = coordinates(n, dim, rng)?;
    let y: Vec<f32> = x.chunks_exact(dim).map(|x| function(x) + 0.1 * noise(rng)).collect();
    let spinner = progress::spinner("condition");
    let start = Instant::now();
    let posterior = model.condition(&Context::new(Locations::space(dim, &x), &y))?;
    device.wait()?;
    let time = start.elapsed();
    drop(spinner);
    Ok((posterior, time))
}

/// Predicts at random points, which are made and forgotten a few tiles at a time.
fn predict(posterior: &Posterior, n_test: usize, tile: usize, dim: usize, rng: &mut StdRng) -> Result<Duration> {
    let bar = progress::bar("predict", "points", n_test as u64)?;
    let start = Instant::now();
    let mut is_finite = true;
    let mut left = n_test;
    while left > 0 {
        let n = left.min(tile.saturating_mul(TILES_AT_ONCE));
        let x = coordinates(n, dim, rng)?;
        posterior.predict_tiles(&Locations::space(dim, &x), tile, |points, tile| {
            is_finite &= tile.mean().iter().all(|mean| mean.is_finite());
            bar.add(points.len() as u64);
            Ok(())
        })?;
        left -= n;
    }
    let time = start.elapsed();
    drop(bar);
    ensure!(is_finite, "the predictions are not finite");
    Ok(time)
}

/// Points in the square, uniformly.
fn coordinates(n: usize, dim: usize, rng: &mut StdRng) -> Result<Vec<f32>> {
    let mut x = Vec::new();
    x.try_reserve_exact(n * dim).with_context(|| format!("{n} points do not fit into the memory"))?;
    x.extend((0..n * dim).map(|_| SIDE * rng.random::<f32>()));
    Ok(x)
}

fn function(x: &[f32]) -> f32 {
    x.iter().map(|x| (2.0 * x).sin()).product::<f32>() + 0.5 * (3.0 * x.iter().sum::<f32>()).sin()
}

/// About normal, with standard deviation 1.
fn noise(rng: &mut StdRng) -> f32 {
    (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0
}

fn report(what: &str, time: Duration, points: usize) -> Result<()> {
    let seconds = time.as_secs_f64().max(1e-9);
    let rate = HumanCount((points as f64 / seconds) as u64);
    say!("{what:<10} {seconds:.2} s for {} points: {rate} a second", HumanCount(points as u64))
}

/// The most memory that was taken: the device's, or the process's on the CPU.
fn memory(device: &Device) -> String {
    let peak = device.memory().peak;
    if *device != Device::cpu() {
        return format!("{} on the device at most", HumanBytes(peak));
    }
    match support::peak_resident_bytes() {
        Some(bytes) => format!("{} of the process at most", HumanBytes(bytes)),
        None => "not known on this system".into(),
    }
}
