//! One shard: the machine of one partition that this broker leads, and all that happens to it.
//!
//! A mutex owns the machine, and is held for one decision: ask the machine, append its records as one batch, replay
//! them, hand out the answers. It is never held across `.await`. (A task for each shard would cost a hand-over for each
//! call, and could not do what is due before a caller who moves the clock goes on.) A shard belongs to one partition
//! and one leader epoch; another epoch is another shard. Nothing runs for a shard that has nothing to do.
//!
//! What must hold: the machine's durable state is what replaying the log up to `end` gives. Whenever that is in doubt
//! the machine is dropped, who waits gets an error that callers retry, and another machine is loaded.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Weak};
use std::time::Duration;

use logweir_proto::record::{BatchBuilder, BatchError, Compression, RecordBatch};
use logweir_proto::{ErrorCode, LeaderEpoch, Offset, Timestamp};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::answers::{Answered, Pending, Seat, as_coordinator, not_available, stopping};
use super::loading::{LoadError, Loaded, load};
use super::machine::{CallId, Effects, Machine, Now, StateRecord};
use super::snapshot::after;
use super::{Context, Settings};
use crate::clock::Timer;
use crate::error::ApiError;
use crate::partition::Partition;

/// How often a machine is asked for what is due, one after the other, when a time has come. More is taken for a fault of
/// the machine, which is loaded anew.
const MAX_ROUNDS: usize = 1_000_000;
/// As `MAX_ROUNDS`, without it deciding anything.
const MAX_IDLE_ROUNDS: usize = 1_000;

/// When a timer is to ring: by wall time, and by the clock's session time.
type Times = (Option<Timestamp>, Option<Duration>);

/// One partition's coordinator.
pub(super) struct Shard<M: Machine> {
    pub(super) this: Weak<Self>,
    pub(super) partition: Arc<Partition>,
    epoch: LeaderEpoch,
    pub(super) context: Arc<Context<M>>,
    /// Cancelled when the shard ends, for what works for it in the background.
    pub(super) stop: CancellationToken,
    /// How many calls wait for their answer or its commit.
    calls: Arc<AtomicUsize>,
    timer: Timer,
    pub(super) state: Mutex<State<M>>,
    /// Held while a snapshot is written: the end of the newest written here. Taken with no other lock held.
    pub(super) written_end: Mutex<Offset>,
}

/// What the lock guards. Under it a decision takes the partition's lock, then the clock's.
pub(super) struct State<M: Machine> {
    pub(super) phase: Phase<M>,
    /// Counts the loads, so that what was begun for an earlier machine does nothing to a later one.
    pub(super) generation: u64,
    /// Failures since the last append that succeeded.
    failures: u32,
    next_call: u64,
    waiting: HashMap<CallId, oneshot::Sender<Answered<M::Answer>>>,
    /// What the timer is set to; it may be earlier than what is due, so that it is not set with every call.
    armed: Times,
    /// New calls are refused: the broker stops.
    stopping: bool,
    /// Why the shard is not served, for who looks after the broker.
    trouble: Option<String>,
}

/// How far a shard is.
pub(super) enum Phase<M> {
    /// A machine is being loaded, or will be after a pause.
    Loading,
    Serving(Box<Serving<M>>),
    /// The machine is in use, under the lock.
    Deciding,
    /// For good: led elsewhere, ended, or its log cannot be read.
    Closed(ApiError),
}

/// A machine that serves.
pub(super) struct Serving<M> {
    pub(super) machine: M,
    /// All records below it (exclusive) were replayed; the log's end.
    pub(super) end: Offset,
    /// All records below it (exclusive) are in the newest snapshot.
    pub(super) saved_end: Offset,
    /// When the next snapshot is due, if anything has changed since the last.
    pub(super) save_by: Option<Timestamp>,
    /// No snapshot before this, however many records there are.
    pub(super) save_not_before: Timestamp,
    /// One is being written.
    pub(super) saving: bool,
}

/// What a machine made of being asked for what is due.
enum Round {
    /// Nothing is due, or it does not serve.
    Over,
    /// It decided something.
    Worked,
    /// It decided nothing.
    Idle,
}

/// Why effects were not carried out.
enum Refused {
    /// They are too large; nothing has changed.
    TooLarge(ApiError),
    /// What has changed is in doubt.
    Failed(ApiError),
}

impl<M: Machine> Shard<M> {
    /// Begins to lead a partition in `epoch`: loads the machine, off this thread unless the log is empty.
    pub(super) fn start(
        context: &Arc<Context<M>>,
        partition: Arc<Partition>,
        epoch: LeaderEpoch,
    ) -> Arc<Self> {
        let shard = Arc::new_cyclic(|this: &Weak<Self>| {
            let of_timer = this.clone();
            Self {
                this: this.clone(),
                epoch,
                stop: context.stop.child_token(),
                calls: Arc::default(),
                timer: context.clock.timer(move || {
                    if let Some(shard) = of_timer.upgrade() {
                        shard.ring();
                    }
                }),
                state: Mutex::new(State {
                    phase: Phase::Loading,
                    generation: 0,
                    failures: 0,
                    next_call: 0,
                    waiting: HashMap::new(),
                    armed: (None, None),
                    stopping: false,
                    trouble: None,
                }),
                written_end: Mutex::new(Offset::ZERO),
                partition,
                context: Arc::clone(context),
            }
        });
        shard.watch_end();
        if shard.partition.log().log_end_offset() == Offset::ZERO {
            shard.load_now(0);
        } else {
            shard.load_after(0, Duration::ZERO);
        }
        shard
    }

    /// Whether it leads this partition in this epoch.
    pub(super) fn leads(&self, partition: &Arc<Partition>, epoch: LeaderEpoch) -> bool {
        Arc::ptr_eq(&self.partition, partition) && self.epoch == epoch
    }

    /// Why it is not served, other than that it has just begun to load.
    #[cfg(any(test, feature = "http"))]
    pub(super) fn trouble(&self) -> Option<String> {
        self.state.lock().trouble.clone()
    }

    /// Decides on a call; what is left is to wait for its answer.
    pub(super) fn begin(&self, request: M::Request) -> Result<Pending<M>, ApiError> {
        let limit = self.context.settings.max_calls;
        let seat = Seat::take(&self.calls, limit)
            .ok_or_else(|| not_available(format!("{limit} calls of this partition wait")))?;
        let mut state = self.state.lock();
        if state.stopping {
            return Err(stopping());
        }
        let mut serving = self.take_serving(&mut state)?;
        let call = CallId::new(state.next_call);
        state.next_call += 1;
        let (sender, answer) = oneshot::channel();
        state.waiting.insert(call, sender);
        self.guarded(&mut state, |state| {
            let now = Now::of(&self.context.clock);
            let effects = serving.machine.handle(call, request, now);
            self.carry_out(state, serving, effects, now, Some(call));
        });
        drop(state);
        Ok(Pending::new(self.this.clone(), call, answer, seat))
    }

    /// The caller went away.
    pub(super) fn abandon(&self, call: CallId) {
        let mut state = self.state.lock();
        if state.waiting.remove(&call).is_none() {
            return;
        }
        if let Ok(mut serving) = self.take_serving(&mut state) {
            self.guarded(&mut state, |state| {
                serving.machine.abandon(call);
                self.put_back(state, serving);
            });
        }
    }

    /// Answers who waits, and refuses new calls. What is decided already is still committed.
    pub(super) fn refuse_calls(&self) {
        let mut state = self.state.lock();
        state.stopping = true;
        state.refuse_waiting(&stopping());
    }

    /// Ends the shard for `reason`: who waits is told, and the machine is dropped.
    pub(super) fn close(&self, reason: &ApiError) {
        self.stop.cancel();
        let mut state = self.state.lock();
        state.generation += 1;
        state.refuse_waiting(reason);
        state.phase = Phase::Closed(reason.clone());
        self.timer.set(None, None);
    }

    /// Does what is due, one thing after the other; calls come in between.
    fn ring(&self) {
        self.state.lock().armed = (None, None);
        let mut idle_rounds = 0;
        for _ in 0..MAX_ROUNDS {
            match self.round() {
                Round::Over => return,
                Round::Worked => idle_rounds = 0,
                Round::Idle => idle_rounds += 1,
            }
            if idle_rounds > MAX_IDLE_ROUNDS {
                break;
            }
        }
        let reason = "what is due by the coordinator's timers does not end";
        self.fail(&mut self.state.lock(), &not_available(reason));
    }

    fn round(&self) -> Round {
        let mut state = self.state.lock();
        let Ok(mut serving) = self.take_serving(&mut state) else {
            return Round::Over;
        };
        let mut round = Round::Over;
        self.guarded(&mut state, |state| {
            let now = Now::of(&self.context.clock);
            if !serving.machine.next_due().has_come(now) {
                self.put_back(state, serving);
                return;
            }
            let effects = serving.machine.on_time(now);
            round = match effects.records.is_empty() && effects.answers.is_empty() {
                true => Round::Idle,
                false => Round::Worked,
            };
            self.carry_out(state, serving, effects, now, None);
        });
        round
    }

    /// Does what uses a machine that was taken out; if the machine panics, another is loaded.
    fn guarded(&self, state: &mut State<M>, work: impl FnOnce(&mut State<M>)) {
        if catch_unwind(AssertUnwindSafe(|| work(state))).is_err() {
            self.fail(
                state,
                &not_available("the coordinator panicked in a decision"),
            );
        }
    }

    /// Takes the machine out for a decision; it must be put back, or the shard fail.
    fn take_serving(&self, state: &mut State<M>) -> Result<Box<Serving<M>>, ApiError> {
        match std::mem::replace(&mut state.phase, Phase::Deciding) {
            Phase::Serving(serving) => Ok(serving),
            Phase::Deciding => Err(not_available("the coordinator is in a decision")),
            Phase::Loading => {
                state.phase = Phase::Loading;
                let message = "the coordinator is loading its state";
                let error = ApiError::new(ErrorCode::CoordinatorLoadInProgress, message);
                Err(error.hint("try again"))
            }
            Phase::Closed(reason) => {
                state.phase = Phase::Closed(reason.clone());
                Err(reason)
            }
        }
    }

    fn put_back(&self, state: &mut State<M>, mut serving: Box<Serving<M>>) {
        self.save_if_due(&mut serving, state.generation);
        let due = self.due_of(&serving);
        self.arm(state, due);
        state.phase = Phase::Serving(serving);
    }

    /// Appends, replays and answers, or has the machine loaded anew.
    fn carry_out(
        &self,
        state: &mut State<M>,
        mut serving: Box<Serving<M>>,
        effects: Effects<M::Answer>,
        now: Now,
        caller: Option<CallId>,
    ) {
        match self.append(&mut serving, &effects.records, now) {
            Ok(()) => {
                if !effects.records.is_empty() {
                    state.failures = 0;
                }
                for (call, answer) in effects.answers {
                    if let Some(waiting) = state.waiting.remove(&call) {
                        let commit = self.partition.committed(serving.end);
                        let answered = commit.map(|commit| (answer, commit));
                        // Who went away in this moment has dropped the other end.
                        let _ = waiting.send(answered.map_err(|error| as_coordinator(&error)));
                    }
                }
                match caller {
                    Some(_) => self.put_back(state, serving),
                    // The last round sets the timer.
                    None => state.phase = Phase::Serving(serving),
                }
            }
            Err(Refused::TooLarge(error)) if caller.is_some() => {
                let answered = effects.answers.iter().map(|(call, _)| *call);
                for call in answered.chain(caller) {
                    if let Some(waiting) = state.waiting.remove(&call) {
                        let _ = waiting.send(Err(error.clone()));
                        serving.machine.abandon(call);
                    }
                }
                self.put_back(state, serving);
            }
            // A timer that decides so would do it again at once.
            Err(Refused::TooLarge(error) | Refused::Failed(error)) => self.fail(state, &error),
        }
    }

    /// Writes a decision's records as one batch and replays them.
    fn append(
        &self,
        serving: &mut Serving<M>,
        records: &[StateRecord],
        now: Now,
    ) -> Result<(), Refused> {
        if records.is_empty() {
            return Ok(());
        }
        let batch = batch_of(records, now.wall)
            .map_err(|error| Refused::TooLarge(ApiError::from(error)))?;
        let appended = self.partition.append_in(self.epoch, &batch);
        let appended = appended.map_err(|error| match error.code {
            ErrorCode::MessageTooLarge => Refused::TooLarge(error),
            _ => Refused::Failed(error),
        })?;
        if appended.base_offset != serving.end {
            return Err(Refused::Failed(not_available(format!(
                "somebody else wrote to the partition: offset {} was expected, {} was given",
                serving.end, appended.base_offset
            ))));
        }
        for record in records {
            let replayed = serving.machine.replay(record, now);
            replayed.map_err(|error| {
                Refused::Failed(not_available(format!("its own record: {error}")))
            })?;
        }
        serving.end = appended
            .base_offset
            .plus(i64::try_from(records.len()).unwrap_or(i64::MAX));
        let interval = self.context.settings.snapshot_interval;
        serving
            .save_by
            .get_or_insert_with(|| after(now.wall, interval));
        Ok(())
    }

    /// Drops the machine, whose state is in doubt, tells who waits, and has another loaded; unless another epoch has
    /// begun, whose leader is another shard.
    fn fail(&self, state: &mut State<M>, error: &ApiError) {
        if matches!(state.phase, Phase::Closed(_)) {
            return;
        }
        let told = as_coordinator(error);
        tracing::warn!(topic = %self.partition.topic(), partition = %self.partition.id(), leader_epoch = %self.epoch,
            %error, "a coordinator's decision was not carried out; its state is loaded anew");
        state.generation += 1;
        state.refuse_waiting(&told);
        if told.code == ErrorCode::NotCoordinator {
            state.phase = Phase::Closed(told);
            return;
        }
        state.trouble = Some(error.to_string());
        self.load_again(state);
    }

    fn load_again(&self, state: &mut State<M>) {
        state.phase = Phase::Loading;
        let pause = self.context.settings.pause_before_load(state.failures);
        state.failures = state.failures.saturating_add(1);
        self.load_after(state.generation, pause);
    }

    /// Loads a machine after a pause, on a thread that may wait for the disk.
    fn load_after(&self, generation: u64, pause: Duration) {
        let (this, stop) = (self.this.clone(), self.stop.clone());
        self.context.runtime.spawn(async move {
            if !pause.is_zero() {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = crate::clock::sleep(pause) => {}
                }
            }
            let loading = this.clone();
            let work = move || {
                loading
                    .upgrade()
                    .map_or((), |shard| shard.load_now(generation))
            };
            if let Err(panic) = tokio::task::spawn_blocking(work).await
                && let Some(shard) = this.upgrade()
            {
                let reason = format!("loading panicked: {panic}");
                shard.install(generation, Err(LoadError::Unreadable(reason)));
            }
        });
    }

    fn load_now(&self, generation: u64) {
        let id = self.partition.id();
        let make = || (self.context.make)(id);
        let context = &self.context;
        let age = context.settings.snapshot_age;
        let loaded = load(self.partition.log(), &make, &context.clock, age, &self.stop);
        self.install(generation, loaded);
    }

    fn install(&self, generation: u64, outcome: Result<Loaded<M>, LoadError>) {
        let mut state = self.state.lock();
        if state.generation != generation || !matches!(state.phase, Phase::Loading) {
            return;
        }
        let (topic, partition) = (self.partition.topic(), self.partition.id());
        match outcome {
            Ok(loaded) => {
                tracing::debug!(%topic, %partition, end = %loaded.end, saved_end = %loaded.saved_end,
                    "a coordinator's state is loaded");
                state.trouble = None;
                let serving = Serving::new(loaded, &self.context);
                self.put_back(&mut state, Box::new(serving));
                self.context.loads.send_modify(|loads| *loads += 1);
            }
            Err(LoadError::Stopped) => {}
            Err(LoadError::Passing(reason)) => {
                tracing::warn!(%topic, %partition, reason, "a coordinator's state cannot be loaded now");
                state.trouble = Some(reason);
                self.load_again(&mut state);
            }
            Err(LoadError::Unreadable(reason)) => {
                tracing::error!(%topic, %partition, reason, "a coordinator's state cannot be read; it is not served");
                let message = format!("the coordinator's state cannot be read: {reason}");
                state.phase = Phase::Closed(not_available(message));
                state.trouble = Some(reason);
            }
        }
    }

    /// Sets the timer if something is due before it rings. It is not set to later: a ring too early costs less than
    /// setting it with every heartbeat.
    pub(super) fn arm(&self, state: &mut State<M>, due: Times) {
        let armed = state.armed;
        if is_earlier(due.0, armed.0) || is_earlier(due.1, armed.1) {
            let least = (earlier(due.0, armed.0), earlier(due.1, armed.1));
            state.armed = least;
            self.timer.set(least.0, least.1);
        }
    }

    pub(super) fn due_of(&self, serving: &Serving<M>) -> Times {
        let due = serving.machine.next_due();
        (earlier(due.wall, serving.save_due()), due.session)
    }

    /// Closes the shard when its partition ends: nothing more can be committed. A partition that is opened anew comes
    /// as another shard.
    fn watch_end(&self) {
        let (this, stop) = (self.this.clone(), self.stop.clone());
        let ended = self.partition.until_end();
        self.context.runtime.spawn(async move {
            let reason = tokio::select! {
                () = stop.cancelled() => return,
                reason = ended => reason,
            };
            if let (Ok(reason), Some(shard)) = (reason, this.upgrade()) {
                shard.close(&as_coordinator(&reason));
                shard.state.lock().trouble = Some(reason.to_string());
            }
        });
    }
}

impl<M: Machine> State<M> {
    fn refuse_waiting(&mut self, reason: &ApiError) {
        for (_, waiting) in self.waiting.drain() {
            let _ = waiting.send(Err(reason.clone()));
        }
    }
}

impl<M: Machine> Serving<M> {
    fn new(loaded: Loaded<M>, context: &Context<M>) -> Self {
        let settings = &context.settings;
        let unsaved = loaded.end > loaded.saved_end;
        Self {
            machine: loaded.machine,
            end: loaded.end,
            saved_end: loaded.saved_end,
            save_by: unsaved.then(|| after(context.clock.now(), settings.snapshot_interval)),
            save_not_before: Timestamp::NONE,
            saving: false,
        }
    }
}

impl Settings {
    /// The first time at once, then doubling.
    fn pause_before_load(&self, failures: u32) -> Duration {
        match failures.checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => self
                .reload_pause
                .saturating_mul(1 << doublings.min(16))
                .min(self.max_reload_pause),
        }
    }
}

fn batch_of(records: &[StateRecord], time: Timestamp) -> Result<RecordBatch, BatchError> {
    let bytes = |r: &StateRecord| 16 + r.key.len() + r.value.as_ref().map_or(0, bytes::Bytes::len);
    let size = records.iter().map(bytes).sum();
    let mut batch = BatchBuilder::with_capacity(Compression::None, size);
    for record in records {
        batch.append(time, Some(&record.key), record.value.as_deref(), &[])?;
    }
    RecordBatch::from_bytes(batch.build()?)
}

fn is_earlier<T: Ord>(due: Option<T>, armed: Option<T>) -> bool {
    match (due, armed) {
        (Some(due), Some(armed)) => due < armed,
        (due, None) => due.is_some(),
        (None, Some(_)) => false,
    }
}

fn earlier<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    one.into_iter().chain(other).min()
}
