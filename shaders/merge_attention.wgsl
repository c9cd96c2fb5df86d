// merge_attention: what attention read over disjoint keys becomes one, exactly.
//
//# if has_sums
//   parts    values [n_parts, rows, width] · log_sum_exp [n_parts, 2, rows]: the largest logits, and
//            the sums of e^(logit - largest)
//# else
//   parts    values [n_parts, rows, width] · log_sum_exp [n_parts, rows] (natural logarithms)
//# endif
//   states   up to two, [rows, 3 + 2 width]: the reference m, sum e^(l - m) as two numbers whose
//            sum it is, sum e^(l - m) values likewise, all large halves before all small ones
//   result   merged [rows, width] · merged_log_sum_exp [rows], or a state
//
// {% if lanes == 1 %}A thread for each merged number, {{ outputs }} in a workgroup; no workgroup memory. States come before
// parts, which are added in their order.{% else %}{{ lanes }} threads for each merged number, with every {{ lanes }}-th part each, {{ outputs }} numbers in a workgroup:
// many parts one after the other would wait for memory. {{ 20 * lanes * outputs }} bytes of workgroup memory.{% endif %}
// What is at the sentinel has no keys and adds nothing, whatever its values are; if all are, the row is zeros.

struct Params {
  n_parts: u32,
  rows: u32,
  width: u32,
  masked: f32,
  // Where the first element is in the last two bindings.
  merged_base: u32,
  merged_log_sum_exp_base: u32,
  // How far a part may be above the reference before that moves.
  headroom: f32,
  // Zero, which the compiler cannot know.
  zero: u32,
  // References of states are multiples of this power of two; its inverse, because a quotient
  // may be a few units in the last place off and a product is exact.
  reference_step: f32,
  steps_of_one: f32,
}

//# if n_states > 0
@group(0) @binding(0) var<storage, read> state_0: array<f32>;
//# endif
//# if n_states > 1
@group(0) @binding(1) var<storage, read> state_1: array<f32>;
//# endif
//# if has_parts
@group(0) @binding(2) var<storage, read> values: array<f32>;
@group(0) @binding(3) var<storage, read> log_sum_exp: array<f32>;
//# endif
@group(0) @binding(4) var<storage, read_write> merged: array<f32>;
//# if not to_state
@group(0) @binding(5) var<storage, read_write> merged_log_sum_exp: array<f32>;
//# endif
@group(1) @binding(0) var<uniform> params: Params;

//# set threads = lanes * outputs
//# if lanes == 1
//# include "lib/element.wgsl"
//# else
//# include "lib/group.wgsl"

// What the threads of a number exchange: largest logits and whether any is lost; then weights and sums.
var<workgroup> shared_pairs: array<vec4<f32>, {{ threads }}>;
var<workgroup> shared_rough: array<f32, {{ threads }}>;
//# endif
//# include "lib/finite.wgsl"
//# include "lib/rounded.wgsl"

// A number as the sum of a large and a small one: 48 bits.
struct Pair {
  high: f32,
  low: f32,
}

fn add(a: Pair, b: Pair) -> Pair {
  let sum = rounded(a.high + b.high);
  let from_b = rounded(sum - a.high);
  let rest = rounded(a.high - rounded(sum - from_b)) + rounded(b.high - from_b);
  let low = a.low + b.low + rest;
  let high = rounded(sum + low);
  return Pair(high, low - rounded(high - sum));
}

// What is multiplied when the reference moves from `l` to `m`; one, exactly, if it does not.
fn weight(l: f32, m: f32) -> f32 {
  return select(select(0.0, exp(l - m), l > 0.5 * params.masked), 1.0, l == m);
}

@compute @workgroup_size({{ threads }})
fn main(
  @builtin(workgroup_id) group_id: vec3<u32>,
  @builtin(num_workgroups) group_count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
//# if lanes == 1
  let i = element(group_id, group_count, thread);
  if (i >= params.rows * params.width) {
    return;
  }
//# else
  let own = group_index(group_id, group_count) * {{ outputs }}u + thread % {{ outputs }}u;
  let lane = thread / {{ outputs }}u;
  // Threads past the end go along to the barriers.
  let i = min(own, params.rows * params.width - 1u);
//# endif
//# set first = "0u" if lanes == 1 else "lane"
  let row = i / params.width;
  let column = i % params.width;
  let state_width = 3u + 2u * params.width;
  var reference = params.masked;
  var lost = false;
//# for s in range(n_states)
  let l_{{ s }} = state_{{ s }}[row * state_width];
  reference = max(reference, l_{{ s }});
  lost = lost || is_lost(l_{{ s }});
//# endfor
//# if has_parts
  var largest = params.masked;
  for (var part = {{ first }}; part < params.n_parts; part += {{ lanes }}u) {
    let l = log_sum_exp[part * {{ 2 if has_sums else 1 }}u * params.rows + row];
    largest = max(largest, l);
    lost = lost || is_lost(l);
  }
//# if lanes > 1
  shared_pairs[thread] = vec4(largest, select(0.0, 1.0, lost), 0.0, 0.0);
  workgroupBarrier();
  for (var other = thread % {{ outputs }}u; other < {{ threads }}u; other += {{ outputs }}u) {
    largest = max(largest, shared_pairs[other].x);
    lost = lost || shared_pairs[other].y > 0.0;
  }
  workgroupBarrier();
//# endif
  reference = select(reference, largest, largest > reference + params.headroom);
//# endif
  let empty = reference <= 0.5 * params.masked;
//# if to_state
  // The first multiple that is not below, so that most states have the same and `weight` is one;
  // zero has one sign.
  let snapped = ceil(reference * params.steps_of_one) * params.reference_step;
  reference = select(select(snapped, 0.0, snapped == 0.0), reference, empty);
//# endif
  var weights = Pair(0.0, 0.0);
  var sum = Pair(0.0, 0.0);
//# if not to_state
  // Pairs make NaN of an infinity.
  var rough = 0.0;
//# endif
//# for s in range(n_states)
  if (l_{{ s }} > 0.5 * params.masked) {
    let scale = weight(l_{{ s }}, reference);
    let at = row * state_width + 1u;
    weights = add(weights, Pair(rounded(scale * state_{{ s }}[at]), scale * state_{{ s }}[at + 1u]));
    let high = state_{{ s }}[at + 2u + column];
    let low = state_{{ s }}[at + 2u + params.width + column];
    sum = add(sum, Pair(rounded(scale * high), scale * low));
//# if not to_state
    rough += scale * high;
//# endif
  }
//# endfor
//# if has_parts
  for (var part = {{ first }}; part < params.n_parts; part += {{ lanes }}u) {
    let at = part * {{ 2 if has_sums else 1 }}u * params.rows + row;
    let l = log_sum_exp[at];
    // Read whatever `l` is, so that nothing waits for it.
    let value = values[part * params.rows * params.width + i];
{% if has_sums %}    let of_part = log_sum_exp[at + params.rows];
{% endif %}    if (l > 0.5 * params.masked) {
      let w = weight(l, reference){{ " * of_part" if has_sums }};
      let x = w * value;
      weights = add(weights, Pair(w, 0.0));
      sum = add(sum, Pair(rounded(x), 0.0));
//# if not to_state
      rough += x;
//# endif
    }
  }
//# if lanes > 1
  shared_pairs[thread] = vec4(weights.high, weights.low, sum.high, sum.low);
  shared_rough[thread] = rough;
  workgroupBarrier();
  if (lane > 0u || own != i) {
    return;
  }
  for (var other = thread + {{ outputs }}u; other < {{ threads }}u; other += {{ outputs }}u) {
    let pairs = shared_pairs[other];
    weights = add(weights, Pair(pairs.x, pairs.y));
    sum = add(sum, Pair(pairs.z, pairs.w));
    rough += shared_rough[other];
  }
//# endif
//# endif
//# if to_state
  if (lost) {
    reference = not_a_number(i);
    weights = Pair(reference, reference);
    sum = weights;
  }
  let to = row * state_width;
  merged[to + 3u + column] = sum.high;
  merged[to + 3u + params.width + column] = sum.low;
  if (column == 0u) {
    merged[to] = reference;
    merged[to + 1u] = weights.high;
    merged[to + 2u] = weights.low;
  }
//# else
  // An empty row divides by one, not by zero.
  let total = select(weights.high + weights.low, 1.0, empty);
  let nothing = not_a_number(i);
  let mean = select(rough, sum.high + sum.low, finite(rough)) / total;
  merged[params.merged_base + i] = select(mean, nothing, lost);
  if (column == 0u) {
    let l = select(reference + log(total), params.masked, empty);
    merged_log_sum_exp[params.merged_log_sum_exp_base + row] = select(l, nothing, lost);
  }
//# endif
}
