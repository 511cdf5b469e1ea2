//! What can go wrong with the broker, told apart as far as somebody would act differently.

use std::io;
use std::time::Duration;

use lapin::ErrorKind;

use crate::amqp_url::{AmqpUrl, AmqpUrlError};
use crate::tls::describe_failure;

/// An error of a connection, a channel or a call. The texts are the broker's own and never hold the password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AmqpError {
    /// The address is unusable.
    #[error(transparent)]
    Url(#[from] AmqpUrlError),
    /// No connection to the address.
    #[error("the broker at {address} is unreachable: {text}")]
    Unreachable {
        /// `host:port`.
        address: String,
        /// What the system says.
        text: String,
    },
    /// No TLS with what is at the address: one side refuses the other's certificate, or it is no TLS at all.
    #[error("no TLS with the broker at {address}: {text}")]
    Tls {
        /// `host:port`.
        address: String,
        /// What is wrong, for somebody who can mend it.
        text: String,
    },
    /// The broker refuses user or password.
    #[error("the broker at {address} refuses user {user:?}: {text}")]
    CredentialsRefused {
        /// `host:port`.
        address: String,
        /// The user.
        user: String,
        /// The broker's text.
        text: String,
    },
    /// The virtual host does not exist, or is closed to this user.
    #[error("the broker at {address} refuses virtual host {vhost:?}: {text}")]
    VhostRefused {
        /// `host:port`.
        address: String,
        /// The virtual host.
        vhost: String,
        /// The broker's text.
        text: String,
    },
    /// The user lacks a permission (403).
    #[error("access refused: {0}")]
    AccessRefused(String),
    /// Another connection holds the queue (405).
    #[error("locked: {0}")]
    Locked(String),
    /// The object exists with other arguments (406 to a declaration).
    #[error("exists with other arguments: {0}")]
    ArgumentsDiffer(String),
    /// There is no such object (404).
    #[error("not found: {0}")]
    NotFound(String),
    /// The channel is closed; the connection may still work.
    #[error("channel closed: {0}")]
    ChannelClosed(String),
    /// The connection is closed.
    #[error("connection closed: {0}")]
    ConnectionClosed(String),
    /// The broker did not answer in time.
    #[error("{operation}: no answer within {}s", deadline.as_secs_f64())]
    Timeout {
        /// What was asked of it.
        operation: &'static str,
        /// How long it had.
        deadline: Duration,
    },
    /// The broker did not take a message, or not for every queue.
    #[error("the broker refused the message (nack)")]
    Nacked,
    /// No queue took a message.
    #[error("no queue took the message: {0}")]
    Returned(String),
    /// The broker cancelled the consumer: its queue was deleted, or its node went away.
    #[error("the broker cancelled the consumer of {0:?}")]
    ConsumerCancelled(String),
    /// An acknowledgement could not be sent: the delivery will come again.
    #[error("the channel was closed before the acknowledgement")]
    AcknowledgementLost,
    /// A name is longer than the 255 bytes that AMQP allows.
    #[error("{0}")]
    NameTooLong(String),
}

impl AmqpError {
    /// The kind of error, out of a fixed set: a metric's label, an event's reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Url(_) => "BrokerUrlInvalid",
            Self::Unreachable { .. } => "BrokerUnreachable",
            Self::Tls { .. } => "BrokerTlsFailed",
            Self::CredentialsRefused { .. } => "BrokerCredentialsRefused",
            Self::VhostRefused { .. } => "BrokerVhostRefused",
            Self::AccessRefused(_) => "BrokerAccessRefused",
            Self::Locked(_) => "BrokerResourceLocked",
            Self::ArgumentsDiffer(_) => "BrokerArgumentsDiffer",
            Self::NotFound(_) => "BrokerObjectNotFound",
            Self::ChannelClosed(_) => "BrokerChannelClosed",
            Self::ConnectionClosed(_) => "BrokerConnectionClosed",
            Self::Timeout { .. } => "BrokerTimeout",
            Self::Nacked => "BrokerNack",
            Self::Returned(_) => "BrokerReturn",
            Self::ConsumerCancelled(_) => "BrokerConsumerCancelled",
            Self::AcknowledgementLost => "BrokerAcknowledgementLost",
            Self::NameTooLong(_) => "BrokerNameTooLong",
        }
    }

    /// Whether the broker refused one call, and closed no more than the channel for it.
    pub(super) fn is_of_a_call(&self) -> bool {
        matches!(
            self,
            Self::AccessRefused(_)
                | Self::Locked(_)
                | Self::ArgumentsDiffer(_)
                | Self::NotFound(_)
                | Self::ChannelClosed(_)
        )
    }

    /// An error of an established connection.
    pub(super) fn of_session(operation: &str, error: &lapin::Error) -> Self {
        let text = error.to_string();
        match error.kind() {
            ErrorKind::ProtocolError(amqp) => {
                let text = amqp.get_message().to_string();
                match amqp.get_id() {
                    403 => Self::AccessRefused(text),
                    404 => Self::NotFound(text),
                    405 => Self::Locked(text),
                    // To other operations it is about a delivery: settled too late, or one that is not known.
                    406 if operation.ends_with(".declare") => Self::ArgumentsDiffer(text),
                    _ if error.is_amqp_soft_error() => Self::ChannelClosed(text),
                    _ => Self::ConnectionClosed(text),
                }
            }
            ErrorKind::InvalidChannel(_) | ErrorKind::InvalidChannelState(..) => Self::ChannelClosed(text),
            _ => Self::ConnectionClosed(text),
        }
    }

    /// An error while connecting.
    pub(super) fn of_connect(url: &AmqpUrl, error: &lapin::Error) -> Self {
        let address = url.address();
        match error.kind() {
            ErrorKind::ProtocolError(amqp) => {
                let text = amqp.get_message().to_string();
                match amqp.get_id() {
                    403 => Self::CredentialsRefused { address, user: url.user().to_owned(), text },
                    // NOT_ALLOWED is all that the broker says of a virtual host, missing or forbidden.
                    530 => Self::VhostRefused { address, vhost: url.vhost().to_owned(), text },
                    _ => Self::Unreachable { address, text },
                }
            }
            ErrorKind::IOError(io) => match (url.tls(), tls_error_in(io)) {
                (Some(tls), Some(error)) => {
                    Self::Tls { address, text: describe_failure(error, tls.has_certificate()) }
                }
                _ => Self::Unreachable { address, text: format!("{error}{}", hint_at_tls(url, io)) },
            },
            // An alert is no frame.
            ErrorKind::ParsingError(_) if url.tls().is_none() => {
                Self::Unreachable { address, text: format!("{error}{TLS_WANTED}") }
            }
            _ => Self::Unreachable { address, text: error.to_string() },
        }
    }
}

const TLS_WANTED: &str = " (is TLS wanted at this port?)";

fn tls_error_in(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// What the broker wants of certificates it may say too late to be heard: it has hung up.
fn hint_at_tls(url: &AmqpUrl, error: &io::Error) -> &'static str {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    if !matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof) {
        return "";
    }
    match url.tls() {
        None => TLS_WANTED,
        Some(tls) if tls.has_certificate() => " (it hung up: it may refuse the client certificate)",
        Some(_) => " (it hung up: it may want a client certificate)",
    }
}

#[cfg(test)]
mod tests {
    use lapin::protocol::{AMQPError, AMQPHardError, AMQPSoftError};

    use super::*;

    fn refusal(kind: impl Into<lapin::protocol::AMQPErrorKind>) -> lapin::Error {
        ErrorKind::ProtocolError(AMQPError::new(kind.into(), "the broker's text".into())).into()
    }

    #[test]
    fn what_the_broker_refuses_in_a_session_is_told_apart() {
        for (operation, error, reason) in [
            ("queue.declare", refusal(AMQPSoftError::ACCESSREFUSED), "BrokerAccessRefused"),
            ("queue.declare", refusal(AMQPSoftError::NOTFOUND), "BrokerObjectNotFound"),
            ("queue.declare", refusal(AMQPSoftError::RESOURCELOCKED), "BrokerResourceLocked"),
            ("queue.declare", refusal(AMQPSoftError::PRECONDITIONFAILED), "BrokerArgumentsDiffer"),
            ("exchange.declare", refusal(AMQPSoftError::PRECONDITIONFAILED), "BrokerArgumentsDiffer"),
            ("basic.ack", refusal(AMQPSoftError::PRECONDITIONFAILED), "BrokerChannelClosed"),
            ("basic.publish", refusal(AMQPSoftError::CONTENTTOOLARGE), "BrokerChannelClosed"),
            ("basic.publish", refusal(AMQPHardError::CONNECTIONFORCED), "BrokerConnectionClosed"),
            ("basic.publish", ErrorKind::InvalidChannel(1).into(), "BrokerChannelClosed"),
            ("basic.publish", ErrorKind::MissingHeartbeatError.into(), "BrokerConnectionClosed"),
        ] {
            let found = AmqpError::of_session(operation, &error);
            assert_eq!(found.reason(), reason, "{operation}: {found}");
            assert_eq!(found.to_string().contains("the broker's text"), error.is_amqp_error(), "{found}");
        }
    }

    #[test]
    fn what_prevents_a_connection_is_told_apart_and_never_shows_the_password() {
        let plain: AmqpUrl = "amqp://ada:s3cret@broker/orders".parse().unwrap();
        let secure: AmqpUrl = "amqps://ada:s3cret@broker/orders".parse().unwrap();
        let hung_up = || io::Error::from(io::ErrorKind::ConnectionReset).into();
        let unknown = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        for (url, error, reason, text) in [
            (
                &plain,
                refusal(AMQPSoftError::ACCESSREFUSED),
                "BrokerCredentialsRefused",
                "user \"ada\": the broker's text",
            ),
            (
                &plain,
                refusal(AMQPHardError::NOTALLOWED),
                "BrokerVhostRefused",
                "virtual host \"orders\": the broker's",
            ),
            (
                &plain,
                io::Error::other("no route").into(),
                "BrokerUnreachable",
                "broker:5672 is unreachable: IO error: no",
            ),
            (&plain, hung_up(), "BrokerUnreachable", "is TLS wanted at this port?"),
            (&secure, hung_up(), "BrokerUnreachable", "it may want a client certificate"),
            (
                &secure,
                io::Error::new(io::ErrorKind::InvalidData, unknown).into(),
                "BrokerTlsFailed",
                "no TLS with the broker at broker:5671: its certificate is not signed by a CA",
            ),
        ] {
            let found = AmqpError::of_connect(url, &error);
            assert_eq!(found.reason(), reason);
            assert!(found.to_string().contains(text) && !found.to_string().contains("s3cret"), "{found}");
        }
    }
}
