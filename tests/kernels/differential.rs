//! What is not finite, or at the end of f32: every operation, every operand, every kind of number,
//! the CPU against every adapter. An operation is in the table by being in [`operations`].
#![cfg(feature = "gpu")]

use std::collections::BTreeSet;

use crate::{
    operations::{Operation, operations},
    support::{Random, both, every, forced_scans, is_checked, is_part, matrix_units},
};
use wgpu_attention::{
    Device, Tensor,
    device::{Adapter, GpuOptions},
};

/// What a number is replaced by.
const CLASSES: [(&str, f32); 8] = [
    ("finite", 0.5),
    ("zero", 0.0),
    ("subnormal", 1e-40),
    ("1e38", 1e38),
    ("-1e38", -1e38),
    ("inf", f32::INFINITY),
    ("-inf", f32::NEG_INFINITY),
    ("NaN", f32::NAN),
];

/// How wide the rows of an output are, and its numbers.
type Output = (usize, Vec<f32>);

/// The numbers of all operands, with one replaced.
fn run(operation: &Operation, device: &Device, replaced: Option<(usize, usize, f32)>) -> Vec<Output> {
    let mut random = Random::new(17);
    let tensor = |(i, operand): (usize, &crate::operations::Operand)| {
        let mut numbers = random.numbers(operand.shape.iter().product());
        if let Some((_, at, x)) = replaced.filter(|(which, ..)| *which == i) {
            numbers[at] = x;
        }
        Tensor::new(device, &operand.shape, &numbers).unwrap()
    };
    let tensors: Vec<Tensor> = operation.operands.iter().enumerate().map(tensor).collect();
    let outputs = (operation.run)(device, &tensors);
    outputs.iter().map(|tensor| (tensor.shape().last().copied().unwrap_or(1), tensor.read().unwrap())).collect()
}

/// Whether two numbers say the same: both NaN, the same infinity, or finite and equal to rounding,
/// which is that of numbers as large as `scale`.
fn same(a: f32, b: f32, scale: f32, rounding: f64) -> bool {
    if a.is_finite() && b.is_finite() {
        f64::from(a - b).abs() <= rounding * (1.0 + f64::from(scale))
    } else {
        a == b || a.is_nan() && b.is_nan()
    }
}

/// What differs, by its first number. A number is rounded as the largest of its row and of its column are, the lesser of
/// both: what is large elsewhere has nothing to do with it. But a memory that erases has held larger ones than it
/// has left: there as the largest of all.
fn difference(operation: &Operation, cpu: &[Output], gpu: &[Output], rounding: f64) -> Option<String> {
    let erases = operation.kernels.contains("attention_memory");
    for (output, ((width, cpu), (_, gpu))) in cpu.iter().zip(gpu).enumerate() {
        let largest = |numbers: &mut dyn Iterator<Item = &f32>| {
            numbers.filter(|x| x.is_finite()).fold(0f32, |most, x| most.max(x.abs()))
        };
        let rows: Vec<f32> = cpu.chunks((*width).max(1)).map(|row| largest(&mut row.iter())).collect();
        let columns: Vec<f32> = (0..*width).map(|c| largest(&mut cpu.iter().skip(c).step_by(*width))).collect();
        let all = largest(&mut cpu.iter());
        let scale = |i: usize| if erases { all } else { rows[i / width].min(columns[i % width]) };
        if let Some(i) = (0..cpu.len()).find(|&i| !same(gpu[i], cpu[i], scale(i), rounding)) {
            return Some(format!("output {output}, number {i}: {} is {} on the CPU", gpu[i], cpu[i]));
        }
    }
    None
}

/// Devices on which recurrences take many workgroups.
fn forced() -> Vec<(String, Device)> {
    let options =
        GpuOptions::default().variant("lstm", "many workgroups").variant("lsam", "many workgroups").checked(true);
    let open =
        |adapter: Adapter| (format!("{adapter}, many workgroups"), Device::on_adapter(&adapter, &options).unwrap());
    Device::adapters().into_iter().map(open).collect()
}

/// Both twins are within 1e-5 of float64 in these sizes.
const ROUNDING: f64 = 2e-5;

#[test]
fn twins_agree_on_what_is_not_finite() {
    differ(&both(), &forced_scans(), ROUNDING, |_| true);
}

/// They round to f16.
#[test]
fn matrix_units_agree_on_what_is_not_finite() {
    let units = matrix_units();
    if units.is_empty() {
        println!("no adapter has matrix units: this was not tried on any");
        return;
    }
    differ(&units, &[], 2e-2, |operation| operation.kernels.contains("scan_attention"));
}

/// Holds devices, unchecked and checked ones in turns, and those that run variants of `scan_attention`, to the CPU.
fn differ(gpus: &[(String, Device)], scans: &[(String, Device)], rounding: f64, is_tried: impl Fn(&Operation) -> bool) {
    let recurrences = forced();
    let mut faults = Vec::new();
    for (turn, operation) in operations().into_iter().filter(is_tried).enumerate() {
        let scans: Vec<_> = scans
            .iter()
            .enumerate()
            .filter(|(i, _)| is_part(*i, turn, 6) || operation.name.ends_with("one query"))
            .map(|(_, scan)| scan)
            .collect();
        let is_turn = |name: &str| every() || is_checked(name) == turn.is_multiple_of(2);
        let gpus: Vec<_> = gpus.iter().filter(|(name, _)| is_turn(name)).collect();
        for (which, operand) in operation.operands.iter().enumerate() {
            let masked = operand.masked.map(|at| (at, true));
            let len: usize = operand.shape.iter().product();
            for (at, is_masked) in [(3 * len / 4, false)].into_iter().chain(masked) {
                let mut line =
                    format!("{}: {}{}", operation.name, operand.name, if is_masked { " (masked)" } else { "" });
                let untouched = run(&operation, &Device::cpu(), None);
                for (class, x) in CLASSES {
                    let cpu = run(&operation, &Device::cpu(), Some((which, at, x)));
                    let n_nan = cpu.iter().flat_map(|(_, numbers)| numbers).filter(|x| x.is_nan()).count();
                    line += &format!(", {class} {n_nan}");
                    if is_masked && difference(&operation, &untouched, &cpu, ROUNDING).is_some() {
                        faults.push(format!("{line}: read on the CPU, though masked"));
                    }
                    let more = match operation.name.starts_with("ls") {
                        true => recurrences.iter().collect(),
                        false if operation.kernels.contains("scan_attention") => scans.clone(),
                        false => Vec::new(),
                    };
                    for (name, device) in gpus.iter().copied().chain(more) {
                        let gpu = run(&operation, device, Some((which, at, x)));
                        if let Some(difference) = difference(&operation, &cpu, &gpu, rounding) {
                            faults.push(format!("{line}: on {name}, {difference}"));
                        }
                    }
                }
                println!("{line} numbers are NaN");
            }
        }
    }
    assert!(faults.is_empty(), "{}\n{} faults", faults.join("\n"), faults.len());
}

/// A kernel that no operation of the table names is one that nobody tries.
#[test]
fn every_kernel_is_in_the_table() {
    let named: BTreeSet<String> =
        operations().iter().flat_map(|operation| operation.kernels.split(' ')).map(str::to_owned).collect();
    let all: BTreeSet<String> = wgpu_attention::shaders::needs().into_keys().collect();
    assert_eq!(named, all);
}
