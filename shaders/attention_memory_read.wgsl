// attention_memory_read: y = p_r M q, a memory for each head.
//
//   q [batch, n, n_heads, head_dim] · y [batch, n, n_heads, v_dim] · p_read [batch, n, n_heads]
//# if is_chunked
//   memory [batch, n_heads, n_tiles, v_dim, head_dim]: before each chunk of {{ chunk }} steps
//   k [batch, n, n_heads, head_dim] · u [batch, n_heads, n_tiles, v_dim, {{ chunk }}]: what the steps of
//   a chunk write, so that M_t q = M q + sum over i <= t of (k_i . q) u_i
//# if has_decay
//   decay [batch, n, n_heads]: M and every u_i are multiplied by those of all steps since, t included
//# endif
//# else
//   memory [batch, n_heads, v_dim, head_dim]
//# endif
//
// A workgroup of {{ threads }} threads reads {{ chunk }} queries into as many columns, each thread 4 x 4 of them, in slices
// as deep through workgroup memory: {{ (3 if is_chunked else 2) * 4 * chunk * chunk + (4 * chunk if has_decay else 0) }} bytes.

struct Params {
  n: u32,
  n_heads: u32,
  head_dim: u32,
  v_dim: u32,
  // Tiles of {{ chunk }} steps, from `first_step` on.
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

//# set element = "vec4<f32>" if vectors else "f32"
@group(0) @binding(0) var<storage, read> q: array<{{ element }}>;
@group(0) @binding(1) var<storage, read> memory: array<{{ element }}>;
//# if has_read
@group(0) @binding(2) var<storage, read> p_read: array<f32>;
//# endif
//# if is_chunked
@group(0) @binding(3) var<storage, read> k: array<{{ element }}>;
@group(0) @binding(4) var<storage, read> u: array<{{ element }}>;
//# endif
//# if has_decay
@group(0) @binding(6) var<storage, read> decay: array<f32>;
//# endif
@group(0) @binding(5) var<storage, read_write> y: array<{{ element }}>;
@group(1) @binding(0) var<uniform> params: Params;

//# set quads = chunk // 4
// Four queries, or four rows of the memory, at one depth.
var<workgroup> q_tile: array<vec4<f32>, {{ chunk * quads }}>;
var<workgroup> m_tile: array<vec4<f32>, {{ chunk * quads }}>;
//# if is_chunked
// Four keys at one depth; then four scores of one key.
var<workgroup> k_tile: array<vec4<f32>, {{ chunk * quads }}>;
//# endif

//# include "lib/group.wgsl"
//# if has_decay
//# include "lib/decay.wgsl"
//# endif

//# for name in ["q", "memory", "k"] if name != "k" or is_chunked
// Four numbers of a row; {% if vectors %}past the last are some that nobody reads{% else %}zeros past the last{% endif %}.
fn load_{{ name }}(row: u32, d: u32) -> vec4<f32> {
  let last = params.head_dim - 1u;
//# if vectors
  return {{ name }}[params.{{ name }}_base + row * (params.head_dim / 4u) + min(d, last) / 4u];
//# else
  let at = params.{{ name }}_base + row * params.head_dim;
  let four = vec4(
    {{ name }}[at + min(d, last)], {{ name }}[at + min(d + 1u, last)], {{ name }}[at + min(d + 2u, last)],
    {{ name }}[at + min(d + 3u, last)]);
  return select(vec4(0.0), four, vec4(d) + vec4(0u, 1u, 2u, 3u) <= vec4(last));
//# endif
}

//# endfor
//# if is_chunked
// Four steps of a column.
fn load_u(column: u32, quad: u32) -> vec4<f32> {
  let at = column * {{ quads }}u + quad;
//# if vectors
  return u[params.u_base + at];
//# else
  let first = params.u_base + 4u * at;
  return vec4(u[first], u[first + 1u], u[first + 2u], u[first + 3u]);
//# endif
}

//# endif
fn store(token: u32, column: u32, values: vec4<f32>) {
//# if has_read
  let z = p_read[params.p_read_base + token] * values;
//# else
  let z = values;
//# endif
//# if vectors
  if (column < params.v_dim) {
    y[token * (params.v_dim / 4u) + column / 4u] = z;
  }
//# else
//# for c in range(4)
  if (column + {{ c }}u < params.v_dim) {
    y[token * params.v_dim + column + {{ c }}u] = z[{{ c }}];
  }
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
  let column_tiles = (params.v_dim + {{ chunk - 1 }}u) / {{ chunk }}u;
  let column0 = (group % column_tiles) * {{ chunk }}u;
  let tile = (group / column_tiles) % params.n_tiles;
  let head = group / (column_tiles * params.n_tiles);
  let step0 = params.first_step + tile * {{ chunk }}u;
  let n_steps = min({{ chunk }}u, params.n - step0);
  let token0 = ((head / params.n_heads) * params.n + step0) * params.n_heads + head % params.n_heads;
//# if is_chunked
  let m_row0 = (head * params.n_tiles + tile) * params.v_dim;
//# else
  let m_row0 = head * params.v_dim;
//# endif
  let ty = thread / {{ quads }}u;
  let tx = thread % {{ quads }}u;
  // What a thread loads of steps, and of columns; past the last are copies of it.
//# for r in range(4)
  let t{{ r }} = token0 + min(4u * tx + {{ r }}u, n_steps - 1u) * params.n_heads;
  let of_m{{ r }} = m_row0 + min(column0 + 4u * tx + {{ r }}u, params.v_dim - 1u);
//# endfor

//# for r in range(4)
  var y{{ r }} = vec4(0.0);
//# if is_chunked
  var s{{ r }} = vec4(0.0);
//# endif
//# endfor
  for (var d0 = 0u; d0 < params.head_dim; d0 += {{ chunk }}u) {
    // Four rows, four numbers of each, become four numbers of four rows.
    let d = d0 + 4u * ty;
//# for name in ["q", "memory", "k"] if name != "k" or is_chunked
    {
//# for r in range(4)
      let row{{ r }} = load_{{ name }}({{ "of_m" if name == "memory" else "t" }}{{ r }}, d);
//# endfor
//# for c in range(4)
      {{ "m" if name == "memory" else name }}_tile[(4u * ty + {{ c }}u) * {{ quads }}u + tx] = vec4(row0[{{ c }}], row1[{{ c }}], row2[{{ c }}], row3[{{ c }}]);
//# endfor
    }
//# endfor
    workgroupBarrier();
    for (var i = 0u; i < min({{ chunk }}u, params.head_dim - d0); i += 4u) {
//# for c in range(4)
      {
        let a = q_tile[(i + {{ c }}u) * {{ quads }}u + ty];
        let b = m_tile[(i + {{ c }}u) * {{ quads }}u + tx];
//# for r in range(4)
        y{{ r }} += a[{{ r }}] * b;
//# endfor
//# if is_chunked
        let k = k_tile[(i + {{ c }}u) * {{ quads }}u + tx];
//# for r in range(4)
        s{{ r }} += a[{{ r }}] * k;
//# endfor
//# endif
      }
//# endfor
    }
    workgroupBarrier();
  }
//# if is_chunked
//# if has_decay
  if (thread < {{ quads }}u) {
    decays[tx] = vec4({% for r in range(4) %}decay[params.decay_base + t{{ r }}]{{ ", " if r < 3 }}{% endfor %});
  }
  workgroupBarrier();
  let left = left_of_all(ty);
  var since = left_before(ty, tx);
//# for r in range(4)
  y{{ r }} *= left[{{ r }}];
  since = left_after(since, ty, {{ r }}u, tx);
  s{{ r }} *= since;
//# endfor
//# endif
//# for c in range(4)
  k_tile[(4u * tx + {{ c }}u) * {{ quads }}u + ty] = vec4(s0[{{ c }}], s1[{{ c }}], s2[{{ c }}], s3[{{ c }}]);
//# endfor
//# for r in range(4)
  let written{{ r }} = load_u(of_m{{ r }}, ty);
//# endfor
//# for c in range(4)
  m_tile[(4u * ty + {{ c }}u) * {{ quads }}u + tx] = vec4(written0[{{ c }}], written1[{{ c }}], written2[{{ c }}], written3[{{ c }}]);
//# endfor
  workgroupBarrier();
  // A step reads what it wrote itself and what came before: not even a zero may meet what a later
  // one writes, which may be NaN.
  for (var i = 0u; i < 4u * ty; i++) {
    let a = k_tile[i * {{ quads }}u + ty];
    let b = m_tile[i * {{ quads }}u + tx];
//# for r in range(4)
    y{{ r }} += a[{{ r }}] * b;
//# endfor
  }
//# for c in range(4)
  {
    let a = k_tile[(4u * ty + {{ c }}u) * {{ quads }}u + ty];
    let b = m_tile[(4u * ty + {{ c }}u) * {{ quads }}u + tx];
//# for r in range(4) if r >= c
    y{{ r }} += a[{{ r }}] * b;
//# endfor
  }
//# endfor
//# endif
//# for r in range(4)
  if (4u * ty + {{ r }}u < n_steps) {
    store(token0 + (4u * ty + {{ r }}u) * params.n_heads, column0 + 4u * tx, y{{ r }});
  }
//# endfor
}
