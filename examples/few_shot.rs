//! New classes from one or five examples each: handwritten digits, neural attention memory beside
//! the cosine classifier.
//!
//!     cargo run --release --example few_shot
//!
//! Digits 0 to 4 are base classes, 5 to 9 are novel: no image of them was seen in training. An
//! episode draws examples of each novel class, writes them to the classifier, and classifies other
//! images of all ten. Prints the accuracies of the paper and its false positives: images of a base
//! class that are taken for a novel one.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use clap::Parser;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;
use shared::{
    args::{count, networks},
    lines::{Lines, cut},
    normal::Z95,
    progress, say,
};
use wgpu_attention::{
    Device,
    checkpoint::Checkpoint,
    models::nam::{Accuracy, Episode, FewShot},
};

/// Images of each class that an episode classifies.
const QUERIES: usize = 15;

/// Classifies handwritten digits of which half are new.
///
/// For images of your own give --images FILE, a CSV file with the columns label (0 to 9), split
/// (train or test) and one for each pixel, as many as the network takes (64 for those that are
/// committed, 0 to 16 each): `train` images are the examples, `test` images are classified. Each
/// network knows one number of examples, which --shots chooses. Prints a table and writes no file.
/// Run it in the root of the repository.
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
    /// Examples of each novel class; a network for each must be there.
    #[arg(long, value_delimiter = ',', default_value = "1,5", value_parser = count)]
    shots: Vec<usize>,
    /// Episodes to average over.
    #[arg(long, default_value = "1000", value_parser = count)]
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
    /// Reads images of so many pixels, which are multiplied by `scale`.
    fn open(path: &Path, n_pixels: usize, scale: f64) -> Result<Self> {
        let mut images = Self { train: vec![vec![]; 10], test: vec![vec![]; 10] };
        let mut lines = Lines::open(path)?;
        let names = lines.header()?;
        ensure!(
            names.len() == 2 + n_pixels && names[0] == "label" && names[1] == "split",
            "{}: {} columns ({}), the network needs {}: label, split and {n_pixels} pixels",
            lines.place(),
            names.len(),
            cut(&names.join(",")),
            2 + n_pixels
        );
        while lines.advance()? {
            let cells = lines.cells(names.len())?;
            let number =
                |i: usize| cells[i].number().map_err(|why| anyhow!("{}: column {:?} {why}", lines.place(), names[i]));
            let label = number(0)?;
            ensure!(
                (0.0..10.0).contains(&label) && label.fract() == 0.0,
                "{}: label {label}, allowed is 0 to 9",
                lines.place()
            );
            let split = match cells[1].text() {
                "train" => &mut images.train,
                "test" => &mut images.test,
                other => bail!("{}: the split is {:?}, train or test is needed", lines.place(), cut(other)),
            };
            let pixels = (2..cells.len()).map(|i| number(i).map(|pixel| (pixel * scale) as f32));
            split[label as usize].push(pixels.collect::<Result<_>>()?);
        }
        Ok(images)
    }

    /// Fails before the work where an episode needs more images than there are.
    fn suffice(&self, classes: &Classes, shots: usize) -> Result<()> {
        let enough = |class: &usize, images: &[Vec<Vec<f32>>], split: &str, n: usize| {
            let found = images.get(*class).map_or(0, Vec::len);
            ensure!(found >= n, "{found} {split} images of class {class}, an episode needs {n}");
            Ok(())
        };
        classes.novel.iter().try_for_each(|class| enough(class, &self.train, "train", shots))?;
        let mut all = classes.base.iter().chain(&classes.novel);
        all.try_for_each(|class| enough(class, &self.test, "test", QUERIES))
    }
}

/// `n` different images of a class.
fn draw(random: &mut StdRng, images: &[Vec<f32>], n: usize, to: &mut Vec<f32>) {
    let mut order: Vec<usize> = (0..images.len()).collect();
    for i in 0..n {
        let other = random.random_range(i..order.len());
        order.swap(i, other);
        to.extend_from_slice(&images[order[i]]);
    }
}

/// A network and what it was trained on.
struct Trained {
    path: PathBuf,
    model: FewShot,
    classes: Classes,
    /// What pixels are multiplied by.
    scale: f64,
    /// The number of examples that it was trained for, if for one only.
    shots: Option<usize>,
}

impl Trained {
    fn open(device: &Device, path: &Path) -> Result<Self> {
        let model = FewShot::open(device, path)?;
        let about: Value = serde_json::from_str(Checkpoint::open(path)?.metadata("task")?)?;
        let lacks = |name: &str| format!("the metadata lacks task.{name}");
        let list = |name: &str| -> Result<Vec<usize>> {
            serde_json::from_value(about[name].clone()).with_context(|| lacks(name))
        };
        let classes =
            Classes { base: list("base_classes")?, base_ids: list("base_ids")?, novel: list("novel_classes")? };
        ensure!(!classes.base.is_empty() && !classes.novel.is_empty(), "the metadata name no base or no novel classes");
        let scale = about["pixel_scale"].as_f64().with_context(|| lacks("pixel_scale"))?;
        let shots = about["shots"].as_u64().map(|shots| shots as usize);
        Ok(Self { path: path.into(), model, classes, scale, shots })
    }

    fn name(&self) -> Result<String> {
        let name = serde_json::to_string(&self.model.config().generator)?.replace('"', "");
        Ok(if name == "none" { "cosine (baseline)".to_owned() } else { name })
    }
}

/// Where the classes of a checkpoint are.
struct Classes {
    base: Vec<usize>,
    base_ids: Vec<usize>,
    novel: Vec<usize>,
}

/// Means over episodes, and half the width of the 95% interval of the first.
fn measure(network: &Trained, images: &Images, shots: usize, args: &Args) -> Result<([f64; 5], f64)> {
    let Trained { model, classes, .. } = network;
    let bar = progress::bar(&format!("{}, {shots} shots", network.name()?), "episodes", args.episodes as u64)?;
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
            draw(&mut random, &images.train[class], shots, &mut supports);
        }
        for (column, &class) in classes.base.iter().chain(&classes.novel).enumerate() {
            draw(&mut random, &images.test[class], QUERIES, &mut queries);
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
        bar.add(1);
    }
    let n = args.episodes as f64;
    let means = sums.map(|sum| sum / n);
    Ok((means, Z95 * ((squares / n - means[0] * means[0]).max(0.0) / n).sqrt()))
}

fn main() -> Result<()> {
    let args = Args::parse();
    let device = Device::by_name(&args.device)?;
    let open = |path: &PathBuf| Trained::open(&device, path).with_context(|| path.display().to_string());
    let networks: Vec<Trained> = networks(&args.checkpoint, "few_shot_")?.iter().map(open).collect::<Result<_>>()?;
    let is_for = |network: &Trained, shots: usize| network.shots.is_none_or(|trained| trained == shots);
    // What cannot be done is said before anything is.
    let mut runs = Vec::new();
    for &shots in &args.shots {
        let known: BTreeSet<usize> = networks.iter().filter_map(|network| network.shots).collect();
        let known: Vec<String> = known.iter().map(usize::to_string).collect();
        ensure!(
            networks.iter().any(|network| is_for(network, shots)),
            "--shots {shots}: no network was trained for it, these are for {}; training/few_shot.py trains others",
            known.join(" and ")
        );
        for network in networks.iter().filter(|network| is_for(network, shots)) {
            let n_pixels = network.model.config().embedding.n_in;
            let images = Images::open(&args.images, n_pixels, network.scale)?;
            let context = || format!("{} with {}, --shots {shots}", args.images.display(), network.path.display());
            images.suffice(&network.classes, shots).with_context(context)?;
            runs.push((shots, network, images));
        }
    }
    say!("on {device}, {} episodes, {QUERIES} questions of each class", args.episodes)?;
    say!("base as novel: images of a base class taken for a novel one, the false positives\n")?;
    say!("shots  network                    both          base    novel   base as novel   novel as base")?;
    for (shots, network, images) in runs {
        let (means, half) = measure(network, &images, shots, &args)?;
        let [both, base, novel, false_novel, false_base] = means.map(|mean| 100.0 * mean);
        say!(
            "{shots:5}  {:20} {both:7.2}% ± {:.2} {base:8.2}% {novel:7.2}% {false_novel:14.2}% {false_base:14.2}%",
            network.name()?,
            100.0 * half
        )?;
    }
    Ok(())
}
