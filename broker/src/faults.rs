//! Faults that a host injects on purpose: what fails, is late, gets lost or comes twice.
//!
//! Owns the rules and their counts; `service/faults.rs` carries them out. Rules outlive a crash and a
//! restart of the broker. Where there are none, a call costs the look at one flag.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use logweir_proto::ErrorCode;
use logweir_storage::disk::SimDisk;
use parking_lot::Mutex;

pub use disk::DiskFault;
use disk::DiskFaults;

use crate::words::counted;

mod disk;

/// Used-up faults that are kept for the report.
const MAX_USED_UP: usize = 10_000;

/// What a client can ask a broker, by Kafka's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Api {
    /// Appending records, alone or on a stream.
    Produce,
    /// Reading records, alone or on a stream.
    Fetch,
    /// Looking offsets up.
    ListOffsets,
    /// Describing and listing topics and the cluster.
    Metadata,
    /// Creating topics.
    CreateTopics,
    /// Deleting topics.
    DeleteTopics,
    /// Adding partitions.
    CreatePartitions,
    /// Showing a topic's configuration.
    DescribeConfigs,
    /// Changing a topic's configuration.
    AlterConfigs,
    /// Deleting the records below an offset.
    DeleteRecords,
    /// Giving a producer its id.
    InitProducerId,
    /// Looking up who coordinates a group.
    FindCoordinator,
    /// Joining a group, by the classic protocol.
    JoinGroup,
    /// Giving or getting an assignment, by the classic protocol.
    SyncGroup,
    /// A heartbeat of a member of the classic protocol.
    Heartbeat,
    /// Leaving a group, by the classic protocol.
    LeaveGroup,
    /// A heartbeat of a member of the consumer protocol, by which it also joins, leaves and is told what to read.
    ConsumerGroupHeartbeat,
    /// Committing offsets.
    OffsetCommit,
    /// Reading committed offsets.
    OffsetFetch,
    /// Forgetting committed offsets.
    OffsetDelete,
    /// Resetting the offsets of a group.
    ResetOffsets,
    /// Listing groups.
    ListGroups,
    /// Describing groups.
    DescribeGroups,
    /// Deleting groups.
    DeleteGroups,
}

/// A fault: what happens, to which calls, how often. Built by steps; without a filter it fits every call,
/// and without a count it happens once.
///
/// ```
/// use logweir::{Api, Fault};
/// let fault = Fault::drop_response().on(Api::Produce).topic("orders").times(3);
/// assert_eq!(fault.to_string(), "drop the response of the next 3 Produce calls, topic orders");
/// ```
#[derive(Clone, Debug)]
pub struct Fault {
    action: Action,
    filter: Filter,
    /// `None` means every time.
    times: Option<u64>,
    optional: bool,
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Fail(ErrorCode),
    Delay(Duration),
    DropRequest,
    DropResponse,
    Duplicate,
    Disconnect,
    DisconnectAfter,
}

/// Which calls a fault fits; what is absent fits all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    api: Option<Api>,
    topic: Option<String>,
    partition: Option<i32>,
    group: Option<String>,
    client_id: Option<String>,
}

impl Fault {
    fn new(action: Action) -> Self {
        Self {
            action,
            filter: Filter::default(),
            times: Some(1),
            optional: false,
        }
    }

    /// The call does nothing and is answered with this error. In a call about several topics or partitions
    /// only those that fit fail.
    #[must_use]
    pub fn fail(code: ErrorCode) -> Self {
        Self::new(Action::Fail(code))
    }

    /// The call waits so long (real time) before it is carried out; what its connection sends after it waits too
    /// where order is promised.
    #[must_use]
    pub fn delay(by: Duration) -> Self {
        Self::new(Action::Delay(by))
    }

    /// The call gets lost on its way: nothing is done, and no answer comes until the caller gives up.
    #[must_use]
    pub fn drop_request() -> Self {
        Self::new(Action::DropRequest)
    }

    /// The answer gets lost on its way: what was asked is done, and no answer comes until the caller gives up.
    #[must_use]
    pub fn drop_response() -> Self {
        Self::new(Action::DropResponse)
    }

    /// The call is carried out twice, one right after the other, and the first answer is sent.
    #[must_use]
    pub fn duplicate() -> Self {
        Self::new(Action::Duplicate)
    }

    /// The connection breaks before the call is carried out.
    #[must_use]
    pub fn disconnect() -> Self {
        Self::new(Action::Disconnect)
    }

    /// The connection breaks after the call was carried out, before it is answered.
    #[must_use]
    pub fn disconnect_after() -> Self {
        Self::new(Action::DisconnectAfter)
    }

    /// Only calls of this kind.
    #[must_use]
    pub fn on(mut self, api: Api) -> Self {
        self.filter.api = Some(api);
        self
    }

    /// Only calls that concern this topic, by the name the caller uses.
    #[must_use]
    pub fn topic(mut self, topic: impl Into<String>) -> Self {
        self.filter.topic = Some(topic.into());
        self
    }

    /// Only calls that concern this partition.
    #[must_use]
    pub fn partition(mut self, partition: i32) -> Self {
        self.filter.partition = Some(partition);
        self
    }

    /// Only calls that concern this consumer group.
    #[must_use]
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.filter.group = Some(group.into());
        self
    }

    /// Only calls of clients that call themselves so.
    #[must_use]
    pub fn client_id(mut self, client_id: impl Into<String>) -> Self {
        self.filter.client_id = Some(client_id.into());
        self
    }

    /// Happens to the next `n` calls that fit, then no more.
    #[must_use]
    pub fn times(mut self, n: u64) -> Self {
        self.times = Some(n);
        self
    }

    /// Happens to every call that fits, until it is taken back.
    #[must_use]
    pub fn always(mut self) -> Self {
        self.times = None;
        self
    }

    /// It is no error if this never happens.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.action {
            Action::Fail(code) => write!(f, "answer {code} to")?,
            Action::Delay(by) => write!(f, "delay by {by:?}")?,
            Action::DropRequest => f.write_str("drop the request of")?,
            Action::DropResponse => f.write_str("drop the response of")?,
            Action::Duplicate => f.write_str("duplicate")?,
            Action::Disconnect => f.write_str("disconnect before")?,
            Action::DisconnectAfter => f.write_str("disconnect after")?,
        }
        match self.times {
            None => f.write_str(" every")?,
            Some(1) => f.write_str(" the next")?,
            Some(n) => write!(f, " the next {n}")?,
        }
        let Filter {
            api,
            topic,
            partition,
            group,
            client_id,
        } = &self.filter;
        if let Some(api) = api {
            write!(f, " {api:?}")?;
        }
        let many = self.times.is_some_and(|n| n != 1);
        f.write_str(if many { " calls" } else { " call" })?;
        if let Some(topic) = topic {
            write!(f, ", topic {topic}")?;
        }
        if let Some(partition) = partition {
            write!(f, ", partition {partition}")?;
        }
        if let Some(group) = group {
            write!(f, ", group {group}")?;
        }
        if let Some(client_id) = client_id {
            write!(f, ", client id {client_id}")?;
        }
        Ok(())
    }
}

/// Names a fault that was injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FaultId(u64);

/// What became of a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FaultReport {
    /// Its name.
    pub id: FaultId,
    /// What it does, in words.
    pub description: String,
    /// How often it has happened.
    pub fired: u64,
    /// Whether it may go without happening.
    pub optional: bool,
}

impl fmt::Display for FaultReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: happened {}",
            self.description,
            counted(self.fired, "time")
        )
    }
}

/// The faults of one broker; clones are the same.
///
/// A call suffers the first fault, in the order they were injected, that fits it and is not used up.
/// [`Broker::shutdown`](crate::Broker::shutdown) fails if one has never happened and was not
/// [optional](Fault::optional): such a test did not test what it says.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use logweir::{Api, Broker, Config, Fault};
/// use logweir_client::{ErrorCode, NewTopic};
///
/// let broker = Broker::start(Config::in_memory()).await?;
/// let admin = broker.client()?.admin();
/// broker.faults().fail_next(Api::CreateTopics, ErrorCode::PolicyViolation);
/// assert!(admin.create_topic(NewTopic::new("orders")).await.is_err());
/// assert!(admin.create_topic(NewTopic::new("orders")).await.is_ok());
/// broker.shutdown().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Faults(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    armed: AtomicBool,
    next_id: AtomicU64,
    rules: Mutex<Vec<Rule>>,
    disk: Option<DiskFaults>,
}

#[derive(Debug)]
struct Rule {
    id: FaultId,
    fault: Fault,
    fired: u64,
    /// Taken back, and kept for the report.
    over: bool,
}

impl Rule {
    fn is_over(&self) -> bool {
        self.over || self.fault.times.is_some_and(|times| self.fired >= times)
    }

    /// Whether it should have happened and did not.
    fn is_missed(&self) -> bool {
        self.fired == 0 && !self.fault.optional
    }

    fn report(&self) -> FaultReport {
        FaultReport {
            id: self.id,
            description: self.fault.to_string(),
            fired: self.fired,
            optional: self.fault.optional,
        }
    }
}

/// A fault that happens to the call at hand.
#[derive(Clone, Debug)]
pub(crate) struct Hit {
    pub(crate) action: Action,
    filter: Filter,
}

impl Hit {
    /// Whether the fault concerns this part of the call.
    pub(crate) fn covers(&self, topic: &str, partition: Option<i32>) -> bool {
        self.filter.fits_target(topic, partition)
    }
}

impl Filter {
    fn fits_target(&self, topic: &str, partition: Option<i32>) -> bool {
        self.topic.as_deref().is_none_or(|wanted| wanted == topic)
            && (self.partition.is_none() || self.partition == partition)
    }
}

impl Faults {
    /// Faults of a broker, and of its disk if that is simulated, with the capacity it should have.
    pub(crate) fn new(disk: Option<(Arc<SimDisk>, u64)>) -> Self {
        Self(Arc::new(Inner {
            armed: AtomicBool::new(false),
            next_id: AtomicU64::new(0),
            rules: Mutex::default(),
            disk: disk.map(|(disk, capacity_bytes)| DiskFaults::new(disk, capacity_bytes)),
        }))
    }

    /// Sets a fault. Where there are more than 10,000, those that have happened and are used up are forgotten.
    pub fn inject(&self, fault: Fault) -> FaultId {
        let id = self.next_id();
        let mut rules = self.0.rules.lock();
        if rules.len() >= MAX_USED_UP {
            rules.retain(|rule| !rule.is_over() || rule.is_missed());
        }
        rules.push(Rule {
            id,
            fault,
            fired: 0,
            over: false,
        });
        self.0.armed.store(true, Ordering::Release);
        id
    }

    /// The next call of this kind fails with this error: short for [`Faults::inject`] of [`Fault::fail`].
    pub fn fail_next(&self, api: Api, code: ErrorCode) -> FaultId {
        self.inject(Fault::fail(code).on(api))
    }

    /// Sets a fault of the disk, which lasts until it is taken back.
    ///
    /// # Errors
    /// If the broker is not in memory: a real disk is not ours to break.
    pub fn inject_disk(&self, fault: DiskFault) -> Result<FaultId, crate::BrokerError> {
        let disk = self
            .0
            .disk
            .as_ref()
            .ok_or(crate::BrokerError::NotInMemory("a fault of the disk"))?;
        let id = self.next_id();
        disk.inject(id, fault);
        Ok(id)
    }

    /// Allows that a fault never happens, as [`Fault::optional`] does beforehand; for faults of the disk, too.
    pub fn allow_unfired(&self, id: FaultId) {
        for rule in self.0.rules.lock().iter_mut() {
            rule.fault.optional |= rule.id == id;
        }
        if let Some(disk) = &self.0.disk {
            disk.allow_unfired(id);
        }
    }

    /// Takes a fault back. Its report stays. One that is not there is no error.
    pub fn remove(&self, id: FaultId) {
        for rule in self.0.rules.lock().iter_mut() {
            rule.over |= rule.id == id;
        }
        if let Some(disk) = &self.0.disk {
            disk.remove(Some(id));
        }
        self.disarm_if_over();
    }

    /// Takes all faults back. Their reports stay.
    pub fn clear(&self) {
        for rule in self.0.rules.lock().iter_mut() {
            rule.over = true;
        }
        if let Some(disk) = &self.0.disk {
            disk.remove(None);
        }
        self.disarm_if_over();
    }

    /// What became of every fault, in the order they were injected.
    #[must_use]
    pub fn report(&self) -> Vec<FaultReport> {
        let mut reports: Vec<_> = self.0.rules.lock().iter().map(Rule::report).collect();
        if let Some(disk) = &self.0.disk {
            reports.extend(disk.report());
        }
        reports.sort_by_key(|report| report.id);
        reports
    }

    /// How often a fault has happened; 0 for one that is not there.
    #[must_use]
    pub fn fired(&self, id: FaultId) -> u64 {
        let reports = self.report();
        let found = reports.iter().find(|report| report.id == id);
        found.map_or(0, |report| report.fired)
    }

    /// The faults that should have happened and never did.
    #[must_use]
    pub fn unfired(&self) -> Vec<FaultReport> {
        let mut reports = self.report();
        reports.retain(|report| report.fired == 0 && !report.optional);
        reports
    }

    /// The fault that this call suffers, which is thereby counted. `targets` are the topics and partitions it concerns.
    pub(crate) fn hit<'a>(
        &self,
        api: Api,
        client_id: &str,
        targets: impl IntoIterator<Item = (&'a str, Option<i32>), IntoIter: Clone>,
    ) -> Option<Hit> {
        self.hit_group(api, client_id, &[], targets)
    }

    /// As [`Faults::hit`], for a call that concerns these groups.
    pub(crate) fn hit_group<'a>(
        &self,
        api: Api,
        client_id: &str,
        groups: &[&str],
        targets: impl IntoIterator<Item = (&'a str, Option<i32>), IntoIter: Clone>,
    ) -> Option<Hit> {
        if !self.0.armed.load(Ordering::Acquire) {
            return None;
        }
        let targets = targets.into_iter();
        let mut rules = self.0.rules.lock();
        let rule = rules.iter_mut().find(|rule| {
            let filter = &rule.fault.filter;
            !rule.is_over()
                && filter.api.is_none_or(|wanted| wanted == api)
                && filter.client_id.as_deref().is_none_or(|id| id == client_id)
                && filter
                    .group
                    .as_deref()
                    .is_none_or(|wanted| groups.contains(&wanted))
                && fits_any(filter, targets.clone())
        })?;
        rule.fired += 1;
        let hit = Hit {
            action: rule.fault.action,
            filter: rule.fault.filter.clone(),
        };
        drop(rules);
        self.disarm_if_over();
        Some(hit)
    }

    fn next_id(&self) -> FaultId {
        FaultId(self.0.next_id.fetch_add(1, Ordering::Relaxed))
    }

    fn disarm_if_over(&self) {
        // Under the lock, or a fault injected meanwhile would be disarmed.
        let rules = self.0.rules.lock();
        let armed = !rules.iter().all(Rule::is_over);
        self.0.armed.store(armed, Ordering::Release);
    }
}

/// Whether a fault fits a call about these targets; one without a target (the cluster, say) fits where none is asked for.
fn fits_any<'a>(
    filter: &Filter,
    mut targets: impl Iterator<Item = (&'a str, Option<i32>)>,
) -> bool {
    let wants_target = filter.topic.is_some() || filter.partition.is_some();
    !wants_target || targets.any(|(topic, partition)| filter.fits_target(topic, partition))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fires(faults: &Faults, api: Api, client_id: &str, topic: &str, partition: i32) -> bool {
        faults
            .hit(api, client_id, [(topic, Some(partition))])
            .is_some()
    }

    #[test]
    fn a_fault_happens_to_the_calls_it_fits_and_so_often_as_it_says() {
        let faults = Faults::new(None);
        let id = faults.inject(
            Fault::drop_request()
                .on(Api::Produce)
                .topic("orders")
                .partition(1)
                .client_id("till")
                .times(2),
        );
        for (api, client, topic, partition) in [
            (Api::Fetch, "till", "orders", 1),
            (Api::Produce, "shop", "orders", 1),
            (Api::Produce, "till", "order", 1),
            (Api::Produce, "till", "orders", 0),
        ] {
            assert!(!fires(&faults, api, client, topic, partition));
        }
        assert!(fires(&faults, Api::Produce, "till", "orders", 1));
        assert!(fires(&faults, Api::Produce, "till", "orders", 1));
        assert!(!fires(&faults, Api::Produce, "till", "orders", 1));
        assert_eq!(faults.fired(id), 2);
        assert_eq!(faults.unfired(), []);
    }

    #[test]
    fn the_first_injected_goes_first_and_what_was_taken_back_never_happens() {
        let faults = Faults::new(None);
        let first = faults.inject(Fault::disconnect());
        let second = faults.inject(Fault::duplicate().always());
        let third = faults.inject(Fault::drop_response());
        let next = || faults.hit(Api::Fetch, "", []).map(|hit| hit.action);
        assert_eq!(next(), Some(Action::Disconnect));
        assert_eq!(next(), Some(Action::Duplicate));
        assert_eq!(next(), Some(Action::Duplicate));
        faults.remove(second);
        faults.remove(third);
        assert_eq!(next(), None);
        let fired: Vec<_> = faults.report().iter().map(|report| report.fired).collect();
        assert_eq!(fired, [1, 2, 0]);
        let unfired: Vec<_> = faults.unfired().iter().map(|report| report.id).collect();
        assert_eq!(unfired, [third]);
        assert!(first < second);
    }

    #[test]
    fn a_call_about_many_partitions_suffers_where_one_fits_and_only_there() {
        let faults = Faults::new(None);
        faults.inject(Fault::fail(ErrorCode::NotLeaderOrFollower).topic("b"));
        let hit = faults
            .hit(Api::Produce, "", [("a", Some(0)), ("b", Some(0))])
            .expect("fits");
        assert!(hit.covers("b", Some(0)) && !hit.covers("a", Some(0)));
        // A call about no topic is not about that topic.
        faults.inject(Fault::duplicate().topic("b"));
        assert!(faults.hit(Api::Metadata, "", []).is_none());
    }

    #[test]
    fn a_real_disk_is_not_broken_and_optional_faults_need_not_happen() {
        let faults = Faults::new(None);
        assert!(faults.inject_disk(DiskFault::Full).is_err());
        faults.inject(Fault::duplicate().optional());
        assert_eq!(faults.unfired(), []);
    }
}
