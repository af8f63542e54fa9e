//! The snapshot file: the image at one entry of the log, whole, replaced by renaming.
//! `storage/FORMAT.md`, *Metadata*, describes every byte.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use logweir_proto::grpc::internal::SnapshotMeta;
use logweir_storage::disk::{Disk, OpenMode, replace_file};
use parking_lot::Mutex;
use prost::Message;

use super::error::QuorumError;
use super::log_file::{Identity, check_identity};

/// The name of the file in the metadata directory.
pub(super) const SNAPSHOT_NAME: &str = "snapshot";

/// What the file begins with.
pub(super) const MAGIC: [u8; 8] = *b"LWMETSNP";
const VERSION: u32 = 1;
const HEADER_LEN: usize = 32;

/// Where a node keeps its snapshot. At most one is there.
#[derive(Clone, Debug)]
pub(super) struct SnapshotFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    identity: Identity,
    /// The last entry in the newest snapshot written by this process; held while one is written.
    newest: Arc<Mutex<Option<u64>>>,
}

impl SnapshotFile {
    pub(super) fn new(disk: Arc<dyn Disk>, dir: &Path, identity: Identity) -> Self {
        Self {
            disk,
            path: dir.join(SNAPSHOT_NAME),
            identity,
            newest: Arc::default(),
        }
    }

    /// The file's path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces the snapshot; the new one is durable when this returns. One that was begun before a newer
    /// one is left out.
    pub(super) fn write(&self, mut meta: SnapshotMeta, body: &[u8]) -> io::Result<()> {
        let mut newest = self.newest.lock();
        let last = meta.last_log_id.as_ref().map(|id| id.index);
        if last < *newest {
            return Ok(());
        }
        meta.node_id = self.identity.node_id;
        meta.directory_id = Bytes::copy_from_slice(&self.identity.directory_id);
        let meta = meta.encode_to_vec();
        let meta_len = u32::try_from(meta.len()).map_err(io::Error::other)?;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&meta);
        crc.update(body);
        let mut bytes = Vec::with_capacity(HEADER_LEN + meta.len() + body.len());
        bytes.put_slice(&MAGIC);
        bytes.put_u32_le(VERSION);
        bytes.put_u32_le(meta_len);
        bytes.put_u64_le(body.len() as u64);
        bytes.put_u32_le(crc.finalize());
        bytes.put_u32_le(crc32fast::hash(&bytes));
        debug_assert_eq!(
            bytes.len(),
            HEADER_LEN,
            "the header is as long as FORMAT says"
        );
        bytes.put_slice(&meta);
        bytes.put_slice(body);
        replace_file(&*self.disk, &self.path, &bytes)?;
        *newest = last;
        Ok(())
    }

    /// Reads the snapshot; `None` if there is none.
    ///
    /// # Errors
    /// [`QuorumError`] if anything in it was not written so.
    pub(super) fn read(&self) -> Result<Option<(SnapshotMeta, Bytes)>, QuorumError> {
        let failed = |cause| QuorumError::Io {
            path: self.path.clone(),
            doing: "read",
            cause,
        };
        let file = match self.disk.open(&self.path, OpenMode::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(failed(cause)),
        };
        let len = usize::try_from(file.len().map_err(failed)?)
            .map_err(|error| failed(io::Error::other(error)))?;
        let mut bytes = vec![0; len];
        file.read_at(&mut bytes, 0).map_err(failed)?;
        let snapshot = decode(Bytes::from(bytes), &self.path)?;
        check_identity(snapshot.identity, self.identity, &self.path)?;
        Ok(Some((snapshot.meta, snapshot.body)))
    }
}

/// A snapshot file, decoded.
pub(super) struct Decoded {
    pub(super) identity: Identity,
    pub(super) meta: SnapshotMeta,
    /// A `SnapshotImage`.
    pub(super) body: Bytes,
}

/// Decodes the whole content of a snapshot file.
///
/// # Errors
/// [`QuorumError`] if anything in it was not written so.
pub(super) fn decode(bytes: Bytes, path: &Path) -> Result<Decoded, QuorumError> {
    let damaged = |position: usize, reason: &str| QuorumError::Damaged {
        path: path.to_owned(),
        position: position as u64,
        reason: reason.to_owned(),
    };
    let header = bytes
        .get(..HEADER_LEN)
        .ok_or_else(|| damaged(0, "it is too short"))?;
    let (fields, mut crc) = header.split_at(HEADER_LEN - 4);
    if crc32fast::hash(fields) != crc.get_u32_le() {
        return Err(damaged(0, "the header's checksum is wrong"));
    }
    if fields[..MAGIC.len()] != MAGIC {
        return Err(damaged(0, "it is not a metadata snapshot"));
    }
    let mut fields = &fields[MAGIC.len()..];
    let version = fields.get_u32_le();
    if version != VERSION {
        let reason = format!("format {version}, this version knows {VERSION}");
        return Err(QuorumError::Newer {
            path: path.to_owned(),
            reason,
        });
    }
    let meta_len = fields.get_u32_le() as usize;
    let body_len = fields.get_u64_le();
    let content = bytes.slice(HEADER_LEN..);
    if content.len() as u64 != body_len.saturating_add(meta_len as u64) {
        return Err(damaged(bytes.len(), "it is not as long as its header says"));
    }
    if crc32fast::hash(&content) != fields.get_u32_le() {
        return Err(damaged(HEADER_LEN, "its checksum is wrong"));
    }
    let meta = SnapshotMeta::decode(content.slice(..meta_len))
        .map_err(|error| damaged(HEADER_LEN, &error.to_string()))?;
    let directory_id = meta
        .directory_id
        .as_ref()
        .try_into()
        .map_err(|_| damaged(HEADER_LEN, "it names no data directory"))?;
    let identity = Identity {
        node_id: meta.node_id,
        directory_id,
    };
    let body = content.slice(meta_len..);
    Ok(Decoded {
        identity,
        meta,
        body,
    })
}
