  let head = (group / problem.q_tiles) % problem.n_heads;
  let batch = (group / problem.q_tiles / problem.n_heads) % problem.batch;
  let split = group / problem.q_tiles / problem.n_heads / problem.batch;
  let key_begin = split * problem.keys_per_split;
  let key_end = min(key_begin + problem.keys_per_split, problem.n_keys);

  let q_base = problem.q_base + batch * problem.q_batch + head * problem.q_head;
  let kv_head = (problem.first_head + head) / problem.kv_group - problem.first_head / problem.kv_group;
  let k_base = problem.k_base + batch * problem.k_batch + kv_head * problem.k_head;
  let v_base = problem.v_base + batch * problem.v_batch + kv_head * problem.v_head;

