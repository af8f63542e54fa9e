//! A client that sends what it is told, in the version that it is told.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_wire::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_wire::{
    CreateTopicsRequest, KafkaRequest, KafkaResponse, OutboundFrameLimits, RequestResponsePair,
    encode_request, response_header_version_for,
};
use kafka_wire_core::{ApiVersion, DecodeLimits, Decoder, KafkaDecode, KafkaEncode};
use logweir_proto::record::{BatchBuilder, Compression};
use logweir_proto::{ErrorCode, Timestamp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::kafka::message::{message, text};
use crate::{Broker, Config, ListenAddr};

/// Who runs into it has failed, and is not slow.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);

/// A broker in memory with a Kafka listener only.
pub(super) async fn broker(config: Config) -> Broker {
    let quiet = config
        .with_grpc(ListenAddr::Off)
        .with_http(ListenAddr::Off)
        .with_auto_create_topics(false);
    Broker::start(quiet).await.expect("a broker starts")
}

/// A batch of one record.
pub(super) fn batch(value: &[u8]) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    builder
        .append(
            Timestamp::new(1_700_000_000_000),
            Some(b"key"),
            Some(value),
            &[],
        )
        .expect("it fits");
    builder.build().expect("it has a record")
}

/// An error by its number.
pub(super) fn code(number: i16) -> ErrorCode {
    ErrorCode::from_code(number).unwrap_or_else(|| panic!("{number} is no error of Kafka"))
}

/// A value of so many bytes.
pub(super) fn value(bytes: usize) -> Vec<u8> {
    vec![b'x'; bytes]
}

/// Creates a topic over the listener itself.
pub(super) async fn create_topic(client: &mut Client, name: &str, configs: &[(&str, &str)]) {
    let config = |(name, value): &(&str, &str)| {
        message!(CreatableTopicConfig {
            name: text(name),
            value: Some(text(value)),
        })
    };
    let topic = message!(CreatableTopic {
        name: text(name),
        num_partitions: 2,
        replication_factor: -1,
        configs: configs.iter().map(config).collect(),
    });
    let request = message!(CreateTopicsRequest {
        topics: vec![topic],
        timeout_ms: 30_000,
    });
    let created = client.ask(&request, 7).await;
    assert_eq!(created.topics[0].error_code, 0, "{created:?}");
}

pub(super) struct Client {
    stream: TcpStream,
    correlation_id: i32,
    /// The frames of all requests, one after the other.
    pub(super) sent: BytesMut,
}

impl Client {
    pub(super) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address)
            .await
            .expect("the listener is there");
        stream.set_nodelay(true).expect("it is a TCP socket");
        Self {
            stream,
            correlation_id: 100,
            sent: BytesMut::new(),
        }
    }

    /// Of this broker.
    pub(super) async fn of(broker: &Broker) -> Self {
        Self::connect(broker.kafka_addr().expect("the listener is on")).await
    }

    /// A frame with this request; its correlation id.
    pub(super) fn encode<Q: KafkaRequest + KafkaEncode>(
        &mut self,
        frames: &mut BytesMut,
        request: &Q,
        version: i16,
    ) -> i32 {
        self.correlation_id += 1;
        let encoded = encode_request(
            frames,
            self.correlation_id,
            Some(text("tests")),
            request,
            ApiVersion::new(version),
            OutboundFrameLimits::new(64 << 20),
        );
        encoded.unwrap_or_else(|error| panic!("{} {version}: {error}", Q::NAME));
        self.correlation_id
    }

    pub(super) async fn send<Q: KafkaRequest + KafkaEncode>(
        &mut self,
        request: &Q,
        version: i16,
    ) -> i32 {
        let mut frame = BytesMut::new();
        let id = self.encode(&mut frame, request, version);
        self.sent.extend_from_slice(&frame);
        self.send_bytes(&frame).await;
        id
    }

    pub(super) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream
            .write_all(bytes)
            .await
            .expect("the broker reads");
    }

    /// Sends a body that the codec cannot write, under the header of an old version.
    pub(super) async fn send_body(&mut self, key: i16, version: i16, body: &[u8]) -> i32 {
        self.correlation_id += 1;
        let mut frame = BytesMut::new();
        frame.put_i32(i32::try_from(2 + 2 + 4 + 2 + body.len()).expect("it is short"));
        frame.put_i16(key);
        frame.put_i16(version);
        frame.put_i32(self.correlation_id);
        frame.put_i16(-1);
        frame.put_slice(body);
        self.send_bytes(&frame).await;
        self.correlation_id
    }

    /// What comes next, or none if the broker closes.
    pub(super) async fn next_frame(&mut self) -> Option<Bytes> {
        let read = async {
            let mut length = [0; 4];
            if self.stream.read_exact(&mut length).await.is_err() {
                return None;
            }
            let length = usize::try_from(i32::from_be_bytes(length)).expect("lengths are positive");
            let mut frame = vec![0; length];
            self.stream
                .read_exact(&mut frame)
                .await
                .expect("a frame comes whole");
            Some(Bytes::from(frame))
        };
        timeout(DEADLINE, read).await.expect("an answer in time")
    }

    /// Whether the broker closes without a byte more.
    pub(super) async fn is_closed(&mut self) -> bool {
        self.next_frame().await.is_none()
    }

    /// The answer's body, once it is seen that it is the answer to `id`.
    pub(super) async fn body(&mut self, id: i32, has_tags: bool, what: &str) -> Bytes {
        let frame = self.next_frame().await;
        let frame = frame.unwrap_or_else(|| panic!("{what}: the connection was closed"));
        let mut header = Decoder::new(frame.clone(), DecodeLimits::default()).expect("it is short");
        assert_eq!(header.read_i32(), Ok(id), "{what}: whose answer it is");
        if has_tags {
            let tags = header.read_tagged_fields();
            assert!(tags.is_ok_and(|tags| tags.is_empty()), "{what}: the header");
        }
        frame.slice(header.offset()..)
    }

    /// The answer to `id`: it decodes to its last byte, and the codec writes it like that.
    pub(super) async fn answer<Q>(&mut self, id: i32, version: i16) -> Q::Response
    where
        Q: RequestResponsePair + KafkaEncode,
        Q::Response: KafkaDecode + KafkaEncode + Debug,
    {
        let what = format!("{} {version}", Q::NAME);
        let version = ApiVersion::new(version);
        let header = response_header_version_for::<Q>(version).expect("the version is there");
        let body = self.body(id, header == 1, &what).await;
        decoded(&body, version, &what)
    }

    /// Sends and waits for the answer.
    pub(super) async fn ask<Q>(&mut self, request: &Q, version: i16) -> Q::Response
    where
        Q: RequestResponsePair + KafkaEncode,
        Q::Response: KafkaDecode + KafkaEncode + Debug,
    {
        let id = self.send(request, version).await;
        self.answer::<Q>(id, version).await
    }
}

/// Decodes to the last byte, and encodes to the same bytes.
pub(super) fn decoded<R>(body: &Bytes, version: ApiVersion, what: &str) -> R
where
    R: KafkaResponse + KafkaDecode + KafkaEncode + Debug,
{
    let response = R::decode_from_bytes(body.clone(), version, DecodeLimits::default());
    let response = response.unwrap_or_else(|error| panic!("{what}: {error} in {body:?}"));
    let mut again = BytesMut::new();
    response
        .encode_into(&mut again, version)
        .unwrap_or_else(|error| panic!("{what}: {error}: {response:?}"));
    assert!(again == body, "{what}: {body:?} and not {again:?}");
    response
}
