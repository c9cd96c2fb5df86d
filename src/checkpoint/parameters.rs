//! Parameters as a model asks for them, each by its name and shape.

use std::{
    cell::RefCell,
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use super::store::{Checkpoint, Parameter, Unusable};
use crate::{
    device::Device,
    error::{Error, Result},
    tensor::{DType, Tensor, n_elements},
};

/// How many names an error suggests.
const N_SIMILAR: usize = 3;

/// How many names an error tells that are missing beside the first.
const N_OTHERS: usize = 3;

/// Of a network of more numbers than this, one name will do.
const MOST_FOR_OTHERS: usize = 1 << 26;

impl Checkpoint {
    /// Loads onto a device what `build` asks for.
    ///
    /// # Errors
    /// What `build` returns, or [`Error::ExtraParameters`] if it leaves some unused.
    pub fn load<T>(&self, device: &Device, build: impl Fn(&Parameters<'_>) -> Result<T>) -> Result<T> {
        let used = RefCell::default();
        let parameters = Parameters { checkpoint: self, device, used: &used, prefix: String::new() };
        let built = build(&parameters).map_err(|error| self.with_others(error, &build))?;
        let used = used.into_inner();
        let names: Vec<String> = self.parameters.keys().filter(|name| !used.contains(*name)).cloned().collect();
        if names.is_empty() { Ok(built) } else { Err(Error::ExtraParameters { file: self.file.clone(), names }) }
    }
}

impl Checkpoint {
    /// Adds to a parameter that a file lacks some others that it lacks, too: what `build` asks for with
    /// zeros in the place of each.
    fn with_others<T>(&self, mut error: Error, build: impl Fn(&Parameters<'_>) -> Result<T>) -> Error {
        let Error::MissingParameter { name, expected, others, .. } = &mut error else { return error };
        // Parameters in memory are still being made, one after the other.
        if self.file == Self::default().file || self.n_parameters() > MOST_FOR_OTHERS {
            return error;
        }
        let mut found = Vec::new();
        let (mut patched, device) = (self.clone(), Device::cpu());
        let (mut name, mut shape) = (name.clone(), expected.clone());
        while found.len() < N_OTHERS {
            let n = n_elements(&shape);
            if n > MOST_FOR_OTHERS || patched.insert(&name, &shape, vec![0.0; n]).is_err() {
                break;
            }
            let used = RefCell::default();
            let parameters = Parameters { checkpoint: &patched, device: &device, used: &used, prefix: String::new() };
            match build(&parameters) {
                Err(Error::MissingParameter { name: next, expected, .. }) => {
                    found.push(next.clone());
                    (name, shape) = (next, expected);
                }
                _ => break,
            }
        }
        *others = found.into();
        error
    }
}

/// A view on a checkpoint while a model is built, below some prefix.
///
/// ```
/// use wgpu_attention::{Device, Error, checkpoint::Checkpoint, ops::Linear};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let mut checkpoint = Checkpoint::default();
/// checkpoint.insert("encoder.fc.weight", &[1, 2], vec![1.0, 2.0])?;
/// let layer = checkpoint.load(&Device::cpu(), |parameters| {
///     let layer = parameters.scope("encoder").scope("fc");
///     Ok(Linear { weight: layer.tensor("weight", &[1, 2])?, bias: None })
/// })?;
/// assert_eq!(layer.weight.read()?, [1.0, 2.0]);
/// // What nothing asks for is an error: a name may be wrong.
/// assert!(matches!(checkpoint.load(&Device::cpu(), |_| Ok(())), Err(Error::ExtraParameters { .. })));
/// # Ok(())
/// # }
/// ```
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
    ///
    /// ```
    /// use wgpu_attention::{Device, checkpoint::Checkpoint};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let mut checkpoint = Checkpoint::default();
    /// checkpoint.insert("projections.KRBlock_0.attn.qk_orf", &[1, 1], vec![2.0])?;
    /// let numbers = checkpoint.load(&Device::cpu(), |parameters| {
    ///     let attention = parameters.scope("KRBlock_0").scope("attn");
    ///     attention.collection("projections").random_features("qk_orf", &[1, 1])?.read()
    /// })?;
    /// assert_eq!(numbers, [2.0]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn collection(&self, name: &str) -> Parameters<'a> {
        Parameters { prefix: format!("{name}.{}", self.prefix), ..*self }
    }

    /// The device that parameters are loaded to.
    pub fn device(&self) -> &Device {
        self.device
    }

    /// The checkpoint that they are from.
    pub(crate) fn checkpoint(&self) -> &'a Checkpoint {
        self.checkpoint
    }

    /// A parameter on the device.
    ///
    /// # Errors
    /// It is missing or has another shape.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        Tensor::new(self.device, shape, self.numbers(name, shape)?)
    }

    /// [`Parameters::tensor`] of random features: numbers that were drawn with variance 1, not
    /// trained. [`Checkpoint::random`] draws them so.
    ///
    /// # Errors
    /// As there.
    pub fn random_features(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        Tensor::new(self.device, shape, self.find(name, shape, true)?)
    }

    /// [`Parameters::tensor`] of the weight of a dense layer: of [f16](DType) where it is in the file. It then
    /// takes half of the memory, and the numbers are the same.
    ///
    /// # Errors
    /// As there.
    ///
    /// ```
    /// use wgpu_attention::{DType, Device, checkpoint::Checkpoint};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let mut checkpoint = Checkpoint::default();
    /// checkpoint.insert("kernel", &[1, 2], vec![0.5, 2.0])?;
    /// checkpoint.to_f16("kernel")?; // as a file may have it
    /// let weight = checkpoint.load(&Device::best(), |parameters| parameters.weight("kernel", &[1, 2]))?;
    /// assert_eq!((weight.dtype(), weight.read()?), (DType::F16, vec![0.5, 2.0]));
    /// # Ok(())
    /// # }
    /// ```
    pub fn weight(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        Tensor::of_type(self.device, self.dtype(name), shape, self.numbers(name, shape)?)
    }

    /// What the file holds a parameter as.
    pub(crate) fn dtype(&self, name: &str) -> DType {
        let parameter = self.checkpoint.parameters.get(&format!("{}{name}", self.prefix));
        parameter.map(|parameter| parameter.dtype).unwrap_or_default()
    }

    /// A parameter on the host.
    ///
    /// # Errors
    /// It is missing or has another shape.
    pub fn numbers(&self, name: &str, shape: &[usize]) -> Result<&'a [f32]> {
        self.find(name, shape, false)
    }

    fn find(&self, name: &str, shape: &[usize], is_random: bool) -> Result<&'a [f32]> {
        let (name, expected) = (format!("{}{name}", self.prefix), shape.to_vec());
        let file = || self.checkpoint.file.clone();
        if let Some(unusable) = self.checkpoint.unusable.get(&name) {
            let file = self.checkpoint.file();
            return Err(match unusable {
                Unusable::NonFinite { index, value } => Error::NonFinite {
                    name: format!("checkpoint {file}: parameter {name}"),
                    index: *index,
                    value: *value,
                },
                Unusable::Type(_) => {
                    Error::Checkpoint { file: file.to_owned(), message: format!("parameter {name} {unusable}") }
                }
            });
        }
        match self.checkpoint.parameters.get(&name) {
            None => {
                let similar = similar(&name, shape, &self.checkpoint.parameters, &self.used.borrow());
                Err(Error::MissingParameter {
                    file: file(),
                    name,
                    expected,
                    others: Box::default(),
                    similar,
                    is_random,
                })
            }
            Some(parameter) if parameter.shape != shape => {
                Err(Error::ParameterShape { file: file(), name, expected, found: parameter.shape.clone() })
            }
            Some(parameter) => {
                self.used.borrow_mut().insert(name);
                Ok(&parameter.data)
            }
        }
    }
}

/// Names of parameters that nothing has used so far, of those that end most like the missing one, and
/// of these first those with most parts of its name and those that have its shape.
fn similar(
    missing: &str,
    shape: &[usize],
    parameters: &BTreeMap<String, Parameter>,
    used: &BTreeSet<String>,
) -> Vec<String> {
    let parts = |name: &'_ str| name.rsplit(['.', '/', ':']).map(str::to_owned).collect::<Vec<_>>();
    let missing = parts(missing);
    let n_equal = |parts: &[String]| parts.iter().zip(&missing).take_while(|(a, b)| a == b).count();
    let n_shared = |parts: &[String]| parts.iter().filter(|part| missing.contains(part)).count();
    let unused = parameters.iter().filter(|(name, _)| !used.contains(*name));
    let mut names: Vec<_> = unused
        .map(|(name, parameter)| {
            let parts = parts(name);
            (Reverse(n_equal(&parts)), Reverse(n_shared(&parts)), parameter.shape != shape, name)
        })
        .collect();
    names.sort();
    let most = names.first().map(|(n_equal, ..)| *n_equal);
    let best = names.into_iter().take_while(|(n_equal, ..)| Some(*n_equal) == most);
    best.take(N_SIMILAR).map(|(.., name)| name.clone()).collect()
}
