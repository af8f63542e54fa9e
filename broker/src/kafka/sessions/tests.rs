//! Fetch sessions: what is remembered, what is told, what makes a client begin anew.

use bytes::Bytes;
use kafka_wire::fetch_request::{FetchTopic, ForgottenTopic};
use logweir_proto::{LeaderEpoch, PartitionId};

use super::*;
use crate::error::ApiError;
use crate::kafka::message::{message, text};
use crate::service::Fetched;

fn request(id: i32, epoch: i32, partitions: &[(i32, i64)]) -> FetchRequest {
    let asked = |(partition, offset): &(i32, i64)| {
        message!(Asked {
            partition: *partition,
            fetch_offset: *offset,
        })
    };
    let topic = message!(FetchTopic {
        topic: text("t"),
        partitions: partitions.iter().map(asked).collect(),
    });
    message!(FetchRequest {
        session_id: id,
        session_epoch: epoch,
        topics: if partitions.is_empty() {
            vec![]
        } else {
            vec![topic]
        },
    })
}

fn fetched(
    partition: i32,
    high_watermark: i64,
    records: &'static [u8],
) -> Option<FetchedPartition> {
    Some(FetchedPartition {
        topic: "t".into(),
        partition: PartitionId::new(partition),
        outcome: Ok(Fetched {
            high_watermark: Offset::new(high_watermark),
            last_stable_offset: Offset::new(high_watermark),
            log_start_offset: Offset::ZERO,
            leader_epoch: LeaderEpoch::new(0),
            records: Bytes::from_static(records),
            next_offset: Offset::new(high_watermark),
        }),
        diverging: None,
    })
}

fn failed(partition: i32) -> Option<FetchedPartition> {
    let error = ApiError::new(ErrorCode::OffsetOutOfRange, "no");
    fetched(partition, 0, b"").map(|fetched| FetchedPartition {
        outcome: Err(error),
        ..fetched
    })
}

fn order(plan: &Plan) -> Vec<(i32, i64)> {
    let wanted = plan.wanted().iter();
    wanted
        .map(|wanted| (wanted.asked.partition, wanted.asked.fetch_offset))
        .collect()
}

fn refusal(plan: &Plan) -> Option<ErrorCode> {
    match plan {
        Plan::Refused(code) => Some(*code),
        _ => None,
    }
}

/// A session of partitions 0 and 1 at offset 5, of which the next request is the first.
fn begun(sessions: &Sessions) -> i32 {
    let plan = sessions.plan(&request(0, INITIAL, &[(0, 5), (1, 5)]), false);
    let (id, told) = sessions.conclude(&plan, &[fetched(0, 5, b""), fetched(1, 5, b"")]);
    assert_eq!(told, [true, true], "the first answer tells everything");
    assert_ne!(id, 0);
    id
}

#[test]
fn only_what_changed_is_asked_for_and_told() {
    let sessions = Sessions::default();
    let id = begun(&sessions);
    let plan = sessions.plan(&request(id, 1, &[]), false);
    assert_eq!(order(&plan), [(0, 5), (1, 5)], "it is remembered");
    let nothing = sessions.conclude(&plan, &[fetched(0, 5, b""), fetched(1, 5, b"")]);
    assert_eq!(nothing, (id, vec![false, false]));
    // Records, an end that moved and an error are told; who had records comes last from then on.
    let plan = sessions.plan(&request(id, 2, &[(1, 7)]), false);
    assert_eq!(order(&plan), [(0, 5), (1, 7)]);
    let records = sessions.conclude(&plan, &[fetched(0, 9, b"r"), fetched(1, 5, b"")]);
    assert_eq!(records, (id, vec![true, false]));
    let plan = sessions.plan(&request(id, 3, &[]), false);
    assert_eq!(order(&plan), [(1, 7), (0, 5)]);
    let moved = sessions.conclude(&plan, &[fetched(1, 8, b""), failed(0)]);
    assert_eq!(moved, (id, vec![true, true]));
    let plan = sessions.plan(&request(id, 4, &[]), false);
    let again = sessions.conclude(&plan, &[fetched(1, 8, b""), failed(0)]);
    assert_eq!(again, (id, vec![false, true]), "an error is told each time");
}

#[test]
fn partitions_are_forgotten_and_taken_in() {
    let sessions = Sessions::default();
    let id = begun(&sessions);
    let mut change = request(id, 1, &[(2, 0)]);
    change.forgotten_topics_data = vec![message!(ForgottenTopic {
        topic: text("t"),
        partitions: vec![0, 9],
    })];
    let plan = sessions.plan(&change, false);
    assert_eq!(order(&plan), [(1, 5), (2, 0)]);
    assert_eq!(sessions.0.lock().partitions, 2);
    let (_, told) = sessions.conclude(&plan, &[fetched(1, 5, b""), fetched(2, 0, b"")]);
    assert_eq!(told, [false, true], "the new one is told");
}

#[test]
fn a_client_that_is_out_of_step_begins_anew() {
    let sessions = Sessions::default();
    let id = begun(&sessions);
    let unknown = sessions.plan(&request(id ^ 1, 1, &[]), false);
    assert_eq!(refusal(&unknown), Some(ErrorCode::FetchSessionIdNotFound));
    let skipped = sessions.plan(&request(id, 2, &[]), false);
    assert_eq!(refusal(&skipped), Some(ErrorCode::InvalidFetchSessionEpoch));
    let by_id = sessions.plan(&request(id, 1, &[]), true);
    assert_eq!(refusal(&by_id), Some(ErrorCode::FetchSessionTopicIdError));
    assert_eq!(sessions.conclude(&by_id, &[]), (0, vec![]));
    // A request that wants none closes the one there was.
    let last = sessions.plan(&request(id, FINAL, &[(0, 5)]), false);
    assert_eq!(
        sessions.conclude(&last, &[fetched(0, 5, b"")]),
        (0, vec![true])
    );
    let gone = sessions.plan(&request(id, 1, &[]), false);
    assert_eq!(refusal(&gone), Some(ErrorCode::FetchSessionIdNotFound));
    assert_eq!(sessions.0.lock().partitions, 0);
}

#[tokio::test(start_paused = true)]
async fn there_are_so_many_sessions_and_those_long_unused_give_way() {
    let sessions = Sessions::default();
    let first = begun(&sessions);
    for _ in 1..MAX_SESSIONS {
        begun(&sessions);
    }
    let begin = || {
        let plan = sessions.plan(&request(0, INITIAL, &[(0, 5)]), false);
        sessions.conclude(&plan, &[fetched(0, 5, b"")]).0
    };
    assert_eq!(begin(), 0, "there is no room");
    tokio::time::advance(EVICTION / 2).await;
    assert!(refusal(&sessions.plan(&request(first, 1, &[]), false)).is_none());
    tokio::time::advance(EVICTION / 2).await;
    assert_ne!(begin(), 0, "another gives way");
    assert!(
        refusal(&sessions.plan(&request(first, 2, &[]), false)).is_none(),
        "not one in use"
    );
    assert_eq!(sessions.0.lock().sessions.len(), MAX_SESSIONS);
    assert_eq!(sessions.0.lock().partitions, 2 * MAX_SESSIONS - 1);
}

#[test]
fn epochs_go_round() {
    assert_eq!((next(1), next(i32::MAX)), (2, 1));
}
