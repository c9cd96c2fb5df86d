//! Feature maps of linear attention: random features whose products approximate the softmax
//! kernel (FAVOR+, arXiv 2009.14794), and generalised kernels.

pub(crate) mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;
mod plan;
mod problem;
mod random;

use crate::{
    error::{Error, Result, check_shape},
    tensor::{Storage, Tensor, check_operands, check_size},
};
pub(crate) use plan::{FeatureTile, SHORT};
use problem::OP;
pub use problem::{FeatureKind, FeatureMap};
pub use random::{ProjectionRows, random_features};

/// The features of `x [.., head_dim]`: `[.., n_features]`. Attention computes them itself, so
/// that those of all keys never exist at once; this is for those who want to look at them.
///
/// # Errors
/// A projection of another width, or on another device; one that is missing or too many; a
/// scale that is not finite; on a GPU, an operand larger than one binding.
///
/// ```
/// use wgpu_attention::{Device, Tensor, ops::{FeatureKind, FeatureMap, feature_map}};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let device = Device::best();
/// // Two features of two numbers: max(x, 0) and max(-y, 0).
/// let projection = Tensor::new(&device, &[2, 2], &[1.0, 0.0, 0.0, -1.0])?;
/// let map = FeatureMap { kind: FeatureKind::Relu, projection: Some(projection), scale: 1.0 };
/// let x = Tensor::new(&device, &[1, 2], &[3.0, 4.0])?;
/// assert_eq!(feature_map(&x, &map)?.read()?, [3.0, 0.0]);
/// # Ok(())
/// # }
/// ```
pub fn feature_map(x: &Tensor, map: &FeatureMap) -> Result<Tensor> {
    let Some((&head_dim, rows)) = x.shape().split_last() else {
        return Err(Error::shape(OP, "x", &[], "[.., head_dim]"));
    };
    check_shape(head_dim > 0, OP, "x", x.shape(), "[.., head_dim], head_dim > 0")?;
    let n_features = map.n_features(OP, head_dim)?;
    check_operands(OP, &[("x", Some(x)), ("projection", map.projection.as_ref())], &[])?;
    let mut shape = rows.to_vec();
    shape.push(n_features);
    check_size(&shape)?;
    match x.storage() {
        Storage::Cpu(cpu, _) => {
            Ok(Tensor::from_cpu(*cpu, shape, cpu::feature_map(cpu.0, map, head_dim, n_features, x.cpu())?))
        }
        #[cfg(feature = "gpu")]
        Storage::Gpu(gpu, _) => gpu::feature_map(gpu, map, head_dim, n_features, x, shape),
    }
}
