//! What is done from time to time: deleting what the topics' retention says, opening what could not be opened.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Alarm;
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

    /// Enforces retention and tries offline partitions again at the configured interval, by the broker's clock, until the alarm is dropped.
    pub(crate) fn watch_retention(self: &Arc<Self>) -> Alarm {
        let interval = Duration::from_millis(self.config.log_dir.retention_check_interval_ms);
        let service = Arc::downgrade(self);
        self.clock.every(interval, move |_| {
            let Some(service) = service.upgrade() else {
                return;
            };
            // What could not be opened because the disk was full, say, may be now.
            service.partitions().retry_offline();
            let segments = service.enforce_retention();
            if segments > 0 {
                tracing::info!(segments, "retention deleted segments");
            }
        })
    }
}
