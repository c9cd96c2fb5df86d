//# if terms

  // The coordinates of four queries, one vector a column. Names end in what tells them from others.
  var row_valid{{ of }} = vec4(true);
//# for r in range(4)
  let q_at{{ of }}_{{ r }} = problem.q_coords_base + batch * problem.q_coords_batch + row{{ of }}_{{ r }} * {{ n_columns }}u;
//# endfor
//# for c in columns
  var q_column{{ of }}_{{ c }} = vec4(
{%- for r in range(4) %}q_coords[q_at{{ of }}_{{ r }} + {{ c }}u]{{ ", " if r < 3 }}{% endfor %});
  row_valid{{ of }} = row_valid{{ of }} & finite4(q_column{{ of }}_{{ c }});
  q_column{{ of }}_{{ c }} = select(vec4(0.0), q_column{{ of }}_{{ c }}, finite4(q_column{{ of }}_{{ c }}));
//# endfor
//# for t in terms if t.kind == "great_circle"
//# for r in range(4)
  let point{{ of }}_{{ t.index }}_{{ r }} = unit_vector(q_column{{ of }}_{{ t.first }}[{{ r }}], q_column{{ of }}_{{ t.first + 1 }}[{{ r }}]);
//# endfor
//# for c in ["x", "y", "z", "w"]
  let q_{{ c }}{{ of }}_{{ t.index }} = vec4(
{%- for r in range(4) %}point{{ of }}_{{ t.index }}_{{ r }}.{{ c }}{{ ", " if r < 3 }}{% endfor %});
//# endfor
//# endfor
//# if n_places > 0
  // Of some columns alone, so that registers do not hold them while keys are read.
  if ({{ is_owner }}) {
//# for c in columns
    places[place{{ of }} + {{ loop.index0 }}u] = q_column{{ of }}_{{ c }};
//# endfor
    places[place{{ of }} + {{ valid_place }}u] = select(vec4(0.0), vec4(1.0), row_valid{{ of }});
//# for t in terms if t.kind == "great_circle"
//# set first = valid_place + 1 + 4 * loop.index0
//# for c in ["x", "y", "z", "w"]
    places[place{{ of }} + {{ first + loop.index0 }}u] = q_{{ c }}{{ of }}_{{ t.index }};
//# endfor
//# endfor
  }
//# endif
//# endif
