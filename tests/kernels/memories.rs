//! The four memories by one table of properties: however keys are cut into writes, masked, merged
//! or laid out, what is read is the same.

use crate::support::{Random, bound, devices, error, layout, oracle::projected, refused};
use wgpu_attention::{
    Device, Mask, Result, Tensor,
    ops::{
        AttentionMemory, Bias, BiasTerm, FeatureMap, Layout, LinearAttention, LinearState, MemoryState, Normalizer,
        Placed, Probabilities, Read, RollingAttention, RollingState, ScanAttention, ScanMemory, ScanState,
        attention_memory, scan_attention, scan_attention::MASKED,
    },
};

const BATCH: usize = 2;
const HEADS: usize = 3;
const QUERIES: usize = 7;
const KEYS: usize = 39;
/// The width of a key, of a value, and of coordinates.
const DIM: usize = 5;
const V_DIM: usize = 4;
const COLUMNS: usize = 2;

/// What f32 costs in sums over so few keys; [`bound`] multiplies it.
const RECORDED: f64 = 8e-7;

/// A memory of the table.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Scan,
    /// With biases from coordinates.
    Placed,
    DeepKernel,
    Performer,
    Rolling,
    /// An attention memory that is only written.
    Written,
    /// With probabilities of reading and writing.
    Gated,
    /// And of erasing.
    Erased,
    /// And of what is kept from step to step.
    Decayed,
}

impl Kind {
    /// Whether what is left depends on the order of the writes.
    fn erases(self) -> bool {
        matches!(self, Erased | Decayed)
    }
}

use Kind::*;
const KINDS: [Kind; 9] = [Scan, Placed, DeepKernel, Performer, Rolling, Written, Gated, Erased, Decayed];

#[derive(Clone, Debug)]
enum State {
    Scan(ScanState),
    Linear(LinearState),
    Rolling(RollingState),
    Memory(MemoryState),
}

/// Keys of each batch element.
type Keys = [Vec<usize>; BATCH];

fn all(keys: std::ops::Range<usize>) -> Keys {
    [keys.clone().collect(), keys.collect()]
}

/// Numbers, head-major.
#[derive(Clone)]
struct Data {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    q_coords: Vec<f32>,
    k_coords: Vec<f32>,
    p_read: Vec<f32>,
    p_write: Vec<f32>,
    p_erase: Vec<f32>,
}

impl Data {
    fn new() -> Self {
        let mut random = Random::new(1);
        let mut unit = |n: usize| {
            let mut x = random.numbers(BATCH * HEADS * n * DIM);
            for x in x.chunks_mut(DIM) {
                let length = x.iter().map(|x| x * x).sum::<f32>().sqrt();
                x.iter_mut().for_each(|x| *x /= length);
            }
            x
        };
        let (q, k) = (unit(QUERIES), unit(KEYS));
        let mut p = |n: usize| random.numbers(BATCH * HEADS * n).iter().map(|x| 0.5 + 0.5 * x).collect();
        let (p_read, p_write, p_erase) = (p(QUERIES), p(KEYS), p(KEYS));
        let v = random.numbers(BATCH * HEADS * KEYS * V_DIM);
        let (q_coords, k_coords) = (random.numbers(BATCH * QUERIES * COLUMNS), random.numbers(BATCH * KEYS * COLUMNS));
        Self { q, k, v, q_coords, k_coords, p_read, p_write, p_erase }
    }
}

/// A memory in some place.
#[derive(Clone, Copy)]
struct Case<'a> {
    kind: Kind,
    device: &'a Device,
    layout: Layout,
    data: &'a Data,
}

impl Case<'_> {
    /// Of head-major numbers `[BATCH, HEADS, n, dim]`.
    fn tensor(&self, numbers: &[f32], n: usize, dim: usize) -> Tensor {
        let sizes = [BATCH, HEADS, n, dim];
        match self.layout {
            Layout::HeadMajor => Tensor::new(self.device, &sizes, numbers).unwrap(),
            _ => Tensor::new(self.device, &[BATCH, n, HEADS * dim], &projected(numbers, sizes)).unwrap(),
        }
    }

    fn probabilities(&self, numbers: &[f32], n: usize) -> Probabilities {
        let sizes = [BATCH, HEADS, n, 1];
        match self.layout {
            Layout::HeadMajor => Probabilities::new(self.device, &sizes[..3], numbers).unwrap(),
            _ => Probabilities::new(self.device, &[BATCH, n, HEADS], &projected(numbers, sizes)).unwrap(),
        }
    }

    fn scan(&self) -> ScanMemory {
        let terms = [BiasTerm::rbf(0..2, &[1.0, -2.0, 0.5], &[1.0, 0.5, 3.0]), BiasTerm::scalar(1..2, &[-1.0; HEADS])];
        ScanMemory::new(self.layout).scale(2.0).terms(if self.kind == Placed { &terms } else { &[] })
    }

    fn linear(&self) -> LinearAttention {
        match self.kind {
            Performer => {
                let projection = Tensor::new(self.device, &[16, DIM], &Random::new(2).numbers(16 * DIM)).unwrap();
                LinearAttention::favor(self.layout, projection)
            }
            _ => LinearAttention::new(self.layout, FeatureMap::identity(0.7), Normalizer::KeyCount),
        }
    }

    fn rolling(&self) -> RollingAttention {
        RollingAttention::new(self.layout, self.tensor(&self.data.q, QUERIES, DIM)).scale(2.0)
    }

    /// Writes some keys; a mask, `[BATCH, n]`, is one of these.
    fn write(&self, state: Option<&State>, keys: &Keys, keep: Option<&[bool]>) -> State {
        let n = keys[0].len();
        // Of numbers `[BATCH * per_batch, KEYS, dim]`.
        let pick = |numbers: &[f32], dim: usize| -> Vec<f32> {
            let rows = numbers.chunks(KEYS * dim).enumerate();
            let per_batch = numbers.len() / (KEYS * dim) / BATCH;
            rows.flat_map(|(i, rows)| keys[i / per_batch].iter().flat_map(move |&key| &rows[key * dim..][..dim]))
                .copied()
                .collect()
        };
        let k = self.tensor(&pick(&self.data.k, DIM), n, DIM);
        let v = self.tensor(&pick(&self.data.v, V_DIM), n, V_DIM);
        let mask = keep.map(|keep| Mask::new(self.device, &[BATCH, n], keep).unwrap());
        let mask = mask.as_ref();
        match self.kind {
            Scan | Placed => {
                let state = state.map(|state| if let State::Scan(state) = state { state } else { panic!() });
                let coords = pick(&self.data.k_coords, COLUMNS);
                let coords = Tensor::new(self.device, &[BATCH, n, COLUMNS], &coords).unwrap();
                let k = if self.kind == Placed { Placed::from((&k, &coords)) } else { Placed::from(&k) };
                self.scan().write(state, k, &v, mask).map(State::Scan)
            }
            DeepKernel | Performer => {
                let state = state.map(|state| if let State::Linear(state) = state { state } else { panic!() });
                self.linear().write(state, &k, &v, mask).map(State::Linear)
            }
            Rolling => {
                let state = state.map(|state| if let State::Rolling(state) = state { state } else { panic!() });
                self.rolling().write(state, &k, &v, mask).map(State::Rolling)
            }
            Written | Gated | Erased | Decayed => {
                let state = state.map(|state| if let State::Memory(state) = state { state } else { panic!() });
                let p_write = self.probabilities(&pick(&self.data.p_write, 1), n);
                let p_erase = self.probabilities(&pick(&self.data.p_erase, 1), n);
                let mut memory = AttentionMemory::new(self.layout);
                memory.p_write = (self.kind != Written).then_some(&p_write);
                memory.p_erase = self.kind.erases().then_some(&p_erase);
                memory.decay = (self.kind == Decayed).then_some(&p_write);
                memory.write(state, &k, &v, mask).map(State::Memory)
            }
        }
        .unwrap()
    }

    /// Values and log-sum-exp, head-major.
    fn read(&self, state: &State) -> Vec<f32> {
        let q = self.tensor(&self.data.q, QUERIES, DIM);
        let Read { values, log_sum_exp } = match state {
            State::Scan(state) => {
                let shape = [BATCH, QUERIES, COLUMNS];
                let coords = Tensor::new(self.device, &shape, &self.data.q_coords).unwrap();
                self.scan().read((&q, &coords), state)
            }
            State::Linear(state) => self.linear().read(&q, state),
            State::Rolling(state) => self.rolling().read(state),
            State::Memory(state) => {
                let p_read = self.probabilities(&self.data.p_read, QUERIES);
                let mut memory = AttentionMemory::new(self.layout);
                memory.p_read = (self.kind != Written).then_some(&p_read);
                memory.read(&q, state)
            }
        }
        .unwrap();
        let has_softmax = matches!(self.kind, Scan | Placed | Rolling);
        assert_eq!(log_sum_exp.is_some(), has_softmax, "{:?}", self.kind);
        let values = self.by_head(&values, QUERIES, V_DIM);
        let lse = log_sum_exp.map(|lse| self.by_head(&lse, QUERIES, 1)).unwrap_or_default();
        [values, lse].concat()
    }

    /// The numbers of a tensor, head-major.
    fn by_head(&self, x: &Tensor, n: usize, dim: usize) -> Vec<f32> {
        let numbers = x.read().unwrap();
        if self.layout == Layout::HeadMajor {
            assert_eq!(x.shape()[..3], [BATCH, HEADS, n]);
            return numbers;
        }
        assert_eq!(x.shape(), [BATCH, n, HEADS * dim]);
        projected(&numbers, [BATCH, n, HEADS, dim])
    }
}

fn merge(a: &State, b: &State) -> Result<State> {
    match (a, b) {
        (State::Scan(a), State::Scan(b)) => a.merge(b).map(State::Scan),
        (State::Linear(a), State::Linear(b)) => a.merge(b).map(State::Linear),
        (State::Rolling(a), State::Rolling(b)) => a.merge(b).map(State::Rolling),
        (State::Memory(a), State::Memory(b)) => a.merge(b).map(State::Memory),
        _ => panic!("states of two memories"),
    }
}

/// Every memory on every device in both layouts, with what the CPU reads of keys written at once.
fn table(data: &Data, truth_of: &Keys, check: impl Fn(Case<'_>, &dyn Fn(&str, &State))) {
    for (name, device) in devices() {
        for kind in KINDS {
            for head_major in [true, false] {
                let cpu = Case { kind, device: &Device::cpu(), layout: Layout::HeadMajor, data };
                let truth = cpu.read(&cpu.write(None, truth_of, None));
                let truth: Vec<f64> = truth.into_iter().map(f64::from).collect();
                let case = Case { kind, device: &device, layout: layout(head_major, HEADS), data };
                check(case, &|what, state| {
                    let (e, allowed) = (error(&case.read(state), &truth), bound(&device, RECORDED));
                    assert!(e <= allowed, "{what}: {kind:?} {:?} on {name} is off by {e:.1e}", case.layout);
                });
            }
        }
    }
}

#[test]
fn both_layouts_and_all_devices_read_the_same() {
    table(&Data::new(), &all(0..KEYS), |case, agrees| agrees("at once", &case.write(None, &all(0..KEYS), None)));
}

#[test]
fn writing_in_parts_is_writing_at_once() {
    table(&Data::new(), &all(0..KEYS), |case, agrees| {
        for cuts in [&[0, 1, 16, KEYS][..], &[0, 20, KEYS]] {
            let mut state: Option<State> = None;
            for cut in cuts.windows(2) {
                let before = state.as_ref().map(|state| case.read(state));
                let written = case.write(state.as_ref(), &all(cut[0]..cut[1]), None);
                assert_eq!(before, state.map(|state| case.read(&state)), "{:?}: the state has changed", case.kind);
                state = Some(written);
            }
            agrees("in parts", &state.unwrap());
        }
    });
}

#[test]
fn merging_in_any_order_is_writing_at_once() {
    table(&Data::new(), &all(0..KEYS), |case, agrees| {
        let [a, b, c] = [0..5, 5..6, 6..KEYS].map(|keys| case.write(None, &all(keys), None));
        if case.kind.erases() {
            return refused(merge(&a, &b), &["MemoryState::merge", "erased", "order"]);
        }
        let join = |a: &State, b: &State| merge(a, b).unwrap();
        agrees("(a b) c", &join(&join(&a, &b), &c));
        agrees("c (b a)", &join(&c, &join(&b, &a)));
        agrees("b (a c)", &join(&b, &join(&a, &c)));
        agrees("a, then b and c", &case.write(Some(&a), &all(5..KEYS), None));
    });
}

/// Each batch element without another third of its keys.
fn thinned() -> (Keys, Vec<bool>) {
    let keep = |b: usize| (0..KEYS).map(move |key| key % 3 != b);
    let keys = [0, 1].map(|b| (0..KEYS).filter(|key| key % 3 != b).collect());
    (keys, keep(0).chain(keep(1)).collect())
}

#[test]
fn masking_keys_is_leaving_them_out() {
    let (keys, keep) = thinned();
    let data = Data::new();
    table(&data, &keys, |case, agrees| {
        let mut data = data.clone();
        if !case.kind.erases() {
            // What is masked may hold anything; what is erased by it must be finite.
            for (i, _) in keep.iter().enumerate().filter(|(_, keep)| !**keep) {
                for head in 0..HEADS {
                    let row = (i / KEYS * HEADS + head) * KEYS + i % KEYS;
                    data.k[row * DIM] = f32::NAN;
                    data.v[row * V_DIM] = f32::NAN;
                }
            }
        }
        let case = Case { data: &data, ..case };
        let part = |keys: std::ops::Range<usize>| -> Vec<bool> {
            keep.chunks(KEYS).flat_map(|keep| &keep[keys.clone()]).copied().collect()
        };
        agrees("masked", &case.write(None, &all(0..KEYS), Some(&keep)));
        let first = case.write(None, &all(0..10), Some(&part(0..10)));
        agrees("in parts", &case.write(Some(&first), &all(10..KEYS), Some(&part(10..KEYS))));
        // Parts without a mask beside one that has one.
        let (a, b): (Keys, Keys) =
            (keys.clone().map(|keys| keys[..9].to_vec()), keys.clone().map(|keys| keys[9..].to_vec()));
        let none = [vec![0], vec![1]];
        let hidden = case.write(Some(&case.write(None, &a, None)), &none, Some(&[false; BATCH]));
        agrees("between", &case.write(Some(&hidden), &b, None));
    });
}

#[test]
fn nothing_written_changes_nothing() {
    let bits = |numbers: Vec<f32>| -> Vec<u32> { numbers.into_iter().map(f32::to_bits).collect() };
    table(&Data::new(), &all(0..KEYS), |case, agrees| {
        let state = case.write(None, &all(0..KEYS), None);
        let same = case.write(Some(&state), &all(0..0), None);
        assert_eq!(bits(case.read(&state)), bits(case.read(&same)), "{:?}", case.kind);
        agrees("with a mask", &case.write(Some(&state), &all(0..0), Some(&[])));
        let masked = case.write(Some(&state), &all(0..2), Some(&[false; 2 * BATCH]));
        agrees("all masked", &masked);
        // Nothing but masked keys reads as zeros.
        let read = case.read(&case.write(None, &all(0..3), Some(&[false; 3 * BATCH])));
        let (values, lse) = read.split_at(BATCH * HEADS * QUERIES * V_DIM);
        assert!(values.iter().all(|&x| x == 0.0) && lse.iter().all(|&x| x == MASKED), "{:?}: {read:?}", case.kind);
    });
}

/// A first write of no keys was refused by the rolling and the scan memory.
#[test]
fn f15_all_memories_begin_with_no_keys_or_with_masked_ones() {
    table(&Data::new(), &all(0..KEYS), |case, agrees| {
        let beginnings = [
            case.write(None, &all(0..0), None),
            case.write(None, &all(0..0), Some(&[])),
            case.write(None, &all(0..3), Some(&[false; 3 * BATCH])),
        ];
        for empty in &beginnings {
            let read = case.read(empty);
            let (values, lse) = read.split_at(BATCH * HEADS * QUERIES * V_DIM);
            assert!(values.iter().all(|&x| x == 0.0) && lse.iter().all(|&x| x == MASKED), "{:?}: {read:?}", case.kind);
            agrees("nothing, then all", &case.write(Some(empty), &all(0..KEYS), None));
            if !case.kind.erases() {
                let full = case.write(None, &all(0..KEYS), None);
                agrees("with nothing", &merge(&full, empty).unwrap());
                agrees("nothing with all", &merge(empty, &full).unwrap());
                agrees("nothing twice", &merge(&merge(empty, &full).unwrap(), &beginnings[0]).unwrap());
            }
        }
    });
}

#[test]
fn what_is_kept_reads_as_attention_at_once() {
    let data = Data::new();
    let (_, keep) = thinned();
    for (name, device) in devices() {
        for head_major in [true, false] {
            let case = Case { kind: Placed, device: &device, layout: layout(head_major, HEADS), data: &data };
            let tensor = |numbers: &[f32], n, dim| case.tensor(numbers, n, dim);
            let (q, k, v) = (tensor(&data.q, QUERIES, DIM), tensor(&data.k, KEYS, DIM), tensor(&data.v, KEYS, V_DIM));
            let coords = |n: usize, numbers: &[f32]| Tensor::new(&device, &[BATCH, n, COLUMNS], numbers).unwrap();
            let (q_coords, k_coords) = (coords(QUERIES, &data.q_coords), coords(KEYS, &data.k_coords));
            let matrix = Random::new(3).numbers(BATCH * HEADS * QUERIES * KEYS);
            let matrix = Tensor::new(&device, &[BATCH, HEADS, QUERIES, KEYS], &matrix).unwrap();
            let mask = Mask::new(&device, &[BATCH, KEYS], &keep).unwrap();
            let memory = case.scan().matrix(&matrix);
            let state = memory.write(None, (&k, &k_coords), &v, Some(&mask)).unwrap();
            let read = memory.read((&q, &q_coords), &state).unwrap();
            let bias = Bias::new(&q_coords, &k_coords, &memory.terms).with_matrix(&matrix);
            let options = ScanAttention::new(case.layout).scale(2.0).key_mask(&mask).bias(bias);
            let at_once = scan_attention(&q, &k, &v, &options).unwrap();
            assert_eq!(read.values.read().unwrap(), at_once.values.read().unwrap(), "{name}");
            assert_eq!(read.log_sum_exp.unwrap().read().unwrap(), at_once.log_sum_exp.read().unwrap(), "{name}");
        }
    }
}

#[test]
fn every_step_of_a_sequence_reads_what_was_written_until_then() {
    let data = Data::new();
    for (name, device) in devices() {
        for head_major in [true, false] {
            let case = Case { kind: Erased, device: &device, layout: layout(head_major, HEADS), data: &data };
            let (k, v) = (case.tensor(&data.k, KEYS, DIM), case.tensor(&data.v, KEYS, V_DIM));
            let [p_write, p_erase] = [&data.p_write, &data.p_erase].map(|p| case.probabilities(p, KEYS));
            let memory = AttentionMemory::new(case.layout).p_write(&p_write).p_erase(&p_erase);
            let recall = attention_memory(&k, &k, &v, &memory).unwrap();
            let read = AttentionMemory::new(case.layout).read(&k, &recall.state).unwrap();
            // The last step reads the whole state.
            let [last, read] = [&recall.values, &read.values].map(|values| {
                let of_head = case.by_head(values, KEYS, V_DIM);
                of_head.chunks(KEYS * V_DIM).flat_map(|x| &x[(KEYS - 1) * V_DIM..]).copied().collect::<Vec<f32>>()
            });
            let e = error(&read, &last.into_iter().map(f64::from).collect::<Vec<_>>());
            assert!(e <= bound(&device, RECORDED), "{name}: off by {e:.1e}");
            let State::Memory(written) = case.write(None, &all(0..KEYS), None) else { panic!() };
            let truth: Vec<f64> = written.memory.read().unwrap().into_iter().map(f64::from).collect();
            let e = error(&recall.state.memory.read().unwrap(), &truth);
            assert!(e <= bound(&device, RECORDED), "{name}: off by {e:.1e}");
        }
    }
}
