//! From the text of a kernel to a compiled pipeline, kept for the next launch and, where the
//! application gives a folder, for the next start of the program.

use std::{path::PathBuf, sync::Arc};

use serde::Serialize;

use super::{
    Gpu, Kernel, Needs, Params, lock,
    shader::{Interface, parse, reflect},
    share::share,
};
use crate::error::{Error, Result};

/// A compiled kernel. Buffers are bind group 0; bind group 1 is the parameters.
pub(crate) struct Pipeline {
    pub name: &'static str,
    pub raw: wgpu::ComputePipeline,
    pub buffers_layout: wgpu::BindGroupLayout,
    /// The bindings of group 0, and whether the kernel writes there.
    pub bindings: Vec<(u32, bool)>,
    /// The operands.
    pub slots: Vec<Slot>,
    /// Where these are in the uniform, in bytes.
    pub first_group: Option<usize>,
    pub n_groups: Option<usize>,
}

/// An operand that a kernel wants.
pub(crate) struct Slot {
    pub name: String,
    pub is_written: bool,
    /// Which of the bindings it is in, and whether others may be in the same.
    pub binding: usize,
    pub is_shared: bool,
    /// Where the uniform says at which element it begins, in bytes.
    pub base: Option<usize>,
}

/// Pipelines that the driver keeps as a file.
pub(super) struct PipelineFile {
    cache: wgpu::PipelineCache,
    path: PathBuf,
}

impl PipelineFile {
    /// What an earlier start left in a folder, or an empty one; `None` where the driver keeps none.
    pub(super) fn open(device: &wgpu::Device, folder: PathBuf) -> Option<Self> {
        if !device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            return None;
        }
        let path = folder.join(wgpu::util::pipeline_cache_key(&device.adapter_info())?);
        let data = std::fs::read(&path).ok();
        let descriptor = wgpu::PipelineCacheDescriptor { label: None, data: data.as_deref(), fallback: true };
        // SAFETY: the file is one that `save` wrote (the documentation of the option asks that
        // nobody else can); `wgpu` and the driver refuse what another driver or version wrote.
        let cache = unsafe { device.create_pipeline_cache(&descriptor) };
        Some(Self { cache, path })
    }

    /// Replaces the file whole or not at all.
    pub(super) fn save(&self) -> Result<()> {
        let Some(data) = self.cache.get_data() else { return Ok(()) };
        if std::fs::read(&self.path).is_ok_and(|before| before == data) {
            return Ok(());
        }
        let beside = self.path.with_extension("part");
        let write = || {
            std::fs::create_dir_all(self.path.parent().unwrap_or(&self.path))?;
            std::fs::write(&beside, &data)?;
            std::fs::rename(&beside, &self.path)
        };
        write().map_err(|source| Error::Io { path: self.path.display().to_string(), source })
    }
}

impl Gpu {
    /// The pipeline of a text, compiled the first time that it is asked for. `check` is there
    /// where a snippet of the user's is part of the text: what must hold before that is compiled.
    pub(crate) fn pipeline<C: Serialize, P: Params>(
        &self,
        kernel: &Kernel<C, P>,
        constants: &C,
        check: Option<&dyn Fn() -> Result<()>>,
    ) -> Result<Arc<Pipeline>> {
        let name = kernel.name;
        let key = serde_json::to_string(constants)
            .map(|constants| format!("{name} {constants}"))
            .map_err(|error| Error::Validation { what: name.into(), message: error.to_string() })?;
        if let Some(pipeline) = lock(&self.pipelines).get(&key) {
            return Ok(pipeline.clone());
        }
        if let Some(check) = check {
            check()?;
        }
        let mut source = kernel.text(constants)?;
        let module = parse(name, &source)?;
        let interface = reflect(name, &module)?;
        let is_shared = interface.needs.storage_buffers > self.capabilities.storage_buffers;
        if is_shared {
            source = share(name, module, &interface)?;
        }
        self.check_needs(&interface.needs, is_shared)?;
        let checked = self.checked || check.is_some();
        let pipeline = self.guarded(name, || self.compile(name, source, &interface, is_shared, checked))?;
        let pipeline = Arc::new(pipeline);
        lock(&self.pipelines).insert(key, pipeline.clone());
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
        match all.into_iter().find(|(_, requested, allowed)| requested > allowed) {
            None => Ok(()),
            Some((limit, requested, allowed)) => {
                Err(Error::LimitExceeded { limit, requested: requested.into(), allowed: allowed.into() })
            }
        }
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
            // be zero. The tests run all of them checked as well, to the same results.
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
        Pipeline { name, raw, buffers_layout, bindings, slots, first_group, n_groups }
    }
}

/// The bindings of a text, and which operand is in which.
fn slots(interface: &Interface, is_shared: bool) -> (Vec<(u32, bool)>, Vec<Slot>) {
    let (mut bindings, mut slots): (Vec<(u32, bool)>, Vec<Slot>) = (Vec::new(), Vec::new());
    for operand in &interface.operands {
        let is_written = operand.is_written;
        let base = interface.base(operand);
        let is_shared = is_shared && base.is_some();
        let beside = slots.iter().find(|slot| slot.is_shared && is_shared && slot.is_written == is_written);
        let binding = beside.map_or(bindings.len(), |slot| slot.binding);
        if binding == bindings.len() {
            bindings.push((operand.binding, is_written));
        }
        slots.push(Slot { name: operand.name.clone(), is_written, binding, is_shared, base });
    }
    (bindings, slots)
}

fn layout_entry(binding: u32, ty: wgpu::BufferBindingType, has_dynamic_offset: bool) -> wgpu::BindGroupLayoutEntry {
    wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset, min_binding_size: None },
        count: None,
    }
}
