//! What the system tells about a process, and ports for brokers that must come back where they were.

use std::fs;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// A port nobody listens on now, below the range from which systems choose ports for outgoing
/// connections: a port of that range may be taken, or even connected to itself, while a broker that
/// listened on it is down.
///
/// # Panics
/// If none is free.
#[must_use]
pub fn free_port() -> u16 {
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test processes that run at the same time begin at different places.
    let start = u16::try_from(std::process::id() % u32::from(COUNT)).expect("below 20,000");
    (0..COUNT)
        .map(|_| FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("one of 20,000 ports is free")
}

/// A process's memory, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct ResidentBytes {
    /// Anonymous memory in use now: heap and stacks.
    pub anonymous: u64,
    /// Pages of mapped files in use now.
    pub file: u64,
}

impl ResidentBytes {
    /// Reads it from `/proc`.
    ///
    /// # Panics
    /// If there is no such process.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
        let field = |name: &str| {
            let line = status
                .lines()
                .find(|l| l.starts_with(name))
                .expect("/proc has the field");
            let kib = line
                .split_whitespace()
                .nth(1)
                .and_then(|n| n.parse::<u64>().ok());
            kib.expect("/proc counts in kB") * 1024
        };
        Self {
            anonymous: field("RssAnon:"),
            file: field("RssFile:"),
        }
    }
}

/// How many files and sockets a process has open.
#[must_use]
pub fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Whether a process runs: it exists and is not a zombie.
#[must_use]
pub fn is_running(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        stat.rsplit(')')
            .next()
            .is_some_and(|rest| !rest.starts_with(" Z"))
    })
}
