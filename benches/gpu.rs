//! Every kernel, in every variant, on every adapter: time, operations and bytes a second, and the
//! share of what the adapter can do at most, measured in the same run.
//!
//!     cargo bench --bench gpu
//!     cargo bench --bench gpu -- --quick --filter linear --save out/gpu.json
//!
//! Times are the device's own where it has a clock, else from the submit to the end of recorded calls.
//! The first row of a case is what the operation chooses by itself, with its reason at the end.

use std::{collections::HashMap, path::PathBuf, process::ExitCode};

use support::{
    cases::{Case, cases},
    measure::{Effort, Timing, time},
    peaks::{Peaks, measure},
};
use wgpu_attention::{
    Device, Error,
    device::{Adapter, GpuOptions, variants},
    serde_json::{Value, json, to_string_pretty},
};

#[derive(Default)]
struct Args {
    is_quick: bool,
    save: Option<PathBuf>,
    filter: Option<String>,
    variant: Option<String>,
    adapter: Option<String>,
}

const USAGE: &str = "usage: cargo bench --bench gpu -- [--quick] [--filter WORD] [--variant WORD]
                                   [--adapter NAME] [--save FILE]

  --quick         small sizes, once: to see that everything runs
  --filter WORD   cases whose operation or sizes contain it
  --variant WORD  of the variants that are not chosen, those whose name contains it
  --adapter NAME  adapters whose name contains it
  --save FILE     also writes everything as JSON";

fn args() -> Result<Args, String> {
    let (mut args, mut given) = (Args::default(), std::env::args().skip(1));
    while let Some(arg) = given.next() {
        let mut value = || given.next().ok_or(format!("{arg} needs a value\n{USAGE}"));
        match arg.as_str() {
            "--quick" => args.is_quick = true,
            "--save" => args.save = Some(value()?.into()),
            "--filter" => args.filter = Some(value()?),
            "--variant" => args.variant = Some(value()?),
            "--adapter" => args.adapter = Some(value()?.to_lowercase()),
            // `cargo bench` gives it.
            "--bench" => {}
            _ => return Err(format!("no argument {arg} is known\n{USAGE}")),
        }
    }
    Ok(args)
}

fn main() -> ExitCode {
    match args().and_then(|args| bench(&args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn bench(args: &Args) -> Result<(), String> {
    let mut adapters = Device::adapters();
    adapters.retain(|adapter| args.adapter.as_ref().is_none_or(|name| adapter.name.to_lowercase().contains(name)));
    if adapters.is_empty() {
        return Err("no adapter of that name on this machine".into());
    }
    // What is measured for minutes must not be lost for want of a folder.
    if let Some(path) = &args.save {
        std::fs::write(path, "").map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    let reports = adapters.iter().map(|adapter| on_adapter(adapter, args)).collect::<Result<Vec<_>, _>>()?;
    if let Some(path) = &args.save {
        let text = to_string_pretty(&json!({ "quick": args.is_quick, "adapters": reports })).unwrap_or_default();
        std::fs::write(path, text + "\n").map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        println!("\nwritten to {}", path.display());
    }
    Ok(())
}

fn on_adapter(adapter: &Adapter, args: &Args) -> Result<Value, String> {
    let is_hardware = adapter.kind.is_hardware();
    println!("\n{adapter}");
    let peaks = measure(adapter, args.is_quick)?;
    let (gflops, gbs) = (peaks.flops / 1e9, peaks.bytes / 1e9);
    if is_hardware {
        println!(
            "at most {gflops:.0} GFLOP/s of multiplications with additions, {gbs:.0} GB/s of a copy, measured just now"
        );
    } else {
        println!("SOFTWARE, NOT GPU SPEED: the times below are a processor's, and say nothing about GPUs");
        println!("({gflops:.1} GFLOP/s of multiplications with additions, {gbs:.1} GB/s of a copy)");
    }
    let mut devices = Devices { adapter, open: HashMap::new() };
    let mut results = Vec::new();
    let header = ["operation", "variant", "sizes", "time", "GFLOP/s", "GB/s", "of peak"];
    println!(
        "\n{:<17} {:<18} {:<52} {:>11} {:>9} {:>8} {:>11}",
        header[0], header[1], header[2], header[3], header[4], header[5], header[6]
    );
    let matches = |case: &Case| {
        args.filter.as_ref().is_none_or(|word| case.operation.contains(word) || case.sizes.contains(word))
    };
    let is_asked = |variant: &str| args.variant.as_ref().is_none_or(|word| variant.contains(word));
    let (all, effort) = (cases(args.is_quick), Effort::new(args.is_quick));
    let mut forced = Vec::new();
    // What is chosen comes first, so that it is known where time ends.
    for case in all.iter().filter(|case| matches(case)) {
        let result = run(&mut devices, case, None, effort);
        let chosen = result.as_ref().ok().and_then(|result| result.variant);
        let others = variants().get(case.operation).copied().unwrap_or_default().iter().copied();
        forced.push((case, others.filter(|variant| Some(*variant) != chosen && is_asked(variant)).collect::<Vec<_>>()));
        results.push(report(case, None, result, is_hardware.then_some(&peaks)));
    }
    println!("\nother variants, asked for:");
    for (case, others) in forced {
        for variant in others {
            let result = run(&mut devices, case, Some(variant), effort);
            results.push(report(case, Some(variant), result, is_hardware.then_some(&peaks)));
        }
    }
    let kind = format!("{:?}", adapter.kind);
    Ok(json!({
        "adapter": adapter.name, "driver": adapter.driver, "backend": adapter.backend, "kind": kind,
        "note": if is_hardware { "" } else { "software, not GPU speed" },
        "peak_gflops": gflops, "peak_gbs": gbs, "results": results,
    }))
}

/// Devices that run what is asked for, opened once.
struct Devices<'a> {
    adapter: &'a Adapter,
    open: HashMap<(&'static str, Option<&'static str>), Device>,
}

impl Devices<'_> {
    fn get(&mut self, operation: &'static str, variant: Option<&'static str>) -> Result<Device, Error> {
        let key = (if variant.is_some() { operation } else { "" }, variant);
        if let Some(device) = self.open.get(&key) {
            return Ok(device.clone());
        }
        // The one variant that is opt-in.
        let options = GpuOptions::default().matrix_units(variant == Some("matrix"));
        let options = variant.into_iter().fold(options, |options, variant| options.variant(operation, variant));
        let device = Device::on_adapter(self.adapter, &options)?;
        Ok(self.open.entry(key).or_insert(device).clone())
    }
}

struct Measured {
    timing: Timing,
    variant: Option<&'static str>,
    why: String,
}

fn run(
    devices: &mut Devices<'_>,
    case: &Case,
    variant: Option<&'static str>,
    effort: Effort,
) -> Result<Measured, String> {
    let device = devices.get(case.operation, variant).map_err(|error| error.to_string())?;
    let prepared = case.prepare(&device).map_err(|error| error.to_string())?;
    let decision = prepared.decision;
    if let (Some(asked), Some(decision)) = (variant, &decision)
        && asked != decision.variant
    {
        return Err(format!("runs as {decision}"));
    }
    let timing = time(&device, &prepared.run, effort).map_err(|error| error.to_string())?;
    Ok(Measured {
        timing,
        variant: decision.as_ref().map(|decision| decision.variant),
        why: decision.map_or(String::new(), |decision| decision.to_string()),
    })
}

/// Prints a row and returns it as JSON.
fn report(case: &Case, asked: Option<&str>, result: Result<Measured, String>, peaks: Option<&Peaks>) -> Value {
    let Case { operation, sizes, flops, bytes, .. } = case;
    match result {
        Ok(Measured { timing, variant, why }) => {
            let seconds = timing.median;
            let (gflops, gbs) = (flops / seconds / 1e9, bytes / seconds / 1e9);
            let share = peaks.map(|peaks| peaks.share(*flops, *bytes, seconds));
            let of_peak = share.map_or("software".into(), |(share, roof)| format!("{:.0}% {roof}", 100.0 * share));
            let name = variant.unwrap_or("-");
            let name = if asked.is_none() { format!("{name} *") } else { name.to_owned() };
            let clock = if timing.by_device { "" } else { "~" };
            println!(
                "{operation:<17} {name:<18} {sizes:<52} {:>11} {gflops:>9.1} {gbs:>8.1} {of_peak:>11}",
                format!("{clock}{:.1} µs", 1e6 * seconds)
            );
            json!({
                "operation": operation, "variant": variant, "chosen": asked.is_none(), "decision": why, "sizes": sizes,
                "seconds": seconds, "least_seconds": timing.least,
                "clock": if timing.by_device { "device" } else { "wall" },
                "gflops": gflops, "gbs": gbs,
                "share": share.map(|(share, _)| share), "roof": share.map(|(_, roof)| roof),
            })
        }
        Err(error) => {
            println!("{operation:<17} {:<18} {sizes:<52} refused: {error}", asked.unwrap_or("*"));
            json!({ "operation": operation, "variant": asked, "chosen": asked.is_none(), "sizes": sizes, "error": error })
        }
    }
}
