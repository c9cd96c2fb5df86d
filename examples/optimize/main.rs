//! Bayesian optimisation: where to evaluate a costly function next, asked of a network that was trained
//! on draws of random fields, beside an exact Gaussian process and random search.
//!
//!     cargo run --release --example optimize
//!
//! Each strategy minimises standard functions from the same first points, `--seeds` times. The network is
//! asked in two ways: for the place of the largest expected improvement, and for the least place of one
//! coherent draw of the whole function (Thompson sampling). All runs advance together, as a batch of data
//! sets. Writes `regret.csv` and `regret.svg`.

mod functions;
mod gp;
mod plot;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::Parser;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use shared::{
    normal::{Normal, quantile, standard_normal},
    out, progress, say,
};
use wgpu_attention::{
    Device,
    models::tnp_kr::{Context, Locations, Posterior, TnpKr},
};

use functions::{FUNCTIONS, Function};
use gp::Process;

/// Minimises standard functions with a trained network as the surrogate; reads no data.
#[derive(Parser)]
struct Args {
    /// The network for functions of one number.
    #[arg(long, value_name = "FILE", default_value = "checkpoints/gp_1d.safetensors")]
    line: PathBuf,
    /// The network for functions of two.
    #[arg(long, value_name = "FILE", default_value = "checkpoints/field.safetensors")]
    field: PathBuf,
    /// cpu, gpu, best, or a part of an adapter's name.
    #[arg(long, default_value = "best")]
    device: String,
    /// Where the results go.
    #[arg(long, value_name = "DIR", default_value = "out")]
    out: PathBuf,
    /// Evaluations of a function, the first ones included.
    #[arg(long, value_name = "N", default_value = "30", value_parser = clap::value_parser!(u16).range(6..=100))]
    evaluations: u16,
    /// Runs of each strategy on each function.
    #[arg(long, value_name = "N", default_value = "20", value_parser = clap::value_parser!(u16).range(1..=200))]
    seeds: u16,
}

/// Evaluations at random places, the same for every strategy, before the first choice.
const FIRST: usize = 5;
/// Places that are considered: anywhere, and around the best one so far.
const ANYWHERE: usize = 384;
const AROUND: usize = 128;
/// The places that a draw of the whole function is made at, and how many are drawn at once.
const DRAWN: usize = 64;
const BLOCK: usize = 8;

/// How the next place is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// The largest expected improvement by the network.
    NetworkImprovement,
    /// The least place of a draw of the network.
    NetworkThompson,
    /// The largest expected improvement by an exact Gaussian process.
    ProcessImprovement,
    /// Anywhere.
    Random,
}

impl Strategy {
    const ALL: [Self; 4] = [Self::NetworkImprovement, Self::NetworkThompson, Self::ProcessImprovement, Self::Random];

    fn name(self) -> &'static str {
        match self {
            Self::NetworkImprovement => "network, expected improvement",
            Self::NetworkThompson => "network, Thompson sampling",
            Self::ProcessImprovement => "Gaussian process, expected improvement",
            Self::Random => "random search",
        }
    }
}

/// One run: places in the unit box, and what was measured there.
struct Run {
    rng: StdRng,
    x: Vec<Vec<f64>>,
    y: Vec<f64>,
    /// The least value so far at the place that looked best, without noise.
    regret: Vec<f64>,
}

impl Run {
    fn evaluate(&mut self, function: &Function, x: Vec<f64>) {
        let at = |x: &[f64]| -> f64 {
            let scaled = function.domain.iter().zip(x).map(|([low, high], x)| low + (high - low) * x);
            (function.value)(&scaled.collect::<Vec<_>>())
        };
        self.y.push(at(&x) + function.noise * standard_normal(&mut self.rng));
        self.x.push(x);
        self.regret.push(at(&self.x[self.best()]) - function.least);
    }

    fn best(&self) -> usize {
        (0..self.y.len()).min_by(|a, b| self.y[*a].total_cmp(&self.y[*b])).unwrap_or(0)
    }

    fn candidates(&mut self, dim: usize) -> Vec<Vec<f64>> {
        let best = self.x[self.best()].clone();
        let mut candidates: Vec<Vec<f64>> =
            (0..ANYWHERE).map(|_| (0..dim).map(|_| self.rng.random()).collect()).collect();
        for i in 0..AROUND {
            let reach = 0.2 * 0.5f64.powi((i % 6) as i32);
            let near = |x: &f64| (x + reach * (2.0 * self.rng.random::<f64>() - 1.0)).clamp(0.0, 1.0);
            candidates.push(best.iter().map(near).collect());
        }
        candidates
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    out::folder(&args.out, &["regret.csv", "regret.svg"])?;
    let device = Device::by_name(&args.device)?;
    let open = |path: &Path| {
        let model = TnpKr::open(&device, path);
        model.with_context(|| format!("cannot load {} (run in the repository's root)", path.display()))
    };
    let (line, field) = (open(&args.line)?, open(&args.field)?);
    say!("device    {device}")?;
    say!("{} runs of {} evaluations, the first {FIRST} at random\n", args.seeds, args.evaluations)?;
    let bar = progress::bar("optimises", "strategies", (FUNCTIONS.len() * Strategy::ALL.len()) as u64)?;
    let mut all = Vec::new();
    for function in &FUNCTIONS {
        let model = if function.domain.len() == 1 { &line } else { &field };
        for strategy in Strategy::ALL {
            let start = Instant::now();
            let runs = optimise(model, function, strategy, args.seeds.into(), args.evaluations.into())?;
            all.push((function, strategy, runs, start.elapsed()));
            bar.add(1);
        }
    }
    drop(bar);
    print(&all, args.evaluations.into())?;
    let (csv, svg) = (args.out.join("regret.csv"), args.out.join("regret.svg"));
    write(&csv, &all)?;
    plot::draw(&svg, &all).with_context(|| format!("cannot draw {}", svg.display()))?;
    say!("\nwrote {} and {}", csv.display(), svg.display())
}

/// A function, how it was minimised, the regrets of each run, and how long all runs took.
pub type Outcome = (&'static Function, Strategy, Vec<Vec<f64>>, Duration);

/// The regret after each evaluation, of each run.
fn optimise(model: &TnpKr, function: &Function, strategy: Strategy, seeds: u64, n: usize) -> Result<Vec<Vec<f64>>> {
    let dim = function.domain.len();
    let start = |seed| {
        let mut run = Run { rng: StdRng::seed_from_u64(seed), x: Vec::new(), y: Vec::new(), regret: Vec::new() };
        for _ in 0..FIRST {
            let x = (0..dim).map(|_| run.rng.random()).collect();
            run.evaluate(function, x);
        }
        run
    };
    let mut runs: Vec<Run> = (0..seeds).map(start).collect();
    for step in FIRST..n {
        let candidates: Vec<_> = runs.iter_mut().map(|run| run.candidates(dim)).collect();
        let chosen = match strategy {
            Strategy::Random => vec![0; runs.len()],
            Strategy::ProcessImprovement => {
                let choose = |(run, at): (&Run, &Vec<Vec<f64>>)| {
                    let process = Process::fit(&run.x, &run.y)?;
                    let level = process.predict(&run.x).iter().map(|normal| normal.mean).fold(f64::INFINITY, f64::min);
                    Ok(most_improvement(&process.predict(at), level))
                };
                runs.iter().zip(&candidates).map(choose).collect::<Result<_>>()?
            }
            Strategy::NetworkImprovement => improvement(model, &runs, &candidates)?,
            Strategy::NetworkThompson => thompson(model, &runs, &candidates, step as u64)?,
        };
        for ((run, candidates), chosen) in runs.iter_mut().zip(candidates).zip(chosen) {
            run.evaluate(function, candidates[chosen].clone());
        }
    }
    Ok(runs.into_iter().map(|run| run.regret).collect())
}

/// The index of the largest expected improvement below a level.
fn most_improvement(normals: &[Normal], level: f64) -> usize {
    let expected = |normal: &Normal| {
        let z = (level - normal.mean) / normal.std;
        let density = (-0.5 * z * z).exp() / std::f64::consts::TAU.sqrt();
        normal.std * (z * 0.5 * libm::erfc(-z / 2f64.sqrt()) + density)
    };
    (0..normals.len()).max_by(|a, b| expected(&normals[*a]).total_cmp(&expected(&normals[*b]))).unwrap_or(0)
}

/// What leads from a run to what the network sees.
struct Scale {
    middle: Vec<f64>,
    unit: f64,
    level: f64,
    deviation: f64,
}

impl Scale {
    /// Values of mean 0 and deviation 1. On a line the box is a record of length 4, as in the training of
    /// `gp_1d`; in the plane the observations have the mean squared distance 1 from their middle, as in
    /// that of `field`.
    fn of(run: &Run, dim: usize) -> Self {
        let n = run.y.len() as f64;
        let level = run.y.iter().sum::<f64>() / n;
        let deviation = (run.y.iter().map(|y| (y - level).powi(2)).sum::<f64>() / n).sqrt().max(1e-12);
        if dim == 1 {
            return Self { middle: vec![0.5], unit: 0.25, level, deviation };
        }
        let middle: Vec<f64> = (0..dim).map(|d| run.x.iter().map(|x| x[d]).sum::<f64>() / n).collect();
        let square = |x: &Vec<f64>| x.iter().zip(&middle).map(|(x, middle)| (x - middle).powi(2)).sum::<f64>();
        let unit = (run.x.iter().map(square).sum::<f64>() / n).sqrt().max(1e-6);
        Self { middle, unit, level, deviation }
    }

    fn places(&self, x: &[Vec<f64>], to: &mut Vec<f64>) {
        to.extend(x.iter().flat_map(|x| x.iter().zip(&self.middle).map(|(x, middle)| (x - middle) / self.unit)));
    }
}

/// What the network is given of all runs, as a batch.
struct Batch {
    dim: usize,
    scales: Vec<Scale>,
    places: Vec<f64>,
    values: Vec<f32>,
}

impl Batch {
    fn new(runs: &[Run]) -> Self {
        let dim = runs[0].x[0].len();
        let scales: Vec<_> = runs.iter().map(|run| Scale::of(run, dim)).collect();
        let (mut places, mut values) = (Vec::new(), Vec::new());
        for (run, scale) in runs.iter().zip(&scales) {
            scale.places(&run.x, &mut places);
            values.extend(run.y.iter().map(|y| ((y - scale.level) / scale.deviation) as f32));
        }
        Self { dim, scales, places, values }
    }

    fn context(&self) -> Context<'_> {
        Context::new(Locations::space(self.dim, &self.places).batch(self.scales.len()), &self.values)
    }

    /// Places of each run.
    fn at(&self, x: &[&[Vec<f64>]]) -> Vec<f64> {
        let mut places = Vec::new();
        self.scales.iter().zip(x).for_each(|(scale, x)| scale.places(x, &mut places));
        places
    }

    fn locations<'a>(&self, places: &'a [f64]) -> Locations<'a> {
        Locations::space(self.dim, places).batch(self.scales.len())
    }
}

/// What the network predicts for each run at its own places, scaled.
fn predict(posterior: &Posterior, batch: &Batch, at: &[&[Vec<f64>]]) -> Result<Vec<Vec<Normal>>> {
    let prediction = posterior.predict(&batch.locations(&batch.at(at)))?;
    let normals = prediction.mean().iter().zip(prediction.std());
    let normals: Vec<_> = normals.map(|(&mean, &std)| Normal { mean: mean.into(), std: std.into() }).collect();
    Ok(normals.chunks(at[0].len()).map(<[_]>::to_vec).collect())
}

fn improvement(model: &TnpKr, runs: &[Run], candidates: &[Vec<Vec<f64>>]) -> Result<Vec<usize>> {
    let batch = Batch::new(runs);
    let posterior = model.condition(&batch.context())?;
    let observed: Vec<_> = runs.iter().map(|run| &run.x[..]).collect();
    let candidates: Vec<_> = candidates.iter().map(|candidates| &candidates[..]).collect();
    let observed = predict(&posterior, &batch, &observed)?;
    let predicted = predict(&posterior, &batch, &candidates)?;
    let level = |normals: &[Normal]| normals.iter().map(|normal| normal.mean).fold(f64::INFINITY, f64::min);
    Ok(predicted.iter().zip(&observed).map(|(normals, observed)| most_improvement(normals, level(observed))).collect())
}

/// The least place of one coherent draw of the function, for each run: of some of the candidates, because a
/// draw reads what was drawn before it.
fn thompson(model: &TnpKr, runs: &[Run], candidates: &[Vec<Vec<f64>>], seed: u64) -> Result<Vec<usize>> {
    let batch = Batch::new(runs);
    let step = (ANYWHERE + AROUND) / DRAWN;
    let some: Vec<Vec<Vec<f64>>> = candidates.iter().map(|all| all.iter().step_by(step).cloned().collect()).collect();
    let some: Vec<_> = some.iter().map(|some| &some[..]).collect();
    let places = batch.at(&some);
    let draws = model.draws_in_blocks(&batch.context(), &batch.locations(&places), seed, 1, BLOCK)?;
    let least = |draw: &[f32]| (0..draw.len()).min_by(|a, b| draw[*a].total_cmp(&draw[*b])).unwrap_or(0);
    Ok(draws.chunks(some[0].len()).map(|draw| step * least(draw)).collect())
}

/// The regret after fifteen evaluations and after the last: its median over the runs, and the quarter that did worse.
fn print(all: &[Outcome], n: usize) -> Result<()> {
    let mut before = "";
    for (function, strategy, runs, time) in all {
        if function.name != before {
            say!(
                "{:<42} {:>10} {:>10} {:>10} {:>9}",
                function.name,
                format!("after {}", n.min(15)),
                format!("after {n}"),
                "3 of 4",
                "time"
            )?;
            before = function.name;
        }
        let at = |step: usize, share: f64| quantile(runs.iter().map(|run| run[step.min(run.len()) - 1]), share);
        say!(
            "  {:<40} {:>10.4} {:>10.4} {:>10.4} {:>7.2} s",
            strategy.name(),
            at(15, 0.5),
            at(n, 0.5),
            at(n, 0.75),
            time.as_secs_f64()
        )?;
    }
    Ok(())
}

fn write(path: &Path, all: &[Outcome]) -> Result<()> {
    out::table(path, |csv| {
        csv.write_record(["function", "strategy", "run", "evaluation", "regret"])?;
        for (function, strategy, runs, _) in all {
            for (run, regrets) in runs.iter().enumerate() {
                for (i, regret) in regrets.iter().enumerate() {
                    let numbers = [run.to_string(), (i + 1).to_string(), format!("{regret:.6}")];
                    csv.write_record(
                        [function.name, strategy.name()].into_iter().chain(numbers.iter().map(String::as_str)),
                    )?;
                }
            }
        }
        Ok(())
    })
}
