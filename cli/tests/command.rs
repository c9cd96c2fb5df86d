//! The command as a user runs it, on checkpoints of this repository.

// What this uses of it runs a command; examples are built for the library's own tests.
#[path = "../../tests/support/example.rs"]
#[allow(dead_code)]
mod example;

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use example::{Folder, text};
use wgpu_attention::{
    Device,
    checkpoint::Checkpoint,
    models::tnp_kr::{Context, Locations, TnpKr},
};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wgpu-attention"));
    // As most have it: errors without a backtrace.
    command.args(args).current_dir(ROOT).env_remove("RUST_BACKTRACE");
    command
}

/// Runs it to its end: what it printed.
#[track_caller]
fn succeeds(args: &[&str]) -> Output {
    example::succeeds(&mut command(args))
}

#[track_caller]
fn prints(args: &[&str], words: &[&str]) {
    let printed = text(&succeeds(args).stdout);
    for word in words {
        assert!(printed.contains(word), "{args:?}: {word:?} is not in {printed}");
    }
}

#[track_caller]
fn refused(args: &[&str], words: &[&str]) {
    example::refused(&mut command(args), words);
}

/// The header and the rows of a table of numbers.
fn table(path: &str) -> (String, Vec<Vec<f64>>) {
    let text = fs::read_to_string(path).unwrap();
    let mut lines = text.lines();
    let header = lines.next().unwrap().to_owned();
    (header, lines.map(|line| line.split(',').map(|cell| cell.parse().unwrap()).collect()).collect())
}

const EPIDEMIC: &str = "checkpoints/epidemic.safetensors";
const GP: &str = "checkpoints/gp_1d.safetensors";
const STREAM: &str = "checkpoints/cmanp_gp_1d.safetensors";
const FIELD: &str = "checkpoints/field.safetensors";
const TURING: &str = "checkpoints/nam_tm_addition.safetensors";

#[test]
fn help_says_what_there_is() {
    prints(&["--help"], &["inspect", "predict", "devices"]);
    prints(&["predict", "--help"], &["--checkpoint", "--context", "--targets", "--out", "--nearest"]);
    refused(&[], &["Usage"]);
    refused(&["train"], &["train"]);
}

#[test]
fn devices_are_listed() {
    prints(&["devices"], &["CPU", "--device best takes"]);
}

#[test]
fn files_are_inspected() {
    prints(&["inspect", GP], &["model: tnp_kr", "\"n_blocks\": 6", "opens as TnpKr", "--all lists them"]);
    prints(&["inspect", STREAM], &["model: cmanp", "opens as Cmanp"]);
    prints(&["inspect", TURING], &["opens as NamTmAe"]);
    prints(&["inspect", "checkpoints/few_shot_nam_5.safetensors"], &["opens as FewShot"]);
    let all = text(&succeeds(&["inspect", "--all", GP]).stdout);
    assert!(!all.contains("--all lists them") && all.contains("head.Dense_1.bias"), "{all}");

    let folder = Folder::new("inspect");
    let model = TnpKr::open(&Device::cpu(), Path::new(ROOT).join(GP)).unwrap();
    let posterior = model.condition(&Context::new(Locations::space(1, &[0.0]), &[0.5])).unwrap();
    let saved = folder.path("posterior.safetensors");
    posterior.save(&saved).unwrap();
    prints(&["inspect", &saved], &["a saved posterior"]);

    // What is no parameter is said to be there, and a text of the file's is not the terminal's.
    let header = r#"{"__metadata__":{"model":"\u001b]0;title"},"n":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}"#;
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 8]].concat();
    let output = command(&["inspect", &folder.write("odd.safetensors", bytes)]).output().unwrap();
    let printed = text(&output.stdout);
    assert!(printed.contains("no parameter: n has type I64") && printed.contains("\\u{1b}]0;title"), "{printed}");
    assert!(!printed.contains('\x1b'));
    let mut garbage = Checkpoint::default();
    garbage.set_metadata("posterior", "garbage");
    garbage.save(folder.path("garbage.safetensors")).unwrap();
    refused(&["inspect", &folder.path("garbage.safetensors")], &["a posterior that is none"]);

    refused(&["inspect", &folder.path("nothing.safetensors")], &["nothing.safetensors"]);
    refused(&["inspect", &folder.path("")], &[]);
    refused(&["inspect", &folder.write("text.safetensors", "hello")], &["text.safetensors"]);
    refused(&["inspect", &folder.write("empty.safetensors", "")], &["empty.safetensors"]);
    let whole = fs::read(Path::new(ROOT).join(GP)).unwrap();
    refused(&["inspect", &folder.write("cut.safetensors", &whole[..whole.len() / 2])], &["cut.safetensors"]);
}

#[test]
fn output_that_nobody_reads_is_no_failure() {
    example::survives_a_closed_pipe(&mut command(&["inspect", "--all", GP]));
}

#[test]
fn predictions_are_those_of_the_library() {
    let folder = Folder::new("predict");
    // A column that is not read, in another order; and a line without a value.
    let context = folder.write("context.csv", "name,y,x\n1,0.3,-1\n2,-0.1,0\n3,,0.5\n4,0.5,1\n");
    let targets = folder.write("targets.csv", "note,x\n7,-0.5\n7,0.5\n");
    let out = folder.path("out.csv");
    let common = ["predict", "--checkpoint", GP, "--context", &context, "--targets", &targets, "--out", &out];
    let common = [&common[..], &["--columns", "x,y", "--device", "cpu"]].concat();
    let output = succeeds(&common);
    assert!(text(&output.stderr).contains("1 lines without a number"), "{}", text(&output.stderr));
    let (header, rows) = table(&out);
    assert_eq!(header, "x,y_mean,y_std,y_low,y_high");
    let model = TnpKr::open(&Device::cpu(), Path::new(ROOT).join(GP)).unwrap();
    let posterior = model.condition(&Context::new(Locations::space(1, &[-1.0, 0.0, 1.0]), &[0.3, -0.1, 0.5])).unwrap();
    let prediction = posterior.predict(&Locations::space(1, &[-0.5, 0.5])).unwrap();
    let [low, high] = prediction.interval(0.95).unwrap();
    for (i, row) in rows.iter().enumerate() {
        let wanted = [[-0.5, 0.5][i], prediction.mean()[i].into(), prediction.std()[i].into(), low[i], high[i]];
        assert!(row.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-5), "{row:?} is not {wanted:?}");
    }
    succeeds(&[&common[..], &["--interval", "0.5"]].concat());
    let narrow = table(&out).1;
    assert!(narrow[0][4] - narrow[0][3] < rows[0][4] - rows[0][3]);
    // In units of a thousand, brought to a deviation of one and back.
    let context = folder.write("large.csv", "x,y\n-1,1300\n0,900\n1,1500\n");
    let large = ["predict", "--checkpoint", GP, "--context", &context, "--targets", &targets, "--out", &out];
    succeeds(&[&large[..], &["--standardise", "--device", "cpu"]].concat());
    let (_, rows) = table(&out);
    assert!(rows.iter().all(|row| (800.0..1700.0).contains(&row[1]) && row[2] > 1.0), "{rows:?}");
}

/// Pressures, and numbers larger still: means lay beside their intervals, and neighbourhoods were rounded to f32 first.
#[test]
fn large_numbers_keep_their_digits() {
    let folder = Folder::new("large");
    let out = folder.path("out.csv");
    for level in [101_325.0, 1e9] {
        let lines: String = (0..21)
            .map(|i| 0.1 * f64::from(i))
            .map(|x| format!("{x},{:?}\n", level + 0.05 * (3.0 * x).sin()))
            .collect();
        let context = folder.write("context.csv", format!("x,y\n{lines}"));
        let targets = folder.write("targets.csv", "x\n0.55\n1.25\n");
        for nearest in [&[][..], &["--nearest", "16"]] {
            let args = ["predict", "--checkpoint", GP, "--context", &context, "--targets", &targets, "--out", &out];
            succeeds(&[&args[..], &["--standardise", "--device", "cpu"], nearest].concat());
            for row in table(&out).1 {
                let [x, mean, std, low, high] = row[..] else { panic!("{row:?}") };
                let truth = level + 0.05 * (3.0 * x).sin();
                assert!(low < mean && mean < high && std < 0.02, "{level}, {nearest:?}: {row:?}");
                assert!((mean - truth).abs() < 4.0 * std + 1e-6, "{level}, {nearest:?}: {row:?}, not {truth}");
            }
        }
    }
}

#[test]
fn columns_are_found_as_they_are_written() {
    let folder = Folder::new("columns");
    let context = folder.write("context.csv", "x,X,y\n0,5,0.1\n1,6,0.3\n");
    let (targets, out) = (folder.write("targets.csv", "X,x\n5.5,0.5\n"), folder.path("out.csv"));
    let run = |columns: &str| {
        let args = ["predict", "--checkpoint", GP, "--context", &context, "--targets", &targets, "--out", &out];
        succeeds(&[&args[..], &["--device", "cpu", "--columns", columns]].concat());
        table(&out)
    };
    let (header, small) = run("x, Y");
    assert_eq!(header, "x,y_mean,y_std,y_low,y_high");
    assert_eq!((small[0][0], run("X,y").1[0][0]), (0.5, 5.5));
    let args = ["predict", "--checkpoint", GP, "--context", &context, "--targets", &targets, "--columns", "x,x"];
    refused(&args, &["\"x\" is asked for twice"]);
    // Classes have the same header whether there is a place or none.
    let lines = "0,0,0,1,0,0\n1,0,0,0,1,0\n";
    let context = folder.write("epidemic.csv", format!("a,b,t,s,i,r\n{lines}"));
    let headers = ["", "0,1,1\n"].map(|row| {
        let targets = folder.write("places.csv", format!("a,b,t\n{row}"));
        let args = ["predict", "--checkpoint", EPIDEMIC, "--context", &context, "--targets", &targets, "--out", &out];
        succeeds(&[&args[..], &["--device", "cpu"]].concat());
        table(&out).0
    });
    assert_eq!(headers, ["a,b,t,s_probability,i_probability,r_probability"; 2]);
}

/// Who reads from a pipe gets the table, not the end of a probe.
#[test]
#[cfg(unix)]
fn predictions_go_down_a_pipe() {
    let folder = Folder::new("pipe");
    let pipe = folder.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let (context, targets) = (folder.write("c.csv", "x,y\n0,0.1\n1,0.3\n"), folder.write("t.csv", "x\n0.5\n"));
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || fs::read_to_string(pipe).unwrap()
    });
    let args = ["predict", "--checkpoint", GP, "--context", &context, "--targets", &targets, "--out", &pipe];
    let mut child = command(&[&args[..], &["--device", "cpu"]].concat()).spawn().unwrap();
    // Without a reader it would wait for ever.
    let began = std::time::Instant::now();
    while child.try_wait().unwrap().is_none() && began.elapsed().as_secs() < 60 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let _ = child.kill();
    assert!(child.wait().unwrap().success() && reader.join().unwrap().starts_with("x,y_mean"));
}

#[test]
fn a_stream_and_the_nearest_observations() {
    let folder = Folder::new("kinds");
    let point = |t: f64| format!("{t},{},{}", (44.0 * t).cos(), (44.0 * t).sin());
    let context: String = (0..50).map(|i| 0.04 * f64::from(i)).map(|t| format!("{},{}\n", point(t), t.sin())).collect();
    let context = folder.write("stream.csv", format!("t,c,s,y\n{context}"));
    let targets = folder.write("at.csv", format!("t,c,s\n{}\n", point(1.01)));
    let out = folder.path("out.csv");
    let stream = ["predict", "--checkpoint", STREAM, "--context", &context, "--targets", &targets, "--out", &out];
    let stream = [&stream[..], &["--device", "cpu"]].concat();
    succeeds(&stream);
    let (header, rows) = table(&out);
    assert_eq!(header, "t,c,s,y_mean,y_std,y_low,y_high");
    assert!((rows[0][3] - 1.01f64.sin()).abs() < 0.3, "{rows:?}");
    refused(&[&stream[..], &["--nearest", "5"]].concat(), &["--nearest is for TNP-KR"]);

    let plane = |x: f64, y: f64| 300.0 + 10.0 * (0.5 * x).sin() + 5.0 * y;
    let points = (0..400).map(|i| (f64::from(i % 20) * 0.3, f64::from(i / 20) * 0.3));
    let lines: String = points.map(|(x, y)| format!("{x},{y},{}\n", plane(x, y))).collect();
    let context = folder.write("field.csv", format!("x,y,temperature\n{lines}"));
    let targets = folder.write("where.csv", "x,y\n1.45,2.2\n3.1,4.0\n");
    let field = ["predict", "--checkpoint", FIELD, "--context", &context, "--targets", &targets, "--out", &out];
    succeeds(&[&field[..], &["--nearest", "64", "--standardise", "--device", "cpu"]].concat());
    let (header, rows) = table(&out);
    assert_eq!(header, "x,y,temperature_mean,temperature_std,temperature_low,temperature_high");
    for row in rows {
        assert!((row[2] - plane(row[0], row[1])).abs() < 1.0, "{row:?}, not {}", plane(row[0], row[1]));
    }
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_written() {
    let folder = Folder::new("refused");
    let context = folder.write("context.csv", "x,y\n0,0.3\n1,0.1\n");
    let targets = folder.write("targets.csv", "x\n0.5\n");
    let out = folder.path("out.csv");
    let predict = |checkpoint: &str, context: &str, targets: &str, more: &[&str], words: &[&str]| {
        let args = ["predict", "--checkpoint", checkpoint, "--context", context, "--targets", targets, "--out", &out];
        refused(&[&args[..], &["--device", "cpu"], more].concat(), words);
        assert!(!Path::new(&out).exists(), "{words:?}: something was written");
    };
    predict(TURING, &context, &targets, &[], &["nam_tm", "tnp_kr and cmanp"]);
    predict("nothing.safetensors", &context, &targets, &[], &["nothing.safetensors"]);
    predict(GP, &folder.path("nothing.csv"), &targets, &[], &["nothing.csv"]);
    predict(GP, &context, &folder.path("nothing.csv"), &[], &["nothing.csv"]);
    predict(GP, &context, &folder.write("t.csv", "t\n0.5\n"), &[], &["t.csv", "\"x\"", "not there"]);
    predict(STREAM, &context, &targets, &[], &["there are 2 columns", "takes 4"]);
    predict(GP, &context, &targets, &["--columns", "x,z"], &["\"z\"", "not there"]);
    predict(GP, &context, &targets, &["--columns", "x"], &["there are 1 columns"]);
    let word = folder.write("word.csv", "x,y\n0,0.3\n1,warm\n");
    predict(GP, &word, &targets, &[], &["word.csv", "line 3", "column 2", "warm"]);
    predict(GP, &folder.write("ragged.csv", "x,y\n0,0.3,1\n"), &targets, &[], &["ragged.csv", "line 2"]);
    predict(GP, &folder.write("none.csv", "x,y\n"), &targets, &[], &["context is empty"]);
    predict(GP, &folder.write("nothing.csv", ""), &targets, &[], &["nothing.csv"]);
    predict(GP, &folder.write("bytes.csv", [0xff, 0xfe, 0x00]), &targets, &[], &["bytes.csv"]);
    predict(GP, &folder.write("twice.csv", "x,x\n0,1\n"), &targets, &[], &["twice"]);
    predict(GP, &context, &targets, &["--columns", "x,X"], &["\"X\"", "twice"]);
    predict(GP, &folder.write("semicolons.csv", "x;y\n0;0,3\n"), &targets, &[], &["semicolons.csv", "line 1"]);
    predict(GP, &folder.write("far.csv", "x,y\n1e400,0.3\n"), &targets, &[], &["1e400", "too large"]);
    predict(GP, &context, &folder.write("away.csv", "x\n1e30\n"), &[], &["1e30", "fill value"]);
    for share in ["0", "1", "2", "nan", "much"] {
        predict(GP, &context, &targets, &["--interval", share], &["--interval"]);
    }
    predict(GP, &context, &targets, &["--nearest", "0"], &["--nearest"]);
    let standardised = ["--standardise"];
    predict(EPIDEMIC, &context, &targets, &standardised, &["--standardise", "categorical", "have no units"]);
    predict(GP, &context, &targets, &["--nearest", "-3"], &[]);
    // What is read is never written over.
    let same = ["predict", "--checkpoint", GP, "--context", &context, "--targets", &targets, "--out", &context];
    refused(&same, &["context.csv", "would be lost"]);
    assert!(fs::read_to_string(&context).unwrap().starts_with("x,y\n0,0.3"));
    let elsewhere = ["predict", "--checkpoint", GP, "--context", &context, "--targets", &targets];
    refused(&[&elsewhere[..], &["--device", "no such adapter"]].concat(), &["no such adapter"]);
    refused(&[&elsewhere[..], &["--out", &folder.path("no/such/folder.csv")]].concat(), &["folder.csv"]);
    refused(&["predict", "--checkpoint", GP], &["--context"]);
}

/// The mean of equal numbers is rounded, and they deviated from it by as much.
#[test]
fn equal_values_have_no_deviation_to_be_scaled_by() {
    let folder = Folder::new("equal");
    let predicted = |value: &str| {
        let rows: String = (0..3).map(|x| format!("{x},{value}\n")).collect();
        let context = folder.write("equal.csv", format!("x,y\n{rows}"));
        let (targets, out) = (folder.write("targets.csv", "x\n0.5\n"), folder.path("out.csv"));
        let args = ["predict", "--checkpoint", GP, "--context", &context, "--targets", &targets, "--out", &out];
        succeeds(&[&args[..], &["--device", "cpu", "--standardise"]].concat());
        table(&out).1[0].clone()
    };
    let (one, tenth) = (predicted("1"), predicted("0.1"));
    // The mean, less what was read, and the deviation.
    assert!((one[1] - 1.0 - (tenth[1] - 0.1)).abs() < 1e-5 && (one[2] - tenth[2]).abs() < 1e-5, "{one:?} {tenth:?}");
    assert!(tenth[2] > 1e-3, "{tenth:?}");
}

#[test]
fn points_that_differ_from_the_training_are_told() {
    let folder = Folder::new("outside");
    let context = folder.write("days.csv", "x,y\n0,0.3\n31,-0.1\n59,0.5\n");
    let targets = folder.write("targets.csv", "x\n45\n");
    let out = folder.path("out.csv");
    let args = ["predict", "--checkpoint", GP, "--context", &context, "--targets", &targets, "--out", &out];
    let output = succeeds(&args);
    assert!(text(&output.stderr).contains("outside of what the network was trained on"), "{}", text(&output.stderr));
}

#[cfg(feature = "gpu")]
#[test]
fn operations_are_timed() {
    prints(&["bench", "--quick", "--device", "cpu", "--operation", "merge_attention"], &["merge_attention", "µs"]);
    refused(&["bench", "--quick", "--operation", "nothing"], &["nothing", "there are", "scan_attention"]);
    refused(&["bench", "--device", "no such adapter"], &["no such adapter"]);
}
