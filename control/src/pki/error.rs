//! Why the authority cannot be used; the message names the file and what to do.

use std::path::PathBuf;

/// Why the authority's key or certificate cannot be used; the message names the file and what to
/// do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PkiError {
    /// A file cannot be read or written.
    #[error("{} cannot be used: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The key can be read by others than its owner.
    #[error(
        "{0} cannot be used: others may read it (mode {mode:03o}); chmod 600 {0}",
        path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A file does not contain what it should.
    #[error("{} is damaged: {damage}; restore the state directory from a backup", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        damage: FileDamage,
    },
    /// A certificate cannot be issued.
    #[error("a certificate cannot be made")]
    Make(#[from] rcgen::Error),
    /// The key cannot be used for TLS.
    #[error("a key cannot be used for TLS")]
    Tls(#[from] rustls::Error),
}

/// What is wrong with a file of the authority.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileDamage {
    /// It is longer than such a file can be.
    #[error("it is too long")]
    TooLong,
    /// It holds bytes that are no text.
    #[error("it is no text")]
    NoText,
    /// There is no private key in it.
    #[error("it holds no private key")]
    NoKey,
    /// There is no certificate in it.
    #[error("it holds no certificate")]
    NoCertificate,
    /// What it holds cannot be read as a certificate.
    #[error("it is no certificate")]
    InvalidCertificate,
    /// It is the certificate of another key.
    #[error("it does not match the key in ca.key")]
    OtherKey,
    /// No certificates can be issued with it.
    #[error(transparent)]
    Issuer(rcgen::Error),
}
