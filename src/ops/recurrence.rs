//! What the recurrences share that a GPU runs in one workgroup a batch element, or in many a step.

use serde::Serialize;

use crate::device::{Capabilities, Decision, Work};

/// Outputs of a workgroup that takes a part of a step, and threads that share the sum of each.
pub(crate) const OUTPUTS: usize = 16;
pub(crate) const LANES: usize = 16;

/// The constants of such a text.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct StepConstants {
    lanes: usize,
    outputs: usize,
    /// What is added over lanes.
    part: &'static str,
}

impl StepConstants {
    pub const fn adding(part: &'static str) -> Self {
        Self { lanes: LANES, outputs: OUTPUTS, part }
    }
}

/// How `n` steps run: each in so many launches of its own where that is said, or in one workgroup a batch
/// element, where `work` is that of a step.
pub(crate) fn decide(
    (op, variants): (&'static str, [&'static str; 2]),
    capabilities: &Capabilities,
    [n, batch]: [usize; 2],
    launches_of_step: Option<usize>,
    work: Work,
    why: &str,
) -> Decision {
    let launches = match launches_of_step {
        Some(launches) => launches * n,
        None => capabilities.step_pieces(n, batch, work).len(),
    };
    Decision { op, variant: variants[usize::from(launches_of_step.is_some())], launches, why: why.into() }
}
