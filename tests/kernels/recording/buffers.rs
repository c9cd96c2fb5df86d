//! What a device shares with the application that opened it: tensors and buffers.

use super::*;

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
