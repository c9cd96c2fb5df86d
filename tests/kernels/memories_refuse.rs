//! What does not fit is refused by all four memories, in words that name it.

use std::fmt::Debug;

use crate::support::{devices, layout, refused, zeros};
use wgpu_attention::{
    Device, Mask, Result, Tensor,
    ops::{
        AttentionMemory, BiasTerm, FeatureMap, Layout, LinearAttention, LinearState, MemoryState, Normalizer,
        Probabilities, Read, RollingAttention, ScanMemory, attention_memory,
    },
};

/// Batch, heads, rows and width as a tensor of zeros.
fn rows(device: &Device, layout: Layout, [batch, heads, n, dim]: [usize; 4]) -> Tensor {
    match layout {
        Layout::HeadMajor => zeros(device, &[batch, heads, n, dim]),
        _ => zeros(device, &[batch, n, heads * dim]),
    }
}

/// One memory of one batch element, two heads, keys of width 3 and values of width 4. `state` is
/// what its errors call what does not fit a state.
struct Memory<W, R, M> {
    device: Device,
    layout: Layout,
    state: &'static str,
    write: W,
    read: Option<R>,
    merge: M,
}

impl<W, R, M> Memory<W, R, M> {
    fn check<S: Debug>(self)
    where
        W: Fn(Option<&S>, &Tensor, &Tensor, Option<&Mask>) -> Result<S>,
        R: Fn(&Tensor, &S) -> Result<Read>,
        M: Fn(&S, &S) -> Result<S>,
    {
        let Self { device, layout, state, write, read, merge } = self;
        let other_layout =
            if layout == Layout::HeadMajor { Layout::Projected { n_heads: 2 } } else { Layout::HeadMajor };
        let rows = |sizes| rows(&device, layout, sizes);
        let (k, v) = (rows([1, 2, 5, 3]), rows([1, 2, 5, 4]));
        let good = write(None, &k, &v, None).unwrap();
        for before in [None, Some(&good)] {
            let named =
                if layout == Layout::HeadMajor { "Layout::HeadMajor" } else { "Layout::Projected with 2 heads" };
            refused(write(before, &zeros(&device, &[4]), &v, None), &["k has shape [4]", named]);
            refused(write(before, &self::rows(&device, other_layout, [1, 2, 5, 3]), &v, None), &["k has shape", named]);
            refused(write(before, &k, &self::rows(&device, other_layout, [1, 2, 5, 4]), None), &["v has shape", named]);
            refused(write(before, &rows([1, 2, 5, 0]), &v, None), &["k has shape", named]);
            refused(write(before, &k, &rows([1, 2, 6, 4]), None), &["k has shape", "v has shape", "same length"]);
            refused(write(before, &k, &rows([2, 2, 5, 4]), None), &["v has shape [2, ", "must be equal"]);
            for shape in [&[5][..], &[2, 5], &[1, 4]] {
                let mask = Mask::new(&device, shape, &vec![true; shape.iter().product()]).unwrap();
                refused(write(before, &k, &v, Some(&mask)), &["key_mask", &format!("{shape:?}"), "[1, 5]"]);
            }
        }
        for n in [5, 0] {
            refused(write(Some(&good), &rows([2, 2, n, 3]), &rows([2, 2, n, 4]), None), &["batch"]);
            refused(write(Some(&good), &rows([1, 2, n, 7]), &rows([1, 2, n, 4]), None), &[state]);
            refused(write(Some(&good), &rows([1, 2, n, 3]), &rows([1, 2, n, 7]), None), &[state]);
        }
        if let Some(read) = &read {
            refused(read(&zeros(&device, &[4]), &good), &["q has shape [4]"]);
            refused(read(&self::rows(&device, other_layout, [1, 2, 6, 3]), &good), &["q has shape"]);
            refused(read(&rows([2, 2, 6, 3]), &good), &["batch"]);
            refused(read(&rows([1, 2, 6, 7]), &good), &[state]);
        }
        refused(merge(&good, &write(None, &k, &rows([1, 2, 5, 7]), None).unwrap()), &["width"]);
        if device != Device::cpu() {
            let far = self::rows(&Device::cpu(), layout, [1, 2, 5, 3]);
            refused(write(None, &far, &v, None), &["different devices", "CPU"]);
            refused(
                write(Some(&good), &far, &self::rows(&Device::cpu(), layout, [1, 2, 5, 4]), None),
                &["different devices"],
            );
            let mask = Mask::new(&Device::cpu(), &[1, 5], &[true; 5]).unwrap();
            refused(write(Some(&good), &k, &v, Some(&mask)), &["different devices"]);
            if let Some(read) = &read {
                refused(read(&far, &good), &["different devices"]);
            }
        }
    }
}

/// The reads of a memory that needs no queries.
type NoQueries<S> = fn(&Tensor, &S) -> Result<Read>;

#[test]
fn shapes_masks_states_and_devices() {
    for (_, device) in devices() {
        for head_major in [true, false] {
            let layout = layout(head_major, 2);
            let scan = ScanMemory::new(layout);
            Memory {
                device: device.clone(),
                layout,
                state: "width",
                write: |state: Option<&_>, k: &Tensor, v: &Tensor, mask: Option<&Mask>| scan.write(state, k, v, mask),
                read: Some(|q: &Tensor, state: &_| scan.read(q, state)),
                merge: |a: &wgpu_attention::ops::ScanState, b: &_| a.merge(b),
            }
            .check();
            let linear = LinearAttention::new(layout, FeatureMap::identity(1.0), Normalizer::None);
            Memory {
                device: device.clone(),
                layout,
                state: "state",
                write: |state: Option<&_>, k: &Tensor, v: &Tensor, mask: Option<&Mask>| linear.write(state, k, v, mask),
                read: Some(|q: &Tensor, state: &_| linear.read(q, state)),
                merge: |a: &wgpu_attention::ops::LinearState, b: &_| a.merge(b),
            }
            .check();
            let rolling = RollingAttention::new(layout, rows(&device, layout, [1, 2, 6, 3]));
            Memory {
                device: device.clone(),
                layout,
                state: "",
                write: |state: Option<&_>, k: &Tensor, v: &Tensor, mask: Option<&Mask>| {
                    rolling.write(state, k, v, mask)
                },
                read: None::<NoQueries<_>>,
                merge: |a: &wgpu_attention::ops::RollingState, b: &_| a.merge(b),
            }
            .check();
            let memory = AttentionMemory::new(layout);
            Memory {
                device: device.clone(),
                layout,
                state: "memory",
                write: |state: Option<&_>, k: &Tensor, v: &Tensor, mask: Option<&Mask>| memory.write(state, k, v, mask),
                read: Some(|q: &Tensor, state: &_| memory.read(q, state)),
                merge: |a: &MemoryState, b: &_| a.merge(b),
            }
            .check();
        }
    }
}

/// It computes on the CPU, where a mask of a GPU has no numbers.
#[test]
fn masks_of_another_device_of_exact_sums() {
    let cpu = |shape| rows(&Device::cpu(), Layout::HeadMajor, shape);
    let exact = RollingAttention::new(Layout::HeadMajor, cpu([1, 1, 1, 1])).exact(&[9.0], 9.0).unwrap();
    let state = exact.write(None, &cpu([1, 1, 5, 1]), &cpu([1, 1, 5, 1]), None).unwrap();
    for (_, device) in devices().into_iter().filter(|(_, device)| *device != Device::cpu()) {
        let mask = Mask::new(&device, &[1, 5], &[true; 5]).unwrap();
        let (k, v) = (cpu([1, 1, 5, 1]), cpu([1, 1, 5, 1]));
        refused(exact.write(None, &k, &v, Some(&mask)), &["different devices", "CPU"]);
        refused(exact.forget(&state, &k, &v, Some(&mask)), &["different devices", "CPU"]);
    }
}

/// States are plain data, and may be made wrong.
#[test]
fn linear_states_of_no_such_shape_do_not_merge() {
    for (_, device) in devices() {
        for (shape, is_stable) in [(&[4, 3][..], true), (&[4, 3], false), (&[1, 1, 4, 2], true)] {
            let state = LinearState { sums: zeros(&device, shape), v_dim: 2, is_stable, n_keys: vec![1] };
            refused(state.merge(&state), &["one state has shape", "the other has shape"]);
        }
    }
}

#[test]
fn states_of_another_layout_or_other_queries() {
    for (_, device) in devices() {
        let by_head = |sizes| rows(&device, Layout::HeadMajor, sizes);
        let two = Layout::Projected { n_heads: 2 };
        let projected = |sizes| rows(&device, two, sizes);
        let scan = ScanMemory::new(Layout::HeadMajor);
        let state = scan.write(None, &by_head([1, 2, 5, 4]), &by_head([1, 2, 5, 4]), None).unwrap();
        let other = ScanMemory::new(two);
        let words = ["layout of the state", "HeadMajor", "Projected { n_heads: 2 }", "same layout"];
        refused(other.read(&projected([1, 2, 3, 4]), &state), &words);
        let k = projected([1, 2, 5, 4]);
        refused(other.write(Some(&state), &k, &k, None), &words);
        refused(state.merge(&other.write(None, &k, &k, None).unwrap()), &words);
        // As wide, but of other heads.
        let four = ScanMemory::new(Layout::Projected { n_heads: 4 });
        refused(four.read(&projected([1, 2, 3, 4]), &other.write(None, &k, &k, None).unwrap()), &["n_heads: 4"]);

        let rolling = RollingAttention::new(Layout::HeadMajor, by_head([1, 2, 3, 4]));
        let state = rolling.write(None, &by_head([1, 2, 5, 4]), &by_head([1, 2, 5, 4]), None).unwrap();
        let other = RollingAttention::new(two, projected([1, 2, 3, 4]));
        refused(other.read(&state), &words);
        refused(other.write(Some(&state), &k, &k, None), &words);
        let more = RollingAttention::new(Layout::HeadMajor, by_head([1, 2, 6, 4]));
        refused(more.read(&state), &["state", "[1, 2, 3, 11]", "[1, 2, 6, 11]"]);
    }
}

#[test]
fn coordinates() {
    for (_, device) in devices() {
        let (t, terms) = (|shape: &[usize]| zeros(&device, shape), [BiasTerm::rbf(0..2, &[1.0; 2], &[1.0; 2])]);
        let (k, coords) = (t(&[1, 2, 5, 4]), t(&[1, 5, 2]));
        let plain = ScanMemory::new(Layout::HeadMajor);
        let placed = plain.clone().terms(&terms);
        refused(placed.write(None, &k, &k, None), &["coordinates", "none", "bias terms"]);
        for shape in [&[5, 2][..], &[1, 4, 2], &[2, 5, 2], &[1, 5, 0]] {
            refused(placed.write(None, (&k, &t(shape)), &k, None), &["coords", &format!("{shape:?}"), "[1, 5, "]);
        }
        let state = placed.write(None, (&k, &coords), &k, None).unwrap();
        let wide = placed.write(None, (&k, &t(&[1, 5, 3])), &k, None).unwrap();
        refused(state.merge(&wide), &["[1, 5, 2]", "[1, 5, 3]", "must be equal"]);
        let nowhere = plain.write(None, &k, &k, None).unwrap();
        refused(state.merge(&nowhere), &["coordinates", "none of the other"]);
        refused(nowhere.merge(&state), &["coordinates", "none of one state"]);
        refused(plain.write(Some(&state), &k, &k, None), &["coordinates", "what is written"]);
        refused(placed.read(&k, &state), &["bias coordinates", "q_coords"]);
        refused(placed.read(&k, &nowhere), &["bias coordinates", "k_coords"]);
        refused(placed.read((&k, &t(&[1, 5, 3])), &state), &["[1, 5, 2]", "[1, 5, 3]"]);
        let far = plain.clone().terms(&[BiasTerm::rbf(1..3, &[1.0; 2], &[1.0; 2])]);
        refused(far.read((&k, &coords), &state), &["bias columns", "1..3", "0..2"]);
        refused(plain.clone().matrix(&t(&[1, 2, 5, 4])).read(&k, &state), &["bias.matrix", "[1, 2, 5, 5]"]);
        refused(plain.clone().scale(f32::NAN).read(&k, &state), &["scale", "NaN"]);
    }
}

#[test]
fn probabilities_of_a_layout() {
    for (_, device) in devices() {
        let p = |shape: &[usize]| Probabilities::new(&device, shape, &vec![0.5; shape.iter().product()]).unwrap();
        let (by_head, by_token) = (p(&[1, 2, 5]), p(&[1, 5, 2]));
        let k = rows(&device, Layout::HeadMajor, [1, 2, 5, 3]);
        let memory = AttentionMemory::new(Layout::HeadMajor);
        refused(memory.p_write(&by_token).write(None, &k, &k, None), &["p_write", "[1, 5, 2]", "[1, 2, 5]"]);
        refused(memory.p_erase(&by_token).write(None, &k, &k, None), &["p_erase", "[1, 5, 2]", "[1, 2, 5]"]);
        refused(memory.decay(&by_token).write(None, &k, &k, None), &["decay", "[1, 5, 2]", "[1, 2, 5]"]);
        let decayed = memory.decay(&by_head).write(None, &k, &k, None).unwrap();
        refused(decayed.merge(&decayed), &["erased"]);
        let state = memory.p_write(&by_head).p_erase(&by_head).write(None, &k, &k, None).unwrap();
        assert!(state.erased);
        refused(memory.p_read(&by_token).read(&k, &state), &["p_read", "[1, 5, 2]", "HeadMajor"]);
        // Going on with what was erased, without erasing, does not make it mergeable.
        let more = memory.write(Some(&state), &k, &k, None).unwrap();
        refused(more.merge(&more), &["erased"]);
        let recall = attention_memory(&k, &k, &k, &memory.state(&more)).unwrap();
        assert!(recall.state.erased && recall.values.shape() == [1, 2, 5, 3]);
        refused(memory.read(&k, &MemoryState::new(zeros(&device, &[2, 3]))), &["memory", "[2, 3]", "head_dim"]);
    }
}
