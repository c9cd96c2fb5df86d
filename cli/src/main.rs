//! The library for those who would rather not write Rust: what a checkpoint holds, predictions from CSV
//! files, the devices of this machine, and how fast its kernels are.
//!
//!     cargo install --path cli
//!     wgpu-attention predict --checkpoint checkpoints/gp_1d.safetensors --context seen.csv --targets where.csv

mod inspect;
mod predict;
#[cfg(feature = "gpu")]
mod speed;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use shared::say;
use wgpu_attention::Device;

const INSTALL: &str = "From the sources: cargo install --path cli (without a GPU: --no-default-features)";

/// Memory-efficient attention on any GPU, and on none.
#[derive(Parser)]
#[command(name = "wgpu-attention", version, after_help = INSTALL)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Says what a safetensors file holds, and whether a model can be made of it.
    Inspect {
        /// A checkpoint or a saved posterior.
        file: PathBuf,
        /// List every tensor, not the first few.
        #[arg(long)]
        all: bool,
    },
    /// Conditions a trained model on observations and predicts elsewhere.
    Predict(predict::Args),
    /// Lists what kernels can run on, the best first.
    Devices,
    /// Times every operation at typical sizes.
    #[cfg(feature = "gpu")]
    Bench(speed::Args),
}

fn main() -> Result<()> {
    match Args::parse().command {
        Command::Inspect { file, all } => inspect::inspect(&file, all),
        Command::Predict(args) => predict::predict(&args),
        Command::Devices => devices(),
        #[cfg(feature = "gpu")]
        Command::Bench(args) => speed::bench(&args),
    }
}

fn devices() -> Result<()> {
    let best = Device::best();
    #[cfg(feature = "gpu")]
    for adapter in Device::adapters() {
        let kind = if adapter.kind.is_hardware() { "" } else { " (software: right, but slower than the CPU below)" };
        say!("{adapter}{kind}")?;
    }
    say!("{}", Device::cpu())?;
    say!("\n--device best takes {best}")
}
