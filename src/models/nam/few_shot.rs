//! The few-shot classifier (arXiv 2302.09422; the authors' code builds on Gidaris and Komodakis
//! 2018, arXiv 1804.09458): the weights of a classifier are an attention memory whose values are
//! classes. New classes are written, and what they have in common with old ones is erased there.

use std::{fmt, path::Path};

use super::{
    classifier::{Classifier, ONE_HEAD, is_one_hot, not_one_hot, products, scaled},
    config::{ClassifierType, FewShotConfig, Generator},
};
use crate::{
    Device,
    checkpoint::{Checkpoint, Parameters},
    error::{Error, Result, check_argument},
    host::{collect, count, repeated},
    models::{
        layers::{Mlp, torch_linear},
        open::{self, About},
    },
    ops::{
        Activation, AttentionMemory, Bias, Linear, Probabilities, ScanAttention, add, columns, concat, gate, linear,
        scale_columns, scan_attention, unit_norm,
    },
    tensor::Tensor,
};

const MODEL: &str = "nam_few_shot";

const OP: &str = "FewShot::condition";

/// Examples of novel classes, for each batch element.
#[derive(Clone, Copy, Debug)]
pub struct Episode<'a> {
    /// Batch elements.
    pub batch: usize,
    /// Novel classes.
    pub n_novel: usize,
    /// Inputs of the supports, `[batch, n, n_in]`.
    pub supports: &'a [f32],
    /// One-hot, `[batch, n, n_novel]`; every class has a support.
    pub labels: &'a [f32],
    /// Which base classes take part, `[batch, n_base]`, in the order of their columns.
    pub base_ids: &'a [usize],
}

/// The network: an embedding, the weights of base classes, and where those of novel ones come
/// from.
///
/// ```
/// use wgpu_attention::{Device, checkpoint::Checkpoint, models::nam::{Episode, FewShot, FewShotConfig}, serde_json};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// // Features are the two numbers of an input themselves; a novel class is the mean of its examples.
/// let config = r#"{"generator": "none", "classifier_type": "cosine", "n_base": 1, "n_novel": 1,
///                  "embedding": {"n_in": 2, "dims": []}}"#;
/// let config: FewShotConfig = serde_json::from_str(config).unwrap();
/// let mut checkpoint = Checkpoint::default();
/// checkpoint.insert("weight_base", &[1, 2], vec![1.0, 0.0])?;
/// checkpoint.insert("scale_cls", &[1], vec![1.0])?;
/// checkpoint.insert("bias", &[1], vec![0.0])?;
/// let model = FewShot::new(&Device::best(), &config, &checkpoint)?;
/// let episode = Episode { batch: 1, n_novel: 1, supports: &[0.0, 2.0], labels: &[1.0], base_ids: &[0] };
/// let scores = model.condition(&episode)?.scores(&model.features(1, &[0.0, 5.0])?)?.read()?;
/// assert!(scores[0].abs() < 1e-6 && (scores[1] - 1.0).abs() < 1e-6); // it is of the novel class
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct FewShot {
    about: About<FewShotConfig>,
    n_features: usize,
    embedding: Mlp,
    weight_base: Vec<f32>,
    bias: f32,
    scale_cls: f32,
    erase_logits: Option<Vec<f32>>,
    eraser: Option<Mlp>,
    /// Multiply the channels of the mean and of what attention returns.
    scale_mean: Option<Tensor>,
    scale_attention: Option<Tensor>,
    attention: Option<Attention>,
}

/// Attention of the supports over the base classes.
#[derive(Clone, Debug)]
struct Attention {
    query: Linear,
    keys: Vec<f32>,
    scale: f32,
}

impl fmt::Debug for FewShot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.about.debug("FewShot", f)
    }
}

impl FewShot {
    /// Reads a file of model `nam_few_shot`, see [`checkpoint`](crate::checkpoint).
    ///
    /// # Errors
    /// The file cannot be read, is no such checkpoint, or its parameters are not those that its
    /// configuration asks for.
    pub fn open(device: &Device, path: impl AsRef<Path>) -> Result<Self> {
        Self::from_checkpoint(device, &Checkpoint::open(path)?)
    }

    /// [`FewShot::open`] of a file that was read already.
    ///
    /// # Errors
    /// As [`FewShot::open`].
    pub fn from_checkpoint(device: &Device, checkpoint: &Checkpoint) -> Result<Self> {
        let config = open::config(checkpoint, MODEL, |upstream| FewShotConfig::from_authors(&upstream.yaml))?;
        Self::new(device, &config, checkpoint)
    }

    /// Builds the network from parameters: the authors' names, and `embedding.0`, `embedding.2`
    /// and so on.
    ///
    /// # Errors
    /// The configuration contradicts itself; a parameter is missing, misshapen or left over.
    pub fn new(device: &Device, config: &FewShotConfig, checkpoint: &Checkpoint) -> Result<Self> {
        config.n_features()?;
        checkpoint.load(device, |parameters| Self::load(parameters, config))
    }

    fn load(parameters: &Parameters<'_>, config: &FewShotConfig) -> Result<Self> {
        let n = config.n_features()?;
        let generator = config.generator;
        let one = |name: &str| Ok::<f32, Error>(parameters.numbers(name, &[1])?[0]);
        let embedding = &config.embedding;
        let embed = Mlp::load_torch(&parameters.scope("embedding"), embedding.n_in, &embedding.dims)?;
        let block = parameters.scope("namblock");
        let mut erase_logits = None;
        if generator.has_erase_logits() {
            erase_logits = Some(block.numbers("erase_logits", &[config.n_base])?.to_vec());
            // There, and read by nothing.
            block.numbers("write_logits", &[config.n_novel])?;
        }
        let mut eraser = None;
        if generator.has_eraser() {
            let two_layers = |name: &str| Mlp::load_torch(&block.scope(name), n, &[n, 1]);
            eraser = Some(two_layers("eraser")?);
            // There, and read by nothing: the authors' code writes with the eraser.
            two_layers("writer")?;
        }
        let attention = || {
            let block = parameters.scope("attblock");
            Ok::<Attention, Error>(Attention {
                query: torch_linear(&block.scope("queryLayer"), n, n, true)?,
                keys: block.numbers("wkeys", &[config.n_base, n])?.to_vec(),
                scale: block.numbers("scale_att", &[1])?[0],
            })
        };
        let channels = |name: &str| parameters.scope(name).tensor("weight", &[n]);
        let scales_mean = generator.attends() || generator == Generator::FeatureAveraging;
        Ok(Self {
            n_features: n,
            embedding: embed.with_activation(embedding.activation),
            weight_base: parameters.numbers("weight_base", &[config.n_base, n])?.to_vec(),
            bias: one("bias")?,
            scale_cls: one("scale_cls")?,
            erase_logits,
            eraser,
            scale_mean: scales_mean.then(|| channels("wnLayerFavg")).transpose()?,
            scale_attention: generator.attends().then(|| channels("wnLayerWatt")).transpose()?,
            attention: generator.attends().then(attention).transpose()?,
            about: About::new(MODEL, config, parameters),
        })
    }

    /// The architecture.
    pub fn config(&self) -> &FewShotConfig {
        &self.about.config
    }

    /// Where the network runs.
    pub fn device(&self) -> &Device {
        &self.about.device
    }

    /// The features of inputs `[batch, n, n_in]`: `[batch, n, n_features]`.
    ///
    /// # Errors
    /// Data that does not fill whole inputs, as many for each batch element.
    pub fn features(&self, batch: usize, inputs: &[f32]) -> Result<Tensor> {
        let n_in = self.config().embedding.n_in;
        let n = inputs.len() / batch.saturating_mul(n_in).max(1);
        self.embedding.forward(&Tensor::new(self.device(), &[batch, n, n_in], inputs)?, None)
    }

    /// The classifier of the base classes alone, `base_ids [batch, n_base]`.
    ///
    /// # Errors
    /// Classes that do not exist.
    pub fn base(&self, batch: usize, base_ids: &[usize]) -> Result<Classifier> {
        Ok(self.classifier(self.rows(&self.weight_base, batch, base_ids)?))
    }

    /// Writes novel classes. With a batch of more than one, what the generators of memory erase is
    /// averaged over the episodes, as in the authors' code; so evaluate them one by one.
    ///
    /// # Errors
    /// Labels that are not one-hot, or a class without a support; base classes that do not exist;
    /// data that does not fit.
    pub fn condition(&self, episode: &Episode<'_>) -> Result<Classifier> {
        let Episode { batch, n_novel, .. } = *episode;
        let means = mean_weights(episode)?;
        let n = episode.labels.len() / (batch * n_novel);
        let is_cosine = self.config().classifier_type == ClassifierType::Cosine;
        let features = self.features(batch, episode.supports)?;
        if *features.shape() != [batch, n, self.n_features] {
            return Err(Error::Length {
                shape: vec![batch, n, self.config().embedding.n_in],
                expected: batch * n * self.config().embedding.n_in,
                found: episode.supports.len(),
            });
        }
        let keys = unit_norm(&features)?;
        let features = if is_cosine { keys.clone() } else { features };
        let base = self.rows(&self.weight_base, batch, episode.base_ids)?;
        let n_base = base.shape()[1];
        let labels = [batch, n, n_novel];
        let means = Tensor::new(self.device(), &labels, &means)?;
        let of_class =
            |values: &Tensor, weights: &Tensor| sum(values, weights)?.reshape(&[batch, n_novel, self.n_features]);

        let mut mean = of_class(&features, &means)?;
        let mut new_base = base.clone();
        if let Some(logits) = &self.erase_logits {
            let logits = repeated(&logits[..n_base], batch * n)?;
            let p = Probabilities::sigmoid(&Tensor::new(self.device(), &[batch, n, n_base], &logits)?)?;
            new_base = erase(&base, &keys, &p)?;
        }
        if let Some(eraser) = &self.eraser {
            let p = Probabilities::sigmoid(&eraser.forward(&features, None)?)?;
            // As the authors' code has it.
            let is_unit = is_cosine || self.config().generator == Generator::Nam2;
            new_base = erase(&if is_unit { unit_norm(&base)? } else { base.clone() }, &keys, &p)?;
            mean = of_class(&gate(&keys, &p)?, &Tensor::new(self.device(), &labels, episode.labels)?)?;
        }
        let mut novel = match &self.scale_mean {
            Some(scale) => scale_columns(&mean, scale)?,
            None => mean,
        };
        if let (Some(attention), Some(scale)) = (&self.attention, &self.scale_attention) {
            let query = unit_norm(&linear(&features, &attention.query, Activation::None, None)?)?;
            let keys = unit_norm(&self.rows(&attention.keys, batch, episode.base_ids)?)?;
            let logits = scaled(&products(&query, &keys)?, 0.0, attention.scale)?;
            let values = if is_cosine { unit_norm(&base)? } else { base };
            let attended = of_class(&attend(&logits, &values)?, &means)?;
            novel = add(&novel, &scale_columns(&attended, scale)?, 1.0)?;
        }
        // Rows side by side are classes one after the other.
        let flat = |x: &Tensor| x.reshape(&[batch, x.len() / batch]);
        let weights = concat(&flat(&new_base)?, 0..n_base * self.n_features, &flat(&novel)?)?;
        Ok(self.classifier(weights.reshape(&[batch, n_base + n_novel, self.n_features])?))
    }

    fn classifier(&self, weights: Tensor) -> Classifier {
        let (scale, bias) = (self.scale_cls, self.bias);
        Classifier { weights, scale, bias, classifier_type: self.config().classifier_type }
    }

    /// Rows of a table `[n_base, n_features]`, `[batch, n, n_features]`.
    fn rows(&self, table: &[f32], batch: usize, ids: &[usize]) -> Result<Tensor> {
        let n = ids.len() / batch.max(1);
        let n_base = self.config().n_base;
        let found = format_args!("{} for a batch of {batch}", ids.len());
        let allowed = format_args!("1 to {n_base} for each batch element");
        check_argument((1..=n_base).contains(&n) && ids.len() == batch * n, OP, "base_ids", found, allowed)?;
        if let Some(id) = ids.iter().find(|id| **id >= n_base) {
            return Err(Error::argument(OP, "base_ids", id, format!("0 to {}", n_base - 1)));
        }
        let rows = ids.iter().flat_map(|id| &table[id * self.n_features..][..self.n_features]).copied();
        let rows = collect(count(&[ids.len(), self.n_features])?, rows)?;
        Tensor::new(self.device(), &[batch, n, self.n_features], &rows)
    }
}

/// `sum_n v_n k_n^T` of `k [batch, n, a]` and `v [batch, n, b]`: `[batch, 1, b, a]`.
fn sum(k: &Tensor, v: &Tensor) -> Result<Tensor> {
    Ok(AttentionMemory::new(ONE_HEAD).write(None, k, v, None)?.memory)
}

/// The values `[batch, n_base, n_features]` by the softmax of logits `[batch, n, n_base]`: `[batch, n, n_features]`.
fn attend(logits: &Tensor, values: &Tensor) -> Result<Tensor> {
    const MOST: usize = scan_attention::MAX_HEAD_DIM;
    let (&[batch, n, n_base], &[.., width]) = (logits.shape(), values.shape()) else {
        return Ok(logits.clone());
    };
    // Features are wider than heads, so their products are logits that exist already, and values come in parts; keys
    // as wide as they have the texts that others compile, too.
    let none = |n| Tensor::zeros(&logits.device(), &[batch, n, width.min(MOST)]);
    let (q, k, matrix) = (none(n)?, none(n_base)?, logits.reshape(&[batch, 1, n, n_base])?);
    let options = ScanAttention::new(ONE_HEAD).bias(Bias::matrix(&matrix));
    let read = |start: usize| {
        let part = columns(values, start..width.min(start + MOST))?;
        Ok(scan_attention::scan_attention(&q, &k, &part, &options)?.values)
    };
    (MOST..width).step_by(MOST).try_fold(read(0)?, |all, start| concat(&all, 0..start, &read(start)?))
}

/// Erases keys `[batch, n, n_features]` from weights `[batch, classes, n_features]`, all at once
/// and averaged over the batch: `W_c - 1/B sum_bn p_bn (k_bn . W_bc) k_bn`. The probabilities are
/// `[batch, n, 1]` or one for each class.
fn erase(weights: &Tensor, keys: &Tensor, p: &Probabilities) -> Result<Tensor> {
    let &[batch, n_classes, n_features] = weights.shape() else {
        return Ok(weights.clone());
    };
    let known = gate(&products(keys, weights)?, p)?;
    let n = keys.shape()[1];
    // One memory for the whole batch.
    let erased = sum(&keys.reshape(&[1, batch * n, n_features])?, &known.reshape(&[1, batch * n, n_classes])?)?;
    add(weights, &erased.reshape(&[n_classes, n_features])?, -1.0 / batch as f32)
}

/// Labels divided by the number of supports of their class; refuses what is not one-hot.
fn mean_weights(episode: &Episode<'_>) -> Result<Vec<f32>> {
    let Episode { batch, n_novel, labels, .. } = *episode;
    let of_batch = labels.len() / batch.max(1);
    if batch == 0
        || n_novel == 0
        || of_batch == 0
        || labels.len() != batch * of_batch
        || !of_batch.is_multiple_of(n_novel)
    {
        return Err(Error::argument(
            OP,
            "labels",
            format!("{} numbers for a batch of {batch} and {n_novel} classes", labels.len()),
            "[batch, n, n_novel], nothing empty",
        ));
    }
    if let Some(row) = labels.chunks_exact(n_novel).position(|label| !is_one_hot(label)) {
        return Err(not_one_hot(OP, row, &labels[row * n_novel..][..n_novel]));
    }
    let mut means = labels.to_vec();
    for (b, means) in means.chunks_exact_mut(of_batch).enumerate() {
        for class in 0..n_novel {
            let n: f32 = means.iter().skip(class).step_by(n_novel).sum();
            if n == 0.0 {
                let found = format!("no support of class {class} in batch element {b}");
                return Err(Error::argument(OP, "labels", found, "one or more of every class"));
            }
            means.iter_mut().skip(class).step_by(n_novel).for_each(|x| *x /= n);
        }
    }
    Ok(means)
}
