//! The safetensors format.

use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
};

use safetensors::{Dtype, SafeTensorError, SafeTensors, tensor::TensorView};

use super::{
    fingerprint::KEY,
    store::{Checkpoint, Parameter, Unusable},
};
use crate::{
    error::{Error, Result},
    host,
    tensor::DType,
};

/// The largest file that is read: a model of a billion parameters.
pub const MAX_BYTES: u64 = 4 << 30;

/// By how much a file's header may be larger than the data that it describes: tens of thousands of
/// tensors of one number.
pub const MAX_HEADER: u64 = 4 << 20;

/// The longest header that `safetensors` reads.
const READ_HEADER: u64 = 100_000_000;

impl Checkpoint {
    /// Reads a safetensors file. Numbers of type F64, F16 and BF16 are converted to F32; weights that are F16
    /// in the file are so on the device, too, see [`Parameters::weight`](super::Parameters::weight).
    ///
    /// Entries of another type (counters of integers) or with a number that is not finite (buffers of
    /// masks) are no parameters: they are left out, and an error only where a model asks for one.
    ///
    /// # Errors
    /// The file cannot be read, is larger than [`MAX_BYTES`], is truncated or otherwise not
    /// safetensors; its header is larger than its data need; it says what its contents' fingerprint
    /// is, as every file that this crate writes does, and they have another.
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
    /// not looked at, and so neither is the fingerprint of the whole.
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
        let io = |cause| Error::Io { path: path.display().to_string(), cause };
        let metadata = std::fs::metadata(path).map_err(io)?;
        let size = metadata.len();
        if !metadata.is_file() {
            return Err(not_a_file(path));
        }
        check_size(path, size)?;
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

    /// A safetensors file of the parameters and metadata, with their fingerprint beside them. Equal
    /// contents give equal files, bit for bit. What a file held beside its parameters, counters of integers
    /// say, is not in it.
    ///
    /// # Errors
    /// Names or sizes that the format cannot hold; so many names or metadata that the file would not be
    /// [read](Checkpoint::open); there is no room.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let refused = |error: safetensors::SafeTensorError| Error::Checkpoint {
            file: self.file.clone(),
            message: error.to_string(),
        };
        let bytes = self.parameters.iter().map(|(name, Parameter { data, dtype, .. })| {
            let bytes = match dtype {
                DType::F16 => {
                    host::collect(2 * data.len(), data.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()))
                }
                DType::F32 => host::collect(4 * data.len(), data.iter().flat_map(|x| x.to_le_bytes())),
            };
            Ok((name, bytes?))
        });
        let bytes = bytes.collect::<Result<Vec<_>>>()?;
        let views = bytes.iter().map(|(name, bytes)| {
            let Parameter { shape, dtype, .. } = &self.parameters[*name];
            let dtype = if *dtype == DType::F16 { Dtype::F16 } else { Dtype::F32 };
            let view = TensorView::new(dtype, shape.clone(), bytes).map_err(refused)?;
            Ok((name.as_str(), view))
        });
        let views = views.collect::<Result<Vec<_>>>()?;
        let bytes = safetensors::serialize(views, None).map_err(refused)?;
        let bytes = with_metadata(&bytes, &self.described());
        // What would not be read again is not written.
        match header_too_long(&bytes) {
            Some(message) => Err(Error::Checkpoint { file: self.file.clone(), message }),
            None => Ok(bytes),
        }
    }

    /// The metadata, with the fingerprint of all else.
    fn described(&self) -> BTreeMap<&str, String> {
        let metadata = self.metadata.iter().map(|(key, value)| (key.as_str(), value.clone()));
        metadata.chain([(KEY, format!("{:016x}", self.of_contents()))]).collect()
    }

    /// Writes [`Checkpoint::to_bytes`] to a file, which is replaced whole or not at all, by way
    /// of a file `.part` beside it, which is written over. Of a link, where it leads. One writer at a time.
    ///
    /// # Errors
    /// As [`Checkpoint::to_bytes`]; more than [`MAX_BYTES`], which could not be read again; the
    /// file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let bytes = self.to_bytes()?;
        check_size(path, bytes.len() as u64)?;
        let target = path.canonicalize().unwrap_or_else(|_| match path.read_link() {
            // One that leads nowhere yet: what is made goes where it leads.
            Ok(target) => path.parent().unwrap_or(Path::new("")).join(target),
            Err(_) => path.to_owned(),
        });
        // A device, say, that would be one no more.
        if target.metadata().is_ok_and(|there| !there.is_file()) {
            return Err(not_a_file(path));
        }
        let mut beside = target.clone().into_os_string();
        beside.push(".part");
        let beside = PathBuf::from(beside);
        let io = |path: &Path| {
            let path = path.display().to_string();
            move |cause| Error::Io { path, cause }
        };
        // What a kill has left, and if it is a link, not where it leads.
        if beside.symlink_metadata().is_ok() {
            std::fs::remove_file(&beside).map_err(io(&beside))?;
        }
        let mut file = std::fs::File::create_new(&beside).map_err(io(&beside))?;
        // The contents reach the disk before the name does.
        let written = file.write_all(&bytes).and_then(|()| file.sync_all());
        written.and_then(|()| std::fs::rename(&beside, &target)).map_err(|cause| {
            // What is half written is of no use, and the first error says why.
            let _ = std::fs::remove_file(&beside);
            io(path)(cause)
        })
    }
}

fn not_a_file(path: &Path) -> Error {
    Error::Checkpoint { file: path.display().to_string(), message: "not a regular file".to_owned() }
}

fn check_size(path: &Path, size: u64) -> Result<()> {
    let message = || format!("it has {size} bytes, allowed is {MAX_BYTES}");
    let refused = || Error::Checkpoint { file: path.display().to_string(), message: message() };
    if size > MAX_BYTES { Err(refused()) } else { Ok(()) }
}

/// The same file with metadata, sorted: `safetensors` writes them in an order that differs from run to
/// run.
fn with_metadata(bytes: &[u8], metadata: &BTreeMap<&str, String>) -> Vec<u8> {
    let (_, rest) = bytes.split_at(LENGTH);
    let (header, data) = rest.split_at(header_length(bytes).unwrap_or(0));
    let header = String::from_utf8_lossy(header);
    let tensors = header.trim().trim_start_matches('{');
    let comma = if tensors.starts_with('"') { "," } else { "" };
    let mut header = format!("{{\"__metadata__\":{}{comma}{tensors}", serde_json::json!(metadata));
    // Data begin at a multiple of 8.
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// Bytes that say how long the header is.
const LENGTH: usize = size_of::<u64>();

fn header_length(bytes: &[u8]) -> Option<usize> {
    usize::try_from(u64::from_le_bytes(*bytes.first_chunk()?)).ok()
}

/// Says so of a header that is longer than the data allow, or than `safetensors` reads.
fn header_too_long(bytes: &[u8]) -> Option<String> {
    let length = header_length(bytes)?;
    let data = bytes.len().checked_sub(LENGTH.saturating_add(length))?;
    let allowed = (MAX_HEADER + data as u64).min(READ_HEADER);
    let is_longer = length as u64 > allowed;
    is_longer.then(|| format!("its header has {length} bytes, allowed for {data} of data is {allowed}"))
}

fn parse(bytes: &[u8], file: String, keep: impl Fn(&str) -> bool) -> Result<Checkpoint> {
    let refused = |message: String| Error::Checkpoint { file: file.clone(), message };
    let unread = |message: &dyn std::fmt::Display| refused(format!("{message}{}", other_format(bytes)));
    if let Some(message) = header_too_long(bytes) {
        return Err(unread(&message));
    }
    // Checks lengths, offsets and overlaps before anything is copied.
    let (length, header) = SafeTensors::read_metadata(bytes).map_err(|error| match error {
        SafeTensorError::MetadataIncompleteBuffer | SafeTensorError::InvalidHeaderLength => {
            unread(&format_args!("{error}: it has {} bytes; is it cut short, or are others behind it?", bytes.len()))
        }
        error => unread(&error),
    })?;
    let data = &bytes[LENGTH + length..];
    let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
    let mut checkpoint = Checkpoint { file: file.clone(), metadata, ..Checkpoint::default() };
    let written = checkpoint.metadata.remove(KEY);
    let mut is_whole = true;
    for (name, info) in header.tensors() {
        if !keep(&name) {
            is_whole = false;
            continue;
        }
        let (start, end) = info.data_offsets;
        let Some(data) = numbers(info.dtype, &data[start..end])? else {
            checkpoint.unusable.insert(name, Unusable::Type(format!("{:?}", info.dtype)));
            continue;
        };
        if let Some(index) = data.iter().position(|x| !x.is_finite()) {
            checkpoint.unusable.insert(name, Unusable::NonFinite { index, value: data[index] });
        } else {
            let dtype = if info.dtype == Dtype::F16 { DType::F16 } else { DType::F32 };
            checkpoint.parameters.insert(name, Parameter { shape: info.shape.clone(), data, dtype });
        }
    }
    let found = written.as_ref().filter(|_| is_whole).map(|_| format!("{:016x}", checkpoint.of_contents()));
    match (written, found) {
        (Some(written), Some(found)) if written != found => Err(refused(format!(
            "its contents are not those that were saved: their fingerprint is {found}, saved as {written:?}; if they were \
             changed on purpose, take the fingerprint out of the metadata"
        ))),
        _ => Ok(checkpoint),
    }
}

/// What bytes that are no safetensors may be instead.
fn other_format(bytes: &[u8]) -> String {
    const SAVE: &str = "; save its tensors with Python's safetensors";
    let text = std::str::from_utf8(&bytes[..bytes.len().min(512)]);
    // A character may be cut.
    let is_text = text.as_ref().map_or_else(|error| error.error_len().is_none(), |_| true)
        && !bytes.iter().take(512).any(|byte| byte.is_ascii_control() && !byte.is_ascii_whitespace());
    let start = String::from_utf8_lossy(&bytes[..bytes.len().min(512)]).trim_start().to_ascii_lowercase();
    let (what, help) = match bytes {
        [] => ("an empty file", ""),
        [b'P', b'K', 3, 4, ..] => ("a zip archive, as .pt, .pth and .npz files are", SAVE),
        [0x80, 2..=5, ..] => ("a Python pickle, as older .pt files are", SAVE),
        [0x93, b'N', b'U', b'M', b'P', b'Y', ..] => ("an array of NumPy, as .npy files are", SAVE),
        [0x89, b'H', b'D', b'F', ..] => ("an HDF5 file", SAVE),
        [b'G', b'G', b'U', b'F', ..] => ("a GGUF file", SAVE),
        [0x1f, 0x8b, ..] => ("compressed with gzip", "; decompress it first"),
        _ if start.starts_with("version https://git-lfs") => {
            ("a pointer of git-LFS, not the file itself", "; fetch it with `git lfs pull`")
        }
        _ if start.starts_with("<!doctype html") || start.starts_with("<html") => {
            ("an HTML page", "; its address was that of a page about the file, not of the file")
        }
        _ if is_text => ("text", ""),
        _ => return String::new(),
    };
    format!(". It is {what}{help}")
}

/// The numbers of a tensor as f32; `None` for a type that is not a float.
fn numbers(dtype: Dtype, bytes: &[u8]) -> Result<Option<Vec<f32>>> {
    // The data need not be aligned, so it is read number by number.
    fn collect<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f32) -> Result<Vec<f32>> {
        let numbers = bytes.as_chunks::<N>().0;
        host::collect(numbers.len(), numbers.iter().map(|&bytes| number(bytes)))
    }
    match dtype {
        Dtype::F32 => collect(bytes, f32::from_le_bytes).map(Some),
        Dtype::F64 => collect(bytes, |bytes| f64::from_le_bytes(bytes) as f32).map(Some),
        Dtype::F16 => collect(bytes, |bytes| half::f16::from_le_bytes(bytes).to_f32()).map(Some),
        Dtype::BF16 => collect(bytes, |bytes| half::bf16::from_le_bytes(bytes).to_f32()).map(Some),
        _ => Ok(None),
    }
}
