//! Attention and feed-forward layers of the CMANP, with the normalisation before them.
//!
//! The residual adds the *normalised* input: `PreNorm(f)(x) = f(LN(x)) + LN(x)`.

use crate::{
    checkpoint::Parameters,
    error::{Error, Result},
    models::layers::{LayerNorm, check_heads, check_positive, torch_linear, transposed},
    ops::{self, Activation, Layout, Linear, RollingAttention, ScanAttention},
    tensor::{Mask, Tensor},
};

/// Multi-head attention without biases in its projections but the last.
///
/// ```
/// use wgpu_attention::{Device, Tensor, checkpoint::Checkpoint, models::cmanp::Attention};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let device = Device::best();
/// let load = |checkpoint: &Checkpoint| checkpoint.load(&device, |parameters| Attention::load(parameters, 8, 6, 2, 4));
/// let attention = load(&Checkpoint::random(0, load)?)?;
/// let context = Tensor::new(&device, &[1, 5, 6], &[0.1; 30])?;
/// let x = Tensor::new(&device, &[1, 3, 8], &[0.2; 24])?;
/// let read = attention.forward(&x, &attention.keys_values(&context)?, None, Some(&x))?;
/// assert_eq!(read.shape(), [1, 3, 8]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    n_heads: usize,
}

impl Attention {
    /// Loads `to_q.weight [n_heads dim_head, query_dim]`, `to_kv.weight [2 n_heads dim_head,
    /// context_dim]` (keys first) and `to_out.{weight, bias}`.
    ///
    /// # Errors
    /// A parameter is missing or misshapen; a size of 0.
    pub fn load(
        parameters: &Parameters<'_>,
        query_dim: usize,
        context_dim: usize,
        n_heads: usize,
        dim_head: usize,
    ) -> Result<Self> {
        let sizes =
            [("query_dim", query_dim), ("context_dim", context_dim), ("n_heads", n_heads), ("dim_head", dim_head)];
        check_positive(&sizes)?;
        // What overflows is the shape of no parameter.
        let width = n_heads.saturating_mul(dim_head);
        let to_kv = parameters.scope("to_kv");
        let kv = to_kv.numbers("weight", &[width.saturating_mul(2), context_dim])?;
        let part = |rows| {
            let weight = transposed(parameters.device(), to_kv.dtype("weight"), rows, context_dim)?;
            Ok(Linear { weight, bias: None })
        };
        let (k, v) = kv.split_at(width * context_dim);
        Ok(Self {
            to_q: torch_linear(&parameters.scope("to_q"), query_dim, width, false)?,
            to_k: part(k)?,
            to_v: part(v)?,
            to_out: torch_linear(&parameters.scope("to_out"), width, query_dim, true)?,
            n_heads,
        })
    }

    /// The queries of `x [batch, n, query_dim]`, to read a stream with.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn queries(&self, x: &Tensor) -> Result<RollingAttention> {
        let queries = ops::linear(x, &self.to_q, Activation::None, None)?;
        Ok(RollingAttention::new(self.layout(), queries))
    }

    fn layout(&self) -> Layout {
        Layout::Projected { n_heads: self.n_heads }
    }

    /// Keys and values of a context `[batch, n, context_dim]`, `[batch, n, n_heads dim_head]` each.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn keys_values(&self, context: &Tensor) -> Result<[Tensor; 2]> {
        let project = |layer| ops::linear(context, layer, Activation::None, None);
        Ok([project(&self.to_k)?, project(&self.to_v)?])
    }

    /// What was read, `[batch, n, n_heads dim_head]`, as tokens `[batch, n, query_dim]`, plus a
    /// residual of that shape.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn finish(&self, read: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        ops::linear(read, &self.to_out, Activation::None, residual)
    }

    /// Reads keys and values that [`Attention::keys_values`] made, and adds a residual.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(
        &self,
        x: &Tensor,
        [k, v]: &[Tensor; 2],
        mask: Option<&Mask>,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let queries = self.queries(x)?.queries;
        let options = ScanAttention { key_mask: mask, ..ScanAttention::new(self.layout()) };
        self.finish(&ops::scan_attention(&queries, k, v, &options)?.values, residual)
    }
}

/// [`Attention`] after a normalisation, of the context too if it has one.
///
/// ```
/// use wgpu_attention::{Device, Tensor, checkpoint::Checkpoint, models::cmanp::PreNormAttention};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let device = Device::best();
/// let load = |checkpoint: &Checkpoint| {
///     checkpoint.load(&device, |parameters| PreNormAttention::load(parameters, 8, Some(6), 2))
/// };
/// let attention = load(&Checkpoint::random(0, load)?)?;
/// let context = Tensor::new(&device, &[1, 5, 6], &[0.1; 30])?;
/// let x = Tensor::new(&device, &[1, 3, 8], &[0.2; 24])?;
/// assert_eq!(attention.forward(&x, Some(&context))?.shape(), [1, 3, 8]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct PreNormAttention {
    norm: LayerNorm,
    /// None in self-attention.
    norm_context: Option<LayerNorm>,
    attention: Attention,
}

impl PreNormAttention {
    /// Loads `norm.*`, `norm_context.*` if there is a context of width `context_dim`, and `fn.*`
    /// with heads of `query_dim / n_heads` numbers.
    ///
    /// # Errors
    /// A parameter is missing or misshapen; a size of 0; heads that do not divide `query_dim`.
    pub fn load(
        parameters: &Parameters<'_>,
        query_dim: usize,
        context_dim: Option<usize>,
        n_heads: usize,
    ) -> Result<Self> {
        let dim_head = check_heads(("query_dim", query_dim), ("n_heads", n_heads))?;
        check_positive(&[("context_dim", context_dim.unwrap_or(query_dim))])?;
        let norm_context = context_dim.map(|dim| LayerNorm::load_torch(&parameters.scope("norm_context"), dim));
        let (inner, context_dim) = (parameters.scope("fn"), context_dim.unwrap_or(query_dim));
        Ok(Self {
            norm: LayerNorm::load_torch(&parameters.scope("norm"), query_dim)?,
            norm_context: norm_context.transpose()?,
            attention: Attention::load(&inner, query_dim, context_dim, n_heads, dim_head)?,
        })
    }

    /// Keys and values of a context `[batch, n, context_dim]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn keys_values(&self, context: &Tensor) -> Result<[Tensor; 2]> {
        match &self.norm_context {
            Some(norm) => self.attention.keys_values(&norm.forward(context, None)?),
            None => self.attention.keys_values(context),
        }
    }

    /// The largest scores that any token of a context may have with the queries of one batch element,
    /// `[n, n_heads]`, and the largest size of its values, on the CPU: a normalised token is a vector of norm
    /// `sqrt(context_dim)` at most, whose numbers have a mean of zero, before it is scaled and shifted.
    ///
    /// # Errors
    /// The context is not normalised.
    pub(super) fn limits(&self, queries: &RollingAttention) -> Result<(Vec<f32>, f32)> {
        let norm = self.norm_context.as_ref().ok_or(Error::Unsupported {
            what: "an exact state",
            on: "this block".into(),
            why: "its context is not normalised, so that nothing limits it",
        })?;
        let Attention { to_k, to_v, n_heads, .. } = &self.attention;
        let (k, v) = (to_k.weight.numbers().to_f32()?, to_v.weight.numbers().to_f32()?);
        let (context_dim, width) = (to_k.weight.shape()[0], to_k.weight.shape()[1]);
        let dim = width / n_heads;
        let [scale, shift] = norm.affine();
        // What `sum_i weights_i token_i` is at most, and at least with the other sign.
        let bounds = |weights: &[f64]| {
            let centre: f64 = weights.iter().zip(shift).map(|(w, s)| w * f64::from(*s)).sum();
            let scaled: Vec<f64> = weights.iter().zip(scale).map(|(w, s)| w * f64::from(*s)).collect();
            let mean = scaled.iter().sum::<f64>() / context_dim as f64;
            let norm = scaled.iter().map(|w| (w - mean).powi(2)).sum::<f64>().sqrt();
            [centre, norm * (context_dim as f64).sqrt() * 1.001]
        };
        let all = queries.queries.cpu();
        let of_element = all.len() / queries.queries.shape()[0].max(1);
        let factor = f64::from(queries.scale.unwrap_or(1.0 / (dim as f32).sqrt()));
        let score = |(head, q): (usize, &[f32])| {
            let head = head % n_heads * dim;
            let weight = |i: usize| {
                let row = &k[i * width + head..][..dim];
                factor * q.iter().zip(row).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>()
            };
            let [centre, radius] = bounds(&(0..context_dim).map(weight).collect::<Vec<_>>());
            (centre + radius) as f32
        };
        let scores = all[..of_element].chunks_exact(dim).enumerate().map(score).collect();
        let value = |c: usize| {
            let column: Vec<f64> = (0..context_dim).map(|i| f64::from(v[i * width + c])).collect();
            let [centre, radius] = bounds(&column);
            centre.abs() + radius
        };
        Ok((scores, (0..width).map(value).fold(0.0, f64::max) as f32))
    }

    /// The normalised `x [batch, n, query_dim]` and its queries.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn queries(&self, x: &Tensor) -> Result<(Tensor, RollingAttention)> {
        let normed = self.norm.forward(x, None)?;
        let queries = self.attention.queries(&normed)?;
        Ok((normed, queries))
    }

    /// What was read with [`PreNormAttention::queries`], as tokens, plus the normalised input.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn finish(&self, read: &Tensor, normed: &Tensor) -> Result<Tensor> {
        self.attention.finish(read, Some(normed))
    }

    /// Reads the keys and values of a context with `x [batch, n, query_dim]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn read(&self, x: &Tensor, keys_values: &[Tensor; 2]) -> Result<Tensor> {
        let normed = self.norm.forward(x, None)?;
        self.attention.forward(&normed, keys_values, None, Some(&normed))
    }

    /// Reads a context, or `x` itself without one.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(&self, x: &Tensor, context: Option<&Tensor>) -> Result<Tensor> {
        if let Some(context) = context {
            return self.read(x, &self.keys_values(context)?);
        }
        let normed = self.norm.forward(x, None)?;
        self.attention.forward(&normed, &self.attention.keys_values(&normed)?, None, Some(&normed))
    }
}

/// A gated feed-forward layer, `W_2 geglu(W_1 x)`.
///
/// ```
/// use wgpu_attention::{Device, Tensor, checkpoint::Checkpoint, models::cmanp::FeedForward};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let mut checkpoint = Checkpoint::default();
/// checkpoint.insert("net.0.weight", &[2, 1], vec![1.0, 0.0])?; // a value of x
/// checkpoint.insert("net.0.bias", &[2], vec![0.0, 100.0])?; // and a gate of 100
/// checkpoint.insert("net.2.weight", &[1, 1], vec![1.0])?;
/// checkpoint.insert("net.2.bias", &[1], vec![5.0])?;
/// let device = Device::best();
/// let layer = checkpoint.load(&device, |parameters| FeedForward::load(parameters, 1, 1))?;
/// let y = layer.forward(&Tensor::new(&device, &[1, 1], &[3.0])?, None)?.read()?;
/// assert!((y[0] - 305.0).abs() < 1e-3);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct FeedForward {
    first: Linear,
    second: Linear,
}

impl FeedForward {
    /// Loads `net.0.{weight, bias}`, which makes `2 hidden` numbers, and `net.2.{weight, bias}`.
    ///
    /// # Errors
    /// A parameter is missing or misshapen.
    pub fn load(parameters: &Parameters<'_>, width: usize, hidden: usize) -> Result<Self> {
        let net = parameters.scope("net");
        Ok(Self {
            first: torch_linear(&net.scope(0), width, 2 * hidden, true)?,
            second: torch_linear(&net.scope(2), hidden, width, true)?,
        })
    }

    /// Every token `[.., width]`, plus a residual.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        let hidden = ops::geglu(&ops::linear(x, &self.first, Activation::None, None)?)?;
        ops::linear(&hidden, &self.second, Activation::None, residual)
    }
}

/// [`FeedForward`] after a normalisation.
///
/// ```
/// use wgpu_attention::{Device, Tensor, checkpoint::Checkpoint, models::cmanp::PreNormFeedForward};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let device = Device::best();
/// let load = |checkpoint: &Checkpoint| {
///     checkpoint.load(&device, |parameters| PreNormFeedForward::load(parameters, 8, 16))
/// };
/// let layer = load(&Checkpoint::random(0, load)?)?;
/// assert_eq!(layer.forward(&Tensor::new(&device, &[1, 3, 8], &[0.2; 24])?)?.shape(), [1, 3, 8]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct PreNormFeedForward {
    norm: LayerNorm,
    feed_forward: FeedForward,
}

impl PreNormFeedForward {
    /// Loads `norm.*` and `fn.*`.
    ///
    /// # Errors
    /// A parameter is missing or misshapen.
    pub fn load(parameters: &Parameters<'_>, width: usize, hidden: usize) -> Result<Self> {
        Ok(Self {
            norm: LayerNorm::load_torch(&parameters.scope("norm"), width)?,
            feed_forward: FeedForward::load(&parameters.scope("fn"), width, hidden)?,
        })
    }

    /// Every token `[.., width]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let normed = self.norm.forward(x, None)?;
        self.feed_forward.forward(&normed, Some(&normed))
    }
}
