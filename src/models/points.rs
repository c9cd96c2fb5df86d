//! Checks of observations that are alike in all models.

use std::ops::Range;

use crate::{
    device::Device,
    error::{Result, check_argument},
    tensor::{Mask, n_elements},
};

pub(crate) fn check_batch(op: &'static str, batch: usize) -> Result<()> {
    check_argument(batch > 0, op, "batch", batch, "1 or more")
}

/// Refuses an input that does not fill its shape; `name` is that of its length.
pub(crate) fn check_length(op: &'static str, name: &'static str, shape: &[usize], found: usize) -> Result<()> {
    let expected = n_elements(shape);
    let allowed = format_args!("{expected}, which fills the shape {shape:?}");
    check_argument(found == expected, op, name, found, allowed)
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
