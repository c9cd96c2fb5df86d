//! Neural attention memory: its recurrences and networks against float64 and against each other.

mod support;

use proptest::prelude::*;
use support::{Random, bound, devices, error, poison};
use wgpu_attention::{
    Device, Error, Tensor,
    checkpoint::Checkpoint,
    models::nam::{
        AttentionGates, Classifier, ClassifierType, EmbeddingConfig, Episode, FewShot, FewShotConfig, Generator,
        NamAttention, NamTmAe, NamTmConfig, TuringOption,
    },
    ops::{
        Activation, Direction, Form, HeadMoves, KeyErase, Linear, Lsam, LsamState, Lstm, Probabilities, TapeErase,
        TapeInputs, TapeOptions, TapeProbabilities, lsam, lstm, tape, unit_norm,
    },
};

/// Random parameters of the shapes that are asked for.
fn parameters<T>(seed: u64, build: impl Fn(&Checkpoint) -> Result<T, Error>) -> (T, Checkpoint) {
    let mut random = Random::new(seed);
    let mut checkpoint = Checkpoint::default();
    loop {
        match build(&checkpoint) {
            Err(Error::MissingParameter { name, expected }) => {
                let n: usize = expected.iter().product();
                let fan_in = expected.last().copied().unwrap_or(1) as f32;
                checkpoint.insert(&name, &expected, random.scaled(n, 1.5 / fan_in.sqrt())).unwrap();
            }
            other => return (other.unwrap_or_else(|error| panic!("{error}")), checkpoint),
        }
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// `x W` for `W [n_in, n_out]`.
fn product(x: &[f64], weight: &[f32]) -> Vec<f64> {
    let n_out = weight.len() / x.len();
    (0..n_out).map(|o| x.iter().enumerate().map(|(i, x)| x * f64::from(weight[i * n_out + o])).sum()).collect()
}

#[test]
fn lstm_agrees_with_float64() {
    for (name, device) in devices() {
        for [batch, n, n_in, hidden] in [[1, 1, 1, 1], [2, 30, 5, 7], [7, 9, 3, 70], [1, 100, 16, 33]] {
            let mut random = Random::new((batch * n) as u64);
            let width = 4 * hidden;
            let x = random.numbers(batch * n * n_in);
            let (w_x, bias) = (random.scaled(n_in * width, 0.8), random.numbers(width));
            let w_h = random.scaled(hidden * width, 1.5 / (hidden as f32).sqrt());
            let start = random.numbers(batch * 2 * hidden);
            let (mut truth, mut end) = (Vec::new(), wide(&start));
            for (b, state) in end.chunks_mut(2 * hidden).enumerate() {
                let (h, c) = state.split_at_mut(hidden);
                for x in x[b * n * n_in..][..n * n_in].chunks(n_in) {
                    let (from_x, from_h) = (product(&wide(x), &w_x), product(h, &w_h));
                    let z: Vec<f64> = (0..width).map(|j| from_x[j] + from_h[j] + f64::from(bias[j])).collect();
                    for j in 0..hidden {
                        c[j] = sigmoid(z[hidden + j]) * c[j] + sigmoid(z[j]) * z[2 * hidden + j].tanh();
                        h[j] = sigmoid(z[3 * hidden + j]) * c[j].tanh();
                    }
                    truth.extend_from_slice(h);
                }
            }
            let tensor = |shape: &[usize], data: &[f32]| Tensor::new(&device, shape, data).unwrap();
            let layer = Lstm {
                input: Linear { weight: tensor(&[n_in, width], &w_x), bias: Some(tensor(&[width], &bias)) },
                hidden: tensor(&[hidden, width], &w_h),
            };
            let start = tensor(&[batch, 2, hidden], &start);
            poison(&device, &[truth.len(), end.len()]);
            let output = lstm(&tensor(&[batch, n, n_in], &x), &layer, Some(&start)).unwrap();
            for (found, truth) in [(&output.values, &truth), (&output.state, &end)] {
                // Errors of a step are damped by the gates: those of sums of up to 70 products.
                let error = error(&found.read().unwrap(), truth);
                assert!(error <= bound(&device, 1e-6), "{name}: {batch} {n} {n_in} {hidden} off by {error:.2e}");
            }
        }
    }
}

#[test]
fn lsam_agrees_with_float64() {
    for (name, device) in devices() {
        for [batch, n, n_in, n_heads, dim] in [[1, 1, 1, 1, 1], [2, 20, 5, 3, 7], [8, 10, 4, 1, 70], [1, 65, 16, 4, 8]]
        {
            let mut random = Random::new((batch * n) as u64);
            let d_model = n_heads * dim;
            let width = 3 * d_model + 2 * n_heads;
            let x = random.numbers(batch * n * n_in);
            let (w_x, bias) = (random.scaled(n_in * width, 0.8), random.numbers(width));
            let w_h = random.scaled(d_model * width, 1.5 / (d_model as f32).sqrt());
            let (h, m) = (random.numbers(batch * d_model), random.numbers(batch * d_model * dim));
            for reverse in [false, true] {
                let (mut hidden, mut memory) = (wide(&h), wide(&m));
                let mut truth = vec![0.0; batch * n * d_model];
                for b in 0..batch {
                    let h = &mut hidden[b * d_model..][..d_model];
                    for s in 0..n {
                        let row = b * n + if reverse { n - 1 - s } else { s };
                        let (from_x, from_h) = (product(&wide(&x[row * n_in..][..n_in]), &w_x), product(h, &w_h));
                        let z: Vec<f64> = (0..width).map(|j| from_x[j] + from_h[j] + f64::from(bias[j])).collect();
                        for head in 0..n_heads {
                            let part = |i: usize| &z[i * d_model + head * dim..][..dim];
                            let unit = |x: &[f64]| -> Vec<f64> {
                                let length = x.iter().map(|x| x * x).sum::<f64>().sqrt();
                                x.iter().map(|x| x / length).collect()
                            };
                            let (q, k, v) = (unit(part(0)), unit(part(1)), part(2));
                            let (w, r) = (sigmoid(z[3 * d_model + head]), sigmoid(z[3 * d_model + n_heads + head]));
                            for i in 0..dim {
                                let row = &mut memory[(b * d_model + head * dim + i) * dim..][..dim];
                                let known: f64 = row.iter().zip(&k).map(|(m, k)| m * k).sum();
                                row.iter_mut().zip(&k).for_each(|(m, k)| *m += w * (v[i] - known) * k);
                                h[head * dim + i] = r * row.iter().zip(&q).map(|(m, q)| m * q).sum::<f64>();
                            }
                        }
                        truth[row * d_model..][..d_model].copy_from_slice(h);
                    }
                }
                let tensor = |shape: &[usize], data: &[f32]| Tensor::new(&device, shape, data).unwrap();
                let layer = Lsam {
                    n_heads,
                    input: Linear { weight: tensor(&[n_in, width], &w_x), bias: Some(tensor(&[width], &bias)) },
                    hidden: tensor(&[d_model, width], &w_h),
                };
                let state = LsamState {
                    hidden: tensor(&[batch, d_model], &h),
                    memory: tensor(&[batch, n_heads, dim, dim], &m),
                };
                poison(&device, &[truth.len(), memory.len()]);
                let direction = if reverse { Direction::Reverse } else { Direction::Forward };
                let output = lsam(&tensor(&[batch, n, n_in], &x), &layer, Some(&state), direction).unwrap();
                let state = output.state;
                for (found, truth) in [(&output.values, &truth), (&state.hidden, &hidden), (&state.memory, &memory)] {
                    // A short key or query is made longer and its rounding with it; the memory
                    // hands errors on.
                    let error = error(&found.read().unwrap(), truth);
                    let what = format!("{name}: {batch} {n} {n_in} {n_heads} {dim}");
                    assert!(error <= bound(&device, 5e-6), "{what} off by {error:.2e}");
                }
            }
        }
    }
}

/// The tapes of a machine in float64.
fn tapes(
    sizes: [usize; 5],
    options: TapeOptions,
    [value, key, query, action]: [&[f32]; 4],
    start: &[f32],
) -> (Vec<f64>, Vec<f64>) {
    let [batch, n, n_tapes, slots, mem] = sizes;
    let (n_directions, n_actions) = (options.heads.n_directions(), options.heads.n_actions());
    let (mut values, mut tapes) = (vec![0.0; batch * n * n_tapes * mem], wide(start));
    for (i, tape) in tapes.chunks_mut(slots * mem).enumerate() {
        let mut keys = vec![0.0; slots * mem];
        let mut heads = [vec![0.0; slots], vec![0.0; slots]];
        heads.iter_mut().for_each(|head| head[0] = 1.0);
        for step in 0..n {
            let token = (i / n_tapes * n + step) * n_tapes + i % n_tapes;
            let part = |x: &[f32], width: usize| wide(&x[token * width..][..width]);
            let (v, a) = (part(value, mem), part(action, n_actions));
            let has_probabilities = options.probabilities == TapeProbabilities::Actions;
            let p = |j: usize| if has_probabilities { sigmoid(a[2 * n_directions + j]) } else { 1.0 };
            let (p_r, p_w) = (p(0), p(1));
            let p_e = match options.erase {
                TapeErase::Never => 0.0,
                TapeErase::Tied => p_w,
                _ => p(2),
            };
            let unit = |head: &[f64]| -> Vec<f64> {
                let length = head.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-12);
                head.iter().map(|x| if options.heads.jumps() { x / length } else { *x }).collect()
            };
            let (r, w) = (unit(&heads[0]), unit(&heads[1]));
            for c in 0..mem {
                let old: f64 = (0..slots).map(|l| tape[l * mem + c] * w[l]).sum();
                (0..slots).for_each(|l| tape[l * mem + c] += w[l] * (p_w * v[c] - p_e * old));
                values[token * mem + c] = p_r * (0..slots).map(|l| tape[l * mem + c] * r[l]).sum::<f64>();
            }
            let mut jump = vec![0.0; slots];
            if options.heads.jumps() {
                let (k, q) = (part(key, mem), part(query, mem));
                let p_k = if options.erase == TapeErase::Never { 1.0 } else { p_w };
                let known: Vec<f64> =
                    (0..mem).map(|c| (0..slots).map(|l| keys[l * mem + c] * w[l]).sum::<f64>()).collect();
                for l in 0..slots {
                    let row = &mut keys[l * mem..][..mem];
                    if options.key_erase == KeyErase::ByPosition {
                        (0..mem).for_each(|c| row[c] += w[l] * (p_k * k[c] - p_e * known[c]));
                    } else {
                        let known: f64 = row.iter().zip(&k).map(|(a, b)| a * b).sum();
                        let x = p_k * heads[1][l] - p_e * known;
                        row.iter_mut().zip(&k).for_each(|(m, k)| *m += x * k);
                    }
                    jump[l] = row.iter().zip(&q).map(|(a, b)| a * b).sum();
                }
            }
            for (head, a) in heads.iter_mut().zip([&a[..n_directions], &a[n_directions..2 * n_directions]]) {
                let sum: f64 = a.iter().map(|x| x.exp()).sum();
                let d: Vec<f64> = a.iter().map(|x| x.exp() / sum).collect();
                let d = match options.heads {
                    HeadMoves::All => [d[0], d[1], d[2], d[3]],
                    HeadMoves::NoJump => [d[0], d[1], d[2], 0.0],
                    HeadMoves::OnlyJump => [0.0, d[0], 0.0, d[1]],
                    other => panic!("the oracle does not know {other:?}"),
                };
                let before = head.clone();
                for l in 0..slots {
                    let (back, on) = (before[(l + 1) % slots], before[(l + slots - 1) % slots]);
                    head[l] = d[0] * back + d[1] * before[l] + d[2] * on + d[3] * jump[l];
                }
            }
        }
    }
    (values, tapes)
}

#[test]
fn tapes_agree_with_float64() {
    let all = TapeOptions::default();
    let options = [
        all,
        TapeOptions { heads: HeadMoves::NoJump, ..all },
        TapeOptions { heads: HeadMoves::OnlyJump, probabilities: TapeProbabilities::One, ..all },
        TapeOptions { erase: TapeErase::Never, ..all },
        TapeOptions { erase: TapeErase::Tied, key_erase: KeyErase::ByPosition, ..all },
    ];
    // Tapes that fit workgroup memory, one slot, and two that do not fit.
    let sizes = [[2, 10, 3, 5, 4], [1, 3, 1, 1, 1], [1, 20, 2, 70, 65], [1, 8, 1, 300, 3]];
    for (name, device) in devices() {
        for (i, (options, sizes)) in options.iter().flat_map(|o| sizes.iter().map(move |s| (*o, *s))).enumerate() {
            let [batch, n, n_tapes, slots, mem] = sizes;
            let mut random = Random::new(i as u64);
            let tokens = batch * n * n_tapes;
            let unit = |x: Vec<f32>| -> Vec<f32> {
                let tensor = Tensor::new(&Device::cpu(), &[tokens, mem], &x).unwrap();
                unit_norm(&tensor).unwrap().read().unwrap()
            };
            let value = random.numbers(tokens * mem);
            let (key, query) = (unit(random.numbers(tokens * mem)), unit(random.numbers(tokens * mem)));
            let action = random.numbers(tokens * options.heads.n_actions());
            let start = random.numbers(batch * n_tapes * slots * mem);
            let (values, end) = tapes(sizes, options, [&value, &key, &query, &action], &start);
            let tensor = |dim: usize, data: &[f32]| Tensor::new(&device, &[batch, n, n_tapes * dim], data).unwrap();
            let (value, action) = (tensor(mem, &value), tensor(options.heads.n_actions(), &action));
            let jumps = options.heads.jumps().then(|| (tensor(mem, &key), tensor(mem, &query)));
            let inputs = TapeInputs {
                value: &value,
                key: jumps.as_ref().map(|(key, _)| key),
                query: jumps.as_ref().map(|(_, query)| query),
                action: &action,
                n_tapes,
                tape_length: slots,
            };
            let start = Tensor::new(&device, &[batch, n_tapes, slots, mem], &start).unwrap();
            poison(&device, &[values.len(), end.len(), 2 * end.len() + 2 * batch * n_tapes * slots]);
            let output = tape(&inputs, options, Some(&start)).unwrap();
            for (found, truth) in [(&output.values, &values), (&output.tape, &end)] {
                // Heads are divided by their length at every step, which magnifies rounding where
                // one has come close to zero.
                let error = error(&found.read().unwrap(), truth);
                assert!(error <= bound(&device, 3e-6), "{name}: {options:?} {sizes:?} off by {error:.2e}");
            }
        }
    }
}

#[test]
fn causal_attention_ends_as_bidirectional_attention() {
    let (d_model, n_heads, n) = (24, 3, 70);
    for (name, device) in devices() {
        for gates in [AttentionGates::Ungated, AttentionGates::Gated] {
            let build =
                |checkpoint: &Checkpoint| checkpoint.load(&device, |p| NamAttention::load(p, d_model, n_heads, gates));
            let (attention, _) = parameters(1, build);
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
        for option in [
            TuringOption::Default,
            TuringOption::NoJump,
            TuringOption::OnlyJump,
            TuringOption::NoRwProb,
            TuringOption::NoErase,
            TuringOption::Paper,
        ] {
            let config = config(option);
            let (model, checkpoint) = parameters(3, |c| NamTmAe::new(&device, &config, c));
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

#[test]
fn checkpoints_open_with_their_metadata() {
    let device = Device::cpu();
    let config =
        NamTmConfig { dim: 4, vocab_size: 3, n_heads: 1, mem_size: 4, tape_length: 2, option: TuringOption::NoErase };
    let (_, mut checkpoint) = parameters(4, |c| NamTmAe::new(&device, &config, c));
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
        let (model, _) = parameters(5, |c| FewShot::new(&device, &config, c));
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// A recurrence may be cut anywhere: the state is all that goes on.
    #[test]
    fn recurrences_may_be_cut(n in 2..40usize, at in 1..39usize, seed: u64) {
        let at = at.min(n - 1);
        let device = Device::cpu();
        let mut random = Random::new(seed);
        let mut tensor = |shape: &[usize], scale: f32| {
            Tensor::new(&device, shape, &random.scaled(shape.iter().product(), scale)).unwrap()
        };
        let input = |weight: Tensor| Linear { weight, bias: None };
        let (long, short) = (Lstm { input: input(tensor(&[3, 20], 1.0)), hidden: tensor(&[5, 20], 0.6) },
            Lsam { n_heads: 2, input: input(tensor(&[3, 16], 1.0)), hidden: tensor(&[4, 16], 0.6) });
        let x = tensor(&[1, n, 3], 1.0);
        let numbers = x.read().unwrap();
        let part = |steps: std::ops::Range<usize>| {
            Tensor::new(&device, &[1, steps.len(), 3], &numbers[3 * steps.start..3 * steps.end]).unwrap()
        };
        let whole = lstm(&x, &long, None).unwrap();
        let first = lstm(&part(0..at), &long, None).unwrap();
        let second = lstm(&part(at..n), &long, Some(&first.state)).unwrap();
        prop_assert_eq!([first.values.read().unwrap(), second.values.read().unwrap()].concat(), whole.values.read().unwrap());
        let whole = lsam(&x, &short, None, Direction::Forward).unwrap();
        let first = lsam(&part(0..at), &short, None, Direction::Forward).unwrap();
        let second = lsam(&part(at..n), &short, Some(&first.state), Direction::Forward).unwrap();
        prop_assert_eq!([first.values.read().unwrap(), second.values.read().unwrap()].concat(), whole.values.read().unwrap());
        prop_assert_eq!(second.state.memory.read().unwrap(), whole.state.memory.read().unwrap());
    }
}
