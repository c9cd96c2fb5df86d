//! Scan attention over lengths, head sizes and biases, on the CPU and on every adapter: from the
//! call to the end of the work. Throughput is in pairs of query and key, over all heads.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use support::{devices, numbers};
use wgpu_attention::{
    Device, Tensor,
    ops::{Bias, BiasKernel, BiasTerm, Distance, Layout, ScanAttention, scan_attention},
};

const N_HEADS: usize = 4;

fn terms(bias: &str) -> Vec<BiasTerm> {
    let (a, b) = (numbers(N_HEADS * 5), [0.3, 1.0, 2.0, 4.0, 8.0].repeat(N_HEADS));
    match bias {
        "none" => vec![],
        "scalar" => vec![BiasTerm::scalar(0..2, &a[..N_HEADS])],
        "rbf" => vec![BiasTerm::rbf(0..2, &a, &b)],
        "tisa" => vec![BiasTerm::tisa(0..2, &a, &b, &a)],
        "great circle" => vec![BiasTerm::built_in(0..2, Distance::GreatCircle, BiasKernel::Exponential, &[&a, &b])],
        other => unreachable!("{other}"),
    }
}

fn attend(criterion: &mut Criterion, device: &Device, name: &str, length: usize, head_dim: usize, bias: &str) {
    let tensor = |shape: &[usize]| Tensor::new(device, shape, &numbers(shape.iter().product())).unwrap();
    let t = tensor(&[1, N_HEADS, length, head_dim]);
    let coords = tensor(&[1, length, 2]);
    let terms = terms(bias);
    let mut options = ScanAttention::new(Layout::HeadMajor);
    options.bias = (!terms.is_empty()).then(|| Bias::new(&coords, &coords, &terms));
    let mut group = criterion.benchmark_group("scan_attention");
    group.sample_size(10).throughput(Throughput::Elements((N_HEADS * length * length) as u64));
    let id = BenchmarkId::new(format!("{name}/{bias}/head_dim {head_dim}"), length);
    group.bench_function(id, |bencher| {
        bencher.iter(|| {
            let read = scan_attention(&t, &t, &t, &options).unwrap();
            device.wait().unwrap();
            read
        });
    });
}

fn bench(criterion: &mut Criterion) {
    for (name, device, is_fast) in devices() {
        let lengths: &[usize] = if is_fast { &[256, 1024, 4096] } else { &[256] };
        for &length in lengths {
            for bias in ["none", "rbf"] {
                attend(criterion, &device, &name, length, 32, bias);
            }
        }
        let length = lengths[lengths.len() / 2];
        for head_dim in [16, 64, 128] {
            attend(criterion, &device, &name, length, head_dim, "none");
        }
        for bias in ["scalar", "tisa", "great circle"] {
            attend(criterion, &device, &name, length, 32, bias);
        }
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
