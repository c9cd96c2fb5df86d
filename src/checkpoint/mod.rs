//! Trained parameters from safetensors files, by name, with errors that name them.
//!
//! # What a file holds
//!
//! Tensors of type F32, F64, F16 or BF16, each with the name and the shape that the authors' code
//! gives it (what is of another type, or not finite, matters only where a model asks for it), and strings of metadata by two keys, from which a model opens itself:
//!
//! | `model` | opened by | `config`, as JSON |
//! |---|---|---|
//! | `tnp_kr` | [`TnpKr`](crate::models::tnp_kr::TnpKr) | [`tnp_kr::Config`](crate::models::tnp_kr::Config) |
//! | `cmanp` | [`Cmanp`](crate::models::cmanp::Cmanp) | [`cmanp::Config`](crate::models::cmanp::Config) |
//! | `nam_tm` | [`NamTmAe`](crate::models::nam::NamTmAe) | [`NamTmConfig`](crate::models::nam::NamTmConfig) |
//! | `nam_few_shot` | [`FewShot`](crate::models::nam::FewShot) | [`FewShotConfig`](crate::models::nam::FewShotConfig) |
//! | `nam_lsam` | [`LsamAe`](crate::models::nam::LsamAe) | [`LsamAeConfig`](crate::models::nam::LsamAeConfig) |
//! | `nam_transformer` | [`NamTransformer`](crate::models::nam::NamTransformer) | [`TransformerConfig`](crate::models::nam::TransformerConfig) |
//!
//! In the place of `config` there may be `upstream`, the settings of the authors' own code as `tools/convert.py` keeps
//! them: JSON of their `yaml` and, for `tnp_kr`, of what that leaves to the data, `n_values` and `groups`, such as
//! `{"yaml": {..}, "n_values": 1, "groups": [["s", 2]]}`. They are translated as by `from_dl4bi` or `from_authors` of
//! the configuration. (There are none of a `nam_transformer`.)
//!
//! Any other key is free but three: a saved posterior is under the key `posterior`; `domain` may say what
//! the training was like ([`Domain`](crate::models::Domain)), so that predictions say where they lie
//! outside of it; `fingerprint`, which every file written here has, is that of all else in the file, and
//! a file that has another by now is refused. Without metadata, a model's `new` takes the configuration
//! beside the parameters. In Python:
//!
//! ```python
//! from safetensors.torch import save_file
//! save_file(model.state_dict(), "model.safetensors", metadata={"model": "cmanp", "config": json.dumps(config)})
//! ```
//!
//! # Names that differ
//!
//! A model says which parameter it misses, and what is there that looks like it. Names are mended
//! here, before the model is built:
//!
//! ```
//! use wgpu_attention::checkpoint::Checkpoint;
//!
//! # fn main() -> wgpu_attention::Result<()> {
//! # let mut checkpoint = Checkpoint::default();
//! # checkpoint.insert("module.norm/weight", &[2], vec![1.0, 2.0])?;
//! # checkpoint.insert("optimizer", &[1], vec![0.0])?;
//! checkpoint.rename(|name| name.trim_start_matches("module.").replace('/', "."))?;
//! checkpoint.remove("optimizer"); // a model refuses what it does not use
//! assert_eq!(checkpoint.get("norm.weight"), Some((&[2][..], &[1.0, 2.0][..])));
//! # Ok(())
//! # }
//! ```

mod file;
mod fingerprint;
mod parameters;
mod random;
mod store;

pub use file::{MAX_BYTES, MAX_HEADER};
pub(crate) use fingerprint::Fingerprint;
pub use parameters::Parameters;
pub use store::Checkpoint;
