//! What runs on the device: dispatches, copies, zeros.

use std::sync::Arc;

use super::{Buffer, Gpu, Pipeline, View};
use crate::error::{Error, Result};

/// The most bytes of parameters that one dispatch may have.
pub(super) const MAX_PARAMS: u64 = 16 << 10;

/// Room for the parameters of one submit.
pub(super) const PARAMS_BUFFER: u64 = 1 << 20;

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

/// What runs on the device, with everything resolved.
pub(super) enum Command {
    Dispatch { pipeline: Arc<Pipeline>, bind_group: wgpu::BindGroup, params_offset: u32, groups: [u32; 2] },
    Copy { from: wgpu::Buffer, from_offset: u64, to: wgpu::Buffer, to_offset: u64, bytes: u64 },
    Zero { buffer: wgpu::Buffer, offset: u64, bytes: u64 },
}

impl Command {
    fn is_dispatch(&self) -> bool {
        matches!(self, Self::Dispatch { .. })
    }
}

/// The commands of one submit, and the parameters of its dispatches.
#[derive(Default)]
pub(super) struct Segment {
    commands: Vec<Command>,
    params: Vec<u8>,
    cost: f64,
}

/// A command to be recorded.
pub(super) struct Request<'a> {
    pub command: Command,
    pub params: &'a [u8],
    pub cost: f64,
}

/// About what the driver and `wgpu` keep of one command until it has run.
const BYTES_OF_COMMAND: u64 = 1 << 10;

impl Segment {
    pub(super) fn params(&self) -> &[u8] {
        &self.params
    }

    /// Host memory that it holds until it has run.
    pub(super) fn bytes(&self) -> u64 {
        self.params.len() as u64 + self.commands.len() as u64 * BYTES_OF_COMMAND
    }

    pub(super) fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    pub(super) fn n_dispatches(&self) -> usize {
        self.commands.iter().filter(|command| command.is_dispatch()).count()
    }

    /// Where the next parameters begin.
    fn params_offset(&self, gpu: &Gpu) -> usize {
        self.params.len().next_multiple_of(gpu.limits.min_uniform_buffer_offset_alignment as usize)
    }

    /// Whether one submit may take another command.
    pub(super) fn has_room(&self, gpu: &Gpu, request: &Request<'_>) -> bool {
        let end = self.params_offset(gpu) + request.params.len();
        let fits = end as u64 + MAX_PARAMS <= PARAMS_BUFFER;
        fits && (self.cost == 0.0 || self.cost + request.cost <= gpu.capabilities.submit_budget)
    }

    pub(super) fn push(&mut self, gpu: &Gpu, request: Request<'_>) {
        let Request { mut command, params, cost } = request;
        if let Command::Dispatch { params_offset, .. } = &mut command {
            let offset = self.params_offset(gpu);
            self.params.resize(offset, 0);
            self.params.extend_from_slice(params);
            *params_offset = offset as u32;
        }
        self.cost += cost;
        self.commands.push(command);
    }

    pub(super) fn encode(&self, encoder: &mut wgpu::CommandEncoder, params: &wgpu::BindGroup) {
        for run in self.commands.chunk_by(|a, b| a.is_dispatch() && b.is_dispatch()) {
            match &run[0] {
                Command::Dispatch { .. } => {
                    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                    for command in run {
                        let Command::Dispatch { pipeline, bind_group, params_offset, groups } = command else {
                            continue;
                        };
                        pass.set_pipeline(&pipeline.raw);
                        pass.set_bind_group(0, bind_group, &[]);
                        pass.set_bind_group(1, params, &[*params_offset]);
                        pass.dispatch_workgroups(groups[0], groups[1], 1);
                    }
                }
                Command::Copy { from, from_offset, to, to_offset, bytes } => {
                    encoder.copy_buffer_to_buffer(from, *from_offset, to, *to_offset, *bytes);
                }
                Command::Zero { buffer, offset, bytes } => encoder.clear_buffer(buffer, *offset, Some(*bytes)),
            }
        }
    }
}

impl Gpu {
    /// Records a dispatch.
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
        let groups = [width as u32, n_groups.div_ceil(width) as u32];
        let command = Command::Dispatch { pipeline: pipeline.clone(), bind_group, params_offset: 0, groups };
        let operands = pipeline.bindings.iter().zip(buffers);
        let operands = operands.map(|(&(_, is_written), view)| (view.buffer, is_written));
        self.append(Request { command, params, cost }, operands)
    }

    /// Records a copy of `len` numbers from one buffer to another, bit for bit.
    pub(crate) fn copy(&self, from: &Buffer, first: usize, to: &Buffer, to_first: usize, len: usize) -> Result<()> {
        from.check_copied("a copy on the device")?;
        check_range(from, first, len)?;
        check_range(to, to_first, len)?;
        if len == 0 {
            return Ok(());
        }
        let [from_offset, to_offset, bytes] = [first, to_first, len].map(|n| n as u64 * 4);
        let command = Command::Copy { from: from.raw().clone(), from_offset, to: to.raw().clone(), to_offset, bytes };
        let request = Request { command, params: &[], cost: len as f64 };
        self.append(request, [(from, false), (to, true)].into_iter())
    }

    /// Records zeros for `len` numbers of a buffer.
    pub(crate) fn zero(&self, buffer: &Buffer, first: usize, len: usize) -> Result<()> {
        check_range(buffer, first, len)?;
        if len == 0 {
            return Ok(());
        }
        let [offset, bytes] = [first, len].map(|n| n as u64 * 4);
        let command = Command::Zero { buffer: buffer.raw().clone(), offset, bytes };
        let request = Request { command, params: &[], cost: len as f64 };
        self.append(request, [(buffer, true)].into_iter())
    }
}

/// A command that leaves its buffer would invalidate all that is submitted with it.
fn check_range(buffer: &Buffer, first: usize, len: usize) -> Result<()> {
    let (requested, allowed) = ((first + len) as u64, buffer.len() as u64);
    if requested <= allowed {
        return Ok(());
    }
    Err(Error::LimitExceeded { limit: "numbers of a buffer that is copied or zeroed", requested, allowed })
}
