//! The chain of records: hashes, heads, and what tells whether it is whole.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::AuditRecord;

/// A SHA-256, written in lower-case hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RecordHash([u8; 32]);

impl RecordHash {
    /// Hashes bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());

        Self(hash)
    }
}

impl fmt::Display for RecordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for RecordHash {
    type Err = InvalidHead;

    fn from_str(text: &str) -> Result<Self, InvalidHead> {
        let mut hash = [0; 32];
        hex::decode_to_slice(text, &mut hash).map_err(|_| InvalidHead)?;

        Ok(Self(hash))
    }
}

impl Serialize for RecordHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RecordHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;

        text.parse().map_err(de::Error::custom)
    }
}

/// The end of a chain: the number of its last record and that record's hash. A chain without
/// records has the number 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Head {
    /// The number of the record.
    pub number: u64,
    /// Its hash.
    pub hash: RecordHash,
}

/// A text that is no head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no head of the audit log: NUMBER:HASH, as `overlayctl audit verify -q` prints it")]
pub struct InvalidHead;

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.number, self.hash)
    }
}

impl FromStr for Head {
    type Err = InvalidHead;

    fn from_str(text: &str) -> Result<Self, InvalidHead> {
        let (number, hash) = text.split_once(':').ok_or(InvalidHead)?;

        Ok(Self { number: number.parse().map_err(|_| InvalidHead)?, hash: hash.parse()? })
    }
}

/// How a chain is not what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// A record is not in the form of one.
    #[error("record {0} was altered: it cannot be read")]
    Unreadable(u64),
    /// Another record is in the place of one.
    #[error("record {expected} was removed or moved: record {found} is in its place")]
    OutOfPlace {
        /// The number that was to come.
        expected: u64,
        /// The number that came.
        found: u64,
    },
    /// A record is not the one that was there when the next one was written.
    #[error("record {0} was altered: it is not the one that the next record follows")]
    Altered(u64),
    /// The last record is not the one that was written last.
    #[error("record {0} was altered: it is not the one that was written last")]
    AlteredLast(u64),
    /// Records at the end are gone.
    #[error("record {0} was removed, and those after it")]
    Cut(u64),
    /// There is a record beyond the end.
    #[error("record {0} was added: it is beyond the last one")]
    Beyond(u64),
    /// A record is not the one that was noted earlier.
    #[error("record {0} is not the one that was noted: it or one before it was altered since")]
    Rewritten(u64),
    /// There are fewer records than when the head was noted.
    #[error("record {noted} was noted and is not there: the last one is {last}")]
    Shorter {
        /// The number that was noted.
        noted: u64,
        /// The last number there is.
        last: u64,
    },
}

/// Checks records one after another.
#[derive(Debug)]
pub struct Verifier {
    at: Head,
    noted: Option<Head>,
    is_met: bool,
}

impl Verifier {
    /// Begins behind a checkpoint: the last record that is not kept any more. With a head that was
    /// noted earlier, the record of that number must be the one that was noted.
    ///
    /// # Errors
    ///
    /// [`ChainError::Rewritten`], if the checkpoint contradicts what was noted.
    pub fn new(checkpoint: Head, noted: Option<Head>) -> Result<Self, ChainError> {
        let mut verifier = Self { at: checkpoint, noted, is_met: noted.is_none() };
        verifier.compare()?;

        Ok(verifier)
    }

    fn compare(&mut self) -> Result<(), ChainError> {
        match self.noted {
            Some(noted) if noted.number == self.at.number && noted.hash != self.at.hash => {
                Err(ChainError::Rewritten(noted.number))
            }
            Some(noted) => {
                self.is_met |= noted.number == self.at.number;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Returns where it stands.
    pub fn at(&self) -> Head {
        self.at
    }

    /// Accepts the next record, and returns it.
    ///
    /// # Errors
    ///
    /// [`ChainError`], with the number of the record that is not what was written.
    pub fn accept(&mut self, bytes: &[u8]) -> Result<AuditRecord, ChainError> {
        let expected = self.at.number + 1;
        let record: AuditRecord =
            serde_json::from_slice(bytes).map_err(|_| ChainError::Unreadable(expected))?;
        if record.number != expected {
            return Err(ChainError::OutOfPlace { expected, found: record.number });
        }
        if record.previous != self.at.hash {
            return Err(ChainError::Altered(self.at.number));
        }
        self.at = Head { number: expected, hash: RecordHash::of(bytes) };
        self.compare()?;

        Ok(record)
    }

    /// Ends at the head that the chain should have. Returns whether the noted record was among
    /// those that are kept; if there was nothing noted, that is true.
    ///
    /// # Errors
    ///
    /// [`ChainError`], if the chain ends elsewhere, or is shorter than it was.
    pub fn finish(self, head: Head) -> Result<bool, ChainError> {
        if let Some(noted) = self.noted.filter(|noted| noted.number > head.number) {
            return Err(ChainError::Shorter { noted: noted.number, last: head.number });
        }
        match self.at.number.cmp(&head.number) {
            std::cmp::Ordering::Less => Err(ChainError::Cut(self.at.number + 1)),
            std::cmp::Ordering::Greater => Err(ChainError::Beyond(head.number + 1)),
            std::cmp::Ordering::Equal if self.at.hash != head.hash => {
                Err(ChainError::AlteredLast(head.number))
            }
            std::cmp::Ordering::Equal => Ok(self.is_met),
        }
    }
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
