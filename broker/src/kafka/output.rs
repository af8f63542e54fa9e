//! Answers on their way out: many pieces at a time in one system call, without copying them together.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::WriteHalf;

/// Pieces of one write.
const MAX_PIECES: usize = 64;
/// With more than this unwritten, no more requests are begun.
const ENOUGH_BYTES: usize = 1 << 20;

/// What is to be written.
#[derive(Debug, Default)]
pub(super) struct Output {
    pieces: VecDeque<Bytes>,
    bytes: usize,
}

impl Output {
    pub(super) fn push(&mut self, response: Vec<Bytes>) {
        let pieces = response.into_iter().filter(|piece| !piece.is_empty());
        for piece in pieces {
            self.bytes += piece.len();
            self.pieces.push_back(piece);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    pub(super) const fn has_room(&self) -> bool {
        self.bytes < ENOUGH_BYTES
    }

    /// Writes some. Safe to drop and call again.
    pub(super) async fn write(&mut self, stream: &mut WriteHalf<'_>) -> io::Result<()> {
        let mut slices = [IoSlice::new(&[]); MAX_PIECES];
        let count = self.pieces.len().min(MAX_PIECES);
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(piece);
        }
        let written = stream.write_vectored(&slices[..count]).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.advance(written);
        Ok(())
    }

    fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        while written > 0 {
            let Some(first) = self.pieces.front_mut() else {
                return;
            };
            let taken = written.min(first.len());
            first.advance(taken);
            written -= taken;
            if first.is_empty() {
                self.pieces.pop_front();
            }
        }
    }
}
