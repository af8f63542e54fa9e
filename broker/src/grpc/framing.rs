//! Follows the gRPC messages of a request's body as it passes by, and what they will take once decoded.
//!
//! An empty plain record is two bytes on the wire and more than a hundred in memory. So the elements of a message
//! are counted here, before it is decoded: only the nesting that a [`Shape`] names is entered, everything else
//! (an opaque batch, a key, a value) is skipped at once whatever its length.

use std::collections::VecDeque;

use bytes::Buf;

use crate::grpc::produce_stream::PRODUCE_STREAM;

/// A gRPC message's prefix: one byte of flags, four of length.
const PREFIX_BYTES: usize = 5;
/// What a message takes beside its bytes: its place in the list of lengths.
const MESSAGE_BYTES: usize = 16;

/// What one element of a message takes when it is decoded, and which of its fields are elements again.
#[derive(Debug)]
pub(super) struct Shape {
    /// Bytes in memory beside the payload; generous, as lists double as they grow.
    decoded_bytes: usize,
    fields: &'static [(u64, &'static Shape)],
}

static HEADER: Shape = Shape {
    decoded_bytes: 64,
    fields: &[],
};
static RECORD: Shape = Shape {
    decoded_bytes: 160,
    fields: &[(3, &HEADER)],
};
static RECORDS: Shape = Shape {
    decoded_bytes: 0,
    fields: &[(1, &RECORD)],
};
static APPEND: Shape = Shape {
    decoded_bytes: 256 + ANSWER_BYTES,
    fields: &[(5, &RECORDS)],
};
/// `ProduceRequest`.
static PRODUCE: Shape = Shape {
    decoded_bytes: 0,
    fields: &[(4, &APPEND)],
};
static ENTRY: Shape = Shape {
    decoded_bytes: 160,
    fields: &[],
};
static ITEM: Shape = Shape {
    decoded_bytes: 320,
    fields: &[(2, &ENTRY), (3, &ENTRY), (4, &ENTRY)],
};
/// Every other request: lists are in field 1 or 2, and their items' own lists in fields 2 to 4.
static LISTS: Shape = Shape {
    decoded_bytes: 0,
    fields: &[(1, &ITEM), (2, &ENTRY)],
};

static NESTED: Shape = Shape {
    decoded_bytes: 0,
    fields: &[(1, &ITEM)],
};
/// Requests about groups: lists in field 1, 2 or 5, and lists within fields 7 to 9.
static GROUPS: Shape = Shape {
    decoded_bytes: 0,
    fields: &[
        (1, &ITEM),
        (2, &ITEM),
        (5, &ITEM),
        (7, &NESTED),
        (8, &NESTED),
        (9, &NESTED),
    ],
};

/// What the answer to one append takes while it waits to be sent.
pub(super) const ANSWER_BYTES: usize = 512;

impl Shape {
    /// The shape of the messages that a method takes.
    pub(super) fn of(path: &str) -> &'static Self {
        match path {
            "/logweir.v1.ProduceService/Produce" | PRODUCE_STREAM => &PRODUCE,
            _ if path.starts_with("/logweir.v1.GroupService/") => &GROUPS,
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
        self.open.push((shape, bytes));
        shape.decoded_bytes
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
        let mut framing = Framing::new(&PRODUCE);
        framing.advance(&framed(message)) - message.len() - PREFIX_BYTES - MESSAGE_BYTES
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
