//! What the texts of `shaders/attention_memory{,_chunk,_state,_read}.wgsl` depend on.

use serde::Serialize;

use super::plan::CHUNK;

/// Threads of a workgroup that goes step by step, each with a row of the memory.
pub(super) const STEP_THREADS: usize = 64;

/// Vectors of keys in its workgroup memory at a time.
pub(super) const STAGED: usize = 256;

/// Threads along each side of a workgroup that makes a chunk, or reads one: each 4 x 4 numbers.
pub(super) const SIDE: usize = CHUNK / 4;

/// Threads that carry memories from chunk to chunk.
pub(super) const STATE_THREADS: usize = 256;

/// Rows of a memory that a workgroup carries, at most, and the numbers of them that it keeps.
pub(super) const STATE_ROWS: usize = 16;
pub(super) const STATE_LEN: usize = 2048;

#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct StepConstants {
    pub has_query: bool,
    pub has_read: bool,
    pub has_write: bool,
    pub has_erase: bool,
    pub has_decay: bool,
    pub threads: usize,
    /// Of four numbers, in a row of the memory.
    pub vectors: usize,
    /// In workgroup memory at a time.
    pub steps: usize,
}

impl StepConstants {
    pub fn new(head_dim: usize, [has_query, has_read, has_write, has_erase, has_decay]: [bool; 5]) -> Self {
        let vectors = head_dim.div_ceil(4);
        let steps = (STAGED / vectors).clamp(1, CHUNK);
        let has_read = has_read && has_query;
        Self { has_query, has_read, has_write, has_erase, has_decay, threads: STEP_THREADS, vectors, steps }
    }
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct ChunkConstants {
    pub has_write: bool,
    pub has_erase: bool,
    /// With erasing alone.
    pub has_decay: bool,
    pub side: usize,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct StateConstants {
    pub has_erase: bool,
    pub has_decay: bool,
    pub has_states: bool,
    pub threads: usize,
    pub chunk: usize,
    /// Of the memory, in a workgroup.
    pub rows: usize,
    /// A power of two that head_dim fits.
    pub head_dim: usize,
}

impl StateConstants {
    pub fn new(head_dim: usize, [has_erase, has_decay, has_states]: [bool; 3]) -> Self {
        let head_dim = head_dim.next_power_of_two().max(32);
        let rows = (STATE_LEN / head_dim).clamp(1, STATE_ROWS);
        Self { has_erase, has_decay, has_states, threads: STATE_THREADS, chunk: CHUNK, rows, head_dim }
    }
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct ReadConstants {
    pub has_read: bool,
    pub is_chunked: bool,
    pub has_decay: bool,
    pub side: usize,
}
