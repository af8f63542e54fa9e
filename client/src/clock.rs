//! Wall time for record timestamps, and the one way this crate waits.
//!
//! Wall time is only ever stamped on records and never decides anything; deadlines are measured on
//! tokio's monotonic clock, which tests can pause.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use logweir_proto::Timestamp;
use tokio::time::{Instant, Sleep};

/// Tells the wall time stamped on records that bring no timestamp of their own.
///
/// The default is the system's clock; an embedded broker hands in its own, so that a test moves both.
#[derive(Clone)]
pub struct WallClock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl WallClock {
    /// A clock that asks `now` each time. `now` is called on the sending path and must not block.
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self::new(system_now)
    }

    /// The present time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl Default for WallClock {
    fn default() -> Self {
        Self::system()
    }
}

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WallClock").field(&self.now()).finish()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is where a client without a broker's clock reads time"
)]
fn system_now() -> Timestamp {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::new(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}

/// Waits until `deadline`; for ever if there is none.
pub(crate) async fn wait_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// A timer that can be polled.
pub(crate) fn timer(deadline: Instant) -> Sleep {
    tokio::time::sleep_until(deadline)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_clock_is_past_the_day_this_was_written() {
        assert!(WallClock::system().now() > Timestamp::new(1_750_000_000_000));
        assert_eq!(
            WallClock::new(|| Timestamp::new(7)).now(),
            Timestamp::new(7)
        );
    }
}
