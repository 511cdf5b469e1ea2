//! Leader election: of several replicas one works, and no two ever write at the same time.
//!
//! Whoever holds a Lease leads, until [`RENEW_DEADLINE`] after it sent its last renewal that was answered. Whoever has seen
//! the Lease unchanged for [`LEASE_DURATION`] may take it. Both are measured by each process on its own clock, which
//! counts while the machine is suspended; the wall clock decides nothing. Every write to the Lease names the version
//! that it replaces, so that of two candidates one is refused.
//!
//! Without leadership nothing is written: each step of a pass (a call to the broker is several) and each request to the API
//! server that is not a mere read first asks the clock, so that a process which was stopped for a while does no more than end when
//! it goes on. Losing leadership drops all that is under way and ends the process.
//!
//! That no two write at a time rests on this:
//! - Clocks go at most 10 % too fast or too slow. Then 2.5 s at least lie between the end of a leader's time (10 s,
//!   which a slow clock makes 11.1) and its successor's beginning (15 s, which a fast one makes 13.6).
//! - What was sent before the end arrives within these 2.5 s or not at all: the kernel gives up what the API server's
//!   machine has not acknowledged for [`SEND_DEADLINE`]. Out of reach are a request that has arrived there and is sat
//!   on for longer, and the last bytes to a broker that is cut off. The successor's passes put right what they do.
//! - The API server compares versions: a replacement of anything but the newest is refused.
//! - Nobody else writes or deletes the Lease. A candidate that knew it waits all the same when it is gone; only
//!   one that starts in the meantime does not.
//!
//! A leader that is told to stop ends its passes and releases the Lease, and its successor waits for nothing.
//!
//! The crates for this that are published lag behind the client's versions, or write without naming the version, and
//! then two candidates can both win.

pub mod candidate;
pub mod election;
pub mod gate;
pub mod leadership;

use std::time::Duration;

pub use candidate::{LEASE_DURATION, Loss, RENEW_DEADLINE};
pub use election::{Election, LeaseNames};
pub use leadership::{Leadership, NotLeading};

use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{ClientBuilder, ConfigExt};
use kube::{Client, Config};
use tower::{BoxError, ServiceBuilder};

use gate::Gate;

/// How long the API server's machine has to acknowledge what was sent to it.
pub const SEND_DEADLINE: Duration = Duration::from_secs(2);

/// How long a connection to the API server may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// A client of the API server that writes only under this leadership.
pub fn build_client(config: &Config, leadership: &Leadership) -> Result<Client, kube::Error> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_connect_timeout(Some(CONNECT_DEADLINE));
    connector.set_tcp_user_timeout(Some(SEND_DEADLINE));
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(legacy::Client::builder(TokioExecutor::new()).build(connector));
    let builder = ClientBuilder::new(service, config.default_namespace.clone());
    Ok(builder.with_layer(&Gate(leadership.clone())).build())
}
