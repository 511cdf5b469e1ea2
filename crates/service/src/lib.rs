//! What every process shares: AMQP sessions, HTTP manners, the admin server, telemetry, shutdown.
//!
//! Guarantees of this crate:
//! - Every call to the broker has a deadline, and its error says which of the known reasons it was ([`amqp`]).
//! - A broker session is never repaired behind its user's back: it works until the first error, and a delivery of an
//!   old session cannot be acknowledged on a new one.
//! - Where there are tokens, nobody without one gets anything but health and metrics ([`auth`]).
//! - Every HTTP answer that is an error has one shape ([`http`]).
//! - A process ends when one of its tasks does, and within a deadline when it is told to ([`shutdown`]).

pub mod admin;
pub mod amqp;
pub mod amqp_url;
pub mod auth;
pub mod backoff;
pub mod clock;
pub mod genesis;
pub mod http;
pub mod log;
pub mod renewal;
pub mod shutdown;
pub mod telemetry;
pub mod tls;
