//! Linear attention against float64 on the CPU and on every adapter: features, writes, merges,
//! reads, and how FAVOR+ approaches softmax attention.

mod favor;
mod long_vectors;
mod many_keys;

#[cfg(feature = "gpu")]
use crate::support::forced;
use crate::support::{Random, bound, devices, error, layout, oracle, poison};
use wgpu_attention::{
    Device, Mask, Tensor,
    ops::{
        FeatureKind, FeatureMap, LinearAttention, LinearState, Normalizer, ProjectionRows, ScanAttention, feature_map,
        random_features, scan_attention,
    },
};

/// What f32 costs in products of this length; [`bound`] multiplies it.
const RECORDED: f64 = 5e-7;

const KINDS: [FeatureKind; 6] = [
    FeatureKind::Identity,
    FeatureKind::Softmax,
    FeatureKind::Relu,
    FeatureKind::Gelu,
    FeatureKind::Exp,
    FeatureKind::Elu,
];

/// One call, head-major.
#[derive(Clone)]
struct Case {
    /// batch, heads, queries, keys, head_dim, v_dim, features
    sizes: [usize; 7],
    kind: FeatureKind,
    normalizer: Normalizer,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    projection: Vec<f32>,
    scale: f32,
    mask: Option<Vec<bool>>,
}

impl Case {
    fn new(random: &mut Random, sizes: [usize; 7], kind: FeatureKind, normalizer: Normalizer) -> Self {
        let [b, h, n_queries, n_keys, d, e, f] = sizes;
        Self {
            sizes,
            kind,
            normalizer,
            q: random.numbers(b * h * n_queries * d),
            k: random.numbers(b * h * n_keys * d),
            v: random.numbers(b * h * n_keys * e),
            projection: random.numbers(f * d),
            scale: 0.7,
            mask: None,
        }
    }

    fn attention(&self, device: &Device, head_major: bool) -> LinearAttention {
        let [_, n_heads, _, _, d, _, f] = self.sizes;
        let projection =
            (self.kind != FeatureKind::Identity).then(|| Tensor::new(device, &[f, d], &self.projection).unwrap());
        let features = FeatureMap { kind: self.kind, projection, scale: self.scale };
        LinearAttention::new(layout(head_major, n_heads), features, self.normalizer)
    }

    /// Some of the keys, in either layout.
    fn write(&self, device: &Device, keys: std::ops::Range<usize>, head_major: bool) -> LinearState {
        let [b, h, _, n_keys, d, e, _] = self.sizes;
        let part = |x: &[f32], dim: usize| -> Tensor {
            let rows = x.chunks(n_keys * dim);
            let part: Vec<f32> = rows.flat_map(|rows| &rows[keys.start * dim..keys.end * dim]).copied().collect();
            tensor(device, &part, [b, h, keys.len(), dim], head_major)
        };
        let mask = self.mask.as_ref().map(|mask| {
            let part: Vec<bool> = mask.chunks(n_keys).flat_map(|row| &row[keys.clone()]).copied().collect();
            Mask::new(device, &[b, keys.len()], &part).unwrap()
        });
        self.attention(device, head_major).write(None, &part(&self.k, d), &part(&self.v, e), mask.as_ref()).unwrap()
    }

    /// What is read from a state, head-major.
    fn read(&self, device: &Device, state: &LinearState, head_major: bool) -> Vec<f32> {
        let [b, h, n_queries, _, d, e, _] = self.sizes;
        let q = tensor(device, &self.q, [b, h, n_queries, d], head_major);
        poison(device, &[b * h * n_queries * e]);
        let y = self.attention(device, head_major).read(&q, state).unwrap();
        let y = y.values.read().unwrap();
        if head_major { y } else { oracle::projected(&y, [b, n_queries, h, e]) }
    }

    /// Writes and reads in both layouts.
    fn check(&self, device: &Device, name: &str) {
        let Self { sizes, kind, normalizer, .. } = *self;
        let truth = self.truth();
        // Sums without a divisor are as large as there are keys: relative to that.
        let largest = truth.iter().fold(1.0, |largest: f64, x| largest.max(x.abs()));
        let truth: Vec<f64> = truth.iter().map(|&x| x / largest).collect();
        for head_major in [true, false] {
            poison(device, &[2 * sizes[1] * sizes[6] * (sizes[5] + 1)]);
            let state = self.write(device, 0..sizes[3], head_major);
            let found = self.read(device, &state, head_major);
            let found: Vec<f32> = found.iter().map(|&x| (f64::from(x) / largest) as f32).collect();
            let (e, allowed) = (error(&found, &truth), bound(device, RECORDED));
            assert!(e <= allowed, "{kind:?}, {normalizer:?}, {sizes:?} on {name}: {e:.1e} over {allowed:.1e}");
        }
    }

    fn truth(&self) -> Vec<f64> {
        let [_, _, _, n_keys, d, e, f] = self.sizes;
        let floor = if let Normalizer::FeatureSum { floor } = self.normalizer { Some(f64::from(floor)) } else { None };
        let features = |x: &[f32]| features(self.kind, &self.projection, f, self.scale, x);
        let (h, n_queries) = (self.sizes[1], self.sizes[2]);
        let mut y = Vec::new();
        for (head, q) in self.q.chunks(n_queries * d).enumerate() {
            let exists = |j: usize| self.mask.as_ref().is_none_or(|mask| mask[head / h * n_keys + j]);
            let keys: Vec<(usize, Vec<f64>)> = (0..n_keys)
                .filter(|&j| exists(j))
                .map(|j| (j, features(&self.k[(head * n_keys + j) * d..][..d])))
                .collect();
            for q in q.chunks(d) {
                let q = features(q);
                let weights: Vec<(usize, f64)> =
                    keys.iter().map(|(j, k)| (*j, q.iter().zip(k).map(|(q, k)| q * k).sum())).collect();
                let sum: f64 = weights.iter().map(|(_, w)| w).sum();
                let divisor = match self.normalizer {
                    Normalizer::None => 1.0,
                    Normalizer::KeyCount => (keys.len() as f64).max(1.0),
                    Normalizer::FeatureSum { .. } => sum.max(floor.unwrap()),
                    other => panic!("the oracle does not know {other:?}"),
                };
                for c in 0..e {
                    let value = |j: usize| f64::from(self.v[(head * n_keys + j) * e + c]);
                    y.push(weights.iter().map(|(j, w)| w * value(*j)).sum::<f64>() / divisor);
                }
            }
        }
        y
    }
}

fn tensor(device: &Device, head_major: &[f32], sizes: [usize; 4], is_head_major: bool) -> Tensor {
    let [b, h, n, d] = sizes;
    if is_head_major {
        Tensor::new(device, &sizes, head_major).unwrap()
    } else {
        Tensor::new(device, &[b, n, h * d], &oracle::projected(head_major, sizes)).unwrap()
    }
}

/// The features of one row, by their definition.
fn features(kind: FeatureKind, projection: &[f32], n_features: usize, scale: f32, x: &[f32]) -> Vec<f64> {
    let x: Vec<f64> = x.iter().map(|&x| f64::from(scale) * f64::from(x)).collect();
    if kind == FeatureKind::Identity {
        return x;
    }
    let half_norm: f64 = 0.5 * x.iter().map(|x| x * x).sum::<f64>();
    let feature = |row: &[f32]| {
        let z: f64 = row.iter().zip(&x).map(|(&w, x)| f64::from(w) * x).sum();
        match kind {
            FeatureKind::Identity => z,
            FeatureKind::Softmax => (z - half_norm).exp() / (n_features as f64).sqrt(),
            FeatureKind::Relu => z.max(0.0),
            FeatureKind::Gelu => {
                0.5 * z * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (z + 0.044715 * z * z * z)).tanh())
            }
            FeatureKind::Exp => z.exp(),
            FeatureKind::Elu if z > 0.0 => z,
            FeatureKind::Elu => z.exp_m1(),
            other => panic!("the oracle does not know {other:?}"),
        }
    };
    projection.chunks(x.len()).map(feature).collect()
}

#[test]
fn every_kind_normalizer_length_and_width() {
    let lengths = [1, 7, 63, 64, 65, 100, 1000];
    let normalizers = [Normalizer::None, Normalizer::KeyCount, Normalizer::FeatureSum { floor: 1e-6 }];
    let mut random = Random::new(1);
    for (name, device) in devices() {
        for (i, n_keys) in lengths.into_iter().enumerate() {
            for (j, kind) in KINDS.into_iter().enumerate() {
                let normalizer = normalizers[(i + j) % 3];
                // Sums of features that change sign come near zero, where the quotient means little:
                // a floor that is well above what they miss.
                let is_positive = matches!(kind, FeatureKind::Softmax | FeatureKind::Exp | FeatureKind::Relu);
                let normalizer = match normalizer {
                    Normalizer::FeatureSum { .. } if !is_positive => Normalizer::FeatureSum { floor: 0.5 },
                    other => other,
                };
                let d = [1, 3, 30, 64][(i + j) % 4];
                let f = if kind == FeatureKind::Identity { d } else { [1, 5, 33, 70][(i + 2 * j) % 4] };
                let sizes = [2, 1 + i % 3, lengths[(i + j) % 6], n_keys, d, [1, 2, 31, 65][j % 4], f];
                let mut case = Case::new(&mut random, sizes, kind, normalizer);
                if i % 2 == 0 {
                    case.mask = Some(random.booleans(2 * n_keys, 0.7));
                }
                case.check(&device, &name);
            }
        }
    }
}

/// Every tile, of vectors and of scalars: both sides of 32 and of 64, and slices of 32 that are not full.
#[test]
#[cfg(feature = "gpu")]
fn every_tile_agrees_with_float64() {
    let normalizers = [Normalizer::None, Normalizer::KeyCount, Normalizer::FeatureSum { floor: 1e-6 }];
    let mut random = Random::new(9);
    for (name, device) in ["vectors", "scalars"].map(|variant| forced("linear_attention", variant)).concat() {
        let lengths = [1, 7, 63, 64, 65, 100, 1000];
        for (i, n_keys) in lengths.into_iter().enumerate() {
            for (j, [d, e, f]) in [[4, 4, 5], [16, 32, 32], [20, 36, 33], [64, 64, 70], [100, 68, 128], [6, 33, 64]]
                .into_iter()
                .enumerate()
            {
                let kind = if (i + j) % 4 == 3 { FeatureKind::Identity } else { FeatureKind::Softmax };
                let f = if kind == FeatureKind::Identity { d } else { f };
                let normalizer = match normalizers[(i + j) % 3] {
                    Normalizer::FeatureSum { .. } if kind == FeatureKind::Identity => {
                        Normalizer::FeatureSum { floor: 0.5 }
                    }
                    other => other,
                };
                let sizes = [2, 1 + i % 3, lengths[(i + j) % 6], n_keys, d, e, f];
                let mut case = Case::new(&mut random, sizes, kind, normalizer);
                if j % 2 == 0 {
                    case.mask = Some(random.booleans(2 * n_keys, 0.7));
                }
                case.check(&device, &name);
            }
        }
    }
}

#[test]
fn features_agree_with_float64_also_where_they_are_large() {
    let mut random = Random::new(2);
    for (name, device) in devices() {
        for (rows, d, f) in [(1, 1, 1), (63, 7, 65), (300, 33, 20), (65, 36, 33)] {
            for kind in KINDS {
                let (x, projection) = (random.scaled(rows * d, 3.0), random.scaled(f * d, 2.0));
                let is_identity = kind == FeatureKind::Identity;
                let map = FeatureMap {
                    kind,
                    projection: (!is_identity).then(|| Tensor::new(&device, &[f, d], &projection).unwrap()),
                    scale: 0.5,
                };
                poison(&device, &[rows * f.max(d)]);
                let found = feature_map(&Tensor::new(&device, &[rows, d], &x).unwrap(), &map).unwrap();
                assert_eq!(found.shape(), [rows, if is_identity { d } else { f }]);
                let truth: Vec<f64> = x.chunks(d).flat_map(|x| features(kind, &projection, f, 0.5, x)).collect();
                // What is exponentiated is a sum of up to 33 products: its error, up to 33
                // roundings of numbers up to 20, is the relative error of the result.
                let allowed = if matches!(kind, FeatureKind::Exp | FeatureKind::Softmax) { 2e-5 } else { 5e-6 };
                let e = error(&found.read().unwrap(), &truth);
                assert!(e <= allowed, "{kind:?} of {rows} x {d} on {name}: {e:.1e}");
            }
        }
    }
}

#[test]
fn writing_in_any_split_is_writing_at_once() {
    let mut random = Random::new(3);
    for (name, device) in devices() {
        for normalizer in [Normalizer::KeyCount, Normalizer::FeatureSum { floor: 1e-6 }] {
            let n_keys = 600;
            let mut case = Case::new(&mut random, [2, 2, 9, n_keys, 6, 5, 12], FeatureKind::Softmax, normalizer);
            case.mask = Some(random.booleans(2 * n_keys, 0.8));
            let truth = case.truth();
            for block in [1, 7, 64, 599, 600] {
                let parts = (0..n_keys).step_by(block).map(|start| start..n_keys.min(start + block));
                let parts: Vec<LinearState> = parts.map(|keys| case.write(&device, keys, true)).collect();
                // From the left, from the right, and in pairs.
                let forward = parts[1..].iter().fold(parts[0].clone(), |sum, part| sum.merge(part).unwrap());
                let backward = parts
                    .iter()
                    .rev()
                    .skip(1)
                    .fold(parts[parts.len() - 1].clone(), |sum, part| part.merge(&sum).unwrap());
                let mut tree = parts.clone();
                while tree.len() > 1 {
                    tree = tree
                        .chunks(2)
                        .map(|pair| if let [a, b] = pair { a.merge(b).unwrap() } else { pair[0].clone() })
                        .collect();
                }
                for (how, state) in [("forward", &forward), ("backward", &backward), ("tree", &tree[0])] {
                    let e = error(&case.read(&device, state, true), &truth);
                    // 600 sums in a row, each with one rounding of a growing total.
                    assert!(e <= 5e-6, "blocks of {block}, {how}, on {name}: {e:.1e}");
                }
            }
            let (a, b) = (case.write(&device, 0..100, true), case.write(&device, 100..600, true));
            let (ab, ba) = (a.merge(&b).unwrap(), b.merge(&a).unwrap());
            assert_eq!(ab.sums.read().unwrap(), ba.sums.read().unwrap(), "commutative to the bit on {name}");
            let again = case.write(&device, 0..100, true);
            assert_eq!(a.sums.read().unwrap(), again.sums.read().unwrap(), "the same bits on {name}");
        }
    }
}

#[test]
fn without_keys_what_is_read_is_zero() {
    let mut random = Random::new(5);
    for (name, device) in devices() {
        for normalizer in [Normalizer::None, Normalizer::KeyCount, Normalizer::FeatureSum { floor: 1e-6 }] {
            let mut case = Case::new(&mut random, [2, 2, 3, 5, 4, 3, 6], FeatureKind::Softmax, normalizer);
            // The second batch element has no key; what its keys hold must not matter.
            case.mask = Some([[true; 5], [false; 5]].concat());
            case.k[2 * 5 * 4..].fill(f32::NAN);
            case.v[2 * 5 * 3..].fill(f32::INFINITY);
            let found = case.read(&device, &case.write(&device, 0..5, false), false);
            let (first, second) = found.split_at(2 * 3 * 3);
            assert!(first.iter().all(|x| x.is_finite() && *x != 0.0), "{name}");
            assert!(second.iter().all(|&x| x == 0.0), "{normalizer:?} on {name}: {second:?}");
            let none = case.read(&device, &case.write(&device, 0..0, false), false);
            assert!(none.iter().all(|&x| x == 0.0), "{normalizer:?} on {name}");
        }
    }
}

#[test]
fn a_key_that_is_not_finite_is_seen_in_what_is_read() {
    let mut random = Random::new(6);
    for (name, device) in devices() {
        for kind in KINDS {
            let f = if kind == FeatureKind::Identity { 4 } else { 6 };
            let mut case = Case::new(&mut random, [1, 1, 2, 5, 4, 3, f], kind, Normalizer::None);
            case.k[7] = f32::NAN;
            let found = case.read(&device, &case.write(&device, 0..5, false), false);
            assert!(found.iter().all(|x| x.is_nan()), "{kind:?} on {name}: {found:?}");
        }
    }
}

/// Its square is more than f32 holds; nothing that stands beside it may be multiplied by that.
#[test]
fn a_key_that_is_too_long_for_a_weight_has_none() {
    let mut random = Random::new(8);
    for (name, device) in devices() {
        for head_dim in [3, 4, 6] {
            let mut long =
                Case::new(&mut random, [1, 1, 2, 5, head_dim, 3, 6], FeatureKind::Softmax, Normalizer::Stable);
            long.k[head_dim] = 4e19;
            let without = Case { mask: Some((0..5).map(|key| key != 1).collect()), ..long.clone() };
            let read = |case: &Case| case.read(&device, &case.write(&device, 0..5, true), true);
            let (found, truth) = (read(&long), read(&without));
            let same = found.iter().zip(&truth).all(|(x, y)| (x - y).abs() <= 1e-6 * y.abs().max(1.0));
            assert!(same, "head_dim {head_dim} on {name}: {found:?} against {truth:?}");
        }
    }
}

#[test]
fn a_sum_of_features_below_the_floor_is_divided_by_the_floor() {
    for (name, device) in devices() {
        let projection = Tensor::new(&device, &[1, 1], &[1.0]).unwrap();
        let features = FeatureMap { kind: FeatureKind::Elu, projection: Some(projection), scale: 1.0 };
        let normalizer = Normalizer::FeatureSum { floor: 0.5 };
        let attention = LinearAttention::new(layout(false, 1), features, normalizer);
        let t = |x: f32| Tensor::new(&device, &[1, 1, 1], &[x]).unwrap();
        // elu(1) elu(-1): a negative weight, so the divisor is the floor.
        let state = attention.write(None, &t(-1.0), &t(3.0), None).unwrap();
        let read = attention.read(&t(1.0), &state).unwrap().values.read().unwrap()[0];
        let truth = (-1.0f64).exp_m1() * 3.0 / 0.5;
        assert!((f64::from(read) - truth).abs() < 1e-6, "{read} against {truth} on {name}");
    }
}

#[test]
fn grids_past_65535_groups() {
    let mut random = Random::new(7);
    for (name, device) in devices() {
        let heads = 66_000;
        let case = Case::new(&mut random, [1, heads, 1, 1, 1, 1, 1], FeatureKind::Exp, Normalizer::None);
        let found = case.read(&device, &case.write(&device, 0..1, true), true);
        let e = error(&found, &case.truth());
        assert!(e <= 1e-5, "{name}: {e:.1e}");
        let x = Tensor::new(&device, &[64 * heads, 1], &vec![1.0; 64 * heads]).unwrap();
        let projection = Some(Tensor::new(&device, &[1, 1], &[3.0]).unwrap());
        let map = FeatureMap { kind: FeatureKind::Relu, projection, scale: 1.0 };
        assert!(feature_map(&x, &map).unwrap().read().unwrap().iter().all(|&y| y == 3.0), "{name}");
    }
}
