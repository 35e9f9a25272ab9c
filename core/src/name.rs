//! Names of nodes, networks and endpoints: one DNS label each, checked before it reaches a file, a
//! log, an answer or a kernel table. The aliases of an endpoint may have several labels.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::EndpointId;

/// The longest name in bytes: one DNS label (RFC 1035, section 2.3.4).
pub const MAX_NAME: usize = 63;

/// A DNS label: 1 to 63 letters, digits, `-` or `_`, beginning and ending with a letter or digit,
/// kept in lower case.
///
/// `_` is allowed because container engines allow it. DNS names are case-insensitive (RFC 4343), so
/// upper case is folded.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// A text that is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a name: use 1 to 63 letters, digits, '-' or '_', beginning and ending with a letter or \
         digit, such as my-network"
)]
pub struct InvalidName {
    text: String,
}

impl Name {
    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_label(text: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';

    text.len() <= MAX_NAME
        && edge(text.bytes().next())
        && edge(text.bytes().next_back())
        && text.bytes().all(inner)
}

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if is_label(text) {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(InvalidName { text: text.chars().take(MAX_NAME + 1).collect() })
        }
    }
}

impl TryFrom<String> for Name {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The longest alias in bytes: that of a domain name as text (RFC 1035, section 2.3.4).
pub const MAX_ALIAS: usize = 253;

/// One or more DNS labels separated by dots, such as `db` or `my.app`: a further name of an
/// endpoint.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Alias(String);

/// A text that is not an alias.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a name to be found by: use labels of letters, digits, '-' or '_', with dots between them"
)]
pub struct InvalidAlias {
    text: String,
}

impl Alias {
    /// Returns the alias as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Alias {
    type Err = InvalidAlias;

    fn from_str(text: &str) -> Result<Self, InvalidAlias> {
        if text.len() <= MAX_ALIAS && text.split('.').all(is_label) {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(InvalidAlias { text: text.chars().take(MAX_NAME + 1).collect() })
        }
    }
}

impl TryFrom<String> for Alias {
    type Error = InvalidAlias;

    fn try_from(text: String) -> Result<Self, InvalidAlias> {
        text.parse()
    }
}

impl From<Name> for Alias {
    fn from(name: Name) -> Self {
        Self(name.0)
    }
}

impl From<EndpointId> for Alias {
    fn from(id: EndpointId) -> Self {
        Self(id.to_string())
    }
}

impl std::borrow::Borrow<str> for Alias {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl From<Alias> for String {
    fn from(alias: Alias) -> Self {
        alias.0
    }
}

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_accepted_and_folded_to_lower_case() {
        assert_eq!("Service2".parse::<Name>().expect("a label").as_str(), "service2");
        assert!("my-network".parse::<Name>().is_ok());
        assert!("a_b".parse::<Name>().is_ok());
        assert!("x".repeat(MAX_NAME).parse::<Name>().is_ok());
    }

    #[test]
    fn an_alias_has_labels_with_dots_between_them() {
        assert_eq!("My.App".parse::<Alias>().expect("labels").as_str(), "my.app");
        assert!("db".parse::<Alias>().is_ok() && "a.b_c.d-e.9".parse::<Alias>().is_ok());
        let long = vec!["x".repeat(MAX_NAME); 4].join(".");
        for text in ["", ".", "a.", ".a", "a..b", "a.-b", "a. b", "a\n.b", "ü.b", &long] {
            assert!(text.parse::<Alias>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn whatever_could_escape_a_label_is_refused() {
        let long = "x".repeat(MAX_NAME + 1);
        for text in
            ["", "-a", "a-", "a.b", "a b", "a/b", "../x", "a\n", "a\0b", "ü", "😀", "_a", &long]
        {
            assert!(text.parse::<Name>().is_err(), "{text:?}");
        }
    }
}
