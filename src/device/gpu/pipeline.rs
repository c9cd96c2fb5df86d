//! Compiled pipelines, and the file that they are kept in.

use std::{
    collections::HashMap,
    io::Write,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::shader::Interface;
use crate::error::{Error, Result};

/// A compiled kernel. Buffers are bind group 0; bind group 1 is the parameters.
pub(crate) struct Pipeline {
    pub name: &'static str,
    /// Of the text before operands share bindings: to be found among those that are published.
    pub text: u64,
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
    /// Numbers of 32 bits in an element: 4 where the text reads vectors.
    pub words: usize,
    /// Where the uniform says at which element it begins, in bytes.
    pub base: Option<usize>,
}

/// Pipelines that are kept, and texts with a snippet of the user's among them.
const MAX_PIPELINES: usize = 256;
const MAX_SNIPPETS: usize = 16;

/// What was compiled: the last that were used.
pub(super) struct Pipelines<T = Pipeline> {
    kept: HashMap<String, Kept<T>>,
    /// Counts the uses.
    now: u64,
}

struct Kept<T> {
    pipeline: Arc<T>,
    has_snippet: bool,
    last_use: u64,
}

impl<T> Default for Pipelines<T> {
    fn default() -> Self {
        Self { kept: HashMap::new(), now: 0 }
    }
}

impl<T> Pipelines<T> {
    pub(super) fn get(&mut self, key: &str) -> Option<Arc<T>> {
        self.now += 1;
        let kept = self.kept.get_mut(key)?;
        kept.last_use = self.now;
        Some(kept.pipeline.clone())
    }

    /// What is kept, by its text.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.kept.iter().map(|(key, kept)| (&key[..], &*kept.pipeline))
    }

    /// Keeps a pipeline, and forgets the one that was not used for longest where there are too many.
    pub(super) fn insert(&mut self, key: String, pipeline: Arc<T>, has_snippet: bool) {
        self.now += 1;
        self.kept.insert(key, Kept { pipeline, has_snippet, last_use: self.now });
        if has_snippet {
            self.limit(MAX_SNIPPETS, |kept| kept.has_snippet);
        }
        self.limit(MAX_PIPELINES, |_| true);
    }

    pub(super) fn forget_snippets(&mut self) {
        self.kept.retain(|_, kept| !kept.has_snippet);
    }

    fn limit(&mut self, most: usize, counts: impl Fn(&Kept<T>) -> bool) {
        let all = || self.kept.iter().filter(|(_, kept)| counts(kept));
        if all().count() > most
            && let Some(oldest) = all().min_by_key(|(_, kept)| kept.last_use).map(|(key, _)| key.clone())
        {
            self.kept.remove(&oldest);
        }
    }
}

/// Pipelines that the driver keeps as a file.
pub(super) struct PipelineFile {
    pub cache: wgpu::PipelineCache,
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
        // Of its own, for several programs or devices may keep theirs in one folder.
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let beside = self.path.with_extension(format!("{}-{number}.part", std::process::id()));
        let write = || {
            std::fs::create_dir_all(self.path.parent().unwrap_or(&self.path))?;
            let mut file = std::fs::File::create_new(&beside)?;
            file.write_all(&data)?;
            // The contents reach the disk before the name does.
            file.sync_all()?;
            std::fs::rename(&beside, &self.path)
        };
        write().map_err(|cause| {
            // What is half written is of no use, and the first error says why.
            let _ = std::fs::remove_file(&beside);
            Error::Io { path: self.path.display().to_string(), cause }
        })
    }
}

/// The bindings of a text, and which operand is in which.
pub(super) fn slots(interface: &Interface, is_shared: bool) -> (Vec<(u32, bool)>, Vec<Slot>) {
    let (mut bindings, mut slots): (Vec<(u32, bool)>, Vec<Slot>) = (Vec::new(), Vec::new());
    let could_share = |is_written| {
        let all = interface.operands.iter().filter(|operand| operand.is_written == is_written);
        all.filter(|operand| operand.can_share(interface)).count()
    };
    for operand in &interface.operands {
        let is_written = operand.is_written;
        let base = interface.base(operand);
        // One alone shares nothing and need not be copied.
        let is_shared = is_shared && operand.can_share(interface) && could_share(is_written) > 1;
        let beside = slots.iter().find(|slot| slot.is_shared && is_shared && slot.is_written == is_written);
        let binding = beside.map_or(bindings.len(), |slot| slot.binding);
        if binding == bindings.len() {
            bindings.push((operand.binding, is_written));
        }
        slots.push(Slot { name: operand.name.clone(), is_written, binding, is_shared, words: operand.words, base });
    }
    (bindings, slots)
}

pub(super) fn layout_entry(
    binding: u32,
    ty: wgpu::BufferBindingType,
    has_dynamic_offset: bool,
) -> wgpu::BindGroupLayoutEntry {
    wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset, min_binding_size: None },
        count: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r6_few_texts_of_snippets_are_kept_and_they_are_given_back() {
        let mut pipelines = Pipelines::<usize>::default();
        pipelines.insert("ours".into(), Arc::new(0), false);
        for i in 0..400 {
            pipelines.insert(format!("snippet {i}"), Arc::new(i), true);
            assert!(pipelines.get("snippet 0").is_some(), "the last that was used");
        }
        assert_eq!(pipelines.kept.len(), 1 + MAX_SNIPPETS);
        pipelines.forget_snippets();
        assert_eq!(pipelines.kept.len(), 1);
        (0..400).for_each(|i| pipelines.insert(format!("ours {i}"), Arc::new(i), false));
        assert_eq!(pipelines.kept.len(), MAX_PIPELINES);
    }
}
