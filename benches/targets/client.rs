//! The client library end to end: records of 100 bytes from a producer over the broker to a reader.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use logweir_benches::{Peer, Role, TOPIC, cpu_time};
use logweir_client::{Client, NewTopic, ProducerRecord, StartAt};
use logweir_proto::{Offset, PartitionId};

use crate::Effort;
use crate::figure::{Figure, Goal, number};

pub(crate) fn measure(effort: Effort) -> anyhow::Result<Vec<Figure>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let records = effort.choose(6_000_000, 20_000);
    let broker = Peer::start(Role::Broker);
    runtime.block_on(async {
        let client = Client::connect(broker.server().address).await?;
        client.admin().create_topic(NewTopic::new(TOPIC)).await?;
        let (cpu, began) = (cpu_time(broker.server().pid), Instant::now());
        let reading = tokio::spawn(read(client.clone(), records));
        let producer = client.producer()?;
        let topic: Arc<str> = TOPIC.into();
        let value = Bytes::from_static(&[b'x'; 100]);
        for _ in 0..records {
            let record = ProducerRecord::new(Arc::clone(&topic)).value(value.clone());
            // A failure is reported by the close.
            drop(producer.send(record).await?);
        }
        producer.close().await?;
        let acknowledged = began.elapsed().as_secs_f64();
        reading.await??;
        let arrived = began.elapsed().as_secs_f64();
        let server = cpu_time(broker.server().pid)
            .saturating_sub(cpu)
            .as_secs_f64();
        let rate = number(records) / arrived;
        Ok(vec![Figure {
            name: "client_records".to_owned(),
            what: "client library, records of 100 bytes from producer to reader, OS flush"
                .to_owned(),
            value: rate,
            unit: "records/s",
            goal: Goal::AtLeast(500_000.0),
            parts: vec![
                ("acknowledged", number(records) / acknowledged, "records/s"),
                ("arrived at the reader", rate, "records/s"),
                (
                    "broker's processor time",
                    server / (number(records) / 1e7),
                    "s per GB",
                ),
            ],
        }])
    })
}

async fn read(client: Client, records: u64) -> anyhow::Result<()> {
    let mut reader = client.reader()?;
    reader.assign(TOPIC, PartitionId::new(0), StartAt::Offset(Offset::ZERO))?;
    let mut arrived = 0;
    while arrived < records {
        let batch = reader.next_batch().await?;
        let batch = batch.expect("a partition without an end goes on for ever");
        arrived += batch.records.len() as u64;
    }
    Ok(())
}
