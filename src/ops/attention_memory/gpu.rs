//! Launches `shaders/attention_memory{,_chunk,_state,_read}.wgsl`.

use std::{ops::Range, sync::Arc};

use serde::Serialize;

use super::{
    AttentionMemory, Form, Probabilities, Problem,
    select::{self, CHUNK, MAX_RECURRENT},
};
use crate::{
    device::gpu::{Access, Buffer, Dispatch, Gpu, Pipeline, Variant, View, shader},
    error::Result,
    ops::add::own_copy,
    tensor::Tensor,
};

/// Threads that carry memories from chunk to chunk.
const STATE_THREADS: usize = 256;

/// Rows of a memory that a workgroup carries, at most, and the numbers of them that it keeps.
const STATE_ROWS: usize = 16;
const STATE_LEN: usize = 2048;

/// Vectors of keys in workgroup memory at a time.
const STAGED: usize = 256;

/// The constants of `attention_memory.wgsl`.
#[derive(Clone, Copy, Debug, Serialize)]
struct RecurrentConstants {
    has_query: bool,
    has_read: bool,
    has_write: bool,
    has_erase: bool,
    /// Of four numbers, in a row of the memory.
    vectors: usize,
    /// In workgroup memory at a time.
    steps: usize,
}

impl RecurrentConstants {
    fn new(problem: &Problem, has_query: bool, options: &AttentionMemory<'_>) -> Self {
        let vectors = problem.head_dim.div_ceil(4);
        Self {
            has_query,
            has_read: has_query && options.p_read.is_some(),
            has_write: options.p_write.is_some(),
            has_erase: options.p_erase.is_some(),
            vectors,
            steps: (STAGED / vectors).clamp(1, CHUNK),
        }
    }
}

/// The constants of `attention_memory_chunk.wgsl`.
#[derive(Clone, Copy, Debug, Serialize)]
struct ChunkConstants {
    has_write: bool,
    has_erase: bool,
}

/// The constants of `attention_memory_state.wgsl`.
#[derive(Clone, Copy, Debug, Serialize)]
struct StateConstants {
    has_erase: bool,
    has_states: bool,
    threads: usize,
    /// Of the memory, in a workgroup.
    rows: usize,
    /// A power of two that head_dim fits.
    head_dim: usize,
}

impl StateConstants {
    fn new(head_dim: usize, has_erase: bool, has_states: bool) -> Self {
        let head_dim = head_dim.next_power_of_two().max(32);
        let rows = (STATE_LEN / head_dim).clamp(1, STATE_ROWS);
        Self { has_erase, has_states, threads: STATE_THREADS, rows, head_dim }
    }
}

/// The constants of `attention_memory_read.wgsl`.
#[derive(Clone, Copy, Debug, Serialize)]
struct ReadConstants {
    has_read: bool,
    is_chunked: bool,
}

/// The parameters of all four; `tiles` is the step past the last one where there are no tiles.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    n: u32,
    n_heads: u32,
    head_dim: u32,
    v_dim: u32,
    tiles_or_first: u32,
    first_or_end: u32,
    first_group: u32,
    n_groups: u32,
}

impl Params {
    fn new(problem: &Problem, tiles_or_first: usize, first_or_end: usize) -> Self {
        Self {
            n: problem.n as u32,
            n_heads: problem.n_heads as u32,
            head_dim: problem.head_dim as u32,
            v_dim: problem.v_dim as u32,
            tiles_or_first: tiles_or_first as u32,
            first_or_end: first_or_end as u32,
            first_group: 0,
            n_groups: 0,
        }
    }
}

/// The bindings that a text declares and the buffers for them.
#[derive(Default)]
struct Bound<'a> {
    bindings: Vec<(u32, Access)>,
    buffers: Vec<View<'a>>,
}

impl<'a> Bound<'a> {
    fn read(mut self, binding: u32, tensor: &'a Tensor) -> Self {
        self.bindings.push((binding, Access::Read));
        self.buffers.push(tensor.gpu().first(tensor.len()));
        self
    }

    fn read_some(self, binding: u32, p: Option<&'a Probabilities>) -> Self {
        match p {
            Some(p) => self.read(binding, p.tensor()),
            None => self,
        }
    }

    fn bind(mut self, binding: u32, access: Access, buffer: &'a Buffer, len: usize) -> Self {
        self.bindings.push((binding, access));
        self.buffers.push(buffer.first(len));
        self
    }
}

/// Launches all groups, in parts that no watchdog minds.
fn launch(
    gpu: &Gpu,
    pipeline: &Arc<Pipeline>,
    buffers: &[View<'_>],
    params: Params,
    n_groups: usize,
    cost_of_group: f64,
) -> Result<()> {
    for groups in gpu.row_pieces(n_groups, 1, cost_of_group) {
        let params = Params { first_group: groups.start as u32, n_groups: groups.len() as u32, ..params };
        gpu.dispatch(&Dispatch {
            pipeline,
            buffers,
            params: bytemuck::bytes_of(&params),
            n_groups: groups.len() as u64,
            cost: cost_of_group * groups.len() as f64,
        })?;
    }
    Ok(())
}

/// The pipeline for a name, its constants and what is bound.
fn pipeline(gpu: &Gpu, name: &'static str, constants: &impl Serialize, bound: &Bound<'_>) -> Result<Arc<Pipeline>> {
    gpu.pipeline(&Variant { name, constants, bindings: &bound.bindings, untrusted: None })
}

pub(super) fn read(
    gpu: &Arc<Gpu>,
    problem: &Problem,
    memory: &Tensor,
    q: &Tensor,
    p_read: Option<&Probabilities>,
    shape: Vec<usize>,
) -> Result<Tensor> {
    let len = q.len() / problem.head_dim * problem.v_dim;
    gpu.check_bindings(&[q.len(), len, memory.len()])?;
    let y = gpu.allocate(len)?;
    let bound = Bound::default().read(0, q).read(1, memory).read_some(2, p_read).bind(5, Access::Write, &y, len);
    let constants = ReadConstants { has_read: p_read.is_some(), is_chunked: false };
    let pipeline = pipeline(gpu, "attention_memory_read", &constants, &bound)?;
    let n_tiles = problem.n.div_ceil(CHUNK);
    let n_groups = problem.heads() * n_tiles * problem.v_dim.div_ceil(CHUNK);
    let cost = (2 * CHUNK * CHUNK * problem.head_dim) as f64;
    launch(gpu, &pipeline, &bound.buffers, Params::new(problem, n_tiles, 0), n_groups, cost)?;
    Ok(Tensor::from_gpu(shape, gpu, y))
}

/// What is read (nothing without queries) and the memory.
pub(super) fn run(
    gpu: &Arc<Gpu>,
    problem: &Problem,
    q: Option<&Tensor>,
    k: &Tensor,
    v: &Tensor,
    options: &AttentionMemory<'_>,
    shape: Vec<usize>,
) -> Result<(Tensor, Tensor)> {
    let plan = select::plan(problem, options.form, gpu.submit_budget(), gpu.max_iterations())?;
    let memory = own_copy(options.memory(), &problem.memory_shape(), &k.device())?;
    let len = if q.is_some() { v.len() } else { 0 };
    gpu.check_bindings(&[k.len(), v.len(), memory.len()])?;
    let y = gpu.allocate(len)?;
    let call = Call { gpu, problem, q, k, v, options, memory: &memory, y: &y };
    for piece in plan.pieces {
        match plan.form {
            Form::Recurrent => call.recurrent(piece)?,
            Form::Chunked => call.chunked(piece)?,
        }
    }
    Ok((Tensor::from_gpu(shape, gpu, y), memory))
}

struct Call<'a> {
    gpu: &'a Arc<Gpu>,
    problem: &'a Problem,
    q: Option<&'a Tensor>,
    k: &'a Tensor,
    v: &'a Tensor,
    options: &'a AttentionMemory<'a>,
    /// This call's own.
    memory: &'a Tensor,
    y: &'a Buffer,
}

impl Call<'_> {
    fn recurrent(&self, steps: Range<usize>) -> Result<()> {
        let Self { gpu, problem, options, .. } = *self;
        let constants = RecurrentConstants::new(problem, self.q.is_some(), options);
        let mut bound = Bound::default();
        if let Some(q) = self.q {
            bound = bound.read(0, q);
        }
        bound = bound.read(1, self.k).read(2, self.v);
        if constants.has_read {
            bound = bound.read_some(3, options.p_read);
        }
        bound = bound.read_some(4, options.p_write).read_some(5, options.p_erase);
        bound = bound.bind(6, Access::Write, self.memory.gpu(), self.memory.len());
        if self.q.is_some() {
            bound = bound.bind(7, Access::Write, self.y, self.v.len());
        }
        let pipeline = pipeline(gpu, "attention_memory", &constants, &bound)?;
        let n_groups = problem.heads() * problem.v_dim.div_ceil(64);
        let cost = select::cost_of_step(problem) * steps.len() as f64 / n_groups.max(1) as f64;
        launch(gpu, &pipeline, &bound.buffers, Params::new(problem, steps.start, steps.end), n_groups, cost)
    }

    fn chunked(&self, steps: Range<usize>) -> Result<()> {
        let Self { gpu, problem, options, .. } = *self;
        let Problem { head_dim, v_dim, .. } = *problem;
        let n_tiles = steps.len().div_ceil(CHUNK);
        let n_chunks = problem.heads() * n_tiles;
        let (has_erase, has_query) = (options.p_erase.is_some(), self.q.is_some());
        let params = Params::new(problem, n_tiles, steps.start);
        let u_len = n_chunks * CHUNK * v_dim;
        let w_len = if has_erase { n_chunks * CHUNK * head_dim } else { 0 };
        let states_len = if has_query { n_chunks * v_dim * head_dim } else { 0 };
        gpu.check_bindings(&[u_len, w_len, states_len])?;
        let (u, w, states) = (gpu.allocate(u_len)?, gpu.allocate(w_len)?, gpu.allocate(states_len)?);

        let mut bound = Bound::default();
        if has_erase {
            bound = bound.read(0, self.k);
        }
        bound = bound.read(1, self.v).read_some(2, options.p_write);
        if has_erase {
            bound = bound.read_some(3, options.p_erase).bind(4, Access::Write, &w, w_len);
        }
        bound = bound.bind(5, Access::Write, &u, u_len);
        let constants = ChunkConstants { has_write: options.p_write.is_some(), has_erase };
        let chunk = pipeline(gpu, "attention_memory_chunk", &constants, &bound)?;
        let cost = (CHUNK * CHUNK * (3 * head_dim + v_dim)) as f64;
        launch(gpu, &chunk, &bound.buffers, params, n_chunks, cost)?;

        let mut bound = Bound::default().read(0, self.k);
        if has_erase {
            bound = bound.bind(1, Access::Read, &w, w_len);
        }
        bound = bound.bind(2, Access::Write, &u, u_len);
        bound = bound.bind(3, Access::Write, self.memory.gpu(), self.memory.len());
        if has_query {
            bound = bound.bind(4, Access::Write, &states, states_len);
        }
        let constants = StateConstants::new(head_dim, has_erase, has_query);
        let state = pipeline(gpu, "attention_memory_state", &constants, &bound)?;
        let n_groups = problem.heads() * v_dim.div_ceil(constants.rows);
        let cost = (4 * constants.rows * head_dim * n_tiles * CHUNK) as f64;
        launch(gpu, &state, &bound.buffers, params, n_groups, cost)?;

        let Some(q) = self.q else { return Ok(()) };
        let bound = Bound::default().read(0, q).bind(1, Access::Read, &states, states_len);
        let bound = bound.read_some(2, options.p_read).read(3, self.k).bind(4, Access::Read, &u, u_len);
        let bound = bound.bind(5, Access::Write, self.y, self.v.len());
        let constants = ReadConstants { has_read: options.p_read.is_some(), is_chunked: true };
        let read = pipeline(gpu, "attention_memory_read", &constants, &bound)?;
        let n_groups = n_chunks * v_dim.div_ceil(CHUNK);
        let cost = (2 * CHUNK * CHUNK * (2 * head_dim + CHUNK)) as f64;
        launch(gpu, &read, &bound.buffers, params, n_groups, cost)
    }
}

/// Every text that this operation may compile, by name; of the widths of heads, the ends.
pub(crate) fn variants() -> Vec<(String, Result<String>)> {
    let mut variants = Vec::new();
    for i in 0..16 {
        let [has_query, has_read, has_write, has_erase] = [8, 4, 2, 1].map(|bit| i & bit != 0);
        for head_dim in [1, 64, MAX_RECURRENT] {
            let vectors = head_dim.div_ceil(4);
            let has_read = has_read && has_query;
            let steps = (STAGED / vectors).clamp(1, CHUNK);
            let constants = RecurrentConstants { has_query, has_read, has_write, has_erase, vectors, steps };
            let text = shader::expand("attention_memory", &constants);
            variants.push((format!("attention_memory {constants:?}"), text));
        }
    }
    for (a, b) in [(false, false), (false, true), (true, false), (true, true)] {
        let constants = ChunkConstants { has_write: a, has_erase: b };
        let text = shader::expand("attention_memory_chunk", &constants);
        variants.push((format!("attention_memory_chunk {constants:?}"), text));
        for head_dim in [1, 64, super::MAX_HEAD_DIM] {
            let constants = StateConstants::new(head_dim, a, b);
            let text = shader::expand("attention_memory_state", &constants);
            variants.push((format!("attention_memory_state {constants:?}"), text));
        }
        let constants = ReadConstants { has_read: a, is_chunked: b };
        let text = shader::expand("attention_memory_read", &constants);
        variants.push((format!("attention_memory_read {constants:?}"), text));
    }
    variants
}
