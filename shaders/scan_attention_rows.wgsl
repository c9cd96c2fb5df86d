// scan_attention with rows of q, k and v in workgroup memory as they are: operands and results as in scan_attention.wgsl,
// read four numbers at a time.
//
//# set threads = side * across
//# set n_q = depth // 4
//# set stride = n_q + 1 - n_q % 2
//# set p_stride = across + 1
//# set left_stride = stride if stride > p_stride else p_stride
//# set halves = 2 if v_dim <= 2 * across else 1
//# set v_across = across // halves
//# set v_quads = v_across * n_v
//# set v_stride = v_quads + halves - 1
//# set v_rows = tile if n_v == 1 else tile // 2 if n_v == 2 else tile // 4
//# set right = tile * stride if tile * stride > v_rows * v_stride else v_rows * v_stride
// A workgroup of {{ side }} x {{ across }} threads owns {{ side * rows }} queries of one head and walks over its share of the keys, {{ tile }} at
// a time. A thread makes {{ rows }} queries x 4 keys of the scores and {{ rows }} queries x 4 columns of the output for every {{ 4 * across }}
// columns of v, of which it takes {{ v_rows }} rows at a time{{ "; here half of a row of threads for every other four keys" if halves == 2 }}. Rows of q, k and weights are an odd number of vectors apart, and a row of threads takes
// queries that are {{ side }} apart: then what neighbours read lies in other banks. A row of threads is within a subgroup, which
// finds maxima and sums. Scores never leave the group.
// Workgroup memory: {{ side * rows * left_stride * 16 }} (q, then weights) + {{ right * 16 }} (k, then v) bytes.

//# include "lib/scan_attention.wgsl"
//# include "lib/pairs.wgsl"

// Rows of a slice of q; then of each query the weights of four keys in a vector.
var<workgroup> left: array<vec4<f32>, {{ side * rows * left_stride }}>;
// Rows of a slice of k, then of v.
var<workgroup> right: array<vec4<f32>, {{ right }}>;
//# if by_pair
// Not zero if a value is not finite: then no weight of zero may meet it.
var<workgroup> is_spoiled: atomic<u32>;
//# endif
//# if skips
// A bit for each tile of keys that some query may read.
var<workgroup> votes: atomic<u32>;
var<workgroup> read_tiles: u32;
//# endif

@compute @workgroup_size({{ threads }})
fn main(
  @builtin(workgroup_id) group_id: vec3<u32>,
  @builtin(num_workgroups) group_count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
  @builtin(subgroup_invocation_id) place_in_subgroup: u32,
) {
  // Uniform for the whole group, so no thread waits at a barrier alone.
  let group = group_index(group_id, group_count);
  if (group >= problem.n_groups) {
    return;
  }
//# if is_paired
  let row_thread = row_of(thread, {{ across }}u);
  let column_thread = column_of(place_in_subgroup, {{ across }}u);
//# else
  let row_thread = thread / {{ across }}u;
  let column_thread = place_in_subgroup % {{ across }}u;
//# endif
//# if halves == 2
  // Of the values, its column and the keys that it takes.
  let column = column_thread % {{ v_across }}u;
  let share = column_thread / {{ v_across }}u;
//# else
  let column = column_thread;
//# endif
  let row0 = (group % problem.q_tiles) * {{ side * rows }}u;
//# include "lib/scan_group.wgsl"
  // Its queries are {{ side }} apart.
  let row = row0 + row_thread;
//# if terms
  let k_coords_base = problem.k_coords_base + batch * problem.k_coords_batch;
//# endif
//# for h in range(quads)
//# for r in range(4)
//# if terms or has_matrix
  let row_{{ h }}_{{ r }} = min(row + {{ side * (4 * h + r) }}u, problem.n_queries - 1u);
//# endif
//# endfor
//# set of = "_" ~ h
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
//# for part in range(n_depth)
    // Scaled before it meets the keys, as on the CPU. Rows past the end are the last one: they are not stored, or masked.
//# with n_slots = side * rows * n_q
//# include "lib/slots.wgsl"
//# endwith
      let i = slot / {{ n_q }}u;
      let at = q_base + min(row0 + i, problem.n_queries - 1u) * problem.q_row;
      left[i * {{ stride }}u + slot % {{ n_q }}u] = problem.scale * load_q(at, {{ part * n_q }}u + slot % {{ n_q }}u);
    }
//# with n_slots = tile * n_q
//# include "lib/slots.wgsl"
//# endwith
      let i = slot / {{ n_q }}u;
      let at = k_base + min(key0 + i, problem.n_keys - 1u) * problem.k_row;
      // A thread's c-th key is beside those of its neighbours.
      right[(i % 4u * {{ across }}u + i / 4u) * {{ stride }}u + slot % {{ n_q }}u] = load_k(at, {{ part * n_q }}u + slot % {{ n_q }}u);
    }
    workgroupBarrier();
    // A bound that no compiler knows keeps the loop a loop.
    for (var d = 0u; d < problem.depth / 4u; d++) {
//# for c in range(4)
      let k{{ c }} = right[({{ c * across }}u + column_thread) * {{ stride }}u + d];
//# endfor
//# for h in range(quads)
      {
//# for r in range(4)
        let q{{ r }} = left[(row_thread + {{ side * (4 * h + r) }}u) * {{ stride }}u + d];
//# endfor
//# for x in ["x", "y", "z", "w"]
        let q_{{ x }} = vec4(q0.{{ x }}, q1.{{ x }}, q2.{{ x }}, q3.{{ x }});
//# for c in range(4)
        score{{ c }}_{{ h }} += q_{{ x }} * k{{ c }}.{{ x }};
//# endfor
//# endfor
      }
//# endfor
    }
    // Every thread has read this slice.
    workgroupBarrier();
//# endfor
//# for c in range(4)
    {
      let key = key0 + 4u * column_thread + {{ c }}u;
//# include "lib/scan_keys.wgsl"
//# for h in range(quads)
      {
        var s = score{{ c }}_{{ h }};
//# if by_pair
        var pair = vec4(valid);
//# else
        let pair = vec4(valid);
//# endif
//# set of = "_" ~ h
//# include "lib/scan_pairs.wgsl"
        score{{ c }}_{{ h }} = select(vec4(MASKED), s, pair);
      }
//# endfor
    }
//# endfor
//# for h in range(quads)
    var top_{{ h }} = max(max(score0_{{ h }}, score1_{{ h }}), max(score2_{{ h }}, score3_{{ h }}));
    let trace_{{ h }} = 0x1p-70 * score0_{{ h }} + 0x1p-71 * score1_{{ h }} + 0x1p-72 * score2_{{ h }} + 0x1p-73 * score3_{{ h }};
//# for x in [1, 2, 4]
    top_{{ h }} = max(top_{{ h }}, subgroupShuffleXor(top_{{ h }}, {{ 2 * x if is_paired else x }}u));
//# endfor
    let tile_largest_{{ h }} = max(largest_{{ h }}, top_{{ h }});
    let decay_{{ h }} = exp(largest_{{ h }} - tile_largest_{{ h }});
    largest_{{ h }} = tile_largest_{{ h }};
    sum_{{ h }} *= decay_{{ h }};
//# for i in range(n_v)
//# for r in range(4)
    out{{ r }}_{{ h }}_{{ i }} *= decay_{{ h }}[{{ r }}];
//# endfor
//# endfor
    // A maximum or an exponential may not keep what is not finite: these small sums tell it. Their
    // factors differ, lest a compiler sums the scores first, which could overflow.
    sum_{{ h }} = select(sum_{{ h }}, vec4(not_a_number(thread)), lost4(trace_{{ h }}));
//# for c in range(4)
    let weight{{ c }}_{{ h }} = exp(score{{ c }}_{{ h }} - largest_{{ h }});
    sum_{{ h }} += weight{{ c }}_{{ h }};
//# endfor
//# for r in range(4)
    left[(row_thread + {{ side * (4 * h + r) }}u) * {{ p_stride }}u + column_thread] = vec4(
{%- for c in range(4) %}weight{{ c }}_{{ h }}[{{ r }}]{{ ", " if c < 3 }}{% endfor %});
//# endfor
//# endfor
//# for part in range(tile // v_rows)
//# set first = part * v_rows
//# if by_pair
    {
      // What is not to be read has no weight, which is enough where all values are finite.
      var spoils = 0.0;
//# endif
//# with n_slots = v_rows * v_quads
//# include "lib/slots.wgsl"
//# endwith
      let key = key0 + {{ first }}u + slot / {{ v_quads }}u;
      let to = {{ "slot" if v_stride == v_quads else "slot / " ~ v_quads ~ "u * " ~ v_stride ~ "u + slot % " ~ v_quads ~ "u" }};
      let at = min(key, problem.n_keys - 1u);
      let x = load_v(v_base + at * problem.v_row, slot % {{ v_quads }}u);
//# if by_pair
      right[to] = x;
      spoils = 0.5 * spoils + (0x1p-70 * x.x + 0x1p-71 * x.y + 0x1p-72 * x.z + 0x1p-73 * x.w);
//# else
      // Keys that do not exist are zeros, as are those of another split.
      right[to] = select(vec4(0.0), x, key < key_end{{ " && exists(batch, at)" if has_mask }});
//# endif
    }
//# if by_pair
      if (!finite(spoils)) {
        atomicStore(&is_spoiled, 1u);
      }
    }
//# endif
    workgroupBarrier();
//# if by_pair
    if (atomicLoad(&is_spoiled) != 0u) {
      // As long as there are keys: a length that compilers cannot unroll.
      for (var j = 0u; j < min({{ v_rows }}u, key_end - min(key_end, key0 + {{ first }}u)); j++) {
//# if halves == 2
        if (j / 4u % 2u != share) {
          continue;
        }
//# endif
//# for i in range(n_v)
        let v_{{ i }} = right[j * {{ v_stride }}u + column + {{ v_across * i }}u];
//# endfor
//# for h in range(quads)
//# for r in range(4)
        {
          let p = left[(row_thread + {{ side * (4 * h + r) }}u) * {{ p_stride }}u + (j + {{ first }}u) / 4u][j % 4u];
//# for i in range(n_v)
          out{{ r }}_{{ h }}_{{ i }} += select(p * v_{{ i }}, vec4(0.0), p == 0.0);
//# endfor
        }
//# endfor
//# endfor
      }
    } else {
//# endif
    for (var j = {{ "share" if halves == 2 else "0u" }}; j < problem.slice / {{ 4 * slice // v_rows }}u; j += {{ halves }}u) {
//# for i in range(n_v)
//# for c in range(4)
      let v{{ c }}_{{ i }} = right[(4u * j + {{ c }}u) * {{ v_stride }}u + column + {{ v_across * i }}u];
//# endfor
//# endfor
//# for h in range(quads)
//# for r in range(4)
      {
        let p = left[(row_thread + {{ side * (4 * h + r) }}u) * {{ p_stride }}u + {{ first // 4 }}u + j];
//# for i in range(n_v)
//# for c in range(4)
        out{{ r }}_{{ h }}_{{ i }} += p[{{ c }}] * v{{ c }}_{{ i }};
//# endfor
//# endfor
      }
//# endfor
//# endfor
    }
//# if by_pair
    }
//# endif
    // Every thread has read these values.
    workgroupBarrier();
//# endfor
  }

//# include "lib/scan_results.wgsl"
//# set apart = side
//# set column = "column"
//# set is_owner = "column_thread == 0u"
//# set and_writes = " && share == 0u" if halves == 2 else ""
//# for h in range(quads)
  {
    var total_{{ h }} = sum_{{ h }};
//# for x in [1, 2, 4]
    total_{{ h }} += subgroupShuffleXor(total_{{ h }}, {{ 2 * x if is_paired else x }}u);
//# endfor
//# for r in range(4) if halves == 2
    out{{ r }}_{{ h }}_0 += subgroupShuffleXor(out{{ r }}_{{ h }}_0, {{ (2 if is_paired else 1) * v_across }}u);
//# endfor
//# for r in range(4)
//# include "lib/scan_store.wgsl"
//# endfor
  }
//# endfor
}
