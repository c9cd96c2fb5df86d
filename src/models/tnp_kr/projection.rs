//! What makes queries, keys and values of tokens, and tokens of what was read.

use crate::{
    checkpoint::Parameters,
    error::Result,
    models::layers::{Mlp, MlpConfig, dense, torch_weight},
    ops::{Activation, Linear, linear, scale_columns},
    tensor::Tensor,
};

/// The four projections of a block.
#[derive(Clone, Debug)]
pub(super) struct Projections {
    pub qs: Projection,
    pub ks: Projection,
    pub vs: Projection,
    pub out: Projection,
}

/// A perceptron, or a layer whose weight each token changes by a matrix of low rank.
#[derive(Clone, Debug)]
pub(super) enum Projection {
    Fixed(Mlp),
    Adaptive(Box<Adaptive>),
}

/// `W x + b + U ((V x) * (S x + c))`: an update of low rank of a layer's weight, scaled by the token that goes
/// through it (dl4bi's `HyperLoRA`, conditioned on its own input).
#[derive(Clone, Debug)]
pub(super) struct Adaptive {
    layer: Linear,
    down: Linear,
    scale: Linear,
    up: Linear,
}

impl Projection {
    /// Loads one from tokens of width `n_in`; an adaptive one if there is a `rank`.
    pub fn load(parameters: &Parameters<'_>, config: &MlpConfig, n_in: usize, rank: Option<usize>) -> Result<Self> {
        let Some(rank) = rank else {
            return Ok(Self::Fixed(Mlp::load(parameters, config, n_in)?));
        };
        let n_out = config.n_out("the projection")?;
        let matrix = |name: &str, n_in: usize, n_out: usize| {
            Ok(Linear { weight: torch_weight(parameters, name, n_in, n_out)?, bias: None })
        };
        Ok(Self::Adaptive(Box::new(Adaptive {
            layer: dense(&parameters.scope("Dense_1"), n_in, n_out)?,
            down: matrix("V", n_in, rank)?,
            scale: dense(&parameters.scope("Dense_0"), n_in, rank)?,
            up: matrix("U", rank, n_out)?,
        })))
    }

    /// `x [.., n_in]` to `[.., n_out]`, plus a residual of that shape.
    pub fn forward(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        match self {
            Self::Fixed(mlp) => mlp.forward(x, residual),
            Self::Adaptive(adaptive) => {
                let Adaptive { layer, down, scale, up } = &**adaptive;
                let y = linear(x, layer, Activation::None, residual)?;
                let [low, scale] = [down, scale].map(|layer| linear(x, layer, Activation::None, None));
                linear(&scale_columns(&low?, &scale?)?, up, Activation::None, Some(&y))
            }
        }
    }
}
