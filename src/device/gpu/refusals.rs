//! What a device has to say against a call: at once, or in a browser later.

use super::{
    lock::lock,
    open::{Gpu, LateError},
};
use crate::error::{Error, Result};

/// Calls after which one looks what the browser has said by now.
#[cfg(target_arch = "wasm32")]
const MANY: usize = 256;

impl Gpu {
    /// Runs `make` and returns what the device has to say against it. A browser says that later: there
    /// it is an error of whoever waits for the device next.
    pub(super) fn guarded<T>(&self, what: &str, make: impl FnOnce() -> T) -> Result<T> {
        let filters = [wgpu::ErrorFilter::Internal, wgpu::ErrorFilter::OutOfMemory, wgpu::ErrorFilter::Validation];
        let scopes = filters.map(|filter| self.device.push_error_scope(filter));
        let made = make();
        let verdicts = scopes.into_iter().rev().map(wgpu::ErrorScopeGuard::pop);
        self.hear(what, verdicts)?;
        Ok(made)
    }

    /// [`Gpu::guarded`] of what is made for every kernel that is launched. A browser would take longer
    /// to say nothing of each than to run them: there the submit hears of it, which is refused as well.
    pub(super) fn guarded_often<T>(&self, what: &str, make: impl FnOnce() -> T) -> Result<T> {
        if cfg!(target_arch = "wasm32") { Ok(make()) } else { self.guarded(what, make) }
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn hear(&self, what: &str, verdicts: impl Iterator<Item: Future<Output = Option<wgpu::Error>>>) -> Result<()> {
        // Never waits: outside a browser a scope knows at once what came to it.
        let found = verdicts.fold(None, |found: Option<wgpu::Error>, verdict| found.or(pollster::block_on(verdict)));
        self.check_alive()?;
        found.map_or(Ok(()), |error| Err(LateError::of(what, error).into_error()))
    }

    #[cfg(target_arch = "wasm32")]
    fn hear(
        &self,
        what: &str,
        verdicts: impl Iterator<Item: Future<Output = Option<wgpu::Error>> + 'static>,
    ) -> Result<()> {
        use futures_util::FutureExt as _;
        let (what, late, verdicts) = (what.to_owned(), self.late_error.clone(), verdicts.collect::<Vec<_>>());
        let verdict = async move {
            let mut found = None;
            for verdict in verdicts {
                found = found.or(verdict.await);
            }
            let found = LateError::of(&what, found?);
            // For the next call, if the one who waits for this gives up.
            lock(&late).get_or_insert(found.clone());
            Some(found)
        };
        let mut verdicts = lock(&self.verdicts);
        verdicts.push(verdict.boxed_local().shared());
        // A program that never waits, and only draws what it computes, hears of them by its next call.
        if verdicts.len().is_multiple_of(MANY) {
            verdicts.retain(|verdict| verdict.clone().now_or_never().is_none());
        }
        drop(verdicts);
        self.check_alive()
    }

    /// Waits for what the browser has to say of all calls so far.
    #[cfg(target_arch = "wasm32")]
    pub(super) async fn heard(&self) -> Result<()> {
        let all = lock(&self.verdicts).clone();
        let mut found = None;
        for verdict in all {
            found = found.or(verdict.await);
        }
        lock(&self.verdicts).retain(|verdict| verdict.peek().is_none());
        let Some(found) = found else { return self.check_alive() };
        // A snippet may be the reason: compiled again, it is refused with the compiler's words again.
        lock(&self.pipelines).forget_snippets();
        lock(&self.late_error).take_if(|late| !matches!(late, LateError::Lost(_)));
        Err(found.into_error())
    }

    /// Whether a device of the application's is gone, whose own callback hears of that. What comes
    /// of a lost device is no error, so one that must come is provoked.
    fn is_gone(&self) -> bool {
        // A browser tells everybody who asked to hear of it.
        if !self.is_shared || cfg!(target_arch = "wasm32") {
            return false;
        }
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let usage = wgpu::BufferUsages::empty();
        let refused = wgpu::BufferDescriptor { label: None, size: 4, usage, mapped_at_creation: false };
        drop(self.device.create_buffer(&refused));
        pollster::block_on(scope.pop()).is_none()
    }

    /// Returns an error that came after the call that caused it.
    pub(super) fn check_alive(&self) -> Result<()> {
        let mut late = lock(&self.late_error);
        if late.is_none() && self.is_gone() {
            *late = Some(LateError::Lost("the application destroyed it, or its driver stopped".into()));
        }
        match &*late {
            None => Ok(()),
            // For good.
            Some(LateError::Lost(message)) => Err(Error::DeviceLost { message: message.clone() }),
            Some(_) => late.take().map_or(Ok(()), |late| Err(late.into_error())),
        }
    }
}
