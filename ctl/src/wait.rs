//! Waiting for a condition, with a deadline.

use std::time::Duration;

use overlay_proto::Refusal;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// How often a condition is asked for.
const PROBE: Duration = Duration::from_millis(20);

/// What a probe found.
pub(crate) enum Attempt<T> {
    /// It is so.
    Done(T),
    /// Not yet, because of this.
    NotYet(Refusal),
    /// It will never be.
    Never(Refusal),
}

impl<T> From<Result<T, Refusal>> for Attempt<T> {
    fn from(result: Result<T, Refusal>) -> Self {
        match result {
            Ok(done) => Self::Done(done),
            Err(refusal) => Self::NotYet(refusal),
        }
    }
}

/// Asks until the condition holds; at the deadline, or when it never will, returns why it does not.
pub(crate) async fn until<T>(
    limit: Duration,
    mut probe: impl AsyncFnMut() -> Attempt<T>,
) -> Result<T, Refusal> {
    let mut ticks = interval(PROBE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let deadline = Instant::now() + limit;
    loop {
        ticks.tick().await;
        match probe().await {
            Attempt::Done(done) => return Ok(done),
            Attempt::Never(refusal) => return Err(refusal),
            Attempt::NotYet(refusal) if Instant::now() >= deadline => return Err(refusal),
            Attempt::NotYet(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use overlay_proto::Code;

    use super::*;

    fn refusal() -> Refusal {
        Refusal::new(Code::ControlAway, "not yet")
    }

    #[tokio::test]
    async fn a_condition_is_awaited_and_a_deadline_kept() {
        let mut left = 3;
        let counted = until(Duration::from_secs(60), async || {
            left -= 1;
            if left == 0 { Attempt::Done("done") } else { Attempt::NotYet(refusal()) }
        });

        assert_eq!(counted.await, Ok("done"));
        assert_eq!(
            until::<()>(Duration::ZERO, async || Attempt::NotYet(refusal())).await,
            Err(refusal())
        );
        assert_eq!(
            until::<()>(Duration::from_secs(60), async || Attempt::Never(refusal())).await,
            Err(refusal())
        );
    }
}
