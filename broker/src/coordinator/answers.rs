//! What a caller waits for: the answer, then the commit of all that the answer may tell of. And what it is told instead.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use logweir_proto::ErrorCode;
use tokio::sync::oneshot;

use super::machine::{CallId, Machine};
use super::shard::Shard;
use crate::error::ApiError;

/// Completed when the partition's high watermark has passed what an answer tells of.
pub(super) type Commit = oneshot::Receiver<Result<(), ApiError>>;

/// An answer, and what is still to be committed before it may be given.
pub(super) type Answered<A> = Result<(A, Option<Commit>), ApiError>;

/// One of the places that a shard has for calls; given back when dropped.
#[derive(Debug)]
pub(super) struct Seat(Arc<AtomicUsize>);

impl Seat {
    /// Takes a place, if fewer than `limit` are taken.
    pub(super) fn take(taken: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        let before = taken.fetch_add(1, Ordering::Relaxed);
        let seat = Self(Arc::clone(taken));
        (before < limit).then_some(seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A call that has been decided on, or waits in the machine; it has its place in the order. Dropping it tells the
/// machine that the caller went away; what was decided stands.
#[must_use]
pub(crate) struct Pending<M: Machine> {
    /// Not the shard itself: a caller that waits must not keep a partition of a crashed broker alive.
    shard: Weak<Shard<M>>,
    call: CallId,
    answer: oneshot::Receiver<Answered<M::Answer>>,
    answered: bool,
    _seat: Seat,
}

impl<M: Machine> Pending<M> {
    pub(super) fn new(
        shard: Weak<Shard<M>>,
        call: CallId,
        answer: oneshot::Receiver<Answered<M::Answer>>,
        seat: Seat,
    ) -> Self {
        Self {
            shard,
            call,
            answer,
            answered: false,
            _seat: seat,
        }
    }

    /// Waits for the answer, and for the commit of what was decided up to it. No limit of time: callers have theirs.
    /// Dropping the future is safe and abandons the call.
    ///
    /// # Errors
    /// Those of [`Coordinator::call`](super::Coordinator::call). After a retriable one the decision may stand.
    pub(crate) async fn wait(mut self) -> Result<M::Answer, ApiError> {
        let answered = (&mut self.answer).await;
        self.answered = true;
        let (answer, commit) = answered.unwrap_or_else(|_| Err(gone()))?;
        if let Some(commit) = commit {
            let committed = commit.await.unwrap_or_else(|_| Err(gone()));
            committed.map_err(|error| as_coordinator(&error))?;
        }
        Ok(answer)
    }
}

impl<M: Machine> Drop for Pending<M> {
    fn drop(&mut self) {
        if !self.answered
            && let Some(shard) = self.shard.upgrade()
        {
            shard.abandon(self.call);
        }
    }
}

/// A coordinator that cannot answer now; callers try again.
pub(super) fn not_available(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::CoordinatorNotAvailable, message).hint("try again")
}

/// This broker is not responsible, or no longer.
pub(super) fn not_coordinator(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::NotCoordinator, message).hint("look up the coordinator and try again")
}

/// What a caller is told when the broker stops.
pub(super) fn stopping() -> ApiError {
    not_available("the broker stops")
}

fn gone() -> ApiError {
    not_available("the coordinator went away before it answered")
}

/// The error of a partition as a coordinator tells it. All but one are retriable: whoever asks does not know of the
/// partition, and `MESSAGE_TOO_LARGE` stays so on every try.
///
/// Differs from Kafka, which answers NOT_COORDINATOR for a failed disk: a client would look up the same broker again.
pub(super) fn as_coordinator(error: &ApiError) -> ApiError {
    match error.code {
        ErrorCode::MessageTooLarge
        | ErrorCode::NotCoordinator
        | ErrorCode::CoordinatorNotAvailable
        | ErrorCode::CoordinatorLoadInProgress => error.clone(),
        ErrorCode::NotLeaderOrFollower
        | ErrorCode::FencedLeaderEpoch
        | ErrorCode::UnknownLeaderEpoch => not_coordinator(error.message.clone()),
        _ => not_available(error.message.clone()),
    }
}
