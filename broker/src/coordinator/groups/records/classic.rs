//! A classic group as a record: Kafka's `GroupMetadataKey` and `GroupMetadataValue`.
//!
//! ```text
//! key     i16 2 | group string
//! value   i16 version, 0 to 4 (written: 3; 4 is compact, with tagged fields)
//!         protocol type string | generation i32 | protocol nullable string | leader nullable string |
//!         2+: state timestamp i64 | members list
//! member  id string | 3+: instance id nullable string | client id string | client host string |
//!         1+: rebalance timeout i32, ms | session timeout i32, ms | subscription bytes | assignment bytes
//! ```

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use logweir_proto::Timestamp;

use super::encoding::{DecodeError, Reader, Writer};
use super::{millis, span};
use crate::coordinator::groups::ids::{Generation, InstanceId, MemberId};

/// The type of a classic group's key.
pub(super) const KEY: i16 = 2;
/// The version that is written.
const VERSION: i16 = 3;

/// A classic group as it is written: when its assignment was made, when it became empty, when a static member got
/// another id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClassicValue {
    /// Such as "consumer"; empty if it never had one.
    pub(crate) protocol_type: Arc<str>,
    pub(crate) generation: Generation,
    /// The protocol that was chosen; `None` if the group is empty.
    pub(crate) protocol: Option<Arc<str>>,
    pub(crate) leader: Option<MemberId>,
    /// When the group got into its state, by wall time.
    pub(crate) state_since: Timestamp,
    pub(crate) members: Vec<ClassicMemberValue>,
}

/// A member of a classic group as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClassicMemberValue {
    pub(crate) member_id: MemberId,
    pub(crate) instance_id: Option<InstanceId>,
    pub(crate) client_id: Arc<str>,
    pub(crate) client_host: Arc<str>,
    pub(crate) rebalance_timeout: Duration,
    pub(crate) session_timeout: Duration,
    /// Its metadata for the protocol that was chosen.
    pub(crate) subscription: Bytes,
    pub(crate) assignment: Bytes,
}

impl ClassicValue {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = Writer::new(VERSION, false);
        out.string(&self.protocol_type).i32(self.generation.get());
        out.nullable_string(self.protocol.as_deref())
            .nullable_string(self.leader.as_deref());
        out.i64(self.state_since.get()).count(self.members.len());
        for member in &self.members {
            out.string(&member.member_id)
                .nullable_string(member.instance_id.as_deref());
            out.string(&member.client_id).string(&member.client_host);
            out.i32(millis(member.rebalance_timeout))
                .i32(millis(member.session_timeout));
            out.bytes(&member.subscription).bytes(&member.assignment);
        }
        out.finish()
    }

    pub(super) fn decode(value: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(value);
        let version = reader.i16()?;
        if !(0..=4).contains(&version) {
            return Err(DecodeError(
                "a classic group's value has an unknown version",
            ));
        }
        reader.flexible = version >= 4;
        let protocol_type = reader.string()?;
        let generation = Generation::new(reader.i32()?);
        let protocol = reader.nullable_string()?;
        let leader = reader.nullable_string()?;
        let state_since = match version {
            2.. => Timestamp::new(reader.i64()?),
            _ => Timestamp::NONE,
        };
        let members = reader.list(|reader| ClassicMemberValue::decode(reader, version))?;
        reader.skip_tags()?;
        reader.end()?;
        Ok(Self {
            protocol_type,
            generation,
            protocol,
            leader,
            state_since,
            members,
        })
    }
}

impl ClassicMemberValue {
    fn decode(reader: &mut Reader<'_>, version: i16) -> Result<Self, DecodeError> {
        let member_id = reader.string()?;
        let instance_id = match version {
            3.. => reader.nullable_string()?,
            _ => None,
        };
        let client_id = reader.string()?;
        let client_host = reader.string()?;
        let rebalance_ms = match version {
            1.. => Some(reader.i32()?),
            _ => None,
        };
        let session_ms = reader.i32()?;
        let member = Self {
            member_id,
            instance_id,
            client_id,
            client_host,
            rebalance_timeout: span(rebalance_ms.unwrap_or(session_ms))?,
            session_timeout: span(session_ms)?,
            subscription: reader.bytes()?,
            assignment: reader.bytes()?,
        };
        reader.skip_tags()?;
        Ok(member)
    }
}
