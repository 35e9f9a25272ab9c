//! A node's certificate request in PKCS #10, of which only the public key is used.

use rcgen::{CertificateSigningRequestParams, PublicKey, PublicKeyData as _};
use rustls::pki_types::CertificateSigningRequestDer;

use crate::registry::Digest;

/// The largest request in bytes: one with a P-256 key and a name has some 300.
const MAX_REQUEST: usize = 4_096;

/// Why a request is not signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("csr: {0}")]
pub(crate) struct InvalidRequest(&'static str);

/// A request whose sender has proved possession of the key.
#[derive(Debug)]
pub(crate) struct NodeRequest {
    key: PublicKey,
}

impl NodeRequest {
    /// Reads a request in DER and checks its signature.
    ///
    /// # Errors
    ///
    /// [`InvalidRequest`], also for keys other than ECDSA P-256 and Ed25519.
    pub(crate) fn parse(der: &[u8]) -> Result<Self, InvalidRequest> {
        if der.len() > MAX_REQUEST {
            return Err(InvalidRequest("more than 4,096 bytes"));
        }
        let der = CertificateSigningRequestDer::from(der);
        let request =
            CertificateSigningRequestParams::from_der(&der).map_err(|error| explain(&error))?;
        let key = request.public_key;
        if ![&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ED25519].contains(&key.algorithm()) {
            return Err(InvalidRequest("the key must be ECDSA P-256 or Ed25519"));
        }

        Ok(Self { key })
    }

    /// Returns the key to certify.
    pub(super) fn public_key(&self) -> &PublicKey {
        &self.key
    }

    /// Returns the digest of the key, by which it is known.
    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.key.subject_public_key_info())
    }
}

fn explain(error: &rcgen::Error) -> InvalidRequest {
    if matches!(error, rcgen::Error::InvalidCertificationRequestSignature) {
        InvalidRequest("its signature is wrong")
    } else if matches!(error, rcgen::Error::UnsupportedSignatureAlgorithm) {
        InvalidRequest("the key must be ECDSA P-256 or Ed25519")
    } else {
        InvalidRequest("not a certificate request in PKCS #10 DER format")
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, SanType};

    use super::*;

    fn request(params: &CertificateParams) -> Vec<u8> {
        let key = KeyPair::generate().expect("a key");

        params.serialize_request(&key).expect("a request").der().to_vec()
    }

    #[test]
    fn a_request_is_read_whatever_it_asks_for() {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.subject_alt_names =
            vec![SanType::URI("overlay:1:node:2".try_into().expect("ASCII"))];

        assert!(NodeRequest::parse(&request(&params)).is_ok());
    }

    #[test]
    fn foreign_keys_broken_signatures_and_junk_are_refused() {
        let der = request(&CertificateParams::default());
        let mut forged = der.clone();
        if let Some(last) = forged.last_mut() {
            *last ^= 1;
        }
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("a key");
        let foreign = CertificateParams::default().serialize_request(&key).expect("a request");

        assert!(NodeRequest::parse(&forged).is_err());
        assert!(NodeRequest::parse(foreign.der()).is_err());
        for junk in [&b""[..], b"junk", &[0x30; 5_000], &der[..der.len() - 1]] {
            assert!(NodeRequest::parse(junk).is_err());
        }
    }
}
