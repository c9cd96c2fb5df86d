//! The CPU twin of `shaders/scan_attention.wgsl`: blocks of queries run in parallel, each over
//! blocks of keys with a running softmax. Logits are in base 2 (multiplied by `log2 e`).

mod bias;
mod distance;
mod kernel;
mod pack;
mod single;
mod softmax;
#[cfg(test)]
mod tests;

use std::{
    ops::Range,
    sync::{Mutex, PoisonError},
};

use fearless_simd::{Level, dispatch, prelude::*};

use self::{
    bias::{Keep, PairBias, Region, Tiles},
    pack::{Packing, Unpacked, Wide},
    softmax::{Row, State, Step},
};
use super::problem::{CpuInputs, Problem};
use crate::{
    error::Result,
    host::{any, zeros},
    parallel::*,
    simd::tile::ROWS,
};

/// Queries in a task: whole tiles.
const BLOCK_QUERIES: usize = 8 * ROWS;

/// Tasks that keep a large processor busy; with fewer the keys are split.
const ENOUGH_TASKS: usize = 64;

/// Blocks of keys that are worth a split.
const BLOCKS_PER_SPLIT: usize = 4;

/// Multiply-adds that are worth waking a thread for.
const THREAD_WORK: usize = 1 << 22;

/// Numbers to copy that are worth it.
const THREAD_NUMBERS: usize = 1 << 16;

/// Returns the values and the log-sum-exp, in the layout of the problem.
pub(super) fn scan_attention(level: Level, problem: &Problem, inputs: &CpuInputs<'_>) -> Result<(Vec<f32>, Vec<f32>)> {
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
    blocks_of_task: usize,
    heads_of_task: usize,
    bias: PairBias<'a>,
    /// All packed blocks, `[batch, head of keys, block]`; empty if the tasks pack for themselves.
    packed: Vec<f32>,
}

/// What was read: one part for each split of the keys, in the layout of the problem.
struct Output {
    values: Vec<f32>,
    /// The log-sum-exp; of several parts the largest logit of each, in base 2.
    log_sum_exp: Vec<f32>,
    /// The sums by which several parts are divided when they are one.
    sums: Vec<f32>,
}

/// Memory that a thread uses again for its next task.
struct Scratch {
    q: Vec<f32>,
    block: Vec<f32>,
    wide: Wide,
    scores: Vec<f32>,
    tiles: Tiles,
    states: Vec<State>,
}

fn scan<S: Simd>(simd: S, problem: &Problem, inputs: &CpuInputs<'_>) -> Result<(Vec<f32>, Vec<f32>)> {
    let scan = Scan::new(simd, problem, inputs)?;
    let tasks = scan.tasks();
    let rows = problem.batch * problem.n_heads * problem.n_queries;
    let output = Mutex::new(Output {
        values: any(&[scan.n_splits(), rows, problem.v_dim])?,
        log_sum_exp: any(&[scan.n_splits(), rows])?,
        sums: zeros(&[if scan.n_splits() > 1 { scan.n_splits() * rows } else { 0 }])?,
    });
    let tasks = tasks.par_iter().with_min_len(THREAD_WORK.div_ceil(scan.work_of_task()));
    tasks.for_each_init(
        || scan.scratch(),
        |scratch, task| {
            simd.vectorize(
                #[inline(always)]
                || scan.run(simd, task, scratch),
            );
            scan.finish(task, S::f32s::LEN, &scratch.states, &output);
        },
    );
    let output = output.into_inner().unwrap_or_else(PoisonError::into_inner);
    if scan.n_splits() == 1 { Ok((output.values, output.log_sum_exp)) } else { output.merged(rows, problem.v_dim) }
}

impl Output {
    /// Of all the keys.
    fn merged(&self, rows: usize, v_dim: usize) -> Result<(Vec<f32>, Vec<f32>)> {
        let (mut values, mut log_sum_exp) = (any(&[rows, v_dim])?, any(&[rows])?);
        let merged = values.par_chunks_exact_mut(v_dim).zip(&mut log_sum_exp).enumerate();
        merged.with_min_len(THREAD_NUMBERS.div_ceil(v_dim)).for_each(|(row, (values, log_sum_exp))| {
            let parts = (row..self.sums.len()).step_by(rows).map(|i| Row {
                largest: self.log_sum_exp[i],
                sum: self.sums[i],
                values: &self.values[i * v_dim..][..v_dim],
            });
            *log_sum_exp = Row::finish(parts, values);
        });
        Ok((values, log_sum_exp))
    }
}

impl<'a> Scan<'a> {
    fn new<S: Simd>(simd: S, problem: &'a Problem, inputs: &'a CpuInputs<'a>) -> Result<Self> {
        let most_keys = problem.n_keys.div_ceil(inputs.n_splits.unwrap_or(1));
        let packing = Packing::new(simd, problem, most_keys);
        let n_blocks = problem.n_keys.div_ceil(packing.block_keys);
        let bias = PairBias::new(problem, inputs, packing.block_keys)?;
        // Heads share the distances, if there are any.
        let heads_of_task = if bias.has_distances() { problem.n_heads } else { 1 };
        let q_blocks = problem.n_queries.div_ceil(BLOCK_QUERIES);
        let n_tasks = problem.batch * (problem.n_heads / heads_of_task) * q_blocks;
        let n_splits =
            inputs.n_splits.unwrap_or_else(|| ENOUGH_TASKS.div_ceil(n_tasks).min(n_blocks.div_ceil(BLOCKS_PER_SPLIT)));
        let blocks_of_task = n_blocks.div_ceil(n_splits.max(1));
        let packed = Vec::new();
        let mut scan = Self { problem, inputs, packing, n_blocks, blocks_of_task, heads_of_task, bias, packed };
        // Several tasks read the same blocks.
        if q_blocks > 1 || (problem.kv_group > 1 && !scan.is_single()) {
            scan.packed = scan.pack(simd)?;
        }
        Ok(scan)
    }

    /// Parts into which the keys are split; at most as many as the caller asked for, whole blocks.
    fn n_splits(&self) -> usize {
        self.n_blocks.div_ceil(self.blocks_of_task)
    }

    /// Depends on the problem alone, not on the number of threads: so do the bits of the result.
    fn tasks(&self) -> Vec<Task> {
        let Problem { batch, n_heads, n_queries, .. } = *self.problem;
        let ranges = |n: usize, step: usize| (0..n).step_by(step).map(move |start| start..n.min(start + step));
        let mut tasks = Vec::new();
        for (split, blocks) in ranges(self.n_blocks, self.blocks_of_task).enumerate() {
            for batch in 0..batch {
                for heads in ranges(n_heads, self.heads_of_task) {
                    for queries in ranges(n_queries, BLOCK_QUERIES) {
                        let (heads, blocks) = (heads.clone(), blocks.clone());
                        tasks.push(Task { split, batch, heads, queries, blocks });
                    }
                }
            }
        }
        tasks
    }

    /// Multiply-adds in a task, roughly.
    fn work_of_task(&self) -> usize {
        let Problem { n_queries, head_dim, v_dim, .. } = *self.problem;
        let pairs = n_queries.min(BLOCK_QUERIES) * self.blocks_of_task * self.packing.block_keys;
        self.heads_of_task * pairs * (head_dim + v_dim + self.bias.work_of_pair())
    }

    fn scratch(&self) -> Scratch {
        let tile = ROWS * self.packing.block_keys;
        let heads = self.heads_of_task;
        Scratch {
            q: Vec::new(),
            block: if self.packs_itself() { vec![0.0; heads * self.packing.block_len()] } else { Vec::new() },
            wide: Wide::default(),
            scores: vec![0.0; tile],
            tiles: self.bias.tiles(),
            states: (0..heads).map(|_| State::new()).collect(),
        }
    }

    /// Whether tasks pack the blocks that they read.
    fn packs_itself(&self) -> bool {
        self.packed.is_empty() && !self.is_single()
    }

    /// Whether there is only one query, which reads keys and values as they are.
    fn is_single(&self) -> bool {
        self.problem.n_queries == 1
    }

    /// The keys of a block.
    fn keys(&self, block: usize) -> Range<usize> {
        block * self.packing.block_keys..self.problem.n_keys.min((block + 1) * self.packing.block_keys)
    }

    /// Packs every block of every head.
    fn pack<S: Simd>(&self, simd: S) -> Result<Vec<f32>> {
        let Problem { batch, n_heads, kv_group, .. } = *self.problem;
        let n_heads = n_heads / kv_group;
        let len = self.packing.block_len();
        let mut packed = zeros(&[batch, n_heads, self.n_blocks, len])?;
        let blocks = packed.par_chunks_mut(len).enumerate().with_min_len(THREAD_NUMBERS.div_ceil(len));
        blocks.for_each_init(Wide::default, |wide, (i, packed)| {
            let (head, block) = (i / self.n_blocks, i % self.n_blocks);
            simd.vectorize(
                #[inline(always)]
                || self.pack_block(simd, [head / n_heads, head % n_heads], block, wide, packed),
            );
        });
        Ok(packed)
    }

    #[inline(always)]
    fn pack_block<S: Simd>(&self, simd: S, at: [usize; 2], block: usize, wide: &mut Wide, packed: &mut [f32]) {
        self.packing.pack(simd, &self.unpacked(at, block, wide), packed);
    }

    /// The keys and values of one block of one of their heads.
    fn unpacked<'w>(&'w self, at: [usize; 2], block: usize, wide: &'w mut Wide) -> Unpacked<'w> {
        let [k, v] = self.inputs.kv_rows(self.problem, at, self.keys(block), wide);
        Unpacked { k, v, keep: self.bias.key_bias(at[0], block), by_pair: self.bias.is_by_pair() }
    }

    /// Reads all keys of a task into the states of its heads.
    #[inline(always)]
    fn run<S: Simd>(&self, simd: S, task: &Task, scratch: &mut Scratch) {
        let Task { batch, ref heads, ref queries, .. } = *task;
        let Problem { n_heads, kv_group, .. } = *self.problem;
        let Packing { head_dim, v_panels, .. } = self.packing;
        let padded = if self.is_single() { 1 } else { queries.len().next_multiple_of(ROWS) };
        self.pack_queries(task, padded, &mut scratch.q);
        for state in &mut scratch.states {
            state.reset(padded, S::f32s::LEN, v_panels.width);
        }
        for block in task.blocks.clone() {
            if self.bias.keep(batch, block) == Keep::None {
                continue;
            }
            let n_keys = self.keys(block).len();
            if self.packs_itself() {
                let blocks = scratch.block.chunks_exact_mut(self.packing.block_len());
                for (head, packed) in heads.clone().zip(blocks) {
                    self.pack_block(simd, [batch, head / kv_group], block, &mut scratch.wide, packed);
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
                    let q = &scratch.q[(i * padded + first_row) * head_dim..];
                    let step = Step { packing: &self.packing, q, n_keys, biased, first_row, n_rows };
                    let (scores, state) = (&mut scratch.scores, &mut scratch.states[i]);
                    let (at, wide) = ([batch, head / kv_group], &mut scratch.wide);
                    if self.is_single() {
                        let unpacked = self.unpacked(at, block, wide);
                        simd.vectorize(
                            #[inline(always)]
                            || step.run_single(simd, &unpacked, scores, state),
                        );
                    } else {
                        let len = self.packing.block_len();
                        let packed = if self.packs_itself() {
                            &scratch.block[i * len..][..len]
                        } else {
                            let at = (batch * (n_heads / kv_group) + head / kv_group) * self.n_blocks + block;
                            &self.packed[at * len..][..len]
                        };
                        simd.vectorize(
                            #[inline(always)]
                            || step.run(simd, packed, move || self.unpacked(at, block, wide), scores, state),
                        );
                    }
                }
            }
        }
    }

    /// The task's queries, `[head, padded, head_dim]`, in base 2.
    fn pack_queries(&self, task: &Task, padded: usize, packed: &mut Vec<f32>) {
        let scale = self.problem.scale * std::f32::consts::LOG2_E;
        let scaled = |x: &f32| match scale.is_finite() {
            true => x * scale,
            // The scale alone overflows in base 2, which its product with a small number need not.
            false => (f64::from(*x) * f64::from(self.problem.scale) * std::f64::consts::LOG2_E) as f32,
        };
        let head_dim = self.packing.head_dim;
        packed.clear();
        for head in task.heads.clone() {
            let q = self.inputs.q_rows(self.problem, [task.batch, head], task.queries.clone());
            for i in 0..q.n {
                packed.extend(q.row(i).iter().map(scaled));
            }
            packed.resize(packed.len() + (padded - q.n) * head_dim, 0.0);
        }
    }

    /// Puts what a task read in place, divided by its sums if it read all keys.
    fn finish(&self, task: &Task, lanes: usize, states: &[State], output: &Mutex<Output>) {
        let Problem { batch, n_heads, n_queries, v_dim, .. } = *self.problem;
        let strides = self.problem.strides(n_queries, 1);
        let first = task.split * batch * n_heads * n_queries + task.batch * strides[0];
        // A copy, short against the rest of the task.
        let output = &mut *output.lock().unwrap_or_else(PoisonError::into_inner);
        for (head, state) in task.heads.clone().zip(states) {
            for (row, query) in task.queries.clone().enumerate() {
                let to = first + head * strides[1] + query * strides[2];
                let read = state.row(row, lanes, self.bias.has_query(task.batch, query));
                let values = &mut output.values[to * v_dim..][..v_dim];
                if output.sums.is_empty() {
                    output.log_sum_exp[to] = Row::finish([read].into_iter(), values);
                } else {
                    values.copy_from_slice(&read.values[..v_dim]);
                    (output.log_sum_exp[to], output.sums[to]) = (read.largest, read.sum);
                }
            }
        }
    }
}
