//! Identities: 48-bit numbers that name nodes, networks, endpoints and clusters for ever.
//!
//! They are written as 12 hexadecimal digits, so that a kernel interface name (15 characters at most, `IFNAMSIZ`) can
//! carry a two-letter prefix and a whole id. Who makes an id draws it at random; nothing here does.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The largest value of an id: 48 bits.
pub const MAX_ID: u64 = (1 << 48) - 1;

/// The text or number is no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an id (12 hexadecimal digits, not all zero)")]
pub struct InvalidId;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(u64);

        impl $name {
            /// The smallest id, for ranges.
            pub const FIRST: Self = Self(1);
            /// The largest id, for ranges.
            pub const LAST: Self = Self(MAX_ID);

            /// Makes an id out of random bits; the upper 16 are dropped and zero becomes one.
            pub const fn from_random(bits: u64) -> Self {
                match bits & MAX_ID {
                    0 => Self(1),
                    id => Self(id),
                }
            }

            /// Returns the id as a number, 1 to 2^48 - 1.
            pub const fn as_u64(self) -> u64 {
                self.0
            }
        }

        impl TryFrom<u64> for $name {
            type Error = InvalidId;

            fn try_from(raw: u64) -> Result<Self, InvalidId> {
                match raw {
                    1..=MAX_ID => Ok(Self(raw)),
                    _ => Err(InvalidId),
                }
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                if text.len() != 12 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(InvalidId);
                }

                u64::from_str_radix(text, 16)
                    .map_err(|_| InvalidId)
                    .and_then(Self::try_from)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:012x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:012x})"), self.0)
            }
        }
    };
}

id!(
    /// Identifies one control service and everything that joined it.
    ClusterId
);
id!(
    /// Identifies one node (a host that runs the agent). Given out by control, never used again.
    NodeId
);
id!(
    /// Identifies one overlay network. Given out by control, never used again.
    NetworkId
);
id!(
    /// Identifies one endpoint (a container's attachment to one network). Drawn by the node that makes it.
    EndpointId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_text() {
        let id = NodeId::from_random(0xDEAD_BEEF);

        assert_eq!(id.to_string(), "0000deadbeef");
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn zero_long_and_foreign_texts_are_refused() {
        for text in ["000000000000", "", "1", "0000deadbee", "0000deadbeef0", "+000deadbeef", "zzzzzzzzzzzz"] {
            assert_eq!(text.parse::<NodeId>(), Err(InvalidId), "{text}");
        }
        assert_eq!(NodeId::try_from(MAX_ID + 1), Err(InvalidId));
    }

    #[test]
    fn random_bits_never_make_a_zero_id() {
        assert_eq!(EndpointId::from_random(1 << 48).as_u64(), 1);
    }
}
