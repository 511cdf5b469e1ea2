//! The operator's program against a real API server and a real RabbitMQ, without a cluster: what it does is all there is, but for a
//! stand-in of Kubernetes' own controllers. One program, so that its tests share both.

#![allow(clippy::panic, clippy::unwrap_used)]

mod crashes;
mod stage;
mod steady_state;
