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
/// is more.
///
/// # Errors
/// As [`variants`].
///
/// ```
/// # fn main() -> wgpu_attention::Result<()> {
/// let needs = wgpu_attention::shaders::needs()?;
/// assert!(needs["layer_norm"].threads <= 256); // what WebGPU offers everywhere
/// for (kernel, needs) in needs {
///     println!("{kernel}: {} storage buffers, {} bytes", needs.storage_buffers, needs.workgroup_bytes);
/// }
/// # Ok(())
/// # }
/// ```
pub fn needs() -> Result<BTreeMap<String, Needs>> {
    let mut all: BTreeMap<String, Needs> = BTreeMap::new();
    let runs_everywhere = |needs: &Needs| !needs.matrix_units && !needs.subgroups && needs.workgroup_bytes <= 16 << 10;
    for shader in variants()?.into_iter().filter(|shader| runs_everywhere(&shader.needs)) {
        let kernel = shader.name.split(' ').next().unwrap_or_default().to_owned();
        let most = all.entry(kernel).or_default();
        most.storage_buffers = most.storage_buffers.max(shader.needs.storage_buffers);
        if !shader.reads_vectors {
            most.shared_storage_buffers = most.shared_storage_buffers.max(shader.needs.shared_storage_buffers);
        }
        most.workgroup_bytes = most.workgroup_bytes.max(shader.needs.workgroup_bytes);
        most.threads = most.threads.max(shader.needs.threads);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use crate::device::gpu::Field;

    /// Every uniform as Rust lays it out, against the layout that naga computes of every text.
    #[test]
    fn host_and_shader_agree_on_every_uniform() {
        for shader in super::variants().unwrap() {
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
        }
    }
}
