//! Control records: what brokers write between the records of a transaction (KIP-98).
//!
//! Key: version i16, type i16. Value of abort and commit: version i16, coordinator epoch i32. Both may be longer
//! in later versions.

use super::records::Record;

/// A control record, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlRecord {
    /// The producer's transaction was aborted.
    Abort(EndTransaction),
    /// The producer's transaction was committed.
    Commit(EndTransaction),
    /// Any other type, such as Raft's leader changes.
    Other {
        /// The type in the key.
        control_type: i16,
    },
}

/// The end of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndTransaction {
    /// The term of the transaction coordinator that decided; older ones are fenced.
    pub coordinator_epoch: i32,
}

impl ControlRecord {
    /// Reads a record of a control batch ([`super::Attributes::is_control`]); `None` if it is malformed.
    #[must_use]
    pub fn read(record: &Record) -> Option<Self> {
        let key = record.key.as_deref()?;
        let (version, rest) = split_i16(key)?;
        let (control_type, _) = split_i16(rest)?;
        if version < 0 {
            return None;
        }
        match control_type {
            0 => Some(Self::Abort(EndTransaction::read(record)?)),
            1 => Some(Self::Commit(EndTransaction::read(record)?)),
            control_type => Some(Self::Other { control_type }),
        }
    }
}

impl EndTransaction {
    fn read(record: &Record) -> Option<Self> {
        let (version, rest) = split_i16(record.value.as_deref()?)?;
        let coordinator_epoch = i32::from_be_bytes(*rest.first_chunk()?);
        (version >= 0).then_some(Self { coordinator_epoch })
    }
}

fn split_i16(bytes: &[u8]) -> Option<(i16, &[u8])> {
    let (head, rest) = bytes.split_first_chunk()?;
    Some((i16::from_be_bytes(*head), rest))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::ids::{Offset, Timestamp};

    fn check(
        key: Option<&'static [u8]>,
        value: Option<&'static [u8]>,
        expected: Option<ControlRecord>,
    ) {
        let record = Record {
            offset: Offset::ZERO,
            timestamp: Timestamp::new(0),
            key: key.map(Bytes::from_static),
            value: value.map(Bytes::from_static),
            headers: Vec::new(),
        };
        assert_eq!(ControlRecord::read(&record), expected);
    }

    #[test]
    fn markers_are_read_and_malformed_ones_are_not() {
        let end = EndTransaction {
            coordinator_epoch: 9,
        };
        let value: &[u8] = &[0, 0, 0, 0, 0, 9];
        check(
            Some(&[0, 0, 0, 0]),
            Some(value),
            Some(ControlRecord::Abort(end)),
        );
        check(
            Some(&[0, 0, 0, 1]),
            Some(value),
            Some(ControlRecord::Commit(end)),
        );
        // A later version may add fields at the end.
        check(
            Some(&[0, 1, 0, 1, 7]),
            Some(&[0, 1, 0, 0, 0, 9, 7]),
            Some(ControlRecord::Commit(end)),
        );
        check(
            Some(&[0, 0, 0, 2]),
            None,
            Some(ControlRecord::Other { control_type: 2 }),
        );
        check(Some(&[0, 0, 0]), Some(value), None);
        check(Some(&[0xff, 0xff, 0, 1]), Some(value), None);
        check(Some(&[0, 0, 0, 1]), Some(&value[..5]), None);
        check(Some(&[0, 0, 0, 1]), None, None);
        check(None, Some(value), None);
    }
}
