//! What arguments may be.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

/// A number above 0.
///
/// # Errors
/// Says what is needed.
pub fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok(number),
        _ => Err("a number above 0 is needed".into()),
    }
}

/// 0 or a number above.
///
/// # Errors
/// Says what is needed.
pub fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number >= 0.0 && number.is_finite() => Ok(number),
        _ => Err("0 or a number above is needed".into()),
    }
}

/// A whole number from 1 to a billion; `100_000` is allowed.
///
/// # Errors
/// Says what is needed.
pub fn count(text: &str) -> Result<usize, String> {
    match text.replace('_', "").parse() {
        Ok(n @ 1..=1_000_000_000) => Ok(n),
        _ => Err("a whole number from 1 to 1000000000 is needed".into()),
    }
}

/// The networks that are given, or else those of the folder `checkpoints` whose names begin so.
///
/// # Errors
/// There is no such folder, or no such network in it.
pub fn networks(given: &[PathBuf], prefix: &str) -> Result<Vec<PathBuf>> {
    if !given.is_empty() {
        return Ok(given.to_vec());
    }
    let hint = "run in the root of the repository, or give --checkpoint; training/README.md says how to make one";
    let folder = std::fs::read_dir("checkpoints").with_context(|| format!("no folder checkpoints here: {hint}"))?;
    let mut paths: Vec<PathBuf> = folder.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    paths.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(prefix) && name.ends_with(".safetensors")
    });
    paths.sort();
    ensure!(!paths.is_empty(), "no checkpoints/{prefix}*.safetensors here: {hint}");
    Ok(paths)
}
