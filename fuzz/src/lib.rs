//! What hostile input may do: be refused with an error, or give the right answer. A target is a
//! plain function of bytes that panics where that is not so.
//!
//! ```sh
//! cargo run --release -p wgpu-attention-fuzz --bin posterior -- 1000000     # on any compiler
//! cargo +nightly fuzz run posterior                                        # guided by coverage
//! ```

mod corpus;
mod flips;
mod models;
mod mutate;
mod operation;
mod run;
mod targets;

pub use corpus::{corpus, corpus_file, today, write_corpus};
pub use flips::{Flips, flips};
pub use models::{Kind, Saved, kinds, outputs, saved};
pub use mutate::Mutator;
pub use operation::operation;
pub use run::{Report, main, run};
pub use targets::{checkpoint, csv, dl4bi, posterior, snippet};

/// A target's signature.
pub type Target = fn(&[u8]);

/// Every target by its name.
pub const TARGETS: [(&str, Target); 6] = [
    ("checkpoint", checkpoint),
    ("posterior", posterior),
    ("dl4bi", dl4bi),
    ("csv", csv),
    ("snippet", snippet),
    ("operation", operation),
];

/// The main function of a target: that of libFuzzer under `cargo fuzz`, else [`main`].
#[macro_export]
macro_rules! target {
    ($name:ident) => {
        #[cfg(fuzzing)]
        libfuzzer_sys::fuzz_target!(|data: &[u8]| $crate::$name(data));

        #[cfg(not(fuzzing))]
        fn main() {
            $crate::main(stringify!($name), $crate::$name);
        }
    };
}
