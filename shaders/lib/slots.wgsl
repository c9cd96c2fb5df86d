    // Of {{ n_slots }} slots, those of this thread; the block ends where this is included.
//# if n_slots < threads
    // No loop: FXC refuses a barrier behind one that some threads do not enter.
    if (thread < {{ n_slots }}u) {
      let slot = thread;
//# elif n_slots % threads > 0
    // As many rounds for every thread: FXC refuses a barrier behind a loop that some threads leave first.
    for (var slot0 = 0u; slot0 < {{ n_slots }}u; slot0 += {{ threads }}u) {
      let slot = slot0 + thread;
      if (slot >= {{ n_slots }}u) {
        continue;
      }
//# else
    for (var slot = thread; slot < {{ n_slots }}u; slot += {{ threads }}u) {
//# endif
