//! Neural attention memory (arXiv 2302.09422): a matrix that is written, erased and read.

mod config;

pub use config::{ClassifierType, EmbeddingConfig, FewShotConfig, Generator, NamTmConfig, TuringOption};
