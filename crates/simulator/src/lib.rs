//! One seed, one simulation: hearts and nodes, driven as their programs drive them, against a model of the broker, of the
//! network, of disks, clients, an operator and a human; with faults anywhere between two actions.
//!
//! Guarantees of this crate:
//! - Everything follows from the seed: no clock, no other randomness, no IO but a trace that is asked for.
//! - What must be true is looked at after every step ([`Violation`]), and which losses are outside of the promise stands
//!   in one place (`invariants`).
//! - What was never exercised is said ([`Tally::missing`]); that the promises can be broken at all is shown by breaking
//!   the protocol's rules one by one ([`Mutation`]).

mod agenda;
mod broker;
mod client;
mod context;
mod database;
mod faults;
mod heart;
mod invariants;
mod mutations;
mod network;
mod operator;
mod peers;
mod pod;
mod report;
mod rng;
mod settings;
mod world;

pub use invariants::Violation;
pub use mutations::Mutation;
pub use report::Tally;
pub use world::{Outcome, simulate};

#[cfg(test)]
mod tests;
