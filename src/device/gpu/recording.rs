//! Work is recorded and later run in one compute pass: a pass for each operation would
//! leave the GPU idle for tens of microseconds between them.

use std::{collections::VecDeque, panic::AssertUnwindSafe, sync::Arc};

use super::{Gpu, Pipeline, View, lock};
use crate::error::{Error, Result};

/// The most bytes of parameters that one dispatch may have.
pub(crate) const MAX_PARAMS: u64 = 16 << 10;

/// Room for the parameters of one recording.
const PARAMS_BUFFER: u64 = 1 << 20;

/// Submits that may be in flight before the next one waits.
const MAX_IN_FLIGHT: usize = 8;

/// One kernel over one set of buffers.
pub(crate) struct Dispatch<'a> {
    pub pipeline: &'a Arc<Pipeline>,
    /// One for each binding of the pipeline, in its order.
    pub buffers: &'a [View<'a>],
    /// The uniform that the kernel reads.
    pub params: &'a [u8],
    /// Workgroups; more than a dimension holds are folded, see `shaders/lib/group.wgsl`.
    pub n_groups: u64,
    /// Floating-point operations, roughly.
    pub cost: f64,
}

/// A dispatch with everything resolved.
pub(crate) struct Pass {
    pipeline: Arc<Pipeline>,
    bind_group: wgpu::BindGroup,
    params_offset: u32,
    groups: [u32; 2],
}

#[derive(Default)]
pub(super) struct Recording {
    passes: Vec<Pass>,
    params: Vec<u8>,
    cost: f64,
    /// The parameters of the recording that was submitted last, on the device.
    params_buffer: Option<(wgpu::Buffer, wgpu::BindGroup)>,
    in_flight: VecDeque<wgpu::SubmissionIndex>,
}

impl Gpu {
    /// Records a dispatch; submits if enough has come together.
    pub(crate) fn dispatch(&self, dispatch: &Dispatch<'_>) -> Result<()> {
        let Dispatch { pipeline, buffers, params, n_groups, cost } = *dispatch;
        if n_groups == 0 {
            return Ok(());
        }
        let exceeded = |limit, requested, allowed| Err(Error::LimitExceeded { limit, requested, allowed });
        if params.len() as u64 > MAX_PARAMS {
            return exceeded("parameters of one kernel in bytes", params.len() as u64, MAX_PARAMS);
        }
        let per_dimension = u64::from(self.limits.max_compute_workgroups_per_dimension);
        if n_groups > per_dimension * per_dimension {
            return exceeded("workgroups of one kernel", n_groups, per_dimension * per_dimension);
        }
        if let Some(view) = buffers.iter().find(|view| view.size > self.limits.max_storage_buffer_binding_size) {
            return exceeded("bytes in one binding", view.size, self.limits.max_storage_buffer_binding_size);
        }
        let width = n_groups.min(per_dimension);
        let entries: Vec<wgpu::BindGroupEntry<'_>> = pipeline
            .bindings
            .iter()
            .zip(buffers)
            .map(|(&(binding, _), view)| wgpu::BindGroupEntry {
                binding,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: view.buffer.raw(),
                    offset: view.offset,
                    size: std::num::NonZeroU64::new(view.size.min(view.buffer.raw().size() - view.offset)),
                }),
            })
            .collect();
        let bind_group = self.guarded("a bind group", || {
            self.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(pipeline.name),
                layout: &pipeline.buffers_layout,
                entries: &entries,
            })
        })?;
        let alignment = self.limits.min_uniform_buffer_offset_alignment as usize;
        loop {
            let mut recording = lock(&self.recording);
            let params_offset = recording.params.len().next_multiple_of(alignment);
            let overflows = (params_offset + params.len()) as u64 + MAX_PARAMS > PARAMS_BUFFER;
            let too_long = recording.cost > 0.0 && recording.cost + cost > self.capabilities.submit_budget;
            if overflows || too_long {
                drop(recording);
                self.submit()?;
                continue;
            }
            recording.params.resize(params_offset, 0);
            recording.params.extend_from_slice(params);
            recording.cost += cost;
            let groups = [width as u32, n_groups.div_ceil(width) as u32];
            let pipeline = pipeline.clone();
            recording.passes.push(Pass { pipeline, bind_group, params_offset: params_offset as u32, groups });
            return Ok(());
        }
    }

    /// Runs what is recorded.
    pub(crate) fn submit(&self) -> Result<()> {
        if lock(&self.recording).passes.is_empty() { Ok(()) } else { self.submit_with(|_| ()).map(|_| ()) }
    }

    /// Runs what is recorded, then what `finish` encodes.
    pub(super) fn submit_with(&self, finish: impl FnOnce(&mut wgpu::CommandEncoder)) -> Result<wgpu::SubmissionIndex> {
        let mut recording = lock(&self.recording);
        let params_group = match &recording.params_buffer {
            Some((_, group)) => group.clone(),
            None => {
                let (buffer, group) = self.params_buffer(PARAMS_BUFFER)?;
                recording.params_buffer = Some((buffer, group.clone()));
                group
            }
        };
        let passes = std::mem::take(&mut recording.passes);
        let params = std::mem::take(&mut recording.params);
        recording.cost = 0.0;
        let buffer = recording.params_buffer.as_ref().map(|(buffer, _)| buffer.clone());
        // From here on a failure leaves tensors that were never written, so it is for good.
        let for_good = |error| self.fail_for_good(error);
        // In queue order: the submits so far have read their parameters before this write.
        if let Some(buffer) = buffer.filter(|_| !params.is_empty()) {
            let padded = [&params[..], &[0; 3][..(4 - params.len() % 4) % 4]].concat();
            self.guarded("an upload", || self.queue.write_buffer(&buffer, 0, &padded)).map_err(for_good)?;
        }
        let submitted = self.guarded("a submit", || {
            let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            encode(&mut encoder, &passes, &params_group);
            finish(&mut encoder);
            self.queue.submit([encoder.finish()])
        });
        let index = submitted.map_err(for_good)?;
        recording.in_flight.push_back(index.clone());
        let waited_for = if recording.in_flight.len() > MAX_IN_FLIGHT { recording.in_flight.pop_front() } else { None };
        drop(recording);
        if let Some(index) = waited_for {
            self.wait_for(Some(index))?;
        }
        Ok(index)
    }

    /// Moves what is recorded into an encoder of the application's.
    pub(crate) fn encode_into(&self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        // Held to the end, so that no other thread records or submits in between.
        let mut recording = lock(&self.recording);
        if recording.passes.is_empty() {
            return Ok(());
        }
        // This encoder runs whenever the application pleases, so its parameters are its own
        // and no buffer that it touches is reused.
        let mut params = recording.params.clone();
        params.resize(params.len().next_multiple_of(4), 0);
        let (buffer, group) = self.params_buffer(params.len() as u64 + MAX_PARAMS)?;
        self.guarded("an upload", || self.queue.write_buffer(&buffer, 0, &params))?;
        self.retire_pool();
        let passes = std::mem::take(&mut recording.passes);
        recording.params.clear();
        recording.cost = 0.0;
        encode(encoder, &passes, &group);
        Ok(())
    }

    /// Waits for a submit, or for all of them.
    pub(super) fn wait_for(&self, submission_index: Option<wgpu::SubmissionIndex>) -> Result<()> {
        let wait = wgpu::PollType::Wait { submission_index, timeout: None };
        // wgpu panics where the device is lost or out of memory while it waits.
        let poll = std::panic::catch_unwind(AssertUnwindSafe(|| self.device.poll(wait)));
        self.check_alive()?;
        let lost = |message: String| Error::DeviceLost { message };
        let poll = poll.map_err(|_| lost("it failed while work was under way".into()))?;
        poll.map(|_| ()).map_err(|error| lost(error.to_string()))
    }

    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn wait(&self) -> Result<()> {
        self.submit()?;
        self.wait_for(None)
    }

    fn params_buffer(&self, size: u64) -> Result<(wgpu::Buffer, wgpu::BindGroup)> {
        self.guarded("a parameter buffer", || {
            let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("parameters"),
                size,
                usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            let binding =
                wgpu::BufferBinding { buffer: &buffer, offset: 0, size: std::num::NonZeroU64::new(MAX_PARAMS) };
            let group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some("parameters"),
                layout: &self.params_layout(),
                entries: &[wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(binding) }],
            });
            (buffer, group)
        })
    }
}

fn encode(encoder: &mut wgpu::CommandEncoder, passes: &[Pass], params: &wgpu::BindGroup) {
    if passes.is_empty() {
        return;
    }
    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
    for Pass { pipeline, bind_group, params_offset, groups } in passes {
        pass.set_pipeline(&pipeline.raw);
        pass.set_bind_group(0, bind_group, &[]);
        pass.set_bind_group(1, params, &[*params_offset]);
        pass.dispatch_workgroups(groups[0], groups[1], 1);
    }
}
