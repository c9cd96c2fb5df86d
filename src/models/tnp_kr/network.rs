//! The parameters on their device, and what leads from points to tokens.

use std::ops::Range;

use super::{
    block::KrBlock,
    config::{BiasParameters, CategoryConfig, Config},
    points::Points,
};
use crate::{
    checkpoint::Parameters,
    error::{Error, Result},
    models::{
        domain::{Domain, domain},
        layers::{EPSILON, LayerNorm, Mlp},
        open::About,
        points::mask,
        tiles,
    },
    tensor::{Mask, Tensor},
};

pub(super) const MODEL: &str = "tnp_kr";

pub(super) struct Network {
    pub about: About<Config>,
    /// What it was trained on, if the checkpoint says so.
    pub domain: Option<Domain>,
    /// `[2, obs_dim]`: unobserved, then observed.
    obs: Vec<f32>,
    embed_all: Mlp,
    embed_norm: LayerNorm,
    /// The blocks in the order of their application, repeats included.
    applications: Vec<KrBlock>,
    /// The learned numbers of the categories of each group that has some, `[n_categories, n_features]`.
    categories: Vec<Option<Vec<f32>>>,
    final_norm: LayerNorm,
    head: Mlp,
    /// Numbers that the head returns for a point.
    pub n_out: usize,
}

/// A part of the context: what passes through a block at once.
pub(super) struct Tile {
    /// `[batch, len, width]`.
    pub tokens: Tensor,
    /// `[batch, len, n_columns]`.
    pub coords: Tensor,
    pub mask: Option<Mask>,
}

impl Network {
    pub fn load(parameters: &Parameters<'_>, config: &Config) -> Result<Self> {
        if config.groups.is_empty() {
            return Err(Error::Config { message: "there is no coordinate group, allowed is one or more".into() });
        }
        let width = config.width()?;
        let obs = parameters.scope("embed_obs").numbers("embedding", &[2, config.obs_dim])?;
        let mut applications = Vec::new();
        for i in 0..config.n_blocks {
            let block = KrBlock::load(&parameters.scope(format!("KRBlock_{i}")), config)?;
            for _ in 0..config.n_repeats {
                applications.push(match config.bias_parameters {
                    BiasParameters::InBlocks => block.clone(),
                    BiasParameters::Beside => block.with_biases(parameters, config, applications.len())?,
                });
            }
        }
        let categories = config.groups.iter().map(|group| {
            let of = |category: CategoryConfig| {
                let scope = parameters.scope(format!("embed_{}", group.name)).scope("Embed_0");
                Ok(scope.numbers("embedding", &[category.n_categories, category.n_features])?.to_vec())
            };
            group.category.map(of).transpose()
        });
        let dims: Option<Vec<usize>> = config.groups.iter().map(|group| group.dim).collect();
        Ok(Self {
            obs: obs.to_vec(),
            embed_all: Mlp::load(&parameters.scope("embed_all"), &config.embed_all, config.n_inputs())?,
            embed_norm: LayerNorm::load(&parameters.scope("LayerNorm_0"), width, EPSILON)?,
            applications,
            categories: categories.collect::<Result<_>>()?,
            final_norm: LayerNorm::load(&parameters.scope("LayerNorm_1"), width, EPSILON)?,
            head: Mlp::load(&parameters.scope("head"), &config.head, width)?,
            n_out: config.head.n_out("head")?,
            domain: domain(parameters.checkpoint(), dims.map(|dims| dims.iter().sum()))?,
            about: About::new(MODEL, config, parameters),
        })
    }

    /// The blocks in the order of their application, repeats included.
    pub fn applications(&self) -> impl Iterator<Item = &KrBlock> {
        self.applications.iter()
    }

    /// Points of each batch element that pass through the blocks at once.
    pub fn tile(&self, batch: usize) -> usize {
        tiles::size(&self.about.device, batch, self.about.config.widest())
    }

    /// The context in parts, so that what is between layers stays small; scan attention needs
    /// it whole.
    pub fn context_tiles(&self, points: &Points<'_>) -> Result<Vec<Tile>> {
        let is_linear = self.about.config.attention.is_linear();
        let size = if is_linear { self.tile(points.batch) } else { points.n_points };
        let part = |range: Range<usize>| {
            Ok(Tile {
                tokens: self.embed(points, &range)?,
                coords: self.coords(points, &range)?,
                mask: mask(&self.about.device, points.keep, points.n_points, &range)?,
            })
        };
        tiles::tiles(points.n_points, size).map(part).collect()
    }

    /// Tokens of some points, `[batch, len, width]`.
    pub fn embed(&self, points: &Points<'_>, range: &Range<usize>) -> Result<Tensor> {
        let config = &self.about.config;
        let (unobserved, observed) = self.obs.split_at(config.obs_dim);
        let obs = if points.values.is_some() { observed } else { unobserved };
        let inputs = points.tokens(range, obs, config.n_values, &self.categories);
        let shape = [points.batch, range.len(), config.n_inputs()];
        let inputs = Tensor::new(&self.about.device, &shape, &inputs)?;
        self.embed_norm.forward(&self.embed_all.forward(&inputs, None)?, None)
    }

    /// Coordinates of some points, `[batch, len, n_columns]`.
    pub fn coords(&self, points: &Points<'_>, range: &Range<usize>) -> Result<Tensor> {
        let n_columns = points.columns().last().map_or(0, |columns| columns.end);
        Tensor::new(&self.about.device, &[points.batch, range.len(), n_columns], &points.coords(range))
    }

    /// What the head makes of tokens that have passed through all blocks, `[batch, len, n_out]`.
    pub fn head(&self, tokens: &Tensor) -> Result<Tensor> {
        self.head.forward(&self.final_norm.forward(tokens, None)?, None)
    }
}
