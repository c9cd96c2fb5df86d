//! Adds keys to exact sums. What a key adds is worked out from that key alone, and everything that
//! follows is addition of integers: in f64 as long as they are below `2^53`, then in 64 bits, then in 256.

use fearless_simd::{Level, dispatch, prelude::*};

use super::{
    limits::{DIGIT, DIGITS, LEAST_SCORE, Limits, SHIFT, exponent, power},
    pieces::Wide,
};
use crate::{
    error::Result,
    host::zeros,
    ops::layout::Sizes,
    parallel::*,
    simd::{
        math::{exp2_parts, power_of_two},
        tile::{ROWS, VECTORS, product},
    },
    wide::add_shifted,
};

/// Digits that are cut from one f32, and the least power of two that it is begun with.
const HALF: usize = DIGITS / 2;
const LEAST_POWER: f32 = -124.0;

/// Bits of a value, beside its sign.
pub(super) const VALUE: i32 = 22;

/// Keys whose products of a digit and a value add up to at most `2^53`.
const BLOCK: usize = 1 << (53 - DIGIT - VALUE as u32);

/// Blocks whose sums add up to less than `2^63`.
const BLOCKS: usize = 512;

/// Rows of a task.
const TASK_ROWS: usize = 64;

/// Vectors of a panel of values.
const PANEL: usize = 2;

/// Products that are worth a thread.
const THREAD_WORK: usize = 1 << 20;

/// What is added.
pub(super) struct Inputs<'a> {
    /// Of the queries.
    pub sizes: Sizes,
    pub kv_heads: usize,
    pub n_keys: usize,
    pub v_dim: usize,
    /// In base 2, `[batch, n_heads, n_queries, dim]`.
    pub queries: &'a [f32],
    pub k: &'a [f32],
    /// Strides of (batch, head, row).
    pub k_strides: [usize; 3],
    pub v: &'a [f32],
    pub v_strides: [usize; 3],
    /// One where a key exists, `[batch, n_keys]`.
    pub mask: Option<&'a [f32]>,
    pub limits: &'a Limits,
}

/// What went beyond its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beyond {
    Score { row: usize },
    Value { batch: usize, key: usize },
}

/// Some rows of queries that read the same head of keys.
struct Task<'a> {
    /// `batch * kv_heads + head`.
    head: usize,
    /// The first, of all rows.
    first: usize,
    /// `[rows, 1 + v_dim]`.
    sums: &'a mut [Wide],
}

/// Adds all keys to `sums [batch, n_heads, n_queries, 1 + v_dim]`, which are of no use after an error.
pub(super) fn add(level: Level, inputs: &Inputs<'_>, sums: &mut [Wide]) -> Result<Option<Beyond>> {
    if sums.is_empty() {
        // Widths of nothing may be any.
        return Ok(None);
    }
    let Sizes { n_heads, n, .. } = inputs.sizes;
    let width = 1 + inputs.v_dim;
    let rows = (n_heads / inputs.kv_heads * n).max(1);
    let mut tasks = Vec::new();
    for (head, sums) in sums.chunks_mut(rows * width).enumerate() {
        for (i, sums) in sums.chunks_mut(TASK_ROWS * width).enumerate() {
            tasks.push(Task { head, first: head * rows + i * TASK_ROWS, sums });
        }
    }
    let work = TASK_ROWS * inputs.n_keys * (inputs.sizes.dim + 2 * width);
    let tasks = tasks.par_iter_mut().with_min_len(THREAD_WORK.div_ceil(work.max(1)));
    let found: Vec<Option<Beyond>> = tasks
        .map(|task| dispatch!(level, simd => simd.vectorize(#[inline(always)] || Scratch::new(simd, inputs)?.run(simd, task))))
        .collect::<Result<_>>()?;
    Ok(found.into_iter().flatten().next())
}

struct Scratch<'a> {
    inputs: &'a Inputs<'a>,
    /// Panels `[dim, vectors of a tile]` of keys.
    k: Vec<f32>,
    /// Panels `[BLOCK, vectors of a tile]` of values as integers, the weight's factor first.
    values: Vec<f64>,
    /// The exponent of each key's values; what is not there has no score that matters.
    exponents: [f32; BLOCK],
    absent: [f32; BLOCK],
    /// `[ROWS, DIGITS, BLOCK]`.
    digits: Vec<f64>,
    /// `[TASK_ROWS, DIGITS, 1 + v_dim]`.
    sums: Vec<i64>,
}

impl<'a> Scratch<'a> {
    #[inline(always)]
    fn new<S: Simd>(_: S, inputs: &'a Inputs<'a>) -> Result<Self> {
        let width = (1 + inputs.v_dim).next_multiple_of(PANEL * S::f64s::LEN);
        Ok(Self {
            inputs,
            k: zeros(&[inputs.sizes.dim, BLOCK])?,
            values: zeros(&[BLOCK, width])?,
            exponents: [0.0; BLOCK],
            absent: [0.0; BLOCK],
            digits: zeros(&[ROWS, DIGITS, BLOCK])?,
            sums: zeros(&[TASK_ROWS, DIGITS, 1 + inputs.v_dim])?,
        })
    }

    #[inline(always)]
    fn run<S: Simd>(&mut self, simd: S, task: &mut Task<'_>) -> Result<Option<Beyond>> {
        let n_keys = self.inputs.n_keys;
        for (i, first) in (0..n_keys).step_by(BLOCK).enumerate() {
            let n = BLOCK.min(n_keys - first);
            if let Some(key) = self.pack(simd, task.head, first, n) {
                let batch = task.head / self.inputs.kv_heads;
                return Ok(Some(Beyond::Value { batch, key }));
            }
            // Whole panels; what is not there adds zeros.
            let n = n.next_multiple_of(VECTORS * S::f32s::LEN);
            if let Some(row) = self.block(simd, task, n) {
                return Ok(Some(Beyond::Score { row: task.first + row }));
            }
            if (i + 1) % BLOCKS == 0 {
                self.flush(task);
            }
        }
        self.flush(task);
        Ok(None)
    }

    /// Keys as columns, values as integers; a key whose values are beyond the limit.
    #[inline(always)]
    fn pack<S: Simd>(&mut self, _: S, head: usize, first: usize, n: usize) -> Option<usize> {
        let Inputs { kv_heads, n_keys, v_dim, k, k_strides, v, v_strides, mask, limits, .. } = *self.inputs;
        let (batch, head) = (head / kv_heads, head % kv_heads);
        let panel = PANEL * S::f64s::LEN;
        let lanes = VECTORS * S::f32s::LEN;
        for key in 0..n.next_multiple_of(lanes) {
            let at = first + key;
            let exists = key < n && mask.is_none_or(|mask| mask[batch * n_keys + at] != 0.0);
            self.absent[key] = if exists { 0.0 } else { 2.0 * LEAST_SCORE };
            let from = |[b, h, r]: [usize; 3]| batch * b + head * h + at * r;
            let k = if exists { &k[from(k_strides)..] } else { &[] };
            let columns = &mut self.k[key / lanes * lanes * self.inputs.sizes.dim + key % lanes..];
            for (d, to) in columns.iter_mut().step_by(lanes).take(self.inputs.sizes.dim).enumerate() {
                *to = k.get(d).copied().unwrap_or(0.0);
            }
            let v = if exists { &v[from(v_strides)..][..v_dim] } else { &[] };
            let largest = v.iter().fold(0f32, |largest, x| largest.max(x.abs()));
            let exponent = exponent(largest).max(limits.value - SHIFT);
            if exponent > limits.value {
                return Some(at);
            }
            self.exponents[key] = exponent as f32;
            let factor = power(VALUE - exponent);
            for c in 0..=v_dim {
                let x = match c {
                    0 => power(limits.value - exponent),
                    _ => (f64::from(v.get(c - 1).copied().unwrap_or(0.0)) * factor).round_ties_even(),
                };
                self.values[c / panel * panel * BLOCK + key * panel + c % panel] = x;
            }
        }
        None
    }

    /// Adds a block of packed keys to the rows of a task; a row whose score is beyond the limit.
    #[inline(always)]
    fn block<S: Simd>(&mut self, simd: S, task: &Task<'_>, n: usize) -> Option<usize> {
        let width = 1 + self.inputs.v_dim;
        let n_rows = task.sums.len() / width;
        for first in (0..n_rows).step_by(ROWS) {
            let rows = ROWS.min(n_rows - first);
            let all_used = self.digits(simd, task.first + first, rows, n);
            let mut used = [0; ROWS * DIGITS];
            let mut n_used = 0;
            for (r, of_row) in all_used.into_iter().enumerate().take(rows) {
                let Some(of_row) = of_row else { return Some(first + r) };
                for (digit, is_used) in of_row.into_iter().enumerate() {
                    used[n_used] = r * DIGITS + digit;
                    n_used += usize::from(is_used);
                }
            }
            self.products(simd, first, &used[..n_used], n);
        }
        None
    }

    /// The digits of the weights of some rows, and which of each row's are not all zero; nothing of a row
    /// that has a score beyond its limit.
    #[inline(always)]
    fn digits<S: Simd>(&mut self, simd: S, first: usize, rows: usize, n: usize) -> [Option<[bool; DIGITS]>; ROWS] {
        let Inputs { sizes, queries, limits, .. } = self.inputs;
        let dim = sizes.dim;
        // Rows past the end repeat the last one.
        let row = |r: usize| first + r.min(rows - 1);
        let q: [&[f32]; ROWS] = std::array::from_fn(|r| &queries[row(r) * dim..][..dim]);
        let limit: [i32; ROWS] = std::array::from_fn(|r| limits.scores[row(r)]);
        let zero = S::f32s::splat(simd, 0.0);
        let one = S::f32s::splat(simd, 1.0);
        let (mut beyond, mut largest) = ([zero; ROWS], [[zero; DIGITS]; ROWS]);
        let lanes = S::f32s::LEN;
        for (p, k) in self.k.chunks_exact(VECTORS * lanes * dim).enumerate().take(n / (VECTORS * lanes)) {
            let tile = product::<S, ROWS, VECTORS>(simd, q, k);
            for (c, at) in (0..VECTORS).map(|c| (c, (p * VECTORS + c) * lanes)) {
                let scores: [S::f32s; ROWS] = std::array::from_fn(|r| tile[r][c]);
                let exponents = S::f32s::from_slice(simd, &self.exponents[at..at + lanes]);
                let absent = S::f32s::from_slice(simd, &self.absent[at..at + lanes]);
                for (r, score) in scores.into_iter().enumerate().take(rows) {
                    // A weight is at most half of what its digits can say.
                    let most = (limit[r] - 1) as f32;
                    let score = score + absent;
                    // This order of comparison finds NaN, too.
                    beyond[r] = score.simd_le(most).select(beyond[r], one);
                    let [fraction, power] = exp2_parts(simd, score.max(LEAST_SCORE).min(most));
                    let exponent = power + (exponents - (limit[r] + limits.value) as f32);
                    let mut rest = fraction * power_of_score(simd, exponent);
                    for (digit, largest) in largest[r].iter_mut().enumerate() {
                        if digit == HALF {
                            // What was too small for an f32 is seen from here.
                            let lower = fraction * power_of_score(simd, exponent + (HALF as u32 * DIGIT) as f32);
                            rest = exponent.simd_gt(LEAST_POWER).select(rest, lower);
                        }
                        let scaled = rest * (1 << DIGIT) as f32;
                        let whole = scaled.trunc();
                        rest = scaled - whole;
                        *largest = largest.max(whole);
                        let (low, high) = whole.widen();
                        let to = &mut self.digits[(r * DIGITS + digit) * BLOCK + at..][..lanes];
                        low.store_slice(&mut to[..S::f64s::LEN]);
                        high.store_slice(&mut to[S::f64s::LEN..]);
                    }
                }
            }
        }
        let is_any = |x: S::f32s| x.as_slice().iter().any(|x| *x != 0.0);
        std::array::from_fn(|r| if is_any(beyond[r]) { None } else { Some(largest[r].map(is_any)) })
    }

    /// Adds digits times values.
    #[inline(always)]
    fn products<S: Simd>(&mut self, simd: S, first: usize, used: &[usize], n: usize) {
        let width = 1 + self.inputs.v_dim;
        let panel = PANEL * S::f64s::LEN;
        for (p, values) in self.values.chunks_exact(panel * BLOCK).enumerate() {
            let columns = panel.min(width - p * panel);
            for used in used.chunks(ROWS) {
                let row = |i: usize| &self.digits[used[i.min(used.len() - 1)] * BLOCK..][..n];
                let tile = product_of_integers::<S, ROWS, PANEL>(simd, std::array::from_fn(row), &values[..n * panel]);
                for (&used, tile) in used.iter().zip(&tile) {
                    let mut exact = [0.0; 2 * 16];
                    for (exact, sum) in exact.chunks_exact_mut(S::f64s::LEN).zip(tile) {
                        sum.store_slice(exact);
                    }
                    let sums = &mut self.sums[(first * DIGITS + used) * width + p * panel..][..columns];
                    sums.iter_mut().zip(exact).for_each(|(sum, x)| *sum += x as i64);
                }
            }
        }
    }

    /// Moves what was added to the sums of the task.
    fn flush(&mut self, task: &mut Task<'_>) {
        let width = 1 + self.inputs.v_dim;
        for (sums, new) in task.sums.chunks_exact_mut(width).zip(self.sums.chunks_exact_mut(DIGITS * width)) {
            for (digit, new) in new.chunks_exact_mut(width).enumerate() {
                let shift = DIGIT * (DIGITS - 1 - digit) as u32;
                if new.iter().all(|new| *new == 0) {
                    continue;
                }
                for (sum, new) in sums.iter_mut().zip(new) {
                    add_shifted(sum, std::mem::take(new), shift);
                }
            }
        }
    }
}

/// Rows of digits times a panel of values, all of them integers.
#[inline(always)]
fn product_of_integers<S: Simd, const R: usize, const C: usize>(
    simd: S,
    a: [&[f64]; R],
    b: &[f64],
) -> [[S::f64s; C]; R] {
    let lanes = S::f64s::LEN;
    let depth = b.len() / (C * lanes);
    let a = a.map(|row| &row[..depth]);
    let mut sums = [[S::f64s::splat(simd, 0.0); C]; R];
    for (i, b) in (0..depth).zip(b.chunks_exact(C * lanes)) {
        let mut vectors = [S::f64s::splat(simd, 0.0); C];
        for (vector, b) in vectors.iter_mut().zip(b.chunks_exact(lanes)) {
            *vector = S::f64s::from_slice(simd, b);
        }
        for (sums, row) in sums.iter_mut().zip(&a) {
            let x = S::f64s::splat(simd, row[i]);
            for (sum, &vector) in sums.iter_mut().zip(&vectors) {
                *sum = x.mul_add(vector, *sum);
            }
        }
    }
    sums
}

/// `2^x` for integers; what is below `2^-124` has no digit in the next [`HALF`] and becomes `2^-124`, which has none
/// either and is no subnormal number.
#[inline(always)]
fn power_of_score<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    power_of_two(simd, x.max(LEAST_POWER))
}
