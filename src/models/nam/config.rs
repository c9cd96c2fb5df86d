//! What the networks are made of; stored as JSON in the metadata of a checkpoint.

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    models::layers::check_heads,
    ops::{Activation, HeadMoves, KeyErase, TapeErase, TapeOptions, TapeProbabilities},
};

/// Which Turing machine: how its heads move and what the probabilities do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TuringOption {
    /// Heads go back, stay, go on, or jump to where a key was written.
    #[default]
    Default,
    /// Heads go back, stay or go on; `mem_size * n_heads` must be `dim`.
    NoJump,
    /// Heads stay or jump. Degenerate: heads start on slot 0 and keys are only written under a
    /// head, so one slot is all that is ever used.
    OnlyJump,
    /// As the default, with the probabilities of reading, writing and erasing all 1.
    NoRwProb,
    /// As the default, without erasing; keys are written with probability 1.
    NoErase,
    /// As the default, by the paper's equations where they differ from the authors' code: `p_e`
    /// is `p_w`, and the table of keys is erased by position.
    Paper,
}

impl TuringOption {
    /// How the heads move and what is left out.
    ///
    /// ```
    /// use wgpu_attention::{models::nam::TuringOption, ops::{KeyErase, TapeErase}};
    ///
    /// let options = TuringOption::Paper.tape_options();
    /// assert_eq!((options.erase, options.key_erase), (TapeErase::Tied, KeyErase::ByPosition));
    /// ```
    pub fn tape_options(self) -> TapeOptions {
        let heads = match self {
            Self::NoJump => HeadMoves::NoJump,
            Self::OnlyJump => HeadMoves::OnlyJump,
            Self::Default | Self::NoRwProb | Self::NoErase | Self::Paper => HeadMoves::All,
        };
        let options = TapeOptions { heads, ..TapeOptions::default() };
        match self {
            Self::Default | Self::NoJump | Self::OnlyJump => options,
            Self::NoRwProb => TapeOptions { probabilities: TapeProbabilities::One, ..options },
            Self::NoErase => TapeOptions { erase: TapeErase::Never, ..options },
            Self::Paper => TapeOptions { erase: TapeErase::Tied, key_erase: KeyErase::ByPosition, ..options },
        }
    }
}

/// The architecture of a [`NamTmAe`](super::NamTmAe).
///
/// ```
/// use wgpu_attention::{models::nam::{NamTmConfig, TuringOption}, serde_json};
///
/// let config = r#"{"dim": 64, "vocab_size": 12, "n_heads": 4, "mem_size": 16, "tape_length": 64,
///                  "option": "no_jump"}"#;
/// let config: NamTmConfig = serde_json::from_str(config).unwrap();
/// assert!(config.option == TuringOption::NoJump && config.check().is_ok());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamTmConfig {
    /// Width of a token.
    pub dim: usize,
    /// Tokens that there are.
    pub vocab_size: usize,
    /// Tapes.
    pub n_heads: usize,
    /// Width of a slot of a tape.
    pub mem_size: usize,
    /// Slots of a tape.
    pub tape_length: usize,
    /// Which machine.
    #[serde(default)]
    pub option: TuringOption,
}

impl NamTmConfig {
    /// Refuses sizes of 0 or over 2^20, tapes of more than 2^22 numbers together (16 MiB for each sequence, a
    /// thousand times what was trained) and, without jumps, tapes that do not add up to `dim`.
    ///
    /// # Errors
    /// [`Error::Config`] that names the field.
    pub fn check(&self) -> Result<()> {
        let sizes = [
            ("dim", self.dim),
            ("vocab_size", self.vocab_size),
            ("n_heads", self.n_heads),
            ("mem_size", self.mem_size),
            ("tape_length", self.tape_length),
        ];
        check_sizes(&sizes)?;
        let slots = self.n_heads.saturating_mul(self.tape_length);
        if slots.saturating_mul(self.mem_size) > MAX_TAPES {
            return Err(Error::Config {
                message: format!(
                    "n_heads {} times tape_length {} times mem_size {} is more than {MAX_TAPES}, which is allowed",
                    self.n_heads, self.tape_length, self.mem_size
                ),
            });
        }
        if self.option == TuringOption::NoJump && self.mem_size.checked_mul(self.n_heads) != Some(self.dim) {
            return Err(Error::Config {
                message: format!(
                    "mem_size {} times n_heads {} is not dim {}, which option no_jump requires",
                    self.mem_size, self.n_heads, self.dim
                ),
            });
        }
        Ok(())
    }
}

/// The most numbers of all tapes of one sequence.
pub const MAX_TAPES: usize = 1 << 22;

/// The largest size of any dimension of a network.
const MAX_SIZE: usize = 1 << 20;

/// Refuses sizes of 0 and sizes that no file holds.
pub(super) fn check_sizes(sizes: &[(&str, usize)]) -> Result<()> {
    match sizes.iter().find(|(_, size)| !(1..=MAX_SIZE).contains(size)) {
        None => Ok(()),
        Some((name, size)) => Err(Error::Config { message: format!("{name} is {size}, allowed is 1 to {MAX_SIZE}") }),
    }
}

/// Refuses a layer whose heads do not divide its width.
pub(super) fn check_layer(d_model: usize, n_heads: usize) -> Result<()> {
    let (width, heads) = (("d_model", d_model), ("n_heads", n_heads));
    check_sizes(&[width, heads])?;
    check_heads(width, heads).map(|_| ())
}

/// Refuses what has no half for each direction.
pub(super) fn check_even(d_model: usize, n_heads: usize) -> Result<()> {
    if d_model.is_multiple_of(2) && n_heads.is_multiple_of(2) {
        return Ok(());
    }
    let message = format!("d_model is {d_model} and n_heads {n_heads}, allowed is even: half for each direction");
    Err(Error::Config { message })
}

/// Where the weights of novel classes come from.
///
/// ```
/// use wgpu_attention::models::nam::Generator;
///
/// assert!(Generator::Nam2Attention.has_eraser() && Generator::Nam2Attention.attends());
/// assert!(Generator::Nam.has_erase_logits() && !Generator::None.attends());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Generator {
    /// The mean of the supports: the cosine classifier, the baseline.
    None,
    /// The mean, scaled by channel.
    FeatureAveraging,
    /// The mean beside what attention over the base classes returns.
    AttentionBased,
    /// The mean, and the supports erased from the base classes with a probability a column.
    Nam,
    /// Supports written to the novel and erased from the base classes, with a probability that
    /// is computed from each.
    Nam2,
    /// [`Generator::Nam`] and attention.
    #[serde(rename = "namattention")]
    NamAttention,
    /// [`Generator::Nam2`] and attention.
    #[serde(rename = "nam2attention")]
    Nam2Attention,
}

impl Generator {
    /// Whether it erases with one probability a column.
    pub fn has_erase_logits(self) -> bool {
        matches!(self, Self::Nam | Self::NamAttention)
    }

    /// Whether it erases with probabilities computed from the supports.
    pub fn has_eraser(self) -> bool {
        matches!(self, Self::Nam2 | Self::Nam2Attention)
    }

    /// Whether it attends to the base classes.
    pub fn attends(self) -> bool {
        matches!(self, Self::AttentionBased | Self::NamAttention | Self::Nam2Attention)
    }
}

/// How a feature and the weights of a class are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ClassifierType {
    /// By their cosine.
    Cosine,
    /// By their product.
    DotProduct,
}

/// From what is classified to its features: dense layers with ReLU between them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddingConfig {
    /// Numbers of an input.
    pub n_in: usize,
    /// The width after each layer; the last is the number of features.
    pub dims: Vec<usize>,
    /// What follows every layer but the last.
    #[serde(default = "crate::models::layers::relu")]
    pub activation: Activation,
}

/// The architecture of a [`FewShot`](super::FewShot).
///
/// ```
/// use wgpu_attention::{models::nam::FewShotConfig, serde_json};
///
/// let config = r#"{"generator": "nam2", "classifier_type": "cosine", "n_base": 20, "n_novel": 5,
///                  "embedding": {"n_in": 64, "dims": [128, 32]}}"#;
/// let config: FewShotConfig = serde_json::from_str(config).unwrap();
/// assert_eq!(config.n_features().unwrap(), 32);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FewShotConfig {
    /// Where the weights of novel classes come from.
    pub generator: Generator,
    /// How features and weights are compared.
    pub classifier_type: ClassifierType,
    /// Base classes that there are weights of.
    pub n_base: usize,
    /// Novel classes; only the shape of a parameter that no score depends on.
    pub n_novel: usize,
    /// From what is classified to its features.
    pub embedding: EmbeddingConfig,
}

impl FewShotConfig {
    /// Features of an input.
    ///
    /// # Errors
    /// A size of 0.
    pub fn n_features(&self) -> Result<usize> {
        check_sizes(&[("n_base", self.n_base), ("n_novel", self.n_novel), ("embedding.n_in", self.embedding.n_in)])?;
        match self.embedding.dims.last() {
            None => Ok(self.embedding.n_in),
            Some(&n) if !self.embedding.dims.contains(&0) => Ok(n),
            Some(_) => Err(Error::Config {
                message: format!("embedding.dims is {:?}, allowed is positive widths", self.embedding.dims),
            }),
        }
    }
}

/// The architecture of an [`LsamAe`](super::LsamAe).
///
/// ```
/// use wgpu_attention::{models::nam::LsamAeConfig, serde_json};
///
/// let config: LsamAeConfig = serde_json::from_str(r#"{"vocab_size": 30, "d_model": 64, "n_heads": 8}"#).unwrap();
/// assert!(config.dim_feedforward == 2048 && config.check().is_ok());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LsamAeConfig {
    /// Tokens that there are.
    pub vocab_size: usize,
    /// Width of a token; an even number, half of it for each direction.
    pub d_model: usize,
    /// Heads; an even number too.
    #[serde(alias = "nhead")]
    pub n_heads: usize,
    /// Width of the feed-forward part; the authors' is always 2048.
    #[serde(default = "feed_forward")]
    pub dim_feedforward: usize,
}

fn feed_forward() -> usize {
    2048
}

impl LsamAeConfig {
    /// Refuses sizes of 0 or over 2^20, odd ones, and heads that do not divide `d_model`.
    ///
    /// # Errors
    /// [`Error::Config`] that names the field.
    pub fn check(&self) -> Result<()> {
        check_layer(self.d_model, self.n_heads)?;
        check_even(self.d_model, self.n_heads)?;
        check_sizes(&[("vocab_size", self.vocab_size), ("dim_feedforward", self.dim_feedforward)])
    }
}

/// The architecture of a [`NamTransformer`](super::NamTransformer).
///
/// ```
/// use wgpu_attention::{models::nam::TransformerConfig, serde_json};
///
/// let config = r#"{"vocab": 20, "max_len": 2000, "emb": 512, "qkv": 512, "mlp": 1024, "heads": 8,
///                  "layers": 4, "classes": 10, "learn_pos": true}"#;
/// let config: TransformerConfig = serde_json::from_str(config).unwrap();
/// assert!(config.check().is_ok() && TransformerConfig { heads: 7, ..config }.check().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransformerConfig {
    /// Tokens that there are.
    pub vocab: usize,
    /// The longest sequence.
    pub max_len: usize,
    /// Width of a token.
    pub emb: usize,
    /// Width of queries, keys and values, all heads together.
    pub qkv: usize,
    /// Width of the feed-forward part.
    pub mlp: usize,
    /// Heads.
    pub heads: usize,
    /// Blocks.
    pub layers: usize,
    /// Classes.
    pub classes: usize,
    /// Whether positions are learned; if not, they are sinusoids.
    pub learn_pos: bool,
}

impl TransformerConfig {
    /// Refuses sizes of 0 or over 2^20 and heads that do not divide `qkv`.
    ///
    /// # Errors
    /// [`Error::Config`] that names the field.
    pub fn check(&self) -> Result<()> {
        let Self { vocab, max_len, emb, qkv, mlp, heads, layers, classes, .. } = *self;
        check_sizes(&[
            ("vocab", vocab),
            ("max_len", max_len),
            ("emb", emb),
            ("qkv", qkv),
            ("mlp", mlp),
            ("heads", heads),
            ("layers", layers),
            ("classes", classes),
        ])?;
        check_heads(("qkv", qkv), ("heads", heads)).map(|_| ())
    }
}
