//! NAM attention (arXiv 2302.09422, section 4.1): the memory of a whole sequence, or of all that
//! came before.

use super::config::check_layer;
use crate::{
    checkpoint::Parameters,
    error::{Result, check_argument},
    models::layers::torch_linear,
    ops::{
        Activation, AttentionMemory, Form, Layout, Linear, MemoryState, Probabilities, attention_memory, linear,
        unit_norm,
    },
    tensor::Tensor,
};

/// Which probabilities a layer computes from its tokens, one for each head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AttentionGates {
    /// None: all is written and read, nothing erased.
    Ungated,
    /// `p_r` and `p_w`; nothing is erased.
    Gated,
    /// `p_r` and `p_w`, with `p_e = p_w`, as in the paper's equations.
    Tied,
    /// `p_r`, `p_w` and `p_e`.
    Erase,
}

/// What a layer returns.
#[derive(Clone, Debug)]
pub struct NamOutput {
    /// `[batch, n, d_model]`.
    pub values: Tensor,
    /// `[batch, n_heads, dim, dim]`: rows are values, columns keys.
    pub memory: Tensor,
}

/// Projections around an attention memory.
///
/// ```
/// use wgpu_attention::{Device, Tensor, checkpoint::Checkpoint, models::nam::{AttentionGates, NamAttention}};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let device = Device::best();
/// let load = |checkpoint: &Checkpoint| {
///     checkpoint.load(&device, |parameters| NamAttention::load(parameters, 8, 2, AttentionGates::Erase))
/// };
/// let attention = load(&Checkpoint::random(0, load)?)?;
/// let x = Tensor::new(&device, &[1, 5, 8], &[0.1; 40])?;
/// let first = attention.causal(&x, None, None)?;
/// let second = attention.causal(&x, Some(&first.memory), None)?; // goes on
/// assert_eq!(second.values.shape(), [1, 5, 8]);
/// assert_eq!(second.memory.shape(), [1, 2, 4, 4]); // of two heads
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct NamAttention {
    n_heads: usize,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    read: Option<Linear>,
    write: Option<Linear>,
    erase: Option<Linear>,
    gates: AttentionGates,
}

impl NamAttention {
    /// Loads `Wq`, `Wk`, `Wv`, `Wo` and, as the gates ask for, `Ww`, `Wr`, `We`.
    ///
    /// # Errors
    /// A parameter is missing or misshapen; heads that do not divide `d_model`.
    pub fn load(parameters: &Parameters<'_>, d_model: usize, n_heads: usize, gates: AttentionGates) -> Result<Self> {
        check_layer(d_model, n_heads)?;
        let project = |name: &str| torch_linear(&parameters.scope(name), d_model, d_model, true);
        let gate = |name: &str, exists: bool| {
            exists.then(|| torch_linear(&parameters.scope(name), d_model, n_heads, true)).transpose()
        };
        let is_gated = gates != AttentionGates::Ungated;
        Ok(Self {
            n_heads,
            q: project("Wq")?,
            k: project("Wk")?,
            v: project("Wv")?,
            out: project("Wo")?,
            read: gate("Wr", is_gated)?,
            write: gate("Ww", is_gated)?,
            erase: gate("We", gates == AttentionGates::Erase)?,
            gates,
        })
    }

    /// Every token of `input [batch, n, d_model]` reads all that `source [batch, m, d_model]`
    /// wrote; without a source, the input itself. Nothing is divided by the length, so what is read
    /// grows with it.
    ///
    /// # Errors
    /// Shapes that do not fit; gates that erase, for there is no order of writes here.
    pub fn forward(&self, input: &Tensor, source: Option<&Tensor>) -> Result<NamOutput> {
        let (gates, allowed) = (self.gates, "Ungated or Gated; NamAttention::causal erases");
        let erases = matches!(gates, AttentionGates::Tied | AttentionGates::Erase);
        check_argument(!erases, "NamAttention::forward", "gates", format_args!("{gates:?}"), allowed)?;
        let source = source.unwrap_or(input);
        let p_write = probability(self.write.as_ref(), source)?;
        let p_read = probability(self.read.as_ref(), input)?;
        let mut memory = AttentionMemory::new(Layout::Projected { n_heads: self.n_heads });
        memory.p_write = p_write.as_ref();
        memory.p_read = p_read.as_ref();
        let state = memory.write(None, &self.unit(&self.k, source)?, &project(&self.v, source)?, None)?;
        let read = memory.read(&self.unit(&self.q, input)?, &state)?;
        Ok(NamOutput { values: project(&self.out, &read.values)?, memory: state.memory })
    }

    /// Every token of `input [batch, n, d_model]` writes, erases and then reads what it and those
    /// before it wrote, beginning with a memory or with zeros. Not in the authors' code: the
    /// paper's RD and WR in the order of the tokens.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn causal(&self, input: &Tensor, memory: Option<&Tensor>, form: Option<Form>) -> Result<NamOutput> {
        let p_read = probability(self.read.as_ref(), input)?;
        let p_write = probability(self.write.as_ref(), input)?;
        let p_erase = match self.gates {
            AttentionGates::Tied => p_write.clone(),
            _ => probability(self.erase.as_ref(), input)?,
        };
        let state = memory.cloned().map(MemoryState::new);
        let mut options = AttentionMemory::new(Layout::Projected { n_heads: self.n_heads });
        options.state = state.as_ref();
        options.p_read = p_read.as_ref();
        options.p_write = p_write.as_ref();
        options.p_erase = p_erase.as_ref();
        options.form = form;
        let (q, k) = (self.unit(&self.q, input)?, self.unit(&self.k, input)?);
        let recall = attention_memory(&q, &k, &project(&self.v, input)?, &options)?;
        Ok(NamOutput { values: project(&self.out, &recall.values)?, memory: recall.state.memory })
    }

    /// A projection whose heads are unit vectors.
    fn unit(&self, layer: &Linear, x: &Tensor) -> Result<Tensor> {
        unit_heads(&project(layer, x)?, self.n_heads)
    }
}

fn project(layer: &Linear, x: &Tensor) -> Result<Tensor> {
    linear(x, layer, Activation::None, None)
}

fn probability(layer: Option<&Linear>, x: &Tensor) -> Result<Option<Probabilities>> {
    layer.map(|layer| Probabilities::sigmoid(&project(layer, x)?)).transpose()
}

/// Each head of `x [.., n_heads * dim]` a unit vector.
pub(super) fn unit_heads(x: &Tensor, n_heads: usize) -> Result<Tensor> {
    let mut shape = x.shape().to_vec();
    let width = shape.pop().unwrap_or(0);
    shape.extend([n_heads, width / n_heads.max(1)]);
    unit_norm(&x.reshape(&shape)?)?.reshape(x.shape())
}
