// attention_memory: write, erase and read step by step, a memory for each head.
//
//   {% if has_decay %}M = decay M, then {% endif %}M = M + p_w v k^T - p_e (M k) k^T, then y = p_r M q
//
//   q, k [batch, n, n_heads, head_dim] · v, y [batch, n, n_heads, v_dim]
//   p_read, p_write, p_erase, decay [batch, n, n_heads]
//   memory [batch, n_heads, v_dim, head_dim]: read, and written at the end
//
//# set row_vectors = vectors * parts
// Rows of a memory do not depend on each other. {{ "A thread keeps one" if parts == 1 else parts ~ " threads keep one" }} in registers, {{ 4 * vectors }} numbers{{ " each" if parts > 1 }},
// {{ threads }} threads in a workgroup. Keys{% if has_query %} and queries{% endif %} go through workgroup memory, {{ steps }} steps at a
// time: {{ (2 if has_query else 1) * steps * row_vectors * 16 }} bytes{% if parts > 1 %}; so do sums over a row{% endif %}.

struct Params {
  n: u32,
  n_heads: u32,
  head_dim: u32,
  v_dim: u32,
  first_step: u32,
  // Past the last step.
  end: u32,
  // In workgroup memory at a time: constant, but a loop that a compiler cannot unroll needs fewer registers.
  steps: u32,
  first_group: u32,
  n_groups: u32,
  // Where the first element is in each binding.
  q_base: u32,
  k_base: u32,
  v_base: u32,
  p_read_base: u32,
  p_write_base: u32,
  p_erase_base: u32,
  decay_base: u32,
}

//# if has_query
@group(0) @binding(0) var<storage, read> q: array<f32>;
//# endif
@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
//# if has_read
@group(0) @binding(3) var<storage, read> p_read: array<f32>;
//# endif
//# if has_write
@group(0) @binding(4) var<storage, read> p_write: array<f32>;
//# endif
//# if has_erase
@group(0) @binding(5) var<storage, read> p_erase: array<f32>;
//# endif
//# if has_decay
@group(0) @binding(8) var<storage, read> decay: array<f32>;
//# endif
@group(0) @binding(6) var<storage, read_write> memory: array<f32>;
//# if has_query
@group(0) @binding(7) var<storage, read_write> y: array<f32>;
//# endif
@group(1) @binding(0) var<uniform> params: Params;

var<workgroup> k_tile: array<vec4<f32>, {{ steps * row_vectors }}>;
//# if has_query
var<workgroup> q_tile: array<vec4<f32>, {{ steps * row_vectors }}>;
//# endif
//# if parts > 1 and has_erase
// A thread's part of what the memory knows of a key; of one step and of the next.
var<workgroup> known_parts: array<f32, {{ 2 * threads }}>;
//# endif
//# if parts > 1 and has_query
// Its part of what each step reads.
var<workgroup> read_parts: array<f32, {{ steps * threads }}>;
//# endif

//# include "lib/group.wgsl"

fn load_k(token: u32, d: u32, exists: bool) -> f32 {
  if (exists && d < params.head_dim) {
    return k[params.k_base + token * params.head_dim + d];
  }
  return 0.0;
}

//# if has_query
fn load_q(token: u32, d: u32, exists: bool) -> f32 {
  if (exists && d < params.head_dim) {
    return q[params.q_base + token * params.head_dim + d];
  }
  return 0.0;
}
//# endif

fn load_m(row: u32, d: u32, exists: bool) -> f32 {
  if (exists && d < params.head_dim) {
    return memory[row * params.head_dim + d];
  }
  return 0.0;
}

fn store_m(row: u32, d: u32, m: vec4<f32>) {
  for (var c = 0u; c < 4u; c++) {
    if (d + c < params.head_dim) {
      memory[row * params.head_dim + d + c] = m[c];
    }
  }
}

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
//# set rows = threads // parts
  let row_tiles = (params.v_dim + {{ rows - 1 }}u) / {{ rows }}u;
  let row = (group % row_tiles) * {{ rows }}u + thread{{ " / " ~ parts ~ "u" if parts > 1 }};
//# if parts > 1
  // Neighbours keep vectors that are neighbours.
  let part = thread % {{ parts }}u;
//# endif
  let head = group / row_tiles;
  let batch = head / params.n_heads;
  let exists = row < params.v_dim;
  let m_row = head * params.v_dim + row;
  let token0 = batch * params.n * params.n_heads + head % params.n_heads;

//# for i in range(vectors)
//# set d = 4 * parts * i ~ "u" ~ (" + 4u * part" if parts > 1 else "")
  var m{{ i }} = vec4(
    load_m(m_row, {{ d }}, exists), load_m(m_row, {{ d }} + 1u, exists),
    load_m(m_row, {{ d }} + 2u, exists), load_m(m_row, {{ d }} + 3u, exists));
//# endfor
  for (var first = params.first_step; first < params.end; first += {{ steps }}u) {
//# set n_slots = steps * row_vectors
//# include "lib/slots.wgsl"
      let step = first + slot / {{ row_vectors }}u;
      let token = token0 + step * params.n_heads;
      let d = 4u * (slot % {{ row_vectors }}u);
      let there = step < params.end;
      k_tile[slot] = vec4(
        load_k(token, d, there), load_k(token, d + 1u, there), load_k(token, d + 2u, there), load_k(token, d + 3u, there));
//# if has_query
      q_tile[slot] = vec4(
        load_q(token, d, there), load_q(token, d + 1u, there), load_q(token, d + 2u, there), load_q(token, d + 3u, there));
//# endif
    }
    workgroupBarrier();
    let n_steps = min(params.steps, params.end - first);
    for (var i = 0u; i < n_steps; i++) {
      let token = token0 + (first + i) * params.n_heads;
      let at = i * {{ row_vectors }}u{{ " + part" if parts > 1 }};
//# if has_decay
      let kept = decay[params.decay_base + token];
//# for i in range(vectors)
      m{{ i }} *= kept;
//# endfor
//# endif
      var x = 0.0;
      if (exists) {
        x = v[params.v_base + token * params.v_dim + row];
      }
//# if has_write
      x *= p_write[params.p_write_base + token];
//# endif
//# if has_erase
      var known = vec4(0.0);
//# for i in range(vectors)
      known += m{{ i }} * k_tile[at + {{ parts * i }}u];
//# endfor
      var known_of_row = known.x + known.y + known.z + known.w;
//# if parts > 1
      // Two places in turn: who writes one has met, in the step between, all who read it.
      let place = i % 2u * {{ threads }}u;
      known_parts[place + thread] = known_of_row;
      workgroupBarrier();
      known_of_row = 0.0;
//# for p in range(parts)
      known_of_row += known_parts[place + thread - part + {{ p }}u];
//# endfor
//# endif
      x -= p_erase[params.p_erase_base + token] * known_of_row;
//# endif
//# for i in range(vectors)
      m{{ i }} += x * k_tile[at + {{ parts * i }}u];
//# endfor
//# if has_query
      // An infinite x leaves NaN where a key has no number, and what this step reads would meet it.
      if (params.head_dim < {{ 4 * row_vectors }}u) {
//# for i in range(vectors)
        let d{{ i }} = {{ 4 * parts * i }}u{{ " + 4u * part" if parts > 1 }} + vec4(0u, 1u, 2u, 3u);
        m{{ i }} = select(vec4(0.0), m{{ i }}, d{{ i }} < vec4(params.head_dim));
//# endfor
      }
      var sum = vec4(0.0);
//# for i in range(vectors)
      sum += m{{ i }} * q_tile[at + {{ parts * i }}u];
//# endfor
//# endif
//# if has_query and parts > 1
      read_parts[i * {{ threads }}u + thread] = sum.x + sum.y + sum.z + sum.w;
//# elif has_query
      if (exists) {
        var z = sum.x + sum.y + sum.z + sum.w;
//# if has_read
        z *= p_read[params.p_read_base + token];
//# endif
        y[token * params.v_dim + row] = z;
      }
//# endif
    }
    workgroupBarrier();
//# if has_query and parts > 1
    // Each thread of a row has other steps.
    for (var i = 0u; i < n_steps; i += {{ parts }}u) {
      let step = i + part;
      if (exists && step < n_steps) {
        let token = token0 + (first + step) * params.n_heads;
        var z = 0.0;
//# for p in range(parts)
        z += read_parts[step * {{ threads }}u + thread - part + {{ p }}u];
//# endfor
//# if has_read
        z *= p_read[params.p_read_base + token];
//# endif
        y[token * params.v_dim + row] = z;
      }
    }
//# endif
  }
  if (exists) {
//# for i in range(vectors)
    store_m(m_row, {{ 4 * parts * i }}u{{ " + 4u * part" if parts > 1 }}, m{{ i }});
//# endfor
  }
}
