//! The example `stream` as a user runs it: bad input, and kills at random times.
#![cfg(unix)]

mod support;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::LazyLock,
    time::{Duration, Instant},
};

use support::{
    Random,
    example::{self, refused, succeeds, survives_a_closed_pipe},
    parameters,
};
use wgpu_attention::{
    Device,
    checkpoint::Checkpoint,
    models::cmanp::{Cmanp, Config},
};

static STREAM: LazyLock<PathBuf> = LazyLock::new(|| example::build("stream"));

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
        let build = |checkpoint: &Checkpoint| Cmanp::new(&Device::cpu(), &config, checkpoint);
        let (_, mut checkpoint) = parameters(build, |_, shape| random.numbers(shape.iter().product()));
        checkpoint.set_metadata("model", "cmanp");
        checkpoint.set_metadata("config", text);
        checkpoint.save(self.path(name)).unwrap();
    }

    fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    /// The example on the CPU without a cycle, with the results in a folder of a name.
    fn piped(&self, name: &str) -> Command {
        let mut command = Command::new(&*STREAM);
        command.args(["--device", "cpu", "--cycle", "0", "--checkpoint", &self.path("model.safetensors")]);
        command.args(["--out", &self.path(name)]);
        command
    }

    /// The same with a file to read, and a state.
    fn stream(&self, name: &str, input: &str) -> Command {
        let mut command = self.piped(name);
        command.args(["--input", input, "--state", &self.path(&format!("{name}.state"))]);
        command
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left in the temporary folder harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Everything that a run leaves: states, progress, predictions.
fn results(folder: &Folder, name: &str, n: u64) -> (u64, String, String, Vec<u8>) {
    let state = Checkpoint::open(folder.path(&format!("{name}.state"))).unwrap();
    let metadata = |key| state.metadata(key).unwrap().to_owned();
    let predictions = Path::new(&folder.path(name)).join(format!("predictions_{n}.csv"));
    (state.fingerprint(), metadata("posterior"), metadata("stream"), std::fs::read(predictions).unwrap())
}

/// All predictions in the folder of a run, files that were left half-way included.
fn predictions(folder: &Folder, name: &str) -> BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(folder.path(name)).unwrap().map(|file| file.unwrap());
    let files = files.map(|file| (file.file_name().into_string().unwrap(), file.path()));
    let files = files.filter(|(name, _)| name.starts_with("predictions"));
    files.map(|(name, path)| (name, std::fs::read(path).unwrap())).collect()
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
        command.args(["--block", "3", "--save-every", "60", "--every", "300", "--score"]);
        command
    };
    // Built before the clock starts.
    LazyLock::force(&STREAM);
    let started = Instant::now();
    succeeds(&mut stream("whole"));
    let mut whole_run = started.elapsed();
    let truth = results(&folder, "whole", n as u64);
    let every_prediction = predictions(&folder, "whole");
    assert_eq!(every_prediction.len(), n / 300);
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
        let n_rows = format!("\"n_rows\":{n},");
        let is_finished = state.as_ref().is_ok_and(|state| state.metadata("stream").unwrap().contains(&n_rows));
        let is_midway = state.is_ok() && !is_finished;
        // The machine may be busier or less so than it was: the next kills come earlier or later.
        if !is_midway {
            whole_run = whole_run.mul_f32(if is_finished { 0.8 } else { 1.25 });
        }
        n_midway += usize::from(is_midway);
        succeeds(&mut stream(&name));
        let found = results(&folder, &name, n as u64);
        assert_eq!((found.0, &found.1, &found.2), (truth.0, &truth.1, &truth.2), "run {i}");
        assert!(predictions(&folder, &name) == every_prediction, "run {i}: other predictions");
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
    refuse("columns", "x,y\n3\n", &["line 2 has 1 columns", "header has 2"]);
    refuse("columns", "x,y\n1,2,3\n", &["line 2 has 3 columns"]);
    refuse("columns", "x,y\n3,four\n", &["line 2", "\"y\"", "\"four\""]);
    // Blank lines and other ends of lines count as an editor counts them.
    refuse("columns", "x,y\r\n\r\n\n3,four\r\n", &["line 4", "\"four\""]);
    // A stray quote spoils its own line only, and messages stay short.
    refuse("quote", "x,y\n0,\"1\n", &["line 2", "\"\\\"1\""]);
    refuse("long", &format!("x,y\n0,{}\n", "a".repeat(60_000)), &["line 2", &format!("{:?}", "a".repeat(40) + "...")]);
    refuse("long", &format!("x,y\n0,{}\n", "1".repeat(70_000)), &["line 2 is too long", "65536 bytes are allowed"]);
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
    let other = folder.write("other.csv", "x,y\n0.0,1.5\n0.5,2.0\n");
    refused(&mut folder.stream("good", &other), &["first 2 lines are not those"]);
    let renamed = folder.write("renamed.csv", "x,z\n0.0,1.0\n0.5,2.0\n");
    refused(&mut folder.stream("good", &renamed), &["the header is \"x,z\"", "\"x,y\""]);
    let state = std::fs::read(folder.path("good.state")).unwrap();
    std::fs::write(folder.path("good.state"), &state[..state.len() / 2]).unwrap();
    refused(&mut folder.stream("good", &input), &["cannot resume", "not a readable checkpoint"]);
    // A cycle is for a model that is told its phase.
    let mut command = Command::new(&*STREAM);
    command.args(["--device", "cpu", "--checkpoint", &folder.path("model.safetensors"), "--input", &input]);
    command.args(["--out", &folder.path("none")]);
    refused(&mut command, &["1 coordinates", "--cycle 0"]);
    folder.checkpoint("model.safetensors", 2, 1);
    refused(&mut folder.stream("other", &input), &["2 columns", "needs 3"]);
}

#[test]
fn numbers_beyond_32_bits_are_rejected() {
    let folder = Folder::new("large", 1);
    let input = folder.write("input.csv", "x,y\r\n\r\n0.0,1.0\r\n0.5,1e39\r\n-1e300,1\r\n1.0,0.5\r\n");
    let output = succeeds(&mut folder.stream("large", &input));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("line 4: column \"y\" is 1e39, too large for 32 bits: line rejected"), "{message}");
    assert!(message.contains("line 5: column \"x\" is -1e300, too large"), "{message}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("2 points, 2 lines rejected"));
}

#[test]
fn a_line_that_is_not_finished_is_left_to_the_next_run() {
    let folder = Folder::new("unfinished", 1);
    let whole = folder.write("whole.csv", "x,y\n0.0,1.0\n0.5,2.25\n");
    succeeds(folder.stream("whole", &whole).args(["--block", "1"]));
    let growing = folder.write("growing.csv", "x,y\n0.0,1.0\n0.5,2.");
    let output = succeeds(folder.stream("growing", &growing).args(["--block", "1"]));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("line 3: no newline ends it"), "{message}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("observed  1 points"));
    folder.write("growing.csv", "x,y\n0.0,1.0\n0.5,2.25\n");
    succeeds(folder.stream("growing", &growing).args(["--block", "1"]));
    assert!(results(&folder, "growing", 2) == results(&folder, "whole", 2));
    // A run without a state has no next one.
    let finished = folder.write("finished.csv", "x,y\n0.0,1.0\n0.5,2.25");
    succeeds(folder.piped("finished").args(["--input", &finished, "--block", "1"]));
    assert!(predictions(&folder, "finished") == predictions(&folder, "whole"), "other predictions");
}

#[test]
fn a_bad_line_does_not_take_those_before_it_along() {
    let folder = Folder::new("before", 1);
    let good = folder.write("good.csv", "x,y\n0.0,1.0\n0.5,2.0\n1.0,0.5\n");
    let long = format!("x,y\n0.0,1.0\n0.5,2.0\n1.0,{}\n", "1".repeat(70_000));
    let bad = folder.write("bad.csv", &long);
    refused(&mut folder.stream("bad", &bad), &["line 4 is too long"]);
    let output = succeeds(&mut folder.stream("bad", &good));
    assert!(String::from_utf8_lossy(&output.stdout).contains("resumed   after 2 lines, 2 observations"));
    succeeds(&mut folder.stream("good", &good));
    assert!(results(&folder, "bad", 3) == results(&folder, "good", 3));
}

#[test]
fn a_stream_continues_only_from_a_state_with_its_columns() {
    let folder = Folder::new("continues", 1);
    let run = |name: &str, text: &str| {
        let mut command = folder.piped(name);
        command.args(["--state", &folder.path(&format!("{name}.state"))]);
        command.stdin(File::open(folder.write("part.csv", text)).unwrap());
        command
    };
    refused(run("parts", "x,y\n0.0,1.0\n").arg("--continues"), &["no state", "parts.state", "leave out --continues"]);
    succeeds(&mut run("parts", "x,y\n0.0,1.0\n"));
    refused(run("parts", "x,z\n0.5,2.0\n").arg("--continues"), &["the header is \"x,z\""]);
    succeeds(run("parts", "x,y\n0.5,2.0\n").arg("--continues"));
    succeeds(&mut run("whole", "x,y\n0.0,1.0\n0.5,2.0\n"));
    assert!(results(&folder, "parts", 2) == results(&folder, "whole", 2));
}

#[test]
fn a_model_of_two_coordinates_predicts_given_points() {
    let folder = Folder::new("at", 2);
    let input = folder.write("input.csv", "a,b,y\n0.0,1.0,0.5\n0.5,2.0,1.5\n");
    let output = succeeds(&mut folder.stream("none", &input));
    let message = String::from_utf8_lossy(&output.stdout);
    assert!(
        message.contains("nothing is predicted") && message.contains("--at FILE with the columns a,b"),
        "{message}"
    );
    refused(folder.stream("none", &input).args(["--every", "1"]), &["--every: nothing is predicted", "--at FILE"]);
    let at = folder.write("at.csv", "a,b\n0,0\n1.5,-0.5\n");
    succeeds(folder.stream("some", &input).args(["--at", &at]));
    let text = String::from_utf8(results(&folder, "some", 2).3).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines.len(), lines[0]), (3, "a,b,mean,std"));
    assert!(lines[1].starts_with("0,0,") && lines[2].starts_with("1.5,-0.5,"), "{text}");
    let refuse = |text: &str, words: &[&str]| {
        let at = folder.write("at.csv", text);
        refused(folder.stream("some", &input).args(["--at", &at]), words);
    };
    refuse("a,c\n0,0\n", &["--at", "\"a,c\"", "\"a,b\""]);
    refuse("a,b\n", &["--at", "there is no point"]);
    refuse("a,b\n0,1e39\n", &["--at", "line 2 is not finite"]);
}

#[test]
fn a_window_predicts_as_if_it_had_seen_nothing_before() {
    let folder = Folder::new("window", 1);
    let text = observations(2000);
    let input = folder.write("input.csv", &text);
    let predicted = |name: &str, input: &str, n: u64, more: &[&str]| -> Vec<f64> {
        let output = succeeds(folder.piped(name).args(["--input", input]).args(more));
        let has_window = String::from_utf8_lossy(&output.stdout).contains("window    700 points");
        assert_eq!(has_window, !more.is_empty());
        let csv = std::fs::read_to_string(folder.path(&format!("{name}/predictions_{n}.csv"))).unwrap();
        csv.lines().skip(1).flat_map(|line| line.split(',').map(|x| x.parse().unwrap()).collect::<Vec<_>>()).collect()
    };
    let lines: Vec<&str> = text.lines().collect();
    let last = folder.write("last.csv", &[&lines[..1], &lines[1301..]].concat().join("\n"));
    let expected = predicted("last", &last, 700, &[]);
    // The last 700 of 2000 points, 4 / 2000 apart.
    for (name, more) in [("points", ["--window", "700"]), ("span", ["--window-span", "1.399"])] {
        let found =
            predicted(name, &input, 2000, &[&more[..], &["--block", "9", "--every", "500", "--score"]].concat());
        assert_eq!(found.len(), expected.len());
        let apart = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(apart <= 1e-5, "{name}: {apart}");
    }
    refused(folder.stream("both", &input).args(["--window", "5"]), &["--window", "--state"]);
    for (option, value) in [("--window", "0"), ("--window-span", "0"), ("--window-span", "NaN")] {
        refused(folder.piped("bad").args(["--input", &input, option, value]), &[option]);
    }
}

/// A network that is told the cycle stood beside the last value alone, which is not.
#[test]
fn forecasts_stand_beside_what_the_cycle_before_says() {
    let folder = Folder::new("cycle", 3);
    let rows: Vec<f64> = (0..60).map(f64::from).collect();
    let text = |rows: &[f64]| {
        let y = |x: f64| 0.1 * x + 3.0 * (std::f64::consts::TAU * x / 12.0).sin();
        rows.iter().fold("x,y\n".to_owned(), |text, &x| text + &format!("{x},{}\n", y(x)))
    };
    let stream = |name: &str, rows: &[f64]| {
        let input = folder.write(&format!("{name}.csv"), &text(rows));
        let mut command = Command::new(&*STREAM);
        command.args(["--device", "cpu", "--checkpoint", &folder.path("model.safetensors"), "--input", &input]);
        command.args(["--cycle", "12", "--x-range", "0,60", "--level", "0", "--unit", "1", "--score"]);
        command.args(["--out", &folder.path(name), "--state", &folder.path(&format!("{name}.state"))]);
        String::from_utf8(succeeds(&mut command).stdout).unwrap()
    };
    // A line and a cycle: what changed a cycle ago changes again. 13 observations come before the first such forecast.
    let whole = stream("whole", &rows);
    assert!(whole.contains("of 47 of them with a whole cycle before"), "{whole}");
    assert!(whole.contains("one cycle ago: 0.000)"), "{whole}");
    // It goes on with a state, and between observations where some are missing.
    stream("parts", &rows[..20]);
    stream("parts", &rows);
    assert!(results(&folder, "parts", 60) == results(&folder, "whole", 60));
    let gaps: Vec<f64> = rows.iter().copied().filter(|x| x % 7.0 != 3.0).collect();
    let output = stream("gaps", &gaps);
    let error = output.split("one cycle ago: ").nth(1).unwrap().split(')').next().unwrap().parse::<f64>().unwrap();
    assert!(error > 0.0 && error < 0.5, "{output}");
    refused(folder.piped("none").args(["--input", "none.csv", "--save-every", "5"]), &["--save-every", "--state"]);
}

#[test]
fn a_long_record_is_drawn_with_few_points() {
    let folder = Folder::new("picture", 1);
    let input = folder.write("input.csv", &observations(5000));
    let output = succeeds(folder.stream("picture", &input).args(["--block", "1000"]));
    let svg = std::fs::read_to_string(folder.path("picture/stream.svg")).unwrap();
    let n = svg.matches("<circle").count();
    assert!((1000..=2000).contains(&n), "{n} points");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.lines().last().unwrap().starts_with("resident"), "{text}");
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_standard_output_is_an_error() {
    let folder = Folder::new("full", 1);
    let input = folder.write("input.csv", "x,y\n0.0,1.0\n");
    let full = || File::options().write(true).open("/dev/full").unwrap();
    refused(folder.stream("full", &input).stdout(full()), &["cannot write to standard output"]);
    // With standard error full as well, there is still no panic.
    let status = folder.stream("full", &input).stdout(full()).stderr(full()).status().unwrap();
    assert_eq!(status.code(), Some(1));
}

/// The old code ended at such a line, and so did every later run with that state.
#[test]
fn f6_a_line_that_holds_no_numbers_is_passed_over_and_never_sticks() {
    let folder = Folder::new("cells", 1);
    let good = folder.write("good.csv", "x,y\n0.0,1.0\n0.5,2.0\n1.0,0.5\n");
    succeeds(&mut folder.stream("good", &good));
    let bad = ["0.2,NA", "0.2,", ",", "null,1", "0.2,four", "0.2", "0.2,1,5", "0.2,N/A", "\"0.2", "0.2;1", "-,-"];
    for (i, line) in bad.iter().map(|line| line.as_bytes()).chain([&b"0.2,\xe9"[..]]).enumerate() {
        let name = format!("bad_{i}");
        let before = [b"x,y\n\"0.0\",\"1.0\"\n", line, b"\n"].concat();
        let input = folder.path("bad.csv");
        std::fs::write(&input, &before).unwrap();
        let output = succeeds(&mut folder.stream(&name, &input));
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(message.contains("line 3") && message.contains("line rejected"), "{message}");
        let message = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(message.contains("1 points, 1 lines rejected, the first of them line 3"), "{message}");
        // The file grows; the next run goes on behind the line.
        std::fs::write(&input, [&before[..], b"0.5,\"2.0\"\n\"1.0\" , 0.5\n"].concat()).unwrap();
        succeeds(&mut folder.stream(&name, &input));
        let (found, truth) = (results(&folder, &name, 3), results(&folder, "good", 3));
        assert_eq!((found.0, found.1), (truth.0, truth.1), "{line:?}");
    }
    // Many are not said one by one.
    let many = folder.write("many.csv", &format!("x,y\n0,1\n{}", "1,NA\n".repeat(100)));
    let output = succeeds(&mut folder.stream("many", &many));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.lines().count() < 15 && message.contains("more lines were rejected than taken in"), "{message}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("100 lines rejected, the first of them line 3"));
}

/// The old code took such a line in without a word: the spread at another place went from 0.63 to 3.03.
#[test]
fn r12_an_absurd_line_is_passed_over_unless_it_is_allowed() {
    let folder = Folder::new("absurd", 1);
    let good = folder.write("good.csv", "x,y\n0.0,1.0\n0.5,2.0\n1.0,0.5\n");
    succeeds(&mut folder.stream("good", &good));
    let absurd = folder.write("absurd.csv", "x,y\n0.0,1.0\n1e37,3e37\n0.5,2.0\n1.0,-1e6\n1.0,0.5\n");
    let output = succeeds(&mut folder.stream("absurd", &absurd));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("line 3: column \"x\" is 1e37, beyond 100 in the network's units (--bound)"), "{message}");
    assert!(message.contains("line 5: column \"y\" is -1e6, beyond 100"), "{message}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("3 points, 2 lines rejected"));
    assert_eq!(results(&folder, "absurd", 3).0, results(&folder, "good", 3).0);
    let wide = folder.write("wide.csv", "x,y\n0.0,1.0\n0.5,200.0\n");
    let output = succeeds(folder.stream("wide", &wide).args(["--bound", "1000"]));
    assert!(String::from_utf8_lossy(&output.stdout).contains("2 points, 0 lines rejected"));
    refused(&mut folder.stream("wide", &wide), &["settings", "bound 1000", "bound 100"]);
}

/// Half of such pairs ended with "No such file or directory".
#[test]
fn r13_two_streams_on_one_state_or_one_folder_are_refused() {
    let folder = Folder::new("twice", 1);
    let input = folder.write("input.csv", "x,y\n0.0,1.0\n0.5,2.0\n");
    let mut first = folder.piped("first");
    first.args(["--state", &folder.path("one.state")]);
    let mut first = first.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    first.stdin.as_mut().unwrap().write_all(b"x,y\n").unwrap();
    while !Path::new(&folder.path("first/stream.lock")).exists() {
        std::thread::sleep(Duration::from_millis(10));
        assert!(first.try_wait().unwrap().is_none());
    }
    let second = || {
        let mut command = folder.piped("second");
        command.args(["--input", &input, "--state", &folder.path("one.state")]);
        command
    };
    refused(&mut second(), &["another stream writes the state", "one.state"]);
    refused(folder.piped("first").args(["--input", &input]), &["another stream writes its results", "--out"]);
    // A lock ends with the process, however that ends.
    first.kill().unwrap();
    first.wait().unwrap();
    succeeds(&mut second());
    succeeds(folder.piped("first").args(["--input", &input]));
}

/// The counters of a state were believed, whatever they said.
#[test]
fn r13_a_state_whose_counters_were_changed_is_refused() {
    let folder = Folder::new("counters", 1);
    let input = folder.write("input.csv", "x,y\n0.0,1.0\n0.5,2.0\n");
    succeeds(&mut folder.stream("state", &input));
    let path = folder.path("state.state");
    let whole = Checkpoint::open(&path).unwrap();
    let progress = whole.metadata("stream").unwrap().to_owned();
    let refuse = |key: &str, value: &str| {
        let mut state = Checkpoint::open(&path).unwrap();
        state.set_metadata(key, value);
        state.save(folder.path("changed.state")).unwrap();
        refused(
            folder.piped("changed").args(["--input", &input, "--state", &folder.path("changed.state")]),
            &["cannot resume", "damaged"],
        );
    };
    refuse("stream", &progress.replace("\"n_rows\":2", "\"n_rows\":1"));
    refuse("stream", &progress.replace("\"n_rejected\":0", "\"n_rejected\":7"));
    refuse("stream_check", "0");
}

/// Years of CO2 were what the numbers of any file stood for: a picture of 1958 to 2002 without one
/// observation, and no word.
#[test]
fn a_file_of_ones_own_is_not_scaled_unless_the_user_says_how() {
    let folder = Folder::new("scaling", 3);
    let input = folder.write("input.csv", "x,y\n1700000000,0.1\n1700003600,0.3\n1700007200,0.2\n");
    let of = |input: &str, arguments: &[&str]| {
        let mut command = Command::new(&*STREAM);
        command.args(["--device", "cpu", "--checkpoint", &folder.path("model.safetensors"), "--input", input]);
        command.args(["--out", &folder.path("out")]).args(arguments);
        command
    };
    let stream = |arguments: &[&str]| of(&input, arguments);
    let proposed =
        ["--cycle LENGTH", "--x-range 1700000000,1700007200", "--level 0.15", "--unit 0.0707", "--scale co2"];
    refused(&mut stream(&[]), &proposed);
    refused(&mut stream(&["--cycle", "24"]), &["--x-range 1700000000,1700007200"]);
    // What rounding leaves around equal values, or around a line, is no unit.
    for (name, y) in [("equal.csv", [13.37; 9]), ("line.csv", std::array::from_fn(|i| 0.1 + 0.3 * i as f64))] {
        let lines: String = y.iter().enumerate().map(|(i, y)| format!("{i}.7,{y}\n")).collect();
        refused(&mut of(&folder.write(name, &format!("x,y\n{lines}")), &[]), &["--unit UNIT"]);
    }
    refused(&mut stream(&["--cycle", "0"]), &["2 columns", "needs 4", "--cycle LENGTH"]);
    let told = ["--cycle", "86400", "--x-range", "1700000000,1700007200", "--level", "0.15", "--unit", "0.0624"];
    let output = succeeds(&mut stream(&told));
    assert!(String::from_utf8_lossy(&output.stdout).contains("3 points, 0 lines rejected"));
    let svg = std::fs::read_to_string(folder.path("out/stream.svg")).unwrap();
    assert_eq!(svg.matches("<circle").count(), 2, "the last one is at the end of the range, which is open");
    // Other numbers in years are beyond every bound.
    refused(&mut stream(&["--scale", "co2"]), &["beyond 100", "no observation"]);
    refused(&mut stream(&["--scale", "co2", "--unit", "2"]), &["--unit"]);
    folder.checkpoint("model.safetensors", 1, 1);
    let swapped = folder.write("swapped.csv", "y,x\n0,1\n");
    refused(&mut folder.stream("swapped", &swapped), &["y,x", "the coordinate comes first"]);
}

#[test]
fn outputs_are_checked_first_and_a_closed_pipe_is_no_end() {
    let folder = Folder::new("outputs", 1);
    let input = folder.write("input.csv", "x,y\n0.0,1.0\n0.5,2.0\n");
    refused(folder.piped("input.csv").args(["--input", &input]), &["input.csv"]);
    refused(folder.piped("out").args(["--input", &input, "--state", "/dev/null/state"]), &["/dev/null/state"]);
    refused(folder.piped("out").args(["--input", &folder.path("")]), &["is a folder"]);
    refused(folder.piped("out").args(["--input", &folder.path("none.csv")]), &["none.csv"]);
    survives_a_closed_pipe(&mut folder.stream("closed", &input));
    succeeds(&mut folder.stream("open", &input));
    assert!(results(&folder, "closed", 2) == results(&folder, "open", 2));
    assert!(Path::new(&folder.path("closed/stream.svg")).exists());
}
