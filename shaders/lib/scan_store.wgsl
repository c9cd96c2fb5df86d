    if (row + {{ apart * (4 * h + r) }}u < problem.n_queries{{ writes }}) {
      let base = out_base + (row + {{ apart * (4 * h + r) }}u) * problem.out_row;
      let total = total_{{ h }}[{{ r }}];
      let is_lost = is_lost(total){{ " && row_valid_" ~ h ~ "[" ~ r ~ "]" if terms }};
      // A row without a valid key reads as zeros, and so does a query that is nowhere.
      let is_empty = (largest_{{ h }}[{{ r }}] <= 0.5 * MASKED && !is_lost){{ " || !row_valid_" ~ h ~ "[" ~ r ~ "]" if terms }};
      let inverse = select(1.0 / total, total, is_lost);
//# for i in range(n_v)
      store(base, {{ i * v_across }}u + {{ column }}, select(out{{ r }}_{{ h }}_{{ i }} * inverse, vec4(0.0), is_empty));
//# endfor
      if (column_thread == 0u) {
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

