//! Entry points for fuzzers: one function per kind of input that this crate reads. None of them may
//! ever panic.
//!
//! Their corpora are in `fuzz/corpus`; the tests of this module replay every input there.

use crate::policy::{self, Policy, PolicyDiff, VerdictChanges};

/// Parses a policy document, and asks of the policy what can be asked of one.
///
/// # Panics
///
/// When writing and reading an accepted policy again changes it, a mistake says nothing, or a
/// policy differs from itself.
pub fn policies(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let policy = match Policy::parse(&text) {
        Ok(policy) => policy,
        Err(invalid) => {
            assert!(!invalid.mistakes.is_empty(), "a refusal has a reason");
            for mistake in &invalid.mistakes {
                assert!(mistake.line >= 1 && mistake.column >= 1);
                assert!(!mistake.reason.is_empty() && !mistake.remedy.is_empty());
            }
            return;
        }
    };
    assert_eq!(Policy::parse(&policy.to_string()).as_ref(), Ok(&policy));
    for failure in policy::check(&policy, &[]) {
        assert!(!failure.to_string().is_empty(), "a failure says what");
    }
    for warning in policy::lint(&policy) {
        assert!(!warning.to_string().is_empty(), "a warning says what");
    }
    assert_eq!(policy::diff(&policy, &policy), PolicyDiff::default());
    let changes = VerdictChanges::between(&policy, &policy, &[]);
    assert!(changes.is_complete && changes.changes.is_empty());
}

#[cfg(test)]
#[path = "../../fuzz/corpus.rs"]
mod corpus;

#[cfg(test)]
mod tests {
    use super::corpus;

    #[test]
    fn policies() {
        corpus::replay("policies", super::policies);
    }
}
