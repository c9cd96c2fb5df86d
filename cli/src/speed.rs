//! How fast the operations are here.

use anyhow::Result;
use shared::say;
use support::{
    cases::cases,
    measure::{Effort, time},
};
use wgpu_attention::Device;

/// What the command takes.
#[derive(clap::Args)]
pub struct Args {
    /// cpu, gpu, best, or a part of an adapter's name.
    #[arg(long, default_value = "best")]
    device: String,
    /// Only this operation.
    #[arg(long, value_name = "OPERATION")]
    operation: Option<String>,
    /// Small sizes, once: to see that everything runs.
    #[arg(long)]
    quick: bool,
}

pub fn bench(args: &Args) -> Result<()> {
    let device = Device::by_name(&args.device)?;
    say!("device    {device}\n")?;
    let cases = cases(args.quick);
    let is_wanted = |operation: &str| args.operation.as_ref().is_none_or(|only| only == operation);
    if let Some(operation) = args.operation.as_ref().filter(|_| !cases.iter().any(|case| is_wanted(case.operation))) {
        let mut known: Vec<_> = cases.iter().map(|case| case.operation).collect();
        known.dedup();
        anyhow::bail!("no operation {operation}; there are {}", known.join(", "));
    }
    for case in cases.iter().filter(|case| is_wanted(case.operation)) {
        let prepared = case.prepare(&device)?;
        let timing = time(&device, &prepared.run, Effort::new(args.quick))?;
        let variant = prepared.decision.map_or(String::new(), |decision| decision.variant.to_string());
        say!("{:<24} {:<52} {:>12.1} µs  {variant}", case.operation, case.sizes, 1e6 * timing.median)?;
    }
    Ok(())
}
