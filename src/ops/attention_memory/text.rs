//! What the texts of `shaders/attention_memory{,_chunk,_state,_read}.wgsl` depend on.

use serde::Serialize;

use super::plan::{CHUNK, Carried};

/// Threads of a workgroup that goes step by step, each with a row of the memory or a part of one.
const STEP_THREADS: usize = 64;

/// Vectors of keys in its workgroup memory at a time.
pub(super) const STAGED: usize = 256;

/// Threads of a workgroup that makes a chunk, or reads one, each 4 x 4 numbers.
pub(super) const THREADS: usize = CHUNK * CHUNK / 16;

#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct StepConstants {
    pub has_query: bool,
    pub has_read: bool,
    pub has_write: bool,
    pub has_erase: bool,
    pub has_decay: bool,
    pub threads: usize,
    /// Threads of a row.
    pub parts: usize,
    /// Of four numbers, that a thread has of it.
    pub vectors: usize,
    /// In workgroup memory at a time.
    pub steps: usize,
}

impl StepConstants {
    /// With so many numbers a thread at most.
    pub fn new(head_dim: usize, numbers: usize, has: [bool; 5]) -> Self {
        let [has_query, has_read, has_write, has_erase, has_decay] = has;
        // Threads of a row are neighbours in a workgroup.
        let parts = head_dim.div_ceil(numbers).next_power_of_two();
        let vectors = head_dim.div_ceil(4 * parts);
        let steps = (STAGED / (parts * vectors)).clamp(1, CHUNK);
        let has_read = has_read && has_query;
        Self { has_query, has_read, has_write, has_erase, has_decay, threads: STEP_THREADS, parts, vectors, steps }
    }

    /// Rows of a workgroup.
    pub fn rows(&self) -> usize {
        self.threads / self.parts
    }
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct ChunkConstants {
    pub has_write: bool,
    pub has_erase: bool,
    /// With erasing alone.
    pub has_decay: bool,
    pub vectors: bool,
    pub chunk: usize,
    pub threads: usize,
    /// Columns that a thread has at once.
    pub wide: usize,
}

impl ChunkConstants {
    /// For so many columns of values and keys.
    pub fn new(columns: usize, [has_write, has_erase, has_decay, vectors]: [bool; 4]) -> Self {
        // Without erasing there is one column at a time.
        let wide = if has_erase && columns > THREADS { 2 } else { 1 };
        let has_decay = has_decay && has_erase;
        Self { has_write, has_erase, has_decay, vectors, chunk: CHUNK, threads: THREADS, wide }
    }
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct StateConstants {
    #[serde(flatten)]
    pub carried: Carried,
    pub has_erase: bool,
    pub has_decay: bool,
    pub has_states: bool,
    pub vectors: bool,
    pub chunk: usize,
}

impl StateConstants {
    pub fn new(carried: Carried, [has_erase, has_decay, has_states, vectors]: [bool; 4]) -> Self {
        Self { carried, has_erase, has_decay, has_states, vectors, chunk: CHUNK }
    }
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct ReadConstants {
    pub has_read: bool,
    pub is_chunked: bool,
    pub has_decay: bool,
    pub vectors: bool,
    pub chunk: usize,
    pub threads: usize,
}

impl ReadConstants {
    pub fn new([has_read, is_chunked, has_decay, vectors]: [bool; 4]) -> Self {
        Self { has_read, is_chunked, has_decay, vectors, chunk: CHUNK, threads: THREADS }
    }
}
