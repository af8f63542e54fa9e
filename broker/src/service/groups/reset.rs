//! Setting the offsets of a group by hand: finds out which they are, and has the coordinator set them or say what it
//! would.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use logweir_proto::{ErrorCode, LeaderEpoch, Offset, PartitionId, Timestamp, TopicId};

use super::{answer, check_number, other_kind, place};
use crate::coordinator::groups::answer::{GroupAnswer, ResetAnswer};
use crate::coordinator::groups::request::{FetchGroup, GroupRequest, NewOffset, ResetOffsets};
use crate::error::ApiError;
use crate::faults::Api;
use crate::service::faults::Work;
use crate::service::{Isolation, OffsetQuery, RequestContext, Service};

/// Partitions of one reset; it is one decision, whose records have to fit one batch.
const MAX_PLACES: usize = 10_000;

/// Where to.
#[derive(Clone, Debug)]
pub(crate) enum ResetTo {
    Earliest,
    Latest,
    /// Kept between the first offset and the end.
    Offset(Offset),
    /// The first record at or after this time, the end if there is none.
    Timestamp(Timestamp),
    /// From what is committed, kept between the first offset and the end.
    ShiftBy(i64),
    /// As they are.
    Exact(Vec<NewOffset>),
}

/// Topics with partitions of theirs; none stands for all.
pub(crate) type ByTopic = BTreeMap<Arc<str>, BTreeSet<PartitionId>>;

/// What to reset.
#[derive(Clone, Debug)]
pub(crate) struct Resetting {
    pub(crate) group_id: Arc<str>,
    /// With their partitions, or all of them; no topic at all means whatever the group has committed something for.
    pub(crate) topics: ByTopic,
    pub(crate) to: ResetTo,
    pub(crate) dry_run: bool,
}

fn check_count(places: &BTreeSet<(Arc<str>, PartitionId)>) -> Result<(), ApiError> {
    if places.len() <= MAX_PLACES {
        return Ok(());
    }
    let message = format!("more than {MAX_PLACES} partitions in one reset");
    Err(ApiError::new(ErrorCode::InvalidRequest, message).hint("reset some topics at a time"))
}

impl Service {
    /// Sets the offsets of a group without members, all or none; what was set, or would be, by topic and partition.
    ///
    /// # Errors
    /// `NON_EMPTY_GROUP`, `UNKNOWN_TOPIC_OR_PARTITION`, `INVALID_REQUEST`, the coordinator's, and what looking offsets up
    /// says.
    pub(crate) async fn reset_offsets(
        &self,
        ctx: &RequestContext,
        resetting: Resetting,
    ) -> Result<Vec<ResetAnswer>, ApiError> {
        let resetting = &resetting;
        let work = || -> Work<'_, Vec<ResetAnswer>> { Box::pin(self.reset_now(resetting)) };
        let targets = resetting.topics.keys().map(|topic| (&**topic, None));
        let reset = self
            .suffer_in_group(ctx, Api::ResetOffsets, &resetting.group_id, targets, work)
            .await?;
        if !resetting.dry_run {
            tracing::info!(group = %resetting.group_id, principal = %ctx.principal, listener = %ctx.listener,
                client_id = %ctx.client_id, partitions = reset.len(), "reset the offsets of a group");
        }
        Ok(reset)
    }

    async fn reset_now(&self, resetting: &Resetting) -> Result<Vec<ResetAnswer>, ApiError> {
        let offsets = match &resetting.to {
            ResetTo::Exact(offsets) => {
                let (image, mut offsets) = (self.image(), offsets.clone());
                for offset in &mut offsets {
                    place(&image, offset)?;
                }
                offsets
            }
            to => self.found(resetting, to).await?,
        };
        let group = &resetting.group_id;
        let request = GroupRequest::Reset(ResetOffsets {
            group_id: Arc::clone(group),
            offsets,
            dry_run: resetting.dry_run,
        });
        let mut reset = answer!(Reset, self.ask(group, request).await)??;
        reset.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        Ok(reset)
    }

    /// The offsets that a rule gives.
    async fn found(&self, resetting: &Resetting, to: &ResetTo) -> Result<Vec<NewOffset>, ApiError> {
        let fetch = FetchGroup::all_of(&resetting.group_id);
        let committed = self.fetch_offsets_now(&fetch).await?;
        let places = self.places(resetting, &committed)?;
        let committed: BTreeMap<_, _> = committed
            .into_iter()
            .filter_map(|c| Some(((c.topic, c.partition), c.committed?.offset)))
            .collect();
        let image = self.image();
        let mut offsets = Vec::with_capacity(places.len());
        for (topic, partition) in places {
            let before = committed.get(&(Arc::clone(&topic), partition)).copied();
            let offset = self.target(&topic, partition, to, before).await?;
            let mut offset = NewOffset {
                topic,
                topic_id: TopicId::ZERO,
                partition,
                offset,
                leader_epoch: LeaderEpoch::NONE,
                metadata: "".into(),
                committed_at: None,
            };
            place(&image, &mut offset)?;
            offsets.push(offset);
        }
        Ok(offsets)
    }

    fn places(
        &self,
        resetting: &Resetting,
        committed: &[crate::coordinator::groups::answer::FetchedOffset],
    ) -> Result<BTreeSet<(Arc<str>, PartitionId)>, ApiError> {
        let image = self.image();
        let mut places = BTreeSet::new();
        if resetting.topics.is_empty() {
            let known = committed
                .iter()
                .filter(|offset| image.topics.get(&offset.topic).is_some());
            places.extend(known.map(|offset| (Arc::clone(&offset.topic), offset.partition)));
            if places.is_empty() {
                let message = format!(
                    "there is no group {:?}, or it has committed nothing: there is nothing to reset",
                    resetting.group_id
                );
                return Err(ApiError::new(ErrorCode::InvalidRequest, message)
                    .hint("check the group's id, or name the topics"));
            }
        }
        for (name, partitions) in &resetting.topics {
            let topic = image
                .topics
                .get(name)
                .ok_or_else(|| ApiError::unknown_topic(name))?;
            for partition in partitions {
                check_number(topic, *partition)?;
                places.insert((Arc::clone(name), *partition));
            }
            if partitions.is_empty() {
                let all = (0..topic.partition_count()).map(PartitionId::new);
                places.extend(all.map(|partition| (Arc::clone(name), partition)));
            }
            check_count(&places)?;
        }
        check_count(&places)?;
        Ok(places)
    }

    async fn target(
        &self,
        topic: &str,
        partition: PartitionId,
        to: &ResetTo,
        committed: Option<Offset>,
    ) -> Result<Offset, ApiError> {
        let query = match to {
            ResetTo::Earliest => OffsetQuery::Earliest,
            ResetTo::Timestamp(time) => OffsetQuery::At(*time),
            ResetTo::Latest | ResetTo::Offset(_) | ResetTo::ShiftBy(_) | ResetTo::Exact(_) => {
                OffsetQuery::Latest(Isolation::ReadUncommitted)
            }
        };
        let found = self.offset_of(topic, partition, query).await?;
        let wanted = match to {
            ResetTo::Offset(offset) => *offset,
            ResetTo::ShiftBy(by) => {
                let from = committed.ok_or_else(|| {
                    let message = format!(
                        "nothing is committed for partition {partition} of topic {topic:?}, so that there is nothing to \
                         shift"
                    );
                    ApiError::new(ErrorCode::InvalidRequest, message)
                        .hint("reset it to an offset, a time, earliest or latest")
                })?;
                Offset::new(from.get().saturating_add(*by))
            }
            ResetTo::Timestamp(_) if found.get() < 0 => {
                let latest = OffsetQuery::Latest(Isolation::ReadUncommitted);
                return self.offset_of(topic, partition, latest).await;
            }
            _ => return Ok(found),
        };
        let first = self
            .offset_of(topic, partition, OffsetQuery::Earliest)
            .await?;
        Ok(wanted.clamp(first, found.max(first)))
    }
}
