//! Makes this host a node: a key made here, a certificate from control, and the pin checked before the secret leaves.

use std::net::IpAddr;
use std::sync::Arc;

use overlay_core::{ClusterId, Name, NodeId};
use overlay_proto::identity::{self, NodeIdentity};
use overlay_proto::v1::enrollment_client::EnrollmentClient;
use overlay_proto::{Code, JoinLine, Refusal, channel, convert, tls, v1};
use rcgen::{CertificateParams, KeyPair};
use zeroize::Zeroizing;

use super::link;
use crate::problem::explain;
use crate::state::{Identity, Joining, StateError, Store};

/// What a join is told besides its line.
#[derive(Debug)]
pub(crate) struct Wishes {
    /// The node's name.
    pub(crate) name: Name,
    /// Underlay addresses to announce; empty: the host's own.
    pub(crate) advertise: Vec<IpAddr>,
}

/// Joins. The key is kept before it is shown, so that after a crash the same token and key give the same identity.
pub(crate) async fn join(
    line: &JoinLine,
    wishes: Wishes,
    begun: Option<Joining>,
    store: &Store,
) -> Result<Identity, Refusal> {
    let joining = match begun.filter(|begun| begun.token_id == line.token_id) {
        Some(begun) => begun,
        None => begin(line, store).await?,
    };
    let response = enroll(line, &wishes.name, &joining).await?;
    let who = accept(response, line, wishes, joining)?;
    let kept = who.clone();
    in_store(store, move |store| store.put_identity(&kept)).await?;

    Ok(who)
}

async fn begin(line: &JoinLine, store: &Store) -> Result<Joining, Refusal> {
    let key = KeyPair::generate().map_err(fault)?;
    let joining = Joining { token_id: line.token_id.clone(), key: Zeroizing::new(key.serialize_der()) };
    let kept = joining.clone();
    in_store(store, move |store| store.put_joining(&kept)).await?;

    Ok(joining)
}

async fn enroll(line: &JoinLine, name: &Name, joining: &Joining) -> Result<v1::JoinResponse, Refusal> {
    let config = tls::pinned_client(line.pin).map_err(fault)?;
    let dialled = channel::control(&line.addresses, Arc::new(config)).await;
    let channel = dialled.map_err(|error| link::refusal(&error))?.channel;
    let request = v1::JoinRequest {
        token_id: line.token_id.clone(),
        token_secret: line.secret.expose().to_owned(),
        name: name.to_string(),
        csr: signing_request(&joining.key)?,
    };

    link::call(EnrollmentClient::new(channel).join(request)).await
}

/// Asks for a certificate of a key; control decides everything else in it.
pub(crate) fn signing_request(key: &Zeroizing<Vec<u8>>) -> Result<Vec<u8>, Refusal> {
    let key = KeyPair::try_from(key.as_slice()).map_err(fault)?;
    let request = CertificateParams::default().serialize_request(&key).map_err(fault)?;

    Ok(request.der().to_vec())
}

/// Believes control's answer only as far as it fits what was asked.
fn accept(response: v1::JoinResponse, line: &JoinLine, wishes: Wishes, joining: Joining) -> Result<Identity, Refusal> {
    let cluster: ClusterId = convert::field("cluster", &response.cluster)?;
    let node: NodeId = convert::field("node", &response.node)?;
    let role = convert::wire_enum::<v1::Role>(response.role).try_into()?;
    if identity::key_pin(&response.ca_certificate).ok() != Some(line.pin) {
        return Err(Refusal::new(Code::WrongPin, "control answered with another authority than the join line pins"));
    }
    if NodeIdentity::from_certificate(&response.certificate) != Ok(NodeIdentity { cluster, node }) {
        return Err(Refusal::new(Code::Fault, "control answered with a certificate of another node"));
    }

    Ok(Identity {
        cluster,
        node,
        name: wishes.name,
        role,
        control: line.addresses.clone(),
        advertise: wishes.advertise,
        pool: convert::field("pool", &response.pool)?,
        certificate: response.certificate,
        ca: response.ca_certificate,
        key: joining.key,
    })
}

/// Runs what waits for the disk where waiting is allowed.
pub(crate) async fn in_store<T: Send + 'static>(
    store: &Store,
    work: impl FnOnce(&Store) -> Result<T, StateError> + Send + 'static,
) -> Result<T, Refusal> {
    let store = store.clone();
    let done = tokio::task::spawn_blocking(move || work(&store)).await.map_err(fault)?;

    done.map_err(|error| Refusal::new(Code::Storage, explain(&error)))
}

fn fault(error: impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::Fault, error)
}
