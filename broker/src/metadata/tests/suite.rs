//! openraft's own tests of a log and a state machine, on ours.

use super::super::quorum_files::open;
use super::super::raft::TypeConfig;
use super::super::raft_log::RaftLog;
use super::super::state_machine::StateMachine;
use super::*;
use openraft::StorageError;
use openraft::testing::{StoreBuilder, Suite};

struct InMemory;

impl StoreBuilder<TypeConfig, RaftLog, StateMachine> for InMemory {
    async fn build(&self) -> Result<((), RaftLog, StateMachine), StorageError<u64>> {
        let opened = open(&config(&memory()), &Arc::new(Publisher::new())).unwrap();
        Ok(((), opened.log, opened.machine))
    }
}

struct OnFiles;

impl StoreBuilder<TypeConfig, RaftLog, StateMachine, tempfile::TempDir> for OnFiles {
    async fn build(&self) -> Result<(tempfile::TempDir, RaftLog, StateMachine), StorageError<u64>> {
        let dir = tempfile::tempdir().unwrap();
        let opened = open(&config_on_files(dir.path()), &Arc::new(Publisher::new())).unwrap();
        Ok((dir, opened.log, opened.machine))
    }
}

#[test]
fn openrafts_suite_passes_in_memory() {
    Suite::test_all(InMemory).unwrap();
}

#[test]
fn openrafts_suite_passes_on_files() {
    Suite::test_all(OnFiles).unwrap();
}
