//! How many workgroups take an LSAM: a pure function of the sizes and the device.

use super::problem::{Lsam, OP, Problem};
use crate::{
    device::{Capabilities, Decision, Work, variants::LSAM},
    error::{Result, check_limit},
    ops::recurrence::{self, LANES, OUTPUTS},
    tensor::Tensor,
};

/// Variants by name: whether a step is two launches of its own, over as many workgroups as it takes.
const VARIANTS: [(&str, bool); 2] = [(LSAM[0], false), (LSAM[1], true)];

/// How a call runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Whether a step is two launches over many workgroups; else a workgroup takes all steps of a batch
    /// element, with the columns and the hidden state in its memory.
    pub spreads: bool,
    /// Numbers of each of those in the memory of one workgroup.
    pub width: usize,
    pub d_model: usize,
    /// Threads of that.
    pub threads: usize,
    why: &'static str,
}

impl Problem {
    /// Workgroups of the columns of a step.
    pub(crate) fn groups_of_columns(&self) -> usize {
        self.batch * self.width().div_ceil(OUTPUTS)
    }

    /// Workgroups of the memories of a step.
    pub(crate) fn groups_of_memory(&self) -> usize {
        self.batch * self.n_heads * self.dim.div_ceil(OUTPUTS)
    }

    /// That of a workgroup of columns.
    pub(crate) fn work_of_columns(&self) -> Work {
        let d_model = self.d_model();
        Work { cost: (2 * OUTPUTS * d_model) as f64, iterations: d_model.div_ceil(LANES) + LANES + 1 }
    }

    /// That of a workgroup of memories.
    pub(crate) fn work_of_memory(&self) -> Work {
        let Self { dim, .. } = *self;
        Work { cost: (12 * OUTPUTS * dim) as f64, iterations: 3 * (dim.div_ceil(LANES) + LANES + 1) }
    }

    /// That of a step in one workgroup; with each loop the test that ends it is one more iteration.
    pub(crate) fn work(&self, threads: usize) -> Work {
        let (d_model, width, dim) = (self.d_model(), self.width(), self.dim);
        let of_threads = |n: usize| n.div_ceil(threads);
        Work {
            cost: (d_model * (2 * width + 6 * dim + 60)) as f64,
            iterations: of_threads(width) * (d_model + 2)
                + of_threads(2 * self.n_heads) * (3 * dim + 4)
                + of_threads(d_model) * (2 * dim + 3)
                + 4,
        }
    }
}

/// One workgroup where its memory holds the columns and the hidden state, unless a step moves so many
/// weights and memories that two launches for each step are less; many otherwise.
pub(crate) fn plan(problem: &Problem, capabilities: &Capabilities) -> Result<Plan> {
    let up = |n: usize| n.next_multiple_of(64);
    let (d_model, width) = (up(problem.d_model()), up(problem.width()));
    let threads = d_model.min(256);
    let (bytes, allowed) = (4 * (width + d_model) as u64, u64::from(capabilities.workgroup_bytes));
    let fits = bytes <= allowed && problem.work(threads).iterations <= capabilities.max_iterations;
    // A step reads all weights, and reads and writes the memories twice over, for each batch element.
    let moved = 4 * problem.d_model() * (problem.width() + 3 * problem.dim);
    let pays = capabilities.pays_to_spread(moved, problem.batch, 2);
    let (spreads, why) = match capabilities.forced(OP, &VARIANTS)? {
        Some(false) => {
            check_limit("bytes of workgroup memory for the state of lsam", bytes, allowed)?;
            (false, "it was asked for")
        }
        Some(true) => (true, "it was asked for"),
        None if !fits => (true, "the state does not fit workgroup memory, or its loops are too long"),
        None if pays => (true, "one workgroup would move weights and memories slower than two launches a step take"),
        None => (false, "the state fits workgroup memory, and two launches a step would take longer"),
    };
    Ok(Plan { spreads, width, d_model, threads, why })
}

impl Lsam {
    /// How [`lsam`](super::lsam()) would run on `x [batch, n, n_in]`, and why.
    ///
    /// # Errors
    /// As there.
    ///
    /// ```
    /// use wgpu_attention::{Device, Tensor, ops::{Linear, Lsam}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let device = Device::best();
    /// let input = Linear { weight: Tensor::zeros(&device, &[3, 28])?, bias: None };
    /// let layer = Lsam { n_heads: 2, input, hidden: Tensor::zeros(&device, &[8, 28])? };
    /// let decision = layer.decision(&Tensor::zeros(&device, &[1, 100, 3])?)?;
    /// println!("{decision}"); // on a GPU: "lsam: one workgroup in 1 launch, since .."
    /// assert_eq!(decision.op, "lsam");
    /// # Ok(())
    /// # }
    /// ```
    pub fn decision(&self, x: &Tensor) -> Result<Decision> {
        let problem = self.problem(x, None)?;
        let capabilities = x.device().capabilities();
        if capabilities.adapter.is_none() {
            return Ok(Decision::on_cpu(OP, "cpu", "the tensors are there"));
        }
        decide(&problem, &capabilities)
    }
}

fn decide(problem: &Problem, capabilities: &Capabilities) -> Result<Decision> {
    let Plan { spreads, threads, why, .. } = plan(problem, capabilities)?;
    let (sizes, work) = ([problem.n, problem.batch], problem.work(threads));
    Ok(recurrence::decide((OP, LSAM), capabilities, sizes, spreads.then_some(2), work, why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::AdapterKind;

    #[test]
    fn decisions() {
        let mut text = String::new();
        for kind in [AdapterKind::Discrete, AdapterKind::Integrated, AdapterKind::Software] {
            for [batch, n, n_heads, dim] in [
                [1, 100, 4, 16],
                [1, 1000, 8, 64],
                [1, 100, 8, 120],
                [64, 100, 8, 120],
                [1, 10, 8, 128],
                [1, 10, 1, 1536],
                [100, 10, 8, 192],
            ] {
                let problem = Problem { batch, n, n_heads, dim };
                let decision = decide(&problem, &Capabilities::webgpu(kind)).unwrap();
                text += &format!("{kind:?} {batch} x {n}, {n_heads} heads of {dim}: {decision}\n");
            }
        }
        insta::assert_snapshot!(text);
    }
}
