//! Networks with neural attention memory: their properties, with random parameters.

use crate::support::{Random, devices, error, parameters, sigmoid, wide};
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
        for (support, (after, before)) in rows.enumerate() {
            // The class that was written with it is the one that is read.
            let found = (0..6).max_by(|&a, &b| after[a].total_cmp(&after[b]));
            assert_eq!(found, Some(4 + support), "{name}: {after:?}");
            left += after[..4].iter().map(|x| x * x).sum::<f32>();
            there += before.iter().map(|x| x * x).sum::<f32>();
        }
        assert!(left < there, "{name}: {left} of {there} is left");
    }
}

/// The weights of base classes and novel ones, in float64, by SPEC: features of two episodes are the inputs themselves.
fn few_shot_oracle(config: &FewShotConfig, checkpoint: &Checkpoint, episode: &Episode<'_>) -> Vec<f64> {
    let Episode { batch, n_novel, supports, labels, base_ids } = *episode;
    let (n_features, generator) = (config.embedding.n_in, config.generator);
    let is_cosine = config.classifier_type == ClassifierType::Cosine;
    let numbers = |name: &str| wide(checkpoint.get(name).unwrap_or_else(|| panic!("{name}")).1);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let unit = |x: &[f64]| -> Vec<f64> { x.iter().map(|a| a / dot(x, x).sqrt()).collect() };
    let dense = |name: &str, x: &[f64]| -> Vec<f64> {
        let (weight, bias) = (numbers(&format!("{name}.weight")), numbers(&format!("{name}.bias")));
        weight.chunks(x.len()).zip(bias).map(|(row, bias)| dot(row, x) + bias).collect()
    };
    let of_class = |table: &[f64], id: usize| table[id * n_features..][..n_features].to_vec();
    let (n_base, n) = (base_ids.len() / batch, labels.len() / (batch * n_novel));
    let (table, mut weights, mut erased) = (numbers("weight_base"), Vec::new(), vec![0.0; n_base * n_features]);
    for b in 0..batch {
        let ids = &base_ids[b * n_base..][..n_base];
        let base: Vec<Vec<f64>> = ids.iter().map(|id| of_class(&table, *id)).collect();
        let units: Vec<Vec<f64>> = base.iter().map(|row| unit(row)).collect();
        let given = wide(&supports[b * n * n_features..][..n * n_features]);
        let features = given.chunks(n_features).map(|f| if is_cosine { unit(f) } else { f.to_vec() });
        let features: Vec<Vec<f64>> = features.collect();
        let class_of = |i: usize| (0..n_novel).find(|c| labels[(b * n + i) * n_novel + c] == 1.0).unwrap();
        let is_nam2 = matches!(generator, Generator::Nam2 | Generator::Nam2Attention);
        let start = if generator == Generator::Nam2 || is_nam2 && is_cosine { &units } else { &base };
        let eraser = |f: &Vec<f64>| {
            let hidden: Vec<f64> = dense("namblock.eraser.0", f).iter().map(|x| x.max(0.0)).collect();
            sigmoid(dense("namblock.eraser.2", &hidden)[0])
        };
        let gates: Vec<f64> = match is_nam2 {
            true => features.iter().map(eraser).collect(),
            false if generator.has_erase_logits() => {
                numbers("namblock.erase_logits").into_iter().map(sigmoid).collect()
            }
            false => Vec::new(),
        };
        let mut novel = vec![vec![0.0; n_features]; n_novel];
        for (i, f) in features.iter().enumerate() {
            let (class, key) = (class_of(i), unit(f));
            let size = (0..n).filter(|j| class_of(*j) == class).count() as f64;
            let attended: Option<Vec<f64>> = generator.attends().then(|| {
                let (query, keys) = (unit(&dense("attblock.queryLayer", f)), numbers("attblock.wkeys"));
                let logit = |id: &usize| numbers("attblock.scale_att")[0] * dot(&query, &unit(&of_class(&keys, *id)));
                let logits: Vec<f64> = ids.iter().map(logit).collect();
                let sum: f64 = logits.iter().map(|x| x.exp()).sum();
                let values = if is_cosine { &units } else { &base };
                let column = |d: usize| logits.iter().zip(values).map(|(x, v)| x.exp() / sum * v[d]).sum();
                (0..n_features).map(column).collect()
            });
            let averaged = generator.attends() || generator == Generator::FeatureAveraging;
            let channels = |name: &str, is_there: bool| if is_there { numbers(name) } else { vec![1.0; n_features] };
            let of_mean = channels("wnLayerFavg.weight", averaged);
            let of_attended = channels("wnLayerWatt.weight", generator.attends());
            for d in 0..n_features {
                let mean = if is_nam2 { gates[i] * key[d] } else { f[d] / size };
                novel[class][d] += of_mean[d] * mean;
                if let Some(attended) = &attended {
                    novel[class][d] += of_attended[d] * attended[d] / size;
                }
            }
            if generator.has_eraser() || generator.has_erase_logits() {
                for (c, row) in start.iter().enumerate() {
                    let known = dot(&key, row) * gates[if is_nam2 { i } else { c }] / batch as f64;
                    (0..n_features).for_each(|d| erased[c * n_features + d] += known * key[d]);
                }
            }
        }
        weights.extend(start.iter().chain(&novel).flatten().copied());
    }
    for element in weights.chunks_mut((n_base + n_novel) * n_features) {
        element.iter_mut().zip(&erased).for_each(|(w, e)| *w -= e);
    }
    weights
}

/// The widths of the authors' networks are 1,600 and 3,200, beyond the heads of attention.
#[test]
fn every_generator_at_every_width() {
    use Generator::*;
    for (width, generators) in [
        (6, &[None, FeatureAveraging, AttentionBased, Nam, Nam2, NamAttention, Nam2Attention][..]),
        (300, &[AttentionBased]),
        (1100, &[NamAttention, Nam2Attention]),
        (3200, &[Nam]),
    ] {
        for (&generator, classifier_type) in generators
            .iter()
            .flat_map(|generator| [ClassifierType::Cosine, ClassifierType::DotProduct].map(|t| (generator, t)))
        {
            let embedding = EmbeddingConfig { n_in: width, dims: vec![], activation: Activation::Relu };
            let config = FewShotConfig { generator, classifier_type, n_base: 5, n_novel: 2, embedding };
            let supports = Random::new(9).numbers(2 * 3 * width);
            let labels = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0];
            let base_ids = [3, 0, 4, 4, 1, 2];
            let episode = Episode { batch: 2, n_novel: 2, supports: &supports, labels: &labels, base_ids: &base_ids };
            for (name, device) in devices() {
                let (model, checkpoint) = random(5, |c| FewShot::new(&device, &config, c));
                let found = model.condition(&episode).unwrap().weights.read().unwrap();
                let expected = few_shot_oracle(&config, &checkpoint, &episode);
                let largest = expected.iter().fold(0.0f64, |most, x| most.max(x.abs()));
                // Sums of as many products as there are features, whose errors grow with the root of their number.
                let bound = 5e-7 * (1.0 + (width as f64).sqrt() / 8.0) * largest;
                let off = found.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
                assert!(
                    found.len() == expected.len() && off <= bound,
                    "{name}: {generator:?} {width}: {off:e} of {bound:e}"
                );
            }
        }
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
