//! Carries changes of the cluster image to the partitions, one at a time, and tells how far it has got.

use std::sync::Arc;

use tokio::sync::watch;

use crate::metadata::Quorum;
use crate::partition::Partitions;

/// How far the partitions follow the image.
#[derive(Clone, Debug)]
pub(crate) struct Reconciler {
    applied: watch::Receiver<u64>,
}

impl Reconciler {
    /// Applies the present image, and from then on every change of it. The second value is the work itself, to be
    /// spawned: it ends only if it cannot go on, and says why. Nobody waits for an image in vain then.
    pub(crate) async fn start(
        quorum: Quorum,
        partitions: Arc<Partitions>,
    ) -> (Self, impl Future<Output = String> + Send + 'static) {
        let mut changed = quorum.changed();
        changed.mark_unchanged();
        let image = quorum.image();
        let first = image.version;
        let to = Arc::clone(&partitions);
        // What is there already may have to be read and repaired.
        let begun = match image.partition_count {
            0 => apply(to, image).await,
            _ => apply_on_thread(to, image).await,
        };
        let (sender, applied) = watch::channel(first);
        let work = async move {
            if let Err(reason) = begun {
                return reason;
            }
            loop {
                let image = quorum.image();
                let version = image.version;
                if version > *sender.borrow() {
                    if let Err(reason) = apply(Arc::clone(&partitions), image).await {
                        return reason;
                    }
                    sender.send_replace(version);
                }
                if changed.changed().await.is_err() {
                    return "the metadata quorum has ended".to_owned();
                }
            }
        };
        (Self { applied }, work)
    }

    /// Waits until the partitions are as image `version` says, or the broker stops.
    pub(crate) async fn reached(&self, version: u64) {
        let mut applied = self.applied.clone();
        // An error means that the broker stops; the caller will meet that by itself.
        let _ = applied.wait_for(|applied| *applied >= version).await;
    }
}

/// Opening logs may read and repair them, which must not hold up tasks that serve.
async fn apply(
    partitions: Arc<Partitions>,
    image: Arc<crate::metadata::Image>,
) -> Result<(), String> {
    if partitions.applies_at_once(&image) {
        partitions.apply(&image);
        return Ok(());
    }
    apply_on_thread(partitions, image).await
}

async fn apply_on_thread(
    partitions: Arc<Partitions>,
    image: Arc<crate::metadata::Image>,
) -> Result<(), String> {
    let work = tokio::task::spawn_blocking(move || partitions.apply(&image));
    work.await
        .map_err(|error| format!("the partitions cannot follow the cluster's image: {error}"))
}
