//! Tasks that somebody would miss: none of them ends unnoticed.

use std::time::Duration;

use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::sleep;

/// Does work without end: what panics or ends all the same is begun again after `pause`, and the
/// log says so. Dropping the future ends the work.
pub async fn begun_again<W>(task: &'static str, pause: Duration, work: impl Fn() -> W)
where
    W: Future<Output = ()> + Send + 'static,
{
    let mut running = JoinSet::new();
    loop {
        running.spawn(work());
        if let Some(ended) = running.join_next().await {
            tell(task, &ended, "beginning it again");
        }
        sleep(pause).await;
    }
}

/// Does work that somebody else begins again when it is missed; the log says when it ends.
pub fn spawn_noticed(
    task: &'static str,
    work: impl Future<Output = ()> + Send + 'static,
) -> AbortHandle {
    let running = tokio::spawn(work);
    let handle = running.abort_handle();
    tokio::spawn(async move { tell(task, &running.await, "what it did is missing") });

    handle
}

fn tell(task: &'static str, ended: &Result<(), JoinError>, outcome: &'static str) {
    match ended {
        Ok(()) => tracing::error!(task, outcome, "A task ended by itself"),
        Err(error) if error.is_panic() => tracing::error!(task, %error, outcome, "A task broke"),
        // It was told to.
        Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{Arc, Mutex, PoisonError};

    use tokio::sync::mpsc;
    use tokio::time::timeout;
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    /// A log that tests read.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(line);

            Ok(line.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Lines {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    impl Lines {
        fn logged() -> (Self, tracing::subscriber::DefaultGuard) {
            let lines = Self::default();
            let log = tracing_subscriber::fmt().with_writer(lines.clone()).with_ansi(false);

            (lines, tracing::subscriber::set_default(log.finish()))
        }

        fn text(&self) -> String {
            String::from_utf8_lossy(&self.0.lock().expect("no panic")).into_owned()
        }
    }

    #[tokio::test]
    async fn work_that_breaks_or_ends_is_begun_again_and_logged() {
        let (lines, _log) = Lines::logged();
        let (begun, mut heard) = mpsc::unbounded_channel();
        let times = Arc::new(AtomicU32::new(0));
        let work = move || {
            begun.send(()).expect("the test listens");
            let time = times.fetch_add(1, Ordering::Relaxed);
            async move { assert!(time % 2 == 1, "a query that nobody thought of") }
        };

        let three = async {
            for _ in 0..3 {
                heard.recv().await.expect("it goes on");
            }
        };
        tokio::select! {
            () = begun_again("names", Duration::ZERO, work) => {}
            three = timeout(Duration::from_secs(10), three) => three.expect("in time"),
        }

        let text = lines.text();
        assert!(text.contains("A task broke") && text.contains("nobody thought of"), "{text}");
        assert!(text.contains("A task ended by itself") && text.contains("names"), "{text}");
    }

    #[tokio::test]
    async fn the_end_of_a_task_is_logged_unless_it_was_told_to_end() {
        let (lines, _log) = Lines::logged();
        let until = async |word: &str| {
            let logged = async {
                while !lines.text().contains(word) {
                    tokio::task::yield_now().await;
                }
            };
            timeout(Duration::from_secs(10), logged).await.expect("it is logged");
        };

        spawn_noticed("aborted", std::future::pending()).abort();
        spawn_noticed("broken", async { panic!("at once") });
        until("A task broke").await;
        spawn_noticed("ended", async {});
        until("A task ended by itself").await;

        assert!(!lines.text().contains("aborted"), "{}", lines.text());
    }
}
