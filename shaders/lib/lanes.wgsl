// Sums over {{ lanes }} threads that work on one output together.

var<workgroup> parts: array<{{ part }}, {{ lanes * outputs }}>;

// The sum of `part` over the threads from `first` on, each `stride` from the next; in their order. All
// threads of the workgroup call it.
fn over_lanes(part: {{ part }}, thread: u32, first: u32, stride: u32) -> {{ part }} {
  // Until those that read an earlier sum are done.
  workgroupBarrier();
  parts[thread] = part;
  workgroupBarrier();
  var sum = parts[first];
  for (var lane = 1u; lane < {{ lanes }}u; lane++) {
    sum += parts[first + lane * stride];
  }
  return sum;
}
