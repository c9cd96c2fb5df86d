//! A NAM Turing machine that learned an algorithm on short problems, run on longer ones.
//!
//!     cargo run --release --example algorithm
//!     cargo run --release --example algorithm -- --checkpoint a.safetensors --checkpoint b.safetensors
//!
//! Prints the share of problems whose whole answer is right, by length, and draws it. What the
//! checkpoints were trained on is in their metadata, see `training/README.md`.

mod plot;
mod tasks;

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use rand::{SeedableRng, rngs::StdRng};
use serde_json::Value;
use wgpu_attention::{Device, checkpoint::Checkpoint, models::nam::NamTmAe};

use plot::Curve;
use tasks::{Problem, Task};

/// Problems that run at once.
const BATCH: usize = 100;

/// Measures how trained NAM Turing machines do on problems longer than those of their training.
/// Run it in the root of the repository.
#[derive(Parser)]
struct Args {
    /// A trained network; may be given several times [default: checkpoints/nam_tm_*].
    #[arg(long, value_name = "FILE")]
    checkpoint: Vec<PathBuf>,
    /// cpu, gpu, best, or a part of an adapter's name.
    #[arg(long, default_value = "best")]
    device: String,
    /// Lengths of problems.
    #[arg(long, value_delimiter = ',', default_value = "1,2,3,4,5,6,7,8,9,10,12,14,16,18,20,24,28")]
    lengths: Vec<usize>,
    /// Problems of each length.
    #[arg(long, default_value = "1000")]
    problems: usize,
    /// Chooses the problems.
    #[arg(long, default_value = "0")]
    seed: u64,
    /// Where the picture goes.
    #[arg(long, value_name = "DIR", default_value = "out")]
    out: PathBuf,
}

/// A trained network and what it was trained on.
struct Trained {
    name: String,
    model: NamTmAe,
    task: Task,
    vocabulary: Vec<String>,
    longest: usize,
}

impl Trained {
    fn open(device: &Device, path: &PathBuf) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        let model = NamTmAe::open(device, path)?;
        let about: Value = serde_json::from_str(checkpoint.metadata("task")?)?;
        let text = |name: &str| about[name].as_str().with_context(|| format!("the metadata lacks task.{name}"));
        let vocabulary: Vec<String> = serde_json::from_value(about["vocabulary"].clone())?;
        ensure!(vocabulary.len() == model.config().vocab_size, "the vocabulary does not fit the network");
        let longest = about["train_lengths"][1].as_u64().context("the metadata lacks task.train_lengths")?;
        let name = format!("{}, {}", text("name")?, serde_json::to_string(&model.config().option)?.replace('"', ""));
        Ok(Self { name, task: Task::named(text("name")?)?, model, vocabulary, longest: longest as usize })
    }

    /// The tokens that the network gives for each `_` of some problems of one length.
    fn answers(&self, problems: &[Problem]) -> Result<Vec<Vec<usize>>> {
        let tokens: Vec<usize> = problems.iter().flat_map(|problem| &problem.tokens).copied().collect();
        let logits = self.model.forward(problems.len(), &tokens)?.read()?;
        let best =
            |logits: &[f32]| logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(token, _)| token);
        let tokens: Vec<usize> = logits.chunks(self.vocabulary.len()).map(best).collect();
        let of = |(problem, tokens): (&Problem, &[usize])| tokens[tokens.len() - problem.answer.len()..].to_vec();
        Ok(problems.iter().zip(tokens.chunks(problems[0].tokens.len())).map(of).collect())
    }

    fn show(&self, tokens: &[usize]) -> String {
        tokens.iter().map(|&token| self.vocabulary[token].as_str()).collect()
    }

    /// Prints a problem with the answer and what the network gives.
    fn example(&self, random: &mut StdRng, length: usize) -> Result<()> {
        let problem = self.task.draw(random, &self.vocabulary, length)?;
        let found = self.answers(std::slice::from_ref(&problem))?.remove(0);
        let verdict = if found == problem.answer { "right" } else { "wrong" };
        println!("  {} -> {} ({verdict})", self.show(&problem.tokens), self.show(&found));
        Ok(())
    }

    /// The share of problems whose whole answer is right.
    fn accuracy(&self, random: &mut StdRng, length: usize, n_problems: usize) -> Result<f64> {
        let mut right = 0;
        for first in (0..n_problems).step_by(BATCH) {
            let draw = |_| self.task.draw(random, &self.vocabulary, length);
            let problems: Vec<Problem> = (0..BATCH.min(n_problems - first)).map(draw).collect::<Result<_>>()?;
            let answers = self.answers(&problems)?;
            right += problems.iter().zip(&answers).filter(|(problem, answer)| problem.answer == **answer).count();
        }
        Ok(right as f64 / n_problems as f64)
    }
}

/// The committed networks.
fn committed() -> Result<Vec<PathBuf>> {
    let folder = std::fs::read_dir("checkpoints").context("no folder checkpoints here")?;
    let mut paths: Vec<PathBuf> = folder.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    paths.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("nam_tm_") && name.ends_with(".safetensors")
    });
    paths.sort();
    Ok(paths)
}

fn main() -> Result<()> {
    let args = Args::parse();
    let device = Device::by_name(&args.device)?;
    ensure!(args.problems > 0 && args.lengths.iter().all(|&n| n > 0), "lengths and problems must be above 0");
    let paths = if args.checkpoint.is_empty() { committed()? } else { args.checkpoint.clone() };
    ensure!(!paths.is_empty(), "no checkpoint; training/README.md says how to make one");
    println!("on {device}, {} problems of each length\n", args.problems);
    std::fs::create_dir_all(&args.out)?;

    let networks: Vec<Trained> = paths
        .iter()
        .map(|path| Trained::open(&device, path).with_context(|| path.display().to_string()))
        .collect::<Result<_>>()?;
    for task in [Task::Addition, Task::Reduce] {
        let networks: Vec<&Trained> = networks.iter().filter(|network| network.task == task).collect();
        let Some(longest) = networks.iter().map(|network| network.longest).max() else { continue };
        let mut curves = Vec::new();
        for network in &networks {
            println!("{} (trained on lengths up to {})", network.name, network.longest);
            let mut random = StdRng::seed_from_u64(args.seed);
            for length in [network.longest, 2 * network.longest] {
                network.example(&mut random, length)?;
            }
            // The tape is a ring: what is longer than it overwrites itself.
            let fits = network.model.config().tape_length.saturating_sub(2);
            let mut points = Vec::new();
            for &length in args.lengths.iter().filter(|&&length| length <= fits) {
                let mut random = StdRng::seed_from_u64(args.seed + length as u64);
                let share = network.accuracy(&mut random, length, args.problems)?;
                println!("{length:6} {:6.1}%", 100.0 * share);
                points.push((length, share));
            }
            println!();
            curves.push(Curve { name: network.name.clone(), points });
        }
        let name = format!("algorithm_{task:?}.svg").to_lowercase();
        let title = format!("{task:?}: whole answers that are right, by length");
        plot::draw(&args.out.join(&name), &title, longest, &curves)?;
        println!("wrote {}\n", args.out.join(&name).display());
    }
    Ok(())
}
