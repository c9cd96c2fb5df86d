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
// {{ 4 * rows * (head_dim if has_erase else chunk) + 16 * slice }} bytes.

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
  // Of a thread in a slice of w, and in one of k, and of a chunk: constant, but loops that a compiler cannot
  // unroll need fewer registers.
  columns: u32,
  steps: u32,
  chunk: u32,
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

//# set of_rows = "f32" if lanes == 1 else "vec" ~ lanes ~ "<f32>"
//# set lane = [""] if lanes == 1 else ["[0]", "[1]", "[2]", "[3]"]
//# set row_quads = rows // lanes
//# set tile_quads = head_dim // 4
//# set columns = slice // 8
//# set splits = threads // (chunk // 4 * row_quads)
//# set of_split = columns // splits
//# set steps = 4 * slice // head_dim
//# set n_next = slice // threads
//# set is_light = lanes < 4
//# set most = 16 if is_light else 8
//# set ends = [true] if slice >= 8 * head_dim else [false, true]
{% if has_erase %}// The memory, {{ lanes }} rows of a column, column d at d * {{ row_quads }}; then {% else %}// {% endif %}what a chunk writes to {{ lanes }} rows, step i at i * {{ row_quads }}.
var<workgroup> rows: array<{{ of_rows }}, {{ (head_dim if has_erase else chunk) * row_quads }}>;
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
  return Chunk(head * params.n_tiles + tile, token0, min(params.chunk, params.n - step0));
}

// The first of rows that exist, {{ "four" if vectors else "one" }} at a time.
fn clamped(row: u32, r: u32) -> u32 {
//# if vectors
  return min(row, params.v_dim - {{ lanes }}u) + r;
//# else
  return min(row + r, params.v_dim - 1u);
//# endif
}

// The vector `slot` of a slice: four columns of a step from `i0` on. What is not there is some other number until
// it is `kept`, so that nothing waits for what is read.
fn load_k(chunk: Chunk, i0: u32, slot: u32) -> vec4<f32> {
  let last = chunk.n_steps - 1u;
  let token = chunk.token0 + min(i0 + slot / {{ tile_quads }}u, last) * params.n_heads;
  let d = 4u * (slot % {{ tile_quads }}u);
//# if vectors
  return k[params.k_base + token * (params.head_dim / 4u) + min(d, params.head_dim - 1u) / 4u];
//# else
  let at = params.k_base + token * params.head_dim + d;
  let end = params.k_base + (chunk.token0 + last * params.n_heads + 1u) * params.head_dim - 1u;
  return vec4(k[min(at, end)], k[min(at + 1u, end)], k[min(at + 2u, end)], k[min(at + 3u, end)]);
//# endif
}

fn kept_k(chunk: Chunk, i0: u32, slot: u32, four: vec4<f32>) -> vec4<f32> {
  let is_step = i0 + slot / {{ tile_quads }}u < chunk.n_steps;
  let d = 4u * (slot % {{ tile_quads }}u);
//# if vectors
  return select(vec4(0.0), four, is_step && d < params.head_dim);
//# else
  return select(vec4(0.0), four, vec4(is_step) & (vec4(d) + vec4(0u, 1u, 2u, 3u) < vec4(params.head_dim)));
//# endif
}

//# if has_erase
// The same of a slice of w: four steps of a column from `d0` on.
fn load_w(chunk: Chunk, d0: u32, slot: u32) -> vec4<f32> {
  let size = params.head_dim * {{ chunk // 4 }}u;
  let at = chunk.index * size + min(d0 * {{ chunk // 4 }}u + slot, size - 1u);
//# if vectors
  return w[params.w_base + at];
//# else
  let first = params.w_base + 4u * at;
  return vec4(w[first], w[first + 1u], w[first + 2u], w[first + 3u]);
//# endif
}

fn kept_w(d0: u32, slot: u32, four: vec4<f32>) -> vec4<f32> {
  return select(vec4(0.0), four, d0 + slot / {{ chunk // 4 }}u < params.head_dim);
}
//# endif

//# for name in ["memory", "states"] if name == "memory" or has_states
// Four columns of {{ lanes }} rows.
fn store_{{ name }}(row0: u32, row: u32, d: u32, {% for c in range(4) %}m{{ c }}: {{ of_rows }}{{ ", " if c < 3 }}{% endfor %}) {
//# if vectors
  if (row < params.v_dim && d < params.head_dim) {
    let at = (row0 + row) * (params.head_dim / 4u) + d / 4u;
//# for r in range(lanes)
    {{ name }}[at + {{ r }}u * (params.head_dim / 4u)] = vec4(m0{{ lane[r] }}, m1{{ lane[r] }}, m2{{ lane[r] }}, m3{{ lane[r] }});
//# endfor
  }
//# else
//# for r in range(lanes)
  if (row + {{ r }}u < params.v_dim) {
    let at = (row0 + row + {{ r }}u) * params.head_dim + d;
//# for c in range(4)
    if (d + {{ c }}u < params.head_dim) {
      {{ name }}[at + {{ c }}u] = m{{ c }}{{ lane[r] }};
    }
//# endfor
  }
//# endfor
//# endif
}

//# endfor
// Four columns of a row; zeros past the last.
fn load_memory(row: u32, d: u32) -> vec4<f32> {
  let last = params.head_dim - 1u;
//# if vectors
  return select(vec4(0.0), memory[row * (params.head_dim / 4u) + min(d, last) / 4u], d <= last);
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
// Four steps of {{ lanes }} rows.
fn store_u(row0: u32, row: u32, step: u32, {% for r in range(lanes) %}x{{ r }}: vec4<f32>{{ ", " if r < lanes - 1 }}{% endfor %}) {
//# if vectors
  if (row < params.v_dim) {
    let at = (row0 + row) * {{ chunk // 4 }}u + step / 4u;
//# for r in range(lanes)
    u[at + {{ r * chunk // 4 }}u] = x{{ r }};
//# endfor
  }
//# else
//# for r in range(lanes)
  if (row + {{ r }}u < params.v_dim) {
    let at = (row0 + row + {{ r }}u) * {{ chunk }}u + step;
//# for c in range(4)
    u[at + {{ c }}u] = x{{ r }}[{{ c }}];
//# endfor
  }
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

  // Rows and columns of the memory that are this thread's.
  let row_quad = thread % {{ row_quads }}u;
  let column_quad = thread / {{ row_quads }}u;
  let row = row0 + {{ lanes }}u * row_quad;
  let d = 4u * column_quad;
//# for r in range(lanes)
  let before{{ r }} = load_memory(head * params.v_dim + clamped(row, {{ r }}u), d);
//# endfor
//# for c in range(4)
  var m{{ c }} = {{ of_rows }}({% for r in range(lanes) %}before{{ r }}[{{ c }}]{{ ", " if r < lanes - 1 }}{% endfor %});
//# if has_erase
  rows[(d + {{ c }}u) * {{ row_quads }}u + row_quad] = m{{ c }};
//# endif
//# endfor
  // Steps and rows of what is written that are this thread's{% if splits > 1 %}; there are {{ splits }} for them, each with a part of
  // the columns that erase{% endif %}.
  let step = 4u * (thread % {{ chunk // 4 }}u);
  let written_quad = thread / {{ chunk // 4 }}u % {{ row_quads }}u;
  let split = thread / {{ chunk // 4 * row_quads }}u;
  let written_row = row0 + {{ lanes }}u * written_quad;
  let written_at = (split * {{ chunk }}u + step) * {{ row_quads }}u + written_quad;

  var chunk = chunk_of(head, 0u);
  // The next slice: each thread has {{ n_next }} vectors of it.
//# for i in range(n_next)
  var next{{ i }} = load_{{ "w" if has_erase else "k" }}(chunk, 0u, thread + {{ i * threads }}u);
//# endfor
//# if is_light
  // What a chunk writes is read with its first slice, while the chunk before is multiplied.
//# for r in range(lanes)
  var x{{ r }} = load_u(chunk.index * params.v_dim + clamped(written_row, {{ r }}u), step);
//# endfor
//# endif
  for (var tile = 0u; tile < params.n_tiles; tile++) {
//# if has_states
    store_states(chunk.index * params.v_dim, row, d, {% for c in range(4) %}m{{ c }}{{ ", " if c < 3 }}{% endfor %});
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
//# if not is_light
//# for r in range(lanes)
    var x{{ r }} = vec4(0.0);
//# endfor
    if (split == 0u) {
//# for r in range(lanes)
      x{{ r }} = load_u(chunk.index * params.v_dim + clamped(written_row, {{ r }}u), step);
//# endfor
    }
//# elif has_erase and splits > 1
//# for r in range(lanes)
    x{{ r }} = select(vec4(0.0), x{{ r }}, split == 0u);
//# endfor
//# endif
//# for i in range(n_next)
//# if has_erase
    slice[thread + {{ i * threads }}u] = kept_w(0u, thread + {{ i * threads }}u, next{{ i }});
//# else
    slice[thread + {{ i * threads }}u] = kept_k(chunk, 0u, thread + {{ i * threads }}u, next{{ i }});
//# endif
//# endfor
//# if has_erase
    workgroupBarrier();
    var d0 = 0u;
//# for is_last in ends
//# if is_last
    {
//# for i in range(n_next)
      next{{ i }} = load_k(chunk, 0u, thread + {{ i * threads }}u);
//# endfor
//# else
    for (; d0 + {{ columns }}u < params.head_dim; d0 += {{ columns }}u) {
//# for i in range(n_next)
      next{{ i }} = load_w(chunk, d0 + {{ columns }}u, thread + {{ i * threads }}u);
//# endfor
//# endif
//# set unrolled = most if of_split > most else of_split
      for (var i = 0u; i < min(params.columns, params.head_dim - d0); i += {{ unrolled }}u) {
        let column = split * {{ of_split }}u + i;
        let at = column * {{ chunk // 4 }}u + thread % {{ chunk // 4 }}u;
//# for c in range(unrolled)
        {
          let a = slice[at + {{ c * chunk // 4 }}u];
          let b = rows[(d0 + column + {{ c }}u) * {{ row_quads }}u + written_quad];
//# for r in range(lanes)
          x{{ r }} -= b{{ lane[r] }} * a;
//# endfor
        }
//# endfor
      }
      workgroupBarrier();
//# if not is_last
//# for i in range(n_next)
      slice[thread + {{ i * threads }}u] = kept_w(d0 + {{ columns }}u, thread + {{ i * threads }}u, next{{ i }});
//# endfor
      workgroupBarrier();
//# endif
    }
//# endfor
//# for i in range(n_next)
    slice[thread + {{ i * threads }}u] = kept_k(chunk, 0u, thread + {{ i * threads }}u, next{{ i }});
//# endfor
//# if splits > 1
    // The memory is in registers, too.
    if (split > 0u) {
//# for c in range(4)
      rows[written_at + {{ c * row_quads }}u] =
        {{ of_rows }}({% for r in range(lanes) %}x{{ r }}[{{ c }}]{{ ", " if r < lanes - 1 }}{% endfor %});
//# endfor
    }
    workgroupBarrier();
//# endif
//# endif
    if (split == 0u) {
//# if has_erase and splits > 1
      for (var i = 1u; i < {{ splits }}u; i++) {
//# for c in range(4)
        let part{{ c }} = rows[written_at + i * {{ chunk * row_quads }}u + {{ c * row_quads }}u];
//# endfor
//# for r in range(lanes)
        x{{ r }} += vec4(part0{{ lane[r] }}, part1{{ lane[r] }}, part2{{ lane[r] }}, part3{{ lane[r] }});
//# endfor
      }
//# endif
//# if has_erase
      store_u(chunk.index * params.v_dim, written_row, step, {% for r in range(lanes) %}x{{ r }}{{ ", " if r < lanes - 1 }}{% endfor %});
//# endif
      // Steps past the last write nothing.
//# for r in range(lanes)
      x{{ r }} = select(vec4(0.0), x{{ r }}{% if has_decay %} * left{% endif %}, vec4(step) + vec4(0u, 1u, 2u, 3u) < vec4(chunk.n_steps));
//# endfor
//# for c in range(4)
      rows[written_at + {{ c * row_quads }}u] =
        {{ of_rows }}({% for r in range(lanes) %}x{{ r }}[{{ c }}]{{ ", " if r < lanes - 1 }}{% endfor %});
//# endfor
    }
//# if has_decay
//# for j in range(4)
    m{{ j }} *= left_of_all;
//# endfor
//# endif
    workgroupBarrier();
    let next_chunk = chunk_of(head, min(tile + 1u, params.n_tiles - 1u));
    var i0 = 0u;
//# for is_last in ends
//# if is_last
    {
//# for i in range(n_next)
      next{{ i }} = load_{{ "w" if has_erase else "k" }}(next_chunk, 0u, thread + {{ i * threads }}u);
//# endfor
//# for r in range(lanes) if is_light
      x{{ r }} = load_u(next_chunk.index * params.v_dim + clamped(written_row, {{ r }}u), step);
//# endfor
//# else
    for (; i0 + {{ steps }}u < chunk.n_steps; i0 += {{ steps }}u) {
//# for i in range(n_next)
      next{{ i }} = load_k(chunk, i0 + {{ steps }}u, thread + {{ i * threads }}u);
//# endfor
//# endif
//# set unrolled = most if steps > most else steps
      for (var i = i0; i < min(i0 + params.steps, chunk.n_steps); i += {{ unrolled }}u) {
        let at = (i - i0) * {{ tile_quads }}u + column_quad;
//# for s in range(unrolled)
        {
          let a = rows[(i + {{ s }}u) * {{ row_quads }}u + row_quad];
          let b = slice[at + {{ s * tile_quads }}u];
//# for c in range(4)
          m{{ c }} += b[{{ c }}] * a;
//# endfor
        }
//# endfor
      }
      workgroupBarrier();
//# if not is_last
//# for i in range(n_next)
      slice[thread + {{ i * threads }}u] = kept_k(chunk, i0 + {{ steps }}u, thread + {{ i * threads }}u, next{{ i }});
//# endfor
      workgroupBarrier();
//# endif
    }
//# endfor
//# if has_erase
//# for c in range(4)
    rows[(d + {{ c }}u) * {{ row_quads }}u + row_quad] = m{{ c }};
//# endfor
//# endif
    chunk = next_chunk;
  }
  store_memory(head * params.v_dim, row, d, {% for c in range(4) %}m{{ c }}{{ ", " if c < 3 }}{% endfor %});
}
