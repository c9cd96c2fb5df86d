//! Scan attention against the float64 oracle and its CPU twin: lengths, head sizes, layouts,
//! masks, biases, splits.

mod custom_bias;
mod matrix;
mod shapes;

use std::sync::Arc;

use crate::support::{
    Random, bound, devices, error, layout,
    oracle::{self, Case, Term, projected},
    part, poison,
};
use wgpu_attention::{
    Device, Mask, Tensor,
    ops::{
        Attention, Bias, BiasKernel, BiasTerm, CustomBias, Distance, ScanAttention,
        scan_attention::{MASKED, scan_attention},
    },
};

/// What f32 costs here, as the golden cases recorded it for sizes like these (about 8e-7 for the
/// papers' own code); [`bound`] multiplies it.
const RECORDED: f64 = 8e-7;

fn case(random: &mut Random, [batch, n_heads, n_queries, n_keys, head_dim, v_dim]: [usize; 6]) -> Case {
    Case {
        batch,
        n_heads,
        n_queries,
        n_keys,
        head_dim,
        v_dim,
        q: random.scaled(batch * n_heads * n_queries * head_dim, 2.0),
        k: random.scaled(batch * n_heads * n_keys * head_dim, 2.0),
        v: random.numbers(batch * n_heads * n_keys * v_dim),
        ..Case::default()
    }
}

fn add_terms(
    random: &mut Random,
    case: &mut Case,
    n_columns: usize,
    terms: &[(std::ops::Range<usize>, Distance, BiasKernel, usize)],
) {
    case.n_columns = n_columns;
    case.q_coords = random.scaled(case.batch * case.n_queries * n_columns, 2.0);
    case.k_coords = random.scaled(case.batch * case.n_keys * n_columns, 2.0);
    for (columns, distance, kernel, n_basis) in terms {
        let n = case.n_heads * n_basis;
        let mut b: Vec<f32> = random.numbers(n).iter().map(|x| x.abs() + 0.1).collect();
        // A sign that upstream allows: the bias grows with distance.
        b[n - 1] = -0.05;
        // Back in time this one would reach logits of ten thousands, which f32 does not tell apart.
        if (*kernel, *distance) == (BiasKernel::Matern32, Distance::CausalTime) {
            b.iter_mut().for_each(|b| *b *= 0.25);
        }
        case.terms.push(Term {
            columns: columns.clone(),
            distance: *distance,
            kernel: *kernel,
            n_basis: *n_basis,
            a: random.numbers(n),
            b: if kernel.parameters().contains(&"b") { b } else { vec![] },
            c: if kernel.parameters().contains(&"c") { random.numbers(n) } else { vec![] },
        });
    }
}

/// All devices, and the adapters with every variant forced.
fn every_variant() -> Vec<(String, Device)> {
    #[allow(unused_mut)]
    let mut all = devices();
    #[cfg(feature = "gpu")]
    all.extend(crate::support::forced_scans());
    all
}

/// Of a device that is made to run a variant, widths of heads and values that are wide for it. Few of them, for
/// each is a text, and it takes seconds to compile where a processor runs it.
fn wide_heads(device: &Device) -> Option<Vec<[usize; 2]>> {
    let forced = device.capabilities().forced;
    forced.get("scan_attention").map(|variant| match &variant[..] {
        "decode 8" => vec![[64, 52]],
        "rolled 32" | "decode 2 by 16" => vec![[256, 132]],
        // One for each number of slices, and for where threads share the columns of v.
        "rows 4" => vec![[64, 52], [96, 68], [128, 100]],
        "rows 8" => vec![[16, 16], [32, 28], [52, 64]],
        _ => vec![[128, 100]],
    })
}

/// All devices, and the adapters with the rows where a thread has most queries. The others compute
/// biases by the same lines.
fn rows_too() -> Vec<(String, Device)> {
    #[allow(unused_mut)]
    let mut all = devices();
    #[cfg(feature = "gpu")]
    all.extend(crate::support::forced("scan_attention", "rows 8"));
    all
}

struct Run<'a> {
    head_major: bool,
    n_splits: Option<usize>,
    extra: &'a [BiasTerm],
}

const PLAIN: Run<'_> = Run { head_major: true, n_splits: None, extra: &[] };

fn run(device: &Device, case: &Case, how: &Run<'_>) -> Attention {
    let Case { batch, n_heads, n_queries, n_keys, head_dim, v_dim, n_columns, .. } = *case;
    let tensor = |data: &[f32], length: usize, dim: usize| {
        if how.head_major {
            Tensor::new(device, &[batch, n_heads, length, dim], data).unwrap()
        } else {
            let data = projected(data, [batch, n_heads, length, dim]);
            Tensor::new(device, &[batch, length, n_heads * dim], &data).unwrap()
        }
    };
    let (q, k, v) =
        (tensor(&case.q, n_queries, head_dim), tensor(&case.k, n_keys, head_dim), tensor(&case.v, n_keys, v_dim));
    let mask = case.mask.as_ref().map(|keep| Mask::new(device, &[batch, n_keys], keep).unwrap());
    let mut terms: Vec<BiasTerm> = case.terms.iter().map(|t| t.bias_term()).collect();
    terms.extend_from_slice(how.extra);
    let q_coords = Tensor::new(device, &[batch, n_queries, n_columns], &case.q_coords).unwrap();
    let k_coords = Tensor::new(device, &[batch, n_keys, n_columns], &case.k_coords).unwrap();
    let matrix =
        case.matrix.as_ref().map(|matrix| Tensor::new(device, &[batch, n_heads, n_queries, n_keys], matrix).unwrap());
    let mut bias = if terms.is_empty() { Bias::default() } else { Bias::new(&q_coords, &k_coords, &terms) };
    bias.matrix = matrix.as_ref();
    let rows = batch * n_heads * n_queries;
    poison(device, &[rows * v_dim, rows]);
    let mut options = ScanAttention::new(layout(how.head_major, n_heads)).bias(bias);
    options.key_mask = mask.as_ref();
    options.n_splits = how.n_splits;
    scan_attention(&q, &k, &v, &options).unwrap()
}

/// Runs a case and compares values and log-sum-exp with the oracle's.
fn check(what: &str, name: &str, device: &Device, case: &Case, how: &Run<'_>) {
    let (mut values, lse) = oracle::scan_attention(case);
    // The sentinel is a number like any other here.
    let mut lse: Vec<f64> = lse.into_iter().map(|lse| lse.unwrap_or(f64::from(MASKED))).collect();
    if !how.head_major {
        let rows = [case.batch, case.n_heads, case.n_queries];
        values = projected(&values, [rows[0], rows[1], rows[2], case.v_dim]);
        lse = projected(&lse, [rows[0], rows[1], rows[2], 1]);
    }
    let found = run(device, case, how);
    let allowed = bound(device, RECORDED);
    for (part, found, truth) in
        [("values", found.values.read().unwrap(), &values), ("log_sum_exp", found.log_sum_exp.read().unwrap(), &lse)]
    {
        let error = error(&found, truth);
        assert!(error <= allowed, "{what} on {name}: {part} off by {error:.2e}, allowed {allowed:.2e}");
    }
}

#[test]
fn lengths_and_head_sizes() {
    let mut random = Random::new(1);
    for (turn, (name, device)) in every_variant().into_iter().enumerate() {
        for length in [1, 7, 63, 64, 65, 100, 1000] {
            let other = [1, 64, 33, 130, 9, 257, 100][random.below(7)];
            let case = case(&mut random, [1, 2, length, other, 16, 16]);
            check(&format!("{length} queries, {other} keys"), &name, &device, &case, &PLAIN);
            let case = self::case(&mut random, [2, 1, other.min(100), length, 8, 24]);
            check(&format!("{length} keys"), &name, &device, &case, &PLAIN);
        }
        let all = [[16, 32], [30, 7], [96, 128], [1, 1], [3, 5], [32, 33], [65, 31], [128, 2], [250, 256]];
        // What is no multiple of 4 a variant leaves to `portable`, which all devices run.
        // Of the wide ones those that below have no biases and masks.
        let of_variant = |wide: Vec<_>| part(turn, 2, &device, wide).chain([[30, 7]]).collect();
        for [head_dim, v_dim] in wide_heads(&device).map_or(all.to_vec(), of_variant) {
            let case = case(&mut random, [1, 3, 37, 70, head_dim, v_dim]);
            check(&format!("head_dim {head_dim}, v_dim {v_dim}"), &name, &device, &case, &PLAIN);
            let how = Run { head_major: false, ..PLAIN };
            check(&format!("projected, head_dim {head_dim}, v_dim {v_dim}"), &name, &device, &case, &how);
        }
    }
}

#[test]
fn masks_and_empty_rows() {
    let mut random = Random::new(2);
    for (name, device) in every_variant() {
        let mut case = case(&mut random, [3, 2, 40, 77, 12, 10]);
        let mut keep = random.booleans(3 * 77, 0.4);
        keep[77..2 * 77].fill(false);
        // What does not exist may hold anything.
        for (j, _) in keep.iter().enumerate().filter(|(_, keep)| !**keep) {
            for h in 0..2 {
                let key = (j / 77 * 2 + h) * 77 + j % 77;
                case.k[key * 12..][..12].fill(f32::NAN);
                case.v[key * 10..][..10].fill(f32::NAN);
            }
        }
        case.mask = Some(keep);
        for (head_major, n_splits) in [(true, None), (false, None), (true, Some(3)), (false, Some(77))] {
            let how = Run { head_major, n_splits, ..PLAIN };
            check(&format!("masked, splits {n_splits:?}"), &name, &device, &case, &how);
        }
        let found = run(&device, &case, &PLAIN);
        let rows = 2 * 40;
        assert!(found.values.read().unwrap()[rows * 10..2 * rows * 10].iter().all(|&x| x == 0.0));
        assert!(found.log_sum_exp.read().unwrap()[rows..2 * rows].iter().all(|&x| x == MASKED));
    }
}

#[test]
fn every_bias() {
    let mut random = Random::new(3);
    for (name, device) in rows_too() {
        let distances = [Distance::Euclidean, Distance::GreatCircle, Distance::CausalTime];
        for (turn, distance) in distances.into_iter().enumerate() {
            for kernel in part(turn, 3, &device, BiasKernel::ALL) {
                let n_basis = if kernel == BiasKernel::Scalar { 1 } else { 3 };
                let columns = match distance {
                    Distance::Euclidean => 1..3,
                    Distance::GreatCircle => 0..2,
                    _ => 2..3,
                };
                let mut case = case(&mut random, [2, 2, 35, 50, 8, 8]);
                add_terms(&mut random, &mut case, 3, &[(columns, distance, kernel, n_basis)]);
                check(&format!("{kernel:?} over {distance:?}"), &name, &device, &case, &PLAIN);
            }
        }
        // Space, time and a matrix, all at once, in the projected layout, with a mask, split.
        let mut case = case(&mut random, [2, 3, 33, 100, 20, 12]);
        let both = [(0..2, Distance::Euclidean, BiasKernel::Rbf, 5), (2..3, Distance::CausalTime, BiasKernel::Rbf, 12)];
        add_terms(&mut random, &mut case, 3, &both);
        case.mask = Some(random.booleans(200, 0.8));
        let mut matrix = random.numbers(2 * 3 * 33 * 100);
        matrix.iter_mut().step_by(7).for_each(|x| *x = f32::NEG_INFINITY);
        case.matrix = Some(matrix);
        let needs = 9;
        if supports(&device, needs) {
            check("everything", &name, &device, &case, &Run { head_major: false, n_splits: Some(4), extra: &[] });
        } else {
            println!("{name}: fewer than {needs} storage buffers, so not everything at once");
        }
    }
}

/// Wide heads, where variants differ in what threads hold, with terms that read most of the coordinates;
/// more queries than keys, times before all keys, tiles that are masked whole, and few queries.
#[test]
fn wide_heads_with_biases_and_masks() {
    let mut random = Random::new(9);
    let terms =
        [(0..2, Distance::GreatCircle, BiasKernel::Rbf, 3), (2..3, Distance::CausalTime, BiasKernel::Exponential, 2)];
    // Of as many heads each, for their number makes texts, too; lengths do not.
    let n_heads = 2;
    let lengths = [[1, 70, 9], [1, 65, 130], [2, 2, 300], [1, 3, 129], [1, 1, 257]];
    for (turn, (name, device)) in every_variant().into_iter().enumerate() {
        let all = vec![[5, 1], [128, 100], [256, 132]];
        for [head_dim, v_dim] in part(turn + 1, 2, &device, wide_heads(&device).unwrap_or(all)) {
            for [batch, n_queries, n_keys] in lengths {
                let mut case = case(&mut random, [batch, n_heads, n_queries, n_keys, head_dim, v_dim]);
                add_terms(&mut random, &mut case, 3, &terms);
                let mut keep = random.booleans(batch * n_keys, 0.7);
                keep[..n_keys.min(128) / 2].fill(false);
                for (j, _) in keep.iter().enumerate().filter(|(_, keep)| !**keep) {
                    for h in 0..n_heads {
                        let key = (j / n_keys * n_heads + h) * n_keys + j % n_keys;
                        case.k[key * head_dim..][..head_dim].fill(f32::NAN);
                        case.v[key * v_dim..][..v_dim].fill(f32::NAN);
                    }
                }
                case.mask = Some(keep);
                for n_splits in [None, Some(3)] {
                    let how = Run { head_major: n_splits.is_none(), n_splits, ..PLAIN };
                    let what =
                        format!("{n_queries} queries, {n_keys} keys of {head_dim}, {v_dim}, splits {n_splits:?}");
                    check(&what, &name, &device, &case, &how);
                }
            }
        }
    }
}

#[cfg(feature = "gpu")]
fn supports(device: &Device, n_buffers: u32) -> bool {
    device.limits().is_none_or(|limits| limits.max_storage_buffers_per_shader_stage >= n_buffers)
}

#[cfg(not(feature = "gpu"))]
fn supports(_: &Device, _: u32) -> bool {
    true
}

#[test]
fn great_circle_at_its_hard_points() {
    // Coincident, nearly coincident, antipodal, across the antimeridian, at the poles.
    let points: [[f32; 2]; 9] = [
        [0.0, 0.0],
        [180.0, 0.0],
        [179.5, 10.0],
        [-179.5, 10.0],
        [12.3, 90.0],
        [-77.0, -90.0],
        [45.0, 45.0],
        [45.001, 45.0],
        [-135.0, -45.0],
    ];
    let n = points.len();
    let coords: Vec<f32> = points.iter().flatten().copied().collect();
    for (name, device) in devices() {
        // One query against one key each: the log-sum-exp is the bias itself, here the distance.
        let pairs: Vec<f32> = points.iter().flat_map(|p| std::iter::repeat_n(*p, n)).flatten().collect();
        let keys: Vec<f32> = (0..n).flat_map(|_| coords.clone()).collect();
        let batch = n * n;
        let zeros = Tensor::new(&device, &[batch, 1, 1, 1], &vec![0.0; batch]).unwrap();
        let q_coords = Tensor::new(&device, &[batch, 1, 2], &pairs).unwrap();
        let k_coords = Tensor::new(&device, &[batch, 1, 2], &keys).unwrap();
        let terms = [BiasTerm::built_in(0..2, Distance::GreatCircle, BiasKernel::Scalar, &[&[1.0]])];
        let options = ScanAttention::default().bias(Bias::new(&q_coords, &k_coords, &terms));
        let found = scan_attention(&zeros, &zeros, &zeros, &options).unwrap();
        for (i, d) in found.log_sum_exp.read().unwrap().iter().enumerate() {
            let (p, q) = (points[i / n], points[i % n]);
            let truth = oracle::distance(Distance::GreatCircle, &p, &q).unwrap();
            // A unit vector rounded to f32 is off by up to 1e-7 rad, which is 6e-6 degrees.
            assert!((f64::from(*d) - truth).abs() <= 2e-5, "{name}: {p:?} to {q:?} is {d}, truth {truth}");
        }
    }
}

/// Fault F15: under 10 m a software adapter was up to 16% off.
#[test]
fn f15_small_circles_keep_their_digits() {
    let mut random = Random::new(15);
    let (mut q, mut k, mut n) = (Vec::new(), Vec::new(), 0);
    // From a metre to 10,000 km, everywhere, at the poles and across the antimeridian.
    for step in 0..40 {
        let size = 1e-5 * 10f32.powf(0.175 * step as f32);
        for place in 0..25 {
            let [x, y, dx, dy] = random.numbers(4).try_into().unwrap();
            let (lon, lat) = match place % 5 {
                0 => (180.0, 70.0 * y),
                1 => (180.0 * x, 90.0),
                2 => (180.0 * x, 89.9 + 0.1 * y),
                _ => (180.0 * x, 90.0 * y),
            };
            q.extend([lon, lat]);
            let lon = lon + size * dx;
            k.extend([if place % 5 == 0 && lon > 180.0 { lon - 360.0 } else { lon }]);
            k.extend([(lat + size * dy).clamp(-90.0, 90.0)]);
            n += 1;
        }
    }
    for (name, device) in devices() {
        let zeros = Tensor::new(&device, &[n, 1, 1, 1], &vec![0.0; n]).unwrap();
        let [q_coords, k_coords] = [&q, &k].map(|x| Tensor::new(&device, &[n, 1, 2], x).unwrap());
        let terms = [BiasTerm::built_in(0..2, Distance::GreatCircle, BiasKernel::Scalar, &[&[1.0]])];
        let options = ScanAttention::default().bias(Bias::new(&q_coords, &k_coords, &terms));
        let found = scan_attention(&zeros, &zeros, &zeros, &options).unwrap().log_sum_exp.read().unwrap();
        for ((p, q), found) in q.chunks(2).zip(k.chunks(2)).zip(found) {
            let truth = oracle::distance(Distance::GreatCircle, p, q).unwrap();
            // Some units in the last place, and what a micrometre is.
            let allowed = 4e-6 * truth + 1e-11;
            assert!((f64::from(found) - truth).abs() <= allowed, "{name}: {p:?} to {q:?} is {found:e}, not {truth:e}");
        }
    }
}

#[test]
fn coordinates_that_are_not_finite_mask_their_pairs() {
    let mut random = Random::new(4);
    for (name, device) in every_variant() {
        // Texts of the test below.
        let mut case = case(&mut random, [1, 2, 20, 30, 16, 16]);
        add_terms(&mut random, &mut case, 2, &[(0..2, Distance::Euclidean, BiasKernel::Rbf, 2)]);
        case.k_coords[7] = f32::NAN;
        case.k_coords[20] = f32::INFINITY;
        case.q_coords[5] = f32::NAN;
        check("NaN coordinates", &name, &device, &case, &PLAIN);
    }
}

#[test]
fn splits_agree_and_the_same_input_gives_the_same_bits() {
    let mut random = Random::new(5);
    for (name, device) in every_variant() {
        let mut case = case(&mut random, [1, 2, 5, 700, 16, 16]);
        add_terms(&mut random, &mut case, 2, &[(0..2, Distance::Euclidean, BiasKernel::Rbf, 2)]);
        for n_splits in [1, 2, 3, 64, 699, 700] {
            let how = Run { n_splits: Some(n_splits), ..PLAIN };
            check(&format!("{n_splits} splits"), &name, &device, &case, &how);
        }
        let bits = |_| -> Vec<u32> {
            run(&device, &case, &PLAIN).values.read().unwrap().iter().map(|x| x.to_bits()).collect()
        };
        assert_eq!(bits(0), bits(1), "{name}");
    }
}

#[test]
fn huge_logits_neither_overflow_nor_vanish() {
    let mut random = Random::new(6);
    for (name, device) in every_variant() {
        let mut case = case(&mut random, [1, 1, 40, 50, 16, 4]);
        // Logits of thousands, all of them negative: one key takes each row whole.
        for i in 0..case.q.len() {
            case.q[i] = case.q[i].abs() * 60.0;
        }
        case.k.iter_mut().for_each(|k| *k = -k.abs() * 60.0);
        let (truth, _) = oracle::scan_attention(&case);
        let found = run(&device, &case, &PLAIN).values.read().unwrap();
        // The logits reach 1e5, where f32 steps by 0.008: weights are good to about 1 %.
        let error = error(&found, &truth);
        assert!(error < 2e-2, "{name}: off by {error:.2e}");
    }
}

/// A scale that overflows in base 2 by itself, and the largest that a bias may be.
#[test]
fn extremes_of_scales_and_biases_are_as_they_are_told() {
    for (name, device) in devices() {
        let t = |shape: &[usize], numbers: &[f32]| Tensor::new(&device, shape, numbers).unwrap();
        let (q, k) = (t(&[1, 1, 1, 2], &[2e-38, 0.0]), t(&[1, 1, 2, 2], &[1.0, 0.0, 0.0, 0.0]));
        let v = t(&[1, 1, 2, 1], &[1.0, 0.0]);
        let read = scan_attention(&q, &k, &v, &ScanAttention::default().scale(3e38)).unwrap();
        // Logits of 6 and 0.
        let (value, lse) = (read.values.read().unwrap()[0], read.log_sum_exp.read().unwrap()[0]);
        let logit = 2e-38f32 as f64 * 3e38f32 as f64;
        let [share, sum] = [1.0 / (1.0 + (-logit).exp()), logit.exp().ln_1p()];
        assert!((f64::from(value) - share).abs() < 1e-5, "{name}: {value}, not {share}");
        assert!((f64::from(lse) - sum).abs() < 1e-5 * sum, "{name}: {lse}, not {sum}");

        let (one, far) = (t(&[1, 1, 1], &[0.0]), t(&[1, 1, 1], &[100.0]));
        let one_key = t(&[1, 1, 1, 1], &[0.0]);
        for kernel in BiasKernel::ALL {
            for a in [-1e34f32, -8e9, -1.0, 1.0, 1e34] {
                for b in [-1.0, -1e9, 0.3] {
                    let parameters = [&[a][..], &[b], &[0.0]];
                    let term =
                        BiasTerm::built_in(0..1, Distance::Euclidean, kernel, &parameters[..kernel.parameters().len()]);
                    let terms = [term];
                    let options = ScanAttention::default().bias(Bias::new(&one, &far, &terms));
                    let bias =
                        scan_attention(&one_key, &one_key, &one_key, &options).unwrap().log_sum_exp.read().unwrap()[0];
                    // 2^113, and as the logarithm comes back from base 2.
                    let largest = 2f32.powi(113) * if kernel == BiasKernel::Scalar { 100.0 } else { 1.0 };
                    assert!(bias.abs() <= largest * (1.0 + 1e-5), "{name}, {kernel:?}, {a}, {b}: {bias}");
                }
            }
        }
    }
}

#[test]
fn one_grid_past_65535_groups() {
    // 70 000 batch elements are as many workgroups; each has one query and two keys.
    let batch = 70_000;
    let mut random = Random::new(9);
    let case = case(&mut random, [batch, 1, 1, 2, 1, 1]);
    for (name, device) in devices() {
        check("70 000 workgroups", &name, &device, &case, &PLAIN);
    }
}

/// Tiles of keys of which no query reads one are passed over: bit for bit as if they were not there,
/// whatever they hold.
#[cfg(feature = "gpu")]
#[test]
fn keys_that_no_query_reads_are_passed_over() {
    let mut random = Random::new(8);
    const ROUND: usize = 256;
    for (name, device) in every_variant().into_iter().filter(|(_, device)| !crate::support::is_cpu(device)) {
        for (n_queries, is_causal) in [(3, false), (3, true), (70, false), (70, true)] {
            // Of four rounds the first and the third are read, but for some keys.
            let mut long = case(&mut random, [1, 2, n_queries, 4 * ROUND, 8, 12]);
            let is_read = |j: usize| (j / ROUND).is_multiple_of(2);
            let mut keep = random.booleans(4 * ROUND, 0.7);
            if is_causal {
                let term = (0..1, Distance::CausalTime, BiasKernel::Rbf, 2);
                add_terms(&mut random, &mut long, 1, &[term]);
                long.q_coords.iter_mut().for_each(|x| *x += 2.0);
                long.k_coords.iter_mut().enumerate().filter(|(j, _)| !is_read(*j)).for_each(|(j, x)| {
                    *x = [4.5, 1e30, f32::NAN, f32::INFINITY][j % 4];
                });
                long.q_coords[1] = f32::NAN;
            } else {
                keep.iter_mut().enumerate().for_each(|(j, keep)| *keep &= is_read(j));
            }
            for j in (0..4 * ROUND).filter(|&j| !is_read(j)) {
                for h in 0..2 {
                    long.k[(h * 4 * ROUND + j) * 8..][..8].fill(f32::NAN);
                    long.v[(h * 4 * ROUND + j) * 12..][..12].fill(f32::NAN);
                }
            }
            fn read_alone<T: Copy>(x: &[T], width: usize) -> Vec<T> {
                x.chunks(ROUND * width).step_by(2).flatten().copied().collect()
            }
            let mut short = case(&mut random, [1, 2, n_queries, 2 * ROUND, 8, 12]);
            (short.q, short.k, short.v) = (long.q.clone(), read_alone(&long.k, 8), read_alone(&long.v, 12));
            (short.n_columns, short.q_coords) = (long.n_columns, long.q_coords.clone());
            short.k_coords = read_alone(&long.k_coords, 1);
            short.terms.clone_from(&long.terms);
            (short.mask, long.mask) = (Some(read_alone(&keep, 1)), Some(keep));
            let how = Run { n_splits: Some(1), ..PLAIN };
            let bits = |case: &Case| {
                let read = run(&device, case, &how);
                let all = [read.values, read.log_sum_exp].map(|x| x.read().unwrap());
                all.map(|x| x.into_iter().map(f32::to_bits).collect::<Vec<_>>())
            };
            assert_eq!(bits(&long), bits(&short), "{name}: {n_queries} queries, causal {is_causal}");
            check("with keys that nobody reads", &name, &device, &long, &how);
        }
    }
}

/// A bias of distance alone, of one key for each query: latitudes may be beyond the poles, and whole turns apart.
#[test]
fn great_circles_of_whole_turns() {
    let pairs = [
        ([0.0f32, 0.0], [0.0f32, 360.0]),
        ([0.0, -180.0], [0.0, 180.0]),
        ([10.0, 45.0], [10.0, 405.0]),
        ([370.0, 45.0], [10.0, -315.0]),
        ([0.0, 0.0], [0.0, 350.0]),
        ([20.0, 30.0], [25.0, 390.0]),
        ([20.0, 30.0], [20.001, 30.001]),
    ];
    for (name, device) in devices() {
        for (here, there) in pairs {
            let tensor = |shape: &[usize], numbers: &[f32]| Tensor::new(&device, shape, numbers).unwrap();
            let (one, here_, there_) =
                (tensor(&[1, 1, 1, 1], &[0.0]), tensor(&[1, 1, 2], &here), tensor(&[1, 1, 2], &there));
            let terms = [BiasTerm::built_in(0..2, Distance::GreatCircle, BiasKernel::Scalar, &[&[-1.0]])];
            let options = ScanAttention::default().bias(Bias::new(&here_, &there_, &terms));
            let found = -scan_attention(&one, &one, &one, &options).unwrap().log_sum_exp.read().unwrap()[0];
            let expected = oracle::distance(Distance::GreatCircle, &here, &there).unwrap();
            // The angle of a turn in f32 is right to 1e-6 of a radian; of near points the difference is exact on a GPU.
            let is_turned = here.iter().zip(&there).any(|(a, b)| (a - b).abs() > 180.0);
            let allowed = if is_turned || device == Device::cpu() { 1e-4 } else { 1e-6 + 1e-4 * expected };
            assert!((f64::from(found) - expected).abs() < allowed, "{name}: {here:?} {there:?}: {found}, {expected}");
        }
    }
}

/// Each named term is the built-in one of its kernel, with its parameters in their order.
#[test]
fn named_terms_are_built_in_ones() {
    let (a, b, c) = ([0.5, 1.0], [2.0, 3.0], [4.0, 5.0]);
    for (term, kernel, parameters) in [
        (BiasTerm::scalar(1..3, &a), BiasKernel::Scalar, &[&a[..]][..]),
        (BiasTerm::rbf(1..3, &a, &b), BiasKernel::Rbf, &[&a, &b]),
        (BiasTerm::tisa(1..3, &a, &b, &c), BiasKernel::Tisa, &[&a, &b, &c]),
        (BiasTerm::exponential(1..3, &a, &b), BiasKernel::Exponential, &[&a, &b]),
        (BiasTerm::matern32(1..3, &a, &b), BiasKernel::Matern32, &[&a, &b]),
    ] {
        let built_in = BiasTerm::built_in(1..3, Distance::Euclidean, kernel, parameters);
        assert_eq!(format!("{term:?}"), format!("{built_in:?}"));
    }
}
