//! Bad input is an error that names what was asked and what is allowed; never a panic, a hang
//! or a wrong number.

mod support;

use support::devices;
use wgpu_attention::{
    Device, Error, Mask, Tensor,
    checkpoint::Checkpoint,
    models::{
        nam::{
            Accuracy, AttentionGates, ClassifierType, EmbeddingConfig, Episode, FewShot, FewShotConfig, Generator,
            LsamAeConfig, NamAttention, NamTmAe, NamTmConfig, TransformerConfig, TuringOption,
        },
        tnp_kr::{Config, Context, Locations, TnpKr},
    },
    ops::{
        Activation, AttentionMemory, Bias, BiasTerm, Distance, Form, HeadMoves, Kernel, Linear, Lsam, LsamState, Lstm,
        Probabilities, ScanAttention, TapeInputs, TapeOptions, add, attention_memory, gate, layer_norm, linear, lsam,
        lstm, merge_attention, read_memory,
        scan_attention::{MAX_HEAD_DIM, scan_attention},
        tape, unit_norm, write_memory,
    },
};

fn zeros(device: &Device, shape: &[usize]) -> Tensor {
    let n = if shape.contains(&0) { 0 } else { shape.iter().product() };
    Tensor::new(device, shape, &vec![0.0; n]).unwrap()
}

/// Asserts that a call fails and that its message contains every one of some words.
#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Error>, words: &[&str]) {
    let message = result.expect_err("this should be refused").to_string();
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
}

#[test]
fn attention_shapes() {
    for (_, device) in devices() {
        let t = |shape: &[usize]| zeros(&device, shape);
        let attend = |q: &[usize], k: &[usize], v: &[usize], n_heads| {
            let options = ScanAttention { n_heads, ..Default::default() };
            scan_attention(&t(q), &t(k), &t(v), &options)
        };
        refused(attend(&[2, 3], &[2, 3], &[2, 3], None), &["q", "[2, 3]", "[batch, n_heads, length, head_dim]"]);
        refused(attend(&[1, 2, 3, 4], &[2, 3, 8], &[2, 3, 8], None), &["rank", "[2, 3, 8]"]);
        refused(attend(&[1, 2, 3, 4], &[5, 2, 3, 4], &[5, 2, 3, 4], None), &["batch", "[5, 2, 3, 4]"]);
        refused(attend(&[1, 2, 3, 4], &[1, 3, 3, 4], &[1, 3, 3, 4], None), &["heads", "[1, 3, 3, 4]"]);
        refused(attend(&[1, 2, 3, 4], &[1, 2, 5, 4], &[1, 2, 6, 4], None), &["same length", "[1, 2, 6, 4]"]);
        refused(attend(&[1, 2, 3, 4], &[1, 2, 5, 8], &[1, 2, 5, 4], None), &["same width", "[1, 2, 5, 8]"]);
        refused(attend(&[1, 2, 0, 4], &[1, 2, 5, 4], &[1, 2, 5, 4], None), &["nothing empty"]);
        refused(attend(&[1, 2, 3, 4], &[1, 2, 0, 4], &[1, 2, 0, 4], None), &["k", "nothing empty"]);
        refused(attend(&[1, 3, 8], &[1, 3, 8], &[1, 3, 8], None), &["n_heads", "positive"]);
        refused(attend(&[1, 3, 8], &[1, 3, 8], &[1, 3, 8], Some(0)), &["n_heads", "positive"]);
        refused(attend(&[1, 3, 8], &[1, 3, 8], &[1, 3, 8], Some(3)), &["multiple of n_heads = 3"]);
        refused(attend(&[1, 2, 3, 4], &[1, 2, 3, 4], &[1, 2, 3, 4], Some(4)), &["n_heads", "Some(4)"]);
        let wide = MAX_HEAD_DIM + 1;
        let shape = [1, 1, 1, wide];
        refused(attend(&shape, &shape, &shape, None), &["head_dim", &wide.to_string(), &MAX_HEAD_DIM.to_string()]);
    }
}

#[test]
fn attention_options() {
    for (_, device) in devices() {
        let t = zeros(&device, &[2, 2, 5, 4]);
        let attend = |options: ScanAttention<'_>| scan_attention(&t, &t, &t, &options);
        let mask = Mask::new(&device, &[5], &[true; 5]).unwrap();
        refused(attend(ScanAttention { key_mask: Some(&mask), ..Default::default() }), &["key_mask", "[5]", "[2, 5]"]);
        for n_splits in [0, 6] {
            refused(
                attend(ScanAttention { n_splits: Some(n_splits), ..Default::default() }),
                &["n_splits", &n_splits.to_string(), "1 to n_keys = 5"],
            );
        }
        refused(attend(ScanAttention { scale: Some(f32::NAN), ..Default::default() }), &["scale", "NaN"]);
        let matrix = zeros(&device, &[2, 2, 5, 4]);
        refused(
            attend(ScanAttention { bias: Some(Bias::matrix(&matrix)), ..Default::default() }),
            &["bias.matrix", "[2, 2, 5, 5]"],
        );
        let coords = zeros(&device, &[2, 5, 3]);
        let with = |q: &Tensor, k: &Tensor, term: BiasTerm| {
            attend(ScanAttention { bias: Some(Bias::new(q, k, &[term])), ..Default::default() })
        };
        let rbf = || BiasTerm::rbf(0..2, &[1.0; 2], &[1.0; 2]);
        refused(with(&zeros(&device, &[2, 4, 3]), &coords, rbf()), &["q_coords", "[2, 4, 3]", "[2, 5, 3]"]);
        refused(with(&coords, &zeros(&device, &[2, 5, 2]), rbf()), &["k_coords", "[2, 5, 2]"]);
        let columns = |range| BiasTerm::rbf(range, &[1.0; 2], &[1.0; 2]);
        refused(with(&coords, &coords, columns(2..4)), &["bias columns", "2..4", "0..3"]);
        refused(with(&coords, &coords, columns(1..1)), &["bias columns", "1..1"]);
        refused(
            with(&coords, &coords, BiasTerm::rbf(0..1, &[1.0; 3], &[1.0; 3])),
            &["bias parameter a", "3", "n_heads (2)"],
        );
        refused(with(&coords, &coords, BiasTerm::rbf(0..1, &[1.0; 4], &[1.0; 2])), &["bias parameter b", "2", "4"]);
        refused(with(&coords, &coords, BiasTerm::rbf(0..1, &[1.0; 2], &[f32::NAN; 2])), &["bias parameter b", "NaN"]);
        let term = |columns, distance| BiasTerm::new(columns, distance, Kernel::Scalar, &[1.0; 2], &[], &[]);
        refused(with(&coords, &coords, term(0..3, Distance::GreatCircle)), &["3 columns", "2 column"]);
        refused(with(&coords, &coords, term(0..2, Distance::CausalTime)), &["2 columns", "1 column"]);
        refused(
            attend(ScanAttention { bias: Some(Bias { terms: &[rbf()], ..Bias::default() }), ..Default::default() }),
            &["bias coordinates", "q_coords and k_coords"],
        );
        if device != Device::cpu() {
            let elsewhere = zeros(&Device::cpu(), &[2, 2, 5, 4]);
            refused(scan_attention(&t, &elsewhere, &t, &ScanAttention::default()), &["different devices", "CPU"]);
            // More parameters than a uniform holds.
            let many = vec![0.1; 2 * 2000];
            refused(with(&coords, &coords, BiasTerm::rbf(0..1, &many, &many)), &["parameters of one kernel"]);
        }
    }
}

#[test]
fn small_operations() {
    for (_, device) in devices() {
        let t = |shape: &[usize]| zeros(&device, shape);
        refused(Tensor::new(&device, &[2, 3], &[0.0; 5]), &["[2, 3]", "6", "5"]);
        refused(Tensor::new(&device, &[usize::MAX, 2], &[0.0; 5]), &["5"]);
        refused(t(&[2, 3]).reshape(&[4]), &["[4]", "6"]);
        let layer = |weight: &[usize], bias: Option<&[usize]>| Linear { weight: t(weight), bias: bias.map(t) };
        refused(linear(&t(&[2, 3]), &layer(&[4, 5], None), Activation::None, None), &["[2, 3]", "[4, 5]", "n_in"]);
        refused(linear(&t(&[2, 4]), &layer(&[4], None), Activation::None, None), &["weight", "[n_in, n_out]"]);
        refused(linear(&t(&[2, 4]), &layer(&[4, 5], Some(&[4])), Activation::None, None), &["bias", "[n_out]"]);
        refused(
            linear(&t(&[2, 4]), &layer(&[4, 5], None), Activation::None, Some(&t(&[2, 4]))),
            &["residual", "[2, 4]"],
        );
        let wide = layer(&[0, 1 << 20], None);
        refused(linear(&t(&[1 << 60, 0]), &wide, Activation::None, None), &["elements in the result"]);
        refused(linear(&t(&[1 << 40, 1 << 40, 0]), &wide, Activation::None, None), &["elements in the result"]);
        refused(layer_norm(&t(&[2, 0]), &t(&[0]), &t(&[0]), 1e-6, None), &["x", "width > 0"]);
        refused(layer_norm(&t(&[2, 3]), &t(&[3]), &t(&[2]), 1e-6, None), &["bias", "[2]"]);
        refused(layer_norm(&t(&[2, 3]), &t(&[3]), &t(&[3]), -1.0, None), &["epsilon", "-1"]);
        refused(layer_norm(&t(&[2, 3]), &t(&[3]), &t(&[3]), f32::NAN, None), &["epsilon", "NaN"]);
        refused(merge_attention(&t(&[0, 2]), &t(&[0])), &["log_sum_exp", "nothing empty"]);
        refused(merge_attention(&t(&[2, 3, 4]), &t(&[3, 2])), &["n_parts"]);
        refused(merge_attention(&t(&[2, 3, 4]), &t(&[2, 5])), &["multiple"]);
    }
}

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
        let two = AttentionMemory::new(2);
        let (tokens, memory) = ([1, 5, 8], t(&[1, 2, 4, 4]));
        refused(run(&[5, 8], &[5, 8], &[5, 8], &two), &["k", "[5, 8]", "2 heads"]);
        refused(run(&tokens, &tokens, &tokens, &AttentionMemory::new(0)), &["k", "0 heads"]);
        refused(run(&[1, 5, 7], &[1, 5, 7], &tokens, &two), &["k", "[1, 5, 7]", "2 heads"]);
        refused(run(&tokens, &tokens, &[1, 4, 8], &two), &["length", "[1, 4, 8]"]);
        refused(run(&[1, 4, 8], &tokens, &tokens, &two), &["query", "[1, 4, 8]"]);
        refused(run(&tokens, &tokens, &tokens, &two.memory(&t(&[1, 2, 4, 5]))), &["memory", "[1, 2, 4, 4]"]);
        refused(run(&tokens, &tokens, &tokens, &two.p_erase(&p(&[1, 5, 1]))), &["p_erase", "[1, 5, 2]"]);
        refused(run(&tokens, &tokens, &tokens, &two.p_write(&p(&[1, 4, 2]))), &["p_write", "[1, 5, 2]"]);
        refused(read_memory(&t(&[4, 4]), &t(&tokens), None), &["memory", "[4, 4]"]);
        refused(read_memory(&memory, &t(&[1, 5, 6]), None), &["memory", "[1, 2, 4, 3]"]);
        refused(read_memory(&memory, &t(&tokens), Some(&p(&[5, 2]))), &["p_read", "[1, 5, 2]"]);
        refused(write_memory(&memory, &t(&[2, 5, 8]), &t(&[2, 5, 8]), None, None), &["memory", "[2, 2, 4, 4]"]);
        refused(gate(&t(&[5, 7]), &p(&[5, 2])), &["[5, 7]", "n_heads * dim"]);
        refused(add(&t(&[5, 7]), &t(&[5]), 1.0), &["[5]", "last dimensions"]);
        refused(add(&t(&[5, 7]), &t(&[7]), f32::NAN), &["scale", "NaN"]);
        refused(unit_norm(&t(&[5, 0])), &["width > 0"]);
        // Nothing to do is no error.
        let nothing = run(&[1, 0, 8], &[1, 0, 8], &[1, 0, 8], &two.memory(&memory)).unwrap();
        assert_eq!(nothing.values.shape(), [1, 0, 8]);
        assert_eq!(nothing.memory.read().unwrap(), memory.read().unwrap());
        if device != Device::cpu() {
            let elsewhere = zeros(&Device::cpu(), &tokens);
            refused(attention_memory(&t(&tokens), &elsewhere, &t(&tokens), &two), &["different devices"]);
            let wide = [1, 2, attention_memory::MAX_HEAD_DIM + 1];
            refused(run(&wide, &wide, &wide, &AttentionMemory::new(1)), &["head_dim", "1025", "1024"]);
            let wide = [1, 2, 300];
            refused(run(&wide, &wide, &wide, &AttentionMemory::new(1).form(Form::Recurrent)), &["300", "256"]);
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
        refused(lsam(&t(&[1, 4, 3]), &cell(3, 4), None, false), &["[4, 16]", "multiple of n_heads"]);
        refused(lsam(&t(&[1, 4, 3]), &cell(0, 4), None, false), &["[4, 16]"]);
        refused(lsam(&t(&[4, 3]), &cell(2, 4), None, false), &["x", "[batch, n, n_in]"]);
        let state = LsamState { hidden: t(&[1, 4]), memory: t(&[1, 2, 2, 3]) };
        refused(lsam(&t(&[1, 4, 3]), &cell(2, 4), Some(&state), false), &["state.memory", "[1, 2, 2, 2]"]);

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

const CHECKPOINT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/checkpoints/gp_1d.safetensors");

#[test]
fn contexts_and_predictions() {
    for (_, device) in devices() {
        let model = TnpKr::open(&device, CHECKPOINT).unwrap();
        let at = |x| Locations::space(1, x);
        let x = [0.0, 1.0, 2.0];
        refused(model.condition(&Context::new(at(&[]), &[])), &["context is empty", "at least one"]);
        refused(model.condition(&Context::new(at(&x), &x).mask(&[false; 3])), &["context is empty", "batch element 0"]);
        refused(model.condition(&Context::new(at(&x), &x).mask(&[true; 2])), &["[1, 3]", "3", "2"]);
        refused(model.condition(&Context::new(at(&x[..2]), &x)), &["[1, 3, 1]", "2"]);
        refused(model.condition(&Context::new(at(&[0.0, f32::NAN, 2.0]), &x)), &["coordinates \"s\"[1]", "NaN"]);
        refused(model.condition(&Context::new(at(&x), &[0.0, f32::INFINITY, 2.0])), &["values of point 1", "inf"]);
        refused(model.condition(&Context::new(at(&x).time(&x), &x)), &["\"t\"", "[\"s\"]"]);
        refused(model.condition(&Context::new(Locations::default(), &x)), &["0 of name \"s\"", "once"]);
        refused(model.condition(&Context::new(at(&x).group("s", 1, &x), &x)), &["2 of name \"s\"", "once"]);
        refused(model.condition(&Context::new(Locations::space(0, &x), &x)), &["dim"]);
        refused(model.condition(&Context::new(at(&x).batch(0), &x)), &["batch"]);
        refused(model.condition(&Context::new(at(&x).batch(2), &x)), &["[2, 1, 1]"]);
        let posterior = model.condition(&Context::new(at(&x), &x)).unwrap();
        refused(posterior.predict(&at(&[f32::NAN])), &["coordinates \"s\"[0]", "NaN"]);
        refused(posterior.predict(&Locations::space(2, &[0.0, 0.0])), &["coordinate columns", "0..2", "0..1"]);
        refused(posterior.predict(&at(&x).batch(3)), &["batch", "3", "1"]);
        refused(posterior.predict_tiles(&at(&x), 0, |_, _| Ok(())), &["tile_size"]);
        assert_eq!(posterior.predict(&at(&[])).unwrap().shape, [1, 0, 1]);
        // A receiver may stop.
        let stop = || Error::Config { message: "enough".into() };
        refused(posterior.predict_tiles(&at(&x), 1, |_, _| Err(stop())), &["enough"]);
    }
}

/// A safetensors file with this header and this much data.
fn file(header: &str, n_bytes: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; n_bytes]].concat()
}

#[test]
fn hostile_files() {
    let good = std::fs::read(CHECKPOINT).unwrap();
    for length in [0, 1, 7, 8, 9, 100, 1000, good.len() / 2, good.len() - 1] {
        refused(Checkpoint::from_bytes(&good[..length]), &["not a readable checkpoint"]);
    }
    // A header of 4 GiB, of more than memory, and of the largest number.
    for length in [4u64 << 30, 1 << 50, u64::MAX] {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend([b'{'; 100]);
        refused(Checkpoint::from_bytes(&bytes), &["not a readable checkpoint"]);
    }
    let tensor = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    assert!(Checkpoint::from_bytes(&file(&tensor("F32", "[2]", "[0,8]"), 8)).is_ok());
    for (header, n_bytes) in [
        (tensor("F32", "[2]", "[0,8]"), 4),
        (tensor("F32", "[3]", "[0,8]"), 8),
        (tensor("F32", "[2]", "[8,0]"), 8),
        (tensor("F32", "[4611686018427387904,4]", "[0,8]"), 8),
        (tensor("F32", "[18446744073709551615]", "[0,8]"), 8),
        (tensor("I32", "[2]", "[0,8]"), 8),
        (tensor("F99", "[2]", "[0,8]"), 8),
        ("{".into(), 8),
        ("[]".into(), 0),
        ("\u{0}".into(), 0),
    ] {
        refused(Checkpoint::from_bytes(&file(&header, n_bytes)), &["not a readable checkpoint"]);
    }
    let mut nan = file(&tensor("F32", "[2]", "[0,8]"), 0);
    nan.extend([0.0f32.to_le_bytes(), f32::NAN.to_le_bytes()].concat());
    refused(Checkpoint::from_bytes(&nan), &["parameter a", "[1]", "NaN"]);
    refused(Checkpoint::open("does/not/exist.safetensors"), &["does/not/exist.safetensors"]);
}

#[test]
fn parameters_that_do_not_fit() {
    let device = Device::cpu();
    let checkpoint = Checkpoint::open(CHECKPOINT).unwrap();
    let config: Config = serde_json::from_str(checkpoint.metadata("config").unwrap()).unwrap();
    assert!(TnpKr::new(&device, &config, &checkpoint).is_ok());
    refused(checkpoint.metadata("colour"), &["colour", "config"]);

    let mut extra = checkpoint.clone();
    extra.insert("KRBlock_0.surprise", &[1], vec![0.0]).unwrap();
    refused(TnpKr::new(&device, &config, &extra), &["KRBlock_0.surprise", "1 parameter"]);
    refused(extra.insert("b", &[2], vec![0.0]), &["[2]", "1"]);
    let mut misshapen = checkpoint.clone();
    misshapen.insert("KRBlock_3.attn.attn.s_bias_b", &[4, 4], vec![0.0; 16]).unwrap();
    refused(TnpKr::new(&device, &config, &misshapen), &["KRBlock_3.attn.attn.s_bias_b", "[4, 4]", "[4, 5]"]);
    refused(TnpKr::new(&device, &config, &Checkpoint::default()), &["embed_obs.embedding", "missing", "[2, 4]"]);
    let deeper = Config { n_blocks: 7, ..config.clone() };
    refused(TnpKr::new(&device, &deeper, &checkpoint), &["KRBlock_6.", "missing"]);
    let shallower = Config { n_blocks: 5, ..config.clone() };
    refused(TnpKr::new(&device, &shallower, &checkpoint), &["KRBlock_5.", "does not use"]);

    refused(TnpKr::new(&device, &Config { n_blocks: 0, ..config.clone() }, &checkpoint), &["n_blocks", "1 or more"]);
    let mut other = config.clone();
    other.head.dims = vec![64, 3];
    refused(TnpKr::new(&device, &other, &checkpoint), &["head ends in width 3", "2"]);
    other = config.clone();
    other.ffn.dims = vec![];
    refused(TnpKr::new(&device, &other, &checkpoint), &["ffn.dims", "one or more"]);
    other = config.clone();
    other.groups[0].embed = true;
    refused(TnpKr::new(&device, &other, &checkpoint), &["\"s\"", "dim"]);
    other = config.clone();
    other.groups.push(other.groups[0].clone());
    refused(TnpKr::new(&device, &other, &checkpoint), &["\"s\"", "twice"]);
    for text in ["{}", "null", r#"{"n_blocks": -1}"#, &serde_json::to_string(&config).unwrap().replace("rbf", "cubic")]
    {
        assert!(serde_json::from_str::<Config>(text).is_err());
    }
}

#[test]
fn devices_that_do_not_exist() {
    refused(Device::by_name("no such adapter"), &["no such adapter", "Device::cpu()"]);
    assert_eq!(Device::by_name("CPU").unwrap(), Device::cpu());
}

/// On Vulkan, where the drivers that exist can be hidden: the test runs itself again without.
#[cfg(all(feature = "gpu", target_os = "linux"))]
#[test]
fn without_any_adapter() {
    const HIDDEN: &str = "WGPU_ATTENTION_TEST_WITHOUT_ADAPTERS";
    if std::env::var_os(HIDDEN).is_some() {
        assert!(Device::adapters().is_empty());
        refused(Device::gpu(), &["no GPU adapter found", "Device::cpu()"]);
        assert_eq!(Device::best(), Device::cpu());
        return;
    }
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "without_any_adapter"])
        .env(HIDDEN, "1")
        .env("VK_DRIVER_FILES", "/dev/null")
        .env("VK_ICD_FILENAMES", "/dev/null")
        .status();
    assert!(status.unwrap().success());
}
