//! What a thread has for its 4 * quads rows before the first key. All threads of a group come here together.
//# if skips
  var tiles = 0u;
//# if causal_columns
  if (thread == 0u) {
    forget_latest();
  }
  workgroupBarrier();
//# for h in range(quads)
//# for r in range(4)
  if (row_valid_{{ h }}[{{ r }}]) {
    keep_latest({% for c in causal_columns %}q_column_{{ h }}_{{ c }}[{{ r }}]{{ ", " if not loop.last }}{% endfor %});
  }
//# endfor
//# endfor
//# endif
//# endif
//# if by_pair
  if (thread == 0u) {
    atomicStore(&is_spoiled, 0u);
  }
//# endif
//# for h in range(quads)
  // Above every masked score, so that those get no weight.
  var largest_{{ h }} = vec4(0.5 * MASKED);
  // Over this thread's own keys; its row of threads is summed at the end.
  var sum_{{ h }} = vec4(0.0);
//# for i in range(n_v)
//# for r in range(4)
  var out{{ r }}_{{ h }}_{{ i }} = vec4(0.0);
//# endfor
//# endfor
//# endfor


