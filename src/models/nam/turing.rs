//! The NAM Turing machine (arXiv 2302.09422, section 4.3) and the network around it.

use std::{fmt, path::Path};

use super::{
    attention::unit_heads,
    config::{NamTmConfig, check_sizes},
    tokens::Embedding,
};
use crate::{
    Device,
    checkpoint::{Checkpoint, Parameters},
    error::Result,
    models::{
        layers::{LayerNorm, torch_linear, transposed},
        open::{self, About},
        tiles::read_predicted,
    },
    ops::{self, Activation, Linear, Lstm, TapeInputs, TapeOptions, TapeState, linear, lstm},
    tensor::{DType, Tensor},
};

const MODEL: &str = "nam_tm";

/// A machine: a controller that sees the inputs only, and tapes. What was read never reaches the
/// controller, so all actions of a sequence are known before the first step.
///
/// ```
/// use wgpu_attention::{Device, Tensor, checkpoint::Checkpoint, models::nam::NamTm, ops::TapeOptions};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let device = Device::best();
/// let load = |checkpoint: &Checkpoint| {
///     checkpoint.load(&device, |parameters| NamTm::load(parameters, 8, 2, 4, TapeOptions::default()))
/// };
/// let machine = load(&Checkpoint::random(0, load)?)?;
/// let x = Tensor::new(&device, &[1, 5, 8], &[0.1; 40])?;
/// let output = machine.forward(&x, 16, None)?;
/// assert_eq!((output.values.shape(), output.state.tape.tape.shape()), (&[1, 5, 8][..], &[1, 2, 16, 4][..]));
/// let more = machine.forward(&x, 16, Some(&output.state))?; // what follows in the same sequence
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct NamTm {
    options: TapeOptions,
    n_tapes: usize,
    controller: Lstm,
    action: Linear,
    value: Linear,
    /// Keys and queries, for heads that jump.
    jump: Option<(Linear, Linear)>,
    out: Linear,
}

/// What a machine returns.
#[derive(Clone, Debug)]
pub struct TuringOutput {
    /// `[batch, n, dim]`.
    pub values: Tensor,
    /// After the last step.
    pub state: TuringState,
    /// The controller's hidden states, `[batch, n, dim]`.
    pub controller: Tensor,
    /// The action vectors, `[batch, n, n_tapes * n_actions]`.
    pub actions: Tensor,
    /// What was read from the tapes, `[batch, n, n_tapes * mem_size]`.
    pub reads: Tensor,
}

/// All that a machine keeps from step to step: plain data.
#[derive(Clone, Debug)]
pub struct TuringState {
    /// That of the controller, `[batch, 2, dim]`, see [`LstmOutput`](crate::ops::LstmOutput); zeros
    /// if not given.
    pub controller: Option<Tensor>,
    /// Tapes, keys and heads.
    pub tape: TapeState,
}

impl TuringState {
    /// What was written on the tapes, `[batch, n_tapes, tape_length, mem_size]`; all else begins
    /// afresh.
    pub fn new(tape: Tensor) -> Self {
        Self { controller: None, tape: TapeState::new(tape) }
    }
}

impl NamTm {
    /// Loads `controller` (an LSTM of one layer), `actionlayer`, `valuelayer`, `outlayer` and, for
    /// heads that jump, `keylayer` and `Wq`.
    ///
    /// # Errors
    /// A parameter is missing or misshapen; sizes of 0.
    pub fn load(
        parameters: &Parameters<'_>,
        dim: usize,
        n_tapes: usize,
        mem_size: usize,
        options: TapeOptions,
    ) -> Result<Self> {
        check_sizes(&[("dim", dim), ("n_heads", n_tapes), ("mem_size", mem_size)])?;
        let layer = |name: &str, n_in, n_out| torch_linear(&parameters.scope(name), n_in, n_out, true);
        let inner = n_tapes * mem_size;
        let jump = options.heads.jumps().then(|| Ok((layer("keylayer", dim, inner)?, layer("Wq", dim, inner)?)));
        Ok(Self {
            options,
            n_tapes,
            controller: torch_lstm(&parameters.scope("controller"), dim, dim)?,
            action: layer("actionlayer", dim, n_tapes * options.heads.n_actions())?,
            value: layer("valuelayer", dim, inner)?,
            jump: jump.transpose()?,
            out: layer("outlayer", inner, dim)?,
        })
    }

    /// Runs over `x [batch, n, dim]`, beginning with a state or with empty tapes. A sequence in parts,
    /// each with the state that the one before returned, is the sequence at once.
    ///
    /// # Errors
    /// Shapes that do not fit; a tape of length 0.
    pub fn forward(&self, x: &Tensor, tape_length: usize, state: Option<&TuringState>) -> Result<TuringOutput> {
        let dense = |x: &Tensor, layer: &Linear| linear(x, layer, Activation::None, None);
        let lstm = lstm(x, &self.controller, state.and_then(|state| state.controller.as_ref()))?;
        let controller = lstm.values;
        let actions = dense(&controller, &self.action)?;
        let value = dense(x, &self.value)?;
        let jump = match &self.jump {
            Some((key, query)) => Some((
                unit_heads(&dense(x, key)?, self.n_tapes)?,
                unit_heads(&dense(&controller, query)?, self.n_tapes)?,
            )),
            None => None,
        };
        let inputs = TapeInputs {
            value: &value,
            key: jump.as_ref().map(|(key, _)| key),
            query: jump.as_ref().map(|(_, query)| query),
            action: &actions,
            n_tapes: self.n_tapes,
            tape_length,
        };
        let output = ops::tape(&inputs, self.options, state.map(|state| &state.tape))?;
        let values = dense(&output.values, &self.out)?;
        let state = TuringState { controller: Some(lstm.state), tape: output.state };
        Ok(TuringOutput { values, state, controller, actions, reads: output.values })
    }
}

/// Loads an LSTM of one layer as PyTorch stores it: `weight_ih_l0`, `weight_hh_l0`, `bias_ih_l0`,
/// `bias_hh_l0`.
///
/// # Errors
/// A parameter is missing or misshapen.
///
/// ```
/// use wgpu_attention::{Device, Tensor, checkpoint::Checkpoint, models::nam::torch_lstm, ops::lstm};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let mut checkpoint = Checkpoint::default();
/// checkpoint.insert("lstm.weight_ih_l0", &[4, 1], vec![0.0; 4])?;
/// checkpoint.insert("lstm.weight_hh_l0", &[4, 1], vec![0.0; 4])?;
/// checkpoint.insert("lstm.bias_ih_l0", &[4], vec![60.0; 4])?; // all gates open
/// checkpoint.insert("lstm.bias_hh_l0", &[4], vec![40.0; 4])?;
/// let device = Device::best();
/// let layer = checkpoint.load(&device, |parameters| torch_lstm(&parameters.scope("lstm"), 1, 1))?;
/// let state = lstm(&Tensor::zeros(&device, &[1, 3, 1])?, &layer, None)?.state.read()?;
/// assert!((state[1] - 3.0).abs() < 1e-5); // c counts the steps
/// # Ok(())
/// # }
/// ```
pub fn torch_lstm(parameters: &Parameters<'_>, n_in: usize, hidden: usize) -> Result<Lstm> {
    let width = 4 * hidden;
    let weight = |name: &str, dtype, n_in: usize| {
        transposed(parameters.device(), dtype, parameters.numbers(name, &[width, n_in])?, n_in)
    };
    let (a, b) = (parameters.numbers("bias_ih_l0", &[width])?, parameters.numbers("bias_hh_l0", &[width])?);
    let bias: Vec<f32> = a.iter().zip(b).map(|(a, b)| a + b).collect();
    Ok(Lstm {
        input: Linear {
            weight: weight("weight_ih_l0", parameters.dtype("weight_ih_l0"), n_in)?,
            bias: Some(Tensor::new(parameters.device(), &[width], &bias)?),
        },
        hidden: weight("weight_hh_l0", DType::F32, hidden)?,
    })
}

/// From tokens to logits, a Turing machine between them.
///
/// ```
/// use wgpu_attention::{Device, models::nam::NamTmAe};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let model = NamTmAe::open(&Device::best(), "checkpoints/nam_tm_addition.safetensors")?;
/// // 27 + 95, lowest digits first, in pairs; 10 is `=`, and in the places of 11 is the answer.
/// let logits = model.forward(1, &[7, 5, 2, 9, 10, 11, 11, 11])?.read()?;
/// let best = |row: &[f32]| (0..10).max_by(|&a, &b| row[a].total_cmp(&row[b]));
/// let digits: Vec<_> = logits.chunks(12).skip(5).filter_map(best).collect();
/// assert_eq!(digits, [2, 2, 1]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct NamTmAe {
    about: About<NamTmConfig>,
    embedding: Embedding,
    project: Linear,
    norm: LayerNorm,
    machine: NamTm,
    fc_norm: LayerNorm,
    fc: Linear,
}

impl fmt::Debug for NamTmAe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.about.debug("NamTmAe", f)
    }
}

impl NamTmAe {
    /// Reads a file of model `nam_tm`, see [`checkpoint`](crate::checkpoint).
    ///
    /// # Errors
    /// The file cannot be read, is no such checkpoint, or its parameters are not those that its
    /// configuration asks for.
    pub fn open(device: &Device, path: impl AsRef<Path>) -> Result<Self> {
        Self::from_checkpoint(device, &Checkpoint::open(path)?)
    }

    /// [`NamTmAe::open`] of a file that was read already.
    ///
    /// # Errors
    /// As [`NamTmAe::open`].
    pub fn from_checkpoint(device: &Device, checkpoint: &Checkpoint) -> Result<Self> {
        let config = open::config(checkpoint, MODEL, |upstream| NamTmConfig::from_authors(&upstream.yaml))?;
        Self::new(device, &config, checkpoint)
    }

    /// Builds the network from parameters.
    ///
    /// # Errors
    /// The configuration contradicts itself; a parameter is missing, misshapen or left over.
    pub fn new(device: &Device, config: &NamTmConfig, checkpoint: &Checkpoint) -> Result<Self> {
        config.check()?;
        let NamTmConfig { dim, vocab_size, n_heads, mem_size, option, .. } = *config;
        checkpoint.load(device, |parameters| {
            Ok(Self {
                embedding: Embedding::load(&parameters.scope("embedding.0"), vocab_size, dim)?,
                project: torch_linear(&parameters.scope("embedding.1"), dim, dim, true)?,
                norm: LayerNorm::load_torch(&parameters.scope("encnorm"), dim)?,
                machine: NamTm::load(&parameters.scope("tm"), dim, n_heads, mem_size, option.tape_options())?,
                fc_norm: LayerNorm::load_torch(&parameters.scope("fc.0"), dim)?,
                fc: torch_linear(&parameters.scope("fc.3"), dim, vocab_size, true)?,
                about: About::new(MODEL, config, parameters),
            })
        })
    }

    /// The architecture.
    pub fn config(&self) -> &NamTmConfig {
        &self.about.config
    }

    /// Where the network runs.
    pub fn device(&self) -> &Device {
        &self.about.device
    }

    /// Logits `[batch, n, vocab_size]` for `batch` sequences of tokens, one after the other. They stay on
    /// the device: what overflows is passed on, and [`NamTmAe::predict`] refuses it.
    ///
    /// # Errors
    /// Sequences of different lengths; tokens that do not exist.
    pub fn forward(&self, batch: usize, tokens: &[usize]) -> Result<Tensor> {
        Ok(self.run(batch, tokens, None)?.0)
    }

    /// [`NamTmAe::forward`] of what follows on the tokens that left a state, and the state after it.
    ///
    /// # Errors
    /// As there; a state of another batch or model.
    pub fn run(&self, batch: usize, tokens: &[usize], state: Option<&TuringState>) -> Result<(Tensor, TuringState)> {
        let n = self.embedding.length(batch, tokens)?;
        let x = Tensor::new(self.device(), &[batch, n, self.embedding.dim], &self.embedding.rows(tokens)?)?;
        let x = self.norm.forward(&linear(&x, &self.project, Activation::None, None)?, None)?;
        let output = self.machine.forward(&x, self.config().tape_length, state)?;
        let y = ops::relu(&self.fc_norm.forward(&output.values, None)?)?;
        Ok((linear(&y, &self.fc, Activation::None, None)?, output.state))
    }

    /// Logits `[batch, n, vocab_size]` on the host.
    ///
    /// # Errors
    /// As [`NamTmAe::forward`]; logits that are not finite.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn predict(&self, batch: usize, tokens: &[usize]) -> Result<Vec<f32>> {
        pollster::block_on(self.predict_async(batch, tokens))
    }

    /// [`NamTmAe::predict`] without blocking.
    ///
    /// # Errors
    /// As [`NamTmAe::predict`].
    pub async fn predict_async(&self, batch: usize, tokens: &[usize]) -> Result<Vec<f32>> {
        read_predicted("the logits", &self.forward(batch, tokens)?).await
    }
}
