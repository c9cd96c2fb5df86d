//! Rolling attention against float64 attention over all the keys at once, however they are cut.

mod exact;
mod long_streams;
mod window;

use crate::support::{Random, devices, error, layout, oracle, poison};
use wgpu_attention::{
    Device, Mask, Tensor,
    ops::{Attention, Layout, RollingAttention, RollingState, scan_attention::MASKED},
};

/// What one write costs in f32, as for scan attention; a stream is to cost no more.
const CPU_BOUND: f64 = 2e-6;
const GPU_BOUND: f64 = 1e-5;

fn bound(device: &Device) -> f64 {
    if *device == Device::cpu() { CPU_BOUND } else { GPU_BOUND }
}

/// A stream of keys and values for some queries, head-major.
fn stream(random: &mut Random, [batch, n_heads, n_queries, n_keys, head_dim, v_dim]: [usize; 6]) -> oracle::Case {
    let rows = batch * n_heads;
    oracle::Case {
        batch,
        n_heads,
        n_queries,
        n_keys,
        head_dim,
        v_dim,
        q: random.scaled(rows * n_queries * head_dim, 2.0),
        k: random.scaled(rows * n_keys * head_dim, 2.0),
        v: random.numbers(rows * n_keys * v_dim),
        ..Default::default()
    }
}

/// Some keys of a case as tensors, in either layout.
struct Cut<'a> {
    device: &'a Device,
    case: &'a oracle::Case,
    head_major: bool,
}

impl Cut<'_> {
    fn tensor(&self, numbers: &[f32], length: usize, dim: usize) -> Tensor {
        let oracle::Case { batch, n_heads, .. } = *self.case;
        if self.head_major {
            return Tensor::new(self.device, &[batch, n_heads, length, dim], numbers).unwrap();
        }
        let projected = oracle::projected(numbers, [batch, n_heads, length, dim]);
        Tensor::new(self.device, &[batch, length, n_heads * dim], &projected).unwrap()
    }

    fn attention(&self) -> RollingAttention {
        let queries = self.tensor(&self.case.q, self.case.n_queries, self.case.head_dim);
        RollingAttention::new(layout(self.head_major, self.case.n_heads), queries)
    }

    fn pick(&self, numbers: &[f32], dim: usize, keys: &[usize]) -> Tensor {
        let of_head = numbers.chunks(self.case.n_keys * dim);
        let picked: Vec<f32> =
            of_head.flat_map(|rows| keys.iter().flat_map(move |key| &rows[key * dim..][..dim])).copied().collect();
        self.tensor(&picked, keys.len(), dim)
    }

    fn keys_values(&self, keys: &[usize]) -> (Tensor, Tensor, Option<Mask>) {
        let (k, v) =
            (self.pick(&self.case.k, self.case.head_dim, keys), self.pick(&self.case.v, self.case.v_dim, keys));
        let mask = self.case.mask.as_ref().map(|mask| {
            let of_batch = mask.chunks(self.case.n_keys);
            let keep: Vec<bool> = of_batch.flat_map(|mask| keys.iter().map(move |&key| mask[key])).collect();
            Mask::new(self.device, &[self.case.batch, keys.len()], &keep).unwrap()
        });
        (k, v, mask)
    }

    fn write(&self, state: Option<&RollingState>, keys: &[usize]) -> RollingState {
        let (k, v, mask) = self.keys_values(keys);
        self.attention().write(state, &k, &v, mask.as_ref()).unwrap()
    }

    /// Writes keys in their order, `step` at a time.
    fn stream(&self, keys: &[usize], step: usize) -> RollingState {
        keys.chunks(step).fold(None, |state, keys| Some(self.write(state.as_ref(), keys))).unwrap()
    }

    /// The largest error of what a state reads, log-sum-exp included.
    fn error(&self, state: &RollingState, truth: &(Vec<f64>, Vec<Option<f64>>)) -> f64 {
        self.error_of_read(&state.read().unwrap(), truth)
    }

    fn error_of_read(&self, read: &Attention, truth: &(Vec<f64>, Vec<Option<f64>>)) -> f64 {
        let oracle::Case { batch, n_heads, n_queries, v_dim, .. } = *self.case;
        let lse: Vec<f64> = truth.1.iter().map(|lse| lse.unwrap_or(f64::from(MASKED))).collect();
        let layout = |numbers: &[f64], dim| {
            if self.head_major {
                numbers.to_vec()
            } else {
                oracle::projected(numbers, [batch, n_heads, n_queries, dim])
            }
        };
        let values = error(&read.values.read().unwrap(), &layout(&truth.0, v_dim));
        values.max(error(&read.log_sum_exp.read().unwrap(), &layout(&lse, 1)))
    }
}

#[test]
fn any_cut_reads_as_attention_over_all_keys() {
    let mut random = Random::new(1);
    let sizes = [
        [1, 1, 1, 1, 1, 1],
        [2, 3, 5, 7, 7, 5],
        [1, 2, 33, 63, 16, 16],
        [3, 1, 8, 64, 5, 30],
        [1, 4, 7, 65, 9, 3],
        [2, 2, 64, 100, 16, 17],
        [1, 2, 16, 1000, 8, 8],
    ];
    for sizes in sizes {
        let case = stream(&mut random, sizes);
        let truth = oracle::scan_attention(&case);
        let keys: Vec<usize> = (0..case.n_keys).collect();
        for (name, device) in devices() {
            for head_major in [true, false] {
                let cut = Cut { device: &device, case: &case, head_major };
                for step in [1, 3, 64, 1000] {
                    if case.n_keys / step > 100 {
                        continue;
                    }
                    let rows: usize = sizes[..3].iter().product();
                    poison(&device, &[rows, rows * case.v_dim, rows * (3 + 2 * case.v_dim)]);
                    let error = cut.error(&cut.stream(&keys, step), &truth);
                    assert!(error <= bound(&device), "{name}: {sizes:?} by {step}: off by {error:.1e}");
                }
            }
        }
    }
}

#[test]
fn the_order_of_the_stream_does_not_matter() {
    let mut random = Random::new(2);
    let case = stream(&mut random, [1, 2, 9, 300, 6, 6]);
    let truth = oracle::scan_attention(&case);
    let order = random.shuffled(case.n_keys);
    for (name, device) in devices() {
        let cut = Cut { device: &device, case: &case, head_major: true };
        let error = cut.error(&cut.stream(&order, 7), &truth);
        assert!(error <= bound(&device), "{name}: off by {error:.1e}");
    }
}

#[test]
fn parts_merge_in_any_order() {
    let mut random = Random::new(3);
    let case = stream(&mut random, [2, 2, 5, 2000, 6, 7]);
    let truth = oracle::scan_attention(&case);
    let keys = random.shuffled(case.n_keys);
    for (name, device) in devices() {
        let cut = Cut { device: &device, case: &case, head_major: false };
        for n_parts in [2, 7, 1000] {
            let parts: Vec<RollingState> =
                keys.chunks(case.n_keys.div_ceil(n_parts)).map(|keys| cut.write(None, keys)).collect();
            assert_eq!(parts.len(), n_parts);
            let order = random.shuffled(n_parts);
            let mut merged = parts[order[0]].clone();
            for &part in &order[1..] {
                merged = merged.merge(&parts[part]).unwrap();
            }
            let error = cut.error(&merged, &truth);
            assert!(error <= bound(&device), "{name}: {n_parts} parts: off by {error:.1e}");
        }
        let (a, b) = (cut.write(None, &keys[..999]), cut.write(None, &keys[999..]));
        let bits =
            |state: RollingState| -> Vec<u32> { state.rows.read().unwrap().into_iter().map(f32::to_bits).collect() };
        assert_eq!(bits(a.merge(&b).unwrap()), bits(b.merge(&a).unwrap()), "{name}");
    }
}

#[test]
fn merging_a_rising_stream_does_not_round_each_time() {
    // Each state of one key has a log-sum-exp 1e-3 above the one before.
    let n = 3000;
    let mut random = Random::new(11);
    let case = oracle::Case {
        batch: 1,
        n_heads: 1,
        n_queries: 1,
        n_keys: n,
        head_dim: 1,
        v_dim: 3,
        q: vec![1.0],
        k: (0..n).map(|i| 1e-3 * i as f32 - 1.0).collect(),
        v: random.numbers(n * 3).iter().map(|v| 1.0 + 0.1 * v).collect(),
        ..Default::default()
    };
    let truth = oracle::scan_attention(&case);
    for (name, device) in devices() {
        let cut = Cut { device: &device, case: &case, head_major: true };
        let rest = (1..n).map(|key| cut.write(None, &[key]));
        let merged = rest.fold(cut.write(None, &[0]), |merged, state| merged.merge(&state).unwrap());
        // Of what rounds at each merge, hundreds of times this was left.
        let error = cut.error(&merged, &truth);
        assert!(error <= 0.2 * bound(&device), "{name}: off by {error:.1e}");
        let reference = merged.rows.read().unwrap()[0];
        assert!(reference % 8.0 == 0.0 && reference >= 2.0, "{name}: {reference}");
    }
}

#[test]
fn masked_keys_are_not_read() {
    let mut random = Random::new(4);
    let mut case = stream(&mut random, [3, 2, 4, 90, 5, 6]);
    // One batch element reads nothing in its first writes, one nothing at all.
    let mut mask = random.booleans(3 * 90, 0.5);
    mask[90..90 + 40].fill(false);
    mask[180..].fill(false);
    case.mask = Some(mask.clone());
    let truth = oracle::scan_attention(&case);
    // What masked keys hold is not read, not even NaN.
    for (i, _) in mask.iter().enumerate().filter(|(_, keep)| !**keep) {
        for head in 0..2 {
            let row = (i / 90 * 2 + head) * 90 + i % 90;
            case.k[row * 5] = f32::NAN;
        }
    }
    let keys: Vec<usize> = (0..90).collect();
    for (name, device) in devices() {
        let cut = Cut { device: &device, case: &case, head_major: false };
        for step in [10, 90] {
            let state = cut.stream(&keys, step);
            let error = cut.error(&state, &truth);
            assert!(error <= bound(&device), "{name} by {step}: off by {error:.1e}");
            let merged = state.merge(&cut.write(None, &[0])).unwrap();
            assert!(merged.rows.read().unwrap().iter().all(|x| x.is_finite()), "{name}");
        }
    }
}

/// A state from outside may be relative to infinity: the CPU read a number.
#[test]
fn what_is_relative_to_infinity_is_not_a_number() {
    for (name, device) in devices() {
        let state = |numbers: &[f32]| RollingState {
            rows: Tensor::new(&device, &[1, 1, 1, 5], numbers).unwrap(),
            layout: Layout::HeadMajor,
        };
        let (lost, good) = (state(&[f32::INFINITY, 2.0, 0.0, 10.0, 0.0]), state(&[0.0, 2.0, 0.0, 10.0, 0.0]));
        for state in [good.merge(&lost).unwrap(), lost.merge(&good).unwrap(), lost] {
            let read = state.read().unwrap();
            let numbers = [read.values.read().unwrap(), read.log_sum_exp.read().unwrap()].concat();
            assert!(numbers.iter().all(|x| x.is_nan()), "{name}: {numbers:?}");
        }
    }
}

#[test]
fn values_that_are_not_finite_stay_in_their_head_and_are_not_lost() {
    let mut random = Random::new(10);
    let case = stream(&mut random, [2, 2, 3, 20, 4, 5]);
    for (name, device) in devices() {
        for bad in [f32::NAN, f32::INFINITY] {
            for in_keys in [true, false] {
                // Of the second data set and its first head alone.
                let mut wrong = stream(&mut Random::new(10), [2, 2, 3, 20, 4, 5]);
                if in_keys {
                    wrong.k[2 * 20 * 4 + 4] = bad
                } else {
                    wrong.v[2 * 20 * 5 + 5] = bad
                }
                let good = Cut { device: &device, case: &case, head_major: true };
                let wrong = Cut { device: &device, case: &wrong, head_major: true };
                let bad_first = good.write(Some(&wrong.write(None, &[0, 1])), &[2, 3]);
                let bad_last = wrong.write(Some(&good.write(None, &[2, 3])), &[0, 1]);
                let merged = good.write(None, &[5]).merge(&wrong.write(None, &[1])).unwrap();
                for state in [bad_first, bad_last, merged] {
                    let values = state.read().unwrap().values.read().unwrap();
                    let is_finite = |row: &[f32]| row.iter().all(|x| x.is_finite());
                    let rows: Vec<bool> = values.chunks(3 * 5).map(is_finite).collect();
                    // A key that is not a number may have no weight instead.
                    let seen = [true, true, in_keys && rows[2], true];
                    assert_eq!(rows, seen, "{name}: {bad} in keys: {in_keys}");
                }
            }
        }
    }
}

#[test]
fn huge_logits_neither_overflow_nor_lose_the_state() {
    for scale in [30.0f32, 1000.0] {
        let mut random = Random::new(5);
        // Logits of about 1e4 and 1e7. Where the two largest of a row are no further apart than f32
        // rounds them, no f32 softmax can tell which wins; of this seed's none are.
        let mut case = stream(&mut random, [1, 2, 6, 60, 8, 4]);
        case.q.iter_mut().chain(&mut case.k).for_each(|x| *x *= scale);
        let truth = oracle::scan_attention(&case);
        for (name, device) in devices() {
            let cut = Cut { device: &device, case: &case, head_major: true };
            for order in [(0..60).collect::<Vec<_>>(), (0..60).rev().collect()] {
                for step in [1, 7, 60] {
                    let error = cut.error(&cut.stream(&order, step), &truth);
                    assert!(error <= bound(&device), "{name}: x{scale} by {step}: off by {error:.1e}");
                }
            }
        }
    }
}

#[test]
fn one_grid_past_65535_groups() {
    let mut random = Random::new(6);
    let case = stream(&mut random, [70_001, 1, 1, 2, 1, 61]);
    let truth = oracle::scan_attention(&case);
    for (name, device) in devices() {
        let cut = Cut { device: &device, case: &case, head_major: true };
        let error = cut.error(&cut.stream(&[0, 1], 1), &truth);
        assert!(error <= bound(&device), "{name}: off by {error:.1e}");
    }
}

#[test]
fn the_same_input_gives_the_same_bits_and_a_state_is_data() {
    let mut random = Random::new(8);
    let case = stream(&mut random, [1, 2, 6, 200, 8, 4]);
    let keys: Vec<usize> = (0..200).collect();
    let bits =
        |state: &RollingState| -> Vec<u32> { state.rows.read().unwrap().into_iter().map(f32::to_bits).collect() };
    for (name, device) in devices() {
        let cut = Cut { device: &device, case: &case, head_major: true };
        let whole = cut.stream(&keys, 9);
        assert_eq!(bits(&whole), bits(&cut.stream(&keys, 9)), "{name}");
        assert_eq!(whole.n_bytes(), cut.write(None, &[0]).n_bytes());
        // Sent elsewhere in between.
        let half = cut.stream(&keys[..99], 9);
        let rows = Tensor::new(&device, half.rows.shape(), &half.rows.read().unwrap()).unwrap();
        let sent = RollingState { rows, layout: layout(true, 2) };
        let rest = keys[99..].chunks(9).fold(sent, |state, keys| cut.write(Some(&state), keys));
        assert_eq!(bits(&whole), bits(&rest), "{name}");
    }
}
