//! The workload that puts a cluster's promise to the test.
pub mod line;
pub mod plan;
mod text;
