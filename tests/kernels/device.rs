//! The GPU side of devices: limits, memory, recording, an application's own device.
#![cfg(feature = "gpu")]

use crate::support::{Random, gpus, layout};
use wgpu_attention::{
    Device, Error, Tensor,
    device::GpuOptions,
    ops::{
        Activation, Bias, BiasTerm, Linear, ScanAttention, add, layer_norm, linear, merge_attention,
        scan_attention::scan_attention,
    },
    wgpu,
};

/// One layer that doubles its input.
fn doubling(device: &Device, width: usize) -> Linear {
    let mut weight = vec![0.0; width * width];
    weight.iter_mut().step_by(width + 1).for_each(|w| *w = 2.0);
    Linear { weight: Tensor::new(device, &[width, width], &weight).unwrap(), bias: None }
}

#[test]
fn bindings_over_the_limit_are_split() {
    let mut random = Random::new(1);
    let (rows, width, n_keys, n_heads) = (3000, 32, 3000, 2);
    let x = random.numbers(rows * width);
    let weight = random.scaled(width * width, 0.3);
    let coords = random.numbers(n_keys);
    for adapter in Device::adapters() {
        // A tensor of 384 KB against bindings of 64 KiB.
        let limits = wgpu::Limits { max_storage_buffer_binding_size: 64 << 10, ..wgpu::Limits::default() };
        let small = Device::on_adapter(&adapter, &GpuOptions::default().limits(limits)).unwrap();
        let run = |device: &Device| {
            let t = |shape: &[usize], data: &[f32]| Tensor::new(device, shape, data).unwrap();
            let input = t(&[rows, width], &x);
            let layer = Linear { weight: t(&[width, width], &weight), bias: None };
            let y = linear(&input, &layer, Activation::GeluTanh, Some(&input)).unwrap();
            let ones = t(&[width], &vec![1.0; width]);
            let normed = layer_norm(&y, &ones, &ones, 1e-6, None).unwrap();
            let coords = t(&[1, n_keys, 1], &coords);
            let terms = [BiasTerm::rbf(0..1, &[0.5, -0.5], &[1.0, 2.0])];
            let bias = Bias::new(&coords, &coords, &terms);
            let projected = normed.reshape(&[1, rows, width]).unwrap();
            let plain = ScanAttention::new(layout(false, n_heads));
            let a = scan_attention(&projected, &projected, &projected, &plain.bias(bias)).unwrap();
            let by_head = normed.reshape(&[1, n_heads, rows, width / n_heads]).unwrap();
            let b = scan_attention(&by_head, &by_head, &by_head, &ScanAttention::default().bias(bias)).unwrap();
            let by_batch = normed.reshape(&[10, 300, width]).unwrap();
            let c = scan_attention(&by_batch, &by_batch, &by_batch, &plain).unwrap();
            [a.values, a.log_sum_exp, b.values, b.log_sum_exp, c.values].map(|t| t.read().unwrap())
        };
        for (i, (found, truth)) in run(&small).into_iter().zip(run(&Device::cpu())).enumerate() {
            for (a, b) in found.iter().zip(&truth) {
                assert!((a - b).abs() <= 1e-5 * (1.0 + b.abs()), "{adapter}: result {i}: {a} and {b}");
            }
        }
    }
}

#[test]
fn webgpus_default_limits_are_enough() {
    for adapter in Device::adapters() {
        let options = GpuOptions::default().limits(wgpu::Limits::default());
        let device = Device::on_adapter(&adapter, &options).unwrap();
        let t = Tensor::new(&device, &[1, 2, 70, 128], &Random::new(2).numbers(2 * 70 * 128)).unwrap();
        assert!(scan_attention(&t, &t, &t, &ScanAttention::default()).unwrap().values.read().is_ok());
        let Err(Error::LimitExceeded { requested, allowed, .. }) =
            Tensor::new(&device, &[1 << 27], &vec![0.0; 1 << 27])
        else {
            panic!("{adapter}: a tensor over the limit was accepted");
        };
        assert_eq!((requested, allowed), (1 << 29, 256 << 20));
    }
}

#[test]
fn grids_past_65535_groups() {
    for (name, device) in gpus() {
        // 16 rows a group; rows of one and the same number are normalised to zero.
        let n = 16 * 66_000;
        for width in [1, 4] {
            let x = Tensor::new(&device, &[n, width], &vec![1.5; n * width]).unwrap();
            let half = Tensor::new(&device, &[width], &vec![0.5; width]).unwrap();
            let y = layer_norm(&x, &half, &half, 1e-6, None).unwrap().read().unwrap();
            assert!(y.iter().all(|&y| y == 0.5), "{name}");
        }
        let one = Tensor::new(&device, &[1], &[0.5]).unwrap();
        // 32 rows a group.
        let n = 32 * 66_000;
        let x = Tensor::new(&device, &[n, 1], &vec![1.5; n]).unwrap();
        let layer = Linear { weight: one.reshape(&[1, 1]).unwrap(), bias: None };
        let y = linear(&x, &layer, Activation::None, None).unwrap();
        assert!(y.read().unwrap().iter().all(|&y| y == 0.75), "{name}");
        // 64 numbers a group.
        let n = 64 * 66_000;
        let x = Tensor::new(&device, &[1, n], &vec![2.5; n]).unwrap();
        let merged = merge_attention(&x, &x).unwrap();
        assert!(merged.values.read().unwrap().iter().all(|&y| y == 2.5), "{name}");
    }
}

#[test]
fn uploads_do_not_overtake_recorded_work() {
    for (name, device) in gpus() {
        let layer = doubling(&device, 16);
        let x = Tensor::new(&device, &[4, 16], &[1.0; 64]).unwrap();
        let y = linear(&x, &layer, Activation::None, None).unwrap();
        // The buffer of x is free now, and y is not computed yet.
        drop(x);
        let other = Tensor::new(&device, &[4, 16], &[7.0; 64]).unwrap();
        assert!(y.read().unwrap().iter().all(|&y| y == 2.0), "{name}");
        assert!(other.read().unwrap().iter().all(|&x| x == 7.0), "{name}");
    }
}

#[test]
fn memory_is_reused_and_counted() {
    // A device that no other test counts on.
    for adapter in Device::adapters() {
        let (name, device) = (&adapter.name, Device::on_adapter(&adapter, &GpuOptions::default()).unwrap());
        let layer = doubling(&device, 64);
        let step = || {
            let mut x = Tensor::new(&device, &[512, 64], &[1e-3; 512 * 64]).unwrap();
            for _ in 0..5 {
                x = linear(&x, &layer, Activation::None, None).unwrap();
            }
            x.read().unwrap()
        };
        step();
        let before = device.memory();
        for _ in 0..20 {
            assert!(step().iter().all(|&x| (x - 0.032).abs() < 1e-6), "{name}");
        }
        let after = device.memory();
        assert_eq!((before.peak, before.in_use), (after.peak, after.in_use), "{name}");
        assert!(after.peak < 2 << 20, "{name}: {after:?}");
    }
}

#[test]
fn long_recordings_are_submitted_in_parts() {
    for (name, device) in gpus().into_iter().take(1) {
        // Each sum has parameters of its own; 6 000 of them do not fit in one recording.
        let one = Tensor::new(&device, &[2], &[1.0, 2.0]).unwrap();
        let mut sum = one.clone();
        for i in 0..6000 {
            sum = add(&sum, &one, (i % 1000) as f32).unwrap();
        }
        // Below 2^24: no sum on the way is rounded.
        assert_eq!(sum.read().unwrap(), [2_997_001.0, 5_994_002.0], "{name}");
    }
}

/// One with all that its adapter allows.
pub fn applications_device() -> Option<(wgpu::Device, wgpu::Queue)> {
    crate::support::applications_device(wgpu::Adapter::limits)
}

#[test]
fn an_applications_device_and_encoder() {
    let Some((device, queue)) = applications_device() else { return };
    let ours = Device::from_wgpu(device.clone(), queue.clone());
    let layer = doubling(&ours, 16);
    let x = Tensor::new(&ours, &[4, 16], &[3.0; 64]).unwrap();
    // Between x and y is a tensor that is dropped before the encoder runs.
    let y = linear(&x, &layer, Activation::None, None).unwrap();
    let y = linear(&y, &layer, Activation::None, None).unwrap();
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    ours.encode_into(&mut encoder).unwrap();
    // What the encoder reads and writes on its way is not reused: work recorded later and
    // submitted earlier, with tensors of the same size, does not disturb it, nor it them.
    drop(x);
    let x = Tensor::new(&ours, &[4, 16], &[5.0; 64]).unwrap();
    let later: Vec<Tensor> = (0..3).map(|_| linear(&x, &layer, Activation::None, Some(&x)).unwrap()).collect();
    ours.wait().unwrap();
    queue.submit([encoder.finish()]);
    assert!(y.read().unwrap().iter().all(|&y| y == 12.0));
    for z in &later {
        assert!(z.read().unwrap().iter().all(|&z| z == 15.0));
    }

    // The result's buffer goes on in the application; one of the application's comes in.
    let buffer = y.buffer().unwrap().buffer().clone();
    let again = Tensor::from_buffer(&ours, &[4, 16], buffer.clone()).unwrap();
    assert!(linear(&again, &layer, Activation::None, None).unwrap().read().unwrap().iter().all(|&x| x == 24.0));
    let too_long = Tensor::from_buffer(&ours, &[1 << 20], buffer).unwrap_err();
    assert!(too_long.to_string().contains("1048576"), "{too_long}");
    let uniform = device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 256,
        usage: wgpu::BufferUsages::UNIFORM,
        mapped_at_creation: false,
    });
    let refused = Tensor::from_buffer(&ours, &[1], uniform).unwrap_err();
    assert!(refused.to_string().contains("STORAGE"), "{refused}");
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    assert!(Device::cpu().encode_into(&mut encoder).unwrap_err().to_string().contains("CPU"));
}

#[test]
fn names_that_are_empty_or_unknown_are_refused() {
    for name in ["", "  "] {
        let refused = Device::by_name(name).unwrap_err();
        assert!(matches!(refused, Error::Argument { .. }) && refused.to_string().contains("best"), "{refused}");
    }
    for adapter in Device::adapters() {
        let open =
            |operation, variant| Device::on_adapter(&adapter, &GpuOptions::default().variant(operation, variant));
        for (operation, variant, wanted) in [
            ("linear", "tile64", "tile 32, tile 64, vector 32, vector 64"),
            ("tape", "", "workgroup memory, storage"),
            ("layer_norm", "fast", "attention_memory, "),
        ] {
            let refused = open(operation, variant).unwrap_err().to_string();
            assert!(refused.contains(wanted), "{refused}");
        }
        assert!(open("attention_memory", "chunked").is_ok());
    }
}
