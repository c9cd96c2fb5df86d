//! New classes from one or five examples each: handwritten digits, neural attention memory beside
//! the cosine classifier.
//!
//!     cargo run --release --example few_shot
//!
//! Digits 0 to 4 are base classes, 5 to 9 are novel: no image of them was seen in training. An
//! episode draws examples of each novel class, writes them to the classifier, and classifies other
//! images of all ten. Prints the accuracies of the paper and its false positives: images of a base
//! class that are taken for a novel one.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;
use wgpu_attention::{
    Device,
    checkpoint::Checkpoint,
    models::nam::{Accuracy, Episode, FewShot},
};

/// Images of each class that an episode classifies.
const QUERIES: usize = 15;

/// Classifies handwritten digits of which half are new. Run it in the root of the repository.
#[derive(Parser)]
struct Args {
    /// A trained network; may be given several times [default: checkpoints/few_shot_*].
    #[arg(long, value_name = "FILE")]
    checkpoint: Vec<PathBuf>,
    /// Images: a CSV file with the columns label, split (train or test) and the pixels.
    #[arg(long, value_name = "FILE", default_value = "data/digits.csv")]
    images: PathBuf,
    /// cpu, gpu, best, or a part of an adapter's name.
    #[arg(long, default_value = "best")]
    device: String,
    /// Examples of each novel class.
    #[arg(long, value_delimiter = ',', default_value = "1,5")]
    shots: Vec<usize>,
    /// Episodes to average over.
    #[arg(long, default_value = "1000")]
    episodes: usize,
    /// Chooses the episodes.
    #[arg(long, default_value = "0")]
    seed: u64,
}

/// Images by class, for examples and for questions.
struct Images {
    train: Vec<Vec<Vec<f32>>>,
    test: Vec<Vec<Vec<f32>>>,
}

impl Images {
    fn open(path: &Path, scale: f32) -> Result<Self> {
        let mut images = Self { train: vec![vec![]; 10], test: vec![vec![]; 10] };
        let mut reader = csv::Reader::from_path(path).with_context(|| path.display().to_string())?;
        for row in reader.records() {
            let row = row?;
            let class: usize = row[0].parse()?;
            ensure!(class < 10, "{}: label {class}, allowed is 0 to 9", path.display());
            let pixels = row.iter().skip(2).map(|pixel| Ok(pixel.parse::<f32>()? * scale)).collect::<Result<_>>()?;
            let split = if &row[1] == "train" { &mut images.train } else { &mut images.test };
            split[class].push(pixels);
        }
        Ok(images)
    }
}

/// `n` different images of a class.
fn draw(random: &mut StdRng, images: &[Vec<f32>], n: usize, to: &mut Vec<f32>) -> Result<()> {
    ensure!(images.len() >= n, "{} images of a class, {n} are needed", images.len());
    let mut order: Vec<usize> = (0..images.len()).collect();
    for i in 0..n {
        let other = random.random_range(i..order.len());
        order.swap(i, other);
        to.extend_from_slice(&images[order[i]]);
    }
    Ok(())
}

/// Where the classes of a checkpoint are.
struct Classes {
    base: Vec<usize>,
    base_ids: Vec<usize>,
    novel: Vec<usize>,
}

/// Means over episodes, and half the width of the 95% interval of the first.
fn measure(model: &FewShot, images: &Images, classes: &Classes, shots: usize, args: &Args) -> Result<([f64; 5], f64)> {
    let n_novel = classes.novel.len();
    let mut labels = vec![0.0; n_novel * shots * n_novel];
    for (i, label) in labels.chunks_mut(n_novel).enumerate() {
        label[i / shots] = 1.0;
    }
    let (mut sums, mut squares) = ([0.0; 5], 0.0);
    for episode in 0..args.episodes {
        // The same episodes for every network.
        let mut random = StdRng::seed_from_u64(args.seed.wrapping_mul(1 << 32) + episode as u64);
        let (mut supports, mut queries, mut truth) = (Vec::new(), Vec::new(), Vec::new());
        for &class in &classes.novel {
            draw(&mut random, &images.train[class], shots, &mut supports)?;
        }
        for (column, &class) in classes.base.iter().chain(&classes.novel).enumerate() {
            draw(&mut random, &images.test[class], QUERIES, &mut queries)?;
            truth.extend([column; QUERIES]);
        }
        let base_ids = &classes.base_ids;
        let classifier =
            model.condition(&Episode { batch: 1, n_novel, supports: &supports, labels: &labels, base_ids })?;
        let scores = classifier.scores(&model.features(1, &queries)?)?.read()?;
        let found = Accuracy::new(&scores, &truth, classes.base.len())?;
        let found = [found.both, found.base, found.novel, found.false_novel, found.false_base];
        sums.iter_mut().zip(found).for_each(|(sum, x)| *sum += x);
        squares += found[0] * found[0];
    }
    let n = args.episodes as f64;
    let means = sums.map(|sum| sum / n);
    Ok((means, 1.96 * ((squares / n - means[0] * means[0]).max(0.0) / n).sqrt()))
}

/// The committed networks.
fn committed() -> Result<Vec<PathBuf>> {
    let folder = std::fs::read_dir("checkpoints").context("no folder checkpoints here")?;
    let mut paths: Vec<PathBuf> = folder.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    paths.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("few_shot") && name.ends_with(".safetensors")
    });
    paths.sort();
    Ok(paths)
}

fn main() -> Result<()> {
    let args = Args::parse();
    let device = Device::by_name(&args.device)?;
    ensure!(args.episodes > 0 && args.shots.iter().all(|&n| n > 0), "episodes and shots must be above 0");
    let paths = if args.checkpoint.is_empty() { committed()? } else { args.checkpoint.clone() };
    ensure!(!paths.is_empty(), "no checkpoint; training/README.md says how to make one");
    println!("on {device}, {} episodes, {QUERIES} questions of each of 10 classes", args.episodes);
    println!("base as novel: images of a base class taken for a novel one, the false positives\n");
    println!("shots  network                    both          base    novel   base as novel   novel as base");
    for &shots in &args.shots {
        for path in &paths {
            let checkpoint = Checkpoint::open(path)?;
            let about: Value = serde_json::from_str(checkpoint.metadata("task")?)?;
            let list = |name: &str| -> Result<Vec<usize>> {
                serde_json::from_value(about[name].clone()).with_context(|| format!("the metadata lacks task.{name}"))
            };
            // A network may have been trained for one number of examples.
            if about["shots"].as_u64().is_some_and(|trained| trained != shots as u64) {
                continue;
            }
            let classes =
                Classes { base: list("base_classes")?, base_ids: list("base_ids")?, novel: list("novel_classes")? };
            let images = Images::open(&args.images, about["pixel_scale"].as_f64().unwrap_or(1.0 / 16.0) as f32)?;
            let model = FewShot::open(&device, path).with_context(|| path.display().to_string())?;
            let (means, half) = measure(&model, &images, &classes, shots, &args)?;
            let [both, base, novel, false_novel, false_base] = means.map(|mean| 100.0 * mean);
            let name = serde_json::to_string(&model.config().generator)?.replace('"', "");
            let name = if name == "none" { "cosine (baseline)".to_owned() } else { name };
            println!(
                "{shots:5}  {name:20} {both:7.2}% ± {:.2} {base:8.2}% {novel:7.2}% {false_novel:14.2}% {false_base:14.2}%",
                100.0 * half
            );
        }
    }
    Ok(())
}
