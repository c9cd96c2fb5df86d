//! Launches `shaders/linear_attention_{write,merge,read}.wgsl`.

use std::sync::Arc;

use serde::Serialize;

use super::{LinearState, Normalizer, Problem};
use crate::{
    device::gpu::{Access, Buffer, Dispatch, Gpu, Variant, shader},
    error::Result,
    ops::feature_map::{FeatureKind, FeatureMap, gpu::KINDS},
    tensor::{Tensor, n_elements},
};

/// Keys of a part: enough parts to fill a device, few enough to add.
const PART: usize = 256;

/// Columns and features of a workgroup that writes.
const TILE: usize = 32;

/// Parts that a thread adds.
const FAN_IN: usize = 32;

/// Partial sums that exist at once, in numbers.
const MAX_PARTIAL: usize = 1 << 24;

#[derive(Clone, Copy, Debug, Serialize)]
struct WriteConstants {
    kind: FeatureKind,
    has_mask: bool,
    /// Whether the sum of the features follows the columns of the values.
    has_sums: bool,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct ReadConstants {
    kind: FeatureKind,
    normalizer: &'static str,
}

fn name(normalizer: Normalizer) -> &'static str {
    match normalizer {
        Normalizer::None => "none",
        Normalizer::KeyCount => "key_count",
        Normalizer::FeatureSum { .. } => "feature_sum",
    }
}

/// The parameters of writing and of reading; `last` is the keys of a part, or the floor.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    n: u32,
    n_features: u32,
    head_dim: u32,
    first_group: u32,
    scale: f32,
    outer: u32,
    inner: u32,
    heads: u32,
    v_dim: u32,
    width: u32,
    last: u32,
    n_groups: u32,
}

impl Params {
    fn new(problem: &Problem, map: &FeatureMap, last: u32) -> Self {
        Self {
            n: problem.n as u32,
            n_features: problem.n_features as u32,
            head_dim: problem.head_dim as u32,
            first_group: 0,
            scale: map.scale,
            outer: problem.outer as u32,
            inner: problem.inner as u32,
            heads: problem.outer_per_batch() as u32,
            v_dim: problem.v_dim as u32,
            width: problem.width as u32,
            last,
            n_groups: 0,
        }
    }
}

pub(super) fn write(
    gpu: &Arc<Gpu>,
    problem: &Problem,
    map: &FeatureMap,
    k: &Tensor,
    v: &Tensor,
    keep: Option<&Tensor>,
) -> Result<Tensor> {
    let shape = problem.state_shape().to_vec();
    let len = n_elements(&shape);
    if problem.n == 0 || len == 0 {
        return Tensor::new(&k.device(), &shape, &vec![0.0; len]);
    }
    let constants =
        WriteConstants { kind: map.kind, has_mask: keep.is_some(), has_sums: problem.width > problem.v_dim };
    let mut bindings = vec![(0, Access::Read)];
    bindings.extend(map.projection.is_some().then_some((1, Access::Read)));
    bindings.push((2, Access::Read));
    bindings.extend(keep.is_some().then_some((3, Access::Read)));
    bindings.push((4, Access::Write));
    let variant =
        Variant { name: "linear_attention_write", constants: &constants, bindings: &bindings, untrusted: None };
    let pipeline = gpu.pipeline(&variant)?;
    // Larger parts rather than more partial sums than memory should hold.
    let max_parts = (MAX_PARTIAL / len).max(1);
    let part = PART.max(problem.n.div_ceil(max_parts));
    // 8 keys at a time, four features for each of them.
    let iterations = 16 + if map.projection.is_some() { 4 * problem.head_dim } else { 0 };
    let part = part.min((gpu.max_iterations() / iterations).saturating_mul(8)).max(8);
    let n_parts = problem.n.div_ceil(part);
    gpu.check_bindings(&[k.len(), v.len(), n_parts * len])?;
    let partial = gpu.allocate(n_parts * len)?;
    let tiles = problem.n_features.div_ceil(TILE) * problem.v_dim.div_ceil(TILE);
    let n_groups = n_parts * problem.outer * problem.inner * tiles;
    let of_features = if map.projection.is_some() { problem.head_dim * TILE } else { 0 };
    let cost_of_group = 2.0 * (part * (TILE * TILE + of_features)) as f64;
    for groups in gpu.row_pieces(n_groups, 1, cost_of_group) {
        let mut buffers = vec![k.gpu().first(k.len())];
        buffers.extend(map.projection.as_ref().map(|projection| projection.gpu().first(projection.len())));
        buffers.push(v.gpu().first(v.len()));
        buffers.extend(keep.map(|keep| keep.gpu().first(keep.len())));
        buffers.push(partial.first(n_parts * len));
        let mut params = Params::new(problem, map, part as u32);
        (params.first_group, params.n_groups) = (groups.start as u32, groups.len() as u32);
        gpu.dispatch(&Dispatch {
            pipeline: &pipeline,
            buffers: &buffers,
            params: bytemuck::bytes_of(&params),
            n_groups: groups.len() as u64,
            cost: cost_of_group * groups.len() as f64,
        })?;
    }
    let mut parts = (partial, n_parts);
    while parts.1 > FAN_IN {
        let n_sums = parts.1.div_ceil(FAN_IN);
        parts = (sum(gpu, &parts.0, parts.1, len, n_sums)?, n_sums);
    }
    Ok(Tensor::from_gpu(shape, gpu, sum(gpu, &parts.0, parts.1, len, 1)?))
}

/// `parts [n_parts, n]` added, [`FAN_IN`] at a time and in their order, to `[n_sums, n]`.
fn sum(gpu: &Arc<Gpu>, parts: &Buffer, n_parts: usize, n: usize, n_sums: usize) -> Result<Buffer> {
    let bindings = [(0, Access::Read), (1, Access::Write)];
    let variant = Variant { name: "linear_attention_merge", constants: &(), bindings: &bindings, untrusted: None };
    let pipeline = gpu.pipeline(&variant)?;
    let y = gpu.allocate(n_sums * n)?;
    gpu.dispatch(&Dispatch {
        pipeline: &pipeline,
        buffers: &[parts.first(n_parts * n), y.first(n_sums * n)],
        params: bytemuck::cast_slice(&[n as u32, n_parts as u32, FAN_IN as u32, 0]),
        n_groups: (n_sums * n).div_ceil(64) as u64,
        cost: (n * n_parts) as f64,
    })?;
    Ok(y)
}

pub(super) fn read(
    gpu: &Arc<Gpu>,
    problem: &Problem,
    map: &FeatureMap,
    q: &Tensor,
    state: &LinearState,
    shape: Vec<usize>,
) -> Result<Tensor> {
    let len = n_elements(&shape);
    if len == 0 {
        return Tensor::new(&q.device(), &shape, &[]);
    }
    let constants = ReadConstants { kind: map.kind, normalizer: name(problem.normalizer) };
    let mut bindings = vec![(0, Access::Read)];
    bindings.extend(map.projection.is_some().then_some((1, Access::Read)));
    bindings.push((2, Access::Read));
    let counts = problem.normalizer == Normalizer::KeyCount;
    bindings.extend(counts.then_some((3, Access::Read)));
    bindings.push((4, Access::Write));
    let variant =
        Variant { name: "linear_attention_read", constants: &constants, bindings: &bindings, untrusted: None };
    let pipeline = gpu.pipeline(&variant)?;
    gpu.check_bindings(&[q.len(), len, state.sums.len()])?;
    let n_keys: Vec<f32> = state.n_keys.iter().map(|&n| n as f32).collect();
    let n_keys = counts.then(|| Tensor::new(&q.device(), &[n_keys.len()], &n_keys)).transpose()?;
    let y = gpu.allocate(len)?;
    let floor = match problem.normalizer {
        Normalizer::FeatureSum { floor } => floor,
        _ => 0.0,
    };
    let n_groups = problem.outer * problem.inner * problem.n.div_ceil(8) * problem.v_dim.div_ceil(64);
    let of_features = if map.projection.is_some() { 2.0 * (problem.head_dim * problem.n_features) as f64 } else { 0.0 };
    let cost_of_group = 8.0 * (problem.cost_of_row() + of_features);
    for groups in gpu.row_pieces(n_groups, 1, cost_of_group) {
        let mut buffers = vec![q.gpu().first(q.len())];
        buffers.extend(map.projection.as_ref().map(|projection| projection.gpu().first(projection.len())));
        buffers.push(state.sums.gpu().first(state.sums.len()));
        buffers.extend(n_keys.iter().map(|n_keys| n_keys.gpu().first(n_keys.len())));
        buffers.push(y.first(len));
        let mut params = Params::new(problem, map, floor.to_bits());
        (params.first_group, params.n_groups) = (groups.start as u32, groups.len() as u32);
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
    let mut variants = Vec::new();
    for kind in KINDS {
        for (has_mask, has_sums) in [(false, false), (false, true), (true, false), (true, true)] {
            let constants = WriteConstants { kind, has_mask, has_sums };
            let text = shader::expand("linear_attention_write", &constants);
            variants.push((format!("linear_attention_write {constants:?}"), text));
        }
        for normalizer in ["none", "key_count", "feature_sum"] {
            let constants = ReadConstants { kind, normalizer };
            let text = shader::expand("linear_attention_read", &constants);
            variants.push((format!("linear_attention_read {constants:?}"), text));
        }
    }
    variants.push(("linear_attention_merge".into(), shader::expand("linear_attention_merge", &())));
    variants
}
