//! CMANP: a neural process that takes in observations in constant memory (arXiv 2305.14567).

mod config;

pub use config::{Config, CovarianceConfig, CovarianceKind};
