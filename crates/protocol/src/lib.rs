//! How writes travel: one total order of messages, each continuing a hash chain, carried by a `RabbitMQ` fanout
//! exchange that is trusted with nothing but delivery.
//!
//! Guarantees of this crate:
//! - No IO, no clock, no randomness: every function is a function of its arguments, so one simulator can drive
//!   any number of hearts and nodes through any fault.
//! - Every name and every argument of every broker object stands here and nowhere else ([`topology`]).
//! - A message is decoded completely or refused with a reason ([`envelope`]); no input panics.
//! - At most one message of a heart is unconfirmed ([`sequencer`], by its types), and a node applies a message only
//!   once the chain proves that the broker holds it for everyone ([`replica`]).

pub mod chain;
pub mod config;
pub mod cut;
pub mod digest;
pub mod envelope;
pub mod names;
pub mod outcome;
pub mod replica;
pub mod report;
pub mod sequencer;
pub mod snapshot;
pub mod topology;
pub mod write;
