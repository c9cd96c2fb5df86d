//! Recordings as values: what is in them, when they run, what their tensors say until then.
#![cfg(feature = "gpu")]

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Wake, Waker},
};

use crate::support::{Random, gpus};
use wgpu_attention::{
    Device, Error, Result, Tensor,
    device::{GpuOptions, Recording},
    ops::{Activation, Linear, Lstm, ScanAttention, add, linear, lstm, merge_attention, scan_attention},
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

/// What an application opens itself.
fn applications_device() -> Option<(wgpu::Device, wgpu::Queue)> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    pollster::block_on(async {
        let adapters = instance.enumerate_adapters(wgpu::Backends::PRIMARY).await;
        let opened = adapters.first()?.request_device(&wgpu::DeviceDescriptor::default()).await;
        opened.ok()
    })
}

/// A device of the application's and the one that shares it.
fn shared_device() -> Option<(wgpu::Device, wgpu::Queue, Device)> {
    let Some((device, queue)) = applications_device() else {
        println!("no adapter: this test did not run");
        return None;
    };
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

/// What a thread records by itself while another is in a recording, and then encodes, runs last.
#[test]
fn recordings_and_encoders_keep_apart() {
    let Some((device, queue, ours)) = shared_device() else { return };
    let one = number(&ours, 1.0);
    let (y, recording) = ours
        .record(|| {
            std::thread::scope(|scope| scope.spawn(|| drop(sums(&one, &one, 9).unwrap())).join().unwrap());
            sums(&one, &one, 5)
        })
        .unwrap();
    let mut encoder = encoder(&device);
    ours.encode_into(&mut encoder).unwrap();
    recording.submit().unwrap();
    ours.wait().unwrap();
    queue.submit([encoder.finish()]);
    assert_eq!(y.read().unwrap(), [6.0]);
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
    let devices = gpus();
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
fn recordings_that_use_each_other() {
    let Some((device, queue, ours)) = shared_device() else { return };
    let x = number(&ours, 1.0);
    let two = || {
        let (a, first) = ours.record(|| add(&x, &x, 1.0)).unwrap();
        let (b, second) = ours.record(|| add(&a, &x, 1.0)).unwrap();
        // The second keeps what it needs of the first.
        drop(a);
        (first, b, second)
    };
    let (first, b, second) = two();
    first.submit().unwrap();
    second.submit().unwrap();
    assert_eq!(b.read().unwrap(), [3.0]);

    let (first, b, second) = two();
    not_computed(second.submit(), "Recording::submit");
    not_computed(b.read(), "dropped");
    first.submit().unwrap();

    let (first, b, second) = two();
    drop(first);
    not_computed(second.encode_into(&mut encoder(&device)), "dropped");
    not_computed(b.read(), "dropped");

    // One encoder after the other, or both in one.
    let (first, b, second) = two();
    let mut one = encoder(&device);
    first.encode_into(&mut one).unwrap();
    second.encode_into(&mut one).unwrap();
    queue.submit([one.finish()]);
    assert_eq!(b.read().unwrap(), [3.0]);

    let (first, b, second) = two();
    let mut one = encoder(&device);
    first.encode_into(&mut one).unwrap();
    let mut other = encoder(&device);
    second.encode_into(&mut other).unwrap();
    queue.submit([other.finish()]);
    not_computed(b.read(), "before the work that it needs");
    queue.submit([one.finish()]);

    let (first, b, second) = two();
    let mut one = encoder(&device);
    first.encode_into(&mut one).unwrap();
    not_computed(second.submit(), "has not submitted");
    not_computed(b.read(), "dropped");
}

#[test]
fn encoders_tell_when_they_are_submitted() {
    let Some((device, queue, ours)) = shared_device() else { return };
    let x = number(&ours, 1.0);
    // A recording, and all that the device has recorded by itself.
    for form in ["record", "encode_into"] {
        let encoded = || {
            let mut encoder = encoder(&device);
            let y = if form == "record" {
                let (y, recording) = ours.record(|| sums(&x, &x, 4)).unwrap();
                recording.encode_into(&mut encoder).unwrap();
                y
            } else {
                let y = sums(&x, &x, 4).unwrap();
                ours.encode_into(&mut encoder).unwrap();
                y
            };
            (y, encoder)
        };
        let (y, encoder) = encoded();
        not_computed(y.read(), "has not submitted");
        not_computed(pollster::block_on(y.read_async()), "has not submitted");
        not_computed(add(&y, &x, 1.0), "has not submitted");
        let commands = encoder.finish();
        not_computed(y.read(), "has not submitted");
        queue.submit([commands]);
        assert_eq!(y.read().unwrap(), [5.0], "{form}");
        assert_eq!(add(&y, &x, 1.0).unwrap().read().unwrap(), [6.0], "{form}");

        let (y, encoder) = encoded();
        drop(encoder);
        not_computed(y.read(), "encoder was dropped");
        let (y, encoder) = encoded();
        drop(encoder.finish());
        not_computed(add(&y, &x, 1.0), "encoder was dropped");
        assert_eq!(add(&x, &x, 1.0).unwrap().read().unwrap(), [2.0], "{form}");
    }
}

/// The submit is known at once, while other threads poll and finish work.
#[test]
fn a_submit_is_never_missed() {
    let Some((device, queue, ours)) = shared_device() else { return };
    let working = Arc::new(());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let (device, working) = (&device, Arc::downgrade(&working));
            scope.spawn(move || {
                while working.strong_count() > 0 {
                    device.poll(wgpu::PollType::Poll).unwrap();
                }
            });
        }
        // Dropped also where the test fails.
        let _working = working;
        let x = number(&ours, 1.0);
        for _ in 0..300 {
            let (y, recording) = ours.record(|| add(&x, &x, 1.0)).unwrap();
            let mut encoder = encoder(&device);
            recording.encode_into(&mut encoder).unwrap();
            queue.submit([encoder.finish()]);
            assert_eq!(y.read().unwrap(), [2.0]);
        }
    });
}

#[test]
fn long_recordings_are_several_submits() {
    let Some((device, queue, ours)) = shared_device() else { return };
    // Each merge takes its own parameters; 6 000 of them do not fit in one submit.
    let lse = Tensor::new(&ours, &[1, 4], &[0.5; 4]).unwrap();
    let values = Tensor::new(&ours, &[1, 4], &[1.0, 2.0, 3.0, 4.0]).unwrap();
    let long = || {
        ours.record(|| (0..6000).try_fold(values.clone(), |x, _| merge_attention(&x, &lse)?.values.reshape(&[1, 4])))
    };
    let (merged, recording) = long().unwrap();
    assert!(recording.n_submits() > 1 && recording.n_dispatches() == 6000);
    device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
    not_computed(merged.read(), "Recording::submit");
    recording.submit().unwrap();
    assert_eq!(merged.read().unwrap(), [1.0, 2.0, 3.0, 4.0]);

    let (merged, recording) = long().unwrap();
    let mut encoder = encoder(&device);
    recording.encode_into(&mut encoder).unwrap();
    not_computed(merged.read(), "has not submitted");
    queue.submit([encoder.finish()]);
    assert_eq!(merged.read().unwrap(), [1.0, 2.0, 3.0, 4.0]);
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

#[test]
fn one_device_for_each_of_the_applications() {
    let Some((device, queue, ours)) = shared_device() else { return };
    let again = Device::from_wgpu(device.clone(), queue.clone());
    assert!(again == ours);
    // From threads of their own, each with a handle.
    let x = number(&ours, 1.0);
    let y = std::thread::scope(|scope| scope.spawn(|| add(&x, &number(&again, 2.0), 1.0).unwrap()).join().unwrap());
    assert_eq!(add(&y, &x, 1.0).unwrap().read().unwrap(), [4.0]);
    drop((ours, again, x, y));

    let (other_device, other_queue) = applications_device().unwrap();
    let (ours, other) = (Device::from_wgpu(device, queue), Device::from_wgpu(other_device, other_queue));
    assert!(ours != other);
    let error = add(&number(&ours, 1.0), &number(&other, 1.0), 1.0).unwrap_err();
    let Error::DeviceMismatch { left, right, .. } = error else { panic!("{error}") };
    assert_ne!(left, right);
}

#[test]
fn buffers_of_other_devices_are_refused() {
    let Some((device, _queue, ours)) = shared_device() else { return };
    let buffer = |device: &wgpu::Device, size, usage| {
        device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
    };
    let storage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
    let own = Tensor::from_buffer(&ours, &[4], buffer(&device, 36, storage)).unwrap();
    assert_eq!(own.read().unwrap(), [0.0; 4]);

    // Of another instance, where buffers have the same numbers and sizes.
    let (other, _queue) = applications_device().unwrap();
    let theirs: Vec<wgpu::Buffer> = (0..50).map(|_| buffer(&other, 36, storage)).collect();
    let _ours: Vec<wgpu::Buffer> = (0..50).map(|_| buffer(&device, 36, storage)).collect();
    let refusals = theirs.into_iter().map(|theirs| Tensor::from_buffer(&ours, &[4], theirs).unwrap_err().to_string());
    let refusals: Vec<String> = refusals.collect();
    assert!(refusals.iter().all(|refusal| refusal.contains("one of the wgpu::Device of")), "{refusals:?}");
    assert!(refusals.iter().any(|refusal| refusal.contains("buffer is one of another device")), "{refusals:?}");
    // Of another device of the same adapter and instance.
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY)).remove(0);
    let open = || pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor::default())).unwrap();
    let ((a, a_queue), (b, _b_queue)) = (open(), open());
    let ours = Device::from_wgpu(a.clone(), a_queue);
    assert!(Tensor::from_buffer(&ours, &[4], buffer(&a, 36, storage)).is_ok());
    let refused = Tensor::from_buffer(&ours, &[4], buffer(&b, 36, storage)).unwrap_err();
    assert!(refused.to_string().contains("one that it refuses"), "{refused}");
    // As often as one likes, but not while it is mapped.
    let descriptor = wgpu::BufferDescriptor { label: None, size: 36, usage: storage, mapped_at_creation: true };
    let mapped = a.create_buffer(&descriptor);
    mapped.get_mapped_range_mut(..).unwrap().copy_from_slice(&[0; 36]);
    let refused = Tensor::from_buffer(&ours, &[4], mapped.clone()).unwrap_err();
    assert!(refused.to_string().contains("mapped"), "{refused}");
    mapped.unmap();
    for _ in 0..3 {
        assert_eq!(Tensor::from_buffer(&ours, &[4], mapped.clone()).unwrap().read().unwrap(), [0.0; 4]);
    }
    assert!(Tensor::from_buffer(&ours, &[0], buffer(&a, 0, storage)).is_ok());
}

#[test]
fn a_bad_buffer_is_no_one_elses_trouble() {
    let Some((device, _queue, ours)) = shared_device() else { return };
    let buffer = |usage| {
        device.create_buffer(&wgpu::BufferDescriptor { label: None, size: 16, usage, mapped_at_creation: false })
    };
    let x = Tensor::new(&ours, &[4], &[1.0; 4]).unwrap();
    let sealed = Tensor::from_buffer(&ours, &[4], buffer(wgpu::BufferUsages::STORAGE)).unwrap();
    let y = add(&x, &sealed, 1.0).unwrap();
    let refused = sealed.read().unwrap_err();
    assert!(refused.to_string().contains("COPY_SRC"), "{refused}");
    assert_eq!(y.read().unwrap(), [1.0; 4]);

    // One that is gone when the work runs: the sum of it is lost, and nothing else.
    let gone = buffer(wgpu::BufferUsages::STORAGE);
    let of_gone = add(&x, &Tensor::from_buffer(&ours, &[4], gone.clone()).unwrap(), 1.0).unwrap();
    gone.destroy();
    assert!(matches!(ours.submit(), Err(Error::Validation { .. })));
    not_computed(of_gone.read(), "refused");
    not_computed(add(&x, &of_gone, 1.0), "refused");
    assert_eq!(add(&x, &x, 1.0).unwrap().read().unwrap(), [2.0; 4]);
    assert!(Tensor::from_buffer(&ours, &[4], gone).is_err());
}

#[test]
fn a_tensors_buffer_goes_on_in_the_application() {
    let Some((device, queue, ours)) = shared_device() else { return };
    let x = Tensor::new(&ours, &[4], &[1.0, 2.0, 3.0, 4.0]).unwrap();
    let result = device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 16,
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    let read = |commands: wgpu::CommandEncoder| {
        queue.submit([commands.finish()]);
        result.map_async(wgpu::MapMode::Read, .., |mapped| mapped.unwrap());
        device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
        let numbers: Vec<f32> = bytemuck::pod_collect_to_vec(&result.get_mapped_range(..).unwrap());
        result.unmap();
        numbers
    };
    // Of what the device has recorded by itself.
    let y = add(&x, &x, 1.0).unwrap();
    let memory = y.buffer().unwrap();
    assert_eq!((memory.size(), memory.binding().is_some()), (16, true));
    drop(y);
    // It is not given to others while it is held.
    let _others: Vec<Tensor> = (0..5).map(|_| add(&x, &x, 2.0).unwrap()).collect();
    ours.submit().unwrap();
    let mut one = encoder(&device);
    one.copy_buffer_to_buffer(memory.buffer(), 0, &result, 0, 16);
    assert_eq!(read(one), [2.0, 4.0, 6.0, 8.0]);
    // Of a recording, within one encoder.
    let (y, recording) = ours.record(|| add(&x, &x, 2.0)).unwrap();
    let memory = y.buffer().unwrap();
    let mut one = encoder(&device);
    recording.encode_into(&mut one).unwrap();
    one.copy_buffer_to_buffer(memory.buffer(), 0, &result, 0, 16);
    assert_eq!(read(one), [3.0, 6.0, 9.0, 12.0]);
    assert!(Tensor::new(&Device::cpu(), &[1], &[1.0]).unwrap().buffer().unwrap_err().to_string().contains("CPU"));
}

#[test]
fn large_uploads() {
    let numbers = Random::new(4).numbers(300_000);
    for (name, device) in gpus() {
        for _ in 0..2 {
            let x = Tensor::new(&device, &[300_000], &numbers).unwrap();
            let y = add(&x, &x, 1.0).unwrap();
            drop(x);
            let z = Tensor::new(&device, &[300_000], &numbers).unwrap();
            assert!(y.read().unwrap().iter().zip(&numbers).all(|(y, x)| *y == 2.0 * x), "{name}");
            assert_eq!(z.read().unwrap(), numbers, "{name}");
        }
    }
}

/// An executor of one thread, which knows nothing of GPUs.
struct Queue(Mutex<Vec<usize>>, std::thread::Thread);

struct Task(Arc<Queue>, usize);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.0.lock().unwrap().push(self.1);
        self.0.1.unpark();
    }
}

fn run_all<T>(futures: Vec<Pin<Box<dyn Future<Output = T> + '_>>>, mut done: impl FnMut(usize, T)) {
    let queue = Arc::new(Queue(Mutex::new((0..futures.len()).collect()), std::thread::current()));
    let mut futures: Vec<_> = futures.into_iter().map(Some).collect();
    while futures.iter().any(Option::is_some) {
        let Some(index) = queue.0.lock().unwrap().pop() else {
            std::thread::park();
            continue;
        };
        let waker = Waker::from(Arc::new(Task(queue.clone(), index)));
        let Some(future) = &mut futures[index] else { continue };
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            futures[index] = None;
            done(index, value);
        }
    }
}

/// How many threads of this process have a name, where that can be asked.
fn threads(name: &str) -> Option<usize> {
    let tasks = std::fs::read_dir("/proc/self/task").ok()?;
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    Some(names.filter(|other| other.trim() == name).count())
}

/// It has the number that tells a device from others of its name.
fn name_of_waiting_thread(device: &Device) -> String {
    let error = add(&number(device, 1.0), &number(&Device::cpu(), 1.0), 1.0).unwrap_err();
    let Error::DeviceMismatch { left, .. } = error else { panic!("{error}") };
    let number = left.split(", device ").last().and_then(|end| end.split(' ').next());
    format!("attention {}", number.unwrap())
}

#[test]
fn many_reads_are_awaited_by_one_thread() {
    let Some((_, _, ours)) = shared_device() else { return };
    let x = number(&ours, 1.0);
    let layer = Linear { weight: Tensor::new(&ours, &[1, 1], &[2.0]).unwrap(), bias: None };
    let tensors: Vec<Tensor> = (0..100)
        .map(|i| linear(&number(&ours, i as f32).reshape(&[1, 1]).unwrap(), &layer, Activation::None, None).unwrap())
        .collect();
    let mut found = vec![0.0; 100];
    let futures = tensors.iter().map(|y| Box::pin(y.read_async()) as Pin<Box<dyn Future<Output = _>>>);
    run_all(futures.collect(), |index, read: Result<Vec<f32>>| found[index] = read.unwrap()[0]);
    assert!(found.iter().enumerate().all(|(i, &y)| y == 2.0 * i as f32));
    pollster::block_on(async {
        ours.wait_async().await.unwrap();
        let there = x.to_async(&Device::cpu()).await.unwrap();
        assert_eq!(there.read_async().await.unwrap(), [1.0]);
        assert_eq!(there.to_async(&ours).await.unwrap().read_async().await.unwrap(), [1.0]);
        // Reads that nobody awaits any more.
        for tensor in &tensors {
            let mut read = Box::pin(tensor.read_async());
            let _ = read.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        }
        assert_eq!(tensors[7].read_async().await.unwrap(), [14.0]);
    });
    let name = name_of_waiting_thread(&ours);
    if threads(&name).is_none() {
        return;
    }
    assert_eq!(threads(&name), Some(1));
    // It ends with the device.
    drop((tensors, layer, x, ours));
    let ended = (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        threads(&name) == Some(0)
    });
    assert!(ended, "{name} outlives its device");
}

#[test]
fn devices_open_without_blocking() {
    pollster::block_on(async {
        assert!(Device::by_name_async("cpu").await.unwrap() == Device::cpu());
        let best = Device::best_async().await;
        assert_eq!(best.to_string(), Device::best().to_string());
        best.wait_async().await.unwrap();
        assert!(Device::by_name_async("no such adapter").await.is_err());
        if !Device::adapters().is_empty() {
            let by_options = Device::gpu_with_async(&GpuOptions::default().checked(true)).await.unwrap();
            assert_eq!(Device::gpu_async().await.unwrap().to_string(), by_options.to_string());
            assert_eq!(Device::gpu_with(&GpuOptions::default()).unwrap().to_string(), by_options.to_string());
        }
    });
}

fn _recordings_travel(recording: Recording) -> impl Send + Sync {
    recording
}
