//! The metadata's files for people: what `logweir dump` shows of the log and the snapshot, and verifies.
//!
//! Reads only, also beside a running broker. Everything the broker checks at its start is checked, but whether log and
//! snapshot fit together, which one file alone cannot say.

use std::path::Path;

use bytes::Bytes;
use logweir_proto::TopicId;
use logweir_proto::grpc::internal as wire;
use logweir_proto::grpc::internal::log_entry::Payload;
use logweir_proto::grpc::internal::log_step::Kind as Step;
use logweir_proto::grpc::internal::record::Kind;
use prost::Message;
use serde_json::{Map, Value, json};

use super::error::QuorumError;
use super::log_file::{self, FRAME_HEADER_LEN, Identity, read_contents, read_header};
use super::raft_codec::CodecError;
use super::raft_log::State;
use super::snapshot_file;
use super::state_machine::decode_image;

/// What a metadata file holds.
pub(crate) struct Inspected {
    /// What it is, for people.
    pub(crate) kind: &'static str,
    /// What it holds, in order, as JSON objects; `item` names each, `position` is its frame's first byte.
    pub(crate) items: Vec<Value>,
    /// What is wrong behind them.
    pub(crate) damage: Option<QuorumError>,
}

/// Whether a file that begins so is one of the metadata's.
pub(crate) fn is_metadata(begin: &[u8]) -> bool {
    begin.starts_with(&log_file::MAGIC) || begin.starts_with(&snapshot_file::MAGIC)
}

/// Reads and verifies a metadata log or snapshot from its whole content.
///
/// # Errors
/// [`QuorumError`] if it is so damaged, or so new, that nothing can be shown. What is found later is in
/// [`Inspected::damage`].
pub(crate) fn inspect(path: &Path, bytes: Bytes) -> Result<Inspected, QuorumError> {
    if bytes.starts_with(&snapshot_file::MAGIC) {
        inspect_snapshot(path, bytes)
    } else {
        inspect_log(path, &bytes)
    }
}

fn inspect_log(path: &Path, bytes: &Bytes) -> Result<Inspected, QuorumError> {
    let mut items = vec![owner(read_header(bytes, path)?)];
    let contents = read_contents(bytes, path)?;
    let mut damage = contents.damage;
    let mut state = State::default();
    for (body_at, body) in contents.bodies {
        let position = body_at - FRAME_HEADER_LEN as u64;
        let shown = state
            .replay(body.clone())
            .and_then(|()| Ok(wire::LogFrame::decode(body)?))
            .and_then(|frame| show_frame(frame, position, &mut items));
        if let Err(error) = shown {
            damage = Some(error.at(path, position));
            break;
        }
    }
    if contents.torn {
        let what = "a last write that was cut off, or is being written now: not part of the log";
        items.push(json!({"item": "torn", "note": what}));
    }
    Ok(Inspected {
        kind: "metadata log",
        items,
        damage,
    })
}

fn show_frame(
    frame: wire::LogFrame,
    position: u64,
    items: &mut Vec<Value>,
) -> Result<(), CodecError> {
    for step in frame.steps.into_iter().filter_map(|step| step.kind) {
        let mut item = match step {
            Step::Vote(vote) => json!({
                "item": "vote", "term": vote.term, "voted_for": vote.node_id, "committed": vote.committed,
            }),
            Step::Append(entry) => entry_json(&entry)?,
            Step::TruncateFrom(index) => json!({"item": "truncate_from", "index": index}),
            Step::PurgedTo(id) => log_id_json("purged_to", Some(&id)),
            Step::CommittedTo(id) => log_id_json("committed_to", Some(&id)),
        };
        item["position"] = position.into();
        items.push(item);
    }
    Ok(())
}

fn entry_json(entry: &wire::LogEntry) -> Result<Value, CodecError> {
    let mut item = log_id_json("entry", entry.log_id.as_ref());
    match &entry.payload {
        Some(Payload::Proposal(bytes)) => {
            let proposal = wire::Proposal::decode(bytes.clone())?;
            item["planned_on"] = proposal.planned_on.into();
            item["records"] = proposal.records.iter().map(record_json).collect();
        }
        Some(Payload::Membership(membership)) => item["membership"] = membership_json(membership),
        Some(Payload::Blank(_)) | None => item["blank"] = true.into(),
    }
    Ok(item)
}

fn inspect_snapshot(path: &Path, bytes: Bytes) -> Result<Inspected, QuorumError> {
    let snapshot = snapshot_file::decode(bytes, path)?;
    let mut head = owner(snapshot.identity);
    let last = log_id_json("last", snapshot.meta.last_log_id.as_ref());
    for key in ["index", "term"] {
        head[key] = last[key].clone();
    }
    head["snapshot_id"] = snapshot.meta.snapshot_id.into();
    head["received"] = snapshot.meta.received.into();
    let membership = snapshot
        .meta
        .last_membership
        .and_then(|last| last.membership);
    head["membership"] = membership.as_ref().map(membership_json).into();
    let mut items = vec![head];
    let checked = decode_image(snapshot.body.clone())
        .and_then(|_| Ok(wire::SnapshotImage::decode(snapshot.body)?))
        .map(|image| {
            items[0]["version"] = image.version.into();
            items.extend(image.records.iter().map(record_json));
        });
    Ok(Inspected {
        kind: "metadata snapshot",
        items,
        damage: checked.err().map(|error| error.at(path, 0)),
    })
}

fn owner(identity: Identity) -> Value {
    json!({
        "item": "header", "node_id": identity.node_id, "directory_id": id_text(&identity.directory_id),
    })
}

fn log_id_json(item: &str, id: Option<&wire::LogId>) -> Value {
    let id = id.copied().unwrap_or_default();
    json!({"item": item, "index": id.index, "term": id.term, "leader": id.node_id})
}

fn membership_json(membership: &wire::Membership) -> Value {
    let voters = |set: &wire::VoterSet| json!(set.node_ids);
    let member = |member: &wire::Member| {
        json!({
            "node_id": member.node_id, "address": member.address,
            "directory_id": id_text(&member.directory_id),
        })
    };
    json!({
        "voters": membership.configs.iter().map(voters).collect::<Vec<_>>(),
        "members": membership.members.iter().map(member).collect::<Vec<_>>(),
    })
}

/// A record by its kind and fields; what is absent is left out.
fn record_json(record: &wire::Record) -> Value {
    let mut value = match &record.kind {
        Some(Kind::Cluster(r)) => json!({"record": "cluster", "cluster_id": r.cluster_id}),
        Some(Kind::FeatureLevel(r)) => {
            json!({"record": "feature_level", "name": r.name, "level": r.level})
        }
        Some(Kind::Topic(r)) => {
            json!({"record": "topic", "name": r.name, "topic_id": id_text(&r.topic_id)})
        }
        Some(Kind::Partition(r)) => partition_json(r),
        Some(Kind::RemoveTopic(r)) => {
            json!({"record": "remove_topic", "topic_id": id_text(&r.topic_id)})
        }
        Some(Kind::Config(r)) => json!({
            "record": "config", "resource": r.resource().as_str_name(), "name": r.resource_name,
            "key": r.key, "value": r.value,
        }),
        Some(Kind::RegisterBroker(r)) => json!({
            "record": "register_broker", "node_id": r.node_id, "broker_epoch": r.broker_epoch,
            "directory_id": id_text(&r.directory_id), "grpc": r.grpc_address, "kafka": r.kafka_address,
            "http": r.http_address, "rack": r.rack, "fenced": r.fenced, "version": r.version,
            "boot_id": r.boot_id,
        }),
        Some(Kind::FenceBroker(r)) => {
            json!({"record": "fence_broker", "node_id": r.node_id, "broker_epoch": r.broker_epoch})
        }
        Some(Kind::UnfenceBroker(r)) => {
            json!({"record": "unfence_broker", "node_id": r.node_id, "broker_epoch": r.broker_epoch})
        }
        Some(Kind::UnregisterBroker(r)) => {
            json!({"record": "unregister_broker", "node_id": r.node_id})
        }
        Some(Kind::ProducerIds(r)) => json!({
            "record": "producer_ids", "next_producer_id": r.next_producer_id, "node_id": r.node_id,
        }),
        Some(Kind::NewLeaderEpochs(r)) => {
            json!({"record": "new_leader_epochs", "node_id": r.node_id})
        }
        Some(Kind::DeletedTopics(r)) => {
            let ids: Vec<String> = r.topic_ids.iter().map(|id| id_text(id)).collect();
            json!({"record": "deleted_topics", "topic_ids": ids})
        }
        None => json!({"record": "unknown"}),
    };
    drop_nulls(&mut value);
    value
}

fn partition_json(r: &wire::PartitionRecord) -> Value {
    json!({
        "record": "partition", "topic_id": id_text(&r.topic_id), "partition": r.partition,
        "leader": r.leader, "leader_epoch": r.leader_epoch, "partition_epoch": r.partition_epoch,
        "replicas": r.replicas, "isr": r.isr, "elr": some(&r.elr),
        "last_known_elr": some(&r.last_known_elr), "adding_replicas": some(&r.adding_replicas),
        "removing_replicas": some(&r.removing_replicas), "parents": some(&r.parents),
        "expansion_epoch": (r.expansion_epoch != 0).then_some(r.expansion_epoch),
    })
}

/// A list, if there is anything in it.
fn some(list: &[i32]) -> Option<&[i32]> {
    (!list.is_empty()).then_some(list)
}

fn drop_nulls(value: &mut Value) {
    if let Some(fields) = value.as_object_mut() {
        let kept: Map<String, Value> = std::mem::take(fields)
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .collect();
        *fields = kept;
    }
}

/// Sixteen bytes as ids are written everywhere; other lengths, which only damage makes, as they are.
fn id_text(bytes: &[u8]) -> String {
    TopicId::from_slice(bytes).map_or_else(|| format!("{bytes:02x?}"), |id| id.to_string())
}
