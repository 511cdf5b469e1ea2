//! The cluster's broker as somebody sees it who is neither operator nor heart nor node.

use broadcast_protocol::topology::{Argument, QueueDeclaration};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{Api, Client};
use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
    ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::uri::{AMQPAuthority, AMQPUri, AMQPUserInfo};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ErrorKind, ExchangeKind,
};

use super::Scenario;
use super::forward::Forward;

/// The Secret that says where the broker is, in the broker's namespace and in each scenario's.
pub const BROKER_SECRET: &str = "rabbitmq-default-user";

/// Where the broker is.
pub const BROKER_NAMESPACE: &str = "rabbitmq";

/// Reply code of "there is no such object".
const NOT_FOUND: u16 = 404;

/// Where the broker is, as pods reach it, and how to get in.
pub struct Access {
    /// A name of the cluster's DNS.
    pub host: String,
    /// In digits.
    pub port: String,
    /// Of a user who may do everything.
    pub username: String,
    /// The user's.
    pub password: String,
}

impl Access {
    /// As it stands in a Secret.
    pub fn values(&self) -> [(&'static str, &str); 4] {
        [
            ("host", &self.host),
            ("port", &self.port),
            ("username", &self.username),
            ("password", &self.password),
        ]
    }
}

/// Reads the broker's own Secret.
pub async fn fetch_access(kube: &Client) -> Access {
    let secrets: Api<Secret> = Api::namespaced(kube.clone(), BROKER_NAMESPACE);
    let data = secrets.get(BROKER_SECRET).await.unwrap().data.unwrap_or_default();
    let value = |key: &str| {
        let value = data
            .get(key)
            .unwrap_or_else(|| panic!("the Secret {BROKER_NAMESPACE}/{BROKER_SECRET} has no {key}"));
        String::from_utf8(value.0.clone()).unwrap()
    };
    Access {
        host: value("host"),
        port: value("port"),
        username: value("username"),
        password: value("password"),
    }
}

/// A connection to the broker.
pub struct Broker {
    connection: Connection,
    _forward: Forward,
}

impl Scenario {
    /// Connects to the broker as the cluster's resources do.
    pub async fn connect_to_broker(&self) -> Broker {
        let pods: Api<Pod> = Api::namespaced(self.kube.clone(), BROKER_NAMESPACE);
        let forward = Forward::open(pods, "rabbitmq-", 5672).await;
        let Access { username, password, .. } = fetch_access(&self.kube).await;
        let uri = AMQPUri {
            authority: AMQPAuthority {
                userinfo: AMQPUserInfo { username, password },
                host: "127.0.0.1".to_owned(),
                port: forward.port(),
            },
            vhost: "/".to_owned(),
            ..AMQPUri::default()
        };
        let connection = Connection::connect_uri(uri, ConnectionProperties::default()).await.unwrap();
        Broker { connection, _forward: forward }
    }

    /// Kills the broker, or, where its process is on another machine, restarts it from within: a pod of its own would come
    /// back without its disk.
    pub async fn stop_broker(&self) {
        let pods: Api<Pod> = Api::namespaced(self.kube.clone(), BROKER_NAMESPACE);
        let pod = pods.get("rabbitmq-0").await.unwrap();
        if self.environment.kubelet_folder.is_some() {
            return self.kill(&pod);
        }
        for command in ["stop_app", "start_app"] {
            let namespace = format!("--namespace={BROKER_NAMESPACE}");
            self.kubectl(&["exec", "rabbitmq-0", &namespace, "--", "rabbitmqctl", command]).unwrap();
        }
    }
}

impl Broker {
    /// How many messages wait in a queue; `None` when there is no such queue.
    pub async fn depth(&self, queue: &str) -> Option<u32> {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let declare = self.channel().await.queue_declare(queue.into(), options, FieldTable::default()).await;
        unless_missing(declare).map(|queue| queue.message_count())
    }

    /// Whether there is such a fanout exchange.
    pub async fn has_exchange(&self, name: &str) -> bool {
        let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
        let channel = self.channel().await;
        let kind = ExchangeKind::Fanout;
        unless_missing(channel.exchange_declare(name.into(), kind, options, FieldTable::default()).await)
            .is_some()
    }

    /// Whether a queue has just these arguments.
    pub async fn has_queue(&self, queue: &QueueDeclaration) -> bool {
        let mut table = FieldTable::default();
        for (name, argument) in &queue.arguments {
            let value = match argument {
                Argument::Flag(flag) => AMQPValue::Boolean(*flag),
                Argument::Integer(number) => AMQPValue::LongLongInt(*number),
                Argument::Text(text) => AMQPValue::LongString(text.as_bytes().into()),
            };
            table.insert((*name).into(), value);
        }
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        assert!(self.depth(&queue.name).await.is_some(), "there is no queue {}", queue.name);
        self.channel().await.queue_declare((*queue.name).into(), options, table).await.is_ok()
    }

    /// Deletes a queue, as anybody may who has the password.
    pub async fn delete_queue(&self, name: &str) {
        let delete = self.channel().await.queue_delete(name.into(), QueueDeleteOptions::default()).await;
        delete.unwrap();
    }

    /// Deletes an exchange.
    pub async fn delete_exchange(&self, name: &str) {
        let channel = self.channel().await;
        channel.exchange_delete(name.into(), ExchangeDeleteOptions::default()).await.unwrap();
    }

    /// Unbinds a queue from an exchange.
    pub async fn unbind(&self, queue: &str, exchange: &str) {
        let channel = self.channel().await;
        channel.queue_unbind(queue.into(), exchange.into(), "".into(), FieldTable::default()).await.unwrap();
    }

    /// Publishes a message by hand, as anybody who has the password can, and waits for the confirm.
    pub async fn publish(&self, exchange: &str, body: &[u8]) {
        let channel = self.channel().await;
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        let properties = BasicProperties::default().with_delivery_mode(2);
        let options = BasicPublishOptions::default();
        let publish =
            channel.basic_publish(exchange.into(), "".into(), options, body, properties).await.unwrap();
        assert!(matches!(publish.await.unwrap(), Confirmation::Ack(None)));
    }

    /// Takes every message out of a queue.
    pub async fn drain(&self, queue: &str) -> Vec<Vec<u8>> {
        let channel = self.channel().await;
        let mut bodies = Vec::new();
        while let Some(message) =
            channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await.unwrap()
        {
            bodies.push(message.delivery.data);
        }
        bodies
    }

    /// One for each use: the broker closes a channel on which something was missing.
    async fn channel(&self) -> Channel {
        self.connection.create_channel().await.unwrap()
    }
}

fn unless_missing<T>(answer: lapin::Result<T>) -> Option<T> {
    match answer {
        Ok(answer) => Some(answer),
        Err(error) => match error.kind() {
            ErrorKind::ProtocolError(amqp) if amqp.get_id() == NOT_FOUND => None,
            _ => panic!("the broker says: {error}"),
        },
    }
}
