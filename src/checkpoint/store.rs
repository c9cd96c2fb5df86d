//! Named parameters on the host.

use std::{collections::BTreeMap, fmt};

use super::fingerprint::{Fingerprint, KEY};
use crate::{
    error::{Error, Result, check_argument},
    tensor::{DType, check_f16, check_finite, check_length},
};

/// Named parameters and metadata, on the host.
///
/// ```
/// use wgpu_attention::checkpoint::Checkpoint;
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let mut checkpoint = Checkpoint::default();
/// checkpoint.insert("norm.scale", &[2], vec![1.0, 2.0])?;
/// checkpoint.set_metadata("model", "mine");
/// let read = Checkpoint::from_bytes(&checkpoint.to_bytes()?)?; // or `save` and `open`
/// assert_eq!(read.shape("norm.scale"), Some(&[2][..]));
/// assert_eq!((read.metadata("model")?, read.fingerprint()), ("mine", checkpoint.fingerprint()));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Checkpoint {
    pub(super) file: String,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) parameters: BTreeMap<String, Parameter>,
    /// What a file holds beside them that no parameter can be: it matters to who asks for it.
    pub(super) unusable: BTreeMap<String, Unusable>,
}

#[derive(Clone)]
pub(super) struct Parameter {
    pub shape: Vec<usize>,
    pub data: Vec<f32>,
    /// What a file holds, or is to hold, the numbers as: they have it exactly.
    pub dtype: DType,
}

/// Why an entry of a file is no parameter.
#[derive(Clone)]
pub(super) enum Unusable {
    /// Its type.
    Type(String),
    /// Its first number that is not finite.
    NonFinite { index: usize, value: f32 },
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Type(found) => write!(f, "has type {found}, allowed are F32, F64, F16 and BF16"),
            Self::NonFinite { index, value } => write!(f, "number {index} is {value}"),
        }
    }
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self {
            file: "<memory>".to_owned(),
            metadata: BTreeMap::new(),
            parameters: BTreeMap::new(),
            unusable: BTreeMap::new(),
        }
    }
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint")
            .field("file", &self.file)
            .field("metadata", &self.metadata_keys())
            .field("n_tensors", &self.parameters.len())
            .field("n_parameters", &self.n_parameters())
            .finish()
    }
}

impl Checkpoint {
    /// Where the parameters were read from; `<memory>` if not from a file. Errors name it.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Adds a parameter, or replaces the one of that name.
    ///
    /// # Errors
    /// `data` does not fill the shape, or holds a number that is not finite; the name `__metadata__`, which the
    /// format has for itself.
    pub fn insert(&mut self, name: &str, shape: &[usize], data: Vec<f32>) -> Result<()> {
        check_name("Checkpoint::insert", name)?;
        check_length(shape, data.len())?;
        check_finite(&format!("parameter {name}"), &data)?;
        self.unusable.remove(name);
        self.parameters.insert(name.to_owned(), Parameter { shape: shape.to_vec(), data, dtype: DType::F32 });
        Ok(())
    }

    /// Rounds a parameter to f16, as which a file then holds it, in half of the bytes; and so does a device, if
    /// it is the weight of a dense layer.
    ///
    /// # Errors
    /// There is none of that name; a number beyond 65,504.
    ///
    /// ```
    /// use wgpu_attention::checkpoint::Checkpoint;
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let mut checkpoint = Checkpoint::default();
    /// checkpoint.insert("fc.weight", &[1, 2], vec![0.1, 2.0])?;
    /// checkpoint.to_f16("fc.weight")?;
    /// assert_eq!(checkpoint.get("fc.weight"), Some((&[1, 2][..], &[0.099975586, 2.0][..])));
    /// # Ok(())
    /// # }
    /// ```
    pub fn to_f16(&mut self, name: &str) -> Result<()> {
        let Some(parameter) = self.parameters.get_mut(name) else {
            return Err(Error::argument("Checkpoint::to_f16", "name", format_args!("{name:?}"), "that of a parameter"));
        };
        check_f16("Checkpoint::to_f16", &parameter.data)?;
        parameter.data.iter_mut().for_each(|x| *x = half::f16::from_f32(*x).to_f32());
        parameter.dtype = DType::F16;
        Ok(())
    }

    /// The shape of a parameter, if it is there.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.parameters.get(name).map(|parameter| &parameter.shape[..])
    }

    /// The shape and the numbers of a parameter, row-major, if it is there.
    pub fn get(&self, name: &str) -> Option<(&[usize], &[f32])> {
        self.parameters.get(name).map(|parameter| (&parameter.shape[..], &parameter.data[..]))
    }

    /// Takes a parameter out: its shape and its numbers, if it was there.
    pub fn remove(&mut self, name: &str) -> Option<(Vec<usize>, Vec<f32>)> {
        self.unusable.remove(name);
        self.parameters.remove(name).map(|parameter| (parameter.shape, parameter.data))
    }

    /// Gives every parameter the name that `to` makes of its own, those that no model can use (integers, say) too.
    ///
    /// # Errors
    /// Two parameters would have one name; none has another then.
    ///
    /// ```
    /// use wgpu_attention::checkpoint::Checkpoint;
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let mut checkpoint = Checkpoint::default();
    /// checkpoint.insert("module.norm/scale", &[1], vec![1.0])?;
    /// checkpoint.rename(|name| name.trim_start_matches("module.").replace('/', "."))?;
    /// assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["norm.scale"]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn rename(&mut self, to: impl Fn(&str) -> String) -> Result<()> {
        let mut names = BTreeMap::new();
        for name in self.parameters.keys().chain(self.unusable.keys()) {
            check_name("Checkpoint::rename", &to(name))?;
            if let Some(other) = names.insert(to(name), name) {
                let found = format!("{:?} of both {other:?} and {name:?}", to(name));
                return Err(Error::argument("Checkpoint::rename", "the new name", found, "a name for each"));
            }
        }
        fn renamed<T>(map: &mut BTreeMap<String, T>, to: impl Fn(&str) -> String) {
            *map = std::mem::take(map).into_iter().map(|(name, entry)| (to(&name), entry)).collect();
        }
        renamed(&mut self.parameters, &to);
        renamed(&mut self.unusable, &to);
        Ok(())
    }

    /// The names of the parameters, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.parameters.keys().map(String::as_str)
    }

    /// What the file holds beside them that no parameter can be, sorted by name, and why.
    pub fn unusable(&self) -> impl Iterator<Item = (&str, String)> {
        self.unusable.iter().map(|(name, why)| (name.as_str(), why.to_string()))
    }

    /// How many numbers all parameters hold.
    pub fn n_parameters(&self) -> usize {
        self.parameters.values().map(|parameter| parameter.data.len()).sum()
    }

    /// A number that says whether parameters are the same (FNV-1a over names, shapes and bits, one after the other):
    /// of others it is another, but by a rare chance. The same on every platform.
    pub fn fingerprint(&self) -> u64 {
        self.of_parameters().0
    }

    fn of_parameters(&self) -> Fingerprint {
        let mut fingerprint = Fingerprint::default();
        for (name, parameter) in &self.parameters {
            fingerprint.add(name.as_bytes());
            parameter.shape.iter().for_each(|&d| fingerprint.add(&(d as u64).to_le_bytes()));
            parameter.data.iter().for_each(|x| fingerprint.add(&x.to_le_bytes()));
        }
        fingerprint
    }

    /// That of the metadata too: what a file says of itself.
    pub(super) fn of_contents(&self) -> u64 {
        let mut fingerprint = self.of_parameters();
        let metadata = self.metadata.iter().filter(|(key, _)| *key != KEY);
        for text in metadata.flat_map(|(key, value)| [key, value]) {
            fingerprint.add(text.as_bytes());
            fingerprint.add(&[0]);
        }
        fingerprint.0
    }

    /// Adds a value to the metadata, or replaces the one of that key.
    pub fn set_metadata(&mut self, key: &str, value: impl Into<String>) {
        self.metadata.insert(key.to_owned(), value.into());
    }

    /// The keys of the metadata, sorted.
    pub fn metadata_keys(&self) -> Vec<&str> {
        self.metadata.keys().map(String::as_str).collect()
    }

    /// A value of the metadata.
    ///
    /// # Errors
    /// There is none of that key.
    pub fn metadata(&self, key: &str) -> Result<&str> {
        self.metadata.get(key).map(String::as_str).ok_or_else(|| Error::Metadata {
            file: self.file.clone(),
            key: key.to_owned(),
            present: self.metadata_keys().into_iter().map(str::to_owned).collect(),
        })
    }
}

fn check_name(op: &'static str, name: &str) -> Result<()> {
    check_argument(
        name != "__metadata__",
        op,
        "name",
        format_args!("{name:?}"),
        "another: the format has it for itself",
    )
}
