// attention_memory_state: the memory from chunk to chunk (WY form).
//
//   k [batch, n, n_heads, head_dim] · u [batch, n_heads, n_tiles, v_dim, {{ chunk }}]
//# if has_erase
//   w [batch, n_heads, n_tiles, head_dim, {{ chunk }}]
//# endif
//# if has_decay
//   decay [batch, n, n_heads]
//# endif
//   memory [batch, n_heads, v_dim, head_dim]: read, and written at the end
//# if has_states
//   states [batch, n_heads, n_tiles, v_dim, head_dim]: the memory before each chunk
//# endif
//
// Of each chunk, in their order: {% if has_erase %}u -= w M^T, then {% endif %}M += u^T k{% if has_decay %}, each with the decays of
// all later steps{% endif %}. A workgroup of {{ threads }} threads keeps {{ rows }} rows of the memory, each thread {{ lanes }} rows of
// 4 columns, head_dim up to {{ head_dim }}. What is multiplied goes through workgroup memory, w and k in slices of
// {{ slice // 8 }} columns and {{ 4 * slice // head_dim }} steps, which are read while those before are multiplied:
// {{ 4 * rows * ((head_dim if has_erase else 0) + chunk) + 16 * slice }} bytes.

struct Params {
  n: u32,
  n_heads: u32,
  head_dim: u32,
  v_dim: u32,
  // Chunks, from `first_step` on.
  n_tiles: u32,
  first_step: u32,
  first_group: u32,
  n_groups: u32,
  // Of a thread in a slice of w, and in one of k: constant, but loops that a compiler cannot unroll need
  // fewer registers.
  columns: u32,
  steps: u32,
  // Where the first element is in each binding.
  k_base: u32,
  w_base: u32,
  decay_base: u32,
}

//# set element = "vec4<f32>" if vectors else "f32"
@group(0) @binding(0) var<storage, read> k: array<{{ element }}>;
//# if has_erase
@group(0) @binding(1) var<storage, read> w: array<{{ element }}>;
//# endif
//# if has_decay
@group(0) @binding(5) var<storage, read> decay: array<f32>;
//# endif
@group(0) @binding(2) var<storage, read_write> u: array<{{ element }}>;
@group(0) @binding(3) var<storage, read_write> memory: array<{{ element }}>;
//# if has_states
@group(0) @binding(4) var<storage, read_write> states: array<{{ element }}>;
//# endif
@group(1) @binding(0) var<uniform> params: Params;

//# set of_rows = "vec" ~ lanes ~ "<f32>"
//# set row_quads = rows // lanes
//# set tile_quads = head_dim // 4
//# set columns = slice // 8
//# set splits = threads // (chunk // 4 * row_quads)
//# set of_split = columns // splits
//# set steps = 4 * slice // head_dim
//# if has_erase
// {{ lanes }} rows of a column; column d at d * {{ row_quads }}.
var<workgroup> m_tile: array<{{ of_rows }}, {{ head_dim * row_quads }}>;
//# endif
// What a chunk writes to {{ lanes }} rows: step i at i * {{ row_quads }}.
var<workgroup> written: array<{{ of_rows }}, {{ chunk * row_quads }}>;
// Columns of w, four steps in a vector; steps of k, four columns in a vector.
var<workgroup> slice: array<vec4<f32>, {{ slice }}>;

//# include "lib/group.wgsl"

// Where a head's chunk lies.
struct Chunk {
  // Of all chunks.
  index: u32,
  token0: u32,
  n_steps: u32,
}

fn chunk_of(head: u32, tile: u32) -> Chunk {
  let step0 = params.first_step + tile * {{ chunk }}u;
  let token0 = ((head / params.n_heads) * params.n + step0) * params.n_heads + head % params.n_heads;
  return Chunk(head * params.n_tiles + tile, token0, min({{ chunk }}u, params.n - step0));
}

// Four columns of a step; zeros past the last step{% if vectors %}, and past the last column some that nobody reads{% else %} and column{% endif %}.
fn load_k(chunk: Chunk, i: u32, d: u32) -> vec4<f32> {
  let token = chunk.token0 + min(i, chunk.n_steps - 1u) * params.n_heads;
  let last = params.head_dim - 1u;
//# if vectors
  let four = k[params.k_base + token * (params.head_dim / 4u) + min(d, last) / 4u];
//# else
  let at = params.k_base + token * params.head_dim;
  let four = vec4(k[at + min(d, last)], k[at + min(d + 1u, last)], k[at + min(d + 2u, last)], k[at + min(d + 3u, last)]);
//# endif
//# if vectors
  return select(vec4(0.0), four, i < chunk.n_steps);
//# else
  return select(vec4(0.0), four, vec4(i < chunk.n_steps) & (vec4(d) + vec4(0u, 1u, 2u, 3u) <= vec4(last)));
//# endif
}

//# if has_erase
// Four steps of a column; {% if vectors %}past the last column some that nobody reads{% else %}zeros past the last column{% endif %}.
fn load_w(chunk: Chunk, slot: u32) -> vec4<f32> {
  let at = chunk.index * params.head_dim * {{ chunk // 4 }}u + min(slot, params.head_dim * {{ chunk // 4 }}u - 1u);
//# if vectors
  return w[params.w_base + at];
//# else
  let first = params.w_base + 4u * at;
  let four = vec4(w[first], w[first + 1u], w[first + 2u], w[first + 3u]);
  return select(vec4(0.0), four, slot < params.head_dim * {{ chunk // 4 }}u);
//# endif
}
//# endif

//# for name in ["memory", "states"] if name == "memory" or has_states
fn store_{{ name }}(row: u32, d: u32, four: vec4<f32>) {
//# if vectors
  if (d < params.head_dim) {
    {{ name }}[row * (params.head_dim / 4u) + d / 4u] = four;
  }
//# else
//# for c in range(4)
  if (d + {{ c }}u < params.head_dim) {
    {{ name }}[row * params.head_dim + d + {{ c }}u] = four[{{ c }}];
  }
//# endfor
//# endif
}

//# endfor
// Four columns of a row; {% if vectors %}past the last some that nobody reads{% else %}zeros past the last{% endif %}.
fn load_memory(row: u32, d: u32) -> vec4<f32> {
  let last = params.head_dim - 1u;
//# if vectors
  return memory[row * (params.head_dim / 4u) + min(d, last) / 4u];
//# else
  let at = row * params.head_dim;
  let four = vec4(
    memory[at + min(d, last)], memory[at + min(d + 1u, last)], memory[at + min(d + 2u, last)], memory[at + min(d + 3u, last)]);
  return select(vec4(0.0), four, vec4(d) + vec4(0u, 1u, 2u, 3u) <= vec4(last));
//# endif
}

// Four steps of a row.
fn load_u(row: u32, step: u32) -> vec4<f32> {
//# if vectors
  return u[row * {{ chunk // 4 }}u + step / 4u];
//# else
  let at = row * {{ chunk }}u + step;
  return vec4(u[at], u[at + 1u], u[at + 2u], u[at + 3u]);
//# endif
}

//# if has_erase
fn store_u(row: u32, step: u32, four: vec4<f32>) {
//# if vectors
  u[row * {{ chunk // 4 }}u + step / 4u] = four;
//# else
//# for c in range(4)
  u[row * {{ chunk }}u + step + {{ c }}u] = four[{{ c }}];
//# endfor
//# endif
}
//# endif

@compute @workgroup_size({{ threads }})
fn main(
  @builtin(workgroup_id) group_id: vec3<u32>,
  @builtin(num_workgroups) group_count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let local = group_index(group_id, group_count);
  // Uniform for the whole group, so no thread waits at a barrier alone.
  if (local >= params.n_groups) {
    return;
  }
  let group = params.first_group + local;
  let row_tiles = (params.v_dim + {{ rows - 1 }}u) / {{ rows }}u;
  let row0 = (group % row_tiles) * {{ rows }}u;
  let head = group / row_tiles;
  let last_row = params.v_dim - 1u;

  // Rows and columns of the memory that are this thread's.
  let row_quad = thread % {{ row_quads }}u;
  let column_quad = thread / {{ row_quads }}u;
  let row = row0 + {{ lanes }}u * row_quad;
  let d = 4u * column_quad;
//# for r in range(lanes)
  let before{{ r }} = load_memory(head * params.v_dim + min(row + {{ r }}u, last_row), d);
//# endfor
//# for c in range(4)
  var m{{ c }} = {{ of_rows }}({% for r in range(lanes) %}before{{ r }}[{{ c }}]{{ ", " if r < lanes - 1 }}{% endfor %});
//# if has_erase
  m_tile[(d + {{ c }}u) * {{ row_quads }}u + row_quad] = m{{ c }};
//# endif
//# endfor
  // Steps and rows of what is written that are this thread's{% if splits > 1 %}; there are {{ splits }} for them, each with a part of
  // the columns that erase{% endif %}.
  let step = 4u * (thread % {{ chunk // 4 }}u);
  let written_quad = thread / {{ chunk // 4 }}u % {{ row_quads }}u;
  let split = thread / {{ chunk // 4 * row_quads }}u;
  let written_row = row0 + {{ lanes }}u * written_quad;

  var chunk = chunk_of(head, 0u);
  // The next slice: each thread has {{ slice // threads }} vectors of it.
//# for i in range(slice // threads)
//# if has_erase
  var next{{ i }} = load_w(chunk, thread + {{ i * threads }}u);
//# else
  var next{{ i }} = load_k(chunk, (thread + {{ i * threads }}u) / {{ tile_quads }}u, 4u * ((thread + {{ i * threads }}u) % {{ tile_quads }}u));
//# endif
//# endfor
  for (var tile = 0u; tile < params.n_tiles; tile++) {
//# if has_states
//# for r in range(lanes)
    if (row + {{ r }}u < params.v_dim) {
      store_states(
        chunk.index * params.v_dim + row + {{ r }}u, d,
        vec4(m0[{{ r }}], m1[{{ r }}], m2[{{ r }}], m3[{{ r }}]));
    }
//# endfor
//# endif
//# if has_decay
    // What the chunk leaves of what each of its steps writes, four steps a thread.
    if (thread < {{ chunk // 4 }}u) {
      var four = vec4(1.0);
//# for c in range(4)
      if (step + {{ c }}u < chunk.n_steps) {
        four[{{ c }}] = decay[params.decay_base + chunk.token0 + (step + {{ c }}u) * params.n_heads];
      }
//# endfor
      slice[thread] = four;
    }
    workgroupBarrier();
    let kept = slice[thread % {{ chunk // 4 }}u];
    var left = vec4(1.0);
    var left_of_all = 1.0;
    for (var i = {{ chunk // 4 }}u; i > 0u; i--) {
      let four = slice[i - 1u];
      left_of_all *= four.x * four.y * four.z * four.w;
      if (i - 1u > thread % {{ chunk // 4 }}u) {
        left = vec4(left_of_all);
      }
    }
    left *= vec4(kept.y * kept.z * kept.w, kept.z * kept.w, kept.w, 1.0);
    workgroupBarrier();
//# endif
//# for r in range(lanes)
    var x{{ r }} = vec4(0.0);
//# endfor
    if (split == 0u) {
//# for r in range(lanes)
      x{{ r }} = load_u(chunk.index * params.v_dim + min(written_row + {{ r }}u, last_row), step);
//# endfor
    }
//# if has_erase
    for (var d0 = 0u; d0 < params.head_dim; d0 += {{ columns }}u) {
//# for i in range(slice // threads)
      slice[thread + {{ i * threads }}u] = next{{ i }};
//# endfor
      workgroupBarrier();
      if (d0 + {{ columns }}u < params.head_dim) {
//# for i in range(slice // threads)
        next{{ i }} = load_w(chunk, (d0 + {{ columns }}u) * {{ chunk // 4 }}u + thread + {{ i * threads }}u);
//# endfor
      } else {
//# for i in range(slice // threads)
        next{{ i }} = load_k(chunk, (thread + {{ i * threads }}u) / {{ tile_quads }}u, 4u * ((thread + {{ i * threads }}u) % {{ tile_quads }}u));
//# endfor
      }
      let begin = split * {{ of_split }}u;
      var at = begin * {{ chunk // 4 }}u + thread % {{ chunk // 4 }}u;
      for (var d = d0 + begin; d < min(d0 + begin + params.columns, params.head_dim); d += {{ 4 if of_split > 4 else of_split }}u) {
//# for c in range(4 if of_split > 4 else of_split)
        {
          let a = slice[at + {{ c * chunk // 4 }}u];
          let b = m_tile[(d + {{ c }}u) * {{ row_quads }}u + written_quad];
//# for r in range(lanes)
          x{{ r }} -= b[{{ r }}] * a;
//# endfor
        }
//# endfor
        at += {{ (4 if of_split > 4 else of_split) * chunk // 4 }}u;
      }
      workgroupBarrier();
    }
//# if splits > 1
    // The memory is in registers, too.
    if (split > 0u) {
//# for c in range(4)
      m_tile[((split - 1u) * {{ chunk }}u + step + {{ c }}u) * {{ row_quads }}u + written_quad] =
        {{ of_rows }}({% for r in range(lanes) %}x{{ r }}[{{ c }}]{{ ", " if r < lanes - 1 }}{% endfor %});
//# endfor
    }
    workgroupBarrier();
    if (split == 0u) {
      for (var i = 0u; i < {{ splits - 1 }}u; i++) {
//# for c in range(4)
        let part{{ c }} = m_tile[(i * {{ chunk }}u + step + {{ c }}u) * {{ row_quads }}u + written_quad];
//# endfor
//# for r in range(lanes)
        x{{ r }} += vec4(part0[{{ r }}], part1[{{ r }}], part2[{{ r }}], part3[{{ r }}]);
//# endfor
      }
    }
//# endif
//# endif
    if (split == 0u) {
//# for r in range(lanes)
//# if has_erase
      if (written_row + {{ r }}u < params.v_dim) {
        store_u(chunk.index * params.v_dim + written_row + {{ r }}u, step, x{{ r }});
      }
//# endif
      // Steps past the last write nothing.
      x{{ r }} = select(vec4(0.0), x{{ r }}{% if has_decay %} * left{% endif %}, vec4(step) + vec4(0u, 1u, 2u, 3u) < vec4(chunk.n_steps));
//# endfor
//# for c in range(4)
      written[(step + {{ c }}u) * {{ row_quads }}u + written_quad] =
        {{ of_rows }}({% for r in range(lanes) %}x{{ r }}[{{ c }}]{{ ", " if r < lanes - 1 }}{% endfor %});
//# endfor
    }
//# if has_decay
//# for j in range(4)
    m{{ j }} *= left_of_all;
//# endfor
//# endif
    let next_chunk = chunk_of(head, min(tile + 1u, params.n_tiles - 1u));
    for (var i0 = 0u; i0 < chunk.n_steps; i0 += {{ steps }}u) {
//# for i in range(slice // threads)
      slice[thread + {{ i * threads }}u] = next{{ i }};
//# endfor
      workgroupBarrier();
      if (i0 + {{ steps }}u < chunk.n_steps) {
//# for i in range(slice // threads)
        next{{ i }} = load_k(
          chunk, i0 + {{ steps }}u + (thread + {{ i * threads }}u) / {{ tile_quads }}u, 4u * ((thread + {{ i * threads }}u) % {{ tile_quads }}u));
//# endfor
      } else {
//# for i in range(slice // threads)
//# if has_erase
        next{{ i }} = load_w(next_chunk, thread + {{ i * threads }}u);
//# else
        next{{ i }} = load_k(
          next_chunk, (thread + {{ i * threads }}u) / {{ tile_quads }}u, 4u * ((thread + {{ i * threads }}u) % {{ tile_quads }}u));
//# endif
//# endfor
      }
      var at = column_quad;
//# set unrolled = 4 if steps > 4 else steps
      for (var i = i0; i < min(i0 + params.steps, chunk.n_steps); i += {{ unrolled }}u) {
//# for s in range(unrolled)
        {
          let a = written[(i + {{ s }}u) * {{ row_quads }}u + row_quad];
          let b = slice[at + {{ s * tile_quads }}u];
//# for c in range(4)
          m{{ c }} += b[{{ c }}] * a;
//# endfor
        }
//# endfor
        at += {{ unrolled * tile_quads }}u;
      }
      workgroupBarrier();
    }
//# if has_erase
//# for c in range(4)
    m_tile[(d + {{ c }}u) * {{ row_quads }}u + row_quad] = m{{ c }};
//# endfor
//# endif
    chunk = next_chunk;
  }
//# for r in range(lanes)
  if (row + {{ r }}u < params.v_dim) {
    store_memory(
      head * params.v_dim + row + {{ r }}u, d,
      vec4(m0[{{ r }}], m1[{{ r }}], m2[{{ r }}], m3[{{ r }}]));
  }
//# endfor
}
