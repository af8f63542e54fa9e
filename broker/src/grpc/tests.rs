//! The listener against peers that speak HTTP/2 by hand.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{Broker, Config};

/// Longer than anything here takes, shorter than any of the listener's own timeouts.
const DEADLINE: Duration = Duration::from_secs(8);

/// An HTTP/2 frame of stream 1.
fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
    bytes.extend_from_slice(payload);
    bytes
}

/// A connection with a call whose message has begun and does not end.
async fn half_a_call(address: SocketAddr, path: &str) -> TcpStream {
    let mut headers = vec![0x83, 0x86]; // POST, http
    for (name, value) in [
        (":path", path),
        (":authority", "logweir"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        headers.push(0);
        for text in [name, value] {
            headers.push(u8::try_from(text.len()).expect("short"));
            headers.extend_from_slice(text.as_bytes());
        }
    }
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]); // SETTINGS
    bytes.extend(frame(1, 4, &headers));
    bytes.extend(frame(0, 0, &[0, 0, 0, 1, 0, 1, 2, 3]));
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.write_all(&bytes).await.expect("it reads");
    stream
}

/// The server's connection tasks are detached from the task that accepts: after a broker was dropped, or its shutdown
/// had waited long enough, a connection with a call that does not end lived on, and with it the whole broker.
#[tokio::test]
async fn a_dropped_broker_leaves_no_connection_behind() {
    let broker = Broker::start(Config::in_memory()).await.expect("starts");
    let address = broker.grpc_addr().expect("listens");
    let mut peer = half_a_call(address, "/logweir.v1.ProduceService/Produce").await;
    // Its greeting shows that the broker has taken the connection.
    let mut greeting = [0; 9];
    peer.read_exact(&mut greeting).await.expect("a greeting");
    drop(broker);
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(DEADLINE, peer.read_to_end(&mut rest));
    // A clean end or a reset: either way it is gone.
    let _ = ended.await.expect("the connection was cut");
}
