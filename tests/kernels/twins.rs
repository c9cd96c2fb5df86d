//! Every kernel against its CPU twin, on random shapes and options.
#![cfg(feature = "gpu")]

use crate::support::{Random, both, every, few_bindings, is_checked, layout, twin_cases};
use approx::relative_eq;
use proptest::prelude::*;
use wgpu_attention::{
    Device, Mask, Tensor,
    device::{Adapter, GpuOptions},
    ops::{
        Activation, AttentionMemory, Bias, BiasKernel, BiasTerm, Direction, Distance, FeatureKind, FeatureMap, Form,
        HeadMoves, KeyErase, Layout, Linear, LinearAttention, Lsam, Lstm, Map, Normalizer, Probabilities,
        ProjectionRows, RollingAttention, ScanAttention, TapeErase, TapeInputs, TapeOptions, TapeProbabilities, add,
        attention_memory, columns, concat, feature_map, gate, geglu, layer_norm, linear, lsam, lstm, map,
        merge_attention, random_features, relu, scale_columns, scan_attention, tape, unit_norm,
    },
    wgpu,
};

/// What some operations computed, by their names.
type Outputs = Vec<(&'static str, Tensor)>;

/// Runs the same on the CPU, on every adapter, and on every adapter with few bindings. Both twins
/// are within 1e-5 of float64 in these sizes, so within twice that of each other.
#[track_caller]
fn assert_twins(run: impl Fn(&Device) -> Outputs) {
    let all = both().into_iter().chain(few_bindings());
    assert_twins_on(all.filter(|(name, _)| every() || !is_checked(name)), run);
}

#[track_caller]
fn assert_twins_on(gpus: impl Iterator<Item = (String, Device)>, run: impl Fn(&Device) -> Outputs) {
    let read = |device: &Device| -> Vec<(&str, Vec<f32>)> {
        run(device).into_iter().map(|(op, tensor)| (op, tensor.read().unwrap())).collect()
    };
    let cpu = read(&Device::cpu());
    for (name, device) in gpus {
        for ((op, gpu), (_, cpu)) in read(&device).iter().zip(&cpu) {
            assert_eq!(gpu.len(), cpu.len(), "{op} on {name}");
            for (i, (a, b)) in gpu.iter().zip(cpu).enumerate() {
                let same = relative_eq!(a, b, epsilon = 2e-5, max_relative = 2e-5);
                assert!(same, "{op} on {name}: number {i} is {a}, on the CPU {b}");
            }
        }
    }
}

#[derive(Clone, Debug)]
struct Shape {
    sizes: [usize; 6],
    /// Heads of queries that share one of keys.
    kv_group: usize,
    /// Bits of the dimensions along which a matrix, or the coordinates, are the same.
    shared: usize,
    head_major: bool,
    has_mask: bool,
    has_matrix: bool,
    distance: Option<Distance>,
    kernel: BiasKernel,
    n_splits: Option<usize>,
    seed: u64,
}

fn shapes() -> impl Strategy<Value = Shape> {
    let sizes = (1..4usize, 1..4usize, 1..90usize, 1..200usize, 1..70usize, 1..70usize);
    let distance = prop_oneof![
        Just(None),
        Just(Some(Distance::Euclidean)),
        Just(Some(Distance::GreatCircle)),
        Just(Some(Distance::CausalTime)),
    ];
    let kernel = proptest::sample::select(&BiasKernel::ALL[..]);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), 0..8usize, 1..4usize);
    (sizes, flags, distance, kernel, proptest::option::of(1..9usize), any::<u64>()).prop_map(
        |(sizes, (head_major, has_mask, has_matrix, shared, kv_group), distance, kernel, n_splits, seed)| Shape {
            sizes: sizes.into(),
            kv_group,
            shared,
            head_major,
            has_mask,
            has_matrix: has_matrix && distance.is_none(),
            distance,
            kernel,
            n_splits: n_splits.map(|n| n.min(sizes.3)),
            seed,
        },
    )
}

fn attend(device: &Device, shape: &Shape) -> Outputs {
    let [batch, kv_heads, n_queries, n_keys, head_dim, v_dim] = shape.sizes;
    let heads = kv_heads * shape.kv_group;
    let mut random = Random::new(shape.seed);
    let mut tensor = |heads: usize, length: usize, dim: usize| {
        let sizes = if shape.head_major { vec![batch, heads, length, dim] } else { vec![batch, length, heads * dim] };
        Tensor::new(device, &sizes, &random.numbers(batch * heads * length * dim)).unwrap()
    };
    let q = tensor(heads, n_queries, head_dim);
    let (k, v) = (tensor(kv_heads, n_keys, head_dim), tensor(kv_heads, n_keys, v_dim));
    let mask = Mask::new(device, &[batch, n_keys], &random.booleans(batch * n_keys, 0.7)).unwrap();
    let is_shared = |bit: usize| shape.shared >> bit & 1 == 1;
    let full = [batch, heads, n_queries, n_keys];
    let of_matrix = [0, 1, 2, 3].map(|d| if is_shared(d) { 1 } else { full[d] });
    let matrix = Tensor::new(device, &of_matrix, &random.numbers(of_matrix.iter().product())).unwrap();
    let mut coords = |length: usize, is_shared: bool| {
        let batch = if is_shared { 1 } else { batch };
        Tensor::new(device, &[batch, length, 2], &random.scaled(batch * length * 2, 2.0)).unwrap()
    };
    let (q_coords, k_coords) = (coords(n_queries, is_shared(0)), coords(n_keys, is_shared(1)));
    let n = if shape.kernel == BiasKernel::Scalar { heads } else { 2 * heads };
    let (a, b, c) = (random.numbers(n), random.numbers(n), random.numbers(n));
    // Back in time this one would reach logits of thousands, which f32 does not tell apart.
    let grows = shape.kernel == BiasKernel::Matern32 && shape.distance == Some(Distance::CausalTime);
    let b: Vec<f32> = b.iter().map(|b| if grows { 0.25 * b.abs() } else { b.abs() }).collect();
    let parameters = &[&a[..], &b, &c][..shape.kernel.parameters().len()];
    let columns = if shape.distance == Some(Distance::CausalTime) { 1..2 } else { 0..2 };
    let terms: Vec<BiasTerm> =
        shape.distance.iter().map(|d| BiasTerm::built_in(columns.clone(), *d, shape.kernel, parameters)).collect();
    let mut bias = Bias::new(&q_coords, &k_coords, &terms);
    bias.matrix = shape.has_matrix.then_some(&matrix);
    let grouped = Layout::Grouped { n_heads: heads, n_kv_heads: kv_heads };
    let mut options = ScanAttention::new(if shape.head_major { Layout::HeadMajor } else { grouped }).bias(bias);
    options.key_mask = shape.has_mask.then_some(&mask);
    options.n_splits = shape.n_splits;
    let read = scan_attention(&q, &k, &v, &options).unwrap();
    vec![("scan_attention", read.values), ("scan_attention's log-sum-exp", read.log_sum_exp)]
}

fn linear_attention(device: &Device, sizes: [usize; 7], head_major: bool, kind: usize, seed: u64) -> Outputs {
    let [batch, kv_heads, n_queries, n_keys, head_dim, v_dim, n_features] = sizes;
    let n_heads = kv_heads * (1 + seed as usize % 3);
    let mut random = Random::new(seed);
    let mut tensor = |n_heads: usize, length: usize, dim: usize| {
        let shape = if head_major { vec![batch, n_heads, length, dim] } else { vec![batch, length, n_heads * dim] };
        Tensor::new(device, &shape, &random.numbers(batch * n_heads * length * dim)).unwrap()
    };
    let q = tensor(n_heads, n_queries, head_dim);
    let (k, v) = (tensor(kv_heads, n_keys, head_dim), tensor(kv_heads, n_keys, v_dim));
    let mask = Mask::new(device, &[batch, n_keys], &random.booleans(batch * n_keys, 0.7)).unwrap();
    let kinds = [FeatureKind::Identity, FeatureKind::Softmax, FeatureKind::Relu, FeatureKind::Exp];
    let projection = random_features(device, seed, n_features, head_dim, ProjectionRows::Orthogonal).unwrap();
    let features = match kinds[kind] {
        FeatureKind::Identity => FeatureMap::identity(0.5),
        kind => FeatureMap { kind, ..FeatureMap::softmax(projection) },
    };
    let normalizer = match kinds[kind] {
        FeatureKind::Softmax if (seed / 2).is_multiple_of(2) => Normalizer::Stable,
        _ if kind.is_multiple_of(2) => Normalizer::KeyCount,
        _ => Normalizer::FeatureSum { floor: 1e-6 },
    };
    let grouped = Layout::Grouped { n_heads, n_kv_heads: kv_heads };
    let layout = if head_major { Layout::HeadMajor } else { grouped };
    let attention = LinearAttention::new(layout, features, normalizer);
    let state = attention.write(None, &k, &v, seed.is_multiple_of(2).then_some(&mask)).unwrap();
    let read = attention.read(&q, &state.merge(&state).unwrap()).unwrap().values;
    let rows = q.reshape(&[q.len() / head_dim, head_dim]).unwrap();
    let features = feature_map(&rows, &attention.features).unwrap();
    // Sums over many keys are as large as there are keys, and so is their rounding.
    let zeros = Tensor::zeros(device, state.sums.shape()).unwrap();
    let means = add(&zeros, &state.sums, 1.0 / n_keys as f32).unwrap();
    vec![("LinearAttention", read), ("LinearAttention's means", means), ("feature_map", features)]
}

proptest! {
    // A software adapter compiles a shader for each.
    #![proptest_config(ProptestConfig { cases: twin_cases(), ..ProptestConfig::default() })]

    #[test]
    fn scan_attention_twins(shape in shapes()) {
        assert_twins(|device| attend(device, &shape));
    }

    #[test]
    fn linear_attention_twins(
        sizes in (1..4usize, 1..4usize, 1..90usize, 1..700usize, 1..70usize, 1..70usize, 1..90usize),
        head_major: bool,
        kind in 0..4usize,
        seed: u64,
    ) {
        let sizes = <[usize; 7]>::from(sizes);
        assert_twins(|device| linear_attention(device, sizes, head_major, kind, seed));
    }

    #[test]
    fn small_twins(rows in 1..300usize, n_in in 1..150usize, n_out in 1..150usize, seed: u64) {
        assert_twins(|device| {
            let mut random = Random::new(seed);
            let mut tensor = |shape: &[usize]| {
                Tensor::new(device, shape, &random.numbers(shape.iter().product())).unwrap()
            };
            let (x, residual) = (tensor(&[rows, n_in]), tensor(&[rows, n_out]));
            let layer = Linear { weight: tensor(&[n_in, n_out]), bias: Some(tensor(&[n_out])) };
            let (scale, bias) = (tensor(&[n_out]), tensor(&[n_out]));
            let y = linear(&x, &layer, Activation::GeluErf, Some(&residual)).unwrap();
            let lse = tensor(&[rows, 1]);
            // A large epsilon: a row of one or two numbers would magnify what it is given.
            let normed = layer_norm(&y, &scale, &bias, 0.1, Some(&residual)).unwrap();
            let merged = merge_attention(&y, &lse).unwrap();
            let joined = concat(&x, n_in / 3..n_in, &y).unwrap();
            let halves = geglu(&concat(&y, 0..n_out, &normed).unwrap()).unwrap();
            let mapped = Map::ALL.map(|kind| ("map", map(&y, kind).unwrap()));
            let rest = [
                ("linear", y.clone()),
                ("layer_norm", normed.clone()),
                ("merge_attention", merged.values),
                ("concat", joined),
                ("columns", columns(&x, n_in / 3..n_in).unwrap()),
                ("scale_columns", scale_columns(&y, &scale).unwrap()),
                ("add", add(&y, &bias, 0.5).unwrap()),
                ("geglu", halves),
                ("unit_norm", unit_norm(&x).unwrap()),
            ];
            mapped.into_iter().chain(rest).collect()
        });
    }

    #[test]
    fn rolling_attention_twins(
        sizes in (1..3usize, 1..4usize, 1..40usize, 1..30usize, 1..40usize),
        lengths in proptest::collection::vec(1..100usize, 1..5),
        has_mask: bool,
        seed: u64,
    ) {
        let (batch, n_heads, n_queries, head_dim, v_dim) = sizes;
        assert_twins(|device| {
            let mut random = Random::new(seed);
            let mut tensor = |n: usize, dim: usize| {
                let numbers = random.numbers(batch * n * n_heads * dim);
                Tensor::new(device, &[batch, n, n_heads * dim], &numbers).unwrap()
            };
            let queries = tensor(n_queries, head_dim);
            let attention = RollingAttention::new(layout(false, n_heads), queries);
            let mut state = None;
            for &n in &lengths {
                let (k, v) = (tensor(n, head_dim), tensor(n, v_dim));
                let keep: Vec<bool> = (0..batch * n).map(|i| i % 3 != 1).collect();
                let mask = Mask::new(device, &[batch, n], &keep).unwrap();
                state = Some(attention.write(state.as_ref(), &k, &v, has_mask.then_some(&mask)).unwrap());
            }
            let state = state.unwrap();
            let read = attention.read(&state.merge(&state).unwrap()).unwrap();
            let lse = read.log_sum_exp.unwrap();
            vec![("RollingAttention", read.values), ("RollingAttention's log-sum-exp", lse)]
        });
    }

    #[test]
    fn attention_memory_twins(
        (batch, n_heads, n) in (1..4usize, 1..4usize, 1..150usize),
        (head_dim, v_dim) in (1..40usize, 1..40usize),
        (gates, is_chunked) in (0..16usize, any::<bool>()),
        seed: u64,
    ) {
        assert_twins(|device| {
            let mut random = Random::new(seed);
            let mut tensor = |dim: usize| {
                let numbers = random.numbers(batch * n * n_heads * dim);
                Tensor::new(device, &[batch, n, n_heads, dim], &numbers).unwrap()
            };
            let flat = |x: Tensor, dim: usize| x.reshape(&[batch, n, n_heads * dim]).unwrap();
            let q = flat(unit_norm(&tensor(head_dim)).unwrap(), head_dim);
            let k = flat(unit_norm(&tensor(head_dim)).unwrap(), head_dim);
            let v = flat(tensor(v_dim), v_dim);
            let mut p = || Probabilities::sigmoid(&flat(tensor(1), 1)).unwrap();
            let (p_read, p_write, p_erase, decay) = (p(), p(), p(), p());
            let mut options = AttentionMemory::new(layout(false, n_heads));
            options.form = Some(if is_chunked { Form::Chunked } else { Form::Recurrent });
            options.p_read = (gates & 1 != 0).then_some(&p_read);
            options.p_write = (gates & 2 != 0).then_some(&p_write);
            options.p_erase = (gates & 4 != 0).then_some(&p_erase);
            options.decay = (gates & 8 != 0).then_some(&decay);
            let recall = attention_memory(&q, &k, &v, &options).unwrap();
            let written = options.write(Some(&recall.state), &k, &v, None).unwrap();
            let read = options.read(&q, &written).unwrap().values;
            vec![
                ("attention_memory", recall.values),
                ("attention_memory's state", recall.state.memory),
                ("AttentionMemory::write", written.memory),
                ("AttentionMemory::read", read),
            ]
        });
    }

    #[test]
    fn recurrent_twins(
        (batch, n, n_in) in (1..9usize, 1..30usize, 1..9usize),
        (n_heads, dim, slots) in (1..4usize, 1..24usize, 1..40usize),
        (moves, has_probabilities, has_erase, reverse) in (0..3usize, any::<bool>(), any::<bool>(), any::<bool>()),
        seed: u64,
    ) {
        let heads = [HeadMoves::All, HeadMoves::NoJump, HeadMoves::OnlyJump][moves];
        assert_twins(|device| {
            let mut random = Random::new(seed);
            let mut tensor = |shape: &[usize], scale: f32| {
                Tensor::new(device, shape, &random.scaled(shape.iter().product(), scale)).unwrap()
            };
            let d_model = n_heads * dim;
            let x = tensor(&[batch, n, n_in], 1.0);
            let scale = 1.0 / (d_model as f32).sqrt();
            let mut dense = |n_out: usize| {
                let input = Linear { weight: tensor(&[n_in, n_out], 1.0), bias: Some(tensor(&[n_out], 1.0)) };
                (input, tensor(&[d_model, n_out], scale))
            };
            let ((input, hidden), (lsam_input, lsam_hidden)) = (dense(4 * d_model), dense(3 * d_model + 2 * n_heads));
            let long = lstm(&x, &Lstm { input, hidden }, None).unwrap();
            let cell = Lsam { n_heads, input: lsam_input, hidden: lsam_hidden };
            let direction = if reverse { Direction::Reverse } else { Direction::Forward };
            let short = lsam(&x, &cell, None, direction).unwrap();
            let action = tensor(&[batch, n, n_heads * heads.n_actions()], 1.0);
            // Heads that jump are divided by their length, which magnifies rounding without bound
            // where they come close to zero: so they jump seldom here.
            let mut logits = action.read().unwrap();
            for logits in logits.chunks_mut(heads.n_actions()).filter(|_| heads.jumps()) {
                logits[heads.n_directions() - 1] -= 3.0;
                logits[2 * heads.n_directions() - 1] -= 3.0;
            }
            let action = Tensor::new(device, action.shape(), &logits).unwrap();
            let value = add(&relu(&long.values).unwrap(), &short.values, -1.0).unwrap();
            let unit = |x: &Tensor| {
                unit_norm(&x.reshape(&[batch, n, n_heads, dim]).unwrap()).unwrap().reshape(&[batch, n, d_model]).unwrap()
            };
            let jumps = heads.jumps().then(|| (unit(&tensor(&[batch, n, d_model], 1.0)), unit(&tensor(&[batch, n, d_model], 1.0))));
            let inputs = TapeInputs {
                value: &value,
                key: jumps.as_ref().map(|(key, _)| key),
                query: jumps.as_ref().map(|(_, query)| query),
                action: &action,
                n_tapes: n_heads,
                tape_length: slots,
            };
            let probabilities = if has_probabilities { TapeProbabilities::Actions } else { TapeProbabilities::One };
            let erase = if has_erase { TapeErase::Own } else { TapeErase::Never };
            let key_erase = if seed.is_multiple_of(3) { KeyErase::ByPosition } else { KeyErase::ByContent };
            let options = TapeOptions { heads, probabilities, erase, key_erase };
            let output = tape(&inputs, options, None).unwrap();
            let p = Probabilities::sigmoid(&tensor(&[batch, n, n_heads], 2.0)).unwrap();
            vec![
                ("lstm", long.state),
                ("lsam", short.state.memory),
                ("gate of a tape", gate(&output.values, &p).unwrap()),
                ("tape", output.state.tape),
                ("heads of a tape", output.state.heads.unwrap()),
            ]
        });
    }
}

/// Long enough that a recurrence takes several launches: a software adapter ends every loop
/// after 65,535 iterations.
#[test]
fn long_recurrences_go_on_from_launch_to_launch() {
    assert_twins(|device| {
        let mut random = Random::new(9);
        let mut tensor = |shape: &[usize], scale: f32| {
            Tensor::new(device, shape, &random.scaled(shape.iter().product(), scale)).unwrap()
        };
        let x = tensor(&[1, 300, 3], 1.0);
        let input = Linear { weight: tensor(&[3, 4 * 256], 0.5), bias: None };
        let hidden = tensor(&[256, 4 * 256], 0.05);
        let long = lstm(&x, &Lstm { input, hidden }, None).unwrap().values;
        let n = 70_000;
        let (k, v) = (unit_norm(&tensor(&[1, n, 8], 1.0)).unwrap(), tensor(&[1, n, 8], 1.0));
        let p = Probabilities::sigmoid(&tensor(&[1, n, 1], 1.0)).unwrap();
        let options = AttentionMemory::new(layout(false, 1)).p_write(&p).p_erase(&p);
        let read = |form| {
            let read = attention_memory(&k, &k, &v, &options.form(form)).unwrap();
            columns(&read.values.reshape(&[1, n * 8]).unwrap(), 8 * (n - 10)..8 * n).unwrap()
        };
        vec![
            ("lstm", long),
            ("attention_memory, recurrent", read(Form::Recurrent)),
            ("attention_memory, chunked", read(Form::Chunked)),
        ]
    });
}

/// What is done row by row or number by number, of a width.
fn by_rows(device: &Device, rows: usize, width: usize) -> Outputs {
    let mut random = Random::new((rows * width) as u64);
    let mut tensor = |shape: &[usize]| Tensor::new(device, shape, &random.numbers(shape.iter().product())).unwrap();
    let (x, y, row) = (tensor(&[rows, width]), tensor(&[rows, width]), tensor(&[width]));
    let p = Probabilities::sigmoid(&tensor(&[rows, if width.is_multiple_of(2) { 2 } else { 1 }])).unwrap();
    let layer = Linear { weight: tensor(&[width, 5]), bias: None };
    let (parts, lse) = (tensor(&[2, 4 * rows]), tensor(&[2, 4 * rows]));
    let rest = [
        ("add", add(&x, &y, 0.5).unwrap()),
        ("add of a row", add(&x, &row, 0.5).unwrap()),
        ("scale_columns", scale_columns(&x, &row).unwrap()),
        ("scale_columns of all", scale_columns(&x, &y).unwrap()),
        ("columns", columns(&x, width / 4..width).unwrap()),
        ("concat", concat(&x, width / 4..width, &y).unwrap()),
        ("gate", gate(&x, &p).unwrap()),
        ("geglu", geglu(&concat(&x, 0..width, &y).unwrap()).unwrap()),
        ("layer_norm", layer_norm(&x, &row, &row, 0.1, None).unwrap()),
        ("layer_norm with a residual", layer_norm(&x, &row, &row, 0.1, Some(&y)).unwrap()),
        ("linear", linear(&x, &layer, Activation::None, None).unwrap()),
        ("merge_attention", merge_attention(&parts, &lse).unwrap().values),
    ];
    // Keys with their squares beside them, and queries with a one; features no wider than heads may be.
    let stable = (width < 256).then(|| {
        let favor = LinearAttention::favor(Layout::HeadMajor, tensor(&[3, width]));
        let (k, v) = (x.reshape(&[1, 1, rows, width]).unwrap(), y.reshape(&[1, 1, rows, width]).unwrap());
        let state = favor.write(None, &k, &v, None).unwrap();
        let read = favor.read(&k, &state).unwrap().values;
        [("stable features, written", state.sums), ("stable features, read", read)]
    });
    let maps = Map::ALL.into_iter().map(|kind| ("map", map(&x, kind).unwrap()));
    maps.chain(rest).chain(stable.into_iter().flatten()).collect()
}

/// Whole vectors and what is none, in every length.
#[test]
fn rows_of_every_width() {
    for (rows, width) in
        [(1, 1), (1, 4), (4, 1), (1, 7), (3, 8), (5, 12), (1, 63), (65, 64), (4, 65), (7, 100), (33, 132), (2, 1000)]
    {
        assert_twins(|device| by_rows(device, rows, width));
    }
}

/// As past 65,535 groups and 128 MiB, but of sizes that take no time.
#[test]
fn rows_in_pieces_and_folded_grids() {
    let limits = wgpu::Limits {
        max_storage_buffer_binding_size: 64 << 10,
        max_compute_workgroups_per_dimension: 15,
        ..wgpu::Limits::default()
    };
    let open = |adapter: Adapter, checked| {
        let options = GpuOptions::default().limits(limits.clone()).checked(checked);
        (format!("{adapter}, checked={checked}"), Device::on_adapter(&adapter, &options).unwrap())
    };
    let all = Device::adapters().into_iter();
    let devices: Vec<_> = all.flat_map(|adapter| [open(adapter.clone(), false), open(adapter, true)]).collect();
    for (rows, width) in [(500, 64), (501, 65), (40, 1000), (19, 1001)] {
        assert_twins_on(devices.iter().cloned(), |device| by_rows(device, rows, width));
    }
}
