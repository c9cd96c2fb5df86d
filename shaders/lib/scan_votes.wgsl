    // Tiles of which no query reads a key are passed over: they would change nothing. Once for 32 of them.
    let tile = (key0 - key_begin) / {{ tile }}u;
    if (tile % 32u == 0u) {
      if (thread == 0u) {
        atomicStore(&votes, 0u);
      }
      workgroupBarrier();
      for (var i = thread; i < {{ 32 * tile }}u; i += {{ threads }}u) {
        let key = key0 + i;
        if (key < key_end && may_be_read(batch, key{{ ", k_coords_base" if terms }})) {
          atomicOr(&votes, 1u << (i / {{ tile }}u));
        }
      }
      workgroupBarrier();
      if (thread == 0u) {
        read_tiles = atomicLoad(&votes);
      }
      tiles = workgroupUniformLoad(&read_tiles);
    }
    if (((tiles >> (tile % 32u)) & 1u) == 0u) {
      continue;
    }
