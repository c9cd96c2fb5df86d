//! Which form, and how it is cut: a pure function of the sizes and the device.

use std::ops::Range;

use serde::Serialize;

use super::problem::{AttentionMemory, Form, MAX_HEAD_DIM, OP, Problem, check};
use crate::{
    device::{
        Capabilities, Decision, Maker,
        variants::{ATTENTION_MEMORY, name_of},
    },
    error::{Result, check_limit},
    tensor::Tensor,
};

/// Steps of a chunk.
pub(crate) const CHUNK: usize = 32;

/// Numbers of a memory that leave the fastest cache of a core. Below it a step at a time is fast
/// there and does the least work: measured 0.7 times the time of chunks at 64 x 64, the same at
/// 128 x 128, 1.2 times at 256 x 256.
const OUT_OF_CACHE: usize = 1 << 15;

/// The widest heads whose rows of the memory go step by step.
pub(crate) const MAX_RECURRENT: usize = 256;

/// Numbers of a row that a thread keeps, where it has many registers and where it has few. A wider row
/// is several threads', which meet in each step.
pub(crate) const NUMBERS: [usize; 2] = [64, 32];

/// Numbers of a memory that a workgroup carries from chunk to chunk, and vectors of a slice of what it is
/// multiplied by: three quarters of the workgroup memory that every device has. Larger slices need more
/// registers than Intel's GPUs have.
const CARRIED: usize = 2048;
const SLICE: usize = 256;

/// Rows of a memory that a thread carries at most. A workgroup goes from chunk to chunk alone: with fewer rows there
/// are more workgroups, each of which has less to do in a chunk and spares registers for a slice twice as long.
pub(super) const LANES: [usize; 3] = [4, 2, 1];

/// Workgroups for each processor, at least, for threads to carry more rows.
const GROUPS: usize = 2;

/// Numbers of scratch space at once.
const MAX_SCRATCH: usize = 1 << 25;

/// Storage buffers of the texts that read vectors: operands of those share no binding.
const VECTOR_BUFFERS: u32 = 7;

/// A variant of the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rung {
    /// Step by step, so many numbers of a row a thread at most.
    Steps(usize),
    /// In chunks, which are read four numbers at a time, or one; so many rows a thread are carried at most.
    Chunks { vectors: bool, lanes: usize },
}

impl Rung {
    const ALL: [(&str, Self); 6] = [
        (ATTENTION_MEMORY[0], Self::Steps(NUMBERS[0])),
        (ATTENTION_MEMORY[1], Self::Steps(NUMBERS[1])),
        (ATTENTION_MEMORY[2], Self::Chunks { vectors: true, lanes: LANES[0] }),
        (ATTENTION_MEMORY[3], Self::Chunks { vectors: false, lanes: LANES[0] }),
        (ATTENTION_MEMORY[4], Self::Chunks { vectors: true, lanes: LANES[1] }),
        (ATTENTION_MEMORY[5], Self::Chunks { vectors: true, lanes: LANES[2] }),
    ];

    fn name(self) -> &'static str {
        name_of(&Self::ALL, &self)
    }

    fn form(self) -> Form {
        match self {
            Self::Steps(_) => Form::Recurrent,
            Self::Chunks { .. } => Form::Chunked,
        }
    }
}

/// How a call runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub form: Form,
    /// Whether chunks are read four numbers at a time.
    pub vectors: bool,
    /// Rows of a memory that a thread carries at most, from chunk to chunk.
    pub lanes: usize,
    /// Numbers of a row that a thread keeps at most, step by step.
    pub numbers: usize,
    why: &'static str,
    /// Steps that are launched at once, in their order. All but the last are whole chunks.
    pub pieces: Vec<Range<usize>>,
}

/// Floating-point operations of a step, about.
pub(crate) fn cost_of_step(problem: &Problem) -> f64 {
    6.0 * (problem.heads() * problem.head_dim * problem.v_dim) as f64
}

/// How memories are carried from chunk to chunk: what a workgroup has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Carried {
    /// Of the memory.
    pub rows: usize,
    /// Rows of a thread.
    pub lanes: usize,
    /// A power of two that head_dim fits.
    pub head_dim: usize,
    /// Each has four columns.
    pub threads: usize,
    /// Vectors of a slice of what is multiplied.
    pub slice: usize,
}

impl Carried {
    /// With so many rows a thread at most.
    pub(crate) fn new(problem: &Problem, most: usize) -> Self {
        let head_dim = problem.head_dim.next_power_of_two().max(32);
        let carried = CARRIED * most / LANES[0];
        let rows = (carried / head_dim).clamp(1, CHUNK).min(problem.v_dim.next_power_of_two().max(4));
        let lanes = rows.min(most);
        let threads = rows / lanes * head_dim / 4;
        let whole = CHUNK / 4 * head_dim;
        let slice = |vectors: usize, most: usize| (vectors * threads).min(most).min(whole);
        // Four vectors a thread where it has few rows, or where that is all of w or k, else two.
        let slice = match most < LANES[0] {
            true => slice(4, 2 * SLICE),
            false if slice(4, SLICE) == whole => whole,
            false => slice(2, SLICE),
        };
        Self { rows, lanes, head_dim, threads, slice }
    }

    /// Workgroups that carry all memories.
    pub(crate) fn groups(&self, problem: &Problem) -> usize {
        problem.heads().saturating_mul(problem.v_dim.div_ceil(self.rows))
    }

    /// Of a slice of `w`, those that a thread multiplies.
    pub(crate) fn columns(&self) -> usize {
        let splits = self.threads / (CHUNK / 4 * self.rows / self.lanes);
        self.slice / (CHUNK / 4) / splits
    }

    /// Of a slice of `k`.
    pub(crate) fn steps(&self) -> usize {
        4 * self.slice / self.head_dim
    }

    /// Loop iterations of a thread in a chunk.
    fn iterations(&self) -> usize {
        let of_w = self.head_dim / (self.slice / (CHUNK / 4)) * (1 + self.columns().div_ceil(4));
        let of_k = CHUNK / self.steps() * (1 + self.steps().div_ceil(4));
        let splits = self.threads / (CHUNK / 4 * self.rows / self.lanes);
        1 + of_w + splits + of_k + CHUNK / 4
    }
}

/// Loop iterations of an invocation in a step, no fewer: what the kernels of each form do, in
/// chunks the one that carries the memory.
pub(crate) fn iterations_of_step(problem: &Problem, form: Form, lanes: usize) -> usize {
    match form {
        Form::Recurrent => 3 + problem.head_dim.div_ceil(4),
        Form::Chunked => Carried::new(problem, lanes).iterations().div_ceil(CHUNK),
    }
}

/// Whether chunks are read four numbers at a time.
pub(crate) fn vectors(problem: &Problem, capabilities: &Capabilities) -> Result<bool> {
    let fits = problem.head_dim.is_multiple_of(4) && problem.v_dim.is_multiple_of(4);
    let binds = capabilities.storage_buffers >= VECTOR_BUFFERS;
    let is_forced = matches!(capabilities.forced(OP, &Rung::ALL)?, Some(Rung::Chunks { vectors: false, .. }));
    Ok(fits && binds && !is_forced)
}

/// Rows of a memory that a thread carries at most: as many as leave each processor its workgroups, where chunks are
/// read four numbers at a time.
fn lanes(problem: &Problem, vectors: bool, capabilities: &Capabilities) -> Result<usize> {
    let [most, .., fewest] = LANES;
    if !vectors {
        return Ok(most);
    }
    if let Some(Rung::Chunks { lanes, .. }) = capabilities.forced(OP, &Rung::ALL)? {
        return Ok(lanes);
    }
    let fills = |lanes: &usize| Carried::new(problem, *lanes).groups(problem) >= GROUPS * capabilities.processors;
    Ok(LANES.into_iter().find(fills).unwrap_or(fewest))
}

/// Numbers of a row that a thread keeps at most, step by step: more of them spare sums over a row's threads.
fn numbers(capabilities: &Capabilities) -> Result<usize> {
    let [most, fewest] = NUMBERS;
    let fitting = if Maker::of(capabilities).has_many_registers() { most } else { fewest };
    Ok(match capabilities.forced(OP, &Rung::ALL)? {
        Some(Rung::Steps(numbers)) => numbers,
        _ => fitting,
    })
}

/// Chooses the form, `form` being the caller's wish, if there is one, and cuts the call so that a
/// launch stays within what a submit and an invocation may take.
pub(crate) fn plan(problem: &Problem, form: Option<Form>, capabilities: &Capabilities) -> Result<Plan> {
    let is_gpu = capabilities.adapter.is_some();
    let vectors = vectors(problem, capabilities)?;
    let lanes = lanes(problem, vectors, capabilities)?;
    let numbers = numbers(capabilities)?;
    let form = form.or(capabilities.forced(OP, &Rung::ALL)?.map(Rung::form));
    let (form, why) = match form {
        Some(form) => (form, "it was asked for"),
        None if is_gpu => on_gpu(problem),
        None => on_cpu(problem),
    };
    let allowed = if form == Form::Recurrent { MAX_RECURRENT } else { MAX_HEAD_DIM };
    if is_gpu {
        check_limit("head_dim of attention_memory on a GPU", problem.head_dim as u64, allowed as u64)?;
    }
    let by_budget = (capabilities.submit_budget / cost_of_step(problem).max(1.0)) as usize;
    // A chunk keeps the memory before it, and two rows a step.
    let of_chunk = problem.heads().saturating_mul((problem.v_dim + CHUNK).saturating_mul(problem.head_dim + CHUNK));
    let by_scratch = match form {
        Form::Recurrent => usize::MAX,
        Form::Chunked => (MAX_SCRATCH / of_chunk.max(1)).saturating_mul(CHUNK),
    };
    // The sizes of a kernel mean nothing where there is none.
    let by_iterations =
        if is_gpu { capabilities.max_iterations / iterations_of_step(problem, form, lanes) } else { usize::MAX };
    let step = (by_budget.min(by_scratch).min(by_iterations) / CHUNK * CHUNK).max(CHUNK);
    // Without heads the steps do nothing, however many they are.
    let n = if problem.heads() == 0 { 0 } else { problem.n };
    let pieces = (0..n).step_by(step).map(|first| first..n.min(first.saturating_add(step))).collect();
    Ok(Plan { form, vectors, lanes, numbers, why, pieces })
}

fn on_gpu(problem: &Problem) -> (Form, &'static str) {
    match problem.n < CHUNK && problem.head_dim <= MAX_RECURRENT {
        true => (Form::Recurrent, "fewer steps than a chunk gain nothing from products of matrices"),
        false => (Form::Chunked, "a chunk of steps and more is mostly products of matrices"),
    }
}

fn on_cpu(problem: &Problem) -> (Form, &'static str) {
    match problem.n >= 2 * CHUNK && problem.head_dim * problem.v_dim >= OUT_OF_CACHE {
        true => (Form::Chunked, "the memory leaves the fastest cache of a core, so fewer passes over it pay"),
        false => (Form::Recurrent, "the memory stays in the fastest cache of a core, where this is the least work"),
    }
}

impl AttentionMemory<'_> {
    /// How [`attention_memory`](super::attention_memory()) would run with these options, and why. (A
    /// write alone that erases nothing is a sum and runs as [`LinearAttention`](crate::ops::LinearAttention) does.)
    ///
    /// # Errors
    /// As there.
    ///
    /// ```
    /// use wgpu_attention::{Device, Tensor, ops::{AttentionMemory, Form, Layout}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let k = Tensor::zeros(&Device::cpu(), &[1, 8, 100, 64])?;
    /// let memory = AttentionMemory::new(Layout::HeadMajor);
    /// assert_eq!(memory.decision(&k, &k)?.variant, "recurrent"); // a small memory, on the CPU
    /// assert_eq!(memory.form(Form::Chunked).decision(&k, &k)?.variant, "chunked");
    /// # Ok(())
    /// # }
    /// ```
    pub fn decision(&self, k: &Tensor, v: &Tensor) -> Result<Decision> {
        let (keys, v_dim) = check(OP, None, k, v, self)?;
        let problem = Problem::new(self.layout, keys, v_dim);
        let capabilities = k.device().capabilities();
        decide(&problem, self.form, &capabilities)
    }
}

/// Each piece of the steps is one launch, or three: chunks, the memory from chunk to chunk, reads.
fn decide(problem: &Problem, form: Option<Form>, capabilities: &Capabilities) -> Result<Decision> {
    let Plan { form, vectors, lanes, numbers, why, pieces } = plan(problem, form, capabilities)?;
    let on_cpu = capabilities.adapter.is_none();
    let (rung, of_piece) = match form {
        Form::Recurrent => (Rung::Steps(if on_cpu { NUMBERS[0] } else { numbers }), 1),
        Form::Chunked if on_cpu => (Rung::Chunks { vectors: true, lanes: LANES[0] }, 3),
        Form::Chunked => (Rung::Chunks { vectors, lanes }, 3),
    };
    if on_cpu {
        return Ok(Decision::on_cpu(OP, rung.name(), why));
    }
    Ok(Decision { op: OP, variant: rung.name(), launches: of_piece * pieces.len(), why: why.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::AdapterKind;

    fn problem(n: usize, head_dim: usize) -> Problem {
        Problem { batch: 1, n, n_heads: 8, head_dim, v_dim: head_dim }
    }

    #[test]
    fn decisions() {
        let devices = [AdapterKind::Discrete, AdapterKind::Integrated, AdapterKind::Software].map(Capabilities::webgpu);
        let many_registers = Capabilities { driver: "Radeon".into(), ..Capabilities::webgpu(AdapterKind::Discrete) };
        let mut text = String::new();
        for capabilities in [Capabilities::cpu()].into_iter().chain(devices).chain([many_registers]) {
            for (n, head_dim) in [(1, 64), (31, 64), (32, 64), (8192, 64), (64, 256), (100_000, 128)] {
                let decision = decide(&problem(n, head_dim), None, &capabilities).unwrap();
                text += &format!("{} {n} steps of {head_dim}: {decision}\n", capabilities.driver);
            }
        }
        insta::assert_snapshot!(text);
    }

    #[test]
    fn large_memories_are_chunked_on_the_cpu() {
        for (n, head_dim, form) in [
            (1, 256, Form::Recurrent),
            (63, 256, Form::Recurrent),
            (64, 256, Form::Chunked),
            (8192, 64, Form::Recurrent),
            (8192, 128, Form::Recurrent),
        ] {
            assert_eq!(
                plan(&problem(n, head_dim), None, &Capabilities::cpu()).unwrap().form,
                form,
                "{n} steps, head_dim {head_dim}"
            );
        }
    }

    #[test]
    fn loops_end_before_the_adapter_ends_them() {
        for (form, head_dim) in
            [(Form::Recurrent, 8), (Form::Recurrent, 256), (Form::Chunked, 64), (Form::Chunked, 1024)]
        {
            let problem = problem(100_000, head_dim);
            let capabilities = Capabilities { submit_budget: 1e30, ..Capabilities::webgpu(AdapterKind::Software) };
            let plan = plan(&problem, Some(form), &capabilities).unwrap();
            for piece in &plan.pieces {
                assert!(
                    piece.len() * iterations_of_step(&problem, form, plan.lanes) <= 32_767,
                    "{form:?}, {head_dim}: {piece:?}"
                );
            }
        }
    }

    #[test]
    fn plans_cover_every_step_once_and_stay_within_the_budget() {
        for n in [1, 31, 32, 33, 8192, 100_000] {
            for head_dim in [1, 64, 256, 1024] {
                for budget in [1e6, 1e9, 1e11] {
                    let problem = problem(n, head_dim);
                    let capabilities =
                        Capabilities { submit_budget: budget, ..Capabilities::webgpu(AdapterKind::Discrete) };
                    let plan = plan(&problem, None, &capabilities).unwrap();
                    let is_short = n < CHUNK && head_dim <= MAX_RECURRENT;
                    assert_eq!(plan.form == Form::Recurrent, is_short, "{n} {head_dim}");
                    let mut next = 0;
                    for piece in &plan.pieces {
                        assert_eq!(piece.start, next);
                        assert!(piece.end == n || piece.len() % CHUNK == 0);
                        let cost = cost_of_step(&problem) * piece.len() as f64;
                        assert!(cost <= budget || piece.len() <= CHUNK, "{n} {head_dim} {budget}: {cost}");
                        next = piece.end;
                    }
                    assert_eq!(next, n);
                }
            }
        }
        let gpu = Capabilities::webgpu(AdapterKind::Discrete);
        let error = plan(&problem(10, 300), Some(Form::Recurrent), &gpu).unwrap_err().to_string();
        assert!(error.contains("300 requested, 256 allowed"), "{error}");
    }
}
