//! The kernel regression block: a query stream and a context stream that share all their
//! parameters and both read the context as it was before the block (SPEC of arXiv 2411.12502,
//! section 3; BSA-TNP, arXiv 2506.09163, section 3.1).

use std::ops::Range;

use super::{
    config::{AttentionConfig, BiasParameters, Config},
    deep_kernel::DeepKernelAttention,
    projection::{Projection, Projections},
};
use crate::{
    checkpoint::Parameters,
    error::{Error, Result},
    models::layers::{EPSILON, LayerNorm, Mlp, MlpConfig},
    ops::{BiasKernel, BiasTerm, Layout, LinearAttention, LinearState, Normalizer, Placed, ScanMemory, ScanState},
    tensor::{Mask, Tensor},
};

/// One kernel regression block.
///
/// ```
/// use wgpu_attention::{Device, Tensor, checkpoint::Checkpoint, models::tnp_kr::{Config, KrBlock}};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let (device, config) = (Device::best(), Config::performer(1, 1));
/// let load = |checkpoint: &Checkpoint| checkpoint.load(&device, |parameters| KrBlock::load(parameters, &config));
/// let block = load(&Checkpoint::random(0, load)?)?;
/// let memory = block.write(&Tensor::new(&device, &[1, 3, 64], &[0.1; 192])?, None, None)?;
/// let read = block.read(&Tensor::new(&device, &[1, 2, 64], &[0.2; 128])?, &memory, None, None)?;
/// assert_eq!(read.shape(), [1, 2, 64]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct KrBlock {
    norm: LayerNorm,
    attention: Attention,
    ffn_norm: LayerNorm,
    ffn: Mlp,
}

#[derive(Clone, Debug)]
enum Attention {
    Scan {
        layout: Layout,
        projections: Projections,
        /// The bias of each group that has one, with the group's index.
        biases: Vec<(usize, BiasTerm)>,
    },
    Performer {
        projections: Projections,
        attention: LinearAttention,
    },
    DeepKernel {
        attention: DeepKernelAttention,
        /// The index of the group that is joined to the tokens.
        group: usize,
    },
}

/// What a block keeps of a context: all that later queries read.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum BlockMemory {
    /// Scan attention keeps keys and values, and where they are.
    Scan(ScanState),
    /// Linear attention keeps sums.
    Linear {
        /// The sums.
        state: LinearState,
        /// Whether there was a mask: deep kernel attention then divides by the number of keys.
        masked: bool,
    },
}

/// The coordinates of some points, `[batch, n, n_columns]`, and which columns belong to each
/// group of the configuration.
pub type Coords<'a> = (&'a Tensor, &'a [Range<usize>]);

impl KrBlock {
    /// Loads a block; without its biases where their parameters are [beside](BiasParameters::Beside) the blocks.
    ///
    /// # Errors
    /// The configuration contradicts itself; a parameter is missing or misshapen.
    pub fn load(parameters: &Parameters<'_>, config: &Config) -> Result<Self> {
        config.check()?;
        let width = config.width()?;
        Ok(Self {
            norm: LayerNorm::load(&parameters.scope("norm"), width, EPSILON)?,
            attention: Attention::load(&parameters.scope("attn"), config, width)?,
            ffn_norm: LayerNorm::load(&parameters.scope("LayerNorm_0"), width, EPSILON)?,
            ffn: Mlp::load(&parameters.scope("ffn"), &config.ffn, width)?,
        })
    }

    /// The same block with the biases of its `index`-th application, where their parameters are beside the blocks;
    /// `root` is where the blocks are.
    pub(super) fn with_biases(&self, root: &Parameters<'_>, config: &Config, index: usize) -> Result<Self> {
        let mut block = self.clone();
        if let Attention::Scan { layout: Layout::Projected { n_heads }, biases: of_block, .. } = &mut block.attention {
            let n_biases = config.groups.iter().filter(|group| group.bias.is_some()).count();
            let of_group = |_: &str, i| (root.scope(format!("Bias_{}", index * n_biases + i)), "bias".to_owned());
            *of_block = biases(config, *n_heads, of_group)?;
        }
        Ok(block)
    }

    /// Writes a context `kv [batch, n_context, width]`; masked points, `mask [batch,
    /// n_context]`, are never read.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn write(&self, kv: &Tensor, coords: Option<Coords<'_>>, mask: Option<&Mask>) -> Result<BlockMemory> {
        let x = self.norm.forward(kv, None)?;
        match &self.attention {
            Attention::Scan { layout, projections, .. } => {
                let (k, v) = (projections.ks.forward(&x, None)?, projections.vs.forward(&x, None)?);
                let memory = ScanMemory::new(*layout);
                Ok(BlockMemory::Scan(memory.write(None, placed(&k, coords), &v, mask)?))
            }
            Attention::Performer { projections, attention } => {
                let (k, v) = (projections.ks.forward(&x, None)?, projections.vs.forward(&x, None)?);
                Ok(BlockMemory::Linear { state: attention.write(None, &k, &v, mask)?, masked: mask.is_some() })
            }
            Attention::DeepKernel { attention, group } => {
                let (coords, columns) = of_group(coords, *group)?;
                let state = attention.write(&x, &x, coords, columns, mask)?;
                Ok(BlockMemory::Linear { state, masked: mask.is_some() })
            }
        }
    }

    /// What [`KrBlock::write`] returned, from what [`BlockMemory::tensors`] and
    /// [`BlockMemory::shared_tensors`] named, in that order.
    pub(super) fn restore(
        &self,
        tensors: Vec<Tensor>,
        coords: Option<Coords<'_>>,
        mask: Option<Mask>,
        masked: bool,
        n_keys: &[u64],
    ) -> Result<BlockMemory> {
        match (&self.attention, tensors.as_slice()) {
            (Attention::Scan { layout, .. }, [keys, values]) => Ok(BlockMemory::Scan(ScanState {
                keys: keys.clone(),
                values: values.clone(),
                coords: coords.map(|(coords, _)| coords.clone()),
                mask,
                layout: *layout,
            })),
            (Attention::Performer { .. } | Attention::DeepKernel { .. }, [sums]) => {
                let width = sums.shape().last().copied().unwrap_or(0);
                let (is_performer, is_stable) = match &self.attention {
                    Attention::Performer { attention, .. } => (true, attention.normalizer == Normalizer::Stable),
                    _ => (false, false),
                };
                let state = LinearState {
                    sums: sums.clone(),
                    // The last column of a Performer's is of the sum of the features.
                    v_dim: width.saturating_sub(usize::from(is_performer)),
                    is_stable,
                    n_keys: n_keys.to_vec(),
                };
                Ok(BlockMemory::Linear { state, masked })
            }
            _ => Err(refused("memory", &format!("{} tensors", tensors.len()), "what this block wrote")),
        }
    }

    /// Passes tokens `x [batch, n, width]` through the block: they read the memory, then go
    /// through the feed-forward part. Context tokens and test tokens take the same way.
    ///
    /// `matrix [batch, n_heads, n, n_context]` is a bias that is added to the block's own; only
    /// scan attention can add one.
    ///
    /// # Errors
    /// Shapes that do not fit; the memory of a block with another attention.
    pub fn read(
        &self,
        x: &Tensor,
        memory: &BlockMemory,
        coords: Option<Coords<'_>>,
        matrix: Option<&Tensor>,
    ) -> Result<Tensor> {
        if matrix.is_some() && !matches!(self.attention, Attention::Scan { .. }) {
            return Err(refused("matrix", "a bias matrix", "none: linear attention never forms the scores"));
        }
        let normed = self.norm.forward(x, None)?;
        let x = match (&self.attention, memory) {
            (Attention::Scan { layout, projections, biases }, BlockMemory::Scan(state)) => {
                let columns = coords.map_or(&[][..], |(_, columns)| columns);
                let mut memory = ScanMemory::new(*layout).terms(&terms(biases, columns)?);
                memory.matrix = matrix.cloned();
                let q = projections.qs.forward(&normed, None)?;
                projections.out.forward(&memory.read(placed(&q, coords), state)?.values, Some(x))?
            }
            (Attention::Performer { projections, attention }, BlockMemory::Linear { state, .. }) => {
                let q = projections.qs.forward(&normed, None)?;
                projections.out.forward(&attention.read(&q, state)?.values, Some(x))?
            }
            (Attention::DeepKernel { attention, group }, BlockMemory::Linear { state, masked }) => {
                let (coords, columns) = of_group(coords, *group)?;
                attention.read(&normed, state, coords, columns, *masked, Some(x))?
            }
            _ => return Err(refused("memory", "that of another attention", "what this block wrote")),
        };
        self.ffn.forward(&self.ffn_norm.forward(&x, None)?, Some(&x))
    }
}

impl Attention {
    fn load(parameters: &Parameters<'_>, config: &Config, width: usize) -> Result<Self> {
        let projections = |qs, ks, vs: &MlpConfig, out, rank| -> Result<Projections> {
            let load = |name: &str, config, n_in| Projection::load(&parameters.scope(name), config, n_in, rank);
            Ok(Projections {
                qs: load("proj_qs", qs, width)?,
                ks: load("proj_ks", ks, width)?,
                vs: load("proj_vs", vs, width)?,
                out: load("proj_out", out, vs.n_out("proj_vs")?)?,
            })
        };
        match &config.attention {
            AttentionConfig::Scan { n_heads, proj_qs, proj_ks, proj_vs, proj_out, adaptive_rank } => Ok(Self::Scan {
                layout: Layout::Projected { n_heads: *n_heads },
                projections: projections(proj_qs, proj_ks, proj_vs, proj_out, *adaptive_rank)?,
                biases: match config.bias_parameters {
                    BiasParameters::InBlocks => {
                        let inner = || parameters.scope("attn");
                        let of_group = |group: &str, _| (inner(), format!("{group}_bias"));
                        biases(config, *n_heads, of_group)?
                    }
                    // See `KrBlock::with_biases`.
                    BiasParameters::Beside => Vec::new(),
                },
            }),
            AttentionConfig::Performer { n_heads, n_features, proj_qs, proj_ks, proj_vs, proj_out } => {
                let head_dim = proj_qs.n_out("proj_qs")? / n_heads;
                let features = parameters.scope("attn").collection("projections");
                let projection = features.random_features("qk_orf", &[*n_features, head_dim])?;
                let mut attention = LinearAttention::favor(Layout::Projected { n_heads: *n_heads }, projection);
                attention.normalizer = Normalizer::favor(head_dim, proj_vs.n_out("proj_vs")? / n_heads);
                Ok(Self::Performer { projections: projections(proj_qs, proj_ks, proj_vs, proj_out, None)?, attention })
            }
            AttentionConfig::DeepKernel { n_heads, proj_qks, proj_vs } => {
                let group = config.groups.iter().position(|group| group.name == "s");
                let group = group.ok_or_else(|| no_columns(&[]))?;
                let dim = config.groups[group].dim.unwrap_or(0);
                let attention = DeepKernelAttention::load(parameters, *n_heads, proj_qks, proj_vs, width, dim)?;
                Ok(Self::DeepKernel { attention, group })
            }
        }
    }
}

/// The bias of each group that has one; `of_group` says where its parameters are, and how their names begin, from
/// the name of the group and how many biases are before it.
fn biases<'a>(
    config: &Config,
    n_heads: usize,
    of_group: impl Fn(&str, usize) -> (Parameters<'a>, String),
) -> Result<Vec<(usize, BiasTerm)>> {
    let mut biases = Vec::new();
    for (i, group) in config.groups.iter().enumerate() {
        let Some(bias) = &group.bias else { continue };
        let wide = [n_heads, bias.n_basis];
        let shape = if bias.kernel == BiasKernel::Scalar { &wide[..1] } else { &wide[..] };
        let (parameters, prefix) = of_group(&group.name, biases.len());
        let parameter = |name: &&str| parameters.numbers(&format!("{prefix}_{name}"), shape);
        let numbers: Vec<&[f32]> = bias.kernel.parameters().iter().map(parameter).collect::<Result<_>>()?;
        biases.push((i, BiasTerm::built_in(0..0, bias.distance, bias.kernel, &numbers)));
    }
    Ok(biases)
}

fn placed<'a>(rows: &'a Tensor, coords: Option<Coords<'a>>) -> Placed<'a> {
    Placed { rows, coords: coords.map(|(coords, _)| coords) }
}

/// The biases over the columns of each one's group.
fn terms(biases: &[(usize, BiasTerm)], columns: &[Range<usize>]) -> Result<Vec<BiasTerm>> {
    let over = |(group, term): &(usize, BiasTerm)| {
        columns.get(*group).map(|columns| term.over(columns.clone())).ok_or_else(|| no_columns(columns))
    };
    biases.iter().map(over).collect()
}

/// The coordinates and the columns of one group.
fn of_group(coords: Option<Coords<'_>>, group: usize) -> Result<(&Tensor, Range<usize>)> {
    let (coords, columns) = coords.ok_or_else(|| no_columns(&[]))?;
    Ok((coords, columns.get(group).ok_or_else(|| no_columns(columns))?.clone()))
}

fn no_columns(columns: &[Range<usize>]) -> Error {
    refused("columns", &format!("{} ranges", columns.len()), "one for each coordinate group of the configuration")
}

fn refused(name: &'static str, found: &str, allowed: &str) -> Error {
    Error::argument("KrBlock", name, found, allowed)
}

impl BlockMemory {
    /// What writing both parts of a context would have kept; linear attention alone.
    ///
    /// # Errors
    /// Memories of scan attention, of different shapes, or one with a mask and one without.
    ///
    /// ```
    /// use wgpu_attention::{Device, Tensor, checkpoint::Checkpoint, models::tnp_kr::{BlockMemory, Config, KrBlock}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let (device, config) = (Device::best(), Config::performer(1, 1));
    /// let load = |checkpoint: &Checkpoint| checkpoint.load(&device, |parameters| KrBlock::load(parameters, &config));
    /// let block = load(&Checkpoint::random(0, load)?)?;
    /// let memory = block.write(&Tensor::new(&device, &[1, 3, 64], &[0.1; 192])?, None, None)?;
    /// let BlockMemory::Linear { state, .. } = memory.merge(&memory)? else { panic!("a performer keeps sums") };
    /// assert_eq!(state.n_keys, [6]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn merge(&self, other: &Self) -> Result<Self> {
        match (self, other) {
            (Self::Linear { state, masked }, Self::Linear { state: other, masked: other_masked })
                if masked == other_masked =>
            {
                Ok(Self::Linear { state: state.merge(other)?, masked: *masked })
            }
            _ => Err(refused("memory", "one that does not merge", "two of linear attention, both masked or neither")),
        }
    }

    /// What is kept in this block, by name.
    pub(super) fn tensors(&self) -> Vec<(&'static str, &Tensor)> {
        match self {
            Self::Scan(memory) => vec![("keys", &memory.keys), ("values", &memory.values)],
            Self::Linear { state, .. } => vec![("sums", &state.sums)],
        }
    }

    /// What all blocks keep alike, by name.
    pub(super) fn shared_tensors(&self) -> Vec<(&'static str, &Tensor)> {
        match self {
            Self::Scan(ScanState { coords, mask, .. }) => {
                let mask = mask.as_ref().map(|mask| ("mask", mask.tensor()));
                coords.iter().map(|coords| ("coords", coords)).chain(mask).collect()
            }
            Self::Linear { .. } => Vec::new(),
        }
    }

    /// The keys in each batch element; scan attention has no need to count them.
    pub(super) fn n_keys(&self) -> &[u64] {
        match self {
            Self::Scan(_) => &[],
            Self::Linear { state, .. } => &state.n_keys,
        }
    }

    /// Whether there was a mask.
    pub(super) fn is_masked(&self) -> bool {
        match self {
            Self::Scan(memory) => memory.mask.is_some(),
            Self::Linear { masked, .. } => *masked,
        }
    }
}
