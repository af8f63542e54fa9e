//! Topics that keep the last record of each key: what their readers and producers see, and that moving the clock is
//! enough to have it done.

use std::time::Duration;

use logweir::testing::{self, read_topic};
use logweir::{Broker, Config, PowerCut};
use logweir_client::{Client, Error, ErrorCode, NewTopic, ProducerRecord};

const DAY: Duration = Duration::from_secs(86_400);

async fn compacted_topic(client: &Client, name: &str) -> testing::Result {
    let topic = NewTopic::new(name)
        .config("cleanup.policy", "compact")
        .config("min.cleanable.dirty.ratio", "0.1")
        .config("segment.ms", "3600000");
    client.admin().create_topic(topic).await?;
    Ok(())
}

/// What a reader from the beginning sees: offset, key, value.
async fn seen(broker: &Broker, topic: &str) -> testing::Result<Vec<(i64, String, Option<String>)>> {
    let text = |bytes: bytes::Bytes| String::from_utf8_lossy(&bytes).into_owned();
    let records = read_topic(broker, topic).await?.into_iter();
    let told = records.map(|record| {
        let key = record.key.map_or_else(String::new, text);
        (record.offset.get(), key, record.value.map(text))
    });
    Ok(told.collect())
}

fn expected(records: &[(i64, &str, Option<&str>)]) -> Vec<(i64, String, Option<String>)> {
    let owned = |&(at, key, value): &(i64, &str, Option<&str>)| {
        (at, key.to_owned(), value.map(str::to_owned))
    };
    records.iter().map(owned).collect()
}

/// Compacts by the clock alone, twice: the tombstone goes with the second time.
async fn state_of_keys(broker: &Broker) -> testing::Result {
    let client = broker.client()?;
    compacted_topic(&client, "states").await?;
    let set = |key: &'static str, value: &'static str| {
        ProducerRecord::new("states").key(key).value(value)
    };
    for record in [
        set("a", "1"),
        set("b", "1"),
        set("a", "2"),
        ProducerRecord::new("states").key("b"),
        set("c", "1"),
    ] {
        testing::produce(broker, record).await?;
    }
    assert_eq!(seen(broker, "states").await?.len(), 5);
    broker.clock().advance(2 * Duration::from_secs(3_600));
    let left = [(2, "a", Some("2")), (3, "b", None), (4, "c", Some("1"))];
    assert_eq!(seen(broker, "states").await?, expected(&left));
    broker.clock().advance(DAY + Duration::from_secs(3_600));
    let left = [(2, "a", Some("2")), (4, "c", Some("1"))];
    assert_eq!(seen(broker, "states").await?, expected(&left));
    testing::produce(broker, set("c", "2")).await?;
    broker.clock().advance(100 * DAY);
    let left = [(2, "a", Some("2")), (5, "c", Some("2"))];
    assert_eq!(
        seen(broker, "states").await?,
        expected(&left),
        "age deletes nothing"
    );
    Ok(())
}

#[tokio::test]
async fn moving_the_clock_compacts_and_later_removes_tombstones() -> testing::Result {
    let broker = testing::broker().await?;
    state_of_keys(&broker).await?;
    broker.crash(PowerCut::LoseUnsynced).await?;
    broker.restart().await?;
    let left = [(2, "a", Some("2")), (5, "c", Some("2"))];
    assert_eq!(seen(&broker, "states").await?, expected(&left));
    broker.shutdown().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_on_a_disk_compacts_as_one_in_memory_does() -> testing::Result {
    let broker = Broker::start_in_temp_dir(Config::in_memory()).await?;
    state_of_keys(&broker).await?;
    broker.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_record_without_a_key_is_refused_where_only_keys_count() -> testing::Result {
    let broker = testing::broker().await?;
    let client = broker.client()?;
    compacted_topic(&client, "states").await?;
    let nameless = ProducerRecord::new("states").value("whose?");
    let error = testing::produce(&broker, nameless.clone())
        .await
        .unwrap_err();
    let testing::Error::Client(error) = error else {
        panic!("{error}");
    };
    assert_eq!(Error::code(&error), Some(ErrorCode::InvalidRecord));
    assert!(error.to_string().contains("key"), "{error}");
    let changes = logweir_client::ConfigChanges::new().set("cleanup.policy", "delete");
    client.admin().alter_config("states", changes).await?;
    testing::produce(&broker, nameless).await?;
    broker.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_policy_of_both_compacts_and_deletes() -> testing::Result {
    let broker = testing::broker().await?;
    let topic = NewTopic::new("both")
        .config("cleanup.policy", "compact,delete")
        .config("min.cleanable.dirty.ratio", "0.0")
        .config("segment.ms", "3600000");
    broker.client()?.admin().create_topic(topic).await?;
    for value in ["1", "2"] {
        testing::produce(&broker, ProducerRecord::new("both").key("k").value(value)).await?;
    }
    broker.clock().advance(DAY);
    assert_eq!(
        seen(&broker, "both").await?,
        expected(&[(1, "k", Some("2"))])
    );
    broker.clock().advance(7 * DAY);
    assert_eq!(seen(&broker, "both").await?, expected(&[]));
    broker.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn settings_that_contradict_each_other_are_refused() -> testing::Result {
    let broker = testing::broker().await?;
    let topic = NewTopic::new("t")
        .config("min.compaction.lag.ms", "2000")
        .config("max.compaction.lag.ms", "1000");
    let refused = broker
        .client()?
        .admin()
        .create_topic(topic)
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("max.compaction.lag.ms"),
        "{refused}"
    );
    broker.shutdown().await?;
    Ok(())
}
