//! The one table from the broker's answers to what is done about a batch.
//!
//! Follows Kafka's `Sender`, except that answers after which the batch may be stored are told apart from those
//! after which it certainly is not: only the latter may be sent again under another number.

use logweir_proto::{ErrorCode, Offset};

use super::batch::{SealedBatch, Stamp};
use super::delivery::Appended;
use crate::error::Error;

/// How often a batch that arrives damaged is sent again: once could be the wire, more is not.
const MAX_CORRUPT_RETRIES: u32 = 2;

/// What an answer to one batch calls for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Verdict {
    /// It is stored.
    Stored(Appended),
    /// Send it again, after a pause.
    Retry { may_be_stored: bool },
    /// Its number does not follow on what the broker has.
    RefusedNumber(ErrorCode),
    /// Send it in two halves.
    Split,
    /// Give it up.
    Fail { may_be_stored: bool },
    /// Give it up, and the producer with it.
    Fenced,
}

impl Verdict {
    /// Where the batch was stored, if the broker told it.
    pub(crate) fn stored_at(offset: i64, log_append_time_ms: i64) -> Self {
        Self::Stored(Appended {
            base_offset: (offset >= 0).then(|| Offset::new(offset)),
            log_append_time: (log_append_time_ms >= 0)
                .then(|| logweir_proto::Timestamp::new(log_append_time_ms)),
        })
    }

    /// What an error calls for, after `unknown_topic_retries` repetitions at the most of what the broker does not
    /// know. Counts in the batch.
    pub(crate) fn on(batch: &mut SealedBatch, error: &Error, unknown_topic_retries: u32) -> Self {
        let Some(code) = error.code() else {
            // A code of a newer broker: nothing can be said of what it did.
            let may_be_stored = true;
            return if error.is_retriable() {
                Self::Retry { may_be_stored }
            } else {
                Self::Fail { may_be_stored }
            };
        };
        match code {
            // Stored before, so long ago that the broker no longer knows where.
            ErrorCode::DuplicateSequenceNumber => Self::stored_at(-1, -1),
            ErrorCode::OutOfOrderSequenceNumber | ErrorCode::UnknownProducerId
                if batch.stamp != Stamp::NONE =>
            {
                Self::RefusedNumber(code)
            }
            ErrorCode::InvalidProducerEpoch | ErrorCode::ProducerFenced => Self::Fenced,
            ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge
                if batch.records > 1 && !batch.may_be_stored =>
            {
                Self::Split
            }
            ErrorCode::UnknownTopicOrPartition
            | ErrorCode::UnknownTopicId
            | ErrorCode::InconsistentTopicId => {
                batch.unknown_topic += 1;
                Self::again_if(batch.unknown_topic <= unknown_topic_retries)
            }
            ErrorCode::CorruptMessage => {
                batch.corrupt += 1;
                Self::again_if(batch.corrupt <= MAX_CORRUPT_RETRIES)
            }
            // Refused before anything was written.
            ErrorCode::NotEnoughReplicas
            | ErrorCode::LeaderNotAvailable
            | ErrorCode::ThrottlingQuotaExceeded => Self::again_if(true),
            code if code.is_retriable() => Self::Retry {
                may_be_stored: true,
            },
            ErrorCode::UnknownServerError => Self::Fail {
                may_be_stored: true,
            },
            _ => Self::Fail {
                may_be_stored: false,
            },
        }
    }

    const fn again_if(again: bool) -> Self {
        let may_be_stored = false;
        if again {
            Self::Retry { may_be_stored }
        } else {
            Self::Fail { may_be_stored }
        }
    }

    /// Whether the topic's description may be stale, given the error.
    pub(crate) fn asks_for_metadata(error: &Error) -> bool {
        match error.code() {
            Some(ErrorCode::CorruptMessage | ErrorCode::ThrottlingQuotaExceeded) | None => false,
            Some(code) => code.is_retriable(),
        }
    }
}
