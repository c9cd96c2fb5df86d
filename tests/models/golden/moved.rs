//! How much a case magnifies the rounding of its own inputs: what a float64 run of it changes by
//! when every number of f32 among inputs and parameters moves to a neighbour. Sums that are
//! rounded otherwise, as with other instruction sets, cannot be asked to agree any better: queries
//! are rounded when they are scaled, and products where multiply-adds are not fused.

use std::collections::BTreeMap;

use super::{
    nam::{swap, tape_options},
    transformer::Transformer64,
};
use crate::support::{fixture::Fixture, oracle, oracle_tape::tapes, sigmoid};

/// Outputs in float64, by name.
type Outputs = BTreeMap<String, Vec<f64>>;

/// Moves that are tried. The largest change counts: about 2.5 standard deviations of one.
const SEEDS: u64 = 100;

/// The largest change of every output, for the cases that can be run in float64 here: those of
/// attention without a bias, whose logits may be huge, and the Turing machines and transformers,
/// which divide heads by their lengths.
pub fn moved(fixture: &Fixture) -> BTreeMap<String, f64> {
    let Some(truth) = run(fixture) else { return BTreeMap::new() };
    let mut largest: BTreeMap<String, f64> = truth.keys().map(|name| (name.clone(), 0.0)).collect();
    for (name, found) in &truth {
        let reference = if fixture.has(&format!("ref64.{name}")) { "ref64" } else { "out64" };
        let error = errors(found, fixture.truth(&format!("{reference}.{name}")));
        // Upstream adds 1e-10 to sums of weights; f32 is far above either.
        assert!(error < 1e-8, "{}: the float64 run of {name} is off by {error:.1e}", fixture.name);
    }
    for seed in 0..SEEDS {
        for (name, found) in run(&fixture.moved(seed)).expect("the same case") {
            let change = errors(&found, &truth[&name]);
            largest.entry(name).and_modify(|largest| *largest = largest.max(change));
        }
    }
    largest
}

/// The project's measure, of float64.
fn errors(found: &[f64], truth: &[f64]) -> f64 {
    assert_eq!(found.len(), truth.len());
    found.iter().zip(truth).map(|(a, b)| (a - b).abs() / (1.0 + b.abs())).fold(0.0, f64::max)
}

fn run(fixture: &Fixture) -> Option<Outputs> {
    match fixture.case.as_str() {
        case if case.starts_with("namtm_") => Some(turing(fixture)),
        case if case.starts_with("lra_nam") => Some(transformer(fixture)),
        _ if fixture.config["op"] == "scan_attention" => Some(attention(fixture)),
        _ => None,
    }
}

fn transformer(fixture: &Fixture) -> Outputs {
    let size = |name: &str| fixture.config[name].as_u64().unwrap() as usize;
    let network = Transformer64 {
        parameters: &fixture.parameters(),
        layers: size("layers"),
        emb: size("emb"),
        heads: size("heads"),
        learn_pos: fixture.config["learn_pos"].as_bool().unwrap(),
    };
    let tokens: Vec<usize> = fixture.truth("in.tokens").iter().map(|&t| t as usize).collect();
    let runs = tokens.chunks(fixture.shape("in.tokens")[1]).map(|tokens| network.forward(tokens));
    let mut outputs = Outputs::new();
    for run in runs {
        for (name, numbers) in ["encoded", "logits"].into_iter().zip(run) {
            outputs.entry(name.to_owned()).or_default().extend(numbers);
        }
    }
    outputs
}

fn attention(fixture: &Fixture) -> Outputs {
    let &[batch, n_heads, n_queries, head_dim] = fixture.shape("in.qs") else { panic!() };
    let &[_, _, n_keys, v_dim] = fixture.shape("in.vs") else { panic!() };
    let calls = fixture.config["calls"].as_object().unwrap();
    let read = |mask: Option<&str>| {
        let case = oracle::Case {
            q: fixture.numbers("in.qs"),
            k: fixture.numbers("in.ks"),
            v: fixture.numbers("in.vs"),
            mask: mask.map(|mask| fixture.booleans(&format!("in.{mask}"))),
            ..oracle::Case { batch, n_heads, n_queries, n_keys, head_dim, v_dim, ..Default::default() }
        };
        oracle::scan_attention(&case).0
    };
    calls.iter().map(|(name, call)| (name.clone(), read(call["mask"].as_str()))).collect()
}

/// `x W^T + b` for `x [.., n_in]` and `W [n_out, n_in]` as PyTorch stores it.
fn linear(fixture: &Fixture, x: &[f64], layer: &str, suffix: &str) -> Vec<f64> {
    let weight = fixture.truth(&format!("param.{layer}.weight{suffix}"));
    let bias = fixture.truth(&format!("param.{layer}.bias{suffix}"));
    let n_in = weight.len() / bias.len();
    let dot = |x: &[f64], w: &[f64]| x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>();
    x.chunks(n_in).flat_map(|x| weight.chunks(n_in).zip(bias).map(move |(w, b)| dot(x, w) + b)).collect()
}

/// An LSTM over `x [batch, n, dim]`, from zeros.
fn controller(fixture: &Fixture, x: &[f64], n: usize, dim: usize) -> Vec<f64> {
    let mut y = Vec::new();
    for x in x.chunks(n * dim) {
        let (mut h, mut c) = (vec![0.0; dim], vec![0.0; dim]);
        for x in x.chunks(dim) {
            let (a, b) = (linear(fixture, x, "controller", "_ih_l0"), linear(fixture, &h, "controller", "_hh_l0"));
            let z: Vec<f64> = a.iter().zip(b).map(|(a, b)| a + b).collect();
            for j in 0..dim {
                c[j] = sigmoid(z[dim + j]) * c[j] + sigmoid(z[j]) * z[2 * dim + j].tanh();
                h[j] = sigmoid(z[3 * dim + j]) * c[j].tanh();
            }
            y.extend_from_slice(&h);
        }
    }
    y
}

/// What it read, and the tapes.
fn machine(fixture: &Fixture, x: &str, slots: usize, start: Option<&[f64]>) -> (Vec<f64>, Vec<f64>) {
    let n_tapes = fixture.config["n_tapes"].as_u64().unwrap() as usize;
    let mem = fixture.shape("param.valuelayer.bias")[0] / n_tapes;
    let &[n, batch, dim] = fixture.shape(x) else { panic!() };
    let options = tape_options(fixture);
    let x = swap(fixture.truth(x), n, batch);
    let state = controller(fixture, &x, n, dim);
    let unit = |x: Vec<f64>| -> Vec<f64> {
        let length = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-12);
        x.chunks(mem).flat_map(|x| x.iter().map(move |y| y / length(x))).collect()
    };
    let value = linear(fixture, &x, "valuelayer", "");
    let (key, query) = match options.heads.jumps() {
        true => (unit(linear(fixture, &x, "keylayer", "")), unit(linear(fixture, &state, "Wq", ""))),
        false => (Vec::new(), Vec::new()),
    };
    let action = linear(fixture, &state, "actionlayer", "");
    let zeros = vec![0.0; batch * n_tapes * slots * mem];
    let sizes = [batch, n, n_tapes, slots, mem];
    tapes(sizes, options, [&value, &key, &query, &action], start.unwrap_or(&zeros))
}

fn turing(fixture: &Fixture) -> Outputs {
    let &[n, batch, _] = fixture.shape("in.x") else { panic!() };
    let n_tapes = fixture.config["n_tapes"].as_u64().unwrap() as usize;
    let mem = fixture.shape("param.valuelayer.bias")[0] / n_tapes;
    let slots = fixture.config["default_tapelen"].as_u64().unwrap() as usize;
    let out = |reads: &[f64], n: usize| {
        let y = linear(fixture, reads, "outlayer", "");
        swap(&y, batch, n)
    };
    // `[batch, n_tapes, slots, mem]` to `[slots, batch, n_tapes * mem]`.
    let slots_first = |tape: &[f64]| {
        let rows = tape.chunks(slots * mem).map(|tape| tape.chunks(mem).collect::<Vec<_>>()).collect::<Vec<_>>();
        (0..slots).flat_map(|l| rows.iter().flat_map(move |rows| rows[l])).copied().collect::<Vec<f64>>()
    };
    let (reads, tape) = machine(fixture, "in.x", slots, None);
    let mut outputs = Outputs::from([
        ("y".into(), out(&reads, n)),
        ("mid.read_outs".into(), swap(&reads, batch, n)),
        ("tape".into(), slots_first(&tape)),
    ]);
    if fixture.has("in.x2") {
        let (reads, tape) = machine(fixture, "in.x2", slots, Some(&tape));
        outputs.insert("y_tape_in".into(), out(&reads, fixture.shape("in.x2")[0]));
        outputs.insert("tape_tape_in".into(), slots_first(&tape));
    }
    outputs.retain(|name, _| fixture.has(&format!("out64.{name}")));
    outputs
}
