//! Constant-memory posteriors inside of [DataFusion](datafusion): a CMANP that reads a table in SQL, one
//! posterior for each group, on one machine or, unchanged, on many.
//!
//! ```sql
//! SELECT station, cmanp_condition(temperature, day, day_cos, day_sin) AS posterior FROM readings GROUP BY station
//! ```
//!
//! | function | is | |
//! |---|---|---|
//! | `cmanp_condition(y, x1, …)` | an aggregate | the posterior of the rows, as bytes |
//! | `cmanp_merge(posterior)` | an aggregate | the posterior of what all of them have read |
//! | `cmanp_predict(posterior, x1, …)` | a function of a row | mean, standard deviation and quantiles |
//! | `cmanp_points(posterior)` | a function of a row | how many rows were read, and skipped for a NULL |
//! | `cmanp_outside(posterior)` | a function of a row | what of them the network was not trained on, in words |
//!
//! Sums are exact unless [`Functions::rounded`] says otherwise: however the engine cuts, orders and merges
//! the rows, the posterior has the same bits. The README says what the answer means.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod accumulate;
mod aggregate;
mod model;
mod predict;

use std::{path::Path, sync::Arc};

use datafusion::{
    common::{DataFusionError, Result},
    logical_expr::{AggregateUDF, ScalarUDF},
    prelude::SessionContext,
};
use wgpu_attention::{Device, checkpoint::Checkpoint, models::cmanp::Cmanp};

use self::{
    aggregate::{Aggregate, Kind},
    model::Model,
    predict::{About, Ask, Predict},
};

/// Registers all functions of a checkpoint of a CMANP.
///
/// # Errors
/// The file cannot be read, or is no such checkpoint.
///
/// ```
/// use datafusion::{execution::FunctionRegistry as _, prelude::SessionContext};
///
/// let context = SessionContext::new();
/// let checkpoint = concat!(env!("CARGO_MANIFEST_DIR"), "/../../checkpoints/cmanp_gp_1d.safetensors");
/// wgpu_attention_datafusion::register(&context, checkpoint).unwrap();
/// assert!(context.udaf("cmanp_condition").is_ok());
/// ```
pub fn register(context: &SessionContext, checkpoint: impl AsRef<Path>) -> Result<()> {
    Functions::open(checkpoint)?.register(context);
    Ok(())
}

/// The functions of a model, for sessions and for registries of a cluster.
#[derive(Clone, Debug)]
pub struct Functions {
    model: Arc<Model>,
}

impl Functions {
    /// Of the model in a checkpoint, on the CPU.
    ///
    /// # Errors
    /// The file cannot be read, or is no checkpoint of a CMANP whose posteriors have exact sums.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::on(&Device::cpu(), path)
    }

    /// [`Functions::open`] on another device: the CPU with the instructions that all machines of a cluster have
    /// ([`Device::cpu_with`]), so that all get the same bits.
    ///
    /// # Errors
    /// As [`Functions::open`]; a GPU, which has no exact sums.
    pub fn on(device: &Device, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let refused = |error: &dyn std::fmt::Display| DataFusionError::Plan(format!("{}: {error}", path.display()));
        let bytes = std::fs::read(path).map_err(|error| refused(&error))?;
        let checkpoint = Checkpoint::from_bytes(&bytes).map_err(|error| refused(&error))?;
        let plain = Cmanp::from_checkpoint(device, &checkpoint).map_err(|error| refused(&error))?;
        let exact = plain.exact().map_err(|error| refused(&error))?;
        Ok(Self { model: Arc::new(Model::new(exact, plain, &bytes)) })
    }

    /// Sums that are rounded, for posteriors of a quarter of the size that are written in less time: their last
    /// digits depend on how the engine cuts the rows, and windows cannot slide over them.
    pub fn rounded(&self) -> Self {
        Self { model: Arc::new(self.model.rounded()) }
    }

    /// What is taken off each coordinate in f64 before it is rounded to f32, for coordinates far from zero.
    ///
    /// # Errors
    /// Another number of coordinates than the model's, or one that is not finite.
    pub fn origin(&self, origin: &[f64]) -> Result<Self> {
        let dim_x = self.model.cmanp.config().dim_x;
        if origin.len() != dim_x || origin.iter().any(|x| !x.is_finite()) {
            return Err(DataFusionError::Plan(format!("the origin is {origin:?}, allowed are {dim_x} finite numbers")));
        }
        Ok(Self { model: Arc::new(self.model.with_origin(origin)) })
    }

    /// Other names: with `cmanp` they begin as above.
    pub fn prefix(&self, prefix: &str) -> Self {
        Self { model: Arc::new(self.model.with_prefix(prefix)) }
    }

    /// What the bits of an answer depend on, in words: the checkpoint, the kind of sums, the instructions of this
    /// machine and the origin. Machines of a cluster, of one build, get the same bits if these are the same.
    ///
    /// ```
    /// # let checkpoint = concat!(env!("CARGO_MANIFEST_DIR"), "/../../checkpoints/cmanp_gp_1d.safetensors");
    /// let functions = wgpu_attention_datafusion::Functions::open(checkpoint).unwrap();
    /// assert!(functions.identity().contains("exact sums"));
    /// assert_ne!(functions.identity(), functions.rounded().identity());
    /// ```
    pub fn identity(&self) -> String {
        self.model.identity()
    }

    /// The aggregates.
    pub fn aggregates(&self) -> Vec<Arc<AggregateUDF>> {
        let one = |kind| Arc::new(AggregateUDF::from(Aggregate::new(&self.model, kind)));
        vec![one(Kind::Condition), one(Kind::Merge)]
    }

    /// The functions of a row.
    pub fn scalars(&self) -> Vec<Arc<ScalarUDF>> {
        let ask = |about| Arc::new(ScalarUDF::from(Ask::new(&self.model, about)));
        vec![Arc::new(ScalarUDF::from(Predict::new(&self.model))), ask(About::Points), ask(About::Outside)]
    }

    /// Makes all of them known to a session.
    pub fn register(&self, context: &SessionContext) {
        self.aggregates().into_iter().for_each(|function| context.register_udaf((*function).clone()));
        self.scalars().into_iter().for_each(|function| context.register_udf((*function).clone()));
    }
}
