//! The way to the broker.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::{Gate, Turn};

/// What a client begins with, before the first frame.
const PREAMBLE_BYTES: usize = 8;

const METHOD_FRAME: u8 = 1;

/// A proxy on loopback. Its connections end when this is dropped.
#[derive(Debug)]
pub struct AmqpProxy {
    port: u16,
    gate: watch::Sender<Gate>,
    server: JoinHandle<()>,
}

/// What is on the broker of what came through proxies: an exchange, a queue or a binding each.
#[derive(Clone)]
pub struct BrokerModel(Arc<Mutex<Model>>);

struct Model {
    objects: BTreeSet<String>,
    /// Whether there may be a node that uses this queue.
    is_used: Box<dyn Fn(&str) -> bool + Send>,
    violations: Vec<String>,
}

impl BrokerModel {
    /// An empty one.
    pub fn new(is_used: impl Fn(&str) -> bool + Send + 'static) -> Self {
        let model = Model { objects: BTreeSet::new(), is_used: Box::new(is_used), violations: Vec::new() };
        Self(Arc::new(Mutex::new(model)))
    }

    /// What was done to queues that nobody may do to them: one was unbound or deleted while its node had a pod, or deleted while it was
    /// bound.
    pub fn violations(&self) -> Vec<String> {
        self.0.lock().unwrap().violations.clone()
    }

    fn action(&self, frame: &Frame) -> Option<String> {
        self.note(&frame.method()?)
    }

    /// The action, if this changes anything.
    fn note(&self, method: &Method) -> Option<String> {
        let mut model = self.0.lock().unwrap();
        let (queue, exchange) = (&method.queue, &method.exchange);
        let binding = format!("binding {queue} of {exchange}");
        match method.name {
            "exchange.declare" if !method.passive => model.add(format!("exchange {exchange}")),
            "queue.declare" if !method.passive => model.add(format!("queue {queue}")),
            "queue.bind" => model.add(binding),
            "queue.unbind" => {
                model.check_unused(queue, "unbound");
                model.remove(&binding)
            }
            "queue.delete" => {
                model.check_unused(queue, "deleted");
                let bindings = format!("binding {queue} of ");
                if model.objects.iter().any(|object| object.starts_with(&bindings)) {
                    model.violations.push(format!("{queue} was deleted while it was bound"));
                }
                model.objects.retain(|object| !object.starts_with(&bindings));
                model.remove(&format!("queue {queue}"))
            }
            "exchange.delete" => model.remove(&format!("exchange {exchange}")),
            "basic.publish" => true,
            _ => false,
        }
        .then(|| format!("{} {queue}{exchange}", method.name))
    }
}

impl Model {
    fn add(&mut self, object: String) -> bool {
        self.objects.insert(object)
    }

    fn remove(&mut self, object: &str) -> bool {
        self.objects.remove(object)
    }

    fn check_unused(&mut self, queue: &str, what: &str) {
        if (self.is_used)(queue) {
            self.violations.push(format!("{queue} was {what} while its node had a pod"));
        }
    }
}

impl AmqpProxy {
    /// A proxy for the broker at this port of loopback, through which nothing is changed yet.
    pub async fn start(broker: u16, model: BrokerModel) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let gate = watch::Sender::new(Gate::new(0));
        Self { port, gate: gate.clone(), server: tokio::spawn(serve(listener, broker, gate, model)) }
    }

    /// Connections that begin from now on have this gate.
    pub fn set_gate(&self, gate: Gate) {
        self.gate.send_replace(gate);
    }

    /// Where it listens on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for AmqpProxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, broker: u16, gate: watch::Sender<Gate>, model: BrokerModel) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let (gate, model) = (gate.borrow().clone(), model.clone());
        connections.spawn(async move {
            let Ok(server) = TcpStream::connect(("127.0.0.1", broker)).await else { return };
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            // The channel of the last action, once it is on its way.
            let last = Arc::new(Mutex::new(None));
            // However one side ends, so does the other.
            tokio::select! {
                _ = carry_requests(from_client, to_server, &gate, &model, &last) => {}
                _ = carry_answers(from_server, to_client, &gate, &last) => {}
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

type LastChannel = Arc<Mutex<Option<u16>>>;

async fn carry_requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    gate: &Gate,
    model: &BrokerModel,
    last: &LastChannel,
) -> io::Result<()> {
    let mut preamble = [0; PREAMBLE_BYTES];
    from.read_exact(&mut preamble).await?;
    to.write_all(&preamble).await?;
    let mut is_open = true;
    loop {
        // What does not get through is read all the same: the end comes after it.
        let frame = Frame::read(&mut from).await?;
        if is_open {
            match model.action(&frame).map_or(Turn::Pass, |action| gate.take(action)) {
                Turn::Pass => {}
                Turn::Last => *last.lock().unwrap() = Some(frame.channel),
                Turn::Never => is_open = false,
            }
        }
        if is_open {
            to.write_all(&frame.bytes).await?;
        }
    }
}

async fn carry_answers(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    gate: &Gate,
    last: &LastChannel,
) -> io::Result<()> {
    let mut is_open = true;
    loop {
        let frame = Frame::read(&mut from).await?;
        if *last.lock().unwrap() == Some(frame.channel) {
            gate.close();
            is_open = false;
        }
        if is_open {
            to.write_all(&frame.bytes).await?;
        }
    }
}

struct Frame {
    kind: u8,
    channel: u16,
    /// All of it.
    bytes: Vec<u8>,
}

/// What is of interest in a method.
#[derive(Debug, Default, PartialEq, Eq)]
struct Method {
    name: &'static str,
    exchange: String,
    queue: String,
    passive: bool,
}

impl Frame {
    async fn read(from: &mut OwnedReadHalf) -> io::Result<Self> {
        let mut head = [0; 7];
        from.read_exact(&mut head).await?;
        let [kind, c1, c2, s1, s2, s3, s4] = head;
        let size = u32::from_be_bytes([s1, s2, s3, s4]) as usize;
        let mut bytes = head.to_vec();
        // With the byte that ends it.
        bytes.resize(head.len() + size + 1, 0);
        from.read_exact(&mut bytes[head.len()..]).await?;
        Ok(Self { kind, channel: u16::from_be_bytes([c1, c2]), bytes })
    }

    fn method(&self) -> Option<Method> {
        let mut rest = Reader(self.bytes.get(7..).filter(|_| self.kind == METHOD_FRAME)?);
        let name = match (rest.number()?, rest.number()?) {
            (40, 10) => "exchange.declare",
            (40, 20) => "exchange.delete",
            (50, 10) => "queue.declare",
            (50, 20) => "queue.bind",
            (50, 40) => "queue.delete",
            (50, 50) => "queue.unbind",
            (60, 40) => "basic.publish",
            _ => return None,
        };
        let mut method = Method { name, ..Method::default() };
        let _reserved = rest.number()?;
        if name.starts_with("queue") {
            method.queue = rest.text()?;
        }
        if !matches!(name, "queue.declare" | "queue.delete") {
            method.exchange = rest.text()?;
        }
        if name == "exchange.declare" {
            let _type = rest.text()?;
        }
        if name.ends_with("declare") {
            method.passive = rest.0.first()? & 1 == 1;
        }
        Some(method)
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn number(&mut self) -> Option<u16> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*number))
    }

    fn text(&mut self) -> Option<String> {
        let (length, rest) = self.0.split_first()?;
        let (text, rest) = rest.split_at_checked((*length).into())?;
        self.0 = rest;
        Some(String::from_utf8_lossy(text).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn method(name: &'static str, queue: &str, exchange: &str) -> Method {
        Method { name, queue: queue.to_owned(), exchange: exchange.to_owned(), passive: false }
    }

    #[test]
    fn a_method_is_read_from_its_frame() {
        // queue.declare of "q", durable, and passive beside it.
        for (bits, passive) in [(2, false), (3, true)] {
            let payload = [0, 50, 0, 10, 0, 0, 1, b'q', bits, 0, 0, 0, 0];
            let head = [METHOD_FRAME, 0, 7, 0, 0, 0, 13];
            let frame =
                Frame { kind: METHOD_FRAME, channel: 7, bytes: [&head[..], &payload, &[0xce]].concat() };
            assert_eq!(frame.method(), Some(Method { passive, ..method("queue.declare", "q", "") }));
        }
    }

    #[test]
    fn only_what_changes_something_is_an_action() {
        let model = BrokerModel::new(|_| false);
        let declare = method("queue.declare", "q", "");
        assert_eq!(model.note(&Method { passive: true, ..method("queue.declare", "q", "") }), None);
        assert_eq!(model.note(&declare).as_deref(), Some("queue.declare q"));
        assert_eq!(model.note(&declare), None);
        assert!(model.note(&method("queue.bind", "q", "e")).is_some());
        assert!(model.note(&method("queue.bind", "q", "e")).is_none());
        assert!(model.note(&method("queue.unbind", "q", "e")).is_some());
        assert!(model.note(&method("queue.delete", "q", "")).is_some());
        assert!(model.note(&method("queue.delete", "q", "")).is_none());
        assert_eq!(model.violations(), [""; 0]);
    }

    #[test]
    fn a_queue_that_goes_too_early_is_noticed() {
        let model = BrokerModel::new(|queue| queue == "used");
        for queue in ["used", "free"] {
            model.note(&method("queue.declare", queue, ""));
            model.note(&method("queue.bind", queue, "e"));
            model.note(&method("queue.delete", queue, ""));
        }
        assert_eq!(
            model.violations(),
            [
                "used was deleted while its node had a pod",
                "used was deleted while it was bound",
                "free was deleted while it was bound"
            ]
        );
    }
}
