//! A short run of every target, so that they do not rot.

use std::collections::BTreeSet;

use wgpu_attention::checkpoint::Checkpoint;
use wgpu_attention_fuzz::{Flips, TARGETS, corpus_file, flips, outputs, run, saved, today};

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

/// A file of each kind is there, and what the library reads today: mutations of others would be refused for that.
#[test]
fn the_corpus_is_of_today() {
    let again = "write it anew by `cargo run -p wgpu-attention-fuzz --bin corpus`";
    for target in ["checkpoint", "posterior"] {
        let named = |(of, name, _)| (of == target).then_some(name);
        let names: BTreeSet<String> = today().into_iter().filter_map(named).collect();
        let files = std::fs::read_dir(corpus_file(target, "")).unwrap();
        let files: BTreeSet<String> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(files, names, "{again}");
    }
    for (target, name, _) in today() {
        let path = corpus_file(target, &name);
        let found = Checkpoint::open(&path).unwrap_or_else(|error| panic!("{error}: {again}"));
        match saved().iter().find(|saved| target == "posterior" && saved.name == name) {
            // The instruction sets of processors differ in the last bits.
            Some(saved) => assert!(saved.predict(&found).is_ok(), "{name}: {again}"),
            None => assert!(outputs(&found).is_ok(), "{name}: {again}"),
        }
    }
}
