//! A coordinator on a whole broker: its topic is made when it is first needed, and its state outlasts a crash.

use bytes::Bytes;
use logweir_proto::ErrorCode;
use logweir_storage::disk::PowerCut;

use super::*;
use crate::coordinator::machine::{CallId, Due, Effects, Machine, Now, ReplayError, StateRecord};
use crate::coordinator::{Coordinator, Settings};

const TOPIC: &str = "__counters";
const HOUR: Duration = Duration::from_secs(3_600);

/// Counts the calls, and the hours of wall and of session time.
#[derive(Debug, Default)]
struct Counter {
    count: u64,
    hours: (Option<i64>, u32),
}

impl Counter {
    fn write(&self, by: u64) -> Vec<StateRecord> {
        vec![StateRecord {
            key: Bytes::from_static(b"count"),
            value: Some(Bytes::from((self.count + by).to_string())),
        }]
    }
}

impl Machine for Counter {
    type Request = ();
    type Answer = u64;

    fn handle(&mut self, call: CallId, (): (), _: Now) -> Effects<u64> {
        Effects {
            records: self.write(1),
            answers: vec![(call, self.count + 1)],
        }
    }

    fn abandon(&mut self, _: CallId) {}

    fn replay(&mut self, record: &StateRecord, _: Now) -> Result<(), ReplayError> {
        let text = record.value.as_deref().map(String::from_utf8_lossy);
        let count = text.and_then(|text| text.parse().ok());
        self.count = count.ok_or_else(|| ReplayError::new("no count"))?;
        Ok(())
    }

    fn loaded(&mut self, now: Now) {
        self.hours = (Some(now.wall.get()), 0);
    }

    fn next_due(&self) -> Due {
        let wall = self.hours.0.map(|at| Timestamp::new(at + 3_600_000));
        Due {
            wall,
            session: Some(HOUR * (self.hours.1 + 1)),
        }
    }

    fn on_time(&mut self, now: Now) -> Effects<u64> {
        let by_session = HOUR * (self.hours.1 + 1) <= now.session;
        if by_session {
            self.hours.1 += 1;
        } else {
            self.hours.0 = Some(now.wall.get());
        }
        Effects {
            records: self.write(if by_session { 1_000 } else { 100 }),
            answers: Vec::new(),
        }
    }

    fn snapshot(&self) -> Vec<StateRecord> {
        self.write(0)
    }
}

fn service(broker: &Broker) -> Arc<crate::service::Service> {
    let run = broker.run.borrow();
    Arc::clone(run.as_ref().expect("it runs").service_for_test())
}

fn counters(broker: &Broker) -> Arc<Coordinator<Counter>> {
    let service = service(broker);
    let make = |_| Counter::default();
    let settings = Settings::default();
    Coordinator::start(TOPIC, &service.partitions, &service.clock, settings, make)
}

/// Asks until the counter answers.
async fn count(counters: &Coordinator<Counter>) -> u64 {
    let asking = async {
        loop {
            match counters.call("key", ()).await {
                Ok(count) => return count,
                Err(error) => assert!(error.code.is_retriable(), "{error}"),
            }
            tokio::task::yield_now().await;
        }
    };
    let asked = tokio::time::timeout(Duration::from_secs(20), asking).await;
    asked.expect("it answers in time")
}

#[tokio::test]
async fn a_coordinators_topic_is_made_on_first_use_and_its_state_outlasts_power_cuts_and_clean_stops()
 {
    let broker = Broker::start(Config::in_memory()).await.unwrap();
    let first = counters(&broker);
    let early = first.call("key", ()).await.unwrap_err();
    assert_eq!(early.code, ErrorCode::CoordinatorNotAvailable);
    let service_of_first = service(&broker);
    for _ in 0..2 {
        service_of_first.ensure_internal_topic(TOPIC).await.unwrap();
    }
    // An empty log needs no loading.
    assert_eq!(first.call("key", ()).await, Ok(1));
    let image = service_of_first.image();
    let topic = image.topics.get(TOPIC).unwrap();
    assert_eq!(topic.partitions.len(), 1);
    assert_eq!(topic.configs["segment.bytes"], "4194304");
    assert_eq!(count(&first).await, 2);
    drop((service_of_first, first));

    broker.crash(PowerCut::LoseUnsynced).await.unwrap();
    broker.restart().await.unwrap();
    let second = counters(&broker);
    assert_eq!(count(&second).await, 3);
    second.close();
    let stopping = second.call("key", ()).await.unwrap_err();
    assert_eq!(stopping.code, ErrorCode::CoordinatorNotAvailable);
    drop(second);

    broker.restart().await.unwrap();
    let third = counters(&broker);
    assert_eq!(count(&third).await, 4);
    // What is due by either time is done when the move of the clock returns.
    broker.clock().advance(HOUR);
    assert_eq!(third.call("key", ()).await, Ok(105));
    broker.clock().advance_sessions(HOUR);
    assert_eq!(third.call("key", ()).await, Ok(1_106));
    third.close();
    drop(third);
    broker.shutdown().await.unwrap();
}
