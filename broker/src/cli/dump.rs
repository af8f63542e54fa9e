//! `logweir dump`: shows and verifies the files of a data directory, without a broker and without changing a byte.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use logweir_proto::Timestamp;
use logweir_proto::record::{BatchHeader, Record, RecordBatch};
use logweir_storage::inspect::{Contents, FileKind, InspectError, Item, describe};
use serde_json::{Value, json};

use super::exit::{Exit, in_words};
use super::output::{OutputArgs, OutputFormat, human_bytes};
use super::record_output::write_bare_json;
use super::time::format_timestamp;
use crate::metadata::inspect::{Inspected, inspect, is_metadata};
use crate::words::counted;

/// A batch is not unpacked beyond this.
const MAX_UNPACKED_BYTES: usize = 1 << 30;

const HELP: &str = "\
Examples:
  logweir dump logweir-data --summary        verify a whole data directory
  logweir dump logweir-data/logs/flights/0-*/*.log --records
  logweir dump logweir-data/metadata         the metadata's log and snapshot
  logweir dump logweir-data --output json | jq .

Every checksum is verified. A file that is damaged is named with the place, the
others are shown, and the exit code is 3 (1 if all are damaged). A segment that
a broker is writing to may end in the middle of a batch, and a metadata log in
the middle of a write.";

/// Show and verify segment, index, snapshot and metadata files
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct DumpCommand {
    /// Files, or directories with all that is in them
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Also show the records within the batches
    #[arg(long)]
    records: bool,
    /// Only say what each file is and whether it is sound
    #[arg(long, short, conflicts_with = "records")]
    summary: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// What was counted in one file.
#[derive(Debug, Default)]
struct Totals {
    items: u64,
    records: u64,
    bytes: u64,
    offsets: Option<(i64, i64)>,
}

impl DumpCommand {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        let mut out = BufWriter::new(io::stdout().lock());
        let mut paths = Vec::new();
        let (mut failed, mut tried) = (0, 0);
        for path in &self.files {
            if let Err(error) = collect(path, true, &mut paths) {
                eprintln!("error: {}: {error}", path.display());
                failed += 1;
                tried += 1;
            }
        }
        for (path, named) in paths {
            let outcome = if is_metadata_file(&path, named) {
                self.show_metadata(&mut out, &path)
            } else {
                match describe(&path) {
                    Ok(contents) => self.show(&mut out, &path, contents),
                    // A directory may hold files of others.
                    Err(InspectError::Unknown { .. }) if !named => continue,
                    Err(error) => Err(error.into()),
                }
            };
            tried += 1;
            if let Err(error) = outcome {
                if error.is::<io::Error>() {
                    return Err(error);
                }
                out.flush()?;
                eprintln!("error: {}", in_words(&error));
                failed += 1;
            }
        }
        out.flush()?;
        Ok(Exit::of(failed, tried))
    }

    fn show(&self, out: &mut impl Write, path: &Path, contents: Contents) -> anyhow::Result<()> {
        let json = self.output.format() == OutputFormat::Json;
        let kind = contents.kind;
        if !json {
            writeln!(out, "{}: {kind}", path.display())?;
        }
        let records_from = if self.records && kind == FileKind::Segment {
            let file = File::open(path).map_err(|source| InspectError::Io {
                path: path.to_owned(),
                source,
            })?;
            Some(file)
        } else {
            None
        };
        let mut totals = Totals::default();
        for item in contents {
            let item = item?;
            totals.add(&item);
            if self.summary {
                continue;
            }
            if json {
                writeln!(out, "{}", item_json(path, &item))?;
            } else {
                writeln!(out, "  {}", item_line(&item))?;
            }
            if let (Some(file), Item::Batch { position, header }) = (&records_from, &item) {
                show_records(out, file, *position, header, json)
                    .with_context(|| format!("{} at byte {position}", path.display()))?;
            }
        }
        if json && self.summary {
            let summary = json!({
                "file": path.display().to_string(), "type": kind.to_string(), "sound": true,
                "items": totals.items, "records": totals.records, "bytes": totals.bytes,
                "first_offset": totals.offsets.map(|o| o.0), "next_offset": totals.offsets.map(|o| o.1),
            });
            writeln!(out, "{summary}")?;
        } else if !json {
            writeln!(out, "  sound: {}", totals.describe(kind))?;
        }
        Ok(())
    }

    fn show_metadata(&self, out: &mut impl Write, path: &Path) -> anyhow::Result<()> {
        let bytes = std::fs::read(path).map_err(|source| InspectError::Io {
            path: path.to_owned(),
            source,
        })?;
        let size_bytes = bytes.len();
        let Inspected {
            kind,
            items,
            damage,
        } = inspect(path, bytes.into())?;
        let json = self.output.format() == OutputFormat::Json;
        if !json {
            writeln!(out, "{}: {kind}", path.display())?;
        }
        for item in items.iter().filter(|_| !self.summary) {
            if json {
                let mut item = item.clone();
                item["file"] = path.display().to_string().into();
                writeln!(out, "{item}")?;
            } else {
                writeln!(out, "  {}", metadata_line(item))?;
            }
        }
        if let Some(damage) = damage {
            return Err(damage.into());
        }
        if json && self.summary {
            let summary = json!({
                "file": path.display().to_string(), "type": kind, "sound": true,
                "items": items.len(), "bytes": size_bytes,
            });
            writeln!(out, "{summary}")?;
        } else if !json {
            writeln!(out, "  sound: {}", counted(items.len(), "entry"))?;
        }
        Ok(())
    }
}

/// Whether it is the metadata's log or snapshot; not one that is only being made, unless it was named by hand.
fn is_metadata_file(path: &Path, named: bool) -> bool {
    let mut magic = [0; 8];
    let read = File::open(path).and_then(|file| file.read_exact_at(&mut magic, 0));
    let temporary = path.extension().is_some();
    // One whose first bytes are damaged is known by its place.
    let in_place = path.parent().is_some_and(|dir| dir.ends_with("metadata"))
        && (path.ends_with("log") || path.ends_with("snapshot"));
    in_place || read.is_ok() && is_metadata(&magic) && (named || !temporary)
}

/// An item of a metadata file as people read it: its records each on a line of their own.
fn metadata_line(item: &Value) -> String {
    let Some(fields) = item.as_object() else {
        return item.to_string();
    };
    let mut line = match fields.get("position") {
        Some(position) => format!("@{position} "),
        None => String::new(),
    };
    let Some(name) = fields.get("item").and_then(Value::as_str) else {
        return format!("{line}{item}");
    };
    line.push_str(name);
    for (key, value) in fields {
        if !["item", "position", "records"].contains(&key.as_str()) {
            line.push_str(&format!(" {key} {value}"));
        }
    }
    for record in fields
        .get("records")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        line.push_str(&format!("\n    {record}"));
    }
    line
}

/// The files of a path: itself, or all below a directory, by name. The flag says whether it was named by hand.
fn collect(path: &Path, named: bool, paths: &mut Vec<(PathBuf, bool)>) -> io::Result<()> {
    // A link is followed where it was named, and not below, so that nothing is walked twice.
    let metadata = if named {
        std::fs::metadata(path)?
    } else {
        std::fs::symlink_metadata(path)?
    };
    if metadata.is_dir() {
        let mut entries: Vec<PathBuf> = std::fs::read_dir(path)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<_>>()?;
        entries.sort();
        for entry in entries {
            collect(&entry, false, paths)?;
        }
    } else if named || metadata.is_file() {
        paths.push((path.to_owned(), named));
    }
    Ok(())
}

impl Totals {
    fn add(&mut self, item: &Item) {
        self.items += 1;
        if let Item::Batch { header, .. } = item {
            self.records += u64::try_from(header.record_count).unwrap_or(0);
            self.bytes += u64::try_from(header.size_bytes).unwrap_or(0);
            let (first, next) = (header.base_offset.get(), header.next_offset().get());
            self.offsets = Some((self.offsets.map_or(first, |known| known.0), next));
        }
    }

    fn describe(&self, kind: FileKind) -> String {
        match (kind, self.offsets) {
            (FileKind::Segment, Some((first, next))) => format!(
                "{} from offset {first} to {} in {}",
                counted(self.records, "record"),
                next - 1,
                human_bytes(self.bytes)
            ),
            (FileKind::Segment, None) => "no records".to_owned(),
            _ => counted(self.items, "entry"),
        }
    }
}

fn item_line(item: &Item) -> String {
    match item {
        Item::Batch { position, header } => batch_line(*position, header),
        Item::Zeroes { position, len } => {
            format!("@{position} {} reserved, not used", counted(*len, "byte"))
        }
        Item::IndexEntry {
            offset,
            position,
            records_before,
            append_time,
            max_timestamp_before,
        } => format!(
            "offset {offset} @{position}, {} before, appended {}, largest timestamp before {}",
            counted(*records_before, "record"),
            format_timestamp(*append_time),
            format_timestamp(*max_timestamp_before)
        ),
        Item::Producer {
            producer_id,
            epoch,
            batches,
            last_base_offset,
            last_seen,
            txn_first_offset,
        } => {
            let last = last_base_offset
                .map(|offset| format!(", last at offset {offset}"))
                .unwrap_or_default();
            let open = txn_first_offset
                .map(|offset| format!(", transaction open from {offset}"))
                .unwrap_or_default();
            let seen = format_timestamp(*last_seen);
            format!(
                "producer {producer_id} epoch {epoch}, {} known{last}, seen {seen}{open}",
                counted(*batches, "batch")
            )
        }
        Item::LeaderEpoch {
            epoch,
            start_offset,
        } => format!("epoch {epoch} from offset {start_offset}"),
        Item::RecoveryPoint {
            topic_id,
            partition,
            offset,
            truncations,
            clean,
        } => {
            let clean = if *clean { ", closed cleanly" } else { "" };
            format!(
                "topic {topic_id} partition {partition}: offset {offset}, {}{clean}",
                counted(*truncations, "truncation")
            )
        }
        Item::Field { name, value } => format!("{name}: {value}"),
        other => format!("{other:?}"),
    }
}

fn batch_line(position: u64, header: &BatchHeader) -> String {
    let attributes = header.attributes;
    let mut line = format!(
        "@{position} offsets {}..={}, {}, {} bytes, {}, epoch {}, {}",
        header.base_offset,
        header.last_offset(),
        counted(header.record_count, "record"),
        header.size_bytes,
        attributes.compression(),
        header.leader_epoch,
        format_timestamp(header.max_timestamp),
    );
    if header.has_producer() {
        let (id, epoch, sequence) = (
            header.producer_id,
            header.producer_epoch,
            header.base_sequence,
        );
        line.push_str(&format!(
            ", producer {id} epoch {epoch} sequence {sequence}"
        ));
    }
    if attributes.is_control() {
        line.push_str(", control");
    }
    if attributes.is_transactional() {
        line.push_str(", transactional");
    }
    line
}

fn item_json(path: &Path, item: &Item) -> Value {
    let mut value = match item {
        Item::Batch { position, header } => batch_json(*position, header),
        Item::Zeroes { position, len } => {
            json!({"item": "reserved", "position": position, "bytes": len})
        }
        Item::IndexEntry {
            offset,
            position,
            records_before,
            append_time,
            max_timestamp_before,
        } => json!({
            "item": "index_entry",
            "offset": offset.get(),
            "position": position,
            "records_before": records_before,
            "append_time": known(*append_time),
            "max_timestamp_before": known(*max_timestamp_before),
        }),
        Item::Producer {
            producer_id,
            epoch,
            batches,
            last_base_offset,
            last_seen,
            txn_first_offset,
        } => json!({
            "item": "producer",
            "producer_id": producer_id.get(),
            "producer_epoch": epoch.get(),
            "batches": batches,
            "last_base_offset": last_base_offset.map(|offset| offset.get()),
            "last_seen": known(*last_seen),
            "txn_first_offset": txn_first_offset.map(|offset| offset.get()),
        }),
        Item::LeaderEpoch {
            epoch,
            start_offset,
        } => json!({
            "item": "leader_epoch", "leader_epoch": epoch.get(), "start_offset": start_offset.get(),
        }),
        Item::RecoveryPoint {
            topic_id,
            partition,
            offset,
            truncations,
            clean,
        } => json!({
            "item": "recovery_point",
            "topic_id": topic_id.to_string(),
            "partition": partition.get(),
            "offset": offset.get(),
            "truncations": truncations,
            "clean": clean,
        }),
        Item::Field { name, value } => json!({"item": "field", "name": name, "value": value}),
        other => json!({"item": format!("{other:?}")}),
    };
    value["file"] = path.display().to_string().into();
    value
}

fn batch_json(position: u64, header: &BatchHeader) -> Value {
    json!({
        "item": "batch",
        "position": position,
        "base_offset": header.base_offset.get(),
        "last_offset": header.last_offset().get(),
        "records": header.record_count,
        "size_bytes": header.size_bytes,
        "compression": header.attributes.compression().to_string(),
        "leader_epoch": header.leader_epoch.get(),
        "base_timestamp": header.base_timestamp.get(),
        "max_timestamp": header.max_timestamp.get(),
        "producer_id": header.producer_id.get(),
        "producer_epoch": header.producer_epoch.get(),
        "base_sequence": header.base_sequence.get(),
        "control": header.attributes.is_control(),
        "transactional": header.attributes.is_transactional(),
    })
}

fn known(timestamp: Timestamp) -> Option<i64> {
    (timestamp != Timestamp::NONE).then(|| timestamp.get())
}

fn show_records(
    out: &mut impl Write,
    file: &File,
    position: u64,
    header: &BatchHeader,
    json: bool,
) -> anyhow::Result<()> {
    if header.attributes.is_control() {
        return Ok(());
    }
    let mut bytes = vec![0; header.size_bytes];
    file.read_exact_at(&mut bytes, position)
        .context("the batch cannot be read")?;
    let batch = RecordBatch::split_from(&mut Bytes::from(bytes))?;
    for record in batch.records(MAX_UNPACKED_BYTES)? {
        let record = record?;
        if json {
            write_bare_json(out, &record)?;
        } else {
            writeln!(out, "    {}", record_line(&record))?;
        }
    }
    Ok(())
}

fn record_line(record: &Record) -> String {
    let text = |bytes: &Option<Bytes>| match bytes {
        None => "null".to_owned(),
        Some(bytes) => format!("\"{}\"", bytes.escape_ascii()),
    };
    let headers: String = record
        .headers
        .iter()
        .map(|header| format!(", {}={}", header.key.escape_ascii(), text(&header.value)))
        .collect();
    format!(
        "{} {} key {} value {}{headers}",
        record.offset,
        format_timestamp(record.timestamp),
        text(&record.key),
        text(&record.value)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_others_in_a_directory_are_passed_over_but_not_those_named() {
        let dir = tempfile::tempdir().unwrap();
        let other = dir.path().join("other.txt");
        std::fs::write(&other, "hello").unwrap();
        let dump = |path: &Path| {
            let output = OutputArgs::from(OutputFormat::Table);
            let files = vec![path.to_owned()];
            DumpCommand {
                files,
                records: false,
                summary: true,
                output,
            }
            .run()
            .unwrap()
        };
        assert_eq!(dump(dir.path()), Exit::Done);
        assert_eq!(dump(&other), Exit::Failed);
        assert_eq!(dump(&dir.path().join("absent")), Exit::Failed);
    }

    /// Metadata files used to be refused by name.
    #[test]
    fn a_metadata_log_is_shown_and_a_changed_byte_is_named_with_its_place() {
        let log = include_bytes!("../metadata/testdata/log-level-1");
        let path = Path::new("metadata/log");
        let sound = inspect(path, Bytes::from_static(log)).unwrap();
        assert!(sound.damage.is_none());
        let lines: Vec<String> = sound.items.iter().map(metadata_line).collect();
        let text = lines.join("\n");
        assert!(text.contains("header ") && text.contains("vote "), "{text}");
        assert!(text.contains("\"name\":\"orders\""), "{text}");
        assert!(text.contains("\"next_producer_id\":1000"), "{text}");
        let indexes: Vec<u64> = sound
            .items
            .iter()
            .filter(|item| item["item"] == "entry")
            .map(|item| item["index"].as_u64().unwrap())
            .collect();
        assert!(indexes.len() > 4 && indexes.is_sorted(), "{indexes:?}");

        let position = sound.items.last().unwrap()["position"].as_u64().unwrap();
        let mut damaged = log.to_vec();
        damaged[usize::try_from(position).unwrap() + 30] ^= 1;
        let found = inspect(path, damaged.clone().into()).unwrap();
        let error = found.damage.expect("found").to_string();
        assert!(error.contains(&format!("at byte {position}")), "{error}");
        assert!(found.items.len() < sound.items.len() && found.items.len() > 3);

        let dir = tempfile::tempdir().unwrap();
        let dump = |bytes: &[u8]| {
            std::fs::create_dir_all(dir.path().join("metadata")).unwrap();
            std::fs::write(dir.path().join("metadata/log"), bytes).unwrap();
            let output = OutputArgs::from(OutputFormat::Json);
            let files = vec![dir.path().to_owned()];
            DumpCommand {
                files,
                records: false,
                summary: true,
                output,
            }
            .run()
            .unwrap()
        };
        assert_eq!(dump(log), Exit::Done);
        assert_eq!(dump(&damaged), Exit::Failed);
    }

    #[test]
    fn a_line_of_a_record_keeps_to_one_line() {
        let record = Record {
            offset: logweir_proto::Offset::new(7),
            timestamp: Timestamp::new(0),
            key: None,
            value: Some(Bytes::from_static(b"a\nb\xff\"")),
            headers: Vec::new(),
        };
        let line = record_line(&record);
        assert_eq!(
            line,
            "7 1970-01-01T00:00:00.000Z key null value \"a\\nb\\xff\\\"\""
        );
    }
}
