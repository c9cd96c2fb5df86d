//! How long recorded work takes, by the device's own clock.

use std::time::Duration;

use super::{
    commands::{Segment, Stamps},
    lock::lock,
    open::Gpu,
};
use crate::error::{Error, Result};

impl Gpu {
    /// Gives every segment a pair of time stamps: one set for all. None where the device has no
    /// clock, or the set would be too large.
    pub(super) fn stamp(&self, segments: &mut [Segment]) -> Result<Option<wgpu::QuerySet>> {
        let count = 2 * segments.len() as u32;
        if !self.capabilities.timestamps || count == 0 || count > wgpu::QUERY_SET_MAX_QUERIES {
            return Ok(None);
        }
        let set = self.guarded("time stamps", || {
            let ty = wgpu::QueryType::Timestamp;
            self.device.create_query_set(&wgpu::QuerySetDescriptor { label: Some("time stamps"), ty, count })
        })?;
        for (i, segment) in segments.iter_mut().enumerate() {
            segment.stamps = Some(Stamps { set: set.clone(), first: 2 * i as u32 });
        }
        Ok(Some(set))
    }

    /// What the stamps of all segments, which have been submitted, say together.
    pub(super) fn stamped(&self, set: &wgpu::QuerySet, n_segments: usize) -> Result<Duration> {
        let bytes = 16 * n_segments as u64;
        let [resolved, staging] = [
            wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
            wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        ]
        .map(|usage| {
            let label = Some("time stamps");
            self.create_buffer(&wgpu::BufferDescriptor { label, size: bytes, usage, mapped_at_creation: false })
        });
        let (resolved, staging) = (resolved?, staging?);
        let index = {
            let _own = lock(&self.own);
            self.guarded("time stamps", || {
                let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
                encoder.resolve_query_set(set, 0..2 * n_segments as u32, &resolved, 0);
                encoder.copy_buffer_to_buffer(&resolved, 0, &staging, 0, bytes);
                let index = self.queue.submit([encoder.finish()]);
                staging.slice(..).map_async(wgpu::MapMode::Read, |_| ());
                index
            })?
        };
        self.wait_for(Some(index))?;
        let unread =
            |error: wgpu::MapRangeError| Error::Validation { what: "time stamps".into(), message: error.to_string() };
        let view = staging.slice(..).get_mapped_range().map_err(unread)?;
        let ticks: Vec<u64> = view.as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word)).collect();
        let total: u64 = ticks.chunks_exact(2).map(|pair| pair[1].saturating_sub(pair[0])).sum();
        Ok(Duration::from_secs_f64(total as f64 * f64::from(self.queue.get_timestamp_period()) * 1e-9))
    }
}
