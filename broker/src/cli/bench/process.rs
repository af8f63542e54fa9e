//! What a process on this machine has used, out of `/proc`.

use std::fs;
use std::time::Duration;

use anyhow::Context as _;

/// Memory of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    /// What is its own: heap, stacks, and segments of a broker in memory.
    pub(super) anonymous_bytes: u64,
    /// What the kernel keeps to find its pages.
    pub(super) page_table_bytes: u64,
    /// The largest resident size so far; mapped pages of log files count.
    pub(super) peak_resident_bytes: u64,
    /// Its threads.
    pub(super) threads: u64,
}

/// Processor time used so far by all threads, those that have ended included; in steps of 10 ms.
///
/// # Errors
/// If there is no such process, or `/proc` is not what it is on Linux.
pub(super) fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    ticks(&stat)
        .map(|ticks| Duration::from_millis(ticks.saturating_mul(10)))
        .with_context(|| format!("{path} is not as expected"))
}

/// `utime + stime`, fields 14 and 15 of proc(5), in ticks of 1/100 s. The name before may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// Processor time used so far by the threads that are there, to the nanosecond; where the kernel does not tell it, as
/// [`cpu_time`].
///
/// # Errors
/// As [`cpu_time`].
pub(super) fn exact_cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let mut nanos = 0_u64;
    let folder = format!("/proc/{pid}/task");
    let threads = fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))?;
    for thread in threads {
        // A thread may have ended since.
        let Ok(text) =
            thread.and_then(|thread| fs::read_to_string(thread.path().join("schedstat")))
        else {
            continue;
        };
        nanos += text
            .split_whitespace()
            .next()
            .and_then(|first| first.parse::<u64>().ok())
            .unwrap_or(0);
    }
    if nanos == 0 {
        return cpu_time(pid);
    }
    Ok(Duration::from_nanos(nanos))
}

/// Memory in use now.
///
/// # Errors
/// As [`cpu_time`].
pub(super) fn memory(pid: u32) -> anyhow::Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    Ok(parse_status(&status))
}

fn parse_status(status: &str) -> Memory {
    let number = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
            .unwrap_or(0)
    };
    Memory {
        anonymous_bytes: number("RssAnon") << 10,
        page_table_bytes: number("VmPTE") << 10,
        peak_resident_bytes: number("VmHWM") << 10,
        threads: number("Threads"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_a_strange_name_is_read_all_the_same() {
        let stat = "7 (a) b (c) S 1 1 1 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 4 0 9 1 2 3";
        assert_eq!(ticks(stat), Some(300));
        assert_eq!(ticks("nothing"), None);
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let status =
            "Name:\tx\nVmHWM:\t    2048 kB\nRssAnon:\t      8 kB\nVmPTE:\t 4 kB\nThreads:\t3\n";
        let expected = Memory {
            anonymous_bytes: 8 << 10,
            page_table_bytes: 4 << 10,
            peak_resident_bytes: 2 << 20,
            threads: 3,
        };
        assert_eq!(parse_status(status), expected);
    }

    #[test]
    fn this_process_uses_something_and_one_that_is_not_there_is_an_error() {
        let own = std::process::id();
        assert!(exact_cpu_time(own).unwrap() > Duration::ZERO);
        assert!(memory(own).unwrap().anonymous_bytes > 0);
        // Larger than the kernel's largest pid.
        assert!(cpu_time(u32::MAX).is_err());
    }
}
