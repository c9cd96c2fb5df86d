//! The CPU twins of `shaders/attention_memory{,_chunk,_state,_read}.wgsl`.

mod chunked;
mod head;
mod recurrent;

use fearless_simd::{Level, dispatch, prelude::*};

use super::problem::{Form, Problem};
use crate::{
    error::Result,
    host::{check_room, collect, count, zeros},
    parallel::*,
    simd::tile::{Panels, ROWS, product, with_vectors},
};
pub(super) use head::Inputs;
use head::{Head, pack_memory, store_row};

/// Queries of a task.
const TASK: usize = 64 * ROWS;

/// What is read `[batch, n, n_heads * v_dim]` (nothing without queries) and the memory.
pub(super) fn run(level: Level, inputs: &Inputs<'_>, form: Form) -> Result<(Vec<f32>, Vec<f32>)> {
    let problem = inputs.problem;
    let Problem { n, n_heads, head_dim, v_dim, .. } = *problem;
    // Small tokens can ask for a large memory, which is there in panels, of each head, and of all.
    let len = count(&[problem.heads(), head_dim, v_dim])?;
    check_room((3 * size_of::<f32>() as u64).saturating_mul(len as u64))?;
    let of_head = |i: usize| {
        let head = Head { inputs, batch: i / n_heads, head: i % n_heads };
        let len = head_dim * v_dim;
        let before = inputs.memory.map(|memory| &memory[i * len..][..len]);
        dispatch!(level, simd => simd.vectorize(
            #[inline(always)]
            || match form {
                Form::Recurrent => recurrent::run(simd, &head, before),
                Form::Chunked => chunked::run(simd, &head, before),
            },
        ))
    };
    let heads = (0..problem.heads()).into_par_iter().map(of_head).collect::<Result<Vec<(Vec<f32>, Vec<f32>)>>>()?;
    let memory = collect(len, heads.iter().flat_map(|(_, memory)| memory).copied())?;
    let mut values = Vec::new();
    if inputs.q.is_some() {
        values = zeros(&[problem.heads(), n, v_dim])?;
        values.par_chunks_mut(n_heads * v_dim).enumerate().with_min_len(16).for_each(|(row, values)| {
            let heads = &heads[row / n * n_heads..][..n_heads];
            for (values, (of_head, _)) in values.chunks_exact_mut(v_dim).zip(heads) {
                values.copy_from_slice(&of_head[row % n * v_dim..][..v_dim]);
            }
        });
    }
    Ok((values, memory))
}

/// `p_r M q` for every query.
pub(super) fn read(
    level: Level,
    problem: &Problem,
    memory: &[f32],
    q: &[f32],
    p_read: Option<&[f32]>,
) -> Result<Vec<f32>> {
    let Problem { batch, n, n_heads, head_dim, v_dim } = *problem;
    let mut y = zeros(&[batch, n, n_heads, v_dim])?;
    if y.is_empty() {
        return Ok(y);
    }
    dispatch!(level, simd => {
        let panels = Panels::new(simd, v_dim);
        let heads = memory.chunks_exact(v_dim * head_dim);
        let packed = heads.map(|memory| pack_memory(memory, head_dim, panels)).collect::<Result<Vec<Vec<f32>>>>()?;
        y.par_chunks_mut(n * n_heads * v_dim).enumerate().for_each(|(b, y)| {
            y.par_chunks_mut(TASK * n_heads * v_dim).enumerate().for_each(|(task, y)| {
                let tokens = (b * n + task * TASK) * n_heads;
                let reader = Reader { problem, packed: &packed[b * n_heads..], q: &q[tokens * head_dim..] };
                let p_read = p_read.map(|p| &p[tokens..]);
                simd.vectorize(
                    #[inline(always)]
                    || reader.run(simd, panels, p_read, y),
                );
            });
        });
        Ok(y)
    })
}

struct Reader<'a> {
    problem: &'a Problem,
    /// The memories of a batch element.
    packed: &'a [Vec<f32>],
    /// From the first token on.
    q: &'a [f32],
}

impl Reader<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, simd: S, panels: Panels, p_read: Option<&[f32]>, y: &mut [f32]) {
        let Problem { n_heads, head_dim, v_dim, .. } = *self.problem;
        for head in 0..n_heads {
            for (block, y) in y.chunks_mut(ROWS * n_heads * v_dim).enumerate() {
                let used = y.len() / (n_heads * v_dim);
                let mut rows = [self.q; ROWS];
                for (r, row) in rows.iter_mut().enumerate() {
                    // Rows past the end repeat the last one.
                    let token = (block * ROWS + r.min(used - 1)) * n_heads + head;
                    *row = &self.q[token * head_dim..][..head_dim];
                }
                let p = |r: usize| p_read.map_or(1.0, |p| p[(block * ROWS + r) * n_heads + head]);
                for panel in panels.iter() {
                    let packed = &self.packed[head][panel.first * head_dim..][..panel.width * head_dim];
                    let to = |r: usize| (r * n_heads + head) * v_dim + panel.first;
                    with_vectors!(panel, C => {
                        let tile = product::<S, ROWS, C>(simd, rows, packed);
                        (0..used).for_each(|r| store_row::<S, C>(&tile[r], p(r), &panel, &mut y[to(r)..]));
                    });
                }
            }
        }
    }
}
