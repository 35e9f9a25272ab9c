//! TLS between nodes and control: version 1.3 only, with our own CA and ring as the crypto
//! provider.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ResolvesServerCert, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, ServerConfig,
    SignatureScheme, version,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::identity;

/// Why a TLS configuration cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A certificate or key is unusable.
    #[error("the certificate or its key cannot be used")]
    Material(#[from] rustls::Error),
    /// The CA certificate is unusable as a trust anchor.
    #[error("the CA certificate cannot be used")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// The CA that the server presented is not the one pinned in the join line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the server's certificate authority is not the one that the join line pins")]
pub struct WrongPin;

/// Returns the crypto provider for all TLS connections.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Makes control's configuration: client certificates of `ca` are requested but not required, since
/// joining hosts have none.
///
/// # Errors
///
/// [`TlsError`] when the CA certificate is unusable.
pub fn server(
    ca: CertificateDer<'static>,
    certificate: Arc<dyn ResolvesServerCert>,
) -> Result<ServerConfig, TlsError> {
    server_with(client_verifier(ca)?, certificate)
}

/// Makes the verifier of [`server`], for callers that wrap it.
///
/// # Errors
///
/// [`TlsError`] when the CA certificate is unusable.
pub fn client_verifier(
    ca: CertificateDer<'static>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let roots = Arc::new(roots(ca)?);

    Ok(WebPkiClientVerifier::builder_with_provider(roots, provider())
        .allow_unauthenticated()
        .build()?)
}

/// Makes control's configuration with the caller's verifier.
///
/// # Errors
///
/// [`TlsError`] if the provider lacks TLS 1.3, which ours does not.
pub fn server_with(
    verifier: Arc<dyn ClientCertVerifier>,
    certificate: Arc<dyn ResolvesServerCert>,
) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec()];
    // No resumption: every connection checks the certificate.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});

    Ok(config)
}

/// Makes a node's configuration: control's certificate must be signed by `ca`, and the node
/// presents its own.
///
/// # Errors
///
/// [`TlsError`] when a certificate or the key is unusable.
pub fn node_client(
    ca: CertificateDer<'static>,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
) -> Result<ClientConfig, TlsError> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])?
        .with_root_certificates(roots(ca)?)
        .with_client_auth_cert(vec![certificate], key)?;

    Ok(with_http2(config))
}

/// Makes a joining host's configuration: the CA that the server presents must have the pinned key
/// before anything is sent.
///
/// # Errors
///
/// [`TlsError`] if the provider lacks TLS 1.3, which ours does not.
pub fn pinned_client(pin: [u8; 32]) -> Result<ClientConfig, TlsError> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinnedCa { pin }))
        .with_no_client_auth();

    Ok(with_http2(config))
}

/// Tells whether an error, or one of its causes, is a wrong pin.
pub fn is_wrong_pin(error: &rustls::Error) -> bool {
    if let rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(cause))) = error {
        cause.is::<WrongPin>()
    } else {
        false
    }
}

fn with_http2(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();

    config
}

fn roots(ca: CertificateDer<'static>) -> Result<RootCertStore, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(ca)?;

    Ok(roots)
}

/// Trusts exactly the CA whose public key has the pinned hash, and the certificates it signed.
#[derive(Debug)]
struct PinnedCa {
    pin: [u8; 32],
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned =
            |der: &&CertificateDer<'_>| identity::key_pin(der).is_ok_and(|pin| pin == self.pin);
        let Some(ca) = intermediates.iter().find(pinned) else {
            return Err(CertificateError::Other(OtherError(Arc::new(WrongPin))).into());
        };
        let verifier = WebPkiServerVerifier::builder_with_provider(
            Arc::new(roots(ca.clone().into_owned())?),
            provider(),
        )
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;

        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &provider().signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use rustls::server::ResolvesServerCert;
    use rustls::sign::{CertifiedKey, SingleCertAndKey};
    use tokio::io::duplex;
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;
    use crate::identity::CONTROL_NAME;

    struct Authority {
        certificate: CertificateDer<'static>,
        issuer: Issuer<'static, KeyPair>,
    }

    fn authority() -> Authority {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let certificate = params.self_signed(&key).expect("a certificate").der().clone();

        Authority { certificate, issuer: Issuer::new(params, key) }
    }

    fn resolver(authority: &Authority, shown: &Authority) -> Arc<dyn ResolvesServerCert> {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![CONTROL_NAME.to_owned()]).expect("a name");
        let leaf = params.signed_by(&key, &authority.issuer).expect("a certificate").der().clone();
        let key = provider()
            .key_provider
            .load_private_key(PrivateKeyDer::try_from(key.serialize_der()).expect("PKCS #8"))
            .expect("a key");

        Arc::new(SingleCertAndKey::from(CertifiedKey::new(
            vec![leaf, shown.certificate.clone()],
            key,
        )))
    }

    async fn handshake(client: ClientConfig, server: ServerConfig) -> Result<(), rustls::Error> {
        let (near, far) = duplex(1 << 16);
        let name = ServerName::try_from(CONTROL_NAME).expect("a name");
        let accept = TlsAcceptor::from(Arc::new(server)).accept(far);
        let connect = TlsConnector::from(Arc::new(client)).connect(name, near);
        let (connected, _) = tokio::join!(connect, accept);

        match connected {
            Ok(_) => Ok(()),
            Err(error) => Err(error.downcast::<rustls::Error>().expect("a TLS error")),
        }
    }

    #[tokio::test]
    async fn the_pinned_authority_is_trusted_and_no_other() {
        let (ours, foreign) = (authority(), authority());
        let pin = identity::key_pin(&ours.certificate).expect("a certificate");
        let server_of = |signer: &Authority, shown: &Authority| {
            server(ours.certificate.clone(), resolver(signer, shown)).expect("a config")
        };
        let client = || pinned_client(pin).expect("a config");

        assert_eq!(handshake(client(), server_of(&ours, &ours)).await, Ok(()));
        let other = handshake(client(), server_of(&foreign, &foreign))
            .await
            .expect_err("another authority");
        assert!(is_wrong_pin(&other), "{other}");
        let forged = handshake(client(), server_of(&foreign, &ours))
            .await
            .expect_err("a leaf of another authority");
        assert!(!is_wrong_pin(&forged), "{forged}");
    }
}
