//! A classifier as a memory whose values are classes.

use super::config::ClassifierType;
use crate::{
    error::{Error, Result},
    host::filled,
    models::tiles::read_predicted,
    ops::{AttentionMemory, Layout, MemoryState, Probabilities, add, unit_norm},
    tensor::Tensor,
};

/// Features and labels are `[batch, n, width]`.
pub(super) const ONE_HEAD: Layout = Layout::Projected { n_heads: 1 };

/// The weights of all classes, base classes first.
///
/// ```
/// use wgpu_attention::{Device, Tensor, models::nam::{Classifier, ClassifierType}};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let device = Device::best();
/// let weights = Tensor::new(&device, &[1, 2, 2], &[1.0, 0.0, 0.0, 2.0])?; // two classes
/// let classifier = Classifier { weights, scale: 10.0, bias: 0.0, classifier_type: ClassifierType::Cosine };
/// let scores = classifier.scores(&Tensor::new(&device, &[1, 1, 2], &[3.0, 4.0])?)?.read()?;
/// assert!((scores[0] - 6.0).abs() < 1e-4 && (scores[1] - 8.0).abs() < 1e-4);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Classifier {
    /// `[batch, n_base + n_novel, n_features]`, before they are normalised.
    pub weights: Tensor,
    /// Multiplies the scores.
    pub scale: f32,
    /// Added before the scale.
    pub bias: f32,
    /// How features and weights are compared.
    pub classifier_type: ClassifierType,
}

impl Classifier {
    /// The scores of features `[batch, n, n_features]`: `[batch, n, classes]`,
    /// `scale (bias + x . w)`, of unit vectors if cosines are compared. They stay on the device: what
    /// overflows is passed on, and [`Classifier::predict`] refuses it.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn scores(&self, features: &Tensor) -> Result<Tensor> {
        let weights = self.weights.shape();
        if weights.len() != 3 {
            return Err(Error::shape("Classifier::scores", "weights", weights, "[batch, classes, n_features]"));
        }
        let of = |x: &Tensor| match self.classifier_type {
            ClassifierType::Cosine => unit_norm(x),
            ClassifierType::DotProduct => Ok(x.clone()),
        };
        scaled(&products(&of(features)?, &of(&self.weights)?)?, self.bias, self.scale)
    }

    /// The scores on the host.
    ///
    /// # Errors
    /// As [`Classifier::scores`]; scores that are not finite.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn predict(&self, features: &Tensor) -> Result<Vec<f32>> {
        pollster::block_on(self.predict_async(features))
    }

    /// [`Classifier::predict`] without blocking.
    ///
    /// # Errors
    /// As [`Classifier::predict`].
    pub async fn predict_async(&self, features: &Tensor) -> Result<Vec<f32>> {
        read_predicted("the scores", &self.scores(features)?).await
    }

    /// Writes supports one after the other, each erased from *all* classes before: the paper's
    /// one-sentence idea, `W = WR(W, x / |x|, label, p_w, p_e)`. Not in the authors' code.
    /// Features `[batch, n, n_features]`, one-hot labels `[batch, n, classes]` of all classes,
    /// probabilities `[batch, n, 1]`.
    ///
    /// # Errors
    /// Labels that are not one-hot; shapes that do not fit; on a GPU, more features than
    /// [`MAX_HEAD_DIM`](crate::ops::attention_memory::MAX_HEAD_DIM) where something is erased.
    pub fn write(
        &self,
        features: &Tensor,
        labels: &[f32],
        p_write: Option<&Probabilities>,
        p_erase: Option<&Probabilities>,
    ) -> Result<Self> {
        let mut shape = self.weights.shape().to_vec();
        shape.insert(1.min(shape.len()), 1);
        let n_classes = self.weights.shape().get(1).copied().unwrap_or(0).max(1);
        if let Some(i) = labels.chunks(n_classes).position(|row| !is_one_hot(row)) {
            let end = labels.len().min((i + 1) * n_classes);
            return Err(not_one_hot("Classifier::write", i, &labels[i * n_classes..end]));
        }
        let mut rows = features.shape().to_vec();
        rows.pop();
        rows.push(n_classes);
        let labels = &Tensor::new(&features.device(), &rows, labels)?;
        let before = MemoryState::new(self.weights.reshape(&shape)?);
        let mut memory = AttentionMemory::new(ONE_HEAD);
        memory.p_write = p_write;
        memory.p_erase = p_erase;
        let weights = memory.write(Some(&before), &unit_norm(features)?, labels, None)?.memory;
        Ok(Self { weights: weights.reshape(self.weights.shape())?, ..self.clone() })
    }
}

/// `x . w` of features `[batch, n, n_features]` and the weights of classes `[batch, classes, n_features]`:
/// `[batch, n, classes]`.
pub(super) fn products(features: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let mut shape = weights.shape().to_vec();
    shape.insert(1, 1);
    let memory = MemoryState::new(weights.reshape(&shape)?);
    Ok(AttentionMemory::new(ONE_HEAD).read(features, &memory)?.values)
}

/// `scale (bias + x)`.
pub(super) fn scaled(x: &Tensor, bias: f32, scale: f32) -> Result<Tensor> {
    add(&Tensor::new(&x.device(), x.shape(), &filled(scale * bias, x.shape())?)?, x, scale)
}

pub(super) fn is_one_hot(label: &[f32]) -> bool {
    label.iter().all(|&x| x == 0.0 || x == 1.0) && label.iter().filter(|&&x| x == 1.0).count() == 1
}

pub(super) fn not_one_hot(op: &'static str, row: usize, label: &[f32]) -> Error {
    Error::argument(op, "labels", format!("{label:?} in row {row}"), "one-hot rows: a single 1, zeros")
}
