//! The safetensors format.

use std::{io::Write, path::Path};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use super::store::Checkpoint;
use crate::error::{Error, Result, check_limit};

/// The largest file that is read: a model of a billion parameters.
pub const MAX_BYTES: u64 = 4 << 30;

impl Checkpoint {
    /// Reads a safetensors file. Numbers of type F64, F16 and BF16 are converted to F32.
    ///
    /// # Errors
    /// The file cannot be read, is larger than [`MAX_BYTES`], is truncated or otherwise not
    /// safetensors, or holds a tensor of another type or a number that is not finite.
    ///
    /// ```
    /// use wgpu_attention::checkpoint::Checkpoint;
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let checkpoint = Checkpoint::open("checkpoints/gp_1d.safetensors")?;
    /// assert_eq!(checkpoint.metadata("model")?, "tnp_kr");
    /// assert_eq!(checkpoint.n_parameters(), 475_770);
    /// # Ok(())
    /// # }
    /// ```
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_where(path, |_| true)
    }

    /// [`Checkpoint::open`] of the parameters that `keep` wants by their name. What the others hold is
    /// not looked at: counters of type I64, say, that no model here reads.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    ///
    /// ```
    /// use wgpu_attention::checkpoint::Checkpoint;
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let checkpoint = Checkpoint::open_where("checkpoints/gp_1d.safetensors", |name| name.starts_with("head."))?;
    /// assert!(checkpoint.names().all(|name| name.starts_with("head.")));
    /// # Ok(())
    /// # }
    /// ```
    pub fn open_where(path: impl AsRef<Path>, keep: impl Fn(&str) -> bool) -> Result<Self> {
        let path = path.as_ref();
        let io = |source| Error::Io { path: path.display().to_string(), source };
        let metadata = std::fs::metadata(path).map_err(io)?;
        let size = metadata.len();
        if !metadata.is_file() {
            let message = "not a regular file".to_owned();
            return Err(Error::Checkpoint { file: path.display().to_string(), message });
        }
        check_size(size)?;
        parse(&std::fs::read(path).map_err(io)?, path.display().to_string(), keep)
    }

    /// Reads a safetensors file that is in memory already.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        Self::from_bytes_where(bytes, |_| true)
    }

    /// [`Checkpoint::open_where`] of a file that is in memory already.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_bytes_where(bytes: &[u8], keep: impl Fn(&str) -> bool) -> Result<Self> {
        parse(bytes, Self::default().file, keep)
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
        check_size(bytes.len() as u64)?;
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
}

fn check_size(requested: u64) -> Result<()> {
    check_limit("checkpoint size in bytes", requested, MAX_BYTES)
}

fn parse(bytes: &[u8], file: String, keep: impl Fn(&str) -> bool) -> Result<Checkpoint> {
    let refused = |message: String| Error::Checkpoint { file: file.clone(), message };
    let unread = |error: safetensors::SafeTensorError| refused(format!("{error}{}", other_format(bytes)));
    // Checks lengths, offsets and overlaps before anything is copied.
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(unread)?;
    let tensors = SafeTensors::deserialize(bytes).map_err(unread)?;
    let mut checkpoint = Checkpoint {
        file: file.clone(),
        metadata: header.metadata().clone().unwrap_or_default(),
        ..Checkpoint::default()
    };
    for (name, view) in tensors.iter().filter(|(name, _)| keep(name)) {
        let data = numbers(&view).ok_or_else(|| {
            refused(format!(
                "parameter {name} has type {:?}, allowed are F32, F64, F16 and BF16; Checkpoint::open_where can leave it \
                 out",
                view.dtype()
            ))
        })?;
        checkpoint.insert(name, view.shape(), data).map_err(|error| match error {
            Error::NonFinite { name, index, value } => {
                Error::NonFinite { name: format!("{file}: {name}"), index, value }
            }
            other => other,
        })?;
    }
    Ok(checkpoint)
}

/// What bytes that are no safetensors may be instead.
fn other_format(bytes: &[u8]) -> &'static str {
    match bytes {
        [b'P', b'K', 3, 4, ..] => {
            ". It is a zip archive, as .pt, .pth and .npz files are; save its tensors with Python's safetensors"
        }
        [0x80, 2..=5, ..] => {
            ". It is a Python pickle, as older .pt files are; save its tensors with Python's safetensors"
        }
        _ => "",
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
