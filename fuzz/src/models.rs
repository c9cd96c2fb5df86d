//! Small networks of every kind, and what each says of the same few points.

use std::sync::LazyLock;

use wgpu_attention::{
    Device, Error, Result,
    checkpoint::Checkpoint,
    models::{cmanp, nam, tnp_kr},
};

/// Configurations as small as they can be, with the `model` of the metadata.
const CONFIGS: [(&str, &str, &str); 9] = [
    (
        "scan",
        "tnp_kr",
        r#"{"n_blocks": 1, "n_values": 1, "groups": [{"name": "s", "embed": false,
            "bias": {"kernel": "rbf", "distance": "euclidean", "n_basis": 2}}],
            "embed_all": {"dims": [8]}, "ffn": {"dims": [8]}, "head": {"dims": [2]},
            "attention": {"kind": "scan", "n_heads": 2, "proj_qs": {"dims": [8]}, "proj_ks": {"dims": [8]},
                "proj_vs": {"dims": [8]}, "proj_out": {"dims": [8]}},
            "output": {"kind": "gaussian", "min_std": 0.0}}"#,
    ),
    (
        "deep_kernel",
        "tnp_kr",
        r#"{"n_blocks": 1, "n_values": 1, "groups": [{"name": "s", "dim": 1, "embed": true}],
            "embed_all": {"dims": [8]}, "ffn": {"dims": [8]}, "head": {"dims": [2]},
            "attention": {"kind": "deep_kernel", "n_heads": 1, "proj_qks": {"dims": [8]}, "proj_vs": {"dims": [8]}},
            "output": {"kind": "gaussian", "min_std": 0.0}}"#,
    ),
    (
        "performer",
        "tnp_kr",
        r#"{"n_blocks": 1, "n_values": 1, "groups": [{"name": "s", "dim": 1, "embed": true}],
            "embed_all": {"dims": [8]}, "ffn": {"dims": [8]}, "head": {"dims": [2]},
            "attention": {"kind": "performer", "n_heads": 2, "n_features": 8, "proj_qs": {"dims": [8]},
                "proj_ks": {"dims": [8]}, "proj_vs": {"dims": [8]}, "proj_out": {"dims": [8]}},
            "output": {"kind": "gaussian", "min_std": 0.0}}"#,
    ),
    (
        "cmanp",
        "cmanp",
        r#"{"dim_x": 1, "dim_y": 1, "d_model": 8, "dim_feedforward": 8, "n_heads": 2, "n_latents": 3,
            "n_latents_per_layer": 3, "n_layers": 1, "emb_depth": 2, "bound_std": true}"#,
    ),
    (
        "few_shot",
        "nam_few_shot",
        r#"{"generator": "nam2attention", "classifier_type": "cosine", "n_base": 3, "n_novel": 1,
            "embedding": {"n_in": 4, "dims": [4]}}"#,
    ),
    ("turing", "nam_tm", r#"{"dim": 8, "vocab_size": 5, "n_heads": 2, "mem_size": 4, "tape_length": 6}"#),
    ("lsam", "nam_lsam", r#"{"vocab_size": 5, "d_model": 8, "nhead": 2, "dim_feedforward": 8}"#),
    (
        "transformer",
        "nam_transformer",
        r#"{"vocab": 5, "max_len": 8, "emb": 8, "qkv": 8, "mlp": 8, "heads": 2, "layers": 1, "classes": 3,
            "learn_pos": true}"#,
    ),
    (
        "transformer_of_sinusoids",
        "nam_transformer",
        r#"{"vocab": 5, "max_len": 8, "emb": 8, "qkv": 8, "mlp": 8, "heads": 2, "layers": 1, "classes": 3,
            "learn_pos": false}"#,
    ),
];

/// A network, and what it says.
pub struct Kind {
    /// What the files are called.
    pub name: &'static str,
    /// Its checkpoint, as a file.
    pub checkpoint: Vec<u8>,
    /// [`outputs`] of it.
    pub outputs: Vec<f32>,
}

/// Every kind of network, with random parameters.
pub fn kinds() -> &'static [Kind] {
    static KINDS: LazyLock<Vec<Kind>> = LazyLock::new(|| {
        let kind = |(seed, (name, model, config)): (u64, &(&'static str, &str, &str))| {
            let parameters = Checkpoint::random(seed, |checkpoint| {
                let mut named = checkpoint.clone();
                named.set_metadata("model", *model);
                named.set_metadata("config", *config);
                opened(&named)
            });
            let mut checkpoint = parameters.expect("a small network");
            checkpoint.set_metadata("model", *model);
            checkpoint.set_metadata("config", *config);
            let bytes = checkpoint.to_bytes().expect("a small network as a file");
            let outputs = outputs(&checkpoint).expect("a small network that predicts");
            Kind { name, checkpoint: bytes, outputs }
        };
        (0..).zip(&CONFIGS).map(kind).collect()
    });
    &KINDS
}

/// A posterior of a network, and what it predicts.
pub struct Saved {
    /// What the files are called.
    pub name: &'static str,
    /// The posterior, as a file.
    pub posterior: Vec<u8>,
    network: Checkpoint,
    /// What it predicts.
    pub outputs: Vec<f32>,
}

impl Saved {
    /// What a file says, read as a posterior of the same network.
    pub fn predict(&self, file: &Checkpoint) -> Result<Vec<f32>> {
        match opened(&self.network)? {
            Model::TnpKr(model) => restored_tnp_kr(&model.restore(file)?),
            Model::Cmanp(model) => restored_cmanp(&model.restore(file)?),
            _ => Ok(Vec::new()),
        }
    }
}

/// Posteriors of every network that has one.
pub fn saved() -> &'static [Saved] {
    static SAVED: LazyLock<Vec<Saved>> = LazyLock::new(|| {
        let saved = |kind: &Kind| {
            let network = Checkpoint::from_bytes(&kind.checkpoint)?;
            let (posterior, outputs) = match opened(&network)? {
                Model::TnpKr(model) => {
                    let posterior = model.condition(&observations())?;
                    (posterior.to_checkpoint()?, restored_tnp_kr(&posterior)?)
                }
                Model::Cmanp(model) => {
                    let posterior = model.condition(&cmanp::Context::new(&X, &Y))?;
                    (posterior.to_checkpoint()?, restored_cmanp(&posterior)?)
                }
                _ => return Ok(None),
            };
            Ok::<_, Error>(Some(Saved { name: kind.name, posterior: posterior.to_bytes()?, network, outputs }))
        };
        kinds().iter().filter_map(|kind| saved(kind).expect("a posterior of a small network")).collect()
    });
    &SAVED
}

const X: [f32; 3] = [-1.0, 0.25, 1.0];
const Y: [f32; 3] = [0.5, -0.25, 1.0];
const TARGETS: [f32; 2] = [0.0, 0.5];

fn observations() -> tnp_kr::Context<'static> {
    tnp_kr::Context::new(tnp_kr::Locations::space(1, &X), &Y)
}

fn restored_tnp_kr(posterior: &tnp_kr::Posterior) -> Result<Vec<f32>> {
    let prediction = posterior.predict(&tnp_kr::Locations::space(1, &TARGETS))?;
    Ok([prediction.mean(), prediction.std()].concat())
}

fn restored_cmanp(posterior: &cmanp::Posterior) -> Result<Vec<f32>> {
    let prediction = posterior.predict(&TARGETS)?;
    Ok([prediction.mean(), prediction.std()].concat())
}

enum Model {
    TnpKr(tnp_kr::TnpKr),
    Cmanp(cmanp::Cmanp),
    FewShot(nam::FewShot),
    Turing(nam::NamTmAe),
    Lsam(nam::LsamAe),
    Transformer(nam::NamTransformer),
}

/// The network of a checkpoint, whichever it is.
fn opened(checkpoint: &Checkpoint) -> Result<Model> {
    let device = Device::cpu();
    Ok(match checkpoint.metadata("model")? {
        "cmanp" => Model::Cmanp(cmanp::Cmanp::from_checkpoint(&device, checkpoint)?),
        "nam_few_shot" => Model::FewShot(nam::FewShot::from_checkpoint(&device, checkpoint)?),
        "nam_tm" => Model::Turing(nam::NamTmAe::from_checkpoint(&device, checkpoint)?),
        "nam_lsam" => Model::Lsam(nam::LsamAe::from_checkpoint(&device, checkpoint)?),
        "nam_transformer" => Model::Transformer(nam::NamTransformer::from_checkpoint(&device, checkpoint)?),
        _ => Model::TnpKr(tnp_kr::TnpKr::from_checkpoint(&device, checkpoint)?),
    })
}

/// What the network of a checkpoint says of a few points or tokens.
pub fn outputs(checkpoint: &Checkpoint) -> Result<Vec<f32>> {
    let tokens = [1, 0, 2];
    match opened(checkpoint)? {
        Model::TnpKr(model) => restored_tnp_kr(&model.condition(&observations())?),
        Model::Cmanp(model) => restored_cmanp(&model.condition(&cmanp::Context::new(&X, &Y))?),
        Model::FewShot(model) => {
            let supports = [0.0, 1.0, 2.0, -1.0];
            let episode = nam::Episode { batch: 1, n_novel: 1, supports: &supports, labels: &[1.0], base_ids: &[0, 2] };
            model.condition(&episode)?.scores(&model.features(1, &supports)?)?.read()
        }
        Model::Turing(model) => model.forward(1, &tokens)?.read(),
        Model::Lsam(model) => model.forward(1, &tokens)?.values.read(),
        Model::Transformer(model) => model.forward(1, &tokens)?.logits.read(),
    }
}
