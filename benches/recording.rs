//! What the host pays to record an operation: 1,000 tiny ones, without the submit.

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use support::{devices, numbers};
use wgpu_attention::{
    Device, Result, Tensor,
    ops::{Activation, Linear, linear, relu},
};

const N: usize = 1000;

fn record(criterion: &mut Criterion, device: &Device, name: &str, operation: impl Fn() -> Result<Tensor>) {
    let mut group = criterion.benchmark_group("recording");
    group.throughput(Throughput::Elements(N as u64));
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|iterations| {
            let mut total = Duration::ZERO;
            for _ in 0..iterations {
                let start = Instant::now();
                for _ in 0..N {
                    operation().unwrap();
                }
                total += start.elapsed();
                device.wait().unwrap();
            }
            total
        });
    });
}

fn bench(criterion: &mut Criterion) {
    for (name, device, _) in devices() {
        let tensor = |shape: &[usize]| Tensor::new(&device, shape, &numbers(shape.iter().product())).unwrap();
        let (x, weight) = (tensor(&[8, 8]), tensor(&[8, 8]));
        let layer = Linear { weight, bias: None };
        record(criterion, &device, &format!("{name}/relu"), || relu(&x));
        record(criterion, &device, &format!("{name}/linear"), || linear(&x, &layer, Activation::None, None));
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
