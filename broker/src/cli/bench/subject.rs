//! The broker under test: one that runs already, or one that is started for the occasion; and what it used.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use indicatif::BinaryBytes;
use logweir_client::Client;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::super::connection::ServerArgs;
use super::process;
use super::report::{Report, to_f64};

/// How often the broker's memory is looked at.
const MEMORY_INTERVAL: Duration = Duration::from_millis(100);

/// Which broker is put under load.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Broker")]
pub(super) struct SubjectArgs {
    /// Start a broker of this program in a temporary folder, and end it afterwards. Not with --server, --pid or --ready-file
    #[arg(long, conflicts_with_all = ["pid", "ready_file"])]
    spawn: bool,
    /// With --spawn: a broker that keeps everything in memory
    #[arg(long, requires = "spawn")]
    in_memory: bool,
    /// With --spawn: make the temporary folder in this one, whose disk is then measured
    #[arg(long, requires = "spawn", value_name = "DIR")]
    spawn_in: Option<PathBuf>,
    /// The broker's process id on this machine: its processor time and memory are told
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..=i64::from(i32::MAX)))]
    pid: Option<u32>,
    /// Take address and process id from the ready file of `logweir serve`
    #[arg(long, value_name = "FILE", conflicts_with = "pid")]
    ready_file: Option<PathBuf>,
    #[command(flatten)]
    server: ServerArgs,
}

/// A broker that can be reached.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) client: Client,
    pid: Option<u32>,
    /// Ended when dropped.
    spawned: Option<Spawned>,
}

impl SubjectArgs {
    /// Starts or reaches the broker.
    ///
    /// # Errors
    /// It cannot be started or reached, or there is no such process.
    pub(super) async fn reach(&self) -> anyhow::Result<Subject> {
        let mut server = self.server.clone();
        let mut pid = self.pid;
        let mut spawned = None;
        if self.spawn {
            let options = SpawnOptions {
                folder: self.spawn_in.clone(),
                in_memory: self.in_memory,
                ..SpawnOptions::default()
            };
            let started = tokio::task::spawn_blocking(move || Spawned::start(&options)).await??;
            server.server.clone_from(&started.address);
            pid = Some(started.pid());
            spawned = Some(started);
        } else if let Some(file) = &self.ready_file {
            let line = std::fs::read_to_string(file)
                .with_context(|| format!("cannot read --ready-file {}", file.display()))?;
            let (address, process) =
                parse_ready(&line).with_context(|| format!("--ready-file {}", file.display()))?;
            server.server = address;
            pid = Some(process);
        }
        if let Some(pid) = pid {
            process::cpu_time(pid).context("there is no such broker on this machine")?;
        }
        let client = server.connect().await?;
        Ok(Subject {
            client,
            pid,
            spawned,
        })
    }
}

impl Subject {
    /// Begins to note what the broker uses, if it is on this machine.
    ///
    /// # Errors
    /// Its process is gone.
    pub(super) fn watch(&self) -> anyhow::Result<Usage> {
        let mut usage = Usage {
            pid: self.pid,
            cpu_before: Duration::ZERO,
            peak_anonymous: Arc::default(),
            sampling: None,
        };
        if let Some(pid) = self.pid {
            usage.cpu_before = process::cpu_time(pid)?;
            let peak = Arc::clone(&usage.peak_anonymous);
            usage.sampling = Some(tokio::spawn(async move {
                let mut ticks = tokio::time::interval(MEMORY_INTERVAL);
                loop {
                    ticks.tick().await;
                    if let Ok(memory) = process::memory(pid) {
                        peak.fetch_max(memory.anonymous_bytes, Ordering::Relaxed);
                    }
                }
            }));
        }
        Ok(usage)
    }

    /// Ends a broker that was started for the occasion.
    ///
    /// # Errors
    /// It did not end as it should.
    pub(super) fn end(self) -> anyhow::Result<()> {
        match self.spawned {
            Some(spawned) => spawned.end(),
            None => Ok(()),
        }
    }
}

/// What the broker uses while this lives.
#[derive(Debug)]
pub(super) struct Usage {
    pid: Option<u32>,
    cpu_before: Duration,
    peak_anonymous: Arc<AtomicU64>,
    sampling: Option<tokio::task::JoinHandle<()>>,
}

impl Usage {
    /// Tells what was used, for `bytes` of records.
    ///
    /// # Errors
    /// The broker's process is gone.
    pub(super) fn tell(self, bytes: u64, report: &mut Report) -> anyhow::Result<()> {
        let Some(pid) = self.pid else {
            return Ok(());
        };
        let used = process::cpu_time(pid)?.saturating_sub(self.cpu_before);
        let seconds = used.as_secs_f64();
        let per_gb = seconds / (to_f64(bytes.max(1)) / 1e9);
        report.note("broker_cpu_seconds", seconds);
        report.add(
            "broker_cpu_seconds_per_gb",
            per_gb,
            "broker processor time",
            format!("{seconds:.2} s, {per_gb:.2} s per GB of records"),
        );
        let memory = process::memory(pid)?;
        let anonymous = self
            .peak_anonymous
            .load(Ordering::Relaxed)
            .max(memory.anonymous_bytes);
        report.note("broker_peak_anonymous_bytes", anonymous);
        report.add(
            "broker_peak_resident_bytes",
            memory.peak_resident_bytes,
            "broker memory, peak",
            format!(
                "{} anonymous, {} with mapped pages of the log",
                BinaryBytes(anonymous),
                BinaryBytes(memory.peak_resident_bytes)
            ),
        );
        Ok(())
    }
}

impl Drop for Usage {
    fn drop(&mut self) {
        if let Some(sampling) = &self.sampling {
            sampling.abort();
        }
    }
}

/// How a broker is started for the occasion.
#[derive(Clone, Debug, Default)]
pub(super) struct SpawnOptions {
    /// Where its temporary folder is made; the system's if not given.
    pub(super) folder: Option<PathBuf>,
    pub(super) in_memory: bool,
    /// Further flags of `serve`.
    pub(super) arguments: Vec<String>,
}

/// A broker that was started for the occasion: killed when dropped, and its folder removed.
#[derive(Debug)]
pub(super) struct Spawned {
    child: Child,
    /// `HOST:PORT` of its gRPC listener.
    pub(super) address: String,
    options: SpawnOptions,
    folder: TempDir,
}

impl Spawned {
    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// It ended before it was ready; what it said is on standard error.
    pub(super) fn start(options: &SpawnOptions) -> anyhow::Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("logweir-bench-");
        let folder = match &options.folder {
            Some(parent) => builder.tempdir_in(parent),
            None => builder.tempdir(),
        };
        let folder = folder.context("cannot make a temporary folder")?;
        let (child, address) = launch(options, &folder)?;
        Ok(Self {
            child,
            address,
            options: options.clone(),
            folder,
        })
    }

    /// The process's id.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it as a crash would and starts it again on the same data; gives the time from the start to the ready line.
    ///
    /// # Errors
    /// As [`Spawned::start`].
    pub(super) fn kill_and_restart(&mut self) -> anyhow::Result<Duration> {
        self.child.kill().context("cannot kill the broker")?;
        self.child.wait().context("cannot wait for the broker")?;
        let began = Instant::now();
        (self.child, self.address) = launch(&self.options, &self.folder)?;
        Ok(began.elapsed())
    }

    /// Ends it in order and starts it again on the same data; gives the time from the start to the ready line.
    ///
    /// # Errors
    /// As [`Spawned::start`] and [`Spawned::end`].
    pub(super) fn end_and_restart(&mut self) -> anyhow::Result<Duration> {
        terminate(&mut self.child)?;
        let began = Instant::now();
        (self.child, self.address) = launch(&self.options, &self.folder)?;
        Ok(began.elapsed())
    }

    /// Ends it in order.
    ///
    /// # Errors
    /// It did not end with success.
    pub(super) fn end(mut self) -> anyhow::Result<()> {
        terminate(&mut self.child)
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn terminate(child: &mut Child) -> anyhow::Result<()> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.context("the broker has no process id")?;
    // Waiting closes what is left in the child, and the end of its input beside the signal would be a second reason to
    // end: at once.
    let _input = child.stdin.take();
    kill_process(pid, Signal::TERM).context("cannot end the broker")?;
    let status = child.wait().context("cannot wait for the broker")?;
    anyhow::ensure!(status.success(), "the broker ended with {status}");
    Ok(())
}

/// Starts the broker and waits for its ready line.
fn launch(options: &SpawnOptions, folder: &TempDir) -> anyhow::Result<(Child, String)> {
    let program = std::env::current_exe().context("this program has no path")?;
    let mut command = Command::new(program);
    command.args([
        "serve",
        "--grpc",
        "127.0.0.1:0",
        "--http",
        "127.0.0.1:0",
        "--kafka",
        "off",
    ]);
    command.args(["--log-level", "error"]);
    if options.in_memory {
        command.arg("--in-memory");
    } else {
        command.arg("--data-dir").arg(folder.path().join("data"));
    }
    command.args(&options.arguments);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LOGWEIR_") {
            command.env_remove(name);
        }
    }
    // Held by this process: however this one ends, the broker's standard input closes, and it stops.
    let mut child = command
        .arg("--exit-with-parent")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start a broker")?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line)?;
    }
    match parse_ready(&line) {
        Ok((address, _)) => Ok((child, address)),
        Err(error) => {
            let _ = child.kill();
            let status = child.wait()?;
            Err(error.context(format!(
                "the broker ended with {status} before it was ready"
            )))
        }
    }
}

/// Address and process id of the line that `serve` prints.
fn parse_ready(line: &str) -> anyhow::Result<(String, u32)> {
    let ready: Value = serde_json::from_str(line).context("is no line of JSON")?;
    let address = ready["grpc"].as_str().context("the gRPC listener is off")?;
    let pid = ready["pid"]
        .as_u64()
        .and_then(|pid| u32::try_from(pid).ok())
        .context("names no process")?;
    Ok((address.to_owned(), pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ready_line_gives_address_and_process() {
        let line = r#"{"pid":7,"kafka":null,"grpc":"127.0.0.1:9093","http":null}"#;
        assert_eq!(parse_ready(line).unwrap(), ("127.0.0.1:9093".to_owned(), 7));
        for bad in ["", "{}", r#"{"pid":7,"grpc":null}"#, r#"{"grpc":"a:1"}"#] {
            assert!(parse_ready(bad).is_err(), "{bad}");
        }
    }
}
