//! Rolling attention: writes of several sizes, merging two states, reading one. The queries are
//! those of a layer of the paper's largest model.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use support::{devices, numbers};
use wgpu_attention::{
    Tensor,
    ops::{Layout, RollingAttention},
};

/// Heads, queries and numbers of a head.
const SIZES: [usize; 3] = [4, 128, 16];

fn bench(criterion: &mut Criterion) {
    let [heads, n_queries, dim] = SIZES;
    for (name, device, is_fast) in devices() {
        let tensor = |n: usize| Tensor::new(&device, &[1, n, heads * dim], &numbers(n * heads * dim)).unwrap();
        let attention = RollingAttention::new(Layout::Projected { n_heads: heads }, tensor(n_queries));
        let mut group = criterion.benchmark_group("rolling_attention");
        group.sample_size(10);
        let state = attention.write(None, &tensor(100), &tensor(100), None).unwrap();
        for n in if is_fast { [1, 64, 4096, 65_536].as_slice() } else { &[1, 64, 1024] } {
            let (k, v) = (tensor(*n), tensor(*n));
            group.throughput(Throughput::Elements(*n as u64));
            group.bench_function(BenchmarkId::new(format!("{name}/write"), n), |bencher| {
                bencher.iter(|| {
                    let state = attention.write(Some(&state), &k, &v, None).unwrap();
                    device.wait().unwrap();
                    state
                });
            });
        }
        group.throughput(Throughput::Bytes(state.n_bytes() as u64));
        group.bench_function(format!("{name}/merge"), |bencher| {
            bencher.iter(|| {
                let merged = state.merge(&state).unwrap();
                device.wait().unwrap();
                merged
            });
        });
        group.bench_function(format!("{name}/read"), |bencher| {
            bencher.iter(|| {
                let read = state.read().unwrap();
                device.wait().unwrap();
                read
            });
        });
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
