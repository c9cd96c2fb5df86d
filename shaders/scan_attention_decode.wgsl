// scan_attention of few queries and many keys, where memory is what takes time: operands and results as in
// scan_attention.wgsl, read four numbers at a time.
//
//# set threads = 64
//# set lanes = across
//# set per_round = 4 * threads // quads
//# set items = threads // quads
// Vectors that are on their way to a thread at a time, as many as registers hold beside the result; and the rows that
// they are of: powers of two, and no more keys than are summed together.
//# set loads = 4 if rows * n_v > 4 and (terms or rows == 4) else 8
//# set most_steps = lanes // quads
//# set key_steps = loads // n_depth if n_depth < loads else 1
//# set key_steps = most_steps if key_steps > most_steps else key_steps
//# set steps = loads // n_v if n_v < loads else 1
//# set rows_of_quad = rows if rows < 4 else 4
// A workgroup of {{ threads }} threads owns {{ rows }} queries of one head and reads each key of its share, and each
// value, once. {{ lanes }} threads read a row together, {{ threads // lanes }} rows at a time. Of {{ per_round }} keys
// their parts of the scores are summed through workgroup memory, a thread taking one key for four queries;
// then the same threads read the values. Workgroup memory:
// {{ threads * (lanes + 1) * 16 }} (parts) + {{ 4 * threads * 16 }} (scores) + {{ rows * lanes * n_depth * 16 }} (q){{ " + " ~ quads * n_places * 16 ~ " (coordinates)" if n_places > 0 }} bytes.

//# include "lib/scan_attention.wgsl"

// What {{ lanes }} threads have of {{ threads }} scores, each a place apart, as banks are; then the largest score of
// each thread; at the end what the threads have of four rows of the result.
var<workgroup> parts: array<vec4<f32>, {{ threads * (lanes + 1) }}>;
// The scores of four queries for each key of a round, later their weights; at the end the sums of each thread.
var<workgroup> scores: array<vec4<f32>, {{ 4 * threads }}>;
// The queries: registers are for the result, and for as many loads as there can be.
var<workgroup> queries: array<vec4<f32>, {{ rows * lanes * n_depth }}>;
//# if n_places > 0
// Coordinates of four queries and what terms make of them.
var<workgroup> places: array<vec4<f32>, {{ quads * n_places }}>;
//# endif
//# if skips
// Whether some query may read a key of the round.
var<workgroup> vote: atomic<u32>;
var<workgroup> is_round_read: u32;
//# endif

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
  // Of the rows that are read, and the part of a row.
  let key_lane = thread / {{ lanes }}u;
  let lane = thread % {{ lanes }}u;
  let row0 = (group % problem.q_tiles) * {{ rows }}u;
//# include "lib/scan_group.wgsl"

  // The scores that are this thread's: of one key in {{ items }}, for four queries. Rows past the end are the last one.
  let item_key = thread % {{ items }}u;
  let item_row = row0 + 4u * (thread / {{ items }}u);
//# if terms or has_matrix
//# for r in range(4)
  let row_{{ r }} = min(item_row + {{ r }}u, problem.n_queries - 1u);
//# endfor
//# endif
//# if terms
  let k_coords_base = problem.k_coords_base + batch * problem.k_coords_batch;
//# endif
//# if n_places > 0
  let place = thread / {{ items }}u * {{ n_places }}u;
//# endif
//# set of = ""
//# set is_owner = "item_key == 0u"
//# include "lib/scan_queries.wgsl"

  // Scaled before they meet the keys.
  for (var i = key_lane; i < {{ rows * n_depth }}u; i += {{ threads // lanes }}u) {
    let row = min(row0 + i / {{ n_depth }}u, problem.n_queries - 1u);
    queries[{{ lanes }}u * i + lane] = problem.scale * load_q(q_base + row * problem.q_row, lane + {{ lanes }}u * (i % {{ n_depth }}u));
  }
  workgroupBarrier();
//# for r in range(rows)
//# for i in range(n_v)
  var out_{{ r }}_{{ i }} = vec4(0.0);
//# endfor
//# endfor
//# for h in range(quads)
  // Above every masked score, so that those get no weight.
  var largest_{{ h }} = vec4(0.5 * MASKED);
//# endfor
  // Over the scores that are this thread's.
  var sum = vec4(0.0);
//# if skips and causal_columns
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

  for (var key0 = key_begin; key0 < key_end; key0 += {{ per_round }}u) {
//# if skips
    // Rounds of which no query reads a key are passed over: they would change nothing.
    if (thread == 0u) {
      atomicStore(&vote, 0u);
    }
    workgroupBarrier();
    for (var i = thread; i < min({{ per_round }}u, key_end - key0); i += {{ threads }}u) {
      if (may_be_read(batch, key0 + i{{ ", k_coords_base" if terms }})) {
        atomicStore(&vote, 1u);
      }
    }
    workgroupBarrier();
    if (thread == 0u) {
      is_round_read = atomicLoad(&vote);
    }
    if (workgroupUniformLoad(&is_round_read) == 0u) {
      continue;
    }
//# endif
    var top = vec4(MASKED);
    // A maximum or an exponential may not keep what is not finite: this small sum tells it.
    var trace = vec4(0.0);
    // {{ 4 * items }} keys by a loop that stays one.
    for (var first = 0u; first < problem.slice * {{ 4 * items // slice }}u; first += {{ items }}u) {
      for (var i = 0u; i < min({{ items }}u, key_end - min(key_end, key0 + first)); i += {{ key_steps * threads // lanes }}u) {
//# for u in range(key_steps)
        let at{{ u }} = k_base + min(key0 + first + i + {{ u * threads // lanes }}u + key_lane, problem.n_keys - 1u) * problem.k_row;
//# for i in range(n_depth)
        let x{{ u }}_{{ i }} = load_k(at{{ u }}, lane + {{ lanes * i }}u);
//# endfor
//# endfor
//# for u in range(key_steps)
//# for h in range(quads)
        parts[({{ items * h + u * threads // lanes }}u + i + key_lane) * {{ lanes + 1 }}u + lane] = vec4(
//# for r in range(4)
          {% if r >= rows %}0.0{% endif %}{% for i in range(n_depth if r < rows else 0) %}{{ " + " if i > 0 }}dot(queries[{{ ((4 * h + r) * n_depth + i) * lanes }}u + lane], x{{ u }}_{{ i }}){% endfor %},
//# endfor
        );
//# endfor
//# endfor
      }
      workgroupBarrier();
      var s = vec4(0.0);
//# for l in range(lanes)
      s += parts[thread * {{ lanes + 1 }}u + {{ l }}u];
//# endfor
      let key = key0 + first + item_key;
//# include "lib/scan_keys.wgsl"
//# include "lib/scan_places.wgsl"
      var pair = vec4(valid){{ " & row_valid" if terms }};
//# include "lib/scan_pairs.wgsl"
      s = select(vec4(MASKED), s, pair);
      scores[(first + item_key) * {{ quads }}u + thread / {{ items }}u] = s;
      top = max(top, s);
      trace = 0.5 * trace + 0x1p-70 * s;
      // Every thread has read its parts.
      workgroupBarrier();
    }
    parts[thread] = top;
    workgroupBarrier();

//# for h in range(quads)
    var round_largest_{{ h }} = largest_{{ h }};
    for (var i = 0u; i < {{ items }}u; i++) {
      round_largest_{{ h }} = max(round_largest_{{ h }}, parts[{{ items * h }}u + i]);
    }
    let decay_{{ h }} = exp(largest_{{ h }} - round_largest_{{ h }});
    largest_{{ h }} = round_largest_{{ h }};
//# for r in range(rows_of_quad)
//# for i in range(n_v)
    out_{{ 4 * h + r }}_{{ i }} *= decay_{{ h }}[{{ r }}];
//# endfor
//# endfor
//# endfor
    {
//# if quads == 1
      let largest = largest_0;
      let decay = decay_0;
//# else
      let is_first = thread < {{ items }}u;
      let largest = select(largest_1, largest_0, is_first);
      let decay = select(decay_1, decay_0, is_first);
//# endif
      sum = select(sum * decay, vec4(not_a_number(thread)), lost4(trace));
      for (var first = 0u; first < problem.slice * {{ 4 * items // slice }}u; first += {{ items }}u) {
        let own = (first + item_key) * {{ quads }}u + thread / {{ items }}u;
        let weight = exp(scores[own] - largest);
        sum += weight;
        scores[own] = weight;
      }
    }
    workgroupBarrier();
    for (var j = key_lane; j < min({{ per_round }}u, key_end - key0); j += {{ steps * threads // lanes }}u) {
//# if by_pair
      // Not finite if a value is not: then no weight of zero may meet it.
      var trace = 0.0;
//# endif
//# for u in range(steps)
//# set step = u * threads // lanes
      let v_key{{ u }} = key0 + j + {{ step }}u;
      let at{{ u }} = min(v_key{{ u }}, problem.n_keys - 1u);
//# if not by_pair
      // Keys that do not exist are zeros, as are those of another split.
      let is_read{{ u }} = v_key{{ u }} < key_end{{ " && exists(batch, at" ~ u ~ ")" if has_mask }};
//# endif
//# for i in range(n_v)
      let x{{ u }}_{{ i }} = {{ "select(vec4(0.0), " if not by_pair }}load_v(v_base + at{{ u }} * problem.v_row, lane + {{ lanes * i }}u){{ ", is_read" ~ u ~ ")" if not by_pair }};
//# if by_pair
      trace += 0x1p-70 * x{{ u }}_{{ i }}.x + 0x1p-71 * x{{ u }}_{{ i }}.y + 0x1p-72 * x{{ u }}_{{ i }}.z + 0x1p-73 * x{{ u }}_{{ i }}.w;
//# endif
//# endfor
//# endfor
//# if by_pair
      if (!finite(trace)) {
        // Rare, so one at a time, by a loop that stays one.
        for (var u = 0u; u < problem.slice / {{ slice // steps }}u; u++) {
          let item = j + {{ threads // lanes }}u * u;
          let at = v_base + min(key0 + item, problem.n_keys - 1u) * problem.v_row;
//# for h in range(quads)
          let p{{ h }} = scores[item * {{ quads }}u + {{ h }}u];
//# endfor
//# for i in range(n_v)
          let x{{ i }} = load_v(at, lane + {{ lanes * i }}u);
//# for r in range(rows)
          out_{{ r }}_{{ i }} += select(p{{ r // 4 }}[{{ r % 4 }}] * x{{ i }}, vec4(0.0), p{{ r // 4 }}[{{ r % 4 }}] == 0.0);
//# endfor
//# endfor
        }
      } else {
//# endif
//# for u in range(steps)
//# for h in range(quads)
        let p{{ u }}_{{ h }} = scores[(j + {{ u * threads // lanes }}u) * {{ quads }}u + {{ h }}u];
//# endfor
//# for r in range(rows)
//# for i in range(n_v)
        out_{{ r }}_{{ i }} += p{{ u }}_{{ r // 4 }}[{{ r % 4 }}] * x{{ u }}_{{ i }};
//# endfor
//# endfor
//# endfor
//# if by_pair
      }
//# endif
    }
    // Every thread has read the weights.
    workgroupBarrier();
  }

  scores[thread] = sum;
  workgroupBarrier();
//# include "lib/scan_results.wgsl"
//# for h in range(quads)
  {
    var total = vec4(0.0);
    for (var i = 0u; i < {{ items }}u; i++) {
      total += scores[{{ items * h }}u + i];
    }
    let lost = lost4(total);
    // A row without a valid key reads as zeros.
    let empty = (largest_{{ h }} <= vec4(0.5 * MASKED)) & !lost;
    let inverse = select(1.0 / total, total, lost);
    let r = key_lane % {{ rows_of_quad }}u;
    let row = row0 + {{ 4 * h }}u + r;
//# for i in range(n_v)
//# for r in range(rows_of_quad)
    parts[{{ threads * r }}u + thread] = select(out_{{ 4 * h + r }}_{{ i }} * inverse[{{ r }}], vec4(0.0), empty[{{ r }}]);
//# endfor
    workgroupBarrier();
    if (key_lane < {{ rows_of_quad }}u && row < problem.n_queries) {
      var value = vec4(0.0);
      for (var i = 0u; i < {{ threads }}u; i += {{ lanes }}u) {
        value += parts[{{ threads }}u * r + i + lane];
      }
      store(out_base + row * problem.out_row, lane + {{ lanes * i }}u, value);
    }
    workgroupBarrier();
//# endfor
//# for r in range(rows_of_quad)
    if (thread == {{ r }}u && row0 + {{ 4 * h + r }}u < problem.n_queries) {
      let at = lse_base + (row0 + {{ 4 * h + r }}u) * problem.lse_row;
      let total_r = total[{{ r }}];
      let first = select(select(largest_{{ h }}[{{ r }}], MASKED, empty[{{ r }}]), total_r, lost[{{ r }}]);
      if (problem.lse_sums > 0u) {
        log_sum_exp[at] = first;
        log_sum_exp[at + problem.lse_sums] = total_r;
      } else {
        log_sum_exp[at] = first + select(log(total_r), 0.0, empty[{{ r }}] || lost[{{ r }}]);
      }
    }
//# endfor
  }
//# endfor
}
