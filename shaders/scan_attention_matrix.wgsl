// scan_attention on matrix units: operands and results as in scan_attention.wgsl, products of matrices of
// {{ size }} x {{ size }} numbers that the threads of a subgroup make together, from f16 to sums in f32.
//
//# set rows = queries
//# set row_quads = rows // 4
//# set lanes = threads // row_quads
//# set strips = rows // size
//# set key_matrices = tile // size
// A workgroup of {{ threads }} threads owns {{ rows }} queries of one head and walks over its share of the keys, {{ tile }} at
// a time; a subgroup multiplies {{ size }} queries at a time. Between the two products, scores and sums of weighted
// values pass through workgroup memory, where {{ lanes }} threads own four queries: each takes {{ tile // lanes }} keys of
// the scores and every {{ lanes }}-th vector of the values, whose running sums it holds.
//
// Numbers are rounded to f16. Where some have no finite number there, the rest of this group's scores, or of its
// weighted values, is made in f32, number by number.
// Weights are multiplied by {{ weight_scale }}, so that small ones are not lost in f16; what is summed of them is divided.
enable f16;
enable wgpu_cooperative_matrix;

// Rows of matrices begin at multiples of 16 bytes, and banks apart. First in the file, so that the arrays do, too.
//# set q_stride = depth + 8
//# set v_stride = v_read + 8
//# set weight_stride = tile + 8
//# set score_stride = tile + 4
// Weights begin where keys did; values lie behind them.
//# set values_at = rows * weight_stride
var<workgroup> queries: array<f16, {{ rows * q_stride }}>;
var<workgroup> halves: array<f16, {{ halves }}>;
// Scores; then the sums of {{ tile }} columns of weighted values.
var<workgroup> scores: array<f32, {{ rows * score_stride }}>;
// What the threads of four queries exchange.
var<workgroup> shared_rows: array<vec4<f32>, {{ threads }}>;

//# include "lib/scan_attention.wgsl"

// Not zero if queries or keys, or if values are not finite in f16.
var<workgroup> is_far: atomic<u32>;
var<workgroup> is_value_far: atomic<u32>;
var<workgroup> n_subgroups: u32;
//# if skips
// A bit for each tile of keys that some query may read.
var<workgroup> votes: atomic<u32>;
var<workgroup> read_tiles: u32;
//# endif

const WEIGHT_UNIT: f32 = 1.0 / {{ weight_scale }};

// Whether f16 has no finite number for one of four; by bits, which are those of numbers beyond 65504.
fn far4(x: vec4<f32>) -> bool {
  return any((bitcast<vec4<u32>>(x) & vec4(0x7fffffffu)) > vec4(0x477fe000u));
}

// Rows past the end are the last one: they are not stored.
fn fill_q(thread: u32, base: u32, row0: u32) {
  for (var i = thread; i < {{ rows * depth // 4 }}u; i += {{ threads }}u) {
    let row = i / {{ depth // 4 }}u;
    let quad = i % {{ depth // 4 }}u;
    // Scaled before it meets the keys, as elsewhere.
    let x = problem.scale * load_q(base + min(row0 + row, problem.n_queries - 1u) * problem.q_row, quad);
    if (far4(x)) {
      atomicStore(&is_far, 1u);
    }
    let h = vec4<f16>(x);
    let at = row * {{ q_stride }}u + 4u * quad;
//# for c in ["x", "y", "z", "w"]
    queries[at + {{ loop.index0 }}u] = h.{{ c }};
//# endfor
  }
}
//# for x, quads, stride, first, flag in [["k", depth // 4, q_stride, 0, "is_far"], ["v", v_read // 4, v_stride, values_at, "is_value_far"]]

// Rows that do not exist are zeros, as are those from `end` on.
fn fill_{{ x }}(thread: u32, batch: u32, base: u32, row0: u32, end: u32) {
  for (var i = thread; i < {{ tile * quads }}u; i += {{ threads }}u) {
    let row = row0 + i / {{ quads }}u;
    let quad = i % {{ quads }}u;
    let at = min(row, problem.n_keys - 1u);
    let x = select(vec4(0.0), load_{{ x }}(base + at * problem.{{ x }}_row, quad), row < end{{ " && exists(batch, at)" if has_mask }});
    if (far4(x)) {
      atomicStore(&{{ flag }}, 1u);
    }
    let h = vec4<f16>(x);
    let to = {{ first ~ "u + " if first }}(i / {{ quads }}u) * {{ stride }}u + 4u * quad;
//# for c in ["x", "y", "z", "w"]
    halves[to + {{ loop.index0 }}u] = h.{{ c }};
//# endfor
  }
}
//# endfor

// A score in f32.
fn score(q_at: u32, k_at: u32) -> f32 {
  var sum = 0.0;
  for (var d = 0u; d < {{ depth // 4 }}u; d++) {
    sum += dot(problem.scale * load_q(q_at, d), load_k(k_at, d));
  }
  return sum;
}

@compute @workgroup_size({{ threads }})
fn main(
  @builtin(workgroup_id) group_id: vec3<u32>,
  @builtin(num_workgroups) group_count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(num_subgroups) subgroup_count: u32,
) {
  // Uniform for the whole group, which a compiler must see: `group_index`, here.
  let group = group_id.y * group_count.x + group_id.x;
  if (group >= problem.n_groups) {
    return;
  }
  let row_thread = thread / {{ lanes }}u;
  let lane = thread % {{ lanes }}u;
  let row0 = (group % problem.q_tiles) * {{ rows }}u;
//# include "lib/scan_group.wgsl"
  let row = row0 + 4u * row_thread;
//# for r in range(4)
  let row_0_{{ r }} = min(row + {{ r }}u, problem.n_queries - 1u);
//# endfor
//# if terms
  let k_coords_base = problem.k_coords_base + batch * problem.k_coords_batch;
//# endif
//# set of = "_0"
//# include "lib/scan_queries.wgsl"

  if (thread == 0u) {
    atomicStore(&is_far, 0u);
    atomicStore(&is_value_far, 0u);
    n_subgroups = subgroup_count;
//# if skips and causal_columns
    forget_latest();
//# endif
  }
  // Subgroups may be of any size: each takes its turn. Were there more than turns, the last would be taken twice.
  let subgroups = workgroupUniformLoad(&n_subgroups);
//# if skips
  var tiles = 0u;
//# if causal_columns
//# for r in range(4)
  if (row_valid_0[{{ r }}]) {
    keep_latest({% for c in causal_columns %}q_column_0_{{ c }}[{{ r }}]{{ ", " if not loop.last }}{% endfor %});
  }
//# endfor
//# endif
//# endif
  fill_q(thread, q_base, row0);
  workgroupBarrier();

  // Above every masked score, so that those get no weight.
  var largest_0 = vec4(0.5 * MASKED);
  // Over this thread's own keys, of weights as f16 has them; its row of threads is summed at the end.
  var sum = vec4(0.0);
//# for i in range(v_quads)
//# for r in range(4)
  var out{{ r }}_0_{{ i }} = vec4(0.0);
//# endfor
//# endfor

  for (var key0 = key_begin; key0 < key_end; key0 += {{ tile }}u) {
//# if skips
//# include "lib/scan_votes.wgsl"
//# endif
    fill_k(thread, batch, k_base, key0, key_end);
    workgroupBarrier();
    for (var first = 0u; first < {{ strips }}u; first += subgroups) {
      let strip = min(first + subgroup, {{ strips - 1 }}u);
//# for j in range(key_matrices)
      var c{{ j }} = coop_mat{{ size }}x{{ size }}<f32, C>();
//# endfor
      for (var d = 0u; d < {{ depth }}u; d += {{ size }}u) {
        let a = coopLoadT<coop_mat{{ size }}x{{ size }}<f16, A>>(&queries[strip * {{ size * q_stride }}u + d], {{ q_stride }}u);
//# for j in range(key_matrices)
        let b{{ j }} = coopLoad<coop_mat{{ size }}x{{ size }}<f16, B>>(&halves[{{ j * size * q_stride }}u + d], {{ q_stride }}u);
        c{{ j }} = coopMultiplyAdd(a, b{{ j }}, c{{ j }});
//# endfor
      }
//# for j in range(key_matrices)
      coopStoreT(c{{ j }}, &scores[strip * {{ size * score_stride }}u + {{ j * size }}u], {{ score_stride }}u);
//# endfor
    }
    workgroupBarrier();

    let is_score_far = atomicLoad(&is_far) != 0u;
    var top = vec4(MASKED);
    var trace = vec4(0.0);
    let own = 4u * row_thread * {{ score_stride }}u + lane;
    for (var c = 0u; c < {{ tile }}u; c += {{ lanes }}u) {
      let key = key0 + c + lane;
//# include "lib/scan_keys.wgsl"
      var s = vec4({% for r in range(4) %}scores[own + c + {{ r * score_stride }}u]{{ ", " if r < 3 }}{% endfor %});
      if (is_score_far) {
        let k_at = k_base + at * problem.k_row;
//# for r in range(4)
        s.{{ ["x", "y", "z", "w"][r] }} = score(q_base + row_0_{{ r }} * problem.q_row, k_at);
//# endfor
      }
      {{ "var" if by_pair else "let" }} pair = vec4(valid);
//# include "lib/scan_pairs.wgsl"
      s = select(vec4(MASKED), s, pair);
//# for r in range(4)
      scores[own + c + {{ r * score_stride }}u] = s.{{ ["x", "y", "z", "w"][r] }};
//# endfor
      top = max(top, s);
      trace = 0.5 * trace + 0x1p-70 * s;
    }
    shared_rows[thread] = top;
    fill_v(thread, batch, v_base, key0, key_end);
    // Every subgroup has read the keys, whose place the weights take.
    workgroupBarrier();
    var tile_largest = largest_0;
    for (var i = 0u; i < {{ lanes }}u; i++) {
      tile_largest = max(tile_largest, shared_rows[row_thread * {{ lanes }}u + i]);
    }
    let decay = exp(largest_0 - tile_largest);
    largest_0 = tile_largest;
    sum *= decay;
    // A maximum or an exponential may not keep what is not finite: these small sums tell it.
    sum = select(sum, vec4(not_a_number(thread)), lost4(trace));
    for (var c = 0u; c < {{ tile }}u; c += {{ lanes }}u) {
      let s = vec4({% for r in range(4) %}scores[own + c + {{ r * score_stride }}u]{{ ", " if r < 3 }}{% endfor %});
      // What overflows f16 here belongs to a row that is lost.
      let weight = vec4<f16>({{ weight_scale }} * exp(s - largest_0));
      sum += WEIGHT_UNIT * vec4<f32>(weight);
      let to = 4u * row_thread * {{ weight_stride }}u + c + lane;
//# for r in range(4)
      halves[to + {{ r * weight_stride }}u] = weight.{{ ["x", "y", "z", "w"][r] }};
//# endfor
    }
//# for i in range(v_quads)
//# for r in range(4)
    out{{ r }}_0_{{ i }} *= decay.{{ ["x", "y", "z", "w"][r] }};
//# endfor
//# endfor
    if (workgroupUniformLoad(&is_value_far) != 0u) {
      for (var j = 0u; j < min({{ tile }}u, key_end - key0); j++) {
//# if has_mask
        if (!exists(batch, key0 + j)) {
          continue;
        }
//# endif
        let at = v_base + (key0 + j) * problem.v_row;
//# for r in range(4)
        let p{{ r }} = exp(scores[(4u * row_thread + {{ r }}u) * {{ score_stride }}u + j] - largest_0.{{ ["x", "y", "z", "w"][r] }});
//# endfor
//# for i in range(v_quads)
        {
          let x = load_v(at, min(lane + {{ i * lanes }}u, {{ v_dim // 4 - 1 }}u));
//# for r in range(4)
          out{{ r }}_0_{{ i }} += {{ "select(p" ~ r ~ " * x, vec4(0.0), p" ~ r ~ " == 0.0)" if by_pair else "p" ~ r ~ " * x" }};
//# endfor
        }
//# endfor
      }
    } else {
      // The next keys are not multiplied before every thread has read the sums: a barrier follows their load.
//# for chunk in range(n_v)
//# set left = v_read - chunk * tile
//# set columns_here = tile if left > tile else left
//# set value_matrices = columns_here // size
      for (var first = 0u; first < {{ strips }}u; first += subgroups) {
        let strip = min(first + subgroup, {{ strips - 1 }}u);
//# for j in range(value_matrices)
        var c{{ j }} = coop_mat{{ size }}x{{ size }}<f32, C>();
//# endfor
        for (var i = 0u; i < {{ tile }}u; i += {{ size }}u) {
          let a = coopLoadT<coop_mat{{ size }}x{{ size }}<f16, A>>(&halves[strip * {{ size * weight_stride }}u + i], {{ weight_stride }}u);
//# for j in range(value_matrices)
          let b{{ j }} = coopLoadT<coop_mat{{ size }}x{{ size }}<f16, B>>(&halves[{{ values_at + chunk * tile + j * size }}u + i * {{ v_stride }}u], {{ v_stride }}u);
          c{{ j }} = coopMultiplyAdd(a, b{{ j }}, c{{ j }});
//# endfor
        }
//# for j in range(value_matrices)
        coopStoreT(c{{ j }}, &scores[strip * {{ size * score_stride }}u + {{ j * size }}u], {{ score_stride }}u);
//# endfor
      }
      workgroupBarrier();
//# set per_chunk = tile // 4 // lanes
//# for n in range(per_chunk)
//# set i = chunk * per_chunk + n
//# if i < v_quads
//# if lanes * (n + 1) * 4 > columns_here
      if (lane < {{ columns_here // 4 - lanes * n }}u) {
//# else
      {
//# endif
        let sums_at = 4u * row_thread * {{ score_stride }}u + 4u * (lane + {{ n * lanes }}u);
//# for r in range(4)
        out{{ r }}_0_{{ i }} += WEIGHT_UNIT * vec4({% for c in range(4) %}scores[sums_at + {{ r * score_stride + c }}u]{{ ", " if c < 3 }}{% endfor %});
//# endfor
      }
//# endif
//# endfor
//# if chunk < n_v - 1
      workgroupBarrier();
//# endif
//# endfor
    }
  }

  shared_rows[thread] = sum;
  workgroupBarrier();
//# include "lib/scan_results.wgsl"
  var total_0 = vec4(0.0);
  for (var i = 0u; i < {{ lanes }}u; i++) {
    total_0 += shared_rows[row_thread * {{ lanes }}u + i];
  }
//# set h = 0
//# set apart = 1
//# set n_v = v_quads
//# set v_across = lanes
//# set column = "lane"
//# set is_owner = "lane == 0u"
//# set and_writes = ""
//# for r in range(4)
//# include "lib/scan_store.wgsl"
//# endfor
}
