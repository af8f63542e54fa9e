//! Faults of the disk of a broker in memory, carried out by its [`SimDisk`].

use std::io;
use std::sync::Arc;
use std::time::Duration;

use logweir_storage::disk::{DiskOp, InjectedFault, SimDisk, SimFault};
use parking_lot::Mutex;

use super::{FaultId, FaultReport};

/// What is wrong with the disk, until it is taken back.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use logweir::{Broker, Config, DiskFault};
/// let broker = Broker::start(Config::in_memory()).await?;
/// let full = broker.faults().inject_disk(DiskFault::Full)?;
/// // Appends that need room are refused now, and reads go on.
/// broker.faults().remove(full);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiskFault {
    /// There is no room: what needs more of it fails, until the fault is taken back. Happens when something was refused.
    Full,
    /// Every operation takes at least so long, in real time.
    Slow(Duration),
    /// Every sync of files and directories fails, as if the device was broken. The broker takes its data directory offline at the first, and
    /// serves again after a restart. Stays until it is taken back.
    FailSync,
}

impl DiskFault {
    fn description(self) -> String {
        match self {
            Self::Full => "the disk is full".to_owned(),
            Self::Slow(by) => format!("each operation of the disk takes {by:?}"),
            Self::FailSync => "each sync of the disk fails".to_owned(),
        }
    }
}

/// The faults of one disk.
#[derive(Debug)]
pub(super) struct DiskFaults {
    disk: Arc<SimDisk>,
    capacity_bytes: u64,
    set: Mutex<Vec<SetFault>>,
}

#[derive(Debug)]
struct SetFault {
    id: FaultId,
    fault: DiskFault,
    over: bool,
    optional: bool,
    counted: Counted,
}

/// Where it shows how often a fault has happened.
#[derive(Debug)]
enum Counted {
    Injected(Vec<InjectedFault>),
    /// What the disk refused while the fault was set, from this number on.
    Refused {
        before: u64,
        after: Option<u64>,
    },
}

impl DiskFaults {
    pub(super) fn new(disk: Arc<SimDisk>, capacity_bytes: u64) -> Self {
        Self {
            disk,
            capacity_bytes,
            set: Mutex::default(),
        }
    }

    pub(super) fn inject(&self, id: FaultId, fault: DiskFault) {
        let mut set = self.set.lock();
        let counted = match fault {
            DiskFault::Full => {
                self.disk.set_capacity(0);
                Counted::Refused {
                    before: self.disk.refused_for_space(),
                    after: None,
                }
            }
            DiskFault::Slow(by) => {
                Counted::Injected(vec![self.disk.inject(SimFault::slow(by).forever())])
            }
            DiskFault::FailSync => {
                let fail = |op| {
                    let fault = SimFault::new(io::ErrorKind::Other).on(op);
                    self.disk.inject(fault.forever())
                };
                Counted::Injected(vec![fail(DiskOp::Sync), fail(DiskOp::SyncDir)])
            }
        };
        set.push(SetFault {
            id,
            fault,
            over: false,
            optional: false,
            counted,
        });
    }

    pub(super) fn allow_unfired(&self, id: FaultId) {
        for fault in self.set.lock().iter_mut() {
            fault.optional |= fault.id == id;
        }
    }

    /// Takes one fault back, or all.
    pub(super) fn remove(&self, only: Option<FaultId>) {
        let mut set = self.set.lock();
        for fault in set.iter_mut() {
            if fault.over || only.is_some_and(|id| id != fault.id) {
                continue;
            }
            fault.over = true;
            match &mut fault.counted {
                Counted::Injected(injected) => {
                    for fault in injected {
                        self.disk.clear_fault(fault);
                    }
                }
                Counted::Refused { after, .. } => *after = Some(self.disk.refused_for_space()),
            }
        }
        let still_full = set
            .iter()
            .any(|fault| !fault.over && fault.fault == DiskFault::Full);
        if !still_full {
            self.disk.set_capacity(self.capacity_bytes);
        }
    }

    pub(super) fn report(&self) -> Vec<FaultReport> {
        let set = self.set.lock();
        let report = |fault: &SetFault| FaultReport {
            id: fault.id,
            description: fault.fault.description(),
            fired: match &fault.counted {
                Counted::Injected(injected) => injected.iter().map(InjectedFault::fired).sum(),
                Counted::Refused { before, after } => {
                    after.unwrap_or_else(|| self.disk.refused_for_space()) - before
                }
            },
            optional: fault.optional,
        };
        set.iter().map(report).collect()
    }
}
