//! The device's own recording, and what the device is busy with.

use std::{collections::VecDeque, sync::Arc};

use super::{commands::Segment, promise::Promise};

/// The device's own recording, and what was submitted.
pub(super) struct Own {
    pub segment: Segment,
    /// Of what the segment computes.
    pub promise: Arc<Promise>,
    /// The parameters of the submit before, on the device.
    pub params_buffer: Option<(wgpu::Buffer, wgpu::BindGroup)>,
    pub in_flight: InFlight,
}

impl Default for Own {
    fn default() -> Self {
        let promise = Arc::new(Promise::pending());
        Self { segment: Segment::default(), promise, params_buffer: None, in_flight: InFlight::default() }
    }
}

impl Own {
    /// What is recorded; begins anew.
    pub fn take(&mut self) -> (Segment, Arc<Promise>) {
        let promise = std::mem::replace(&mut self.promise, Arc::new(Promise::pending()));
        (std::mem::take(&mut self.segment), promise)
    }
}

/// Host memory that submitted work may hold until it has run. Large enough that code which awaits
/// its results never comes near it: only a program that records or uploads on and on, without
/// asking for anything, is made to wait.
const MAX_IN_FLIGHT: u64 = 256 << 20;

/// What was submitted and may not have run.
#[derive(Default)]
pub(super) struct InFlight {
    submits: VecDeque<(wgpu::SubmissionIndex, u64)>,
    bytes: u64,
}

impl InFlight {
    pub(super) fn push(&mut self, index: wgpu::SubmissionIndex, bytes: u64) {
        self.submits.push_back((index, bytes));
        self.bytes += bytes;
    }

    /// Everything has run.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The oldest submit, if all of them hold too much.
    pub fn excess(&mut self) -> Option<wgpu::SubmissionIndex> {
        if self.bytes <= MAX_IN_FLIGHT || self.submits.len() < 2 {
            return None;
        }
        let (index, bytes) = self.submits.pop_front()?;
        self.bytes -= bytes;
        Some(index)
    }
}
