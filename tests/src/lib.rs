//! What the tests against real brokers and a real cluster share.

// A harness fails a test the way a test fails: by panicking with what it saw.
#![allow(clippy::expect_used, clippy::missing_panics_doc, clippy::panic, clippy::unwrap_used)]

pub mod api_server;
pub mod authority;
pub mod broker;
pub mod chaos;
pub mod chart;
pub mod client;
pub mod clients;
pub mod cluster;
pub mod crash;
pub mod dice;
pub mod fleet;
pub mod heart_stand_in;

pub mod history;
pub mod installation;
pub mod load;
pub mod mount;
pub mod operator;
pub mod oracle;
pub mod processes;
pub mod prometheus;
pub mod proxy;
pub mod records;
pub mod report;
pub mod small_disk;
pub mod stand_in;
pub mod standalone;
pub mod tokens;
pub mod unreliable_peer;
