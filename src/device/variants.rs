//! The names of variants: what a device is asked for when it is opened. What each of them is stands
//! in the plan of its operation.

#[cfg(feature = "gpu")]
use std::collections::BTreeMap;

#[cfg(feature = "gpu")]
use crate::error::{Error, Result};

pub(crate) const ATTENTION_MEMORY: [&str; 6] =
    ["recurrent", "recurrent 32", "chunked", "chunked, scalars", "chunked, two rows", "chunked, one row"];
pub(crate) const LINEAR: [&str; 4] = ["tile 32", "tile 64", "vector 32", "vector 64"];
pub(crate) const LINEAR_ATTENTION: [&str; 2] = ["vectors", "scalars"];
pub(crate) const SCAN_ATTENTION: [&str; 13] = [
    "portable",
    "wide",
    "wide 16",
    "rolled",
    "rolled 16",
    "rolled 32",
    "rows 4",
    "rows 8",
    "decode 2",
    "decode 2 by 16",
    "decode",
    "decode 8",
    "matrix",
];
#[cfg(feature = "gpu")]
pub(crate) const TAPE: [&str; 2] = ["workgroup memory", "storage"];
#[cfg(feature = "gpu")]
pub(crate) const LSAM: [&str; 2] = ["one workgroup", "many workgroups"];
#[cfg(feature = "gpu")]
pub(crate) const LSTM: [&str; 2] = ["one workgroup", "many workgroups"];

/// The name of a variant, where an operation says what each is.
pub(crate) fn name_of<T: PartialEq>(all: &[(&'static str, T)], variant: &T) -> &'static str {
    all.iter().find(|(_, its)| its == variant).map_or("", |(name, _)| name)
}

/// The operations that have more than one.
#[cfg(feature = "gpu")]
const OPERATIONS: &[(&str, &[&str])] = &[
    ("attention_memory", &ATTENTION_MEMORY),
    ("linear", &LINEAR),
    ("linear_attention", &LINEAR_ATTENTION),
    ("lsam", &LSAM),
    ("lstm", &LSTM),
    ("scan_attention", &SCAN_ATTENTION),
    ("tape", &TAPE),
];

/// The variants of each operation that has a choice, by name: those that
/// [`GpuOptions::variant`](super::GpuOptions::variant) takes. What each of them is stands in the plan of
/// its operation, and which one runs, and why, in its [`Decision`](super::Decision).
///
/// ```
/// let all = wgpu_attention::device::variants();
/// assert!(all["linear"].contains(&"tile 32"));
/// for (operation, variants) in all {
///     println!("{operation}: {}", variants.join(", "));
/// }
/// ```
#[cfg(feature = "gpu")]
pub fn variants() -> BTreeMap<&'static str, &'static [&'static str]> {
    OPERATIONS.iter().copied().collect()
}

/// Refuses variants that do not exist, and operations that do not or have no choice.
#[cfg(feature = "gpu")]
pub(crate) fn check_variants(asked: &BTreeMap<String, String>) -> Result<()> {
    const OP: &str = "GpuOptions::variant";
    let all = variants();
    for (operation, variant) in asked {
        let Some(known) = all.get(operation.as_str()) else {
            let operations: Vec<_> = all.into_keys().collect();
            return Err(Error::argument(OP, "operation", operation, operations.join(", ")));
        };
        if !known.contains(&variant.as_str()) {
            return Err(Error::argument(OP, "variant", format_args!("{variant:?} of {operation}"), known.join(", ")));
        }
    }
    Ok(())
}
