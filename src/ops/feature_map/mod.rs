//! Feature maps of linear attention: random features whose products approximate the softmax
//! kernel (FAVOR+, arXiv 2009.14794), and generalised kernels.

pub(crate) mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;
mod random;

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    tensor::{Storage, Tensor, check_same_device},
};
pub(crate) use random::normal;
pub use random::{ProjectionRows, random_features};

const OP: &str = "feature_map";

/// What is made of `z = W x`, for `W` the projection of `n_features` rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FeatureKind {
    /// `x` itself; there is no projection. Deep kernel attention, whose features are learned.
    Identity,
    /// `exp(z - |x|^2 / 2) / sqrt(n_features)`: positive features of the softmax kernel, in
    /// the form that does not overflow (arXiv 2009.14794, lemma 1). They fall off with the
    /// square of the length: vectors much longer than 10 have features of zero in f32, and the
    /// estimate of the kernel is poor well before.
    Softmax,
    /// `max(z, 0)`.
    Relu,
    /// The tanh approximation, as [`Activation::GeluTanh`](crate::ops::Activation::GeluTanh).
    Gelu,
    /// `exp(z)`.
    Exp,
    /// `z` above zero, `exp(z) - 1` below.
    Elu,
}

/// From a query or a key to its features.
#[derive(Clone, Debug)]
pub struct FeatureMap {
    /// What is made of the product with the projection.
    pub kind: FeatureKind,
    /// `[n_features, head_dim]`, shared by all heads; `None` for [`FeatureKind::Identity`].
    pub projection: Option<Tensor>,
    /// Multiplies `x` before anything else. For the softmax kernel of attention this is
    /// `head_dim^(-1/4)`, on queries and on keys.
    pub scale: f32,
}

impl FeatureMap {
    /// Features that somebody else computed, times `scale`.
    pub fn identity(scale: f32) -> Self {
        Self { kind: FeatureKind::Identity, projection: None, scale }
    }

    /// FAVOR+ features of softmax attention, for a projection `[n_features, head_dim]` such
    /// as [`random_features`] draws.
    ///
    /// ```
    /// use wgpu_attention::{Device, ops::{FeatureMap, ProjectionRows, random_features}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let map = FeatureMap::softmax(random_features(&Device::cpu(), 0, 128, 16, ProjectionRows::Orthogonal)?);
    /// assert_eq!(map.scale, 0.5); // 16^(-1/4)
    /// # Ok(())
    /// # }
    /// ```
    pub fn softmax(projection: Tensor) -> Self {
        let head_dim = projection.shape().last().copied().unwrap_or(1);
        Self { kind: FeatureKind::Softmax, projection: Some(projection), scale: (head_dim as f32).powf(-0.25) }
    }

    /// The number of features of an input of some width.
    pub(crate) fn n_features(&self, op: &'static str, head_dim: usize) -> Result<usize> {
        if !self.scale.is_finite() {
            let found = self.scale.to_string();
            return Err(Error::Argument { op, name: "scale", found, allowed: "a finite number".into() });
        }
        match (&self.projection, self.kind) {
            (None, FeatureKind::Identity) => Ok(head_dim),
            (Some(projection), kind) if kind != FeatureKind::Identity => match *projection.shape() {
                [n_features, width] if width == head_dim && n_features > 0 => Ok(n_features),
                _ => Err(Error::Shape {
                    op,
                    name: "projection",
                    found: projection.shape().to_vec(),
                    expected: format!("[n_features, {head_dim}], the last is the head dimension"),
                }),
            },
            (projection, kind) => Err(Error::Argument {
                op,
                name: "projection",
                found: format!("{} for {kind:?}", if projection.is_some() { "one" } else { "none" }),
                allowed: "none for Identity, one for every other kind".into(),
            }),
        }
    }
}

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
        return Err(Error::Shape { op: OP, name: "x", found: vec![], expected: "[.., head_dim]".into() });
    };
    if head_dim == 0 {
        return Err(Error::Shape {
            op: OP,
            name: "x",
            found: x.shape().to_vec(),
            expected: "[.., head_dim], head_dim > 0".into(),
        });
    }
    let n_features = map.n_features(OP, head_dim)?;
    check_same_device(OP, x, &[map.projection.as_ref()])?;
    let mut shape = rows.to_vec();
    shape.push(n_features);
    match x.storage() {
        Storage::Cpu(_) => Ok(Tensor::from_cpu(shape, cpu::feature_map(map, head_dim, n_features, x.cpu()))),
        #[cfg(feature = "gpu")]
        Storage::Gpu(gpu, _) => gpu::feature_map(gpu, map, head_dim, n_features, x, shape),
    }
}
