//! See `wgpu_attention_fuzz::csv`.
#![cfg_attr(fuzzing, no_main)]
wgpu_attention_fuzz::target!(csv);
