//! One request on its way: who asks what in which version, and how its answer is framed.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_wire::{KafkaMessage, RequestResponsePair};
use kafka_wire_core::{ApiVersion, DecodeError, Decoder, EncodeError, KafkaDecode, KafkaEncode};
use parking_lot::Mutex;

use super::apis::{ApiKey, Served};
use super::message::limits;
use super::sessions::Sessions;
use crate::error::ApiError;
use crate::inflight::{Account, Charge, Kept};
use crate::service::{RequestContext, Service};

/// A connection as its calls see it.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) host: Arc<str>,
    /// The broker's address that it connected to.
    pub(super) reached: Option<SocketAddr>,
    /// What the clients of the listener read.
    pub(super) sessions: Arc<Sessions>,
    /// The client's software and version, once it has said so (KIP-511).
    pub(super) software: Mutex<Arc<str>>,
}

/// A request.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) service: Arc<Service>,
    pub(super) peer: Arc<Peer>,
    pub(super) ctx: RequestContext,
    pub(super) served: &'static Served,
    pub(super) version: i16,
    pub(super) correlation_id: i32,
    /// What follows the header.
    pub(super) body: Bytes,
    /// What the request was charged, as it is once decoded.
    pub(super) charge: Charge,
    /// What it may have beyond the budget, as long as it is decoded.
    pub(super) account: Mutex<Option<Account>>,
}

/// An answer, as it goes out: its frame in pieces, records spliced in.
pub(super) type Response = Vec<Bytes>;

/// An answer that may still be due.
pub(super) enum Answer {
    Ready(Response),
    /// Nobody wants one (acks=0).
    Nothing,
    /// The request has its place in the order; the next one may begin.
    Later(Pin<Box<dyn Future<Output = Result<Response, Broken>> + Send>>),
}

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// The request cannot be read.
    #[error("the request cannot be read: {0}")]
    Decode(#[from] DecodeError),
    /// The answer cannot be written: an error of this program.
    #[error("the answer cannot be written: {0}")]
    Encode(#[from] EncodeError),
    /// Something else that the protocol has no answer for.
    #[error("{0}")]
    Other(String),
}

impl Call {
    pub(super) fn api(&self) -> ApiKey {
        self.served.api
    }

    /// The broker's own name for a name that the caller gives.
    pub(super) fn name(&self, name: &str) -> Arc<str> {
        Arc::from(&*self.ctx.names.to_inner(name))
    }

    /// The request, whole.
    pub(super) fn decode<Q: KafkaDecode>(&self) -> Result<Q, Broken> {
        self.decode_as(self.version)
    }

    /// The request, of an old version that has the form of a later one.
    pub(super) fn decode_as<Q: KafkaDecode>(&self, version: i16) -> Result<Q, Broken> {
        let body = self.body.clone();
        let limits = limits(body.len());
        let mut decoder = Decoder::new(body, limits)?;
        let request = Q::decode(&mut decoder, ApiVersion::new(version))?;
        // What follows is left alone, as Kafka does: old clients pad.
        Ok(request)
    }

    /// Says that the request is no longer held in its decoded form: while it waits, and holds the result of this, it is
    /// charged no more than its length. Otherwise those that wait for minutes, for records or for a group, would take
    /// the budget that others decode with.
    pub(super) fn is_parked(&self, body: usize) -> Kept {
        *self.account.lock() = None;
        self.charge.settle(body)
    }

    /// The answer, framed.
    pub(super) fn encode<R: KafkaMessage + KafkaEncode>(
        &self,
        response: &R,
    ) -> Result<Response, Broken> {
        self.encode_as(response, self.version)
    }

    /// The answer, framed, of an old version that has the form of a later one.
    pub(super) fn encode_as<R: KafkaMessage + KafkaEncode>(
        &self,
        response: &R,
        version: i16,
    ) -> Result<Response, Broken> {
        let mut frame = self.begin();
        response.encode_into(&mut frame, ApiVersion::new(version))?;
        Ok(vec![finish(frame, 0)])
    }

    /// Logs that what was asked is not done, for who wonders what a client does.
    pub(super) fn log_refused(&self, error: &ApiError) {
        tracing::debug!(api = self.served.name, version = self.version, host = %self.peer.host,
            client_id = %self.ctx.client_id, client_software = %self.ctx.client_software, %error, "refused");
    }

    /// Room for the length, and the header.
    pub(super) fn begin(&self) -> BytesMut {
        let mut frame = BytesMut::with_capacity(256);
        frame.put_i32(0);
        frame.put_i32(self.correlation_id);
        // ApiVersions has the old header in every version, so that anybody can read it (KIP-511).
        if self.served.is_flexible(self.version) && self.api() != ApiKey::ApiVersions {
            frame.put_u8(0);
        }
        frame
    }

    /// Reads the request, has it answered, writes the answer.
    pub(super) async fn answer<Q, F>(
        self,
        handle: impl FnOnce(Arc<Self>, Q) -> F,
    ) -> Result<Answer, Broken>
    where
        Q: RequestResponsePair + KafkaDecode,
        Q::Response: KafkaEncode,
        F: Future<Output = Q::Response>,
    {
        let request = self.decode()?;
        let call = Arc::new(self);
        let response = handle(Arc::clone(&call), request).await;
        Ok(Answer::Ready(call.encode(&response)?))
    }
}

/// Writes the length before a frame, of which `more` bytes follow elsewhere.
pub(super) fn finish(mut frame: BytesMut, more: usize) -> Bytes {
    let length = frame.len() - 4 + more;
    // A response is far smaller: fetches are bounded by what an i32 can ask for.
    let length = i32::try_from(length).unwrap_or(i32::MAX);
    frame[..4].copy_from_slice(&length.to_be_bytes());
    frame.freeze()
}
