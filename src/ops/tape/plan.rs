//! Where a tape is on a GPU: a pure function of the sizes and the device.

use super::{
    options::TapeOptions,
    problem::{OP, Problem, TapeInputs, check},
};
use crate::{
    device::{Capabilities, Decision, Work, variants::TAPE},
    error::{Result, check_limit},
};

/// Variants by name: whether the cells are in workgroup memory.
const VARIANTS: [(&str, bool); 2] = [(TAPE[0], true), (TAPE[1], false)];

/// Where the cells of a tape are while it runs, with the sizes that the kernel is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub in_workgroup: bool,
    /// Cells in workgroup memory.
    pub len: usize,
    /// Slots of a head in workgroup memory; 0 where the heads do not fit there either.
    pub slots: usize,
    /// Threads of a workgroup, which takes a tape: one for each column or slot, if there are as many.
    pub threads: usize,
    why: &'static str,
}

impl Problem {
    /// That of a step of a tape; with each loop the test that ends it is one more iteration.
    pub(crate) fn work(&self, threads: usize) -> Work {
        let Self { slots, mem, .. } = *self;
        let of_threads = |n: usize| n.div_ceil(threads);
        Work {
            cost: (6 * self.n_cells() + 100 * slots) as f64,
            // The squares of heads may be summed twice, then come columns, rows and the next step.
            iterations: 2 * (slots + 1)
                + (of_threads(mem) * (4 * (slots + 1) + 1) + 1)
                + (of_threads(slots) * (2 * (mem + 1) + 1) + 1)
                + 1,
        }
    }
}

/// Workgroup memory where the cells fit beside the heads, both before and after a step; storage
/// where not. A tape is not spread over workgroups: a step of the papers' tapes (32 x 128) moves 64 KB
/// three times over, about 2 microseconds of one workgroup, and a launch for each step takes 10; more
/// tapes than one fill a device by themselves.
pub(crate) fn plan(problem: &Problem, capabilities: &Capabilities) -> Result<Plan> {
    let slots = problem.slots.next_multiple_of(16);
    let len = problem.n_cells().next_multiple_of(256);
    let bytes = 4 * (len + 4 * slots);
    let allowed = capabilities.workgroup_bytes as usize;
    let fits = bytes <= allowed;
    let heads_fit = 16 * slots <= allowed;
    let (in_workgroup, why) = match capabilities.forced(OP, &VARIANTS)? {
        Some(true) => {
            check_limit("bytes of a tape in workgroup memory", bytes as u64, allowed as u64)?;
            (true, "it was asked for")
        }
        Some(false) => (false, "it was asked for"),
        None if fits => (true, "the cells and the heads fit workgroup memory"),
        None if heads_fit => (false, "the cells and the heads do not fit workgroup memory"),
        None => (false, "not even the heads fit workgroup memory"),
    };
    let threads = problem.mem.max(problem.slots).next_multiple_of(64).min(256);
    let (len, slots) = (if in_workgroup { len } else { 0 }, if heads_fit { slots } else { 0 });
    Ok(Plan { in_workgroup, len, slots, threads, why })
}

impl TapeInputs<'_> {
    /// Where [`tape`](super::tape()) would keep its cells with these inputs, and why.
    ///
    /// # Errors
    /// As there.
    ///
    /// ```
    /// use wgpu_attention::{Device, Tensor, ops::{HeadMoves, TapeInputs, TapeOptions}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let device = Device::best();
    /// let (value, action) = (Tensor::zeros(&device, &[1, 9, 4])?, Tensor::zeros(&device, &[1, 9, 9])?);
    /// let inputs = TapeInputs { value: &value, key: None, query: None, action: &action, n_tapes: 1, tape_length: 8 };
    /// let decision = inputs.decision(TapeOptions { heads: HeadMoves::NoJump, ..Default::default() })?;
    /// println!("{decision}"); // on a GPU, whether 8 slots of 4 numbers fit workgroup memory
    /// assert_eq!(decision.op, "tape");
    /// # Ok(())
    /// # }
    /// ```
    pub fn decision(&self, options: TapeOptions) -> Result<Decision> {
        let problem = check(self, options, None)?;
        let capabilities = self.value.device().capabilities();
        if capabilities.adapter.is_none() {
            return Ok(Decision::on_cpu(OP, "cpu", "the tensors are there; a thread takes a tape"));
        }
        decide(&problem, &capabilities)
    }
}

fn decide(problem: &Problem, capabilities: &Capabilities) -> Result<Decision> {
    let Plan { in_workgroup, threads, why, .. } = plan(problem, capabilities)?;
    let variant = if in_workgroup { "workgroup memory" } else { "storage" };
    let launches = capabilities.step_pieces(problem.n, problem.batch * problem.n_tapes, problem.work(threads)).len();
    Ok(Decision { op: OP, variant, launches, why: why.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{device::AdapterKind, ops::tape::options::Flags};

    fn place(mem: usize, slots: usize) -> Plan {
        let problem = Problem { batch: 1, n: 1, n_tapes: 1, slots, mem, options: Flags::from(TapeOptions::default()) };
        plan(&problem, &Capabilities::webgpu(AdapterKind::Discrete)).unwrap()
    }

    #[test]
    fn small_tapes_are_in_workgroup_memory() {
        // The papers' own: 32 slots of 128 numbers do not fit; the committed network's do.
        assert!(!place(128, 32).in_workgroup);
        assert!(place(16, 32).in_workgroup);
        assert!(place(1, 1).in_workgroup);
        assert!(!place(2, 1024).in_workgroup);
        assert_eq!([place(2, 1024).slots, place(2, 1025).slots], [1024, 0]);
        assert_eq!([place(2, 32).threads, place(128, 32).threads, place(2, 1024).threads], [64, 128, 256]);
        for slots in [1, 16, 33, 500, 1024] {
            for mem in [1, 16, 100] {
                let place = place(mem, slots);
                assert!(4 * (place.len + 4 * place.slots) <= 16 << 10);
                assert!(place.slots >= slots && (!place.in_workgroup || place.len >= 2 * slots * mem));
            }
        }
    }

    #[test]
    fn decisions() {
        let mut text = String::new();
        for kind in [AdapterKind::Discrete, AdapterKind::Integrated, AdapterKind::Software] {
            for [batch, n, slots, mem] in [[1, 20, 32, 16], [64, 100, 32, 128], [1, 10_000, 1024, 64]] {
                let options = Flags::from(TapeOptions::default());
                let problem = Problem { batch, n, n_tapes: 1, slots, mem, options };
                let decision = decide(&problem, &Capabilities::webgpu(kind)).unwrap();
                text += &format!("{kind:?} {batch} tapes of {slots} x {mem}, {n} steps: {decision}\n");
            }
        }
        insta::assert_snapshot!(text);
    }
}
