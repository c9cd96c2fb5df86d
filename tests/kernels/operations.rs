//! Every operation once, with small operands: what the tests of all operations run over.
#![cfg(feature = "gpu")]

use crate::support::layout;
use wgpu_attention::{
    Device, Mask, Tensor, f16,
    ops::{
        Activation, AttentionMemory, Bias, BiasKernel, BiasTerm, Direction, Distance, FeatureKind, FeatureMap, Form,
        HeadMoves, KeyErase, Linear, LinearAttention, Lsam, Lstm, Map, Normalizer, Probabilities, ProjectionRows,
        RollingAttention, ScanAttention, TapeErase, TapeInputs, TapeOptions, TapeProbabilities, add, attention_memory,
        columns, concat, feature_map, gate, geglu, layer_norm, linear, lsam, lstm, map, merge_attention,
        random_features, scale_columns, scan_attention, tape, unit_norm,
    },
};

/// An operation with its operands.
pub struct Operation {
    pub name: &'static str,
    /// The kernels that it is for.
    pub kernels: &'static str,
    pub operands: Vec<Operand>,
    pub run: Box<Run>,
}

type Run = dyn Fn(&Device, &[Tensor]) -> Vec<Tensor>;

#[derive(Clone)]
pub struct Operand {
    pub name: &'static str,
    pub shape: Vec<usize>,
    /// A number that no output may depend on: it is masked.
    pub masked: Option<usize>,
}

/// Numbers of an operand.
fn of<const N: usize>(name: &'static str, shape: [usize; N]) -> Operand {
    Operand { name, shape: shape.to_vec(), masked: None }
}

/// Numbers of an operand, of which one is masked.
fn hides<const N: usize>(name: &'static str, shape: [usize; N], masked: usize) -> Operand {
    Operand { masked: Some(masked), ..of(name, shape) }
}

fn operation<const N: usize>(
    name: &'static str,
    kernels: &'static str,
    operands: [Operand; N],
    run: impl Fn(&Device, [&Tensor; N]) -> Vec<Tensor> + 'static,
) -> Operation {
    let run = move |device: &Device, tensors: &[Tensor]| run(device, std::array::from_fn(|i| &tensors[i]));
    Operation { name, kernels, operands: operands.to_vec(), run: Box::new(run) }
}

/// One or two lines an operation.
pub fn operations() -> Vec<Operation> {
    let mut all = attentions(5);
    // Between the two: else an operation of both is a third of the sweep of variants, and the same one.
    all.extend(memories());
    // Vectors of four.
    all.extend(attentions(8));
    all.extend(recurrences());
    all.extend(of_rows());
    all
}

/// Two heads of a few queries and many keys.
fn q_k_v(n: usize, n_keys: usize) -> [Operand; 3] {
    [of("q", [1, 2, n, 8]), of("k", [1, 2, n_keys, 8]), of("v", [1, 2, n_keys, 5])]
}

fn attend([q, k, v]: [&Tensor; 3], options: &ScanAttention<'_>) -> Vec<Tensor> {
    let read = scan_attention(q, k, v, options).unwrap();
    vec![read.values, read.log_sum_exp]
}

/// The mask of 40 keys that drops key 21.
fn mask(device: &Device) -> Mask {
    Mask::new(device, &[1, 40], &(0..40).map(|i| i != 21).collect::<Vec<_>>()).unwrap()
}

/// Values of some width.
fn attentions(width: usize) -> Vec<Operation> {
    let q_k_v = |n, n_keys| {
        let [q, k, _] = q_k_v(n, n_keys);
        [q, k, of("v", [1, 2, n_keys, width])]
    };
    const KERNELS: &str = "scan_attention scan_attention_decode merge_attention";
    let splits = |n| move |_: &Device, qkv: [&Tensor; 3]| attend(qkv, &ScanAttention::default().n_splits(n));
    let hidden = || {
        let (k, v) = (hides("k", [1, 2, 40, 8], 21 * 8 + 3), hides("v", [1, 2, 40, width], 61 * width + 2));
        [of("q", [1, 2, 7, 8]), k, v]
    };
    let biased = |distance, columns: std::ops::Range<usize>| {
        move |_: &Device, [q, k, v, here, there]: [&Tensor; 5]| {
            let of_kernel = |kernel: BiasKernel| {
                let parameters = [&[0.5, -0.25][..], &[0.3, 0.1], &[0.1, 0.2]];
                BiasTerm::built_in(columns.clone(), distance, kernel, &parameters[..kernel.parameters().len()])
            };
            let terms = BiasKernel::ALL.map(of_kernel);
            attend([q, k, v], &ScanAttention::default().bias(Bias::new(here, there, &terms)))
        }
    };
    let coordinates = || {
        let [q, k, v] = q_k_v(7, 40);
        [q, k, v, of("q_coords", [1, 7, 2]), of("k_coords", [1, 40, 2])]
    };
    let matrix = [of("matrix", [1, 2, 7, 40])];
    let [q, k, v] = q_k_v(7, 40);
    let [matrix] = matrix;
    vec![
        operation("scan_attention", KERNELS, q_k_v(7, 40), splits(1)),
        operation("scan_attention, splits", KERNELS, q_k_v(7, 100), splits(3)),
        operation("scan_attention, one query", KERNELS, q_k_v(1, 40), splits(1)),
        operation("scan_attention, mask", KERNELS, hidden(), |device, qkv| {
            attend(qkv, &ScanAttention::default().key_mask(&mask(device)))
        }),
        operation("scan_attention, no key", KERNELS, q_k_v(7, 40), |device, qkv| {
            attend(qkv, &ScanAttention::default().key_mask(&Mask::new(device, &[1, 40], &[false; 40]).unwrap()))
        }),
        operation("scan_attention, matrix", KERNELS, [q, k, v, matrix], |_, [q, k, v, matrix]| {
            attend([q, k, v], &ScanAttention::default().bias(Bias::matrix(matrix)))
        }),
        operation("scan_attention, plane", KERNELS, coordinates(), biased(Distance::Euclidean, 0..2)),
        operation("scan_attention, sphere", KERNELS, coordinates(), biased(Distance::GreatCircle, 0..2)),
        operation("scan_attention, time", KERNELS, coordinates(), biased(Distance::CausalTime, 1..2)),
        operation(
            "merge_attention",
            "merge_attention",
            [of("values", [3, 4, 5]), of("log_sum_exp", [3, 4])],
            |_, [values, lse]| {
                let merged = merge_attention(values, lse).unwrap();
                vec![merged.values, merged.log_sum_exp]
            },
        ),
        operation("RollingAttention", KERNELS, q_k_v(7, 40), |_, [q, k, v]| {
            let memory = RollingAttention::new(layout(true, 2), q.clone());
            let state = memory.write(None, k, v, None).unwrap();
            let state = memory.write(Some(&state), k, v, None).unwrap();
            let read = memory.read(&state.merge(&state).unwrap()).unwrap();
            vec![read.values, read.log_sum_exp.unwrap()]
        }),
        operation("RollingAttention, mask", KERNELS, hidden(), |device, [q, k, v]| {
            let memory = RollingAttention::new(layout(true, 2), q.clone());
            let read = memory.read(&memory.write(None, k, v, Some(&mask(device))).unwrap()).unwrap();
            vec![read.values, read.log_sum_exp.unwrap()]
        }),
    ]
}

fn memories() -> Vec<Operation> {
    let linear = |kind, normalizer, is_masked: bool| {
        move |device: &Device, [q, k, v]: [&Tensor; 3]| {
            let projection = random_features(device, 3, 6, 8, ProjectionRows::Orthogonal).unwrap();
            let features = match kind {
                FeatureKind::Identity => FeatureMap::identity(0.5),
                kind => FeatureMap { kind, ..FeatureMap::softmax(projection) },
            };
            let memory = LinearAttention::new(layout(true, 2), features, normalizer);
            let mask = is_masked.then(|| mask(device));
            let state = memory.write(None, k, v, mask.as_ref()).unwrap();
            vec![memory.read(q, &state.merge(&state).unwrap()).unwrap().values, state.sums]
        }
    };
    let sums = Normalizer::FeatureSum { floor: 1e-6 };
    let hidden =
        || [of("q", [1, 2, 7, 8]), hides("k", [1, 2, 40, 8], 21 * 8 + 3), hides("v", [1, 2, 40, 5], 61 * 5 + 2)];
    const LINEAR: &str = "linear_attention_write linear_attention_merge linear_attention_read";
    const MEMORY: &str = "attention_memory attention_memory_chunk attention_memory_state attention_memory_read";
    let queries = |head_dim| [of("q", [1, 2, 40, head_dim]), of("k", [1, 2, 40, head_dim]), of("v", [1, 2, 40, 5])];
    let gated = |head_dim| {
        let [q, k, v] = queries(head_dim);
        [q, k, v, of("p_write", [1, 2, 40]), of("p_erase", [1, 2, 40])]
    };
    let recall = |form| {
        move |_: &Device, [q, k, v, write, erase]: [&Tensor; 5]| {
            let (write, erase) = (Probabilities::sigmoid(write).unwrap(), Probabilities::sigmoid(erase).unwrap());
            let (q, k) = (unit_norm(q).unwrap(), unit_norm(k).unwrap());
            let options = AttentionMemory::new(layout(true, 2)).p_write(&write).p_erase(&erase).form(form);
            let recall = attention_memory(&q, &k, v, &options).unwrap();
            let read = options.read(&q, &recall.state).unwrap().values;
            vec![recall.values, recall.state.memory, read]
        }
    };
    vec![
        operation("LinearAttention, softmax", LINEAR, q_k_v(7, 40), linear(FeatureKind::Softmax, sums, false)),
        operation(
            "LinearAttention, identity",
            LINEAR,
            q_k_v(7, 40),
            linear(FeatureKind::Identity, Normalizer::KeyCount, false),
        ),
        // What it does beside scan attention, which others try in every variant.
        operation(
            "LinearAttention, stable",
            "elementwise linear",
            q_k_v(7, 40),
            linear(FeatureKind::Softmax, Normalizer::Stable, false),
        ),
        operation("LinearAttention, mask", LINEAR, hidden(), linear(FeatureKind::Relu, sums, true)),
        operation("attention_memory, recurrent", MEMORY, gated(8), recall(Form::Recurrent)),
        operation("attention_memory, recurrent, no vectors", MEMORY, gated(6), recall(Form::Recurrent)),
        // Rows that several threads share.
        operation("attention_memory, recurrent, wide", MEMORY, gated(70), recall(Form::Recurrent)),
        operation("attention_memory, recurrent, no gates", MEMORY, queries(6), |_, [q, k, v]| {
            let options = AttentionMemory::new(layout(true, 2)).form(Form::Recurrent);
            let recall = attention_memory(q, k, v, &options).unwrap();
            vec![recall.values, recall.state.memory]
        }),
        operation("attention_memory, chunked", MEMORY, gated(8), recall(Form::Chunked)),
        operation("attention_memory, chunked, no vectors", MEMORY, gated(6), recall(Form::Chunked)),
        operation("AttentionMemory::write, mask", MEMORY, hidden(), |device, [q, k, v]| {
            let p = Probabilities::new(device, &[1, 2, 40], &[0.5; 80]).unwrap();
            let options = AttentionMemory::new(layout(true, 2)).p_erase(&p);
            let k = unit_norm(k).unwrap();
            let state = options.write(None, &k, v, Some(&mask(device))).unwrap();
            vec![options.read(q, &state).unwrap().values, state.memory]
        }),
    ]
}

fn recurrences() -> Vec<Operation> {
    let dense = |n_out| [of("input", [3, n_out]), of("bias", [n_out]), of("hidden", [8, n_out])];
    let cell = |n_out| {
        let [input, bias, hidden] = dense(n_out);
        [of("x", [1, 9, 3]), input, bias, hidden]
    };
    let input = |weight: &Tensor, bias: &Tensor| Linear { weight: weight.clone(), bias: Some(bias.clone()) };
    let taped = |heads: HeadMoves| {
        let token = |name| of(name, [1, 9, 8]);
        [token("value"), token("key"), token("query"), of("action", [1, 9, 2 * heads.n_actions()])]
    };
    let turing = |heads: HeadMoves| {
        move |_: &Device, [value, key, query, action]: [&Tensor; 4]| {
            let jumps = heads.jumps();
            let inputs = TapeInputs {
                value,
                key: jumps.then_some(key),
                query: jumps.then_some(query),
                action,
                n_tapes: 2,
                tape_length: 6,
            };
            let options = TapeOptions {
                heads,
                probabilities: TapeProbabilities::Actions,
                erase: TapeErase::Own,
                key_erase: KeyErase::ByContent,
            };
            let output = tape(&inputs, options, None).unwrap();
            vec![output.values, output.state.tape]
        }
    };
    vec![
        operation("lstm", "lstm lstm_step", cell(32), move |_, [x, weight, bias, hidden]| {
            let output = lstm(x, &Lstm { input: input(weight, bias), hidden: hidden.clone() }, None).unwrap();
            vec![output.values, output.state]
        }),
        operation("lsam", "lsam lsam_columns lsam_memory", cell(28), move |_, [x, weight, bias, hidden]| {
            let cell = Lsam { n_heads: 2, input: input(weight, bias), hidden: hidden.clone() };
            let output = lsam(x, &cell, None, Direction::Forward).unwrap();
            vec![output.values, output.state.memory]
        }),
        operation("tape", "tape", taped(HeadMoves::NoJump), turing(HeadMoves::NoJump)),
        operation("tape, jumps", "tape", taped(HeadMoves::OnlyJump), turing(HeadMoves::OnlyJump)),
    ]
}

fn of_rows() -> Vec<Operation> {
    let x = || of("x", [5, 6]);
    let mut all = vec![
        operation("add", "elementwise", [x(), of("y", [5, 6])], |_, [x, y]| vec![add(x, y, 0.5).unwrap()]),
        operation("scale_columns", "elementwise", [x(), of("scale", [6])], |_, [x, scale]| {
            vec![scale_columns(x, scale).unwrap()]
        }),
        operation("gate", "elementwise", [x(), of("p", [5, 2])], |_, [x, p]| {
            vec![gate(x, &Probabilities::sigmoid(p).unwrap()).unwrap()]
        }),
        operation("columns", "elementwise", [x()], |_, [x]| vec![columns(x, 2..5).unwrap()]),
        operation("concat", "elementwise", [x(), of("y", [5, 2])], |_, [x, y]| vec![concat(x, 1..4, y).unwrap()]),
        operation("geglu", "elementwise", [x()], |_, [x]| vec![geglu(x).unwrap()]),
        operation("to_f16", "half", [x()], |device, [x]| {
            // The CPU refuses what a GPU makes infinite.
            let rounded = |_| {
                let halves: Vec<f16> = x.read().unwrap().into_iter().map(f16::from_f32).collect();
                Tensor::from_f16(device, x.shape(), &halves).unwrap()
            };
            vec![x.to_f16().unwrap_or_else(rounded).to_f32().unwrap()]
        }),
        operation("unit_norm", "unit_norm", [x()], |_, [x]| vec![unit_norm(x).unwrap()]),
        operation("layer_norm", "layer_norm", [x(), of("scale", [6]), of("bias", [6])], |_, [x, scale, bias]| {
            vec![layer_norm(x, scale, bias, 1e-5, None).unwrap()]
        }),
    ];
    all.extend(Map::ALL.map(|kind| operation("map", "elementwise", [x()], move |_, [x]| vec![map(x, kind).unwrap()])));
    all.extend([Activation::None, Activation::Relu, Activation::GeluTanh, Activation::GeluErf].map(|activation| {
        let operands = [x(), of("weight", [6, 4]), of("bias", [4])];
        operation("linear", "linear", operands, move |_, [x, weight, bias]| {
            let layer = Linear { weight: weight.clone(), bias: Some(bias.clone()) };
            vec![linear(x, &layer, activation, None).unwrap()]
        })
    }));
    let kinds = [FeatureKind::Softmax, FeatureKind::Relu, FeatureKind::Gelu, FeatureKind::Exp, FeatureKind::Elu];
    all.extend(kinds.map(|kind| {
        operation("feature_map", "feature_map", [x(), of("projection", [4, 6])], move |_, [x, projection]| {
            vec![feature_map(x, &FeatureMap { kind, ..FeatureMap::softmax(projection.clone()) }).unwrap()]
        })
    }));
    all
}
