//! The tapes of a memory machine against float64.

use crate::support::{Random, bound, devices, error, oracle_tape::tapes, poison, wide};
use wgpu_attention::{
    Device, Tensor,
    ops::{HeadMoves, KeyErase, TapeErase, TapeInputs, TapeOptions, TapeProbabilities, TapeState, tape, unit_norm},
};

#[test]
fn tapes_agree_with_float64() {
    let all = TapeOptions::default();
    let options = [
        all,
        TapeOptions { heads: HeadMoves::NoJump, ..all },
        TapeOptions { heads: HeadMoves::OnlyJump, probabilities: TapeProbabilities::One, ..all },
        TapeOptions { erase: TapeErase::Never, ..all },
        TapeOptions { erase: TapeErase::Tied, key_erase: KeyErase::ByPosition, ..all },
    ];
    // Tapes that fit workgroup memory, one slot, two that do not fit, and two whose heads do not (of
    // every adapter).
    let sizes = [
        [2, 10, 3, 5, 4],
        [1, 3, 1, 1, 1],
        [1, 20, 2, 70, 65],
        [1, 8, 1, 300, 3],
        [2, 3, 2, 1100, 2],
        [1, 2, 1, 5000, 3],
    ];
    for (name, device) in devices() {
        for (i, (options, sizes)) in options.iter().flat_map(|o| sizes.iter().map(move |s| (*o, *s))).enumerate() {
            let [batch, n, n_tapes, slots, mem] = sizes;
            let mut random = Random::new(i as u64);
            let tokens = batch * n * n_tapes;
            let unit = |x: Vec<f32>| -> Vec<f32> {
                let tensor = Tensor::new(&Device::cpu(), &[tokens, mem], &x).unwrap();
                unit_norm(&tensor).unwrap().read().unwrap()
            };
            let value = random.numbers(tokens * mem);
            let (key, query) = (unit(random.numbers(tokens * mem)), unit(random.numbers(tokens * mem)));
            let action = random.numbers(tokens * options.heads.n_actions());
            let start = random.numbers(batch * n_tapes * slots * mem);
            let (values, end) = tapes(
                sizes,
                options,
                [&value, &key, &query, &action].map(|x| wide(x)).each_ref().map(Vec::as_slice),
                &wide(&start),
            );
            let tensor = |dim: usize, data: &[f32]| Tensor::new(&device, &[batch, n, n_tapes * dim], data).unwrap();
            let (value, action) = (tensor(mem, &value), tensor(options.heads.n_actions(), &action));
            let jumps = options.heads.jumps().then(|| (tensor(mem, &key), tensor(mem, &query)));
            let inputs = TapeInputs {
                value: &value,
                key: jumps.as_ref().map(|(key, _)| key),
                query: jumps.as_ref().map(|(_, query)| query),
                action: &action,
                n_tapes,
                tape_length: slots,
            };
            let start = TapeState::new(Tensor::new(&device, &[batch, n_tapes, slots, mem], &start).unwrap());
            poison(&device, &[values.len(), end.len(), 2 * end.len() + 2 * batch * n_tapes * slots]);
            let output = tape(&inputs, options, Some(&start)).unwrap();
            for (found, truth) in [(&output.values, &values), (&output.state.tape, &end)] {
                // Heads are divided by their length at every step, which magnifies rounding where
                // one has come close to zero.
                let error = error(&found.read().unwrap(), truth);
                assert!(error <= bound(&device, 3e-6), "{name}: {options:?} {sizes:?} off by {error:.2e}");
            }
        }
    }
}

/// A state without batch elements was refused by its own operation, and sizes that no memory holds overflowed.
#[test]
fn an_empty_batch_goes_on_and_vast_sizes_are_refused() {
    for (name, device) in devices() {
        for heads in [HeadMoves::NoJump, HeadMoves::All, HeadMoves::OnlyJump] {
            let options = TapeOptions { heads, ..TapeOptions::default() };
            let empty = |dim: usize| Tensor::zeros(&device, &[0, 3, dim]).unwrap();
            let (value, action) = (empty(1), empty(options.heads.n_actions()));
            let jumps = heads.jumps().then_some(&value);
            let inputs =
                TapeInputs { value: &value, key: jumps, query: jumps, action: &action, n_tapes: 1, tape_length: 2 };
            let first = tape(&inputs, options, None).unwrap();
            let then = tape(&inputs, options, Some(&first.state)).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(then.values.shape(), [0, 3, 1]);
        }
        let vast = (1 << 61) - 1;
        let value = Tensor::zeros(&device, &[0, 1, vast]).unwrap();
        let inputs =
            TapeInputs { value: &value, key: None, query: None, action: &value, n_tapes: vast, tape_length: 1 };
        let options = TapeOptions { heads: HeadMoves::NoJump, ..TapeOptions::default() };
        assert!(tape(&inputs, options, None).is_err());
    }
}
