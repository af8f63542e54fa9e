//! The producer against a broker that misbehaves.

mod basics;
mod chaos;
mod failures;
mod limits;

use std::time::Duration;

use crate::client::Client;
use crate::config::ProducerConfig;
use crate::error::Result;
use crate::mock::MockBroker;
use crate::producer::{DeliveryFuture, Producer, ProducerRecord};

/// Small batches, no retries' pauses to speak of, and all the time in the world.
fn config() -> ProducerConfig {
    ProducerConfig {
        linger: Duration::from_millis(2),
        delivery_timeout: Duration::from_secs(86_400),
        request_timeout: Duration::from_secs(10),
        ..Default::default()
    }
}

fn producer(client: &Client) -> Producer {
    client.producer_with(config()).unwrap()
}

async fn send(producer: &Producer, topic: &str, value: &str) -> Result<DeliveryFuture> {
    producer
        .send(ProducerRecord::new(topic).value(value.to_owned()))
        .await
}

/// Sends records `0..count` and returns their deliveries.
async fn send_numbers(producer: &Producer, topic: &str, count: u32) -> Vec<DeliveryFuture> {
    let mut deliveries = Vec::new();
    for number in 0..count {
        deliveries.push(send(producer, topic, &number.to_string()).await.unwrap());
    }
    deliveries
}

fn numbers(count: u32) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

/// A broker with topic `t` of one partition.
fn one_partition() -> MockBroker {
    MockBroker::new().with_topic("t", 1)
}
