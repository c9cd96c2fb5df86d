//! What a device is and can do, read once when it is opened: all that a plan may depend on.

use std::{collections::BTreeMap, fmt, ops::Range};

use crate::error::{Error, Result};

/// What a device is and allows. How an operation runs is a pure function of its sizes and of
/// this, so that it can be tested, and read, without the device.
///
/// ```
/// use wgpu_attention::{Device, device::Capabilities};
///
/// let (best, cpu) = (Device::best().capabilities(), Device::cpu().capabilities());
/// assert_eq!(cpu, Capabilities::cpu());
/// // A hardware GPU, with the memory that every kernel can count on, or the CPU.
/// assert!(best == cpu || best.adapter.is_some_and(|kind| kind.is_hardware()) && best.workgroup_bytes >= 16 << 10);
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Capabilities {
    /// What the adapter is made of; `None` for the CPU device, which has no shaders and no limits.
    pub adapter: Option<AdapterKind>,
    /// The device and its driver, as they call themselves.
    pub driver: String,
    /// Bytes that one binding may cover, a multiple of 256.
    pub max_binding: u64,
    /// Storage buffers that one kernel may bind.
    pub storage_buffers: u32,
    /// Bytes of workgroup memory.
    pub workgroup_bytes: u32,
    /// Threads of a workgroup.
    pub threads: u32,
    /// The smallest and the largest subgroup, where shaders may exchange numbers within one.
    pub subgroups: Option<[u32; 2]>,
    /// Whether shaders may compute in f16.
    pub f16: bool,
    /// Rows and columns of the matrices that shaders may multiply on matrix units, from f16 to sums in f32,
    /// where the device was opened for them: see `GpuOptions::matrix_units`.
    pub matrix_units: Option<u32>,
    /// Whether the device can say when work began and ended.
    pub timestamps: bool,
    /// Floating-point operations of one submit: about a tenth of a second on a slow device of the
    /// kind, so that no watchdog resets it.
    pub submit_budget: f64,
    /// Loop iterations of one invocation, all its loops together. Mesa's llvmpipe ends every
    /// loop for good after 65,535 of them, without a word, and counts the test that ends a loop too:
    /// there half of that is allowed.
    pub max_iterations: usize,
    /// Workgroups, or threads of the CPU, that work at once, at least.
    pub processors: usize,
    /// Variants that were asked for, by operation, instead of those that a plan would choose.
    pub forced: BTreeMap<String, String>,
}

/// What an adapter is made of. The order is the order of preference.
///
/// ```
/// use wgpu_attention::device::AdapterKind;
///
/// assert!(AdapterKind::Discrete < AdapterKind::Integrated); // preferred
/// assert!(AdapterKind::Integrated.is_hardware() && !AdapterKind::Software.is_hardware());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum AdapterKind {
    /// A GPU with memory of its own.
    Discrete,
    /// A GPU that shares the processor's memory.
    Integrated,
    /// A GPU lent by a hypervisor.
    Virtual,
    /// The driver does not say.
    Other,
    /// A processor that runs shaders: right, and slow.
    Software,
}

impl AdapterKind {
    /// Whether it is a real GPU.
    pub fn is_hardware(self) -> bool {
        self != Self::Software
    }
}

/// How an operation would run, and why, in words.
///
/// ```
/// use wgpu_attention::{Device, Tensor, ops::Linear};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let device = Device::best();
/// let layer = Linear { weight: Tensor::zeros(&device, &[64, 64])?, bias: None };
/// let decision = layer.decision(&Tensor::zeros(&device, &[4096, 64])?)?;
/// println!("{decision}"); // "linear: vector 64 in 1 launch, since .."
/// assert_eq!(decision.op, "linear");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Decision {
    /// The operation.
    pub op: &'static str,
    /// The variant of it.
    pub variant: &'static str,
    /// Launches that the work is cut into; 0 on the CPU.
    pub launches: usize,
    /// Why that variant, and why so many launches.
    pub why: String,
}

/// What one unit of a launch (a row, a workgroup, a step) costs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    /// Floating-point operations, about.
    pub cost: f64,
    /// Loop iterations of an invocation, no fewer: of a launch, or of each of its steps.
    #[cfg_attr(not(feature = "gpu"), expect(dead_code, reason = "launches alone are cut by it"))]
    pub iterations: usize,
}

impl Decision {
    /// On the CPU, where nothing is launched.
    pub(crate) fn on_cpu(op: &'static str, variant: &'static str, why: impl Into<String>) -> Self {
        Self { op, variant, launches: 0, why: why.into() }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { op, variant, launches, why } = self;
        write!(f, "{op}: {variant}")?;
        if *launches > 0 {
            write!(f, " in {launches} launch{}", if *launches == 1 { "" } else { "es" })?;
        }
        write!(f, ", since {why}")
    }
}

impl Capabilities {
    /// The CPU: nothing is bound and nothing is cut.
    pub fn cpu() -> Self {
        Self {
            adapter: None,
            driver: "CPU".into(),
            max_binding: u64::MAX,
            storage_buffers: u32::MAX,
            workgroup_bytes: u32::MAX,
            threads: u32::MAX,
            subgroups: None,
            f16: false,
            matrix_units: None,
            timestamps: false,
            submit_budget: f64::INFINITY,
            max_iterations: usize::MAX,
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            forced: BTreeMap::new(),
        }
    }

    /// An adapter of a kind with WebGPU's default limits: the least that a GPU offers. For plans
    /// without a device.
    ///
    /// ```
    /// use wgpu_attention::device::{AdapterKind, Capabilities};
    ///
    /// let least = Capabilities::webgpu(AdapterKind::Integrated);
    /// assert_eq!((least.storage_buffers, least.workgroup_bytes, least.threads), (8, 16 << 10, 256));
    /// ```
    pub fn webgpu(kind: AdapterKind) -> Self {
        let (submit_budget, processors) = match kind {
            AdapterKind::Discrete => (1e11, 64),
            AdapterKind::Integrated | AdapterKind::Virtual | AdapterKind::Other => (1e10, 8),
            AdapterKind::Software => (1e9, 1),
        };
        Self {
            adapter: Some(kind),
            driver: format!("{kind:?}"),
            max_binding: 128 << 20,
            storage_buffers: 8,
            workgroup_bytes: 16 << 10,
            threads: 256,
            submit_budget,
            max_iterations: if kind.is_hardware() { usize::MAX } else { 32_767 },
            processors,
            ..Self::cpu()
        }
    }

    /// Cuts an operation on rows so that no binding and no submit gets too large. The widest
    /// operand has `width` numbers a row.
    pub(crate) fn row_pieces(
        &self,
        rows: usize,
        width: usize,
        cost_of_row: f64,
    ) -> impl ExactSizeIterator<Item = Range<usize>> {
        let numbers = |bytes: u64| usize::try_from(bytes / 4).unwrap_or(usize::MAX);
        // One submit takes 64 rows at least: fewer leave most of a workgroup idle.
        let by_cost = ((self.submit_budget / cost_of_row.max(1.0)) as usize / 64).max(1).saturating_mul(64);
        let by_binding = numbers(self.max_binding) / width.max(1);
        let step = if by_binding >= 64 {
            by_cost.min(by_binding / 64 * 64)
        } else {
            // Then pieces are not aligned, and a binding begins up to 256 bytes early.
            (numbers(self.max_binding.saturating_sub(256)) / width.max(1)).max(1)
        };
        (0..rows).step_by(step).map(move |start| start..rows.min(start.saturating_add(step)))
    }

    /// Floating-point operations of a step of a recurrence in `n_groups` workgroups, which share
    /// the device or leave most of it idle; `work` is that of one of them.
    #[cfg(feature = "gpu")]
    pub(crate) fn cost_of_step(&self, n_groups: usize, work: Work) -> f64 {
        work.cost.max(1.0) * n_groups.max(self.processors) as f64
    }

    /// Whether a step of a recurrence that moves `bytes` for each of `batch` elements pays as
    /// launches of its own over all processors, instead of in one workgroup an element that takes all
    /// steps. Measured on an H200 (benches/RESULTS.md): a workgroup moves 40 bytes in a nanosecond, from a cache
    /// that many share, and spread over all processors half as many again each; a launch takes 4 microseconds, with
    /// the wait for the one before: as long as 160,000 bytes.
    #[cfg(feature = "gpu")]
    pub(crate) fn pays_to_spread(&self, bytes: usize, batch: usize, launches: usize) -> bool {
        const LAUNCH: f64 = 1.6e5;
        const SPREAD: f64 = 1.5;
        let together = if self.processors > 1 { SPREAD * self.processors as f64 } else { 1.0 };
        // Elements side by side take no longer than one, until there are as many as processors.
        LAUNCH * launches as f64 + bytes as f64 * batch as f64 / together < bytes as f64
    }

    /// Cuts a recurrence of `n` steps into as many at a time as a submit and an invocation take.
    #[cfg(feature = "gpu")]
    pub(crate) fn step_pieces(
        &self,
        n: usize,
        n_groups: usize,
        work: Work,
    ) -> impl ExactSizeIterator<Item = Range<usize>> {
        let by_budget = (self.submit_budget / self.cost_of_step(n_groups, work)) as usize;
        let by_iterations = self.max_iterations / work.iterations.max(1);
        let step = by_budget.min(by_iterations).max(1);
        (0..n).step_by(step).map(move |first| first..n.min(first.saturating_add(step)))
    }

    /// The variant of an operation that was asked for, of those that it has.
    pub(crate) fn forced<T: Copy>(&self, op: &'static str, variants: &[(&'static str, T)]) -> Result<Option<T>> {
        let Some(asked) = self.forced.get(op) else { return Ok(None) };
        match variants.iter().find(|(name, _)| name == asked) {
            Some((_, variant)) => Ok(Some(*variant)),
            None => Err(Error::argument(
                op,
                "variant",
                asked,
                variants.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_rows_cover_everything_once_and_fit() {
        let device = Capabilities { max_binding: 64 << 10, ..Capabilities::webgpu(AdapterKind::Software) };
        // A row that is not aligned fits a binding with 256 bytes to spare.
        for (rows, width, cost) in [(1, 1, 1.0), (1000, 16, 1.0), (9, 16_384, 1.0), (70, 300, 1e9), (5, 16_319, 1.0)] {
            let mut next = 0;
            for piece in device.row_pieces(rows, width, cost) {
                assert_eq!(piece.start, next);
                let early = if piece.start * width % 64 == 0 { 0 } else { 64 };
                let bytes = 4 * (piece.len() * width + early) as u64;
                assert!(bytes <= device.max_binding, "{rows} x {width}: {piece:?}");
                assert!(cost * piece.len() as f64 <= device.submit_budget || piece.len() <= 64, "{rows}: {piece:?}");
                next = piece.end;
            }
            assert_eq!(next, rows);
        }
    }
}
