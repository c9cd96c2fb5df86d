//! The CPU twins of `shaders/linear_attention_{write,read}.wgsl`.

use std::ops::Range;

use fearless_simd::{Level, dispatch, prelude::*};

use super::problem::{Normalizer, Problem};
use crate::{
    error::Result,
    host::{any, check_room, count, zeros},
    ops::feature_map::{FeatureMap, cpu::Map},
    parallel::*,
    simd::{
        store_some,
        tile::{Panel, Panels, ROWS, product, with_vectors},
    },
};

/// Queries whose features exist at once.
const QUERIES: usize = 96;

/// Keys whose features exist at once. Their products are added in f32, those sums in f64.
const KEYS: usize = 64;

/// Keys of a task at least, and how many tasks a head is cut into at most.
const PART: usize = 4 * KEYS;
const MAX_PARTS: usize = 32;

/// With as many parts a task takes all heads that lie side by side: their rows are one piece of memory.
const ENOUGH_PARTS: usize = 8;

pub(super) fn write(
    level: Level,
    problem: &Problem,
    map: &FeatureMap,
    k: &[f32],
    v: &[f32],
    keep: Option<&[f32]>,
) -> Result<Vec<f32>> {
    dispatch!(level, simd => {
        let map = &Map::new(simd, map, problem.head_dim, problem.n_features)?;
        let task = Write { problem, map, k, v, keep };
        // Parts do not depend on the number of threads, so neither do the bits.
        let part_len = problem.n.div_ceil(MAX_PARTS).max(PART);
        let parts = problem.n.div_ceil(part_len);
        let heads = count(&[problem.outer, problem.inner])?;
        let len = count(&[problem.n_features, problem.width])?;
        let mut state = zeros(&[heads, len])?;
        if parts == 0 {
            return Ok(state);
        }
        // Parts of all heads are there before they are added.
        check_room(size_of::<f64>() as u64 * count(&[heads, parts, len])? as u64)?;
        let together = if parts < ENOUGH_PARTS { 1 } else { problem.inner };
        let sums = (0..heads / together * parts)
            .into_par_iter()
            .map(|i| {
                let (first_head, first) = (i / parts * together, i % parts * part_len);
                let keys = first..problem.n.min(first + part_len);
                simd.vectorize(
                    #[inline(always)]
                    || task.run(simd, first_head..first_head + together, keys),
                )
            })
            .collect::<Result<Vec<Vec<f64>>>>()?;
        let mut total = zeros::<f64>(&[len])?;
        for (head, state) in state.chunks_exact_mut(len.max(1)).enumerate() {
            total.fill(0.0);
            for sums in &sums[head / together * parts..][..parts] {
                let sums = &sums[head % together * len..][..len];
                total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
            }
            state.iter_mut().zip(&total).for_each(|(state, &total)| *state = total as f32);
        }
        Ok(state)
    })
}

struct Write<'a> {
    problem: &'a Problem,
    map: &'a Map,
    k: &'a [f32],
    v: &'a [f32],
    keep: Option<&'a [f32]>,
}

impl Write<'_> {
    /// The sums of some heads of one outer index over some keys, `[heads, n_features, width]`.
    #[inline(always)]
    fn run<S: Simd>(&self, simd: S, heads: Range<usize>, keys: Range<usize>) -> Result<Vec<f64>> {
        let Problem { inner, n, head_dim, n_features, v_dim, width, .. } = *self.problem;
        let panels = Panels::new(simd, width);
        let mut sums = zeros::<f32>(&[n_features, width])?;
        // Row by row as they lie in memory, for all heads: a processor foresees no other order.
        let mut block_keys = zeros(&[heads.len(), KEYS, head_dim])?;
        let mut block_values = zeros(&[heads.len(), KEYS, width])?;
        let is_plain = self.map.is_plain();
        let stride = if is_plain { head_dim } else { n_features.next_multiple_of(ROWS) };
        // The last tile of features may read past them.
        let mut features = zeros(&[KEYS * stride + ROWS])?;
        let mut scaled = Vec::new();
        let mut packed = zeros(&[KEYS, panels.width])?;
        let mut total = zeros(&[heads.len(), sums.len()])?;
        let (outer, first_inner) = (heads.start / inner, heads.start % inner);
        let batch = outer / self.problem.outer_per_batch();
        for first in keys.clone().step_by(KEYS) {
            let len = KEYS.min(keys.end - first);
            // A masked key is not read: whatever it holds cannot spread.
            let exists = |i: usize| self.keep.is_none_or(|keep| keep[batch * n + first + i] > 0.0);
            for i in 0..len {
                let row = (outer * n + first + i) * inner + first_inner;
                for head in 0..heads.len() {
                    let (key, value) = (
                        &mut block_keys[(head * KEYS + i) * head_dim..][..head_dim],
                        &mut block_values[(head * KEYS + i) * width..][..width],
                    );
                    if exists(i) {
                        key.copy_from_slice(&self.k[(row + head) * head_dim..][..head_dim]);
                        value[..v_dim].copy_from_slice(&self.v[(row + head) * v_dim..][..v_dim]);
                        value[v_dim..].fill(1.0);
                    } else {
                        key.fill(0.0);
                        value.fill(0.0);
                    }
                }
            }
            for (head, total) in total.chunks_exact_mut(sums.len()).enumerate() {
                let keys = &block_keys[head * KEYS * head_dim..][..len * head_dim];
                let values = &block_values[head * KEYS * width..][..len * width];
                if is_plain {
                    features[..keys.len()].copy_from_slice(keys);
                } else {
                    let key = |i: usize| exists(i).then(|| &keys[i * head_dim..][..head_dim]);
                    self.map.apply(simd, key, len, stride, &mut scaled, &mut features[..KEYS * stride]);
                }
                for panel in panels.iter() {
                    let packed = &mut packed[..len * panel.width];
                    panel.pack(simd, |i| &values[i * width..][..width], packed);
                    for f in (0..n_features).step_by(ROWS) {
                        let sums = &mut sums[f * width..n_features.min(f + ROWS) * width];
                        with_vectors!(panel, C => {
                            outer_product::<S, C>(simd, &features[f..], stride, &panel, packed, width, sums);
                        });
                    }
                }
                total.iter_mut().zip(&mut sums).for_each(|(total, sum)| *total += f64::from(std::mem::take(sum)));
            }
        }
        Ok(total)
    }
}

/// Adds the products of [`ROWS`] features with one panel of values, over a block of keys.
#[inline(always)]
fn outer_product<S: Simd, const C: usize>(
    simd: S,
    features: &[f32],
    stride: usize,
    panel: &Panel,
    packed: &[f32],
    width: usize,
    sums: &mut [f32],
) {
    let lanes = S::f32s::LEN;
    let mut tile = [[S::f32s::splat(simd, 0.0); C]; ROWS];
    for (key, values) in packed.chunks_exact(C * lanes).enumerate() {
        let mut vectors = [S::f32s::splat(simd, 0.0); C];
        for (vector, values) in vectors.iter_mut().zip(values.chunks_exact(lanes)) {
            *vector = S::f32s::from_slice(simd, values);
        }
        let features = &features[key * stride..][..ROWS];
        for (row, &feature) in tile.iter_mut().zip(features) {
            let feature = S::f32s::splat(simd, feature);
            for (sum, &vector) in row.iter_mut().zip(&vectors) {
                *sum = feature.mul_add(vector, *sum);
            }
        }
    }
    for (sums, tile) in sums.chunks_exact_mut(width).zip(&tile) {
        for (sums, &tile) in sums[panel.first..][..panel.used].chunks_mut(lanes).zip(tile) {
            let before = crate::simd::load_some(simd, sums);
            store_some::<S>(before + tile, sums);
        }
    }
}

pub(super) fn read(
    level: Level,
    problem: &Problem,
    map: &FeatureMap,
    q: &[f32],
    sums: &[f32],
    n_keys: &[u64],
) -> Result<Vec<f32>> {
    let Problem { outer, inner, n, v_dim, .. } = *problem;
    let mut y = any(&[outer, n, inner, v_dim])?;
    if y.is_empty() {
        return Ok(y);
    }
    dispatch!(level, simd => {
        let map = &Map::new(simd, map, problem.head_dim, problem.n_features)?;
        let packed = pack(simd, problem, sums)?;
        let task = Read { problem, map, q, packed: &packed, n_keys };
        y.par_chunks_mut(n * inner * v_dim).enumerate().try_for_each(|(outer, y)| {
            y.par_chunks_mut(QUERIES * inner * v_dim).enumerate().try_for_each(|(block, y)| {
                simd.vectorize(
                    #[inline(always)]
                    || task.run(simd, outer, block * QUERIES, y),
                )
            })
        })?;
        Ok(y)
    })
}

/// The sums of every head, panel after panel.
#[inline(always)]
fn pack<S: Simd>(simd: S, problem: &Problem, sums: &[f32]) -> Result<Vec<f32>> {
    let Problem { n_features, width, .. } = *problem;
    let panels = Panels::new(simd, width);
    let mut packed = zeros(&[problem.batch, problem.kv_heads(), n_features, panels.width])?;
    let heads = packed.chunks_exact_mut(n_features * panels.width);
    for (packed, sums) in heads.zip(sums.chunks_exact(n_features * width)) {
        for panel in panels.iter() {
            let packed = &mut packed[panel.first * n_features..][..panel.width * n_features];
            panel.pack(simd, |f| &sums[f * width..][..width], packed);
        }
    }
    Ok(packed)
}

struct Read<'a> {
    problem: &'a Problem,
    map: &'a Map,
    q: &'a [f32],
    packed: &'a [f32],
    n_keys: &'a [u64],
}

impl Read<'_> {
    /// All heads of some queries, which begin at `first`.
    #[inline(always)]
    fn run<S: Simd>(&self, simd: S, outer: usize, first: usize, y: &mut [f32]) -> Result<()> {
        let Problem { inner, kv_group, n, head_dim, n_features, v_dim, width, normalizer, .. } = *self.problem;
        let panels = Panels::new(simd, width);
        let len = y.len() / (inner * v_dim);
        let is_plain = self.map.is_plain();
        let mut features = zeros(&[if is_plain { 0 } else { len }, n_features])?;
        let mut scaled = Vec::new();
        let mut values = zeros::<f32>(&[ROWS, width])?;
        let count = self.n_keys[outer / self.problem.outer_per_batch()].max(1) as f32;
        for head in 0..inner {
            let query = |i: usize| &self.q[((outer * n + first + i) * inner + head) * head_dim..][..head_dim];
            if !is_plain {
                self.map.apply(simd, |i| Some(query(i)), len, n_features, &mut scaled, &mut features);
            }
            let packed = &self.packed[(outer * inner + head) / kv_group * n_features * panels.width..];
            for i in (0..len).step_by(ROWS) {
                let used = ROWS.min(len - i);
                let mut rows = [&features[..]; ROWS];
                for (r, row) in rows.iter_mut().enumerate() {
                    // Rows past the end repeat the last one.
                    let i = i + r.min(used - 1);
                    *row = if is_plain { query(i) } else { &features[i * n_features..][..n_features] };
                }
                for panel in panels.iter() {
                    let packed = &packed[panel.first * n_features..][..panel.width * n_features];
                    with_vectors!(panel, C => {
                        store::<S, C>(
                            &product::<S, ROWS, C>(simd, rows, packed),
                            &panel,
                            width,
                            &mut values,
                        );
                    });
                }
                for (r, values) in values.chunks_exact(width).enumerate().take(used) {
                    let divisor = match normalizer {
                        // What is stable is read elsewhere.
                        Normalizer::None | Normalizer::Stable => 1.0,
                        Normalizer::KeyCount => count,
                        // This order of comparison keeps NaN.
                        Normalizer::FeatureSum { floor } if values[v_dim] < floor => floor,
                        Normalizer::FeatureSum { .. } => values[v_dim],
                    };
                    let y = &mut y[((i + r) * inner + head) * v_dim..][..v_dim];
                    match divisor {
                        1.0 => y.copy_from_slice(&values[..v_dim]),
                        _ => y.iter_mut().zip(values).for_each(|(y, value)| *y = value / divisor),
                    }
                }
            }
        }
        Ok(())
    }
}

#[inline(always)]
fn store<S: Simd, const C: usize>(tile: &[[S::f32s; C]; ROWS], panel: &Panel, width: usize, values: &mut [f32]) {
    for (values, tile) in values.chunks_exact_mut(width).zip(tile) {
        for (values, &vector) in values[panel.first..][..panel.used].chunks_mut(S::f32s::LEN).zip(tile) {
            store_some::<S>(vector, values);
        }
    }
}
