//! The example `stream` as a user runs it: bad input, and kills at random times.
#![cfg(unix)]

mod support;

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::LazyLock,
    time::{Duration, Instant},
};

use support::Random;
use wgpu_attention::{
    Device, Error,
    checkpoint::Checkpoint,
    models::cmanp::{Cmanp, Config},
};

/// The example, built as this test was.
static STREAM: LazyLock<PathBuf> = LazyLock::new(|| {
    let deps = std::env::current_exe().unwrap();
    let profile = deps.parent().unwrap().parent().unwrap();
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--example", "stream"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    if profile.ends_with("release") {
        build.arg("--release");
    }
    if !cfg!(feature = "gpu") {
        build.arg("--no-default-features");
    }
    assert!(build.status().unwrap().success());
    profile.join("examples/stream")
});

/// A folder of this test's own, with a small network of random parameters in it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str, dim_x: usize) -> Self {
        let folder = std::env::temp_dir().join(format!("stream-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let folder = Self(folder);
        folder.checkpoint("model.safetensors", dim_x, 1);
        folder
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn checkpoint(&self, name: &str, dim_x: usize, seed: u64) {
        let text = format!(
            r#"{{"dim_x": {dim_x}, "dim_y": 1, "d_model": 8, "dim_feedforward": 8, "n_heads": 2, "n_latents": 4,
                "n_latents_per_layer": 4, "n_layers": 2, "emb_depth": 2, "bound_std": true}}"#
        );
        let config: Config = serde_json::from_str(&text).unwrap();
        let mut random = Random::new(seed);
        let mut checkpoint = Checkpoint::default();
        while let Err(error) = Cmanp::new(&Device::cpu(), &config, &checkpoint) {
            let Error::MissingParameter { name, expected } = error else { panic!("{error}") };
            let n = expected.iter().product();
            checkpoint.insert(&name, &expected, random.numbers(n)).unwrap();
        }
        checkpoint.set_metadata("model", "cmanp");
        checkpoint.set_metadata("config", text);
        checkpoint.save(self.path(name)).unwrap();
    }

    fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    /// The example on the CPU without a cycle, with the state and the results in files of a name.
    fn stream(&self, name: &str, input: &str) -> Command {
        let mut command = Command::new(&*STREAM);
        command.args(["--device", "cpu", "--cycle", "0", "--checkpoint", &self.path("model.safetensors")]);
        command.args(["--input", input, "--state", &self.path(&format!("{name}.state"))]);
        command.args(["--out", &self.path(name)]).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left in the temporary folder harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

#[track_caller]
fn succeeds(command: &mut Command) -> Output {
    let output = run(command);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

#[track_caller]
fn refused(command: &mut Command, words: &[&str]) {
    let output = run(command);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "this should be refused");
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
    assert!(!message.contains("panicked"), "{message}");
}

/// Everything that a run leaves: states, progress, predictions.
fn results(folder: &Folder, name: &str, n: u64) -> (u64, String, String, Vec<u8>) {
    let state = Checkpoint::open(folder.path(&format!("{name}.state"))).unwrap();
    let metadata = |key| state.metadata(key).unwrap().to_owned();
    let predictions = Path::new(&folder.path(name)).join(format!("predictions_{n}.csv"));
    (state.fingerprint(), metadata("posterior"), metadata("stream"), std::fs::read(predictions).unwrap())
}

fn observations(n: usize) -> String {
    let mut random = Random::new(3);
    let mut text = "x,y\n".to_owned();
    for (i, y) in random.numbers(n).into_iter().enumerate() {
        let x = -2.0 + 4.0 * i as f64 / n as f64;
        writeln!(text, "{x},{y}").unwrap();
    }
    text
}

#[test]
fn a_killed_stream_goes_on_without_losing_or_repeating_a_point() {
    let n = 6000;
    let folder = Folder::new("kill", 1);
    let input = folder.write("input.csv", &observations(n));
    let stream = |name: &str| {
        let mut command = folder.stream(name, &input);
        command.args(["--block", "3", "--save-every", "60", "--score"]);
        command
    };
    // Built before the clock starts.
    LazyLock::force(&STREAM);
    let started = Instant::now();
    succeeds(&mut stream("whole"));
    let whole_run = started.elapsed();
    let truth = results(&folder, "whole", n as u64);
    let mut random = Random::new(4);
    let (mut n_kills, mut n_midway) = (0, 0);
    for i in 0..20 {
        let name = format!("killed_{i}");
        // Until one is left to finish: up to three kills.
        for _ in 0..3 {
            let mut child = stream(&name).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            // At any time up to a half of what the whole takes.
            std::thread::sleep(whole_run.mul_f32(0.25 * (1.0 + random.numbers(1)[0])).min(Duration::from_secs(20)));
            if child.try_wait().unwrap().is_none() {
                child.kill().unwrap();
                n_kills += 1;
            }
            child.wait().unwrap();
        }
        let state = Checkpoint::open(folder.path(&format!("{name}.state")));
        let is_midway =
            state.is_ok_and(|state| !state.metadata("stream").unwrap().contains(&format!("\"n_rows\":{n},")));
        n_midway += usize::from(is_midway);
        succeeds(&mut stream(&name));
        let found = results(&folder, &name, n as u64);
        assert_eq!((found.0, &found.1, &found.2), (truth.0, &truth.1, &truth.2), "run {i}");
        assert!(found.3 == truth.3, "run {i}: other predictions");
    }
    println!("{n_kills} kills; {n_midway} of 20 last runs went on from the middle");
    assert!(n_kills >= 20 && n_midway >= 5, "{n_kills} kills, {n_midway} midway: the kills came too late");
}

#[test]
fn rows_that_are_not_finite_are_rejected_and_change_nothing() {
    let folder = Folder::new("rejected", 1);
    let good = folder.write("good.csv", "x,y\n0.0,1.0\n0.5,2.0\n1.0,0.5\n");
    let bad = folder.write("bad.csv", "x,y\n0.0,1.0\n0.2,NaN\n0.5,2.0\ninf,1.0\n1.0,0.5\n");
    succeeds(&mut folder.stream("good", &good));
    let output = succeeds(&mut folder.stream("bad", &bad));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("line 3: column \"y\" is NaN: line rejected"), "{message}");
    assert!(message.contains("line 5: column \"x\" is inf: line rejected"), "{message}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("3 points, 2 lines rejected"));
    let (state, posterior, _, predictions) = results(&folder, "bad", 3);
    let truth = results(&folder, "good", 3);
    assert_eq!((state, posterior), (truth.0, truth.1));
    assert!(predictions == truth.3, "other predictions");
}

#[test]
fn bad_streams_and_states_are_errors() {
    let folder = Folder::new("bad", 1);
    let refuse = |name: &str, text: &str, words: &[&str]| {
        let input = folder.write("bad.csv", text);
        refused(&mut folder.stream(name, &input), words);
    };
    refuse("empty", "", &["header"]);
    refuse("empty", "x,y\n", &["no observation", "at least one"]);
    refuse("empty", "x,y\nNaN,1\n", &["line 2", "no observation"]);
    refuse("header", "1,2\n3,4\n", &["first line", "header is needed"]);
    refuse("header", "x,y,z\n1,2,3\n", &["3 columns", "needs 2"]);
    refuse("columns", "x,y\n1,2\n3\n", &["line 3 has 1 columns", "header has 2"]);
    refuse("columns", "x,y\n1,2,3\n", &["line 2 has 3 columns"]);
    refuse("columns", "x,y\n1,2\n3,four\n", &["line 3", "\"y\"", "\"four\""]);
    let input = folder.write("good.csv", "x,y\n0.0,1.0\n0.5,2.0\n");
    succeeds(&mut folder.stream("good", &input));
    // Another network, other settings, a shorter input, a truncated file.
    folder.checkpoint("model.safetensors", 1, 2);
    refused(&mut folder.stream("good", &input), &["cannot resume", "parameters"]);
    folder.checkpoint("model.safetensors", 1, 1);
    refused(folder.stream("good", &input).args(["--unit", "2"]), &["settings", "unit 2"]);
    refused(folder.stream("good", &input).arg("--unit=-2"), &["a number above 0"]);
    let shorter = folder.write("shorter.csv", "x,y\n0.0,1.0\n");
    refused(&mut folder.stream("good", &shorter), &["ends after 1 lines", "consumed 2"]);
    let state = std::fs::read(folder.path("good.state")).unwrap();
    std::fs::write(folder.path("good.state"), &state[..state.len() / 2]).unwrap();
    refused(&mut folder.stream("good", &input), &["cannot resume", "not a readable checkpoint"]);
    // A cycle is for a model that is told its phase.
    let mut command = Command::new(&*STREAM);
    command.args(["--device", "cpu", "--checkpoint", &folder.path("model.safetensors"), "--input", &input]);
    refused(&mut command, &["1 coordinates", "--cycle 0"]);
    folder.checkpoint("model.safetensors", 2, 1);
    refused(&mut folder.stream("other", &input), &["2 columns", "needs 3"]);
}
