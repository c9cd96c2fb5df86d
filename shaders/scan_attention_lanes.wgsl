// scan_attention by threads that exchange numbers within a subgroup: operands and results as in scan_attention.wgsl,
// read four numbers at a time.
//
//# set threads = 16 * across
// A workgroup of {{ threads }} threads owns {{ rows }} queries of one head. {{ across }} threads side by side share four of
// them, each with its part of their depths and of their columns of the result, in registers. They go over {{ across }} keys
// at a time, each in another order: the j-th key of thread l is j ^ l, so that what l has of the score of its own key is
// first, and thread l ^ j has the rest of it in the j-th place. Of its own key a thread adds up the scores of four queries
// and makes their weights, which the others read. Workgroup memory:
// {{ tile * across * (n_depth if n_depth > n_v else n_v) * 16 }} (k, then v) + {{ tile // across * threads * 16 }} (scores, then weights) bytes.

//# include "lib/scan_attention.wgsl"

// Rows of k, then of v.
var<workgroup> right: array<vec4<f32>, {{ tile * across * (n_depth if n_depth > n_v else n_v) }}>;
// The scores of four queries for the keys that are a thread's own, then their weights.
var<workgroup> scores: array<vec4<f32>, {{ tile // across * threads }}>;
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
  // Threads side by side are side by side in a subgroup, too: groups of one dimension are cut so everywhere.
  let lane = place_in_subgroup % {{ across }}u;
  let row0 = (group % problem.q_tiles) * {{ rows }}u;
//# include "lib/scan_group.wgsl"
//# if terms
  let k_coords_base = problem.k_coords_base + batch * problem.k_coords_batch;
//# endif

  // Rows past the end are the last one: they are not stored.
  let row = row0 + thread / {{ across }}u * 4u;
//# for r in range(4)
  let row_{{ r }} = min(row + {{ r }}u, problem.n_queries - 1u);
//# endfor
//# set of = ""
//# include "lib/scan_queries.wgsl"

  // Of each depth that is this thread's, four queries. Scaled before they meet the keys, as on the CPU.
//# for i in range(n_depth)
//# for r in range(4)
  let q{{ r }}_{{ i }} = problem.scale * load_q(q_base + row_{{ r }} * problem.q_row, lane + {{ across * i }}u);
//# endfor
//# for c in ["x", "y", "z", "w"]
  let q_{{ i }}_{{ c }} = vec4(q0_{{ i }}.{{ c }}, q1_{{ i }}.{{ c }}, q2_{{ i }}.{{ c }}, q3_{{ i }}.{{ c }});
//# endfor
//# endfor
//# if skips
  var tiles = 0u;
//# if causal_columns
  if (thread == 0u) {
    forget_latest();
  }
  workgroupBarrier();
//# for r in range(4)
  if (row_valid[{{ r }}]) {
    keep_latest({% for c in causal_columns %}q_column_{{ c }}[{{ r }}]{{ ", " if not loop.last }}{% endfor %});
  }
//# endfor
//# endif
//# endif
//# if by_pair
  if (thread == 0u) {
    atomicStore(&is_spoiled, 0u);
  }
//# endif
  // Above every masked score, so that those get no weight.
  var largest = vec4(0.5 * MASKED);
  // Over the keys that are this thread's own.
  var sum = vec4(0.0);
//# for i in range(n_v)
//# for r in range(4)
  var out_{{ r }}_{{ i }} = vec4(0.0);
//# endfor
//# endfor

  for (var key0 = key_begin; key0 < key_end; key0 += {{ tile }}u) {
//# if skips
//# include "lib/scan_votes.wgsl"
//# endif
    for (var slot = thread; slot < problem.slice * {{ tile * across * n_depth // slice }}u; slot += {{ threads }}u) {
      let key = min(key0 + slot / {{ across * n_depth }}u, problem.n_keys - 1u);
      right[slot] = load_k(k_base + key * problem.k_row, slot % {{ across * n_depth }}u);
    }
    workgroupBarrier();

    var top = vec4(MASKED);
    // A maximum or an exponential may not keep what is not finite: this small sum tells it.
    var trace = vec4(0.0);
    // {{ tile }} keys by a loop that stays one.
    for (var first = 0u; first < problem.slice * {{ tile // slice }}u; first += {{ across }}u) {
//# for j in range(across)
      var part{{ j }} = vec4(0.0);
      {
        let at = (first + (lane ^ {{ j }}u)) * {{ across * n_depth }}u + lane;
//# for i in range(n_depth)
        let k_{{ i }} = right[at + {{ across * i }}u];
//# for c in ["x", "y", "z", "w"]
        part{{ j }} += q_{{ i }}_{{ c }} * k_{{ i }}.{{ c }};
//# endfor
//# endfor
      }
//# endfor
      var s = part0;
//# for j in range(across) if j > 0
      s += subgroupShuffleXor(part{{ j }}, {{ j }}u);
//# endfor
      let key = key0 + first + lane;
//# include "lib/scan_keys.wgsl"
      var pair = vec4(valid){{ " & row_valid" if terms }};
//# include "lib/scan_pairs.wgsl"
      s = select(vec4(MASKED), s, pair);
      scores[first / {{ across }}u * {{ threads }}u + thread] = s;
      top = max(top, s);
      trace = 0.5 * trace + 0x1p-70 * s;
    }
//# for x in [1, 2, 4] if x < across
    top = max(top, subgroupShuffleXor(top, {{ x }}u));
//# endfor
    let tile_largest = max(largest, top);
    let decay = exp(largest - tile_largest);
    largest = tile_largest;
    sum = select(sum * decay, vec4(not_a_number(thread)), lost4(trace));
//# for i in range(n_v)
//# for r in range(4)
    out_{{ r }}_{{ i }} *= decay[{{ r }}];
//# endfor
//# endfor
    for (var at = thread; at < problem.slice * {{ tile // across * threads // slice }}u; at += {{ threads }}u) {
      let weight = exp(scores[at] - largest);
      sum += weight;
      scores[at] = weight;
    }
    // Every thread has read the keys.
    workgroupBarrier();
//# if by_pair
    // What is not to be read has no weight, which is enough where all values are finite.
    var spoils = 0.0;
//# endif
    for (var slot = thread; slot < problem.slice * {{ tile * across * n_v // slice }}u; slot += {{ threads }}u) {
      let key = key0 + slot / {{ across * n_v }}u;
      let at = min(key, problem.n_keys - 1u);
      let x = load_v(v_base + at * problem.v_row, slot % {{ across * n_v }}u);
//# if by_pair
      right[slot] = x;
      spoils = 0.5 * spoils + (0x1p-70 * x.x + 0x1p-71 * x.y + 0x1p-72 * x.z + 0x1p-73 * x.w);
//# else
      // Keys that do not exist are zeros, as are those of another split.
      right[slot] = select(vec4(0.0), x, key < key_end{{ " && exists(batch, at)" if has_mask }});
//# endif
    }
//# if by_pair
    if (!finite(spoils)) {
      atomicStore(&is_spoiled, 1u);
    }
//# endif
    // And every thread has left its weights.
    workgroupBarrier();
//# if by_pair
    if (atomicLoad(&is_spoiled) != 0u) {
      // As long as there are keys: a length that compilers cannot unroll.
      for (var j = 0u; j < min({{ tile }}u, key_end - key0); j++) {
        let weight = scores[j / {{ across }}u * {{ threads }}u + thread - lane + j % {{ across }}u];
//# for i in range(n_v)
        {
          let x = right[j * {{ across * n_v }}u + lane + {{ across * i }}u];
//# for r in range(4)
          out_{{ r }}_{{ i }} += select(weight[{{ r }}] * x, vec4(0.0), weight[{{ r }}] == 0.0);
//# endfor
        }
//# endfor
      }
    } else {
//# endif
    for (var first = 0u; first < problem.slice * {{ tile // slice }}u; first += {{ across }}u) {
//# for j in range(across)
      {
        let weight = scores[first / {{ across }}u * {{ threads }}u + thread - lane + {{ j }}u];
//# for i in range(n_v)
        {
          let x = right[(first + {{ j }}u) * {{ across * n_v }}u + lane + {{ across * i }}u];
//# for r in range(4)
          out_{{ r }}_{{ i }} += weight[{{ r }}] * x;
//# endfor
        }
//# endfor
      }
//# endfor
    }
//# if by_pair
    }
//# endif
    // Every thread has read the values.
    workgroupBarrier();
  }

  var total = sum;
//# for x in [1, 2, 4] if x < across
  total += subgroupShuffleXor(total, {{ x }}u);
//# endfor
//# include "lib/scan_results.wgsl"
  let lost = lost4(total){{ " & row_valid" if terms }};
  // A row without a valid key reads as zeros, and so does a query that is nowhere.
  let empty = ((largest <= vec4(0.5 * MASKED)) & !lost){{ " | !row_valid" if terms }};
  let inverse = select(1.0 / total, total, lost);
//# for r in range(4)
  if (row + {{ r }}u < problem.n_queries) {
    let base = out_base + (row + {{ r }}u) * problem.out_row;
//# for i in range(n_v)
    store(base, lane + {{ across * i }}u, select(out_{{ r }}_{{ i }} * inverse[{{ r }}], vec4(0.0), empty[{{ r }}]));
//# endfor
    if (lane == {{ r % across }}u) {
      let at = lse_base + (row + {{ r }}u) * problem.lse_row;
      let total_r = total[{{ r }}];
      let first = select(select(largest[{{ r }}], MASKED, empty[{{ r }}]), total_r, lost[{{ r }}]);
      if (problem.lse_sums > 0u) {
        log_sum_exp[at] = first;
        log_sum_exp[at + problem.lse_sums] = select(total_r, 0.0, empty[{{ r }}]);
      } else {
        log_sum_exp[at] = first + select(log(total_r), 0.0, empty[{{ r }}] || lost[{{ r }}]);
      }
    }
  }
//# endfor
}
