//! Whose history a revision belongs to.
//!
//! Revisions of two histories say nothing about each other: control that was restored from a backup
//! counts on from the same number, to another membership. So each history has a random lineage, and
//! each revision in it a mark, by which control knows its own past from another one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Identifies one history of control's state: 16 random bytes, made when the state is made and anew
/// by each restore. Written as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Lineage([u8; 16]);

/// What control says of one revision that nobody else can: 32 bytes, which only control can make
/// and check. Written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mark([u8; 32]);

/// A text that is no lineage or no mark.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not {0} hexadecimal digits")]
pub struct InvalidStamp(usize);

macro_rules! bytes {
    ($name:ident, $len:literal) => {
        impl $name {
            /// Makes one of bytes.
            pub const fn new(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// Returns the bytes.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl From<[u8; $len]> for $name {
            fn from(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }
        }

        impl FromStr for $name {
            type Err = InvalidStamp;

            fn from_str(text: &str) -> Result<Self, InvalidStamp> {
                let mut bytes = [0; $len];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| InvalidStamp(2 * $len))?;

                Ok(Self(bytes))
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidStamp;

            fn try_from(text: String) -> Result<Self, InvalidStamp> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

bytes!(Lineage, 16);
bytes!(Mark, 32);

/// The history that a revision belongs to, and the mark of the revision there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// The history.
    pub lineage: Lineage,
    /// The mark of the revision; missing where control has none of it, as of revisions of a version
    /// before marks.
    pub mark: Option<Mark>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lineage_is_read_as_it_is_written_and_nothing_else_is() {
        let lineage = Lineage::from(std::array::from_fn(|i| u8::try_from(i * 15).unwrap_or(0)));
        let text = lineage.to_string();

        assert_eq!(text.len(), 32);
        assert_eq!(text.parse(), Ok(lineage));
        assert_eq!(text.to_uppercase().parse(), Ok(lineage));
        for text in ["", "0", &text[1..], &format!("{text}0"), &"g".repeat(32), &"ü".repeat(16)] {
            assert_eq!(text.parse::<Lineage>(), Err(InvalidStamp(32)), "{text}");
        }
        assert_eq!("x".parse::<Mark>(), Err(InvalidStamp(64)));
    }
}
