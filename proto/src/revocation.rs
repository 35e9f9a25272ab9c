//! Revocations as they travel: signed by the authority of the cluster, so that a node may take one
//! from whoever has it.

use std::sync::Arc;

use overlay_core::{ClusterId, Revocation};
use prost::Message;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::convert::ConversionError;
use crate::convert::field;
use crate::v1;

/// The longest signed revocation, in bytes; names of 63 bytes take 300.
pub const MAX_SIGNED: usize = 512;
/// How many revocations are told and kept by nodes, the latest: 512 KiB at the most. A removed node
/// that is forgotten is refused by control as unknown, and by nodes as one that is in no view.
pub const MAX_REVOCATIONS: usize = 1_024;
/// What is signed before the statement; no certificate begins like this.
const CONTEXT: &[u8] = b"overlay revocation 1\0";

/// Why something is no revocation of this cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRevocation {
    /// It is longer than any revocation.
    #[error("{0} bytes are more than a revocation has")]
    TooLong(usize),
    /// It is no message.
    #[error("it is no revocation")]
    Malformed,
    /// A field is wrong.
    #[error(transparent)]
    Field(#[from] ConversionError),
    /// It is of another cluster.
    #[error("it is of cluster {0}")]
    OtherCluster(ClusterId),
    /// The authority of this cluster did not sign it.
    #[error("the cluster's authority did not sign it")]
    Signature,
    /// The certificate of the authority cannot be used.
    #[error("the authority's certificate cannot be read")]
    Authority,
}

/// A revocation with its signature. Whoever holds one has signed or verified it, or read it from
/// its own disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedRevocation {
    revocation: Revocation,
    bytes: Arc<[u8]>,
}

impl SignedRevocation {
    /// Signs a revocation by `sign`, which signs with the authority's key.
    ///
    /// # Errors
    ///
    /// That of `sign`.
    pub fn sign<E>(
        cluster: ClusterId,
        revocation: Revocation,
        sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, E>,
    ) -> Result<Self, E> {
        let statement = v1::Revocation {
            cluster: cluster.to_string(),
            node: revocation.node.to_string(),
            name: revocation.name.to_string(),
            at_unix: revocation.at,
            by: revocation.by.clone().map(Into::into),
        }
        .encode_to_vec();
        let signature = sign(&signed_bytes(&statement))?;
        let bytes = v1::SignedRevocation { statement, signature }.encode_to_vec().into();

        Ok(Self { revocation, bytes })
    }

    /// Reads a revocation that was verified before it was kept.
    ///
    /// # Errors
    ///
    /// [`InvalidRevocation`], except for the signature, which is not looked at.
    pub fn trusted(bytes: &[u8], cluster: ClusterId) -> Result<Self, InvalidRevocation> {
        read(bytes, cluster).map(|(signed, _)| signed)
    }

    /// Verifies a revocation that anybody may have sent, by the authority's certificate in DER.
    ///
    /// # Errors
    ///
    /// [`InvalidRevocation`].
    pub fn verified(
        bytes: &[u8],
        cluster: ClusterId,
        authority: &[u8],
    ) -> Result<Self, InvalidRevocation> {
        let (signed, v1::SignedRevocation { statement, signature }) = read(bytes, cluster)?;
        let (_, certificate) =
            X509Certificate::from_der(authority).map_err(|_| InvalidRevocation::Authority)?;
        let key = &certificate.public_key().subject_public_key.data;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key)
            .verify(&signed_bytes(&statement), &signature)
            .map_err(|_| InvalidRevocation::Signature)?;

        Ok(signed)
    }

    /// Returns what it says.
    pub fn revocation(&self) -> &Revocation {
        &self.revocation
    }

    /// Returns it as it is passed on.
    pub fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }
}

fn signed_bytes(statement: &[u8]) -> Vec<u8> {
    [CONTEXT, statement].concat()
}

fn read(
    bytes: &[u8],
    cluster: ClusterId,
) -> Result<(SignedRevocation, v1::SignedRevocation), InvalidRevocation> {
    if bytes.len() > MAX_SIGNED {
        return Err(InvalidRevocation::TooLong(bytes.len()));
    }
    let message = v1::SignedRevocation::decode(bytes).map_err(|_| InvalidRevocation::Malformed)?;
    let statement =
        v1::Revocation::decode(&message.statement[..]).map_err(|_| InvalidRevocation::Malformed)?;
    let of = field("revocation.cluster", &statement.cluster)?;
    if of != cluster {
        return Err(InvalidRevocation::OtherCluster(of));
    }
    let revocation = Revocation {
        node: field("revocation.node", &statement.node)?,
        name: field("revocation.name", &statement.name)?,
        at: statement.at_unix,
        by: statement.by.map(TryInto::try_into).transpose()?,
    };

    Ok((SignedRevocation { revocation, bytes: bytes.into() }, message))
}

#[cfg(test)]
mod tests {
    use overlay_core::{Creator, NodeId};
    use rcgen::{KeyPair, SigningKey as _};

    use super::*;

    const CLUSTER: ClusterId = ClusterId::FIRST;

    fn authority() -> (KeyPair, Vec<u8>) {
        let key = KeyPair::generate().expect("a key");
        let certificate =
            rcgen::CertificateParams::default().self_signed(&key).expect("a certificate");

        (key, certificate.der().to_vec())
    }

    fn revocation() -> Revocation {
        let name = || "n".repeat(63).parse().expect("a name");
        let by = Creator { node: NodeId::LAST, name: name() };

        Revocation { node: NodeId::FIRST, name: name(), at: u64::MAX, by: Some(by) }
    }

    fn signed(key: &KeyPair) -> SignedRevocation {
        SignedRevocation::sign(CLUSTER, revocation(), |bytes| key.sign(bytes)).expect("signed")
    }

    #[test]
    fn the_longest_revocation_is_verified_by_the_certificate_alone() {
        let (key, certificate) = authority();
        let signed = signed(&key);

        let verified = SignedRevocation::verified(signed.bytes(), CLUSTER, &certificate);

        assert_eq!(verified.as_ref(), Ok(&signed));
        assert_eq!(verified.map(|it| it.revocation), Ok(revocation()));
        assert!(signed.bytes().len() <= MAX_SIGNED, "{} bytes", signed.bytes().len());
        assert_eq!(SignedRevocation::trusted(signed.bytes(), CLUSTER), Ok(signed));
    }

    #[test]
    fn no_changed_cut_or_extended_revocation_is_verified() {
        let (key, certificate) = authority();
        let bytes = signed(&key).bytes().to_vec();
        let verify = |bytes: &[u8]| SignedRevocation::verified(bytes, CLUSTER, &certificate);

        for at in 0..bytes.len() {
            assert!(verify(&bytes[..at]).is_err(), "cut to {at}");
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                assert!(verify(&changed).is_err(), "bit {bit} of byte {at}");
            }
        }
        let long = [&bytes[..], &[0; 2_000]].concat();
        assert_eq!(verify(&long), Err(InvalidRevocation::TooLong(long.len())));
    }

    #[test]
    fn what_another_authority_signed_or_is_of_another_cluster_is_refused() {
        let ((key, certificate), (other, _)) = (authority(), authority());

        let forged = SignedRevocation::verified(signed(&other).bytes(), CLUSTER, &certificate);
        let elsewhere =
            SignedRevocation::verified(signed(&key).bytes(), ClusterId::LAST, &certificate);

        assert_eq!(forged, Err(InvalidRevocation::Signature));
        assert_eq!(elsewhere, Err(InvalidRevocation::OtherCluster(CLUSTER)));
    }
}
