//! Layers that several models share.

use serde::{Deserialize, Serialize};

use crate::{
    checkpoint::Parameters,
    device::Device,
    error::{Error, Result},
    host,
    ops::{self, Activation, Linear},
    tensor::{DType, Tensor},
};

/// What flax adds to the variance in a layer normalisation.
pub(crate) const EPSILON: f32 = 1e-6;

/// Sizes of a multilayer perceptron.
///
/// ```
/// use wgpu_attention::{models::layers::MlpConfig, serde_json};
///
/// let config: MlpConfig = serde_json::from_str(r#"{"dims": [128, 64], "activation": "gelu_tanh"}"#).unwrap();
/// assert_eq!(config.n_out("ffn").unwrap(), 64);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MlpConfig {
    /// The width after each layer.
    pub dims: Vec<usize>,
    /// What follows every layer but the last.
    #[serde(default = "relu")]
    pub activation: Activation,
}

pub(super) fn relu() -> Activation {
    Activation::Relu
}

impl MlpConfig {
    /// The width of the output.
    ///
    /// # Errors
    /// There is no layer, or one of width 0; `name` goes into the message.
    pub fn n_out(&self, name: &str) -> Result<usize> {
        match self.dims.last() {
            Some(&n) if !self.dims.contains(&0) => Ok(n),
            _ => Err(Error::Config {
                message: format!("{name}.dims is {:?}, allowed is one or more positive widths", self.dims),
            }),
        }
    }
}

/// Loads a layer as PyTorch stores it: `weight [n_out, n_in]`, which is the transpose of what
/// [`Linear`] takes, and `bias [n_out]` if it has one.
///
/// # Errors
/// A parameter is missing or misshapen; a width of 0.
///
/// ```
/// use wgpu_attention::{Device, Tensor, checkpoint::Checkpoint, models::layers::torch_linear};
/// use wgpu_attention::ops::{Activation, linear};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let mut checkpoint = Checkpoint::default();
/// checkpoint.insert("fc.weight", &[1, 2], vec![2.0, 3.0])?; // [n_out, n_in]
/// checkpoint.insert("fc.bias", &[1], vec![4.0])?;
/// let device = Device::best();
/// let layer = checkpoint.load(&device, |parameters| torch_linear(&parameters.scope("fc"), 2, 1, true))?;
/// let x = Tensor::new(&device, &[1, 2], &[1.0, 1.0])?;
/// assert_eq!(linear(&x, &layer, Activation::None, None)?.read()?, [9.0]);
/// # Ok(())
/// # }
/// ```
pub fn torch_linear(parameters: &Parameters<'_>, n_in: usize, n_out: usize, has_bias: bool) -> Result<Linear> {
    check_positive(&[("the width of a layer's input", n_in), ("the width of its output", n_out)])?;
    let weight = torch_weight(parameters, "weight", n_in, n_out)?;
    let bias = has_bias.then(|| parameters.tensor("bias", &[n_out])).transpose()?;
    Ok(Linear { weight, bias })
}

/// A weight `[n_out, n_in]` in the file as [`Linear`] takes it.
pub(crate) fn torch_weight(parameters: &Parameters<'_>, name: &str, n_in: usize, n_out: usize) -> Result<Tensor> {
    let weight = parameters.numbers(name, &[n_out, n_in])?;
    transposed(parameters.device(), parameters.dtype(name), weight, n_in)
}

/// A layer as flax stores it: `kernel [n_in, n_out]` and `bias [n_out]`.
pub(crate) fn dense(parameters: &Parameters<'_>, n_in: usize, n_out: usize) -> Result<Linear> {
    let weight = parameters.weight("kernel", &[n_in, n_out])?;
    Ok(Linear { weight, bias: Some(parameters.tensor("bias", &[n_out])?) })
}

/// Refuses a width or a number of things that is 0.
pub(crate) fn check_positive(sizes: &[(&str, usize)]) -> Result<()> {
    match sizes.iter().find(|(_, size)| *size == 0) {
        None => Ok(()),
        Some((name, _)) => Err(Error::Config { message: format!("{name} is 0, allowed is 1 or more") }),
    }
}

/// The width of a head; the names are those of the configuration.
pub(crate) fn check_heads((name, width): (&str, usize), (heads, n_heads): (&str, usize)) -> Result<usize> {
    check_positive(&[(name, width), (heads, n_heads)])?;
    if width.is_multiple_of(n_heads) {
        return Ok(width / n_heads);
    }
    Err(Error::Config { message: format!("{name} is {width}, allowed is a multiple of {heads} {n_heads}") })
}

/// The rows of a weight `[n_out, n_in]` as the columns that [`Linear`] takes, of a type that they have exactly.
pub(crate) fn transposed(device: &Device, dtype: DType, weight: &[f32], n_in: usize) -> Result<Tensor> {
    check_positive(&[("the width of a layer's input", n_in)])?;
    Tensor::of_type(device, dtype, &[n_in, weight.len() / n_in], &columns(weight, n_in)?)
}

/// Rows of `n_in` numbers, transposed.
pub(crate) fn columns(weight: &[f32], n_in: usize) -> Result<Vec<f32>> {
    host::collect(weight.len(), (0..n_in).flat_map(|i| weight.chunks_exact(n_in).map(move |row| row[i])))
}

/// `log(1 + e^x)` without overflow.
///
/// ```
/// use wgpu_attention::models::layers::softplus;
///
/// assert!((softplus(0.0) - 2f32.ln()).abs() < 1e-6);
/// assert_eq!([softplus(-200.0), softplus(200.0)], [0.0, 200.0]);
/// ```
pub fn softplus(x: f32) -> f32 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// Dense layers with an activation between them.
///
/// ```
/// use wgpu_attention::{Device, Tensor, checkpoint::Checkpoint, models::layers::Mlp};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let mut checkpoint = Checkpoint::default();
/// for (name, shape, number) in [("0.weight", &[1, 1][..], -1.0), ("2.weight", &[1, 1], 2.0)] {
///     checkpoint.insert(name, shape, vec![number])?;
///     checkpoint.insert(&name.replace("weight", "bias"), &[1], vec![5.0])?;
/// }
/// let device = Device::best();
/// let mlp = checkpoint.load(&device, |parameters| Mlp::load_torch(parameters, 1, &[1, 1]))?;
/// let x = Tensor::new(&device, &[2, 1], &[3.0, 9.0])?;
/// assert_eq!(mlp.forward(&x, None)?.read()?, [9.0, 5.0]); // 2 max(5 - x, 0) + 5
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Mlp {
    layers: Vec<Linear>,
    activation: Activation,
}

impl Mlp {
    /// Loads `Dense_0.kernel`, `Dense_0.bias`, `Dense_1.kernel` and so on.
    ///
    /// # Errors
    /// A parameter is missing or misshapen.
    pub fn load(parameters: &Parameters<'_>, config: &MlpConfig, n_in: usize) -> Result<Self> {
        let inputs = std::iter::once(&n_in).chain(&config.dims);
        let layers = inputs.zip(&config.dims).enumerate();
        let layers = layers.map(|(i, (&n_in, &n_out))| dense(&parameters.scope(format!("Dense_{i}")), n_in, n_out));
        Ok(Self { layers: layers.collect::<Result<_>>()?, activation: config.activation })
    }

    /// Loads `0.weight`, `0.bias`, `2.weight` and so on, as a PyTorch `Sequential` of dense layers
    /// with ReLU between them names its parameters; `dims` are the widths after each layer.
    ///
    /// # Errors
    /// A parameter is missing or misshapen.
    pub fn load_torch(parameters: &Parameters<'_>, n_in: usize, dims: &[usize]) -> Result<Self> {
        let inputs = std::iter::once(&n_in).chain(dims);
        let layers = inputs.zip(dims).enumerate();
        let layers = layers.map(|(i, (&n_in, &n_out))| torch_linear(&parameters.scope(2 * i), n_in, n_out, true));
        Ok(Self { layers: layers.collect::<Result<_>>()?, activation: Activation::Relu })
    }

    /// The same with another activation between the layers.
    pub fn with_activation(mut self, activation: Activation) -> Self {
        self.activation = activation;
        self
    }

    /// `x [.., n_in]` to `[.., n_out]`, plus a residual of that shape.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        let mut x = x.clone();
        for (i, layer) in self.layers.iter().enumerate() {
            let last = i + 1 == self.layers.len();
            let activation = if last { Activation::None } else { self.activation };
            x = ops::linear(&x, layer, activation, residual.filter(|_| last))?;
        }
        Ok(x)
    }
}

/// Layer normalisation with its parameters.
///
/// ```
/// use wgpu_attention::{Device, Tensor, checkpoint::Checkpoint, models::layers::LayerNorm};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let mut checkpoint = Checkpoint::default();
/// checkpoint.insert("norm.weight", &[2], vec![1.0, 10.0])?;
/// checkpoint.insert("norm.bias", &[2], vec![0.0, 5.0])?;
/// let device = Device::best();
/// let norm = checkpoint.load(&device, |parameters| LayerNorm::load_torch(&parameters.scope("norm"), 2))?;
/// let y = norm.with_epsilon(0.0).forward(&Tensor::new(&device, &[2], &[1.0, 3.0])?, None)?.read()?;
/// assert!((y[0] + 1.0).abs() < 1e-5 && (y[1] - 15.0).abs() < 1e-5);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct LayerNorm {
    scale: Tensor,
    bias: Tensor,
    epsilon: f32,
}

impl LayerNorm {
    /// What a normalised token is multiplied by, and what is added to it, on the CPU.
    pub(crate) fn affine(&self) -> [&[f32]; 2] {
        [self.scale.cpu(), self.bias.cpu()]
    }

    /// Loads `scale` and `bias`.
    ///
    /// # Errors
    /// A parameter is missing or misshapen.
    pub fn load(parameters: &Parameters<'_>, width: usize, epsilon: f32) -> Result<Self> {
        let (scale, bias) = (parameters.tensor("scale", &[width])?, parameters.tensor("bias", &[width])?);
        Ok(Self { scale, bias, epsilon })
    }

    /// Loads `weight` and `bias`, as PyTorch names them, with its epsilon of 1e-5.
    ///
    /// # Errors
    /// A parameter is missing or misshapen.
    pub fn load_torch(parameters: &Parameters<'_>, width: usize) -> Result<Self> {
        let (scale, bias) = (parameters.tensor("weight", &[width])?, parameters.tensor("bias", &[width])?);
        Ok(Self { scale, bias, epsilon: 1e-5 })
    }

    /// The same with another epsilon.
    pub fn with_epsilon(mut self, epsilon: f32) -> Self {
        self.epsilon = epsilon;
        self
    }

    /// Normalises the last dimension and adds a residual of the same shape.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        ops::layer_norm(x, &self.scale, &self.bias, self.epsilon, residual)
    }
}
