//! Networks with neural attention memory: their properties, with random parameters.

use crate::support::{Random, devices, error, parameters, wide};
use wgpu_attention::{
    Device, Error, Tensor,
    checkpoint::Checkpoint,
    models::nam::{
        AttentionGates, Classifier, ClassifierType, EmbeddingConfig, Episode, FewShot, FewShotConfig, Generator,
        NamAttention, NamTmAe, NamTmConfig, TuringOption, TuringState,
    },
    ops::{Activation, Form, Probabilities, TapeState, unit_norm},
};

fn random<T>(seed: u64, build: impl Fn(&Checkpoint) -> Result<T, Error>) -> (T, Checkpoint) {
    let mut random = Random::new(seed);
    parameters(build, |_, shape| random.layer(shape, 1.5))
}

const OPTIONS: [TuringOption; 6] = [
    TuringOption::Default,
    TuringOption::NoJump,
    TuringOption::OnlyJump,
    TuringOption::NoRwProb,
    TuringOption::NoErase,
    TuringOption::Paper,
];

#[test]
fn causal_attention_ends_as_bidirectional_attention() {
    let (d_model, n_heads, n) = (24, 3, 70);
    for (name, device) in devices() {
        for gates in [AttentionGates::Ungated, AttentionGates::Gated] {
            let build =
                |checkpoint: &Checkpoint| checkpoint.load(&device, |p| NamAttention::load(p, d_model, n_heads, gates));
            let (attention, _) = random(1, build);
            let x = Tensor::new(&device, &[2, n, d_model], &Random::new(2).numbers(2 * n * d_model)).unwrap();
            let whole = attention.forward(&x, None).unwrap();
            for form in [Form::Recurrent, Form::Chunked] {
                let causal = attention.causal(&x, None, Some(form)).unwrap();
                let last = |x: &Tensor| -> Vec<f32> {
                    x.read().unwrap().chunks(n * d_model).flat_map(|x| x[(n - 1) * d_model..].to_vec()).collect()
                };
                // The last token has seen the whole sequence. Sums of 70 products in another order.
                let found = error(&last(&causal.values), &wide(&last(&whole.values)));
                assert!(found < 1e-5, "{name} {gates:?} {form:?}: {found:.2e}");
                let memory = error(&causal.memory.read().unwrap(), &wide(&whole.memory.read().unwrap()));
                assert!(memory < 1e-5, "{name} {gates:?} {form:?}: memory {memory:.2e}");
            }
        }
    }
}

#[test]
fn what_comes_later_does_not_matter() {
    let config = |option| NamTmConfig { dim: 12, vocab_size: 7, n_heads: 3, mem_size: 4, tape_length: 5, option };
    for (name, device) in devices() {
        for option in OPTIONS {
            let config = config(option);
            let (model, checkpoint) = random(3, |c| NamTmAe::new(&device, &config, c));
            let long = model.forward(1, &[1, 5, 2, 6, 3, 0]).unwrap().read().unwrap();
            let short = model.forward(1, &[1, 5, 2]).unwrap().read().unwrap();
            for (a, b) in short.iter().zip(&long) {
                assert!((a - b).abs() < 1e-5, "{name} {option:?}: {a} {b}");
            }
            // A batch is as many sequences apart.
            let both = model.forward(2, &[1, 5, 2, 4, 4, 0]).unwrap().read().unwrap();
            assert!(both.iter().zip(&short).all(|(a, b)| (a - b).abs() < 1e-5), "{name} {option:?}");
            // And on the CPU it is the same network.
            let on_cpu = NamTmAe::new(&Device::cpu(), &config, &checkpoint).unwrap();
            let error = error(&long, &wide(&on_cpu.forward(1, &[1, 5, 2, 6, 3, 0]).unwrap().read().unwrap()));
            assert!(error < 2e-5, "{name} {option:?}: {error:.2e}");
        }
    }
}

/// A machine kept its tapes alone: keys, heads and the controller began afresh.
#[test]
fn c5_a_turing_machine_goes_on_from_its_state() {
    let tokens = [1, 5, 2, 6, 3, 0, /* the second of the batch */ 4, 4, 0, 1, 2, 5];
    for (name, device) in devices() {
        for option in OPTIONS {
            let config = NamTmConfig { dim: 12, vocab_size: 7, n_heads: 3, mem_size: 4, tape_length: 5, option };
            let (model, _) = random(3, |c| NamTmAe::new(&device, &config, c));
            let whole = model.forward(2, &tokens).unwrap().read().unwrap();
            let (mut state, mut logits): (Option<TuringState>, _) = (None, vec![vec![]; 2]);
            for steps in [0..1, 1..4, 4..6] {
                let part: Vec<usize> = tokens.chunks(6).flat_map(|tokens| &tokens[steps.clone()]).copied().collect();
                let (read, after) = model.run(2, &part, state.as_ref()).unwrap();
                let read = read.read().unwrap();
                read.chunks(read.len() / 2).zip(&mut logits).for_each(|(read, logits)| logits.extend_from_slice(read));
                // By way of the host.
                let again = |x: &Tensor| Tensor::new(&device, x.shape(), &x.read().unwrap()).unwrap();
                let TapeState { tape, keys, heads } = &after.tape;
                let tape =
                    TapeState { tape: again(tape), keys: keys.as_ref().map(again), heads: heads.as_ref().map(again) };
                state = Some(TuringState { controller: after.controller.as_ref().map(again), tape });
            }
            // The same steps; products of matrices have other shapes.
            let e = error(&logits.concat(), &wide(&whole));
            assert!(e < 1e-5, "{name} {option:?}: {e:.2e}");
        }
    }
}

#[test]
fn checkpoints_open_with_their_metadata() {
    let device = Device::cpu();
    let config =
        NamTmConfig { dim: 4, vocab_size: 3, n_heads: 1, mem_size: 4, tape_length: 2, option: TuringOption::NoErase };
    let (_, mut checkpoint) = random(4, |c| NamTmAe::new(&device, &config, c));
    let path = std::env::temp_dir().join(format!("nam_tm_{}.safetensors", std::process::id()));
    checkpoint.set_metadata("config", serde_json::to_string(&config).unwrap());
    for (model, is_right) in [("nam_tm", true), ("tnp_kr", false)] {
        checkpoint.set_metadata("model", model);
        checkpoint.save(&path).unwrap();
        assert_eq!(NamTmAe::open(&device, &path).is_ok(), is_right);
        let error = FewShot::open(&device, &path).unwrap_err().to_string();
        assert!(error.contains(model) && error.contains("nam_few_shot"), "{error}");
    }
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn written_classes_are_found_and_erased_from_the_base() {
    let config = FewShotConfig {
        generator: Generator::Nam2,
        classifier_type: ClassifierType::Cosine,
        n_base: 4,
        n_novel: 2,
        embedding: EmbeddingConfig { n_in: 6, dims: vec![9, 8], activation: Activation::Relu },
    };
    for (name, device) in devices() {
        let (model, _) = random(5, |c| FewShot::new(&device, &config, c));
        let supports = Random::new(6).numbers(2 * 6);
        let labels = [1.0, 0.0, 0.0, 1.0];
        let base_ids = [0, 1, 2, 3];
        let episode = Episode { batch: 1, n_novel: 2, supports: &supports, labels: &labels, base_ids: &base_ids };
        let classifier = model.condition(&episode).unwrap();
        let features = model.features(1, &supports).unwrap();
        let products = |classifier: &Classifier| {
            let classifier =
                Classifier { classifier_type: ClassifierType::DotProduct, scale: 1.0, bias: 0.0, ..classifier.clone() };
            classifier.scores(&unit_norm(&features).unwrap()).unwrap().read().unwrap()
        };
        let (after, before) = (products(&classifier), model.base(1, &base_ids).unwrap());
        let base = unit_norm(&before.weights).unwrap();
        let before = products(&Classifier { weights: base, ..before });
        // A support written with p is erased with p: of one support alone, 1 - p of it is left.
        // With two that are not orthogonal it is less exact, but never more than there was.
        let rows = after.chunks(6).zip(before.chunks(4));
        let (mut left, mut there) = (0.0, 0.0);
        for (after, before) in rows {
            left += after[..4].iter().map(|x| x * x).sum::<f32>();
            there += before.iter().map(|x| x * x).sum::<f32>();
        }
        assert!(left < there, "{name}: {left} of {there} is left");
    }
}

#[test]
fn whole_writes_replace_a_class() {
    for (_, device) in devices() {
        let weights = Tensor::new(&device, &[1, 2, 3], &[1.0, 0.0, 0.0, 0.0, 0.0, 0.0]).unwrap();
        let start = Classifier { weights, scale: 1.0, bias: 0.0, classifier_type: ClassifierType::Cosine };
        let support = Tensor::new(&device, &[1, 1, 3], &[3.0, 0.0, 4.0]).unwrap();
        let labels = [0.0, 1.0];
        let one = Probabilities::new(&device, &[1, 1, 1], &[1.0]).unwrap();
        let written = start.write(&support, &labels, Some(&one), Some(&one)).unwrap();
        for labels in [[7.0, f32::NAN], [1.0, 1.0], [0.0, 0.0]] {
            let message = start.write(&support, &labels, None, None).unwrap_err().to_string();
            assert!(message.contains("one-hot"), "{message}");
        }
        let found = written.weights.read().unwrap();
        let truth = [1.0 - 0.36, 0.0, -0.48, 0.6, 0.0, 0.8];
        assert!(found.iter().zip(truth).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}");
    }
}
