//! Fault C5: every state can be read and made again, and what is made again goes on as if nothing
//! had happened.

use crate::support::{Random, bound, devices, error, layout, wide};
use wgpu_attention::{
    Mask, Tensor,
    ops::{
        AttentionMemory, BiasTerm, Direction, FeatureMap, HeadMoves, KeyErase, Linear, LinearAttention, LinearState,
        Lsam, LsamState, Lstm, MemoryState, Normalizer, Probabilities, RollingAttention, RollingState, ScanMemory,
        ScanState, TapeErase, TapeInputs, TapeOptions, TapeState, lsam, lstm, tape, unit_norm,
    },
};

/// By way of the host.
fn again(x: &Tensor) -> Tensor {
    Tensor::new(&x.device(), x.shape(), &x.read().unwrap()).unwrap()
}

fn bits(x: &Tensor) -> Vec<u32> {
    x.read().unwrap().into_iter().map(f32::to_bits).collect()
}

/// The key table and the heads of a machine were dropped: a second part began with fresh ones.
#[test]
fn c5_a_sequence_on_tapes_goes_on_where_it_ended() {
    let (batch, n, n_tapes, mem) = (2, 9, 3, 4);
    let all = TapeOptions::default();
    let options = [
        all,
        TapeOptions { heads: HeadMoves::NoJump, ..all },
        TapeOptions { heads: HeadMoves::OnlyJump, erase: TapeErase::Never, ..all },
        TapeOptions { key_erase: KeyErase::ByPosition, ..all },
    ];
    for (name, device) in devices() {
        // Tapes that fit workgroup memory, and some that do not.
        for (options, slots) in options.iter().flat_map(|o| [(*o, 5), (*o, 1), (*o, 700)]) {
            let mut random = Random::new(slots as u64);
            let mut tensor = |dim: usize| {
                Tensor::new(&device, &[batch, n, n_tapes * dim], &random.numbers(batch * n * n_tapes * dim)).unwrap()
            };
            let unit = |x: Tensor| {
                let heads = unit_norm(&x.reshape(&[batch * n * n_tapes, mem]).unwrap()).unwrap();
                heads.reshape(&[batch, n, n_tapes * mem]).unwrap()
            };
            let (value, action) = (tensor(mem), tensor(options.heads.n_actions()));
            let jumps = options.heads.jumps().then(|| [unit(tensor(mem)), unit(tensor(mem))]);
            let run = |steps: std::ops::Range<usize>, state: Option<&TapeState>| {
                let part = |x: &Tensor| {
                    let width = x.shape()[2];
                    let numbers = x.read().unwrap();
                    let rows = numbers.chunks(n * width).flat_map(|x| &x[steps.start * width..steps.end * width]);
                    let numbers: Vec<f32> = rows.copied().collect();
                    Tensor::new(&device, &[batch, steps.len(), width], &numbers).unwrap()
                };
                let jumps = jumps.as_ref().map(|both| both.each_ref().map(part));
                let inputs = TapeInputs {
                    value: &part(&value),
                    key: jumps.as_ref().map(|[key, _]| key),
                    query: jumps.as_ref().map(|[_, query]| query),
                    action: &part(&action),
                    n_tapes,
                    tape_length: slots,
                };
                tape(&inputs, options, state).unwrap()
            };
            let whole = run(0..n, None);
            let first = run(0..4, None);
            let TapeState { tape, keys, heads } = &first.state;
            assert_eq!((keys.is_some(), heads.is_some()), (options.heads.jumps(), true));
            let state =
                TapeState { tape: again(tape), keys: keys.as_ref().map(again), heads: heads.as_ref().map(again) };
            let second = run(4..n, Some(&state));
            let what = format!("{options:?}, {slots} slots on {name}");
            let wanted = wide(&whole.values.read().unwrap());
            let wanted: Vec<f64> =
                wanted.chunks(n * n_tapes * mem).flat_map(|x| &x[4 * n_tapes * mem..]).copied().collect();
            // The same steps in the same order.
            let e = error(&second.values.read().unwrap(), &wanted);
            assert!(e <= bound(&device, 1e-7), "{what}: off by {e:.1e}");
            assert_eq!(bits(&second.state.tape), bits(&whole.state.tape), "{what}");
            assert_eq!(bits(second.state.heads.as_ref().unwrap()), bits(whole.state.heads.as_ref().unwrap()), "{what}");
            if let (Some(a), Some(b)) = (&second.state.keys, &whole.state.keys) {
                assert_eq!(bits(a), bits(b), "{what}");
            }
            // Each part alone begins as if the rest were fresh.
            let only_tape = run(4..n, Some(&TapeState::new(tape.clone())));
            let fresh = TapeState { keys: None, heads: run(0..0, None).state.heads, ..first.state.clone() };
            assert_eq!(bits(&run(4..n, Some(&fresh)).values), bits(&only_tape.values), "{what}");
        }
    }
}

/// A mask could not be read, so a state of scan attention that has one could not be saved.
#[test]
fn c5_every_state_is_made_again_of_what_is_read() {
    for (name, device) in devices() {
        for head_major in [true, false] {
            let layout = layout(head_major, 2);
            let mut random = Random::new(7);
            let mut rows = |n: usize, dim: usize| {
                let shape = if head_major { vec![3, 2, n, dim] } else { vec![3, n, 2 * dim] };
                Tensor::new(&device, &shape, &random.scaled(3 * 2 * n * dim, 0.5)).unwrap()
            };
            let (q, k, v) = (rows(4, 5), rows(11, 5), rows(11, 6));
            let (q_coords, k_coords) = (again(&rows(4, 1)), again(&rows(11, 1)));
            let coords = |x: &Tensor, n: usize| x.reshape(&[3, n, 2]).unwrap();
            let (q_coords, k_coords) = (coords(&q_coords, 4), coords(&k_coords, 11));
            let keep = Random::new(8).booleans(33, 0.6);
            let mask = Mask::new(&device, &[3, 11], &keep).unwrap();
            assert_eq!(mask.read().unwrap(), keep);

            let terms = [BiasTerm::rbf(0..2, &[1.0, 2.0], &[0.5, 0.1])];
            let scan = ScanMemory::new(layout).terms(&terms);
            // Joined with keys that all exist.
            let state = scan.write(None, (&k, &k_coords), &v, Some(&mask)).unwrap();
            let state = scan.write(Some(&state), (&k, &k_coords), &v, None).unwrap();
            let saved = state.mask.as_ref().map(|mask| (mask.shape().to_vec(), mask.read().unwrap()));
            assert_eq!(saved.as_ref().map(|(shape, _)| &shape[..]), Some(&[3, 22][..]));
            let loaded = ScanState {
                keys: again(&state.keys),
                values: again(&state.values),
                coords: state.coords.as_ref().map(again),
                mask: saved.map(|(shape, keep)| Mask::new(&device, &shape, &keep).unwrap()),
                layout,
            };
            let go_on = |state| scan.write(Some(state), (&k, &k_coords), &v, Some(&mask)).unwrap();
            let read = |state| scan.read((&q, &q_coords), &go_on(state)).unwrap().values;
            assert_eq!(bits(&read(&state)), bits(&read(&loaded)), "{name}");

            let linear = LinearAttention::new(layout, FeatureMap::identity(1.0), Normalizer::KeyCount);
            let state = linear.write(None, &k, &v, Some(&mask)).unwrap();
            let loaded = LinearState {
                sums: again(&state.sums),
                v_dim: state.v_dim,
                n_keys: state.n_keys.clone(),
                is_stable: state.is_stable,
            };
            let read = |state| linear.read(&q, &linear.write(Some(state), &k, &v, None).unwrap()).unwrap().values;
            assert_eq!(bits(&read(&state)), bits(&read(&loaded)), "{name}");

            let rolling = RollingAttention::new(layout, q.clone());
            let state = rolling.write(None, &k, &v, Some(&mask)).unwrap();
            let loaded = RollingState { rows: again(&state.rows), layout: state.layout };
            let read = |state| rolling.read(&rolling.write(Some(state), &k, &v, None).unwrap()).unwrap().values;
            assert_eq!(bits(&read(&state)), bits(&read(&loaded)), "{name}");

            let p = Probabilities::new(&device, &if head_major { [3, 2, 11] } else { [3, 11, 2] }, &[0.5; 66]).unwrap();
            let memory = AttentionMemory::new(layout).p_erase(&p);
            let state = memory.write(None, &k, &v, None).unwrap();
            let loaded = MemoryState { memory: again(&state.memory), erased: state.erased };
            let read = |state| memory.read(&q, &memory.write(Some(state), &k, &v, None).unwrap()).unwrap().values;
            assert_eq!(bits(&read(&state)), bits(&read(&loaded)), "{name}");
        }
    }
}

#[test]
fn c5_recurrences_go_on_from_what_is_read() {
    for (name, device) in devices() {
        let mut random = Random::new(2);
        let mut t = |shape: &[usize]| Tensor::new(&device, shape, &random.scaled(shape.iter().product(), 0.4)).unwrap();
        let (a, b) = (t(&[2, 5, 3]), t(&[2, 4, 3]));
        let dense = |weight: Tensor| Linear { weight, bias: None };
        let long = Lstm { input: dense(t(&[3, 16])), hidden: t(&[4, 16]) };
        let state = lstm(&a, &long, None).unwrap().state;
        let read = |state| lstm(&b, &long, Some(state)).unwrap().values;
        assert_eq!(bits(&read(&state)), bits(&read(&again(&state))), "{name}");

        let short = Lsam { n_heads: 2, input: dense(t(&[3, 16])), hidden: t(&[4, 16]) };
        let state = lsam(&a, &short, None, Direction::Forward).unwrap().state;
        let loaded = LsamState { hidden: again(&state.hidden), memory: again(&state.memory) };
        let read = |state| lsam(&b, &short, Some(state), Direction::Forward).unwrap().values;
        assert_eq!(bits(&read(&state)), bits(&read(&loaded)), "{name}");
    }
}
