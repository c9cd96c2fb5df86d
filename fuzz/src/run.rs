//! Runs a target on mutated files of its corpus, without the help of a fuzzing engine.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::{corpus::corpus, mutate::Mutator};

/// What takes longer counts as a hang.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a run found.
#[derive(Debug, Default)]
pub struct Report {
    /// Inputs that were tried.
    pub cases: u64,
    /// Files with inputs that did what they may not, and what that was.
    pub failures: Vec<(PathBuf, String)>,
    /// The longest that one took.
    pub slowest: Duration,
}

/// Runs a target on every file of its corpus and on `cases` mutations of them. The same seed gives
/// the same inputs. Inputs that fail are written to `artifacts`; one that hangs ends the process.
pub fn run(name: &str, target: fn(&[u8]), cases: u64, seed: u64) -> Report {
    let corpus = corpus(name);
    let mut mutator = Mutator::new(seed);
    let mut report = Report::default();
    let current = watch(name);
    let mutated = std::iter::repeat_with(|| mutator.mutated(&corpus)).take(cases as usize);
    for input in corpus.clone().into_iter().chain(mutated) {
        let begun = Instant::now();
        *current.lock().unwrap() = Some((begun, input.clone()));
        let outcome = catch_unwind(AssertUnwindSafe(|| target(&input)));
        *current.lock().unwrap() = None;
        report.slowest = report.slowest.max(begun.elapsed());
        report.cases += 1;
        if let Err(panic) = outcome {
            let message = panic.downcast_ref::<String>().cloned();
            let message = message.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            report.failures.push((keep(name, &input), message.unwrap_or_default()));
        }
    }
    report
}

/// Reads `CASES [SEED]` from the command line, runs, reports, and fails where something failed.
pub fn main(name: &str, target: fn(&[u8])) {
    let numbers: Option<Vec<u64>> = std::env::args().skip(1).map(|word| word.parse().ok()).collect();
    let (cases, seed) = match numbers.as_deref() {
        Some([]) => (100_000, 0),
        Some([cases]) => (*cases, 0),
        Some([cases, seed]) => (*cases, *seed),
        _ => {
            eprintln!("usage: {name} [CASES [SEED]], both numbers");
            std::process::exit(2);
        }
    };
    let begun = Instant::now();
    let report = run(name, target, cases, seed);
    let (n, seconds) = (report.failures.len(), begun.elapsed().as_secs_f64());
    println!("{name}: {} inputs in {seconds:.0} s, slowest {:.2?}, {n} failures", report.cases, report.slowest);
    for (path, message) in report.failures.iter().take(20) {
        println!("{}: {message}", path.display());
    }
    std::process::exit(i32::from(n > 0));
}

type Current = Arc<Mutex<Option<(Instant, Vec<u8>)>>>;

/// Ends the process when an input takes too long.
fn watch(name: &str) -> Current {
    let current = Current::default();
    let (watched, name) = (Arc::downgrade(&current), name.to_owned());
    std::thread::spawn(move || {
        while let Some(current) = watched.upgrade() {
            if let Some((begun, input)) = &*current.lock().unwrap()
                && begun.elapsed() > PATIENCE
            {
                eprintln!("{name}: more than {PATIENCE:?} for {}", keep(&name, input).display());
                std::process::exit(1);
            }
            drop(current);
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    current
}

/// Writes an input to a file of its own.
fn keep(name: &str, input: &[u8]) -> PathBuf {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/artifacts")).join(name);
    let path = folder.join(format!("{:016x}", hasher.finish()));
    if let Err(error) = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&path, input)) {
        eprintln!("{}: {error}", path.display());
    }
    path
}
