//! Bad input of the networks with attention memories.

use crate::support::{devices, parameters, refused, zeros};
use wgpu_attention::{
    Device, Error,
    checkpoint::Checkpoint,
    models::nam::{
        Accuracy, AttentionGates, ClassifierType, EmbeddingConfig, Episode, FewShot, FewShotConfig, Generator,
        LsamAeConfig, NamAttention, NamTmAe, NamTmConfig, TransformerConfig, TuringOption,
    },
    ops::Activation,
};

/// A network whose parameters are all zero.
fn zero<T>(build: impl Fn(&Checkpoint) -> Result<T, Error>) -> T {
    parameters(build, |_, shape| vec![0.0; shape.iter().product()]).0
}

#[test]
fn memory_networks() {
    for (_, device) in devices() {
        let config = NamTmConfig {
            dim: 8,
            vocab_size: 5,
            n_heads: 2,
            mem_size: 4,
            tape_length: 3,
            option: TuringOption::NoJump,
        };
        let empty = Checkpoint::default();
        let build = |config: &NamTmConfig| NamTmAe::new(&device, config, &empty);
        refused(build(&NamTmConfig { tape_length: 0, ..config.clone() }), &["tape_length is 0"]);
        refused(build(&NamTmConfig { n_heads: 0, ..config.clone() }), &["n_heads is 0"]);
        refused(
            build(&NamTmConfig { mem_size: 3, ..config.clone() }),
            &["mem_size 3", "n_heads 2", "dim 8", "no_jump"],
        );
        refused(build(&config), &["embedding.0.weight", "missing"]);
        let model = zero(|checkpoint| NamTmAe::new(&device, &config, checkpoint));
        refused(model.forward(1, &[0, 5]), &["token", "5", "0 to 4"]);
        refused(model.forward(2, &[0, 1, 2]), &["tokens", "3 for a batch of 2"]);
        refused(model.forward(0, &[]), &["tokens", "batch of 0"]);
        assert_eq!(model.forward(2, &[0, 1, 2, 3]).unwrap().shape(), [2, 2, 5]);

        let attention =
            |d_model, n_heads| empty.load(&device, |p| NamAttention::load(p, d_model, n_heads, AttentionGates::Gated));
        refused(attention(8, 3), &["d_model is 8", "n_heads 3"]);
        refused(attention(8, 0), &["n_heads is 0"]);
        let erasing =
            zero(|checkpoint| checkpoint.load(&device, |p| NamAttention::load(p, 8, 2, AttentionGates::Erase)));
        refused(erasing.forward(&zeros(&device, &[1, 3, 8]), None), &["Erase", "causal"]);
        let lsam = LsamAeConfig { vocab_size: 5, d_model: 6, n_heads: 2, dim_feedforward: 4 };
        refused(wgpu_attention::models::nam::LsamAe::new(&device, &lsam, &empty), &["embedding.weight"]);
        let transformer: TransformerConfig = serde_json::from_str(
            r#"{"vocab":5,"max_len":3,"emb":4,"qkv":6,"mlp":4,"heads":4,"layers":1,"classes":2,"learn_pos":false}"#,
        )
        .unwrap();
        refused(transformer.check(), &["qkv is 6", "heads 4"]);
        let transformer = TransformerConfig { qkv: 8, ..transformer };
        let model = zero(|c| wgpu_attention::models::nam::NamTransformer::new(&device, &transformer, c));
        refused(model.forward(1, &[0, 1, 2, 3]), &["max_len", "4", "3"]);
        // Its sinusoids had 4 TiB.
        let vast = r#"{"vocab":1,"max_len":1048576,"emb":1048576,"qkv":1,"mlp":1,"heads":1,"layers":1,"classes":1,
            "learn_pos":false}"#;
        let vast = serde_json::from_str(vast).unwrap();
        refused(wgpu_attention::models::nam::NamTransformer::new(&device, &vast, &empty), &["missing"]);
    }
    for text in ["{}", r#"{"dim":8,"vocab_size":5,"n_heads":2,"mem_size":4,"tape_length":3,"option":"fly"}"#] {
        assert!(serde_json::from_str::<NamTmConfig>(text).is_err());
    }
}

#[test]
fn episodes() {
    for (_, device) in devices() {
        let config = FewShotConfig {
            generator: Generator::Nam2,
            classifier_type: ClassifierType::Cosine,
            n_base: 3,
            n_novel: 2,
            embedding: EmbeddingConfig { n_in: 4, dims: vec![], activation: Activation::Relu },
        };
        let model = zero(|checkpoint| FewShot::new(&device, &config, checkpoint));
        let run = |labels: &[f32], supports: &[f32], base_ids: &[usize]| {
            model.condition(&Episode { batch: 1, n_novel: 2, supports, labels, base_ids })
        };
        let (good, supports, ids) = ([1.0, 0.0, 0.0, 1.0], [0.5; 8], [0, 2]);
        assert_eq!(run(&good, &supports, &ids).unwrap().weights.shape(), [1, 4, 4]);
        for bad in [[1.0, 1.0, 0.0, 1.0], [0.5, 0.5, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0], [f32::NAN, 0.0, 0.0, 1.0]] {
            refused(run(&bad, &supports, &ids), &["labels", "row 0", "one-hot"]);
        }
        refused(run(&[1.0, 0.0, 1.0, 0.0], &supports, &ids), &["no support of class 1"]);
        refused(run(&good[..3], &supports, &ids), &["labels", "3 numbers"]);
        refused(run(&good, &supports[..7], &ids), &["7"]);
        refused(run(&good, &supports[..4], &ids), &["8", "4"]);
        refused(run(&good, &supports, &[0, 3]), &["base_ids", "3", "0 to 2"]);
        refused(run(&good, &supports, &[]), &["base_ids", "0 for a batch of 1"]);
        refused(
            FewShot::new(&device, &FewShotConfig { n_base: 0, ..config.clone() }, &Checkpoint::default()),
            &["n_base"],
        );
    }
    // A logit for each support and base class: 4 TiB, by which the process ended.
    let n = 1 << 20;
    let config = FewShotConfig {
        generator: Generator::Nam,
        classifier_type: ClassifierType::Cosine,
        n_base: n,
        n_novel: 1,
        embedding: EmbeddingConfig { n_in: 1, dims: vec![], activation: Activation::Relu },
    };
    let model = zero(|checkpoint| FewShot::new(&Device::cpu(), &config, checkpoint));
    let (ones, base_ids) = (vec![1.0; n], (0..n).collect::<Vec<_>>());
    let vast = Episode { batch: 1, n_novel: 1, supports: &ones, labels: &ones, base_ids: &base_ids };
    refused(model.condition(&vast), &["memory"]);
    refused(Accuracy::new(&[0.0; 6], &[0, 4], 2), &["class", "4", "0 to 2"]);
    refused(Accuracy::new(&[0.0; 6], &[0, 1], 3), &["scores", "more than 3"]);
    let found = Accuracy::new(&[3.0, 1.0, 2.0, 0.0, 1.0, 2.0, 1.0, 0.0, 2.0], &[0, 2, 0], 2).unwrap();
    assert_eq!((found.base, found.novel, found.false_novel, found.false_base), (1.0, 1.0, 0.5, 0.0));
    assert!((found.both - 2.0 / 3.0).abs() < 1e-12);
}
