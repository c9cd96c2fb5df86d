//! A short run of every target, so that they do not rot.

use wgpu_attention_fuzz::{Flips, TARGETS, flips, run};

#[test]
fn targets_hold_for_mutated_files() {
    for (name, target) in TARGETS {
        let cases = match name {
            // A software adapter compiles shaders for each.
            "snippet" => 40,
            "operation" => 200,
            _ => 5_000,
        };
        let report = run(name, target, cases, 1);
        println!("{name}: {} inputs, slowest {:.2?}", report.cases, report.slowest);
        assert!(report.failures.is_empty(), "{name}: {:#?}", report.failures);
    }
}

#[test]
fn flipped_bits_change_no_prediction() {
    for (name, Flips { refused, same, other }) in flips(200, 1) {
        assert_eq!(other, 0, "{name}: {refused} refused, {same} the same");
    }
}
