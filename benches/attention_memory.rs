//! Attention memory over lengths, in every form, beside scan attention: where does a memory of
//! constant size overtake softmax? From the call to the end of the work; throughput in tokens.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use support::{devices, numbers};
use wgpu_attention::{
    Device, Tensor,
    ops::{
        AttentionMemory, FeatureMap, Form, Layout, LinearAttention, Normalizer, Probabilities, ScanAttention,
        attention_memory, scan_attention, unit_norm,
    },
};

const N_HEADS: usize = 8;
const HEAD_DIM: usize = 64;
const LAYOUT: Layout = Layout::Projected { n_heads: N_HEADS };

fn forms(criterion: &mut Criterion, device: &Device, name: &str, length: usize, with_scan: bool) {
    let tensor = || {
        let numbers = numbers(length * N_HEADS * HEAD_DIM);
        Tensor::new(device, &[1, length, N_HEADS * HEAD_DIM], &numbers).unwrap()
    };
    let unit = unit_norm(&tensor().reshape(&[length * N_HEADS, HEAD_DIM]).unwrap()).unwrap();
    let (k, v) = (unit.reshape(&[1, length, N_HEADS * HEAD_DIM]).unwrap(), tensor());
    let p: Vec<f32> = numbers(length * N_HEADS).iter().map(|x| 0.5 + 0.5 * x).collect();
    let p = Probabilities::new(device, &[1, length, N_HEADS], &p).unwrap();
    let mut group = criterion.benchmark_group("attention_memory");
    group.sample_size(10).throughput(Throughput::Elements(length as u64));
    for (gates, p_erase) in [("causal", None), ("causal with erase", Some(&p))] {
        for form in [Form::Recurrent, Form::Chunked] {
            let mut options = AttentionMemory::new(LAYOUT).p_write(&p).p_read(&p).form(form);
            options.p_erase = p_erase;
            let id = BenchmarkId::new(format!("{name}/{gates}, {form:?}").to_lowercase(), length);
            group.bench_function(id, |bencher| {
                bencher.iter(|| {
                    let recall = attention_memory(&k, &k, &v, &options).unwrap();
                    device.wait().unwrap();
                    recall
                });
            });
        }
    }
    let linear = LinearAttention::new(LAYOUT, FeatureMap::identity(1.0), Normalizer::None);
    group.bench_function(BenchmarkId::new(format!("{name}/bidirectional"), length), |bencher| {
        bencher.iter(|| {
            let state = linear.write(None, &k, &v, None).unwrap();
            let read = linear.read(&k, &state).unwrap();
            device.wait().unwrap();
            read
        });
    });
    if with_scan {
        let options = ScanAttention::new(LAYOUT);
        group.bench_function(BenchmarkId::new(format!("{name}/scan attention"), length), |bencher| {
            bencher.iter(|| {
                let read = scan_attention(&k, &k, &v, &options).unwrap();
                device.wait().unwrap();
                read
            });
        });
    }
}

fn bench(criterion: &mut Criterion) {
    for (name, device, is_fast) in devices() {
        let lengths: &[usize] = if is_fast { &[64, 256, 1024, 4096, 8192, 32_768] } else { &[256, 1024] };
        for &length in lengths {
            // Quadratic: minutes where it is longest.
            forms(criterion, &device, &name, length, length <= 8192);
        }
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
