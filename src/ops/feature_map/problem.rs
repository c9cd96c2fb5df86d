//! Feature maps as values.

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result, check_argument},
    tensor::Tensor,
};

pub(super) const OP: &str = "feature_map";

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
    /// estimate of the kernel is poor well before. What is read stays an average of values with
    /// [`Normalizer::Stable`](crate::ops::Normalizer::Stable).
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
    ///
    /// ```
    /// use wgpu_attention::{Device, Tensor, ops::{FeatureMap, feature_map}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let x = Tensor::new(&Device::best(), &[1, 2], &[1.0, 2.0])?;
    /// assert_eq!(feature_map(&x, &FeatureMap::identity(0.5))?.read()?, [0.5, 1.0]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn identity(scale: f32) -> Self {
        Self { kind: FeatureKind::Identity, projection: None, scale }
    }

    /// FAVOR+ features of softmax attention, for a projection `[n_features, head_dim]` such
    /// as [`random_features`](super::random_features) draws.
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

    /// The projection of features that have one.
    pub(crate) fn projection(&self, op: &'static str) -> Result<&Tensor> {
        let missing = || Error::argument(op, "projection", format!("none for {:?}", self.kind), "one");
        self.projection.as_ref().ok_or_else(missing)
    }

    /// The number of features of an input of some width.
    pub(crate) fn n_features(&self, op: &'static str, head_dim: usize) -> Result<usize> {
        check_argument(self.scale.is_finite(), op, "scale", self.scale, "a finite number")?;
        let kind = self.kind;
        match self.projection.as_ref().map(Tensor::shape) {
            None if kind == FeatureKind::Identity => Ok(head_dim),
            Some(&[n_features, width]) if kind != FeatureKind::Identity && width == head_dim && n_features > 0 => {
                Ok(n_features)
            }
            Some(found) if kind != FeatureKind::Identity => {
                let expected = format!("[n_features, {head_dim}], the last is the head dimension");
                Err(Error::shape(op, "projection", found, expected))
            }
            projection => {
                let found = format!("{} for {kind:?}", if projection.is_some() { "one" } else { "none" });
                Err(Error::argument(op, "projection", found, "none for Identity, one for every other kind"))
            }
        }
    }
}
