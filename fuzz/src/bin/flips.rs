//! Flips bits in a file of every kind, one at a time, as many as the argument says.

use std::process::ExitCode;

fn main() -> ExitCode {
    let n = match std::env::args().nth(1).map(|word| word.parse()) {
        None => 10_000,
        Some(Ok(n)) => n,
        Some(Err(_)) => {
            eprintln!("usage: flips [FLIPS], a number for each kind of file");
            return ExitCode::from(2);
        }
    };
    println!("{:<24} {:>8} {:>8} {:>8}", "", "refused", "the same", "another");
    let mut right = true;
    for (name, flips) in wgpu_attention_fuzz::flips(n, 0) {
        println!("{name:<24} {:>8} {:>8} {:>8}", flips.refused, flips.same, flips.other);
        right &= flips.other == 0;
    }
    if right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
