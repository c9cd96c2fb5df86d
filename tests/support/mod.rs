//! What the tests share: devices, the float64 oracle, fixtures, random numbers.
#![allow(dead_code)] // each test file uses a part

#[cfg(target_arch = "wasm32")]
pub mod blocking;
#[cfg(unix)]
pub mod example;
pub mod fixture;
pub mod oracle;
pub mod oracle_tape;

use rand::{RngExt, SeedableRng, rngs::StdRng};
#[cfg(feature = "gpu")]
use wgpu_attention::wgpu;
use wgpu_attention::{Device, Error, Result, checkpoint::Checkpoint, models::Prediction, ops::Layout};

/// The committed network of the first README snippet.
pub const CHECKPOINT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/checkpoints/gp_1d.safetensors");

/// Whether tests run whole, as `WGPU_ATTENTION_EVERY=1` asks: with unchecked and with checked shaders, and every case of
/// a sweep with every variant. A software driver compiles a text in a second or two, and there are thousands: without it
/// a module of tests takes one of the two, by its name, and a sweep what [`is_part`] says. What tries every operation
/// takes them in turns, and some golden cases meet both.
pub fn every() -> bool {
    std::env::var("WGPU_ATTENTION_EVERY").is_ok_and(|value| value == "1")
}

/// Whether a case of a sweep runs on a device: all with [`every`], else one of so many, so that with as many devices
/// each case meets one of them. The digits of a case are summed, for its bits may be what it tries.
pub fn is_part(turn: usize, case: usize, of: usize) -> bool {
    let mut digits = case;
    let mut sum = turn;
    while digits > 0 {
        sum += digits % of;
        digits /= of;
    }
    every() || sum.is_multiple_of(of)
}

/// The cases of a sweep that run on a device: all on the CPU, which compiles nothing, and where a device chooses what it
/// runs; see [`is_part`].
pub fn part<T>(turn: usize, of: usize, device: &Device, cases: impl IntoIterator<Item = T>) -> impl Iterator<Item = T> {
    let is_whole = device.capabilities().forced.is_empty();
    let numbered = cases.into_iter().enumerate();
    numbered.filter(move |(i, _)| is_whole || is_part(turn, *i, of)).map(|(_, case)| case)
}

/// How many random cases are compared with a CPU twin, each of which is a text or more. They are others in each run.
pub fn twin_cases() -> u32 {
    if every() { 16 } else { 6 }
}

/// Whether the shaders of a test are checked: both, or one by the letters of its module, for tests of one share texts,
/// and of the variant that runs. A test's name is that of its thread.
fn checks(variant: &str) -> &'static [bool] {
    let thread = std::thread::current();
    let module = thread.name().unwrap_or_default().rsplit_once("::").map_or("", |(module, _)| module);
    let letters = module.bytes().chain(variant.bytes());
    match (every(), letters.map(usize::from).sum::<usize>() % 2) {
        (true, _) => &[false, true],
        (false, 0) => &[false],
        (false, _) => &[true],
    }
}

/// The CPU, and every adapter with unchecked or checked shaders, or both: see [`every`]. Prints what is missing;
/// with `WGPU_ATTENTION_REQUIRE_GPU=1` a missing adapter is a failure.
pub fn devices() -> Vec<(String, Device)> {
    in_turn(all_devices())
}

/// The CPU, and every adapter with unchecked and with checked shaders.
pub fn all_devices() -> Vec<(String, Device)> {
    #[allow(unused_mut)]
    let mut devices = vec![("CPU".to_owned(), Device::cpu())];
    #[cfg(feature = "gpu")]
    devices.extend(both());
    devices
}

/// The CPU with every instruction set that it has but the best, which is that of [`devices`].
pub fn other_cpus() -> Vec<(String, Device)> {
    let names = Device::cpu_instructions();
    names[1..].iter().map(|name| (format!("CPU, {name}"), Device::cpu_with(name).unwrap())).collect()
}

/// Whether a device is the CPU, with any instructions.
pub fn is_cpu(device: &Device) -> bool {
    device.capabilities().adapter.is_none()
}

/// Every adapter with unchecked or checked shaders, or both, opened once: see [`every`].
#[cfg(feature = "gpu")]
pub fn gpus() -> Vec<(String, Device)> {
    in_turn(both())
}

/// Those of a test's turn, and the CPU: see [`every`].
pub fn in_turn(devices: Vec<(String, Device)>) -> Vec<(String, Device)> {
    let checks = checks("");
    devices.into_iter().filter(|(name, device)| is_cpu(device) || checks.contains(&is_checked(name))).collect()
}

/// Whether a device has checked shaders, by its name.
pub fn is_checked(name: &str) -> bool {
    name.contains(", checked")
}

/// Every adapter with unchecked and with checked shaders, opened once.
#[cfg(feature = "gpu")]
pub fn both() -> Vec<(String, Device)> {
    static BOTH: std::sync::LazyLock<Vec<(String, Device)>> = std::sync::LazyLock::new(open_gpus);
    BOTH.clone()
}

/// [`both`] as new devices.
#[cfg(feature = "gpu")]
pub fn open_gpus() -> Vec<(String, Device)> {
    open_all(&wgpu_attention::device::GpuOptions::default(), &[false, true])
}

/// Every adapter as a program opens it, as new devices.
#[cfg(feature = "gpu")]
pub fn plain_gpus() -> Vec<(String, Device)> {
    open_all(&wgpu_attention::device::GpuOptions::default(), &[false])
}

/// Every adapter with unchecked or checked shaders, or both (see [`every`]), made to run a variant of an operation.
#[cfg(feature = "gpu")]
pub fn forced(operation: &str, variant: &str) -> Vec<(String, Device)> {
    open_forced(operation, variant, checks(variant))
}

#[cfg(feature = "gpu")]
fn open_forced(operation: &str, variant: &str, checks: &[bool]) -> Vec<(String, Device)> {
    let all = open_all(&wgpu_attention::device::GpuOptions::default().variant(operation, variant), checks);
    all.into_iter().map(|(name, device)| (format!("{name}, {variant}"), device)).collect()
}

/// Says that there is no adapter; with `WGPU_ATTENTION_REQUIRE_GPU=1` it is a failure.
#[cfg(feature = "gpu")]
fn without_adapter() {
    let required = std::env::var("WGPU_ATTENTION_REQUIRE_GPU").is_ok_and(|value| value == "1");
    assert!(!required, "WGPU_ATTENTION_REQUIRE_GPU=1, but there is no adapter");
    println!("no adapter: the GPU half of this test did not run");
}

/// A device as an application opens it, with nothing of this crate's.
#[cfg(feature = "gpu")]
pub fn applications_device(limits: impl Fn(&wgpu::Adapter) -> wgpu::Limits) -> Option<(wgpu::Device, wgpu::Queue)> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY));
    let Some(adapter) = adapters.first() else {
        without_adapter();
        return None;
    };
    let descriptor = wgpu::DeviceDescriptor { required_limits: limits(adapter), ..Default::default() };
    Some(pollster::block_on(adapter.request_device(&descriptor)).unwrap())
}

#[cfg(feature = "gpu")]
fn open_all(options: &wgpu_attention::device::GpuOptions, checks: &[bool]) -> Vec<(String, Device)> {
    let adapters = Device::adapters();
    if adapters.is_empty() {
        without_adapter();
    }
    let mut devices = Vec::new();
    for adapter in &adapters {
        for &checked in checks {
            let device = Device::on_adapter(adapter, &options.clone().checked(checked)).unwrap();
            let suffix = if checked { ", checked" } else { "" };
            devices.push((format!("{}{suffix}", adapter.name), device));
        }
    }
    devices
}

/// Every adapter once for each variant of `scan_attention`, which it is made to run; with [`every`] with
/// checked shaders, too.
#[cfg(feature = "gpu")]
pub fn forced_scans() -> Vec<(String, Device)> {
    static FORCED: std::sync::LazyLock<Vec<(String, Device)>> = std::sync::LazyLock::new(open_forced_scans);
    FORCED.clone()
}

/// [`forced_scans`] as new devices.
#[cfg(feature = "gpu")]
pub fn open_forced_scans() -> Vec<(String, Device)> {
    let all = wgpu_attention::device::variants()["scan_attention"];
    // Matrix units have tests of their own: they round to f16.
    let exact = all.iter().filter(|variant| **variant != "matrix");
    let checks: &[bool] = if every() { &[false, true] } else { &[false] };
    let forced = exact.flat_map(|variant| open_forced("scan_attention", variant, checks));
    forced.filter(|(_, device)| has_what_it_needs(device)).collect()
}

/// Whether a device has what the variant needs that it is made to run; if not, it runs another one.
#[cfg(feature = "gpu")]
pub fn has_what_it_needs(device: &Device) -> bool {
    let capabilities = device.capabilities();
    let is_rows = capabilities.forced.get("scan_attention").is_some_and(|variant| variant.starts_with("rows"));
    capabilities.subgroups.is_some_and(|[least, _]| least >= 8) || !is_rows
}

/// Every adapter that has matrix units, opened for them; with checked shaders, too.
#[cfg(feature = "gpu")]
pub fn matrix_units() -> Vec<(String, Device)> {
    use wgpu_attention::device::GpuOptions;
    static UNITS: std::sync::LazyLock<Vec<(String, Device)>> = std::sync::LazyLock::new(|| {
        let open = |adapter: &wgpu_attention::device::Adapter, checked| {
            let options = GpuOptions::default().matrix_units(true).variant("scan_attention", "matrix").checked(checked);
            let suffix = if checked { ", checked" } else { "" };
            (format!("{}, matrix units{suffix}", adapter.name), Device::on_adapter(adapter, &options).unwrap())
        };
        let all = Device::adapters();
        let all = all.iter().flat_map(|adapter| [open(adapter, false), open(adapter, true)]);
        all.filter(|(_, device)| device.capabilities().matrix_units.is_some()).collect()
    });
    UNITS.clone()
}

/// Every adapter as a device that binds four storage buffers, as downlevel ones do; with unchecked and with checked
/// shaders.
#[cfg(feature = "gpu")]
pub fn few_bindings() -> Vec<(String, Device)> {
    use wgpu_attention::{device::GpuOptions, wgpu};
    static FEW: std::sync::LazyLock<Vec<(String, Device)>> = std::sync::LazyLock::new(|| {
        let limits = wgpu::Limits { max_storage_buffers_per_shader_stage: 4, ..wgpu::Limits::default() };
        let open = |adapter: &wgpu_attention::device::Adapter, checked| {
            let options = GpuOptions::default().limits(limits.clone()).checked(checked);
            let suffix = if checked { ", checked" } else { "" };
            (format!("{}, four bindings{suffix}", adapter.name), Device::on_adapter(adapter, &options).unwrap())
        };
        Device::adapters().iter().flat_map(|adapter| [open(adapter, false), open(adapter, true)]).collect()
    });
    FEW.clone()
}

/// The project's error measure: max |a - b| / (1 + |b|). Infinite for NaN.
pub fn error(found: &[f32], truth: &[f64]) -> f64 {
    assert_eq!(found.len(), truth.len(), "lengths");
    let one = |(&a, &b): (&f32, &f64)| {
        let e = (f64::from(a) - b).abs() / (1.0 + b.abs());
        if e.is_nan() { f64::INFINITY } else { e }
    };
    found.iter().zip(truth).map(one).fold(0.0, f64::max)
}

/// The project's one rule for the error of f32 against float64, given what the papers' own f32
/// code reached on the case: 4 times that on the CPU and 10 times that on an adapter, whose
/// `exp` may be several units in the last place off; never asked to be below what rounding a
/// few sums costs. A golden case that magnifies the rounding of its own inputs may be off by
/// that on top: see `golden/moved.rs`.
pub fn bound(device: &Device, recorded: f64) -> f64 {
    if is_cpu(device) { (4.0 * recorded).max(2e-6) } else { (10.0 * recorded).max(1e-5) }
}

/// Reproducible random numbers.
pub struct Random(StdRng);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// Uniform in `-1..1`.
    pub fn numbers(&mut self, n: usize) -> Vec<f32> {
        self.scaled(n, 1.0)
    }

    /// Uniform in `-scale..scale`.
    pub fn scaled(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| scale * (2.0 * self.0.random::<f32>() - 1.0)).collect()
    }

    /// Parameters of a shape for a layer whose input is as wide as the last dimension.
    pub fn layer(&mut self, shape: &[usize], scale: f32) -> Vec<f32> {
        let fan_in = shape.last().copied().unwrap_or(1) as f32;
        self.scaled(shape.iter().product(), scale / fan_in.sqrt())
    }

    /// `0..n` in any order.
    pub fn shuffled(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }

    /// True with probability `p`.
    pub fn booleans(&mut self, n: usize, p: f32) -> Vec<bool> {
        (0..n).map(|_| self.0.random::<f32>() < p).collect()
    }

    /// A whole number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.0.random_range(0..n)
    }
}

/// A network, and the parameters that it asked for: `draw` makes those of a name and a shape.
pub fn parameters<T>(
    build: impl Fn(&Checkpoint) -> Result<T>,
    mut draw: impl FnMut(&str, &[usize]) -> Vec<f32>,
) -> (T, Checkpoint) {
    let mut checkpoint = Checkpoint::default();
    loop {
        match build(&checkpoint) {
            Err(Error::MissingParameter { name, expected, .. }) => {
                let numbers = draw(&name, &expected);
                checkpoint.insert(&name, &expected, numbers).unwrap();
            }
            other => return (other.unwrap_or_else(|error| panic!("{error}")), checkpoint),
        }
    }
}

pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

pub fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// That two networks say the same but for other orders of summation, through layers whose random parameters magnify.
#[track_caller]
pub fn assert_predicted(a: &Prediction, b: &Prediction, what: &str) {
    assert_eq!(a.shape(), b.shape(), "{what}");
    for (a, b) in a.mean().iter().chain(a.std()).zip(b.mean().iter().chain(b.std())) {
        assert!((a - b).abs() <= 2e-5 * (1.0 + b.abs()), "{what}: {a} and {b}");
    }
}

/// Leaves NaN in the device's pool, in buffers of these lengths: an operation that does not
/// write all of its output then returns it.
pub fn poison(device: &Device, lengths: &[usize]) {
    let tensors: Vec<_> = lengths
        .iter()
        .flat_map(|&n| [n; 3])
        .map(|n| wgpu_attention::Tensor::new(device, &[n], &vec![f32::NAN; n]).unwrap())
        .collect();
    drop(tensors);
}

/// A layout by whether it is head-major.
pub fn layout(head_major: bool, n_heads: usize) -> Layout {
    if head_major { Layout::HeadMajor } else { Layout::Projected { n_heads } }
}

/// Zeros of any shape.
pub fn zeros(device: &Device, shape: &[usize]) -> wgpu_attention::Tensor {
    let n = if shape.contains(&0) { 0 } else { shape.iter().product() };
    wgpu_attention::Tensor::new(device, shape, &vec![0.0; n]).unwrap()
}

/// Asserts that a call fails and that its message contains every one of some words.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(result: Result<T>, words: &[&str]) {
    let message = result.expect_err("this should be refused").to_string();
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
}
