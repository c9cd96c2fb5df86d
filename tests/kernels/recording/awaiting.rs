//! Reads and devices that are awaited, without blocking and without a thread each.

use std::{
    future::Future,
    pin::Pin,
    sync::Mutex,
    task::{Context, Poll, Wake, Waker},
};

use super::*;

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
