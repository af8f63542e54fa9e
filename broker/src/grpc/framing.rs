//! Follows the gRPC messages of a request's body as it passes by, and what they will take once decoded.
//!
//! An empty plain record is two bytes on the wire and more than a hundred in memory. So the elements of a message
//! are counted here, before it is decoded: only the nesting that a [`Shape`] names is entered, everything else
//! (an opaque batch, a key, a value) is skipped at once whatever its length.

use std::collections::VecDeque;

use bytes::Buf;

/// A gRPC message's prefix: one byte of flags, four of length.
const PREFIX_BYTES: usize = 5;
/// What a message takes beside its bytes: its place in the list of lengths.
const MESSAGE_BYTES: usize = 16;

/// What one element of a message takes when it is decoded, and which of its fields are elements again.
#[derive(Debug)]
pub(super) struct Shape {
    /// Bytes in memory beside the payload; generous, as lists double as they grow.
    decoded_bytes: usize,
    /// Beside that, what each byte of the payload takes: a packed number may have one.
    per_byte: usize,
    /// Empty where the payload is no message: it is passed over.
    fields: &'static [(u64, &'static Shape)],
}

impl Shape {
    const fn new(decoded_bytes: usize, fields: &'static [(u64, &'static Self)]) -> Self {
        Self {
            decoded_bytes,
            per_byte: 0,
            fields,
        }
    }
}

static HEADER: Shape = Shape::new(64, &[]);
static RECORD: Shape = Shape::new(160, &[(3, &HEADER)]);
static RECORDS: Shape = Shape::new(0, &[(1, &RECORD)]);
static APPEND: Shape = Shape::new(256 + ANSWER_BYTES, &[(5, &RECORDS)]);
/// `ProduceRequest`.
static PRODUCE: Shape = Shape::new(0, &[(4, &APPEND)]);

/// A string, or an entry of a map.
static ENTRY: Shape = Shape::new(160, &[]);
static ITEM: Shape = Shape::new(320, &[(2, &ENTRY), (3, &ENTRY), (4, &ENTRY)]);
/// Requests whose list in field 1 is of messages, with lists of their own in fields 2 to 4; and every other.
static LISTS: Shape = Shape::new(0, &[(1, &ITEM), (2, &ENTRY)]);
/// Requests whose lists are of names.
static NAMES: Shape = Shape::new(0, &[(1, &ENTRY), (2, &ENTRY)]);

/// A packed list of numbers.
static NUMBERS: Shape = Shape {
    decoded_bytes: 0,
    per_byte: 8,
    fields: &[],
};
static TOPIC_PARTITIONS: Shape = Shape::new(160, &[(3, &NUMBERS)]);
static ASSIGNMENT: Shape = Shape::new(0, &[(1, &TOPIC_PARTITIONS)]);
static SUBSCRIPTION: Shape = Shape::new(0, &[(1, &ENTRY)]);
/// `ConsumerGroupHeartbeatRequest`.
static HEARTBEAT: Shape = Shape::new(0, &[(7, &SUBSCRIPTION), (9, &ASSIGNMENT)]);
static OFFSET: Shape = Shape::new(320, &[]);
/// `CommitOffsetsRequest`.
static COMMIT_OFFSETS: Shape = Shape::new(0, &[(5, &OFFSET)]);
static NAMED_PARTITIONS: Shape = Shape::new(160, &[(2, &NUMBERS)]);
static FETCH_GROUP: Shape = Shape::new(320, &[(2, &NAMED_PARTITIONS)]);
/// `FetchOffsetsRequest`.
static FETCH_OFFSETS: Shape = Shape::new(0, &[(1, &FETCH_GROUP)]);
/// `DeleteOffsetsRequest`.
static DELETE_OFFSETS: Shape = Shape::new(0, &[(2, &NAMED_PARTITIONS)]);
static EXACT_OFFSETS: Shape = Shape::new(0, &[(1, &OFFSET)]);
/// `ResetOffsetsRequest`.
static RESET_OFFSETS: Shape = Shape::new(0, &[(2, &NAMED_PARTITIONS), (8, &EXACT_OFFSETS)]);

/// What the answer to one append takes while it waits to be sent.
pub(super) const ANSWER_BYTES: usize = 512;

impl Shape {
    /// The shape of the messages that a method takes.
    pub(super) fn of(path: &str) -> &'static Self {
        let Some(method) = path.strip_prefix("/logweir.v1.") else {
            return &LISTS;
        };
        match method {
            "ProduceService/Produce" | "ProduceService/ProduceStream" => &PRODUCE,
            "GroupService/ConsumerGroupHeartbeat" => &HEARTBEAT,
            "GroupService/CommitOffsets" => &COMMIT_OFFSETS,
            "GroupService/FetchOffsets" => &FETCH_OFFSETS,
            "GroupService/DeleteOffsets" => &DELETE_OFFSETS,
            "GroupService/ResetOffsets" => &RESET_OFFSETS,
            "GroupService/ListGroups"
            | "GroupService/DescribeGroups"
            | "GroupService/DeleteGroups"
            | "TopicService/DeleteTopics"
            | "TopicService/DescribeTopics"
            | "TopicService/DescribeConfigs" => &NAMES,
            _ => &LISTS,
        }
    }
}

/// Follows one body without keeping any of it.
#[derive(Debug)]
pub(super) struct Framing {
    shape: &'static Shape,
    prefix: [u8; PREFIX_BYTES],
    prefix_len: usize,
    /// Bytes of the current message still to come.
    rest: usize,
    elements: Elements,
    /// What the current message has been charged so far.
    charged: usize,
    /// What the messages that ended were charged, in order, until [`Framing::take_ended`].
    ended: VecDeque<usize>,
}

impl Framing {
    pub(super) fn new(shape: &'static Shape) -> Self {
        Self {
            shape,
            prefix: [0; PREFIX_BYTES],
            prefix_len: 0,
            rest: 0,
            elements: Elements::default(),
            charged: 0,
            ended: VecDeque::new(),
        }
    }

    /// Whether a message has begun and not ended.
    pub(super) fn within_message(&self) -> bool {
        self.prefix_len > 0 || self.rest > 0
    }

    /// Whether a message ended since [`Framing::take_ended`].
    pub(super) fn has_ended(&self) -> bool {
        !self.ended.is_empty()
    }

    /// What each message that ended since was charged.
    pub(super) fn take_ended(&mut self) -> impl Iterator<Item = usize> + '_ {
        self.ended.drain(..)
    }

    /// Follows the next bytes; gives what they take on the wire and decoded.
    pub(super) fn advance(&mut self, mut data: &[u8]) -> usize {
        let mut charge = 0;
        while !data.is_empty() {
            let mut piece;
            if self.rest > 0 {
                piece = self.rest.min(data.len());
                self.rest -= piece;
                let decoded = self.elements.feed(&data[..piece]);
                data.advance(piece);
                piece += decoded;
            } else {
                piece = (PREFIX_BYTES - self.prefix_len).min(data.len());
                self.prefix[self.prefix_len..self.prefix_len + piece]
                    .copy_from_slice(&data[..piece]);
                self.prefix_len += piece;
                data.advance(piece);
                if self.prefix_len == PREFIX_BYTES {
                    let [_flags, length @ ..] = self.prefix;
                    self.rest = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
                    self.prefix_len = 0;
                    self.elements.begin(self.shape, self.rest);
                    piece += MESSAGE_BYTES;
                }
            }
            charge += piece;
            self.charged += piece;
            if !self.within_message() {
                self.ended.push_back(std::mem::take(&mut self.charged));
            }
        }
        charge
    }
}

/// Counts the elements of one message of protobuf as its bytes come.
///
/// Bytes that are no protobuf end the count: the decoder stops there too. Groups, which no message here has, count
/// as if their fields stood beside them.
#[derive(Debug, Default)]
struct Elements {
    /// The elements being read, the innermost last, each with the bytes it has left beside those of the one in it.
    open: Vec<(&'static Shape, usize)>,
    /// Bytes of a payload to pass over.
    skip: usize,
    next: Next,
    varint: u64,
    shift: u32,
}

/// What the next varint is.
#[derive(Clone, Copy, Debug, Default)]
enum Next {
    #[default]
    Key,
    Value,
    Length {
        field: u64,
    },
}

impl Elements {
    fn begin(&mut self, shape: &'static Shape, bytes: usize) {
        *self = Self {
            open: std::mem::take(&mut self.open),
            ..Self::default()
        };
        self.open.clear();
        self.open.push((shape, bytes));
    }

    fn feed(&mut self, mut data: &[u8]) -> usize {
        let mut decoded = 0;
        while !data.is_empty() {
            if self.skip > 0 {
                let piece = self.skip.min(data.len());
                self.skip -= piece;
                data.advance(piece);
                continue;
            }
            while self.open.last().is_some_and(|(_, rest)| *rest == 0) {
                self.open.pop();
                if self.shift > 0 {
                    self.open.clear(); // A number that goes beyond its element.
                }
            }
            let Some((_, rest)) = self.open.last_mut() else {
                return decoded;
            };
            *rest -= 1;
            decoded += self.byte(data.get_u8());
        }
        decoded
    }

    /// Takes one byte of a varint.
    fn byte(&mut self, byte: u8) -> usize {
        self.varint |= u64::from(byte & 0x7f) << self.shift;
        if byte & 0x80 != 0 {
            self.shift += 7;
            if self.shift > 63 {
                self.open.clear();
            }
            return 0;
        }
        self.shift = 0;
        let number = std::mem::take(&mut self.varint);
        match std::mem::take(&mut self.next) {
            Next::Value => {}
            Next::Length { field } => {
                return self.enter(field, usize::try_from(number).unwrap_or(usize::MAX));
            }
            Next::Key => match number & 7 {
                0 => self.next = Next::Value,
                1 => return self.enter(0, 8),
                2 => self.next = Next::Length { field: number >> 3 },
                3 | 4 => {}
                5 => return self.enter(0, 4),
                _ => self.open.clear(),
            },
        }
        0
    }

    /// A payload begins; gives what it takes decoded.
    fn enter(&mut self, field: u64, bytes: usize) -> usize {
        let Some((shape, rest)) = self.open.last_mut() else {
            return 0;
        };
        if bytes > *rest {
            self.open.clear();
            return 0;
        }
        *rest -= bytes;
        let Some((_, shape)) = shape.fields.iter().find(|(number, _)| *number == field) else {
            self.skip = bytes;
            return 0;
        };
        // What is no message must not be read as one: a name that is no protobuf would end the count.
        match shape.fields.is_empty() {
            true => self.skip = bytes,
            false => self.open.push((shape, bytes)),
        }
        shape.decoded_bytes + bytes.saturating_mul(shape.per_byte)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use logweir_proto::grpc::v1;
    use prost::Message;

    use super::*;

    fn framed(message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).expect("short").to_be_bytes();
        [&[0][..], &length, message].concat()
    }

    fn produce(data: v1::partition_append::Data) -> Vec<u8> {
        let append = v1::PartitionAppend {
            topic: "t".into(),
            data: Some(data),
            ..v1::PartitionAppend::default()
        };
        let request = v1::ProduceRequest {
            correlation_id: 7,
            appends: vec![append],
            ..v1::ProduceRequest::default()
        };
        request.encode_to_vec()
    }

    fn records(count: usize) -> Vec<u8> {
        let record = v1::Record {
            headers: vec![v1::Header::default(); 2],
            ..v1::Record::default()
        };
        let records = vec![record; count];
        produce(v1::partition_append::Data::Records(v1::RecordList {
            records,
        }))
    }

    fn decoded(message: &[u8]) -> usize {
        decoded_as(&PRODUCE, message)
    }

    fn decoded_as(shape: &'static Shape, message: &[u8]) -> usize {
        let mut framing = Framing::new(shape);
        framing.advance(&framed(message)) - message.len() - PREFIX_BYTES - MESSAGE_BYTES
    }

    /// What a message of a group's method is charged beside its bytes.
    fn charged(method: &str, message: &impl Message) -> usize {
        let shape = Shape::of(&format!("/logweir.v1.GroupService/{method}"));
        decoded_as(shape, &message.encode_to_vec())
    }

    #[test]
    fn boundaries_and_charges_are_the_same_however_the_bytes_are_cut() {
        let messages = [Vec::new(), records(3), vec![0xff; 1_000], records(100)];
        let body: Vec<u8> = messages
            .iter()
            .flat_map(|message| framed(message))
            .collect();
        let mut whole = Framing::new(&PRODUCE);
        let charge = whole.advance(&body);
        let ended: Vec<usize> = whole.take_ended().collect();
        assert_eq!(ended.len(), 4);
        assert_eq!(ended.iter().sum::<usize>(), charge);
        for cut in 1..40 {
            let mut framing = Framing::new(&PRODUCE);
            let charged: usize = body.chunks(cut).map(|piece| framing.advance(piece)).sum();
            assert_eq!(charged, charge, "cut into {cut}");
            assert!(framing.take_ended().eq(ended.iter().copied()));
            assert!(!framing.within_message());
            framing.advance(&[0, 0, 0]);
            assert!(framing.within_message());
        }
    }

    /// Eight MiB of empty plain records passed the limit on the wire and became half a GiB when they were decoded.
    #[test]
    fn elements_are_charged_what_they_take_and_payloads_are_not_entered() {
        let each = RECORD.decoded_bytes + 2 * HEADER.decoded_bytes;
        assert_eq!(decoded(&records(0)), APPEND.decoded_bytes);
        assert_eq!(decoded(&records(500)), APPEND.decoded_bytes + 500 * each);
        // What looks like records within an opaque batch is none.
        let batch = v1::partition_append::Data::Batch(Bytes::from(records(500)));
        assert_eq!(decoded(&produce(batch)), APPEND.decoded_bytes);
        // An unknown group before it hides nothing.
        let hidden = [&[0x9b, 0x06, 0x9c, 0x06][..], &records(5)].concat();
        assert_eq!(decoded(&hidden), APPEND.decoded_bytes + 5 * each);
        assert!(size_of::<v1::Record>() <= RECORD.decoded_bytes);
        assert!(size_of::<v1::Header>() <= HEADER.decoded_bytes);
        assert!(size_of::<v1::PartitionAppend>() <= APPEND.decoded_bytes);
        assert!(size_of::<v1::FetchPartition>() <= ITEM.decoded_bytes);
    }

    /// Names were read as messages. One that is none, such as that of group "g", ended the count, and whatever followed
    /// was decoded without being charged.
    #[test]
    fn names_hide_nothing_that_comes_after_them() {
        let heartbeat = v1::ConsumerGroupHeartbeatRequest {
            group_id: "g".into(),
            member_id: "\u{7}gg".into(),
            instance_id: Some("gg".into()),
            rack_id: Some("g\u{f}".into()),
            subscription: Some(v1::Subscription {
                topics: vec!["g".into(); 50],
                topic_regex: "g.*".into(),
            }),
            server_assignor: Some("g".into()),
            owned: Some(v1::Assignment {
                topics: vec![topic_partitions(); 7],
            }),
            ..Default::default()
        };
        let numbers = NUMBERS.per_byte * 10;
        let owned = 7 * (TOPIC_PARTITIONS.decoded_bytes + numbers);
        let expected = 50 * ENTRY.decoded_bytes + owned;
        assert_eq!(charged("ConsumerGroupHeartbeat", &heartbeat), expected);
        let group_ids = vec!["g".into(); 20];
        let describe = v1::DescribeGroupsRequest { group_ids };
        assert_eq!(
            charged("DescribeGroups", &describe),
            20 * ENTRY.decoded_bytes
        );
        let list = v1::ListGroupsRequest {
            states: vec!["g".into(); 3],
            types: vec!["g".into(); 4],
            ..Default::default()
        };
        assert_eq!(charged("ListGroups", &list), 7 * ENTRY.decoded_bytes);
    }

    fn topic_partitions() -> v1::TopicPartitions {
        v1::TopicPartitions {
            topic: "g".into(),
            topic_id: Bytes::from_static(&[0xff; 16]),
            partitions: (0..10).collect(),
        }
    }

    #[test]
    fn lists_of_offsets_and_partitions_are_charged_in_every_message_about_groups() {
        let topics = || {
            vec![
                v1::NamedPartitions {
                    topic: "g".into(),
                    partitions: (0..10).collect(),
                };
                3
            ]
        };
        let named = 3 * (NAMED_PARTITIONS.decoded_bytes + 10 * NUMBERS.per_byte);
        let commit = v1::CommitOffsetsRequest {
            group_id: "g".into(),
            member_id: "g".into(),
            instance_id: Some("g".into()),
            offsets: vec![v1::OffsetToCommit::default(); 9],
            ..Default::default()
        };
        assert_eq!(charged("CommitOffsets", &commit), 9 * OFFSET.decoded_bytes);
        let group = v1::FetchOffsetsGroup {
            group_id: "g".into(),
            topics: topics(),
            ..Default::default()
        };
        let fetch = v1::FetchOffsetsRequest {
            groups: vec![group; 4],
        };
        let expected = 4 * (FETCH_GROUP.decoded_bytes + named);
        assert_eq!(charged("FetchOffsets", &fetch), expected);
        let delete = v1::DeleteOffsetsRequest {
            group_id: "g".into(),
            topics: topics(),
        };
        assert_eq!(charged("DeleteOffsets", &delete), named);
        let exact = v1::ExactOffsets {
            offsets: vec![v1::ExactOffset::default(); 5],
        };
        let reset = v1::ResetOffsetsRequest {
            group_id: "g".into(),
            topics: topics(),
            to: Some(v1::reset_offsets_request::To::Exact(exact)),
            dry_run: true,
        };
        let expected = named + 5 * OFFSET.decoded_bytes;
        assert_eq!(charged("ResetOffsets", &reset), expected);
    }

    /// Lists double as they grow.
    #[test]
    fn what_is_charged_for_an_element_covers_twice_its_size() {
        for (size, shape) in [
            (size_of::<String>(), &ENTRY),
            (size_of::<v1::TopicPartitions>(), &TOPIC_PARTITIONS),
            (size_of::<v1::NamedPartitions>(), &NAMED_PARTITIONS),
            (size_of::<v1::OffsetToCommit>(), &OFFSET),
            (size_of::<v1::ExactOffset>(), &OFFSET),
            (size_of::<v1::FetchOffsetsGroup>(), &FETCH_GROUP),
        ] {
            assert!(2 * size <= shape.decoded_bytes, "{size}: {shape:?}");
        }
        assert!(2 * size_of::<i32>() <= NUMBERS.per_byte);
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_are_followed_without_a_panic(
            bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
        ) {
            let mut framing = Framing::new(&PRODUCE);
            framing.advance(&framed(&bytes));
            proptest::prop_assert!(!framing.within_message());
            framing.advance(&bytes);
        }
    }
}
