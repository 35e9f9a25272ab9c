//! The authority of one cluster: it signs control's own certificate and those of the nodes.

use std::path::Path;
use std::time::Duration;

use overlay_core::{ClusterId, Revocation};
use overlay_proto::SignedRevocation;
use overlay_proto::identity::{self, NodeIdentity};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SigningKey as _,
};
use rustls::pki_types::CertificateDer;

use super::error::{FileDamage, PkiError};
use super::files;
use super::request::NodeRequest;

/// How long the authority is valid: longer than the machines it runs on.
const CA_TTL: Duration = Duration::from_secs(10 * 365 * 86_400);
/// How far certificates are backdated, for hosts whose clocks are slow.
const BACKDATE: Duration = Duration::from_secs(3_600);

/// The authority of one cluster.
pub(crate) struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    pin: [u8; 32],
}

impl Authority {
    /// Creates a new authority and stores it in the state directory.
    ///
    /// # Errors
    ///
    /// [`PkiError`].
    pub(crate) fn create(directory: &Path, cluster: ClusterId, now: u64) -> Result<Self, PkiError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(&format!("overlay {cluster}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        limit(&mut params, now, CA_TTL);
        let certificate = params.self_signed(&key)?.der().clone();
        files::write(directory, &certificate, &key)?;

        Self::new(certificate, key).map_err(|damage| files::damaged_certificate(directory, damage))
    }

    /// Reads the authority of a state directory.
    ///
    /// # Errors
    ///
    /// [`PkiError`], with the file.
    pub(crate) fn load(directory: &Path) -> Result<Self, PkiError> {
        let (certificate, key) = files::read(directory)?;

        Self::new(certificate, key).map_err(|damage| files::damaged_certificate(directory, damage))
    }

    fn new(certificate: CertificateDer<'static>, key: KeyPair) -> Result<Self, FileDamage> {
        let pin = identity::key_pin(&certificate).map_err(|_| FileDamage::InvalidCertificate)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(FileDamage::Issuer)?;
        let own = ring::digest::digest(
            &ring::digest::SHA256,
            &rcgen::PublicKeyData::subject_public_key_info(issuer.key()),
        );
        if own.as_ref() != pin {
            return Err(FileDamage::OtherKey);
        }

        Ok(Self { certificate, issuer, pin })
    }

    /// Returns the authority's certificate.
    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Returns the SHA-256 of the authority's public key, as join lines carry it.
    pub(crate) fn pin(&self) -> [u8; 32] {
        self.pin
    }

    /// Issues a node's certificate; only the public key of the request is used.
    ///
    /// # Errors
    ///
    /// [`PkiError::Make`].
    pub(crate) fn sign_node(
        &self,
        identity: &NodeIdentity,
        request: &NodeRequest,
        ttl: Duration,
        now: u64,
    ) -> Result<CertificateDer<'static>, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(&identity.node.to_string());
        params.subject_alt_names = vec![SanType::URI(identity.uri().try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        limit(&mut params, now, ttl);

        Ok(params.signed_by(request.public_key(), &self.issuer)?.der().clone())
    }

    /// Signs that a node was removed.
    ///
    /// # Errors
    ///
    /// [`PkiError::Make`].
    pub(crate) fn sign_revocation(
        &self,
        cluster: ClusterId,
        revocation: Revocation,
    ) -> Result<SignedRevocation, PkiError> {
        Ok(SignedRevocation::sign(cluster, revocation, |bytes| self.issuer.key().sign(bytes))?)
    }

    /// Issues control's own certificate for a new key.
    pub(super) fn sign_control(
        &self,
        key: &KeyPair,
        ttl: Duration,
        now: u64,
    ) -> Result<CertificateDer<'static>, PkiError> {
        let mut params = CertificateParams::new(vec![identity::CONTROL_NAME.to_owned()])?;
        params.distinguished_name = common_name("overlay-control");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        limit(&mut params, now, ttl);

        Ok(params.signed_by(key, &self.issuer)?.der().clone())
    }
}

fn common_name(name: &str) -> DistinguishedName {
    let mut dn = DistinguishedName::new();
    dn.push(DnType::CommonName, name);

    dn
}

fn limit(params: &mut CertificateParams, now: u64, ttl: Duration) {
    let now = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(now);
    params.not_before = now - BACKDATE;
    params.not_after = now + ttl;
}
