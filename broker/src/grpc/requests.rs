//! The messages of a call's request stream, decoded where they lie in the received frames.
//!
//! tonic's own decoder copies every frame into a buffer first. A record batch is large and comes in one frame as a
//! rule, so here its message is decoded in place, and the batch shares the frame; only a message that spans frames
//! is put together. Limits and errors are tonic's.

use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use http_body::Body as HttpBody;
use prost::Message;
use tokio_stream::Stream;
use tonic::Status;
use tonic::body::Body;

/// A gRPC message's prefix: one byte of flags, four of length.
const PREFIX_BYTES: usize = 5;

/// The stream of messages of one request. It ends after its first error.
#[derive(Debug)]
pub(super) struct Requests<M> {
    body: Body,
    /// What is left of the newest frame.
    frame: Bytes,
    /// What came before it of a message that spans frames. The frames themselves are let go: many small ones would take
    /// far more memory than the bytes that they carry and are charged for.
    partial: BytesMut,
    /// The length of the message that has begun, once its prefix was read.
    message: Option<usize>,
    max_message_bytes: usize,
    ended: bool,
    kind: PhantomData<fn() -> M>,
}

impl<M: Message + Default> Requests<M> {
    /// Messages of at most `max_message_bytes`.
    pub(super) fn new(body: Body, max_message_bytes: usize) -> Self {
        Self {
            body,
            frame: Bytes::new(),
            partial: BytesMut::new(),
            message: None,
            max_message_bytes,
            ended: false,
            kind: PhantomData,
        }
    }

    /// The next message, if all of it has come.
    fn next_message(&mut self) -> Result<Option<M>, Status> {
        if self.message.is_none() {
            let Some(prefix) = self.take(PREFIX_BYTES) else {
                return Ok(None);
            };
            self.message = Some(self.message_len(prefix)?);
        }
        let Some(bytes) = self.message.and_then(|len| self.take(len)) else {
            return Ok(None);
        };
        self.message = None;
        let message = M::decode(bytes).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Some(message))
    }

    fn message_len(&self, mut prefix: Bytes) -> Result<usize, Status> {
        match prefix.get_u8() {
            0 => {}
            1 => {
                return Err(Status::internal(
                    "a message is marked as compressed, but the call named no grpc-encoding",
                ));
            }
            flags => {
                return Err(Status::internal(format!(
                    "a message's prefix has flags {flags}: only 0 and 1 have a meaning"
                )));
            }
        }
        let len = usize::try_from(prefix.get_u32()).unwrap_or(usize::MAX);
        if len > self.max_message_bytes {
            return Err(Status::out_of_range(format!(
                "a message has {len} bytes, the limit is {}",
                self.max_message_bytes
            )));
        }
        Ok(len)
    }

    /// The next `len` bytes, if they have come: those of the newest frame itself, or a copy if they span frames. What has
    /// come of more is put aside.
    fn take(&mut self, len: usize) -> Option<Bytes> {
        if self.partial.is_empty() && self.frame.len() >= len {
            return Some(self.frame.split_to(len));
        }
        let wanted = len - self.partial.len();
        let piece = self.frame.split_to(wanted.min(self.frame.len()));
        self.partial.extend_from_slice(&piece);
        (self.partial.len() == len).then(|| std::mem::take(&mut self.partial).freeze())
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<M, Status>>> {
        loop {
            if let Some(message) = self.next_message()? {
                return Poll::Ready(Some(Ok(message)));
            }
            // All of the frame before was taken or put aside.
            match std::task::ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                // Trailers of a request mean nothing.
                Some(Ok(frame)) => self.frame = frame.into_data().unwrap_or_default(),
                // The peer took the call back: nobody is there to be told.
                Some(Err(status)) if status.code() == tonic::Code::Cancelled => {
                    return Poll::Ready(None);
                }
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None if !self.partial.is_empty() || self.message.is_some() => {
                    return Poll::Ready(Some(Err(Status::internal(
                        "the stream ended within a message",
                    ))));
                }
                None => return Poll::Ready(None),
            }
        }
    }
}

impl<M: Message + Default> Stream for Requests<M> {
    type Item = Result<M, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let next = std::task::ready!(self.poll_message(cx));
        self.ended = !matches!(next, Some(Ok(_)));
        Poll::Ready(next)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use http_body::Frame;
    use logweir_proto::grpc::v1;
    use tokio_stream::StreamExt;

    use super::*;

    /// A body of these frames, or errors.
    struct Frames(VecDeque<Result<Frame<Bytes>, Status>>);

    impl HttpBody for Frames {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.pop_front())
        }
    }

    fn request(id: u64, batch: &[u8]) -> v1::ProduceRequest {
        v1::ProduceRequest {
            correlation_id: id,
            appends: vec![v1::PartitionAppend {
                topic: "t".to_owned(),
                data: Some(v1::partition_append::Data::Batch(Bytes::copy_from_slice(
                    batch,
                ))),
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    fn encoded(message: &v1::ProduceRequest) -> Vec<u8> {
        let len = u32::try_from(message.encoded_len()).unwrap();
        let mut bytes = vec![0];
        bytes.extend(len.to_be_bytes());
        bytes.extend(message.encode_to_vec());
        bytes
    }

    fn requests(frames: Vec<Bytes>, max: usize) -> Requests<v1::ProduceRequest> {
        let frames = frames.into_iter().map(|data| Ok(Frame::data(data)));
        Requests::new(Body::new(Frames(frames.collect())), max)
    }

    async fn read(frames: Vec<Bytes>, max: usize) -> Vec<Result<v1::ProduceRequest, Status>> {
        requests(frames, max).collect().await
    }

    #[tokio::test]
    async fn messages_come_whole_however_their_bytes_are_framed() {
        let sent: Vec<_> = (0..5).map(|id| request(id, &[7; 100])).collect();
        let bytes: Vec<u8> = sent.iter().flat_map(encoded).collect();
        for size in [1, 2, 3, 4, 5, 6, 7, 50, 99, 128, 200, bytes.len()] {
            let frames = bytes.chunks(size).map(Bytes::copy_from_slice).collect();
            let read = read(frames, 1_000).await;
            let read: Vec<_> = read.into_iter().map(Result::unwrap).collect();
            assert_eq!(read, sent, "frames of {size} bytes");
        }
    }

    #[tokio::test]
    async fn a_batch_shares_the_frame_it_came_in() {
        let frame = Bytes::from(
            [
                encoded(&request(1, &[1; 64])),
                encoded(&request(2, &[2; 64])),
            ]
            .concat(),
        );
        let within = frame.as_ptr_range();
        for read in read(vec![frame], 1_000).await {
            let append = read.unwrap().appends.remove(0);
            let Some(v1::partition_append::Data::Batch(batch)) = append.data else {
                panic!("it was sent as a batch")
            };
            assert!(within.contains(&batch.as_ptr()), "the batch was copied");
        }
    }

    #[tokio::test]
    async fn what_is_no_message_ends_the_stream_with_one_error() {
        let good = encoded(&request(1, &[1; 64]));
        let with = |bad: &[u8]| vec![Bytes::from([good.clone(), bad.to_vec()].concat())];
        for (bad, code) in [
            (&[1, 0, 0, 0, 0][..], tonic::Code::Internal),
            (&[9, 0, 0, 0, 0], tonic::Code::Internal),
            (&[0, 0, 0, 4, 0], tonic::Code::OutOfRange),
            (&[0, 255, 255, 255, 255], tonic::Code::OutOfRange),
            // Field 1 of a wire type that there is not.
            (&[0, 0, 0, 0, 1, 15], tonic::Code::Internal),
            (&[0, 0], tonic::Code::Internal),
            (&[0, 0, 0, 0, 2, 8], tonic::Code::Internal),
        ] {
            let read = read(with(bad), 1_000).await;
            assert_eq!(read.len(), 2, "{bad:?}: {read:?}");
            assert!(read[0].is_ok());
            assert_eq!(read[1].as_ref().unwrap_err().code(), code, "{bad:?}");
        }
    }

    #[tokio::test]
    async fn trailers_mean_nothing_and_a_broken_body_is_told_unless_the_peer_took_the_call_back() {
        for (error, told) in [
            (None, 0),
            (Some(Status::cancelled("reset")), 0),
            (Some(Status::unknown("connection lost")), 1),
        ] {
            let mut frames = VecDeque::from([
                Ok(Frame::data(Bytes::from(encoded(&request(1, &[1; 64]))))),
                Ok(Frame::trailers(http::HeaderMap::new())),
            ]);
            frames.extend(error.map(Err));
            let requests: Requests<v1::ProduceRequest> =
                Requests::new(Body::new(Frames(frames)), 1_000);
            let read: Vec<_> = requests.collect().await;
            assert_eq!(read.len(), 1 + told, "{read:?}");
            assert!(read[0].is_ok());
        }
    }

    /// Every frame of an unfinished message used to be kept: 16 MiB in frames of a byte took a gigabyte.
    #[tokio::test]
    async fn an_unfinished_message_takes_what_has_come_of_it() {
        let mut bytes = encoded(&request(1, &vec![7; 100_000]));
        bytes.pop();
        let frames = bytes.chunks(1).map(Bytes::copy_from_slice).collect();
        let mut requests = requests(frames, 1 << 20);
        let error = requests.next().await.unwrap().unwrap_err();
        assert_eq!(error.code(), tonic::Code::Internal);
        assert!(requests.frame.is_empty());
        let taken = requests.partial.capacity();
        assert!(
            taken <= 2 * bytes.len(),
            "{taken} for {} bytes",
            bytes.len()
        );
    }
}
