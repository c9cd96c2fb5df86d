//! Bad input of the attention memories and of the recurrences, as in `bad_input.rs`.

use crate::support::{devices, refused, zeros};
use wgpu_attention::{
    Device, Tensor,
    ops::{
        AttentionMemory, Direction, Form, HeadMoves, Layout, Linear, Lsam, LsamState, Lstm, MemoryState, Probabilities,
        TapeInputs, TapeOptions, TapeState, add, attention_memory, gate, lsam, lstm, tape, unit_norm,
    },
};

#[test]
fn memories() {
    for (_, device) in devices() {
        let t = |shape: &[usize]| zeros(&device, shape);
        let p = |shape: &[usize]| Probabilities::new(&device, shape, &vec![0.5; shape.iter().product()]).unwrap();
        for bad in [-0.1, 1.1, f32::NAN, f32::INFINITY] {
            refused(Probabilities::new(&device, &[1, 2, 1], &[0.5, bad]), &["probability", "at 1", "0 to 1"]);
        }
        let run = |q: &[usize], k: &[usize], v: &[usize], options: &AttentionMemory<'_>| {
            attention_memory(&t(q), &t(k), &t(v), options)
        };
        let two = AttentionMemory::new(Layout::Projected { n_heads: 2 });
        let m = |shape: &[usize]| MemoryState::new(t(shape));
        let (tokens, memory) = ([1, 5, 8], m(&[1, 2, 4, 4]));
        refused(run(&[5, 8], &[5, 8], &[5, 8], &two), &["k", "[5, 8]", "2 heads"]);
        refused(
            run(&tokens, &tokens, &tokens, &AttentionMemory::new(Layout::Projected { n_heads: 0 })),
            &["k", "0 heads"],
        );
        refused(run(&[1, 5, 7], &[1, 5, 7], &tokens, &two), &["k", "[1, 5, 7]", "2 heads"]);
        refused(run(&tokens, &tokens, &[1, 4, 8], &two), &["length", "[1, 4, 8]"]);
        refused(run(&[1, 4, 8], &tokens, &tokens, &two), &["query", "[1, 4, 8]"]);
        refused(run(&tokens, &tokens, &tokens, &two.state(&m(&[1, 2, 4, 5]))), &["memory", "[1, 2, 4, 4]"]);
        refused(run(&tokens, &tokens, &tokens, &two.p_erase(&p(&[1, 5, 1]))), &["p_erase", "[1, 5, 2]"]);
        refused(run(&tokens, &tokens, &tokens, &two.p_write(&p(&[1, 4, 2]))), &["p_write", "[1, 5, 2]"]);
        refused(two.read(&t(&tokens), &m(&[4, 4])), &["memory", "[4, 4]"]);
        refused(two.read(&t(&[1, 5, 6]), &memory), &["memory", "[1, 2, 4, 3]"]);
        refused(two.p_read(&p(&[5, 2])).read(&t(&tokens), &memory), &["p_read", "[1, 5, 2]"]);
        refused(two.write(Some(&memory), &t(&[2, 5, 8]), &t(&[2, 5, 8]), None), &["memory", "[2, 2, 4, 4]"]);
        refused(gate(&t(&[5, 7]), &p(&[5, 2])), &["[5, 7]", "n_heads * dim"]);
        refused(add(&t(&[5, 7]), &t(&[5]), 1.0), &["[5]", "last dimensions"]);
        refused(add(&t(&[5, 7]), &t(&[7]), f32::NAN), &["scale", "NaN"]);
        refused(unit_norm(&t(&[5, 0])), &["width > 0"]);
        // Nothing to do is no error.
        let nothing = run(&[1, 0, 8], &[1, 0, 8], &[1, 0, 8], &two.state(&memory)).unwrap();
        assert_eq!(nothing.values.shape(), [1, 0, 8]);
        assert_eq!(nothing.state.memory.read().unwrap(), memory.memory.read().unwrap());
        if device != Device::cpu() {
            let elsewhere = zeros(&Device::cpu(), &tokens);
            refused(attention_memory(&t(&tokens), &elsewhere, &t(&tokens), &two), &["different devices"]);
            let one = AttentionMemory::new(Layout::Projected { n_heads: 1 });
            let wide = [1, 2, attention_memory::MAX_HEAD_DIM + 1];
            refused(run(&wide, &wide, &wide, &one), &["head_dim", "1025", "1024"]);
            let wide = [1, 2, 300];
            refused(run(&wide, &wide, &wide, &one.form(Form::Recurrent)), &["300", "256"]);
        }
    }
}

#[test]
fn recurrences() {
    for (_, device) in devices() {
        let t = |shape: &[usize]| zeros(&device, shape);
        let dense = |n_in, n_out| Linear { weight: t(&[n_in, n_out]), bias: None };
        let layer = |hidden: &[usize], width| Lstm { input: dense(3, width), hidden: t(hidden) };
        refused(lstm(&t(&[1, 4, 3]), &layer(&[4], 16), None), &["hidden", "[4]"]);
        refused(lstm(&t(&[1, 4, 3]), &layer(&[4, 15], 15), None), &["[4, 15]", "4 hidden"]);
        refused(lstm(&t(&[4, 3]), &layer(&[4, 16], 16), None), &["x", "[batch, n, n_in]"]);
        refused(lstm(&t(&[1, 4, 3]), &layer(&[4, 16], 16), Some(&t(&[1, 4]))), &["state", "[1, 2, 4]"]);

        let cell = |n_heads, d_model: usize| Lsam { n_heads, input: dense(3, 16), hidden: t(&[d_model, 16]) };
        refused(lsam(&t(&[1, 4, 3]), &cell(3, 4), None, Direction::Forward), &["[4, 16]", "multiple of n_heads"]);
        refused(lsam(&t(&[1, 4, 3]), &cell(0, 4), None, Direction::Forward), &["[4, 16]"]);
        refused(lsam(&t(&[4, 3]), &cell(2, 4), None, Direction::Forward), &["x", "[batch, n, n_in]"]);
        let state = LsamState { hidden: t(&[1, 4]), memory: t(&[1, 2, 2, 3]) };
        refused(lsam(&t(&[1, 4, 3]), &cell(2, 4), Some(&state), Direction::Forward), &["state.memory", "[1, 2, 2, 2]"]);

        let value = t(&[1, 4, 6]);
        let run =
            |heads: HeadMoves, key: Option<&Tensor>, n_actions, n_tapes, tape_length, start: Option<&TapeState>| {
                let action = t(&[1, 4, n_actions]);
                let inputs = TapeInputs { value: &value, key, query: key, action: &action, n_tapes, tape_length };
                tape(&inputs, TapeOptions { heads, ..Default::default() }, start)
            };
        let (all, none) = (HeadMoves::All, HeadMoves::NoJump);
        refused(run(all, Some(&value), 22, 2, 0, None), &["tape_length", "0", "1 or more"]);
        refused(run(all, Some(&value), 22, 2, usize::MAX, None), &["numbers in all tapes"]);
        refused(run(all, Some(&value), 22, 4, 5, None), &["value", "4 tapes"]);
        refused(run(all, None, 22, 2, 5, None), &["key", "none"]);
        refused(run(none, Some(&value), 18, 2, 5, None), &["key", "do not jump"]);
        refused(run(all, Some(&value), 18, 2, 5, None), &["action", "[1, 4, 22]"]);
        let start = |tape: &[usize]| TapeState::new(t(tape));
        let with = |state: TapeState| run(all, Some(&value), 22, 2, 5, Some(&state));
        refused(with(start(&[1, 2, 4, 3])), &["state.tape", "[1, 2, 5, 3]"]);
        let heads = TapeState { heads: Some(t(&[1, 2, 5, 2])), ..start(&[1, 2, 5, 3]) };
        refused(with(heads), &["state.heads", "[1, 2, 2, 5]"]);
        let keys = TapeState { keys: Some(t(&[1, 2, 5, 4])), ..start(&[1, 2, 5, 3]) };
        refused(with(keys), &["state.keys", "[1, 2, 5, 3]"]);
        let keys = TapeState { keys: Some(t(&[1, 2, 5, 3])), ..start(&[1, 2, 5, 3]) };
        refused(run(none, None, 18, 2, 5, Some(&keys)), &["state.keys", "do not jump"]);
    }
}
