//! Every instruction set against float64. The public function has its own tests, with more
//! cases, in `tests/kernels/scan_attention.rs`.

use std::sync::Arc;

use super::{
    super::{
        bias::{BiasKernel, BiasTerm, Distance, TermKind},
        custom::CustomBias,
        problem::{CpuInputs, Problem},
        strides::BiasStrides,
    },
    distance::{self, Packed, distances},
    scan_attention,
};
use crate::{ops::softmax::MASKED, simd::levels, tensor::Numbers};
use fearless_simd::dispatch;

/// The project's bound for f32 on the CPU.
const ALLOWED: f64 = 2e-6;

/// Numbers in `[-1, 1)` from a linear congruence.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn numbers(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| scale * self.next()).collect()
    }
}

/// The numbers of one call.
struct Case {
    problem: Problem,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    key_mask: Option<Vec<f32>>,
    q_coords: Vec<f32>,
    k_coords: Vec<f32>,
    terms: Vec<BiasTerm>,
    matrix: Option<Vec<f32>>,
    n_splits: Option<usize>,
}

impl Case {
    fn new(random: &mut Random, lengths: [usize; 2], dims: [usize; 2], head_major: bool) -> Self {
        let ([n_queries, n_keys], [head_dim, v_dim]) = (lengths, dims);
        let (batch, n_heads, n_columns) = (2, 3, 3);
        let scale = 1.0 / (head_dim as f32).sqrt();
        Self {
            problem: Problem {
                batch,
                n_heads,
                kv_group: 1,
                n_queries,
                n_keys,
                head_dim,
                v_dim,
                head_major,
                scale,
                n_columns,
                n_basis: 0,
                iterations: 0,
                operations: 0,
                on_sphere: false,
                has_matrix: false,
                bias: BiasStrides {
                    q_coords: n_queries,
                    k_coords: n_keys,
                    matrix: [n_heads * n_queries * n_keys, n_queries * n_keys, n_keys],
                },
                n_operands: 5,
                n_splits: None,
            },
            q: random.numbers(batch * n_heads * n_queries * head_dim, 3.0),
            k: random.numbers(batch * n_heads * n_keys * head_dim, 3.0),
            v: random.numbers(batch * n_heads * n_keys * v_dim, 1.0),
            key_mask: None,
            q_coords: random.numbers(batch * n_queries * n_columns, 2.0),
            k_coords: random.numbers(batch * n_keys * n_columns, 2.0),
            terms: Vec::new(),
            matrix: None,
            n_splits: None,
        }
    }

    fn inputs(&self) -> CpuInputs<'_> {
        CpuInputs {
            q: &self.q,
            k: Numbers::F32(Arc::new(self.k.clone().into())),
            v: Numbers::F32(Arc::new(self.v.clone().into())),
            key_mask: self.key_mask.as_deref(),
            q_coords: &self.q_coords,
            k_coords: &self.k_coords,
            terms: &self.terms,
            matrix: self.matrix.as_deref(),
            n_splits: self.n_splits,
        }
    }

    /// One logit in float64; none if the pair is masked.
    fn logit(&self, [b, h, i, j]: [usize; 4]) -> Option<f64> {
        let Problem { n_heads, n_queries, n_keys, head_dim, n_columns, scale, .. } = self.problem;
        if self.key_mask.as_ref().is_some_and(|mask| mask[b * n_keys + j] == 0.0) {
            return None;
        }
        let at = |strides: [usize; 3], row: usize| b * strides[0] + h * strides[1] + row * strides[2];
        let q = &self.q[at(self.problem.strides(n_queries, head_dim), i)..][..head_dim];
        let k = &self.k[at(self.problem.strides(n_keys, head_dim), j)..][..head_dim];
        let mut logit = f64::from(scale) * q.iter().zip(k).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum::<f64>();
        for term in &self.terms {
            let q = &self.q_coords[(b * n_queries + i) * n_columns..][term.columns.clone()];
            let k = &self.k_coords[(b * n_keys + j) * n_columns..][term.columns.clone()];
            logit += bias(term, n_heads, h, q, k)?;
        }
        if let Some(matrix) = &self.matrix {
            let x = matrix[((b * n_heads + h) * n_queries + i) * n_keys + j];
            logit += Some(f64::from(x)).filter(|x| x.is_finite())?;
        }
        Some(logit)
    }

    /// Compares every row with float64, at every level.
    fn check(&self, what: &str) {
        let Problem { batch, n_heads, n_queries, n_keys, v_dim, .. } = self.problem;
        let runs: Vec<_> = levels()
            .iter()
            .map(|&level| (level, scan_attention(level, &self.problem, &self.inputs()).unwrap()))
            .collect();
        let at = |[b, h, row]: [usize; 3], s: [usize; 3]| b * s[0] + h * s[1] + row * s[2];
        for row in 0..batch * n_heads * n_queries {
            let (b, h, i) = (row / n_queries / n_heads, row / n_queries % n_heads, row % n_queries);
            let logits: Vec<Option<f64>> = (0..n_keys).map(|j| self.logit([b, h, i, j])).collect();
            let largest = logits.iter().flatten().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = logits.iter().map(|l| l.map_or(0.0, |l| (l - largest).exp())).collect();
            let sum: f64 = weights.iter().sum();
            let mut truth = vec![0.0; v_dim + 1];
            truth[v_dim] = if sum > 0.0 { largest + sum.ln() } else { f64::from(MASKED) };
            for (j, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
                let v = &self.v[at([b, h, j], self.problem.strides(n_keys, v_dim))..];
                (0..v_dim).for_each(|c| truth[c] += weight / sum * f64::from(v[c]));
            }
            for (level, (values, lse)) in &runs {
                let values = &values[at([b, h, i], self.problem.strides(n_queries, v_dim))..][..v_dim];
                let lse = lse[at([b, h, i], self.problem.strides(n_queries, 1))];
                for (&found, &truth) in values.iter().chain([&lse]).zip(&truth) {
                    let error = (f64::from(found) - truth).abs() / (1.0 + truth.abs());
                    assert!(error <= ALLOWED, "{what}, {level:?}, row {row}: {found} is not {truth}: {error:.1e}");
                }
            }
        }
    }
}

fn angle(q: &[f32], k: &[f32]) -> f64 {
    let unit = |p: &[f32]| {
        let (lon, lat) = (f64::from(p[0]).to_radians(), f64::from(p[1]).to_radians());
        [lon.cos() * lat.cos(), lon.sin() * lat.cos(), lat.sin()]
    };
    let (u, v) = (unit(q), unit(k));
    let norm = |sign: f64| u.iter().zip(v).map(|(u, v)| (u + sign * v).powi(2)).sum::<f64>().sqrt();
    (2.0 * norm(-1.0).atan2(norm(1.0))).to_degrees()
}

/// The bias of one pair in float64; none if the pair is masked.
fn bias(term: &BiasTerm, n_heads: usize, head: usize, q: &[f32], k: &[f32]) -> Option<f64> {
    if q.iter().chain(k).any(|x| !x.is_finite()) {
        return None;
    }
    let (distance, kernel, a, b, c) = match &term.kind {
        TermKind::Custom(custom) => {
            return Some(f64::from((custom.cpu)(q, k, head, &custom.params))).filter(|x| *x > -1e29);
        }
        TermKind::Distance { distance, kernel, a, b, c } => (distance, kernel, a, b, c),
    };
    let d = match distance {
        Distance::Euclidean => {
            q.iter().zip(k).map(|(&q, &k)| (f64::from(q) - f64::from(k)).powi(2)).sum::<f64>().sqrt()
        }
        Distance::CausalTime => Some(f64::from(k[0]) - f64::from(q[0])).filter(|d| *d <= 0.0)?,
        Distance::GreatCircle => angle(q, k),
    };
    let n_basis = term.n_basis(n_heads);
    let one = |i: usize| {
        let at = |x: &[f32]| x.get(i).copied().map_or(0.0, f64::from);
        let (a, b, c) = (at(a), at(b), at(c));
        match kernel {
            BiasKernel::Scalar => a * d,
            BiasKernel::Rbf => a * (-b * d * d).exp(),
            BiasKernel::Tisa => a * (-b * (d - c) * (d - c)).exp(),
            BiasKernel::Exponential => a * (-b * d).exp(),
            BiasKernel::Matern32 => {
                let x = 3f64.sqrt() * b * d;
                a * (1.0 + x) * (-x).exp()
            }
        }
    };
    Some((head * n_basis..(head + 1) * n_basis).map(one).sum())
}

#[test]
fn lengths_dims_layouts_and_splits() {
    let mut random = Random(1);
    for (i, n_keys) in [1, 7, 63, 64, 65, 100, 1000].into_iter().enumerate() {
        for (j, n_queries) in [1, 5, 6, 49].into_iter().enumerate() {
            let dims = [[1, 3], [3, 1], [16, 16], [30, 48], [32, 32], [65, 33], [128, 70], [256, 256]];
            let mut case = Case::new(&mut random, [n_queries, n_keys], dims[(i + 2 * j) % 8], (i + j) % 2 == 0);
            case.n_splits = [None, Some(1), Some(3)][(i + j) % 3].map(|n: usize| n.min(n_keys));
            case.check(&format!("{:?}, {:?} splits", case.problem, case.n_splits));
        }
    }
}

#[test]
fn biases_and_masks() {
    let mut random = Random(2);
    let distances = [(Distance::Euclidean, 0..3), (Distance::GreatCircle, 1..3), (Distance::CausalTime, 2..3)];
    for (i, kernel) in BiasKernel::ALL.into_iter().enumerate() {
        let n_basis = [1, 5, 2, 3, 4][i];
        for (j, (distance, columns)) in distances.clone().into_iter().enumerate() {
            let mut case = Case::new(&mut random, [30, 97 + 500 * (i % 2)], [8, 16], j == 0);
            let n = 3 * n_basis;
            let a = random.numbers(n, 1.0);
            // One that grows with the distance, as upstream allows.
            let mut b: Vec<f32> = random.numbers(n, 1.0).iter().map(|x| 0.5 * x.abs() + 0.1).collect();
            b[0] = -0.01;
            // Back in time this one would reach logits of hundreds, which f32 does not tell apart.
            if (kernel, distance) == (BiasKernel::Matern32, Distance::CausalTime) {
                b.iter_mut().for_each(|b| *b *= 0.5);
            }
            let c = random.numbers(n, 1.0);
            let parameters = &[&a[..], &b, &c][..kernel.parameters().len()];
            case.terms.push(BiasTerm::built_in(columns, distance, kernel, parameters));
            case.check(&format!("{kernel:?} of {distance:?}"));

            // Now with everything that masks.
            let n_keys = case.problem.n_keys;
            let mask = (0..2 * n_keys).map(|key| if key % 5 == 0 || key > n_keys + 20 { 0.0 } else { 1.0 });
            case.key_mask = Some(mask.collect());
            case.k_coords[3 * 11 + 2] = f32::NAN;
            case.q_coords[3 * 7 + 2] = f32::INFINITY;
            // Where the mask drops a key, whatever it holds must not matter.
            case.v[..case.problem.v_dim].fill(f32::NAN);
            case.k[..case.problem.head_dim].fill(f32::INFINITY);
            case.terms.push(BiasTerm::scalar(0..1, &[-0.1, 0.2, 0.0]));
            let mut matrix = random.numbers(2 * 3 * 30 * n_keys, 2.0);
            matrix.iter_mut().step_by(7).for_each(|x| *x = f32::NEG_INFINITY);
            case.matrix = Some(matrix);
            let alibi = |q: &[f32], k: &[f32], head: usize, params: &[f32]| {
                if k[0] > q[0] + 1.0 { MASKED } else { params[head] * (k[0] - q[0]) }
            };
            let custom = CustomBias {
                name: "alibi".into(),
                wgsl: String::new(),
                cpu: Arc::new(alibi),
                params: vec![0.5, 1.0, 2.0],
            };
            case.terms.push(BiasTerm::custom(0..1, custom));
            case.check(&format!("{kernel:?} of {distance:?}, masked"));
        }
    }
}

#[test]
fn extreme_biases_stay_finite() {
    let mut random = Random(3);
    let mut case = Case::new(&mut random, [13, 40], [8, 8], true);
    case.q_coords.iter_mut().step_by(3).for_each(|x| *x *= 1e18);
    case.k_coords.iter_mut().step_by(4).for_each(|x| *x *= 2e38);
    for distance in [Distance::Euclidean, Distance::CausalTime] {
        for a in [1.0, -1.0, 1e38, -1e38] {
            for b in [0.0, 1e-38, 3.0, -3.0, 1e38, -1e38] {
                let (a, b, c) = ([a; 6], [b; 6], [1e38, 0.0, 1.0, -1e38, 2.0, 3.0]);
                let term = |(i, kernel): (usize, BiasKernel)| {
                    let n = if kernel == BiasKernel::Scalar { 3 } else { 6 };
                    let parameters = &[&a[..n], &b, &c][..kernel.parameters().len()];
                    BiasTerm::built_in(i % 3..i % 3 + 1, distance, kernel, parameters)
                };
                case.terms = BiasKernel::ALL.into_iter().enumerate().map(term).collect();
                for level in levels() {
                    let (values, lse) = scan_attention(level, &case.problem, &case.inputs()).unwrap();
                    assert!(
                        values.iter().chain(&lse).all(|x| x.is_finite()),
                        "{level:?}, {distance:?}, a {a:?}, b {b:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let mut random = Random(4);
    for lengths in [[1, 3000], [100, 700]] {
        let mut case = Case::new(&mut random, lengths, [16, 16], true);
        case.terms.push(BiasTerm::rbf(0..3, &[1.0, 2.0, 3.0], &[1.0, 0.5, 0.2]));
        let run = |n_threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
            pool.install(|| scan_attention(levels()[0], &case.problem, &case.inputs()).unwrap())
        };
        let one = run(1);
        assert!(run(2) == one && run(7) == one);
    }
}

#[test]
fn angles_are_accurate_at_the_hard_points() {
    let mut points =
        vec![[0.0, 0.0], [180.0, 0.0], [-180.0, 0.0], [0.0, 90.0], [77.0, 90.0], [0.0, -90.0], [540.0, 0.0]];
    let mut random = Random(5);
    for _ in 0..200 {
        let (lon, lat) = (180.0 * random.next(), 90.0 * random.next());
        let opposite = if lon > 0.0 { lon - 180.0 } else { lon + 180.0 };
        points.extend([
            [lon, lat],
            [lon + 1e-4, lat - 1e-4],
            [opposite, -lat],
            [opposite + 1e-3, -lat],
            [179.9999, lat],
        ]);
    }
    let flat = points.concat();
    let packed = distance::pack(&flat, 2, &vec![true; points.len()], &[Packed::Sphere(0)]);
    let n = points.len().next_multiple_of(16);
    let mut columns = vec![0.0; 6 * n];
    for (i, point) in packed.chunks_exact(6).enumerate() {
        (0..6).for_each(|c| columns[c * n + i] = point[c]);
    }
    for level in levels() {
        for (i, q) in packed.chunks_exact(6).enumerate() {
            let mut found = vec![0.0; n];
            dispatch!(level, simd => {
                distances(simd, Distance::GreatCircle, BiasKernel::Scalar, q, &columns, n, &mut found);
            });
            assert_eq!(found[i], 0.0, "{:?} to itself", points[i]);
            for (k, &found) in points.iter().zip(&found) {
                let truth = angle(&points[i], k);
                // Relative to the angle; the reference itself is not exact at 180 degrees.
                let error = (f64::from(found) - truth).abs() / (truth + 1e-6);
                assert!(error < 1e-6, "{:?} to {k:?}: {found} is not {truth}", points[i]);
            }
        }
    }
}
