//! How the program ends: exit codes, and what is said about an error.

use std::fmt;
use std::io;
use std::process::ExitCode;

use crate::config::ConfigError;

/// What `--help` says about exit codes.
pub(super) const HELP: &str = "\
Exit codes:
  0    done
  1    failed: the broker, a file or the input says no; that is also the code of
       a name that is not there, such as a topic, partition, file or column
  2    wrong usage or invalid configuration: the command line, environment or
       configuration file is wrong whatever the broker has; nothing was done
  3    done in part: some records, topics, partitions or files failed and are
       named on standard error
  130  interrupted (SIGINT, Ctrl-C)
  143  terminated (SIGTERM); serve ends with 0 unless a second signal came";

/// How a command ended, other than by an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// Everything was done.
    Done,
    /// Nothing of several things could be done; each was named already.
    Failed,
    /// Some things could not be done; each was named already.
    Partial,
    /// A signal ended it early; the exit code that belongs to it.
    Interrupted(u8),
}

impl Exit {
    /// The end of a command that tried several things.
    pub(super) fn of(failed: usize, tried: usize) -> Self {
        match failed {
            0 => Self::Done,
            _ if failed == tried => Self::Failed,
            _ => Self::Partial,
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Partial => 3,
            Self::Interrupted(code) => code,
        }
    }
}

/// The command line is at fault, though its grammar is right, and would be so with any broker: what is not there
/// today may be tomorrow, and is a plain error.
#[derive(Debug)]
pub(super) struct UsageError(pub(super) String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// A usage error, as an error of a command.
pub(super) fn usage(message: impl Into<String>) -> anyhow::Error {
    UsageError(message.into()).into()
}

/// Says what went wrong, if anything, and picks the exit code.
pub(super) fn conclude(outcome: anyhow::Result<Exit>) -> ExitCode {
    let error = match outcome {
        Ok(exit) => return ExitCode::from(exit.code()),
        Err(error) => error,
    };
    if is_broken_pipe(&error) {
        // Whoever read the output has enough, as with `logweir consume … | head`.
        return ExitCode::SUCCESS;
    }
    eprintln!("error: {}", in_words(&error));
    if error.is::<UsageError>() || error.is::<ConfigError>() {
        return ExitCode::from(2);
    }
    ExitCode::FAILURE
}

/// The error and its causes, each said once: many errors quote their cause already.
pub(super) fn in_words(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_says_whether_all_some_or_nothing_was_done() {
        assert_eq!(Exit::of(0, 0), Exit::Done);
        assert_eq!(Exit::of(0, 3), Exit::Done);
        assert_eq!(Exit::of(1, 3), Exit::Partial);
        assert_eq!(Exit::of(3, 3), Exit::Failed);
    }

    #[test]
    fn a_cause_that_was_quoted_is_not_said_again() {
        let quoting = anyhow::anyhow!("refused").context("cannot listen: refused");
        assert_eq!(in_words(&quoting), "cannot listen: refused");
        let plain = anyhow::anyhow!("refused").context("cannot listen");
        assert_eq!(in_words(&plain), "cannot listen: refused");
    }

    #[test]
    fn a_broken_pipe_is_no_failure() {
        let broken = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(is_broken_pipe(&broken.context("writing")));
        assert!(!is_broken_pipe(&anyhow::Error::from(io::Error::from(
            io::ErrorKind::NotFound
        ))));
    }
}
