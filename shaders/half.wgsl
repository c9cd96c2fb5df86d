// half: numbers of 32 bits to numbers of 16, two in a word of which the first is the lower half, or back.
//
//   narrow: y [words] of x [n] · widen: y [n] of x [words]
//
// {{ threads }} threads in a workgroup, one for each word; no workgroup memory.

struct Params {
  // Numbers; the last word may hold one.
  n: u32,
  // Where the first element is in each binding.
  x_base: u32,
  y_base: u32,
}

//# set is_narrow = direction == "narrow"
@group(0) @binding(0) var<storage, read> x: array<{{ "f32" if is_narrow else "u32" }}>;
@group(0) @binding(1) var<storage, read_write> y: array<{{ "u32" if is_narrow else "f32" }}>;
@group(1) @binding(0) var<uniform> params: Params;

//# include "lib/element.wgsl"

//# if is_narrow
// The nearest half, of two the even one. WGSL leaves the rounding of its own function to the driver, and
// what it makes of numbers that are too large.
fn half_of(value: f32) -> u32 {
  let bits = bitcast<u32>(value);
  let size = bits & 0x7fffffffu;
  let sign = (bits >> 16u) & 0x8000u;
  if (size > 0x7f800000u) {
    return sign | 0x7e00u;
  }
  // From halfway between the largest half and the next, which does not exist.
  if (size >= 0x477ff000u) {
    return sign | 0x7c00u;
  }
  // From 2^-14 on the digits of the half are those of the number without the last 13; below, the
  // exponent stays and there are fewer, so that the first of the number is one of them.
  let is_normal = size >= 0x38800000u;
  let cut = select(min(126u - min(size >> 23u, 112u), 25u), 13u, is_normal);
  let digits = select((size & 0x7fffffu) | 0x800000u, size - 0x38000000u, is_normal);
  let kept = digits >> cut;
  let rest = digits & ((1u << cut) - 1u);
  let middle = 1u << (cut - 1u);
  let is_up = rest > middle || (rest == middle && (kept & 1u) == 1u);
  return sign | (kept + select(0u, 1u, is_up));
}
//# endif

@compute @workgroup_size({{ threads }})
fn main(
  @builtin(workgroup_id) group_id: vec3<u32>,
  @builtin(num_workgroups) group_count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let i = element(group_id, group_count, thread);
  if (2u * i >= params.n) {
    return;
  }
//# if is_narrow
  var word = half_of(x[params.x_base + 2u * i]);
  if (2u * i + 1u < params.n) {
    word |= half_of(x[params.x_base + 2u * i + 1u]) << 16u;
  }
  y[params.y_base + i] = word;
//# else
  let halves = unpack2x16float(x[params.x_base + i]);
  y[params.y_base + 2u * i] = halves.x;
  if (2u * i + 1u < params.n) {
    y[params.y_base + 2u * i + 1u] = halves.y;
  }
//# endif
}
