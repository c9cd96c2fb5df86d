//! Queries, keys and values in the order in which the innermost loops read them.

use std::ops::Range;

use fearless_simd::prelude::*;
use half::slice::HalfFloatSliceExt;

use super::super::problem::{CpuInputs, MAX_HEAD_DIM, Problem};
use crate::{
    simd::{
        tile::{Panels, VECTORS},
        transpose::transpose,
    },
    tensor::Numbers,
};

/// Keys in a block: the scores of a tile stay in the first-level cache.
const BLOCK_KEYS: usize = 512;

/// Numbers in a block: keys and values of one head stay in the second-level cache.
const BLOCK_NUMBERS: usize = 1 << 16;

/// Sizes of the packed form.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packing {
    pub head_dim: usize,
    /// How the values are cut.
    pub v_panels: Panels,
    /// Keys in a panel: a row of a register tile.
    pub panel: usize,
    /// Keys in a block, whole panels.
    pub block_keys: usize,
}

impl Packing {
    pub fn new<S: Simd>(simd: S, problem: &Problem, most_keys: usize) -> Self {
        let panel = VECTORS * S::f32s::LEN;
        let fitting = BLOCK_NUMBERS / (problem.head_dim + problem.v_dim);
        Self {
            head_dim: problem.head_dim,
            v_panels: Panels::new(simd, problem.v_dim),
            panel,
            block_keys: most_keys.min(BLOCK_KEYS).min(fitting).next_multiple_of(panel),
        }
    }

    /// Numbers in a packed block: the keys, the values, and whether some values were set aside.
    pub fn block_len(&self) -> usize {
        self.block_keys * (self.head_dim + self.v_panels.width) + 1
    }

    /// The parts of a packed block.
    pub fn split<'a>(&self, block: &'a [f32]) -> (&'a [f32], &'a [f32], bool) {
        let (k, rest) = block.split_at(self.block_keys * self.head_dim);
        let (v, is_set_aside) = rest.split_at(rest.len() - 1);
        (k, v, is_set_aside[0] != 0.0)
    }

    /// Packs the keys of one head as `[panel, head_dim, keys of the panel]`, and the values as
    /// `[panel, key, columns of the panel]`. Keys that do not take part become zeros, so that
    /// whatever they hold cannot spread; so do values that are [set aside](Unpacked::sets_aside).
    #[inline(always)]
    pub fn pack<S: Simd>(&self, simd: S, block: &Unpacked<'_>, packed: &mut [f32]) {
        let (packed_k, packed_v) = packed.split_at_mut(self.block_keys * self.head_dim);
        let is_set_aside = (0..block.v.n).any(|key| block.sets_aside(key));
        if let Some(last) = packed_v.last_mut() {
            *last = f32::from(u8::from(is_set_aside));
        }
        for (p, packed) in packed_k.chunks_exact_mut(self.panel * self.head_dim).enumerate() {
            for first in (0..self.panel).step_by(S::f32s::LEN) {
                let row = |r: usize| block.k_row(p * self.panel + first + r);
                transpose(simd, row, self.head_dim, &mut packed[first..], self.panel);
            }
        }
        for panel in self.v_panels.iter() {
            let packed = &mut packed_v[panel.first * self.block_keys..][..panel.width * block.v.n];
            if is_set_aside {
                let row = |key| if block.sets_aside(key) { &ZEROS[..block.v.dim] } else { block.v_row(key) };
                panel.pack(simd, row, packed);
            } else {
                panel.pack(simd, |key| block.v_row(key), packed);
            }
        }
    }
}

/// The keys and values of a block, as they are.
#[derive(Clone, Copy)]
pub(super) struct Unpacked<'a> {
    pub k: Rows<'a>,
    pub v: Rows<'a>,
    /// 0 for a key that takes part.
    pub keep: &'a [f32],
    /// Whether a key may be masked for some queries alone.
    pub by_pair: bool,
}

impl<'a> Unpacked<'a> {
    #[inline(always)]
    fn has(&self, key: usize) -> bool {
        key < self.k.n && self.keep[key] == 0.0
    }

    /// Whether the value of a key is not finite, and must not meet the weight of zero of a query
    /// for which the key is masked.
    pub fn sets_aside(&self, key: usize) -> bool {
        // Without a way out, so that it takes vectors.
        self.by_pair && self.v_row(key).iter().fold(false, |any, x| any | !x.is_finite())
    }

    /// A key, or zeros if it does not take part.
    #[inline(always)]
    pub fn k_row(&self, key: usize) -> &'a [f32] {
        if self.has(key) { self.k.row(key) } else { &ZEROS[..self.k.dim] }
    }

    /// The value of a key, or zeros if it does not take part.
    #[inline(always)]
    pub fn v_row(&self, key: usize) -> &'a [f32] {
        if self.has(key) { self.v.row(key) } else { &ZEROS[..self.v.dim] }
    }
}

/// A row of a key that does not exist.
static ZEROS: [f32; MAX_HEAD_DIM] = [0.0; MAX_HEAD_DIM];

/// Rows of one head in a tensor of either layout.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a, T = f32> {
    data: &'a [T],
    stride: usize,
    dim: usize,
    pub n: usize,
}

impl<'a, T> Rows<'a, T> {
    pub fn row(&self, i: usize) -> &'a [T] {
        &self.data[i * self.stride..][..self.dim]
    }
}

/// Memory for the keys and values of a block as f32, where they are halves.
#[derive(Default)]
pub(super) struct Wide {
    k: Vec<f32>,
    v: Vec<f32>,
}

/// Which rows of which head, as f32.
fn wide_rows<'a>(
    data: &'a Numbers,
    strides: [usize; 3],
    dim: usize,
    at: [usize; 2],
    range: Range<usize>,
    wide: &'a mut Vec<f32>,
) -> Rows<'a> {
    let data = match data {
        Numbers::F32(data) => return rows(data, strides, dim, at, range),
        Numbers::F16(data) => data,
    };
    let halves = rows(data, strides, dim, at, range);
    wide.resize(halves.n * dim, 0.0);
    for (i, row) in wide.chunks_exact_mut(dim).enumerate() {
        halves.row(i).convert_to_f32_slice(row);
    }
    Rows { data: wide, stride: dim, dim, n: halves.n }
}

/// Which rows of which head.
fn rows<'a, T>(
    data: &'a [T],
    [batch_stride, head_stride, stride]: [usize; 3],
    dim: usize,
    [batch, head]: [usize; 2],
    range: Range<usize>,
) -> Rows<'a, T> {
    let data = &data[batch * batch_stride + head * head_stride + range.start * stride..];
    Rows { data, stride, dim, n: range.len() }
}

impl<'a> CpuInputs<'a> {
    pub(super) fn q_rows(&self, problem: &Problem, at: [usize; 2], range: Range<usize>) -> Rows<'a> {
        rows(self.q, problem.strides(problem.n_queries, problem.head_dim), problem.head_dim, at, range)
    }

    /// Some keys and their values. Halves are widened.
    pub(super) fn kv_rows<'w>(
        &'w self,
        problem: &Problem,
        at: [usize; 2],
        range: Range<usize>,
        wide: &'w mut Wide,
    ) -> [Rows<'w>; 2] {
        let Problem { head_dim, v_dim, .. } = *problem;
        let k = wide_rows(&self.k, problem.kv_strides(head_dim), head_dim, at, range.clone(), &mut wide.k);
        let v = wide_rows(&self.v, problem.kv_strides(v_dim), v_dim, at, range, &mut wide.v);
        [k, v]
    }
}
