//! Attention inside an application that already has a wgpu device, queue and command encoder.
//!
//!     cargo run --release --example bring_your_own_device
//!
//! The application opens the device, this crate records an attention as a value, which the
//! application encodes into its own encoder, and a pass of the application reads the result where
//! it lies: one submit, and nothing travels to the host in between.

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use shared::say;
// `wgpu` as the crate has it, so that the types agree.
use wgpu_attention::{
    Device, Tensor,
    ops::{Attention, Bias, BiasTerm, ScanAttention, scan_attention},
    wgpu,
};

const N_HEADS: usize = 4;
const N_QUERIES: usize = 300;
const N_KEYS: usize = 500;
const HEAD_DIM: usize = 16;

/// The application's own kernel: the length of the vector that each query of each head read.
const LENGTHS: &str = "
@group(0) @binding(0) var<storage, read> values: array<f32>;
@group(0) @binding(1) var<storage, read_write> lengths: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
    if id.x >= arrayLength(&lengths) { return; }
    var sum = 0.0;
    for (var i = 0u; i < 16u; i++) {
        let value = values[id.x * 16u + i];
        sum += value * value;
    }
    lengths[id.x] = sqrt(sum);
}
";

/// Shows attention inside an application that has a wgpu device of its own. It takes no options,
/// reads no data and writes no file; it needs an adapter, if only a software one.
#[derive(Parser)]
struct Args {}

fn main() -> Result<()> {
    Args::parse();
    let Some((device, queue)) = open()? else {
        bail!("there is no adapter on this machine, not even a software one: nothing can be shown");
    };
    // The crate shares the device; both handles are reference-counted.
    let shared = Device::from_wgpu(device.clone(), queue.clone());
    say!("device: {shared}")?;

    // Nothing runs yet. What other threads do with the device meanwhile is not in the recording.
    let (read, recording) = shared.record(|| attention(&shared))?;
    say!("recorded: {} dispatches", recording.n_dispatches())?;

    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    recording.encode_into(&mut encoder)?;
    // Held until the encoder is submitted, so that nothing else is given the memory.
    let values = read.values.buffer()?;
    let n_lengths = N_HEADS * N_QUERIES;
    let result = encode_lengths(&device, &mut encoder, values.buffer(), n_lengths);
    queue.submit([encoder.finish()]);

    let found = download(&device, &result)?;
    let expected = lengths(&attention(&Device::cpu())?.values.read()?);
    ensure!(found.len() == expected.len(), "{} lengths, expected {}", found.len(), expected.len());
    let difference = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    say!("{n_lengths} lengths, at most {difference:.1e} from those of the CPU")?;
    ensure!(difference < 1e-5, "the GPU and the CPU disagree");
    Ok(())
}

/// What the application does anyway: opens a device with whatever limits it likes.
fn open() -> Result<Option<(wgpu::Device, wgpu::Queue)>> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
    descriptor.backends &= wgpu::Backends::PRIMARY; // not OpenGL
    let instance = wgpu::Instance::new(descriptor);
    let adapter = pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions::default()));
    let Ok(adapter) = adapter else { return Ok(None) };
    let descriptor = wgpu::DeviceDescriptor { label: Some("the application's"), ..Default::default() };
    let opened = pollster::block_on(adapter.request_device(&descriptor));
    Ok(Some(opened.context("the adapter gives no device")?))
}

/// An attention with a bias that is computed from positions in the plane.
fn attention(device: &Device) -> wgpu_attention::Result<Attention> {
    let mut rng = StdRng::seed_from_u64(0);
    let mut random = |shape: &[usize]| {
        let n = shape.iter().product();
        let numbers: Vec<f32> = (0..n).map(|_| rng.random_range(-1.0..1.0)).collect();
        Tensor::new(device, shape, &numbers)
    };
    let q = random(&[1, N_HEADS, N_QUERIES, HEAD_DIM])?;
    let k = random(&[1, N_HEADS, N_KEYS, HEAD_DIM])?;
    let v = random(&[1, N_HEADS, N_KEYS, HEAD_DIM])?;
    let (q_positions, k_positions) = (random(&[1, N_QUERIES, 2])?, random(&[1, N_KEYS, 2])?);
    // One basis function a head: near keys count more, to a different degree.
    let near = BiasTerm::rbf(0..2, &[1.0, 2.0, 3.0, 4.0], &[1.0, 2.0, 4.0, 8.0]);
    let terms = [near];
    let options = ScanAttention::default().bias(Bias::new(&q_positions, &k_positions, &terms));
    scan_attention(&q, &k, &v, &options)
}

/// The application's pass over the attention's buffer, and the copy to one it can map.
fn encode_lengths(
    device: &wgpu::Device,
    encoder: &mut wgpu::CommandEncoder,
    values: &wgpu::Buffer,
    n_lengths: usize,
) -> wgpu::Buffer {
    let size = (n_lengths * size_of::<f32>()) as u64;
    let buffer =
        |usage| device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false });
    let lengths = buffer(wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC);
    let result = buffer(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some("lengths"),
        source: wgpu::ShaderSource::Wgsl(LENGTHS.into()),
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some("lengths"),
        layout: None,
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions::default(),
        cache: None,
    });
    let bind_group = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[
            wgpu::BindGroupEntry { binding: 0, resource: values.as_entire_binding() },
            wgpu::BindGroupEntry { binding: 1, resource: lengths.as_entire_binding() },
        ],
    });
    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
    pass.set_pipeline(&pipeline);
    pass.set_bind_group(0, &bind_group, &[]);
    pass.dispatch_workgroups(n_lengths.div_ceil(64) as u32, 1, 1);
    drop(pass);
    encoder.copy_buffer_to_buffer(&lengths, 0, &result, 0, size);
    result
}

/// Reads a buffer that was submitted.
fn download(device: &wgpu::Device, buffer: &wgpu::Buffer) -> Result<Vec<f32>> {
    let (sender, receiver) = std::sync::mpsc::channel();
    // The receiver outlives the callback, which runs during the poll.
    buffer.map_async(wgpu::MapMode::Read, .., move |mapped| _ = sender.send(mapped));
    device.poll(wgpu::PollType::wait_indefinitely())?;
    receiver.recv()??;
    let bytes = buffer.get_mapped_range(..)?;
    Ok(bytemuck::pod_collect_to_vec(&bytes))
}

/// The same on the host.
fn lengths(values: &[f32]) -> Vec<f32> {
    values.chunks_exact(HEAD_DIM).map(|value| value.iter().map(|x| x * x).sum::<f32>().sqrt()).collect()
}
