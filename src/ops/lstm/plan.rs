//! How many workgroups take an LSTM: a pure function of the sizes and the device.

use super::problem::{Lstm, OP, Problem};
use crate::{
    device::{Capabilities, Decision, Work, variants::LSTM},
    error::{Result, check_limit},
    ops::recurrence::{self, LANES, OUTPUTS},
    tensor::Tensor,
};

/// Variants by name: whether a step is a launch of its own, over as many workgroups as it takes.
const VARIANTS: [(&str, bool); 2] = [(LSTM[0], false), (LSTM[1], true)];

/// How a call runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Whether a step is a launch over many workgroups; else a workgroup takes all steps of a batch
    /// element, with the state in its memory.
    pub spreads: bool,
    /// The power of two that the hidden state fits in the memory of one workgroup.
    pub hidden: usize,
    /// Threads of that.
    pub threads: usize,
    why: &'static str,
}

impl Problem {
    /// Workgroups of a step that is a launch of its own.
    pub(crate) fn n_groups(&self) -> usize {
        self.batch * self.hidden.div_ceil(OUTPUTS)
    }

    /// That of one of them.
    pub(crate) fn work_of_group(&self) -> Work {
        Work { cost: (OUTPUTS * (8 * self.hidden + 50)) as f64, iterations: self.hidden.div_ceil(LANES) + LANES + 2 }
    }

    /// That of a step in one workgroup; the test that ends a loop counts as one.
    pub(crate) fn work(&self, threads: usize) -> Work {
        let Self { hidden, .. } = *self;
        Work { cost: (hidden * (8 * hidden + 50)) as f64, iterations: hidden.div_ceil(threads) * (hidden + 2) + 2 }
    }
}

/// One workgroup where its memory holds h, twice, and c, unless a step reads so many weights that a
/// launch for each step is less; many otherwise, with the state in storage.
pub(crate) fn plan(problem: &Problem, capabilities: &Capabilities) -> Result<Plan> {
    let hidden = problem.hidden.next_power_of_two().max(64);
    let threads = hidden.min(256);
    let (bytes, allowed) = (12 * hidden as u64, u64::from(capabilities.workgroup_bytes));
    let fits = bytes <= allowed && problem.work(threads).iterations <= capabilities.max_iterations;
    // A step reads all weights, for each batch element.
    let pays = capabilities.pays_to_spread(16 * problem.hidden * problem.hidden, problem.batch, 1);
    let (spreads, why) = match capabilities.forced(OP, &VARIANTS)? {
        Some(false) => {
            check_limit("bytes of an LSTM in workgroup memory", bytes, allowed)?;
            (false, "it was asked for")
        }
        Some(true) => (true, "it was asked for"),
        None if !fits => (true, "the state does not fit workgroup memory, or its loops are too long"),
        None if pays => (true, "one workgroup would read the weights slower than a launch for each step takes"),
        None => (false, "the state fits workgroup memory, and a launch for each step would take longer"),
    };
    Ok(Plan { spreads, hidden, threads, why })
}

impl Lstm {
    /// How [`lstm`](super::lstm()) would run on `x [batch, n, n_in]`, and why.
    ///
    /// # Errors
    /// As there.
    ///
    /// ```
    /// use wgpu_attention::{Device, Tensor, ops::{Linear, Lstm}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let device = Device::best();
    /// let input = Linear { weight: Tensor::zeros(&device, &[3, 32])?, bias: None };
    /// let layer = Lstm { input, hidden: Tensor::zeros(&device, &[8, 32])? };
    /// let decision = layer.decision(&Tensor::zeros(&device, &[1, 100, 3])?)?;
    /// println!("{decision}"); // on a GPU: "lstm: one workgroup in 1 launch, since .."
    /// assert_eq!(decision.op, "lstm");
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
    Ok(recurrence::decide((OP, LSTM), capabilities, sizes, spreads.then_some(1), work, why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::AdapterKind;

    #[test]
    fn decisions() {
        let mut text = String::new();
        for kind in [AdapterKind::Discrete, AdapterKind::Integrated, AdapterKind::Software] {
            for [batch, n, hidden] in
                [[1, 100, 64], [1, 1000, 256], [1, 100, 1024], [64, 100, 1024], [1000, 10, 512], [1, 10, 1536]]
            {
                let decision = decide(&Problem { batch, n, hidden }, &Capabilities::webgpu(kind)).unwrap();
                text += &format!("{kind:?} {batch} x {n} of {hidden}: {decision}\n");
            }
        }
        insta::assert_snapshot!(text);
    }

    #[test]
    fn memory_of_a_workgroup_is_that_of_the_adapter() {
        let problem = Problem { batch: 1000, n: 1, hidden: 1536 };
        let at = |workgroup_bytes| {
            let device = Capabilities { workgroup_bytes, ..Capabilities::webgpu(AdapterKind::Discrete) };
            plan(&problem, &device).unwrap().spreads
        };
        assert!(at(16 << 10) && !at(24 << 10));
    }
}
