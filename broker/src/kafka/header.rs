//! The header of a request (versions 1 and 2): who asks what, in which version.

use bytes::Bytes;
use kafka_wire_core::{DecodeError, Decoder, StrBytes};

use super::apis::{self, Served};
use super::message::limits;

/// A request, as far as its header tells.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) api_key: i16,
    pub(super) version: i16,
    pub(super) correlation_id: i32,
    pub(super) client_id: Option<StrBytes>,
    /// None for an API that is not served.
    pub(super) served: Option<&'static Served>,
    /// What follows. Of a version that is not known it may begin with tagged fields of the header.
    pub(super) body: Bytes,
}

impl Header {
    /// Reads it from a frame.
    ///
    /// # Errors
    /// If the frame ends before it, or has a name that is no string.
    pub(super) fn read(frame: &Bytes) -> Result<Self, DecodeError> {
        let mut decoder = Decoder::new(frame.clone(), limits(frame.len()))?;
        let api_key = decoder.read_i16()?;
        let version = decoder.read_i16()?;
        let correlation_id = decoder.read_i32()?;
        // A string of the old form in every version, so that it can be read before the version is known.
        let client_id = decoder.read_nullable_string()?;
        let served = apis::served(api_key);
        if served.is_some_and(|served| served.is_flexible(version) && version <= served.max) {
            decoder.read_tagged_fields()?;
        }
        Ok(Self {
            api_key,
            version,
            correlation_id,
            client_id,
            served,
            body: frame.slice(decoder.offset()..),
        })
    }
}
