//! The real broker as a child process: started, killed, ended, and started again where it was.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::process::free_port;
use crate::program::binary;
use crate::wait::{DEADLINE, wait_until};

/// How many lines of a broker's log are kept to be shown when a test fails.
const KEPT_LINES: usize = 400;

/// How to start a broker: `logweir serve` with these flags, its listeners on free ports.
#[derive(Clone, Debug, Default)]
pub struct ServeOptions {
    data_dir: Option<PathBuf>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

impl ServeOptions {
    /// A broker whose data lies in `data_dir`.
    #[must_use]
    pub fn on_disk(data_dir: &Path) -> Self {
        Self {
            data_dir: Some(data_dir.to_owned()),
            ..Self::default()
        }
    }

    /// A broker that keeps everything in memory.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::default()
    }

    /// Adds flags.
    #[must_use]
    pub fn args(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(|a| (*a).to_owned()));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts the broker and waits until it is ready.
    ///
    /// # Panics
    /// With the broker's log, if it ends or is not ready in time.
    #[must_use]
    pub fn start(self) -> BrokerProcess {
        BrokerProcess::start(self)
    }
}

/// What a broker writes to its ready file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The process's id.
    pub pid: u32,
    /// `HOST:PORT` of the Kafka listener.
    pub kafka: Option<String>,
    /// `HOST:PORT` of the gRPC listener.
    pub grpc: Option<String>,
    /// `HOST:PORT` of the HTTP listener.
    pub http: Option<String>,
}

/// A running (or ended) broker. Dropped, it is killed; where a test panics, its log is printed.
#[derive(Debug)]
pub struct BrokerProcess {
    options: ServeOptions,
    grpc_port: u16,
    http_port: u16,
    ready_file: tempfile::TempDir,
    child: Child,
    ready: Option<Ready>,
    log: Arc<Mutex<VecDeque<String>>>,
    readers: Vec<thread::JoinHandle<()>>,
}

impl BrokerProcess {
    fn start(options: ServeOptions) -> Self {
        let mut broker = Self::spawn(options);
        broker.await_ready();
        broker
    }

    /// Starts a broker without waiting for it: for those that must refuse.
    ///
    /// # Panics
    /// If the program cannot be started.
    #[must_use]
    pub fn spawn(options: ServeOptions) -> Self {
        let ready_file = tempfile::tempdir().expect("a temporary folder can be made");
        let (grpc_port, http_port) = (free_port(), free_port());
        let log = Arc::default();
        let (child, readers) = launch(&options, grpc_port, http_port, ready_file.path(), &log);
        Self {
            options,
            grpc_port,
            http_port,
            ready_file,
            child,
            ready: None,
            log,
            readers,
        }
    }

    fn await_ready(&mut self) {
        let path = self.ready_file.path().join("ready.json");
        let started = Instant::now();
        wait_until("the broker is ready", DEADLINE, || {
            // The file appears whole: it is renamed into place.
            if path.exists() {
                return true;
            }
            if let Some(status) = self.child.try_wait().expect("a child can be asked") {
                panic!(
                    "the broker ended with {status} before it was ready:\n{}",
                    self.log()
                );
            }
            assert!(
                started.elapsed() < DEADLINE,
                "the broker is not ready:\n{}",
                self.log()
            );
            false
        });
        let line = fs::read_to_string(&path).expect("the ready file can be read");
        let ready = Ready::parse(&line);
        assert_eq!(
            ready.pid,
            self.child.id(),
            "the ready file tells this process"
        );
        self.ready = Some(ready);
    }

    /// Whether the broker has written its ready file.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready_file.path().join("ready.json").exists()
    }

    /// What the ready file says.
    ///
    /// # Panics
    /// If the broker never was ready.
    #[must_use]
    pub fn ready(&self) -> &Ready {
        self.ready.as_ref().expect("the broker was ready")
    }

    /// `HOST:PORT` of the Kafka listener, which is off unless it was asked for.
    ///
    /// # Panics
    /// If it is off.
    #[must_use]
    pub fn kafka(&self) -> &str {
        self.ready()
            .kafka
            .as_deref()
            .expect("the Kafka listener is on")
    }

    /// `HOST:PORT` of the gRPC listener; the same after a restart.
    ///
    /// # Panics
    /// If it is off.
    #[must_use]
    pub fn grpc(&self) -> &str {
        self.ready()
            .grpc
            .as_deref()
            .expect("the gRPC listener is on")
    }

    /// `HOST:PORT` of the HTTP listener; the same after a restart.
    ///
    /// # Panics
    /// If it is off.
    #[must_use]
    pub fn http(&self) -> &str {
        self.ready()
            .http
            .as_deref()
            .expect("the HTTP listener is on")
    }

    /// The process's id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills the process as `kill -9` does and waits until it is gone.
    ///
    /// # Panics
    /// If it cannot be killed.
    pub fn kill9(&mut self) {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a child can be waited for");
        self.join_readers();
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// If there is no such process.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("process ids are positive"), signal).expect("the process is there");
    }

    /// Waits for the process to end.
    ///
    /// # Panics
    /// If it has not ended within `deadline`.
    pub fn wait_exit(&mut self, deadline: Duration) -> ExitStatus {
        let mut status = None;
        wait_until("the broker ends", deadline, || {
            status = self.child.try_wait().expect("a child can be asked");
            status.is_some()
        });
        self.join_readers();
        status.expect("the loop ended with it")
    }

    /// Ends the broker with SIGTERM.
    ///
    /// # Panics
    /// If it does not end with 0 in time.
    pub fn terminate(&mut self) {
        self.signal(Signal::TERM);
        let status = self.wait_exit(DEADLINE);
        assert!(status.success(), "SIGTERM gave {status}:\n{}", self.log());
    }

    /// Starts the broker again, with the same flags, data and ports, after it has ended.
    ///
    /// # Panics
    /// If it still runs, or is not ready in time.
    pub fn restart(&mut self) {
        self.respawn();
        self.await_ready();
    }

    /// Like [`restart`](Self::restart), but does not wait until it is ready.
    ///
    /// # Panics
    /// If it still runs.
    pub fn respawn(&mut self) {
        let ended = self
            .child
            .try_wait()
            .expect("a child can be asked")
            .is_some();
        assert!(ended, "end the broker before it is started again");
        self.ready_file = tempfile::tempdir().expect("a temporary folder can be made");
        let folder = self.ready_file.path();
        (self.child, self.readers) = launch(
            &self.options,
            self.grpc_port,
            self.http_port,
            folder,
            &self.log,
        );
    }

    /// The last lines that the broker wrote, of all its lives.
    ///
    /// # Panics
    /// If a thread panicked while it wrote here.
    #[must_use]
    pub fn log(&self) -> String {
        let lines = self.log.lock().expect("nothing panics with the lock held");
        lines.iter().map(|line| format!("  | {line}\n")).collect()
    }

    fn join_readers(&mut self) {
        for reader in self.readers.drain(..) {
            reader.join().expect("reading a pipe does not panic");
        }
    }
}

impl Drop for BrokerProcess {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if thread::panicking() {
            eprintln!("what the broker wrote last:\n{}", self.log());
        }
    }
}

impl Ready {
    /// Reads the one line of a ready file.
    ///
    /// # Panics
    /// If it is not what `logweir serve --ready-file` promises.
    #[must_use]
    pub fn parse(line: &str) -> Self {
        let json: serde_json::Value = serde_json::from_str(line).expect("the line is JSON");
        let address = |name: &str| {
            let value = json
                .get(name)
                .unwrap_or_else(|| panic!("no `{name}` in {line}"));
            value.as_str().map(str::to_owned)
        };
        let pid = json["pid"]
            .as_u64()
            .and_then(|pid| u32::try_from(pid).ok())
            .expect("a pid");
        Self {
            pid,
            kafka: address("kafka"),
            grpc: address("grpc"),
            http: address("http"),
        }
    }
}

fn launch(
    options: &ServeOptions,
    grpc_port: u16,
    http_port: u16,
    ready_folder: &Path,
    log: &Arc<Mutex<VecDeque<String>>>,
) -> (Child, Vec<thread::JoinHandle<()>>) {
    let mut command = Command::new(binary());
    command.arg("serve");
    match &options.data_dir {
        Some(data_dir) => command.arg("--data-dir").arg(data_dir),
        None => command.arg("--in-memory"),
    };
    let given = |flag: &str| options.arguments.iter().any(|a| a == flag);
    if !given("--grpc") {
        command.arg("--grpc").arg(format!("127.0.0.1:{grpc_port}"));
    }
    if !given("--http") {
        command.arg("--http").arg(format!("127.0.0.1:{http_port}"));
    }
    if !given("--kafka") {
        command.args(["--kafka", "off"]);
    }
    if !given("--ready-file") {
        command
            .arg("--ready-file")
            .arg(ready_folder.join("ready.json"));
    }
    command.args(&options.arguments);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LOGWEIR_") {
            command.env_remove(name);
        }
    }
    command.envs(
        options
            .environment
            .iter()
            .map(|(name, value)| (name, value)),
    );
    command.env("NO_COLOR", "1").stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program can be started");
    let readers = [
        child
            .stdout
            .take()
            .map(|pipe| keep_lines("out", pipe, Arc::clone(log))),
        child
            .stderr
            .take()
            .map(|pipe| keep_lines("err", pipe, Arc::clone(log))),
    ];
    (child, readers.into_iter().flatten().collect())
}

/// Reads a pipe to its end and keeps its last lines. The pipe must be read, or its writer would wait.
fn keep_lines(
    name: &'static str,
    pipe: impl Read + Send + 'static,
    log: Arc<Mutex<VecDeque<String>>>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let mut lines = log.lock().expect("nothing panics with the lock held");
            if lines.len() == KEPT_LINES {
                lines.pop_front();
            }
            lines.push_back(format!("{name}: {}", String::from_utf8_lossy(&line)));
        }
    })
}
