//# if n_places > 0
      // What `scan_queries.wgsl` left, in the place of its own names.
//# for c in columns
      let q_column{{ of }}_{{ c }} = places[place{{ of }} + {{ loop.index0 }}u];
//# endfor
      let row_valid{{ of }} = places[place{{ of }} + {{ valid_place }}u] != vec4(0.0);
//# for t in terms if t.kind == "great_circle"
//# set first = valid_place + 1 + 4 * loop.index0
//# for c in ["x", "y", "z", "w"]
      let q_{{ c }}{{ of }}_{{ t.index }} = places[place{{ of }} + {{ first + loop.index0 }}u];
//# endfor
//# endfor
//# endif
