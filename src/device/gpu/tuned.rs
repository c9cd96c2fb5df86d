//! Which variants are fastest on one adapter, as a file.

use std::{collections::BTreeMap, io::Read as _, path::Path};

use serde::{Deserialize, Serialize};

use crate::{
    device::variants::check_variants,
    error::{Error, Result},
};

/// More is no such file.
const MAX_BYTES: u64 = 1 << 20;

/// Variants that were measured to be the fastest on an adapter, for [`GpuOptions::tuned`](super::GpuOptions::tuned):
/// what `cargo run --release --example tune -- --out tuned.json` writes.
///
/// ```
/// use wgpu_attention::device::Tuned;
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let path = std::env::temp_dir().join(format!("tuned-{}.json", std::process::id()));
/// let mut tuned = Tuned::new("an adapter and its driver");
/// tuned.variants.insert("linear".into(), "tile 32".into());
/// tuned.save(&path)?;
/// assert_eq!(Tuned::open(&path)?, tuned);
/// # std::fs::remove_file(&path).unwrap();
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Tuned {
    /// The adapter and its driver, as [`Capabilities::driver`](crate::device::Capabilities::driver) has them.
    pub driver: String,
    /// Variants by operation; an operation that is not here chooses for itself.
    pub variants: BTreeMap<String, String>,
}

impl Tuned {
    /// No variants yet, of an adapter.
    pub fn new(driver: impl Into<String>) -> Self {
        Self { driver: driver.into(), variants: BTreeMap::new() }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// There is no such file; it is none of [`Tuned::save`]'s; it names an operation or a variant that
    /// does not exist (any more).
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let failed = |cause| Error::Io { path: path.display().to_string(), cause };
        let mut text = String::new();
        std::fs::File::open(path).and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text)).map_err(failed)?;
        let refused = |found: &dyn std::fmt::Display| {
            Error::argument(
                "Tuned::open",
                "path",
                format_args!("{}: {found}", path.display()),
                "a file that `tune` wrote",
            )
        };
        let tuned: Self = serde_json::from_str(&text).map_err(|error| refused(&error))?;
        check_variants(&tuned.variants).map_err(|error| refused(&error))?;
        Ok(tuned)
    }

    /// Writes a file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let text = serde_json::to_string_pretty(self).map_err(std::io::Error::from);
        let done = text.and_then(|text| std::fs::write(path, text + "\n"));
        done.map_err(|cause| Error::Io { path: path.display().to_string(), cause })
    }
}
