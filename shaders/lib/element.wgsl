//# include "lib/group.wgsl"

// The number that is this thread's, where every thread has one.
fn element(group: vec3<u32>, count: vec3<u32>, thread: u32) -> u32 {
  return group_index(group, count) * {{ threads }}u + thread;
}
