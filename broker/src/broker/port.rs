//! The ports a broker listens on, held from its start to its end, also while it is down after a crash.
//!
//! A socket that is bound but does not listen keeps the system from giving the port to others who ask for any, and
//! refuses connections like a machine whose broker is dead. The listener is a second socket on the same
//! address. Who asks for this very port may still get it while the broker is down; the restart then fails.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

use crate::config::ListenAddr;
use crate::error::BrokerError;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1_024;

/// A port held for one listener.
#[derive(Debug)]
pub(super) struct Port {
    name: &'static str,
    address: SocketAddr,
    _held: TcpSocket,
}

impl Port {
    /// Takes the port, if the listener is on. Port 0 lets the system choose.
    ///
    /// # Errors
    /// [`BrokerError::Listen`] for an address that cannot be had; one in use shows only in [`Port::listen`].
    pub(super) async fn take(
        name: &'static str,
        address: &ListenAddr,
    ) -> Result<Option<Self>, BrokerError> {
        let Some(wanted) = address.address() else {
            return Ok(None);
        };
        let failed = |source| BrokerError::Listen {
            listener: name,
            address: wanted.to_owned(),
            source,
        };
        let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no address");
        for address in tokio::net::lookup_host(wanted).await.map_err(failed)? {
            match bind(address).and_then(|held| Ok((held.local_addr()?, held))) {
                Ok((address, held)) => {
                    return Ok(Some(Self {
                        name,
                        address,
                        _held: held,
                    }));
                }
                Err(error) => last = error,
            }
        }
        Err(failed(last))
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Begins to listen. At most one listener at a time.
    ///
    /// # Errors
    /// [`BrokerError::Listen`], if somebody else listens there.
    pub(super) fn listen(&self) -> Result<TcpListener, BrokerError> {
        bind(self.address)
            .and_then(|socket| socket.listen(BACKLOG))
            .map_err(|source| BrokerError::Listen {
                listener: self.name,
                address: self.address.to_string(),
                source,
            })
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Two sockets on one address, of which at most one listens, and no wait after connections that ended.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn a_port_is_kept_while_nobody_listens_and_refuses_connections() {
        let any: ListenAddr = "127.0.0.1:0".parse().expect("valid");
        let port = Port::take("grpc", &any).await.expect("free").expect("on");
        let refused = TcpStream::connect(port.address()).await;
        let refused = refused.expect_err("nobody listens");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        for _ in 0..2 {
            let listener = port.listen().expect("listens");
            TcpStream::connect(port.address()).await.expect("connects");
            assert!(port.listen().is_err(), "one listener at a time");
            drop(listener);
        }
        let others: Vec<_> = (0..200)
            .map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a free port"))
            .collect();
        let chosen = others
            .iter()
            .map(|other| other.local_addr().expect("bound"));
        assert!(chosen.into_iter().all(|chosen| chosen != port.address()));
    }

    #[tokio::test]
    async fn a_port_that_somebody_listens_on_is_an_error_that_names_it() {
        let other = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = other.local_addr().expect("bound");
        let wanted: ListenAddr = address.to_string().parse().expect("valid");
        let error = match Port::take("grpc", &wanted).await {
            Err(error) => error,
            Ok(port) => port.expect("on").listen().expect_err("in use"),
        };
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
}
