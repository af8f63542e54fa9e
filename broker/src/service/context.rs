//! Who asks, over which listener, until when, and under which names.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

/// The front end a request came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListenerKind {
    /// gRPC over a socket, or in process.
    Grpc,
    /// Kafka's own protocol.
    Kafka,
}

impl fmt::Display for ListenerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Grpc => "grpc",
            Self::Kafka => "kafka",
        })
    }
}

/// On whose behalf a request is made. Until authentication exists everybody is `ANONYMOUS`, as in Kafka.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Principal(Arc<str>);

impl Principal {
    pub(crate) fn anonymous() -> Self {
        Self(Arc::from("User:ANONYMOUS"))
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How the caller's topic names map to the broker's own. Identity today; environments will prefix here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NameMapping;

impl NameMapping {
    /// The broker's name for the caller's.
    #[expect(clippy::unused_self, reason = "environments will carry a prefix")]
    pub(crate) fn to_inner<'a>(self, name: &'a str) -> Cow<'a, str> {
        Cow::Borrowed(name)
    }
}

/// What every service call is told about its caller.
#[derive(Clone, Debug)]
pub(crate) struct RequestContext {
    pub(crate) principal: Principal,
    pub(crate) listener: ListenerKind,
    /// As the client calls itself; empty if it does not say.
    pub(crate) client_id: Arc<str>,
    /// Where the client connects from: an IP address, or "in-process".
    pub(crate) client_host: Arc<str>,
    /// The client's software and version, such as `logweir-client/0.1.0`; empty if it does not say.
    pub(crate) client_software: Arc<str>,
    /// When the caller stops waiting for an answer.
    pub(crate) deadline: Option<Instant>,
    pub(crate) names: NameMapping,
    /// Cuts the connection the request came on; `None` in tests that have none.
    pub(crate) connection: Option<CancellationToken>,
}

impl RequestContext {
    /// Waits until the connection is cut.
    pub(crate) async fn cut(&self) {
        match &self.connection {
            Some(connection) => connection.cancelled().await,
            None => std::future::pending().await,
        }
    }

    /// Logs a change that somebody asked for and got.
    pub(crate) fn log_change(&self, what: &str, topic: &str) {
        tracing::info!(topic, principal = %self.principal, listener = %self.listener,
            client_id = %self.client_id, client_software = %self.client_software, "{what}");
    }
}
