//! The functions of [`wgpu_attention_datafusion`] on a [Ballista](ballista) cluster: the query that runs in one
//! process runs on many machines, and its posteriors have the same bits.
//!
//! What Ballista has to be told for that is here: the configuration of a [scheduler] and of an [executor] that
//! know the functions, and a [session] that sends them queries. Functions travel by their name and what makes
//! their bits, so that a machine with another checkpoint or other instructions refuses a query.

mod cluster;
mod codec;

pub use cluster::{HEARTBEAT_SECONDS, LOST_AFTER_SECONDS, executor, scheduler, session};
pub use codec::{Logical, Physical};
