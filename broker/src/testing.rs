//! For tests of programs that use a broker: a broker in one line, fixtures, and what to assert.
//!
//! Nothing here is needed in production, and nothing here is a stand-in: it is the same broker.
//!
#![doc = include_str!("../TESTING.md")]
#![cfg(feature = "client")]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;
use std::io::{BufRead, BufReader, Read};
use std::time::{Duration, Instant};

use bytes::Bytes;
use logweir_client::{ConsumerRecord, Offset, ProducerRecord, RecordHeader, StartAt, Timestamp};

use crate::clock::sleep;
use crate::input::{CsvOptions, Format, Input, InputError, Limit};
use crate::{Broker, BrokerError, Config, ListenAddr};

/// The longest pause between two looks at a condition.
const MAX_PAUSE: Duration = Duration::from_millis(50);
/// Bytes of one record of a fixture.
const MAX_FIXTURE_RECORD_BYTES: usize = 16 << 20;

/// What the functions here give; the error converts into boxes and `anyhow` with `?`.
pub type Result<T = ()> = std::result::Result<T, Error>;

/// What went wrong in a test's preparation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The broker did not start, stop or crash as asked.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The client could not do what was asked.
    #[error(transparent)]
    Client(#[from] logweir_client::Error),
    /// A fixture cannot be read; the text names the line.
    #[error("the fixture cannot be read: {0}")]
    Fixture(String),
    /// What was waited for did not come about.
    #[error("not within {after:?}: {what}")]
    TimedOut {
        /// What was waited for.
        what: String,
        /// For how long.
        after: Duration,
    },
}

/// Starts a broker in memory without listeners: for tests that use [`Broker::client`].
///
/// # Errors
/// As [`Broker::start`].
pub async fn broker() -> Result<Broker> {
    let quiet = Config::in_memory()
        .with_kafka(ListenAddr::Off)
        .with_grpc(ListenAddr::Off)
        .with_http(ListenAddr::Off);
    Ok(Broker::start(quiet).await?)
}

/// Waits until `condition` gives true, looking again and again, for at most `timeout` of real time.
///
/// # Errors
/// [`Error::TimedOut`], which says `what`.
pub async fn eventually<F, C>(what: &str, timeout: Duration, mut condition: C) -> Result
where
    C: FnMut() -> F,
    F: Future<Output = bool>,
{
    let begun = Instant::now();
    let mut pause = Duration::from_millis(1);
    while !condition().await {
        if begun.elapsed() >= timeout {
            return Err(Error::TimedOut {
                what: what.to_owned(),
                after: timeout,
            });
        }
        sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
    Ok(())
}

/// Sends one record with a producer of its own and waits until every in-sync replica has it; its offset.
///
/// # Errors
/// As the client's producer.
pub async fn produce(broker: &Broker, record: ProducerRecord) -> Result<Offset> {
    let producer = broker.client()?.producer()?;
    let stored = producer.send(record).await?.await?;
    producer.close().await?;
    let offset = stored.offset;
    Ok(offset.expect(
        "only a producer that asks for no acknowledgement is told none, and this one asks for all",
    ))
}

/// Every record of a topic up to its end as it is now; in the order of their offsets within each partition.
///
/// # Errors
/// As the client's reader.
pub async fn read_topic(broker: &Broker, topic: &str) -> Result<Vec<ConsumerRecord>> {
    let mut reader = broker.client()?.reader()?;
    reader.assign_topic(topic, StartAt::Earliest).await?;
    reader.stop_at_end();
    let mut records = Vec::new();
    while let Some(record) = reader.next().await? {
        records.push(record);
    }
    Ok(records)
}

/// Produces the JSON objects of a fixture, one a line with `value` and, if wanted, `key`, `headers` and `timestamp` (ms):
/// what `logweir consume --output json` writes. How many records there were.
///
/// # Errors
/// [`Error::Fixture`] with the line; nothing after it is sent. The producer's errors.
pub async fn produce_jsonl(broker: &Broker, topic: &str, fixture: impl Read) -> Result<u64> {
    produce_all(broker, topic, fixture, &Format::Jsonl).await
}

/// Produces the rows of a CSV fixture with a header row: the value is the row's line unchanged, the key its cell in
/// `key_column`. How many records there were.
///
/// # Errors
/// As [`produce_jsonl`].
pub async fn produce_csv(
    broker: &Broker,
    topic: &str,
    fixture: impl Read,
    key_column: &str,
) -> Result<u64> {
    let options = CsvOptions {
        delimiter: b',',
        key_column: Some(key_column.to_owned()),
    };
    produce_all(broker, topic, fixture, &Format::Csv(options)).await
}

async fn produce_all(
    broker: &Broker,
    topic: &str,
    fixture: impl Read,
    format: &Format,
) -> Result<u64> {
    let unreadable = |error: InputError| Error::Fixture(error.to_string());
    let limit = Limit {
        bytes: MAX_FIXTURE_RECORD_BYTES,
        has_flags: false,
    };
    let mut input = Input::new(BufReader::new(fixture), format, limit).map_err(unreadable)?;
    let producer = broker.client()?.producer()?;
    let mut sent = 0;
    while let Some(record) = next(&mut input, topic).map_err(unreadable)? {
        // What fails is told by the flush, so that nothing need be kept of each record.
        drop(producer.send(record).await?);
        sent += 1;
    }
    producer.flush().await?;
    producer.close().await?;
    Ok(sent)
}

fn next<R: BufRead>(
    input: &mut Input<R>,
    topic: &str,
) -> std::result::Result<Option<ProducerRecord>, InputError> {
    let Some(record) = input.next_record().transpose()? else {
        return Ok(None);
    };
    let mut sending = ProducerRecord::new(topic);
    sending.key = record.key;
    sending.value = record.value;
    sending.timestamp = record.timestamp_ms.map(Timestamp::new);
    let header = |(name, value)| RecordHeader {
        key: Bytes::from(name),
        value,
    };
    sending.headers = record.headers.into_iter().map(header).collect();
    Ok(Some(sending))
}

/// Asserts that within each key what `position` says never goes down, in the order of `records`. Records without a key
/// are passed over.
///
/// # Panics
/// If it does; the message names the key and both records.
#[track_caller]
pub fn assert_order_per_key<P: Ord + Debug>(
    records: &[ConsumerRecord],
    position: impl Fn(&ConsumerRecord) -> P,
) {
    let mut last: BTreeMap<&Bytes, (P, &ConsumerRecord)> = BTreeMap::new();
    for record in records {
        let Some(key) = &record.key else { continue };
        let here = position(record);
        if let Some((before, earlier)) = last.get(key) {
            assert!(
                *before <= here,
                "key {:?} is out of order: {before:?} (partition {}, offset {}) comes before {here:?} (partition {}, offset {})",
                String::from_utf8_lossy(key),
                earlier.partition,
                earlier.offset,
                record.partition,
                record.offset,
            );
        }
        last.insert(key, (here, record));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(records: &[ConsumerRecord]) -> Vec<String> {
        let text = |record: &ConsumerRecord| {
            let value = record.value.clone().unwrap_or_default();
            String::from_utf8_lossy(&value).into_owned()
        };
        records.iter().map(text).collect()
    }

    #[tokio::test]
    async fn fixtures_are_produced_whole_and_a_damaged_one_names_its_line() {
        let broker = broker().await.expect("starts");
        let csv = "id,state\n7,new\n8,new\n7,paid\n";
        let sent = produce_csv(&broker, "orders", csv.as_bytes(), "id").await;
        assert_eq!(sent.expect("sent"), 3);
        let records = read_topic(&broker, "orders").await.expect("read");
        let mut read = values(&records);
        read.sort();
        assert_eq!(read, ["7,new", "7,paid", "8,new"]);
        let lines = "{\"key\":\"k\",\"value\":\"a\",\"timestamp\":7}\n{\"value\":null}\n";
        let sent = produce_jsonl(&broker, "lines", lines.as_bytes()).await;
        assert_eq!(sent.expect("sent"), 2);
        let records = read_topic(&broker, "lines").await.expect("read");
        assert!(records.iter().any(|record| record.timestamp.get() == 7));
        let wrong = produce_jsonl(&broker, "lines", "{\"value\":1}\n{oops\n".as_bytes()).await;
        let wrong = wrong.expect_err("it is damaged").to_string();
        assert!(wrong.contains("line 2"), "{wrong}");
        let wrong = produce_csv(&broker, "orders", csv.as_bytes(), "idd").await;
        let wrong = wrong.expect_err("no such column").to_string();
        assert!(wrong.contains("id"), "{wrong}");
        // It told programs to raise a flag of a command line that they do not have.
        let long = format!("id,state\n7,{}\n", "x".repeat(MAX_FIXTURE_RECORD_BYTES));
        for open_quote in ["", "\n8,\""] {
            let csv = long.replacen("\n7,", &format!("{open_quote}\n7,"), 1);
            let wrong = produce_csv(&broker, "orders", csv.as_bytes(), "id").await;
            let wrong = wrong.expect_err("it is too long").to_string();
            assert!(
                wrong.contains("line 2") && wrong.contains("16777216 bytes"),
                "{wrong}"
            );
            assert!(!wrong.contains("--"), "{wrong}");
        }
        let wrong = produce_jsonl(&broker, "lines", "{\"key\":1}\n".as_bytes()).await;
        let wrong = wrong.expect_err("there is no value").to_string();
        assert!(wrong.contains("value") && !wrong.contains("--"), "{wrong}");
        broker.shutdown().await.expect("stops");
    }

    /// Two records of key a with one of key b between them.
    async fn three_records() -> Vec<ConsumerRecord> {
        let broker = broker().await.expect("starts");
        for (key, value) in [("a", "1"), ("b", "0"), ("a", "2")] {
            let record = ProducerRecord::new("t").key(key).value(value);
            produce(&broker, record).await.expect("stored");
        }
        read_topic(&broker, "t").await.expect("read")
    }

    #[tokio::test]
    async fn order_holds_within_a_key_whatever_the_others_do() {
        assert_order_per_key(&three_records().await, |record| record.value.clone());
    }

    #[tokio::test]
    #[should_panic(expected = "key \"a\" is out of order")]
    async fn disorder_within_a_key_is_an_assertion_that_fails() {
        let records = three_records().await;
        assert_order_per_key(&records, |record| std::cmp::Reverse(record.offset));
    }

    #[tokio::test]
    async fn a_condition_is_waited_for_and_one_that_never_holds_is_named() {
        let mut looks = 0;
        let third = || {
            looks += 1;
            std::future::ready(looks == 3)
        };
        let met = eventually("the third look", Duration::from_secs(30), third).await;
        met.expect("it holds");
        let never = || std::future::ready(false);
        let late = eventually("rain in May", Duration::from_millis(5), never).await;
        let late = late.expect_err("never").to_string();
        assert!(late.contains("rain in May"), "{late}");
    }
}
