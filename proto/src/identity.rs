//! The identity in a certificate: a URI in its subject alternative names,
//! `overlay:<cluster>:node:<id>`.

use overlay_core::{ClusterId, NodeId};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The DNS name in control's certificate, independent of its address.
pub const CONTROL_NAME: &str = "control.overlay.internal";

/// The metadata key by which an agent's process names itself on every call: two processes that show
/// one certificate are told apart by it.
pub const INSTANCE_KEY: &str = "overlay-instance";

/// A node's identity, as its certificate states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeIdentity {
    /// The cluster that issued the certificate.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
}

/// A certificate that does not identify a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the certificate names no node")]
pub struct NotANode;

impl NodeIdentity {
    /// Returns the URI that names this node in a certificate.
    pub fn uri(&self) -> String {
        format!("overlay:{}:node:{}", self.cluster, self.node)
    }

    /// Reads the identity from a certificate in DER whose chain has been verified.
    ///
    /// # Errors
    ///
    /// [`NotANode`] unless there is exactly one URI of the right form.
    pub fn from_certificate(der: &[u8]) -> Result<Self, NotANode> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| NotANode)?;
        let names =
            certificate.subject_alternative_name().map_err(|_| NotANode)?.ok_or(NotANode)?;
        let mut uris =
            names.value.general_names.iter().filter_map(|name| {
                if let GeneralName::URI(uri) = name { Some(*uri) } else { None }
            });
        let (Some(uri), None) = (uris.next(), uris.next()) else { return Err(NotANode) };

        Self::from_uri(uri)
    }

    fn from_uri(uri: &str) -> Result<Self, NotANode> {
        let rest = uri.strip_prefix("overlay:").ok_or(NotANode)?;
        let (cluster, node) = rest.split_once(":node:").ok_or(NotANode)?;

        Ok(Self {
            cluster: cluster.parse().map_err(|_| NotANode)?,
            node: node.parse().map_err(|_| NotANode)?,
        })
    }
}

/// Returns the validity of a certificate in DER, from and until, in seconds since 1970.
///
/// # Errors
///
/// [`NotANode`] when it is not a certificate.
pub fn validity(der: &[u8]) -> Result<(u64, u64), NotANode> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| NotANode)?;
    let seconds =
        |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).map_err(|_| NotANode);

    Ok((seconds(certificate.validity().not_before)?, seconds(certificate.validity().not_after)?))
}

/// Returns the SHA-256 of the subject public key info of a certificate in DER: what join lines pin.
///
/// # Errors
///
/// [`NotANode`] when it is not a certificate.
pub fn key_pin(der: &[u8]) -> Result<[u8; 32], NotANode> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| NotANode)?;
    let digest = ring::digest::digest(&ring::digest::SHA256, certificate.public_key().raw);

    digest.as_ref().try_into().map_err(|_| NotANode)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> NodeIdentity {
        NodeIdentity { cluster: ClusterId::from_random(1), node: NodeId::from_random(2) }
    }

    fn certificate(uris: &[&str]) -> Vec<u8> {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::default();
        for uri in uris {
            params.subject_alt_names.push(rcgen::SanType::URI((*uri).try_into().expect("ASCII")));
        }

        params.self_signed(&key).expect("a certificate").der().to_vec()
    }

    #[test]
    fn a_certificate_names_its_node() {
        let der = certificate(&[&identity().uri()]);

        assert_eq!(NodeIdentity::from_certificate(&der), Ok(identity()));
    }

    #[test]
    fn a_certificate_with_no_two_or_foreign_names_is_refused() {
        let uri = identity().uri();
        let sets: [&[&str]; 4] = [&[], &[&uri, &uri], &["spiffe://x/y"], &["overlay:1:node:2"]];
        for uris in sets {
            assert_eq!(
                NodeIdentity::from_certificate(&certificate(uris)),
                Err(NotANode),
                "{uris:?}"
            );
        }
        assert_eq!(NodeIdentity::from_certificate(b"junk"), Err(NotANode));
    }
}
