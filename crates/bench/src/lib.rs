//! Benchmarks beside what a user would pick instead: each starts ours and its rival on this machine with the same data, the same durability
//! and the same number of replicas, measures them in turn several times, and reports medians, spread and ratios.
//!
//! Guarantees:
//! - A write counts once every replica has applied it, not when it was answered.
//! - A latency begins when the request was to be sent, not when it could be: a system that stalls is charged for everything that had to
//!   wait for it (no coordinated omission).
//! - A failed request fails the benchmark: no figure is that of a system that turned work away.
//! - Nothing is left out of a report because it is bad.
//!
//! `statistics`, `latency`, `report`, `plot` and `data` do no IO; `load` and `http` are the generator; `subject` starts what is
//! measured, and `benchmark` has one module for each benchmark.

// What is measured is started by the harness of the tests, which panics where a program does not do as it is told.
#![allow(clippy::missing_panics_doc)]

pub mod benchmark;
pub mod data;
pub mod error;
pub mod http;
pub mod latency;
pub mod load;
pub mod machine;
pub mod plot;
pub mod report;
pub mod settings;
pub mod statistics;
pub mod subject;
