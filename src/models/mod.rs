//! The networks of the papers, written once over [`ops`](crate::ops) and so on any device.
//!
//! Each opens itself from a file (`open`), from a [`Checkpoint`](crate::checkpoint::Checkpoint) in
//! memory (`from_checkpoint`) or from parameters and a configuration (`new`).

pub mod cmanp;
pub mod layers;
pub mod nam;
pub mod tnp_kr;

mod domain;
mod evaluation;
mod exact_sum;
mod frame;
mod neighbours;
mod open;
mod points;
mod prediction;
mod saved;
mod settings;
mod tiles;

pub use domain::{CoordinateDomain, Departure, Domain, Outside, ValueDomain};
pub use evaluation::Evaluation;
pub use neighbours::Neighbourhood;
pub use points::Coordinate;
pub use prediction::{Output, Prediction};
