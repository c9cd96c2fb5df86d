//! Records what runs on the device: dispatches, copies, zeros.

use super::{
    buffer::Buffer,
    commands::{Command, Dispatch, MAX_PARAMS, Request},
    open::Gpu,
};
use crate::error::{Result, check_limit};

impl Gpu {
    /// Records a dispatch.
    pub(crate) fn dispatch(&self, dispatch: &Dispatch<'_>) -> Result<()> {
        let Dispatch { pipeline, buffers, params, n_groups, cost } = *dispatch;
        if n_groups == 0 {
            return Ok(());
        }
        let per_dimension = u64::from(self.limits.max_compute_workgroups_per_dimension);
        check_limit("parameters of one kernel in bytes", params.len() as u64, MAX_PARAMS)?;
        check_limit("workgroups of one kernel", n_groups, per_dimension * per_dimension)?;
        for view in buffers {
            check_limit("bytes in one binding", view.size, self.capabilities.max_binding)?;
        }
        let entries: Vec<wgpu::BindGroupEntry<'_>> = pipeline
            .bindings
            .iter()
            .zip(buffers)
            .map(|(&(binding, _), view)| wgpu::BindGroupEntry {
                binding,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: view.buffer.raw(),
                    offset: view.offset,
                    size: std::num::NonZeroU64::new(view.size),
                }),
            })
            .collect();
        let bind_group = self.guarded_often("a bind group", || {
            self.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(pipeline.name),
                layout: &pipeline.buffers_layout,
                entries: &entries,
            })
        })?;
        // Rows alike in length, so that few groups have nothing to do.
        let rows = n_groups.div_ceil(per_dimension);
        let groups = [n_groups.div_ceil(rows) as u32, rows as u32];
        let command = Command::Dispatch { pipeline: pipeline.clone(), bind_group, params_offset: 0, groups };
        let operands = pipeline.bindings.iter().zip(buffers);
        let operands = operands.map(|(&(_, is_written), view)| (view.buffer, is_written));
        self.append(Request { command, params, cost }, operands)
    }

    /// Records a copy of `len` numbers from one buffer to another, bit for bit.
    pub(crate) fn copy(&self, from: &Buffer, first: usize, to: &Buffer, to_first: usize, len: usize) -> Result<()> {
        self.check_alive()?;
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
        self.check_alive()?;
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
    check_limit("numbers of a buffer that is copied or zeroed", (first + len) as u64, buffer.len() as u64)
}
