//! See `wgpu_attention_fuzz::operation`.
#![cfg_attr(fuzzing, no_main)]
wgpu_attention_fuzz::target!(operation);
