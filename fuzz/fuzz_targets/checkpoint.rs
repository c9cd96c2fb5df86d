//! See `wgpu_attention_fuzz::checkpoint`.
#![cfg_attr(fuzzing, no_main)]
wgpu_attention_fuzz::target!(checkpoint);
