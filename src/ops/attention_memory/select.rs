//! Which form, and how it is cut for a GPU: pure functions of the sizes, tested without one.

#[cfg(feature = "gpu")]
use std::ops::Range;

use super::Problem;
#[cfg(feature = "gpu")]
use crate::error::{Error, Result};

/// Steps of a chunk.
pub(crate) const CHUNK: usize = 32;

/// How a sequence is computed. The forms agree to rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Form {
    /// Step by step.
    Recurrent,
    /// 32 steps at a time: the more of the work is products of matrices, the longer the sequence.
    Chunked,
}

/// Numbers of a memory that leave the fastest cache of a core. Below it a step at a time is fast
/// there and does the least work: measured 0.7 times the time of chunks at 64 x 64, the same at
/// 128 x 128, 1.2 times at 256 x 256.
const OUT_OF_CACHE: usize = 1 << 15;

/// The form on the CPU.
pub(crate) fn on_cpu(problem: &Problem) -> Form {
    let is_large = problem.head_dim * problem.v_dim >= OUT_OF_CACHE;
    if problem.n >= 2 * CHUNK && is_large { Form::Chunked } else { Form::Recurrent }
}

/// The widest heads whose rows of the memory fit a thread's registers.
#[cfg(feature = "gpu")]
pub(crate) const MAX_RECURRENT: usize = 256;

/// Numbers of scratch space at once.
#[cfg(feature = "gpu")]
const MAX_SCRATCH: usize = 1 << 25;

/// How a call is cut for a GPU.
#[cfg(feature = "gpu")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub form: Form,
    /// Steps that are launched at once, in their order. All but the last are whole chunks.
    pub pieces: Vec<Range<usize>>,
}

/// Floating-point operations of a step, about.
#[cfg(feature = "gpu")]
pub(crate) fn cost_of_step(problem: &Problem) -> f64 {
    6.0 * (problem.heads() * problem.head_dim * problem.v_dim) as f64
}

/// Loop iterations of an invocation in a step, no fewer: what the kernels of each form do, in
/// chunks the one that carries the memory.
#[cfg(feature = "gpu")]
fn iterations_of_step(problem: &Problem, form: Form) -> usize {
    match form {
        Form::Recurrent => 2 + problem.head_dim.div_ceil(4),
        // Up to 16 rows for 256 threads; every number of the memory once a step, every number
        // that is written once a number of a key.
        Form::Chunked => problem.head_dim.div_ceil(8) + 4,
    }
}

/// Cuts a call so that a launch stays within `budget` floating-point operations and
/// `max_iterations` of a loop. `form` is the caller's wish, if there is one.
#[cfg(feature = "gpu")]
pub(crate) fn plan(problem: &Problem, form: Option<Form>, budget: f64, max_iterations: usize) -> Result<Plan> {
    let allowed = match form {
        Some(Form::Recurrent) => MAX_RECURRENT,
        _ => super::MAX_HEAD_DIM,
    };
    if problem.head_dim > allowed {
        return Err(Error::LimitExceeded {
            limit: "head_dim of attention_memory on a GPU",
            requested: problem.head_dim as u64,
            allowed: allowed as u64,
        });
    }
    let is_short = problem.n < CHUNK && problem.head_dim <= MAX_RECURRENT;
    let form = form.unwrap_or(if is_short { Form::Recurrent } else { Form::Chunked });
    let by_budget = (budget / cost_of_step(problem).max(1.0)) as usize;
    // A chunk keeps the memory before it, and two rows a step.
    let of_chunk = problem.heads() * (problem.v_dim + CHUNK) * (problem.head_dim + CHUNK);
    let by_scratch = match form {
        Form::Recurrent => usize::MAX,
        Form::Chunked => (MAX_SCRATCH / of_chunk.max(1)).saturating_mul(CHUNK),
    };
    let by_iterations = max_iterations / iterations_of_step(problem, form);
    let step = (by_budget.min(by_scratch).min(by_iterations) / CHUNK * CHUNK).max(CHUNK);
    let pieces = (0..problem.n).step_by(step).map(|first| first..problem.n.min(first.saturating_add(step))).collect();
    Ok(Plan { form, pieces })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(n: usize, head_dim: usize) -> Problem {
        Problem { batch: 1, n, n_heads: 8, head_dim, v_dim: head_dim }
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
            assert_eq!(on_cpu(&problem(n, head_dim)), form, "{n} steps, head_dim {head_dim}");
        }
    }

    #[cfg(feature = "gpu")]
    #[test]
    fn loops_end_before_the_adapter_ends_them() {
        for (form, head_dim) in
            [(Form::Recurrent, 8), (Form::Recurrent, 256), (Form::Chunked, 64), (Form::Chunked, 1024)]
        {
            let problem = problem(100_000, head_dim);
            let plan = plan(&problem, Some(form), 1e30, 60_000).unwrap();
            for piece in &plan.pieces {
                assert!(piece.len() * iterations_of_step(&problem, form) <= 60_000, "{form:?}, {head_dim}: {piece:?}");
            }
        }
    }

    #[cfg(feature = "gpu")]
    #[test]
    fn plans_cover_every_step_once_and_stay_within_the_budget() {
        for n in [1, 31, 32, 33, 8192, 100_000] {
            for head_dim in [1, 64, 256, 1024] {
                for budget in [1e6, 1e9, 1e11] {
                    let problem = problem(n, head_dim);
                    let plan = plan(&problem, None, budget, usize::MAX).unwrap();
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
        let error = plan(&problem(10, 300), Some(Form::Recurrent), 1e9, usize::MAX).unwrap_err().to_string();
        assert!(error.contains("300 requested, 256 allowed"), "{error}");
    }
}
