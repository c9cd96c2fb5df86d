//! Writes every variant of every kernel as WGSL, a file each: to read, or to compile with another
//! front end.
//!
//!     cargo run --example shaders -- --out out/shaders

use std::{collections::HashSet, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use shared::{out, say};

/// Writes the text of every variant of every kernel, a file each. It reads nothing.
#[derive(Parser)]
struct Args {
    /// Where the files go; those of the same names are replaced.
    #[arg(long, value_name = "DIR", default_value = "out/shaders")]
    out: PathBuf,
    /// Beside each text that one in which operands share bindings: it runs where a device binds fewer storage buffers.
    #[arg(long)]
    shared: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    out::folder(&args.out, &[])?;
    let variants = wgpu_attention::shaders::variants()?;
    let mut names = HashSet::new();
    for shader in &variants {
        let kept = |c: char| if c.is_ascii_alphanumeric() || "+-.".contains(c) { c } else { '_' };
        let name = shader.name.chars().map(kept).collect::<String>();
        // Some file systems do not tell cases apart.
        ensure!(names.insert(name.to_lowercase()), "two variants would be written to {name}");
        let write = |name: &str, text: &str| {
            let path = args.out.join(name);
            std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        write(&format!("{name}.wgsl"), &shader.wgsl)?;
        if args.shared
            && let Some(text) = shader.shared()?
        {
            write(&format!("{name}_shared.wgsl"), &text)?;
        }
    }
    say!("{} variants in {}", variants.len(), args.out.display())
}
