//! openraft's types as our own messages, and back.
//!
//! The files hold only messages of `logweir/internal/metadata.proto`, never openraft's serialization, so
//! that another openraft can read them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use logweir_proto::grpc::internal as wire;
use openraft::{
    CommittedLeaderId, Entry, EntryPayload, LeaderId, LogId, Membership, SnapshotMeta,
    StoredMembership, Vote,
};
use prost::Message;

use super::error::QuorumError;
use super::image::ApplyError;
use super::raft::{Proposed, TypeConfig, Voter};

/// A message that does not make sense here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CodecError {
    /// It is well formed, but of a kind that only a newer version knows.
    #[error("{0}")]
    Newer(&'static str),
    /// It was never written so.
    #[error("{0}")]
    Damaged(String),
}

impl CodecError {
    /// The refusal to start that it is, for a message at `position` of a file.
    pub(super) fn at(self, path: &Path, position: u64) -> QuorumError {
        let path = path.to_owned();
        match self {
            Self::Newer(what) => QuorumError::Newer {
                path,
                reason: what.to_owned(),
            },
            Self::Damaged(reason) => QuorumError::Damaged {
                path,
                position,
                reason,
            },
        }
    }
}

impl From<prost::DecodeError> for CodecError {
    fn from(error: prost::DecodeError) -> Self {
        Self::Damaged(error.to_string())
    }
}

impl From<ApplyError> for CodecError {
    fn from(error: ApplyError) -> Self {
        match error {
            ApplyError::UnknownKind => Self::Newer("a record of an unknown kind"),
            ApplyError::Contradiction(what) => Self::Damaged(what),
        }
    }
}

fn damaged(what: impl Into<String>) -> CodecError {
    CodecError::Damaged(what.into())
}

/// Whether an encoded proposal can be applied by this version.
pub(super) fn check_proposal(bytes: &[u8]) -> Result<(), CodecError> {
    let proposal = wire::Proposal::decode(bytes)?;
    if proposal.records.iter().any(|record| record.kind.is_none()) {
        return Err(ApplyError::UnknownKind.into());
    }
    Ok(())
}

pub(super) fn log_id_to_wire(id: &LogId<u64>) -> wire::LogId {
    wire::LogId {
        term: id.leader_id.term,
        node_id: id.leader_id.node_id,
        index: id.index,
    }
}

pub(super) fn log_id_from_wire(id: &wire::LogId) -> LogId<u64> {
    LogId::new(CommittedLeaderId::new(id.term, id.node_id), id.index)
}

pub(super) fn vote_to_wire(vote: &Vote<u64>) -> wire::Vote {
    wire::Vote {
        term: vote.leader_id.term,
        node_id: vote.leader_id.node_id,
        committed: vote.committed,
    }
}

pub(super) fn vote_from_wire(vote: &wire::Vote) -> Vote<u64> {
    Vote {
        leader_id: LeaderId::new(vote.term, vote.node_id),
        committed: vote.committed,
    }
}

pub(super) fn membership_to_wire(membership: &Membership<u64, Voter>) -> wire::Membership {
    let configs = membership
        .get_joint_config()
        .iter()
        .map(|set| wire::VoterSet {
            node_ids: set.iter().copied().collect(),
        })
        .collect();
    let members = membership
        .nodes()
        .map(|(node_id, node)| wire::Member {
            node_id: *node_id,
            address: node.address.clone(),
            directory_id: bytes::Bytes::copy_from_slice(
                node.directory_id.as_ref().map_or(&[], |id| id.as_slice()),
            ),
        })
        .collect();
    wire::Membership { configs, members }
}

pub(super) fn membership_from_wire(
    membership: &wire::Membership,
) -> Result<Membership<u64, Voter>, CodecError> {
    let configs: Vec<BTreeSet<u64>> = membership
        .configs
        .iter()
        .map(|set| set.node_ids.iter().copied().collect())
        .collect();
    let mut nodes = BTreeMap::new();
    for member in &membership.members {
        let directory_id = match member.directory_id.len() {
            0 => None,
            length => Some(
                <[u8; 16]>::try_from(member.directory_id.as_ref())
                    .map_err(|_| damaged(format!("a directory id of {length} bytes")))?,
            ),
        };
        nodes.insert(
            member.node_id,
            Voter {
                address: member.address.clone(),
                directory_id,
            },
        );
    }
    if let Some(absent) = configs.iter().flatten().find(|id| !nodes.contains_key(id)) {
        return Err(damaged(format!("voter {absent} is no member")));
    }
    Ok(Membership::new(configs, nodes))
}

pub(super) fn stored_membership_to_wire(
    stored: &StoredMembership<u64, Voter>,
) -> wire::StoredMembership {
    wire::StoredMembership {
        log_id: stored.log_id().as_ref().map(log_id_to_wire),
        membership: Some(membership_to_wire(stored.membership())),
    }
}

pub(super) fn stored_membership_from_wire(
    stored: &wire::StoredMembership,
) -> Result<StoredMembership<u64, Voter>, CodecError> {
    let membership = stored
        .membership
        .as_ref()
        .ok_or_else(|| damaged("no membership"))?;
    Ok(StoredMembership::new(
        stored.log_id.as_ref().map(log_id_from_wire),
        membership_from_wire(membership)?,
    ))
}

pub(super) fn entry_to_wire(entry: &Entry<TypeConfig>) -> wire::LogEntry {
    use wire::log_entry::Payload;
    let payload = match &entry.payload {
        EntryPayload::Blank => Payload::Blank(wire::Blank {}),
        EntryPayload::Normal(proposed) => Payload::Proposal(proposed.0.clone()),
        EntryPayload::Membership(membership) => Payload::Membership(membership_to_wire(membership)),
    };
    wire::LogEntry {
        log_id: Some(log_id_to_wire(&entry.log_id)),
        payload: Some(payload),
    }
}

pub(super) fn entry_from_wire(entry: &wire::LogEntry) -> Result<Entry<TypeConfig>, CodecError> {
    use wire::log_entry::Payload;
    let log_id = entry
        .log_id
        .as_ref()
        .ok_or_else(|| damaged("an entry without an id"))?;
    let payload = match entry
        .payload
        .as_ref()
        .ok_or(CodecError::Newer("an entry of an unknown kind"))?
    {
        Payload::Blank(wire::Blank {}) => EntryPayload::Blank,
        Payload::Proposal(bytes) => EntryPayload::Normal(Proposed(bytes.clone())),
        Payload::Membership(membership) => {
            EntryPayload::Membership(membership_from_wire(membership)?)
        }
    };
    Ok(Entry {
        log_id: log_id_from_wire(log_id),
        payload,
    })
}

pub(super) fn snapshot_meta_from_wire(
    meta: &wire::SnapshotMeta,
) -> Result<SnapshotMeta<u64, Voter>, CodecError> {
    let membership = meta
        .last_membership
        .as_ref()
        .ok_or_else(|| damaged("no membership"))?;
    Ok(SnapshotMeta {
        last_log_id: meta.last_log_id.as_ref().map(log_id_from_wire),
        last_membership: stored_membership_from_wire(membership)?,
        snapshot_id: meta.snapshot_id.clone(),
    })
}
