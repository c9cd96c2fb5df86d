//! What ends a device is its loss and nothing else.
#![cfg(feature = "gpu")]

use crate::device::applications_device;
use wgpu_attention::{
    Device, Error, Tensor,
    device::GpuOptions,
    ops::{add, relu},
    wgpu,
};

fn buffer(device: &wgpu::Device, size: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
    device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
}

fn is_lost<T>(result: Result<T, Error>) -> bool {
    matches!(result, Err(Error::DeviceLost { .. }))
}

/// `Ok` from operations and `wait`, `Validation` from reads, by the table.
#[test]
fn r7_a_device_that_is_destroyed_is_lost_from_the_next_call_on() {
    let Some((device, queue)) = applications_device() else { return };
    let ours = Device::from_wgpu(device.clone(), queue);
    let x = Tensor::new(&ours, &[4], &[1.0; 4]).unwrap();
    let recorded = relu(&x).unwrap();
    let (in_recording, recording) = ours.record(|| relu(&x)).unwrap();
    let waiting = relu(&x).unwrap();
    device.destroy();
    assert!(is_lost(relu(&x)) && is_lost(add(&x, &recorded, 1.0)));
    assert!(is_lost(ours.wait()) && is_lost(ours.submit()));
    assert!(is_lost(recording.submit()));
    for tensor in [&x, &recorded, &in_recording, &waiting] {
        assert!(is_lost(tensor.read()) && is_lost(tensor.buffer()) && is_lost(relu(tensor)));
        assert!(is_lost(pollster::block_on(tensor.read_async())));
    }
    assert!(is_lost(Tensor::new(&ours, &[400], &[1.0; 400])) && is_lost(Tensor::zeros(&ours, &[4])));
    assert!(is_lost(pollster::block_on(ours.wait_async())));
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    assert!(is_lost(ours.encode_into(&mut encoder)));
}

/// Some calls said `Ok` and some panicked inside `wgpu`.
#[test]
fn r7_eight_threads_and_a_device_that_is_destroyed_under_them() {
    let Some((device, queue)) = applications_device() else { return };
    let ours = Device::from_wgpu(device.clone(), queue);
    let work = |seed: usize| {
        let numbers = vec![seed as f32; 1000];
        loop {
            let step = || {
                let x = Tensor::new(&ours, &[1000], &numbers)?;
                let (y, recording) = ours.record(|| add(&x, &relu(&x)?, 1.0))?;
                recording.submit()?;
                add(&y, &x, 1.0)?.read()
            };
            match step() {
                Ok(y) => assert!(y.iter().all(|&y| y == 3.0 * seed as f32)),
                Err(error) => return error,
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|seed| scope.spawn(move || work(seed))).collect();
        std::thread::sleep(std::time::Duration::from_millis(300));
        device.destroy();
        for thread in threads {
            let error = thread.join().unwrap();
            let is_named = matches!(error, Error::DeviceLost { .. } | Error::NotComputed { .. });
            assert!(is_named && error.to_string().contains("lost"), "{error:?}");
        }
    });
    assert!(is_lost(ours.wait()));
}

/// One borrowed buffer without COPY_SRC ended the device for every tensor and thread.
#[test]
fn f5_a_bad_operand_is_an_error_for_itself_alone() {
    let Some((device, queue)) = applications_device() else { return };
    let ours = Device::from_wgpu(device.clone(), queue.clone());
    let x = Tensor::new(&ours, &[4], &[1.0; 4]).unwrap();
    let pending = relu(&x).unwrap();
    let unreadable = buffer(&device, 16, wgpu::BufferUsages::STORAGE);
    let unreadable = Tensor::from_buffer(&ours, &[4], unreadable).unwrap();
    let refused = unreadable.read().unwrap_err();
    assert!(refused.to_string().contains("COPY_SRC"), "{refused}");
    // It can be used, and everything else goes on.
    assert_eq!(add(&x, &unreadable, 1.0).unwrap().read().unwrap(), [1.0; 4]);
    assert_eq!(pending.read().unwrap(), [1.0; 4]);
    let (y, recording) = ours.record(|| relu(&x)).unwrap();
    recording.submit().unwrap();
    assert_eq!(y.read().unwrap(), [1.0; 4]);

    // Foreign buffers of every wrong kind.
    let storage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
    let destroyed = buffer(&device, 16, storage);
    destroyed.destroy();
    let mapped = device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 16,
        usage: storage,
        mapped_at_creation: true,
    });
    let (elsewhere, _queue) = applications_device().unwrap();
    let kinds = [
        ("usage", buffer(&device, 16, wgpu::BufferUsages::UNIFORM)),
        ("usage", buffer(&device, 16, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST)),
        ("4 elements", buffer(&device, 12, storage)),
        ("", destroyed),
        ("mapped", mapped),
        ("buffer", buffer(&elsewhere, 16, storage)),
    ];
    for (wanted, buffer) in kinds {
        let refused = Tensor::from_buffer(&ours, &[4], buffer).unwrap_err();
        assert!(matches!(refused, Error::Argument { .. } | Error::Length { .. }), "{wanted}: {refused:?}");
        assert!(refused.to_string().contains(wanted), "{wanted}: {refused}");
        assert_eq!(relu(&x).unwrap().read().unwrap(), [1.0; 4], "{wanted}");
    }

    // Destroyed when it is a tensor already: the work that was recorded with it says why.
    let later = buffer(&device, 16, storage);
    let borrowed = Tensor::from_buffer(&ours, &[4], later.clone()).unwrap();
    let (y, recording) = ours.record(|| relu(&borrowed)).unwrap();
    later.destroy();
    let refused = recording.submit().unwrap_err();
    assert!(matches!(refused, Error::Validation { .. }), "{refused:?}");
    let why = y.read().unwrap_err().to_string();
    assert!(why.contains("refused") && !why.contains("dropped"), "{why}");
    assert!(borrowed.read().is_err() && relu(&borrowed).is_err());
    assert_eq!(relu(&x).unwrap().read().unwrap(), [1.0; 4]);
    ours.wait().unwrap();
}

/// Uploads until memory ended lost the device for good. In a process of its own that may take two
/// gigabytes, so that nothing else on the machine suffers.
#[cfg(target_os = "linux")]
#[test]
fn r8_memory_that_ends_is_an_error_and_the_device_goes_on() {
    const INSIDE: &str = "WGPU_ATTENTION_TEST_WITHOUT_MEMORY";
    if std::env::var_os(INSIDE).is_some() {
        return without_memory();
    }
    let limited = std::process::Command::new("sh")
        .args(["-c", "ulimit -v 2500000 && exec \"$0\" --exact lost::r8_memory_that_ends_is_an_error_and_the_device_goes_on --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&limited.stdout) + String::from_utf8_lossy(&limited.stderr);
    assert!(limited.status.success(), "{}: {said}", limited.status);
}

#[cfg(target_os = "linux")]
fn without_memory() {
    for adapter in Device::adapters().iter().filter(|adapter| !adapter.kind.is_hardware()) {
        let ours = Device::on_adapter(adapter, &GpuOptions::default()).unwrap();
        let small = Tensor::new(&ours, &[4], &[1.0; 4]).unwrap();
        relu(&small).unwrap().read().unwrap();
        for (n, of_operations) in [(8 << 20, false), (8 << 20, true), (200_000, false)] {
            let numbers = vec![1.5; n];
            let mut held = Vec::new();
            let ended = loop {
                let made = match held.last() {
                    Some(last) if of_operations => relu(last),
                    _ => Tensor::new(&ours, &[n], &numbers),
                };
                match made {
                    Ok(tensor) => held.push(tensor),
                    Err(error) => break error,
                }
            };
            assert!(matches!(ended, Error::OutOfMemory { .. }), "after {} of {n}: {ended:?}", held.len());
            println!("memory ended after {} of {n} numbers: {ended}", held.len());
            // With some room again all is as before.
            held.truncate(held.len() / 2);
            ours.trim();
            assert_eq!(relu(&small).unwrap().read().unwrap(), [1.0; 4], "{n}");
            assert_eq!(held[0].read().unwrap()[n - 1], 1.5, "{n}");
            drop(held);
            ours.trim();
            let again = Tensor::new(&ours, &[n], &numbers).unwrap();
            assert_eq!(relu(&again).unwrap().read().unwrap()[7], 1.5, "{n}");
        }
    }
}
