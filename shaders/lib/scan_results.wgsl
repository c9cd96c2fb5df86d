  let out_base = problem.values_base + split * problem.out_split + batch * problem.out_batch + head * problem.out_head;
  let lse_base = problem.log_sum_exp_base + split * problem.lse_split + batch * problem.lse_batch + head * problem.lse_head;

