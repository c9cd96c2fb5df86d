//! The networks of the papers, written once over [`ops`](crate::ops) and so on any device.

pub mod cmanp;
pub mod layers;
pub mod nam;
pub mod tnp_kr;
