//! Why the authority cannot be used; the message names the file and what to do.

/// Why the authority's key or certificate cannot be used; the message names the file and what to
/// do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PkiError {
    /// A file cannot be read or written.
    #[error("{path} cannot be used: {source}")]
    Io {
        /// The path of the file.
        path: String,
        /// The reason.
        source: std::io::Error,
    },
    /// A file does not contain what it should.
    #[error("{path} is damaged: {what}; restore the state directory from a backup")]
    Damaged {
        /// The path of the file.
        path: String,
        /// What is wrong with it.
        what: String,
    },
    /// A certificate cannot be issued.
    #[error("a certificate cannot be made")]
    Make(#[from] rcgen::Error),
    /// The key cannot be used for TLS.
    #[error("a key cannot be used for TLS")]
    Tls(#[from] rustls::Error),
}
