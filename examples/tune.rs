//! Tries every variant of every operation on an adapter, at a few sizes, and says which is the fastest.
//! With --out the choice is written to a file that `GpuOptions::tuned` takes:
//!
//!     cargo run --release --example tune -- --out out/tuned.json
//!
//! ```ignore
//! let options = GpuOptions::default().tuned(Tuned::open("out/tuned.json")?);
//! let device = Device::on_adapter(&adapter, &options)?;
//! ```
//!
//! An operation chooses by the sizes of a call; a variant that is asked for takes all of them. So it is
//! written only where it is ahead over all sizes together, by more than measurements differ.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use shared::{out, say};
use support::{
    cases::{Case, cases},
    measure::{Effort, time},
};
use wgpu_attention::{
    Device,
    device::{Adapter, GpuOptions, Tuned, variants},
};

/// How much faster than its own choice a variant must be to be written.
const MARGIN: f64 = 1.03;

/// Measures the variants of every operation on an adapter and writes which are the fastest.
#[derive(Parser)]
struct Args {
    /// A part of the adapter's name; the best one without it.
    #[arg(long, value_name = "NAME")]
    adapter: Option<String>,
    /// Only this operation.
    #[arg(long, value_name = "OPERATION")]
    operation: Option<String>,
    /// Small sizes, once: to see that everything runs.
    #[arg(long)]
    quick: bool,
    /// Where the choice is written.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let all = variants();
    if let Some(operation) = &args.operation {
        let known: Vec<_> = all.keys().copied().collect();
        ensure!(known.contains(&operation.as_str()), "no operation {operation} has variants; {} do", known.join(", "));
    }
    if let Some(path) = &args.out {
        out::file(path)?;
    }
    let named = |adapter: &Adapter| {
        args.adapter.as_ref().is_none_or(|name| adapter.name.to_lowercase().contains(&name.to_lowercase()))
    };
    let adapters = Device::adapters();
    let adapter = adapters.iter().find(|adapter| named(adapter)).with_context(|| {
        let names: Vec<&str> = adapters.iter().map(|adapter| adapter.name.as_str()).collect();
        format!(
            "no adapter{} on this machine, which has {names:?}",
            args.adapter.as_ref().map_or(String::new(), |name| format!(" named {name:?}"))
        )
    })?;
    say!("adapter    {adapter}")?;
    if !adapter.kind.is_hardware() {
        say!("           software: what is fast here says nothing about GPUs")?;
    }
    let own = Device::on_adapter(adapter, &GpuOptions::default())?;
    let mut tuned = Tuned::new(own.capabilities().driver);
    let cases = cases(args.quick);
    for (operation, variants) in all {
        if args.operation.as_ref().is_some_and(|only| only != operation) {
            continue;
        }
        let of_it: Vec<&Case> = cases.iter().filter(|case| case.operation == operation).collect();
        if let Some(best) = fastest(adapter, &own, operation, variants, &of_it, Effort::new(args.quick))? {
            tuned.variants.insert(operation.to_owned(), best.to_owned());
        }
    }
    if let Some(path) = &args.out {
        tuned.save(path)?;
        say!("\nwritten to {}", path.display())?;
    }
    Ok(())
}

/// The variant that is ahead of what the operation chooses by itself, if one is.
fn fastest(
    adapter: &Adapter,
    own: &Device,
    operation: &str,
    variants: &'static [&'static str],
    cases: &[&Case],
    effort: Effort,
) -> Result<Option<&'static str>> {
    // Logarithms of how much faster each is, over the sizes that it runs.
    let mut gains: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for case in cases {
        // Of sizes that are not cut into variants nothing is to be chosen.
        let prepared = case.prepare(own)?;
        let Some(decision) = prepared.decision else { continue };
        let base = time(own, &prepared.run, effort)?.median;
        say!(
            "\n{operation}, {}\n  {:<24} {:>12.1} µs  chosen: {}",
            case.sizes,
            "its own choice",
            1e6 * base,
            decision.variant
        )?;
        for variant in variants {
            // Measured again it would only differ by noise.
            if *variant == decision.variant {
                gains.entry(variant).or_default().push(0.0);
                continue;
            }
            let device = Device::on_adapter(adapter, &GpuOptions::default().variant(operation, *variant))?;
            let measured = case.prepare(&device).and_then(|prepared| {
                let found = prepared.decision.as_ref().map(|decision| decision.variant);
                Ok((time(&device, &prepared.run, effort)?, found.filter(|found| found != variant)))
            });
            match measured {
                Ok((timing, Some(other))) => {
                    say!("  {variant:<24} {:>12.1} µs  runs as {other}", 1e6 * timing.median)?;
                }
                Ok((timing, None)) => {
                    let gain = base / timing.median;
                    say!("  {variant:<24} {:>12.1} µs  {gain:.2} times as fast", 1e6 * timing.median)?;
                    gains.entry(variant).or_default().push(gain.ln());
                }
                Err(error) => say!("  {variant:<24} refused: {error}")?,
            }
        }
    }
    // One that does not take all sizes cannot be asked for.
    let n_sizes = gains.values().map(Vec::len).max().unwrap_or(0);
    let mean = |gains: &Vec<f64>| gains.iter().sum::<f64>() / gains.len() as f64;
    let whole = gains.iter().filter(|(_, gains)| gains.len() == n_sizes).map(|(name, gains)| (*name, mean(gains)));
    let best = whole.max_by(|a, b| a.1.total_cmp(&b.1)).filter(|(_, gain)| *gain > MARGIN.ln());
    match best {
        Some((name, gain)) => say!("{operation}: {name}, {:.2} times as fast over all sizes", gain.exp())?,
        None => say!("{operation}: its own choice by sizes")?,
    }
    Ok(best.and_then(|(name, _)| variants.iter().copied().find(|variant| *variant == name)))
}
