// scan_attention: softmax(scale q k^T + bias) v, read in blocks of keys with a running softmax.
//
//   q [batch, heads, n_queries, {{ head_dim }}] · k [.., n_keys, {{ head_dim }}] · v [.., n_keys, {{ v_dim }}],
//   each by strides, so that the projected layout [batch, length, heads * dim] fits too;
//   key_mask [batch, n_keys] · coords [batch, length, {{ n_columns }}] · matrix [batch, heads, n_queries, n_keys];
//   values like q with v's width · log_sum_exp [.., n_queries], both for each split of the keys;
//   several splits leave their largest logits instead, and their sums `lse_sums` numbers further.
//
//# set rows = 4 * quads
//# set slots = quads * side
//# set threads = side * across
// A workgroup of {{ side }} x {{ across }} threads owns {{ side * rows }} queries of one head and walks over its share of the
// keys, {{ tile }} at a time. A thread makes {{ rows }} queries x 4 keys of the scores and {{ rows }} queries x 4 columns of
// the output for every {{ tile }} columns of v, of which it takes {{ slice }} rows at a time. Scores never leave the group.
// Workgroup memory: {{ slots * left * 16 }} (q, then weights) + {{ across * slice * 16 }} (k, then v)
// + {{ threads * quads * 16 }} (maxima){{ " + " ~ slots * n_places * 16 ~ " (coordinates)" if n_places > 0 }} bytes.

//# include "lib/scan_attention.wgsl"

// Four queries at one depth; then the weights of four queries for one key.
var<workgroup> left: array<vec4<f32>, {{ slots * left }}>;
// Four keys at one depth; then four columns of one row of v.
var<workgroup> right: array<vec4<f32>, {{ across * slice }}>;
// What the threads of a row of threads exchange.
var<workgroup> shared_rows: array<vec4<f32>, {{ threads * quads }}>;
//# if n_places > 0
// Coordinates of four queries and what terms make of them.
var<workgroup> places: array<vec4<f32>, {{ slots * n_places }}>;
//# endif
//# if by_pair
// Not zero if a value is not finite: then no weight of zero may meet it.
var<workgroup> is_spoiled: atomic<u32>;
//# endif
//# if skips
// A bit for each tile of keys that some query may read.
var<workgroup> votes: atomic<u32>;
var<workgroup> read_tiles: u32;
//# endif
//# for x, n, wide_slots in [["q", "n_queries", slots], ["k", "n_keys", across]]

// A slice of rows from `row0` on, blocks of 4 x 4 transposed. Rows past the end are the last one:
// {{ "they are not stored" if x == "q" else "they are masked" }}.
fn fill_{{ x }}(thread: u32, base: u32, row0: u32, quad0: u32) {
//# set blocks = depth // 4 * wide_slots
//# if is_rolled
  for (var block = thread; block < problem.depth * {{ wide_slots // 4 }}u; block += {{ threads }}u) {
//# endif
//# for i in range(1 if is_rolled else (blocks + threads - 1) // threads)
  {
//# if not is_rolled
    let block = thread + {{ threads * i }}u;
//# endif
//# if blocks < threads * (i + 1) and not is_rolled
    if (block < {{ blocks }}u) {
//# endif
    let slot = block % {{ wide_slots }}u;
    let d = block / {{ wide_slots }}u;
    let row = row0 + 4u * slot;
//# for r in range(4)
//# set loaded = "load_" ~ x ~ "(base + min(row + " ~ r ~ "u, problem." ~ n ~ " - 1u) * problem." ~ x ~ "_row, quad0 + d)"
    // Scaled before it meets the keys, as on the CPU: both overflow at the same logits.
    let x{{ r }} = {{ "problem.scale * " if x == "q" }}{{ loaded }};
//# endfor
    let at = 4u * d * {{ wide_slots }}u + slot;
//# for c in ["x", "y", "z", "w"]
    {{ "left" if x == "q" else "right" }}[at + {{ loop.index0 * wide_slots }}u] = vec4(x0.{{ c }}, x1.{{ c }}, x2.{{ c }}, x3.{{ c }});
//# endfor
//# if blocks < threads * (i + 1) and not is_rolled
    }
//# endif
  }
//# endfor
//# if is_rolled
  }
//# endif
}
//# endfor

// {{ "What is not to be read has no weight, which is enough where all values are finite" if by_pair else "Keys that do not exist are zeros, as are those from `end` on, which are another split's" }}.
fn fill_v(thread: u32, batch: u32, base: u32, row0: u32, end: u32, quad0: u32) {
//# if by_pair
  // Not finite if a value is not.
  var trace = 0.0;
//# endif
//# for i in range(slice // side)
  {
    let row = row0 + thread / {{ across }}u + {{ side * i }}u;
    let at = min(row, problem.n_keys - 1u);
    let x = load_v(base + at * problem.v_row, quad0 + thread % {{ across }}u);
//# if by_pair
    right[thread + {{ threads * i }}u] = x;
    trace += 0x1p-70 * x.x + 0x1p-71 * x.y + 0x1p-72 * x.z + 0x1p-73 * x.w;
//# else
    right[thread + {{ threads * i }}u] = select(vec4(0.0), x, row < end{{ " && exists(batch, at)" if has_mask }});
//# endif
  }
//# endfor
//# if by_pair
  if (!finite(trace)) {
    atomicStore(&is_spoiled, 1u);
  }
//# endif
}

@compute @workgroup_size({{ threads }})
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
  let row_thread = thread / {{ across }}u;
  let column_thread = thread % {{ across }}u;
  let row0 = (group % problem.q_tiles) * {{ side * rows }}u;
//# include "lib/scan_group.wgsl"
  let row = row0 + {{ rows }}u * row_thread;
//# if terms
  let k_coords_base = problem.k_coords_base + batch * problem.k_coords_batch;
//# endif
//# set is_owner = "column_thread == 0u"
//# for h in range(quads)
//# for r in range(4)
//# if terms or has_matrix
  let row_{{ h }}_{{ r }} = min(row + {{ 4 * h + r }}u, problem.n_queries - 1u);
//# endif
//# endfor
//# set of = "_" ~ h
//# if n_places > 0
  let place_{{ h }} = ({{ quads }}u * row_thread + {{ h }}u) * {{ n_places }}u;
//# endif
//# include "lib/scan_queries.wgsl"
//# endfor

//# include "lib/scan_start.wgsl"
  for (var key0 = key_begin; key0 < key_end; key0 += {{ tile }}u) {
//# if skips
//# include "lib/scan_votes.wgsl"
//# endif
//# for h in range(quads)
//# for c in range(4)
    // Four queries against key {{ c }} of this thread's four.
    var score{{ c }}_{{ h }} = vec4(0.0);
//# endfor
//# endfor
//# for chunk in range(1 if is_rolled else n_depth)
//# if is_rolled
    for (var quad0 = 0u; quad0 < {{ n_depth * depth // 4 }}u; quad0 += {{ depth // 4 }}u) {
//# endif
    fill_q(thread, q_base, row0, {{ "quad0" if is_rolled else chunk * depth // 4 ~ "u" }});
    fill_k(thread, k_base, key0, {{ "quad0" if is_rolled else chunk * depth // 4 ~ "u" }});
    workgroupBarrier();
    for (var d = 0u; d < {{ "problem.depth" if is_rolled else depth ~ "u" }}; d += {{ unroll }}u) {
//# for u in range(unroll)
      {
        let b = right[(d + {{ u }}u) * {{ across }}u + column_thread];
//# for h in range(quads)
        let a{{ h }} = left[(d + {{ u }}u) * {{ slots }}u + {{ quads }}u * row_thread + {{ h }}u];
        score0_{{ h }} += a{{ h }} * b.x;
        score1_{{ h }} += a{{ h }} * b.y;
        score2_{{ h }} += a{{ h }} * b.z;
        score3_{{ h }} += a{{ h }} * b.w;
//# endfor
      }
//# endfor
    }
//# if is_rolled or not loop.last
    workgroupBarrier();
//# endif
//# if is_rolled
    }
//# endif
//# endfor

//# if is_rolled
    // The scores wait in the place of the weights, so that a loop can go over them. Every thread has read q.
    let own = 4u * column_thread * {{ slots }}u + {{ quads }}u * row_thread;
//# for c in range(4)
//# for h in range(quads)
    left[own + {{ c * slots + h }}u] = score{{ c }}_{{ h }};
//# endfor
//# endfor
//# for h in range(quads)
    var top_{{ h }} = vec4(MASKED);
    var trace_{{ h }} = vec4(0.0);
//# endfor
    for (var c = 0u; c < problem.slice / {{ slice // 4 }}u; c++) {
//# endif
//# for c in range(1 if is_rolled else 4)
    {
      let key = key0 + 4u * column_thread + {{ "c" if is_rolled else c ~ "u" }};
//# include "lib/scan_keys.wgsl"
//# for h in range(quads)
      {
        var s = {{ "left[own + c * " ~ slots ~ "u + " ~ h ~ "u]" if is_rolled else "score" ~ c ~ "_" ~ h }};
//# if by_pair
        var pair = vec4(valid);
//# else
        let pair = vec4(valid);
//# endif
//# set of = "_" ~ h
//# include "lib/scan_places.wgsl"
//# include "lib/scan_pairs.wgsl"
        s = select(vec4(MASKED), s, pair);
//# if is_rolled
        left[own + c * {{ slots }}u + {{ h }}u] = s;
        top_{{ h }} = max(top_{{ h }}, s);
        trace_{{ h }} = 0.5 * trace_{{ h }} + 0x1p-70 * s;
//# else
        score{{ c }}_{{ h }} = s;
//# endif
      }
//# endfor
    }
//# endfor
//# if is_rolled
    }
//# endif

//# for h in range(quads)
//# if not is_rolled
    let top_{{ h }} = max(max(score0_{{ h }}, score1_{{ h }}), max(score2_{{ h }}, score3_{{ h }}));
    let trace_{{ h }} = 0x1p-70 * score0_{{ h }} + 0x1p-71 * score1_{{ h }} + 0x1p-72 * score2_{{ h }} + 0x1p-73 * score3_{{ h }};
//# endif
    shared_rows[{{ quads }}u * thread + {{ h }}u] = top_{{ h }};
//# endfor
    // Every thread has read q and the keys, and every row of threads shown its maxima.
    workgroupBarrier();
//# for h in range(quads)
    var tile_largest_{{ h }} = largest_{{ h }};
    for (var i = 0u; i < {{ across }}u; i++) {
      tile_largest_{{ h }} = max(tile_largest_{{ h }}, shared_rows[{{ quads }}u * (row_thread * {{ across }}u + i) + {{ h }}u]);
    }
    let decay_{{ h }} = exp(largest_{{ h }} - tile_largest_{{ h }});
    largest_{{ h }} = tile_largest_{{ h }};
    sum_{{ h }} *= decay_{{ h }};
//# for chunk in range(n_v)
//# for r in range(4)
    out{{ r }}_{{ h }}_{{ chunk }} *= decay_{{ h }}[{{ r }}];
//# endfor
//# endfor
    // A maximum or an exponential may not keep what is not finite: these small sums tell it. Their
    // factors differ, lest a compiler sums the scores first, which could overflow.
    sum_{{ h }} = select(sum_{{ h }}, vec4(not_a_number(thread)), lost4(trace_{{ h }}));
//# if is_rolled
    for (var c = 0u; c < problem.slice / {{ slice // 4 }}u; c++) {
      let weight = exp(left[own + c * {{ slots }}u + {{ h }}u] - largest_{{ h }});
      sum_{{ h }} += weight;
      left[own + c * {{ slots }}u + {{ h }}u] = weight;
    }
//# else
//# for c in range(4)
    {
      let weight = exp(score{{ c }}_{{ h }} - largest_{{ h }});
      sum_{{ h }} += weight;
      left[(4u * column_thread + {{ c }}u) * {{ slots }}u + {{ quads }}u * row_thread + {{ h }}u] = weight;
    }
//# endfor
//# endif
//# endfor
//# for chunk in range(n_v)
//# for part in range(1 if is_rolled else tile // slice)
//# set from_first = " + first" if is_rolled else " + " ~ part * slice ~ "u" if part > 0 else ""
//# if is_rolled
    for (var first = 0u; first < {{ tile }}u; first += {{ slice }}u) {
//# endif
    fill_v(thread, batch, v_base, key0{{ from_first }}, key_end, {{ chunk * tile // 4 }}u);
    workgroupBarrier();
//# if by_pair
    if (atomicLoad(&is_spoiled) != 0u) {
      // As long as there are keys: a length that compilers cannot unroll.
      for (var j = 0u; j < min({{ slice }}u, key_end - min(key_end, key0{{ from_first }})); j++) {
        let x = right[j * {{ across }}u + column_thread];
//# for h in range(quads)
        let p{{ h }} = left[(j{{ from_first }}) * {{ slots }}u + {{ quads }}u * row_thread + {{ h }}u];
//# for r in range(4)
        out{{ r }}_{{ h }}_{{ chunk }} += select(p{{ h }}[{{ r }}] * x, vec4(0.0), p{{ h }}[{{ r }}] == 0.0);
//# endfor
//# endfor
      }
    } else {
//# endif
    for (var j = 0u; j < {{ "problem.slice" if is_rolled else slice ~ "u" }}; j += {{ unroll }}u) {
//# for u in range(unroll)
      {
        let x = right[(j + {{ u }}u) * {{ across }}u + column_thread];
//# for h in range(quads)
        let p{{ h }} = left[(j + {{ u }}u{{ from_first }}) * {{ slots }}u + {{ quads }}u * row_thread + {{ h }}u];
        out0_{{ h }}_{{ chunk }} += p{{ h }}.x * x;
        out1_{{ h }}_{{ chunk }} += p{{ h }}.y * x;
        out2_{{ h }}_{{ chunk }} += p{{ h }}.z * x;
        out3_{{ h }}_{{ chunk }} += p{{ h }}.w * x;
//# endfor
      }
//# endfor
    }
//# if by_pair
    }
//# endif
    workgroupBarrier();
//# if is_rolled
    }
//# endif
//# endfor
//# endfor
  }

//# for h in range(quads)
  shared_rows[{{ quads }}u * thread + {{ h }}u] = sum_{{ h }};
//# endfor
  workgroupBarrier();
//# include "lib/scan_results.wgsl"
//# set apart = 1
//# set v_across = across
//# set column = "column_thread"
//# set and_writes = ""
//# for h in range(quads)
  {
//# if n_places > 0
    let row_valid_{{ h }} = places[place_{{ h }} + {{ valid_place }}u] != vec4(0.0);
//# endif
    var total_{{ h }} = vec4(0.0);
    for (var i = 0u; i < {{ across }}u; i++) {
      total_{{ h }} += shared_rows[{{ quads }}u * (row_thread * {{ across }}u + i) + {{ h }}u];
    }
//# for r in range(4)
//# include "lib/scan_store.wgsl"
//# endfor
  }
//# endfor
}
