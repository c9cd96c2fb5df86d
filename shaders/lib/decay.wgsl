// What decays in a chunk of {{ chunk }} steps, four of them in a vector: thread i < {{ chunk // 4 }} fills in `decays[i]`,
// ones past the last step.
var<workgroup> decays: array<vec4<f32>, {{ chunk // 4 }}>;

// What four steps leave of what was there before the first of the chunk, those steps included.
fn left_of_all(quad: u32) -> vec4<f32> {
  var left = 1.0;
  for (var i = 0u; i < quad; i++) {
    let four = decays[i];
    left *= four.x * four.y * four.z * four.w;
  }
  let four = decays[quad];
  return left * vec4(four.x, four.x * four.y, four.x * four.y * four.z, four.x * four.y * four.z * four.w);
}

// What is left, before the steps of `quad`, of what each of the four steps of another wrote.
fn left_before(quad: u32, by: u32) -> vec4<f32> {
  if (by >= quad) {
    return vec4(1.0);
  }
  let four = decays[by];
  var left = vec4(four.y * four.z * four.w, four.z * four.w, four.w, 1.0);
  for (var i = by + 1u; i < quad; i++) {
    let next = decays[i];
    left *= next.x * next.y * next.z * next.w;
  }
  return left;
}

// The same after step `i` of `quad`, given that before it.
fn left_after(left: vec4<f32>, quad: u32, i: u32, by: u32) -> vec4<f32> {
  return left * select(vec4(1.0), vec4(decays[quad][i]), vec4(4u * by) + vec4(0u, 1u, 2u, 3u) < vec4(4u * quad + i));
}
