//! The names of variants: what a device is asked for when it is opened. What each of them is stands
//! in the plan of its operation.

#[cfg(feature = "gpu")]
use std::collections::BTreeMap;

#[cfg(feature = "gpu")]
use crate::error::{Error, Result};

pub(crate) const ATTENTION_MEMORY: [&str; 3] = ["recurrent", "chunked", "chunked, scalars"];
pub(crate) const LINEAR: [&str; 2] = ["tile 32", "tile 64"];
pub(crate) const LINEAR_ATTENTION: [&str; 2] = ["vectors", "scalars"];
#[cfg(feature = "gpu")]
pub(crate) const TAPE: [&str; 2] = ["workgroup memory", "storage"];

/// The operations that have more than one.
#[cfg(feature = "gpu")]
const OPERATIONS: [(&str, &[&str]); 4] = [
    ("attention_memory", &ATTENTION_MEMORY),
    ("linear", &LINEAR),
    ("linear_attention", &LINEAR_ATTENTION),
    ("tape", &TAPE),
];

/// Refuses variants that do not exist, and operations that do not or have no choice.
#[cfg(feature = "gpu")]
pub(crate) fn check_variants(variants: &BTreeMap<String, String>) -> Result<()> {
    const OP: &str = "GpuOptions::variant";
    for (operation, variant) in variants {
        let Some((_, known)) = OPERATIONS.iter().find(|(name, _)| name == operation) else {
            return Err(Error::argument(OP, "operation", operation, OPERATIONS.map(|(name, _)| name).join(", ")));
        };
        if !known.contains(&variant.as_str()) {
            return Err(Error::argument(OP, "variant", format_args!("{variant:?} of {operation}"), known.join(", ")));
        }
    }
    Ok(())
}
