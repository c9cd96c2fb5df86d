//! From the text of a kernel to a compiled pipeline, kept for the next launch and, where the
//! application gives a folder, for the next start of the program.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use serde::Serialize;

use super::{
    lock::lock,
    open::Gpu,
    pipeline::{Pipeline, layout_entry, slots},
    shader::{Interface, Kernel, Needs, Params, parse, reflect},
    share::share,
};
use crate::error::{Error, Result, check_limit};

/// Tells texts apart.
fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

impl Gpu {
    /// The texts that are kept: the kernel with its constants, and a hash.
    pub(crate) fn compiled(&self) -> Vec<(String, u64)> {
        lock(&self.pipelines).iter().map(|(key, pipeline)| (key.to_owned(), pipeline.text)).collect()
    }

    /// The pipeline of a text, compiled where it is not kept. A text that has a snippet of the
    /// user's is compiled with all checks.
    pub(crate) fn pipeline<C: Serialize, P: Params>(
        &self,
        kernel: &Kernel<C, P>,
        constants: &C,
        has_snippet: bool,
    ) -> Result<Arc<Pipeline>> {
        let name = kernel.name;
        let key = serde_json::to_string(constants)
            .map(|constants| format!("{name} {constants}"))
            .map_err(|error| Error::Validation { what: name.into(), message: error.to_string() })?;
        if let Some(pipeline) = lock(&self.pipelines).get(&key) {
            return Ok(pipeline);
        }
        let mut source = kernel.text(constants)?;
        // Before operands share bindings.
        let text = hash(&source);
        let module = parse(name, &source)?;
        let interface = reflect(name, &module)?;
        let is_shared = interface.needs.storage_buffers > self.capabilities.storage_buffers;
        if is_shared {
            source = share(name, module, &interface)?;
        }
        self.check_needs(&interface.needs, is_shared)?;
        let checked = self.checked || has_snippet;
        let pipeline = self.guarded(name, || self.compile(name, text, source, &interface, is_shared, checked))?;
        let pipeline = Arc::new(pipeline);
        lock(&self.pipelines).insert(key, pipeline.clone(), has_snippet);
        Ok(pipeline)
    }

    /// Refuses a text that the device cannot run.
    fn check_needs(&self, needs: &Needs, is_shared: bool) -> Result<()> {
        let can = &self.capabilities;
        let buffers = if is_shared { needs.shared_storage_buffers } else { needs.storage_buffers };
        let all = [
            ("storage buffers of one kernel", buffers, can.storage_buffers),
            ("bytes of workgroup memory", needs.workgroup_bytes, can.workgroup_bytes),
            ("threads of a workgroup", needs.threads, can.threads),
        ];
        all.into_iter().try_for_each(|(limit, requested, allowed)| check_limit(limit, requested.into(), allowed.into()))
    }

    /// The layout of the parameters: one uniform at a dynamic offset.
    pub(super) fn params_layout(&self) -> wgpu::BindGroupLayout {
        self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some("parameters"),
            entries: &[layout_entry(0, wgpu::BufferBindingType::Uniform, true)],
        })
    }

    fn compile(
        &self,
        name: &'static str,
        text: u64,
        source: String,
        interface: &Interface,
        is_shared: bool,
        checked: bool,
    ) -> Pipeline {
        let descriptor =
            wgpu::ShaderModuleDescriptor { label: Some(name), source: wgpu::ShaderSource::Wgsl(source.into()) };
        let module = if checked {
            self.device.create_shader_module(descriptor)
        } else {
            // SAFETY: the text is ours (a snippet of the user's is always compiled checked).
            // Every index into a buffer is guarded by the lengths in the parameters, which the
            // host computes from the shapes that it has checked against the buffers; every index
            // into workgroup or private memory is bounded by constants of the text; every loop
            // has a bound that does not change in it; no integer is divided by a number that can
            // be zero. With `WGPU_ATTENTION_EVERY=1` the tests run all of them checked as well, to the
            // same results; without, some.
            unsafe { self.device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) }
        };
        let (bindings, slots) = slots(interface, is_shared);
        let entry = |&(binding, is_written): &(u32, bool)| {
            layout_entry(binding, wgpu::BufferBindingType::Storage { read_only: !is_written }, false)
        };
        let entries: Vec<wgpu::BindGroupLayoutEntry> = bindings.iter().map(entry).collect();
        let buffers_layout = self
            .device
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(name), entries: &entries });
        let layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(name),
            bind_group_layouts: &[Some(&buffers_layout), Some(&self.params_layout())],
            immediate_size: 0,
        });
        let raw = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(name),
            layout: Some(&layout),
            module: &module,
            entry_point: Some("main"),
            // Some backends zero workgroup memory with one thread; every kernel writes before
            // it reads.
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: self.pipeline_file.as_ref().map(|file| &file.cache),
        });
        let [first_group, n_groups] = ["first_group", "n_groups"].map(|field| interface.offset(field));
        Pipeline { name, text, raw, buffers_layout, bindings, slots, first_group, n_groups }
    }
}
