//! The few-shot classifier (arXiv 2302.09422; the authors' code builds on Gidaris and Komodakis
//! 2018, arXiv 1804.09458): the weights of a classifier are an attention memory whose values are
//! classes. New classes are written, and what they have in common with old ones is erased there.

use std::path::Path;

use super::{
    config::{ClassifierType, FewShotConfig, Generator},
    turing::read_config,
};
use crate::{
    Device,
    checkpoint::Checkpoint,
    error::{Error, Result},
    models::layers::torch_linear,
    ops::{
        Activation, AttentionMemory, Layout, Linear, MemoryState, Probabilities, ScanAttention, add, concat, gate,
        linear, scale_columns, scan_attention, unit_norm,
    },
    tensor::{Tensor, check_finite},
};

const OP: &str = "FewShot::condition";

/// Features and labels are `[batch, n, width]`.
const ONE_HEAD: Layout = Layout::Projected { n_heads: 1 };

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
#[derive(Clone, Debug)]
pub struct FewShot {
    device: Device,
    config: FewShotConfig,
    n_features: usize,
    embedding: Vec<Linear>,
    weight_base: Vec<f32>,
    bias: f32,
    scale_cls: f32,
    erase_logits: Option<Vec<f32>>,
    eraser: Option<[Linear; 2]>,
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

/// The weights of all classes, base classes first.
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

impl FewShot {
    /// Reads a checkpoint of model `nam_few_shot`, whose metadata holds the configuration as JSON
    /// under `config`.
    ///
    /// # Errors
    /// The file cannot be read, is no such checkpoint, or its parameters are not those that its
    /// configuration asks for.
    pub fn open(device: &Device, path: impl AsRef<Path>) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        Self::new(device, &read_config(&checkpoint, "nam_few_shot")?, &checkpoint)
    }

    /// Builds the network from parameters: the authors' names, and `embedding.0`, `embedding.2`
    /// and so on.
    ///
    /// # Errors
    /// The configuration contradicts itself; a parameter is missing, misshapen or left over.
    pub fn new(device: &Device, config: &FewShotConfig, checkpoint: &Checkpoint) -> Result<Self> {
        let n = config.n_features()?;
        let generator = config.generator;
        checkpoint.load(device, |parameters| {
            let one = |name: &str| Ok::<f32, Error>(parameters.numbers(name, &[1])?[0]);
            let widths = std::iter::once(&config.embedding.n_in).chain(&config.embedding.dims);
            let embedding = widths.zip(&config.embedding.dims).enumerate().map(|(i, (&n_in, &n_out))| {
                torch_linear(&parameters.scope(format!("embedding.{}", 2 * i)), n_in, n_out, true)
            });
            let block = parameters.scope("namblock");
            let mut erase_logits = None;
            if generator.has_erase_logits() {
                erase_logits = Some(block.numbers("erase_logits", &[config.n_base])?.to_vec());
                // There, and read by nothing.
                block.numbers("write_logits", &[config.n_novel])?;
            }
            let two_layers = |name: &str| -> Result<[Linear; 2]> {
                let layer = |i: usize, n_out| torch_linear(&block.scope(format!("{name}.{i}")), n, n_out, true);
                Ok([layer(0, n)?, layer(2, 1)?])
            };
            let mut eraser = None;
            if generator.has_eraser() {
                eraser = Some(two_layers("eraser")?);
                // There, and read by nothing: the authors' code writes with the eraser.
                two_layers("writer")?;
            }
            let scales = generator.attends() || generator == Generator::FeatureAveraging;
            let attention = || {
                let block = parameters.scope("attblock");
                Ok(Attention {
                    query: torch_linear(&block.scope("queryLayer"), n, n, true)?,
                    keys: block.numbers("wkeys", &[config.n_base, n])?.to_vec(),
                    scale: block.numbers("scale_att", &[1])?[0],
                })
            };
            Ok(Self {
                device: device.clone(),
                config: config.clone(),
                n_features: n,
                embedding: embedding.collect::<Result<_>>()?,
                weight_base: parameters.numbers("weight_base", &[config.n_base, n])?.to_vec(),
                bias: one("bias")?,
                scale_cls: one("scale_cls")?,
                erase_logits,
                eraser,
                scale_mean: scales.then(|| parameters.tensor("wnLayerFavg.weight", &[n])).transpose()?,
                scale_attention: generator
                    .attends()
                    .then(|| parameters.tensor("wnLayerWatt.weight", &[n]))
                    .transpose()?,
                attention: generator.attends().then(attention).transpose()?,
            })
        })
    }

    /// The architecture.
    pub fn config(&self) -> &FewShotConfig {
        &self.config
    }

    /// The features of inputs `[batch, n, n_in]`: `[batch, n, n_features]`.
    ///
    /// # Errors
    /// Data that does not fill whole inputs, as many for each batch element.
    pub fn features(&self, batch: usize, inputs: &[f32]) -> Result<Tensor> {
        let n_in = self.config.embedding.n_in;
        let n = inputs.len() / batch.saturating_mul(n_in).max(1);
        let mut x = Tensor::new(&self.device, &[batch, n, n_in], inputs)?;
        for (i, layer) in self.embedding.iter().enumerate() {
            let is_last = i + 1 == self.embedding.len();
            x = linear(&x, layer, if is_last { Activation::None } else { self.config.embedding.activation }, None)?;
        }
        Ok(x)
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
        let is_cosine = self.config.classifier_type == ClassifierType::Cosine;
        let features = self.features(batch, episode.supports)?;
        if *features.shape() != [batch, n, self.n_features] {
            return Err(Error::Length {
                shape: vec![batch, n, self.config.embedding.n_in],
                expected: batch * n * self.config.embedding.n_in,
                found: episode.supports.len(),
            });
        }
        let keys = unit_norm(&features)?;
        let features = if is_cosine { keys.clone() } else { features };
        let base = self.rows(&self.weight_base, batch, episode.base_ids)?;
        let n_base = base.shape()[1];
        let labels = [batch, n, n_novel];
        let means = Tensor::new(&self.device, &labels, &means)?;
        let of_class =
            |values: &Tensor, weights: &Tensor| sum(values, weights)?.reshape(&[batch, n_novel, self.n_features]);

        let mut mean = of_class(&features, &means)?;
        let mut new_base = base.clone();
        if let Some(logits) = &self.erase_logits {
            let logits = logits[..n_base].repeat(batch * n);
            let p = Probabilities::sigmoid(&Tensor::new(&self.device, &[batch, n, n_base], &logits)?)?;
            new_base = erase(&base, &keys, &p)?;
        }
        if let Some([first, second]) = &self.eraser {
            let hidden = linear(&features, first, Activation::Relu, None)?;
            let p = Probabilities::sigmoid(&linear(&hidden, second, Activation::None, None)?)?;
            new_base = erase(&unit_norm(&base)?, &keys, &p)?;
            mean = of_class(&gate(&keys, &p)?, &Tensor::new(&self.device, &labels, episode.labels)?)?;
        }
        let mut novel = match &self.scale_mean {
            Some(scale) => scale_columns(&mean, scale)?,
            None => mean,
        };
        if let (Some(attention), Some(scale)) = (&self.attention, &self.scale_attention) {
            let shape = [batch, 1, n, self.n_features];
            let query = unit_norm(&linear(&features, &attention.query, Activation::None, None)?)?.reshape(&shape)?;
            let shape = [batch, 1, n_base, self.n_features];
            let keys = unit_norm(&self.rows(&attention.keys, batch, episode.base_ids)?)?.reshape(&shape)?;
            let values = if is_cosine { unit_norm(&base)? } else { base };
            let options = ScanAttention::default().scale(attention.scale);
            let attended = scan_attention(&query, &keys, &values.reshape(&shape)?, &options)?.values;
            let attended = of_class(&attended.reshape(&[batch, n, self.n_features])?, &means)?;
            novel = add(&novel, &scale_columns(&attended, scale)?, 1.0)?;
        }
        // Rows side by side are classes one after the other.
        let flat = |x: &Tensor| x.reshape(&[batch, x.len() / batch]);
        let weights = concat(&flat(&new_base)?, 0..n_base * self.n_features, &flat(&novel)?)?;
        Ok(self.classifier(weights.reshape(&[batch, n_base + n_novel, self.n_features])?))
    }

    fn classifier(&self, weights: Tensor) -> Classifier {
        let (scale, bias) = (self.scale_cls, self.bias);
        Classifier { weights, scale, bias, classifier_type: self.config.classifier_type }
    }

    /// Rows of a table `[n_base, n_features]`, `[batch, n, n_features]`.
    fn rows(&self, table: &[f32], batch: usize, ids: &[usize]) -> Result<Tensor> {
        let n = ids.len() / batch.max(1);
        if n == 0 || ids.len() != batch * n || n > self.config.n_base {
            return Err(Error::Argument {
                op: OP,
                name: "base_ids",
                found: format!("{} for a batch of {batch}", ids.len()),
                allowed: format!("1 to {} for each batch element", self.config.n_base),
            });
        }
        if let Some(id) = ids.iter().find(|id| **id >= self.config.n_base) {
            return Err(Error::Argument {
                op: OP,
                name: "base_ids",
                found: id.to_string(),
                allowed: format!("0 to {}", self.config.n_base - 1),
            });
        }
        let rows: Vec<f32> =
            ids.iter().flat_map(|id| &table[id * self.n_features..][..self.n_features]).copied().collect();
        Tensor::new(&self.device, &[batch, n, self.n_features], &rows)
    }
}

/// `sum_n v_n k_n^T` of `k [batch, n, a]` and `v [batch, n, b]`: `[batch, 1, b, a]`.
fn sum(k: &Tensor, v: &Tensor) -> Result<Tensor> {
    Ok(AttentionMemory::new(ONE_HEAD).write(None, k, v, None)?.memory)
}

/// Erases keys `[batch, n, n_features]` from weights `[batch, classes, n_features]`, all at once
/// and averaged over the batch: `W_c - 1/B sum_bn p_bn (k_bn . W_bc) k_bn`. The probabilities are
/// `[batch, n, 1]` or one for each class.
fn erase(weights: &Tensor, keys: &Tensor, p: &Probabilities) -> Result<Tensor> {
    let &[batch, n_classes, n_features] = weights.shape() else {
        return Ok(weights.clone());
    };
    let memory = MemoryState::new(weights.reshape(&[batch, 1, n_classes, n_features])?);
    let known = AttentionMemory::new(ONE_HEAD).read(keys, &memory)?.values;
    let known = gate(&known, p)?;
    let n = keys.shape()[1];
    // One memory for the whole batch.
    let erased = sum(&keys.reshape(&[1, batch * n, n_features])?, &known.reshape(&[1, batch * n, n_classes])?)?;
    add(weights, &erased.reshape(&[n_classes, n_features])?, -1.0 / batch as f32)
}

fn is_one_hot(label: &[f32]) -> bool {
    label.iter().all(|&x| x == 0.0 || x == 1.0) && label.iter().filter(|&&x| x == 1.0).count() == 1
}

fn not_one_hot(op: &'static str, row: usize, label: &[f32]) -> Error {
    Error::Argument {
        op,
        name: "labels",
        found: format!("{label:?} in row {row}"),
        allowed: "one-hot rows: a single 1, zeros".into(),
    }
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
        return Err(Error::Argument {
            op: OP,
            name: "labels",
            found: format!("{} numbers for a batch of {batch} and {n_novel} classes", labels.len()),
            allowed: "[batch, n, n_novel], nothing empty".into(),
        });
    }
    if let Some(row) = labels.chunks_exact(n_novel).position(|label| !is_one_hot(label)) {
        return Err(not_one_hot(OP, row, &labels[row * n_novel..][..n_novel]));
    }
    let mut means = labels.to_vec();
    for (b, means) in means.chunks_exact_mut(of_batch).enumerate() {
        for class in 0..n_novel {
            let n: f32 = means.iter().skip(class).step_by(n_novel).sum();
            if n == 0.0 {
                return Err(Error::Argument {
                    op: OP,
                    name: "labels",
                    found: format!("no support of class {class} in batch element {b}"),
                    allowed: "one or more of every class".into(),
                });
            }
            means.iter_mut().skip(class).step_by(n_novel).for_each(|x| *x /= n);
        }
    }
    Ok(means)
}

impl Classifier {
    /// The scores of features `[batch, n, n_features]`: `[batch, n, classes]`,
    /// `scale (bias + x . w)`, of unit vectors if cosines are compared.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn scores(&self, features: &Tensor) -> Result<Tensor> {
        let &[batch, n_classes, n_features] = self.weights.shape() else {
            return Err(Error::Shape {
                op: "Classifier::scores",
                name: "weights",
                found: self.weights.shape().to_vec(),
                expected: "[batch, classes, n_features]".into(),
            });
        };
        let of = |x: &Tensor| match self.classifier_type {
            ClassifierType::Cosine => unit_norm(x),
            ClassifierType::DotProduct => Ok(x.clone()),
        };
        let memory = MemoryState::new(of(&self.weights)?.reshape(&[batch, 1, n_classes, n_features])?);
        let products = AttentionMemory::new(ONE_HEAD).read(&of(features)?, &memory)?.values;
        let bias = vec![self.scale * self.bias; products.len()];
        add(&Tensor::new(&products.device(), products.shape(), &bias)?, &products, self.scale)
    }

    /// Writes supports one after the other, each erased from *all* classes before: the paper's
    /// one-sentence idea, `W = WR(W, x / |x|, label, p_w, p_e)`. Not in the authors' code.
    /// Features `[batch, n, n_features]`, one-hot labels `[batch, n, classes]` of all classes,
    /// probabilities `[batch, n, 1]`.
    ///
    /// # Errors
    /// Labels that are not one-hot; shapes that do not fit.
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

/// Shares of test samples, from 0 to 1; NaN where there are none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Accuracy {
    /// All samples, among all classes: the authors' AccuracyBoth.
    pub both: f64,
    /// Samples of base classes, among base classes.
    pub base: f64,
    /// Samples of novel classes, among novel classes.
    pub novel: f64,
    /// Samples of base classes that are taken for a novel one: false positives.
    pub false_novel: f64,
    /// Samples of novel classes that are taken for a base one.
    pub false_base: f64,
}

impl Accuracy {
    /// Counts `scores [n, classes]` against the class of each sample; the first `n_base` classes
    /// are base classes.
    ///
    /// # Errors
    /// Scores that do not fill their shape or are not finite; classes that do not exist.
    pub fn new(scores: &[f32], classes: &[usize], n_base: usize) -> Result<Self> {
        let n_classes = scores.len() / classes.len().max(1);
        if n_base >= n_classes || scores.len() != classes.len() * n_classes {
            return Err(Error::Argument {
                op: "Accuracy::new",
                name: "scores",
                found: format!("{} for {} samples", scores.len(), classes.len()),
                allowed: format!("one for each sample and class, of which more than {n_base}"),
            });
        }
        if let Some(class) = classes.iter().find(|class| **class >= n_classes) {
            return Err(Error::Argument {
                op: "Accuracy::new",
                name: "class",
                found: class.to_string(),
                allowed: format!("0 to {}", n_classes - 1),
            });
        }
        check_finite("scores", scores)?;
        let best = |scores: &[f32]| {
            scores
                .iter()
                .enumerate()
                .fold((0, f32::NEG_INFINITY), |best, (i, &x)| if x > best.1 { (i, x) } else { best })
                .0
        };
        // Right among all, right among its own kind, taken for the other kind.
        let (mut right, mut own, mut wrong, mut n) = (0, [0; 2], [0; 2], [0; 2]);
        for (scores, &class) in scores.chunks_exact(n_classes).zip(classes) {
            let kind = usize::from(class >= n_base);
            let found = best(scores);
            let among = if kind == 0 { best(&scores[..n_base]) } else { n_base + best(&scores[n_base..]) };
            n[kind] += 1;
            right += usize::from(found == class);
            own[kind] += usize::from(among == class);
            wrong[kind] += usize::from((found >= n_base) != (kind == 1));
        }
        let share = |count: usize, n: usize| count as f64 / n as f64;
        Ok(Self {
            both: share(right, classes.len()),
            base: share(own[0], n[0]),
            novel: share(own[1], n[1]),
            false_novel: share(wrong[0], n[0]),
            false_base: share(wrong[1], n[1]),
        })
    }
}
