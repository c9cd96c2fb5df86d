//! The whole model with the committed checkpoint: reading a context, and predicting.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use support::{devices, numbers};
use wgpu_attention::models::tnp_kr::{Context, Locations, TnpKr};

fn bench(criterion: &mut Criterion) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../checkpoints/gp_1d.safetensors");
    for (name, device, is_fast) in devices() {
        let model = TnpKr::open(&device, path).unwrap();
        for n in if is_fast { [256, 2048] } else { [64, 128] } {
            let (x, y) = (numbers(n), numbers(n));
            let context = Context::new(Locations::space(1, &x), &y);
            let mut group = criterion.benchmark_group("tnp_kr");
            group.sample_size(10).throughput(Throughput::Elements(n as u64));
            group.bench_function(BenchmarkId::new(format!("{name}/condition"), n), |bencher| {
                bencher.iter(|| {
                    let posterior = model.condition(&context).unwrap();
                    device.wait().unwrap();
                    posterior
                });
            });
            let posterior = model.condition(&context).unwrap();
            group.bench_function(BenchmarkId::new(format!("{name}/predict as many"), n), |bencher| {
                bencher.iter(|| posterior.predict(&Locations::space(1, &x)).unwrap());
            });
        }
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
