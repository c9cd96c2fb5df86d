//! A posterior that is kept current while observations stream in, in constant memory.
//!
//!     cargo run --release --example stream -- --input data/mauna_loa_co2.csv --scale co2 --score
//!     sensor | cargo run --release --example stream -- --cycle 24 --x-range 0,8760 --level 18 \
//!         --unit 5 --state sensor.safetensors
//!
//! With `--window 1000`, or `--window-span 168` in units of the coordinate, it forgets what is older.
//!
//! Observations are lines of CSV with a header. The posterior, of one size (108 kB of this network) whatever their
//! number, is taken to the state file now and then; a run that was killed goes on from there,
//! without losing or repeating a line. Without `--input` lines come from standard input, and
//! after a kill they are to come again from the first one (or use `--continues`).

mod cycle;
mod memory;
mod meter;
mod plot;
mod rows;
mod saved;
mod scaling;
mod targets;

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use shared::{lines::Lines, out, say, warn};
use wgpu_attention::{Device, models::cmanp::Cmanp};

use memory::{Forgetting, Memory};
use meter::Meter;
use rows::{Block, Rows};
use saved::{Progress, Saved};
use scaling::{Scaling, ScalingArgs};
use targets::{Stage, Targets};

/// Reads observations line by line, keeps the posterior of a CMANP current, and predicts.
///
/// For a file or a stream of your own: lines of CSV with a header, a column of the coordinate and
/// one of the value. Say what the numbers stand for (--cycle, --x-range, --level, --slope, --unit);
/// without that nothing is read, and the command to type is proposed. Lines that hold no numbers
/// (NA, empty, text) or absurd ones (--bound) are reported, counted and passed over. Run it in the
/// root of the repository.
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
    /// Where the posterior is kept; if the file is there, the stream goes on from it. A last line
    /// that no newline ends is then left to the next run.
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
    #[arg(long, value_name = "POINTS", default_value = "1000", requires = "state", value_parser = clap::value_parser!(u64).range(1..))]
    save_every: u64,
    /// Predict after every so many observations, and at the end.
    #[arg(long, value_name = "POINTS", value_parser = clap::value_parser!(u64).range(1..))]
    every: Option<u64>,
    /// Predict these points: a CSV file with the columns of the coordinates [default: a grid over
    /// --x-range, for a model of one coordinate and one value, and a picture].
    #[arg(long, value_name = "FILE")]
    at: Option<PathBuf>,
    /// Predict each block before it is taken in, and score the predictions, beside the last value and, with a
    /// cycle, beside the last value and what changed then one cycle ago.
    #[arg(long)]
    score: bool,
    #[command(flatten)]
    forgetting: Forgetting,
    #[command(flatten)]
    scaling: ScalingArgs,
}

fn main() -> Result<()> {
    let args = Args::parse();
    out::folder(&args.out, &["stream.svg"])?;
    let device = Device::by_name(&args.device)?;
    let model = Cmanp::open(&device, &args.checkpoint)
        .context("cannot load the model (run in the repository's root, or give --checkpoint)")?;
    // What waits on a pipe is not to be used up for a proposal.
    let scaling = Scaling::new(&args.scaling, model.config(), || Lines::open(args.input.as_ref()?).ok())?;
    say!("device    {device}")?;
    // Without a state there is no next run that a line could be left to.
    let mut rows = Rows::new(input(&args)?, model.config(), &scaling, args.state.is_none())?;
    let targets = targets(&args, &rows, &scaling, &model)?;
    let saved =
        Saved { path: args.state.clone(), settings: scaling.to_string(), block: args.block, continues: args.continues };
    let _locks = (saved.lock()?, out::lock(&args.out.join("stream"), &other_results(&args))?);
    let (posterior, progress) = saved.open(&model, rows.names())?;
    rows.resume(&progress, args.continues)?;
    if let Some(posterior) = &posterior {
        let n = posterior.n_points()[0];
        say!("resumed   after {} lines, {n} observations", progress.n_rows)?;
    }
    let n_points = posterior.as_ref().map_or(0, |posterior| posterior.n_points()[0]);
    let memory = Memory::new(&model, posterior, &args.forgetting)?;
    let (meter, stages) = (Meter::new(), Vec::new());
    let mut stream = Stream {
        args: &args,
        device: &device,
        model: &model,
        scaling: &scaling,
        saved,
        targets,
        memory,
        n_points,
        progress,
        meter,
        stages,
    };
    loop {
        let block = rows.next_block(args.block, &mut stream.progress);
        if !block.is_empty() {
            stream.add(&block)?;
        }
        match block.ended {
            None => {}
            Some(Ok(())) => return stream.finish(),
            Some(Err(error)) => {
                stream.save()?;
                return Err(error);
            }
        }
    }
}

fn other_results(args: &Args) -> String {
    format!("another stream writes its results to {}: give another --out", args.out.display())
}

fn input(args: &Args) -> Result<Lines> {
    if let Some(path) = &args.input {
        return Lines::open(path);
    }
    if io::stdin().is_terminal() {
        warn!("reading lines of CSV from standard input, which nothing is piped into; --input FILE reads a file")?;
    }
    Ok(Lines::new("standard input", Box::new(io::stdin().lock())))
}

/// What is to be predicted, if it is known.
fn targets(args: &Args, rows: &Rows<'_>, scaling: &Scaling, model: &Cmanp) -> Result<Option<Targets>> {
    if let Some(path) = &args.at {
        let targets = Targets::open(path, rows, scaling);
        return targets.map(Some).with_context(|| format!("--at {}", path.display()));
    }
    if scaling.is_line(model.config()) {
        return Ok(Some(Targets::grid(scaling)));
    }
    let (x, y) = rows.columns();
    let why = format!(
        "nothing is predicted: a grid is for one coordinate and one value, the model has {} and {}; give --at FILE \
         with the columns {}",
        x.len(),
        y.len(),
        x.join(",")
    );
    if args.every.is_some() {
        bail!("--every: {why}");
    }
    say!("{why}")?;
    Ok(None)
}

/// A run, as far as it has come.
struct Stream<'a> {
    args: &'a Args,
    device: &'a Device,
    model: &'a Cmanp,
    scaling: &'a Scaling,
    saved: Saved,
    targets: Option<Targets>,
    memory: Memory<'a>,
    /// Observations taken in, forgotten ones too.
    n_points: u64,
    progress: Progress,
    meter: Meter,
    stages: Vec<Stage>,
}

impl Stream<'_> {
    /// Scores a block, takes it in, predicts, saves.
    fn add(&mut self, block: &Block) -> Result<()> {
        if self.args.score
            && let Some(posterior) = self.memory.posterior()?
        {
            self.progress.score(&posterior.predict(&block.x)?, block, self.scaling)?;
        }
        self.progress.remember(block, self.model.config().dim_y, self.scaling);
        let before = self.n_points;
        let started = Instant::now();
        self.memory.take_in(self.model, self.scaling, block)?;
        self.device.wait()?;
        self.meter.add(started.elapsed(), block.len());
        self.n_points += block.len();
        let after = self.n_points;
        let passed = |n: u64| before / n != after / n;
        // A state that is saved says that what came before it is written.
        if self.args.every.is_some_and(passed) {
            self.predict()?;
        }
        if passed(self.args.save_every) {
            self.save()?;
        }
        Ok(())
    }

    fn predict(&mut self) -> Result<()> {
        if let Some(targets) = &self.targets
            && let Some(posterior) = self.memory.posterior()?
        {
            let read = [self.args.input.as_deref(), self.args.at.as_deref()].into_iter().flatten();
            let stage = targets.predict(self.scaling, &posterior, self.n_points, &self.args.out, read)?;
            self.stages.retain(|before| before.n_points != stage.n_points);
            self.stages.push(stage);
            // Memory stays constant; the picture shows the last ones.
            if self.stages.len() > plot::MAX_PANELS {
                self.stages.remove(0);
            }
        }
        Ok(())
    }

    fn save(&mut self) -> Result<()> {
        match &self.saved.path {
            None => Ok(()),
            Some(_) => self.memory.posterior()?.map_or(Ok(()), |posterior| self.saved.save(&posterior, &self.progress)),
        }
    }

    fn finish(mut self) -> Result<()> {
        ensure!(self.n_points > 0, "there is no observation: give at least one line below the header");
        let started = Instant::now();
        self.predict()?;
        let took = started.elapsed().as_secs_f64() * 1e3;
        self.save()?;
        if let Some(posterior) = self.memory.posterior()? {
            report(&self.meter, &self.progress, self.n_points, posterior.n_bytes())?;
        }
        if let Some([n, n_bytes]) = self.memory.window() {
            say!("window    {n} points, which take {n_bytes} bytes with the posteriors of their blocks")?;
        }
        if let Some(targets) = &self.targets {
            say!("predicted {} points in {took:.1} ms", targets.len())?;
        }
        self.draw()?;
        // Last, so that the picture counts.
        match (self.meter.resident_at_first(), support::resident_bytes()) {
            (Some(first), Some(now)) => {
                say!("resident  {:.1} MB after the first update, {:.1} MB now", first as f64 / 1e6, now as f64 / 1e6)
            }
            _ => say!("resident  not known on this system, or nothing was taken in"),
        }
    }

    /// The picture, of a grid; only it looks at observations twice.
    fn draw(&self) -> Result<()> {
        let is_grid = self.args.at.is_none() && self.scaling.is_line(self.model.config());
        let Some(path) = self.args.input.as_ref().filter(|_| is_grid) else { return Ok(()) };
        let takes_unfinished = self.args.state.is_none();
        let rows = Rows::new(input(self.args)?, self.model.config(), self.scaling, takes_unfinished)?;
        let observed = rows.thinned()?;
        ensure!(!observed.is_empty(), "{} holds no observation", path.display());
        let svg = self.args.out.join("stream.svg");
        plot::draw(&svg, &self.stages, &observed, |x| self.scaling.trend(x))?;
        say!("picture   {}", svg.display())
    }
}

fn report(meter: &Meter, progress: &Progress, n: u64, n_bytes: usize) -> Result<()> {
    let rejected = progress.n_rejected;
    let first = match progress.first_rejected {
        0 => String::new(),
        line => format!(", the first of them line {line}"),
    };
    if rejected > n {
        warn!("more lines were rejected than taken in: are the columns, the decimal points and the scaling right?")?;
    }
    say!("observed  {n} points, {rejected} lines rejected{first}; the posterior takes {n_bytes} bytes")?;
    if let (Some(median), Some(last)) = (meter.quantile(0.5), meter.quantile(0.99)) {
        say!(
            "updates   {:.0} points/s; latency of an update: median {:.1} us, 99th percentile {:.1} us",
            meter.points_per_second(),
            median * 1e6,
            last * 1e6
        )?;
    }
    progress.scores().map_or(Ok(()), |score| say!("forecasts {score}"))
}
