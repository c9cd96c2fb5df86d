  // Uniform for the whole group, so no thread waits at a barrier alone.
  let local = group_index(group_id, group_count);
  if (local >= params.n_groups) {
    return;
  }
  let group = params.first_group + local;
  // Column `j` of a batch element, and the thread's part of its sum.
  let blocks = (params.{{ columns }} + {{ outputs - 1 }}u) / {{ outputs }}u;
  let batch = group / blocks;
  let lane = thread / {{ outputs }}u;
  let column = thread % {{ outputs }}u;
  let j = group % blocks * {{ outputs }}u + column;
