//! What is added to the logits of some queries over a block of keys: distances once for all
//! heads, then each head's kernels.

use std::ops::Range;

use fearless_simd::prelude::*;

use super::{
    super::{
        bias::{BiasTerm, TermKind, is_masked},
        custom::CustomBias,
        problem::{CpuInputs, Problem},
    },
    distance::{self, Packed},
    kernel::{Term, base_2},
    softmax::NONE,
};
use crate::{
    error::Result,
    host::{check_room, filled, zeros},
    simd::tile::{ROWS, VECTORS},
};

/// Which pairs of a tile take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    All,
    /// The same keys for every query.
    Keys,
    /// As the tile of masks says.
    Pairs,
    None,
}

/// The bias of one call.
pub(super) struct PairBias<'a> {
    problem: &'a Problem,
    inputs: &'a CpuInputs<'a>,
    block_keys: usize,
    n_blocks: usize,
    terms: Vec<Term>,
    custom: Vec<(&'a CustomBias, Range<usize>)>,
    /// Packed columns of all terms.
    width: usize,
    /// `[batch, n_queries, width]`, see [`BiasStrides`](super::super::strides::BiasStrides).
    q_points: Vec<f32>,
    /// `[batch, block, width, block_keys]`.
    k_points: Vec<f32>,
    /// Whether a query has coordinates: `[batch, n_queries]`, empty without terms.
    has_query: Vec<bool>,
    /// 0 for a key that takes part, [`NONE`] for one that does not: `[batch, block, block_keys]`.
    key_bias: Vec<f32>,
    /// `[batch, block]`.
    keep: Vec<Keep>,
}

/// Memory for some queries over a block of keys.
pub(super) struct Tiles {
    /// `[query, block_keys]`, like [`PairBias::key_bias`].
    mask: Vec<f32>,
    /// `[term, query, block_keys]`.
    distances: Vec<f32>,
}

/// Some queries over one block of keys.
#[derive(Clone, Debug)]
pub(super) struct Region {
    pub batch: usize,
    pub queries: Range<usize>,
    pub block: usize,
    pub n_keys: usize,
}

impl<'a> PairBias<'a> {
    pub fn new(problem: &'a Problem, inputs: &'a CpuInputs<'a>, block_keys: usize) -> Result<Self> {
        let Problem { batch, n_heads, n_keys, n_columns, .. } = *problem;
        let n_blocks = n_keys.div_ceil(block_keys);
        let (mut terms, mut custom, mut packed) = (Vec::new(), Vec::new(), Vec::new());
        let mut width = 0;
        for term in inputs.terms {
            match &term.kind {
                TermKind::Custom(bias) => custom.push((bias, term.columns.clone())),
                TermKind::Distance { distance, kernel, .. } => {
                    let columns = Packed::new(*distance, &term.columns);
                    let in_base_2 = |[a, b, c, most]: [f32; 4]| [base_2(a), b, c, most];
                    let coefficients = term.coefficients(n_heads).map(in_base_2).collect();
                    terms.push(Term {
                        distance: *distance,
                        kernel: *kernel,
                        columns: width..width + columns.width(),
                        n_basis: term.n_basis(n_heads),
                        coefficients,
                    });
                    width += columns.width();
                    packed.push(columns);
                }
            }
        }
        let has_query = finite_points(inputs.q_coords, n_columns, inputs.terms);
        let has_key = finite_points(inputs.k_coords, n_columns, inputs.terms);
        // Points are packed in pieces, and then as a whole.
        let n_points = (has_query.len() + has_key.len()) as u64;
        check_room(n_points.saturating_mul(3 * (size_of::<f32>() * width) as u64))?;
        let q_points = distance::pack(inputs.q_coords, n_columns, &has_query, &packed);
        let by_point = distance::pack(inputs.k_coords, n_columns, &has_key, &packed);

        let mut k_points = zeros(&[batch, n_blocks, width, block_keys])?;
        let mut key_bias = filled(NONE, &[batch, n_blocks, block_keys])?;
        let mut keep = Vec::with_capacity(batch * n_blocks);
        for b in 0..batch {
            for block in 0..n_blocks {
                let first = b * n_keys + block * block_keys;
                let point = b * problem.bias.k_coords + block * block_keys;
                let n = block_keys.min(n_keys - block * block_keys);
                let at = (b * n_blocks + block) * block_keys;
                for (j, bias) in key_bias[at..at + n].iter_mut().enumerate() {
                    let exists = inputs.key_mask.is_none_or(|mask| mask[first + j] != 0.0);
                    if exists && has_key.get(point + j).copied().unwrap_or(true) {
                        *bias = 0.0;
                    }
                }
                for c in 0..width {
                    for j in 0..n {
                        k_points[at * width + c * block_keys + j] = by_point[(point + j) * width + c];
                    }
                }
                let kept = key_bias[at..at + n].iter().filter(|&&bias| bias == 0.0).count();
                keep.push(match kept {
                    0 => Keep::None,
                    // A short block has keys that do not exist.
                    _ if kept < n || n < block_keys => Keep::Keys,
                    _ => Keep::All,
                });
            }
        }
        Ok(Self {
            problem,
            inputs,
            block_keys,
            n_blocks,
            terms,
            custom,
            width,
            q_points,
            k_points,
            has_query,
            key_bias,
            keep,
        })
    }

    /// Whether a key may be masked for some queries alone.
    pub fn is_by_pair(&self) -> bool {
        !self.inputs.terms.is_empty() || self.inputs.matrix.is_some()
    }

    /// Whether there are distances, which heads share.
    pub fn has_distances(&self) -> bool {
        !self.terms.is_empty()
    }

    /// What a pair costs one head, in multiply-adds.
    pub fn work_of_pair(&self) -> usize {
        const OF_EXPONENTIAL: usize = 16;
        OF_EXPONENTIAL * (1 + self.terms.iter().map(|term| term.n_basis).sum::<usize>() + self.custom.len())
    }

    /// Whether a query takes part at all.
    pub fn has_query(&self, batch: usize, query: usize) -> bool {
        self.has_query.get(batch * self.problem.bias.q_coords + query).copied().unwrap_or(true)
    }

    /// Which keys of a block take part.
    pub fn keep(&self, batch: usize, block: usize) -> Keep {
        self.keep[batch * self.n_blocks + block]
    }

    /// 0 or [`NONE`] for each key of a block.
    pub fn key_bias(&self, batch: usize, block: usize) -> &[f32] {
        &self.key_bias[(batch * self.n_blocks + block) * self.block_keys..][..self.block_keys]
    }

    pub fn tiles(&self) -> Tiles {
        let tile = if self.terms.is_empty() { 0 } else { ROWS * self.block_keys };
        Tiles { mask: vec![0.0; tile], distances: vec![0.0; self.terms.len() * tile] }
    }

    /// Computes what all heads share, and says which pairs take part.
    #[inline(always)]
    pub fn measure<S: Simd>(&self, simd: S, region: &Region, tiles: &mut Tiles) -> Keep {
        let &Region { batch, block, .. } = region;
        let mut keep = self.keep(batch, block);
        let stride = self.block_keys;
        let width = region.n_keys.next_multiple_of(VECTORS * S::f32s::LEN);
        let k_points = &self.k_points[(batch * self.n_blocks + block) * self.width * stride..];
        for (term, tile) in self.terms.iter().zip(tiles.distances.chunks_exact_mut(ROWS * stride)) {
            let k = &k_points[term.columns.start * stride..];
            let mut largest = S::f32s::splat(simd, 0.0);
            for (query, row) in region.queries.clone().zip(tile.chunks_exact_mut(stride)) {
                let q = &self.q_points[(batch * self.problem.bias.q_coords + query) * self.width..];
                let q = &q[term.columns.clone()];
                let row = &mut row[..width];
                largest = largest.max(distance::distances(simd, term.distance, term.kernel, q, k, stride, row));
            }
            if largest.reduce_max() > f32::MAX {
                if keep != Keep::Pairs {
                    for mask in tiles.mask.chunks_exact_mut(stride) {
                        mask.copy_from_slice(self.key_bias(batch, block));
                    }
                    keep = Keep::Pairs;
                }
                let tile = &mut tile[..region.queries.len() * stride];
                if !mask_infinite(simd, tile, &mut tiles.mask) {
                    return Keep::None;
                }
            }
        }
        keep
    }

    /// Writes the bias of one head to `scores [query, block_keys]`. Returns false, and writes
    /// nothing, if there is none.
    #[inline(always)]
    pub fn write<S: Simd>(
        &self,
        simd: S,
        region: &Region,
        head: usize,
        keep: Keep,
        tiles: &Tiles,
        scores: &mut [f32],
    ) -> bool {
        if keep == Keep::All && self.inputs.terms.is_empty() && self.inputs.matrix.is_none() {
            return false;
        }
        let stride = self.block_keys;
        let width = region.n_keys.next_multiple_of(VECTORS * S::f32s::LEN);
        for (r, query) in region.queries.clone().enumerate() {
            let scores = &mut scores[r * stride..][..width];
            scores.fill(0.0);
            for (term, tile) in self.terms.iter().zip(tiles.distances.chunks_exact(ROWS * stride)) {
                term.add(simd, head, &tile[r * stride..][..width], scores);
            }
            match keep {
                Keep::All | Keep::None => {}
                Keep::Keys => mask(simd, &self.key_bias(region.batch, region.block)[..width], scores),
                Keep::Pairs => mask(simd, &tiles.mask[r * stride..][..width], scores),
            }
            let scores = &mut scores[..region.n_keys];
            self.add_custom(region, head, query, scores);
            self.add_matrix(region, head, query, scores);
        }
        true
    }

    fn add_custom(&self, region: &Region, head: usize, query: usize, scores: &mut [f32]) {
        let Problem { n_columns, bias: strides, .. } = *self.problem;
        if !self.has_query(region.batch, query) {
            return;
        }
        let first_key = region.batch * strides.k_coords + region.block * self.block_keys;
        for (bias, columns) in &self.custom {
            let q = &self.inputs.q_coords[(region.batch * strides.q_coords + query) * n_columns..][columns.clone()];
            for (j, score) in scores.iter_mut().enumerate() {
                // What is masked already may have coordinates that are not numbers.
                if *score != NONE {
                    let k = &self.inputs.k_coords[(first_key + j) * n_columns..][columns.clone()];
                    *score = given((bias.cpu)(q, k, head, &bias.params), *score);
                }
            }
        }
    }

    #[inline(always)]
    fn add_matrix(&self, region: &Region, head: usize, query: usize, scores: &mut [f32]) {
        if let Some(matrix) = self.inputs.matrix {
            let [of_batch, of_head, of_query] = self.problem.bias.matrix;
            let row = region.batch * of_batch + head * of_head + query * of_query;
            let biases = &matrix[row + region.block * self.block_keys..];
            for (score, &bias) in scores.iter_mut().zip(biases) {
                *score = given(bias, *score);
            }
        }
    }
}

/// Moves pairs at an infinite distance to the mask. Returns false if no pair is left.
#[inline(always)]
fn mask_infinite<S: Simd>(simd: S, distances: &mut [f32], mask: &mut [f32]) -> bool {
    let zero = S::f32s::splat(simd, 0.0);
    let mut any = false;
    for (distances, mask) in distances.chunks_exact_mut(S::f32s::LEN).zip(mask.chunks_exact_mut(S::f32s::LEN)) {
        let d = S::f32s::from_slice(simd, distances);
        let kept = d.abs().simd_le(f32::MAX);
        any |= kept.any_true();
        kept.select(d, zero).store_slice(distances);
        kept.select(S::f32s::from_slice(simd, mask), S::f32s::splat(simd, NONE)).store_slice(mask);
    }
    any
}

/// Masks some scores of a row.
#[inline(always)]
fn mask<S: Simd>(simd: S, mask: &[f32], scores: &mut [f32]) {
    for (scores, mask) in scores.chunks_exact_mut(S::f32s::LEN).zip(mask.chunks_exact(S::f32s::LEN)) {
        let mask = S::f32s::from_slice(simd, mask);
        mask.simd_lt(0.0).select(mask, S::f32s::from_slice(simd, scores)).store_slice(scores);
    }
}

/// A score with a bias that somebody else computed.
#[inline(always)]
fn given(bias: f32, score: f32) -> f32 {
    if is_masked(bias) || score == NONE { NONE } else { score + base_2(bias) }
}

/// Which points are finite in every column that a term looks at.
fn finite_points(points: &[f32], n_columns: usize, terms: &[BiasTerm]) -> Vec<bool> {
    if terms.is_empty() {
        return Vec::new();
    }
    let finite = |point: &[f32]| terms.iter().all(|term| point[term.columns.clone()].iter().all(|x| x.is_finite()));
    points.chunks_exact(n_columns).map(finite).collect()
}
