//! Selectors: conditions on labels, in the syntax of Kubernetes' label selectors.
//!
//! A selector is a list of requirements separated by commas, all of which must hold: `role=db`,
//! `role!=db`, `site in (a,b)`, `site notin (a,b)`, `gpu`, `!gpu`. As in Kubernetes, `!=` and
//! `notin` also hold where the label is missing, and a selector without requirements matches
//! everything.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::message;

/// The longest selector in bytes, as it is given and as it is written.
pub const MAX_SELECTOR: usize = 1_024;
/// The most requirements of a selector.
pub const MAX_REQUIREMENTS: usize = 16;

/// A condition on labels. The default matches everything.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Selector(Vec<Requirement>);

/// One condition of a selector, on the label with one key.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    /// The label is there, whatever its value.
    Exists(String),
    /// The label is missing.
    Missing(String),
    /// The label is there and has one of these values.
    In(String, BTreeSet<String>),
    /// The label is missing or has none of these values.
    NotIn(String, BTreeSet<String>),
}

/// A text that is not a selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSelector {
    /// It is too long.
    #[error("a selector of {0} bytes is longer than {MAX_SELECTOR}")]
    TooLong(usize),
    /// It has too many requirements.
    #[error("a selector has at most {MAX_REQUIREMENTS} requirements, separated by commas")]
    TooMany,
    /// Something else was expected at one place.
    #[error(
        "at character {at}: expected {expected}, found {found}; write it like \
         role=db,site in (a,b),tier!=test,disk notin (hdd),gpu,!old"
    )]
    Unexpected {
        /// The place, in characters from 1.
        at: usize,
        /// What was expected.
        expected: &'static str,
        /// What is there.
        found: String,
    },
}

impl Selector {
    /// Returns whether it matches everything.
    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether labels meet all its requirements.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|requirement| requirement.holds(labels))
    }
}

impl Requirement {
    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::Exists(key) => labels.contains_key(key),
            Self::Missing(key) => !labels.contains_key(key),
            Self::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Self::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
        }
    }
}

impl FromStr for Selector {
    type Err = InvalidSelector;

    fn from_str(text: &str) -> Result<Self, InvalidSelector> {
        if text.len() > MAX_SELECTOR {
            return Err(InvalidSelector::TooLong(text.len()));
        }
        let selector = Self(Cursor { text, rest: text }.requirements()?);
        // Written out, spaces are added that a text may do without.
        match selector.to_string().len() {
            0..=MAX_SELECTOR => Ok(selector),
            len => Err(InvalidSelector::TooLong(len)),
        }
    }
}

impl TryFrom<String> for Selector {
    type Error = InvalidSelector;

    fn try_from(text: String) -> Result<Self, InvalidSelector> {
        text.parse()
    }
}

impl From<Selector> for String {
    fn from(selector: Selector) -> Self {
        selector.to_string()
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { "," };
            write!(f, "{separator}{requirement}")?;
        }

        Ok(())
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Selector({self})")
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values, one, many) = match self {
            Self::Exists(key) => return f.write_str(key),
            Self::Missing(key) => return write!(f, "!{key}"),
            Self::In(key, values) => (key, values, "=", "in"),
            Self::NotIn(key, values) => (key, values, "!=", "notin"),
        };
        let values: Vec<_> = values.iter().map(String::as_str).collect();
        match values.as_slice() {
            [value] => write!(f, "{key}{one}{value}"),
            values => write!(f, "{key} {many} ({})", values.join(",")),
        }
    }
}

/// What may be part of a key or value.
fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/')
}

/// The part of a text that is still to be read.
struct Cursor<'a> {
    text: &'a str,
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    fn requirements(mut self) -> Result<Vec<Requirement>, InvalidSelector> {
        let mut requirements = Vec::new();
        self.skip_spaces();
        if self.rest.is_empty() {
            return Ok(requirements);
        }
        loop {
            if requirements.len() == MAX_REQUIREMENTS {
                return Err(InvalidSelector::TooMany);
            }
            requirements.push(self.requirement()?);
            if self.rest.is_empty() {
                return Ok(requirements);
            }
            self.expect(",", "',' or the end")?;
        }
    }

    fn requirement(&mut self) -> Result<Requirement, InvalidSelector> {
        if self.take("!") {
            return Ok(Requirement::Missing(self.word("a label's key")?));
        }
        let key = self.word("a label's key or '!'")?;
        // The longer operator first.
        if self.take("!=") {
            return Ok(Requirement::NotIn(key, [self.word("a value")?].into()));
        }
        if self.take("==") || self.take("=") {
            return Ok(Requirement::In(key, [self.word("a value")?].into()));
        }
        if self.rest.is_empty() || self.rest.starts_with(',') {
            return Ok(Requirement::Exists(key));
        }
        if self.take_word("in") {
            return Ok(Requirement::In(key, self.values()?));
        }
        if self.take_word("notin") {
            return Ok(Requirement::NotIn(key, self.values()?));
        }

        Err(self.unexpected("'=', '!=', 'in (', 'notin (', ',' or the end"))
    }

    fn values(&mut self) -> Result<BTreeSet<String>, InvalidSelector> {
        self.expect("(", "'('")?;
        let mut values = BTreeSet::new();
        loop {
            values.insert(self.word("a value")?);
            if self.take(")") {
                return Ok(values);
            }
            self.expect(",", "',' or ')'")?;
        }
    }

    fn word(&mut self, expected: &'static str) -> Result<String, InvalidSelector> {
        let word = self.next_word();
        if word.is_empty() {
            return Err(self.unexpected(expected));
        }

        Ok(self.advance(word.len()).to_owned())
    }

    fn next_word(&self) -> &'a str {
        self.rest.split(|c| !is_word(c)).next().unwrap_or_default()
    }

    fn take_word(&mut self, word: &str) -> bool {
        self.next_word() == word && self.take(word)
    }

    fn take(&mut self, token: &str) -> bool {
        let is_next = self.rest.starts_with(token);
        if is_next {
            self.advance(token.len());
        }

        is_next
    }

    fn expect(&mut self, token: &str, expected: &'static str) -> Result<(), InvalidSelector> {
        if self.take(token) { Ok(()) } else { Err(self.unexpected(expected)) }
    }

    /// Reads a token of `len` bytes, and the spaces after it.
    fn advance(&mut self, len: usize) -> &'a str {
        let (token, rest) = self.rest.split_at(len);
        self.rest = rest;
        self.skip_spaces();

        token
    }

    fn skip_spaces(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    fn unexpected(&self, expected: &'static str) -> InvalidSelector {
        let read = self.text.len() - self.rest.len();
        let found = match self.next_word() {
            "" => self.rest.chars().next().map_or("the end".to_owned(), |c| format!("{c:?}")),
            word => format!("{:?}", message::excerpt(word)),
        };

        InvalidSelector::Unexpected {
            at: self.text.get(..read).map_or(0, |read| read.chars().count()) + 1,
            expected,
            found,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    fn selector(text: &str) -> Selector {
        text.parse().expect(text)
    }

    #[test]
    fn each_operator_means_what_it_means_in_kubernetes() {
        let db = labels(&[("role", "db"), ("site", "a")]);
        let cases = [
            ("role=db", true),
            ("role==db", true),
            ("role=web", false),
            ("gpu=yes", false),
            ("role!=web", true),
            ("role!=db", false),
            ("gpu!=yes", true),
            ("site in (a,b)", true),
            ("site in (b, c)", false),
            ("gpu in (a)", false),
            ("site notin (b,c)", true),
            ("site notin (a,b)", false),
            ("gpu notin (a)", true),
            ("role", true),
            ("gpu", false),
            ("!gpu", true),
            ("!role", false),
            ("role=db,site in (a,b),!gpu", true),
            ("role=db,site=b", false),
            ("", true),
            ("  ", true),
        ];

        for (text, expected) in cases {
            assert_eq!(selector(text).matches(&db), expected, "{text}");
        }
    }

    #[test]
    fn it_is_written_in_one_way() {
        let cases = [
            (" role == db ,  site in ( b,a,b ) ", "role=db,site in (a,b)"),
            ("a notin (b)", "a!=b"),
            ("a in (b)", "a=b"),
            ("! gpu,in in (in,notin),notin", "!gpu,in in (in,notin),notin"),
            ("example.com/role=db_1", "example.com/role=db_1"),
        ];

        for (text, written) in cases {
            assert_eq!(selector(text).to_string(), written);
        }
        assert!(selector(" ").is_everything() && !selector("a").is_everything());
    }

    #[test]
    fn a_mistake_is_shown_at_its_place() {
        let cases = [
            (",", "at character 1: expected a label's key or '!', found ','"),
            ("role=", "at character 6: expected a value, found the end"),
            ("role db", "at character 6: expected '=', '!=', 'in (', 'notin (', ',' or the end"),
            ("role=db,", "at character 9: expected a label's key or '!', found the end"),
            ("role=ü", "at character 6: expected a value, found 'ü'"),
            ("ü=a", "at character 1: expected a label's key or '!', found 'ü'"),
            ("a in b", "at character 6: expected '(', found \"b\""),
            ("a in (b", "at character 8: expected ',' or ')', found the end"),
            ("a in ()", "at character 7: expected a value, found ')'"),
            ("a=b c", "at character 5: expected ',' or the end, found \"c\""),
            ("!!a", "at character 2: expected a label's key, found '!'"),
            ("a\n", "at character 2: expected '=', '!=', 'in (', 'notin (', ',' or the end"),
        ];

        for (text, expected) in cases {
            let told = text.parse::<Selector>().expect_err(text).to_string();
            assert!(told.starts_with(expected), "{text}: {told}");
            assert!(told.ends_with("gpu,!old") && !told.contains('\n'), "{told}");
        }
    }

    #[test]
    fn its_length_and_its_requirements_are_bounded() {
        let many = |count: usize| vec!["a"; count].join(",");

        assert!(many(MAX_REQUIREMENTS).parse::<Selector>().is_ok());
        assert_eq!(many(MAX_REQUIREMENTS + 1).parse::<Selector>(), Err(InvalidSelector::TooMany));
        assert!("a".repeat(MAX_SELECTOR).parse::<Selector>().is_ok());
        assert_eq!(
            "a".repeat(MAX_SELECTOR + 1).parse::<Selector>(),
            Err(InvalidSelector::TooLong(MAX_SELECTOR + 1))
        );
        let tight = format!("a in(b,{})", "c".repeat(MAX_SELECTOR - 8));
        assert_eq!(tight.parse::<Selector>(), Err(InvalidSelector::TooLong(MAX_SELECTOR + 1)));
    }

    fn word() -> impl Strategy<Value = String> {
        prop_oneof!["[a-c]", "in", "notin", "[A-Za-z0-9._/-]{1,8}"]
    }

    fn requirement() -> impl Strategy<Value = Requirement> {
        let values = || prop::collection::btree_set(word(), 1..4);
        prop_oneof![
            word().prop_map(Requirement::Exists),
            word().prop_map(Requirement::Missing),
            (word(), values()).prop_map(|(key, values)| Requirement::In(key, values)),
            (word(), values()).prop_map(|(key, values)| Requirement::NotIn(key, values)),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_is_read(
            requirements in prop::collection::vec(requirement(), 0..MAX_REQUIREMENTS),
        ) {
            let selector = Selector(requirements);

            prop_assert_eq!(selector.to_string().parse::<Selector>(), Ok(selector.clone()));
            let json = String::from(selector.clone());
            prop_assert_eq!(Selector::try_from(json), Ok(selector));
        }

        #[test]
        fn no_text_makes_the_parser_fail(
            text in prop_oneof![any::<String>(), "[ab!=(),in \tü]{0,24}"],
        ) {
            match text.parse::<Selector>() {
                Ok(selector) => {
                    prop_assert_eq!(selector.to_string().parse::<Selector>(), Ok(selector));
                }
                Err(InvalidSelector::Unexpected { at, .. }) => {
                    prop_assert!((1..=text.chars().count() + 1).contains(&at));
                }
                Err(InvalidSelector::TooLong(len)) => prop_assert!(len > MAX_SELECTOR),
                Err(InvalidSelector::TooMany) => {
                    prop_assert!(text.matches(',').count() >= MAX_REQUIREMENTS);
                }
            }
        }

        #[test]
        fn a_requirement_and_its_opposite_never_both_hold(
            key in "[a-b]",
            values in prop::collection::btree_set("[a-b]", 1..3),
            labels in prop::collection::btree_map("[a-b]", "[a-c]", 0..3),
        ) {
            let holds = |requirement: Requirement| Selector(vec![requirement]).matches(&labels);
            let is_there = holds(Requirement::Exists(key.clone()));
            let is_in = holds(Requirement::In(key.clone(), values.clone()));

            prop_assert_eq!(is_there, !holds(Requirement::Missing(key.clone())));
            prop_assert_eq!(is_in, !holds(Requirement::NotIn(key.clone(), values)));
            prop_assert!(is_there || !is_in);
            prop_assert_eq!(is_there, labels.contains_key(&key));
        }
    }
}
