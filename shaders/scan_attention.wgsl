// scan_attention: softmax(scale q k^T + bias) v, read in blocks of keys with a running softmax.
//
//   q [batch, heads, n_queries, {{ head_dim }}] · k [.., n_keys, {{ head_dim }}] · v [.., n_keys, {{ v_dim }}],
//   each by strides, so that the projected layout [batch, length, heads * dim] fits too;
//   key_mask [batch, n_keys] · coords [batch, length, {{ n_columns }}] · matrix [batch, heads, n_queries, n_keys];
//   values like q with v's width · log_sum_exp [.., n_queries], both for each split of the keys;
//   several splits leave their largest logits instead, and their sums `lse_sums` numbers further.
//
// A workgroup of {{ side }} x {{ side }} threads owns {{ tile }} queries of one head and walks over its share of the keys,
// {{ tile }} at a time. A thread makes 4 queries x 4 keys of the scores and 4 queries x 4 columns of the
// output for every {{ tile }} columns of v. Scores never leave the group. Workgroup memory:
// {{ depth * side * 16 }} (q) + {{ kv_quads * 16 }} (k, then v) + {{ tile * side * 16 }} (weights) + {{ side * side * 16 }} (maxima) bytes.

struct Problem {
  batch: u32,
  n_heads: u32,
  n_queries: u32,
  n_keys: u32,
  n_groups: u32,
  q_tiles: u32,
  keys_per_split: u32,
  first_head: u32,
  scale: f32,
  // Strides of (batch, head, row), and where the first element is in each binding.
  q_batch: u32,
  q_head: u32,
  q_row: u32,
  q_base: u32,
  k_batch: u32,
  k_head: u32,
  k_row: u32,
  k_base: u32,
  v_batch: u32,
  v_head: u32,
  v_row: u32,
  v_base: u32,
  out_split: u32,
  out_batch: u32,
  out_head: u32,
  out_row: u32,
  values_base: u32,
  lse_split: u32,
  lse_batch: u32,
  lse_head: u32,
  lse_row: u32,
  log_sum_exp_base: u32,
  lse_sums: u32,
  q_coords_batch: u32,
  q_coords_base: u32,
  k_coords_batch: u32,
  k_coords_base: u32,
  mask_batch: u32,
  key_mask_base: u32,
  matrix_batch: u32,
  matrix_head: u32,
  matrix_row: u32,
  matrix_base: u32,
  // Heads of queries that share a head of keys and values.
  kv_group: u32,
  bias_base: u32,
//# if not bias_in_storage
  bias: array<vec4<f32>, {{ n_bias }}>,
//# endif
}

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
//# if has_mask
@group(0) @binding(3) var<storage, read> key_mask: array<f32>;
//# endif
//# if terms
@group(0) @binding(4) var<storage, read> q_coords: array<f32>;
@group(0) @binding(5) var<storage, read> k_coords: array<f32>;
//# endif
//# if has_matrix
@group(0) @binding(6) var<storage, read> matrix: array<f32>;
//# endif
//# if bias_in_storage
@group(0) @binding(9) var<storage, read> bias: array<f32>;
//# endif
@group(0) @binding(7) var<storage, read_write> values: array<f32>;
@group(0) @binding(8) var<storage, read_write> log_sum_exp: array<f32>;
@group(1) @binding(0) var<uniform> problem: Problem;

// Four queries, or four keys, at one depth; then four columns of one row of v.
var<workgroup> q_tile: array<vec4<f32>, {{ depth * side }}>;
var<workgroup> kv_tile: array<vec4<f32>, {{ kv_quads }}>;
// The weights of four queries for one key.
var<workgroup> weights: array<vec4<f32>, {{ tile * side }}>;
// What the threads of a row of threads exchange.
var<workgroup> shared_rows: array<vec4<f32>, {{ side * side }}>;

//# include "lib/group.wgsl"
//# include "lib/finite.wgsl"
//# include "lib/bias.wgsl"
//# if by_pair

// Not zero if a value is not finite: then no weight of zero may meet it.
var<workgroup> is_spoiled: atomic<u32>;
//# endif

// Scaled before it meets the keys, as on the CPU: both overflow at the same logits.
fn load_q(base: u32, row: u32, d: u32) -> f32 {
  if (row < problem.n_queries && d < {{ head_dim }}u) {
    return problem.scale * q[base + row * problem.q_row + d];
  }
  return 0.0;
}

fn load_k(base: u32, row: u32, d: u32) -> f32 {
  if (row < problem.n_keys && d < {{ head_dim }}u) {
    return k[base + row * problem.k_row + d];
  }
  return 0.0;
}

fn load_v(base: u32, row: u32, end: u32, d: u32) -> f32 {
  if (row < end && d < {{ v_dim }}u) {
    return v[base + row * problem.v_row + d];
  }
  return 0.0;
}

// Whether the mask keeps a key; the values of one that does not exist may hold anything, and
// even a weight of zero would not keep NaN out.
fn exists(batch: u32, key: u32) -> bool {
//# if has_mask
  return key < problem.n_keys && key_mask[problem.key_mask_base + batch * problem.mask_batch + key] != 0.0;
//# else
  return true;
//# endif
}

fn fill_q_tile(thread: u32, base: u32, row0: u32, d0: u32) {
  for (var slot = thread; slot < {{ depth * side }}u; slot += {{ side * side }}u) {
    // Neighbouring threads read neighbouring numbers.
    let d = slot % {{ depth }}u;
    let row = row0 + 4u * (slot / {{ depth }}u);
    q_tile[d * {{ side }}u + slot / {{ depth }}u] = vec4(
      load_q(base, row, d0 + d), load_q(base, row + 1u, d0 + d),
      load_q(base, row + 2u, d0 + d), load_q(base, row + 3u, d0 + d));
  }
}

fn fill_k_tile(thread: u32, base: u32, row0: u32, d0: u32) {
  for (var slot = thread; slot < {{ depth * side }}u; slot += {{ side * side }}u) {
    let d = slot % {{ depth }}u;
    let row = row0 + 4u * (slot / {{ depth }}u);
    kv_tile[d * {{ side }}u + slot / {{ depth }}u] = vec4(
      load_k(base, row, d0 + d), load_k(base, row + 1u, d0 + d),
      load_k(base, row + 2u, d0 + d), load_k(base, row + 3u, d0 + d));
  }
}

// Keys from `end` on are those of another split.
fn fill_v_tile(thread: u32, batch: u32, base: u32, row0: u32, end: u32, d0: u32) {
  for (var slot = thread; slot < {{ tile * side }}u; slot += {{ side * side }}u) {
    let row = row0 + slot / {{ side }}u;
    let d = d0 + 4u * (slot % {{ side }}u);
    kv_tile[slot] = vec4(0.0);
    if (exists(batch, row)) {
      let x = vec4(
        load_v(base, row, end, d), load_v(base, row, end, d + 1u),
        load_v(base, row, end, d + 2u), load_v(base, row, end, d + 3u));
      kv_tile[slot] = x;
//# if by_pair
      let bits = bitcast<vec4<u32>>(x) << vec4(1u);
      if (max(max(bits.x, bits.y), max(bits.z, bits.w)) >= 0xff000000u) {
        atomicStore(&is_spoiled, 1u);
      }
//# endif
    }
  }
}

fn store(base: u32, d: u32, value: vec4<f32>) {
  for (var c = 0u; c < 4u; c++) {
    if (d + c < {{ v_dim }}u) {
      values[base + d + c] = value[c];
    }
  }
}

@compute @workgroup_size({{ side * side }})
fn main(
  @builtin(workgroup_id) group_id: vec3<u32>,
  @builtin(num_workgroups) group_count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  // Uniform for the whole group, so no thread waits at a barrier alone.
  let group = group_index(group_id, group_count);
  if (group >= problem.n_groups) {
    return;
  }
  let row_thread = thread / {{ side }}u;
  let column_thread = thread % {{ side }}u;
  let row0 = (group % problem.q_tiles) * {{ tile }}u;
  let head = (group / problem.q_tiles) % problem.n_heads;
  let batch = (group / problem.q_tiles / problem.n_heads) % problem.batch;
  let split = group / problem.q_tiles / problem.n_heads / problem.batch;
  let key_begin = split * problem.keys_per_split;
  let key_end = min(key_begin + problem.keys_per_split, problem.n_keys);

  let q_base = problem.q_base + batch * problem.q_batch + head * problem.q_head;
  let kv_head = (problem.first_head + head) / problem.kv_group - problem.first_head / problem.kv_group;
  let k_base = problem.k_base + batch * problem.k_batch + kv_head * problem.k_head;
  let v_base = problem.v_base + batch * problem.v_batch + kv_head * problem.v_head;
  let row = row0 + 4u * row_thread;

//# if terms
  // The coordinates of this thread's queries, one vector a column.
  let q_coords_base = problem.q_coords_base + batch * problem.q_coords_batch;
  let k_coords_base = problem.k_coords_base + batch * problem.k_coords_batch;
  var row_valid = vec4(true);
//# for c in columns
  var q_column_{{ c }} = vec4(0.0);
  for (var r = 0u; r < 4u; r++) {
    if (row + r < problem.n_queries) {
      let x = q_coords[q_coords_base + (row + r) * {{ n_columns }}u + {{ c }}u];
      row_valid[r] = row_valid[r] && finite(x);
      q_column_{{ c }}[r] = select(0.0, x, finite(x));
    }
  }
//# endfor
//# for t in terms if t.kind == "great_circle"
  var q_x_{{ t.index }}: vec4<f32>;
  var q_y_{{ t.index }}: vec4<f32>;
  var q_z_{{ t.index }}: vec4<f32>;
  var q_c_{{ t.index }}: vec4<f32>;
  for (var r = 0u; r < 4u; r++) {
    let u = unit_vector(q_column_{{ t.first }}[r], q_column_{{ t.first + 1 }}[r]);
    q_x_{{ t.index }}[r] = u.x;
    q_y_{{ t.index }}[r] = u.y;
    q_z_{{ t.index }}[r] = u.z;
    q_c_{{ t.index }}[r] = u.w;
  }
//# endfor
//# endif

//# if by_pair
  if (thread == 0u) {
    atomicStore(&is_spoiled, 0u);
  }
//# endif
  // Above every masked score, so that those get no weight.
  var largest = vec4(0.5 * MASKED);
  // Over this thread's own keys; its row of threads is summed at the end.
  var sum = vec4(0.0);
//# for chunk in range(n_v)
//# for r in range(4)
  var out{{ r }}_{{ chunk }} = vec4(0.0);
//# endfor
//# endfor
//# if n_depth == 1
  fill_q_tile(thread, q_base, row0, 0u);
//# endif

  for (var key0 = key_begin; key0 < key_end; key0 += {{ tile }}u) {
//# for c in range(4)
    // Four queries against key {{ c }} of this thread's four.
    var score{{ c }} = vec4(0.0);
//# endfor
//# for chunk in range(n_depth)
//# if n_depth > 1
    fill_q_tile(thread, q_base, row0, {{ chunk * depth }}u);
//# endif
    fill_k_tile(thread, k_base, key0, {{ chunk * depth }}u);
    workgroupBarrier();
    for (var d = 0u; d < {{ depth }}u; d += 4u) {
//# for u in range(4)
      {
        let a = q_tile[(d + {{ u }}u) * {{ side }}u + row_thread];
        let b = kv_tile[(d + {{ u }}u) * {{ side }}u + column_thread];
        score0 += a * b.x;
        score1 += a * b.y;
        score2 += a * b.z;
        score3 += a * b.w;
      }
//# endfor
    }
//# if not loop.last
    workgroupBarrier();
//# endif
//# endfor

//# for c in range(4)
    {
      let key = key0 + 4u * column_thread + {{ c }}u;
      var valid = key < key_end;
//# if by_pair
      var s = score{{ c }};
      var pair = vec4(true);
//# endif
      if (valid) {
        valid = exists(batch, key);
//# if terms
        pair = row_valid;
//# for column in columns
        var k_column_{{ column }} = k_coords[k_coords_base + key * {{ n_columns }}u + {{ column }}u];
        valid = valid && finite(k_column_{{ column }});
        k_column_{{ column }} = select(0.0, k_column_{{ column }}, finite(k_column_{{ column }}));
//# endfor
//# for t in terms
        {
//# if t.kind == "great_circle"
          let u = unit_vector(k_column_{{ t.first }}, k_column_{{ t.first + 1 }});
          let term = term_{{ t.index }}(
            problem.first_head + head, q_x_{{ t.index }}, u.x, q_y_{{ t.index }}, u.y, q_z_{{ t.index }}, u.z,
            q_c_{{ t.index }}, u.w, q_column_{{ t.first }}, k_column_{{ t.first }},
            q_column_{{ t.first + 1 }}, k_column_{{ t.first + 1 }});
//# else
          let term = term_{{ t.index }}(
            problem.first_head + head,
{%- for i in range(t.width) %} q_column_{{ t.first + i }}, k_column_{{ t.first + i }},{% endfor %});
//# endif
          s += term.bias;
          pair = pair & term.kept;
        }
//# endfor
//# endif
//# if has_matrix
        for (var r = 0u; r < 4u; r++) {
          if (row + r < problem.n_queries) {
            let i = problem.matrix_base + batch * problem.matrix_batch + head * problem.matrix_head;
            let x = matrix[i + (row + r) * problem.matrix_row + key];
            s[r] += x;
            pair[r] = pair[r] && finite(x) && x > 0.5 * MASKED;
          }
        }
//# endif
      }
//# if by_pair
      score{{ c }} = select(vec4(MASKED), s, pair & vec4(valid));
//# else
      score{{ c }} = select(vec4(MASKED), score{{ c }}, valid);
//# endif
    }
//# endfor

    shared_rows[thread] = max(max(score0, score1), max(score2, score3));
    // Every thread has read the keys, and every row of threads shown its maxima.
    workgroupBarrier();
    var tile_largest = largest;
    for (var i = 0u; i < {{ side }}u; i++) {
      tile_largest = max(tile_largest, shared_rows[row_thread * {{ side }}u + i]);
    }
    let decay = exp(largest - tile_largest);
    largest = tile_largest;
    sum *= decay;
    // A maximum or an exponential may not keep what is not finite: these small sums tell it. Their
    // factors differ, lest a compiler sums the scores first, which could overflow.
    let trace = 0x1p-70 * score0 + 0x1p-71 * score1 + 0x1p-72 * score2 + 0x1p-73 * score3;
    for (var r = 0u; r < 4u; r++) {
      sum[r] = select(sum[r], not_a_number(thread), is_lost(trace[r]));
    }
//# for c in range(4)
    {
      let weight = exp(score{{ c }} - largest);
      sum += weight;
      weights[(4u * column_thread + {{ c }}u) * {{ side }}u + row_thread] = weight;
    }
//# endfor
//# for chunk in range(n_v)
    fill_v_tile(thread, batch, v_base, key0, key_end, {{ chunk * tile }}u);
    workgroupBarrier();
//# for r in range(4)
    out{{ r }}_{{ chunk }} *= decay[{{ r }}];
//# endfor
//# if by_pair
    if (atomicLoad(&is_spoiled) != 0u) {
      // As long as there are keys: a length that compilers cannot unroll.
      for (var j = 0u; j < min({{ tile }}u, key_end - key0); j++) {
        let p = weights[j * {{ side }}u + row_thread];
        let x = kv_tile[j * {{ side }}u + column_thread];
//# for r in range(4)
        out{{ r }}_{{ chunk }} += select(p[{{ r }}] * x, vec4(0.0), p[{{ r }}] == 0.0);
//# endfor
      }
    } else {
//# endif
    for (var j = 0u; j < {{ tile }}u; j += 4u) {
//# for u in range(4)
      {
        let p = weights[(j + {{ u }}u) * {{ side }}u + row_thread];
        let x = kv_tile[(j + {{ u }}u) * {{ side }}u + column_thread];
        out0_{{ chunk }} += p.x * x;
        out1_{{ chunk }} += p.y * x;
        out2_{{ chunk }} += p.z * x;
        out3_{{ chunk }} += p.w * x;
      }
//# endfor
    }
//# if by_pair
    }
//# endif
    workgroupBarrier();
//# endfor
  }

  shared_rows[thread] = sum;
  workgroupBarrier();
  var total = vec4(0.0);
  for (var i = 0u; i < {{ side }}u; i++) {
    total += shared_rows[row_thread * {{ side }}u + i];
  }
  let out_base = problem.values_base + split * problem.out_split + batch * problem.out_batch + head * problem.out_head;
  let lse_base = problem.log_sum_exp_base + split * problem.lse_split + batch * problem.lse_batch + head * problem.lse_head;
//# for r in range(4)
  if (row + {{ r }}u < problem.n_queries) {
    let base = out_base + (row + {{ r }}u) * problem.out_row;
    let is_lost = is_lost(total[{{ r }}]);
    // A row without a valid key reads as zeros.
    let is_empty = largest[{{ r }}] <= 0.5 * MASKED && !is_lost;
    let inverse = select(1.0 / total[{{ r }}], total[{{ r }}], is_lost);
//# for chunk in range(n_v)
    store(base, {{ chunk * tile }}u + 4u * column_thread, select(out{{ r }}_{{ chunk }} * inverse, vec4(0.0), is_empty));
//# endfor
    if (column_thread == 0u) {
      let at = lse_base + (row + {{ r }}u) * problem.lse_row;
      let first = select(select(largest[{{ r }}], MASKED, is_empty), total[{{ r }}], is_lost);
      if (problem.lse_sums > 0u) {
        log_sum_exp[at] = first;
        log_sum_exp[at + problem.lse_sums] = total[{{ r }}];
      } else {
        log_sum_exp[at] = first + select(log(total[{{ r }}]), 0.0, is_empty || is_lost);
      }
    }
  }
//# endfor
}
