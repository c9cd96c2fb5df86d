//! Buffers without their device, and the pool that they return to.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use super::{
    lock::lock,
    promise::{Promise, State},
};
use crate::{
    device::Memory,
    error::{Result, check_argument},
};

/// Freed buffers by size, and the counts.
#[derive(Debug, Default)]
pub(crate) struct Pool(Mutex<PoolState>);

#[derive(Debug, Default)]
struct PoolState {
    free: HashMap<u64, Vec<Freed>>,
    memory: Memory,
    /// Buffers of an earlier generation may be in use by an encoder that the application
    /// has not submitted yet, so they are dropped instead of reused.
    generation: u64,
    /// The number of the device's own recording, which changes when that is submitted.
    recording: u64,
}

#[derive(Debug)]
struct Freed {
    raw: wgpu::Buffer,
    /// The device's own recording that may use it; none if all commands that do are submitted.
    used_by: Option<u64>,
}

impl Pool {
    /// A buffer of this size and its generation; if it must be idle, one that no recorded command
    /// uses.
    pub(super) fn reuse(&self, size: u64, idle: bool) -> Option<(wgpu::Buffer, u64)> {
        let mut state = lock(&self.0);
        let recording = state.recording;
        let free = state.free.get_mut(&size)?;
        let is_idle = |freed: &Freed| freed.used_by.is_none_or(|number| number < recording);
        let index = if idle { free.iter().position(is_idle)? } else { free.len().checked_sub(1)? };
        let raw = free.remove(index).raw;
        state.memory.pooled -= size;
        state.memory.in_use += size;
        Some((raw, state.generation))
    }

    /// A buffer that a recording of the application's freed.
    pub(super) fn reuse_within(&self, recording: &Promise, size: u64) -> Option<(wgpu::Buffer, u64)> {
        let raw = recording.reuse(size)?;
        let mut state = lock(&self.0);
        state.memory.pooled -= size;
        state.memory.in_use += size;
        Some((raw, state.generation))
    }

    pub(super) fn holds(&self, size: u64) -> bool {
        lock(&self.0).free.get(&size).is_some_and(|free| !free.is_empty())
    }

    /// Counts a new buffer of this size; returns its generation.
    pub(super) fn add_new(&self, size: u64) -> u64 {
        let mut state = lock(&self.0);
        state.memory.in_use += size;
        state.memory.peak = state.memory.peak.max(state.memory.in_use + state.memory.pooled);
        state.generation
    }

    /// Says how a recording ended. Its buffers, which are counted as pooled already, are anyone's
    /// from now on.
    pub(super) fn settle(&self, promise: &Promise, end: State) {
        let free = promise.settle(end);
        let mut state = lock(&self.0);
        for raw in free {
            state.free.entry(raw.size()).or_default().push(Freed { raw, used_by: None });
        }
    }

    /// The device's own recording is submitted, or was empty.
    pub(super) fn next_recording(&self) {
        lock(&self.0).recording += 1;
    }

    pub(super) fn memory(&self) -> Memory {
        lock(&self.0).memory
    }

    /// Gives what is free back to the driver.
    pub(super) fn clear(&self) {
        lock(&self.0).clear();
    }

    /// Lets no buffer that exists now be reused.
    pub(super) fn retire(&self) {
        let mut state = lock(&self.0);
        state.clear();
        state.generation += 1;
    }
}

impl PoolState {
    fn clear(&mut self) {
        self.memory.pooled -= self.free.drain().map(|(size, free)| size * free.len() as u64).sum::<u64>();
    }
}

/// Device memory of one tensor, shared by its clones. Returns to the pool when the last is
/// dropped: work recorded later runs later, so it may overwrite it.
#[derive(Clone, Debug)]
pub(crate) struct Buffer(Arc<Block>);

#[derive(Debug)]
struct Block {
    raw: wgpu::Buffer,
    /// Numbers that were asked for; the buffer may be longer.
    len: usize,
    /// Where it goes when dropped; none for a buffer of the application's.
    pool: Option<(Arc<Pool>, u64)>,
    /// The recording that computes it, until that is submitted.
    promise: Mutex<Option<Arc<Promise>>>,
    /// The device's own recording in which it was taken from the pool: earlier commands of that may use it.
    reused_in: Option<Arc<Promise>>,
}

/// A part of a buffer, in bytes; the offset is aligned as bindings must be.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub buffer: &'a Buffer,
    pub offset: u64,
    pub size: u64,
}

/// How a buffer stands to a recording.
pub(super) enum Standing {
    /// The recording computes it.
    Ours,
    /// It is there.
    Ready,
    /// Another recording computes it.
    Theirs(Arc<Promise>),
}

impl Buffer {
    pub(crate) fn raw(&self) -> &wgpu::Buffer {
        &self.0.raw
    }

    /// A buffer of the application's.
    pub(crate) fn borrowed(raw: wgpu::Buffer, len: usize) -> Self {
        Self::new(raw, len, None, None)
    }

    /// For `len` numbers; of a pool and its generation, and promised by a recording, if so.
    pub(super) fn new(
        raw: wgpu::Buffer,
        len: usize,
        pool: Option<(Arc<Pool>, u64)>,
        promise: Option<Arc<Promise>>,
    ) -> Self {
        Self(Arc::new(Block { raw, len, pool, promise: Mutex::new(promise), reused_in: None }))
    }

    /// The same of a buffer that nobody shares yet, taken from the pool while this is the device's own recording.
    pub(super) fn reused_in(mut self, recording: Arc<Promise>) -> Self {
        if let Some(block) = Arc::get_mut(&mut self.0) {
            block.reused_in = Some(recording);
        }
        self
    }

    /// The recording that has gone into an encoder of the application's since then: what is written now may be
    /// overwritten whenever that runs.
    pub(super) fn encoded_since(&self) -> Option<&Arc<Promise>> {
        self.0.reused_in.as_ref().filter(|recording| recording.state() == State::Encoded)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len
    }

    /// The part that holds elements `first..end`, and where the first one is in it. Bindings
    /// must begin at multiples of 256 bytes, so it may begin a little earlier.
    pub(crate) fn elements(&self, first: usize, end: usize) -> (View<'_>, u32) {
        let offset = first as u64 * 4 / 256 * 256;
        let size = (end as u64 * 4 - offset).max(4);
        (View { buffer: self, offset, size }, (first as u64 - offset / 4) as u32)
    }

    pub(super) fn standing(&self, recording: &Arc<Promise>) -> Standing {
        let mut promise = lock(&self.0.promise);
        match &*promise {
            None => Standing::Ready,
            Some(promise) if Arc::ptr_eq(promise, recording) => Standing::Ours,
            Some(other) if other.is_kept() => {
                *promise = None;
                Standing::Ready
            }
            Some(other) => Standing::Theirs(other.clone()),
        }
    }

    /// The recording that computes it, if it is not there yet.
    pub(super) fn promise(&self) -> Option<Arc<Promise>> {
        lock(&self.0.promise).clone().filter(|promise| !promise.is_kept())
    }

    /// From now on it is this recording that computes it.
    pub(super) fn promised_by(&self, recording: &Arc<Promise>) {
        *lock(&self.0.promise) = Some(recording.clone());
    }

    /// Whether it may be copied from; a buffer of the application's need not.
    pub(super) fn check_copied(&self, what: &'static str) -> Result<()> {
        let usage = self.raw().usage();
        let is_allowed = usage.contains(wgpu::BufferUsages::COPY_SRC);
        let allowed = "one that contains COPY_SRC, given to Tensor::from_buffer";
        check_argument(is_allowed, what, "buffer usage", format_args!("{usage:?}"), allowed)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let Some((pool, generation)) = self.pool.take() else { return };
        let size = self.raw.size();
        let mut raw = Some(self.raw.clone());
        let promise = lock(&self.promise).take();
        // Held from before the buffer can be taken until it is counted.
        let mut state = lock(&pool.0);
        // A recording that has not run keeps its buffers to itself.
        if let Some(promise) = promise {
            raw = promise.free(self.raw.clone());
        }
        state.memory.in_use -= size;
        match raw {
            None => state.memory.pooled += size,
            Some(raw) if generation == state.generation => {
                state.memory.pooled += size;
                let used_by = Some(state.recording);
                state.free.entry(size).or_default().push(Freed { raw, used_by });
            }
            Some(_) => {}
        }
    }
}
