//! Threads that cannot be had are done without.

use std::process::Command;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::on_threads;

/// Set in a process of its own, in which no thread can be made.
const ALONE: &str = "LOGWEIR_TEST_ALONE";

#[test]
fn the_caller_and_the_others_work_at_the_same_time() {
    let all = Barrier::new(4);
    let outcomes = on_threads(3, || {
        all.wait();
        1
    });
    assert_eq!(outcomes, [1; 4]);
}

#[test]
fn no_others_means_no_thread() {
    let own = std::thread::current().id();
    assert_eq!(on_threads(0, || std::thread::current().id()), [own]);
}

/// A thread that the system refuses used to be a panic: a shutdown under a limit of threads ended its host.
#[test]
fn without_any_thread_to_be_had_the_caller_does_it_all() {
    if std::env::var_os(ALONE).is_none() {
        // No address space has room for such a stack.
        let name = "threads::tests::without_any_thread_to_be_had_the_caller_does_it_all";
        let run = Command::new(std::env::current_exe().unwrap())
            .args([name, "--exact", "--test-threads=1"])
            .env(ALONE, "1")
            .env("RUST_MIN_STACK", (1_u64 << 60).to_string())
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success(), "{told}");
        assert!(told.contains("1 passed"), "{told}");
        return;
    }
    std::thread::Builder::new().spawn(|| {}).unwrap_err();
    let next = AtomicUsize::new(0);
    let done = on_threads(15, || {
        std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::Relaxed)))
            .take_while(|at| *at < 100)
            .count()
    });
    assert_eq!(done, [100]);
}
