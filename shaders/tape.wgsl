// tape: the tapes of a NAM Turing machine, all steps.
//
//   value, key, query [batch, n, n_tapes, mem] (keys and queries unit vectors)
//   action [batch, n, n_tapes, n_actions]: directions of the read head, of the write head, then
//   p_r, p_w, p_e · y [batch, n, n_tapes, mem]
//   state [batch, n_tapes, size]: tape [slots, mem]{% if has_keys %}, keys [slots, mem]{% endif %}, read head [slots],
//   write head [slots]; read, and written at the end
//
// A workgroup of {{ threads }} threads takes a tape. A thread owns columns of the tape and {% if by_position %}columns{% else %}rows{% endif %} of the keys;
// the heads are double. {% if in_workgroup %}The tape is in workgroup memory, up to
// {{ len }} numbers{% else %}The tape stays in storage{% endif %}, the heads are in {% if has_heads %}workgroup memory{% else %}storage, [batch, n_tapes,
// 4, slots], too{% endif %}: {{ 4 * ((len if in_workgroup else 0) + (4 * slots if has_heads else 0)) }} bytes.

struct Params {
  n: u32,
  n_tapes: u32,
  slots: u32,
  mem: u32,
  first_step: u32,
  // Past the last step.
  end: u32,
  n_groups: u32,
  // Where the first element is in each binding.
  value_base: u32,
  key_base: u32,
  query_base: u32,
  action_base: u32,
  // Zero, which the compiler cannot know.
  zero: u32,
}

@group(0) @binding(0) var<storage, read> value: array<f32>;
//# if has_keys
@group(0) @binding(1) var<storage, read> key: array<f32>;
@group(0) @binding(2) var<storage, read> query: array<f32>;
//# endif
@group(0) @binding(3) var<storage, read> action: array<f32>;
@group(0) @binding(4) var<storage, read_write> state: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;
//# if not has_heads
@group(0) @binding(6) var<storage, read_write> heads: array<f32>;
//# endif
@group(1) @binding(0) var<uniform> params: Params;

//# if in_workgroup
// The tape{% if has_keys %}, then the keys{% endif %}.
var<workgroup> cells: array<f32, {{ len }}>;
//# endif
//# if has_heads
// The read head twice, since before a step and after it take turns, then the write head twice.
var<workgroup> heads: array<f32, {{ 4 * slots }}>;
//# endif

//# include "lib/group.wgsl"
//# if has_keys
//# include "lib/length.wgsl"
//# include "lib/rounded.wgsl"
//# endif
//# include "lib/sigmoid.wgsl"

// Where the state of this tape begins.
fn load(base: u32, i: u32) -> f32 {
//# if in_workgroup
  return cells[i];
//# else
  return state[base + i];
//# endif
}

fn save(base: u32, i: u32, x: f32) {
//# if in_workgroup
  cells[i] = x;
//# else
  state[base + i] = x;
//# endif
}

//# if has_keys
// A slot of a head of length one, rounded: else a compiler might multiply a cell by the slot before it is scaled,
// which may overflow.
fn slot_of(head: u32, is_large: bool, scale: f32) -> f32 {
  return rounded(shrunk(heads[head], is_large) * scale);
}

//# else
fn slot_of(head: u32) -> f32 {
  return heads[head];
}

//# endif
// The softmax of directions that begin at `at`; those that do not exist are zero.
fn directions(at: u32) -> vec4<f32> {
//# if n_directions == 4
  let z = vec4(action[at], action[at + 1u], action[at + 2u], action[at + 3u]);
  let e = exp(z - max(max(z.x, z.y), max(z.z, z.w)));
  return e / (e.x + e.y + e.z + e.w);
//# elif n_directions == 3
  let z = vec3(action[at], action[at + 1u], action[at + 2u]);
  let e = exp(z - max(max(z.x, z.y), z.z));
  return vec4(e / (e.x + e.y + e.z), 0.0);
//# else
  // Stay and jump.
  let z = vec2(action[at], action[at + 1u]);
  let e = exp(z - max(z.x, z.y));
  return vec4(0.0, e.x / (e.x + e.y), 0.0, e.y / (e.x + e.y));
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
  if (group >= params.n_groups) {
    return;
  }
  let batch = group / params.n_tapes;
  let slots = params.slots;
  let mem = params.mem;
  let n_cells = slots * mem{% if has_keys %} * 2u{% endif %};
  let base = group * (n_cells + 2u * slots);
//# if has_heads
  let room = {{ slots }}u;
  let read_head = 0u;
//# else
  let room = slots;
  let read_head = group * 4u * slots;
//# endif
  let write_head = read_head + 2u * room;
//# if in_workgroup
  for (var i = thread; i < n_cells; i += {{ threads }}u) {
    cells[i] = state[base + i];
  }
//# endif
  for (var l = thread; l < slots; l += {{ threads }}u) {
    heads[read_head + l] = state[base + n_cells + l];
    heads[write_head + l] = state[base + n_cells + slots + l];
  }
  workgroupBarrier();
//# if not has_heads
  storageBarrier();
//# endif
  var now = 0u;
  for (var step = params.first_step; step < params.end; step++) {
    let token = (batch * params.n + step) * params.n_tapes + group % params.n_tapes;
    let act = token * {{ 2 * n_directions + 3 }}u + params.action_base;
    let read_directions = directions(act);
    let write_directions = directions(act + {{ n_directions }}u);
//# if has_probabilities
    let p_read = sigmoid(action[act + {{ 2 * n_directions }}u]);
    let p_write = sigmoid(action[act + {{ 2 * n_directions + 1 }}u]);
//# if is_tied
    let p_erase = p_write;
//# elif has_erase
    let p_erase = sigmoid(action[act + {{ 2 * n_directions + 2 }}u]);
//# endif
//# else
    let p_read = 1.0;
    let p_write = 1.0;
    let p_erase = 1.0;
//# endif
    let before = now * room;
    let after = (1u - now) * room;
//# if has_keys
    // Heads that jump are not distributions; they touch the tape with length one.
    var read_squares = 0.0;
    var write_squares = 0.0;
    for (var l = 0u; l < slots; l++) {
      read_squares += heads[read_head + before + l] * heads[read_head + before + l];
      write_squares += heads[write_head + before + l] * heads[write_head + before + l];
    }
    // Again with numbers so small that their squares fit, where they do not.
    let read_is_large = read_squares > LARGE_SQUARE;
    let write_is_large = write_squares > LARGE_SQUARE;
    if (read_is_large || write_is_large) {
      read_squares = 0.0;
      write_squares = 0.0;
      for (var l = 0u; l < slots; l++) {
        let r = shrunk(heads[read_head + before + l], read_is_large);
        let w = shrunk(heads[write_head + before + l], write_is_large);
        read_squares += r * r;
        write_squares += w * w;
      }
    }
    let read_scale = inverse_length(read_squares, thread);
    let write_scale = inverse_length(write_squares, thread);
//# endif
    for (var c = thread; c < mem; c += {{ threads }}u) {
      var old = 0.0;
      for (var l = 0u; l < slots; l++) {
        old += load(base, l * mem + c) * slot_of(write_head + before + l{{ ", write_is_large, write_scale" if has_keys }});
      }
      let x = p_write * value[params.value_base + token * mem + c]{% if has_erase %} - p_erase * old{% endif %};
      var sum = 0.0;
      for (var l = 0u; l < slots; l++) {
        let cell = load(base, l * mem + c) + slot_of(write_head + before + l{{ ", write_is_large, write_scale" if has_keys }}) * x;
        save(base, l * mem + c, cell);
        sum += cell * slot_of(read_head + before + l{{ ", read_is_large, read_scale" if has_keys }});
      }
      y[token * mem + c] = p_read * sum;
//# if has_keys and by_position
      var known = 0.0;
      for (var l = 0u; l < slots; l++) {
        known += load(base, (slots + l) * mem + c) * slot_of(write_head + before + l{{ ", write_is_large, write_scale" if has_keys }});
      }
      let z = {% if has_erase %}p_write * {% endif %}key[params.key_base + token * mem + c]{% if has_erase %} - p_erase * known{% endif %};
      for (var l = 0u; l < slots; l++) {
        let at = (slots + l) * mem + c;
        save(base, at, load(base, at) + slot_of(write_head + before + l{{ ", write_is_large, write_scale" if has_keys }}) * z);
      }
//# endif
    }
//# if has_keys and by_position
    // Keys are written by column and read by row.
    workgroupBarrier();
//# if not in_workgroup
    storageBarrier();
//# endif
//# endif
    for (var l = thread; l < slots; l += {{ threads }}u) {
      var jump = 0.0;
//# if has_keys
      let row = (slots + l) * mem;
//# if by_position
      for (var c = 0u; c < mem; c++) {
        jump += load(base, row + c) * query[params.query_base + token * mem + c];
      }
//# else
      var known = 0.0;
      for (var c = 0u; c < mem; c++) {
        known += load(base, row + c) * key[params.key_base + token * mem + c];
      }
      // The keys are erased by content, with the heads as they are.
      let x = {% if has_erase %}p_write * {% endif %}heads[write_head + before + l]{% if has_erase %} - p_erase * known{% endif %};
      for (var c = 0u; c < mem; c++) {
        let cell = load(base, row + c) + x * key[params.key_base + token * mem + c];
        save(base, row + c, cell);
        jump += cell * query[params.query_base + token * mem + c];
      }
//# endif
//# endif
      let previous = select(l - 1u, slots - 1u, l == 0u);
      let next = select(l + 1u, 0u, l + 1u == slots);
      heads[read_head + after + l] = dot(read_directions, vec4(heads[read_head + before + next], heads[read_head + before + l], heads[read_head + before + previous], jump));
      heads[write_head + after + l] = dot(write_directions, vec4(heads[write_head + before + next], heads[write_head + before + l], heads[write_head + before + previous], jump));
    }
    now = 1u - now;
    workgroupBarrier();
//# if not has_heads or (has_keys and by_position and not in_workgroup)
    storageBarrier();
//# endif
  }
//# if in_workgroup
  for (var i = thread; i < n_cells; i += {{ threads }}u) {
    state[base + i] = cells[i];
  }
//# endif
  for (var l = thread; l < slots; l += {{ threads }}u) {
    state[base + n_cells + l] = heads[read_head + now * room + l];
    state[base + n_cells + slots + l] = heads[write_head + now * room + l];
  }
}
