//! A backup of control: everything that it takes to go on elsewhere, in one file.
//!
//! The file is text, a line of JSON each: a header, the authority, then every record of the store,
//! and at the end the SHA-256 of all lines before. So a half or damaged one is known as such, and a
//! later version reads the header of an earlier one.

mod error;
mod file;
mod restore;
pub(crate) mod socket;

use std::path::Path;

use overlay_core::Revision;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::pki::AuthorityPem;
use crate::registry::{ClusterState, Digest, Record, Settings};

pub use error::BackupError;
pub use file::{BackupSummary, back_up};
pub use restore::{RestoreConfig, RestoreSummary, restore};

/// What the first line says that the file is.
const KIND: &str = "overlay-control backup";
/// The version of the file's format.
const VERSION: u64 = 1;
/// What comes before the checksum in the last line.
const CHECKSUM: &str = "sha256 ";

/// Everything in a backup.
pub(crate) struct Contents {
    /// When it was made, in seconds since 1970.
    pub(crate) made: u64,
    /// The settings that `init` chose.
    pub(crate) settings: Settings,
    /// The revision.
    pub(crate) revision: Revision,
    /// The authority's key and certificate.
    pub(crate) authority: AuthorityPem,
    /// Every row.
    pub(crate) records: Vec<Record>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    kind: String,
    version: u64,
    program: String,
    made_unix: u64,
    revision: Revision,
    settings: Settings,
    records: usize,
}

impl Contents {
    /// Takes everything of a state.
    pub(crate) fn of(state: &ClusterState, authority: AuthorityPem, made: u64) -> Self {
        Self {
            made,
            settings: state.settings().clone(),
            revision: state.view().revision,
            authority,
            records: state.records().collect(),
        }
    }

    /// Writes it as a file has it.
    ///
    /// # Errors
    ///
    /// [`BackupError::Unwritable`], which no state of control brings about.
    pub(crate) fn encode(&self) -> Result<Zeroizing<Vec<u8>>, BackupError> {
        let header = Header {
            kind: KIND.to_owned(),
            version: VERSION,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            made_unix: self.made,
            revision: self.revision,
            settings: self.settings.clone(),
            records: self.records.len(),
        };
        let mut bytes = Zeroizing::new(Vec::new());
        let mut line = |value: serde_json::Result<Vec<u8>>| {
            bytes.extend(Zeroizing::new(value.map_err(BackupError::Unwritable)?).iter());
            bytes.push(b'\n');
            Ok::<_, BackupError>(())
        };
        line(serde_json::to_vec(&header))?;
        line(serde_json::to_vec(&self.authority))?;
        for record in &self.records {
            line(serde_json::to_vec(record))?;
        }
        let end = format!("{CHECKSUM}{}\n", hex::encode(Digest::of(&bytes).0));
        bytes.extend_from_slice(end.as_bytes());

        Ok(bytes)
    }

    /// Reads what a file has.
    ///
    /// # Errors
    ///
    /// [`BackupError`], with the file and what is wrong with it.
    pub(crate) fn decode(path: &Path, bytes: &[u8]) -> Result<Self, BackupError> {
        let damaged = |what: &str| BackupError::damaged(path, what);
        let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
        let first = lines.next().ok_or_else(|| damaged("it is empty"))?;
        let header: Header = serde_json::from_slice(first)
            .map_err(|_| damaged("it does not begin like a backup of control"))?;
        if header.kind != KIND {
            return Err(damaged("it does not begin like a backup of control"));
        }
        if header.version != VERSION {
            let (found, known) = (header.version, VERSION);
            return Err(BackupError::Version { path: path.to_owned(), found, known });
        }
        let whole = bytes.strip_suffix(b"\n").ok_or_else(|| damaged("its end is missing"))?;
        let at = whole.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let (body, end) =
            bytes.split_at_checked(at).ok_or_else(|| damaged("its end is missing"))?;
        let sum = end.strip_prefix(CHECKSUM.as_bytes()).map(<[u8]>::trim_ascii_end);
        let sum = sum.ok_or_else(|| damaged("its end is missing"))?;
        if sum != hex::encode(Digest::of(body).0).as_bytes() {
            return Err(damaged("its checksum is wrong"));
        }
        let mut lines = body.split(|byte| *byte == b'\n').skip(1).filter(|line| !line.is_empty());
        let authority = lines.next().and_then(|line| serde_json::from_slice(line).ok());
        let records = lines.map(serde_json::from_slice::<Record>).collect::<Result<Vec<_>, _>>();
        let records =
            records.map_err(|error| damaged(&format!("a record is not readable: {error}")))?;
        if records.len() != header.records {
            return Err(damaged("records are missing"));
        }

        Ok(Self {
            made: header.made_unix,
            settings: header.settings,
            revision: header.revision,
            authority: authority.ok_or_else(|| damaged("the authority is missing"))?,
            records,
        })
    }

    /// Rebuilds the state.
    ///
    /// # Errors
    ///
    /// [`BackupError::Damaged`] when its records contradict each other.
    pub(crate) fn state(&self, path: &Path) -> Result<ClusterState, BackupError> {
        let state = ClusterState::from_records(
            self.settings.clone(),
            self.revision,
            self.records.iter().cloned(),
        );
        match state.contradiction() {
            None => Ok(state),
            Some(contradiction) => Err(BackupError::damaged(path, &contradiction.to_string())),
        }
    }
}

#[cfg(test)]
#[path = "backup/tests.rs"]
mod tests;
