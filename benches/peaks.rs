//! What an adapter can do at most, measured: multiplications with additions, and a copy of memory. The
//! roof that kernels are held against.

use std::time::Instant;

use wgpu_attention::{
    device::Adapter,
    wgpu::{self, util::DeviceExt as _},
};

/// The two ceilings of an adapter.
#[derive(Clone, Copy, Debug)]
pub struct Peaks {
    /// Floating-point operations a second, a product and a sum being two.
    pub flops: f64,
    /// Bytes a second that a copy reads and writes, together.
    pub bytes: f64,
}

impl Peaks {
    /// The share of the ceiling that is nearer which a call of these sizes reaches, and which one
    /// that is.
    pub fn share(&self, flops: f64, bytes: f64, seconds: f64) -> (f64, &'static str) {
        let (compute, memory) = (flops / seconds / self.flops, bytes / seconds / self.bytes);
        if compute >= memory { (compute, "FMA") } else { (memory, "copy") }
    }
}

/// The adapter again, as `wgpu` has it: the one of this name and interface.
fn find(adapter: &Adapter) -> Result<wgpu::Adapter, String> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let all = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY));
    let is_it = |raw: &wgpu::Adapter| {
        let info = raw.get_info();
        // Of several that are alike the library numbers all but the first.
        adapter.name.starts_with(&info.name) && adapter.backend == info.backend.to_string()
    };
    all.into_iter().find(is_it).ok_or_else(|| format!("wgpu finds no {adapter} any more"))
}

/// Measures an adapter, with a device of its own.
///
/// # Errors
/// The adapter gives no device, or has no room for what is copied.
pub fn measure(adapter: &Adapter, is_quick: bool) -> Result<Peaks, String> {
    let raw = find(adapter)?;
    let limits = raw.limits();
    let features = raw.features() & wgpu::Features::TIMESTAMP_QUERY;
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("peaks"),
        required_features: features,
        required_limits: limits.clone(),
        ..Default::default()
    };
    let (device, queue) = pollster::block_on(raw.request_device(&descriptor)).map_err(|error| error.to_string())?;
    let bench = Bench { has_clock: !features.is_empty(), device, queue };
    // Beyond all caches, where the device binds as much.
    let room = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
    let bytes = (if is_quick { 8 << 20 } else { 512 << 20 }).min(room - room % 4096);
    let groups = if is_quick { 16 } else { 8192 };
    let runs = if is_quick { 2 } else { 10 };
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
    let buffer = |size: u64| {
        bench.device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
    };
    let seeds: Vec<u8> = crate::numbers(4096).iter().flat_map(|x| x.to_ne_bytes()).collect();
    let seeds =
        bench.device.create_buffer_init(&wgpu::util::BufferInitDescriptor { label: None, contents: &seeds, usage });
    // 256 threads, 256 times, 16 of four numbers.
    let flops = f64::from(groups) * 256.0 * 256.0 * 16.0 * 4.0 * 2.0;
    let of_fma = bench.best(include_str!("peak_fma.wgsl"), &[&seeds], [groups, 1], runs)?;
    let (from, to) = (buffer(bytes), buffer(bytes));
    let n_groups = (bytes / 4096) as u32;
    let width = n_groups.min(limits.max_compute_workgroups_per_dimension);
    let of_copy = bench.best(include_str!("peak_copy.wgsl"), &[&from, &to], [width, n_groups.div_ceil(width)], runs)?;
    Ok(Peaks { flops: flops / of_fma, bytes: 2.0 * bytes as f64 / of_copy })
}

struct Bench {
    device: wgpu::Device,
    queue: wgpu::Queue,
    has_clock: bool,
}

impl Bench {
    /// The least time of a kernel, in seconds.
    fn best(&self, wgsl: &str, buffers: &[&wgpu::Buffer], groups: [u32; 2], runs: usize) -> Result<f64, String> {
        let device = &self.device;
        let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
        let source = wgpu::ShaderSource::Wgsl(wgsl.into());
        let descriptor = wgpu::ShaderModuleDescriptor { label: None, source };
        // SAFETY: the two texts index no array out of bounds (by a remainder and a comparison with its
        // length), and their loops end.
        let module = unsafe { device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) };
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: Default::default(),
            cache: None,
        });
        let entries: Vec<_> = (0..)
            .zip(buffers)
            .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() })
            .collect();
        let bind_group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        // Clocks rise with work.
        let start = Instant::now();
        while runs > 2 && start.elapsed().as_secs_f64() < 0.2 {
            self.run(&pipeline, &bind_group, groups)?;
        }
        let times = (0..=runs).map(|_| self.run(&pipeline, &bind_group, groups)).collect::<Result<Vec<_>, _>>()?;
        if let Some(error) = pollster::block_on(scope.pop()) {
            return Err(error.to_string());
        }
        // The first warms up.
        times[1..].iter().copied().min_by(f64::total_cmp).ok_or_else(|| "nothing was run".into())
    }

    fn run(
        &self,
        pipeline: &wgpu::ComputePipeline,
        bind_group: &wgpu::BindGroup,
        [x, y]: [u32; 2],
    ) -> Result<f64, String> {
        let device = &self.device;
        let set = self.has_clock.then(|| {
            let ty = wgpu::QueryType::Timestamp;
            device.create_query_set(&wgpu::QuerySetDescriptor { label: None, ty, count: 2 })
        });
        let buffer = |usage| {
            device.create_buffer(&wgpu::BufferDescriptor { label: None, size: 16, usage, mapped_at_creation: false })
        };
        let resolved = buffer(wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC);
        let staging = buffer(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
        let mut encoder = device.create_command_encoder(&Default::default());
        let timestamp_writes = set.as_ref().map(|query_set| wgpu::ComputePassTimestampWrites {
            query_set,
            beginning_of_pass_write_index: Some(0),
            end_of_pass_write_index: Some(1),
        });
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes });
        pass.set_pipeline(pipeline);
        pass.set_bind_group(0, bind_group, &[]);
        pass.dispatch_workgroups(x, y, 1);
        drop(pass);
        if let Some(set) = &set {
            encoder.resolve_query_set(set, 0..2, &resolved, 0);
            encoder.copy_buffer_to_buffer(&resolved, 0, &staging, 0, 16);
        }
        let start = Instant::now();
        self.queue.submit([encoder.finish()]);
        staging.slice(..).map_async(wgpu::MapMode::Read, |_| ());
        device.poll(wgpu::PollType::wait_indefinitely()).map_err(|error| error.to_string())?;
        let seconds = start.elapsed().as_secs_f64();
        if set.is_none() {
            return Ok(seconds);
        }
        let view = staging.slice(..).get_mapped_range().map_err(|error| error.to_string())?;
        let tick = |i: usize| u64::from_ne_bytes(std::array::from_fn(|byte| view[8 * i + byte]));
        let ticks = tick(1).saturating_sub(tick(0)).max(1);
        Ok(ticks as f64 * f64::from(self.queue.get_timestamp_period()) * 1e-9)
    }
}
