//! The whole CMANP at the size of the paper's Gaussian-process experiments (1.3 million
//! parameters): conditioning, updating, predicting.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use support::{devices, full_size_cmanp, numbers};
use wgpu_attention::models::cmanp::Context;

fn bench(criterion: &mut Criterion) {
    for (name, device, is_fast) in devices() {
        let model = full_size_cmanp(&device);
        let posterior = model.condition(&Context::new(&numbers(100), &numbers(100))).unwrap();
        let mut group = criterion.benchmark_group("cmanp");
        group.sample_size(10);
        for n in if is_fast { [1, 64, 4096].as_slice() } else { &[1, 64] } {
            let (x, y) = (numbers(*n), numbers(*n));
            group.throughput(Throughput::Elements(*n as u64));
            group.bench_function(BenchmarkId::new(format!("{name}/update"), n), |bencher| {
                bencher.iter(|| {
                    let posterior = posterior.update(&Context::new(&x, &y)).unwrap();
                    device.wait().unwrap();
                    posterior
                });
            });
        }
        let n = if is_fast { 10_000 } else { 256 };
        let (x, y) = (numbers(n), numbers(n));
        let observed = Context::new(&x, &y);
        group.throughput(Throughput::Elements(n as u64));
        group.bench_function(BenchmarkId::new(format!("{name}/condition"), n), |bencher| {
            bencher.iter(|| {
                let posterior = model.condition(&observed).unwrap();
                device.wait().unwrap();
                posterior
            });
        });
        // Three points of whole functions, many from one state and one by itself from the observations.
        let places = numbers(3);
        for n in if is_fast { [1, 100, 2000].as_slice() } else { &[1, 10] } {
            group.throughput(Throughput::Elements(*n as u64));
            group.bench_function(BenchmarkId::new(format!("{name}/draws"), n), |bencher| {
                bencher.iter(|| posterior.draws(&places, 0, *n).unwrap());
            });
        }
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new(format!("{name}/condition and draw"), 1), |bencher| {
            bencher.iter(|| model.condition(&observed).unwrap().draws(&places, 0, 1).unwrap());
        });
        let x = numbers(if is_fast { 1000 } else { 64 });
        group.throughput(Throughput::Elements(x.len() as u64));
        group.bench_function(BenchmarkId::new(format!("{name}/predict"), x.len()), |bencher| {
            // The latents are made of the states again, as after an update.
            bencher.iter(|| posterior.update(&Context::new(&[0.0; 0], &[])).unwrap().predict(&x).unwrap());
        });
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
