//! Recordings as values: what is in them, when they run, what their tensors say until then.
#![cfg(feature = "gpu")]

mod awaiting;
mod buffers;
mod encoders;

use std::sync::Arc;

use crate::support::{Random, both, gpus, plain_gpus};
use wgpu_attention::{
    Device, Error, Result, Tensor,
    device::{GpuOptions, Recording},
    ops::{Activation, Linear, Lstm, ScanAttention, add, linear, lstm, scan_attention},
    wgpu,
};

/// Of one number each, so that all buffers are of one size and reuse each other's.
fn number(device: &Device, value: f32) -> Tensor {
    Tensor::new(device, &[1], &[value]).unwrap()
}

/// `value`, plus `x`, `n` times, each sum in a buffer of its own that is free at the next but one.
fn sums(value: &Tensor, x: &Tensor, n: usize) -> Result<Tensor> {
    (0..n).try_fold(value.clone(), |sum, _| add(&sum, x, 1.0))
}

fn encoder(device: &wgpu::Device) -> wgpu::CommandEncoder {
    device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
}

/// What an application opens itself, with the limits that are everywhere.
fn applications_device() -> Option<(wgpu::Device, wgpu::Queue)> {
    crate::support::applications_device(|_| wgpu::Limits::default())
}

/// A device of the application's and the one that shares it.
fn shared_device() -> Option<(wgpu::Device, wgpu::Queue, Device)> {
    let (device, queue) = applications_device()?;
    let ours = Device::from_wgpu(device.clone(), queue.clone());
    Some((device, queue, ours))
}

/// That this is not computed, for a reason that contains `why`.
#[track_caller]
fn not_computed<T>(result: Result<T>, why: &str) {
    match result {
        Err(error @ Error::NotComputed { .. }) => assert!(error.to_string().contains(why), "{error}"),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("accepted"),
    }
}

#[test]
fn a_recording_runs_when_it_is_submitted() {
    for (name, device) in gpus() {
        let x = number(&device, 1.0);
        let before = add(&x, &x, 1.0).unwrap();
        let (y, recording) = device.record(|| sums(&before, &x, 5)).unwrap();
        assert_eq!((recording.n_dispatches(), recording.n_submits(), recording.is_empty()), (5, 1, false), "{name}");
        // Submits what the device has recorded by itself, and nothing of the recording.
        device.wait().unwrap();
        not_computed(y.read(), "Recording::submit");
        not_computed(add(&y, &x, 1.0), "Recording::submit");
        recording.submit().unwrap();
        assert_eq!(y.read().unwrap(), [7.0], "{name}");
        assert_eq!(add(&y, &x, 1.0).unwrap().read().unwrap(), [8.0], "{name}");
    }
}

/// By the device's clock: all submits together, of which the last has most of the work.
#[test]
fn a_recording_takes_as_long_as_all_its_submits() {
    // Devices of its own: what other tests have submitted would be waited for, too.
    for (name, device) in plain_gpus().into_iter().filter(|(_, device)| device.capabilities().timestamps) {
        let (one, x) = (number(&device, 1.0), Tensor::new(&device, &[512, 512], &[1e-3; 512 * 512]).unwrap());
        let layer = Linear { weight: x.clone(), bias: None };
        let products = |n: usize| {
            let sum = sums(&one, &one, 6000)?;
            (0..n).try_fold(x.clone(), |x, _| linear(&x, &layer, Activation::None, None))?;
            Ok(sum)
        };
        products(1).and_then(|sum| sum.read()).unwrap();
        let time = |n: usize| {
            let (sum, recording) = device.record(|| products(n)).unwrap();
            assert!(n == 0 || recording.n_submits() > 1, "{name}");
            let began = std::time::Instant::now();
            let time = recording.time().unwrap().unwrap();
            let all = began.elapsed();
            assert_eq!(sum.read().unwrap(), [6001.0], "{name}");
            // Two clocks.
            assert!(!time.is_zero() && time <= all.mul_f64(1.05), "{name}: {time:?} of {all:?}");
            time
        };
        let (without, with) = (time(0), time(8));
        // A GPU takes longer for 6,000 sums than for that.
        let is_hardware = device.capabilities().adapter.is_some_and(|kind| kind.is_hardware());
        assert!(is_hardware || with > without, "{name}: {without:?} and {with:?} with products");
    }
}

#[test]
fn on_the_cpu_recordings_are_empty() {
    let device = Device::cpu();
    let x = number(&device, 1.0);
    let (y, recording) = device.record(|| sums(&x, &x, 5)).unwrap();
    assert!(recording.is_empty() && recording.n_dispatches() == 0);
    assert_eq!(y.read().unwrap(), [6.0]);
    recording.submit().unwrap();
    let ((), recording) = device.record(|| Ok(())).unwrap();
    if let Some((device, _)) = applications_device() {
        recording.encode_into(&mut encoder(&device)).unwrap();
    }
}

#[test]
fn eight_threads_record_at_once() {
    let Some((device, queue, ours)) = shared_device() else { return };
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (device, queue, ours) = (&device, &queue, &ours);
            scope.spawn(move || {
                let one = number(ours, 1.0);
                for round in 0..20 {
                    let start = (100 * thread + round) as f32;
                    let (y, recording) = ours
                        .record(|| {
                            // An upload inside, between sums that reuse each other's buffers.
                            let y = sums(&number(ours, start), &one, 7)?;
                            let two = number(ours, 2.0);
                            sums(&add(&y, &two, 1.0)?, &one, 4)
                        })
                        .unwrap();
                    assert_eq!(recording.n_dispatches(), 12);
                    // Every third thread has work of its own beside.
                    let beside = (thread % 3 == 0).then(|| sums(&number(ours, -start), &one, 9).unwrap());
                    match (thread + round) % 4 {
                        0 => drop(recording),
                        1 => {
                            let mut encoder = encoder(device);
                            recording.encode_into(&mut encoder).unwrap();
                            queue.submit([encoder.finish()]);
                        }
                        _ => recording.submit().unwrap(),
                    }
                    if (thread + round) % 4 == 0 {
                        not_computed(y.read(), "dropped");
                    } else {
                        assert_eq!(y.read().unwrap(), [start + 13.0]);
                    }
                    if let Some(beside) = beside {
                        assert_eq!(beside.read().unwrap(), [9.0 - start]);
                    }
                }
            });
        }
    });
    // The pool does not grow with the rounds.
    assert!(ours.memory().peak < 256 << 10, "{:?}", ours.memory());
}

#[test]
fn recordings_keep_their_buffers_apart() {
    let Some((device, queue, ours)) = shared_device() else { return };
    let one = number(&ours, 1.0);
    for form in ["submit", "encode"] {
        let outside = number(&ours, 40.0);
        let (y, recording) = ours
            .record(|| {
                let y = sums(&outside, &one, 3)?;
                // In the recording its own free buffers are reused, not by uploads.
                let uploads: Vec<Tensor> = (0..5).map(|i| number(&ours, i as f32)).collect();
                uploads.iter().try_fold(y, |y, upload| add(&y, upload, 1.0))
            })
            .unwrap();
        let mut encoder = encoder(&device);
        let recording = if form == "encode" {
            recording.encode_into(&mut encoder).unwrap();
            None
        } else {
            Some(recording)
        };
        // The operand is the recording's now; what comes later overwrites neither it nor y.
        drop(outside);
        let later: Vec<Tensor> = (0..9).map(|i| sums(&number(&ours, i as f32), &one, 6).unwrap()).collect();
        let uploaded: Vec<Tensor> = (0..9).map(|i| number(&ours, i as f32)).collect();
        ours.wait().unwrap();
        match recording {
            Some(recording) => recording.submit().unwrap(),
            None => _ = queue.submit([encoder.finish()]),
        }
        assert_eq!(y.read().unwrap(), [53.0], "{form}");
        for (i, (later, uploaded)) in later.iter().zip(&uploaded).enumerate() {
            assert_eq!(later.read().unwrap(), [i as f32 + 6.0], "{form}");
            assert_eq!(uploaded.read().unwrap(), [i as f32], "{form}");
        }
    }
}

#[test]
fn recorded_buffers_return_to_the_pool() {
    for adapter in Device::adapters() {
        let device = Device::on_adapter(&adapter, &GpuOptions::default()).unwrap();
        let one = number(&device, 1.0);
        let round = |submit: bool| {
            let (y, recording) = device.record(|| sums(&one, &one, 20)).unwrap();
            if submit {
                recording.submit().unwrap();
                assert_eq!(y.read().unwrap(), [21.0]);
            }
        };
        round(true);
        let before = device.memory();
        for i in 0..20 {
            round(i % 2 == 0);
        }
        assert_eq!(device.memory(), before, "{adapter}");
    }
}

#[test]
fn dropped_recordings_never_run() {
    for (name, device) in gpus() {
        let x = number(&device, 1.0);
        let (y, recording) = device.record(|| sums(&x, &x, 3)).unwrap();
        drop(recording);
        not_computed(y.read(), "dropped before it was submitted");
        not_computed(add(&y, &x, 1.0), "dropped before it was submitted");
        not_computed(y.buffer(), "dropped before it was submitted");
        not_computed(device.record(|| add(&y, &x, 1.0)), "dropped before it was submitted");
        // One that fails is dropped, and takes its tensors along.
        let mut leaked = None;
        let failed = device.record(|| {
            leaked = Some(add(&x, &x, 1.0)?);
            add(&x, &Tensor::new(&device, &[2], &[0.0; 2])?, 1.0)
        });
        assert!(matches!(failed, Err(Error::ShapeMismatch { .. })), "{name}");
        not_computed(leaked.unwrap().read(), "dropped");
        assert_eq!(add(&x, &x, 1.0).unwrap().read().unwrap(), [2.0], "{name}");
    }
}

#[test]
fn a_panic_ends_the_recording() {
    for (name, device) in gpus() {
        let x = number(&device, 1.0);
        let mut leaked = None;
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            device.record(|| -> Result<()> {
                leaked = Some(add(&x, &x, 1.0)?);
                std::panic::resume_unwind(Box::new("on purpose"))
            })
        }));
        assert!(caught.is_err());
        not_computed(leaked.unwrap().read(), "dropped");
        assert_eq!(add(&x, &x, 1.0).unwrap().read().unwrap(), [2.0], "{name}");
        assert!(device.record(|| add(&x, &x, 1.0)).is_ok(), "{name}");
    }
}

#[test]
fn recordings_do_not_nest() {
    let devices = both();
    let (name, device) = match devices.first() {
        Some(first) => first,
        None => return,
    };
    let x = number(device, 1.0);
    let (inner, outer) = device.record(|| Ok(device.record(|| add(&x, &x, 1.0)).unwrap_err())).unwrap();
    assert!(inner.to_string().contains("end the first recording"), "{name}: {inner}");
    assert!(outer.is_empty());
    // On another device, or from another thread, it is another recording.
    let other = &devices[1].1;
    let z = number(other, 2.0);
    let ((y, inner), outer) = device
        .record(|| {
            let y = add(&x, &x, 1.0)?;
            not_computed(y.read(), "being recorded");
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    not_computed(add(&y, &x, 1.0), "being recorded");
                    not_computed(device.record(|| add(&y, &x, 1.0)), "being recorded");
                    let (z, recording) = device.record(|| add(&x, &x, 2.0)).unwrap();
                    recording.submit().unwrap();
                    assert_eq!(z.read().unwrap(), [3.0]);
                });
            });
            Ok((y, other.record(|| add(&z, &z, 1.0))?))
        })
        .unwrap();
    let (z, inner): (Tensor, Recording) = inner;
    assert_eq!((inner.n_dispatches(), outer.n_dispatches()), (1, 1));
    inner.submit().unwrap();
    outer.submit().unwrap();
    assert_eq!((y.read().unwrap(), z.read().unwrap()), (vec![2.0], vec![4.0]), "{name}");
}

#[test]
fn zeros_between_dispatches() {
    for (name, device) in gpus() {
        let x = Tensor::new(&device, &[4], &[1.0, -0.0, f32::MIN_POSITIVE, 4.0]).unwrap();
        let run = || {
            let mut all = Vec::new();
            for _ in 0..3 {
                // The sum's buffer is free, and is zeroed, after it was written and read.
                let sum = add(&add(&x, &x, 1.0)?, &x, 1.0)?;
                let zeros = Tensor::zeros(&device, &[2, 2])?;
                all.push((add(&sum, &zeros.reshape(&[4])?, 1.0)?, zeros));
            }
            Ok(all)
        };
        let check = |all: Vec<(Tensor, Tensor)>| {
            for (sum, zeros) in all {
                assert_eq!(zeros.read().unwrap(), [0.0; 4], "{name}");
                assert_eq!(sum.read().unwrap()[0], 3.0, "{name}");
            }
        };
        check(run().unwrap());
        let (all, recording) = device.record(run).unwrap();
        assert_eq!(recording.n_dispatches(), 9, "{name}");
        recording.submit().unwrap();
        check(all);
        assert!(Tensor::zeros(&device, &[0, 3]).unwrap().read().unwrap().is_empty(), "{name}");
        assert!(matches!(Tensor::zeros(&device, &[usize::MAX, 2]), Err(Error::LimitExceeded { .. })), "{name}");
    }
    assert_eq!(Tensor::zeros(&Device::cpu(), &[2]).unwrap().read().unwrap(), [0.0; 2]);
    assert!(matches!(Tensor::zeros(&Device::cpu(), &[usize::MAX, 2]), Err(Error::LimitExceeded { .. })));
    // 2^60 bytes, which no machine gives.
    assert!(matches!(Tensor::zeros(&Device::cpu(), &[1 << 58]), Err(Error::OutOfMemory { .. })));
}

#[test]
fn kernels_record_what_they_would_run() {
    let mut random = Random::new(6);
    let [q, k, v, x, weight] = [2 * 40 * 8, 2 * 3000 * 8, 2 * 3000 * 8, 70 * 6, 6 * 32].map(|n| random.numbers(n));
    let [hidden, before] = [8 * 32, 2 * 8].map(|n| random.numbers(n));
    for (name, device) in gpus() {
        let t = |shape: &[usize], data: &[f32]| Tensor::new(&device, shape, data).unwrap();
        let (q, k, v) = (t(&[1, 2, 40, 8], &q), t(&[1, 2, 3000, 8], &k), t(&[1, 2, 3000, 8], &v));
        let (x, state) = (t(&[1, 70, 6], &x), t(&[1, 2, 8], &before));
        let layer = Lstm { input: Linear { weight: t(&[6, 32], &weight), bias: None }, hidden: t(&[8, 32], &hidden) };
        // Scratch space and merges; a state that is copied and then written over.
        let run = || {
            let attention = scan_attention(&q, &k, &v, &ScanAttention::default())?;
            let first = lstm(&x, &layer, Some(&state))?;
            let second = lstm(&x, &layer, Some(&first.state))?;
            let fresh = lstm(&x, &layer, None)?;
            Ok([attention.values, first.state, second.values, second.state, fresh.values])
        };
        let read = |results: [Tensor; 5]| results.map(|result| result.read().unwrap());
        let outside = read(run().unwrap());
        let (inside, recording) = device.record(run).unwrap();
        assert!(read(run().unwrap()) == outside, "{name}");
        recording.submit().unwrap();
        assert!(read(inside) == outside, "{name}");
        assert_eq!(state.read().unwrap(), before, "{name}");
    }
}

fn _recordings_travel(recording: Recording) -> impl Send + Sync {
    recording
}
