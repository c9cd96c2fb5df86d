//! Waiting for submitted work: in place, or by one thread on behalf of all who await it.

#[cfg(not(target_arch = "wasm32"))]
use std::sync::mpsc;
use std::{panic::AssertUnwindSafe, sync::Arc};

use futures_channel::oneshot;

#[cfg(not(target_arch = "wasm32"))]
use super::open::Wait;
use super::{lock::lock, open::Gpu};
use crate::error::{Error, Result};

impl Gpu {
    /// Makes a program wait that records much faster than the device works.
    pub(super) fn throttle(&self) -> Result<()> {
        loop {
            let oldest = lock(&self.own).in_flight.excess();
            match oldest {
                // Never in a browser, where nothing may block.
                Some(oldest) if cfg!(not(target_arch = "wasm32")) => self.wait_for(Some(oldest))?,
                Some(_) => {}
                None => return Ok(()),
            }
        }
    }

    /// Waits for a submit, or for all of them.
    pub(super) fn wait_for(&self, submission_index: Option<wgpu::SubmissionIndex>) -> Result<()> {
        let wait = wgpu::PollType::Wait { submission_index, timeout: None };
        // wgpu panics where the device is lost or out of memory while it waits.
        let poll = std::panic::catch_unwind(AssertUnwindSafe(|| self.device.poll(wait)));
        self.check_alive()?;
        let lost = |message: String| Error::DeviceLost { message };
        let poll = poll.map_err(|_| lost("it failed while work was under way".into()))?;
        if let wgpu::PollStatus::QueueEmpty = poll.map_err(|error| lost(error.to_string()))? {
            self.has_run();
        }
        Ok(())
    }

    /// Everything that was submitted has run.
    fn has_run(&self) {
        lock(&self.own).in_flight.clear();
    }

    /// [`Gpu::wait_for`] without blocking. Outside a browser nothing moves unless somebody polls
    /// the device, and the caller's executor does not know how.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) async fn await_for(self: &Arc<Self>, index: Option<wgpu::SubmissionIndex>) -> Result<()> {
        let (sender, waited) = oneshot::channel();
        self.waiter()?.send((index, sender)).map_err(|_| given_up())?;
        waited.await.map_err(|_| given_up())?
    }

    /// In a browser the work that was submitted so far tells by itself when it is done.
    #[cfg(target_arch = "wasm32")]
    async fn await_for(&self, _: Option<wgpu::SubmissionIndex>) -> Result<()> {
        let (sender, waited) = oneshot::channel();
        self.queue.on_submitted_work_done(move || {
            // Nobody may wait any more.
            let _ = sender.send(());
        });
        waited.await.map_err(|_| given_up())?;
        self.has_run();
        self.heard().await
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn waiter(self: &Arc<Self>) -> Result<mpsc::Sender<Wait>> {
        let mut waiter = lock(&self.waiter.0);
        if let Some(waiter) = &*waiter {
            return Ok(waiter.clone());
        }
        let (sender, waits) = mpsc::channel::<Wait>();
        // It must not keep the device: the channel closes when that goes.
        let gpu = Arc::downgrade(self);
        let run = move || {
            for (index, sender) in waits {
                let Some(gpu) = gpu.upgrade() else { return };
                if sender.is_canceled() {
                    continue;
                }
                let waited = gpu.wait_for(index);
                // The one who awaits holds it too, and drops it where a user expects that.
                drop(gpu);
                let _ = sender.send(waited);
            }
        };
        std::thread::Builder::new()
            .name(format!("attention {}", self.number))
            .spawn(run)
            .map_err(|cause| Error::Io { path: "a thread that waits for the device".into(), cause })?;
        Ok(waiter.insert(sender).clone())
    }

    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn wait(&self) -> Result<()> {
        self.submit()?;
        self.wait_for(None)
    }

    pub(crate) async fn wait_async(self: &Arc<Self>) -> Result<()> {
        self.submit()?;
        self.await_for(None).await
    }
}

fn given_up() -> Error {
    Error::DeviceLost { message: "the wait was given up".into() }
}
