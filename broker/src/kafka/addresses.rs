//! Where clients are told that brokers are.
//!
//! What is configured (`listeners.advertised_kafka`) is told as it is. Without it a client is told the address that it
//! reached this broker by, which works on loopback, over any of the machine's addresses, and with a port that the
//! system chose. Behind a port mapping it must be configured.

use std::net::SocketAddr;

use logweir_proto::NodeId;

use super::call::Peer;
use crate::service::{Image, Service};

/// A broker as a client finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) node_id: NodeId,
    pub(super) host: String,
    pub(super) port: i32,
    pub(super) rack: Option<String>,
}

/// The brokers that have a Kafka listener.
pub(super) fn brokers(service: &Service, image: &Image, peer: &Peer) -> Vec<Address> {
    let own = NodeId::new(service.config.node_id);
    let is_configured = service.config.listeners.advertised_kafka.is_some();
    let brokers = image.brokers.values().filter_map(|broker| {
        let told = broker.addresses.kafka.as_deref().and_then(parse);
        let (host, port) = match peer.reached {
            Some(reached) if broker.node_id == own && !is_configured => of_socket(reached),
            _ => told?,
        };
        Some(Address {
            node_id: broker.node_id,
            host,
            port,
            rack: broker.rack.clone(),
        })
    });
    brokers.collect()
}

fn of_socket(address: SocketAddr) -> (String, i32) {
    (
        address.ip().to_canonical().to_string(),
        address.port().into(),
    )
}

/// HOST:PORT; an IPv6 address stands in brackets, and is told without them.
fn parse(text: &str) -> Option<(String, i32)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    Some((host.to_owned(), port.parse::<u16>().ok()?.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_as_hosts_and_ports() {
        assert_eq!(
            parse("broker.example:9092"),
            Some(("broker.example".to_owned(), 9_092))
        );
        assert_eq!(parse("[::1]:80"), Some(("::1".to_owned(), 80)));
        assert_eq!((parse("nohost"), parse("h:99999")), (None, None));
        let mapped = "[::ffff:127.0.0.1]:9092".parse().unwrap();
        assert_eq!(of_socket(mapped), ("127.0.0.1".to_owned(), 9_092));
    }
}
