//! The tokens of a head, and its memory in panels.

use fearless_simd::prelude::*;

use super::super::problem::Problem;
use crate::{
    error::Result,
    host::zeros,
    simd::{
        store_some,
        tile::{Panel, Panels},
    },
};

/// The numbers of one call.
pub(crate) struct Inputs<'a> {
    pub problem: &'a Problem,
    pub q: Option<&'a [f32]>,
    pub k: &'a [f32],
    pub v: &'a [f32],
    pub memory: Option<&'a [f32]>,
    pub p_read: Option<&'a [f32]>,
    pub p_write: Option<&'a [f32]>,
    pub p_erase: Option<&'a [f32]>,
    pub decay: Option<&'a [f32]>,
}

/// The tokens of one head.
pub(super) struct Head<'a> {
    pub inputs: &'a Inputs<'a>,
    pub batch: usize,
    pub head: usize,
}

impl<'a> Head<'a> {
    /// The index of a step among the tokens of all heads.
    #[inline(always)]
    pub fn token(&self, step: usize) -> usize {
        let Problem { n, n_heads, .. } = *self.inputs.problem;
        (self.batch * n + step) * n_heads + self.head
    }

    #[inline(always)]
    pub fn k(&self, step: usize) -> &'a [f32] {
        let head_dim = self.inputs.problem.head_dim;
        &self.inputs.k[self.token(step) * head_dim..][..head_dim]
    }

    #[inline(always)]
    pub fn v(&self, step: usize) -> &'a [f32] {
        let v_dim = self.inputs.problem.v_dim;
        &self.inputs.v[self.token(step) * v_dim..][..v_dim]
    }

    /// The query of a step; without queries there are no others than keys.
    #[inline(always)]
    pub fn q(&self, step: usize) -> &'a [f32] {
        let head_dim = self.inputs.problem.head_dim;
        &self.inputs.q.unwrap_or(self.inputs.k)[self.token(step) * head_dim..][..head_dim]
    }

    #[inline(always)]
    pub fn p(&self, p: Option<&[f32]>, step: usize) -> f32 {
        p.map_or(1.0, |p| p[self.token(step)])
    }
}

/// The columns of the transposed memory `[head_dim, v_dim]` in panels, as [`product`] reads them.
#[inline(always)]
pub(super) fn pack_memory(memory: &[f32], head_dim: usize, panels: Panels) -> Result<Vec<f32>> {
    let mut packed = zeros(&[head_dim, panels.width])?;
    for panel in panels.iter() {
        let packed = &mut packed[panel.first * head_dim..][..panel.width * head_dim];
        for j in 0..panel.used {
            let row = &memory[(panel.first + j) * head_dim..][..head_dim];
            row.iter().enumerate().for_each(|(d, &x)| packed[d * panel.width + j] = x);
        }
    }
    Ok(packed)
}

/// [`pack_memory`] undone.
#[inline(always)]
pub(super) fn unpack_memory(packed: &[f32], head_dim: usize, panels: Panels) -> Result<Vec<f32>> {
    let mut memory = zeros(&[panels.columns, head_dim])?;
    for panel in panels.iter() {
        let packed = &packed[panel.first * head_dim..][..panel.width * head_dim];
        for j in 0..panel.used {
            let row = &mut memory[(panel.first + j) * head_dim..][..head_dim];
            row.iter_mut().enumerate().for_each(|(d, x)| *x = packed[d * panel.width + j]);
        }
    }
    Ok(memory)
}

/// Stores `p` times the columns of a panel that exist.
#[inline(always)]
pub(super) fn store_row<S: Simd, const C: usize>(row: &[S::f32s; C], p: f32, panel: &Panel, y: &mut [f32]) {
    for (y, &vector) in y[..panel.used].chunks_mut(S::f32s::LEN).zip(row) {
        store_some::<S>(vector * p, y);
    }
}
