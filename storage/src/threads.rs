//! Work that several threads share, as many as can be had.

use std::panic::resume_unwind;
use std::thread::{Builder, ScopedJoinHandle, scope};

/// Calls `work` on this thread and, at the same time, on up to `others` more; gives what each call returned, in no
/// order that means anything. The calls share what is to be done among themselves: where the system has no more
/// threads to give, fewer do it, if need be this one alone.
///
/// # Panics
/// If a call does.
pub fn on_threads<T: Send>(others: usize, work: impl Fn() -> T + Sync) -> Vec<T> {
    scope(|scope| {
        let spawn = |_| Builder::new().spawn_scoped(scope, &work).ok();
        let threads: Vec<ScopedJoinHandle<'_, T>> = (0..others).map_while(spawn).collect();
        let mut outcomes = vec![work()];
        for thread in threads {
            outcomes.push(thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        outcomes
    })
}

#[cfg(test)]
mod tests;
