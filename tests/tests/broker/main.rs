//! The programs against a real RabbitMQ, with whatever can happen to either. One program, so that its tests run side by side: most of
//! what they do is wait.

#![allow(clippy::panic, clippy::unwrap_used)]

mod auth;
mod chaos;
mod conditions;
mod connections;
mod dead_letters;
mod digests;
mod disks;
mod faults;
mod given_up;
mod heart_log;
mod hearts;
mod loss;
mod messages;
mod rebuild;
mod repair;
mod seed;
mod tls;
mod writes;
