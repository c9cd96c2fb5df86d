//! Exact sums: the same bits of any cut, order and tree of merges, and attention in float64.

use super::{CPU_BOUND, Cut, stream};
use crate::support::{Random, layout, oracle, other_cpus};
use wgpu_attention::{
    Device, Tensor,
    ops::{ExactRolling, ExactState, Layout, RollingAttention},
};

/// The largest score of each row, in the order that the layout wants, `above` what comes.
fn limits(case: &oracle::Case, head_major: bool, above: f32) -> (Vec<f32>, f32) {
    let oracle::Case { batch, n_heads, n_queries, n_keys, head_dim, .. } = *case;
    let mut scores = Vec::new();
    for (head, q) in case.q.chunks(n_queries * head_dim).enumerate() {
        let k = &case.k[head * n_keys * head_dim..][..n_keys * head_dim];
        for q in q.chunks(head_dim) {
            let score = |k: &[f32]| q.iter().zip(k).map(|(q, k)| q * k).sum::<f32>() / (head_dim as f32).sqrt();
            let largest = k.chunks(head_dim).map(score).filter(|x| x.is_finite()).fold(-1e4, f32::max);
            scores.push(largest + above);
        }
    }
    let value = case.v.iter().fold(1e-3f32, |largest, v| largest.max(v.abs()));
    (if head_major { scores } else { oracle::projected(&scores, [batch, n_heads, n_queries, 1]) }, value)
}

impl Cut<'_> {
    fn exact(&self, above: f32) -> ExactRolling {
        let (scores, value) = limits(self.case, self.head_major, above);
        self.attention().exact(&scores, value).unwrap()
    }

    fn write_exactly(&self, exact: &ExactRolling, state: Option<&ExactState>, keys: &[usize]) -> ExactState {
        let (k, v, mask) = self.keys_values(keys);
        exact.write(state, &k, &v, mask.as_ref()).unwrap()
    }

    /// The largest error of what an exact state reads, log-sum-exp included.
    fn exact_error(&self, state: &ExactState, truth: &(Vec<f64>, Vec<Option<f64>>)) -> f64 {
        self.error_of_read(&state.read().unwrap(), truth)
    }
}

#[test]
fn any_cut_and_order_leaves_the_same_bits() {
    let mut random = Random::new(21);
    let sizes = [
        [1, 1, 1, 1, 1, 1],
        [2, 3, 5, 7, 7, 5],
        [1, 2, 33, 63, 16, 16],
        [3, 1, 8, 64, 5, 30],
        [1, 4, 7, 65, 9, 3],
        [2, 2, 70, 100, 16, 17],
        [1, 2, 16, 1000, 12, 12],
    ];
    let mut devices = vec![("CPU".to_owned(), Device::cpu())];
    devices.extend(other_cpus());
    for sizes in sizes {
        let case = stream(&mut random, sizes);
        let truth = oracle::scan_attention(&case);
        let order = random.shuffled(case.n_keys);
        for (name, device) in &devices {
            for head_major in [true, false] {
                let cut = Cut { device, case: &case, head_major };
                // Limits that are just so, ones in the middle of which digits begin anew, and ones that leave
                // little more than is said to cost nothing.
                for above in [0.0, 62.0, 95.0] {
                    let exact = cut.exact(above);
                    let keys: Vec<usize> = (0..case.n_keys).collect();
                    let whole = cut.write_exactly(&exact, None, &keys);
                    let error = cut.exact_error(&whole, &truth);
                    assert!(error <= CPU_BOUND, "{name}: {sizes:?}, {above} above: off by {error:.1e}");
                    for step in [1, 3, 64, 129] {
                        let steps = order.chunks(step).take(if step == 1 { 100 } else { usize::MAX });
                        if step == 1 && case.n_keys > 100 {
                            continue;
                        }
                        let cut_up =
                            steps.fold(None, |state, keys| Some(cut.write_exactly(&exact, state.as_ref(), keys)));
                        assert!(cut_up.unwrap() == whole, "{name}: {sizes:?} by {step}");
                    }
                }
            }
        }
    }
}

#[test]
fn random_trees_of_merges_leave_the_same_bits_and_come_apart_again() {
    let mut random = Random::new(22);
    let case = stream(&mut random, [2, 2, 5, 3000, 6, 7]);
    let device = Device::cpu();
    let cut = Cut { device: &device, case: &case, head_major: false };
    let exact = cut.exact(10.0);
    let keys = random.shuffled(3000);
    let whole = cut.write_exactly(&exact, None, &keys);
    let parts: Vec<ExactState> = keys.chunks(3).map(|keys| cut.write_exactly(&exact, None, keys)).collect();
    for _ in 0..3 {
        let mut states = parts.clone();
        while states.len() > 1 {
            let (i, j) = (random.below(states.len()), random.below(states.len() - 1));
            let a = states.swap_remove(i);
            let b = states.swap_remove(j);
            states.push(a.merge(&b).unwrap());
        }
        assert!(states[0] == whole);
    }
    // Taken off in another order.
    let mut rest = whole.clone();
    for (i, part) in parts.iter().enumerate().rev().filter(|(i, _)| *i > 500) {
        rest = match i % 2 {
            0 => rest.without(part).unwrap(),
            _ => {
                let (k, v, mask) = cut.keys_values(&keys[3 * i..3 * i + 3]);
                exact.forget(&rest, &k, &v, mask.as_ref()).unwrap()
            }
        };
    }
    assert!(rest == cut.write_exactly(&exact, None, &keys[..3 * 501]));
    assert_eq!(rest.n_keys(), [3 * 501; 2]);
    assert!(rest.merge(&whole).unwrap().without(&rest).unwrap() == whole);
    let refused = parts[0].without(&whole).unwrap_err().to_string();
    assert!(refused.contains("ExactState::without") && refused.contains("3000"), "{refused}");
}

#[test]
fn masked_keys_are_not_read_and_shared_heads_are() {
    let mut random = Random::new(23);
    let mut case = stream(&mut random, [3, 2, 4, 90, 5, 6]);
    let mut mask = random.booleans(3 * 90, 0.5);
    mask[180..].fill(false);
    case.mask = Some(mask.clone());
    let truth = oracle::scan_attention(&case);
    for (i, _) in mask.iter().enumerate().filter(|(_, keep)| !**keep) {
        for head in 0..2 {
            let row = (i / 90 * 2 + head) * 90 + i % 90;
            case.k[row * 5] = f32::NAN;
            case.v[row * 6 + 1] = if head == 0 { f32::NAN } else { 1e30 };
        }
    }
    let device = Device::cpu();
    let small = Cut { device: &device, case: &case, head_major: false };
    let (scores, _) = limits(&case, false, 0.0);
    let exact = small.attention().exact(&scores, 10.0).unwrap();
    let keys: Vec<usize> = (0..90).collect();
    let whole = small.write_exactly(&exact, None, &keys);
    let error = small.exact_error(&whole, &truth);
    assert!(error <= CPU_BOUND, "off by {error:.1e}");
    let steps = keys.chunks(7).fold(None, |state, keys| Some(small.write_exactly(&exact, state.as_ref(), keys)));
    assert!(steps.unwrap() == whole);

    // Six heads of queries that share two of keys, against the two repeated.
    let shared = stream(&mut random, [2, 2, 9, 200, 4, 3]);
    let repeat = |x: &[f32], dim: usize| -> Vec<f32> {
        x.chunks(200 * dim).flat_map(|head| [head, head, head].concat()).collect()
    };
    let all = oracle::Case {
        batch: 2,
        n_heads: 6,
        n_queries: 9,
        n_keys: 200,
        head_dim: 4,
        v_dim: 3,
        k: repeat(&shared.k, 4),
        v: repeat(&shared.v, 3),
        q: random.scaled(2 * 6 * 9 * 4, 2.0),
        ..Default::default()
    };
    let truth = oracle::scan_attention(&all);
    for head_major in [true, false] {
        let tensor = |x: &[f32], [b, h, n, d]: [usize; 4]| match head_major {
            true => Tensor::new(&device, &[b, h, n, d], x).unwrap(),
            false => Tensor::new(&device, &[b, n, h * d], &oracle::projected(x, [b, h, n, d])).unwrap(),
        };
        let layout = if head_major { Layout::HeadMajor } else { Layout::Grouped { n_heads: 6, n_kv_heads: 2 } };
        let (scores, value) = limits(&all, head_major, 3.0);
        let exact = RollingAttention::new(layout, tensor(&all.q, [2, 6, 9, 4])).exact(&scores, value).unwrap();
        let (k, v) = (tensor(&shared.k, [2, 2, 200, 4]), tensor(&shared.v, [2, 2, 200, 3]));
        let state = exact.write(None, &k, &v, None).unwrap();
        let error = Cut { device: &device, case: &all, head_major }.exact_error(&state, &truth);
        assert!(error <= CPU_BOUND, "off by {error:.1e}");
    }
}

#[test]
fn equal_scores_and_many_keys_read_as_their_mean() {
    let device = Device::cpu();
    let n = 300_000;
    let queries = Tensor::new(&device, &[1, 1, 2, 1], &[0.0, 1.0]).unwrap();
    let exact = RollingAttention::new(layout(true, 1), queries).scale(1.0).exact(&[20.0, 20.0], 4.0).unwrap();
    let k = Tensor::new(&device, &[1, 1, n, 1], &vec![-3.0; n]).unwrap();
    let values: Vec<f32> = (0..n).map(|i| 1.0 + (i % 7) as f32 / 7.0).collect();
    let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n as f64;
    let state = exact.write(None, &k, &Tensor::new(&device, &[1, 1, n, 1], &values).unwrap(), None).unwrap();
    let read = state.read().unwrap();
    for (value, lse) in read
        .values
        .read()
        .unwrap()
        .into_iter()
        .zip(read.log_sum_exp.read().unwrap())
        .zip([0.0, -3.0])
        .map(|((value, lse), score)| (value, f64::from(lse) - score))
    {
        assert!((f64::from(value) - mean).abs() <= 3e-7 * mean, "{value} and {mean}");
        assert!((lse - (n as f64).ln()).abs() <= 1e-6, "{lse}");
    }
}

#[test]
fn what_is_beyond_the_limits_or_not_finite_is_refused() {
    let device = Device::cpu();
    let tensor = |x: &[f32]| Tensor::new(&device, &[1, 1, x.len(), 1], x).unwrap();
    let memory = RollingAttention::new(layout(true, 1), tensor(&[1.0, -1.0])).scale(1.0);
    let exact = memory.exact(&[5.0, 5.0], 2.0).unwrap();
    let refused =
        |k: f32, v: f32| exact.write(None, &tensor(&[0.0, k]), &tensor(&[0.0, v]), None).unwrap_err().to_string();
    for (k, v, words) in [
        (9.0, 1.0, ["a score", "row 0"]),
        (-9.0, 1.0, ["a score", "row 1"]),
        (1e30, 1.0, ["a score", "row 0"]),
        (-1e30, 1.0, ["a score", "row 1"]),
        (f32::MAX, 1.0, ["a score", "row 0"]),
        (0.0, 9.0, ["a value", "key 1"]),
        (0.0, -1e30, ["a value", "key 1"]),
        (f32::NAN, 1.0, ["k[1]", "finite"]),
        (0.0, f32::INFINITY, ["v[1]", "finite"]),
    ] {
        let message = refused(k, v);
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    }
    for (scores, value) in [(vec![5.0], 2.0), (vec![f32::NAN, 1.0], 2.0), (vec![1e9, 1.0], 2.0), (vec![1.0; 2], -1.0)] {
        let message = memory.exact(&scores, value).unwrap_err().to_string();
        assert!(message.contains("RollingAttention::exact"), "{message}");
    }
    // Limits of no use: everything that comes has less weight than the last digit.
    let loose = memory.exact(&[140.0, 140.0], 2.0).unwrap();
    let state = loose.write(None, &tensor(&[0.5]), &tensor(&[1.0]), None).unwrap();
    let message = state.read().unwrap_err().to_string();
    assert!(message.contains("the limit of weights"), "{message}");
    // Of hugely negative scores as well.
    let state = exact.write(None, &tensor(&[0.0]), &tensor(&[1.5]), None).unwrap();
    let far = memory.exact(&[1e5, 1e5], 2.0).unwrap().write(None, &tensor(&[-6e4]), &tensor(&[1.0]), None).unwrap();
    assert!(far.read().is_err() && state.merge(&far).unwrap_err().to_string().contains("limits"));
    // What was never written leaves less than nothing.
    let two = exact.write(Some(&state), &tensor(&[-0.5]), &tensor(&[1.0]), None).unwrap();
    let unknown = exact.write(None, &tensor(&[4.0]), &tensor(&[1.0]), None).unwrap();
    let message = two.without(&unknown).unwrap().read().unwrap_err().to_string();
    assert!(message.contains("taken out") && !message.contains("NaN"), "{message}");
    // Sums of more keys than 256 bits hold wrapped around.
    let mut many = exact.write(None, &tensor(&[0.0]), &tensor(&[1.5]), None).unwrap();
    for _ in 0..41 {
        many = many.merge(&many).unwrap();
    }
    assert_eq!(many.read().unwrap().values.read().unwrap(), [1.5, 1.5]);
    for found in [many.merge(&state), exact.write(Some(&many), &tensor(&[0.0]), &tensor(&[1.0]), None)] {
        let message = found.unwrap_err().to_string();
        assert!(message.contains("keys") && message.contains("2199023255552"), "{message}");
    }
    // States of other queries, of the same sizes and limits.
    let others =
        RollingAttention::new(layout(true, 1), tensor(&[1.0, 2.0])).scale(1.0).exact(&[5.0, 5.0], 2.0).unwrap();
    let other = others.write(None, &tensor(&[0.0]), &tensor(&[1.5]), None).unwrap();
    for found in [
        state.merge(&other),
        state.without(&other),
        exact.write(Some(&other), &tensor(&[0.0]), &tensor(&[1.0]), None),
        exact.forget(&other, &tensor(&[0.0]), &tensor(&[1.5]), None),
    ] {
        assert!(found.unwrap_err().to_string().contains("the queries of the state"));
    }
    // What has next to no weight beside others adds nothing.
    let both = exact.write(Some(&state), &tensor(&[]), &tensor(&[]), None).unwrap();
    assert!(both == state && both.read().unwrap().values.read().unwrap() == [1.5, 1.5]);
}
