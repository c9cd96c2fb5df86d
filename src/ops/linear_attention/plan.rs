//! How many keys become a partial sum: a pure function of the sizes and the device.

use super::{
    problem::{LinearAttention, OP, Problem},
    stable,
};
use crate::{
    device::{Capabilities, Decision, Work},
    error::Result,
    tensor::{Tensor, n_elements},
};

/// Keys of a part: enough parts to fill a device, few enough to add.
const PART: usize = 256;

/// Partial sums that exist at once, in numbers.
const MAX_PARTIAL: usize = 1 << 24;

/// Threads along each side of a workgroup that writes, each with 4 x 4 sums; keys that it takes at
/// a time.
pub(crate) const SIDE: usize = 8;

/// Features, and columns, of a workgroup that writes.
const TILE: usize = 4 * SIDE;

/// Partial sums that a thread adds.
pub(crate) const FAN_IN: usize = 32;

/// How a write is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Keys of a part.
    pub part: usize,
    pub n_parts: usize,
}

/// Loop iterations of a thread for [`SIDE`] keys, no fewer: four features of each of them.
fn iterations(problem: &Problem) -> usize {
    16 + if problem.is_projected { 4 * problem.head_dim } else { 0 }
}

pub(crate) fn plan(problem: &Problem, capabilities: &Capabilities) -> Plan {
    // Larger parts rather than more partial sums than memory should hold.
    let len: usize = problem.state_shape().iter().product();
    let max_parts = (MAX_PARTIAL / len.max(1)).max(1);
    let part = PART.max(problem.n.div_ceil(max_parts));
    let by_iterations = (capabilities.max_iterations / iterations(problem)).saturating_mul(SIDE);
    let part = part.min(by_iterations).max(SIDE);
    Plan { part, n_parts: problem.n.div_ceil(part) }
}

impl Plan {
    /// Workgroups of a write.
    pub(crate) fn n_groups(&self, problem: &Problem) -> usize {
        let tiles = problem.n_features.div_ceil(TILE) * problem.v_dim.div_ceil(TILE);
        self.n_parts * problem.outer * problem.inner * tiles
    }

    /// That of a workgroup of a write.
    pub(crate) fn work(&self, problem: &Problem) -> Work {
        let of_features = if problem.is_projected { problem.head_dim * TILE } else { 0 };
        Work {
            cost: 2.0 * (self.part * (TILE * TILE + of_features)) as f64,
            iterations: self.part.min(problem.n).div_ceil(SIDE) * iterations(problem),
        }
    }
}

impl LinearAttention {
    /// How [`LinearAttention::write`] would run on these keys and values, and why. The launches of
    /// [`Normalizer::Stable`](super::Normalizer::Stable) are about that many.
    ///
    /// # Errors
    /// As there.
    pub fn decision(&self, k: &Tensor, v: &Tensor) -> Result<Decision> {
        let (sizes, v_dim) = self.layout.keys_values(OP, k, v)?;
        let problem = self.problem(OP, sizes, v_dim)?;
        let capabilities = k.device().capabilities();
        if capabilities.adapter.is_none() {
            return Ok(Decision::on_cpu(OP, "cpu", "the tensors are there; sums of a few dozen keys are added in f64"));
        }
        if problem.n == 0 || n_elements(&problem.state_shape()) == 0 {
            return Ok(Decision { op: OP, variant: "none", launches: 0, why: "there is nothing to write".into() });
        }
        if problem.is_stable() {
            let launches = stable::launches(&problem, k, v)?;
            let why = "stable features are softmax attention of the projection's rows, then one launch for each \
                       array that it needs";
            return Ok(Decision { op: OP, variant: "scan attention", launches, why: why.into() });
        }
        Ok(decide(&problem, &capabilities))
    }
}

fn decide(problem: &Problem, capabilities: &Capabilities) -> Decision {
    let plan = plan(problem, capabilities);
    let writes = capabilities.row_pieces(plan.n_groups(problem), 1, plan.work(problem).cost).len();
    let (mut sums, mut n) = (1, plan.n_parts);
    while n > FAN_IN {
        (sums, n) = (sums + 1, n.div_ceil(FAN_IN));
    }
    let Plan { part, n_parts } = plan;
    let why = format!("there is no other; {n_parts} partial sum(s) of {part} keys, added {FAN_IN} at a time");
    Decision { op: OP, variant: "portable", launches: writes + sums, why }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        device::AdapterKind,
        ops::{FeatureMap, Layout, Normalizer, layout::Sizes},
    };

    #[test]
    fn decisions() {
        let mut text = String::new();
        for kind in [AdapterKind::Discrete, AdapterKind::Integrated, AdapterKind::Software] {
            for [n_heads, n, dim] in [[1, 1, 8], [4, 4096, 64], [8, 100_000, 128], [1, 10_000_000, 16]] {
                let attention = LinearAttention::new(Layout::HeadMajor, FeatureMap::identity(1.0), Normalizer::None);
                let problem = attention.problem(OP, Sizes { batch: 1, n_heads, n, dim }, dim).unwrap();
                let decision = decide(&problem, &Capabilities::webgpu(kind));
                text += &format!("{kind:?} {n_heads} heads of {dim}, {n} keys: {decision}\n");
            }
        }
        insta::assert_snapshot!(text);
    }
}
