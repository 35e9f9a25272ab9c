//! Who is at the other end: known from the certificate of the connection, and from nothing else.

use std::net::SocketAddr;
use std::sync::Arc;

use overlay_core::instant::rfc3339;
use overlay_core::{ClusterId, NodeId};
use overlay_proto::identity::{self, NodeIdentity};
use overlay_proto::{Code, Refusal};
use rustls::pki_types::CertificateDer;

/// How long after its end a certificate still serves to get the next, in seconds: 90 days. A node that must not come back
/// is removed; this bounds what a forgotten disk is good for.
const RENEWAL_GRACE: u64 = 90 * 86_400;

/// The other end of a connection; requests carry it.
#[derive(Debug, Clone)]
pub(crate) struct Peer(Arc<Shown>);

#[derive(Debug)]
struct Shown {
    address: SocketAddr,
    own_host: bool,
    certificate: Option<Certificate>,
}

#[derive(Debug)]
struct Certificate {
    identity: Option<NodeIdentity>,
    from: u64,
    to: u64,
}

impl Peer {
    /// Reads who a verified certificate speaks for; `local` is our end of the connection.
    pub(crate) fn new(address: SocketAddr, local: SocketAddr, certificate: Option<&CertificateDer<'_>>) -> Self {
        let read = |der: &CertificateDer<'_>| {
            // Without a readable validity there is none.
            let (from, to) = identity::validity(der).unwrap_or_default();
            Certificate { identity: NodeIdentity::from_certificate(der).ok(), from, to }
        };

        // Who connects to an address of the own host does so from the same one.
        let (from, to) = (address.ip().to_canonical(), local.ip().to_canonical());
        let own_host = from == to || from.is_loopback();
        let address = SocketAddr::new(from, address.port());

        Self(Arc::new(Shown { address, own_host, certificate: certificate.map(read) }))
    }

    /// Returns where the connection comes from.
    pub(crate) fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Tells whether the connection comes from control's own host.
    pub(crate) fn is_on_own_host(&self) -> bool {
        self.0.own_host
    }

    /// Tells whether a certificate was shown.
    pub(crate) fn has_certificate(&self) -> bool {
        self.0.certificate.is_some()
    }

    /// Returns when the certificate ends, in seconds since 1970.
    pub(crate) fn expires(&self) -> u64 {
        self.0.certificate.as_ref().map_or(0, |certificate| certificate.to)
    }

    /// Returns the node whose certificate was shown, if it is valid now.
    ///
    /// # Errors
    ///
    /// `not-authenticated`, with both times when it is a matter of time.
    pub(crate) fn node(&self, cluster: ClusterId, now: u64) -> Result<NodeId, Refusal> {
        let certificate = self.certificate()?;
        if !(certificate.from..certificate.to).contains(&now) {
            return Err(refuse(format!(
                "the certificate is valid from {} to {}, but control's clock says {}",
                rfc3339(certificate.from),
                rfc3339(certificate.to),
                rfc3339(now)
            )));
        }

        self.identity(cluster)
    }

    /// Returns the node whose certificate was shown, also when its time has passed or not come: who was admitted once and
    /// not taken out since may renew after a weekend off, or after a clock was put right.
    ///
    /// # Errors
    ///
    /// `not-authenticated` when there is none, or when it ended too long ago.
    pub(crate) fn renewing_node(&self, cluster: ClusterId, now: u64) -> Result<NodeId, Refusal> {
        let ended = self.certificate()?.to;
        if now >= ended.saturating_add(RENEWAL_GRACE) {
            return Err(refuse(format!(
                "the certificate ended at {}, more than 90 days before {}, the time of control's clock; join again",
                rfc3339(ended),
                rfc3339(now)
            )));
        }

        self.identity(cluster)
    }

    fn certificate(&self) -> Result<&Certificate, Refusal> {
        self.0.certificate.as_ref().ok_or_else(|| refuse("no certificate was shown; join first".to_owned()))
    }

    fn identity(&self, cluster: ClusterId) -> Result<NodeId, Refusal> {
        match self.certificate()?.identity {
            Some(identity) if identity.cluster == cluster => Ok(identity.node),
            Some(_) => Err(refuse("the certificate is of another cluster".to_owned())),
            None => Err(refuse("the certificate names no node".to_owned())),
        }
    }
}

fn refuse(message: String) -> Refusal {
    Refusal::new(Code::NotAuthenticated, message)
}

/// Finds the other end of a request's connection.
pub(super) fn peer<T>(request: &tonic::Request<T>) -> Result<Peer, Refusal> {
    request.extensions().get::<Peer>().cloned().ok_or_else(|| refuse("the connection has no peer".to_owned()))
}
