//! Stores row r of the thread's four of h: `total_h`, `largest_h`, `row_valid_h` and `out{r}_h_0 ..` of n_v vectors, which are
//! v_across apart from `column` on. One thread of a row `is_owner` and stores its log-sum-exp; `and_writes` may leave others out.
    if (row + {{ apart * (4 * h + r) }}u < problem.n_queries{{ and_writes }}) {
      let base = out_base + (row + {{ apart * (4 * h + r) }}u) * problem.out_row;
      let total = total_{{ h }}[{{ r }}];
      let is_lost = is_lost(total){{ " && row_valid_" ~ h ~ "[" ~ r ~ "]" if terms }};
      // A row without a valid key reads as zeros, and so does a query that is nowhere.
      let is_empty = (largest_{{ h }}[{{ r }}] <= 0.5 * MASKED && !is_lost){{ " || !row_valid_" ~ h ~ "[" ~ r ~ "]" if terms }};
      let inverse = select(1.0 / total, total, is_lost);
//# for i in range(n_v)
      store(base, {{ i * v_across }}u + {{ column }}, select(out{{ r }}_{{ h }}_{{ i }} * inverse, vec4(0.0), is_empty));
//# endfor
      if ({{ is_owner }}) {
        let at = lse_base + (row + {{ apart * (4 * h + r) }}u) * problem.lse_row;
        let first = select(select(largest_{{ h }}[{{ r }}], MASKED, is_empty), total, is_lost);
        if (problem.lse_sums > 0u) {
          log_sum_exp[at] = first;
          log_sum_exp[at + problem.lse_sums] = select(total, 0.0, is_empty);
        } else {
          log_sum_exp[at] = first + select(log(total), 0.0, is_empty || is_lost);
        }
      }
    }

