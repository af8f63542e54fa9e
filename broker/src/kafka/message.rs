//! Makes the codec's messages, which can only be filled in, and limits what is decoded.

use kafka_wire_core::{DecodeLimits, StrBytes};
use logweir_proto::TopicId;

/// Elements of one array of a request.
const MAX_ARRAY: usize = 100_000;
/// The largest frame but for those that carry records: each of its bytes may take dozens once it is decoded.
pub(super) const MAX_SMALL_FRAME: usize = 1 << 20;

/// A message, or a part of one, with these fields; others have their defaults.
macro_rules! message {
    ($kind:ty { $($field:ident: $value:expr),* $(,)? }) => {{
        let mut message = <$kind>::default();
        $(message.$field = $value;)*
        message
    }};
}
pub(super) use message;

/// What may be in a request.
pub(super) fn limits(frame: usize) -> DecodeLimits {
    let mut limits = DecodeLimits::default();
    limits.max_frame_bytes = frame;
    limits.max_string_bytes = 1 << 15;
    limits.max_bytes_bytes = frame;
    limits.max_array_elements = MAX_ARRAY;
    limits.max_tagged_fields = 64;
    limits.max_tag_bytes = MAX_SMALL_FRAME;
    limits.max_total_tag_bytes = MAX_SMALL_FRAME;
    limits
}

/// A string of the codec.
pub(super) fn text(text: impl AsRef<str>) -> StrBytes {
    StrBytes::from(text.as_ref())
}

pub(super) fn uuid(id: TopicId) -> kafka_wire_core::Uuid {
    kafka_wire_core::Uuid::from_bytes(id.get())
}

pub(super) fn topic_id(id: kafka_wire_core::Uuid) -> Option<TopicId> {
    (!id.is_zero()).then(|| TopicId::new(id.to_bytes()))
}

/// Milliseconds as the protocol has them.
pub(super) fn millis(time: std::time::Duration) -> i32 {
    i32::try_from(time.as_millis()).unwrap_or(i32::MAX)
}
