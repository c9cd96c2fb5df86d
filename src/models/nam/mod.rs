//! Neural attention memory (arXiv 2302.09422): networks around a matrix that is written, erased
//! and read.
//!
//! Parameters have the names of the authors' PyTorch code. Sequences are `[batch, n, width]` here
//! and `[n, batch, width]` there, logits `[batch, n, vocabulary]` here and
//! `[batch, vocabulary, n]` there; tapes are `[batch, n_tapes, tape_length, mem_size]`.

mod accuracy;
mod attention;
mod authors;
mod classifier;
mod config;
mod few_shot;
mod lsam;
mod tokens;
mod transformer;
mod turing;

pub use accuracy::Accuracy;
pub use attention::{AttentionGates, NamAttention, NamOutput};
pub use classifier::Classifier;
pub use config::{
    ClassifierType, EmbeddingConfig, FewShotConfig, Generator, LsamAeConfig, MAX_TAPES, NamTmConfig, TransformerConfig,
    TuringOption,
};
pub use few_shot::{Episode, FewShot};
pub use lsam::{Blsam, LsamAe, LsamCell, LsamDecoder, LsamEncoderLayer};
pub use transformer::{NamTransformer, TransformerOutput};
pub use turing::{NamTm, NamTmAe, TuringOutput, TuringState, torch_lstm};
