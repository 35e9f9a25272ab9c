//! What makes a program a node in control's eyes: a certificate that a join token was exchanged
//! for. There is no agent behind it.

use std::sync::Arc;

use anyhow::Result;
use overlay_core::{Name, NodeId};
use overlay_proto::convert::field;
use overlay_proto::v1::control_client::ControlClient;
use overlay_proto::v1::enrollment_client::EnrollmentClient;
use overlay_proto::{JoinLine, channel, tls, v1};
use rcgen::{CertificateParams, KeyPair};
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tonic::transport::Channel;

/// A node's id, its certificate, and where control is.
#[derive(Clone, Debug)]
pub(crate) struct EnrolledNode {
    /// The id that control gave it.
    pub(crate) id: NodeId,
    addresses: Vec<String>,
    tls: Arc<ClientConfig>,
}

impl EnrolledNode {
    /// Exchanges the token of a join line for a certificate.
    pub(crate) async fn join(line: &JoinLine, name: &Name) -> Result<Self> {
        let key = KeyPair::generate()?;
        let request = v1::JoinRequest {
            token_id: line.token_id.clone(),
            token_secret: line.secret.expose().to_owned(),
            name: name.to_string(),
            csr: CertificateParams::default().serialize_request(&key)?.der().to_vec(),
        };
        let stranger = stranger(line).await?;
        let joined = EnrollmentClient::new(stranger).join(request).await?.into_inner();
        let (ca, certificate) =
            (CertificateDer::from(joined.ca_certificate), CertificateDer::from(joined.certificate));
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());

        Ok(Self {
            id: field("node", &joined.node)?,
            addresses: line.addresses.clone(),
            tls: Arc::new(tls::node_client(ca, certificate, key.into())?),
        })
    }

    /// Opens a connection to control as this node.
    pub(crate) async fn channel(&self) -> Result<Channel> {
        Ok(channel::control(&self.addresses, Arc::clone(&self.tls)).await?.channel)
    }

    /// As [`Self::channel`], for the calls of nodes.
    pub(crate) async fn connect(&self) -> Result<ControlClient<Channel>> {
        let client = ControlClient::new(self.channel().await?);

        Ok(client.max_decoding_message_size(channel::MAX_MESSAGE))
    }
}

/// Opens a connection to control as nobody.
pub(crate) async fn stranger(line: &JoinLine) -> Result<Channel> {
    let tls = Arc::new(tls::pinned_client(line.pin)?);

    Ok(channel::control(&line.addresses, tls).await?.channel)
}
