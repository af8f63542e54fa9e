//! Waiting for a condition, never for a time; and how long the long counts are.

use std::time::{Duration, Instant};

/// How long tests wait for what should happen soon. Generous, because machines are busy: a test that
/// runs into it has failed, it is not slow.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// How often a condition is looked at.
const STEP: Duration = Duration::from_millis(5);

/// Waits until `condition` holds.
///
/// # Panics
/// With `what`, if it does not hold within `deadline`.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that may: it waits for a condition"
)]
pub fn wait_until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(
            started.elapsed() < deadline,
            "not within {deadline:?}: {what}"
        );
        std::thread::sleep(STEP);
    }
}

/// Waits until the future that `condition` makes gives something, without holding up the runtime.
///
/// # Panics
/// With `what`, if it gives nothing within `deadline`.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that may: it waits for a condition"
)]
pub async fn wait_until_async<T, F>(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> F,
) -> T
where
    F: Future<Output = Option<T>>,
{
    let started = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(
            started.elapsed() < deadline,
            "not within {deadline:?}: {what}"
        );
        tokio::time::sleep(STEP).await;
    }
}

/// A long count: `full` if the environment says `LOGWEIR_PROOF=full`, else a tenth of it, rounded up.
#[must_use]
pub fn proof_count(full: u64) -> u64 {
    let is_full = std::env::var("LOGWEIR_PROOF").is_ok_and(|v| v == "full");
    if is_full { full } else { full.div_ceil(10) }
}
