      // Where a key is, and whether it takes part.
      let at = min(key, problem.n_keys - 1u);
      var valid = key < key_end;
//# if has_mask
      valid = valid & exists(batch, at);
//# endif
//# if terms
//# for column in columns
      var k_column_{{ column }} = k_coords[k_coords_base + at * {{ n_columns }}u + {{ column }}u];
      valid = valid & finite(k_column_{{ column }});
      k_column_{{ column }} = select(0.0, k_column_{{ column }}, finite(k_column_{{ column }}));
//# endfor
//# for t in terms if t.kind == "great_circle"
      let point_{{ t.index }} = unit_vector(k_column_{{ t.first }}, k_column_{{ t.first + 1 }});
//# endfor
//# endif
