    // Of {{ n_slots }} slots, those of this thread; the block ends where this is included.
//# if n_slots < threads
    // No loop: FXC refuses a barrier behind one that some threads do not enter.
    if (thread < {{ n_slots }}u) {
      let slot = thread;
//# else
    for (var slot = thread; slot < {{ n_slots }}u; slot += {{ threads }}u) {
//# endif
