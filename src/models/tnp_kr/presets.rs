//! The papers' own architectures, at their full size: 6 blocks of width 64.

use super::config::{AttentionConfig, BiasConfig, BiasParameters, Config, GroupConfig};
use crate::{
    models::{Output, layers::MlpConfig},
    ops::{Activation, BiasKernel, Distance},
};

const WIDTH: usize = 64;

fn mlp(dims: &[usize]) -> MlpConfig {
    MlpConfig { dims: dims.to_vec(), activation: Activation::GeluTanh }
}

impl Config {
    /// BSA-TNP for points in space: scan attention of 4 heads, whose only view of the
    /// coordinates is an RBF bias of 5 bases, so that any dimension will do (arXiv 2506.09163).
    ///
    /// ```
    /// use wgpu_attention::models::tnp_kr::Config;
    ///
    /// let config = Config { n_blocks: 2, ..Config::scan(1) }; // smaller than the papers'
    /// assert_eq!(config.groups[0].dim, None); // points of any dimension
    /// ```
    pub fn scan(n_values: usize) -> Self {
        let bias = BiasConfig { kernel: BiasKernel::Rbf, distance: Distance::Euclidean, n_basis: 5 };
        let group = GroupConfig { name: "s".into(), dim: None, embed: false, bias: Some(bias), category: None };
        let wide = || mlp(&[2 * WIDTH]);
        let attention = AttentionConfig::Scan {
            n_heads: 4,
            proj_qs: wide(),
            proj_ks: wide(),
            proj_vs: wide(),
            proj_out: mlp(&[WIDTH]),
            adaptive_rank: None,
        };
        Self::paper(n_values, group, attention)
    }

    /// TNP-KR with deep kernel attention for points of `dim` coordinates (arXiv 2411.12502).
    ///
    /// ```
    /// use wgpu_attention::models::tnp_kr::Config;
    ///
    /// assert_eq!(Config::deep_kernel(2, 1).n_inputs(), 4 + 2 + 1);
    /// ```
    pub fn deep_kernel(dim: usize, n_values: usize) -> Self {
        let attention = AttentionConfig::DeepKernel {
            n_heads: 1,
            proj_qks: mlp(&[2 * WIDTH, 2 * WIDTH]),
            proj_vs: mlp(&[2 * WIDTH, WIDTH]),
        };
        Self::paper(n_values, embedded(dim), attention)
    }

    /// TNP-KR with Performer attention for points of `dim` coordinates: 4 heads, 128 random
    /// features (arXiv 2411.12502; 2009.14794).
    ///
    /// ```
    /// use wgpu_attention::models::tnp_kr::{AttentionConfig, Config};
    ///
    /// let attention = Config::performer(2, 1).attention;
    /// assert!(matches!(attention, AttentionConfig::Performer { n_heads: 4, n_features: 128, .. }));
    /// ```
    pub fn performer(dim: usize, n_values: usize) -> Self {
        let wide = || mlp(&[2 * WIDTH]);
        let attention = AttentionConfig::Performer {
            n_heads: 4,
            n_features: 128,
            proj_qs: wide(),
            proj_ks: wide(),
            proj_vs: wide(),
            proj_out: mlp(&[WIDTH]),
        };
        let config = Self::paper(n_values, embedded(dim), attention);
        Self { embed_all: mlp(&[8 * WIDTH, 2 * WIDTH, WIDTH]), ..config }
    }

    fn paper(n_values: usize, group: GroupConfig, attention: AttentionConfig) -> Self {
        Self {
            n_blocks: 6,
            n_repeats: 1,
            obs_dim: 4,
            n_values,
            groups: vec![group],
            embed_all: mlp(&[4 * WIDTH, 2 * WIDTH, WIDTH]),
            attention,
            bias_parameters: BiasParameters::default(),
            ffn: mlp(&[4 * WIDTH, WIDTH]),
            head: mlp(&[4 * WIDTH, WIDTH, 2 * n_values]),
            output: Output::Gaussian { min_std: 0.0 },
        }
    }
}

fn embedded(dim: usize) -> GroupConfig {
    GroupConfig { name: "s".into(), dim: Some(dim), embed: true, bias: None, category: None }
}
