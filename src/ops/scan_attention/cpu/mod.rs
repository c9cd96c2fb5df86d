//! The CPU twin of `shaders/scan_attention.wgsl`: blocks of queries run in parallel, each over
//! blocks of keys with a running softmax. Logits are in base 2 (multiplied by `log2 e`).

mod bias;
mod distance;
mod pack;
mod softmax;
#[cfg(test)]
mod tests;

use std::{f32::consts::LOG2_E, ops::Range};

use fearless_simd::{Level, dispatch, prelude::*};
use rayon::prelude::*;

use self::{
    bias::{Keep, PairBias, Region, Tiles},
    pack::Packing,
    softmax::{State, Step},
};
use super::{CpuInputs, MASKED, Problem};
use crate::{ops::merge_attention::cpu::merge_attention, simd::tile::ROWS};

/// The score of a masked pair in base 2.
const MASKED_2: f32 = MASKED * LOG2_E;

/// Queries in a task: whole tiles.
const BLOCK_QUERIES: usize = 8 * ROWS;

/// Tasks that keep a large processor busy; with fewer the keys are split.
const ENOUGH_TASKS: usize = 64;

/// Blocks of keys that are worth a split.
const BLOCKS_PER_SPLIT: usize = 4;

/// Returns the values and the log-sum-exp, in the layout of the problem.
pub(super) fn scan_attention(problem: &Problem, inputs: &CpuInputs<'_>) -> (Vec<f32>, Vec<f32>) {
    scan_with(Level::new(), problem, inputs)
}

/// [`scan_attention`] with the instructions of `level`.
fn scan_with(level: Level, problem: &Problem, inputs: &CpuInputs<'_>) -> (Vec<f32>, Vec<f32>) {
    dispatch!(level, simd => scan(simd, problem, inputs))
}

/// Some queries of some heads over some of the keys.
#[derive(Clone, Debug)]
struct Task {
    split: usize,
    batch: usize,
    heads: Range<usize>,
    queries: Range<usize>,
    /// Blocks of keys.
    blocks: Range<usize>,
}

/// Everything the tasks share.
struct Scan<'a> {
    problem: &'a Problem,
    inputs: &'a CpuInputs<'a>,
    packing: Packing,
    n_blocks: usize,
    n_splits: usize,
    bias: PairBias<'a>,
    /// All packed blocks, `[batch, head, block]`; empty if the tasks pack for themselves.
    packed: Vec<f32>,
}

/// What one task read: `[head, query, v_dim]` and `[head, query]`.
struct Partial {
    values: Vec<f32>,
    log_sum_exp: Vec<f32>,
}

/// Memory that a thread uses again for its next task.
struct Scratch {
    q: Vec<f32>,
    block: Vec<f32>,
    scores: Vec<f32>,
    tiles: Tiles,
    states: Vec<State>,
}

fn scan<S: Simd>(simd: S, problem: &Problem, inputs: &CpuInputs<'_>) -> (Vec<f32>, Vec<f32>) {
    let most_keys = problem.n_keys.div_ceil(inputs.n_splits.unwrap_or(1));
    let packing = Packing::new(simd, problem, most_keys);
    let n_blocks = problem.n_keys.div_ceil(packing.block_keys);
    let q_blocks = problem.n_queries.div_ceil(BLOCK_QUERIES);
    let bias = PairBias::new(problem, inputs, packing.block_keys);
    // Heads share the distances, if there are any.
    let head_groups = if bias.is_shared() { 1 } else { problem.n_heads };
    let n_tasks = problem.batch * head_groups * q_blocks;
    let wanted =
        inputs.n_splits.unwrap_or_else(|| ENOUGH_TASKS.div_ceil(n_tasks).min(n_blocks.div_ceil(BLOCKS_PER_SPLIT)));
    let blocks_per_split = n_blocks.div_ceil(wanted.max(1));
    let n_splits = n_blocks.div_ceil(blocks_per_split);

    let mut scan = Scan { problem, inputs, packing, n_blocks, n_splits, bias, packed: Vec::new() };
    if q_blocks > 1 {
        scan.packed = scan.pack(simd);
    }
    let mut tasks = Vec::with_capacity(n_tasks * n_splits);
    for split in 0..n_splits {
        let blocks = split * blocks_per_split..n_blocks.min((split + 1) * blocks_per_split);
        for batch in 0..problem.batch {
            for group in 0..head_groups {
                let heads = group * problem.n_heads / head_groups..(group + 1) * problem.n_heads / head_groups;
                for start in (0..problem.n_queries).step_by(BLOCK_QUERIES) {
                    let queries = start..problem.n_queries.min(start + BLOCK_QUERIES);
                    tasks.push(Task { split, batch, heads: heads.clone(), queries, blocks: blocks.clone() });
                }
            }
        }
    }
    let partials: Vec<Partial> = tasks
        .par_iter()
        .map_init(
            || scan.scratch(),
            |scratch, task| {
                simd.vectorize(
                    #[inline(always)]
                    || scan.run(simd, task, scratch),
                )
            },
        )
        .collect();
    scan.gather(&tasks, &partials)
}

impl Scan<'_> {
    fn scratch(&self) -> Scratch {
        let tile = ROWS * self.packing.block_keys;
        let heads = if self.bias.is_shared() { self.problem.n_heads } else { 1 };
        Scratch {
            q: Vec::new(),
            block: if self.packed.is_empty() { vec![0.0; heads * self.packing.block_len()] } else { Vec::new() },
            scores: vec![0.0; tile],
            tiles: self.bias.tiles(),
            states: (0..heads).map(|_| State::new()).collect(),
        }
    }

    /// The keys of a block.
    fn keys(&self, block: usize) -> Range<usize> {
        block * self.packing.block_keys..self.problem.n_keys.min((block + 1) * self.packing.block_keys)
    }

    /// Packs every block of every head.
    fn pack<S: Simd>(&self, simd: S) -> Vec<f32> {
        let Problem { batch, n_heads, .. } = *self.problem;
        let len = self.packing.block_len();
        let mut packed = vec![0.0; batch * n_heads * self.n_blocks * len];
        packed.par_chunks_mut(len).enumerate().for_each(|(i, packed)| {
            let (head, block) = (i / self.n_blocks, i % self.n_blocks);
            simd.vectorize(
                #[inline(always)]
                || self.pack_block(simd, [head / n_heads, head % n_heads], block, packed),
            );
        });
        packed
    }

    #[inline(always)]
    fn pack_block<S: Simd>(&self, simd: S, at: [usize; 2], block: usize, packed: &mut [f32]) {
        let keys = self.keys(block);
        let k = self.inputs.k_rows(self.problem, at, keys.clone());
        let v = self.inputs.v_rows(self.problem, at, keys);
        self.packing.pack(simd, &k, &v, self.bias.key_bias(at[0], block), packed);
    }

    #[inline(always)]
    fn run<S: Simd>(&self, simd: S, task: &Task, scratch: &mut Scratch) -> Partial {
        let Task { batch, ref heads, ref queries, .. } = *task;
        let Packing { head_dim, v_panels, .. } = self.packing;
        let padded = if queries.len() == 1 { 1 } else { queries.len().next_multiple_of(ROWS) };
        self.pack_queries(task, padded, &mut scratch.q);
        for state in &mut scratch.states {
            state.reset(padded, S::f32s::LEN, v_panels.width);
        }
        for block in task.blocks.clone() {
            if self.bias.keep(batch, block) == Keep::None {
                continue;
            }
            let n_keys = self.keys(block).len();
            if self.packed.is_empty() {
                let blocks = scratch.block.chunks_exact_mut(self.packing.block_len());
                for (head, packed) in heads.clone().zip(blocks) {
                    self.pack_block(simd, [batch, head], block, packed);
                }
            }
            for first_row in (0..queries.len()).step_by(ROWS) {
                let n_rows = ROWS.min(queries.len() - first_row);
                let first = queries.start + first_row;
                let region = Region { batch, queries: first..first + n_rows, block, n_keys };
                let tiles = &mut scratch.tiles;
                let keep = simd.vectorize(
                    #[inline(always)]
                    || self.bias.measure(simd, &region, tiles),
                );
                if keep == Keep::None {
                    continue;
                }
                for (i, head) in heads.clone().enumerate() {
                    let (tiles, scores) = (&scratch.tiles, &mut scratch.scores);
                    let biased = simd.vectorize(
                        #[inline(always)]
                        || self.bias.write(simd, &region, head, keep, tiles, scores),
                    );
                    let len = self.packing.block_len();
                    let step = Step {
                        packing: &self.packing,
                        q: &scratch.q[(i * padded + first_row) * head_dim..],
                        block: if self.packed.is_empty() {
                            &scratch.block[i * len..][..len]
                        } else {
                            let at = (batch * self.problem.n_heads + head) * self.n_blocks + block;
                            &self.packed[at * len..][..len]
                        },
                        n_keys,
                        biased,
                        first_row,
                        n_rows,
                    };
                    let (scores, state) = (&mut scratch.scores, &mut scratch.states[i]);
                    simd.vectorize(
                        #[inline(always)]
                        || step.run_rows(simd, scores, state),
                    );
                }
            }
        }
        self.finish(task, &scratch.states, S::f32s::LEN)
    }

    /// The task's queries, `[head, padded, head_dim]`, in base 2.
    fn pack_queries(&self, task: &Task, padded: usize, packed: &mut Vec<f32>) {
        let scale = self.problem.scale * LOG2_E;
        let head_dim = self.packing.head_dim;
        packed.clear();
        for head in task.heads.clone() {
            let q = self.inputs.q_rows(self.problem, [task.batch, head], task.queries.clone());
            for i in 0..q.n {
                packed.extend(q.row(i).iter().map(|x| x * scale));
            }
            packed.resize(packed.len() + (padded - q.n) * head_dim, 0.0);
        }
    }

    fn finish(&self, task: &Task, states: &[State], lanes: usize) -> Partial {
        let Packing { v_dim, v_panels, .. } = self.packing;
        let rows = task.heads.len() * task.queries.len();
        let mut values = Vec::with_capacity(rows * v_dim);
        let mut log_sum_exp = Vec::with_capacity(rows);
        for state in &states[..task.heads.len()] {
            for (row, query) in task.queries.clone().enumerate() {
                let largest = state.largest[row];
                if largest <= 0.5 * MASKED_2 || !self.bias.has_query(task.batch, query) {
                    values.resize(values.len() + v_dim, 0.0);
                    log_sum_exp.push(MASKED);
                    continue;
                }
                let sum: f32 = state.sums[row * lanes..][..lanes].iter().sum();
                values.extend(state.values[row * v_panels.width..][..v_dim].iter().map(|x| x / sum));
                let log = f64::from(largest) + f64::from(sum).log2();
                log_sum_exp.push((log * std::f64::consts::LN_2) as f32);
            }
        }
        Partial { values, log_sum_exp }
    }

    /// Puts the partial results in place, and merges those of split keys.
    fn gather(&self, tasks: &[Task], partials: &[Partial]) -> (Vec<f32>, Vec<f32>) {
        let Problem { batch, n_heads, n_queries, v_dim, .. } = *self.problem;
        let rows = batch * n_heads * n_queries;
        let strides = self.problem.strides(n_queries, 1);
        let mut values = vec![0.0; self.n_splits * rows * v_dim];
        let mut log_sum_exp = vec![0.0; self.n_splits * rows];
        for (task, partial) in tasks.iter().zip(partials) {
            let mut from = 0;
            for head in task.heads.clone() {
                for query in task.queries.clone() {
                    let row = task.split * rows + task.batch * strides[0] + head * strides[1] + query * strides[2];
                    values[row * v_dim..][..v_dim].copy_from_slice(&partial.values[from * v_dim..][..v_dim]);
                    log_sum_exp[row] = partial.log_sum_exp[from];
                    from += 1;
                }
            }
        }
        if self.n_splits == 1 {
            return (values, log_sum_exp);
        }
        merge_attention(self.n_splits, v_dim, &values, &log_sum_exp)
    }
}
