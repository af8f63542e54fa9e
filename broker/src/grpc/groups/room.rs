//! The room that an answer about groups has: a limit of its own, and a share of what all responses may take.
//!
//! What goes into an answer is counted before it is built, generously, so that what is refused was never made.

use std::time::Instant;

use tonic::Status;

use crate::error::ApiError;
use crate::grpc::responses::{Responses, Share};
use crate::grpc::status::invalid;
use logweir_proto::ErrorCode;

/// Bytes of one answer, as they are counted: at least what is encoded.
pub(super) const MAX_ANSWER_BYTES: usize = 16 << 20;
/// What an answer takes of the shared limit before it is known to be larger; most are not. Then twice as much each time.
const FIRST_BYTES: usize = 64 << 10;
/// What a group takes in an answer beside its strings, members and partitions.
pub(super) const GROUP_BYTES: usize = 512;

/// What one answer has taken. It is held while later groups are described, for as long as that takes: the groups before
/// them lie in memory all the while, and at most twice their bytes are held.
#[derive(Debug)]
pub(super) struct AnswerRoom {
    /// `None` in process, where the caller's memory is the broker's.
    responses: Option<Responses>,
    deadline: Option<Instant>,
    share: Option<Share>,
    /// What the share is of.
    granted: usize,
    taken: usize,
}

impl AnswerRoom {
    /// Takes a first share, within the caller's deadline.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` if there is none in time.
    pub(super) async fn new(
        responses: Option<Responses>,
        deadline: Option<Instant>,
    ) -> Result<Self, Status> {
        let mut room = Self {
            responses,
            deadline,
            share: None,
            granted: 0,
            taken: 0,
        };
        room.grow_to(FIRST_BYTES).await?;
        Ok(room)
    }

    /// Takes the room of one group; `false` if no answer has so much.
    ///
    /// # Errors
    /// `INVALID_REQUEST` if it is only too much beside the groups before it, `RESOURCE_EXHAUSTED` if the shared limit
    /// has no room in time.
    pub(super) async fn take(&mut self, bytes: usize) -> Result<bool, Status> {
        if bytes > MAX_ANSWER_BYTES {
            return Ok(false);
        }
        self.taken += bytes;
        if self.taken > MAX_ANSWER_BYTES {
            return Err(invalid(format!(
                "the answer would take more than {MAX_ANSWER_BYTES} bytes; ask for fewer groups at once"
            )));
        }
        if self.taken > self.granted {
            let wanted = self.taken.next_power_of_two();
            self.grow_to(wanted.min(MAX_ANSWER_BYTES)).await?;
        }
        Ok(true)
    }

    async fn grow_to(&mut self, bytes: usize) -> Result<(), Status> {
        if let Some(responses) = &self.responses {
            // Who holds some and waits for more could wait for another that does the same.
            self.share = None;
            self.share = Some(responses.take_until(bytes, self.deadline).await?);
        }
        self.granted = bytes;
        Ok(())
    }

    /// Gives back what was not taken, and ties the rest to the answer that is encoded next.
    pub(super) fn hand_on(self) {
        if let (Some(responses), Some(mut share)) = (self.responses, self.share) {
            share.shrink_to(self.taken);
            responses.hand_on(share);
        }
    }
}

/// The error of a group that is too large for any answer.
pub(super) fn too_large(what: &str, bytes: usize, hint: &'static str) -> ApiError {
    let message = format!("{what} take {bytes} bytes, an answer has {MAX_ANSWER_BYTES}");
    ApiError::new(ErrorCode::InvalidRequest, message).hint(hint)
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::grpc::responses::{ConnectionShare, ResponseLimit};

    fn responses(all: &ResponseLimit) -> Responses {
        let connection = ConnectionShare::new(64 << 20);
        Responses::new(all, &connection, &CancellationToken::new())
    }

    /// A thousand groups of ten thousand partitions each made an answer of gigabytes.
    #[tokio::test]
    async fn an_answer_is_refused_as_a_whole_or_for_the_one_group_that_never_fits() {
        let mut room = AnswerRoom::new(None, None).await.expect("no limit here");
        assert!(!room.take(MAX_ANSWER_BYTES + 1).await.expect("that group"));
        assert!(room.take(MAX_ANSWER_BYTES - 1).await.expect("others"));
        assert!(room.take(1).await.expect("it ends there"));
        let refused = room.take(1).await.expect_err("full");
        assert!(refused.message().contains("fewer groups"), "{refused}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_answer_waits_for_the_others_and_holds_what_it_took() {
        let all = ResponseLimit::new(20 << 20);
        let (one, two) = (responses(&all), responses(&all));
        let mut first = AnswerRoom::new(Some(one.clone()), None)
            .await
            .expect("room");
        assert!(first.take(5 << 20).await.expect("room"));
        // Small ones go by.
        let mut second = AnswerRoom::new(Some(two), None).await.expect("its own");
        assert!(second.take(FIRST_BYTES).await.expect("its own"));
        let refused = second.take(15 << 20).await.expect_err("all have 20 MiB");
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        // What was not needed is given back; what was taken stays with the answer until it is encoded.
        first.hand_on();
        drop(one.take_until(15 << 20, None).await.expect("given back"));
        one.take_until(16 << 20, None)
            .await
            .expect_err("5 are held");
    }
}
