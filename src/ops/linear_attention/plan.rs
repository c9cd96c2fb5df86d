//! How many keys become a partial sum: a pure function of the sizes and the device.

use super::problem::Problem;
use crate::device::Capabilities;

/// Keys of a part: enough parts to fill a device, few enough to add.
const PART: usize = 256;

/// Partial sums that exist at once, in numbers.
const MAX_PARTIAL: usize = 1 << 24;

/// Keys that a workgroup takes at a time.
pub(crate) const KEYS: usize = 8;

/// How a write is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Keys of a part.
    pub part: usize,
    pub n_parts: usize,
}

/// Loop iterations of a thread for [`KEYS`] keys, no fewer: four features of each of them.
pub(crate) fn iterations(problem: &Problem) -> usize {
    16 + if problem.is_projected { 4 * problem.head_dim } else { 0 }
}

pub(crate) fn plan(problem: &Problem, capabilities: &Capabilities) -> Plan {
    // Larger parts rather than more partial sums than memory should hold.
    let len: usize = problem.state_shape().iter().product();
    let max_parts = (MAX_PARTIAL / len.max(1)).max(1);
    let part = PART.max(problem.n.div_ceil(max_parts));
    let by_iterations = (capabilities.max_iterations / iterations(problem)).saturating_mul(KEYS);
    let part = part.min(by_iterations).max(KEYS);
    Plan { part, n_parts: problem.n.div_ceil(part) }
}
