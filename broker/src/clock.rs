//! The broker's one source of wall time and of waiting.
//!
//! Wall time is the system's plus an offset, so that a host can move it (retention and expiries
//! follow); durations that guard liveness are measured with [`std::time::Instant`] and never move.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use logweir_proto::Timestamp;

/// The broker's clock; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    offset_ms: Arc<AtomicI64>,
}

impl Clock {
    /// Wall time in milliseconds since 1970-01-01 UTC.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        #[expect(
            clippy::disallowed_methods,
            reason = "this is the one place that reads it"
        )]
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let millis = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        Timestamp::new(millis.saturating_add(self.offset_ms.load(Ordering::Relaxed)))
    }

    /// Waits for a span of real time. Dropping the future is safe.
    pub(crate) async fn sleep(&self, span: Duration) {
        #[expect(
            clippy::disallowed_methods,
            reason = "this is the one place that waits"
        )]
        tokio::time::sleep(span).await;
    }
}
