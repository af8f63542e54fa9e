//! Frames as they come in: a length, then so many bytes. Charged to the budget before they are read, and as they will be
//! once decoded before they are handed on.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::net::tcp::ReadHalf;
use tokio::time::timeout;

use super::apis::ApiKey;
use crate::inflight::{Account, Budget, Charge, ConnectionInflight, Frame as Part};

/// The length before a frame.
const PREFIX: usize = 4;
/// What is read at a time of a connection that sends little.
const SMALLEST_READ: usize = 4 << 10;
/// What is read at a time at most; a longer frame gets its room step by step as it comes.
const LARGEST_READ: usize = 512 << 10;

/// What a byte of a frame may take once it is decoded: a group of OffsetFetch takes three bytes and is a struct of some
/// 120, and one of some 100 in the answer.
const DECODED: usize = 64;

/// How long a peer may send nothing once a frame has begun: what it was charged is missing to others.
const STALL: Duration = Duration::from_secs(30);

/// A frame, with what it was charged.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) bytes: Bytes,
    pub(super) charge: Charge,
    /// Holds the right to pass the total, if the frame was given it, until the request is answered or waits: so that one
    /// request at a time is decoded for which there is no room.
    pub(super) account: Account,
}

/// What comes in on a connection.
#[derive(Debug)]
pub(super) struct Input {
    buffer: BytesMut,
    /// About what the last frames took.
    usual: usize,
    /// The frame that has begun.
    begun: Option<Begun>,
    largest: usize,
    budget: Arc<Budget>,
    connection: Arc<ConnectionInflight>,
}

#[derive(Debug)]
struct Begun {
    length: usize,
    account: Account,
    charge: Charge,
    charged: usize,
    /// Counted against the connection's own limit, and not yet charged to the total.
    counted: usize,
}

impl Input {
    /// Nothing has come yet; frames of up to `largest` bytes are taken.
    pub(super) fn new(largest: usize, budget: Arc<Budget>) -> Self {
        Self {
            buffer: BytesMut::new(),
            usual: SMALLEST_READ,
            begun: None,
            largest,
            budget,
            connection: Arc::default(),
        }
    }

    /// The next frame; none if the peer has closed its side between two. Safe to drop and call again.
    ///
    /// # Errors
    /// If the connection breaks, ends within a frame, or sends a frame that is not taken.
    pub(super) async fn next(&mut self, stream: &mut ReadHalf<'_>) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.take().await? {
                return Ok(Some(frame));
            }
            self.make_room();
            let reading = stream.read_buf(&mut self.buffer);
            let read = match &self.begun {
                Some(_) => timeout(STALL, reading).await.map_err(|_| stalled())?,
                None => reading.await,
            };
            if read? == 0 {
                if self.begun.is_none() && self.buffer.is_empty() {
                    return Ok(None);
                }
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// A frame that has come whole already.
    ///
    /// # Errors
    /// If it is not taken.
    async fn take(&mut self) -> io::Result<Option<Frame>> {
        self.begin()?;
        let Some(begun) = &mut self.begun else {
            return Ok(None);
        };
        let have = self.buffer.len();
        let read = begun.length.min(have + LARGEST_READ);
        begun.charge(read, read == begun.length).await?;
        if have < begun.length {
            return Ok(None);
        }
        let decoded = decoded(&self.buffer[..begun.length], self.budget.per_connection());
        begun.charge(decoded, false).await?;
        let bytes = self.buffer.split_to(begun.length).freeze();
        self.usual = (begun.length + PREFIX).clamp(SMALLEST_READ, LARGEST_READ);
        let charge = begun.charge.clone();
        charge.complete(std::iter::once(decoded));
        let account = std::mem::replace(&mut begun.account, Account::new(charge.clone()));
        self.begun = None;
        Ok(Some(Frame {
            bytes,
            charge,
            account,
        }))
    }

    /// Whether a whole frame waits in the buffer.
    pub(super) fn has_frame(&self) -> bool {
        match &self.begun {
            Some(begun) => self.buffer.len() >= begun.length,
            None => length(&self.buffer).is_some_and(|length| {
                self.buffer.len() - PREFIX >= usize::try_from(length).unwrap_or(0)
            }),
        }
    }

    fn begin(&mut self) -> io::Result<()> {
        if self.begun.is_some() {
            return Ok(());
        }
        let Some(length) = length(&self.buffer) else {
            return Ok(());
        };
        let length = match usize::try_from(length) {
            Ok(length) if (1..=self.largest).contains(&length) => length,
            _ => {
                let largest = self.largest;
                let message = format!(
                    "a request says that it has {length} bytes; 1 to {largest} are taken (limits.max_request_bytes), and \
                     what is no Kafka client looks like that, too"
                );
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
        };
        self.buffer.advance(PREFIX);
        let charge = Charge::new(Arc::clone(&self.budget), Arc::clone(&self.connection));
        self.begun = Some(Begun {
            length,
            account: Account::new(charge.clone()),
            charge,
            charged: 0,
            counted: 0,
        });
        Ok(())
    }

    fn make_room(&mut self) {
        let wanted = match &self.begun {
            Some(begun) => {
                (begun.length - self.buffer.len()).min(LARGEST_READ.max(self.buffer.len()))
            }
            None => self.usual,
        };
        self.buffer.reserve(wanted);
    }
}

impl Begun {
    /// Charges so many bytes in all, of which some may be charged already. Safe to drop and call again.
    async fn charge(&mut self, wanted: usize, ends: bool) -> io::Result<()> {
        if wanted <= self.charged {
            return Ok(());
        }
        let part = Part {
            bytes: wanted - self.charged,
            begun: self.charged > 0,
            ends,
        };
        let exhausted = |error: crate::inflight::Exhausted| io::Error::other(error.to_string());
        if self.counted < part.bytes {
            match self.charge.count(part.bytes - self.counted) {
                Ok(()) => self.counted = part.bytes,
                // Earlier requests of this connection have the rest, and are answered first. Nobody needs to wake this:
                // the connection looks here again after each answer.
                Err(_) if self.charge.others(self.counted) > 0 => std::future::pending().await,
                Err(error) => return Err(exhausted(error)),
            }
        }
        let account = &mut self.account;
        poll_fn(|context| account.poll_charge(&part, context))
            .await
            .map_err(exhausted)?;
        (self.charged, self.counted) = (wanted, 0);
        Ok(())
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if self.counted > 0 {
            self.charge.uncount(self.counted);
        }
    }
}

/// What a frame takes once it is decoded. Records stay one slice of their frame. A frame that its connection may send is
/// never refused for what it becomes.
fn decoded(frame: &[u8], limit: usize) -> usize {
    if frame.starts_with(&(ApiKey::Produce as i16).to_be_bytes()) {
        return frame.len();
    }
    frame
        .len()
        .saturating_mul(DECODED)
        .min(limit)
        .max(frame.len())
}

fn stalled() -> io::Error {
    let message = format!(
        "nothing came for {} s in the middle of a request",
        STALL.as_secs()
    );
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// The length of the frame that begins here.
fn length(buffer: &BytesMut) -> Option<i32> {
    let prefix = buffer.first_chunk::<PREFIX>()?;
    Some(i32::from_be_bytes(*prefix))
}
