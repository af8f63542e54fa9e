//! What a child process has used, out of `/proc`.

use std::fs;
use std::time::Duration;

/// Processor time used so far by all threads of a process, in steps of 10 ms.
///
/// # Panics
/// If there is no such process, or this is not Linux.
#[must_use]
pub fn cpu_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is there");
    let (_, fields) = stat.rsplit_once(')').expect("as proc(5) says");
    // utime and stime, fields 14 and 15, in ticks of 1/100 s.
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().expect("ticks are a number"))
        .sum();
    Duration::from_millis(ticks * 10)
}
