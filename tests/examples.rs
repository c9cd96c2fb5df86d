//! The examples as a user runs them: what they refuse, and that they do so with a reason and before
//! the work. `stream` has a test of its own.
#![cfg(unix)]

mod support;

use std::{fmt::Write as _, path::Path, process::Command};

use support::example::{Folder, build, refused, succeeds, survives_a_closed_pipe, text};

/// Lines of an example, from a function of the coordinate.
fn lines(n: usize, y: impl Fn(f64) -> String) -> String {
    let mut text = "x,y\n".to_owned();
    for i in 0..n {
        writeln!(text, "{i},{}", y(i as f64)).unwrap();
    }
    text
}

/// An example on the CPU, with what all its runs have and some arguments more.
fn on_cpu(example: &Path, all: &[&str], more: &[&str]) -> Command {
    let mut command = Command::new(example);
    command.args(["--device", "cpu"]).args(all).args(more);
    command
}

#[test]
fn regression_says_what_is_wrong_with_a_file() {
    let (regression, folder) = (build("regression"), Folder::new("regression"));
    let run = |context: &str, out: &str| on_cpu(&regression, &["--context", context, "--out", &folder.path(out)], &[]);
    let refuse = |text: &[u8], words: &[&str]| {
        let file = folder.write("bad.csv", text);
        refused(&mut run(&file, "bad"), words);
        assert!(!Path::new(&folder.path("bad/predictions.csv")).exists());
    };
    refuse(b"", &["bad.csv", "empty"]);
    refuse(b"x,y\n", &["bad.csv", "no points"]);
    // "1 points are too few for a gap of 0".
    refuse(b"x,y\n1,2\n", &["1 point(s) are too few", "8 more than the gap", "--targets"]);
    refuse(b"a,b\n1,2\n", &["x,y", "a,b"]);
    refuse(b"x;y\n1;2\n", &["semicolons", "commas"]);
    refuse(b"x,y\n1,2\n2,four\n", &["bad.csv: line 3, column 2 (y)", "four"]);
    refuse(b"x,y\n1,2\n2,\xe9\n", &["line 3, column 2 (y)"]);
    refuse(b"x,y\n1,inf\n", &["line 2, column 2 (y): is inf"]);
    refuse(b"x,y\n1\n", &["line 2 has 1 columns"]);
    refused(&mut run(&folder.path(""), "bad"), &["is a folder"]);
    refused(&mut run(&folder.path("none.csv"), "bad"), &["none.csv"]);
    let good = folder.write("good.csv", lines(40, |x| (x / 3.0).sin().to_string()));
    refused(run(&good, "bad").args(["--gap", "18446744073709551615"]), &["too few", "18446744073709551615"]);
    refused(run(&good, "bad").args(["--checkpoint", &good]), &["cannot load the model", "good.csv"]);
    // What would be ignored.
    for option in ["--hold-out", "--gap"] {
        refused(run(&good, "bad").args(["--targets", &good, option, "0"]), &["--targets", option]);
    }
    refused(run(&good, "bad").args(["--harmonics", "3"]), &["--harmonics 3", "--cycle LENGTH"]);
    std::fs::create_dir_all(folder.path("own")).unwrap();
    let own = folder.write("own/predictions.csv", lines(40, |x| x.sin().to_string()));
    refused(&mut run(&own, "own"), &["own/predictions.csv", "would be lost"]);
    assert_eq!(std::fs::read_to_string(&own).unwrap().lines().count(), 41);
    // Before the work: nothing was read.
    refused(&mut run("none.csv", "good.csv"), &["good.csv"]);
    refused(&mut run("none.csv", "good.csv/out"), &["good.csv/out"]);
    // The causes of what the old code called "the same x".
    refuse(lines(40, |x| x.to_string()).replace("x,y\n", "x,y\n-1e308,0\n1e308,0\n").as_bytes(), &["x from -1e308"]);
}

#[test]
fn f11_regression_takes_numbers_of_any_size_and_passes_over_what_is_missing() {
    let (regression, folder) = (build("regression"), Folder::new("sizes"));
    let run = |name: &str, text: &str| {
        let file = folder.write("context.csv", text);
        on_cpu(&regression, &["--context", &file, "--out", &folder.path(name)], &[])
    };
    // The table shows the same digits whatever the units are: the old code held the second to be constant, and the
    // third broke its columns.
    let rmse = |name: &str, level: f64, size: f64| {
        let output = succeeds(&mut run(name, &lines(60, |x| format!("{:?}", level + size * (x / 3.0).sin()))));
        let output = text(&output.stdout);
        let line = output.lines().find(|line| line.starts_with("all") && line.contains("neural process")).unwrap();
        let table = output.lines().skip_while(|line| !line.starts_with("held out")).take_while(|line| !line.is_empty());
        assert!(table.map(str::len).max().unwrap() < 80, "{output}");
        let svg = std::fs::read_to_string(folder.path(&format!("{name}/regression.svg"))).unwrap();
        let longest = svg.lines().filter(|line| !line.starts_with('<')).map(str::len).max().unwrap();
        assert!(longest < 40, "a label of {longest} characters");
        line.split_whitespace().nth(4).unwrap().parse::<f64>().unwrap() / size
    };
    let plain = rmse("plain", 0.0, 1.0);
    for (name, level, size) in [("small", 1e9, 1e-3), ("large", 0.0, 1e30), ("both", -1e30, 1e20)] {
        let found = rmse(name, level, size);
        assert!((found - plain).abs() < 0.1 * plain + 0.001, "{name}: {found}, not {plain}");
    }
    let gaps = |x: f64| if x % 9.0 == 0.0 { "NA".to_owned() } else { format!("\"{}\"", (x / 3.0).sin()) };
    let targets = folder.write("targets.csv", "\u{feff}x,y\r\n1.5,\r\n2.5,0.7\r\n80,null\r\n");
    let output = succeeds(run("missing", &lines(60, gaps)).args(["--targets", &targets]));
    assert!(text(&output.stderr).contains("7 lines without a number passed over, the first of them line 2"));
    let predictions = std::fs::read_to_string(folder.path("missing/predictions.csv")).unwrap();
    assert!(predictions.contains("\n1.5,,1,") && predictions.contains("\n2.5,0.7,1,"), "{predictions}");
    assert_eq!(predictions.lines().count(), 1 + 53 + 3);
    survives_a_closed_pipe(&mut run("closed", &lines(40, |x| x.sin().to_string())));
    assert!(Path::new(&folder.path("closed/regression.svg")).exists());
    let output = succeeds(run("seeds", &lines(40, |x| x.sin().to_string())).args(["--seeds", "2"]));
    assert!(text(&output.stdout).contains("medians of the scores of 2 splits"));
    assert!(!Path::new(&folder.path("seeds")).exists());
}

#[test]
fn few_shot_refuses_what_no_network_knows() {
    let (few_shot, folder) = (build("few_shot"), Folder::new("few_shot"));
    let run = |arguments: &[&str]| on_cpu(&few_shot, &["--episodes", "2"], arguments);
    // An empty table and exit 0.
    refused(&mut run(&["--shots", "2"]), &["--shots 2", "1 and 5"]);
    refused(&mut run(&["--shots", "0"]), &["whole number from 1"]);
    let header = format!("label,split{}\n", (0..64).map(|i| format!(",p{i}")).collect::<String>());
    let row = |label: &str, split: &str, pixel: &str| format!("{label},{split},{pixel}{}\n", ",0".repeat(63));
    for (name, text, words) in [
        ("one", "a\n1\n".to_owned(), &["one.csv: line 1", "1 columns", "66"][..]), // a panic
        ("xy", "x,y\n1,2\n".to_owned(), &["xy.csv: line 1", "label, split and 64 pixels"]),
        ("pixel", header.clone() + &row("1", "train", "four"), &["pixel.csv: line 2", "\"p0\"", "four"]),
        ("label", header.clone() + &row("10", "train", "1"), &["label.csv: line 2", "label 10"]),
        ("split", header.clone() + &row("1", "tra", "1"), &["split.csv: line 2", "tra", "train or test"]),
        ("few", header + &row("5", "train", "1"), &["few.csv", "of class", "an episode needs"]),
    ] {
        refused(&mut run(&["--images", &folder.write(&format!("{name}.csv"), text)]), words);
    }
    refused(&mut run(&["--checkpoint", "checkpoints/gp_1d.safetensors"]), &["gp_1d.safetensors"]);
    survives_a_closed_pipe(&mut run(&[]));
}

#[test]
fn algorithm_refuses_lengths_without_room_and_prints_sums_as_one_writes_them() {
    let (algorithm, folder) = (build("algorithm"), Folder::new("algorithm"));
    let run = |arguments: &[&str]| on_cpu(&algorithm, &["--problems", "2"], arguments);
    let file = folder.write("file", "");
    // No row, an empty picture and exit 0.
    refused(&mut run(&["--lengths", "200", "--out", &folder.path("out")]), &["--lengths 200", "64 slots", "up to 62"]);
    refused(&mut run(&["--lengths", "0"]), &["whole number from 1"]);
    refused(&mut run(&["--out", &file]), &[&file]);
    std::fs::create_dir_all(folder.path("taken/algorithm_addition.svg")).unwrap();
    refused(&mut run(&["--out", &folder.path("taken")]), &["algorithm_addition.svg"]);
    let output = succeeds(&mut run(&["--lengths", "3,1,3", "--out", &folder.path("out")]));
    let output = text(&output.stdout);
    let sum = output.lines().find(|line| line.contains('+')).unwrap().to_owned();
    let numbers: Vec<u64> = sum.split(|c: char| !c.is_ascii_digit()).filter_map(|text| text.parse().ok()).collect();
    assert_eq!(numbers[0] + numbers[1], numbers[2], "{sum}");
    // An axis of "0 1 2 2 2 3 4".
    let svg = std::fs::read_to_string(folder.path("out/algorithm_addition.svg")).unwrap();
    let ticks: Vec<&str> = svg.lines().filter(|line| line.parse::<u32>().is_ok()).collect();
    assert_eq!(ticks, ["1", "2", "3"]);
    // A memory has no tape, so there is no longest problem.
    let recall = "checkpoints/nam_lsam_recall.safetensors";
    let output = succeeds(&mut run(&["--checkpoint", recall, "--lengths", "8,40", "--out", &folder.path("recall")]));
    let output = text(&output.stdout);
    assert!(output.contains("recall, LSAM") && output.contains("(right)"), "{output}");
    assert!(Path::new(&folder.path("recall/algorithm_recall.svg")).exists());
    survives_a_closed_pipe(&mut run(&["--lengths", "2", "--out", &folder.path("closed")]));
    assert!(Path::new(&folder.path("closed/algorithm_addition.svg")).exists());
}

/// A scene of 32 × 32 pixels with a hole in its middle.
fn scene() -> String {
    let mut text = "lon,lat,temperature,role\n".to_owned();
    for (i, j) in (0..32).flat_map(|i| (0..32).map(move |j| (i, j))) {
        let (x, y) = (f64::from(i) / 8.0, f64::from(j) / 8.0);
        let is_hidden = (12..18).contains(&i) && (12..18).contains(&j);
        let (value, role) = match is_hidden {
            true => (String::new(), "test"),
            false => (format!("{}", 30.0 + 3.0 * (x + 0.5 * y).sin() + (2.0 * y - x).cos()), "train"),
        };
        writeln!(text, "{},{},{value},{role}", -95.0 + 0.01 * x, 34.0 + 0.01 * y).unwrap();
    }
    text
}

#[test]
fn satellite_fills_the_holes_of_a_map_and_scores_itself() {
    let (satellite, folder) = (build("satellite"), Folder::new("satellite"));
    let run = |text: &str, more: &[&str]| {
        let file = folder.write("scene.csv", text);
        on_cpu(&satellite, &["--input", &file, "--out", &folder.path("out")], more)
    };
    let output = text(&succeeds(&mut run(&scene(), &["--nearest", "64"])).stdout);
    let rmse = |name: &str| -> f64 {
        let line = output.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{output}"));
        line[26..].split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    // A smooth function of standard deviation 2.2: the network is far below what the nearest pixel gives.
    assert!(rmse("network ") < 0.5 * rmse("nearest"), "{output}");
    let predictions = std::fs::read_to_string(folder.path("out/predictions.csv")).unwrap();
    let rows: Vec<Vec<f64>> = predictions
        .lines()
        .skip(1)
        .map(|line| line.split(',').map(|number| number.parse().unwrap()).collect())
        .collect();
    assert_eq!((predictions.lines().next(), rows.len()), (Some("lon,lat,mean,std"), 36));
    for row in rows {
        let (x, y) = ((row[0] + 95.0) / 0.01, (row[1] - 34.0) / 0.01);
        let truth = 30.0 + 3.0 * (x + 0.5 * y).sin() + (2.0 * y - x).cos();
        assert!(row[3] > 0.0 && (row[2] - truth).abs() < 5.0 * row[3] + 0.2, "{row:?}, truth {truth}");
    }
    assert!(Path::new(&folder.path("out/satellite.svg")).exists());
    refused(&mut run(&scene(), &["--known", &folder.path("scene.csv")]), &["scene.csv", "would be lost"]);
    assert_eq!(std::fs::read_to_string(folder.path("scene.csv")).unwrap(), scene());
    refused(&mut run("lon,lat,role\n1,2,train\n", &[]), &["temperature"]);
    refused(&mut run("lon,lat,temperature,role\n1,2,warm,train\n", &[]), &["warm"]);
    refused(&mut run("lon,lat,temperature,role\n1,134,3,train\n", &[]), &["line 2", "134", "-90 to 90"]);
    refused(&mut run(&(scene() + "1,1,-9999,train\n"), &[]), &["-9999", "fill value"]);
    refused(&mut run(&scene(), &["--hold-out", "0.9"]), &["0 to 0.8"]);
    refused(&mut run(&scene(), &["--checkpoint", "checkpoints/gp_1d.safetensors"]), &["coordinates"]);
}

/// A PNG in grey, by a function of row and column.
fn png(side: u32, grey: impl Fn(u32, u32) -> u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, side, side);
    encoder.set_color(png::ColorType::Grayscale);
    let pixels: Vec<u8> = (0..side * side).map(|i| grey(i / side, i % side)).collect();
    encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
    bytes
}

#[test]
fn image_completes_photographs_better_than_the_nearest_pixel() {
    let (image, folder) = (build("image"), Folder::new("image"));
    let run = |more: &[&str]| on_cpu(&image, &["--out", &folder.path("out"), "--patches", "6"], more);
    let output = text(&succeeds(&mut run(&[])).stdout);
    // Log-likelihoods and errors from 5, 20 and 50% of the pixels.
    let scores = |who: &str| -> Vec<[f64; 2]> {
        let of =
            |line: &str| line[who.len()..].split_whitespace().take(2).map(|x| x.parse().unwrap()).collect::<Vec<_>>();
        output.lines().filter(|line| line.starts_with(who)).map(|line| of(line).try_into().unwrap()).collect()
    };
    let (cmanp, tnp_kr, nearest) = (scores("CMANP  "), scores("TNP-KR  "), scores("nearest pixel"));
    assert_eq!((cmanp.len(), tnp_kr.len(), nearest.len()), (3, 3, 3), "{output}");
    for ((cmanp, tnp_kr), nearest) in cmanp.iter().zip(&tnp_kr).zip(&nearest) {
        assert!(tnp_kr[0] > nearest[0] && tnp_kr[1] < nearest[1], "{output}");
        // Its means are no better where many pixels are seen, but it knows how far off they are.
        assert!(cmanp[0] > nearest[0], "{output}");
    }
    // What the CMANP keeps of a stream is as large as it was, and what it makes of it is better.
    let stream: Vec<Vec<&str>> =
        output.lines().filter(|line| line.contains("KiB")).map(|line| line.split_whitespace().collect()).collect();
    assert!(stream.len() == 7 && stream.iter().all(|row| row[3] == stream[0][3]), "{output}");
    let number = |row: &[&str], column: usize| row[column].parse::<f64>().unwrap();
    let (first, last) = (&stream[0], &stream[6]);
    assert!(number(last, 1) > number(first, 1) + 0.3 && number(last, 2) < 0.8 * number(first, 2), "{output}");
    assert!(Path::new(&folder.path("out/image.svg")).exists());

    // A slope from black to white, of one's own.
    let slope = folder.write("slope.png", png(30, |i, j| (4 * (i + j)) as u8));
    let output = text(&succeeds(&mut run(&["--photograph", &slope])).stdout);
    assert!(output.contains("slope") && output.contains("30 × 30"), "{output}");
    refused(
        &mut run(&["--photograph", &folder.write("small.png", png(23, |_, _| 0))]),
        &["small.png", "23 × 23", "24"],
    );
    refused(&mut run(&["--photograph", &folder.write("text.png", "no picture")]), &["text.png", "PNG"]);
    refused(&mut run(&["--photograph", &folder.path("none.png")]), &["none.png"]);
    refused(&mut on_cpu(&image, &["--out", &folder.path("out")], &["--patches", "0"]), &["1..=1000"]);
    refused(&mut run(&["--cmanp", "checkpoints/cmanp_gp_1d.safetensors"]), &["cmanp_gp_1d", "3 coordinates"]);
}

#[test]
fn epidemic_knows_more_than_persistence() {
    let (epidemic, folder) = (build("epidemic"), Folder::new("epidemic"));
    let run = |more: &[&str]| on_cpu(&epidemic, &["--out", &folder.path("out")], more);
    let output = text(&succeeds(&mut run(&["--epidemics", "8"])).stdout);
    let scores = |who: &str| -> Vec<f64> {
        let line = output.lines().find(|line| line.starts_with("all") && line.contains(who)).unwrap();
        line[29..].split_whitespace().step_by(3).take(2).map(|number| number.parse().unwrap()).collect()
    };
    assert!(output.contains("means over the epidemics ± their standard errors"), "{output}");
    let (network, persistence) = (scores("network"), scores("persistence"));
    assert!(network[0] > persistence[0] && network[1] < persistence[1], "{output}");
    let forecast = std::fs::read_to_string(folder.path("out/forecast.csv")).unwrap();
    assert_eq!(forecast.lines().count(), 1 + 32 * 32 * 10);
    for line in forecast.lines().skip(1) {
        let odds: f64 = line.split(',').skip(3).take(3).map(|p| p.parse::<f64>().unwrap()).sum();
        assert!((odds - 1.0).abs() < 2e-4, "{line}"); // four digits each
    }
    assert!(Path::new(&folder.path("out/epidemic.svg")).exists());
    refused(&mut run(&["--observations", "2000", "--days", "1"]), &["--observations 2000", "1024"]);
    refused(&mut run(&["--checkpoint", "checkpoints/field.safetensors"]), &["field.safetensors", "classes"]);
}

#[test]
fn optimize_compares_its_strategies_from_the_same_start() {
    let (optimize, folder) = (build("optimize"), Folder::new("optimize"));
    let run = |more: &[&str]| on_cpu(&optimize, &["--out", &folder.path("out")], more);
    let output = text(&succeeds(&mut run(&["--seeds", "2", "--evaluations", "8"])).stdout);
    assert!(output.contains("Branin") && output.contains("Thompson"), "{output}");
    let regrets = std::fs::read_to_string(folder.path("out/regret.csv")).unwrap();
    let regrets: Vec<f64> =
        regrets.lines().skip(1).map(|line| line.rsplit(',').next().unwrap().parse().unwrap()).collect();
    let (runs, strategies) = (2 * 8, 4);
    assert_eq!(regrets.len(), 4 * strategies * runs);
    // The first evaluations are the same whatever the strategy; nothing is below the least value.
    for (i, regret) in regrets.iter().enumerate() {
        let by_the_first = regrets[i - (i / runs % strategies) * runs];
        assert!(*regret >= 0.0 && (i % 8 >= 5 || *regret == by_the_first), "row {i}: {regret}");
    }
    assert!(Path::new(&folder.path("out/regret.svg")).exists());
    refused(&mut run(&["--evaluations", "5"]), &["6..=100"]);
}

/// Every example's help says what it does with files of one's own, or that there are none.
#[test]
fn every_example_says_what_it_reads_and_writes() {
    let names = [
        "algorithm",
        "few_shot",
        "regression",
        "stream",
        "satellite",
        "image",
        "epidemic",
        "optimize",
        "million",
        "bench_picture",
    ];
    for name in names {
        let output = succeeds(Command::new(build(name)).arg("--help"));
        let help = text(&output.stdout);
        let says = ["of your own", "reads no data", "which `cargo bench` leaves"];
        assert!(says.iter().any(|says| help.contains(says)), "{name}:\n{help}");
    }
    let folder = Folder::new("others");
    let file = folder.write("file", "");
    refused(
        Command::new(build("bench_picture")).args(["--group", "none", "--out", &format!("{file}/picture.svg")]),
        &["picture.svg"],
    );
    survives_a_closed_pipe(Command::new(build("million")).args(["--device", "cpu", "--context", "20", "--test", "20"]));
}

/// Thirty-six names stood twice, so that files were overwritten.
#[test]
#[cfg(feature = "gpu")]
fn c8_the_shaders_that_are_written_are_those_that_there_are() {
    let folder = Folder::new("shaders");
    let out = folder.path("out");
    let writing = std::thread::spawn(move || succeeds(Command::new(build("shaders")).args(["--out", &out])));
    let variants = wgpu_attention::shaders::variants().unwrap();
    let output = writing.join().unwrap();
    let mut texts: Vec<String> = std::fs::read_dir(folder.path("out"))
        .unwrap()
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    let mut expected: Vec<String> = variants.into_iter().map(|shader| shader.wgsl).collect();
    texts.sort();
    expected.sort();
    assert!(texts == expected, "{} files, {} variants", texts.len(), expected.len());
    assert!(text(&output.stdout).starts_with(&format!("{} variants", expected.len())));
    refused(Command::new(build("shaders")).args(["--out", "/dev/null/out"]), &["/dev/null/out"]);
}

/// A choice of one operation, as a device takes it.
#[test]
#[cfg(feature = "gpu")]
fn what_tune_writes_is_what_devices_read() {
    use wgpu_attention::{
        Device,
        device::{GpuOptions, Tuned},
    };
    let (tune, folder) = (build("tune"), Folder::new("tune"));
    refused(Command::new(&tune).args(["--operation", "nothing"]), &["no operation nothing", "linear"]);
    let Some(adapter) = Device::adapters().into_iter().next() else { return };
    let out = folder.path("tuned.json");
    let output = succeeds(Command::new(&tune).args([
        "--quick",
        "--operation",
        "linear",
        "--adapter",
        &adapter.name,
        "--out",
        &out,
    ]));
    let table = text(&output.stdout);
    let tuned = Tuned::open(&out).unwrap();
    for variant in wgpu_attention::device::variants()["linear"] {
        assert!(table.contains(variant), "{variant}:\n{table}");
    }
    // Of what it chose, which may be nothing, and of a choice that is one.
    let mut chosen = tuned.clone();
    chosen.variants.insert("linear".into(), wgpu_attention::device::variants()["linear"][0].into());
    chosen.save(&out).unwrap();
    for tuned in [tuned, Tuned::open(&out).unwrap()] {
        let device = Device::on_adapter(&adapter, &GpuOptions::default().tuned(tuned.clone())).unwrap();
        assert_eq!(device.capabilities().forced.get("linear"), tuned.variants.get("linear"));
    }
}
