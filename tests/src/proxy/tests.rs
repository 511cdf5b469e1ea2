use tokio::time::{Instant, timeout};

use super::*;

/// Long enough for loopback on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long nothing must come for it to count as nothing.
const SILENCE: Duration = Duration::from_millis(100);

/// A server that sends back what it gets, and the proxy before it.
async fn echo() -> Proxy {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.into_split();
                let _ended = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    Proxy::start(port)
}

async fn connect(proxy: &Proxy) -> TcpStream {
    let end = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < end, "the proxy does not listen: {error}"),
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// A connection that has carried something.
async fn connected(proxy: &Proxy) -> TcpStream {
    let mut stream = connect(proxy).await;
    stream.write_all(b"hello").await.unwrap();
    assert_eq!(receive(&mut stream, 5).await, b"hello");
    stream
}

async fn receive(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    timeout(PATIENCE, stream.read_exact(&mut bytes)).await.unwrap().unwrap();
    bytes
}

async fn is_silent(stream: &mut TcpStream) -> bool {
    timeout(SILENCE, stream.read(&mut [0; 8])).await.is_err()
}

async fn is_closed(stream: &mut TcpStream) -> bool {
    matches!(timeout(PATIENCE, stream.read(&mut [0; 8])).await.unwrap(), Ok(0) | Err(_))
}

#[tokio::test]
async fn a_cut_ends_the_connections_that_are_there_and_no_later_one() {
    let proxy = echo().await;
    let mut before = connected(&proxy).await;
    proxy.cut();
    assert!(is_closed(&mut before).await);
    connected(&proxy).await;
}

#[tokio::test]
async fn while_refusing_there_is_no_connection_and_afterwards_there_is() {
    let proxy = echo().await;
    let mut before = connected(&proxy).await;
    proxy.set(Fault::Refuse);
    assert!(is_closed(&mut before).await);
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await.is_err());
    proxy.set(Fault::None);
    connected(&proxy).await;
}

#[tokio::test]
async fn what_is_held_arrives_when_the_hold_ends() {
    let proxy = echo().await;
    let mut before = connected(&proxy).await;
    proxy.set(Fault::Hold);
    before.write_all(b"late").await.unwrap();
    let mut during = connect(&proxy).await;
    during.write_all(b"too").await.unwrap();
    assert!(is_silent(&mut before).await && is_silent(&mut during).await);
    proxy.set(Fault::None);
    assert_eq!(receive(&mut before, 4).await, b"late");
    assert_eq!(receive(&mut during, 3).await, b"too");
}

#[tokio::test]
async fn what_is_lost_stays_lost_and_its_connection_ends() {
    for direction in [Direction::ToBroker, Direction::FromBroker] {
        let proxy = echo().await;
        let mut stream = connected(&proxy).await;
        proxy.set(Fault::Lose(direction));
        stream.write_all(b"lost").await.unwrap();
        assert!(is_silent(&mut stream).await, "{direction:?}");
        proxy.set(Fault::None);
        assert!(is_closed(&mut stream).await, "{direction:?}");
        connected(&proxy).await;
    }
}

#[tokio::test]
async fn a_direction_that_loses_nothing_goes_on() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let proxy = Proxy::start(listener.local_addr().unwrap().port());
    let mut client = connect(&proxy).await;
    let (mut server, _) = listener.accept().await.unwrap();
    proxy.set(Fault::Lose(Direction::FromBroker));
    server.write_all(b"lost").await.unwrap();
    client.write_all(b"there").await.unwrap();
    assert_eq!(receive(&mut server, 5).await, b"there");
    assert!(is_silent(&mut client).await);
}

#[tokio::test]
async fn delayed_and_throttled_bytes_are_late_but_all_arrive() {
    let proxy = echo().await;
    // There and back.
    let slow = [(Fault::Delay(SILENCE), 2 * SILENCE), (Fault::Throttle(2_000), Duration::from_millis(500))];
    for (fault, at_least) in slow {
        let mut stream = connected(&proxy).await;
        proxy.set(fault);
        let started = Instant::now();
        stream.write_all(&[7; 1_000]).await.unwrap();
        assert_eq!(receive(&mut stream, 1_000).await, [7; 1_000]);
        assert!(started.elapsed() >= at_least, "{fault:?}: {:?}", started.elapsed());
        proxy.set(Fault::None);
    }
}
