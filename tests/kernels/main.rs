//! The operations, on the CPU and on every adapter. One binary for all of them: each one more links
//! the whole crate and its dependencies anew.

#[path = "../support/mod.rs"]
mod support;

mod activations;
mod attention_memory;
mod bad_input;
mod bad_input_memories;
mod device;
mod differential;
mod half;
mod linear_attention;
mod long_loops;
mod lost;
mod memories;
mod memories_refuse;
mod no_room;
mod norms;
mod not_finite;
mod operations;
mod ops;
mod plans;
mod recording;
mod recurrences;
mod rolling_attention;
mod scan_attention;
mod shaders;
mod states;
mod tape;
mod twins;
