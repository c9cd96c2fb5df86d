//! Which tile a dense layer is computed in: a pure function of the sizes and the device.

use super::{OP, Problem};
use crate::{
    device::{Capabilities, Decision},
    error::Result,
};

/// Threads along each side of a workgroup, which makes a tile of 16 times as many outputs.
const VARIANTS: [(&str, usize); 2] = [("tile 32", 8), ("tile 64", 16)];

/// How a call runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub variant: &'static str,
    /// Threads along each side of a workgroup.
    pub threads: usize,
    why: &'static str,
}

/// Large tiles read less memory; small problems need many workgroups more.
pub(crate) fn plan(problem: &Problem, capabilities: &Capabilities) -> Result<Plan> {
    let is_large = problem.rows >= 1024 && problem.n_out >= 64;
    let (threads, why) = match capabilities.forced(OP, &VARIANTS)? {
        Some(threads) => (threads, "it was asked for"),
        None if is_large => (16, "1,024 rows of 64 outputs and more fill the device with large tiles"),
        None => (8, "fewer than 1,024 rows of 64 outputs need many small workgroups"),
    };
    let variant = VARIANTS.iter().find(|(_, of)| *of == threads).map_or("", |(name, _)| name);
    Ok(Plan { variant, threads, why })
}

impl Plan {
    pub(crate) fn decision(&self, launches: usize) -> Decision {
        Decision { op: OP, variant: self.variant, launches, why: self.why.into() }
    }
}
