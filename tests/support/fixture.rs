//! Golden cases: inputs, parameters and outputs of the papers' own code.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use wgpu_attention::{Device, Mask, Tensor, checkpoint::Checkpoint};

use super::{Random, error};

/// One file.
#[derive(Clone)]
pub struct Fixture {
    /// The file's name.
    pub name: String,
    /// What is computed, as the file says.
    pub case: String,
    pub config: Value,
    /// Per output, how far the papers' own f32 and f64 code are apart.
    deviations: Value,
    tensors: BTreeMap<String, (Vec<usize>, Vec<f64>)>,
    /// The names of those of f32.
    singles: Vec<String>,
}

/// The folder of the golden cases.
pub fn folder() -> PathBuf {
    match std::env::var_os("WGPU_ATTENTION_FIXTURES") {
        Some(folder) => folder.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"),
    }
}

#[cfg(not(target_arch = "wasm32"))]
fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

#[cfg(target_arch = "wasm32")]
thread_local! {
    /// In a browser there are no files: they are fetched and given.
    static GIVEN: std::cell::RefCell<BTreeMap<String, Vec<u8>>> = const { std::cell::RefCell::new(BTreeMap::new()) };
}

#[cfg(target_arch = "wasm32")]
pub fn give(name: &str, bytes: Vec<u8>) {
    GIVEN.with_borrow_mut(|given| given.insert(name.to_owned(), bytes));
}

#[cfg(target_arch = "wasm32")]
fn bytes(path: &Path) -> Vec<u8> {
    let name = path.to_str().unwrap();
    GIVEN.with_borrow(|given| given.get(name).cloned()).unwrap_or_else(|| panic!("{name} was not given"))
}

impl Fixture {
    pub fn open(path: &Path) -> Self {
        let bytes = bytes(path);
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().as_ref().unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let is_single = |(name, view): (&str, safetensors::tensor::TensorView<'_>)| {
            (view.dtype() == Dtype::F32).then(|| name.to_owned())
        };
        let singles = tensors.iter().filter_map(is_single).collect();
        let tensors = tensors.iter().map(|(name, view)| {
            let data = view.data();
            let numbers: Vec<f64> = match view.dtype() {
                Dtype::F32 => data.as_chunks().0.iter().map(|&b| f64::from(f32::from_le_bytes(b))).collect(),
                Dtype::F64 => data.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b)).collect(),
                Dtype::I64 => data.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b) as f64).collect(),
                Dtype::U8 | Dtype::BOOL => data.iter().map(|&b| f64::from(b)).collect(),
                other => panic!("{name} has type {other:?}"),
            };
            (name.to_owned(), (view.shape().to_vec(), numbers))
        });
        Self {
            name: path.file_name().unwrap().to_string_lossy().into_owned(),
            case: metadata["case"].clone(),
            config: serde_json::from_str(&metadata["config"]).unwrap(),
            deviations: metadata.get("f32_vs_f64").map_or(Value::Null, |text| serde_json::from_str(text).unwrap()),
            tensors: tensors.collect(),
            singles,
        }
    }

    /// The same case with every f32 number of its inputs and parameters moved to a neighbour.
    pub fn moved(&self, seed: u64) -> Self {
        let (mut moved, mut random) = (self.clone(), Random::new(seed));
        for name in self.singles.iter().filter(|name| name.starts_with("in.") || name.starts_with("param.")) {
            let (_, numbers) = moved.tensors.get_mut(name).unwrap();
            for (x, up) in numbers.iter_mut().zip(random.booleans(self.truth(name).len(), 0.5)) {
                let single = *x as f32;
                *x = f64::from(if up { single.next_up() } else { single.next_down() });
            }
        }
        moved
    }

    pub fn shape(&self, name: &str) -> &[usize] {
        &self.tensors.get(name).unwrap_or_else(|| panic!("{} has no tensor {name}", self.name)).0
    }

    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The numbers of a tensor in the file's precision.
    pub fn truth(&self, name: &str) -> &[f64] {
        &self.tensors.get(name).unwrap_or_else(|| panic!("{} has no tensor {name}", self.name)).1
    }

    pub fn numbers(&self, name: &str) -> Vec<f32> {
        self.truth(name).iter().map(|&x| x as f32).collect()
    }

    pub fn tensor(&self, device: &Device, name: &str) -> Tensor {
        Tensor::new(device, self.shape(name), &self.numbers(name)).unwrap()
    }

    pub fn booleans(&self, name: &str) -> Vec<bool> {
        self.truth(name).iter().map(|&x| x != 0.0).collect()
    }

    pub fn mask(&self, device: &Device, name: &str) -> Mask {
        Mask::new(device, self.shape(name), &self.booleans(name)).unwrap()
    }

    /// What the papers' own f32 code reached on an output, in the project's measure; as the
    /// file records it, in absolute terms, where that code does not compute the truth at all.
    pub fn recorded(&self, output: &str) -> f64 {
        if self.has(&format!("ref64.{output}")) {
            return self.deviations[output]["max_abs"].as_f64().unwrap();
        }
        error(&self.numbers(&format!("out.{output}")), self.truth(&format!("out64.{output}")))
    }

    /// The outputs that have a float64 truth.
    pub fn outputs(&self) -> Vec<String> {
        self.tensors.keys().filter_map(|name| name.strip_prefix("out64.")).map(str::to_owned).collect()
    }

    /// All `param.*` in float64, under their upstream names.
    pub fn parameters(&self) -> BTreeMap<String, Vec<f64>> {
        let of = |(name, (_, numbers)): (&String, &(Vec<usize>, Vec<f64>))| {
            Some((name.strip_prefix("param.")?.to_owned(), numbers.clone()))
        };
        self.tensors.iter().filter_map(of).collect()
    }

    /// All `param.*`, under their upstream names.
    pub fn checkpoint(&self) -> Checkpoint {
        let mut checkpoint = Checkpoint::default();
        for (name, (shape, numbers)) in &self.tensors {
            if let Some(name) = name.strip_prefix("param.") {
                checkpoint.insert(name, shape, numbers.iter().map(|&x| x as f32).collect()).unwrap();
            }
        }
        checkpoint
    }
}
