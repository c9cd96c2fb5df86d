//! The three attentions of TNP-KR side by side, over the length: one block of the papers' size
//! (width 64) is written with as many tokens as read it. Linear attention alone is timed too:
//! writing, merging and reading its state.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use support::{devices, numbers};
use wgpu_attention::{
    Device, Tensor,
    checkpoint::Checkpoint,
    models::tnp_kr::{Config, KrBlock},
    ops::{FeatureMap, Layout, LinearAttention, Normalizer, ProjectionRows, random_features},
};

const WIDTH: usize = 64;

fn block(device: &Device, config: &Config) -> KrBlock {
    let load = |checkpoint: &Checkpoint, device: &Device| {
        checkpoint.load(device, |parameters| KrBlock::load(parameters, config))
    };
    let checkpoint = Checkpoint::random(0, |checkpoint| load(checkpoint, &Device::cpu())).unwrap();
    load(&checkpoint, device).unwrap()
}

fn side_by_side(criterion: &mut Criterion) {
    let configs =
        [("scan", Config::scan(1)), ("deep kernel", Config::deep_kernel(2, 1)), ("Performer", Config::performer(2, 1))];
    for (name, device, is_fast) in devices() {
        let lengths: &[usize] = if is_fast { &[256, 1024, 4096, 16_384, 65_536] } else { &[64] };
        for &length in lengths {
            let tokens = Tensor::new(&device, &[1, length, WIDTH], &numbers(length * WIDTH)).unwrap();
            let coords = Tensor::new(&device, &[1, length, 2], &numbers(2 * length)).unwrap();
            let columns = std::array::from_ref(&(0..2));
            let coords = Some((&coords, &columns[..]));
            for (attention, config) in &configs {
                let block = block(&device, config);
                let mut group = criterion.benchmark_group("attention");
                group.sample_size(10).throughput(Throughput::Elements(length as u64));
                group.bench_function(BenchmarkId::new(format!("{name}, {attention}"), length), |bencher| {
                    bencher.iter(|| {
                        let memory = block.write(&tokens, coords, None).unwrap();
                        let read = block.read(&tokens, &memory, coords, None).unwrap();
                        device.wait().unwrap();
                        read
                    });
                });
            }
        }
    }
}

fn states(criterion: &mut Criterion) {
    for (name, device, is_fast) in devices() {
        let length = if is_fast { 65_536 } else { 256 };
        let tensor = |dim: usize| Tensor::new(&device, &[1, length, dim], &numbers(length * dim)).unwrap();
        let projection = random_features(&device, 0, 128, 32, ProjectionRows::Orthogonal).unwrap();
        let cases = [
            (
                "deep kernel 128 x 64",
                LinearAttention::new(Layout::Projected { n_heads: 1 }, FeatureMap::identity(1.0), Normalizer::None),
                [tensor(128), tensor(64)],
            ),
            (
                "Performer 4 x 128 x 32",
                LinearAttention::favor(Layout::Projected { n_heads: 4 }, projection),
                [tensor(128), tensor(128)],
            ),
        ];
        for (case, attention, [k, v]) in cases {
            let state = attention.write(None, &k, &v, None).unwrap();
            let mut group = criterion.benchmark_group("linear_attention");
            group.sample_size(10).throughput(Throughput::Elements(length as u64));
            let id = |what: &str| BenchmarkId::new(format!("{name}, {case}, {what}"), length);
            group.bench_function(id("write"), |bencher| {
                bencher.iter(|| {
                    let state = attention.write(None, &k, &v, None).unwrap();
                    device.wait().unwrap();
                    state
                });
            });
            group.bench_function(id("read"), |bencher| {
                bencher.iter(|| {
                    let read = attention.read(&k, &state).unwrap();
                    device.wait().unwrap();
                    read
                });
            });
            group.throughput(Throughput::Elements(1)).bench_function(id("merge"), |bencher| {
                bencher.iter(|| {
                    let merged = state.merge(&state).unwrap();
                    device.wait().unwrap();
                    merged
                });
            });
        }
    }
}

criterion_group!(benches, side_by_side, states);
criterion_main!(benches);
