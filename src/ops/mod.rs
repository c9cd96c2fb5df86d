//! The operations: each has a WGSL kernel, a CPU twin and one contract.
//!
//! Four of them are memories, which are written with keys and values and read with queries. They
//! differ in what they keep, and are used alike:
//!
//! | memory | its state keeps | begins and goes on | reads | two states |
//! |---|---|---|---|---|
//! | [`ScanMemory`] | keys and values | `write(state, k, v, mask)` | `read(q, state)` | merge |
//! | [`LinearAttention`] | `sum phi(k) v^T` | `write(state, k, v, mask)` | `read(q, state)` | merge |
//! | [`RollingAttention`] | the softmax of its own queries | `write(state, k, v, mask)` | `read(state)` | merge |
//! | [`AttentionMemory`] | a matrix that is erased, too | `write(state, k, v, mask)` | `read(q, state)` | merge, if nothing was erased or decayed |
//!
//! A write takes no state or a state, which it leaves as it is, and returns a state; a [`Read`] has
//! values and, where there is a softmax, its log-sum-exp; a [`Layout`] says how heads lie in the
//! tensors. [`scan_attention()`] attends at once, [`attention_memory()`] writes and reads at every
//! step of a sequence.
//!
//! What was read can be forgotten: [`RollingAttention::exact`] has sums of which nothing is rounded, so that
//! merges are the same to the bit in any order and can be undone; and what only [merges](Merge) forgets in a
//! [`Window`] over the last blocks, or by [`leave_one_out`].
//!
//! ```
//! use wgpu_attention::{Device, Tensor, ops::{Layout, Read, ScanMemory}};
//!
//! # fn main() -> wgpu_attention::Result<()> {
//! let device = Device::cpu();
//! let tensor = |n: usize| Tensor::new(&device, &[1, n, 8], &vec![0.1; n * 8]);
//! let memory = ScanMemory::new(Layout::Projected { n_heads: 2 });
//! let state = memory.write(None, &tensor(5)?, &tensor(5)?, None)?;
//! let state = memory.write(Some(&state), &tensor(3)?, &tensor(3)?, None)?;
//! let state = state.merge(&memory.write(None, &tensor(4)?, &tensor(4)?, None)?)?;
//! let Read { values, log_sum_exp } = memory.read(&tensor(2)?, &state)?;
//! assert_eq!(values.shape(), [1, 2, 8]);
//! # Ok(())
//! # }
//! ```
//!
//! # What is not finite
//!
//! One rule for all operations, on every device; a table in the tests holds each to it.
//!
//! * **Masked** is as if it were not there, whatever it holds, NaN too: keys that a mask drops, with
//!   their values; pairs that a bias masks (a later time, a matrix of `-inf` or
//!   [`MASKED`](scan_attention::MASKED), a coordinate that is not finite); what is merged and has read
//!   nothing. Numbers of a *bias* say which pairs exist, so one that is not finite masks its pair. One
//!   exception: a memory that erases takes a masked key as a step that changes nothing, which makes
//!   NaN of a row of the memory that was not finite before.
//! * **Empty**, where there are no keys or all are masked, reads as zeros with a log-sum-exp of
//!   `MASKED`.
//! * **NaN** in an operand that is read makes NaN of every output that depends on it, values and
//!   log-sum-exp, and never a number; of no other: not of another head, query, column of values or
//!   earlier step. A logit that is NaN spoils its row. To depend is to be computed from: a NaN in the
//!   state of a recurrence is in all that follows.
//! * **Infinite** numbers, and sums that overflow f32, are what IEEE arithmetic makes of them:
//!   `inf - inf` and `0 inf` are NaN. A softmax has no weights where a logit is plus infinity, so its
//!   row is NaN; a logit of minus infinity, as one below half of `MASKED`, has no weight. An infinite
//!   value is read as infinite where its weight is above `1e-29`, else as that or NaN; states of
//!   [`RollingAttention`] make it NaN. Logits overflow from `2e38` on; so does a query times the
//!   scale, and a sum of which a part overflows may, on one device only.
//!
//! Subnormal numbers may count as zero. On a GPU all this rests on its arithmetic: where a driver
//! takes the liberty to assume that there is no NaN (Metal's fast math may), logits, maxima and masks
//! are still tested by their bits, but what a sum or a product makes of NaN is the driver's. There a
//! bias that masks the key for others also passes over a NaN value whose own weight is zero in
//! f32, about 87 below the largest logit.

pub mod attention_memory;
pub mod elementwise;
pub mod feature_map;
pub mod layer_norm;
mod layout;
pub mod linear;
pub mod linear_attention;
pub mod lsam;
pub mod lstm;
pub mod merge_attention;
#[cfg(feature = "gpu")]
mod recurrence;
pub mod rolling_attention;
pub mod scan_attention;
pub mod softmax;
pub mod tape;
pub mod unit_norm;

pub use attention_memory::{AttentionMemory, Form, MemoryState, Recall, attention_memory};
pub use elementwise::{Map, Probabilities, add, columns, concat, gate, geglu, map, relu, scale_columns};
pub use feature_map::{FeatureKind, FeatureMap, ProjectionRows, feature_map, random_features};
pub use layer_norm::layer_norm;
pub use layout::{Layout, Read};
pub use linear::{Activation, Linear, linear};
pub use linear_attention::{LinearAttention, LinearState, Normalizer};
pub use lsam::{Direction, Lsam, LsamOutput, LsamState, lsam};
pub use lstm::{Lstm, LstmOutput, lstm};
pub use merge_attention::merge_attention;
pub use rolling_attention::{ExactRolling, ExactState, Merge, RollingAttention, RollingState, Window, leave_one_out};
pub use scan_attention::{
    Bias, BiasKernel, BiasTerm, CustomBias, Distance, Placed, ScanAttention, ScanMemory, ScanState, scan_attention,
};
pub use softmax::Attention;
pub use tape::{
    HeadMoves, KeyErase, TapeErase, TapeInputs, TapeOptions, TapeOutput, TapeProbabilities, TapeState, tape,
};
pub use unit_norm::unit_norm;

/// Every text that an operation may compile.
#[cfg(feature = "gpu")]
pub(crate) fn shaders() -> crate::Result<Vec<crate::device::gpu::Shader>> {
    let all = [
        attention_memory::gpu::shaders()?,
        elementwise::gpu::shaders()?,
        feature_map::gpu::shaders()?,
        layer_norm::gpu::shaders()?,
        linear::gpu::shaders()?,
        linear_attention::gpu::shaders()?,
        lsam::gpu::shaders()?,
        lstm::gpu::shaders()?,
        merge_attention::gpu::shaders()?,
        scan_attention::gpu::shaders()?,
        tape::gpu::shaders()?,
        unit_norm::gpu::shaders()?,
        crate::tensor::shaders()?,
    ];
    Ok(all.into_iter().flatten().collect())
}
