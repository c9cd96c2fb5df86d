//! What runs on the device: dispatches, copies, zeros.

use std::sync::Arc;

use super::{buffer::View, pipeline::Pipeline};

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
    /// Where it says when its first pass began and when its last one ended, for those who measure.
    pub stamps: Option<Stamps>,
}

/// Two places in a set of time stamps.
#[cfg_attr(target_arch = "wasm32", allow(dead_code))]
pub(super) struct Stamps {
    pub set: wgpu::QuerySet,
    pub first: u32,
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
    fn params_offset(&self, limits: &wgpu::Limits) -> usize {
        self.params.len().next_multiple_of(limits.min_uniform_buffer_offset_alignment as usize)
    }

    /// Whether one submit of this budget may take another command.
    pub(super) fn has_room(&self, limits: &wgpu::Limits, budget: f64, request: &Request<'_>) -> bool {
        let end = self.params_offset(limits) + request.params.len();
        let fits = end as u64 + MAX_PARAMS <= PARAMS_BUFFER;
        fits && (self.cost == 0.0 || self.cost + request.cost <= budget)
    }

    pub(super) fn push(&mut self, limits: &wgpu::Limits, request: Request<'_>) {
        let Request { mut command, params, cost } = request;
        if let Command::Dispatch { params_offset, .. } = &mut command {
            let offset = self.params_offset(limits);
            self.params.resize(offset, 0);
            self.params.extend_from_slice(params);
            *params_offset = offset as u32;
        }
        self.cost += cost;
        self.commands.push(command);
    }

    /// Dispatches that follow each other make a pass.
    fn passes(&self) -> impl Iterator<Item = &[Command]> {
        self.commands.chunk_by(|a, b| a.is_dispatch() && b.is_dispatch())
    }

    pub(super) fn encode(&self, encoder: &mut wgpu::CommandEncoder, params: &wgpu::BindGroup) {
        let n_passes = self.passes().filter(|run| run[0].is_dispatch()).count();
        let mut pass_index = 0;
        for run in self.passes() {
            match &run[0] {
                Command::Dispatch { .. } => {
                    let (is_first, is_last) = (pass_index == 0, pass_index + 1 == n_passes);
                    pass_index += 1;
                    let stamps = self.stamps.as_ref().filter(|_| is_first || is_last);
                    let timestamp_writes = stamps.map(|Stamps { set, first }| wgpu::ComputePassTimestampWrites {
                        query_set: set,
                        beginning_of_pass_write_index: is_first.then_some(*first),
                        end_of_pass_write_index: is_last.then_some(first + 1),
                    });
                    let descriptor = wgpu::ComputePassDescriptor { label: None, timestamp_writes };
                    let mut pass = encoder.begin_compute_pass(&descriptor);
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
