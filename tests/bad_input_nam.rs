//! Bad input of the attention memories and of their networks, as in `bad_input.rs`.

mod support;

use support::{devices, refused, zeros};
use wgpu_attention::{
    Device, Error, Tensor,
    checkpoint::Checkpoint,
    models::nam::{
        Accuracy, AttentionGates, ClassifierType, EmbeddingConfig, Episode, FewShot, FewShotConfig, Generator,
        LsamAeConfig, NamAttention, NamTmAe, NamTmConfig, TransformerConfig, TuringOption,
    },
    ops::{
        Activation, AttentionMemory, Direction, Form, HeadMoves, Layout, Linear, Lsam, LsamState, Lstm, MemoryState,
        Probabilities, TapeInputs, TapeOptions, add, attention_memory, gate, lsam, lstm, tape, unit_norm,
    },
};

#[test]
fn memories() {
    for (_, device) in devices() {
        let t = |shape: &[usize]| zeros(&device, shape);
        let p = |shape: &[usize]| Probabilities::new(&device, shape, &vec![0.5; shape.iter().product()]).unwrap();
        for bad in [-0.1, 1.1, f32::NAN, f32::INFINITY] {
            refused(Probabilities::new(&device, &[1, 2, 1], &[0.5, bad]), &["probability", "at 1", "0 to 1"]);
        }
        let run = |q: &[usize], k: &[usize], v: &[usize], options: &AttentionMemory<'_>| {
            attention_memory(&t(q), &t(k), &t(v), options)
        };
        let two = AttentionMemory::new(Layout::Projected { n_heads: 2 });
        let m = |shape: &[usize]| MemoryState::new(t(shape));
        let (tokens, memory) = ([1, 5, 8], m(&[1, 2, 4, 4]));
        refused(run(&[5, 8], &[5, 8], &[5, 8], &two), &["k", "[5, 8]", "2 heads"]);
        refused(
            run(&tokens, &tokens, &tokens, &AttentionMemory::new(Layout::Projected { n_heads: 0 })),
            &["k", "0 heads"],
        );
        refused(run(&[1, 5, 7], &[1, 5, 7], &tokens, &two), &["k", "[1, 5, 7]", "2 heads"]);
        refused(run(&tokens, &tokens, &[1, 4, 8], &two), &["length", "[1, 4, 8]"]);
        refused(run(&[1, 4, 8], &tokens, &tokens, &two), &["query", "[1, 4, 8]"]);
        refused(run(&tokens, &tokens, &tokens, &two.state(&m(&[1, 2, 4, 5]))), &["memory", "[1, 2, 4, 4]"]);
        refused(run(&tokens, &tokens, &tokens, &two.p_erase(&p(&[1, 5, 1]))), &["p_erase", "[1, 5, 2]"]);
        refused(run(&tokens, &tokens, &tokens, &two.p_write(&p(&[1, 4, 2]))), &["p_write", "[1, 5, 2]"]);
        refused(two.read(&t(&tokens), &m(&[4, 4])), &["memory", "[4, 4]"]);
        refused(two.read(&t(&[1, 5, 6]), &memory), &["memory", "[1, 2, 4, 3]"]);
        refused(two.p_read(&p(&[5, 2])).read(&t(&tokens), &memory), &["p_read", "[1, 5, 2]"]);
        refused(two.write(Some(&memory), &t(&[2, 5, 8]), &t(&[2, 5, 8]), None), &["memory", "[2, 2, 4, 4]"]);
        refused(gate(&t(&[5, 7]), &p(&[5, 2])), &["[5, 7]", "n_heads * dim"]);
        refused(add(&t(&[5, 7]), &t(&[5]), 1.0), &["[5]", "last dimensions"]);
        refused(add(&t(&[5, 7]), &t(&[7]), f32::NAN), &["scale", "NaN"]);
        refused(unit_norm(&t(&[5, 0])), &["width > 0"]);
        // Nothing to do is no error.
        let nothing = run(&[1, 0, 8], &[1, 0, 8], &[1, 0, 8], &two.state(&memory)).unwrap();
        assert_eq!(nothing.values.shape(), [1, 0, 8]);
        assert_eq!(nothing.state.memory.read().unwrap(), memory.memory.read().unwrap());
        if device != Device::cpu() {
            let elsewhere = zeros(&Device::cpu(), &tokens);
            refused(attention_memory(&t(&tokens), &elsewhere, &t(&tokens), &two), &["different devices"]);
            let one = AttentionMemory::new(Layout::Projected { n_heads: 1 });
            let wide = [1, 2, attention_memory::MAX_HEAD_DIM + 1];
            refused(run(&wide, &wide, &wide, &one), &["head_dim", "1025", "1024"]);
            let wide = [1, 2, 300];
            refused(run(&wide, &wide, &wide, &one.form(Form::Recurrent)), &["300", "256"]);
        }
    }
}

#[test]
fn recurrences() {
    for (_, device) in devices() {
        let t = |shape: &[usize]| zeros(&device, shape);
        let dense = |n_in, n_out| Linear { weight: t(&[n_in, n_out]), bias: None };
        let layer = |hidden: &[usize], width| Lstm { input: dense(3, width), hidden: t(hidden) };
        refused(lstm(&t(&[1, 4, 3]), &layer(&[4], 16), None), &["hidden", "[4]"]);
        refused(lstm(&t(&[1, 4, 3]), &layer(&[4, 15], 15), None), &["[4, 15]", "4 hidden"]);
        refused(lstm(&t(&[4, 3]), &layer(&[4, 16], 16), None), &["x", "[batch, n, n_in]"]);
        refused(lstm(&t(&[1, 4, 3]), &layer(&[4, 16], 16), Some(&t(&[1, 4]))), &["state", "[1, 2, 4]"]);

        let cell = |n_heads, d_model: usize| Lsam { n_heads, input: dense(3, 16), hidden: t(&[d_model, 16]) };
        refused(lsam(&t(&[1, 4, 3]), &cell(3, 4), None, Direction::Forward), &["[4, 16]", "multiple of n_heads"]);
        refused(lsam(&t(&[1, 4, 3]), &cell(0, 4), None, Direction::Forward), &["[4, 16]"]);
        refused(lsam(&t(&[4, 3]), &cell(2, 4), None, Direction::Forward), &["x", "[batch, n, n_in]"]);
        let state = LsamState { hidden: t(&[1, 4]), memory: t(&[1, 2, 2, 3]) };
        refused(lsam(&t(&[1, 4, 3]), &cell(2, 4), Some(&state), Direction::Forward), &["state.memory", "[1, 2, 2, 2]"]);

        let value = t(&[1, 4, 6]);
        let run = |heads: HeadMoves, key: Option<&Tensor>, n_actions, n_tapes, tape_length, start: Option<&Tensor>| {
            let action = t(&[1, 4, n_actions]);
            let inputs = TapeInputs { value: &value, key, query: key, action: &action, n_tapes, tape_length };
            tape(&inputs, TapeOptions { heads, ..Default::default() }, start)
        };
        let (all, none) = (HeadMoves::All, HeadMoves::NoJump);
        refused(run(all, Some(&value), 22, 2, 0, None), &["tape_length", "0", "1 or more"]);
        refused(run(all, Some(&value), 22, 2, usize::MAX, None), &["numbers in all tapes"]);
        refused(run(all, Some(&value), 22, 4, 5, None), &["value", "4 tapes"]);
        refused(run(all, None, 22, 2, 5, None), &["key", "none"]);
        refused(run(none, Some(&value), 18, 2, 5, None), &["key", "do not jump"]);
        refused(run(all, Some(&value), 18, 2, 5, None), &["action", "[1, 4, 22]"]);
        refused(run(all, Some(&value), 22, 2, 5, Some(&t(&[1, 2, 4, 3]))), &["tape", "[1, 2, 5, 3]"]);
        if device != Device::cpu() {
            refused(run(all, Some(&value), 22, 2, 1025, None), &["slots", "1025", "1024"]);
            let wide = Lstm { input: dense(3, 8192), hidden: t(&[2048, 8192]) };
            refused(lstm(&t(&[1, 4, 3]), &wide, None), &["hidden", "2048", "1024"]);
        }
    }
}

/// Parameters of the shapes that are asked for, all zero.
fn parameters<T>(build: impl Fn(&Checkpoint) -> Result<T, Error>) -> T {
    let mut checkpoint = Checkpoint::default();
    loop {
        match build(&checkpoint) {
            Err(Error::MissingParameter { name, expected }) => {
                checkpoint.insert(&name, &expected, vec![0.0; expected.iter().product()]).unwrap();
            }
            other => return other.unwrap_or_else(|error| panic!("{error}")),
        }
    }
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
        let model = parameters(|checkpoint| NamTmAe::new(&device, &config, checkpoint));
        refused(model.forward(1, &[0, 5]), &["token", "5", "0 to 4"]);
        refused(model.forward(2, &[0, 1, 2]), &["tokens", "3 for a batch of 2"]);
        refused(model.forward(0, &[]), &["tokens", "batch of 0"]);
        assert_eq!(model.forward(2, &[0, 1, 2, 3]).unwrap().shape(), [2, 2, 5]);

        let attention =
            |d_model, n_heads| empty.load(&device, |p| NamAttention::load(p, d_model, n_heads, AttentionGates::Gated));
        refused(attention(8, 3), &["d_model 8", "nhead 3"]);
        refused(attention(8, 0), &["nhead is 0"]);
        let erasing =
            parameters(|checkpoint| checkpoint.load(&device, |p| NamAttention::load(p, 8, 2, AttentionGates::Erase)));
        refused(erasing.forward(&zeros(&device, &[1, 3, 8]), None), &["Erase", "causal"]);
        let lsam = LsamAeConfig { vocab_size: 5, d_model: 6, nhead: 3, dim_feedforward: 4 };
        refused(wgpu_attention::models::nam::LsamAe::new(&device, &lsam, &empty), &["embedding.weight"]);
        let transformer: TransformerConfig = serde_json::from_str(
            r#"{"vocab":5,"max_len":3,"emb":4,"qkv":6,"mlp":4,"heads":4,"layers":1,"classes":2,"learn_pos":false}"#,
        )
        .unwrap();
        refused(transformer.check(), &["qkv 6", "heads 4"]);
        let transformer = TransformerConfig { qkv: 8, ..transformer };
        let model = parameters(|c| wgpu_attention::models::nam::NamTransformer::new(&device, &transformer, c));
        refused(model.forward(1, &[0, 1, 2, 3]), &["max_len", "4", "3"]);
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
        let model = parameters(|checkpoint| FewShot::new(&device, &config, checkpoint));
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
    refused(Accuracy::new(&[0.0; 6], &[0, 4], 2), &["class", "4", "0 to 2"]);
    refused(Accuracy::new(&[0.0; 6], &[0, 1], 3), &["scores", "more than 3"]);
    let found = Accuracy::new(&[3.0, 1.0, 2.0, 0.0, 1.0, 2.0, 1.0, 0.0, 2.0], &[0, 2, 0], 2).unwrap();
    assert_eq!((found.base, found.novel, found.false_novel, found.false_base), (1.0, 1.0, 0.5, 0.0));
    assert!((found.both - 2.0 / 3.0).abs() < 1e-12);
}
