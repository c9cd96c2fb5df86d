//! What a TNP-KR is made of; stored as JSON in the metadata of a checkpoint.

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    models::{Output, layers::MlpConfig},
    ops::{BiasKernel, Distance, Normalizer, scan_attention::MAX_HEAD_DIM},
};

/// The architecture of a [`TnpKr`](super::TnpKr).
///
/// ```
/// use wgpu_attention::{models::tnp_kr::Config, serde_json};
///
/// let config: Config = serde_json::from_str(r#"{
///     "n_blocks": 6,
///     "n_values": 1,
///     "groups": [{"name": "s", "embed": false, "bias": {"kernel": "rbf", "distance": "euclidean", "n_basis": 5}}],
///     "embed_all": {"dims": [256, 128, 64], "activation": "gelu_tanh"},
///     "attention": {
///         "kind": "scan", "n_heads": 4, "proj_qs": {"dims": [128]}, "proj_ks": {"dims": [128]},
///         "proj_vs": {"dims": [128]}, "proj_out": {"dims": [64]}
///     },
///     "ffn": {"dims": [256, 64], "activation": "gelu_tanh"},
///     "head": {"dims": [256, 64, 2], "activation": "gelu_tanh"},
///     "output": {"kind": "gaussian", "min_std": 0.0}
/// }"#).unwrap();
/// assert_eq!((config.width().unwrap(), config.n_inputs()), (64, 5)); // 4 to tell what is observed, 1 value
/// config.check().unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Kernel regression blocks, each with parameters of its own.
    pub n_blocks: usize,
    /// How often each block is applied.
    #[serde(default = "one")]
    pub n_repeats: usize,
    /// Width of the embedding that tells observed from unobserved points.
    #[serde(default = "four")]
    pub obs_dim: usize,
    /// Numbers that are observed at a point (classes, if the output is categorical).
    pub n_values: usize,
    /// What a point is described by, in the order of concatenation.
    pub groups: Vec<GroupConfig>,
    /// From the concatenated inputs to a token.
    pub embed_all: MlpConfig,
    /// How tokens attend.
    pub attention: AttentionConfig,
    /// Where the parameters of the biases are.
    #[serde(default)]
    pub bias_parameters: BiasParameters,
    /// The feed-forward part of a block.
    pub ffn: MlpConfig,
    /// From a token to the parameters of the output.
    pub head: MlpConfig,
    /// What the head's numbers mean.
    pub output: Output,
}

fn one() -> usize {
    1
}

fn four() -> usize {
    4
}

/// A group of inputs of a point: `s` (space), `t` (time) or `x` (anything else).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupConfig {
    /// The name, which is also that of its parameters (`s_bias_a`).
    pub name: String,
    /// How many numbers; any number will do if not given, unless `embed` is set.
    #[serde(default)]
    pub dim: Option<usize>,
    /// Whether the numbers are part of the token. If not, they act through the bias alone,
    /// which makes the model invariant to translation where the bias is.
    pub embed: bool,
    /// The attention bias computed from the group.
    #[serde(default)]
    pub bias: Option<BiasConfig>,
    /// Which of the numbers, if any, is the number of a category; only of a group that is part of the token.
    #[serde(default)]
    pub category: Option<CategoryConfig>,
}

impl GroupConfig {
    /// Numbers of the group in a token.
    fn n_embedded(&self) -> usize {
        let dim = self.dim.filter(|_| self.embed).unwrap_or(0);
        // The numbers of a category stand in the place of its number.
        self.category.map_or(dim, |category| dim.saturating_sub(1).saturating_add(category.n_features))
    }
}

/// A number of a group that stands for a category, a whole number from 0: the token has learned numbers in its
/// place, those of the parameter `embed_x.Embed_0.embedding` for group `x`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CategoryConfig {
    /// Which of the group's numbers.
    pub channel: usize,
    /// How many categories there are.
    pub n_categories: usize,
    /// Learned numbers of each.
    pub n_features: usize,
}

/// Where the parameters of the biases are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BiasParameters {
    /// In the attention of each block, by the name of the group: `KRBlock_0.attn.attn.s_bias_a` (BSATNP).
    #[default]
    InBlocks,
    /// Beside the blocks, counted through all applications of blocks and through the groups with a bias:
    /// `Bias_0.bias_a` (BTNP).
    Beside,
}

/// An attention bias of learned parameters, see [`crate::ops::BiasTerm`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BiasConfig {
    /// From the distance to a number.
    pub kernel: BiasKernel,
    /// How distances are measured.
    pub distance: Distance,
    /// Basis functions a head; 1 for [`BiasKernel::Scalar`].
    #[serde(default = "one")]
    pub n_basis: usize,
}

/// Which attention a block uses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum AttentionConfig {
    /// Softmax attention with the biases of the groups.
    Scan {
        /// Heads.
        n_heads: usize,
        /// Queries from tokens.
        proj_qs: MlpConfig,
        /// Keys from tokens.
        proj_ks: MlpConfig,
        /// Values from tokens.
        proj_vs: MlpConfig,
        /// Tokens from what was read.
        proj_out: MlpConfig,
        /// The rank of what each token changes of the weights of its projections, which then have one layer each;
        /// none in most networks. (`AdaptiveMultiHeadAttention` of dl4bi, with `HyperLoRA`.)
        #[serde(default, skip_serializing_if = "Option::is_none")]
        adaptive_rank: Option<usize>,
    },
    /// Linear attention over learned features of the coordinates of group `s`, joined with the
    /// tokens: a memory of constant size. What is read is divided by the number of keys if
    /// there is a mask, and normalised.
    DeepKernel {
        /// Heads.
        n_heads: usize,
        /// Features of queries and of keys, from coordinates and tokens.
        proj_qks: MlpConfig,
        /// Values from tokens; ends in the width of a token.
        proj_vs: MlpConfig,
    },
    /// Linear attention over random features of the softmax kernel (FAVOR+).
    Performer {
        /// Heads.
        n_heads: usize,
        /// Rows of the random projection, which is the parameter `qk_orf`.
        n_features: usize,
        /// Queries from tokens.
        proj_qs: MlpConfig,
        /// Keys from tokens.
        proj_ks: MlpConfig,
        /// Values from tokens.
        proj_vs: MlpConfig,
        /// Tokens from what was read.
        proj_out: MlpConfig,
    },
}

impl AttentionConfig {
    /// Whether the memory is of constant size and keys can be written in parts.
    pub(super) fn is_linear(&self) -> bool {
        !matches!(self, Self::Scan { .. })
    }

    /// Every perceptron in it.
    fn mlps(&self) -> Vec<&MlpConfig> {
        match self {
            Self::Scan { proj_qs, proj_ks, proj_vs, proj_out, .. }
            | Self::Performer { proj_qs, proj_ks, proj_vs, proj_out, .. } => vec![proj_qs, proj_ks, proj_vs, proj_out],
            Self::DeepKernel { proj_qks, proj_vs, .. } => vec![proj_qks, proj_vs],
        }
    }

    /// What a block keeps of a context, by name, see [`super::BlockMemory`].
    pub(super) fn memory_shapes(&self, batch: usize, n: usize) -> Result<Vec<(&'static str, Vec<usize>)>> {
        let linear = |a, b, width| vec![("sums", vec![batch, a, b, width])];
        Ok(match self {
            Self::Scan { proj_ks, proj_vs, .. } => vec![
                ("keys", vec![batch, n, proj_ks.n_out("proj_ks")?]),
                ("values", vec![batch, n, proj_vs.n_out("proj_vs")?]),
            ],
            Self::DeepKernel { n_heads, proj_qks, proj_vs } => {
                linear(*n_heads, proj_qks.n_out("proj_qks")? / n_heads, proj_vs.n_out("proj_vs")? / n_heads)
            }
            // One column more: of the sums of the features.
            Self::Performer { n_heads, n_features, proj_qs, proj_vs, .. } => {
                let (head_dim, v_dim) = (proj_qs.n_out("proj_qs")? / n_heads, proj_vs.n_out("proj_vs")? / n_heads);
                match Normalizer::favor(head_dim, v_dim) {
                    Normalizer::Stable => linear(*n_features, *n_heads, v_dim + 1),
                    _ => linear(*n_heads, *n_features, v_dim + 1),
                }
            }
        })
    }
}

impl Config {
    /// Width of a token.
    ///
    /// # Errors
    /// `embed_all` has no layers.
    pub fn width(&self) -> Result<usize> {
        self.embed_all.n_out("embed_all")
    }

    /// Width of the concatenated inputs of a point.
    pub fn n_inputs(&self) -> usize {
        self.obs_dim + self.groups.iter().map(GroupConfig::n_embedded).sum::<usize>() + self.n_values
    }

    /// Every perceptron of the model.
    fn mlps(&self) -> impl Iterator<Item = &MlpConfig> {
        [&self.embed_all, &self.ffn, &self.head].into_iter().chain(self.attention.mlps())
    }

    /// The width of the widest layer.
    pub(super) fn widest(&self) -> usize {
        let widest = self.mlps().flat_map(|mlp| &mlp.dims).copied().max().unwrap_or(1);
        // Coordinates join the tokens.
        let dims: usize = self.groups.iter().filter_map(|group| group.dim).sum();
        widest.max(self.n_inputs()).saturating_add(dims).max(1)
    }

    /// Checks that the parts fit together.
    ///
    /// # Errors
    /// [`Error::Config`] with what is wrong and what is allowed.
    pub fn check(&self) -> Result<()> {
        let refused = |message: String| Err(Error::Config { message });
        if self.n_blocks == 0 || self.n_repeats == 0 || self.n_values == 0 {
            return refused(format!(
                "n_blocks, n_repeats and n_values are {}, {} and {}, allowed is 1 or more",
                self.n_blocks, self.n_repeats, self.n_values
            ));
        }
        // Enough for any model that fits in a file, and no overflow anywhere.
        let widths = self.mlps().flat_map(|mlp| &mlp.dims).map(|width| ("a width", *width, 1 << 20));
        let dims = self.groups.iter().map(|group| ("dim of a group", group.dim.unwrap_or(0), 1 << 10));
        let sizes = [
            ("groups", self.groups.len(), 1 << 10),
            ("n_values", self.n_values, 1 << 20),
            ("obs_dim", self.obs_dim, 1 << 20),
            ("n_blocks", self.n_blocks, 1 << 10),
            ("n_repeats", self.n_repeats, 1 << 10),
        ];
        if let Some((name, found, most)) = widths.chain(dims).chain(sizes).find(|(_, found, most)| found > most) {
            return refused(format!("{name} is {found}, allowed is at most {most}"));
        }
        let width = self.width()?;
        if self.ffn.n_out("ffn")? != width {
            return refused(format!("ffn ends in width {}, but tokens have {width}", self.ffn.n_out("ffn")?));
        }
        self.output.check()?;
        let n_parameters = self.output.n_parameters(self.n_values);
        if self.head.n_out("head")? != n_parameters {
            return refused(format!(
                "head ends in width {}, but a {} output of {} values needs {n_parameters}",
                self.head.n_out("head")?,
                self.output.name(),
                self.n_values,
            ));
        }
        for (i, group) in self.groups.iter().enumerate() {
            let name = &group.name;
            if self.groups[..i].iter().any(|other| other.name == *name) {
                return refused(format!("group {name:?} is there twice"));
            }
            if group.embed && !matches!(group.dim, Some(1..=64)) {
                return refused(format!("group {name:?} is embedded, so its dim must be 1 to 64, not {:?}", group.dim));
            }
            if let Some(CategoryConfig { channel, n_categories, n_features }) = group.category
                && !(group.embed
                    && channel < group.dim.unwrap_or(0)
                    && (1..=1 << 20).contains(&n_categories)
                    && (1..=1 << 10).contains(&n_features))
            {
                return refused(format!(
                    "the category of group {name:?} is channel {channel} of {:?}, {n_categories} categories of \
                     {n_features} numbers; allowed is a channel of an embedded group, up to 2^20 categories and up to \
                     2^10 numbers",
                    group.dim
                ));
            }
            if let Some(bias) = &group.bias
                && (bias.n_basis == 0
                    || bias.n_basis > 1024
                    || (bias.kernel == BiasKernel::Scalar && bias.n_basis != 1))
            {
                return refused(format!(
                    "the {:?} bias of group {name:?} has {} basis functions, allowed is 1 for scalar, else 1 to 1024",
                    bias.kernel, bias.n_basis
                ));
            }
        }
        if self.attention.is_linear()
            && let Some(group) = self.groups.iter().find(|group| group.bias.is_some())
        {
            return refused(format!("group {:?} has a bias, which only scan attention can add", group.name));
        }
        let joins =
            |group: &GroupConfig| matches!(self.attention, AttentionConfig::DeepKernel { .. }) && group.name == "s";
        if self.attention.is_linear()
            && let Some(group) = self.groups.iter().find(|group| !group.embed && !joins(group))
        {
            return refused(format!(
                "group {:?} is not embedded, and without a bias nothing would read its coordinates",
                group.name
            ));
        }
        match &self.attention {
            AttentionConfig::Scan { n_heads, proj_qs, proj_ks, proj_vs, proj_out, adaptive_rank } => {
                let is_single = [proj_qs, proj_ks, proj_vs, proj_out].iter().all(|mlp| mlp.dims.len() == 1);
                if adaptive_rank.is_some_and(|rank| !is_single || !(1..=1 << 16).contains(&rank)) {
                    return refused(format!(
                        "adaptive_rank is {adaptive_rank:?}, allowed is 1 to 65536, with projections of one layer"
                    ));
                }
                heads(*n_heads, proj_qs, proj_ks, proj_vs, MAX_HEAD_DIM)?;
                ends_in_width("proj_out", proj_out, width)
            }
            AttentionConfig::Performer { n_heads, n_features, proj_qs, proj_ks, proj_vs, proj_out } => {
                if *n_features == 0 || *n_features > 1 << 16 {
                    return refused(format!("n_features is {n_features}, allowed is 1 to 65536"));
                }
                heads(*n_heads, proj_qs, proj_ks, proj_vs, MAX_LINEAR_HEAD_DIM)?;
                ends_in_width("proj_out", proj_out, width)
            }
            AttentionConfig::DeepKernel { n_heads, proj_qks, proj_vs } => {
                if !self.groups.iter().any(|group| group.name == "s" && matches!(group.dim, Some(1..=64))) {
                    return refused("deep kernel attention needs the group \"s\" with a dim of 1 to 64".into());
                }
                heads(*n_heads, proj_qks, proj_qks, proj_vs, MAX_LINEAR_HEAD_DIM)?;
                ends_in_width("proj_vs", proj_vs, width)
            }
        }
    }
}

/// More than anybody has trained.
pub(super) const MAX_LINEAR_HEAD_DIM: usize = 1 << 16;

/// Checks what is split into heads.
pub(super) fn heads(n_heads: usize, q: &MlpConfig, k: &MlpConfig, v: &MlpConfig, max_head_dim: usize) -> Result<()> {
    let (q, k, v) = (q.n_out("queries")?, k.n_out("keys")?, v.n_out("values")?);
    if n_heads == 0 || q != k || q % n_heads != 0 || v % n_heads != 0 || q.max(v) / n_heads > max_head_dim {
        return Err(Error::Config {
            message: format!(
                "queries, keys and values have widths {q}, {k} and {v} with {n_heads} heads; allowed are equal widths \
                 of queries and keys, all multiples of n_heads, at most {max_head_dim} a head"
            ),
        });
    }
    Ok(())
}

fn ends_in_width(name: &str, mlp: &MlpConfig, width: usize) -> Result<()> {
    match mlp.n_out(name)? {
        n if n == width => Ok(()),
        n => Err(Error::Config { message: format!("{name} ends in width {n}, but tokens have {width}") }),
    }
}
