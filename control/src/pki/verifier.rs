//! Which client certificates pass the handshake: those of our authority, at whatever time.
//!
//! A host that was off for days must be able to renew its certificate, and a certificate error should name both times
//! rather than break the handshake. Every call checks the time, and only renewal lets one that has passed through.

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
            // The inner verifier refuses it with its own words.
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
