//! Launches `shaders/linear_attention_{write,merge,read}.wgsl`.

use std::sync::Arc;

use serde::Serialize;

use super::{
    plan::{self, FAN_IN, Tile},
    problem::{LinearState, Normalizer, Problem},
};
use crate::{
    device::gpu::{Buffer, Gpu, Kernel, Shader, Work, params},
    error::Result,
    host::count,
    ops::feature_map::{FeatureKind, FeatureMap, FeatureTile, gpu::KINDS},
    tensor::{Tensor, n_elements},
};

const WRITE: Kernel<WriteConstants, WriteParams> =
    Kernel::new("linear_attention_write", include_str!("../../../shaders/linear_attention_write.wgsl"));
const SUM: Kernel<SumConstants, SumParams> =
    Kernel::new("linear_attention_merge", include_str!("../../../shaders/linear_attention_merge.wgsl"));
const READ: Kernel<ReadConstants, ReadParams> =
    Kernel::new("linear_attention_read", include_str!("../../../shaders/linear_attention_read.wgsl"));

/// Threads of a workgroup that adds partial sums.
const SUM_THREADS: usize = 64;

#[derive(Clone, Copy, Debug, Serialize)]
struct WriteConstants {
    #[serde(flatten)]
    features: FeatureTile,
    columns: usize,
    /// Fours of rows that a thread has.
    tall: usize,
    has_mask: bool,
    /// Whether the sum of the features follows the columns of the values.
    has_sums: bool,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct SumConstants {
    threads: usize,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct ReadConstants {
    #[serde(flatten)]
    features: FeatureTile,
    columns: usize,
    tall: usize,
    normalizer: &'static str,
}

impl WriteConstants {
    fn new(kind: FeatureKind, tile: &Tile, has_mask: bool, has_sums: bool) -> Self {
        Self { features: tile.features(kind, true), columns: tile.columns, tall: tile.tall(), has_mask, has_sums }
    }
}

impl ReadConstants {
    fn new(kind: FeatureKind, tile: &Tile, normalizer: &'static str) -> Self {
        Self { features: tile.features(kind, false), columns: tile.columns, tall: tile.tall(), normalizer }
    }
}

fn name(normalizer: Normalizer) -> &'static str {
    match normalizer {
        // What is stable is read elsewhere.
        Normalizer::None | Normalizer::Stable => "none",
        Normalizer::KeyCount => "key_count",
        Normalizer::FeatureSum { .. } => "feature_sum",
    }
}

params! {
    WriteParams {
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
        part: u32,
        n_groups: u32,
        x_base: u32,
        projection_base: u32,
        keep_base: u32,
    }
}

params! {
    ReadParams {
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
        floor: f32,
        kv_group: u32,
        n_groups: u32,
        x_base: u32,
        projection_base: u32,
        sums_base: u32,
        n_keys_base: u32,
    }
}

params! {
    SumParams {
        n: u32,
        n_parts: u32,
        fan_in: u32,
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
    let len = count(&shape)?;
    if problem.n == 0 || len == 0 {
        return Tensor::zeros(&k.device(), &shape);
    }
    let plan = plan::plan(problem, gpu.capabilities())?;
    let partial = gpu.allocate(count(&[plan.n_parts, len])?)?;
    let params = WriteParams {
        n: problem.n as u32,
        n_features: problem.n_features as u32,
        head_dim: problem.head_dim as u32,
        scale: map.scale,
        outer: problem.outer as u32,
        inner: problem.inner as u32,
        heads: problem.outer_per_batch() as u32,
        v_dim: problem.v_dim as u32,
        width: problem.width as u32,
        part: plan.part as u32,
        ..WriteParams::default()
    };
    gpu.kernel(&WRITE, &WriteConstants::new(map.kind, &plan.tile, keep.is_some(), problem.width > problem.v_dim))?
        .read("x", k)
        .read_some("projection", map.projection.as_ref())
        .read("v", v)
        .read_some("keep", keep)
        .write("partial", &partial)
        .groups(plan.n_groups(problem), plan.work(problem), params)?;
    let mut parts = (partial, plan.n_parts);
    while parts.1 > FAN_IN {
        let n_sums = parts.1.div_ceil(FAN_IN);
        parts = (sum(gpu, &parts.0, parts.1, len, n_sums)?, n_sums);
    }
    Ok(Tensor::from_gpu(shape, gpu, sum(gpu, &parts.0, parts.1, len, 1)?))
}

/// `parts [n_parts, n]` added, [`FAN_IN`] at a time and in their order, to `[n_sums, n]`.
fn sum(gpu: &Arc<Gpu>, parts: &Buffer, n_parts: usize, n: usize, n_sums: usize) -> Result<Buffer> {
    let y = gpu.allocate(n_sums * n)?;
    let params = SumParams { n: n as u32, n_parts: n_parts as u32, fan_in: FAN_IN as u32 };
    let work = Work { cost: (FAN_IN * SUM_THREADS) as f64, iterations: FAN_IN };
    gpu.kernel(&SUM, &SumConstants { threads: SUM_THREADS })?.read("parts", parts).write("sum", &y).groups(
        (n_sums * n).div_ceil(SUM_THREADS),
        work,
        params,
    )?;
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
    let n_keys: Vec<f32> = state.n_keys.iter().map(|&n| n as f32).collect();
    let counts = problem.normalizer == Normalizer::KeyCount;
    let n_keys = counts.then(|| Tensor::new(&q.device(), &[n_keys.len()], &n_keys)).transpose()?;
    let y = gpu.allocate(len)?;
    let floor = match problem.normalizer {
        Normalizer::FeatureSum { floor } => floor,
        _ => 0.0,
    };
    let (tile, n_groups, work) = plan::read(problem, gpu.capabilities())?;
    let params = ReadParams {
        n: problem.n as u32,
        n_features: problem.n_features as u32,
        head_dim: problem.head_dim as u32,
        scale: map.scale,
        outer: problem.outer as u32,
        inner: problem.inner as u32,
        heads: problem.outer_per_batch() as u32,
        v_dim: problem.v_dim as u32,
        width: problem.width as u32,
        floor,
        kv_group: problem.kv_group as u32,
        ..ReadParams::default()
    };
    gpu.kernel(&READ, &ReadConstants::new(map.kind, &tile, name(problem.normalizer)))?
        .read("x", q)
        .read_some("projection", map.projection.as_ref())
        .read("sums", &state.sums)
        .read_some("n_keys", n_keys.as_ref())
        .write("y", &y)
        .groups(n_groups, work, params)?;
    Ok(Tensor::from_gpu(shape, gpu, y))
}

/// Every text that this operation may compile.
pub(crate) fn shaders() -> Result<Vec<Shader>> {
    let mut all = SUM.shaders([("".into(), SumConstants { threads: SUM_THREADS })])?;
    for tile in plan::tiles() {
        let Tile { vectors, side, columns, .. } = tile;
        let of = format!("{side} x {columns} {}", if vectors { "vectors" } else { "scalars" });
        for kind in KINDS {
            for (has_mask, has_sums) in [(false, false), (false, true), (true, false), (true, true)] {
                let label = format!("{kind:?} {of} mask={has_mask} sums={has_sums}");
                all.push(WRITE.shader(&label, &WriteConstants::new(kind, &tile, has_mask, has_sums))?);
            }
            for normalizer in ["none", "key_count", "feature_sum"] {
                let constants = ReadConstants::new(kind, &tile, normalizer);
                all.push(READ.shader(&format!("{kind:?} {of} {normalizer}"), &constants)?);
            }
        }
    }
    Ok(all)
}
