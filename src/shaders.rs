//! The WGSL that this crate runs, as text: to read, to profile, or to compile with another
//! front end; and what a device must offer to run it.
//!
#![doc = include_str!("../docs/limits.md")]

use std::collections::BTreeMap;

pub use crate::device::gpu::{Needs, Shader};
use crate::{error::Result, ops};

/// Every kernel, in a variant for each thing that its text depends on.
///
/// # Errors
/// A template that does not expand, which would be a defect of this crate.
///
/// ```
/// # fn main() -> wgpu_attention::Result<()> {
/// let all = wgpu_attention::shaders::variants()?;
/// let of_norm: Vec<_> = all.iter().filter(|shader| shader.name.starts_with("layer_norm")).collect();
/// assert!(!of_norm.is_empty() && of_norm.iter().all(|shader| shader.wgsl.contains("@compute")));
/// # Ok(())
/// # }
/// ```
pub fn variants() -> Result<Vec<Shader>> {
    ops::shaders()
}

/// The most that any text of each kernel needs, by the kernel's name: an application that opens
/// its device itself asks for these limits. Without the texts for matrix units, which run only where
/// [`GpuOptions::matrix_units`](crate::device::GpuOptions::matrix_units()) opened the device, and without those
/// for subgroups or that need more than the 16 KiB of workgroup memory that every device has: they run where there
/// is more. (They are the table of this page, which a test holds to every text.)
///
/// ```
/// let needs = wgpu_attention::shaders::needs();
/// assert!(needs["layer_norm"].threads <= 256); // what WebGPU offers everywhere
/// for (kernel, needs) in needs {
///     println!("{kernel}: {} storage buffers, {} bytes", needs.storage_buffers, needs.workgroup_bytes);
/// }
/// ```
pub fn needs() -> BTreeMap<String, Needs> {
    let row = |line: &str| {
        let (kernel, numbers) = line.strip_prefix("| `")?.split_once("` | ")?;
        let numbers: Option<Vec<u32>> = numbers.trim_end_matches(" |").split(" | ").map(|x| x.parse().ok()).collect();
        let [storage_buffers, shared_storage_buffers, workgroup_bytes, threads] = numbers?.try_into().ok()?;
        let needs = Needs { storage_buffers, shared_storage_buffers, workgroup_bytes, threads, ..Needs::default() };
        Some((kernel.to_owned(), needs))
    };
    include_str!("../docs/limits.md").lines().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::LazyLock};

    use super::{Needs, Shader};
    use crate::{device::gpu::Field, parallel::*};

    static SHADERS: LazyLock<Vec<Shader>> = LazyLock::new(|| super::variants().unwrap());

    #[test]
    fn the_page_of_limits_is_true() {
        let mut all: BTreeMap<String, Needs> = BTreeMap::new();
        let runs_everywhere =
            |needs: &Needs| !needs.matrix_units && !needs.subgroups && needs.workgroup_bytes <= 16 << 10;
        let interfaces: Vec<_> = SHADERS.par_iter().map(|shader| shader.interface().unwrap()).collect();
        for (shader, interface) in SHADERS.iter().zip(&interfaces).filter(|(_, found)| runs_everywhere(&found.needs)) {
            let needs = interface.needs;
            let kernel = shader.name.split(' ').next().unwrap().to_owned();
            let most = all.entry(kernel).or_default();
            most.storage_buffers = most.storage_buffers.max(needs.storage_buffers);
            // Vectors share no bindings: where a device binds few, another text runs.
            if interface.operands.iter().all(|operand| operand.words == 1) {
                most.shared_storage_buffers = most.shared_storage_buffers.max(needs.shared_storage_buffers);
            }
            most.workgroup_bytes = most.workgroup_bytes.max(needs.workgroup_bytes);
            most.threads = most.threads.max(needs.threads);
        }
        let row = |(kernel, needs): (&String, &Needs)| {
            let (buffers, shared) = (needs.storage_buffers, needs.shared_storage_buffers);
            format!("| `{kernel}` | {buffers} | {shared} | {} | {} |\n", needs.workgroup_bytes, needs.threads)
        };
        let head = "| kernel | storage buffers | where operands share | workgroup memory, bytes | threads |\n\
                    |---|---|---|---|---|\n";
        let table = format!("{head}{}\n", all.iter().map(row).collect::<String>());
        assert!(include_str!("../docs/limits.md").contains(&table), "docs/limits.md has another table than\n\n{table}");
        assert_eq!(super::needs(), all);
    }

    /// Every uniform as Rust lays it out, against the layout that naga computes of every text.
    #[test]
    fn host_and_shader_agree_on_every_uniform() {
        SHADERS.par_iter().for_each(|shader| {
            let module = naga::front::wgsl::parse_str(&shader.wgsl).unwrap();
            let is_uniform = |variable: &naga::GlobalVariable| variable.space == naga::AddressSpace::Uniform;
            let (_, uniform) = module.global_variables.iter().find(|(_, variable)| is_uniform(variable)).unwrap();
            let naga::TypeInner::Struct { members, .. } = &module.types[uniform.ty].inner else {
                panic!("{}: the uniform is no struct", shader.name);
            };
            let inner = |member: &naga::StructMember| &module.types[member.ty].inner;
            let size = |member: &naga::StructMember| inner(member).size(module.to_ctx()) as usize;
            // An array behind the fixed fields has the length that the constants say.
            let fixed = members.iter().filter(|member| !matches!(inner(member), naga::TypeInner::Array { .. }));
            let found = fixed.map(|member| (member.name.clone().unwrap(), member.offset as usize, size(member)));
            let found: Vec<_> = found.collect();
            let end = shader.params.iter().map(|field| field.offset + field.size).max().unwrap();
            assert!(members.iter().all(|member| (member.offset as usize) <= end), "{}", shader.name);
            let fields = shader.params.iter().filter(|field| field.name != "padding");
            let wanted: Vec<_> =
                fields.map(|Field { name, offset, size }| (name.to_string(), *offset, *size)).collect();
            assert_eq!(found, wanted, "{}", shader.name);
        });
    }
}
