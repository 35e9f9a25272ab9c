//! The search for the highest rate at which less than 1 % is lost. Pure: rates out, outcomes in.

/// What may be lost.
const LOSS: f64 = 0.01;
/// The first rate, in datagrams a second.
const FIRST: f64 = 15_000.0;
/// How the rate climbs until something is lost.
const CLIMB: f64 = 1.7;
/// The search ends when what passes and what does not are this close.
const CLOSE: f64 = 1.08;
/// A sender that reaches less than this share of the rate cannot do more.
const SHORT: f64 = 0.93;
/// No search needs more steps.
const MAX_STEPS: u32 = 14;
/// How many lossy steps end the search.
const MAX_FAILURES: u32 = 5;

/// What became of one rate, in datagrams a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RateResult {
    /// Sent.
    pub(crate) sent: f64,
    /// Arrived.
    pub(crate) received: f64,
}

impl RateResult {
    fn is_whole(self) -> bool {
        self.sent > 0.0 && self.received > self.sent * (1.0 - LOSS)
    }
}

/// A search under way: it climbs until something is lost, then halves the distance.
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

    /// The rate to try next; `None` when the search is over.
    pub(crate) fn rate(&self) -> Option<f64> {
        self.rate
    }

    /// The highest rate that arrived whole.
    pub(crate) fn best(&self) -> f64 {
        self.best
    }

    /// How many rates were tried.
    pub(crate) fn steps(&self) -> u32 {
        self.steps
    }

    /// Takes the outcome of the rate that was tried.
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
            Some(lost) if self.passed > 0.0 => (lost / self.passed >= CLOSE).then(|| (lost * self.passed).sqrt()),
            Some(lost) => Some(lost / 2.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches a path that carries `limit` and a sender that manages `fastest`.
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
