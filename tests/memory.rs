//! Scan attention takes memory in proportion to the length, not to its square: measured at
//! growing lengths, on the CPU by a counting allocator, on adapters by the device's own count.

mod support;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use support::Random;
use wgpu_attention::{
    Device, Tensor,
    ops::{Bias, BiasTerm, ScanAttention, scan_attention},
};

struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system allocator unchanged; the counts are beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = IN_USE.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(now, Relaxed);
        // SAFETY: the caller keeps the contract of `GlobalAlloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller keeps the contract of `GlobalAlloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that attention of a length takes beyond its inputs, at the most.
fn extra_bytes(device: &Device, length: usize, n_splits: Option<usize>) -> u64 {
    let mut random = Random::new(length as u64);
    let mut tensor = |shape: &[usize]| {
        let numbers = random.numbers(shape.iter().product());
        Tensor::new(device, shape, &numbers).unwrap()
    };
    let t = tensor(&[1, 2, length, 16]);
    let coords = tensor(&[1, length, 2]);
    let terms = [BiasTerm::rbf(0..2, &[1.0; 4], &[1.0; 4])];
    let mut options = ScanAttention::default().bias(Bias::new(&coords, &coords, &terms));
    options.n_splits = n_splits;
    let on_device = device.memory().in_use;
    let before = IN_USE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let read = scan_attention(&t, &t, &t, &options).unwrap();
    let extra = if *device == Device::cpu() {
        (PEAK.load(Relaxed) - before) as u64
    } else {
        device.wait().unwrap();
        device.memory().peak - on_device
    };
    drop(read);
    extra
}

// One test: the counts are the whole process's.
#[test]
fn memory_grows_with_the_length_and_not_with_its_square() {
    #[allow(unused_mut)]
    let mut devices = vec![("CPU".to_owned(), vec![Device::cpu(); 3], [4096, 8192, 16_384])];
    #[cfg(feature = "gpu")]
    if let Some(adapter) = Device::adapters().into_iter().next() {
        // A device for each length: a peak is never forgotten.
        let opened = (0..3).map(|_| Device::on_adapter(&adapter, &Default::default()).unwrap()).collect();
        devices.push((adapter.name, opened, [512, 1024, 2048]));
    }
    for (name, opened, lengths) in devices {
        extra_bytes(&opened[0], 64, Some(1)); // threads and pipelines, once
        let measure = |(device, n)| extra_bytes(device, n, Some(1));
        let extra: Vec<u64> = opened.iter().zip(lengths).map(measure).collect();
        for (n, bytes) in lengths.into_iter().zip(&extra) {
            // What a matrix of scores would take, for two heads.
            let square = 2 * 4 * (n as u64).pow(2);
            println!("{name}: length {n}: {bytes} bytes beyond the inputs; scores would take {square}");
            assert!(*bytes < square / 4, "{name}: length {n}: {bytes} bytes");
        }
        for pair in extra.windows(2) {
            // Twice, and a quarter for the size classes of the pool.
            assert!(pair[1] as f64 <= 2.5 * pair[0] as f64, "{name}: {extra:?}");
        }
        // Splits of the keys keep a partial result each. They are for few queries, and end at
        // 2048 groups of 32: a constant, whatever the length.
        let split = extra_bytes(&opened[2], lengths[2], None);
        assert!(split <= extra[2] + 65_536 * (16 + 1) * 4 * 5 / 4, "{name}: {split} bytes");
    }
}
