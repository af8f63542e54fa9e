//! Deletes what the topics' retention says, from time to time.

use std::sync::Arc;
use std::time::Duration;

use crate::service::Service;

impl Service {
    /// Enforces retention on every partition; how many segments were deleted. Waits for the disk.
    pub(crate) fn enforce_retention(&self) -> u64 {
        let now = self.clock.now();
        let mut removed = 0;
        for partition in self.partitions().online() {
            match partition.enforce_retention(now) {
                Ok(segments) => removed += segments,
                Err(error) => {
                    tracing::warn!(topic = %partition.topic(), partition = %partition.id(), %error,
                        "retention was not enforced");
                }
            }
        }
        removed
    }

    /// Enforces retention at the configured interval until it is dropped.
    pub(crate) async fn run_retention(self: Arc<Self>) {
        let interval = Duration::from_millis(self.config.log_dir.retention_check_interval_ms);
        loop {
            self.clock.sleep(interval).await;
            let service = Arc::clone(&self);
            let work = tokio::task::spawn_blocking(move || service.enforce_retention());
            match work.await {
                Ok(0) => {}
                Ok(segments) => tracing::info!(segments, "retention deleted segments"),
                Err(error) => tracing::error!(%error, "enforcing retention failed"),
            }
        }
    }
}
