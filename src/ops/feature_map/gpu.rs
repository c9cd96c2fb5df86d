//! Launches `shaders/feature_map.wgsl`.

use std::sync::Arc;

use serde::Serialize;

use super::problem::{FeatureKind, FeatureMap};
use crate::{
    device::gpu::{Gpu, Kernel, Shader, Work, params},
    error::Result,
    tensor::{Tensor, n_elements},
};

const KERNEL: Kernel<Constants, Params> = Kernel::new("feature_map", include_str!("../../../shaders/feature_map.wgsl"));

/// Threads in a workgroup, one for each feature.
const THREADS: usize = 64;

pub(crate) const KINDS: [FeatureKind; 6] = [
    FeatureKind::Identity,
    FeatureKind::Softmax,
    FeatureKind::Relu,
    FeatureKind::Gelu,
    FeatureKind::Exp,
    FeatureKind::Elu,
];

#[derive(Clone, Copy, Debug, Serialize)]
struct Constants {
    kind: FeatureKind,
    threads: usize,
}

params! {
    Params {
        n: u32,
        n_features: u32,
        head_dim: u32,
        scale: f32,
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
    let work = Work { cost: 4.0 * (head_dim * n_features) as f64, iterations: head_dim };
    gpu.kernel(&KERNEL, &Constants { kind: map.kind, threads: THREADS })?
        .read_rows("x", x, head_dim)
        .read_some("projection", map.projection.as_ref())
        .write_rows("y", &y, n_features)
        .rows(n / n_features, work, |rows| {
            let n = rows * n_features;
            let params = Params {
                n: n as u32,
                n_features: n_features as u32,
                head_dim: head_dim as u32,
                scale: map.scale,
                ..Params::default()
            };
            (params, n.div_ceil(THREADS))
        })?;
    Ok(Tensor::from_gpu(shape, gpu, y))
}

/// Every text that this operation may compile.
pub(crate) fn shaders() -> Result<Vec<Shader>> {
    KERNEL.shaders(KINDS.map(|kind| (format!("{kind:?}"), Constants { kind, threads: THREADS })))
}
