// attention_memory_read: y = p_r M q, a memory for each head.
//
//   q [batch, n, n_heads, head_dim] · y [batch, n, n_heads, v_dim] · p_read [batch, n, n_heads]
//# if is_chunked
//   memory [batch, n_heads, n_tiles, v_dim, head_dim]: before each chunk of {{ 4 * side }} steps
//   k [batch, n, n_heads, head_dim] · u [batch, n_heads, n_tiles, {{ 4 * side }}, v_dim]: what the steps of
//   a chunk write, so that M_t q = M q + sum over i <= t of (k_i . q) u_i
//# if has_decay
//   decay [batch, n, n_heads]: M and every u_i are multiplied by those of all steps since, t included
//# endif
//# else
//   memory [batch, n_heads, v_dim, head_dim]
//# endif
//
// A workgroup of {{ side * side }} threads reads {{ 4 * side }} queries into as many columns, each thread 4 x 4 of them, in slices
// as deep through workgroup memory: {{ (192 if is_chunked else 128) * side * side }} bytes.

struct Params {
  n: u32,
  n_heads: u32,
  head_dim: u32,
  v_dim: u32,
  // Tiles of {{ 4 * side }} steps, from `first_step` on.
  n_tiles: u32,
  first_step: u32,
  first_group: u32,
  n_groups: u32,
  // Where the first element is in each binding.
  q_base: u32,
  memory_base: u32,
  p_read_base: u32,
  k_base: u32,
  u_base: u32,
  decay_base: u32,
}

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> memory: array<f32>;
//# if has_read
@group(0) @binding(2) var<storage, read> p_read: array<f32>;
//# endif
//# if is_chunked
@group(0) @binding(3) var<storage, read> k: array<f32>;
@group(0) @binding(4) var<storage, read> u: array<f32>;
//# endif
//# if has_decay
@group(0) @binding(6) var<storage, read> decay: array<f32>;
//# endif
@group(0) @binding(5) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

// Four queries, or four rows of the memory, at one depth.
var<workgroup> q_tile: array<vec4<f32>, {{ 4 * side * side }}>;
var<workgroup> m_tile: array<vec4<f32>, {{ 4 * side * side }}>;
//# if is_chunked
// Four keys at one depth; then four scores of one key.
var<workgroup> k_tile: array<vec4<f32>, {{ 4 * side * side }}>;
//# endif

//# include "lib/group.wgsl"

// Where the tokens of this group begin and the step past the last one.
struct Tokens {
  batch: u32,
  head: u32,
  end: u32,
}

fn token(tokens: Tokens, step: u32) -> u32 {
  return (tokens.batch * params.n + step) * params.n_heads + tokens.head;
}

fn load_q(tokens: Tokens, step: u32, d: u32) -> f32 {
  if (step < tokens.end && d < params.head_dim) {
    return q[params.q_base + token(tokens, step) * params.head_dim + d];
  }
  return 0.0;
}

//# if is_chunked
fn load_k(tokens: Tokens, step: u32, d: u32) -> f32 {
  if (step < tokens.end && d < params.head_dim) {
    return k[params.k_base + token(tokens, step) * params.head_dim + d];
  }
  return 0.0;
}

// `row0` is the first row of this chunk.
fn load_u(row0: u32, i: u32, column: u32) -> f32 {
  if (column < params.v_dim) {
    return u[params.u_base + (row0 + i) * params.v_dim + column];
  }
  return 0.0;
}
//# endif

//# if has_decay
fn kept(tokens: Tokens, step: u32) -> f32 {
  if (step < tokens.end) {
    return decay[params.decay_base + token(tokens, step)];
  }
  return 1.0;
}

//# endif
// `row0` is the first row of this memory.
fn load_m(row0: u32, row: u32, d: u32) -> f32 {
  if (row < params.v_dim && d < params.head_dim) {
    return memory[params.memory_base + (row0 + row) * params.head_dim + d];
  }
  return 0.0;
}

fn store(tokens: Tokens, step: u32, column: u32, values: vec4<f32>) {
  if (step >= tokens.end) {
    return;
  }
  let t = token(tokens, step);
//# if has_read
  let z = p_read[params.p_read_base + t] * values;
//# else
  let z = values;
//# endif
  for (var c = 0u; c < 4u; c++) {
    if (column + c < params.v_dim) {
      y[t * params.v_dim + column + c] = z[c];
    }
  }
}

@compute @workgroup_size({{ side * side }})
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
  let column_tiles = (params.v_dim + {{ 4 * side - 1 }}u) / {{ 4 * side }}u;
  let column0 = (group % column_tiles) * {{ 4 * side }}u;
  let tile = (group / column_tiles) % params.n_tiles;
  let head = group / (column_tiles * params.n_tiles);
  let step0 = params.first_step + tile * {{ 4 * side }}u;
  let tokens = Tokens(head / params.n_heads, head % params.n_heads, params.n);
//# if is_chunked
  let m_row0 = (head * params.n_tiles + tile) * params.v_dim;
//# else
  let m_row0 = head * params.v_dim;
//# endif
  let ty = thread / {{ side }}u;
  let tx = thread % {{ side }}u;

//# for r in range(4)
  var y{{ r }} = vec4(0.0);
//# if is_chunked
  var s{{ r }} = vec4(0.0);
//# endif
//# endfor
  for (var d0 = 0u; d0 < params.head_dim; d0 += {{ 4 * side }}u) {
    for (var slot = thread; slot < {{ 4 * side * side }}u; slot += {{ side * side }}u) {
      // Neighbouring threads read neighbouring numbers.
      let d = d0 + slot % {{ 4 * side }}u;
      let quad = slot / {{ 4 * side }}u;
      let at = (slot % {{ 4 * side }}u) * {{ side }}u + quad;
      let step = step0 + 4u * quad;
      q_tile[at] = vec4(
        load_q(tokens, step, d), load_q(tokens, step + 1u, d), load_q(tokens, step + 2u, d), load_q(tokens, step + 3u, d));
      let row = column0 + 4u * quad;
      m_tile[at] = vec4(
        load_m(m_row0, row, d), load_m(m_row0, row + 1u, d), load_m(m_row0, row + 2u, d), load_m(m_row0, row + 3u, d));
//# if is_chunked
      k_tile[at] = vec4(
        load_k(tokens, step, d), load_k(tokens, step + 1u, d), load_k(tokens, step + 2u, d), load_k(tokens, step + 3u, d));
//# endif
    }
    workgroupBarrier();
    for (var d = 0u; d < {{ 4 * side }}u; d++) {
      let a = q_tile[d * {{ side }}u + ty];
      let b = m_tile[d * {{ side }}u + tx];
//# for r in range(4)
      y{{ r }} += a[{{ r }}] * b;
//# endfor
//# if is_chunked
      let c = k_tile[d * {{ side }}u + tx];
//# for r in range(4)
      s{{ r }} += a[{{ r }}] * c;
//# endfor
//# endif
    }
    workgroupBarrier();
  }
//# if is_chunked
//# if has_decay
  // A thread for each key: what four queries after the other find left of what it wrote.
  if (thread < {{ 4 * side }}u) {
    var left = 1.0;
    for (var quad = 0u; quad < {{ side }}u; quad++) {
      var four: vec4<f32>;
//# for r in range(4)
      left *= select(1.0, kept(tokens, step0 + 4u * quad + {{ r }}u), 4u * quad + {{ r }}u > thread);
      four[{{ r }}] = left;
//# endfor
      q_tile[thread * {{ side }}u + quad] = four;
    }
  }
  workgroupBarrier();
  // Of the memory before the chunk, the first step leaves its own decay.
  let left = kept(tokens, step0) * q_tile[ty];
//# for r in range(4)
  y{{ r }} *= left[{{ r }}];
//# endfor
//# endif
//# for c in range(4)
  k_tile[(4u * tx + {{ c }}u) * {{ side }}u + ty] = {% if has_decay %}q_tile[(4u * tx + {{ c }}u) * {{ side }}u + ty] * {% endif %}vec4(s0[{{ c }}], s1[{{ c }}], s2[{{ c }}], s3[{{ c }}]);
//# endfor
  let u_row0 = (head * params.n_tiles + tile) * {{ 4 * side }}u;
  for (var slot = thread; slot < {{ 4 * side * side }}u; slot += {{ side * side }}u) {
    let i = slot / {{ side }}u;
    let column = column0 + 4u * (slot % {{ side }}u);
    m_tile[slot] = vec4(
      load_u(u_row0, i, column), load_u(u_row0, i, column + 1u), load_u(u_row0, i, column + 2u), load_u(u_row0, i, column + 3u));
  }
  workgroupBarrier();
  // A step reads what it wrote itself and what came before: not even a zero may meet what a later
  // one writes, which may be NaN.
  for (var i = 0u; i < 4u * ty; i++) {
    let a = k_tile[i * {{ side }}u + ty];
    let b = m_tile[i * {{ side }}u + tx];
//# for r in range(4)
    y{{ r }} += a[{{ r }}] * b;
//# endfor
  }
//# for c in range(4)
  {
    let a = k_tile[(4u * ty + {{ c }}u) * {{ side }}u + ty];
    let b = m_tile[(4u * ty + {{ c }}u) * {{ side }}u + tx];
//# for r in range(4) if r >= c
    y{{ r }} += a[{{ r }}] * b;
//# endfor
  }
//# endfor
//# endif
  let step = step0 + 4u * ty;
  let column = column0 + 4u * tx;
//# for r in range(4)
  store(tokens, step + {{ r }}u, column, y{{ r }});
//# endfor
}
