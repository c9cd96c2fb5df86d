//! What does not fit is an error, on both twins, whatever the sizes of empty dimensions are.

use crate::support::{devices, zeros};
use wgpu_attention::{
    Error, Mask, Tensor,
    ops::{
        Activation, AttentionMemory, Direction, FeatureKind, FeatureMap, Form, Layout, Linear, LinearAttention, Lsam,
        Lstm, Normalizer, Probabilities, TapeInputs, TapeOptions, add, attention_memory, columns, concat, feature_map,
        gate, geglu, layer_norm, linear, lsam, lstm, relu, scale_columns, tape, unit_norm,
    },
};

/// Refused for its size, at once.
fn has_no_room<T>(what: &str, result: Result<T, Error>) {
    match result.map(|_| ()) {
        Err(Error::OutOfMemory { .. } | Error::LimitExceeded { .. }) => {}
        other => panic!("{what}: {other:?}"),
    }
}

/// The table's input aborted the process: `memory allocation of 160000000000 bytes failed`.
#[test]
fn f4_a_result_that_does_not_fit_is_an_error() {
    for (name, device) in devices() {
        let k = zeros(&device, &[1, 2, 200_000]);
        let memory = AttentionMemory::new(Layout::Projected { n_heads: 1 });
        has_no_room(&name, attention_memory(&k, &k, &k, &memory));
        has_no_room(&name, attention_memory(&k, &k, &k, &memory.form(Form::Chunked)));
        has_no_room(&name, memory.write(None, &k, &k, None));
        let wide = zeros(&device, &[1, 1, 200_000]);
        let outer = LinearAttention::new(Layout::HeadMajor, FeatureMap::identity(1.0), Normalizer::None);
        has_no_room(
            &name,
            outer.write(None, &k.reshape(&[1, 1, 2, 200_000]).unwrap(), &k.reshape(&[1, 1, 2, 200_000]).unwrap(), None),
        );
        has_no_room(&name, memory.write(None, &wide, &wide, None));
        let empty = zeros(&device, &[1 << 40, 0, 4]);
        let sums =
            LinearAttention::new(Layout::Projected { n_heads: 2 }, FeatureMap::identity(1.0), Normalizer::KeyCount);
        has_no_room(&name, sums.write(None, &empty, &empty, None));
        has_no_room(&name, Tensor::zeros(&device, &[1 << 50]));
        has_no_room(&name, Tensor::zeros(&device, &[1 << 40, 1 << 40]));
    }
}

/// An operation tried for ever to submit what was recorded before it, where there is no room for its parameters.
#[cfg(feature = "gpu")]
#[test]
fn work_that_cannot_be_submitted_is_an_error_and_no_hang() {
    use wgpu_attention::{Device, device::GpuOptions, wgpu::Limits};
    let limits = Limits { max_buffer_size: 512 << 10, max_storage_buffer_binding_size: 512 << 10, ..Limits::default() };
    for adapter in Device::adapters() {
        let device = Device::on_adapter(&adapter, &GpuOptions::default().limits(limits.clone())).unwrap();
        let x = Tensor::new(&device, &[4], &[1.0; 4]).unwrap();
        let refused = (0..10_000).find_map(|_| relu(&x).err());
        assert!(matches!(refused, Some(Error::Validation { .. })), "{refused:?}");
        assert!(x.read().is_err());
    }
}

/// Hangs on the adapter, aborts and `capacity overflow` panics on the CPU, by the table.
#[test]
fn r10_empty_tensors_of_huge_dimensions() {
    const HUGE: usize = 1 << 40;
    for (name, device) in devices() {
        let t = |shape: &[usize]| zeros(&device, shape);
        let weight = |n_in, n_out| Linear { weight: t(&[n_in, n_out]), bias: None };
        // What has nothing to write is right at once.
        let none = t(&[HUGE, 0]);
        for (op, result) in [
            ("concat", concat(&none, 0..0, &none)),
            ("columns", columns(&none, 0..0)),
            ("linear", linear(&none, &weight(0, 0), Activation::None, None)),
            ("relu", relu(&none)),
            ("add", add(&none, &none, 1.0)),
            ("geglu", geglu(&t(&[HUGE, 0, 2]))),
            ("unit_norm", unit_norm(&t(&[HUGE, 0, 2]))),
            ("layer_norm", layer_norm(&t(&[HUGE, 0, 2]), &t(&[2]), &t(&[2]), 1e-6, None)),
            ("scale_columns", scale_columns(&t(&[HUGE, 0, 2]), &t(&[2]))),
            ("gate", gate(&t(&[HUGE, 0, 2]), &Probabilities::new(&device, &[HUGE, 0, 2], &[]).unwrap())),
        ] {
            let y = result.unwrap_or_else(|error| panic!("{name}: {op}: {error}"));
            assert_eq!((y.shape()[0], y.read().unwrap().len()), (HUGE, 0), "{name}: {op}");
        }
        has_no_room(&name, linear(&none, &weight(0, 1024), Activation::None, None));
        has_no_room(&name, linear(&t(&[0, HUGE, 0]), &weight(0, HUGE), Activation::None, None));
        let projection = t(&[4, 2]);
        let map = FeatureMap { kind: FeatureKind::Relu, projection: Some(projection), scale: 1.0 };
        assert!(feature_map(&t(&[HUGE, 0, 2]), &map).unwrap().is_empty(), "{name}");

        let kv = t(&[1, 0, 1 << 31]);
        for n_heads in [1, 2] {
            let layout = Layout::Projected { n_heads };
            let memory = AttentionMemory::new(layout);
            has_no_room(&name, memory.write(None, &kv, &kv, None));
            has_no_room(&name, attention_memory(&kv, &kv, &kv, &memory));
            for normalizer in [Normalizer::None, Normalizer::KeyCount, Normalizer::FeatureSum { floor: 1.0 }] {
                let linear = LinearAttention::new(layout, FeatureMap::identity(1.0), normalizer);
                has_no_room(&name, linear.write(None, &kv, &kv, None));
            }
        }
        // Steps of no heads: nothing happens, a quintillion times.
        let steps = t(&[0, 1, 1 << 60, 1]);
        assert!(attention_memory(&steps, &steps, &steps, &AttentionMemory::default()).unwrap().values.is_empty());
        let open = Probabilities::new(&device, &[0, HUGE, 3], &[]).unwrap();
        let erasing = AttentionMemory::default().p_erase(&open);
        let kv = t(&[0, HUGE, 3, 4]);
        let mask = Mask::new(&device, &[0, 3], &[]).unwrap();
        assert!(erasing.write(None, &kv, &kv, Some(&mask)).unwrap().memory.is_empty(), "{name}");

        has_no_room(&name, Tensor::new(&device, &[1 << 62, 0, 2], &[]));
        has_no_room(&name, Tensor::zeros(&device, &[0, HUGE, HUGE]));
        let cell = Lsam { n_heads: 1, input: weight(2, 8), hidden: t(&[2, 8]) };
        has_no_room(&name, lsam(&t(&[1 << 59, 0, 2]), &cell, None, Direction::Forward));
        let layer = Lstm { input: weight(2, 8), hidden: t(&[2, 8]) };
        has_no_room(&name, lstm(&t(&[1 << 57, 0, 2]), &layer, None));
        // Wide ones take many workgroups, and a launch for each step.
        let wide_cell = Lsam { n_heads: 1, input: weight(2, 3 * 160 + 2), hidden: t(&[160, 3 * 160 + 2]) };
        let wide_layer = Lstm { input: weight(2, 4 * 160), hidden: t(&[160, 4 * 160]) };
        for n in [HUGE, 1 << 48] {
            let x = t(&[0, n, 2]);
            for (layer, cell) in [(&layer, &cell), (&wide_layer, &wide_cell)] {
                assert!(lstm(&x, layer, None).unwrap().values.is_empty(), "{name}");
                assert!(lsam(&x, cell, None, Direction::Reverse).unwrap().values.is_empty(), "{name}");
            }
        }
        // A tape is as large as it is, though there be none.
        let (value, action) = (t(&[0, 1, 1]), t(&[0, 1, 11]));
        let inputs = TapeInputs {
            n_tapes: 1,
            value: &value,
            key: Some(&value),
            query: Some(&value),
            action: &action,
            tape_length: 1 << 63,
        };
        has_no_room(&name, tape(&inputs, TapeOptions::default(), None));
    }
}
