//! From a `.wgsl` file to a pipeline.
//!
//! The files in `shaders/` are WGSL with a few lines of minijinja: a line that begins with
//! `//#` is a statement (`if`, `for`, `include`), `{{ x }}` a constant. Rust owns every tile
//! size and passes it in, so host and shader cannot disagree.

use std::sync::{Arc, OnceLock};

use minijinja::{Environment, UndefinedBehavior, syntax::SyntaxConfig};
use serde::Serialize;

use super::{Gpu, lock};
use crate::error::{Error, Result};

/// The files, embedded.
const FILES: &[(&str, &str)] = &[
    ("lib/activation.wgsl", include_str!("../../../shaders/lib/activation.wgsl")),
    ("lib/bias.wgsl", include_str!("../../../shaders/lib/bias.wgsl")),
    ("lib/feature_map.wgsl", include_str!("../../../shaders/lib/feature_map.wgsl")),
    ("lib/geodesic.wgsl", include_str!("../../../shaders/lib/geodesic.wgsl")),
    ("lib/group.wgsl", include_str!("../../../shaders/lib/group.wgsl")),
    ("lib/sigmoid.wgsl", include_str!("../../../shaders/lib/sigmoid.wgsl")),
    ("add.wgsl", include_str!("../../../shaders/add.wgsl")),
    ("attention_memory.wgsl", include_str!("../../../shaders/attention_memory.wgsl")),
    ("attention_memory_chunk.wgsl", include_str!("../../../shaders/attention_memory_chunk.wgsl")),
    ("attention_memory_read.wgsl", include_str!("../../../shaders/attention_memory_read.wgsl")),
    ("attention_memory_state.wgsl", include_str!("../../../shaders/attention_memory_state.wgsl")),
    ("concat.wgsl", include_str!("../../../shaders/concat.wgsl")),
    ("feature_map.wgsl", include_str!("../../../shaders/feature_map.wgsl")),
    ("gate.wgsl", include_str!("../../../shaders/gate.wgsl")),
    ("geglu.wgsl", include_str!("../../../shaders/geglu.wgsl")),
    ("layer_norm.wgsl", include_str!("../../../shaders/layer_norm.wgsl")),
    ("linear.wgsl", include_str!("../../../shaders/linear.wgsl")),
    ("linear_attention_merge.wgsl", include_str!("../../../shaders/linear_attention_merge.wgsl")),
    ("linear_attention_read.wgsl", include_str!("../../../shaders/linear_attention_read.wgsl")),
    ("linear_attention_write.wgsl", include_str!("../../../shaders/linear_attention_write.wgsl")),
    ("lsam.wgsl", include_str!("../../../shaders/lsam.wgsl")),
    ("lstm.wgsl", include_str!("../../../shaders/lstm.wgsl")),
    ("merge_attention.wgsl", include_str!("../../../shaders/merge_attention.wgsl")),
    ("scan_attention.wgsl", include_str!("../../../shaders/scan_attention.wgsl")),
    ("tape.wgsl", include_str!("../../../shaders/tape.wgsl")),
    ("unit_norm.wgsl", include_str!("../../../shaders/unit_norm.wgsl")),
];

/// What a kernel does with a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// A compiled kernel. Buffers are bind group 0; bind group 1 is the parameters.
pub(crate) struct Pipeline {
    pub name: &'static str,
    pub raw: wgpu::ComputePipeline,
    pub buffers_layout: wgpu::BindGroupLayout,
    pub bindings: Vec<(u32, Access)>,
}

/// What distinguishes one text of a kernel from another.
pub(crate) struct Variant<'a, C> {
    /// The file, without `.wgsl`.
    pub name: &'static str,
    /// The constants of the text.
    pub constants: &'a C,
    /// The bindings of group 0 that the text declares.
    pub bindings: &'a [(u32, Access)],
    /// Given where a snippet of the user's is part of the text: what must hold before that is
    /// compiled for the first time.
    pub untrusted: Option<&'a dyn Fn() -> Result<()>>,
}

/// The text of a kernel with its constants filled in.
pub(crate) fn expand(name: &str, constants: &impl Serialize) -> Result<String> {
    static ENVIRONMENT: OnceLock<std::result::Result<Environment<'static>, String>> = OnceLock::new();
    let environment = ENVIRONMENT.get_or_init(|| {
        let text = |error: minijinja::Error| error.to_string();
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_syntax(SyntaxConfig::builder().line_statement_prefix("//#").build().map_err(text)?);
        for (file, source) in FILES {
            environment.add_template(file, source).map_err(text)?;
        }
        Ok(environment)
    });
    let refused = |message: String| Error::Validation { what: format!("the template {name}.wgsl"), message };
    let environment = environment.as_ref().map_err(|message| refused(message.clone()))?;
    let template = environment.get_template(&format!("{name}.wgsl")).map_err(|error| refused(error.to_string()))?;
    template.render(minijinja::value::Serde(constants)).map_err(|error| refused(format!("{error:#}")))
}

impl Gpu {
    /// The pipeline of a variant, compiled the first time that it is asked for.
    pub(crate) fn pipeline(&self, variant: &Variant<'_, impl Serialize>) -> Result<Arc<Pipeline>> {
        let key = serde_json::to_string(variant.constants)
            .map(|constants| format!("{} {constants}", variant.name))
            .map_err(|error| Error::Validation { what: variant.name.into(), message: error.to_string() })?;
        if let Some(pipeline) = lock(&self.pipelines).get(&key) {
            return Ok(pipeline.clone());
        }
        if let Some(check) = variant.untrusted {
            check()?;
        }
        let source = expand(variant.name, variant.constants)?;
        let checked = self.checked || variant.untrusted.is_some();
        let pipeline = self.guarded(variant.name, || self.compile(variant.name, source, variant.bindings, checked))?;
        let pipeline = Arc::new(pipeline);
        lock(&self.pipelines).insert(key, pipeline.clone());
        Ok(pipeline)
    }

    /// The layout of the parameters: one uniform at a dynamic offset.
    pub(super) fn params_layout(&self) -> wgpu::BindGroupLayout {
        self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some("parameters"),
            entries: &[layout_entry(0, wgpu::BufferBindingType::Uniform, true)],
        })
    }

    fn compile(&self, name: &'static str, source: String, bindings: &[(u32, Access)], checked: bool) -> Pipeline {
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
            // be zero. The tests run all of them checked as well, to the same results.
            unsafe { self.device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) }
        };
        let entries: Vec<wgpu::BindGroupLayoutEntry> = bindings
            .iter()
            .map(|&(binding, access)| {
                let read_only = access == Access::Read;
                layout_entry(binding, wgpu::BufferBindingType::Storage { read_only }, false)
            })
            .collect();
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
            cache: None,
        });
        Pipeline { name, raw, buffers_layout, bindings: bindings.to_vec() }
    }
}

fn layout_entry(binding: u32, ty: wgpu::BufferBindingType, has_dynamic_offset: bool) -> wgpu::BindGroupLayoutEntry {
    wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset, min_binding_size: None },
        count: None,
    }
}
