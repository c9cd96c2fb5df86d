//! Launches `shaders/feature_map.wgsl`.

use std::sync::Arc;

use super::{
    plan::FeatureTile,
    problem::{FeatureKind, FeatureMap},
};
use crate::{
    device::gpu::{Gpu, Kernel, Shader, Work, params},
    error::Result,
    tensor::{Tensor, n_elements},
};

const KERNEL: Kernel<FeatureTile, Params> =
    Kernel::new("feature_map", include_str!("../../../shaders/feature_map.wgsl"));

/// Rows of a tile.
const ROWS: usize = 64;

/// Features of a tile.
const FEATURES: usize = 32;

/// Storage buffers of the texts that read vectors: operands of those share no binding.
const VECTOR_BUFFERS: u32 = 3;

pub(crate) const KINDS: [FeatureKind; 6] = [
    FeatureKind::Identity,
    FeatureKind::Softmax,
    FeatureKind::Relu,
    FeatureKind::Gelu,
    FeatureKind::Exp,
    FeatureKind::Elu,
];

params! {
    Params {
        rows: u32,
        n_features: u32,
        head_dim: u32,
        scale: f32,
        n_groups: u32,
        x_base: u32,
        projection_base: u32,
        y_base: u32,
    }
}

pub(super) fn feature_map(
    gpu: &Arc<Gpu>,
    map: &FeatureMap,
    head_dim: usize,
    n_features: usize,
    x: &Tensor,
    shape: Vec<usize>,
) -> Result<Tensor> {
    let n = n_elements(&shape);
    let y = gpu.allocate(n)?;
    let vectors = head_dim.is_multiple_of(4) && gpu.capabilities().storage_buffers >= VECTOR_BUFFERS;
    let tile = FeatureTile::new(map.kind, vectors, false, ROWS);
    let work = Work { cost: 4.0 * (head_dim * n_features) as f64, iterations: tile.iterations(head_dim) };
    gpu.kernel(&KERNEL, &tile)?
        .read_rows("x", x, head_dim)
        .read_some("projection", map.projection.as_ref())
        .write_rows("y", &y, n_features)
        .rows(n / n_features, work, |rows| {
            let params = Params {
                rows: rows as u32,
                n_features: n_features as u32,
                head_dim: head_dim as u32,
                scale: map.scale,
                ..Params::default()
            };
            (params, rows.div_ceil(ROWS) * n_features.div_ceil(FEATURES))
        })?;
    Ok(Tensor::from_gpu(shape, gpu, y))
}

/// Every text that this operation may compile.
pub(crate) fn shaders() -> Result<Vec<Shader>> {
    let mut all = Vec::new();
    for kind in KINDS {
        for vectors in [true, false] {
            let label = format!("{kind:?} {}", if vectors { "vectors" } else { "scalars" });
            all.push((label, FeatureTile::new(kind, vectors, false, ROWS)));
        }
    }
    KERNEL.shaders(all)
}
