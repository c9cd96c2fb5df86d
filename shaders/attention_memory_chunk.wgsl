// attention_memory_chunk: what the steps of a chunk write, but for the memory before it (WY form).
//
//   k [batch, n, n_heads, head_dim] · v [batch, n, n_heads, v_dim]
//   p_write, p_erase{% if has_decay %}, decay{% endif %} [batch, n, n_heads]
//   u [batch, n_heads, n_tiles, {{ 4 * side }}, v_dim]
//# if has_erase
//   w [batch, n_heads, n_tiles, {{ 4 * side }}, head_dim]
//
// A step t of a chunk that begins with the memory M adds u_t k_t^T, where
//   u_t = p_w v_t - p_e M k_t - p_e sum over i < t of (k_t . k_i) u_i.
// By forward substitution u = u' - w M^T, where u' and w do not depend on M.
//# if has_decay
// M and every u_i have decayed by then: they are multiplied by the decays of all steps since, t included.
//# endif
//# else
//
// Without erasing, u_t = p_w v_t.
//# endif
//
// A workgroup of {{ side * side }} threads takes a chunk of {{ 4 * side }} steps: the products of its keys, 4 x 4 a thread,
// then a thread for each column. {{ 128 * side * side if has_erase else 0 }} bytes of workgroup memory.

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
  // Where the first element is in each binding.
  k_base: u32,
  v_base: u32,
  p_write_base: u32,
  p_erase_base: u32,
  decay_base: u32,
}

//# if has_erase
@group(0) @binding(0) var<storage, read> k: array<f32>;
//# endif
@group(0) @binding(1) var<storage, read> v: array<f32>;
//# if has_write
@group(0) @binding(2) var<storage, read> p_write: array<f32>;
//# endif
//# if has_erase
@group(0) @binding(3) var<storage, read> p_erase: array<f32>;
@group(0) @binding(4) var<storage, read_write> w: array<f32>;
//# if has_decay
@group(0) @binding(6) var<storage, read> decay: array<f32>;
//# endif
//# endif
@group(0) @binding(5) var<storage, read_write> u: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

//# if has_erase
// Four keys at one depth.
var<workgroup> k_tile: array<vec4<f32>, {{ 4 * side * side }}>;
// p_e (k_t . k_i), row t.
var<workgroup> products: array<f32, {{ 16 * side * side }}>;
//# endif

//# include "lib/group.wgsl"

struct Chunk {
  batch: u32,
  head: u32,
  step0: u32,
  // Its first row in `u` and `w`.
  row0: u32,
}

fn token(chunk: Chunk, i: u32) -> u32 {
  return (chunk.batch * params.n + chunk.step0 + i) * params.n_heads + chunk.head;
}

//# if has_erase
fn load_k(chunk: Chunk, i: u32, d: u32) -> f32 {
  if (chunk.step0 + i < params.n && d < params.head_dim) {
    return k[params.k_base + token(chunk, i) * params.head_dim + d];
  }
  return 0.0;
}

fn erase(chunk: Chunk, i: u32) -> f32 {
  if (chunk.step0 + i < params.n) {
    return p_erase[params.p_erase_base + token(chunk, i)];
  }
  return 0.0;
}
//# endif

//# if has_decay
fn kept(chunk: Chunk, i: u32) -> f32 {
  if (chunk.step0 + i < params.n) {
    return decay[params.decay_base + token(chunk, i)];
  }
  return 1.0;
}

//# endif
// The right-hand side: a column of p_w v{% if has_erase %}, then one of p_e k{% endif %}.
fn load(chunk: Chunk, i: u32, column: u32) -> f32 {
  if (chunk.step0 + i >= params.n) {
    return 0.0;
  }
//# if has_erase
  if (column >= params.v_dim) {
    return erase(chunk, i) * load_k(chunk, i, column - params.v_dim);
  }
//# endif
  let t = token(chunk, i);
//# if has_write
  return p_write[params.p_write_base + t] * v[params.v_base + t * params.v_dim + column];
//# else
  return v[params.v_base + t * params.v_dim + column];
//# endif
}

fn store(chunk: Chunk, i: u32, column: u32, x: f32) {
//# if has_erase
  if (column >= params.v_dim) {
    w[(chunk.row0 + i) * params.head_dim + column - params.v_dim] = x;
    return;
  }
//# endif
  u[(chunk.row0 + i) * params.v_dim + column] = x;
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
  let head = group / params.n_tiles;
  let tile = group % params.n_tiles;
  let chunk = Chunk(head / params.n_heads, head % params.n_heads, params.first_step + tile * {{ 4 * side }}u, group * {{ 4 * side }}u);
//# if has_erase
  let n_columns = params.v_dim + params.head_dim;
  let ty = thread / {{ side }}u;
  let tx = thread % {{ side }}u;
//# for r in range(4)
  var s{{ r }} = vec4(0.0);
//# endfor
  for (var d0 = 0u; d0 < params.head_dim; d0 += {{ 4 * side }}u) {
    for (var slot = thread; slot < {{ 4 * side * side }}u; slot += {{ side * side }}u) {
      let d = d0 + slot % {{ 4 * side }}u;
      let i = 4u * (slot / {{ 4 * side }}u);
      k_tile[(slot % {{ 4 * side }}u) * {{ side }}u + slot / {{ 4 * side }}u] =
        vec4(load_k(chunk, i, d), load_k(chunk, i + 1u, d), load_k(chunk, i + 2u, d), load_k(chunk, i + 3u, d));
    }
    workgroupBarrier();
    for (var d = 0u; d < {{ 4 * side }}u; d++) {
      let a = k_tile[d * {{ side }}u + ty];
      let b = k_tile[d * {{ side }}u + tx];
//# for r in range(4)
      s{{ r }} += a[{{ r }}] * b;
//# endfor
    }
    workgroupBarrier();
  }
//# for r in range(4)
  {
    let p = erase(chunk, 4u * ty + {{ r }}u);
//# for c in range(4)
    products[(4u * ty + {{ r }}u) * {{ 4 * side }}u + 4u * tx + {{ c }}u] = p * s{{ r }}[{{ c }}];
//# endfor
  }
//# endfor
  workgroupBarrier();
//# if has_decay
  // A thread for each step i: what it wrote decays until step t.
  if (thread < {{ 4 * side }}u) {
    var left = 1.0;
    for (var t = thread + 1u; t < {{ 4 * side }}u; t++) {
      left *= kept(chunk, t);
      products[t * {{ 4 * side }}u + thread] *= left;
    }
  }
  workgroupBarrier();
//# endif
//# else
  let n_columns = params.v_dim;
//# endif
  for (var column = thread; column < n_columns; column += {{ side * side }}u) {
//# if has_decay
    // What is left of the memory before the chunk, in the columns that stand for it.
    var left = 1.0;
//# endif
//# for i in range(4 * side)
    var x{{ i }} = load(chunk, {{ i }}u, column);
//# if has_decay
    left *= kept(chunk, {{ i }}u);
    x{{ i }} *= select(1.0, left, column >= params.v_dim);
//# endif
//# if has_erase
//# for j in range(i)
    x{{ i }} -= products[{{ i * 4 * side + j }}] * x{{ j }};
//# endfor
//# endif
    store(chunk, {{ i }}u, column, x{{ i }});
//# endfor
  }
}
