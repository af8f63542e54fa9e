//! acks=all with a flush before each acknowledgement: how many acknowledgements one sync serves.
//!
//! 64 clients, each with a connection of its own and one record at a time. Syncs are those that the broker counts; its
//! metrics are read before and after, and an acknowledgement whose sync was counted outside of the two is at most one of
//! each client's.

use std::time::{Duration, Instant};

use logweir_benches::{Peer, Role, TOPIC};
use logweir_client::{Client, NewTopic, ProducerRecord};

use crate::Effort;
use crate::figure::{Figure, Goal, number};

const CLIENTS: usize = 64;
const SYNCS: &str = "logweir_log_flushes_total";

pub(crate) fn measure(effort: Effort) -> anyhow::Result<Vec<Figure>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let broker = Peer::start(Role::DurableBroker);
    let time = Duration::from_millis(effort.choose(10_000, 300));
    runtime.block_on(async {
        let first = Client::connect(broker.server().address).await?;
        first.admin().create_topic(NewTopic::new(TOPIC)).await?;
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            let producer = Client::connect(broker.server().address).await?.producer()?;
            // Connections, ids and the segment are made before.
            producer.send(record()).await?.await?;
            clients.push(producer);
        }
        let (syncs_before, began) = (broker.metric(SYNCS), Instant::now());
        let mut tasks = tokio::task::JoinSet::new();
        for producer in clients {
            tasks.spawn(async move {
                let mut acks = 0_u64;
                while began.elapsed() < time {
                    producer.send(record()).await?.await?;
                    acks += 1;
                }
                anyhow::Ok(acks)
            });
        }
        let mut acks = 0;
        while let Some(done) = tasks.join_next().await {
            acks += done??;
        }
        let seconds = began.elapsed().as_secs_f64();
        let syncs = broker.metric(SYNCS) - syncs_before;
        Ok(vec![Figure {
            name: "acks_per_sync".to_owned(),
            what: "acks=all with flush per ack, 64 clients: acknowledgements per sync".to_owned(),
            value: number(acks) / number(syncs.max(1)),
            unit: "acks",
            goal: Goal::AtLeast(20.0),
            parts: vec![
                ("acknowledgements", number(acks) / seconds, "per second"),
                ("syncs", number(syncs) / seconds, "per second"),
            ],
        }])
    })
}

fn record() -> ProducerRecord {
    ProducerRecord::new(TOPIC).value(&[b'x'; 100][..])
}
