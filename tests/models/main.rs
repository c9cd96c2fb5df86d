//! The papers' networks, on the CPU and on every adapter. One binary for all of them, as for the
//! operations.

#[path = "../support/mod.rs"]
mod support;

mod bad_input_cmanp;
mod bad_input_nam;
mod bad_input_tnp_kr;
mod checkpoint;
mod cmanp;
mod cmanp_exact;
mod configs;
mod distributions;
mod draws;
mod faults_coordinates;
mod faults_files;
mod figures;
mod golden;
mod local;
mod nam;
mod posterior;
mod tnp_kr;
mod upstream;
