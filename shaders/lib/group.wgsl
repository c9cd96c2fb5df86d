// The index of this workgroup. A dimension holds at most 65 535 groups, so the host folds
// longer grids into two; the last row may be longer than what is left, so a kernel either knows
// its `n_groups` or guards every number by the length of what it writes.
fn group_index(group: vec3<u32>, count: vec3<u32>) -> u32 {
  return group.y * count.x + group.x;
}
