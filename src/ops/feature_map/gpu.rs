//! Launches `shaders/feature_map.wgsl`.

use std::sync::Arc;

use serde::Serialize;

use super::{FeatureKind, FeatureMap};
use crate::{
    device::gpu::{Access, Dispatch, Gpu, Variant, shader},
    error::Result,
    tensor::{Tensor, n_elements},
};

/// Threads in a workgroup, one for each feature.
const GROUP: usize = 64;

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
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    n: u32,
    n_features: u32,
    head_dim: u32,
    first_group: u32,
    scale: f32,
    padding: [u32; 3],
}

pub(super) fn feature_map(
    gpu: &Arc<Gpu>,
    map: &FeatureMap,
    head_dim: usize,
    n_features: usize,
    x: &Tensor,
    shape: Vec<usize>,
) -> Result<Tensor> {
    let constants = Constants { kind: map.kind };
    let mut bindings = vec![(0, Access::Read)];
    bindings.extend(map.projection.is_some().then_some((1, Access::Read)));
    bindings.push((2, Access::Write));
    let variant = Variant { name: "feature_map", constants: &constants, bindings: &bindings, untrusted: None };
    let pipeline = gpu.pipeline(&variant)?;
    let n = n_elements(&shape);
    gpu.check_bindings(&[x.len(), n])?;
    let y = gpu.allocate(n)?;
    let cost_of_group = 4.0 * (head_dim * GROUP) as f64;
    for groups in gpu.row_pieces(n.div_ceil(GROUP), 1, cost_of_group) {
        let mut buffers = vec![x.gpu().first(x.len())];
        buffers.extend(map.projection.as_ref().map(|projection| projection.gpu().first(projection.len())));
        buffers.push(y.first(n));
        let params = Params {
            n: n as u32,
            n_features: n_features as u32,
            head_dim: head_dim as u32,
            first_group: groups.start as u32,
            scale: map.scale,
            padding: [0; 3],
        };
        gpu.dispatch(&Dispatch {
            pipeline: &pipeline,
            buffers: &buffers,
            params: bytemuck::bytes_of(&params),
            n_groups: groups.len() as u64,
            cost: cost_of_group * groups.len() as f64,
        })?;
    }
    Ok(Tensor::from_gpu(shape, gpu, y))
}

/// Every text that this operation may compile, by name.
pub(crate) fn variants() -> Vec<(String, Result<String>)> {
    let text = |kind| (format!("feature_map {kind:?}"), shader::expand("feature_map", &Constants { kind }));
    KINDS.map(text).into()
}
