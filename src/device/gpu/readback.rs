//! Results back to the host, blocking or not.

use std::sync::Arc;

use futures_channel::oneshot;

use super::{Buffer, Gpu};
use crate::error::{Error, Result};

/// A copy to the host that is under way.
pub(crate) struct PendingRead {
    gpu: Arc<Gpu>,
    staging: wgpu::Buffer,
    len: usize,
    #[cfg_attr(target_arch = "wasm32", expect(dead_code, reason = "the browser polls by itself"))]
    submission: wgpu::SubmissionIndex,
    mapped: oneshot::Receiver<std::result::Result<(), wgpu::BufferAsyncError>>,
}

impl Gpu {
    /// Runs what is recorded and starts to copy the first `len` numbers of a buffer.
    pub(crate) fn start_read(self: &Arc<Self>, buffer: &Buffer, len: usize) -> Result<PendingRead> {
        let bytes = len as u64 * 4;
        let staging = self.guarded("a readback buffer", || {
            self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("readback"),
                size: bytes.max(4),
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        })?;
        let submission = self.submit_with(|encoder| {
            if bytes > 0 {
                encoder.copy_buffer_to_buffer(buffer.raw(), 0, &staging, 0, bytes);
            }
        })?;
        let (sender, mapped) = oneshot::channel();
        self.guarded("a readback", || {
            staging.slice(..).map_async(wgpu::MapMode::Read, move |result| {
                // The reader may have been dropped; then nobody waits for this.
                let _ = sender.send(result);
            });
        })?;
        Ok(PendingRead { gpu: self.clone(), staging, len, submission, mapped })
    }

    /// Copies numbers to the host, waiting for them.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn read(self: &Arc<Self>, buffer: &Buffer, len: usize) -> Result<Vec<f32>> {
        self.start_read(buffer, len)?.finish()
    }
}

impl PendingRead {
    /// Waits for the numbers.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn finish(self) -> Result<Vec<f32>> {
        self.gpu.wait_for(Some(self.submission.clone()))?;
        pollster::block_on(self.collect())
    }

    /// The numbers, when they are there.
    pub(crate) async fn finish_async(self) -> Result<Vec<f32>> {
        // Outside a browser nothing moves unless somebody polls the device, and the caller's
        // executor does not know how.
        #[cfg(not(target_arch = "wasm32"))]
        {
            let (gpu, submission) = (self.gpu.clone(), self.submission.clone());
            let (sender, waited) = oneshot::channel();
            std::thread::spawn(move || {
                // The reader may have been dropped; then nobody waits for this.
                let _ = sender.send(gpu.wait_for(Some(submission)));
            });
            waited.await.map_err(|_| Error::DeviceLost { message: "the wait was given up".into() })??;
        }
        self.collect().await
    }

    async fn collect(self) -> Result<Vec<f32>> {
        let lost = |message: String| Error::DeviceLost { message };
        let mapped = self.mapped.await.map_err(|_| lost("the readback was dropped".into()))?;
        self.gpu.check_alive()?;
        mapped.map_err(|error| lost(error.to_string()))?;
        let view = self.staging.slice(..).get_mapped_range().map_err(|error| lost(error.to_string()))?;
        let mut numbers: Vec<f32> = bytemuck::pod_collect_to_vec(&view[..]);
        numbers.truncate(self.len);
        drop(view);
        self.staging.unmap();
        Ok(numbers)
    }
}
