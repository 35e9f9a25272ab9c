//! Identifies the client of a connection by its certificate, and by nothing else.

use std::net::SocketAddr;
use std::sync::Arc;

use overlay_core::instant::rfc3339;
use overlay_core::{ClusterId, NodeId};
use overlay_proto::audit::RecordHash;
use overlay_proto::identity::{self, INSTANCE_KEY, NodeIdentity};
use overlay_proto::{Code, Refusal};
use rustls::pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;

use super::{ControlService, requests};
use crate::audit::CallOrigin;
use crate::clock;
use crate::connection_limits::Client;

/// How long an expired certificate can still be renewed, in seconds: 90 days. A node that must not
/// come back is removed; this limits the use of a forgotten disk.
const RENEWAL_GRACE: u64 = 90 * 86_400;

/// The client of a connection, attached to its requests.
#[derive(Debug, Clone)]
pub(crate) struct ClientInfo(Arc<ClientDetails>);

#[derive(Debug)]
struct ClientDetails {
    address: SocketAddr,
    own_host: bool,
    certificate: Option<Certificate>,
    cut: CancellationToken,
}

#[derive(Debug)]
struct Certificate {
    identity: Option<NodeIdentity>,
    hash: RecordHash,
    from: u64,
    to: u64,
}

impl ClientInfo {
    /// Reads the identity from a verified certificate; `local` is our end of the connection.
    pub(crate) fn new(
        address: SocketAddr,
        local: SocketAddr,
        certificate: Option<&CertificateDer<'_>>,
    ) -> Self {
        let read = |der: &CertificateDer<'_>| {
            // A certificate without readable validity is never valid.
            let (from, to) = identity::validity(der).unwrap_or_default();
            let identity = NodeIdentity::from_certificate(der).ok();
            Certificate { identity, hash: RecordHash::of(der), from, to }
        };

        // Connections to an address of the own host come from the same address.
        let (from, to) = (address.ip().to_canonical(), local.ip().to_canonical());
        let own_host = from == to || from.is_loopback();
        let address = SocketAddr::new(from, address.port());

        Self(Arc::new(ClientDetails {
            address,
            own_host,
            certificate: certificate.map(read),
            cut: CancellationToken::new(),
        }))
    }

    /// Returns the client, with what closes its connection.
    pub(crate) fn cut_by(self, cut: CancellationToken) -> Self {
        match Arc::try_unwrap(self.0) {
            Ok(details) => Self(Arc::new(ClientDetails { cut, ..details })),
            Err(shared) => Self(shared),
        }
    }

    /// Returns what closes the connection.
    pub(crate) fn cut(&self) -> CancellationToken {
        self.0.cut.clone()
    }

    /// Returns the client's address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Returns where calls of this connection come from, for the audit log.
    pub(crate) fn origin(&self) -> CallOrigin {
        CallOrigin {
            address: Some(self.0.address.ip()),
            node: self.presented_node(),
            certificate: self.0.certificate.as_ref().map(|certificate| certificate.hash),
        }
    }

    /// Returns whether the connection comes from control's own host.
    pub(crate) fn is_on_own_host(&self) -> bool {
        self.0.own_host
    }

    /// Returns whether the client presented a certificate.
    pub(crate) fn has_certificate(&self) -> bool {
        self.0.certificate.is_some()
    }

    /// Returns the node that the certificate names, of whatever cluster and time; enough to count
    /// its connections.
    pub(crate) fn presented_node(&self) -> Option<NodeId> {
        Some(self.0.certificate.as_ref()?.identity.as_ref()?.node)
    }

    /// Returns whose share of connections it takes.
    pub(crate) fn whose(&self) -> Client {
        self.presented_node().map_or_else(|| Client::at(self.0.address.ip()), Client::Node)
    }

    /// Returns when the certificate expires, in seconds since 1970.
    pub(crate) fn expires(&self) -> u64 {
        self.0.certificate.as_ref().map_or(0, |certificate| certificate.to)
    }

    /// Returns the node whose certificate was presented, if it is valid now.
    ///
    /// # Errors
    ///
    /// `not-authenticated`; when it is outside its validity, with the times.
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

    /// Returns the node whose certificate was presented, even if it has expired or is not valid
    /// yet: a node that was admitted and not removed since may renew after a weekend off, or after
    /// its clock was corrected.
    ///
    /// # Errors
    ///
    /// `not-authenticated` when there is none, or when it expired too long ago.
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
        self.0
            .certificate
            .as_ref()
            .ok_or_else(|| refuse("no certificate was presented; join first".to_owned()))
    }

    fn identity(&self, cluster: ClusterId) -> Result<NodeId, Refusal> {
        match self.certificate()?.identity {
            Some(identity) if identity.cluster == cluster => Ok(identity.node),
            Some(_) => Err(refuse("the certificate belongs to another cluster".to_owned())),
            None => Err(refuse("the certificate names no node".to_owned())),
        }
    }
}

/// Returns the instance that a request names: that of the agent's process. Agents from before name
/// none.
///
/// # Errors
///
/// `invalid-input` when it is none.
pub(super) fn instance<T>(request: &tonic::Request<T>) -> Result<Option<String>, Refusal> {
    let named = request.metadata().get(INSTANCE_KEY).map(|value| value.to_str());
    let Some(named) = named else { return Ok(None) };
    let text = named.map(str::to_owned).unwrap_or_else(|_| "?".to_owned());

    requests::instance(text).map(|text| Some(text).filter(|text| !text.is_empty()))
}

impl ControlService {
    /// Refuses a call of another process than the one that watches as this node and still answers,
    /// and has both told: who was there first stays.
    ///
    /// # Errors
    ///
    /// `identity-clash`.
    pub(super) async fn check_instance(
        &self,
        node: NodeId,
        client: &ClientInfo,
        instance: Option<&str>,
    ) -> Result<(), Refusal> {
        let Some(first) = self.hub.other_process(node, instance) else { return Ok(()) };
        if !first.answers().await {
            return Ok(());
        }

        Err(first.turned_away(client.address().ip(), clock::now_unix()).into())
    }
}

fn refuse(message: String) -> Refusal {
    Refusal::new(Code::NotAuthenticated, message)
}

/// Returns the client of a request's connection.
pub(super) fn client<T>(request: &tonic::Request<T>) -> Result<ClientInfo, Refusal> {
    request
        .extensions()
        .get::<ClientInfo>()
        .cloned()
        .ok_or_else(|| refuse("the connection has no client information".to_owned()))
}
