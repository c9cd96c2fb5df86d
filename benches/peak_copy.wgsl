// Copies numbers, four for each thread.

@group(0) @binding(0) var<storage, read> from_: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> to: array<vec4<f32>>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let at = (group.y * count.x + group.x) * 256u + thread;
  if (at < arrayLength(&to)) {
    to[at] = from_[at];
  }
}
