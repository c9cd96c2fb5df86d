//! Attention memory: read, write and erase, step by step and in chunks, against a float64 oracle
//! that writes the paper's equations out.

use crate::support::{Random, bound, devices, error, is_part, layout, poison};
#[cfg(feature = "gpu")]
use crate::support::{every, forced, part};
use proptest::prelude::*;
use wgpu_attention::{
    Device, Tensor,
    ops::{
        AttentionMemory, Form, MemoryState, Probabilities, attention_memory, attention_memory::MAX_HEAD_DIM, unit_norm,
    },
};

/// One call; keys and queries are unit vectors.
struct Case {
    batch: usize,
    n: usize,
    n_heads: usize,
    head_dim: usize,
    v_dim: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    memory: Vec<f32>,
    p_read: Option<Vec<f32>>,
    p_write: Option<Vec<f32>>,
    p_erase: Option<Vec<f32>>,
    decay: Option<Vec<f32>>,
}

fn normalised(mut x: Vec<f32>, dim: usize) -> Vec<f32> {
    for x in x.chunks_mut(dim) {
        let length = x.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
        x.iter_mut().for_each(|x| *x /= length);
    }
    x
}

impl Case {
    /// `gates` is the bits of the decay, p_r, p_w, p_e.
    fn new(seed: u64, [batch, n, n_heads, head_dim, v_dim]: [usize; 5], gates: usize) -> Self {
        let mut random = Random::new(seed);
        let tokens = batch * n * n_heads;
        let mut p = |bit: usize| {
            (gates & bit != 0).then(|| random.numbers(tokens).iter().map(|x| 0.5 + 0.5 * x).collect::<Vec<f32>>())
        };
        let (p_read, p_write, p_erase) = (p(4), p(2), p(1));
        // Most keep most, some little, and a few nothing or all.
        let decay = |(i, p): (usize, f32)| match i % 29 {
            7 => 0.0,
            11 => 1.0,
            _ => p.powf(0.2),
        };
        let decay = p(8).map(|p| p.into_iter().enumerate().map(decay).collect());
        Self {
            batch,
            n,
            n_heads,
            head_dim,
            v_dim,
            q: normalised(random.numbers(tokens * head_dim), head_dim),
            k: normalised(random.numbers(tokens * head_dim), head_dim),
            v: random.numbers(tokens * v_dim),
            memory: random.numbers(batch * n_heads * v_dim * head_dim),
            p_read,
            p_write,
            p_erase,
            decay,
        }
    }

    /// The paper's equations in float64, or, to see what f32 costs, in f32.
    fn oracle(&self, round: fn(f64) -> f64) -> (Vec<f64>, Vec<f64>) {
        let Case { batch, n, n_heads, head_dim, v_dim, .. } = *self;
        let mut memory: Vec<f64> = self.memory.iter().map(|&x| f64::from(x)).collect();
        let mut values = vec![0.0; batch * n * n_heads * v_dim];
        for head in 0..batch * n_heads {
            let memory = &mut memory[head * v_dim * head_dim..][..v_dim * head_dim];
            for step in 0..n {
                let token = (head / n_heads * n + step) * n_heads + head % n_heads;
                let p = |p: &Option<Vec<f32>>, other| p.as_ref().map_or(other, |p| f64::from(p[token]));
                let (p_r, p_w, p_e) = (p(&self.p_read, 1.0), p(&self.p_write, 1.0), p(&self.p_erase, 0.0));
                let decay = p(&self.decay, 1.0);
                memory.iter_mut().for_each(|m| *m = round(decay * *m));
                let (k, q) = (&self.k[token * head_dim..][..head_dim], &self.q[token * head_dim..][..head_dim]);
                for (row, memory) in memory.chunks_mut(head_dim).enumerate() {
                    let dot = |memory: &[f64], x: &[f32]| {
                        memory.iter().zip(x).fold(0.0, |sum, (m, &x)| round(sum + m * f64::from(x)))
                    };
                    let v = f64::from(self.v[token * v_dim + row]);
                    let x = round(p_w * v - p_e * dot(memory, k));
                    memory.iter_mut().zip(k).for_each(|(m, &k)| *m = round(*m + x * f64::from(k)));
                    values[token * v_dim + row] = round(p_r * dot(memory, q));
                }
            }
        }
        (values, memory)
    }

    fn run(&self, device: &Device, form: Option<Form>) -> [Vec<f32>; 2] {
        let Case { batch, n, n_heads, head_dim, v_dim, .. } = *self;
        let tensor = |dim: usize, data: &[f32]| Tensor::new(device, &[batch, n, n_heads * dim], data).unwrap();
        let (q, k, v) = (tensor(head_dim, &self.q), tensor(head_dim, &self.k), tensor(v_dim, &self.v));
        let memory = Tensor::new(device, &[batch, n_heads, v_dim, head_dim], &self.memory).unwrap();
        let p = |p: &Option<Vec<f32>>| p.as_ref().map(|p| Probabilities::new(device, &[batch, n, n_heads], p).unwrap());
        let (p_read, p_write, p_erase) = (p(&self.p_read), p(&self.p_write), p(&self.p_erase));
        let decay = p(&self.decay);
        let before = MemoryState::new(memory);
        let mut options = AttentionMemory::new(layout(false, n_heads)).state(&before);
        options.p_read = p_read.as_ref();
        options.p_write = p_write.as_ref();
        options.p_erase = p_erase.as_ref();
        options.decay = decay.as_ref();
        options.form = form;
        poison(device, &[v.len(), before.memory.len(), n.div_ceil(32) * 32 * batch * n_heads * v_dim]);
        let recall = attention_memory(&q, &k, &v, &options).unwrap();
        let written = options.write(Some(&before), &k, &v, None).unwrap();
        let (found, again) = (recall.state.memory.read().unwrap(), written.memory.read().unwrap());
        let worst = found.iter().zip(&again).map(|(a, b)| (a - b).abs() / (1.0 + a.abs())).fold(0.0, f32::max);
        // Writing alone adds in another order.
        assert!(worst < 3e-5, "{device}: writing alone leaves another memory, by {worst:.1e}");
        assert_eq!(before.memory.read().unwrap(), self.memory, "the memory that was given has changed");
        [recall.values.read().unwrap(), found]
    }

    fn check(&self, device: &Device, form: Option<Form>, what: &str) {
        let (values, memory) = self.oracle(|x| x);
        let (plain_values, plain_memory) = self.oracle(|x| f64::from(x as f32));
        let found = self.run(device, form);
        for (found, truth, plain) in [(&found[0], &values, plain_values), (&found[1], &memory, plain_memory)] {
            // As for the golden cases: a few times what a plain f32 loop reaches.
            let plain: Vec<f32> = plain.iter().map(|&x| x as f32).collect();
            let (error, allowed) = (error(found, truth), bound(device, error(&plain, truth)));
            assert!(error <= allowed, "{what} {form:?}: off by {error:.2e}, allowed {allowed:.2e}");
        }
    }
}

const FORMS: [Option<Form>; 2] = [Some(Form::Recurrent), Some(Form::Chunked)];

#[test]
fn every_length_agrees_with_float64() {
    for (name, device) in devices() {
        for (i, n) in [1, 7, 31, 32, 33, 63, 64, 65, 100, 1000].into_iter().enumerate() {
            let case = Case::new(i as u64, [1, n, 2, 24, 20], 7);
            for form in FORMS {
                case.check(&device, form, &format!("{name}: {n} steps"));
            }
        }
    }
}

#[test]
fn every_size_agrees_with_float64() {
    for (name, device) in devices() {
        for (i, [batch, n_heads, head_dim, v_dim]) in
            [[1, 1, 1, 1], [2, 3, 5, 7], [3, 1, 64, 64], [1, 2, 33, 70], [1, 1, 256, 3], [2, 2, 3, 130]]
                .into_iter()
                .enumerate()
        {
            let case = Case::new(i as u64, [batch, 70, n_heads, head_dim, v_dim], 7);
            for form in FORMS {
                case.check(&device, form, &format!("{name}: {batch} {n_heads} {head_dim} {v_dim}"));
            }
        }
        Case::new(9, [1, 40, 1, MAX_HEAD_DIM, 5], 7).check(&device, None, &format!("{name}: widest"));
    }
}

/// Chunks that are read as vectors and as scalars, and memories of many and of few rows a thread: of all widths that
/// carry another number of rows, with every gate, each with one of the variants.
#[test]
#[cfg(feature = "gpu")]
fn all_texts_of_chunks_agree_with_float64() {
    let variants = ["chunked", "chunked, scalars", "chunked, two rows", "chunked, one row"];
    let devices = variants.map(|variant| forced("attention_memory", variant)).concat();
    for (turn, (name, device)) in devices.into_iter().enumerate() {
        for (i, n) in [1, 7, 31, 32, 33, 63, 64, 65, 100, 1000].into_iter().enumerate() {
            Case::new(i as u64, [2, n, 2, 20, 24], 15).check(&device, None, &format!("{name}: {n} steps"));
        }
        for gates in part(turn, 4, &device, 0..16) {
            Case::new(gates as u64, [1, 70, 3, 64, 36], gates).check(
                &device,
                None,
                &format!("{name}: gates {gates:b}"),
            );
        }
        let sizes =
            [[4, 4], [8, 64], [32, 4], [64, 64], [100, 68], [128, 128], [256, 20], [512, 12], [1024, 4], [30, 34]];
        for (i, [head_dim, v_dim]) in sizes.into_iter().enumerate().filter(|(i, _)| is_part(turn, *i, 4)) {
            for gates in [7, 15].into_iter().filter(|gates| every() || gates / 8 == i / 4 % 2) {
                let case = Case::new(i as u64, [1, 70, 1, head_dim, v_dim], gates);
                case.check(&device, None, &format!("{name}: {head_dim} {v_dim}"));
            }
        }
    }
}

/// Step by step, with rows that are one thread's and rows that several threads share: of all widths that
/// make another number of threads, with every gate, each with one of the two.
#[test]
#[cfg(feature = "gpu")]
fn rows_of_one_thread_and_of_several_agree_with_float64() {
    let devices = ["recurrent", "recurrent 32"].map(|variant| forced("attention_memory", variant)).concat();
    for (turn, (name, device)) in devices.into_iter().enumerate() {
        for (i, n) in [1, 7, 31, 32, 33, 63, 64, 65, 100, 1000].into_iter().enumerate() {
            Case::new(i as u64, [2, n, 2, 40, 24], 15).check(&device, None, &format!("{name}: {n} steps"));
        }
        for gates in part(turn, 2, &device, 0..16) {
            let case = Case::new(gates as u64, [1, 40, 3, 70, 36], gates);
            case.check(&device, None, &format!("{name}: gates {gates:b}"));
        }
        let sizes = [[32, 64], [33, 65], [64, 64], [65, 33], [100, 20], [128, 130], [129, 5], [250, 70], [256, 9]];
        for (i, [head_dim, v_dim]) in part(turn, 2, &device, sizes.into_iter().enumerate()) {
            let case = Case::new(i as u64, [1, 40, 2, head_dim, v_dim], 7);
            case.check(&device, None, &format!("{name}: {head_dim} {v_dim}"));
        }
    }
}

/// On a GPU each in one of the forms, for the variants above meet them all.
#[test]
fn every_gate_agrees_with_float64() {
    for (name, device) in devices() {
        for gates in 0..16 {
            let case = Case::new(gates as u64, [2, 70, 2, 16, 12], gates);
            for (turn, form) in FORMS.into_iter().enumerate() {
                if device == Device::cpu() || is_part(turn, gates, 2) {
                    case.check(&device, form, &format!("{name}: gates {gates:04b}"));
                }
            }
        }
    }
}

/// There was no decay: "gated" was said of the probabilities alone.
#[test]
fn c3_the_gated_delta_rule_agrees_with_float64() {
    for (name, device) in devices() {
        for (i, n) in [1, 31, 32, 33, 65, 300].into_iter().enumerate() {
            let mut case = Case::new(i as u64, [2, n, 2, 24, 20], 15);
            // What is erased is what is written, or nothing is.
            case.p_erase = (i % 3 != 2).then(|| case.p_write.clone().unwrap());
            for form in FORMS {
                case.check(&device, form, &format!("{name}: {n} steps"));
            }
        }
        for (i, [n_heads, head_dim, v_dim]) in [[1, 1, 1], [3, 5, 7], [1, 64, 64], [1, 33, 130]].into_iter().enumerate()
        {
            let case = Case::new(i as u64, [1, 70, n_heads, head_dim, v_dim], 15);
            for form in FORMS {
                case.check(&device, form, &format!("{name}: {n_heads} {head_dim} {v_dim}"));
            }
        }
    }
}

#[test]
fn one_read_agrees_with_float64() {
    for (name, device) in devices() {
        // The last one takes more groups than a dimension of the grid holds.
        for [batch, n, n_heads, head_dim, v_dim] in
            [[2, 1, 3, 5, 7], [1, 100, 2, 64, 33], [2, 33, 1, 40, 100], [2, 1 << 15, 33, 1, 1]]
        {
            let case = Case::new(1, [batch, n, n_heads, head_dim, v_dim], 4);
            let memory = Tensor::new(&device, &[batch, n_heads, v_dim, head_dim], &case.memory).unwrap();
            let q = Tensor::new(&device, &[batch, n, n_heads * head_dim], &case.q).unwrap();
            let p_read = case.p_read.as_ref().unwrap();
            let p = Probabilities::new(&device, &[batch, n, n_heads], p_read).unwrap();
            let truth: Vec<f64> = (0..batch * n * n_heads * v_dim)
                .map(|at| {
                    let (token, row) = (at / v_dim, at % v_dim);
                    let head = token / n_heads / n * n_heads + token % n_heads;
                    let m = &case.memory[(head * v_dim + row) * head_dim..][..head_dim];
                    let q = &case.q[token * head_dim..][..head_dim];
                    let dot: f64 = m.iter().zip(q).map(|(&m, &q)| f64::from(m) * f64::from(q)).sum();
                    f64::from(p_read[token]) * dot
                })
                .collect();
            poison(&device, &[truth.len()]);
            let memory = AttentionMemory::new(layout(false, n_heads)).p_read(&p).read(&q, &MemoryState::new(memory));
            let error = error(&memory.unwrap().values.read().unwrap(), &truth);
            // Sums of at most 64 products.
            assert!(error <= bound(&device, 5e-7), "{name}: {n} queries off by {error:.2e}");
        }
    }
}

#[test]
fn long_sequences_stay_bounded() {
    // A row cannot be longer than sqrt(N) = 141 values; random keys come near each other again
    // and again and keep it within a few.
    const N: usize = 20_000;
    let mut case = Case::new(5, [1, N, 1, 8, 8], 2);
    case.p_erase.clone_from(&case.p_write);
    for (name, device) in devices() {
        for form in [Form::Recurrent, Form::Chunked] {
            let [values, memory] = case.run(&device, Some(form));
            let largest = values
                .iter()
                .chain(&memory)
                .fold(0.0f32, |a, b| if b.is_finite() { a.max(b.abs()) } else { f32::INFINITY });
            assert!(largest < 8.0, "{name} {form:?}: {largest}");
        }
        case.check(&device, None, &format!("{name}: {N} steps"));
    }
}

#[test]
fn zero_keys_do_nothing_and_zero_queries_read_zeros() {
    for (name, device) in devices() {
        for form in [Form::Recurrent, Form::Chunked] {
            let mut case = Case::new(3, [1, 40, 1, 6, 5], 7);
            case.k.fill(0.0);
            case.q[..6].fill(0.0);
            let [values, memory] = case.run(&device, Some(form));
            assert_eq!(memory, case.memory, "{name} {form:?}");
            assert_eq!(values[..5], [0.0; 5], "{name} {form:?}");
        }
        let zero = unit_norm(&Tensor::new(&device, &[2, 3], &[0.0, 0.0, 0.0, 3.0, 0.0, 4.0]).unwrap()).unwrap();
        let found = zero.read().unwrap();
        assert_eq!(found[..3], [0.0; 3]);
        assert!((found[3] - 0.6).abs() < 1e-6 && (found[5] - 0.8).abs() < 1e-6, "{found:?}");
    }
}

#[test]
fn unit_vectors_have_length_one_at_every_scale() {
    for (name, device) in devices() {
        for scale in [1e-11f32, 1e-5, 1.0, 1e10, 1e30] {
            for width in [1, 3, 16, 17, 100] {
                let x: Vec<f32> = Random::new(width as u64).numbers(5 * width).iter().map(|x| x * scale).collect();
                poison(&device, &[x.len()]);
                let y = unit_norm(&Tensor::new(&device, &[5, width], &x).unwrap()).unwrap().read().unwrap();
                let truth: Vec<f64> = x
                    .chunks(width)
                    .flat_map(|x| {
                        let length = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
                        x.iter().map(move |&x| f64::from(x) / length.max(1e-12))
                    })
                    .collect();
                let error = error(&y, &truth);
                assert!(error <= bound(&device, 5e-7), "{name}: {width} numbers of {scale:e} off by {error:.2e}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// The paper's theorem: what was written whole is read back whole; and erasing leaves what is
    /// orthogonal to the key.
    #[test]
    fn what_is_written_is_read(head_dim in 2..40usize, v_dim in 1..40usize, n_heads in 1..4usize, seed: u64) {
        let case = Case::new(seed, [2, 1, n_heads, head_dim, v_dim], 0);
        for (name, device) in devices() {
            let shape = [2, 1, n_heads * head_dim];
            let k = Tensor::new(&device, &shape, &case.k).unwrap();
            let v = Tensor::new(&device, &[2, 1, n_heads * v_dim], &case.v).unwrap();
            let before = Tensor::new(&device, &[2, n_heads, v_dim, head_dim], &case.memory).unwrap();
            let before = MemoryState::new(before);
            let one = Probabilities::new(&device, &[2, 1, n_heads], &vec![1.0; 2 * n_heads]).unwrap();
            let memory = AttentionMemory::new(layout(false, n_heads));
            let written = memory.p_write(&one).p_erase(&one).write(Some(&before), &k, &v, None).unwrap();
            let read = memory.p_read(&one).read(&k, &written).unwrap().values.read().unwrap();
            for (a, b) in read.iter().zip(&case.v) {
                // Sums of at most 40 products of numbers below 1.
                prop_assert!((a - b).abs() < 1e-5, "{}: {} for {}", name, a, b);
            }
            // A direction that is orthogonal to the key of its head.
            let mut other = case.q.clone();
            for (other, k) in other.chunks_mut(head_dim).zip(case.k.chunks(head_dim)) {
                let along: f32 = other.iter().zip(k).map(|(a, b)| a * b).sum();
                other.iter_mut().zip(k).for_each(|(a, b)| *a -= along * b);
            }
            let other = Tensor::new(&device, &shape, &other).unwrap();
            let before = memory.read(&other, &before).unwrap().values.read().unwrap();
            let after = memory.read(&other, &written).unwrap().values.read().unwrap();
            for (a, b) in after.iter().zip(&before) {
                prop_assert!((a - b).abs() < 1e-5, "{}: {} was {}", name, a, b);
            }
        }
    }

    /// A sequence may be cut anywhere: the memory is all that goes on.
    #[test]
    fn a_sequence_may_be_cut(n in 2..150usize, at in 1..149usize, seed: u64) {
        let at = at.min(n - 1);
        let whole = Case::new(seed, [1, n, 1, 10, 9], 15);
        let [values, memory] = whole.run(&Device::cpu(), None);
        let part = |range: std::ops::Range<usize>, memory: Vec<f32>| {
            let cut = |x: &[f32], dim: usize| x[range.start * dim..range.end * dim].to_vec();
            let p = |p: &Option<Vec<f32>>| p.as_ref().map(|p| cut(p, 1));
            let (q, k, v) = (cut(&whole.q, 10), cut(&whole.k, 10), cut(&whole.v, 9));
            let (p_read, p_write, p_erase) = (p(&whole.p_read), p(&whole.p_write), p(&whole.p_erase));
            let decay = p(&whole.decay);
            Case { n: range.len(), q, k, v, memory, p_read, p_write, p_erase, decay, ..whole }.run(&Device::cpu(), None)
        };
        let first = part(0..at, whole.memory.clone());
        let second = part(at..n, first[1].clone());
        let joined = [first[0].clone(), second[0].clone()].concat();
        for (a, b) in joined.iter().chain(&second[1]).zip(values.iter().chain(&memory)) {
            prop_assert!((a - b).abs() < 2e-5 * (1.0 + b.abs()), "{} for {}", a, b);
        }
    }
}
