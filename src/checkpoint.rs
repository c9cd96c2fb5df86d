//! Trained parameters from safetensors files, by name, with errors that name them.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap},
    io::Write,
    path::Path,
};

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::{
    Device,
    error::{Error, Result},
    tensor::{Tensor, check_finite, n_elements},
};

/// The largest file that is read: a model of a billion parameters.
pub const MAX_BYTES: u64 = 4 << 30;

/// Named parameters and metadata, on the host.
#[derive(Clone, Debug, Default)]
pub struct Checkpoint {
    file: String,
    metadata: HashMap<String, String>,
    parameters: BTreeMap<String, Parameter>,
}

#[derive(Clone, Debug)]
struct Parameter {
    shape: Vec<usize>,
    data: Vec<f32>,
}

impl Checkpoint {
    /// Reads a safetensors file. Numbers of type F64, F16 and BF16 are converted to F32.
    ///
    /// # Errors
    /// The file cannot be read, is larger than [`MAX_BYTES`], is truncated or otherwise not
    /// safetensors, or holds a tensor of another type or a number that is not finite.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let io = |source| Error::Io { path: path.display().to_string(), source };
        let metadata = std::fs::metadata(path).map_err(io)?;
        let size = metadata.len();
        if !metadata.is_file() {
            let message = "not a regular file".to_owned();
            return Err(Error::Checkpoint { file: path.display().to_string(), message });
        }
        if size > MAX_BYTES {
            return Err(Error::LimitExceeded {
                limit: "checkpoint size in bytes",
                requested: size,
                allowed: MAX_BYTES,
            });
        }
        Self::parse(&std::fs::read(path).map_err(io)?, &path.display().to_string())
    }

    /// Reads a safetensors file that is in memory already.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        Self::parse(bytes, "<memory>")
    }

    fn parse(bytes: &[u8], file: &str) -> Result<Self> {
        let refused = |message: String| Error::Checkpoint { file: file.to_owned(), message };
        // Checks lengths, offsets and overlaps before anything is copied.
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| refused(error.to_string()))?;
        let tensors = SafeTensors::deserialize(bytes).map_err(|error| refused(error.to_string()))?;
        let mut checkpoint =
            Self { file: file.to_owned(), metadata: header.metadata().clone().unwrap_or_default(), ..Self::default() };
        for (name, view) in tensors.iter() {
            let data = numbers(&view)
                .ok_or_else(|| refused(format!("parameter {name} has type {:?}, not a float", view.dtype())))?;
            checkpoint.insert(name, view.shape(), data)?;
        }
        Ok(checkpoint)
    }

    /// Adds a parameter, or replaces the one of that name.
    ///
    /// # Errors
    /// `data` does not fill the shape, or holds a number that is not finite.
    pub fn insert(&mut self, name: &str, shape: &[usize], data: Vec<f32>) -> Result<()> {
        let expected = n_elements(shape);
        if data.len() != expected {
            return Err(Error::Length { shape: shape.to_vec(), expected, found: data.len() });
        }
        check_finite(&format!("parameter {name}"), &data)?;
        self.parameters.insert(name.to_owned(), Parameter { shape: shape.to_vec(), data });
        Ok(())
    }

    /// Random parameters for whatever `build` asks for, of a size that keeps what passes
    /// through them of about the size it was: for measurements and tests. The same seed gives
    /// the same numbers everywhere.
    ///
    /// # Errors
    /// What `build` refuses beside parameters that are missing.
    pub fn random<T>(seed: u64, build: impl Fn(&Self) -> Result<T>) -> Result<Self> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut uniform = || (random.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0;
        let mut checkpoint = Self::default();
        loop {
            let (name, shape) = match build(&checkpoint) {
                Ok(_) => return Ok(checkpoint),
                Err(Error::MissingParameter { name, expected }) => (name, expected),
                Err(other) => return Err(other),
            };
            if n_elements(&shape) as u64 > MAX_BYTES / 4 {
                let requested = 4 * n_elements(&shape) as u64;
                return Err(Error::LimitExceeded { limit: "bytes of one parameter", requested, allowed: MAX_BYTES });
            }
            let numbers = std::iter::repeat_with(&mut uniform).take(n_elements(&shape));
            let numbers: Vec<f32> = match shape.as_slice() {
                // Random features: rows of the papers' length.
                _ if name.ends_with("qk_orf") => numbers.map(|x| 3.0f32.sqrt() * x).collect(),
                [.., n, m] => numbers.map(|x| x * (6.0 / (n + m) as f32).sqrt()).collect(),
                _ if name.ends_with("scale") => numbers.map(|x| 1.0 + 0.1 * x).collect(),
                _ => numbers.map(|x| 0.1 * x).collect(),
            };
            checkpoint.insert(&name, &shape, numbers)?;
        }
    }

    /// Adds a value to the metadata, or replaces the one of that key.
    pub fn set_metadata(&mut self, key: &str, value: impl Into<String>) {
        self.metadata.insert(key.to_owned(), value.into());
    }

    /// A safetensors file of the parameters and metadata.
    ///
    /// # Errors
    /// Names or sizes that the format cannot hold.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let refused = |error: safetensors::SafeTensorError| Error::Checkpoint {
            file: self.file.clone(),
            message: error.to_string(),
        };
        let bytes: Vec<(&String, Vec<u8>)> = self
            .parameters
            .iter()
            .map(|(name, parameter)| (name, parameter.data.iter().flat_map(|x| x.to_le_bytes()).collect()))
            .collect();
        let views = bytes.iter().map(|(name, bytes)| {
            let view = TensorView::new(Dtype::F32, self.parameters[*name].shape.clone(), bytes).map_err(refused)?;
            Ok((name.as_str(), view))
        });
        let views = views.collect::<Result<Vec<_>>>()?;
        let metadata = Some(self.metadata.clone()).filter(|metadata| !metadata.is_empty());
        safetensors::serialize(views, metadata).map_err(refused)
    }

    /// Writes [`Checkpoint::to_bytes`] to a file, which is replaced whole or not at all, by way
    /// of a file `.part` beside it. One writer at a time.
    ///
    /// # Errors
    /// As [`Checkpoint::to_bytes`]; more than [`MAX_BYTES`], which could not be read again; the
    /// file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let bytes = self.to_bytes()?;
        if bytes.len() as u64 > MAX_BYTES {
            let requested = bytes.len() as u64;
            return Err(Error::LimitExceeded { limit: "checkpoint size in bytes", requested, allowed: MAX_BYTES });
        }
        let mut beside = path.as_os_str().to_owned();
        beside.push(".part");
        let write = || {
            let mut file = std::fs::File::create(&beside)?;
            file.write_all(&bytes)?;
            // The contents reach the disk before the name does.
            file.sync_all()?;
            std::fs::rename(&beside, path)
        };
        write().map_err(|source| {
            // What is half written is of no use, and the first error says why.
            let _ = std::fs::remove_file(&beside);
            Error::Io { path: path.display().to_string(), source }
        })
    }

    /// A number that differs between parameters that differ (FNV-1a over names, shapes and
    /// bits), the same on every platform.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        let mut add = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        for (name, parameter) in &self.parameters {
            name.bytes().for_each(&mut add);
            parameter.shape.iter().flat_map(|&d| (d as u64).to_le_bytes()).for_each(&mut add);
            parameter.data.iter().flat_map(|x| x.to_le_bytes()).for_each(&mut add);
        }
        hash
    }

    /// A value of the file's metadata.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn metadata(&self, key: &str) -> Result<&str> {
        self.metadata.get(key).map(String::as_str).ok_or_else(|| Error::Checkpoint {
            file: self.file.clone(),
            message: format!("the metadata has no {key:?}; it has {:?}", self.metadata.keys().collect::<Vec<_>>()),
        })
    }

    /// The names of the parameters, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.parameters.keys().map(String::as_str)
    }

    /// How many numbers all parameters hold.
    pub fn n_parameters(&self) -> usize {
        self.parameters.values().map(|parameter| parameter.data.len()).sum()
    }

    /// Loads onto a device what `build` asks for.
    ///
    /// # Errors
    /// What `build` returns, or [`Error::ExtraParameters`] if it leaves some unused.
    pub fn load<T>(&self, device: &Device, build: impl FnOnce(&Parameters<'_>) -> Result<T>) -> Result<T> {
        let used = RefCell::default();
        let built = build(&Parameters { checkpoint: self, device, used: &used, prefix: String::new() })?;
        let used = used.into_inner();
        let names: Vec<String> = self.parameters.keys().filter(|name| !used.contains(*name)).cloned().collect();
        if names.is_empty() { Ok(built) } else { Err(Error::ExtraParameters { names }) }
    }
}

/// A view on a checkpoint while a model is built, below some prefix.
pub struct Parameters<'a> {
    checkpoint: &'a Checkpoint,
    device: &'a Device,
    used: &'a RefCell<BTreeSet<String>>,
    prefix: String,
}

impl<'a> Parameters<'a> {
    /// The parameters of a part: `name.` is put before every name.
    pub fn scope(&self, name: impl std::fmt::Display) -> Parameters<'a> {
        Parameters { prefix: format!("{}{name}.", self.prefix), ..*self }
    }

    /// The parameters of the same part in another of flax's collections, whose name comes
    /// first: `projections.KRBlock_0.attn.` for `KRBlock_0.attn.`.
    pub fn collection(&self, name: &str) -> Parameters<'a> {
        Parameters { prefix: format!("{name}.{}", self.prefix), ..*self }
    }

    /// The device that parameters are loaded to.
    pub fn device(&self) -> &Device {
        self.device
    }

    /// A parameter on the device.
    ///
    /// # Errors
    /// It is missing or has another shape.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        Tensor::new(self.device, shape, self.numbers(name, shape)?)
    }

    /// A parameter on the host.
    ///
    /// # Errors
    /// It is missing or has another shape.
    pub fn numbers(&self, name: &str, shape: &[usize]) -> Result<&'a [f32]> {
        let name = format!("{}{name}", self.prefix);
        match self.checkpoint.parameters.get(&name) {
            None => Err(Error::MissingParameter { name, expected: shape.to_vec() }),
            Some(parameter) if parameter.shape != shape => {
                Err(Error::ParameterShape { name, expected: shape.to_vec(), found: parameter.shape.clone() })
            }
            Some(parameter) => {
                self.used.borrow_mut().insert(name);
                Ok(&parameter.data)
            }
        }
    }
}

/// The numbers of a tensor as f32; `None` for a type that is not a float.
fn numbers(view: &TensorView<'_>) -> Option<Vec<f32>> {
    // The data need not be aligned, so it is read number by number.
    fn collect<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f32) -> Vec<f32> {
        bytes.as_chunks::<N>().0.iter().map(|&bytes| number(bytes)).collect()
    }
    let bytes = view.data();
    match view.dtype() {
        Dtype::F32 => Some(collect(bytes, f32::from_le_bytes)),
        Dtype::F64 => Some(collect(bytes, |bytes| f64::from_le_bytes(bytes) as f32)),
        Dtype::F16 => Some(collect(bytes, |bytes| half::f16::from_le_bytes(bytes).to_f32())),
        Dtype::BF16 => Some(collect(bytes, |bytes| half::bf16::from_le_bytes(bytes).to_f32())),
        _ => None,
    }
}
