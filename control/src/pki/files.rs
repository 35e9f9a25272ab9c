//! The authority's two files, `ca.key` (readable by its owner only) and `ca.crt`.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use super::error::{FileDamage, PkiError};

const KEY: &str = "ca.key";
const CERTIFICATE: &str = "ca.crt";
/// The largest file in bytes; both are smaller than 1 KiB.
const MAX_FILE: u64 = 64 << 10;

/// Stores a new authority, key first; each file appears whole or not at all.
pub(super) fn write(
    directory: &Path,
    certificate: &CertificateDer<'_>,
    key: &KeyPair,
) -> Result<(), PkiError> {
    let pem = Zeroizing::new(key.serialize_pem());
    write_file(&directory.join(KEY), pem.as_bytes())?;
    write_file(&directory.join(CERTIFICATE), armour(certificate).as_bytes())
}

/// The authority as its files have it, for a backup.
#[derive(Serialize, Deserialize)]
pub(crate) struct AuthorityPem {
    key: String,
    certificate: String,
}

impl Drop for AuthorityPem {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl AuthorityPem {
    /// Reads it from a state directory.
    ///
    /// # Errors
    ///
    /// [`PkiError`], with the file.
    pub(crate) fn read(directory: &Path) -> Result<Self, PkiError> {
        let (certificate, key) = read(directory)?;

        Ok(Self { key: key.serialize_pem(), certificate: armour(&certificate) })
    }

    /// Writes it to a state directory.
    ///
    /// # Errors
    ///
    /// [`PkiError`], with the file.
    pub(crate) fn write(&self, directory: &Path) -> Result<(), PkiError> {
        write_file(&directory.join(KEY), self.key.as_bytes())?;
        write_file(&directory.join(CERTIFICATE), self.certificate.as_bytes())?;

        read(directory).map(drop)
    }
}

fn armour(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();

    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

fn write_file(path: &Path, content: &[u8]) -> Result<(), PkiError> {
    let io = |source| PkiError::Io { path: path.to_owned(), source };
    let draft = path.with_extension("new");
    let _ = fs::remove_file(&draft);
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft).map_err(io)?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(io)?;
    fs::rename(&draft, path).map_err(io)?;
    let directory = path.parent().unwrap_or(path);

    File::open(directory).and_then(|directory| directory.sync_all()).map_err(io)
}

/// Reads the authority's certificate and key.
pub(super) fn read(directory: &Path) -> Result<(CertificateDer<'static>, KeyPair), PkiError> {
    let key = directory.join(KEY);
    let pem = read_file(&key)?;
    check_mode(&key)?;
    let text = std::str::from_utf8(&pem).map_err(|_| damaged(&key, FileDamage::NoText))?;
    let pair = KeyPair::from_pem(text).map_err(|_| damaged(&key, FileDamage::NoKey))?;
    let certificate = directory.join(CERTIFICATE);
    let der = CertificateDer::from_pem_slice(&read_file(&certificate)?)
        .map_err(|_| damaged(&certificate, FileDamage::NoCertificate))?;

    Ok((der, pair))
}

fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, PkiError> {
    let io = |source| PkiError::Io { path: path.to_owned(), source };
    if fs::metadata(path).map_err(io)?.len() > MAX_FILE {
        return Err(damaged(path, FileDamage::TooLong));
    }

    fs::read(path).map(Zeroizing::new).map_err(io)
}

fn check_mode(path: &Path) -> Result<(), PkiError> {
    let io = |source| PkiError::Io { path: path.to_owned(), source };
    let mode = fs::metadata(path).map_err(io)?.mode() & 0o777;
    if mode & 0o077 == 0 { Ok(()) } else { Err(PkiError::Exposed { path: path.to_owned(), mode }) }
}

fn damaged(path: &Path, damage: FileDamage) -> PkiError {
    PkiError::Damaged { path: path.to_owned(), damage }
}

/// Returns the error for a damaged certificate file.
pub(super) fn damaged_certificate(directory: &Path, damage: FileDamage) -> PkiError {
    damaged(&directory.join(CERTIFICATE), damage)
}
