//! Verifies client certificates during the handshake: those of our authority pass, valid now or
//! not.
//!
//! A host that was off for days must be able to renew its certificate, and an expired certificate
//! should be reported with its times rather than break the handshake. Every call checks the
//! validity; only renewal accepts an expired certificate.

use std::sync::Arc;
use std::time::Duration;

use overlay_proto::identity;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

/// Verifies as the inner verifier does, at a time within the certificate's validity.
#[derive(Debug)]
pub(crate) struct AnyTime {
    inner: Arc<dyn ClientCertVerifier>,
}

impl AnyTime {
    /// Wraps a verifier.
    pub(crate) fn new(inner: Arc<dyn ClientCertVerifier>) -> Self {
        Self { inner }
    }
}

impl ClientCertVerifier for AnyTime {
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let within = match identity::validity(end_entity) {
            Ok((from, to)) if from < to => now.as_secs().clamp(from, to - 1),
            // The inner verifier refuses it with a message of its own.
            Ok(_) | Err(_) => now.as_secs(),
        };
        let then = UnixTime::since_unix_epoch(Duration::from_secs(within));

        self.inner.verify_client_cert(end_entity, intermediates, then)
    }

    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
