//! The CPU twin of `shaders/feature_map.wgsl`.

use fearless_simd::{Level, dispatch, prelude::*};

use super::problem::{FeatureKind, FeatureMap};
use crate::{
    error::Result,
    host::{any, zeros},
    ops::linear::cpu::{gelu_tanh, relu},
    parallel::*,
    simd::{
        load_some,
        math::{exp, exp_unclamped},
        store_some,
        tile::{Panels, ROWS, product, with_vectors},
    },
};

/// Rows of a task.
const TASK: usize = 256;

pub(super) fn feature_map(
    level: Level,
    map: &FeatureMap,
    head_dim: usize,
    n_features: usize,
    x: &[f32],
) -> Result<Vec<f32>> {
    let mut y = any(&[x.len() / head_dim.max(1), n_features])?;
    dispatch!(level, simd => {
        let map = &Map::new(simd, map, head_dim, n_features)?;
        y.par_chunks_mut((TASK * n_features).max(1)).enumerate().for_each_init(Vec::new, |scaled, (task, y)| {
            let rows = y.len() / n_features;
            simd.vectorize(
                #[inline(always)]
                || map.apply(simd, |i| Some(&x[(task * TASK + i) * head_dim..][..head_dim]), rows, n_features, scaled, y),
            );
        });
        Ok(y)
    })
}

/// A feature map with its projection packed.
pub(crate) struct Map {
    kind: FeatureKind,
    scale: f32,
    head_dim: usize,
    n_features: usize,
    panels: Panels,
    /// The transposed projection, panel after panel.
    packed: Vec<f32>,
}

impl Map {
    pub fn new<S: Simd>(simd: S, map: &FeatureMap, head_dim: usize, n_features: usize) -> Result<Self> {
        let panels = Panels::new(simd, n_features);
        let mut packed = Vec::new();
        if let Some(projection) = &map.projection {
            packed = zeros(&[head_dim, panels.width])?;
            for panel in panels.iter() {
                let packed = &mut packed[panel.first * head_dim..][..panel.width * head_dim];
                for (d, row) in packed.chunks_exact_mut(panel.width).enumerate() {
                    for (j, to) in row.iter_mut().enumerate().take(panel.used) {
                        *to = projection.cpu()[(panel.first + j) * head_dim + d];
                    }
                }
            }
        }
        Ok(Self { kind: map.kind, scale: map.scale, head_dim, n_features, panels, packed })
    }

    /// Whether the features of a row are the row itself.
    pub fn is_plain(&self) -> bool {
        self.kind == FeatureKind::Identity && self.scale == 1.0
    }

    /// Writes the features of some rows to `y`, whose rows are `stride` apart; those of a row
    /// that is `None` are zeros.
    #[inline(always)]
    pub fn apply<'a, S: Simd>(
        &self,
        simd: S,
        row: impl Fn(usize) -> Option<&'a [f32]>,
        n_rows: usize,
        stride: usize,
        scaled: &mut Vec<f32>,
        y: &mut [f32],
    ) {
        if self.kind == FeatureKind::Identity {
            for (i, y) in y.chunks_exact_mut(stride).enumerate().take(n_rows) {
                let y = &mut y[..self.n_features];
                let Some(x) = row(i) else {
                    y.fill(0.0);
                    continue;
                };
                for (y, x) in y.chunks_mut(S::f32s::LEN).zip(x.chunks(S::f32s::LEN)) {
                    store_some::<S>(load_some(simd, x) * self.scale, y);
                }
            }
            return;
        }
        let d = self.head_dim;
        scaled.clear();
        for i in 0..n_rows {
            match row(i) {
                Some(x) => scaled.extend(x.iter().map(|x| self.scale * x)),
                None => scaled.resize((i + 1) * d, 0.0),
            }
        }
        for (block, y) in y[..n_rows * stride].chunks_mut(ROWS * stride).enumerate() {
            let in_block = y.len() / stride;
            let mut rows = [&scaled[..]; ROWS];
            for (r, row) in rows.iter_mut().enumerate() {
                // Rows past the end repeat the last one.
                *row = &scaled[(block * ROWS + r.min(in_block - 1)) * d..][..d];
            }
            let half_norms = rows.map(|row| 0.5 * row.iter().map(|x| x * x).sum::<f32>());
            for panel in self.panels.iter() {
                let packed = &self.packed[panel.first * d..][..panel.width * d];
                with_vectors!(panel, C => {
                    let z = product::<S, ROWS, C>(simd, rows, packed);
                    self.store(simd, &z, &half_norms, panel.first, stride, y);
                });
            }
            for (r, y) in y.chunks_exact_mut(stride).enumerate() {
                if row(block * ROWS + r).is_none() {
                    y[..self.n_features].fill(0.0);
                }
            }
        }
    }

    #[inline(always)]
    fn store<S: Simd, const C: usize>(
        &self,
        simd: S,
        z: &[[S::f32s; C]; ROWS],
        half_norms: &[f32; ROWS],
        first: usize,
        stride: usize,
        y: &mut [f32],
    ) {
        for ((y, z), &half_norm) in y.chunks_exact_mut(stride).zip(z).zip(half_norms) {
            for (y, &z) in y[first..self.n_features].chunks_mut(S::f32s::LEN).zip(z) {
                store_some::<S>(self.feature(simd, z, half_norm), y);
            }
        }
    }

    #[inline(always)]
    fn feature<S: Simd>(&self, simd: S, z: S::f32s, half_norm: f32) -> S::f32s {
        match self.kind {
            FeatureKind::Identity => z,
            FeatureKind::Softmax => exp_unclamped(simd, z - half_norm) * (self.n_features as f32).sqrt().recip(),
            FeatureKind::Relu => relu(simd, z),
            FeatureKind::Gelu => gelu_tanh(simd, z),
            FeatureKind::Exp => exp_unclamped(simd, z),
            // This order of comparison keeps NaN.
            FeatureKind::Elu => z.simd_lt(0.0).select(exp(simd, z) - 1.0, z),
        }
    }
}
