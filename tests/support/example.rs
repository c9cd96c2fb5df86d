//! Examples as a user runs them, built as this test was.

use std::{
    path::PathBuf,
    process::{Command, Output, Stdio},
};

/// Builds an example: where it is. Not by its package: what is built for one alone has other features, so that
/// everything would be built anew.
pub fn build(name: &str) -> PathBuf {
    let deps = std::env::current_exe().unwrap();
    let profile = deps.parent().unwrap().parent().unwrap();
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--example", name]).current_dir(env!("CARGO_MANIFEST_DIR"));
    if profile.ends_with("release") {
        build.arg("--release");
    }
    if !cfg!(feature = "gpu") {
        build.arg("--no-default-features");
    }
    assert!(build.status().unwrap().success());
    profile.join("examples").join(name)
}

pub fn run(command: &mut Command) -> Output {
    command.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs it to its end: what it printed.
#[track_caller]
pub fn succeeds(command: &mut Command) -> Output {
    let output = run(command);
    assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
    output
}

/// Asserts that it refuses with a message that holds these words, and does not panic.
#[track_caller]
pub fn refused(command: &mut Command, words: &[&str]) {
    let output = run(command);
    let message = text(&output.stderr);
    assert!(!output.status.success(), "{command:?} should be refused");
    for word in words {
        assert!(message.contains(word), "{command:?}: {word:?} is not in {message:?}");
    }
    assert!(!message.contains("panicked"), "{message}");
}

/// Runs it with a reader of its output that goes away at once, as `| head -0` does.
#[track_caller]
pub fn survives_a_closed_pipe(command: &mut Command) {
    let mut child =
        command.current_dir(env!("CARGO_MANIFEST_DIR")).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
}
