//! `logweir consume --group` as processes that write into files, killed and started again.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::program::Logweir;
use crate::wait::wait_until;

/// A running (or ended) member. Dropped, it is killed.
#[derive(Debug)]
pub struct MemberProcess {
    child: Child,
    errors: PathBuf,
}

impl MemberProcess {
    /// Starts `logweir consume` with these arguments and `--output json`, writing to a new file of `outputs`.
    ///
    /// # Panics
    /// If the program cannot be started.
    pub fn start(server: &str, arguments: &[&str], outputs: &mut Outputs) -> Self {
        let arguments = [&["consume"], arguments, &["--output", "json", "--quiet"]].concat();
        let (output, path) = outputs.add();
        let errors = path.with_extension("err");
        let log = File::create(&errors).expect("a file can be made");
        let child = Logweir::new(&arguments)
            .server(server)
            .spawn_into(output, log);
        Self { child, errors }
    }

    /// Kills it as `kill -9` does and waits until it is gone.
    ///
    /// # Panics
    /// If it cannot be killed.
    pub fn kill9(&mut self) {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a child can be waited for");
    }

    /// Asks it to end (SIGTERM), and waits for that.
    ///
    /// # Panics
    /// If it has not ended within `deadline`.
    pub fn terminate(&mut self, deadline: Duration) -> ExitStatus {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("process ids are positive"), Signal::TERM)
            .expect("the process is there");
        self.wait_exit(deadline)
    }

    /// Waits for it to end by itself.
    ///
    /// # Panics
    /// With what it wrote to standard error, if it has not ended within `deadline`.
    pub fn wait_exit(&mut self, deadline: Duration) -> ExitStatus {
        let mut status = None;
        let what = format!("a member ends; {}", self.errors());
        wait_until(&what, deadline, || {
            status = self.child.try_wait().expect("a child can be asked");
            status.is_some()
        });
        status.expect("the loop ended with it")
    }

    /// What it wrote to standard error.
    #[must_use]
    pub fn errors(&self) -> String {
        std::fs::read_to_string(&self.errors).unwrap_or_default()
    }
}

impl Drop for MemberProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A line that a member wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The record's partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its value.
    pub value: String,
}

/// The files that members write to, read as they grow. A line that was not written to its end does not count.
#[derive(Debug)]
pub struct Outputs {
    folder: PathBuf,
    files: Vec<Output>,
    /// How often each record was written.
    counts: BTreeMap<(i32, i64), u32>,
}

#[derive(Debug)]
struct Output {
    file: File,
    read: u64,
    lines: Vec<Written>,
}

impl Outputs {
    /// Files in this folder.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            files: Vec::new(),
            counts: BTreeMap::new(),
        }
    }

    fn add(&mut self) -> (File, PathBuf) {
        let path = self
            .folder
            .join(format!("member-{}.jsonl", self.files.len()));
        let file = OpenOptions::new()
            .create_new(true)
            .read(true)
            .write(true)
            .open(&path)
            .expect("a file can be made");
        self.files.push(Output {
            file: File::open(&path).expect("it was just made"),
            read: 0,
            lines: Vec::new(),
        });
        (file, path)
    }

    /// Reads on. Returns how many lines there are now.
    ///
    /// # Panics
    /// If a line is not what `--output json` writes.
    pub fn read(&mut self) -> usize {
        for output in &mut self.files {
            let mut new = Vec::new();
            output
                .file
                .seek(SeekFrom::Start(output.read))
                .and_then(|_| output.file.read_to_end(&mut new))
                .expect("the file can be read");
            let Some(end) = new.iter().rposition(|byte| *byte == b'\n') else {
                continue;
            };
            output.read += end as u64 + 1;
            for line in new[..end].split(|byte| *byte == b'\n') {
                let written = parse(line);
                let place = (written.partition, written.offset);
                *self.counts.entry(place).or_default() += 1;
                output.lines.push(written);
            }
        }
        self.files.iter().map(|output| output.lines.len()).sum()
    }

    /// How often each record was written, by partition and offset.
    #[must_use]
    pub fn counts(&self) -> &BTreeMap<(i32, i64), u32> {
        &self.counts
    }

    /// How many different records were written.
    #[must_use]
    pub fn distinct(&self) -> usize {
        self.counts.len()
    }

    /// How far the members have come: the sum, over partitions, of the offsets after the last that was written.
    #[must_use]
    pub fn reached(&self) -> u64 {
        let mut next: BTreeMap<i32, i64> = BTreeMap::new();
        for (partition, offset) in self.counts.keys() {
            next.insert(*partition, *offset + 1);
        }
        next.values().map(|next| next.unsigned_abs()).sum()
    }

    /// The lines of each member, in the order in which they were started.
    pub fn members(&self) -> impl Iterator<Item = &[Written]> {
        self.files.iter().map(|output| output.lines.as_slice())
    }
}

fn parse(line: &[u8]) -> Written {
    let line: serde_json::Value = serde_json::from_slice(line).expect("a line is an object");
    let number = |name: &str| line[name].as_i64().expect("a number");
    Written {
        partition: i32::try_from(number("partition")).expect("a partition"),
        offset: number("offset"),
        value: line["value"].as_str().unwrap_or_default().to_owned(),
    }
}
