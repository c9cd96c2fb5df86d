// attention_memory_state: the memory from chunk to chunk (WY form).
//
//   k [batch, n, n_heads, head_dim] · u [batch, n_heads, n_tiles, {{ chunk }}, v_dim]
//# if has_erase
//   w [batch, n_heads, n_tiles, {{ chunk }}, head_dim]
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
// all later steps{% endif %}. A workgroup of {{ threads }} threads keeps
// {{ rows }} rows of the memory in workgroup memory, head_dim up to {{ head_dim }}:
// {{ 4 * rows * (head_dim + chunk) + (4 * chunk if has_decay else 0) }} bytes.

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
  w_base: u32,
  decay_base: u32,
}

@group(0) @binding(0) var<storage, read> k: array<f32>;
//# if has_erase
@group(0) @binding(1) var<storage, read> w: array<f32>;
//# endif
//# if has_decay
@group(0) @binding(5) var<storage, read> decay: array<f32>;
//# endif
@group(0) @binding(2) var<storage, read_write> u: array<f32>;
@group(0) @binding(3) var<storage, read_write> memory: array<f32>;
//# if has_states
@group(0) @binding(4) var<storage, read_write> states: array<f32>;
//# endif
@group(1) @binding(0) var<uniform> params: Params;

// Column d of the rows is at d * {{ rows }}.
var<workgroup> m: array<f32, {{ rows * head_dim }}>;
// What a chunk writes: step i at i * {{ rows }}.
var<workgroup> written: array<f32, {{ rows * chunk }}>;
//# if has_decay
// What the chunk leaves of what each of its steps writes.
var<workgroup> left: array<f32, {{ chunk }}>;
//# endif

//# include "lib/group.wgsl"

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
  let batch = head / params.n_heads;
  let size = {{ rows }}u * params.head_dim;

  for (var i = thread; i < size; i += {{ threads }}u) {
    let row = row0 + i % {{ rows }}u;
    var x = 0.0;
    if (row < params.v_dim) {
      x = memory[(head * params.v_dim + row) * params.head_dim + i / {{ rows }}u];
    }
    m[i] = x;
  }
  workgroupBarrier();
  for (var tile = 0u; tile < params.n_tiles; tile++) {
    let chunk = head * params.n_tiles + tile;
    let step0 = params.first_step + tile * {{ chunk }}u;
    let n_steps = min({{ chunk }}u, params.n - step0);
    let token0 = (batch * params.n + step0) * params.n_heads + head % params.n_heads;
//# if has_states
    for (var i = thread; i < size; i += {{ threads }}u) {
      // Neighbouring threads write neighbouring numbers.
      let row = row0 + i / params.head_dim;
      let d = i % params.head_dim;
      if (row < params.v_dim) {
        states[(chunk * params.v_dim + row) * params.head_dim + d] = m[d * {{ rows }}u + i / params.head_dim];
      }
    }
//# endif
//# if has_decay
    if (thread < {{ chunk }}u) {
      var x = 1.0;
      for (var i = thread + 1u; i < n_steps; i++) {
        x *= decay[params.decay_base + token0 + i * params.n_heads];
      }
      left[thread] = x;
    }
    workgroupBarrier();
//# endif
    for (var e = thread; e < {{ chunk * rows }}u; e += {{ threads }}u) {
      let i = e / {{ rows }}u;
      let row = row0 + e % {{ rows }}u;
      var x = 0.0;
      if (row < params.v_dim) {
        let at = (chunk * {{ chunk }}u + i) * params.v_dim + row;
        x = u[at];
//# if has_erase
        let w0 = (chunk * {{ chunk }}u + i) * params.head_dim;
        for (var d = 0u; d < params.head_dim; d++) {
          x -= w[params.w_base + w0 + d] * m[d * {{ rows }}u + e % {{ rows }}u];
        }
        u[at] = x;
//# endif
      }
      written[e] = x{% if has_decay %} * left[i]{% endif %};
    }
    workgroupBarrier();
    for (var e = thread; e < size; e += {{ threads }}u) {
      let d = e / {{ rows }}u;
      var x = m[e]{% if has_decay %} * decay[params.decay_base + token0] * left[0]{% endif %};
      for (var i = 0u; i < n_steps; i++) {
        x += written[i * {{ rows }}u + e % {{ rows }}u] * k[params.k_base + (token0 + i * params.n_heads) * params.head_dim + d];
      }
      m[e] = x;
    }
    workgroupBarrier();
  }
  for (var i = thread; i < size; i += {{ threads }}u) {
    let row = row0 + i % {{ rows }}u;
    if (row < params.v_dim) {
      memory[(head * params.v_dim + row) * params.head_dim + i / {{ rows }}u] = m[i];
    }
  }
}
