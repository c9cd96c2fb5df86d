//! The adapters of a machine, and what a device is opened with.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use super::tuned::Tuned;
use crate::{
    device::{AdapterKind, Capabilities},
    error::{Error, Result},
};

/// An adapter of this machine.
///
/// ```
/// use wgpu_attention::{Device, device::GpuOptions};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// for adapter in Device::adapters() {
///     let device = Device::on_adapter(&adapter, &GpuOptions::default())?;
///     assert_eq!(device.capabilities().adapter, Some(adapter.kind));
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Adapter {
    /// What the driver calls it; of several adapters that are alike the second is `.. #2`, and so on.
    pub name: String,
    /// What it is.
    pub kind: AdapterKind,
    /// The interface it is reached through, such as `vulkan` or `metal`.
    pub backend: String,
    /// The driver and its version.
    pub driver: String,
    pub(super) raw: wgpu::Adapter,
}

/// How a GPU device is opened.
///
/// ```
/// use wgpu_attention::{Device, device::GpuOptions};
///
/// // What compiles once is kept beside the program, and dense layers run in small tiles.
/// let options = GpuOptions::default().pipeline_folder("out/pipelines").variant("linear", "tile 32");
/// match Device::gpu_with(&options) {
///     Ok(device) => assert_eq!(device.capabilities().forced["linear"], "tile 32"),
///     Err(error) => println!("{error}"), // no adapter on this machine
/// }
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct GpuOptions {
    /// Compile the shaders with bounds, loop and division checks, as a browser does. Slower;
    /// the results are the same.
    pub checked: bool,
    /// Ask for these limits instead of all that the adapter offers.
    pub limits: Option<wgpu::Limits>,
    /// Where compiled pipelines are kept from one start of the program to the next, where the
    /// driver can. Whoever can write there can make the driver run anything: keep it as safe as
    /// the program itself.
    pub pipeline_folder: Option<PathBuf>,
    /// Use matrix units where the adapter has them; see [`GpuOptions::matrix_units()`].
    pub matrix_units: bool,
    /// Variants to run, by operation, instead of those that it would choose; see
    /// [`Decision`](crate::device::Decision).
    pub variants: BTreeMap<String, String>,
    /// Variants that were measured to be the fastest on the adapter; [`GpuOptions::variants`] go first.
    pub tuned: Option<Tuned>,
}

impl GpuOptions {
    /// Sets [`GpuOptions::checked`].
    pub fn checked(mut self, checked: bool) -> Self {
        self.checked = checked;
        self
    }

    /// Sets [`GpuOptions::limits`].
    pub fn limits(mut self, limits: wgpu::Limits) -> Self {
        self.limits = Some(limits);
        self
    }

    /// Sets [`GpuOptions::pipeline_folder`].
    pub fn pipeline_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.pipeline_folder = Some(folder.into());
        self
    }

    /// Sets [`GpuOptions::matrix_units`]: [`scan_attention`](crate::ops::scan_attention()) multiplies on matrix units
    /// (Vulkan's cooperative matrices, Metal's SIMD-group matrices), where the adapter has them; elsewhere nothing
    /// changes, and [`Capabilities::matrix_units`] tells. **Experimental**, as the feature of `wgpu` is.
    ///
    /// Results are less exact: `scale q`, `k`, `v` and the weights are rounded to f16, to `u = 2^-11` of each or
    /// `2^-25`, and summed in f32. With `L = 2.01 u max sum |scale q k| + 2^-25 max sum (|scale q| + |k|)`, over the
    /// pairs of a query and the numbers of a head, a logit is off by `L`, a log-sum-exp by `L + u`, and a value by
    /// `(2 L + 3 u) max |v| + 2^-25`, to first order. A driver that rounds towards zero doubles them. What f16 cannot hold (above 65504, or not finite)
    /// is computed in f32, slowly, by the rule for [what is not finite](crate::ops#what-is-not-finite).
    /// Whether they are faster is to be measured: on an H200 they are between 0.7 and 1.2 of the speed of f32.
    pub fn matrix_units(mut self, matrix_units: bool) -> Self {
        self.matrix_units = matrix_units;
        self
    }

    /// Adds to [`GpuOptions::variants`]: of `operation`, run `variant`. A device does not open
    /// with one that does not exist.
    pub fn variant(mut self, operation: impl Into<String>, variant: impl Into<String>) -> Self {
        self.variants.insert(operation.into(), variant.into());
        self
    }

    /// Sets [`GpuOptions::tuned`]. A device does not open with what was measured on another adapter
    /// or with another driver.
    ///
    /// ```
    /// use wgpu_attention::{Device, device::{GpuOptions, Tuned}};
    ///
    /// let options = GpuOptions::default().tuned(Tuned::new("a GPU that nobody has"));
    /// if let Some(adapter) = Device::adapters().first() {
    ///     let refused = Device::on_adapter(adapter, &options).unwrap_err();
    ///     assert!(refused.to_string().contains("a GPU that nobody has"));
    /// }
    /// ```
    pub fn tuned(mut self, tuned: Tuned) -> Self {
        self.tuned = Some(tuned);
        self
    }

    /// All variants that are asked for of this adapter.
    pub(super) fn variants_on(&self, info: &wgpu::AdapterInfo) -> Result<BTreeMap<String, String>> {
        let Some(Tuned { driver, variants }) = &self.tuned else { return Ok(self.variants.clone()) };
        let here = driver_of(info);
        if *driver != here {
            let found = format_args!("variants of {driver:?}");
            return Err(Error::argument("GpuOptions::tuned", "tuned", found, format_args!("those of {here:?}")));
        }
        let mut all = variants.clone();
        all.extend(self.variants.clone());
        Ok(all)
    }
}

impl Adapter {
    fn new(raw: wgpu::Adapter) -> Self {
        let info = raw.get_info();
        Self {
            kind: info.device_type.into(),
            backend: info.backend.to_string(),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
            // Browsers need not tell.
            name: if info.name.is_empty() { "unnamed adapter".into() } else { info.name },
            raw,
        }
    }
}

impl fmt::Display for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?}, {}", self.name, self.kind, self.backend)?;
        if !self.driver.is_empty() {
            write!(f, ", {}", self.driver)?;
        }
        write!(f, ")")
    }
}

impl fmt::Debug for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Adapter({self})")
    }
}

impl From<wgpu::DeviceType> for AdapterKind {
    fn from(device_type: wgpu::DeviceType) -> Self {
        match device_type {
            wgpu::DeviceType::DiscreteGpu => Self::Discrete,
            wgpu::DeviceType::IntegratedGpu => Self::Integrated,
            wgpu::DeviceType::VirtualGpu => Self::Virtual,
            wgpu::DeviceType::Cpu => Self::Software,
            wgpu::DeviceType::Other => Self::Other,
        }
    }
}

/// All adapters, best first.
pub(crate) async fn adapters() -> Vec<Adapter> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
    // OpenGL lacks what the kernels need.
    descriptor.backends &= wgpu::Backends::PRIMARY;
    let instance = wgpu::Instance::new(descriptor);
    #[cfg(not(target_arch = "wasm32"))]
    let raw = instance.enumerate_adapters(wgpu::Backends::PRIMARY).await;
    #[cfg(target_arch = "wasm32")]
    let raw = instance.request_adapter(&wgpu::RequestAdapterOptions::default()).await;
    let mut adapters: Vec<Adapter> = raw.into_iter().map(Adapter::new).collect();
    adapters.sort_by_key(|adapter| adapter.kind);
    number(adapters.iter().map(ToString::to_string).collect(), |i, number| {
        adapters[i].name += &format!(" #{number}");
    });
    adapters
}

/// Calls `rename` for each name that was there before, with how often it is there by then: two cards
/// of one kind can be told apart, and asked for.
fn number(names: Vec<String>, mut rename: impl FnMut(usize, usize)) {
    for (i, name) in names.iter().enumerate() {
        let before = names[..i].iter().filter(|other| *other == name).count();
        if before > 0 {
            rename(i, before + 1);
        }
    }
}

/// What kernels have a use for and an adapter may offer: asked for where it is there, never
/// required.
pub(super) fn wanted_features() -> wgpu::Features {
    wgpu::Features::SUBGROUP
        | wgpu::Features::SHADER_F16
        | wgpu::Features::TIMESTAMP_QUERY
        | wgpu::Features::PIPELINE_CACHE
}

/// The bytes that one binding may cover, of those that a device allows: kernels count elements in u32,
/// and this is the one place that keeps every cast of a launch from truncating.
fn clamped(max_binding: u64) -> u64 {
    (max_binding - max_binding % 256).min(1 << 32)
}

/// An adapter and its driver.
fn driver_of(info: &wgpu::AdapterInfo) -> String {
    format!("{} {} {}", info.name, info.driver, info.driver_info).trim().to_owned()
}

/// The side of the matrices that an adapter multiplies from f16 to f32, of those that WGSL has.
pub(super) fn matrix_side(adapter: &wgpu::Adapter) -> Option<u32> {
    use wgpu::CooperativeScalarType::{F16, F32};
    let properties = adapter.cooperative_matrix_properties();
    let is_offered = |side: &u32| {
        let wanted = ([*side; 3], F16, F32);
        properties.iter().any(|p| ([p.m_size, p.n_size, p.k_size], p.ab_type, p.cr_type) == wanted)
    };
    [16, 8].into_iter().find(is_offered)
}

/// What an open device is and allows.
pub(super) fn capabilities(
    device: &wgpu::Device,
    matrix_units: Option<u32>,
    variants: &BTreeMap<String, String>,
) -> Capabilities {
    let (info, limits, features) = (device.adapter_info(), device.limits(), device.features());
    let max_binding = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
    let has = |feature| features.contains(feature);
    Capabilities {
        driver: driver_of(&info),
        max_binding: clamped(max_binding),
        storage_buffers: limits.max_storage_buffers_per_shader_stage,
        workgroup_bytes: limits.max_compute_workgroup_storage_size,
        threads: limits.max_compute_invocations_per_workgroup,
        subgroups: has(wgpu::Features::SUBGROUP).then_some([info.subgroup_min_size, info.subgroup_max_size]),
        f16: has(wgpu::Features::SHADER_F16),
        matrix_units,
        timestamps: has(wgpu::Features::TIMESTAMP_QUERY),
        forced: variants.clone(),
        ..Capabilities::webgpu(info.device_type.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r14_elements_of_a_binding_fit_u32() {
        assert_eq!([clamped(u64::MAX), clamped(16 << 30), clamped((128 << 20) + 100)], [1 << 32, 1 << 32, 128 << 20]);
        assert!(clamped(u64::MAX) / 4 <= u64::from(u32::MAX));
    }

    #[test]
    fn f11_adapters_of_one_name_are_numbered() {
        let mut renamed = Vec::new();
        number(["a", "b", "a", "a", "b"].map(String::from).to_vec(), |i, number| renamed.push((i, number)));
        assert_eq!(renamed, [(2, 2), (3, 3), (4, 2)]);
    }
}
