//! What became of the records: waited for in input order, counted, and named where they failed.

use logweir_client::{DeliveryFuture, Error, ErrorKind};
use logweir_proto::ErrorCode;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::cli::progress::Progress;

/// Failed records that are named one by one; the rest are counted.
const FAILURES_NAMED: u64 = 20;

/// A record that was read.
pub(super) struct Sent {
    /// The line it begins on.
    pub(super) line: u64,
    /// Bytes of key and value.
    pub(super) bytes: u64,
    pub(super) fate: Fate,
}

/// What happened when it was sent.
pub(super) enum Fate {
    /// It is on its way.
    Waiting(DeliveryFuture),
    /// It will never be stored, but others may.
    Refused(String),
    /// Nothing more can be sent.
    Fatal(String),
}

impl Fate {
    /// The fate of a record that failed: some errors are about this record, the rest about sending.
    pub(super) fn of(error: &Error) -> Self {
        let about_record = match error.code() {
            Some(code) => matches!(
                code,
                ErrorCode::MessageTooLarge
                    | ErrorCode::RecordListTooLarge
                    | ErrorCode::InvalidRecord
                    | ErrorCode::InvalidTimestamp
            ),
            None => error.kind() == ErrorKind::Invalid,
        };
        if about_record {
            Self::Refused(error.to_string())
        } else {
            Self::Fatal(error.to_string())
        }
    }
}

/// What was found out about all records.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) delivered: u64,
    pub(super) delivered_bytes: u64,
    pub(super) failed: u64,
    /// Every record that begins on this line or before it is stored.
    pub(super) stored_to_line: u64,
    /// Why nothing more was sent.
    pub(super) fatal: Option<String>,
}

/// Waits for every outcome. Cancels `stop` when sending has no future.
pub(super) async fn watch(
    mut outcomes: mpsc::Receiver<Sent>,
    progress: Progress,
    stop: CancellationToken,
) -> Tally {
    let mut tally = Tally::default();
    while let Some(Sent { line, bytes, fate }) = outcomes.recv().await {
        let fate = match fate {
            Fate::Waiting(delivery) => match delivery.await {
                Ok(_) => {
                    tally.delivered += 1;
                    tally.delivered_bytes += bytes;
                    if tally.failed == 0 {
                        tally.stored_to_line = line;
                    }
                    progress.done(1, bytes);
                    continue;
                }
                Err(error) => Fate::of(&error),
            },
            fate => fate,
        };
        tally.fail(line, fate, &progress, &stop);
    }
    if tally.failed > FAILURES_NAMED && tally.fatal.is_none() {
        progress.say(&format!("… and {} more", tally.failed - FAILURES_NAMED));
    }
    tally
}

impl Tally {
    fn fail(&mut self, line: u64, fate: Fate, progress: &Progress, stop: &CancellationToken) {
        self.failed += 1;
        match fate {
            Fate::Fatal(reason) if self.fatal.is_none() => {
                self.fatal = Some(format!("line {line}: {reason}"));
                stop.cancel();
            }
            // What was on its way fails with the connection; naming each record would say the same again.
            Fate::Refused(reason) if self.failed <= FAILURES_NAMED && self.fatal.is_none() => {
                progress.say(&format!("line {line}: {reason}"));
            }
            Fate::Refused(_) | Fate::Fatal(_) | Fate::Waiting(_) => {}
        }
    }
}
