//! Every function of one number at the ends of f32, on both twins.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use crate::support::{devices, sigmoid};
use wgpu_attention::{
    Device, Result, Tensor,
    ops::{
        Activation, Direction, FeatureKind, FeatureMap, Linear, Lsam, Lstm, Map, feature_map, geglu, linear, lsam,
        lstm, map,
    },
};

const INPUTS: [f32; 19] = [
    f32::INFINITY,
    f32::MAX,
    1e38,
    1e20,
    100.0,
    14.0,
    13.0,
    1.0,
    1e-40,
    0.0,
    -1e-40,
    -1.0,
    -13.0,
    -14.0,
    -100.0,
    -1e20,
    -1e38,
    f32::MIN,
    f32::NEG_INFINITY,
];

/// A function in float64.
type Truth = fn(f64) -> f64;

/// What runs a function of each number.
type Run = dyn Fn(&Device, &[f32]) -> Result<Vec<f32>>;

/// A function of each number by itself, and the same in float64.
struct Function {
    name: String,
    run: Box<Run>,
    truth: Truth,
}

fn function(name: String, truth: Truth, run: impl Fn(&Device, &[f32]) -> Result<Vec<f32>> + 'static) -> Function {
    Function { name, run: Box::new(run), truth }
}

fn column(device: &Device, x: &[f32]) -> Result<Tensor> {
    Tensor::new(device, &[x.len(), 1], x)
}

fn gelu_tanh(x: f64) -> f64 {
    if x < -30.0 { 0.0 } else { x / (1.0 + (-2.0 * (2.0 / PI).sqrt() * (x + 0.044715 * x.powi(3))).exp()) }
}

fn gelu_erf(x: f64) -> f64 {
    if x < -30.0 { 0.0 } else { x * 0.5 * libm::erfc(-x * FRAC_1_SQRT_2) }
}

fn relu(x: f64) -> f64 {
    if x < 0.0 { 0.0 } else { x }
}

/// All that the crate has.
fn functions() -> Vec<Function> {
    let activations: [(Activation, Truth); 4] = [
        (Activation::None, |x| x),
        (Activation::Relu, relu),
        (Activation::GeluTanh, gelu_tanh),
        (Activation::GeluErf, gelu_erf),
    ];
    let mut functions: Vec<Function> = activations
        .map(|(activation, truth)| {
            function(format!("linear, {activation:?}"), truth, move |device, x| {
                let layer = Linear { weight: column(device, &[1.0])?, bias: None };
                linear(&column(device, x)?, &layer, activation, None)?.read()
            })
        })
        .into();
    functions.extend(Map::ALL.map(|of| {
        let truth = match of {
            Map::Relu => relu,
            Map::Sigmoid => sigmoid,
            Map::Square => |x| x * x,
            other => panic!("this test does not know {other:?}"),
        };
        function(format!("map, {of:?}"), truth, move |device, x| map(&column(device, x)?, of)?.read())
    }));
    let features: [(FeatureKind, Truth); 4] = [
        (FeatureKind::Relu, relu),
        (FeatureKind::Gelu, gelu_tanh),
        (FeatureKind::Exp, f64::exp),
        (FeatureKind::Elu, |x| if x < 0.0 { x.exp_m1() } else { x }),
    ];
    functions.extend(features.map(|(kind, truth)| {
        function(format!("feature_map, {kind:?}"), truth, move |device, x| {
            let map = FeatureMap { kind, projection: Some(column(device, &[1.0])?), scale: 1.0 };
            feature_map(&column(device, x)?, &map)?.read()
        })
    }));
    functions.push(function("geglu".into(), gelu_erf, |device, x| {
        let rows: Vec<f32> = x.iter().flat_map(|&x| [1.0, x]).collect();
        geglu(&Tensor::new(device, &[x.len(), 2], &rows)?)?.read()
    }));
    // What is in the bias of one gate, the others open.
    let cell = |gate: usize| {
        move |device: &Device, x: &[f32]| {
            let one = |&x: &f32| {
                let mut bias = [30.0; 4];
                bias[gate] = x;
                let zeros = Tensor::zeros(device, &[1, 4])?;
                let input = Linear { weight: zeros.clone(), bias: Some(Tensor::new(device, &[4], &bias)?) };
                let state = Tensor::new(device, &[1, 2, 1], &[0.0, 0.25])?;
                let layer = Lstm { input, hidden: zeros };
                Ok(lstm(&Tensor::zeros(device, &[1, 1, 1])?, &layer, Some(&state))?.values.read()?[0])
            };
            x.iter().map(one).collect()
        }
    };
    let gates: [Truth; 4] = [
        |x| (0.25 + sigmoid(x)).tanh(),
        |x| (1.0 + 0.25 * sigmoid(x)).tanh(),
        |x| (0.25 + x.tanh()).tanh(),
        |x| sigmoid(x) * 1.25f64.tanh(),
    ];
    functions.extend((0..4).map(|gate| function(format!("lstm, gate {gate}"), gates[gate], cell(gate))));
    for gate in 0..2 {
        functions.push(function(format!("lsam, gate {gate}"), sigmoid, move |device, x| {
            let one = |&x: &f32| {
                let mut bias = [1.0, 1.0, 1.0, 30.0, 30.0];
                bias[3 + gate] = x;
                let zeros = Tensor::zeros(device, &[1, 5])?;
                let input = Linear { weight: zeros.clone(), bias: Some(Tensor::new(device, &[5], &bias)?) };
                let layer = Lsam { n_heads: 1, input, hidden: zeros };
                let output = lsam(&Tensor::zeros(device, &[1, 1, 1])?, &layer, None, Direction::Forward)?;
                Ok(output.values.read()?[0])
            };
            x.iter().map(one).collect()
        }));
    }
    functions
}

/// Fault F13: `GeluErf(+inf)` was NaN on the CPU, `GeluTanh` and `GeluErf` of minus infinity were
/// minus infinity in the software adapter's `linear`, and (R11) so was about what they made of -1e38.
#[test]
fn f13_functions_of_one_number_at_the_ends_of_f32() {
    for (device_name, device) in devices() {
        for Function { name, run, truth } in functions() {
            let found = run(&device, &INPUTS).unwrap();
            for (x, found) in INPUTS.into_iter().zip(found) {
                // As f32 has it: infinite where it overflows.
                let truth = truth(f64::from(x)) as f32;
                let fits = found == truth || (found - truth).abs() <= 2e-6 * truth.abs().max(1.0);
                // Nothing is left of what is hugely negative.
                let fits = fits && (x > -1e10 || truth != 0.0 || found.abs() < 1e-37);
                assert!(fits, "{device_name}: {name} of {x:e} is {found:e}, not {truth:e}");
            }
            let found = run(&device, &[f32::NAN, 1.0]).unwrap();
            assert!(found[0].is_nan(), "{device_name}: {name} of NaN is {}", found[0]);
            assert!(found[1].is_finite(), "{device_name}: {name} of 1 beside a NaN is {}", found[1]);
        }
    }
}
