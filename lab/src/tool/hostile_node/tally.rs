//! What became of the attempts of an attack, by kind.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use overlay_proto::Refusal;
use serde::{Deserialize, Serialize};
use tonic::Status;

/// Attempts of all kinds.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Tally(Mutex<BTreeMap<String, Attempts>>);

/// Attempts of one kind.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Attempts {
    /// Those that succeeded.
    pub(crate) accepted: u64,
    /// Those that were refused, by the code of the refusal.
    pub(crate) refused: BTreeMap<String, u64>,
    /// What the first refusal of each code said.
    pub(crate) said: BTreeMap<String, String>,
}

impl Tally {
    /// Counts a call by its answer.
    pub(super) fn answer<T>(&self, kind: &str, answer: &Result<T, Status>) {
        match answer {
            Ok(_) => self.accepted(kind),
            Err(status) => {
                let Refusal { code, message } = Refusal::from(status.clone());
                self.refused(kind, code.as_str(), &message);
            }
        }
    }

    /// Counts an attempt that succeeded.
    pub(super) fn accepted(&self, kind: &str) {
        self.count(kind, |attempts| attempts.accepted += 1);
    }

    /// Counts an attempt that did not.
    pub(super) fn refused(&self, kind: &str, code: &str, message: &str) {
        self.count(kind, |attempts| {
            *attempts.refused.entry(code.to_owned()).or_default() += 1;
            attempts.said.entry(code.to_owned()).or_insert_with(|| message.to_owned());
        });
    }

    fn count(&self, kind: &str, change: impl FnOnce(&mut Attempts)) {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);

        change(kinds.entry(kind.to_owned()).or_default());
    }

    /// Returns the attempts of each kind.
    pub(crate) fn kinds(&self) -> BTreeMap<String, Attempts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Attempts {
    /// Returns how many there were.
    pub(crate) fn all(&self) -> u64 {
        self.accepted + self.refused.values().sum::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use overlay_proto::Code;

    use super::*;

    #[test]
    fn attempts_are_counted_by_what_became_of_them() {
        let tally = Tally::default();

        tally.answer("rows", &Ok(()));
        tally.answer::<()>("rows", &Err(Refusal::new(Code::Exhausted, "full").into()));
        tally.answer::<()>("rows", &Err(Refusal::new(Code::Exhausted, "full").into()));

        let text = serde_json::to_string(&tally).unwrap();
        let told = r#"{"accepted":1,"refused":{"exhausted":2},"said":{"exhausted":"full"}}"#;
        assert_eq!(text, format!("{{\"rows\":{told}}}"));
        assert_eq!(tally.kinds()["rows"].all(), 3);
    }
}
