//! Examples and the command as a user runs them, and folders for their files.

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

/// In the folder of the package, unless it has another one.
fn in_folder(command: &mut Command) -> &mut Command {
    match command.get_current_dir() {
        Some(_) => command,
        None => command.current_dir(env!("CARGO_MANIFEST_DIR")),
    }
}

pub fn run(command: &mut Command) -> Output {
    in_folder(command).output().unwrap()
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
    let mut child = in_folder(command).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
}

/// A folder of a test's own, removed with it.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("wgpu-attention-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    pub fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left in the temporary folder harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
