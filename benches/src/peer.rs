//! Servers in child processes, so that their processor time is theirs alone.
//!
//! The child is this same executable, told by the environment what to be. It prints its address, and a broker where its
//! metrics are beside it, and ends
//! when its standard input closes: with its parent, at the latest.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use logweir::{Broker, Config, FlushMode};
use tokio::net::TcpListener;

use crate::grpc_load::Server;
use crate::scratch::scratch_folder;
use crate::stubs::Bare;

/// Tells a child what it is.
const ROLE: &str = "LOGWEIR_BENCH_ROLE";

/// What a child process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A broker on a disk whose topics leave flushing to the operating system.
    Broker,
    /// A broker on a disk whose topics flush before they acknowledge.
    DurableBroker,
    /// Bare tonic: a sink, and a source of `total_bytes` in responses of `response_bytes`.
    Bare {
        /// Bytes sent to each reader.
        total_bytes: usize,
        /// Bytes of records in each response.
        response_bytes: usize,
    },
}

impl Role {
    fn to_text(self) -> String {
        match self {
            Self::Broker => "broker".to_owned(),
            Self::DurableBroker => "durable-broker".to_owned(),
            Self::Bare {
                total_bytes,
                response_bytes,
            } => format!("bare {total_bytes} {response_bytes}"),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        match words.next()? {
            "broker" => Some(Self::Broker),
            "durable-broker" => Some(Self::DurableBroker),
            "bare" => Some(Self::Bare {
                total_bytes: words.next()?.parse().ok()?,
                response_bytes: words.next()?.parse().ok()?,
            }),
            _ => None,
        }
    }
}

/// A server in a child process; ended when dropped.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    address: String,
    /// Where a broker serves its metrics.
    http: Option<String>,
}

impl Peer {
    /// Starts a server and waits until it listens.
    ///
    /// # Panics
    /// If it does not.
    #[must_use]
    pub fn start(role: Role) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("a program has a path"))
            .env(ROLE, role.to_text())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program can be started again");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("a pipe can be read");
        let mut addresses = line.split_whitespace().map(str::to_owned);
        let address = addresses.next();
        Self {
            child,
            address: address.unwrap_or_else(|| panic!("{role:?} did not start")),
            http: addresses.next(),
        }
    }

    /// A sample without labels from a broker's metrics, such as `logweir_log_flushes_total`.
    ///
    /// # Panics
    /// If it is no broker, or has no such metric.
    #[must_use]
    pub fn metric(&self, name: &str) -> u64 {
        let address = self.http.as_ref().expect("brokers serve metrics");
        let mut stream = TcpStream::connect(address).expect("it listens");
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\n\r\n");
        stream
            .write_all(request.as_bytes())
            .expect("it takes a request");
        let mut page = String::new();
        // It closes the connection after the one request.
        stream.read_to_string(&mut page).expect("it answers");
        let value = page
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value
            .and_then(|value| value.trim().parse().ok())
            .unwrap_or_else(|| panic!("no {name} in:\n{page}"))
    }

    /// Where it listens, and its process.
    #[must_use]
    pub fn server(&self) -> Server<'_> {
        Server {
            address: &self.address,
            pid: self.child.id(),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Its end; it may be gone already.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Serves and ends the process, if it was started as a [`Peer`]. To be called first in `main`.
///
/// # Panics
/// If the server cannot be started.
pub fn serve_if_told() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let role = Role::parse(&role).expect("a parent says what it wants");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made");
    runtime.block_on(async {
        match role {
            Role::Broker => serve_broker(FlushMode::Os).await,
            Role::DurableBroker => serve_broker(FlushMode::PerAck).await,
            Role::Bare {
                total_bytes,
                response_bytes,
            } => {
                announce(&serve_bare(total_bytes, response_bytes).await);
                end_of_input().await;
            }
        }
    });
    std::process::exit(0);
}

/// Serves bare tonic in this process, on a port of the system's choice, and gives `HOST:PORT`: a sink, and a source of
/// `total_bytes` in responses of `response_bytes`.
///
/// # Panics
/// If there is no port.
pub async fn serve_bare(total_bytes: usize, response_bytes: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it is bound").to_string();
    tokio::spawn(Bare::new(total_bytes, response_bytes).serve(listener));
    address
}

async fn serve_broker(flush: FlushMode) {
    let folder = scratch_folder();
    let mut config = Config::on_dir(folder.path()).with_flush(flush);
    config.log.segment_bytes = 128 << 20;
    let broker = Broker::start(config).await.expect("a broker starts");
    let grpc = broker.grpc_addr().expect("gRPC is on");
    let http = broker.http_addr().expect("HTTP is on");
    announce(&format!("{grpc} {http}"));
    end_of_input().await;
    // Not shut down: nothing of it is kept.
    drop(broker);
}

fn announce(address: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{address}")
        .and_then(|()| out.flush())
        .expect("the parent reads");
}

async fn end_of_input() {
    let until_end = || std::io::stdin().read_to_end(&mut Vec::new());
    // However it ends, the parent is gone.
    let _ = tokio::task::spawn_blocking(until_end).await;
}
