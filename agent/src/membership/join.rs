//! Makes this host a node: generates a key, checks the pin before the secret is sent, and gets a
//! certificate from control.

use std::net::IpAddr;
use std::sync::Arc;

use overlay_core::{ClusterId, Name, NodeId};
use overlay_proto::convert::{self, ConversionError};
use overlay_proto::identity::{self, NodeIdentity};
use overlay_proto::v1::enrollment_client::EnrollmentClient;
use overlay_proto::{Code, JoinLine, channel, tls, v1};
use rcgen::{CertificateParams, KeyPair};
use zeroize::Zeroizing;

use super::connection;
use super::control_error::{ConnectError, ControlError};
use crate::state::{Identity, Joining, StateStore, StoreFailure, in_store};

/// The options of a join, besides its line.
#[derive(Debug)]
pub(crate) struct JoinOptions {
    /// The node's name.
    pub(crate) name: Name,
    /// Underlay addresses to announce; the host's own when empty.
    pub(crate) advertise: Vec<IpAddr>,
}

/// Why this host was not joined.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JoiningError {
    /// There is no key, or no certificate can be requested for it.
    #[error(transparent)]
    Key(#[from] rcgen::Error),
    /// Control was not reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Control did not let it in.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A field of control's answer is malformed.
    #[error(transparent)]
    Answer(#[from] ConversionError),
    /// Whoever answered is not the control of the join line.
    #[error("control answered with another authority than the join line pins")]
    OtherAuthority,
    /// The certificate is not the one of the node that control names.
    #[error("control answered with a certificate of another node")]
    OtherNode,
    /// The key or the identity cannot be kept.
    #[error(transparent)]
    Store(#[from] StoreFailure),
}

impl JoiningError {
    /// Returns the stable code.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Key(_) | Self::OtherNode => Code::Fault,
            Self::Connect(error) => error.code(),
            Self::Control(error) => error.code(),
            Self::Answer(error) => error.code(),
            Self::OtherAuthority => Code::WrongPin,
            Self::Store(failure) => failure.code(),
        }
    }
}

/// Joins. The key is stored before it is sent, so that after a crash the same token and key yield
/// the same identity.
pub(crate) async fn join(
    line: &JoinLine,
    options: JoinOptions,
    begun: Option<Joining>,
    store: &StateStore,
) -> Result<Identity, JoiningError> {
    let joining = match begun.filter(|begun| begun.token_id == line.token_id) {
        Some(begun) => begun,
        None => begin(line, store).await?,
    };
    let response = enroll(line, &options.name, &joining).await?;
    let who = accept(response, line, options, joining)?;
    let kept = who.clone();
    in_store(store, move |store| store.put_identity(&kept)).await?;

    Ok(who)
}

async fn begin(line: &JoinLine, store: &StateStore) -> Result<Joining, JoiningError> {
    let key = KeyPair::generate()?;
    let joining =
        Joining { token_id: line.token_id.clone(), key: Zeroizing::new(key.serialize_der()) };
    let kept = joining.clone();
    in_store(store, move |store| store.put_joining(&kept)).await?;

    Ok(joining)
}

async fn enroll(
    line: &JoinLine,
    name: &Name,
    joining: &Joining,
) -> Result<v1::JoinResponse, JoiningError> {
    let config = tls::pinned_client(line.pin).map_err(ConnectError::Certificates)?;
    let dialled = channel::control(&line.addresses, Arc::new(config)).await;
    let channel = dialled.map_err(ConnectError::Dial)?.channel;
    let request = v1::JoinRequest {
        token_id: line.token_id.clone(),
        token_secret: line.secret.expose().to_owned(),
        name: name.to_string(),
        csr: signing_request(&joining.key)?,
    };

    Ok(connection::call(EnrollmentClient::new(channel).join(request)).await?)
}

/// Makes a certificate request for a key; control decides everything else in the certificate.
pub(crate) fn signing_request(key: &Zeroizing<Vec<u8>>) -> Result<Vec<u8>, rcgen::Error> {
    let key = KeyPair::try_from(key.as_slice())?;
    let request = CertificateParams::default().serialize_request(&key)?;

    Ok(request.der().to_vec())
}

/// Accepts control's answer only if it matches the request.
fn accept(
    response: v1::JoinResponse,
    line: &JoinLine,
    options: JoinOptions,
    joining: Joining,
) -> Result<Identity, JoiningError> {
    let cluster: ClusterId = convert::field("cluster", &response.cluster)?;
    let node: NodeId = convert::field("node", &response.node)?;
    let role = convert::wire_enum::<v1::Role>(response.role).try_into()?;
    if identity::key_pin(&response.ca_certificate).ok() != Some(line.pin) {
        return Err(JoiningError::OtherAuthority);
    }
    if NodeIdentity::from_certificate(&response.certificate) != Ok(NodeIdentity { cluster, node }) {
        return Err(JoiningError::OtherNode);
    }

    Ok(Identity {
        cluster,
        node,
        name: options.name,
        role,
        control: line.addresses.clone(),
        advertise: options.advertise,
        pool: convert::field("pool", &response.pool)?,
        certificate: response.certificate,
        ca: response.ca_certificate,
        key: joining.key,
    })
}
