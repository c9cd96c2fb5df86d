//! The kernel regression block: a query stream and a context stream that share all their
//! parameters and both read the context as it was before the block (SPEC of arXiv 2411.12502,
//! section 3; BSA-TNP, arXiv 2506.09163, section 3.1).

use std::ops::Range;

use super::config::{AttentionConfig, Config};
use crate::{
    checkpoint::Parameters,
    error::{Error, Result},
    models::layers::{LayerNorm, Mlp},
    ops::{Bias, BiasTerm, Kernel, ScanAttention, scan_attention},
    tensor::{Mask, Tensor},
};

/// What flax adds to the variance in a layer normalisation.
pub(super) const EPSILON: f32 = 1e-6;

/// One kernel regression block.
#[derive(Clone, Debug)]
pub struct KrBlock {
    norm: LayerNorm,
    n_heads: usize,
    proj_qs: Mlp,
    proj_ks: Mlp,
    proj_vs: Mlp,
    proj_out: Mlp,
    /// The bias of each group that has one, with the group's index.
    biases: Vec<(usize, BiasTerm)>,
    ffn_norm: LayerNorm,
    ffn: Mlp,
}

/// What a block keeps of a context: the keys and values that every later query reads.
#[derive(Clone, Debug)]
pub struct BlockMemory {
    keys: Tensor,
    values: Tensor,
    /// The biases over the columns of this context's coordinates.
    terms: Vec<BiasTerm>,
}

impl KrBlock {
    /// Loads a block.
    ///
    /// # Errors
    /// A parameter is missing or misshapen.
    pub fn load(parameters: &Parameters<'_>, config: &Config) -> Result<Self> {
        let width = config.width()?;
        let attention = parameters.scope("attn");
        let AttentionConfig::Scan { n_heads, proj_qs, proj_ks, proj_vs, proj_out } = &config.attention;
        let mut biases = Vec::new();
        for (i, group) in config.groups.iter().enumerate() {
            let Some(bias) = &group.bias else { continue };
            let inner = attention.scope("attn");
            let is_scalar = bias.kernel == Kernel::Scalar;
            let wide = [*n_heads, bias.n_basis];
            let shape = if is_scalar { &wide[..1] } else { &wide[..] };
            let parameter = |name: &str| inner.numbers(&format!("{}_bias_{name}", group.name), shape);
            let a = parameter("a")?;
            let b = if is_scalar { &[] } else { parameter("b")? };
            let c = if bias.kernel == Kernel::Tisa { parameter("c")? } else { &[] };
            biases.push((i, BiasTerm::new(0..0, bias.distance, bias.kernel, a, b, c)));
        }
        Ok(Self {
            norm: LayerNorm::load(&parameters.scope("norm"), width, EPSILON)?,
            n_heads: *n_heads,
            proj_qs: Mlp::load(&attention.scope("proj_qs"), proj_qs, width)?,
            proj_ks: Mlp::load(&attention.scope("proj_ks"), proj_ks, width)?,
            proj_vs: Mlp::load(&attention.scope("proj_vs"), proj_vs, width)?,
            proj_out: Mlp::load(&attention.scope("proj_out"), proj_out, proj_vs.n_out("proj_vs")?)?,
            biases,
            ffn_norm: LayerNorm::load(&parameters.scope("LayerNorm_0"), width, EPSILON)?,
            ffn: Mlp::load(&parameters.scope("ffn"), &config.ffn, width)?,
        })
    }

    /// Writes a context `kv [batch, n_context, width]`. `columns` says for each group of the
    /// configuration which columns of the coordinates are its own.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn write(&self, kv: &Tensor, columns: &[Range<usize>]) -> Result<BlockMemory> {
        let normed = self.norm.forward(kv)?;
        let over = |(group, term): &(usize, BiasTerm)| {
            columns.get(*group).map(|columns| term.over(columns.clone())).ok_or_else(|| Error::Argument {
                op: "KrBlock::write",
                name: "columns",
                found: format!("{} ranges", columns.len()),
                allowed: "one for each coordinate group of the configuration".into(),
            })
        };
        Ok(BlockMemory {
            keys: self.proj_ks.forward(&normed, None)?,
            values: self.proj_vs.forward(&normed, None)?,
            terms: self.biases.iter().map(over).collect::<Result<_>>()?,
        })
    }

    /// Passes tokens `x [batch, n, width]` through the block: they read the memory, then go
    /// through the feed-forward part. Context tokens and test tokens take the same way.
    ///
    /// `coords` are those of the tokens and of the context, `[batch, n, n_columns]`;
    /// `matrix [batch, n_heads, n, n_context]` is a bias that is added to the block's own.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn read(
        &self,
        x: &Tensor,
        memory: &BlockMemory,
        coords: Option<(&Tensor, &Tensor)>,
        mask: Option<&Mask>,
        matrix: Option<&Tensor>,
    ) -> Result<Tensor> {
        let bias =
            Bias { q_coords: coords.map(|(q, _)| q), k_coords: coords.map(|(_, k)| k), terms: &memory.terms, matrix };
        let options =
            ScanAttention { n_heads: Some(self.n_heads), key_mask: mask, bias: Some(bias), ..Default::default() };
        let q = self.proj_qs.forward(&self.norm.forward(x)?, None)?;
        let read = scan_attention(&q, &memory.keys, &memory.values, &options)?;
        let x = self.proj_out.forward(&read.values, Some(x))?;
        self.ffn.forward(&self.ffn_norm.forward(&x)?, Some(&x))
    }
}
