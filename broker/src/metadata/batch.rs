//! Operations that wait, taken together: decided one on the other, written as one proposal, answered one by one.

use std::collections::VecDeque;
use std::sync::Arc;

use logweir_proto::NodeId;
use logweir_proto::grpc::internal::{Proposal, Record};
use prost::Message;
use tokio::sync::{mpsc, oneshot};

use super::Reply;
use super::controller::{Outcome, Request, Rules, plan};
use super::error::MetadataError;
use super::image::Image;

/// The most operations decided in one proposal.
const BATCH: usize = 64;
/// The most bytes of a proposal, encoded.
const MAX_PROPOSAL_BYTES: usize = 4 << 20;

/// An operation and where its answer goes.
pub(super) struct Operation {
    pub(super) request: Request,
    pub(super) answer: oneshot::Sender<Result<Reply, MetadataError>>,
}

impl Operation {
    pub(super) fn refuse(self, error: MetadataError) {
        // A caller that went away does not want to know.
        let _ = self.answer.send(Err(error));
    }

    pub(super) fn answer(self, answer: Answer, image: &Image) {
        let reply = match answer {
            Answer::Ready(reply) => reply,
            Answer::BrokerEpoch(node_id) => match image.brokers.get(&node_id) {
                Some(broker) => Reply::BrokerEpoch(broker.epoch),
                None => return self.refuse(MetadataError::UnknownBroker { node_id }),
            },
        };
        let _ = self.answer.send(Ok(reply));
    }
}

/// What an operation will be told once its records have taken effect.
pub(super) enum Answer {
    Ready(Reply),
    /// The epoch of this node, which is not known before.
    BrokerEpoch(NodeId),
}

impl Answer {
    /// The answer for an outcome, with `image` as it is right after the operation's records.
    fn of(outcome: Outcome, image: &Image) -> Self {
        match outcome {
            Outcome::Done => Self::Ready(Reply::Done),
            Outcome::BrokerEpoch(node_id) => Self::BrokerEpoch(node_id),
            Outcome::Topic(id) => {
                let topic = image
                    .topic_by_id(&id)
                    .expect("the plan was made for this topic");
                Self::Ready(Reply::Topic(Arc::clone(topic)))
            }
            Outcome::DeletedTopic(id) => Self::Ready(Reply::DeletedTopic(id)),
            Outcome::ProducerIds(block) => Self::Ready(Reply::ProducerIds(block)),
        }
    }
}

pub(super) fn refuse_all(operations: impl IntoIterator<Item = Operation>, error: &MetadataError) {
    for operation in operations {
        operation.refuse(error.clone());
    }
}

/// `first` and those that wait behind it. A registration begins a batch, because its broker epoch is the index of its
/// entry, and two runs of one broker must not share it.
pub(super) fn take_batch(
    first: Operation,
    operations: &mut mpsc::Receiver<Operation>,
    held: &mut Option<Operation>,
) -> VecDeque<Operation> {
    let mut batch = VecDeque::from([first]);
    while batch.len() < BATCH {
        match operations.try_recv() {
            Ok(next) if matches!(next.request, Request::RegisterBroker(_)) => {
                *held = Some(next);
                break;
            }
            Ok(next) => batch.push_back(next),
            Err(_) => break,
        }
    }
    batch
}

/// What was decided for the first operations of a batch.
pub(super) struct Decided {
    pub(super) records: Vec<Record>,
    pub(super) operations: Vec<(Operation, Answer)>,
}

/// Decides operations in order, each on what those before it will have done, until a proposal is full.
/// Those that are refused are answered here.
pub(super) fn decide(batch: &mut VecDeque<Operation>, base: &Image, rules: &Rules) -> Decided {
    let mut decided = Decided {
        records: Vec::new(),
        operations: Vec::new(),
    };
    let mut scratch = base.clone();
    let mut bytes = 0;
    while let Some(operation) = batch.pop_front() {
        let planned = match plan(&operation.request, &scratch, rules) {
            Ok(planned) => planned,
            Err(error) => {
                operation.refuse(error);
                continue;
            }
        };
        let plan_bytes: usize = planned.records.iter().map(Message::encoded_len).sum();
        if plan_bytes > MAX_PROPOSAL_BYTES {
            operation.refuse(MetadataError::TooLarge {
                bytes: plan_bytes,
                limit: MAX_PROPOSAL_BYTES,
            });
            continue;
        }
        if bytes + plan_bytes > MAX_PROPOSAL_BYTES {
            batch.push_front(operation);
            break;
        }
        let proposal = Proposal {
            planned_on: 0,
            records: planned.records,
        };
        match scratch.apply(scratch.version, &proposal) {
            Ok(next) => scratch = next,
            Err(error) => {
                // A decision that does not fit the image it was made on is a bug; it must not be written.
                let reason = format!("the decision contradicts the image: {error}").into();
                operation.refuse(MetadataError::Offline { reason });
                continue;
            }
        }
        bytes += plan_bytes;
        decided.records.extend(proposal.records);
        let answer = Answer::of(planned.outcome, &scratch);
        decided.operations.push((operation, answer));
    }
    decided
}

#[cfg(test)]
mod tests {
    use super::super::controller::{BrokerRegistration, NewTopic, Plan};
    use super::super::image::BrokerAddresses;
    use super::*;

    fn register() -> Request {
        Request::RegisterBroker(BrokerRegistration {
            node_id: NodeId::new(1),
            directory_id: [1; 16],
            addresses: BrokerAddresses::default(),
            rack: None,
            was_clean: true,
            boot_id: "boot-1".to_owned(),
        })
    }

    fn create(name: String) -> Request {
        let topic = NewTopic {
            name,
            partitions: 10_000,
            replication_factor: 1,
            ..NewTopic::default()
        };
        Request::CreateTopic {
            topic,
            internal: false,
        }
    }

    fn rules() -> Rules {
        Rules {
            max_topics: 1_000,
            max_partitions: 1_000_000,
            check_topic_configs: |_| Ok(()),
        }
    }

    fn waiting(requests: Vec<Request>) -> (Operation, mpsc::Receiver<Operation>) {
        let (sender, mut receiver) = mpsc::channel(requests.len());
        for request in requests {
            let (answer, _) = oneshot::channel();
            assert!(sender.try_send(Operation { request, answer }).is_ok());
        }
        (receiver.try_recv().unwrap(), receiver)
    }

    #[test]
    fn a_registration_begins_a_batch() {
        let requests = vec![
            create("a".to_owned()),
            register(),
            register(),
            create("b".to_owned()),
            create("c".to_owned()),
        ];
        let (first, mut operations) = waiting(requests);
        let mut held = None;
        let mut sizes = Vec::new();
        let mut next = Some(first);
        while let Some(first) = next {
            sizes.push(take_batch(first, &mut operations, &mut held).len());
            next = held.take().or_else(|| operations.try_recv().ok());
        }
        assert_eq!(sizes, [1, 1, 3]);
    }

    #[test]
    fn a_proposal_is_no_larger_than_its_limit_and_keeps_the_order() {
        let Plan { records, .. } = plan(&register(), &Image::default(), &rules()).unwrap();
        let image = Image::from_records(1, &records).unwrap();
        let requests = (0..30)
            .map(|number| create(format!("t-{number}")))
            .collect();
        let (first, mut operations) = waiting(requests);
        let mut batch = take_batch(first, &mut operations, &mut None);
        assert_eq!(batch.len(), 30);
        let mut topics = Vec::new();
        let mut proposals = 0;
        while !batch.is_empty() {
            let decided = decide(&mut batch, &image, &rules());
            let bytes: usize = decided.records.iter().map(Message::encoded_len).sum();
            assert!(bytes <= MAX_PROPOSAL_BYTES, "{bytes}");
            proposals += 1;
            for (operation, _) in decided.operations {
                let Request::CreateTopic { topic, .. } = operation.request else {
                    continue;
                };
                topics.push(topic.name);
            }
        }
        assert!(proposals > 1);
        assert_eq!(
            topics,
            (0..30)
                .map(|number| format!("t-{number}"))
                .collect::<Vec<_>>()
        );
    }
}
