//! See `wgpu_attention_fuzz::posterior`.
#![cfg_attr(fuzzing, no_main)]
wgpu_attention_fuzz::target!(posterior);
