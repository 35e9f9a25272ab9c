//! A few threads that run work inside network namespaces and come back.
//!
//! A thread costs more than most of what is done inside, so each is kept for a while. None stays in
//! a namespace: the thread would keep it alive.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

/// Work never waits for anything but the kernel, so more threads would only wait for each other
/// there.
const MAX_THREADS: usize = 4;
/// How long a thread waits for more work before it ends.
const IDLE: Duration = Duration::from_secs(5);

/// The threads of this process.
pub(crate) static NETNS_THREADS: NetnsThreads = NetnsThreads::new();

/// Work that enters a namespace by itself.
type Work = Box<dyn FnOnce() + Send>;

/// Threads, and the work that waits for one.
#[derive(Debug)]
pub(crate) struct NetnsThreads {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Work>,
    threads: usize,
    idle: usize,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("waiting", &self.waiting.len())
            .field("threads", &self.threads)
            .finish()
    }
}

impl NetnsThreads {
    const fn new() -> Self {
        let state = State { waiting: VecDeque::new(), threads: 0, idle: 0 };

        Self { state: Mutex::new(state), arrived: Condvar::new() }
    }

    /// Has `work` done by one of the threads, in its turn. It may leave the thread in any
    /// namespace.
    ///
    /// # Errors
    ///
    /// When there is no thread and the system gives none; nothing was done then.
    pub(crate) fn run(&'static self, work: Work) -> io::Result<()> {
        let mut state = self.lock();
        state.waiting.push_back(work);
        if state.idle >= state.waiting.len() || state.threads >= MAX_THREADS {
            drop(state);
            self.arrived.notify_one();
            return Ok(());
        }
        let started = thread::Builder::new().name("netns".to_owned()).spawn(move || self.serve());
        match started {
            Ok(_detached) => state.threads += 1,
            // Those that there are come to it.
            Err(_) if state.threads > 0 => {}
            Err(error) => {
                state.waiting.pop_back();
                return Err(error);
            }
        }

        Ok(())
    }

    /// Works until there has been nothing to do for a while.
    fn serve(&self) {
        let home = File::open("/proc/self/ns/net");
        while let Some(work) = self.next() {
            // Whoever waits for the outcome sees that there is none.
            let _ = catch_unwind(AssertUnwindSafe(work));
            // Who may enter may return. Otherwise the namespace stays until the thread ends.
            let _ = home.as_ref().map(|home| setns(home, CloneFlags::CLONE_NEWNET));
        }
    }

    /// Waits for work; without any, the thread counts no longer.
    fn next(&self) -> Option<Work> {
        let mut state = self.lock();
        loop {
            if let Some(work) = state.waiting.pop_front() {
                return Some(work);
            }
            state.idle += 1;
            let waited =
                self.arrived.wait_timeout_while(state, IDLE, |state| state.waiting.is_empty());
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.idle -= 1;
            if state.waiting.is_empty() {
                state.threads -= 1;
                return None;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    static SOME: NetnsThreads = NetnsThreads::new();

    #[test]
    fn work_is_done_by_few_threads_even_after_some_of_it_panicked() {
        let (done, outcomes) = mpsc::channel();
        for number in 0..100 {
            let done = done.clone();
            let work = move || {
                assert!(number % 10 != 0, "one in ten fails");
                let _ = done.send(number);
            };
            SOME.run(Box::new(work)).expect("a thread");
        }
        drop(done);

        assert_eq!(outcomes.iter().count(), 90);
        assert!(SOME.lock().threads <= MAX_THREADS);
    }
}
