// The place of a thread in rows of `across` threads, of which there is an even number. Neighbours are above each other:
// of 16 bytes that threads read from workgroup memory, NVIDIA's GPUs give two neighbours the same ones at once.
fn row_of(thread: u32, across: u32) -> u32 {
  return thread / (2u * across) * 2u + thread % 2u;
}

fn column_of(thread: u32, across: u32) -> u32 {
  return thread / 2u % across;
}
