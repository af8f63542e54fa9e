//! The mock broker's fetch service: one batch of one partition per response.

use bytes::Bytes;
use logweir_proto::grpc::v1;
use logweir_proto::{ErrorCode, Offset};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use v1::fetch_service_server::FetchService;
use v1::fetched_partition::Data;
use v1::list_offsets_partition::At;

use super::{MockBroker, error, partition_index};

#[tonic::async_trait]
impl FetchService for MockBroker {
    async fn fetch(
        &self,
        _: Request<v1::FetchRequest>,
    ) -> Result<Response<v1::FetchResponse>, Status> {
        Err(Status::unimplemented("the client streams"))
    }

    type FetchStreamStream = ReceiverStream<Result<v1::FetchResponse, Status>>;

    async fn fetch_stream(
        &self,
        request: Request<v1::FetchStreamRequest>,
    ) -> Result<Response<Self::FetchStreamStream>, Status> {
        self.check_call("FetchStream")?;
        self.state.lock().streams_opened += 1;
        let (answers, outgoing) = mpsc::channel(1);
        let broker = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = broker.follow(request.into_inner(), &answers) => {}
                () = answers.closed() => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }

    async fn list_offsets(
        &self,
        request: Request<v1::ListOffsetsRequest>,
    ) -> Result<Response<v1::ListOffsetsResponse>, Status> {
        self.check_call("ListOffsets")?;
        let state = self.state.lock();
        let offsets = request.get_ref().partitions.iter().map(|wanted| {
            let log = partition_index(wanted.partition)
                .and_then(|index| state.topics.get(&wanted.topic)?.partitions.get(index));
            let mut listed = v1::ListedOffset {
                topic: wanted.topic.clone(),
                partition: wanted.partition,
                offset: -1,
                timestamp_ms: -1,
                leader_epoch: -1,
                error: None,
            };
            let Some(log) = log else {
                listed.error = error(ErrorCode::UnknownTopicOrPartition);
                return listed;
            };
            match wanted.at.as_ref().unwrap() {
                At::Earliest(_) => listed.offset = log.start.get(),
                At::Latest(_) => listed.offset = log.end().get(),
                At::TimestampMs(time) => {
                    let records = log
                        .batches
                        .iter()
                        .flat_map(|batch| batch.records(1 << 30).unwrap());
                    let found = records
                        .map(Result::unwrap)
                        .find(|record| record.timestamp.get() >= *time);
                    if let Some(record) = found {
                        listed.offset = record.offset.get();
                        listed.timestamp_ms = record.timestamp.get();
                    }
                }
                At::MaxTimestamp(_) => {}
            }
            listed
        });
        let offsets = offsets.collect();
        Ok(Response::new(v1::ListOffsetsResponse { offsets }))
    }
}

impl MockBroker {
    async fn follow(
        &self,
        request: v1::FetchStreamRequest,
        answers: &mpsc::Sender<Result<v1::FetchResponse, Status>>,
    ) {
        let mut changes = self.changes.subscribe();
        let mut wanted = request.partitions;
        loop {
            changes.borrow_and_update();
            wanted.retain(|part| part.end_offset.is_none_or(|end| part.fetch_offset < end));
            if wanted.is_empty() {
                return;
            }
            let found = wanted
                .iter_mut()
                .find_map(|part| Some((self.read(part)?, part.clone())));
            let Some((part, of)) = found else {
                if changes.changed().await.is_err() {
                    return;
                }
                continue;
            };
            if part.error.is_some() {
                wanted.retain(|known| (&known.topic, known.partition) != (&of.topic, of.partition));
            }
            let step = usize::from(!wanted.is_empty());
            wanted.rotate_left(step);
            let mut response = v1::FetchResponse {
                partitions: vec![part],
            };
            let scripted = {
                let mut state = self.state.lock();
                let number = state.fetch_responses;
                state.fetch_responses += 1;
                let mut script = state.fetch_script.take();
                let result = script
                    .as_mut()
                    .map_or(Ok(()), |script| script(number, &mut response));
                state.fetch_script = script;
                result
            };
            let failed = scripted.is_err();
            if answers.send(scripted.map(|()| response)).await.is_err() || failed {
                return;
            }
        }
    }

    /// The next batch of a partition, if there is one; the offset moves past it.
    fn read(&self, part: &mut v1::FetchPartition) -> Option<v1::FetchedPartition> {
        let state = self.state.lock();
        let mut answer = v1::FetchedPartition {
            topic: part.topic.clone(),
            partition: part.partition,
            ..Default::default()
        };
        let topic = state.topics.get(&part.topic);
        let log = topic.and_then(|topic| topic.partitions.get(partition_index(part.partition)?));
        let (Some(topic), Some(log)) = (topic, log) else {
            answer.error = error(ErrorCode::UnknownTopicOrPartition);
            return Some(answer);
        };
        if part
            .topic_id
            .as_ref()
            .is_some_and(|id| id[..] != topic.id.get())
        {
            answer.error = error(ErrorCode::InconsistentTopicId);
            return Some(answer);
        }
        let at = Offset::new(part.fetch_offset);
        if at < log.start || at > log.end() {
            answer.error = error(ErrorCode::OffsetOutOfRange);
            return Some(answer);
        }
        let batch = log
            .batches
            .iter()
            .find(|batch| batch.header().next_offset() > at)?;
        let next = batch.header().next_offset().get();
        part.fetch_offset = next;
        answer.high_watermark = log.end().get();
        answer.last_stable_offset = log.end().get();
        answer.log_start_offset = log.start.get();
        answer.next_fetch_offset = next;
        answer.data = Some(Data::Batches(Bytes::clone(batch.bytes())));
        Some(answer)
    }
}
