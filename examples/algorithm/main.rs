//! Networks with neural attention memory that learned an algorithm on short problems, run on longer ones: NAM
//! Turing machines and networks of long short-term attention memories (LSAM).
//!
//!     cargo run --release --example algorithm
//!     cargo run --release --example algorithm -- --checkpoint a.safetensors --checkpoint b.safetensors
//!
//! Prints the share of problems whose whole answer is right, by length, and draws it. What the
//! checkpoints were trained on is in their metadata, see `training/README.md`. Sums are printed as
//! one writes them; the network reads their digits in pairs from the lowest on, and answers so.

mod plot;
mod tasks;

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use rand::{SeedableRng, rngs::StdRng};
use serde_json::Value;
use shared::{
    args::{count, networks},
    out, progress, say,
};
use wgpu_attention::{
    Device,
    checkpoint::Checkpoint,
    models::nam::{LsamAe, NamTmAe},
};

use plot::Curve;
use tasks::{Problem, Task};

/// Problems that run at once.
const BATCH: usize = 100;

/// Measures how trained networks with neural attention memory do on problems longer than those of their training.
///
/// Problems are drawn; for a network of your own give --checkpoint FILE, as training/algorithm.py
/// writes it. The length of a sum is the number of digits of its numbers, that of a recall the number of pairs;
/// a length that the tape of a network has no room for is refused. Prints a table for each network and writes a picture
/// for each task, algorithm_TASK.svg in --out. Run it in the root of the repository.
#[derive(Parser)]
struct Args {
    /// A trained network; may be given several times [default: checkpoints/nam_*].
    #[arg(long, value_name = "FILE")]
    checkpoint: Vec<PathBuf>,
    /// cpu, gpu, best, or a part of an adapter's name.
    #[arg(long, default_value = "best")]
    device: String,
    /// Lengths of problems.
    #[arg(long, value_delimiter = ',', value_parser = count, default_value = "1,2,3,4,5,6,7,8,9,10,12,14,16,18,20,24,28")]
    lengths: Vec<usize>,
    /// Problems of each length.
    #[arg(long, default_value = "1000", value_parser = count)]
    problems: usize,
    /// Chooses the problems.
    #[arg(long, default_value = "0")]
    seed: u64,
    /// Where the picture goes.
    #[arg(long, value_name = "DIR", default_value = "out")]
    out: PathBuf,
}

enum Network {
    Turing(NamTmAe),
    Lsam(LsamAe),
}

impl Network {
    fn open(device: &Device, checkpoint: &Checkpoint) -> Result<Self> {
        Ok(match checkpoint.metadata("model")? {
            "nam_lsam" => Self::Lsam(LsamAe::from_checkpoint(device, checkpoint)?),
            _ => Self::Turing(NamTmAe::from_checkpoint(device, checkpoint)?),
        })
    }

    fn vocab_size(&self) -> usize {
        match self {
            Self::Turing(model) => model.config().vocab_size,
            Self::Lsam(model) => model.config().vocab_size,
        }
    }

    /// What tells it from others that were trained on the same.
    fn name(&self) -> Result<String> {
        Ok(match self {
            Self::Turing(model) => serde_json::to_string(&model.config().option)?.replace('"', ""),
            Self::Lsam(_) => "LSAM".into(),
        })
    }

    /// The slots of a tape, if it has some.
    fn slots(&self) -> Option<usize> {
        match self {
            Self::Turing(model) => Some(model.config().tape_length),
            Self::Lsam(_) => None,
        }
    }

    /// Logits of each token of some problems of one length.
    fn predict(&self, n_problems: usize, tokens: &[usize]) -> Result<Vec<f32>> {
        Ok(match self {
            Self::Turing(model) => model.predict(n_problems, tokens)?,
            Self::Lsam(model) => model.predict(n_problems, tokens)?,
        })
    }
}

/// A trained network and what it was trained on.
struct Trained {
    name: String,
    model: Network,
    task: Task,
    vocabulary: Vec<String>,
    longest: usize,
}

impl Trained {
    fn open(device: &Device, path: &PathBuf) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        let model = Network::open(device, &checkpoint)?;
        let about: Value = serde_json::from_str(checkpoint.metadata("task")?)?;
        let text = |name: &str| about[name].as_str().with_context(|| format!("the metadata lacks task.{name}"));
        let vocabulary: Vec<String> = serde_json::from_value(about["vocabulary"].clone())?;
        ensure!(vocabulary.len() == model.vocab_size(), "the vocabulary does not fit the network");
        let longest = about["train_lengths"][1].as_u64().context("the metadata lacks task.train_lengths")?;
        let name = format!("{}, {}", text("name")?, model.name()?);
        Ok(Self { name, task: Task::named(text("name")?)?, model, vocabulary, longest: longest as usize })
    }

    /// The tokens that the network gives in the places of the answers of some problems of one length.
    fn answers(&self, problems: &[Problem]) -> Result<Vec<Vec<usize>>> {
        let tokens: Vec<usize> = problems.iter().flat_map(|problem| &problem.tokens).copied().collect();
        let logits = self.model.predict(problems.len(), &tokens)?;
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
        say!(
            "  {}{} ({verdict})",
            self.task.question(&|tokens| self.show(tokens), &problem),
            self.task.answer(&self.show(&found))
        )
    }

    /// The longest problem that there is room for: the tape is a ring, and what is longer than it
    /// overwrites itself.
    fn fits(&self) -> usize {
        self.model.slots().map_or(usize::MAX, |slots| slots.saturating_sub(2))
    }

    /// The share of problems whose whole answer is right.
    fn accuracy(&self, random: &mut StdRng, length: usize, n_problems: usize) -> Result<f64> {
        let mut right = 0;
        let bar = progress::bar(&format!("length {length}"), "problems", n_problems as u64)?;
        for first in (0..n_problems).step_by(BATCH) {
            let draw = |_| self.task.draw(random, &self.vocabulary, length);
            let problems: Vec<Problem> = (0..BATCH.min(n_problems - first)).map(draw).collect::<Result<_>>()?;
            let answers = self.answers(&problems)?;
            right += problems.iter().zip(&answers).filter(|(problem, answer)| problem.answer == **answer).count();
            bar.add(problems.len() as u64);
        }
        Ok(right as f64 / n_problems as f64)
    }
}

fn main() -> Result<()> {
    let mut args = Args::parse();
    args.lengths.sort_unstable();
    args.lengths.dedup();
    out::folder(&args.out, &[])?;
    let device = Device::by_name(&args.device)?;
    let open = |path: &PathBuf| Trained::open(&device, path).with_context(|| path.display().to_string());
    let networks: Vec<Trained> = networks(&args.checkpoint, "nam_")?.iter().map(open).collect::<Result<_>>()?;
    for network in &networks {
        if let Some(length) = args.lengths.iter().find(|&&length| length > network.fits()) {
            bail!(
                "--lengths {length}: {} has a tape of {} slots, which has room for lengths up to {}; leave the longer \
                 ones out, or choose another --checkpoint",
                network.name,
                network.model.slots().unwrap_or(0),
                network.fits()
            );
        }
        out::folder(&args.out, &[&network.task.picture()])?;
    }
    say!("on {device}, {} problems of each length\n", args.problems)?;
    for task in Task::ALL {
        let networks: Vec<&Trained> = networks.iter().filter(|network| network.task == task).collect();
        let Some(longest) = networks.iter().map(|network| network.longest).max() else { continue };
        let mut curves = Vec::new();
        for network in &networks {
            say!("{} (trained on lengths up to {})", network.name, network.longest)?;
            let mut random = StdRng::seed_from_u64(args.seed);
            for length in [network.longest, 2 * network.longest].map(|length| length.min(network.fits())) {
                network.example(&mut random, length)?;
            }
            let mut points = Vec::new();
            for &length in &args.lengths {
                let mut random = StdRng::seed_from_u64(args.seed.wrapping_add(length as u64));
                let share = network.accuracy(&mut random, length, args.problems)?;
                say!("{length:6} {:6.1}%", 100.0 * share)?;
                points.push((length, share));
            }
            say!("")?;
            curves.push(Curve { name: network.name.clone(), points });
        }
        let picture = args.out.join(task.picture());
        let title = format!("{task:?}: whole answers that are right, by length");
        plot::draw(&picture, &title, longest, &curves).with_context(|| format!("cannot draw {}", picture.display()))?;
        say!("wrote {}\n", picture.display())?;
    }
    Ok(())
}
