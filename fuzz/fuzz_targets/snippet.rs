//! See `wgpu_attention_fuzz::snippet`.
#![cfg_attr(fuzzing, no_main)]
wgpu_attention_fuzz::target!(snippet);
