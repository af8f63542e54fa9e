//! The program `logweir`: built once per test run, and called as a user would call it.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;

/// The path of the program, built on first use.
///
/// Cargo builds a package's program for that package's own tests only, so it is asked here, once per
/// test process: with the same profile, target folder and package selection as the running test, so
/// that nothing is compiled twice. `LOGWEIR_BIN` names a ready one instead.
///
/// # Panics
/// If it cannot be built.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| std::env::var_os("LOGWEIR_BIN").map_or_else(build, PathBuf::from))
}

fn build() -> PathBuf {
    let test = std::env::current_exe().expect("a running test has a path");
    // TARGET/[TRIPLE/]PROFILE/deps/it-0123
    let profile_dir = test
        .parent()
        .and_then(Path::parent)
        .expect("tests lie in PROFILE/deps");
    let profile = profile_dir
        .file_name()
        .and_then(|n| n.to_str())
        .expect("profiles have names");
    let target = profile_dir
        .ancestors()
        .skip(1)
        .find(|dir| dir.join("CACHEDIR.TAG").exists())
        .or_else(|| profile_dir.parent())
        .expect("profiles lie in the target folder");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the root");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(root)
        // `--test it` makes Cargo resolve features as `cargo test` does.
        .args(["build", "--workspace", "--bin", "logweir", "--test", "it"])
        .args([
            "--message-format",
            "json-render-diagnostics",
            "--target-dir",
        ])
        .arg(target)
        .args([
            "--profile",
            if profile == "debug" { "dev" } else { profile },
        ])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo can be run");
    assert!(output.status.success(), "the program cannot be built");
    String::from_utf8(output.stdout)
        .expect("cargo writes UTF-8")
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "logweir")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .expect("cargo names the program it built")
}

/// A call of the program.
#[derive(Debug)]
pub struct Logweir {
    command: Command,
    input: Vec<u8>,
}

/// What a call of the program came to.
#[derive(Debug)]
pub struct Finished {
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Logweir {
    /// A call with these arguments. Settings of the surrounding environment are kept away from it.
    #[must_use]
    pub fn new(arguments: &[&str]) -> Self {
        let mut command = Command::new(binary());
        command
            .args(arguments)
            .env("NO_COLOR", "1")
            .env_remove("RUST_BACKTRACE");
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("LOGWEIR_") {
                command.env_remove(name);
            }
        }
        Self {
            command,
            input: Vec::new(),
        }
    }

    /// Talks to the broker whose gRPC listener is at `address`.
    #[must_use]
    pub fn server(mut self, address: &str) -> Self {
        self.command.env("LOGWEIR_SERVER", address);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs in this folder.
    #[must_use]
    pub fn current_dir(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Is given these bytes on standard input.
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = bytes.into();
        self
    }

    /// Starts it and says nothing to it; what it prints is nobody's.
    ///
    /// # Panics
    /// If the program cannot be started.
    #[must_use]
    pub fn spawn(mut self) -> Child {
        self.command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program can be started")
    }

    /// Starts it and says nothing to it; it prints into these files.
    ///
    /// # Panics
    /// If the program cannot be started.
    #[must_use]
    pub fn spawn_into(mut self, output: File, errors: File) -> Child {
        self.command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .expect("the program can be started")
    }

    /// Runs to its end.
    ///
    /// # Panics
    /// If the program cannot be started.
    pub fn run(mut self) -> Finished {
        let mut child = self
            .command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program can be started");
        let mut stdin = child.stdin.take().expect("standard input is piped");
        let input = self.input;
        // A program that ends early closes the pipe: what it printed tells more than that does.
        let feeder = thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child
            .wait_with_output()
            .expect("the program can be waited for");
        feeder.join().expect("writing to a pipe does not panic");
        Finished {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs to its end and gives what it printed.
    ///
    /// # Panics
    /// If it does not end with 0.
    pub fn succeed(self) -> String {
        let call = format!("{:?}", self.command);
        let finished = self.run();
        assert_eq!(
            finished.code,
            Some(0),
            "{call}\n{}\n{}",
            finished.stdout,
            finished.stderr
        );
        finished.stdout
    }
}
