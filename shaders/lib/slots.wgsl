    // Of {{ n_slots }} slots, those of this thread; the block ends where this is included. FXC refuses a barrier behind a loop
    // of one round at most, or of other rounds for other threads.
//# if n_slots <= threads
    if (thread < {{ n_slots }}u) {
      let slot = thread;
//# elif n_slots % threads > 0
    for (var slot0 = 0u; slot0 < {{ n_slots }}u; slot0 += {{ threads }}u) {
      let slot = slot0 + thread;
      if (slot >= {{ n_slots }}u) {
        continue;
      }
//# else
    for (var slot = thread; slot < {{ n_slots }}u; slot += {{ threads }}u) {
//# endif
