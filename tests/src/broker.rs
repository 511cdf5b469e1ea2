//! RabbitMQ brokers of a test's own, on loopback, with everything they write in a temporary folder.

use std::process::Command;
use std::sync::{Arc, Weak};
use std::time::Duration;

use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeleteOptions, QueueDeclareOptions,
    QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use tokio::sync::{Mutex, Semaphore};

use crate::authority::{Authority, Identity};
use crate::client::wait_for;
use crate::installation::Installation;
use crate::processes::{Folder, Process, free_port};
use crate::report::{Counted, count};

/// What a running broker is told with.
const CONTROL: &str = "/usr/lib/rabbitmq/bin/rabbitmqctl";

/// The folder of what it stores.
const DATA: &str = "data";

/// How long a broker may take until it accepts connections, on a machine that is busy with other tests and other programs.
const START_DEADLINE: Duration = Duration::from_mins(3);

/// How many brokers start at a time: each needs seconds of a core, and nothing else happens in its test meanwhile.
static STARTS: Semaphore = Semaphore::const_new(2);

/// A broker. It ends when this is dropped, and what it stored is removed.
#[derive(Debug)]
pub struct Broker {
    // In the order in which they have to go.
    server: Option<Process>,
    _port_mapper: Process,
    installation: Installation,
    port: u16,
    /// For TLS, of a broker that was given certificates.
    tls_port: Option<u16>,
    /// What Erlang is told about cores.
    schedulers: &'static str,
    distribution_port: u16,
    mapper_port: u16,
    folder: Folder,
}

/// A connection for what a test does by hand.
#[derive(Debug)]
pub struct ByHand {
    _connection: Connection,
    channel: Channel,
}

impl Broker {
    /// Starts a broker that the test may kill.
    pub async fn start() -> Self {
        let mut broker = Self::prepare();
        broker.restart().await;
        broker
    }

    /// Decides where a broker will be; does not start it yet.
    pub fn prepare() -> Self {
        let installation = Installation::chosen();
        let folder = Folder::new();
        let (port, distribution_port, mapper_port) = (free_port(), free_port(), free_port());
        // Without the port mapper that Erlang's distribution asks for, the broker would start one that stays.
        let mut port_mapper = installation.command("epmd");
        port_mapper.args(["-address", "127.0.0.1", "-port", &mapper_port.to_string()]);
        let port_mapper = Process::start("epmd", &mut port_mapper, &folder.join("epmd.log"));
        Self {
            server: None,
            _port_mapper: port_mapper,
            installation,
            port,
            tls_port: None,
            // One scheduler starts faster than two on a machine that does other things at the same time.
            schedulers: " +S 1:1",
            distribution_port,
            mapper_port,
            folder,
        }
    }

    /// Starts a broker that works with all cores, as one does that is nobody's test.
    pub async fn start_for_measurement() -> Self {
        let mut broker = Self::prepare();
        broker.schedulers = "";
        broker.restart().await;
        broker
    }

    /// Starts a broker that speaks TLS at a port of its own too, with those whose certificate this CA has signed.
    pub async fn start_with_tls(authority: &Authority, identity: &Identity) -> Self {
        let mut broker = Self::prepare();
        broker.tls_port = Some(free_port());
        let Identity { certificate, key } = identity;
        for (name, content) in
            [("ca.crt", &authority.certificate), ("tls.crt", certificate), ("tls.key", key)]
        {
            broker.folder.write(name, content);
        }
        broker.restart().await;
        broker
    }

    /// A broker that tests of one program use together, each under names of its own. It ends with its last user.
    pub async fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Broker>> = Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(broker) = shared.upgrade() {
            return broker;
        }
        let broker = Arc::new(Self::start().await);
        *shared = Arc::downgrade(&broker);
        broker
    }

    /// The value of `AMQP_URL`.
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        self.server.as_ref().expect("the broker runs")
    }

    /// Its port, where it does not speak TLS.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:PORT`, where it speaks TLS.
    pub fn tls_address(&self) -> String {
        format!("127.0.0.1:{}", self.tls_port.expect("the broker has certificates"))
    }

    /// `127.0.0.1:PORT`, where it does not.
    pub fn plain_address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Kills the broker (SIGKILL): what it had not written is lost.
    pub fn kill(&mut self) {
        self.server.take().expect("the broker runs").kill();
    }

    /// Removes everything that it has stored, while it does not run.
    pub fn wipe(&self) {
        count(Counted::Faults, 1);
        assert!(self.server.is_none(), "a running broker cannot be wiped");
        std::fs::remove_dir_all(self.folder.join(DATA)).unwrap();
    }

    /// Tells it something with its own tool (`rabbitmqctl`), which takes seconds.
    pub async fn control(&self, arguments: &[&str]) {
        let mut command = self.with_environment(self.installation.command(CONTROL));
        command.args(arguments);
        let mut control = Process::start("rabbitmqctl", &mut command, &self.folder.join("control.log"));
        let status = control.wait(START_DEADLINE).await;
        assert!(status.success(), "rabbitmqctl {arguments:?}: {}", control.output());
    }

    /// What its own tool (`rabbitmqctl`) says, line by line, which takes seconds.
    pub async fn ask(&self, arguments: &[&str]) -> Vec<String> {
        let mut command = self.with_environment(self.installation.command(CONTROL));
        command.arg("-q").args(arguments);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert!(output.status.success(), "rabbitmqctl {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    /// Lets it stand still (`STOP`) or go on (`CONT`).
    pub fn signal(&self, signal: &str) {
        self.server.as_ref().expect("the broker runs").signal(signal);
    }

    /// Starts it again on the same data, and waits until it accepts connections.
    pub async fn restart(&mut self) {
        let _turn = STARTS.acquire().await.unwrap();
        let mut server = self.with_environment(self.installation.server());
        let server = Process::start("RabbitMQ", &mut server, &self.folder.join("server.log"));
        self.server = Some(server);
        wait_for("the broker to accept connections", START_DEADLINE, async || {
            Connection::connect(&self.url(), ConnectionProperties::default())
                .await
                .map_err(|error| error.to_string())
        })
        .await;
    }

    /// A program of the broker, with the environment that all of them share.
    fn with_environment(&self, mut command: Command) -> Command {
        let folder = |name: &str| {
            let path = self.folder.join(name);
            std::fs::create_dir_all(&path).unwrap();
            path
        };
        // A full disk is nothing that these tests are about.
        let mut config =
            format!("listeners.tcp.1 = 127.0.0.1:{}\ndisk_free_limit.absolute = 1MB\n", self.port);
        if let Some(port) = self.tls_port {
            config += &self.build_tls_config(port);
        }
        self.folder.write("rabbitmq.conf", &config);
        let erlang = format!("-kernel inet_dist_use_interface {{127,0,0,1}}{}", self.schedulers);
        command
            .env("HOME", folder("home"))
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("ERL_EPMD_PORT", self.mapper_port.to_string())
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_CONFIG_FILE", self.folder.join("rabbitmq"))
            .env("RABBITMQ_DIST_PORT", self.distribution_port.to_string())
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", self.folder.write("plugins", "[].\n"))
            .env("RABBITMQ_LOG_BASE", folder("log"))
            .env("RABBITMQ_MNESIA_BASE", folder(DATA))
            .env("RABBITMQ_NODENAME", format!("test-{}@localhost", self.port))
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", erlang)
            // The script becomes the server instead of staying its parent: the process that is killed is the server.
            .env("RUNNING_UNDER_SYSTEMD", "true");
        command
    }

    fn build_tls_config(&self, port: u16) -> String {
        let path = |name: &str| self.folder.join(name).display().to_string();
        format!(
            "listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {}\nssl_options.certfile = {}\n\
             ssl_options.keyfile = {}\nssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n",
            path("ca.crt"),
            path("tls.crt"),
            path("tls.key"),
        )
    }

    /// Connects for what a test does by hand.
    pub async fn by_hand(&self) -> ByHand {
        let connection = Connection::connect(&self.url(), ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        ByHand { _connection: connection, channel }
    }
}

impl ByHand {
    /// For what may fail.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Publishes to an exchange, and waits for the broker's confirm.
    pub async fn publish(&self, exchange: &str, kind: &str, body: &[u8]) {
        count(Counted::Faults, 1);
        let properties = BasicProperties::default().with_delivery_mode(2).with_type(kind.into());
        let publish = self.channel.basic_publish(
            exchange.into(),
            "".into(),
            BasicPublishOptions::default(),
            body,
            properties,
        );
        assert!(matches!(publish.await.unwrap().await.unwrap(), Confirmation::Ack(None)));
    }

    /// Takes every message out of a queue.
    pub async fn drain(&self, queue: &str) -> Vec<Vec<u8>> {
        let mut bodies = Vec::new();
        let options = BasicGetOptions { no_ack: true };
        while let Some(message) = self.channel.basic_get(queue.into(), options).await.unwrap() {
            bodies.push(message.delivery.data);
        }
        bodies
    }

    /// Reads every message of a queue, which is as it was when this is dropped.
    pub async fn peek(&self, queue: &str) -> Vec<Vec<u8>> {
        let mut bodies = Vec::new();
        while let Some(message) =
            self.channel.basic_get(queue.into(), BasicGetOptions::default()).await.unwrap()
        {
            bodies.push(message.delivery.data);
        }
        bodies
    }

    /// How many messages wait in a queue.
    pub async fn depth(&self, queue: &str) -> u32 {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        self.channel
            .queue_declare(queue.into(), options, FieldTable::default())
            .await
            .unwrap()
            .message_count()
    }

    /// Removes every message that waits in a queue without a consumer, as soon as there are so many: what a consumer that is gone had been
    /// given comes back when the broker notices that.
    pub async fn purge_all_of(&self, queue: &str, messages: u32) {
        wait_for("the queue to have everything", START_DEADLINE, async || match self.depth(queue).await {
            depth if depth >= messages => Ok(()),
            depth => Err(depth.to_string()),
        })
        .await;
        self.purge(queue).await;
    }

    /// Removes every message that waits in a queue.
    pub async fn purge(&self, queue: &str) {
        count(Counted::Faults, 1);
        self.channel.queue_purge(queue.into(), QueuePurgeOptions::default()).await.unwrap();
    }

    /// Takes a queue's binding to an exchange away.
    pub async fn unbind(&self, queue: &str, exchange: &str) {
        count(Counted::Faults, 1);
        let unbind =
            self.channel.queue_unbind(queue.into(), exchange.into(), "".into(), FieldTable::default());
        unbind.await.unwrap();
    }

    /// Deletes an exchange with all its bindings.
    pub async fn delete_exchange(&self, exchange: &str) {
        count(Counted::Faults, 1);
        self.channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default()).await.unwrap();
    }

    /// Deletes a queue with its messages and its binding.
    pub async fn delete_queue(&self, queue: &str) {
        count(Counted::Faults, 1);
        self.channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
    }
}
