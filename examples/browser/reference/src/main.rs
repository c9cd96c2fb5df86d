//! Answers on this machine's CPU what the page was asked: reads the questions as JSON, a line each, and
//! writes the answers, with how far the instruction sets of this machine are apart on them and by how
//! much they change with the rounding of the question.

use std::{f32::consts::TAU, io::Write as _};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use wgpu_attention::{
    Device,
    models::{
        cmanp::{self, Cmanp},
        tnp_kr::{self, Locations, TnpKr},
    },
};

#[derive(Deserialize)]
struct Question {
    network: String,
    cycle: f32,
    x: Vec<f32>,
    y: Vec<f32>,
    at: Vec<f32>,
}

#[derive(Serialize)]
struct Answer {
    mean: Vec<f32>,
    std: Vec<f32>,
    /// What rounding does to it, in the measure of the tests: `max |a - b| / (1 + |b|)`.
    rounding: f64,
}

fn main() -> Result<()> {
    for line in std::io::stdin().lines() {
        let question: Question = serde_json::from_str(&line?).context("a question")?;
        let [mean, std] = answer(&Device::cpu(), &question)?;
        let mut rounding = 0.0f64;
        let mut differs = |[other_mean, other_std]: [Vec<f32>; 2]| {
            rounding = rounding.max(error(&other_mean, &mean)).max(error(&other_std, &std));
        };
        for name in Device::cpu_instructions() {
            differs(answer(&Device::cpu_with(name)?, &question)?);
        }
        for moved in [f32::next_up, f32::next_down] {
            let moved = |numbers: &[f32]| numbers.iter().map(|&x| moved(x)).collect();
            let Question { network, cycle, at, .. } = &question;
            let (x, y) = (moved(&question.x), moved(&question.y));
            let question = Question { network: network.clone(), cycle: *cycle, x, y, at: at.clone() };
            differs(answer(&Device::cpu(), &question)?);
        }
        serde_json::to_writer(std::io::stdout(), &Answer { mean, std, rounding })?;
        writeln!(std::io::stdout())?;
    }
    Ok(())
}

/// Means and standard deviations.
fn answer(device: &Device, Question { network, cycle, x, y, at }: &Question) -> Result<[Vec<f32>; 2]> {
    let file = match &network[..] {
        "scan" => "gp_1d",
        "kernel" => "gp_1d_deep_kernel",
        "cmanp" => "cmanp_gp_1d",
        other => anyhow::bail!("no network {other:?}"),
    };
    let file = format!("{}/../../../checkpoints/{file}.safetensors", env!("CARGO_MANIFEST_DIR"));
    let phases = |x: &[f32]| -> Vec<f32> {
        x.iter().flat_map(|&t| [t, (TAU * t / cycle).cos(), (TAU * t / cycle).sin()]).collect()
    };
    let [mean, std] = if network == "cmanp" {
        let posterior = Cmanp::open(device, file)?.condition(&cmanp::Context::new(&phases(x), y))?;
        let read = posterior.predict(&phases(at))?;
        read.into_moments().into()
    } else {
        let posterior = TnpKr::open(device, file)?.condition(&tnp_kr::Context::new(Locations::space(1, x), y))?;
        let read = posterior.predict(&Locations::space(1, at))?;
        read.into_moments().into()
    };
    ensure!(mean.len() == at.len() && std.len() == at.len());
    Ok([mean, std])
}

fn error(found: &[f32], truth: &[f32]) -> f64 {
    let one = |(&a, &b): (&f32, &f32)| (f64::from(a) - f64::from(b)).abs() / (1.0 + f64::from(b).abs());
    found.iter().zip(truth).map(one).fold(0.0, f64::max)
}
