//! The model, and posteriors as bytes.

use std::{
    collections::VecDeque,
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
};

use datafusion::{
    arrow::datatypes::DataType,
    common::{DataFusionError, Result},
};
use wgpu_attention::{
    Device,
    checkpoint::Checkpoint,
    models::cmanp::{Cmanp, Context, Posterior},
};

/// Under which key of a posterior's metadata the number of skipped rows is.
const SKIPPED: &str = "skipped";

/// All keys of a posterior's metadata.
const KEYS: [&str; 2] = ["posterior", SKIPPED];

/// Posteriors that stay ready to predict with.
const MOST_READY: usize = 64;

pub(crate) struct Model {
    pub cmanp: Cmanp,
    plain: Cmanp,
    prefix: String,
    origin: Option<Vec<f64>>,
    is_exact: bool,
    /// Of the checkpoint.
    hash: u64,
    ready: Mutex<VecDeque<(Arc<[u8]>, Posterior)>>,
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").field("prefix", &self.prefix).field("exact", &self.is_exact).finish()
    }
}

/// Two models are the same if all that they do is.
impl PartialEq for Model {
    fn eq(&self, other: &Self) -> bool {
        let same = (self.hash, self.is_exact, &self.prefix) == (other.hash, other.is_exact, &other.prefix);
        same && self.origin == other.origin && self.cmanp.device() == other.cmanp.device()
    }
}

impl Eq for Model {}

impl Hash for Model {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.hash, &self.prefix).hash(state);
    }
}

impl Model {
    /// Of a model with exact sums.
    pub fn new(exact: Cmanp, plain: Cmanp, checkpoint: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        checkpoint.hash(&mut hasher);
        Self {
            cmanp: exact,
            plain,
            prefix: "cmanp".into(),
            origin: None,
            is_exact: true,
            hash: hasher.finish(),
            ready: Mutex::default(),
        }
    }

    fn copy(&self) -> Self {
        Self {
            cmanp: self.cmanp.clone(),
            plain: self.plain.clone(),
            prefix: self.prefix.clone(),
            origin: self.origin.clone(),
            is_exact: self.is_exact,
            hash: self.hash,
            ready: Mutex::default(),
        }
    }

    pub fn rounded(&self) -> Self {
        Self { cmanp: self.plain.clone(), is_exact: false, ..self.copy() }
    }

    pub fn with_origin(&self, origin: &[f64]) -> Self {
        Self { origin: Some(origin.to_vec()), ..self.copy() }
    }

    pub fn with_prefix(&self, prefix: &str) -> Self {
        Self { prefix: prefix.into(), ..self.copy() }
    }

    pub fn is_exact(&self) -> bool {
        self.is_exact
    }

    /// What the bits of an answer depend on.
    pub fn identity(&self) -> String {
        let sums = if self.is_exact { "exact" } else { "rounded" };
        let origin = self.origin.as_ref().map_or(String::new(), |origin| format!(" and the origin {origin:?}"));
        let device = self.cmanp.device();
        let is_it = |name: &&str| Device::cpu_with(name).is_ok_and(|cpu| cpu == *device);
        let instructions = Device::cpu_instructions().into_iter().find(is_it).unwrap_or("unknown");
        format!("checkpoint {:016x} with {sums} sums by {instructions}{origin}", self.hash)
    }

    /// The name of a function.
    pub fn name(&self, what: &str) -> String {
        format!("{}_{what}", self.prefix)
    }

    /// The posterior of some points, more of them if there is one.
    pub fn read(&self, posterior: Option<&Posterior>, x: &[f64], y: &[f32]) -> wgpu_attention::Result<Posterior> {
        let mut context = Context::new(x, y);
        if let Some(origin) = &self.origin {
            context = context.origin(origin);
        }
        match posterior {
            Some(posterior) => posterior.update(&context),
            None => self.cmanp.condition(&context),
        }
    }

    /// A posterior and how many rows were skipped beside it.
    pub fn to_bytes(&self, posterior: &Posterior, skipped: u64) -> wgpu_attention::Result<Vec<u8>> {
        let mut checkpoint = posterior.to_checkpoint()?;
        checkpoint.set_metadata(SKIPPED, skipped.to_string());
        checkpoint.to_bytes()
    }

    /// What [`Model::to_bytes`] wrote, or any saved posterior of this model.
    pub fn of_bytes(&self, bytes: &[u8]) -> wgpu_attention::Result<(Posterior, u64)> {
        let checkpoint = Checkpoint::from_bytes(bytes)?;
        // Of a damaged name of the fingerprint, which then is not compared.
        if let Some(unknown) = checkpoint.metadata_keys().into_iter().find(|key| !KEYS.contains(key)) {
            return Err(wgpu_attention::Error::Checkpoint {
                file: checkpoint.file().to_owned(),
                message: format!("its metadata have the key {unknown:?}, allowed are {KEYS:?}"),
            });
        }
        // A posterior of the library's own has none.
        let skipped = checkpoint.metadata(SKIPPED).map_or(Ok(0), str::parse);
        let skipped = skipped.map_err(|error| wgpu_attention::Error::Checkpoint {
            file: checkpoint.file().to_owned(),
            message: format!("the number of skipped rows: {error}"),
        })?;
        let posterior = self.cmanp.restore(&checkpoint)?;
        match posterior.batch() {
            1 => Ok((posterior, skipped)),
            batch => Err(wgpu_attention::Error::Checkpoint {
                file: checkpoint.file().to_owned(),
                message: format!("it is of {batch} data sets, allowed is one: a group of rows is one"),
            }),
        }
    }

    /// The posterior of these bytes, which stays ready for the next batch of rows.
    pub fn ready(&self, bytes: &[u8]) -> wgpu_attention::Result<Posterior> {
        let lock = || self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, posterior)) = lock().iter().find(|(known, _)| **known == *bytes) {
            return Ok(posterior.clone());
        }
        let (posterior, _) = self.of_bytes(bytes)?;
        let mut ready = lock();
        ready.push_front((bytes.into(), posterior.clone()));
        ready.truncate(MOST_READY);
        Ok(posterior)
    }
}

/// An error of the library, with the function's name.
pub(crate) fn failed(name: &str, error: impl fmt::Display) -> DataFusionError {
    DataFusionError::Execution(format!("{name}: {error}"))
}

/// An error of bytes that were given as a posterior.
pub(crate) fn not_a_posterior(name: &str, error: impl fmt::Display) -> DataFusionError {
    failed(name, format_args!("argument 1, the posterior, cannot be read: {error}"))
}

/// Runs what calls the library: not even a mistake of ours may take the engine down.
pub(crate) fn guarded<T>(name: &str, run: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Err(DataFusionError::Internal(format!("{name} panicked, which is a bug of wgpu-attention: {text}")))
    })
}

/// What of types is a number.
pub(crate) fn check_number(name: &str, position: usize, what: &str, found: &DataType) -> Result<()> {
    if values(found).is_numeric() || *found == DataType::Null {
        return Ok(());
    }
    Err(DataFusionError::Plan(format!(
        "{name}: argument {position}, {what}, is {found}, allowed are numbers; use CAST, and of a time its seconds"
    )))
}

/// What a column holds, whether or not each value is stored once.
fn values(found: &DataType) -> &DataType {
    match found {
        DataType::Dictionary(_, values) => values,
        found => found,
    }
}

/// Refuses a type that is not that of a posterior.
pub(crate) fn check_posterior(model: &Model, name: &str, found: &DataType) -> Result<()> {
    match values(found) {
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::Null => Ok(()),
        _ => Err(DataFusionError::Plan(format!(
            "{name}: argument 1, the posterior, is {found}, allowed are the bytes that {} returns",
            model.name("condition")
        ))),
    }
}
