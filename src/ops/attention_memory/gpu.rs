//! Launches `shaders/attention_memory{,_chunk,_state,_read}.wgsl`.

use std::{ops::Range, sync::Arc};

use super::{
    plan::{self, CHUNK, Carried, LANES, MAX_RECURRENT, NUMBERS, Plan},
    problem::{AttentionMemory, Form, MAX_HEAD_DIM, Problem},
    text::{ChunkConstants, ReadConstants, StateConstants, StepConstants, THREADS},
};
use crate::{
    device::gpu::{Buffer, Gpu, Kernel, Shader, Work, params},
    error::Result,
    ops::Probabilities,
    tensor::Tensor,
};

const STEPS: Kernel<StepConstants, StepParams> =
    Kernel::new("attention_memory", include_str!("../../../shaders/attention_memory.wgsl"));
const CHUNKS: Kernel<ChunkConstants, ChunkParams> =
    Kernel::new("attention_memory_chunk", include_str!("../../../shaders/attention_memory_chunk.wgsl"));
const STATE: Kernel<StateConstants, StateParams> =
    Kernel::new("attention_memory_state", include_str!("../../../shaders/attention_memory_state.wgsl"));
const READ: Kernel<ReadConstants, ReadParams> =
    Kernel::new("attention_memory_read", include_str!("../../../shaders/attention_memory_read.wgsl"));

params! {
    StepParams {
        n: u32,
        n_heads: u32,
        head_dim: u32,
        v_dim: u32,
        first_step: u32,
        end: u32,
        steps: u32,
        first_group: u32,
        n_groups: u32,
        q_base: u32,
        k_base: u32,
        v_base: u32,
        p_read_base: u32,
        p_write_base: u32,
        p_erase_base: u32,
        decay_base: u32,
    }
}

params! {
    ChunkParams {
        n: u32,
        n_heads: u32,
        head_dim: u32,
        v_dim: u32,
        n_tiles: u32,
        first_step: u32,
        first_group: u32,
        n_groups: u32,
        k_base: u32,
        v_base: u32,
        p_write_base: u32,
        p_erase_base: u32,
        decay_base: u32,
    }
}

params! {
    StateParams {
        n: u32,
        n_heads: u32,
        head_dim: u32,
        v_dim: u32,
        n_tiles: u32,
        first_step: u32,
        first_group: u32,
        n_groups: u32,
        columns: u32,
        steps: u32,
        chunk: u32,
        k_base: u32,
        w_base: u32,
        decay_base: u32,
    }
}

params! {
    ReadParams {
        n: u32,
        n_heads: u32,
        head_dim: u32,
        v_dim: u32,
        n_tiles: u32,
        first_step: u32,
        first_group: u32,
        n_groups: u32,
        q_base: u32,
        memory_base: u32,
        p_read_base: u32,
        k_base: u32,
        u_base: u32,
        decay_base: u32,
    }
}

pub(super) fn read(
    gpu: &Arc<Gpu>,
    problem: &Problem,
    memory: &Tensor,
    q: &Tensor,
    p_read: Option<&Probabilities>,
    shape: Vec<usize>,
) -> Result<Tensor> {
    let y = gpu.allocate(q.len() / problem.head_dim * problem.v_dim)?;
    let n_tiles = problem.n.div_ceil(CHUNK);
    let vectors = plan::vectors(problem, gpu.capabilities())?;
    gpu.kernel(&READ, &ReadConstants::new([p_read.is_some(), false, false, vectors]))?
        .read("q", q)
        .read("memory", memory)
        .read_some("p_read", p_read.map(Probabilities::tensor))
        .write("y", &y)
        .groups(
            problem.heads() * n_tiles * problem.v_dim.div_ceil(CHUNK),
            read_work(problem, false),
            read_params(problem, n_tiles, 0),
        )?;
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
    let plan = plan::plan(problem, options.form, gpu.capabilities())?;
    let memory = Tensor::own(options.memory(), &problem.memory_shape(), &k.device())?;
    let y = gpu.allocate(if q.is_some() { v.len() } else { 0 })?;
    let p = [options.p_read, options.p_write, options.p_erase].map(|p| p.map(Probabilities::tensor));
    let decay = options.decay.map(Probabilities::tensor);
    let Plan { form, vectors, lanes, numbers, pieces, .. } = plan;
    let call = Call { gpu, problem, vectors, lanes, numbers, q, k, v, p, decay, memory: &memory, y: &y };
    for piece in pieces {
        match form {
            Form::Recurrent => call.recurrent(piece)?,
            Form::Chunked => call.chunked(piece)?,
        }
    }
    Ok((Tensor::from_gpu(shape, gpu, y), memory))
}

struct Call<'a> {
    gpu: &'a Arc<Gpu>,
    problem: &'a Problem,
    vectors: bool,
    lanes: usize,
    numbers: usize,
    q: Option<&'a Tensor>,
    k: &'a Tensor,
    v: &'a Tensor,
    /// Of reading, writing and erasing.
    p: [Option<&'a Tensor>; 3],
    decay: Option<&'a Tensor>,
    /// This call's own.
    memory: &'a Tensor,
    y: &'a Buffer,
}

impl Call<'_> {
    fn recurrent(&self, steps: Range<usize>) -> Result<()> {
        let Self { gpu, problem, q, p: [p_read, p_write, p_erase], .. } = *self;
        let p_read = p_read.filter(|_| q.is_some());
        let has = [q.is_some(), p_read.is_some(), p_write.is_some(), p_erase.is_some(), self.decay.is_some()];
        let constants = StepConstants::new(problem.head_dim, self.numbers, has);
        let n_groups = problem.heads() * problem.v_dim.div_ceil(constants.rows());
        let work = Work {
            cost: plan::cost_of_step(problem) * steps.len() as f64 / n_groups.max(1) as f64,
            iterations: plan::iterations_of_step(problem, Form::Recurrent, self.lanes) * steps.len(),
        };
        let params = StepParams {
            n: problem.n as u32,
            n_heads: problem.n_heads as u32,
            head_dim: problem.head_dim as u32,
            v_dim: problem.v_dim as u32,
            first_step: steps.start as u32,
            end: steps.end as u32,
            steps: constants.steps as u32,
            ..StepParams::default()
        };
        gpu.kernel(&STEPS, &constants)?
            .read_some("q", q)
            .read("k", self.k)
            .read("v", self.v)
            .read_some("p_read", p_read)
            .read_some("p_write", p_write)
            .read_some("p_erase", p_erase)
            .read_some("decay", self.decay)
            .write("memory", self.memory)
            .write_some("y", q.map(|_| self.y))
            .groups(n_groups, work, params)
    }

    /// Three kernels, one after the other: what every chunk writes by itself, the memory from
    /// chunk to chunk, and what the queries read.
    fn chunked(&self, steps: Range<usize>) -> Result<()> {
        let Self { gpu, problem, q, p: [p_read, ..], .. } = *self;
        let Problem { head_dim, v_dim, .. } = *problem;
        let n_tiles = steps.len().div_ceil(CHUNK);
        let n_chunks = problem.heads() * n_tiles;
        let has_erase = self.p[2].is_some();
        let u = gpu.allocate(n_chunks * CHUNK * v_dim)?;
        let w = has_erase.then(|| gpu.allocate(n_chunks * CHUNK * head_dim)).transpose()?;
        let states = q.map(|_| gpu.allocate(n_chunks * v_dim * head_dim)).transpose()?;
        self.make_chunks(n_tiles, steps.start, &u, w.as_ref())?;
        self.carry_state(n_tiles, steps.start, &u, w.as_ref(), states.as_ref())?;
        let (Some(q), Some(states)) = (q, &states) else { return Ok(()) };
        let has_decay = self.decay.is_some();
        gpu.kernel(&READ, &ReadConstants::new([p_read.is_some(), true, has_decay, self.vectors]))?
            .read("q", q)
            .read("memory", states)
            .read_some("p_read", p_read)
            .read("k", self.k)
            .read("u", &u)
            .read_some("decay", self.decay)
            .write("y", self.y)
            .groups(
                n_chunks * v_dim.div_ceil(CHUNK),
                read_work(problem, true),
                read_params(problem, n_tiles, steps.start),
            )
    }

    fn make_chunks(&self, n_tiles: usize, first_step: usize, u: &Buffer, w: Option<&Buffer>) -> Result<()> {
        let Self { gpu, problem, p: [_, p_write, p_erase], .. } = *self;
        let Problem { head_dim, v_dim, .. } = *problem;
        let (has_write, has_erase) = (p_write.is_some(), p_erase.is_some());
        let decay = self.decay.filter(|_| has_erase);
        let has_decay = decay.is_some();
        let columns = v_dim + if has_erase { head_dim } else { 0 };
        let constants = ChunkConstants::new(columns, [has_write, has_erase, has_decay, self.vectors]);
        let products = if has_erase { head_dim.div_ceil(CHUNK) * (1 + CHUNK / 4) + CHUNK } else { 0 };
        let work = Work {
            cost: (CHUNK * CHUNK * (3 * head_dim + v_dim)) as f64,
            iterations: products + columns.div_ceil(THREADS),
        };
        let params = ChunkParams {
            n: problem.n as u32,
            n_heads: problem.n_heads as u32,
            head_dim: head_dim as u32,
            v_dim: v_dim as u32,
            n_tiles: n_tiles as u32,
            first_step: first_step as u32,
            ..ChunkParams::default()
        };
        gpu.kernel(&CHUNKS, &constants)?
            .read_some("k", has_erase.then_some(self.k))
            .read("v", self.v)
            .read_some("p_write", p_write)
            .read_some("p_erase", p_erase)
            .read_some("decay", decay)
            .write_some("w", w)
            .write("u", u)
            .groups(problem.heads() * n_tiles, work, params)
    }

    fn carry_state(
        &self,
        n_tiles: usize,
        first_step: usize,
        u: &Buffer,
        w: Option<&Buffer>,
        states: Option<&Buffer>,
    ) -> Result<()> {
        let Self { gpu, problem, .. } = *self;
        let Problem { head_dim, v_dim, .. } = *problem;
        let has = [w.is_some(), self.decay.is_some(), states.is_some(), self.vectors];
        let carried = Carried::new(problem, self.lanes);
        let work = Work {
            cost: (4 * carried.rows * head_dim * n_tiles * CHUNK) as f64,
            iterations: plan::iterations_of_step(problem, Form::Chunked, self.lanes) * n_tiles * CHUNK,
        };
        let params = StateParams {
            n: problem.n as u32,
            n_heads: problem.n_heads as u32,
            head_dim: head_dim as u32,
            v_dim: v_dim as u32,
            n_tiles: n_tiles as u32,
            first_step: first_step as u32,
            columns: carried.columns() as u32,
            steps: carried.steps() as u32,
            chunk: CHUNK as u32,
            ..StateParams::default()
        };
        gpu.kernel(&STATE, &StateConstants::new(carried, has))?
            .read("k", self.k)
            .read_some("w", w)
            .read_some("decay", self.decay)
            .write("u", u)
            .write("memory", self.memory)
            .write_some("states", states)
            .groups(carried.groups(problem), work, params)
    }
}

/// That of a workgroup.
fn read_work(problem: &Problem, is_chunked: bool) -> Work {
    let slices = problem.head_dim.div_ceil(CHUNK);
    let (depth, more) = if is_chunked { (2 * problem.head_dim + CHUNK, 2 * CHUNK) } else { (problem.head_dim, 0) };
    Work { cost: (2 * CHUNK * CHUNK * depth) as f64, iterations: slices * (1 + CHUNK / 2) + more }
}

fn read_params(problem: &Problem, n_tiles: usize, first_step: usize) -> ReadParams {
    ReadParams {
        n: problem.n as u32,
        n_heads: problem.n_heads as u32,
        head_dim: problem.head_dim as u32,
        v_dim: problem.v_dim as u32,
        n_tiles: n_tiles as u32,
        first_step: first_step as u32,
        ..ReadParams::default()
    }
}

/// Every text that this operation may compile; of the widths of heads, the ends and small ones.
pub(crate) fn shaders() -> Result<Vec<Shader>> {
    let mut all = Vec::new();
    for i in 0..32 {
        let has = [16, 8, 4, 2, 1].map(|bit| i & bit != 0);
        let [has_query, has_read, has_write, has_erase, has_decay] = has;
        if has_read && !has_query {
            continue;
        }
        let [most, fewest] = NUMBERS;
        let one_thread = [1, 8, 16, 64].map(|head_dim| (head_dim, most));
        // The first of these take the most steps at a time, so the most workgroup memory.
        let several = [(40, fewest), (64, fewest), (MAX_RECURRENT, most), (MAX_RECURRENT, fewest)];
        for (head_dim, numbers) in one_thread.into_iter().chain(several) {
            let constants = StepConstants::new(head_dim, numbers, has);
            let label = format!(
                "{head_dim} parts={} query={has_query} p_read={has_read} p_write={has_write} p_erase={has_erase} \
                 decay={has_decay}",
                constants.parts
            );
            all.push(STEPS.shader(&label, &constants)?);
        }
    }
    let bits = |i: usize| [8, 4, 2, 1].map(|bit| i & bit != 0);
    for i in 0..16 {
        let [a, b, has_decay, vectors] = bits(i);
        let of = if vectors { "vectors" } else { "scalars" };
        for (columns, wide) in [(THREADS, "narrow"), (THREADS + 1, "wide")] {
            if b || !has_decay && wide == "narrow" {
                let label = format!("{wide} {of} p_write={a} p_erase={b} decay={has_decay}");
                all.push(CHUNKS.shader(&label, &ChunkConstants::new(columns, bits(i)))?);
            }
        }
        if b || !has_decay {
            let label = format!("{of} p_read={a} chunked={b} decay={has_decay}");
            all.push(READ.shader(&label, &ReadConstants::new(bits(i)))?);
        }
    }
    for i in 0..16 {
        let [has_erase, has_decay, has_states, vectors] = bits(i);
        for lanes in LANES.into_iter().filter(|lanes| vectors || *lanes == LANES[0]) {
            // With one row a thread, heads of 1,024 are as with two.
            for (head_dim, v_dim) in [(1, 1), (64, 64), (MAX_HEAD_DIM * lanes.min(2) / 2, 64)] {
                let carried = Carried::new(&Problem { batch: 1, n: 1, n_heads: 1, head_dim, v_dim }, lanes);
                let of = if vectors { "vectors" } else { "scalars" };
                let label =
                    format!("{head_dim} {of} p_erase={has_erase} states={has_states} decay={has_decay} rows={lanes}");
                all.push(STATE.shader(&label, &StateConstants::new(carried, bits(i)))?);
            }
        }
    }
    Ok(all)
}
