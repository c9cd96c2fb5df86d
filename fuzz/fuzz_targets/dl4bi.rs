//! See `wgpu_attention_fuzz::dl4bi`.
#![cfg_attr(fuzzing, no_main)]
wgpu_attention_fuzz::target!(dl4bi);
