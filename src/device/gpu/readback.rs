//! Results back to the host, blocking or not.

use std::sync::Arc;

use futures_channel::oneshot;

use super::{buffer::Buffer, open::Gpu};
use crate::{
    error::{Error, Result},
    host::zeros,
};

/// A copy to the host that is under way.
pub(crate) struct Download {
    gpu: Arc<Gpu>,
    staging: wgpu::Buffer,
    len: usize,
    #[cfg_attr(target_arch = "wasm32", expect(dead_code, reason = "the browser polls by itself"))]
    submission: wgpu::SubmissionIndex,
    mapped: oneshot::Receiver<std::result::Result<(), wgpu::BufferAsyncError>>,
}

impl Gpu {
    /// Runs what is recorded and starts to copy the first `len` numbers of a buffer.
    pub(crate) fn download(self: &Arc<Self>, buffer: &Buffer, len: usize) -> Result<Download> {
        let bytes = len as u64 * 4;
        let staging = self.create_buffer(&wgpu::BufferDescriptor {
            label: Some("readback"),
            size: bytes.max(4),
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })?;
        let submission = self.submit_and_copy(buffer, &staging, bytes)?;
        let (sender, mapped) = oneshot::channel();
        self.guarded("a readback", || {
            staging.slice(..).map_async(wgpu::MapMode::Read, move |result| {
                // The reader may have been dropped; then nobody waits for this.
                let _ = sender.send(result);
            });
        })?;
        Ok(Download { gpu: self.clone(), staging, len, submission, mapped })
    }
}

impl Download {
    /// Waits for the numbers.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn wait(self) -> Result<Vec<f32>> {
        self.gpu.wait_for(Some(self.submission.clone()))?;
        pollster::block_on(self.collect())
    }

    /// The numbers, when they are there.
    pub(crate) async fn arrive(self) -> Result<Vec<f32>> {
        #[cfg(not(target_arch = "wasm32"))]
        self.gpu.await_for(Some(self.submission.clone())).await?;
        self.collect().await
    }

    async fn collect(self) -> Result<Vec<f32>> {
        let lost = |message: String| Error::DeviceLost { message };
        let mapped = self.mapped.await.map_err(|_| lost("the readback was dropped".into()))?;
        #[cfg(target_arch = "wasm32")]
        self.gpu.heard().await?;
        self.gpu.check_alive()?;
        mapped.map_err(|error| lost(error.to_string()))?;
        let view = self.staging.slice(..).get_mapped_range().map_err(|error| lost(error.to_string()))?;
        let mut numbers = zeros(&[self.len])?;
        bytemuck::cast_slice_mut(&mut numbers).copy_from_slice(&view[..4 * self.len]);
        drop(view);
        self.staging.unmap();
        Ok(numbers)
    }
}
