//! What stands between a buffer and its numbers: the recording that will compute them.

use std::{collections::HashMap, sync::Mutex};

use super::lock::lock;
use crate::error::Error;

/// That what one recording computes will be there. Buffers that it writes point to it until it
/// is kept.
#[derive(Debug)]
pub(crate) struct Promise(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    state: State,
    /// Buffers that the recording allocated and freed, by size: it alone reuses them, since its
    /// commands may run after what is recorded later elsewhere. None where it has no buffers of
    /// its own, and when it has run.
    free: Option<HashMap<u64, Vec<wgpu::Buffer>>>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum State {
    /// In the device's own recording, which is submitted when somebody needs it.
    Pending,
    /// In a recording that a thread still adds to.
    Open,
    /// In a finished recording of the application's.
    Recorded,
    /// In an encoder of the application's.
    Encoded,
    /// Submitted: whatever is submitted from now on finds it computed.
    Kept,
    /// It will never be there, and why.
    Broken(String),
}

impl State {
    pub(super) fn refused(error: &Error) -> Self {
        Self::Broken(format!("its work was refused: {error}"))
    }
}

impl Promise {
    /// Of the device's own recording.
    pub(super) fn pending() -> Self {
        Self(Mutex::new(Inner { state: State::Pending, free: None }))
    }

    /// Of a recording with buffers of its own.
    pub(super) fn open() -> Self {
        Self(Mutex::new(Inner { state: State::Open, free: Some(HashMap::new()) }))
    }

    pub(super) fn state(&self) -> State {
        lock(&self.0).state.clone()
    }

    pub(super) fn is_kept(&self) -> bool {
        lock(&self.0).state == State::Kept
    }

    /// Goes on to a state in which it is still open whether the work runs.
    pub(super) fn set(&self, state: State) {
        lock(&self.0).state = state;
    }

    /// Says how it ended; returns the recording's buffers, for the pool.
    pub(super) fn settle(&self, state: State) -> impl Iterator<Item = wgpu::Buffer> + use<> {
        let mut inner = lock(&self.0);
        inner.state = state;
        inner.free.take().into_iter().flat_map(HashMap::into_values).flatten()
    }

    /// A buffer of this size that the recording has freed.
    pub(super) fn reuse(&self, size: u64) -> Option<wgpu::Buffer> {
        lock(&self.0).free.as_mut()?.get_mut(&size)?.pop()
    }

    /// Takes a buffer that the recording will reuse, or returns it.
    pub(super) fn free(&self, buffer: wgpu::Buffer) -> Option<wgpu::Buffer> {
        match &mut lock(&self.0).free {
            Some(free) => free.entry(buffer.size()).or_default().push(buffer),
            None => return Some(buffer),
        }
        None
    }

    /// Why nothing can be done with the numbers now.
    pub(super) fn unmet(&self) -> Error {
        let why = match self.state() {
            State::Pending | State::Kept => "its work is being submitted by another thread".to_owned(),
            State::Open => "it is being recorded; end the recording and submit it, or encode it, first".into(),
            State::Recorded => {
                "its recording waits; call Recording::submit, or Recording::encode_into and submit the encoder, first"
                    .into()
            }
            State::Encoded => {
                "it is computed by a command encoder that the application has not submitted; submit that first".into()
            }
            State::Broken(why) => why,
        };
        Error::NotComputed { why }
    }
}
