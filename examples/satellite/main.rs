//! Fills the holes of a satellite's map: each place is predicted from the observations that are nearest
//! to it, by a network that was trained on draws of rough fields.
//!
//!     cargo run --release --example satellite
//!     cargo run --release --example satellite -- --input scene.csv
//!
//! Without a file it draws a field of the size of the scene of Heaton et al. 2019 (500 × 300 pixels, 29%
//! under clouds). To say how good it is, it first hides a cloud-shaped part of what was observed and
//! predicts that, beside the nearest neighbour and a local exact Gaussian process. Then it predicts what
//! was asked for from everything that was observed. Writes `predictions.csv` and `satellite.svg`.

mod field;
mod gp;
mod map;

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use shared::{
    axis::number,
    normal::{Normal, quantile},
    out, progress, say,
};
use wgpu_attention::{
    Device,
    models::{
        Neighbourhood,
        tnp_kr::{Local, TnpKr},
    },
};

use field::{Data, Field, Seen};
use map::Map;

/// Fills the holes of a map from the observations around them: of a file of your own, or of a field that it
/// draws.
#[derive(Parser)]
struct Args {
    /// A CSV file whose first line names the columns lon,lat,temperature,role; the role is train
    /// (observed) or test (to be predicted), others are passed over [default: a drawn field].
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// The trained network.
    #[arg(long, value_name = "FILE", default_value = "checkpoints/field.safetensors")]
    checkpoint: PathBuf,
    /// cpu, gpu, best, or a part of an adapter's name.
    #[arg(long, default_value = "best")]
    device: String,
    /// Where the results go.
    #[arg(long, value_name = "DIR", default_value = "out")]
    out: PathBuf,
    /// Observations that a place is predicted from; the network was trained on 4 to 512.
    #[arg(long, value_name = "N", default_value = "512", value_parser = clap::value_parser!(u16).range(2..=2048))]
    nearest: u16,
    /// Places that share their observations, at most.
    #[arg(long, value_name = "N", default_value = "32", value_parser = clap::value_parser!(u16).range(1..=1024))]
    together: u16,
    /// The share of the observations that is hidden to score the predictions; 0 for none.
    #[arg(long, value_name = "SHARE", default_value = "0.2", value_parser = share)]
    hold_out: f64,
    /// Writes the observations that are not hidden, as rows of the role train: to train a network on that
    /// has not seen what it is scored by.
    #[arg(long, value_name = "FILE")]
    known: Option<PathBuf>,
    /// Chooses what is drawn and what is hidden.
    #[arg(long, default_value = "0")]
    seed: u64,
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (0.0..=0.8).contains(&number) => Ok(number),
        _ => Err("a number from 0 to 0.8 is needed".into()),
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    out::folder(&args.out, &["predictions.csv", "satellite.svg"])?;
    let read = || [Some(&*args.checkpoint), args.input.as_deref()].into_iter().flatten();
    if let Some(path) = &args.known {
        ensure!(
            args.hold_out > 0.0,
            "--known {} is what is left of a part that is held out, and --hold-out is 0",
            path.display()
        );
        out::file(path)?;
        out::unless_read(path, read())?;
    }
    out::unless_read(&args.out.join("predictions.csv"), read())?;
    let Data { observed, asked } = match &args.input {
        Some(path) => field::read(path)?,
        None => field::draw(args.seed)?,
    };
    say!("data      {} observations, {} places to predict", observed.len(), asked.len())?;
    let device = Device::by_name(&args.device)?;
    let model = TnpKr::open(&device, &args.checkpoint)
        .context("cannot load the model (run in the repository's root, or give --checkpoint)")?;
    say!("device    {device}")?;
    let local = Local::nearest(args.nearest.into()).together(args.together.into()).standardise();

    if args.hold_out > 0.0 {
        let hidden = field::clouds(&observed.places, args.seed.wrapping_add(2), args.hold_out);
        let known = observed.pick((0..hidden.len()).filter(|&i| !hidden[i]));
        let held = observed.pick((0..hidden.len()).filter(|&i| hidden[i]));
        ensure!(known.len() > 1 && held.len() > 0, "{} observations are too few to hide a part", observed.len());
        if let Some(path) = &args.known {
            field::write_observed(path, &known)?;
        }
        hold_out(&model, &local, &known, &held)?;
    }
    let start = Instant::now();
    let predicted = predict(&model, &local, &observed, &asked)?;
    if !asked.is_empty() {
        say!("\npredicted {} places from all observations in {:.1} s", asked.len(), start.elapsed().as_secs_f64())?;
    }
    let (csv, svg) = (args.out.join("predictions.csv"), args.out.join("satellite.svg"));
    field::write(&csv, &asked, &predicted)?;
    maps(&svg, &observed, &asked, &predicted)?;
    say!("wrote {} and {}", csv.display(), svg.display())
}

/// What the network predicts at some places.
fn predict(model: &TnpKr, local: &Local, observed: &Field, asked: &[[f64; 2]]) -> Result<Vec<Normal>> {
    let seen = Seen::new(observed, asked);
    let bar = progress::bar("predicts", "places", asked.len() as u64)?;
    let mut all = vec![Normal { mean: f64::NAN, std: f64::NAN }; asked.len()];
    model.predict_local(&seen.context(), &seen.places(), local, |part, prediction| {
        for ((&place, &mean), &std) in part.places.iter().zip(prediction.mean()).zip(prediction.std()) {
            all[place] = Normal { mean: mean.into(), std: std.into() };
        }
        bar.add(part.places.len() as u64);
        Ok(())
    })?;
    Ok(all)
}

/// Scores what is predicted of hidden observations.
fn hold_out(model: &TnpKr, local: &Local, known: &Field, held: &Field) -> Result<()> {
    say!("\nhidden    {} observations under drawn clouds, predicted from the others", held.len())?;

    let start = Instant::now();
    let ours = predict(model, local, known, &held.places)?;
    let network = start.elapsed();
    let seen = Seen::new(known, &held.places);
    let parts = model.neighbourhoods(&seen.context(), &seen.places(), local)?;
    let start = Instant::now();
    let hyper = gp::fit(known, &seen.from, &parts)?;
    let mut process = vec![Normal { mean: f64::NAN, std: f64::NAN }; held.len()];
    for part in &parts {
        let normals = gp::predict(hyper, known, &seen.from, part, &seen.to)?;
        part.places.iter().zip(normals).for_each(|(&place, normal)| process[place] = normal);
    }
    let exact = start.elapsed();
    say!(
        "times     network {:.1} s, local Gaussian processes {:.1} s (Matern {}, length {}, noise {} of the variance)",
        network.as_secs_f64(),
        exact.as_secs_f64(),
        if hyper.is_smooth { "3/2" } else { "1/2" },
        number(hyper.length),
        number(hyper.noise)
    )?;
    let nearest = nearest(model, &seen, known, held.len())?;
    say!(
        "\n{:<26} {:>8} {:>8} {:>8} {:>15} {:>12}",
        "hidden part",
        "MAE",
        "RMSE",
        "CRPS",
        "interval score",
        "in 95% band"
    )?;
    for (name, normals) in [("network", &ours), ("local Gaussian process", &process), ("nearest observation", &nearest)]
    {
        let n = held.len() as f64;
        let mean = |score: &dyn Fn(Normal, f64) -> f64| {
            normals.iter().zip(&held.values).map(|(&normal, &y)| score(normal, y)).sum::<f64>() / n
        };
        let mae = mean(&|normal, y| (normal.mean - y).abs());
        let rmse = mean(&|normal, y| (normal.mean - y).powi(2)).sqrt();
        if normals[0].std > 0.0 {
            let (crps, interval) = (mean(&Normal::crps), mean(&Normal::interval_score));
            let inside = 100.0 * mean(&|normal, y| f64::from(u8::from(normal.covers(y))));
            say!("{name:<26} {mae:>8.3} {rmse:>8.3} {crps:>8.3} {interval:>15.2} {inside:>10.1} %")?;
        } else {
            say!("{name:<26} {mae:>8.3} {rmse:>8.3}")?;
        }
    }
    Ok(())
}

/// The value of the nearest observation, with no idea of its error.
fn nearest(model: &TnpKr, seen: &Seen, known: &Field, n: usize) -> Result<Vec<Normal>> {
    let mut all = vec![Normal { mean: f64::NAN, std: 0.0 }; n];
    for Neighbourhood { places, observations } in
        model.neighbourhoods(&seen.context(), &seen.places(), &Local::nearest(1))?
    {
        all[places[0]].mean = known.values[observations[0]];
    }
    Ok(all)
}

/// What was observed, that and what was predicted, and how sure that is.
fn maps(path: &Path, observed: &Field, asked: &[[f64; 2]], predicted: &[Normal]) -> Result<()> {
    let places = [&observed.places[..], asked].concat();
    let means: Vec<f64> = observed.values.iter().copied().chain(predicted.iter().map(|normal| normal.mean)).collect();
    let stds: Vec<f64> = predicted.iter().map(|normal| normal.std).collect();
    let ends = |numbers: &[f64], share| [share, 1.0 - share].map(|share| quantile(numbers.iter().copied(), share));
    let range = ends(&observed.values, 0.005);
    let map = |title, places, numbers, range| Map { title, places, numbers, range, unit: "" };
    let mut maps = vec![map("observed", &observed.places, &observed.values, range)];
    if !asked.is_empty() {
        maps.push(map("observed and predicted", &places, &means, range));
        maps.push(map("standard deviation of the predicted", asked, &stds, [0.0, ends(&stds, 0.005)[1]]));
    }
    map::draw(path, &maps)
}
