//! Searches for the highest rate with less than 1 % loss. Pure: rates out, results in.

/// The share that may be lost.
const LOSS: f64 = 0.01;
/// The first rate, in datagrams a second.
const FIRST: f64 = 15_000.0;
/// The factor by which the rate grows until something is lost.
const CLIMB: f64 = 1.7;
/// The search ends when the rates that pass and fail differ by less than this factor.
const CLOSE: f64 = 1.08;
/// A sender that reaches less than this share of the rate is at its limit.
const SHORT: f64 = 0.93;
/// The most steps of a search.
const MAX_STEPS: u32 = 14;
/// How many lossy steps end the search.
const MAX_FAILURES: u32 = 5;

/// The result of one rate, in datagrams a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RateResult {
    /// The rate that was sent.
    pub(crate) sent: f64,
    /// The rate that arrived.
    pub(crate) received: f64,
}

impl RateResult {
    fn is_whole(self) -> bool {
        self.sent > 0.0 && self.received > self.sent * (1.0 - LOSS)
    }
}

/// A search in progress: the rate grows until something is lost, then the interval is halved.
#[derive(Clone, Debug)]
pub(crate) struct Search {
    rate: Option<f64>,
    passed: f64,
    lost: Option<f64>,
    failures: u32,
    steps: u32,
    best: f64,
}

impl Search {
    /// Starts a search.
    pub(crate) fn new() -> Self {
        Self { rate: Some(FIRST), passed: 0.0, lost: None, failures: 0, steps: 0, best: 0.0 }
    }

    /// Returns the rate to try next; `None` when the search is over.
    pub(crate) fn rate(&self) -> Option<f64> {
        self.rate
    }

    /// Returns the highest rate that arrived without too much loss.
    pub(crate) fn best(&self) -> f64 {
        self.best
    }

    /// Returns how many rates were tried.
    pub(crate) fn steps(&self) -> u32 {
        self.steps
    }

    /// Takes the result of the rate that was tried.
    pub(crate) fn note(&mut self, step: RateResult) {
        let Some(rate) = self.rate else { return };
        self.steps += 1;
        if step.is_whole() {
            self.best = self.best.max(step.received);
            self.passed = rate;
        } else {
            self.failures += 1;
            self.lost = Some(rate);
        }

        self.rate = self.next_rate(rate, step);
    }

    fn next_rate(&self, rate: f64, step: RateResult) -> Option<f64> {
        let is_short = step.is_whole() && step.sent < rate * SHORT;
        if is_short || self.steps >= MAX_STEPS || self.failures >= MAX_FAILURES {
            return None;
        }

        match self.lost {
            None => Some(rate * CLIMB),
            Some(lost) if self.passed > 0.0 => {
                (lost / self.passed >= CLOSE).then(|| (lost * self.passed).sqrt())
            }
            Some(lost) => Some(lost / 2.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches on a path that carries `limit` with a sender that reaches `fastest`.
    fn found(limit: f64, fastest: f64) -> f64 {
        let mut search = Search::new();
        while let Some(rate) = search.rate() {
            let sent = rate.min(fastest);
            search.note(RateResult { sent, received: sent.min(limit) });
        }

        search.best()
    }

    #[test]
    fn the_limit_of_a_path_is_found() {
        for limit in [3_000.0, 20_000.0, 150_000.0, 900_000.0] {
            let best = found(limit, f64::INFINITY);

            assert!(best > limit * 0.8 && best <= limit, "{best} of {limit}");
        }
    }

    #[test]
    fn a_slow_sender_ends_the_search() {
        assert!((found(f64::INFINITY, 100_000.0) - 100_000.0).abs() < 1.0);
    }

    #[test]
    fn a_path_that_carries_nothing_is_given_up() {
        let mut search = Search::new();
        while let Some(rate) = search.rate() {
            search.note(RateResult { sent: rate, received: 0.0 });
        }

        assert!(search.best().abs() < f64::EPSILON);
        assert_eq!(search.steps(), MAX_FAILURES);
    }
}
