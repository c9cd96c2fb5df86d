//! Checks of observations that are alike in all models.

use std::ops::Range;

use crate::{
    device::Device,
    error::{Error, Result},
    tensor::{Mask, n_elements},
};

pub(crate) fn check_batch(op: &'static str, batch: usize) -> Result<()> {
    match batch {
        0 => Err(Error::Argument { op, name: "batch", found: "0".into(), allowed: "1 or more".into() }),
        _ => Ok(()),
    }
}

/// Refuses an input that does not fill its shape; `name` is that of its length.
pub(crate) fn check_length(op: &'static str, name: &'static str, shape: &[usize], found: usize) -> Result<()> {
    match n_elements(shape) {
        expected if expected == found => Ok(()),
        expected => Err(Error::Argument {
            op,
            name,
            found: found.to_string(),
            allowed: format!("{expected}, which fills the shape {shape:?}"),
        }),
    }
}

/// Which of some points exist, on the device, where not all do: `keep` is `[batch, n]`.
pub(crate) fn mask(device: &Device, keep: Option<&[bool]>, n: usize, range: &Range<usize>) -> Result<Option<Mask>> {
    let of_range = |keep: &[bool]| {
        let batch = keep.len() / n;
        let keep: Vec<bool> = keep.chunks(n).flat_map(|keep| &keep[range.clone()]).copied().collect();
        Mask::new(device, &[batch, range.len()], &keep)
    };
    keep.map(of_range).transpose()
}
