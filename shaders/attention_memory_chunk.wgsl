// attention_memory_chunk: what the steps of a chunk write, but for the memory before it (WY form).
//
//   k [batch, n, n_heads, head_dim] · v [batch, n, n_heads, v_dim]
//   p_write, p_erase{% if has_decay %}, decay{% endif %} [batch, n, n_heads]
//   u [batch, n_heads, n_tiles, v_dim, {{ chunk }}]
//# if has_erase
//   w [batch, n_heads, n_tiles, head_dim, {{ chunk }}]
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
// A workgroup of {{ threads }} threads takes a chunk of {{ chunk }} steps: the products of its keys, 4 x 4 a thread,
// then {{ wide }} column{{ "s" if wide > 1 }} a thread. What is past the last step is as the last. Workgroup memory:
// {{ (32 * chunk * chunk // 4 + (3 if has_decay else 2) * 4 * chunk) if has_erase else 0 }} bytes.

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

//# set element = "vec4<f32>" if vectors else "f32"
//# if has_erase
@group(0) @binding(0) var<storage, read> k: array<f32>;
//# endif
@group(0) @binding(1) var<storage, read> v: array<f32>;
//# if has_write
@group(0) @binding(2) var<storage, read> p_write: array<f32>;
//# endif
//# if has_erase
@group(0) @binding(3) var<storage, read> p_erase: array<f32>;
@group(0) @binding(4) var<storage, read_write> w: array<{{ element }}>;
//# if has_decay
@group(0) @binding(6) var<storage, read> decay: array<f32>;
//# endif
//# endif
@group(0) @binding(5) var<storage, read_write> u: array<{{ element }}>;
@group(1) @binding(0) var<uniform> params: Params;

//# set quads = chunk // 4
//# if has_erase
// Four keys at one depth.
var<workgroup> k_tile: array<vec4<f32>, {{ chunk * quads }}>;
// p_e (k_t . k_i), row t.
var<workgroup> products: array<vec4<f32>, {{ chunk * quads }}>;
// What columns of v and of k are multiplied by.
var<workgroup> of_v: array<vec4<f32>, {{ quads }}>;
var<workgroup> of_k: array<vec4<f32>, {{ quads }}>;
//# if has_decay
//# include "lib/decay.wgsl"
//# endif
//# endif

//# include "lib/group.wgsl"

struct Chunk {
  token0: u32,
  // Its last step.
  last: u32,
  // Of all chunks.
  index: u32,
}

fn token(chunk: Chunk, i: u32) -> u32 {
  return chunk.token0 + min(i, chunk.last) * params.n_heads;
}

//# if has_erase
// Four numbers of a key; zeros past the last.
fn load_k(chunk: Chunk, i: u32, d: u32) -> vec4<f32> {
  let last = params.head_dim - 1u;
  let at = params.k_base + token(chunk, i) * params.head_dim;
  let four = vec4(k[at + min(d, last)], k[at + min(d + 1u, last)], k[at + min(d + 2u, last)], k[at + min(d + 3u, last)]);
  return select(vec4(0.0), four, vec4(d) + vec4(0u, 1u, 2u, 3u) <= vec4(last));
}

fn store_w(chunk: Chunk, d: u32, quad: u32, four: vec4<f32>) {
  let at = (chunk.index * params.head_dim + d) * {{ quads }}u + quad;
//# if vectors
  w[at] = four;
//# else
//# for c in range(4)
  w[4u * at + {{ c }}u] = four[{{ c }}];
//# endfor
//# endif
}
//# endif

//# if has_write
fn write(chunk: Chunk, i: u32) -> f32 {
  return p_write[params.p_write_base + token(chunk, i)];
}
//# endif

fn store_u(chunk: Chunk, column: u32, quad: u32, four: vec4<f32>) {
  let at = (chunk.index * params.v_dim + column) * {{ quads }}u + quad;
//# if vectors
  u[at] = four;
//# else
//# for c in range(4)
  u[4u * at + {{ c }}u] = four[{{ c }}];
//# endfor
//# endif
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
  let head = group / params.n_tiles;
  let step0 = params.first_step + (group % params.n_tiles) * {{ chunk }}u;
  let token0 = ((head / params.n_heads) * params.n + step0) * params.n_heads + head % params.n_heads;
  let last = min({{ chunk }}u, params.n - step0) - 1u;
  let chunk = Chunk(token0, last, group);
//# if has_erase
  let ty = thread / {{ quads }}u;
  let tx = thread % {{ quads }}u;
  if (thread < {{ quads }}u) {
//# if has_write
    of_v[thread] = vec4({% for c in range(4) %}write(chunk, 4u * thread + {{ c }}u){{ ", " if c < 3 }}{% endfor %});
//# else
    of_v[thread] = vec4(1.0);
//# endif
    of_k[thread] = vec4(
//# for c in range(4)
      p_erase[params.p_erase_base + token(chunk, 4u * thread + {{ c }}u)]{{ "," if c < 3 }}
//# endfor
    );
//# if has_decay
    decays[thread] = vec4(
//# for c in range(4)
      decay[params.decay_base + token(chunk, 4u * thread + {{ c }}u)]{{ "," if c < 3 }}
//# endfor
    );
//# endif
  }
//# for r in range(4)
  var s{{ r }} = vec4(0.0);
//# endfor
  for (var d0 = 0u; d0 < params.head_dim; d0 += {{ chunk }}u) {
    // Four keys, four numbers of each, become four numbers of four keys.
//# for r in range(4)
    let key{{ r }} = load_k(chunk, 4u * tx + {{ r }}u, d0 + 4u * ty);
//# endfor
//# for c in range(4)
    k_tile[(4u * ty + {{ c }}u) * {{ quads }}u + tx] = vec4(key0[{{ c }}], key1[{{ c }}], key2[{{ c }}], key3[{{ c }}]);
//# endfor
    workgroupBarrier();
    for (var d = 0u; d < min({{ chunk }}u, params.head_dim - d0); d += 4u) {
//# for i in range(4)
      {
        let a = k_tile[(d + {{ i }}u) * {{ quads }}u + ty];
        let b = k_tile[(d + {{ i }}u) * {{ quads }}u + tx];
//# for r in range(4)
        s{{ r }} += a[{{ r }}] * b;
//# endfor
      }
//# endfor
    }
    workgroupBarrier();
  }
//# if has_decay
  // What step i wrote decays until step t.
  var left = left_before(ty, tx);
//# endif
  let erase = of_k[ty];
//# for r in range(4)
//# if has_decay
  left = left_after(left, ty, {{ r }}u, tx);
  s{{ r }} *= left;
//# endif
  products[(4u * ty + {{ r }}u) * {{ quads }}u + tx] = erase[{{ r }}] * s{{ r }};
//# endfor
  workgroupBarrier();
//# if has_decay
  // What is left of the memory before the chunk, in the columns that stand for it.
  if (thread < {{ quads }}u) {
    of_k[thread] *= left_of_all(thread);
  }
//# endif
  let n_columns = params.v_dim + params.head_dim;
  for (var first = 0u; first < n_columns; first += {{ wide * threads }}u) {
    // Also keeps a compiler from reading all products before the loop, into more registers than there are.
    workgroupBarrier();
//# for a in range(wide)
    let column{{ a }} = first + thread + {{ a * threads }}u;
//# for i in range(chunk)
    var x{{ a }}_{{ i }}: f32;
//# endfor
    if (column{{ a }} < params.v_dim) {
      let at = params.v_base + token0 * params.v_dim + column{{ a }};
      let stride = params.n_heads * params.v_dim;
//# for i in range(chunk)
      x{{ a }}_{{ i }} = of_v[{{ i // 4 }}][{{ i % 4 }}] * v[at + min({{ i }}u, last) * stride];
//# endfor
    } else if (column{{ a }} < n_columns) {
      let at = params.k_base + token0 * params.head_dim + column{{ a }} - params.v_dim;
      let stride = params.n_heads * params.head_dim;
//# for i in range(chunk)
      x{{ a }}_{{ i }} = of_k[{{ i // 4 }}][{{ i % 4 }}] * k[at + min({{ i }}u, last) * stride];
//# endfor
    }
//# endfor
//# for i in range(chunk)
//# for j4 in range((i + 3) // 4)
    {
      let p = products[{{ i * quads + j4 }}u];
//# for c in range(4) if 4 * j4 + c < i
//# for a in range(wide)
      x{{ a }}_{{ i }} -= p[{{ c }}] * x{{ a }}_{{ 4 * j4 + c }};
//# endfor
//# endfor
    }
//# endfor
//# endfor
//# for a in range(wide)
    if (column{{ a }} < params.v_dim) {
//# for q in range(quads)
      store_u(chunk, column{{ a }}, {{ q }}u, vec4(x{{ a }}_{{ 4 * q }}, x{{ a }}_{{ 4 * q + 1 }}, x{{ a }}_{{ 4 * q + 2 }}, x{{ a }}_{{ 4 * q + 3 }}));
//# endfor
    } else if (column{{ a }} < n_columns) {
//# for q in range(quads)
      store_w(
        chunk, column{{ a }} - params.v_dim, {{ q }}u,
        vec4(x{{ a }}_{{ 4 * q }}, x{{ a }}_{{ 4 * q + 1 }}, x{{ a }}_{{ 4 * q + 2 }}, x{{ a }}_{{ 4 * q + 3 }}));
//# endfor
    }
//# endfor
  }
//# else
  let stride = params.n_heads * params.v_dim;
  for (var column = thread; column < params.v_dim; column += {{ threads }}u) {
    let at = params.v_base + token0 * params.v_dim + column;
//# for q in range(quads)
    store_u(chunk, column, {{ q }}u, vec4(
//# for c in range(4)
      {% if has_write %}write(chunk, {{ 4 * q + c }}u) * {% endif %}v[at + min({{ 4 * q + c }}u, last) * stride]{{ "," if c < 3 }}
//# endfor
    ));
//# endfor
  }
//# endif
}
